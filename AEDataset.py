"""Pairs of spectrograms for the autoencoder, piano in, e-piano out, and which of them are trained and validated on."""
import mmap
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
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

    def __init__(self, names, data=hp.data, sources=("piano",), augmented=False):
        self.names, self.augmented = list(names), augmented
        self.sources = [self.load(name, Path(data), sources) for name in self.names]
        self.targets = [Stored(Path(data) / "generated" / name / "synth.npy") for name in self.names]
        for name, clips, target in zip(self.names, self.sources, self.targets):
            if any(clip.shape != target.shape for clip in clips):
                raise ValueError(f"the spectrograms of '{name}' differ in shape; remove "
                                 f"{Path(data) / 'generated' / name} and build them again")

    def load(self, name, data, sources):
        return [Stored(data / "generated" / name / f"{source}.npy") for source in sources]

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


class Stored:
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
    [shape=(n_mels, t)]; "labels" [shape=(3, t, n_keys)], see `note_labels`; "notes" [shape=(most_notes, 4)], those that
    sound in it, filled up with zeros; and "first", its first frame. Crops begin at even frames.
    """

    most_notes = 2048

    def load(self, name, data, sources):
        folder = data / "generated" / name
        self.notes = getattr(self, "notes", []) + [Util.load_array(folder / "notes.npy", np.float32)]
        self.pitches = getattr(self, "pitches", []) + [[Stored(folder / f"{source}_pitch.npy") for source in sources]]
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
            pitch, mel = recoloured(pitch, mel, rng)
        pitch, mel, target = (torch.nn.functional.pad(image, (0, length - image.shape[1])) for image, length in (
            (pitch, -(-frames // 2)), (mel, frames), (target, frames)))
        rate, notes = hp.sample_rate / hp.hop_length, self.notes[piece]
        sounding = notes[(notes[:, 0] * rate < start + frames + 4) & (notes[:, 1] * rate > start - 1000)]
        sounding, padded = sounding[:self.most_notes], np.zeros((self.most_notes, 4), np.float32)
        padded[:len(sounding)] = sounding
        return {"pitch": pitch, "mel": mel, "target": target, "first": start, "notes": torch.from_numpy(padded),
                "labels": torch.from_numpy(note_labels(sounding, start, frames))}


def recoloured(pitch, mel, rng):
    """The two spectrograms as through an equaliser, the same for both, with another level, and a floor of noise."""
    points = np.linspace(0, 1, 41)  # broad curves and, as partials differ from piano to piano, narrow ones
    points = (np.interp(points, np.linspace(0, 1, 8), rng.normal(0, 2, 8)) + rng.normal(0, 1.5, 41)
              + rng.uniform(-5, 5) * (2 * points - 1) + rng.uniform(-10, 3))
    octaves = np.log2(np.maximum(Util.mel_frequencies(hp.n_mels + 2)[1:-1], 27.5) / 27.5)
    places = np.arange(hp.n_pitches) / 12 / hp.pitch_bands_per_key, octaves
    noise = rng.uniform(-80, -48) + rng.uniform(-8, 8, 2) if rng.random() < 0.5 else (-np.inf, -np.inf)
    images = []
    for image, place, floor in zip((pitch, mel), places, noise):
        gain = np.interp(place / 8.7, np.linspace(0, 1, 41), points)[:, None]
        decibels = np.where(image > 0, Util.to_db(image.numpy()) + gain, -hp.top_db)
        decibels = np.maximum(decibels, floor + 5 * rng.standard_normal(image.shape, np.float32))
        images.append(torch.from_numpy(np.maximum(decibels / hp.top_db + 1, 0).astype(np.float32)))
    return images


def placed(notes, first):
    """Return onsets and ends in frames from `first` on, keys from 0, and velocities of notes [shape=(n, 4)], without
    those of keys that no piano has."""
    notes = notes[(notes[:, 2] >= hp.lowest_key) & (notes[:, 2] < hp.lowest_key + hp.n_keys)]
    onset, end = notes[:, :2].T.astype(float) * (hp.sample_rate / hp.hop_length) - first
    return onset, end, notes[:, 2].astype(int) - hp.lowest_key, notes[:, 3]


def note_labels(notes, first, frames):
    """What a `NoteEncoder` is to say [shape=(3, frames, n_keys), float32] of notes [shape=(n, 4)] from a frame on.

    Onset: 1 where a note begins, falling to 0 within `hp.onset_frames` on both sides, so that an onset between two
    frames is between their values (Kong et al. 2021); sounding: 1 until its end; velocity, of 127, where the onset is
    not 0.
    """
    onset, end, key, velocity = placed(notes, first)
    labels = np.zeros((3, frames, hp.n_keys), np.float32)
    changes = np.zeros((frames + 1, hp.n_keys), int)  # how many notes begin less how many end
    for times, change in ((onset, 1), (np.maximum(end, onset + 2), -1)):
        np.add.at(changes, (np.clip(np.ceil(times).astype(int), 0, frames), key), change)
    labels[1] = changes[:-1].cumsum(axis=0) > 0
    near = np.ceil(onset - hp.onset_frames)[:, None] + np.arange(int(2 * hp.onset_frames) + 1)
    likely = 1 - np.abs(near - onset[:, None]) / hp.onset_frames
    note, place = np.nonzero((likely > 0) & (near >= 0) & (near < frames))
    order = np.argsort(likely[note, place], kind="stable")  # of two notes of one key the nearer is written last
    note, place = note[order], place[order]
    where = near[note, place].astype(int), key[note]
    labels[0][where], labels[2][where] = likely[note, place], velocity[note] / 127
    return labels


class Pieces(torch.utils.data.ConcatDataset):
    """The same pieces from several data sets, after each other."""

    def __init__(self, names, datasets):
        super().__init__(datasets)
        self.names = names


def brief_split(names, seed):
    """As `Util.split`, with at most `hp.validation_pieces` for validation, evenly from those held out."""
    training, validation = Util.split(names, seed)
    return training, validation[::-(-len(validation) // hp.validation_pieces)]


def datasets(names, data, seed, augmented, validation_source, kind=AEDataset):
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
    held_out = [kind(validation, data, [source]) for source in (pianos[0], validation_source) if source]
    return kind(training, data, pianos, augmented), Pieces(validation, held_out)
