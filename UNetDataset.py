"""Pairs of spectrograms for a U-Net on the stored outputs of the autoencoder: those in, true e-piano out."""
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Util
from AEDataset import AEDataset, StoredSpectrogram, map_spectrogram
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder


class UNetDataset(AEDataset):
    """As `AEDataset`, with data/ae_output/<piece>.npy, which `write_outputs` leaves, in place of the piano, and with
    data/ae_output/piano_2/<piece>.npy in place of piano_2, and so on; nothing is augmented.

    An item's source is [shape=(in_channels, n_mels, t)]: with two channels the piano comes after it. With `own_level`,
    behind an autoencoder of notes, the target is as loud as the output, whose level is all that is known when a
    recording is played; otherwise the output has learnt the target's.
    """

    def __init__(self, names, data=None, sources=("piano",), augmented=False, in_channels=1, own_level=False):
        data = hp.data if data is None else data
        self.in_channels, self.own_level, self.gains = in_channels, own_level, {}
        super().__init__(names, data, sources)

    def load(self, name, data, sources):
        return [StoredSpectrogram(path) for source in sources for path in (
            output_path(name, source, data), data / "generated" / name / f"{source}.npy")[:self.in_channels]]

    def __getitem__(self, key):
        piece, start, frames, seed = key if isinstance(key, tuple) else (key, 0, self.targets[key].shape[-1], None)
        number = len(self.sources[piece]) // self.in_channels
        first = self.in_channels * (np.random.default_rng(seed).integers(number) if seed is not None else 0)
        clip = self.sources[piece][first:first + self.in_channels]
        images = (image[:, start:start + frames].float() for image in (*clip, self.targets[piece]))
        *source, target = (torch.nn.functional.pad(image, (0, frames - image.shape[1])) for image in images)
        if self.own_level:
            target = torch.from_numpy(apply_gain(target.numpy(), self.gain(piece, first)))
        return torch.stack(source), target[None]

    def gain(self, piece, first):
        """By how many dB an output is louder than its target, of the whole piece; kept, as it has to be read for it."""
        if (piece, first) not in self.gains:
            images = (image[:].numpy() for image in (self.targets[piece], self.sources[piece][first]))
            self.gains[piece, first] = level_difference(*images)
        return self.gains[piece, first]


def output_path(name, source, data):
    """Where `write_outputs` stores what the autoencoder makes of a piece on a piano."""
    return Path(data) / "ae_output" / (f"{name}.npy" if source == "piano" else f"{source}/{name}.npy")


def write_outputs(weights, names, data=None, device="cpu", sources=("piano",), bfloat16=True):
    """Write what the autoencoder with these weights makes of every piece on every piano of `sources`: see
    `output_path`.

    data/ae_output/weights.txt says whose they are, with the `digest` of the weights, whether in single precision, as
    for `bfloat16` False, and whether at a level of their own, as what notes give is. What has been written before, by
    the same, is kept. Raises as `AEModel.load_model`.
    """
    data = hp.data if data is None else data
    model = load_model(Autoencoder, weights, Util.choose_device(device))
    model.bfloat16 = bfloat16
    note = Path(data) / "ae_output" / "weights.txt"
    text = " ".join([Path(os.path.relpath(weights, data)).as_posix(), digest(model.network.state_dict()),
                     *["in single precision"] * (not bfloat16),
                     *["at a level of their own"] * isinstance(model, NoteModel)]) + "\n"
    if not note.exists() or Util.read_text(note) != text:
        for path in note.parent.rglob("*.npy"):
            path.unlink()
        Util.save_text(note, text)
    stored = Path(data) / "generated"
    stale = [(name, source) for source in sources for name in names if not Util.is_up_to_date(
        output_path(name, source, data), weights, stored / name / f"{source}.npy")]
    for name, source in tqdm(stale, desc="ae_output", unit="piece", disable=not stale):
        piano = map_spectrogram(stored / name / f"{source}.npy").float().numpy()
        if isinstance(model, NoteModel):
            path = stored / name / f"{source}_pitch.npy"
            if path.exists():
                pitch = map_spectrogram(path).float().numpy()
            else:  # `DatasetCreator.build` makes it only where there are notes
                recording = DatasetCreator.find_pairs(data, source)[name][0]
                pitch = DatasetCreator.read_pitch_spectrogram(recording, piano.shape[1])
            output = model.generate(pitch, piano)
        else:
            output = model.generate(piano)
        Util.save_array(output_path(name, source, data), output.astype(np.float16))


def level_difference(output, target):
    """By how many dB a spectrogram in [0, 1] is softer than another, in the mean power of all."""
    powers = [np.mean(10 ** (Util.to_db(image) / 10)) for image in (output, target)]
    return 10 * np.log10(powers[1] / powers[0])


def apply_gain(image, decibels):
    """Return a spectrogram in [0, 1] that is louder, its silence as it is."""
    return np.where(image > 0, Util.to_unit(Util.to_db(image) + decibels), 0).astype(np.float32)


def match_level(output, target):
    """Bring a spectrogram in [0, 1] to the mean power of another: what notes give has a level of its own, and that of
    the audio is set at the very end."""
    return apply_gain(output, level_difference(output, target))
