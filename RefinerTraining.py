"""Train the `NoteRefiner` on notes that the encoder finds in new clips and in renders."""
import contextlib
import functools
import random

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import Chunks
import DatasetCreator
import Hyperparameters as hp
import NoteRefinement
import Transcription
import Util
from AEModel import NoteModel, autocast
from NoteAutoencoder import frame_values
from Notes import interpolate_peaks
from RandomPerformances import Performances
from RandomPianos import seeded


heads = "onset", "offset", "velocity"


class PredictedClips(torch.utils.data.Dataset):
    """What the encoder predicts of clips, their pitch spectrograms and their notes, stored in files.

    An item is a tuple (np.ndarray [shape=(outputs, t, n_keys)], np.ndarray [shape=(n_pitches, steps)], np.ndarray
    [shape=(n, 4)]), see `example`.

    Parameters
    ----------
    paths : list of Path
        Files that `stored` has written. Those of silent clips are left out.
    names : list of str
        Pieces that the clips are of.
    """

    collate = list

    def __init__(self, paths, names=()):
        self.names = list(names)
        self.paths = [path for path in paths if read_arrays(path)]

    def batches(self, settings, epoch):
        """Return the numbers of the clips of each batch of an epoch."""
        order = list(range(len(self.paths)))
        random.Random(f"{settings['seed']} {epoch}").shuffle(order)
        return [order[i:i + settings["batch_size"]] for i in range(0, len(order), settings["batch_size"])]

    def __getitem__(self, key):
        return read_arrays(self.paths[key])


def predict_clips(network, sounds, device, folder):
    """Store what the encoder predicts of clips, for `PredictedClips`.

    Parameters
    ----------
    network : NoteAutoencoder
    sounds : list of (str, callable)
        Name of each clip, and a function that returns its audio [shape=(n,)] and its notes [shape=(m, 4)].
    device : str or torch.device
    folder : Path
        Where each clip is stored, so that an interrupted run goes on.

    Returns
    -------
    list of Path
        One file for each clip.
    """
    model = NoteModel(network, torch.device(device))
    for name, sound in tqdm(sounds, desc="predictions", unit="clip", leave=False):
        stored(folder / f"{name}.npz", lambda: example(model, *sound()))
    return [folder / f"{name}.npz" for name, _ in sounds]


def made_sounds(maker, pieces, number):
    """Return names and functions, as `predict_clips` takes them, of clips of `hp.head_clip_frames` that a `ClipMaker`
    makes of pieces."""
    frames = hp.head_clip_frames
    performances = Performances(pieces, 1, frames * hp.hop_length / hp.sample_rate, hp.clip_lead_s)

    def sound(i):
        batch = performances.draw(np.random.default_rng((hp.seed, i)))
        with seeded(i):
            dry, down = maker.play(batch["notes"].to(maker.device), batch["pedal"].to(maker.device), 1, frames,
                                   2 * (i // hp.refiner_clips_per_piano))
            audio = maker.hear(dry, down)[0, int(maker.lead * hp.sample_rate):].cpu().numpy()
        notes = batch["notes"][:, 1:].numpy()
        return audio, notes[(notes[:, 0] >= 0) & (notes[:, 0] < performances.seconds)]

    return [(f"made_{i}", functools.partial(sound, i)) for i in range(number)]


def paired_sounds(dataset, maker, versions):
    """Return names and functions, as `predict_clips` takes them, of the pieces of a `NoteDataset` on each of its
    pianos: dry, and so many versions in all with those that are heard in rooms."""

    def sound(piece, source, version):
        audio, notes = dataset.clip(piece, source)
        if version:
            audio = maker.hear_recording(audio, Util.seed_of(f"{dataset.names[piece]} {source} {version}"))
        return audio, notes[:, :4]

    return [(f"{name}_{source}_{version}", functools.partial(sound, piece, source, version))
            for piece, name in enumerate(dataset.names) for source in range(len(dataset.recordings[piece]))
            for version in range(versions)]


def find_details(network, sounds, device, folder):
    """Set the `details` of the refiner: principal components of the last layer of the encoder, with mean 0 and variance
    1, where a key is active. The parameters are those of `predict_clips`."""
    model = NoteModel(network, torch.device(device))

    def compute():
        sums = 0
        for _, sound in tqdm(sounds[:hp.detail_clips], desc="details", unit="clip", leave=False):
            sums = sums + moments(last_layer(model, sound()[0]))
        return principal_components(sums, network.refiner.details.out_channels)

    with torch.no_grad():
        for parameter, value in zip(network.refiner.details.parameters(), stored(folder / "details.npz", compute)):
            parameter.copy_(torch.from_numpy(value).view_as(parameter))


@torch.inference_mode()
def last_layer(model, audio):
    """Return the values of the encoder's last layer where a key is active in a clip [shape=(n, channels)]."""
    encoder, exponent, frames = model.network.encoder.eval(), Util.level_exponent(audio), Chunks.n_frames(audio)
    pitch, mel = Chunks.pitch_power(audio, 0, frames, exponent), DatasetCreator.mel_power(
        Chunks.spectrum(audio, 0, frames, exponent))
    with autocast(model.device):
        x = encoder.last_layer(*(torch.from_numpy(DatasetCreator.log_mel(power, power.max()))[None].to(model.device)
                                 for power in (pitch, mel)))
    active = frame_values(encoder.head, x.float()).sigmoid()[:, (0, 1, 3)].amax(1) > hp.detail_components_threshold
    return x.float().movedim(1, -1)[active[:, ::2] | active[:, 1::2]].cpu().double().numpy()


def moments(values):
    """Return number, sums and sums of products of the columns of values [shape=(n, channels)] in one array."""
    values = np.concatenate([np.ones((len(values), 1)), values], 1)
    return values.T @ values


def principal_components(sums, number):
    """Return weights [shape=(number, channels)] and biases of the first principal components of what `moments` has
    summed: of the standardised columns, with mean 0 and variance 1. What does not vary gets the weight 0."""
    mean, products = sums[0, 1:] / max(sums[0, 0], 1), sums[1:, 1:] / max(sums[0, 0], 1)
    scale = inverse_root(np.diag(products) - mean ** 2)
    variance, vectors = np.linalg.eigh((products - np.outer(mean, mean)) * np.outer(scale, scale))
    weight = (vectors * inverse_root(variance)).T[:-number - 1:-1] * scale
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def inverse_root(variance):
    """Return 1 / sqrt(variance), 0 where it is near 0."""
    return np.where(variance > 1e-6, 1 / np.sqrt(np.maximum(variance, 1e-6)), 0)


def stored(path, make):
    """Return the arrays that a file holds. If it is missing or damaged, make and write them."""
    if path.exists():
        with contextlib.suppress(Exception):  # NumPy raises many kinds of errors for damaged files
            return read_arrays(path)
    arrays = make()
    Util.save_bytes(path, lambda file: np.savez(file, *arrays))
    return arrays


def read_arrays(path):
    """Return the arrays of a file that `stored` has written."""
    with np.load(path) as file:
        return tuple(file[name] for name in file.files)


def example(model, audio, notes):
    """Return predictions, pitch spectrogram and notes of a clip, in the order of the onsets; () of a silent clip."""
    return (*predict(model, audio), notes[np.lexsort(notes.T[::-1])]) if audio.any() else ()


def predict(model, audio):
    """Return predictions and pitch spectrogram of a clip, as `Transcription` computes them, in half precision."""
    exponent, frames = Util.level_exponent(audio), Chunks.n_frames(audio)
    references = (Chunks.pitch_power(audio, 0, frames, exponent).max(),
                  Chunks.loudest_mel_power(audio, exponent, [(0, frames)]))
    predicted = Transcription.predict_chunk(audio, model, 0, frames, exponent, references)
    return tuple(image.astype(np.float16) for image in predicted)


def match(notes, onset, key):
    """Return the place of the true note of each found one, -1 if there is none within the onset tolerance
    [shape=(n,)]. A true note belongs to one found note, the nearest."""
    distance = np.abs(notes[None, :, 0] - onset[:, None])
    found, true = np.nonzero((notes[None, :, 2] == key[:, None]) & (distance < hp.onset_tolerance_s))
    place, taken = np.full(len(onset), -1), np.zeros(len(notes), bool)
    for i in np.argsort(distance[found, true], kind="stable"):
        if place[found[i]] < 0 and not taken[true[i]]:
            place[found[i]], taken[true[i]] = true[i], True
    return place


def onset_examples(predictions, notes):
    """Return features [shape=(n, features), float16] and keys of onset candidates, and which were played [shape=(n,),
    bool]."""
    predicted = NoteRefinement.views(predictions)
    frame, key = NoteRefinement.refined_candidates(predicted.mean)
    if not len(frame):
        return None
    order = np.lexsort((key, frame))
    frame, key = frame[order], key[order]
    begin = interpolate_peaks(predicted.mean[0], frame, key) / NoteRefinement.frame_rate
    return (NoteRefinement.onset_inputs(predicted, frame, key).astype(np.float16), key,
            match(notes, begin, key + hp.lowest_key) >= 0)


def offset_examples(refiner, predictions, notes):
    """Return features of the offset candidates of the found notes [shape=(n, candidates, features), float16], which are
    filled, keys, candidates, and how good each candidate is: 1 at the true offset, falling to 0 at the tolerance of the
    offset metric. Notes that were not played have no good candidate."""
    rate, predicted = NoteRefinement.frame_rate, NoteRefinement.views(predictions)
    frame, key, begin, following = NoteRefinement.find_onsets(predicted, refiner)
    if not len(frame):
        return None
    order = np.lexsort((key, begin))
    frame, key, begin, following = (part[order] for part in (frame, key, begin, following))
    candidates, known = NoteRefinement.offset_candidates(predicted.plain, frame, key, following)
    seen = NoteRefinement.offset_inputs(predicted, frame, key, following, candidates, known)
    found = match(notes, begin / rate, key + hp.lowest_key)
    true = notes[found] * np.float32([rate, rate, 1, 1])
    good = NoteRefinement.closeness(candidates - true[:, 1:2], true[:, 1:2] - true[:, :1]) ** 2
    good = np.where(known & (found >= 0)[:, None], good, 0)
    return seen.astype(np.float16), known, key, candidates.astype(np.float32), good.astype(np.float32)


def velocity_examples(refiner, predictions, pitch, notes):
    """Return features [shape=(n, features)] and keys of found notes, the logarithms of their velocities, and the true
    velocities, NaN of notes that were not played [shape=(n,) each]; None of too few notes."""
    found = NoteRefinement.decode_notes(predictions, refiner)
    true = match(notes, found[:, 0], found[:, 2])
    if (true >= 0).sum() < hp.refiner_min_notes:
        return None
    velocity = np.where(true >= 0, notes[true, 3], np.nan).astype(np.float32)
    key = found[:, 2].astype(np.int64) - hp.lowest_key
    return NoteRefinement.velocity_inputs(found, pitch), key, np.log(found[:, 3]), velocity


def head_examples(head, refiner, clips):
    """Return the examples of a head, of those clips of `PredictedClips` that have any."""
    make = {"onset": lambda predictions, pitch, notes: onset_examples(predictions, notes),
            "offset": lambda predictions, pitch, notes: offset_examples(refiner, predictions, notes),
            "velocity": lambda *clip: velocity_examples(refiner, *clip)}[head]
    examples = (make(*clip) for clip in clips)
    return [tuple(map(torch.from_numpy, example)) for example in examples if example and len(example[0])]


def head_loss(head, refiner, examples, device):
    """Return the loss of a head for what `head_examples` returns."""
    loss = {"onset": onset_loss, "offset": offset_loss, "velocity": velocity_loss}[head]
    parts = list(zip(*examples))
    return loss(getattr(refiner, f"{head}_head"), [len(part) for part in parts[0]],
                *(torch.cat(part).to(device) for part in parts))


def onset_loss(head, counts, seen, key, played):
    """Return the cross entropy of which onset candidates were played."""
    return nn.functional.binary_cross_entropy_with_logits(head(seen.float(), key, counts), played.float())


def offset_loss(head, counts, seen, known, key, candidates, good):
    """Return the cross entropy of the candidates' scores with how good they are, that of the first scores included."""
    scores = head(seen.float(), known, key, candidates, counts)
    counted = good.sum(1) > 0
    share = good[counted] / good[counted].sum(1, keepdim=True)
    final, first = (-(share * score[counted].log_softmax(1)).sum() / max(len(share), 1) for score in scores)
    return final + hp.refiner_guess_weight * first


def velocity_loss(head, counts, seen, key, logarithm, true):
    """Return the L1 distance of the logarithms of the velocities, relative to their mean in the clip, and, with the
    weight `hp.refiner_level_weight`, the distance of the means. True velocities are NaN for notes that do not count."""
    error = logarithm + hp.velocity_scale * head(seen, key, counts) - true.log()
    error = [part[part.isfinite()] for part in error.split(counts)]
    relative = torch.cat([(part - part.mean()).abs() for part in error]).mean()
    return relative + hp.refiner_level_weight * torch.stack([part.mean().abs() for part in error]).mean()
