"""Pairs of spectrograms for the autoencoder, piano in, e-piano out, and which of them are trained and validated on."""
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
    """The pairs data/generated/<piece>/{piano,synth}.npy of the given pieces, in half precision.

    A file is mapped into memory while an item is taken from it: the system keeps of all what fits, reads the rest
    again, and has few files open at once.

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
        If those of a piece differ in shape, or one is damaged.
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
            before = min(start, hp.context_frames)  # for the reverberation of what came before the crop
            power = DatasetCreator.mel_from_log(clip[:, start - before:start + frames].float().numpy())
            maxima = DatasetCreator.mel_from_log(clip[:].amax(dim=1).float().numpy())
            source = torch.from_numpy(DatasetCreator.log_mel(augment(power, maxima, rng), 1)[:, before:]).float()
        return tuple(torch.nn.functional.pad(part[None], (0, frames - part.shape[-1])) for part in (source, target))


class StoredSpectrogram:
    """A stored spectrogram [shape=(n_mels, t)]: indexed, it gives that part as a tensor, for which alone the file is
    open. Raises as `stored_array`."""

    def __init__(self, path):
        array = stored_array(path)
        self.path, self.shape, self.place = path, array.shape, (array.offset, array.strides)

    def __getitem__(self, part):
        with open(self.path, "rb") as file:  # a third of the time that np.load takes
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        image = torch.from_numpy(np.ndarray(self.shape, np.float16, mapped, *self.place))[part].float()
        if not image.sum().isfinite():
            raise ValueError(f"{self.path} is damaged; remove it, and the same command makes it anew")
        return image


def stored_array(path):
    """Map a stored spectrogram into memory, as a float16 array [shape=(n_mels, t)].

    Raises FileNotFoundError if it is missing, ValueError if it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such spectrogram; run MIDI2Audio.py and AEMain.py first")
    return Util.load_array(path, np.float16, mmap_mode="c")  # as "r" makes torch warn


def map_spectrogram(path):
    """As `stored_array`, as a tensor."""
    return torch.from_numpy(stored_array(path))


class NoteDataset(AEDataset):
    """As `AEDataset`, with the pitch spectrograms and notes that `DatasetCreator.build` leaves beside, for a
    `NoteAutoencoder`.

    An item is a dict: "pitch" [shape=(n_pitches, ceil(t / 2))] and "mel" [shape=(n_mels, t)], what is heard; "target"
    [shape=(n_mels, t)]; "labels" [shape=(3, t, n_keys)], see `Notes.note_labels`; "notes" [shape=(most_notes, 4)],
    those that sound in it, filled up with zeros; and "first", its first frame. Crops begin at even frames.
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
    """The same pieces from several data sets, after each other."""

    def __init__(self, names, datasets):
        super().__init__(datasets)
        self.names = names


def split_for_training(names, seed):
    """As `Util.split`, with at most `hp.max_validation_pieces` for validation, evenly from those held out."""
    training, validation = Util.split(names, seed)
    return training, validation[::-(-len(validation) // hp.max_validation_pieces)]


def make_datasets(names, data, seed, augmented, validation_source, kind=AEDataset):
    """Split the pieces: return the training set, on all pianos but `validation_source`, and the validation set, whole
    clips of up to `hp.max_validation_pieces` on the first piano and on `validation_source`.

    Raises ValueError if that is none of at least two pianos.
    """
    training, validation = split_for_training(names, seed)
    found = DatasetCreator.find_sources(data)
    if validation_source and (validation_source not in found or len(found) < 2):
        raise ValueError(f"the validation source is one of at least two pianos, not '{validation_source}'; "
                         f"{data} holds {', '.join(found)}")
    pianos = [source for source in found if source != validation_source]
    held_out = [kind(validation, data, [source]) for source in (pianos[0], validation_source) if source]
    return kind(training, data, pianos, augmented), ValidationSet(validation, held_out)
