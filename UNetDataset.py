"""Pairs of spectrograms for a U-Net of one input: the autoencoder's output in, true e-piano out."""
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import Hyperparameters as hp
import Util
from AEDataset import AEDataset, map_spectrogram
from AEModel import Model, NoteModel
from Autoencoder import Autoencoder


class UNetDataset(AEDataset):
    """As `AEDataset`, with data/ae_output/<piece>.npy, which `write_outputs` leaves, in place of the piano.

    An item's source is [shape=(in_channels, n_mels, t)]: with two channels the piano comes after it.
    """

    def __init__(self, names, data=hp.data, in_channels=1):
        self.in_channels = in_channels
        super().__init__(names, data)

    def load(self, name, data, sources):
        return [map_spectrogram(path) for path in (data / "ae_output" / f"{name}.npy",
                                                   data / "generated" / name / "piano.npy")][:self.in_channels]

    def __getitem__(self, key):
        piece, start, frames, _ = key if isinstance(key, tuple) else (key, 0, self.targets[key].shape[-1], None)
        images = (image[:, start:start + frames].float() for image in (*self.sources[piece], self.targets[piece]))
        *source, target = (torch.nn.functional.pad(image, (0, frames - image.shape[1])) for image in images)
        return torch.stack(source), target[None]


def note_of(weights, data):
    """What data/ae_output/weights.txt says: whose outputs lie there."""
    return f"{Path(os.path.relpath(weights, data)).as_posix()}\n"


def stale_outputs(weights, names, data=hp.data):
    """Names of the pieces whose data/ae_output/<piece>.npy is not there, or not from these weights."""
    folder = Path(data) / "ae_output"
    note = folder / "weights.txt"
    if not note.exists() or note.read_text() != note_of(weights, data):
        return list(names)
    return [name for name in names
            if not Util.newer(folder / f"{name}.npy", weights, Path(data) / "generated" / name / "piano.npy")]


def write_outputs(weights, names, data=hp.data, device="cpu"):
    """Write what the autoencoder with these weights makes of every piece to data/ae_output/<piece>.npy.

    What it has written before is kept. Raises as `Model.load`.
    """
    folder, model = Path(data) / "ae_output", Model.load(Autoencoder, weights, Util.choose_device(device))
    stale = stale_outputs(weights, names, data)
    for name in stale:
        (folder / f"{name}.npy").unlink(missing_ok=True)
    Util.save_text(folder / "weights.txt", note_of(weights, data))
    for name in tqdm(stale, desc="ae_output", unit="piece", disable=not stale):
        stored = Path(data) / "generated" / name
        piano, target = (map_spectrogram(stored / f"{side}.npy").float().numpy() for side in ("piano", "synth"))
        if isinstance(model, NoteModel):
            pitch = map_spectrogram(stored / "piano_pitch.npy").float().numpy()
            output = as_loud(model.generate(pitch, piano), target)
        else:
            output = model.generate(piano)
        Util.save_array(folder / f"{name}.npy", output.astype(np.float16))


def as_loud(output, target):
    """Bring a spectrogram in [0, 1] to the mean power of another: what notes give has a level of its own, and that of
    the audio is set at the very end."""
    powers = [np.mean(10 ** (Util.to_db(image) / 10)) for image in (output, target)]
    return np.where(output > 0, Util.to_unit(Util.to_db(output) + 10 * np.log10(powers[1] / powers[0])), 0)
