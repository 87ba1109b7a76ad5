"""Pairs of spectrograms for the autoencoder, piano in, e-piano out, and which of them are trained and validated on."""
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from Augmentation import augment


class AEDataset(torch.utils.data.Dataset):
    """The pairs data/generated/<piece>/{piano,synth}.npy of the given pieces, in half precision.

    The files are mapped into memory, each opened once: the system keeps of them what fits, and reads the rest again.

    An item is (source, target), two tensors [shape=(1, n_mels, t), in [0, 1]]. The key is the number of the piece, or
    (number, first frame, frames, seed) for a crop; a crop that passes the end of its piece is filled up with silence.

    Parameters
    ----------
    names : list of str
    data : Path
    sources : list of str
        Which pianos: for a crop its seed chooses one. A whole piece is that of the first.
    augmented : bool
        Of the crops `hp.augmented_share` are taken through `Augmentation.augment`, by their seed.

    Raises
    ------
    FileNotFoundError
        If a spectrogram is missing.
    ValueError
        If those of a piece differ in shape.
    """

    def __init__(self, names, data=hp.data, sources=("piano",), augmented=False):
        self.names, self.augmented = list(names), augmented
        self.sources = [self.load(name, Path(data), sources) for name in self.names]
        self.targets = [map_spectrogram(Path(data) / "generated" / name / "synth.npy") for name in self.names]
        for name, clips, target in zip(self.names, self.sources, self.targets):
            if any(clip.shape != target.shape for clip in clips):
                raise ValueError(f"the spectrograms of '{name}' differ in shape; remove "
                                 f"{Path(data) / 'generated' / name} and build them again")

    def load(self, name, data, sources):
        return [map_spectrogram(data / "generated" / name / f"{source}.npy") for source in sources]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, key):
        if not isinstance(key, tuple):
            return self.sources[key][0][None].float(), self.targets[key][None].float()
        piece, start, frames, seed = key
        rng = np.random.default_rng(seed)
        clip = self.sources[piece][rng.integers(len(self.sources[piece]))]
        source, target = (part[:, start:start + frames].float() for part in (clip, self.targets[piece]))
        if self.augmented and rng.random() < hp.augmented_share:
            before = min(start, hp.context_frames)  # for the reverberation of what came before the crop
            power = DatasetCreator.mel_from_log(clip[:, start - before:start + frames].float().numpy())
            maxima = DatasetCreator.mel_from_log(clip.amax(dim=1).float().numpy())
            source = torch.from_numpy(DatasetCreator.log_mel(augment(power, maxima, rng), 1)[:, before:]).float()
        return tuple(torch.nn.functional.pad(part[None], (0, frames - part.shape[-1])) for part in (source, target))


def map_spectrogram(path):
    """Map a stored spectrogram into memory, as a float16 tensor [shape=(n_mels, t)]."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such spectrogram; run MIDI2Audio.py and AEMain.py first")
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # "c", as "r" makes torch warn; nothing writes to it


class Pieces(torch.utils.data.ConcatDataset):
    """The same pieces from several data sets, after each other."""

    def __init__(self, names, datasets):
        super().__init__(datasets)
        self.names = names


def brief_split(names, seed):
    """As `Util.split`, with at most `hp.validation_pieces` for validation, evenly from those held out."""
    training, validation = Util.split(names, seed)
    return training, validation[::-(-len(validation) // hp.validation_pieces)]


def datasets(names, data, seed, augmented, validation_source):
    """Split the pieces: return the training set, on all pianos but `validation_source`, and the validation set, whole
    clips of up to `hp.validation_pieces` on the first piano and on `validation_source`.

    Raises ValueError if that is none of at least two pianos.
    """
    training, validation = brief_split(names, seed)
    found = DatasetCreator.sources(data)
    if validation_source and (validation_source not in found or len(found) < 2):
        raise ValueError(f"the validation source is one of at least two pianos, not '{validation_source}'; "
                         f"{data} holds {', '.join(found)}")
    pianos = [source for source in found if source != validation_source]
    held_out = [AEDataset(validation, data, [source]) for source in (pianos[0], validation_source) if source]
    return AEDataset(training, data, pianos, augmented), Pieces(validation, held_out)
