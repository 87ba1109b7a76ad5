"""Train the heads of a `NoteRefiner` on notes that the encoder finds in made clips and in recordings."""
import contextlib
import functools
import random

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Util
from AEModel import NoteModel, autocast
from audio import audio_files, chunking
from notes import note_autoencoder, post_processing
from notes.note_autoencoder import frame_values
from notes.note_events import frame_rate, interpolate_peaks
from rendering.random_performances import draw_notes
from training.heard_notes import match_notes
from training.note_validation import NoteTrainer, predict

refiner_clips_per_piano = 16    # after which a piano is replaced: few clips are to show many
refiner_guess_weight = 0.5  # of the first scores of the offset candidates, beside 1 for the final ones
refiner_level_weight = 0.1  # of the error of a clip's mean velocity, beside 1 for that of single notes
head_clip_frames = 1378     # 16 s
detail_components_threshold = 0.1   # output of the encoder above which a key's values count for these components
detail_clips = 40           # from which they are computed


class PredictedClips(torch.utils.data.Dataset):
    """What the encoder predicts of clips [shape=(outputs, t, n_keys)], their pitch spectrograms [shape=(n_pitches,
    steps)] and their notes [shape=(n, 4)], from the files of `predict_clips`; `names` are the pieces of the clips."""

    collate = list

    def __init__(self, paths, names=()):
        self.names, self.paths = list(names), [path for path in paths if read_arrays(path)]  # silent clips have none

    def batches(self, settings, epoch):
        """Return the numbers of the clips of each batch of an epoch."""
        order = list(range(len(self.paths)))
        random.Random(f"{settings['seed']} {epoch}").shuffle(order)
        return [order[i:i + settings["batch_size"]] for i in range(0, len(order), settings["batch_size"])]

    def __getitem__(self, key):
        return read_arrays(self.paths[key])


def predict_clips(network, sounds, device, folder):
    """Store what the encoder of a `NoteAutoencoder` predicts of clips where it is not stored yet. Return the paths.
    `sounds` are names of clips, each with a function that returns audio [shape=(n,)] and notes [shape=(m, 4)]."""
    model, paths = NoteModel(network, device), [folder / f"{name}.npz" for name, _ in sounds]

    def predicted(sound):
        audio, notes = sound()
        return (*predict(model, audio), notes[np.lexsort(notes.T[::-1])]) if audio.any() else ()

    for path, (_, sound) in zip(tqdm(paths, desc="predictions", unit="clip", leave=False), sounds):
        stored(path, lambda: predicted(sound))
    return paths


def made_sounds(maker, pieces, number):
    """Return sounds for `predict_clips`: clips of `head_clip_frames` that a `ClipMaker` makes of pieces."""
    seconds = head_clip_frames * hp.hop_length / hp.sample_rate

    def sound(i):
        notes, pedal = draw_notes(pieces, seconds, np.random.default_rng((hp.seed, i)))
        numbered = (torch.from_numpy(np.insert(part, 0, 0, axis=1)).to(maker.device) for part in (notes, pedal))
        with Util.seeded(i):
            dry, down = maker.play(*numbered, 1, head_clip_frames, i // refiner_clips_per_piano)
            audio = maker.hear(dry, down)[0, int(maker.lead * hp.sample_rate):].cpu().numpy()
        return audio, notes[(notes[:, 0] >= 0) & (notes[:, 0] < seconds)]

    return [(f"made_{i}", functools.partial(sound, i)) for i in range(number)]


def paired_sounds(dataset, maker, versions):
    """Return sounds for `predict_clips`: the pieces of a `NoteDataset` on each of its pianos, each in several versions,
    of which the first is dry and others are heard in rooms."""

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
    model, details = NoteModel(network, device), network.refiner.details
    found = stored(folder / "details.npz", lambda: principal_components((
        last_layer(model, sound()[0]) for _, sound in tqdm(sounds[:detail_clips], "details", unit="clip", leave=False)
    ), details.out_channels))
    with torch.no_grad():
        for parameter, value in zip(details.parameters(), found):
            parameter.copy_(torch.from_numpy(value).view_as(parameter))


@torch.inference_mode()
def last_layer(model, audio):
    """Return the values of the encoder's last layer where a key is active in a clip [shape=(n, channels)]."""
    encoder = model.network.encoder.eval()
    exponent, frames = audio_files.level_exponent(audio), chunking.n_frames(audio)
    pitch, mel = chunking.pitch_power(audio, 0, frames, exponent), DatasetCreator.mel_power(
        chunking.spectrum(audio, 0, frames, exponent))
    with autocast(model.device):
        x = encoder.last_layer(*(torch.from_numpy(DatasetCreator.log_mel(power, power.max()))[None].to(model.device)
                                 for power in (pitch, mel)))
    active = frame_values(encoder.head, x.float()).sigmoid()[:, (0, 1, 3)].amax(1) > detail_components_threshold
    return x.float().movedim(1, -1)[active[:, ::2] | active[:, 1::2]].cpu().double().numpy()


def principal_components(parts, number):
    """Return weights [shape=(number, channels)] and biases of the first principal components, with mean 0 and variance
    1, of the standardised columns of parts [shape=(n, channels)]. What does not vary gets the weight 0."""
    ones = (np.concatenate([np.ones((len(values), 1)), values], 1) for values in parts)
    sums = sum(values.T @ values for values in ones)
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


def onset_examples(refiner, predictions, pitch, notes):
    """Return features [shape=(n, features), float16] and keys of onset candidates, and which were played [shape=(n,),
    bool]; None of no candidates. The parameters of all examples are the refiner and an item of `PredictedClips`."""
    predicted = post_processing.views(predictions)
    frame, key = post_processing.onset_candidates(predicted.mean)
    if not len(frame):
        return None
    begin = interpolate_peaks(predicted.mean[0], frame, key) / frame_rate
    return (post_processing.onset_inputs(predicted, frame, key).astype(np.float16), key,
            match_notes(notes, begin, key + hp.lowest_key) >= 0)


def offset_examples(refiner, predictions, pitch, notes):
    """Return features of the offset candidates of the found notes [shape=(n, candidates, features), float16], which are
    filled, keys, candidates, and how good each is: 1 at the true offset, falling to 0 at the metric's tolerance."""
    predicted = post_processing.views(predictions)
    frame, key, begin, following, _ = post_processing.find_onsets(predicted, refiner)
    if not len(frame) or not len(notes):  # only interfering sounds were heard
        return None
    candidates, known = post_processing.offset_candidates(predicted.plain, frame, key, following)
    seen = post_processing.offset_inputs(predicted, frame, key, following, candidates, known)
    found = match_notes(notes, begin / frame_rate, key + hp.lowest_key)
    true = notes[found] * np.float32([frame_rate, frame_rate, 1, 1])
    good = post_processing.closeness(candidates - true[:, 1:2], true[:, 1:2] - true[:, :1]) ** 2
    good = np.where(known & (found >= 0)[:, None], good, 0)
    return seen.astype(np.float16), known, key, candidates.astype(np.float32), good.astype(np.float32)


def velocity_examples(refiner, predictions, pitch, notes):
    """Return features [shape=(n, features)] and keys of found notes, the logarithms of their velocities, and the true
    velocities, NaN of notes that were not played [shape=(n,) each]; None of too few notes."""
    found = post_processing.decode_notes(predictions, refiner)
    true = match_notes(notes, found[:, 0], found[:, 2])
    if (true >= 0).sum() < post_processing.min_notes:
        return None
    velocity = np.where(true >= 0, notes[true, 3], np.nan).astype(np.float32)
    key = found[:, 2].astype(np.int64) - hp.lowest_key
    return post_processing.velocity_inputs(found, pitch), key, np.log(found[:, 3]), velocity


def onset_loss(head, counts, seen, key, played):
    """Return the cross entropy of which onset candidates were played."""
    return nn.functional.binary_cross_entropy_with_logits(head(seen.float(), key, counts), played.float())


def offset_loss(head, counts, seen, known, key, candidates, good):
    """Return the cross entropy of the candidates' scores with how good they are, that of the first scores included."""
    scores = head(seen.float(), known, key, candidates, counts)
    counted = good.sum(1) > 0
    share = good[counted] / good[counted].sum(1, keepdim=True)
    final, first = (-(share * score[counted].log_softmax(1)).sum() / max(len(share), 1) for score in scores)
    return final + refiner_guess_weight * first


def velocity_loss(head, counts, seen, key, logarithm, true):
    """Return the L1 distance of the logarithms of the velocities, relative to their mean in the clip, and, with the
    weight `refiner_level_weight`, the distance of the means. True velocities are NaN for notes that do not count."""
    error = logarithm + note_autoencoder.velocity_scale * head(seen, key, counts) - true.log()
    error = [part[part.isfinite()] for part in error.split(counts)]
    relative = torch.cat([(part - part.mean()).abs() for part in error]).mean()
    return relative + refiner_level_weight * torch.stack([part.mean().abs() for part in error]).mean()


heads = {"onset": (onset_examples, onset_loss), "offset": (offset_examples, offset_loss),
         "velocity": (velocity_examples, velocity_loss)}  # each learns from the notes that those before it give


def head_examples(head, refiner, clips):
    """Return the examples of a head as tensors, of those clips of `PredictedClips` that have any."""
    examples = (heads[head][0](refiner, *clip) for clip in clips)
    return [tuple(map(torch.from_numpy, example)) for example in examples if example]


def head_loss(head, refiner, examples, device):
    """Return the loss of a head for what `head_examples` returns."""
    parts = list(zip(*examples))
    return heads[head][1](getattr(refiner, f"{head}_head"), [len(part) for part in parts[0]],
                          *(torch.cat(part).to(device) for part in parts))


class HeadTrainer(NoteTrainer):
    """Trainer of the heads behind the encoder, on the clips of `PredictedClips`."""

    def __init__(self, network, learning_rate, device, **settings):
        super().__init__(network, None, learning_rate, device, parameters=network.refiner.parameters(),
                         weight_decay=hp.head_weight_decay, **settings)

    def batch_loss(self, batch):
        refiner = self.network.refiner
        examples = {head: head_examples(head, refiner, batch) for head in heads}
        refiner.train()
        losses = [head_loss(head, refiner, found, self.device) for head, found in examples.items() if found]
        return sum(losses) if losses else 0 * next(refiner.onset_head.parameters()).sum(), len(batch)
