"""Pairs of spectrograms for a U-Net of one input: the autoencoder's output in, true e-piano out."""
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util
from AEDataset import AEDataset, map_spectrogram
from AEModel import Model
from Autoencoder import Autoencoder


class UNetDataset(AEDataset):
    """As `AEDataset`, with data/ae_output/<piece>.npy, which `write_outputs` leaves, in place of the piano."""

    def load(self, name, data, sources):
        return [map_spectrogram(data / "ae_output" / f"{name}.npy")]


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
        piano = map_spectrogram(Path(data) / "generated" / name / "piano.npy").float().numpy()
        Util.save_array(folder / f"{name}.npy", model.generate(piano).astype(np.float16))
