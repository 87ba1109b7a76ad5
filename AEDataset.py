"""Pairs of spectrograms for training the autoencoder, and their split into training and validation sets."""
import mmap
from pathlib import Path

import numpy as np
import torch

import Augmentation
import DatasetCreator
import Hyperparameters as hp
import Notes
import Util
from Augmentation import augment


class AEDataset(torch.utils.data.Dataset):
    """Pairs of spectrograms data/generated/<piece>/{piano,synth}.npy, stored in half precision.

    Each file is mapped into memory only while an item is read, so few files are open at once, and the system's cache
    holds as many as fit.

    An item is (source, target), two tensors [shape=(1, n_mels, t), in [0, 1]]. The key is the number of the piece,
    or (number, first frame, frames, seed) for a crop. A crop that exceeds its piece is padded with silence.

    Parameters
    ----------
    names : list of str
        Pieces.
    data : Path, optional
        By default `hp.data`.
    sources : list of str
        Pianos. The seed of a crop chooses one; a whole piece is that of the first.
    augmented : bool
        Whether the share `hp.augmented_share` of the crops goes through `Augmentation.augment`.

    Raises
    ------
    FileNotFoundError
        If a spectrogram is missing.
    ValueError
        If the spectrograms of a piece differ in shape, or one is damaged.
    """

    def __init__(self, names, data=None, sources=("piano",), augmented=False):
        data = hp.data if data is None else data
        self.names, self.augmented = list(names), augmented
        self.sources = [self.load(name, Path(data), sources) for name in self.names]
        self.targets = [StoredSpectrogram(Path(data) / "generated" / name / "synth.npy") for name in self.names]
        for name, clips, target in zip(self.names, self.sources, self.targets):
            if any(clip.shape != target.shape for clip in clips):
                raise ValueError(f"the spectrograms of '{name}' differ in shape; remove "
                                 f"{Path(data) / 'generated' / name} and build them again")

    def load(self, name, data, sources):
        """Return the sources of a piece, a list of `StoredSpectrogram`."""
        return [StoredSpectrogram(data / "generated" / name / f"{source}.npy") for source in sources]

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
            before = min(start, hp.context_frames)  # for reverberation from before the crop
            power = DatasetCreator.mel_from_log(clip[:, start - before:start + frames].float().numpy())
            maxima = DatasetCreator.mel_from_log(clip[:].amax(dim=1).float().numpy())
            source = torch.from_numpy(DatasetCreator.log_mel(augment(power, maxima, rng), 1)[:, before:]).float()
        return tuple(torch.nn.functional.pad(part[None], (0, frames - part.shape[-1])) for part in (source, target))


class StoredSpectrogram:
    """A stored spectrogram [shape=(n_mels, t)]. An index returns that part as a tensor, [in [0, 1]].

    The file is open only while a part is read. Raises as `stored_array`.
    """

    def __init__(self, path):
        array = stored_array(path)
        self.path, self.shape, self.place = path, array.shape, (array.offset, array.strides)

    def __getitem__(self, part):
        with open(self.path, "rb") as file:  # three times as fast as np.load
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        image = torch.from_numpy(np.ndarray(self.shape, np.float16, mapped, *self.place))[part].float()
        if not image.sum().isfinite():
            raise ValueError(f"{self.path} is damaged; remove it, and the same command makes it anew")
        return image


def stored_array(path):
    """Map a stored spectrogram into memory as an array [shape=(n_mels, t), float16].

    Raises FileNotFoundError if it is missing, and ValueError if it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such spectrogram; run MIDI2Audio.py and AEMain.py first")
    return Util.load_array(path, np.float16, mmap_mode="c")  # torch warns of mode "r"


def map_spectrogram(path):
    """Map a stored spectrogram into memory as a tensor; see `stored_array`."""
    return torch.from_numpy(stored_array(path))


class NoteDataset(AEDataset):
    """`AEDataset` with pitch spectrograms and notes, for a `NoteAutoencoder`.

    An item is a dict. Its crops begin at even frames.

    - "pitch" [shape=(n_pitches, ceil(t / 2))] and "mel" [shape=(n_mels, t)]: spectrograms of the recording
    - "target" [shape=(n_mels, t)]
    - "labels" [shape=(4, t, n_keys)]: see `Notes.note_labels`
    - "notes" [shape=(most_notes, 4)]: the notes that sound in it, padded with zeros
    - "first": the number of its first frame
    """

    most_notes = 2048

    def load(self, name, data, sources):
        folder = data / "generated" / name
        self.notes = getattr(self, "notes", []) + [Util.load_array(folder / "notes.npy", np.float32)]
        pitches = [StoredSpectrogram(folder / f"{source}_pitch.npy") for source in sources]
        self.pitches = getattr(self, "pitches", []) + [pitches]
        return super().load(name, data, sources)

    def __getitem__(self, key):
        piece, start, frames, seed = key if isinstance(key, tuple) else (key, 0, self.targets[key].shape[1], None)
        rng = np.random.default_rng(seed)
        source = rng.integers(len(self.sources[piece])) if seed is not None else 0
        start -= start % 2
        pitch, mel, target = (image[:, first:first + length].float() for image, first, length in (
            (self.pitches[piece][source], start // 2, -(-frames // 2)), (self.sources[piece][source], start, frames),
            (self.targets[piece], start, frames)))
        if self.augmented and rng.random() < hp.augmented_share:
            pitch, mel = map(torch.from_numpy, Augmentation.random_eq(pitch.numpy(), mel.numpy(), rng))
        pitch, mel, target = (torch.nn.functional.pad(image, (0, length - image.shape[1])) for image, length in (
            (pitch, -(-frames // 2)), (mel, frames), (target, frames)))
        rate, notes = hp.sample_rate / hp.hop_length, self.notes[piece]
        sounding = notes[(notes[:, 0] * rate < start + frames + 4) & (notes[:, 1] * rate > start - 1000)]
        sounding, padded = sounding[:self.most_notes], np.zeros((self.most_notes, 4), np.float32)
        padded[:len(sounding)] = sounding
        return {"pitch": pitch, "mel": mel, "target": target, "first": start, "notes": torch.from_numpy(padded),
                "labels": torch.from_numpy(Notes.note_labels(sounding, start, frames))}


class ValidationSet(torch.utils.data.ConcatDataset):
    """The same pieces from several data sets, one data set after the other."""

    def __init__(self, names, datasets):
        super().__init__(datasets)
        self.names = names


def split_for_training(names, seed):
    """Split pieces as `Util.split`, with at most `hp.max_validation_pieces` validation pieces, evenly spaced."""
    training, validation = Util.split(names, seed)
    return training, validation[::-(-len(validation) // hp.max_validation_pieces)]


def make_datasets(names, data, seed, augmented, validation_source, kind=AEDataset):
    """Make the training set and the validation set, with a warning if they share their only piece.

    Parameters
    ----------
    names : list of str
        Pieces.
    data : Path
    seed : int
        Random seed of the split.
    augmented : bool
        Whether the training set is augmented.
    validation_source : str or None
        Piano for validation only.
    kind : callable
        `AEDataset` or a class with the same parameters.

    Returns
    -------
    training : AEDataset
        On all pianos except `validation_source`.
    validation : ValidationSet
        Whole clips on the first piano, and on `validation_source`.

    Raises
    ------
    ValueError
        If `validation_source` is not one of at least two pianos.
    """
    training, validation = split_for_training(names, seed)
    found = DatasetCreator.find_sources(data)
    if validation_source and (validation_source not in found or len(found) < 2):
        raise ValueError(f"the validation source is one of at least two pianos, not '{validation_source}'; "
                         f"{data} holds {', '.join(found)}")
    if set(training) & set(validation):
        Util.warn(f"{data} holds a single piece, {training[0]}, which is used for training and for "
                  "validation; the validation loss does not show how well other pieces will do")
    pianos = [source for source in found if source != validation_source]
    held_out = [kind(validation, data, [source]) for source in (pianos[0], validation_source) if source]
    return kind(training, data, pianos, augmented), ValidationSet(validation, held_out)
