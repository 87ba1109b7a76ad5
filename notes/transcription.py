"""Transcribe recordings of any length and tuning, chunk by chunk, and tell how much of their sound notes explain."""
import numpy as np

import DatasetCreator
import Hyperparameters as hp
from audio import audio_files, chunking, concert_pitch
from notes import post_processing
from notes.note_events import frame_rate, scale_times

explained_partials = 16         # of a note, that count as explained by it
explained_from_hz = 26          # lower frequencies do not count
explained_width = 0.03          # half a band around a partial, of its frequency
explained_before = 0.1          # seconds before its onset
explained_after = 1.0           # seconds after its offset, with reverberation
explained_decay_db_per_s = 3    # slowest decay of notes that began before the recording
explained_max_chunks = 10       # that are measured, spread over the recording
explained_min_share = 0.8       # of the energy; below it, the output is only as loud as what the notes explain
doubt_min_s = 2                 # seconds from which on a recording without a tuning is doubted
few_notes_per_s = 0.25          # below it, the warning says that there are few
decode_frames = 4 * hp.chunk_frames    # frames of a recording whose notes are decoded at once
decode_ahead = hp.chunk_frames         # more frames after them, in which their notes may end


def transcribe_audio(audio, model, certainty=False):
    """Return the notes of a recording of any length and tuning, sorted by onset [shape=(n, 4), float32]. `audio`
    [shape=(n,) or (n, channels)] at `hp.sample_rate` is not silent; the mean of the channels is transcribed by a
    trained `NoteModel`. A note is onset and offset in seconds, MIDI key and velocity from 1 to 127; with `certainty`
    also the probability that it was played [shape=(n, 5)]."""
    factor = concert_pitch.pitch_factor(audio)
    notes = transcribe_in_tune(concert_pitch.to_concert_pitch(audio, factor), model, certainty)
    notes[:, :2] /= np.float32(factor)
    return notes


def transcribe_in_tune(audio, model, certainty=False):
    """Transcribe a recording in A 440: see `transcribe_audio`."""
    frames = chunking.n_frames(audio)
    parts, pitch = chunking.chunks(frames), np.empty((hp.n_pitches, -(-frames // 2)), np.float16)

    def predictions():
        for (part, image), (first, last) in zip(predict_chunks(audio, model, parts), parts):
            pitch[:, first // 2:-(-last // 2)] = image
            yield part
            chunking.release_memory()

    notes = np.concatenate(list(decode_in_windows(predictions(), frames, model.network.refiner)))
    notes = post_processing.refine_velocities(notes, pitch, model.network.refiner)
    return notes if certainty else notes[:, :4]


def predict_chunks(audio, model, parts):
    """Predict the frames of each chunk (first, last) of a recording in A 440. Yield them with the pitch spectrogram of
    the chunk [shape=(n_pitches, steps), in [0, 1]].

    The predictions [shape=(outputs, last - first, n_keys)] are those of `NoteModel.predict_views`, from the first and
    from the second frame on, since a step of the encoder is two frames. Spectrograms are relative to the largest power
    of the whole recording.
    """
    exponent, frames = audio_files.level_exponent(audio), chunking.n_frames(audio)
    loudest_pitch = max(chunking.pitch_power(audio, *part, exponent).max() for part in parts)
    loudest_mel = chunking.loudest_mel_power(audio, exponent, parts)
    for first, last in chunking.track(parts, "transcription"):
        before, after = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        mel = DatasetCreator.mel_power(chunking.spectrum(audio, before, after, exponent))
        pitch = [DatasetCreator.log_mel(chunking.pitch_power(audio, before + late, after, exponent), loudest_pitch)
                 for late in (0, 1)]
        predictions = model.predict_views(pitch, DatasetCreator.log_mel(mel, loudest_mel))
        yield (predictions[:, first - before:last - before],
               pitch[0][:, (first - before) // 2:-(-(last - before) // 2)])


def decode_in_windows(predictions, frames, refiner):
    """Decode the notes of a long recording window by window, to limit memory. `predictions` are those of consecutive
    chunks [shape=(outputs, t, n_keys)], of so many frames in all, and `refiner` is a `NoteRefiner`. Yields the notes of
    each window, sorted by onset [shape=(n, 5), float32]. A note ends at most `decode_ahead` frames after it."""
    window, start, decoded = None, 0, -np.inf  # first frame of the window; frame up to which notes are decoded
    for part in predictions:
        part = part.astype(np.float16)
        window = part if window is None else np.concatenate([window, part], axis=1)
        end = start + window.shape[1]
        ready = np.inf if end == frames else end - decode_ahead
        if ready < max(decoded, 0) + decode_frames:
            continue
        notes = post_processing.decode_notes(window, refiner)
        onset = notes[:, 0] * frame_rate + start
        notes = notes[(onset >= decoded) & (onset < ready)]
        notes[:, :2] += np.float32(start * hp.hop_length / hp.sample_rate)
        yield notes
        if end < frames:
            window = window[:, ready - hp.context_frames - start:].copy()
            start, decoded = ready - hp.context_frames, ready


def explained_share(audio, notes):
    """Return the share of a recording's energy that lies at the partials of its notes, from 0 to 1; 1 if it is silent.
    The recording is in A 440, with notes [shape=(n, 4)] as `post_processing.decode_notes` returns them. Frequencies
    below the lowest key are ignored. At most `explained_max_chunks` chunks are measured. What may be left of notes from
    before the recording counts as explained: see `earlier_notes`."""
    exponent, parts = audio_files.level_exponent(audio), chunking.chunks(chunking.n_frames(audio))
    measured = np.linspace(0, len(parts) - 1, min(len(parts), explained_max_chunks)).astype(int)
    explained = whole = 0.0
    lowest = int(explained_from_hz * hp.pitch_n_fft / hp.sample_rate)
    for first, last in (parts[i] for i in measured):
        power = chunking.pitch_stft_power(audio, first, last, exponent)
        power[:lowest] = 0
        mask = partial_mask(notes, first // 2, power.shape[1])
        explained += power[mask].sum(dtype=float) + (0 if first else earlier_notes(power)[~mask].sum(dtype=float))
        whole += power.sum(dtype=float)
    return explained / whole if whole else 1.0


def earlier_notes(power):
    """Return the part of a power spectrogram [shape=(bins, steps)] that may be left of notes from before the recording.
    Such notes only decay. So this is the minimum of each bin up to each frame, which also decays by
    `explained_decay_db_per_s` at least: a steady hum is not a note."""
    steps = power.shape[1]
    full = min(hp.pitch_n_fft // 2 // hp.pitch_hop_length, steps - 1)  # the first window that begins in the recording
    decay = 10 ** (-explained_decay_db_per_s / 10 * hp.pitch_hop_length / hp.sample_rate * np.arange(steps))
    left = np.concatenate([np.repeat(power[:, full:full + 1], full, axis=1), power[:, full:]], axis=1)
    left = np.minimum(np.minimum.accumulate(left, axis=1), left[:, :1] * np.float32(decay))
    return np.minimum(left, power)


def partial_mask(notes, first, steps):
    """Return which bins of an STFT [shape=(1 + pitch_n_fft / 2, steps), bool] belong to partials of notes. A note
    covers its bins from `explained_before` its onset to `explained_after` its offset. `first` is the first frame of the
    pitch spectrogram."""
    mask, rate = np.zeros((1 + hp.pitch_n_fft // 2, steps), bool), hp.sample_rate / hp.pitch_hop_length
    starts = np.floor((notes[:, 0] - explained_before) * rate).astype(int) - first
    ends = np.ceil((notes[:, 1] + explained_after) * rate).astype(int) - first
    numbers = np.arange(1, explained_partials + 1)
    for start, end, key in zip(starts, ends, notes[:, 2]):
        if start < steps and end > 0:
            bins = 440 * 2 ** ((key - 69) / 12) * numbers * hp.pitch_n_fft / hp.sample_rate
            width = np.maximum(explained_width * bins, 2)  # main lobe of the window: two bins on each side
            for low, high in zip(np.rint(bins - width).astype(int), np.rint(bins + width).astype(int)):
                mask[low:high + 1, max(start, 0):end] = True
    return mask


def doubt_piano(audio, notes):
    """Return why a recording may not be of a piano (few notes, unexplained energy, no common tuning), or None."""
    factor, seconds = concert_pitch.pitch_factor(audio), len(audio) / hp.sample_rate
    share = explained_share(concert_pitch.to_concert_pitch(audio, factor), scale_times(notes, factor))
    if share >= explained_min_share and (concert_pitch.estimate_cents(audio) is not None or seconds < doubt_min_s):
        return None
    if len(notes) < few_notes_per_s * seconds:
        return f"{'few' if len(notes) else 'no'} notes in {seconds:.0f} s"
    if share < explained_min_share:
        return f"its notes explain {100 * share:.0f} % of the sound"
    return "its pitches fit no tuning"
