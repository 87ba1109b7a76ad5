"""Pairs of spectrograms for the U-Net: the autoencoder's output in, true e-piano out."""
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util
from AEDataset import AEDataset, read
from AEModel import AEModel


class UNetDataset(AEDataset):
    """As `AEDataset`, with data/ae_output/<piece>.npy, which `write_outputs` leaves, in place of the piano."""

    def load(self, name, data, sources):
        return [read(data / "ae_output" / f"{name}.npy")]


def write_outputs(weights, names, data=hp.data, device="cpu"):
    """Write what the autoencoder with these weights makes of every piece to data/ae_output/<piece>.npy.

    What this very autoencoder has written already is kept. Raises as `AEModel.load`.
    """
    folder, weights = Path(data) / "ae_output", Path(weights)
    note, text = folder / "weights.txt", f"{weights.resolve()}\n"
    if not note.exists() or note.read_text() != text:
        for output in folder.glob("*.npy"):
            output.unlink()
        Util.save_text(note, text)
    stale = [name for name in names if not (weights.exists() and Util.newer(folder / f"{name}.npy", weights))]
    if stale:
        model = AEModel.load(weights, hp.choose_device(device))
        for name in tqdm(stale, desc="ae_output", unit="piece"):
            piano = read(Path(data) / "generated" / name / "piano.npy").float().numpy()
            Util.save_array(folder / f"{name}.npy", model.generate(piano).astype(np.float16))
