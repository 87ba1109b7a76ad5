"""Pairs of spectrograms for training a U-Net: stored outputs of the autoencoder, and the true electric piano."""
import itertools

import numpy as np
import torch
from tqdm import tqdm

import DatasetCreator
import Util
from AEDataset import AEDataset, StoredSpectrogram
from AEModel import NoteModel, digest
from audio import chunking
from notes import transcription
from rendering.generated_files import settings, values_digest
from rendering.training_clips import ClipMaker
from training.note_dataset import StoredAudio


class UNetDataset(AEDataset):
    """`AEDataset` with `StoredOutputs` of an autoencoder in place of the recordings. An item's source has the shape
    (in_channels, n_mels, t): with 1 the output alone, with 2 output and recording. The seed of a crop chooses one of
    the outputs, dry or heard in a room; a whole piece is that of the first piano, dry."""

    def __init__(self, names, data, outputs, in_channels=1):
        self.outputs, self.in_channels, self.gains = outputs, in_channels, {}
        super().__init__(names, data, outputs.sources)

    def load(self, name, data, sources):
        return [StoredSpectrogram(path) for pair in self.outputs.paths(name) for path in pair[:self.in_channels]]

    def __getitem__(self, key):
        piece, start, frames, seed = key if isinstance(key, tuple) else (key, 0, self.targets[key].shape[-1], None)
        number = len(self.sources[piece]) // self.in_channels
        first = self.in_channels * (np.random.default_rng(seed).integers(number) if seed is not None else 0)
        clip = self.sources[piece][first:first + self.in_channels]
        images = (image[:, start:start + frames].float() for image in (*clip, self.targets[piece]))
        *source, target = (torch.nn.functional.pad(image, (0, frames - image.shape[1])) for image in images)
        if self.outputs.own_level:
            target = torch.from_numpy(apply_gain(target.numpy(), self.gain(piece, first)))
        return torch.stack(source), target[None]

    def gain(self, piece, first):
        """Return by how many dB an output is louder than its target, over the whole piece. The result is kept."""
        if (piece, first) not in self.gains:
            images = (image[:].numpy() for image in (self.targets[piece], self.sources[piece][first]))
            self.gains[piece, first] = level_difference(*images)
        return self.gains[piece, first]


class StoredOutputs:
    """Outputs of the autoencoder `model` in data/ae_output/<name>/<key>, and the spectrograms that it has seen.

    The key is a digest of the weights and of all settings, so that what lies there belongs to both. Each recording of
    the pianos `sources` has `versions`: 0 is the recording itself, others are heard in a room that the number draws.
    Outputs of a note autoencoder have a level of their own (`own_level`), to which targets are brought.
    """

    def __init__(self, model, data, name, sources=("piano",), versions=(0,)):
        self.model, self.data, self.sources, self.versions = model, data, sources, versions
        self.own_level = isinstance(model, NoteModel)
        self.parent = data / "ae_output" / name
        self.folder = self.parent / values_digest(digest(model.network.state_dict()), model.bfloat16, settings())

    def paths(self, name):
        """Return (output, spectrogram seen) of each version and piano of a piece."""
        return [(self.folder / name / f"{source}_{version}.npy",
                 self.folder / name / f"{source}_{version}_seen.npy" if version else
                 self.data / "generated" / name / f"{source}.npy")
                for version, source in itertools.product(self.versions, self.sources)]

    def write(self, names):
        """Write outputs of pieces that are missing or older than their recordings; remove those of other keys."""
        for path in self.parent.rglob("*.npy"):
            if self.folder not in path.parents:
                path.unlink()
        maker = ClipMaker(self.data / "clips") if any(self.versions) else None
        work = [(name, *key, *paths) for name in names for key, paths in zip(
            itertools.product(self.versions, self.sources), self.paths(name))]
        for name, version, source, output, seen in tqdm(work, desc="outputs", unit="clip", leave=False):
            recording = self.data / "generated" / name / f"{source}_audio.npy"
            if Util.is_up_to_date(output, recording) and seen.exists():
                continue
            audio = StoredAudio(recording).read()
            if version:
                audio = maker.hear_recording(audio, Util.seed_of(f"output {name} {source} {version}"))
                Util.save_array(seen, DatasetCreator.spectrogram(audio).astype(np.float16))
            frames = StoredSpectrogram(seen).shape[1]
            Util.save_array(output, make_output(self.model, audio)[:, :frames].astype(np.float16))


def make_output(model, audio):
    """Return the output of an autoencoder for audio [shape=(n_mels, t)]."""
    if not isinstance(model, NoteModel):
        return model.generate(DatasetCreator.spectrogram(audio))
    return model.note_spectrogram(transcription.transcribe_in_tune(audio, model), chunking.n_frames(audio))


def level_difference(output, target):
    """Return by how many dB the mean power of `target` is above that of `output`, two spectrograms in [0, 1]."""
    powers = [np.mean(10 ** (Util.to_db(image) / 10)) for image in (output, target)]
    return 10 * np.log10(powers[1] / powers[0])


def apply_gain(image, decibels):
    """Return a spectrogram in [0, 1] with a gain in dB. Silence stays silent."""
    return np.where(image > 0, Util.to_unit(Util.to_db(image) + decibels), 0).astype(np.float32)
