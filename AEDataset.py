"""Pairs of spectrograms for training the autoencoder, and their split into training and validation sets."""
import mmap
import random

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from rendering.training_clips import ClipMaker
from training.note_dataset import StoredAudio


class AEDataset(torch.utils.data.Dataset):
    """Pairs of spectrograms data/generated/<piece>/{piano,synth}.npy of the pieces `names`.

    An item is (source, target), two tensors [shape=(1, n_mels, t), in [0, 1]]. The key is the number of the piece,
    or (number, first frame, frames, seed) for a crop. A crop that exceeds its piece is padded with silence. Its seed
    chooses one of the pianos `sources`; a whole piece is that of the first. If `augmented`, the share `hp.heard_share`
    of the crops is heard in rooms (`training_clips.ClipMaker`).

    Raises FileNotFoundError if a spectrogram is missing, and ValueError if one is damaged, or if those of a piece
    differ in shape.
    """

    def __init__(self, names, data, sources=("piano",), augmented=False):
        folders = [data / "generated" / name for name in names]
        self.names = list(names)
        self.sources = [self.load(name, data, sources) for name in names]
        self.targets = [StoredSpectrogram(folder / "synth.npy") for folder in folders]
        self.maker = ClipMaker(data / "clips") if augmented else None
        self.audio = [[StoredAudio(folder / f"{source}_audio.npy") for source in sources]
                      for folder in folders] if augmented else []
        for folder, clips, target in zip(folders, self.sources, self.targets):
            if any(clip.shape != target.shape for clip in clips):
                raise ValueError(f"the spectrograms of '{folder.name}' differ in shape; remove {folder} and build them "
                                 "again")

    def load(self, name, data, sources):
        """Return the sources of a piece, a list of `StoredSpectrogram`."""
        return [StoredSpectrogram(data / "generated" / name / f"{source}.npy") for source in sources]

    def __len__(self):
        return len(self.targets)

    def batches(self, settings, epoch):
        """Return the keys of the crops of an epoch, in batches: see `crop_batches`."""
        lengths = [target.shape[-1] for target in self.targets]
        return crop_batches(lengths, settings["crop_frames"], settings["batch_size"], f"{settings['seed']} {epoch}")

    def __getitem__(self, key):
        if not isinstance(key, tuple):
            return self.sources[key][0][None].float(), self.targets[key][None].float()
        piece, start, frames, seed = key
        rng = np.random.default_rng(seed)
        place = rng.integers(len(self.sources[piece]))
        source, target = (part[:, start:start + frames].float() for part in (
            self.sources[piece][place], self.targets[piece]))
        if self.maker and rng.random() < hp.heard_share and source.any():
            source = self.heard(self.audio[piece][place], start, source, seed)
        return tuple(torch.nn.functional.pad(part[None], (0, frames - part.shape[-1])) for part in (source, target))

    def heard(self, audio, start, source, seed):
        """Return a crop [shape=(n_mels, t)] that begins at frame `start`, as it is heard in a drawn room, as loud."""
        lead, first = int(ClipMaker.lead * hp.sample_rate), start * hp.hop_length
        sound = self.maker.hear_recording(audio.read(first - lead, first + source.shape[1] * hp.hop_length), seed)
        power = DatasetCreator.mel_power(DatasetCreator.stft(sound[lead:]))[:, :source.shape[1]]
        loudest = 10 ** (Util.to_db(float(source.max())) / 10)
        return torch.from_numpy(DatasetCreator.log_mel(power, power.max() / loudest)).float()


def crop_batches(lengths, frames, batch_size, seed):
    """Cut clips into crops that start at a random frame, and shuffle them into the batches of one epoch. `lengths` are
    the frames of each clip, `frames` those of a crop, 0 for whole clips. An epoch covers every frame of every clip
    about once. Return lists of (clip, first frame, frames, random seed), the keys of an `AEDataset`."""
    rng = random.Random(seed)
    frames = frames or max(lengths)
    keys = []
    for piece, length in enumerate(lengths):
        count = max(length // frames, 1)
        first = rng.randint(0, max(length - count * frames, 0))
        keys += [(piece, first + i * frames, frames, rng.getrandbits(32)) for i in range(count)]
    rng.shuffle(keys)
    return [keys[i:i + batch_size] for i in range(0, len(keys), batch_size)]


class StoredSpectrogram:
    """A stored spectrogram [shape=(n_mels, t), float16]. An index returns that part as a tensor [float32, in [0, 1]].
    The file is open only while a part is read. Raises FileNotFoundError if it is missing, ValueError if it is
    damaged."""

    def __init__(self, path):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such spectrogram; run MIDI2Audio.py and AEMain.py first")
        array = Util.load_array(path, np.float16, mmap_mode="c")  # torch warns of mode "r"
        self.path, self.shape, self.place = path, array.shape, (array.offset, array.strides)

    def __getitem__(self, part):
        with open(self.path, "rb") as file:  # three times as fast as np.load
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        image = torch.from_numpy(np.ndarray(self.shape, np.float16, mapped, *self.place))[part].float()
        if not image.sum().isfinite():
            raise ValueError(f"{self.path} is damaged; remove it, and the same command makes it anew")
        return image


class ValidationSet(torch.utils.data.ConcatDataset):
    """The same pieces from several data sets, one data set after the other."""

    def __init__(self, names, datasets):
        super().__init__(datasets)
        self.names = names


def split_for_training(names, seed, known=(), data=None):
    """Split pieces as `Util.split`, with at most `hp.max_validation_pieces` validation pieces, evenly spaced. `known`
    are pieces that initial weights have learnt from. Validation takes others where there are any. With the folder
    `data`, a warning says if training and validation share their only piece."""
    unknown = [name for name in names if name not in known]
    if known and len({name.partition("~")[0] for name in unknown}) > 1:
        _, validation = Util.split(unknown, seed, min(hp.validation_share * len(names) / len(unknown), 0.5))
        training = [name for name in names if name not in set(validation)]
    else:
        training, validation = Util.split(names, seed)
    if data and set(training) & set(validation):
        Util.warn(f"{data} holds a single piece, {training[0]}, which is used for training and for validation; the "
                  "validation loss does not show how well other pieces will do")
    return training, validation[::-(-len(validation) // hp.max_validation_pieces)]


def choose_sources(data, validation_source=None):
    """Return the pianos to train on, and those to validate on: the first of them, and `validation_source`. Raises
    ValueError if `validation_source` is not one of at least two pianos."""
    found = DatasetCreator.find_sources(data)
    if validation_source and (validation_source not in found or len(found) < 2):
        raise ValueError(f"the validation source is one of at least two pianos, not '{validation_source}'; "
                         f"{data} holds {', '.join(found)}")
    training = [source for source in found if source != validation_source]
    return training, [training[0], *([validation_source] if validation_source else [])]


def make_datasets(names, data, seed, augmented, validation_source):
    """Return the training set, whose crops are heard in rooms if `augmented`, and the validation set of whole clips."""
    training, validation = split_for_training(names, seed, data=data)
    sources, held_out = choose_sources(data, validation_source)
    return (AEDataset(training, data, sources, augmented),
            ValidationSet(validation, [AEDataset(validation, data, [source]) for source in held_out]))
