"""Pairs of spectrograms for the autoencoder: piano in, e-piano out."""
from pathlib import Path

import numpy as np
import torch

import Hyperparameters as hp


class AEDataset(torch.utils.data.Dataset):
    """The pairs data/generated/<piece>/{piano,synth}.npy of the given pieces, kept in memory in half precision.

    An item is (source, target), two tensors [shape=(1, n_mels, t), in [0, 1]]. The key is the number of the piece,
    or (number, first frame, frames) for a crop; a crop that passes the end of its piece is filled up with silence.

    Raises FileNotFoundError if a spectrogram is missing, ValueError if a pair differs in shape.
    """

    def __init__(self, names, data=hp.data):
        self.names = list(names)
        self.clips = [self.load(name, Path(data)) for name in self.names]
        for name, (source, target) in zip(self.names, self.clips):
            if source.shape != target.shape:
                raise ValueError(f"the spectrograms of '{name}' differ in shape, {tuple(source.shape)} and "
                                 f"{tuple(target.shape)}; remove {Path(data) / 'generated' / name} and build it again")

    def load(self, name, data):
        folder = data / "generated" / name
        return read(folder / "piano.npy"), read(folder / "synth.npy")

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, key):
        piece, start, frames = key if isinstance(key, tuple) else (key, 0, self.clips[key][0].shape[-1])
        crops = [clip[None, :, start:start + frames].float() for clip in self.clips[piece]]
        return tuple(torch.nn.functional.pad(crop, (0, frames - crop.shape[-1])) for crop in crops)


def read(path):
    """Read a stored spectrogram as a float16 tensor [shape=(n_mels, t)]."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such spectrogram; run MIDI2Audio.py and AEMain.py first")
    return torch.from_numpy(np.load(path))
