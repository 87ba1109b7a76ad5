"""Note-level post-processing: onsets and offsets are chosen among candidates, and velocities are corrected.

`note_autoencoder.NoteRefiner` is the network that does so, with a head for each of the three, which
training/head_training.py trains. This file computes what the heads see, and makes notes of what they return.
"""
from collections import namedtuple

import numpy as np
import torch
from torch import nn

import Hyperparameters as hp
import Util
from notes import note_autoencoder
from notes.note_autoencoder import HarmonicEncoder
from notes.note_events import find_peaks, frame_rate, interpolate_peaks, next_onsets

# onsets
candidate_threshold = 0.08      # smallest onset probability of a candidate
candidate_sounding_threshold = 0.1  # smallest mean probability that the key sounds after it
onset_threshold = 0.45      # smallest probability of a note after the onset head
onset_bias = 0.1            # mean error of the onsets, which is subtracted, frames (1.2 ms)
onset_batch_size = 1024     # onset candidates whose features are computed at once
frames_before = 14          # frames before and after an onset candidate that its features show
frames_after = 45
other_keys = tuple(sorted(sign * distance for sign in (-1, 1) for distance in (
    1, 2, 3, 4, 5, 7, 12, 16, 19, 24, 28, 31, 36)))     # semitones to the other keys that they show
order_s = (0.003, 3)        # between the onsets of two notes in a row, bounds in the features

# offsets
n_offset_candidates = 10
offset_peak_threshold = 0.02    # offset probability of a candidate
offset_sounding_thresholds = (0.6, 0.3)     # below which the key seems to sound no more
offset_sounding_lags = (-16, -8, -4, -2, 0, 2, 4, 8, 16, 32)    # frames around a candidate that its features show
offset_tolerance = 0.2      # of a note's duration
min_offset_tolerance = 4.3  # frames (50 ms), if that is more
offset_longer = 0.2         # exponent of the duration, with which the probability of an offset candidate is multiplied
offset_distance_weight = 0.5    # of the distance of logarithmic durations, beside 1 for offsets within the tolerance

# velocities
harmonics = np.array((1, 2, 3, 4, 5, 6, 7, 8, 10, 12))  # partials whose rise tells how hard a note was struck
min_notes = 8               # fewer have no curve over the keys
velocity_per_db = 0.05      # growth of the logarithmic velocity per dB of a note's level at its onset
overlap_s = 0.04            # between onsets of notes that hide each other

# onset, sounding, velocity and offset [shape=(4, t, n_keys)] of the recording as it is, without late reverberation, and
# the mean of both; details of the encoder's last layer [shape=(n_details / 2, t, n_keys)]
Views = namedtuple("Views", "mean plain dry details")


def views(predictions):
    """Return what `NoteModel.predict_views` has put together, as `Views`."""
    plain = predictions[:HarmonicEncoder.outputs].astype(np.float32)
    dry = predictions[-len(plain):].astype(np.float32)
    return Views((plain + dry) / 2, plain, dry, predictions[len(plain):-len(plain)])


def decode_notes(predictions, refiner):
    """Decode notes from what `NoteModel.predict_views` returns [shape=(outputs, t, n_keys), in [0, 1]]. A note
    [shape=(n, 5), float32] is onset and offset in seconds, MIDI key, velocity from 1 to 127, and the probability that
    it was played. They are in the order of the onsets. `refiner` is a `NoteRefiner`."""
    predicted = views(predictions)
    frame, key, begin, following, probability = find_onsets(predicted, refiner)
    if not len(frame):
        return np.zeros((0, 5), np.float32)
    candidates, known = offset_candidates(predicted.plain, frame, key, following)
    seen = offset_inputs(predicted, frame, key, following, candidates, known)
    scores, _ = run_head(refiner.offset_head, seen, known, key, candidates.astype(np.float32))
    best = expected_closeness(scores, known, candidates - begin[:, None]).argmax(axis=1)
    end = candidates[np.arange(len(frame)), best]
    end = np.minimum(np.maximum(end, begin + hp.min_note_frames), following)
    velocity = np.maximum(127 * predicted.mean[2][frame, key], 1)
    begin = np.maximum(begin - onset_bias, 0)
    notes = np.stack([begin / frame_rate, end / frame_rate, key + hp.lowest_key, velocity, probability], 1)
    return notes[np.lexsort(notes.T[::-1])].astype(np.float32)


def find_onsets(predicted, refiner):
    """Find the onsets in `Views`: return frame, key, interpolated frame of the onset, that of the next onset of the
    same key, and probability of each note [shape=(n,) each], in the order of the onsets."""
    frame, key = onset_candidates(predicted.mean)
    probability = np.zeros(0, np.float32)
    if len(frame):
        seen = onset_inputs(predicted, frame, key)
        probability = torch.from_numpy(run_head(refiner.onset_head, seen, key)).sigmoid().numpy()
    played = probability > onset_threshold
    begin = interpolate_peaks(predicted.mean[0], frame[played], key[played])
    order = np.lexsort((key[played], begin))
    frame, key, probability = (values[played][order] for values in (frame, key, probability))
    begin = begin[order]
    return frame, key, begin, next_onsets(key, begin, np.float32(predicted.mean.shape[1])), probability


def onset_candidates(predictions, threshold=candidate_threshold):
    """Return the frames and keys where notes may begin [shape=(n,) each, int], sorted by frame, then by key. These are
    local maxima of the onset probability above a threshold, if the mean probability that the key sounds in the next
    three frames is high enough."""
    onset, sounding, *_ = predictions
    frame, key = np.nonzero(find_peaks(onset, threshold))
    soon = np.minimum(frame[:, None] + (1, 2, 3), len(onset) - 1)
    sounds = sounding[soon, key[:, None]].mean(axis=1) >= candidate_sounding_threshold
    return frame[sounds], key[sounds]


def onset_features(predictions, frame, key):
    """Return what tells whether notes were played [shape=(n, n_onset_features), float32]. Onset, sounding and velocity
    [shape=(3 or more, t, n_keys)] of the key around the onset, and of the other keys with common partials, whose
    overtones false positives often are. The candidates are in the order of their frames."""
    parts = np.array_split(np.arange(len(frame)), -(-len(frame) // onset_batch_size))
    return np.concatenate([near_onsets(predictions, frame[part], key[part]).numpy() for part in parts])


def near_onsets(predictions, frame, key):
    """Return the output of `onset_features` for a few candidates, as a tensor."""
    first, reach, at = max(frame[0] - frames_before, 0), max(other_keys), frames_before  # `at`: index of the onset
    near = torch.from_numpy(predictions[:3, first:frame[-1] + frames_after])
    padded = nn.functional.pad(near, (reach, reach, frames_before, frames_after)).unbind()
    frames = torch.from_numpy(frame - first)[:, None, None] + torch.arange(frames_before + frames_after)[:, None]
    key = torch.from_numpy(key)[:, None]
    onset, sounding, velocity = (image[frames, (key + reach + torch.tensor(other_keys))[:, None]] for image in padded)
    struck, sounds, hard = (image[frames[..., 0], key + reach] for image in padded)
    loudness = (127 * hard[:, at]).clamp(min=1).log()[:, None]
    harder = (127 * velocity[:, at - 1:at + 2]).clamp(min=1).log() - loudness[..., None]
    return torch.cat([
        onset[:, :at - 3].amax(1), onset[:, at - 3:at + 4].amax(1), onset[:, at + 4:at + 14].amax(1),
        *(sounding[:, at + start:at + end].mean(1) for start, end in ((-8, -3), (1, 7), (12, 24))),
        (harder * (onset[:, at - 1:at + 2] > 0.1)).sum(1) / 3,
        struck[:, at - 4:at + 5], sounds[:, at - 10:at:2], sounds[:, at::4], loudness - 4,
        key / hp.n_keys - 0.5], 1)


def onset_inputs(predicted, frame, key):
    """Return the features of onset candidates in the order of their frames that the onset head takes
    [shape=(n, features)]. `predicted` are `Views`."""
    begin = interpolate_peaks(predicted.mean[0], frame, key) / frame_rate
    return np.concatenate([
        onset_features(predicted.mean, frame, key), order_features(np.stack([begin, begin, key, key], 1)),
        *(onset_features(view, frame, key) for view in (predicted.plain, predicted.dry)),
        *(detail_features(predicted.details, frame // 2, key, span) for span in note_autoencoder.detail_onset_spans),
        *(detail_features(predicted.details, frame // 2, key + distance, note_autoencoder.detail_other_span)
          for distance in note_autoencoder.detail_other_keys)], 1)


def offset_inputs(predicted, frame, key, following, candidates, known):
    """Return the features of offset candidates that the offset head takes [shape=(n, candidates, features), float32].
    `predicted` are `Views`; the other parameters are those of `offset_features`."""
    step, own = np.rint(candidates / 2).astype(int).ravel(), np.repeat(key, candidates.shape[1])
    begin = [detail_features(predicted.details, frame // 2, key, span) for span in note_autoencoder.detail_begin_spans]
    return np.concatenate([
        offset_features(predicted.plain, frame, key, following, candidates, known),
        *(detail_features(predicted.details, step, own, span).reshape(*candidates.shape, -1)
          for span in note_autoencoder.detail_offset_spans),
        np.repeat(np.concatenate(begin, 1)[:, None], candidates.shape[1], axis=1)], axis=-1)


def detail_features(details, step, key, span):
    """Return the mean of the details over a span of steps around `step` [shape=(n, n_details), float32]. Half of the
    details [shape=(n_details / 2, t, n_keys)] are in the first, half in the second frame of each step. They are 0 for
    keys beyond the piano."""
    at = (step[:, None] + np.arange(*span)).clip(0, max(details.shape[1] // 2 - 1, 0))
    inside = (0 <= key) & (key < details.shape[2])
    own = np.where(inside, key, 0)[:, None]
    means = [details[:, np.minimum(2 * at + late, details.shape[1] - 1), own].mean(axis=2, dtype=np.float32)
             for late in (0, 1)]
    return np.where(inside, np.concatenate(means), 0).T


def offset_candidates(predictions, frame, key, following):
    """Return the frames where notes may end, and which of them are filled [shape=(n, n_offset_candidates) each].
    Candidates are the highest peaks of the offset prediction, the frames in which the key ceases to sound by two
    thresholds, and the next onset of the same key."""
    _, sounding, _, offset = predictions
    peaks = find_peaks(offset, offset_peak_threshold)
    between = np.zeros_like(offset)  # where the peaks lie between the frames
    between[peaks] = interpolate_peaks(offset, *np.nonzero(peaks))
    candidates = np.zeros((len(frame), n_offset_candidates))
    known = np.zeros(candidates.shape, bool)
    most = n_offset_candidates - len(offset_sounding_thresholds) - 1
    for i, (start, own, limit) in enumerate(zip(frame + 2, key, following)):
        last = int(min(limit - 1, len(offset)))
        found = np.flatnonzero(peaks[start:last, own]) + start
        found = found[np.argsort(-offset[found, own], kind="stable")[:most]]
        places = list(between[found, own])
        quiet = [np.flatnonzero(sounding[start:last, own] < threshold) for threshold in offset_sounding_thresholds]
        for place in [start + frames[0] for frames in quiet if len(frames)] + [min(limit, len(offset))]:
            if all(abs(place - other) > 3 for other in places):
                places.append(place)
        candidates[i, :len(places)], known[i, :len(places)] = places, True
    return candidates, known


def offset_features(predictions, frame, key, following, candidates, known):
    """Return what tells whether notes end at these candidates [shape=(n, candidates, n_offset_features), float32].
    Sounding and offset of the key around the candidate, offsets and onsets of all keys there (many notes end together,
    when the pedal is lifted), what has happened since the onset, and what comes after."""
    onset, sounding, velocity, offset = predictions
    last, own, at = len(offset) - 1, key[:, None], np.rint(candidates).astype(int)

    def around(image, lags):
        return image[(at[..., None] + np.asarray(lags)).clip(0, last), own[..., None]]

    def together(image, lags, most):
        return np.minimum(image.sum(axis=1)[(at[..., None] + np.asarray(lags)).clip(0, last)], most)

    def since(image):
        return np.concatenate([np.zeros((1, image.shape[1])), np.cumsum(image, axis=0, dtype=float)])

    silent, ended, start = since(1 - sounding), since(offset), np.minimum(frame + 2, last)[:, None]
    now = at.clip(0, last + 1)
    chords = sounding.sum(axis=1)
    height = np.where(known, offset[at.clip(0, last), own], 0)
    highest = height.max(axis=1, keepdims=True)
    whole = np.ones_like(candidates)
    parts = [
        around(sounding, offset_sounding_lags), around(offset, range(-3, 4)),
        together(offset, (-6, -3, 0, 3, 6), 6) / 3, together(onset, (-6, -3, 0, 3, 6), 6) / 3,
        (chords[(at - 8).clip(0, last)] - chords[(at + 8).clip(0, last)])[..., None] / 5,
        np.minimum(silent[now, own] - silent[start, own], 30)[..., None] / 10,
        np.minimum(ended[(now - 3).clip(0), own] - ended[start, own], 5)[..., None],
        np.minimum(ended[(now + 60).clip(max=last + 1), own] - ended[(now + 4).clip(max=last + 1), own], 5)[..., None],
        np.log(np.maximum(candidates - frame[:, None], 1))[..., None] / 2,
        np.minimum((following[:, None] - candidates) / 60, 1)[..., None],
        (whole * (own / hp.n_keys - 0.5))[..., None], (whole * velocity[frame, key][:, None])[..., None],
        (height / (highest + 1e-3))[..., None], (whole * highest)[..., None]]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def expected_closeness(scores, known, duration):
    """Return how close each offset candidate is to the true offset, on average over all candidates.

    The head gives each candidate a probability. Longer notes get a slightly higher one, since an early offset is more
    audible than a late one. A share of the distance of the logarithmic durations is subtracted from the `closeness`, so
    that wrong offsets are less far off.

    `scores` are those of the `OffsetHead`, `known` tells which candidates are filled, and `duration` is that of a note
    which ends there, in frames [shape=(n, candidates) each]. The result is minus infinity where there is no candidate.
    """
    logarithm = np.log(duration.clip(hp.min_note_frames))
    weighted = np.where(known, scores + offset_longer * logarithm, -np.inf)
    probability = np.exp(weighted - weighted.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    close = closeness(duration[:, :, None] - duration[:, None], duration[:, None])
    close = close - offset_distance_weight * np.abs(logarithm[:, :, None] - logarithm[:, None])
    return np.where(known, (close * probability[:, None]).sum(axis=2), -np.inf)


def closeness(distance, duration):
    """Return 1 for an offset at the true one, falling to 0 at the tolerance of the offset metric, from its distance and
    the true duration in frames."""
    return np.maximum(1 - np.abs(distance) / np.maximum(offset_tolerance * duration, min_offset_tolerance), 0)


def refine_velocities(notes, pitch, refiner):
    """Return notes [shape=(n, 5)] with velocities corrected by how loud their partials begin in the recording. `notes`
    are those of `decode_notes`; fewer than `min_notes` are returned as they are. `pitch` is the pitch spectrogram of
    the whole recording [shape=(n_pitches, steps), in [0, 1]], and `refiner` a `NoteRefiner`."""
    if len(notes) < min_notes:
        return notes
    refined, key = notes.copy(), notes[:, 2].astype(np.int64) - hp.lowest_key
    correction = note_autoencoder.velocity_scale * run_head(refiner.velocity_head, velocity_inputs(notes, pitch), key)
    refined[:, 3] = np.exp(np.log(notes[:, 3]) + correction).clip(1, 127)
    return refined


def velocity_inputs(notes, pitch):
    """Return the features of notes that the velocity head takes [shape=(n, features), float32]."""
    levels, audible = partial_levels(notes, pitch)
    shared, together = overlaps(notes)
    return np.concatenate([
        velocity_features(notes, levels, shared, together), order_features(notes),
        partial_features(notes, levels, (shared == 0) & audible), phase_features(notes)], axis=1)


def velocity_features(notes, levels, shared, together):
    """Return what tells how hard notes were struck [shape=(n, n_velocity_features), float32]. The predicted velocity;
    what the rise of the partials says of it, where a smooth curve over the keys stands for piano and microphones; the
    rise of each partial; and how many other notes begin at the same time with partials at the same place."""
    top = np.max([levels[lag] for lag in range(6)], axis=0)
    rise = 10 * np.log10(np.maximum(top - (levels[-3] + levels[-2]) / 2, 1e-8) + 1e-8)
    top = 10 * np.log10(top + 1e-8)
    power = 10 ** (rise / 10)
    whole = 10 * np.log10(power[:, :8].sum(axis=1))
    logarithm = np.log(notes[:, 3])
    measured = (whole, 10 * np.log10(power[:, :3].sum(axis=1)), rise[:, 0],
                10 * np.log10(power[:, 1:4].sum(axis=1)), top[:, 0])
    return np.concatenate([
        np.stack([left_over(level, notes) for level in measured], 1), (logarithm - np.median(logarithm))[:, None],
        np.full((len(notes), 1), logarithm.mean() - 4), np.full((len(notes), 1), logarithm.std()),
        (rise - whole[:, None]).clip(-40, 5) / 10, (whole - np.median(whole))[:, None] / 10, shared.clip(0, 3),
        ((notes[:, 2] - hp.lowest_key) / hp.n_keys - 0.5)[:, None], together[:, None] / 4,
        np.log(notes[:, 1] - notes[:, 0] + 0.02)[:, None]], 1).astype(np.float32)


def left_over(level, notes):
    """Return what levels in dB [shape=(n,)] say of the logarithms of the notes' velocities, relative to these. A smooth
    curve over the keys stands for piano and microphones."""
    logarithm, key = np.log(notes[:, 3]), (notes[:, 2] - 60) / 24
    curve = np.stack([np.ones_like(key), key, key ** 2, key ** 3], 1)
    level = velocity_per_db * level
    return level - curve @ np.linalg.lstsq(curve, level - logarithm, rcond=None)[0] - logarithm


def partial_features(notes, levels, own):
    """Return what single partials say of the velocities [shape=(n, n_partial_features), float32]. What the level of
    each of eight partials says (`left_over`), the mean over those that no other note shares (`own`), and the median;
    how many are not shared; how far the partials rise; and how they go on."""
    levels, own = {lag: power[:, :8] for lag, power in levels.items()}, own[:, :8]

    def decibels(values):
        return 10 * np.log10(np.maximum(values, 1e-8))

    top, early = (decibels(np.max([levels[lag] for lag in range(last)], axis=0)) for last in (6, 3))
    late = decibels((levels[8] + levels[12] + levels[16]) / 3)
    quiet = decibels(np.min([levels[lag] for lag in (-6, -4, -2)], axis=0))
    rise = top - decibels(np.maximum(levels[-3], levels[-2]))
    each = np.stack([left_over(level, notes) for level in top.T], 1).clip(-3, 3)
    return np.concatenate([
        each, ((each * own).sum(axis=1) / np.maximum(own.sum(axis=1), 1))[:, None], np.median(each, axis=1)[:, None],
        own.mean(axis=1)[:, None], rise.clip(-10, 40) / 20, ((late - top)[:, :6] / 20).clip(-3, 1),
        ((early - top)[:, :6] / 10).clip(-3, 0), ((top - quiet)[:, :6] / 30).clip(-1, 3)], 1).astype(np.float32)


def phase_features(notes):
    """Return where between two steps of the pitch spectrogram notes begin [shape=(n, n_phase_features), float32]: the
    distance from the nearest step, in steps, and its absolute value."""
    step = notes[:, 0] * hp.sample_rate / hp.pitch_hop_length
    phase = (step - np.rint(step)).astype(np.float32)
    return np.stack([phase, np.abs(phase)], 1)


def order_features(notes):
    """Return how notes in the order of their onsets follow each other [shape=(n, n_order_features), float32]: the
    logarithms of the seconds to the note before and to the note after, and the step in semitones."""
    passed = np.log(np.diff(notes[:, 0], prepend=notes[0, 0] - 1).clip(*order_s)) / 2
    step = np.diff(notes[:, 2], prepend=notes[0, 2]) / 12
    return np.stack([passed, np.append(passed[1:], 0), step], 1).astype(np.float32)


def partial_levels(notes, pitch):
    """Return the power of the notes' partials some steps after their onsets, and which are in the pitch spectrogram.
    The first is a dictionary from lag to power [shape=(n, harmonics)], the second has the same shape [bool]."""
    bands = np.rint(1 + hp.pitch_bands_per_key * (notes[:, 2, None] - hp.lowest_key + 12 * np.log2(harmonics)))
    bands = bands.astype(int)[..., None] + np.arange(-1, 2)
    audible = bands < hp.n_pitches
    step = np.rint(notes[:, 0] * hp.sample_rate / hp.pitch_hop_length).astype(int)[:, None, None]

    def power(lag):
        image = pitch[np.minimum(bands, hp.n_pitches - 1), (step + lag).clip(0, pitch.shape[1] - 1)]
        return (10 ** (Util.to_db(image.astype(np.float32)) / 10) * audible).sum(axis=2)

    return {lag: power(lag) for lag in (-6, -4, -3, -2, *range(6), 8, 12, 16)}, audible[..., 0]


def overlaps(notes):
    """Return how many partials of other notes that begin within `overlap_s` meet each partial [shape=(n,
    harmonics)], and how many notes begin so [shape=(n,)]; `notes` in the order of their onsets."""
    place = np.rint(notes[:, 2, None] + 12 * np.log2(harmonics))
    first = np.searchsorted(notes[:, 0], notes[:, 0] - overlap_s)
    last = np.searchsorted(notes[:, 0], notes[:, 0] + overlap_s, side="right")
    shared = np.stack([(place[i][:, None, None] == place[None, a:b]).any(axis=2).sum(axis=1) - 1
                       for i, (a, b) in enumerate(zip(first, last))])
    return shared, (last - first - 1).astype(float)


@torch.inference_mode()
def run_head(head, *inputs):
    """Return the outputs of a head for arrays."""
    device = next(head.parameters()).device
    outputs = head.eval()(*(torch.from_numpy(part).to(device) for part in inputs))
    if torch.is_tensor(outputs):
        return outputs.float().cpu().numpy()
    return [part.float().cpu().numpy() for part in outputs]
