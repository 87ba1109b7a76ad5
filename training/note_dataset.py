"""Recordings with notes for training the note autoencoder: crops, whole clips, and notes of clips to be made."""
import random
from pathlib import Path

import numpy as np
import torch

import Hyperparameters as hp
import Util
from rendering.random_performances import draw_notes
from rendering.training_clips import ClipMaker, clips_per_piano

most_notes, most_pedals = 768, 128  # of a crop; more are left out


class NoteDataset(torch.utils.data.Dataset):
    """Crops for the encoder: audio of the pieces `names` on the pianos `sources` with their notes, and notes of
    `pieces`, as `clip_sources.read_pieces` returns them, to be played by a `training_clips.ClipMaker`.

    The key is (number of the piece or -1, first frame, frames, piano, seed). An item is a dict, for batches:

    - "audio" [shape=(n,)]: `ClipMaker.lead` seconds and the crop; zero if it is to be made
    - "notes" [shape=(most_notes, 4)] and "pedal" [shape=(most_pedals, 2)]: relative to the crop, padded with zeros
    - "made", "heard": whether the audio is to be made, and whether it is to be heard in a room
    - "piano", "seed": numbers of the first piano of the pool, and for what is drawn
    """

    def __init__(self, names, data, sources=("piano",), pieces=()):
        self.names, self.pieces = list(names), pieces
        folders = [Path(data) / "generated" / name for name in names]
        self.recordings = [[StoredAudio(folder / f"{source}_audio.npy") for source in sources] for folder in folders]
        self.notes = [read_notes(folder) for folder in folders]

    def batches(self, settings, epoch):
        """Return the keys of the batches of an epoch: `settings["epoch_steps"]` of `settings["batch_size"]` crops."""
        rng, frames = random.Random(f"{settings['seed']} {epoch}"), settings["crop_frames"]
        steps, share = settings["epoch_steps"], hp.made_share if self.names else 1
        lengths = [recordings[0].samples // hp.hop_length for recordings in self.recordings]

        def draw(piano):
            if self.pieces and rng.random() < share:
                return -1, 0, frames, piano, rng.getrandbits(32)
            piece = rng.choices(range(len(lengths)), lengths)[0]
            return piece, rng.randint(0, max(lengths[piece] - frames, 0)), frames, piano, rng.getrandbits(32)

        size = settings["batch_size"]
        return [[draw((epoch * steps + i) * size // clips_per_piano) for _ in range(size)] for i in range(steps)]

    def __getitem__(self, key):
        piece, first, frames, piano, seed = key
        rng, lead = np.random.default_rng(seed), int(ClipMaker.lead * hp.sample_rate)
        start, samples, seconds = first * hp.hop_length, frames * hp.hop_length, frames * hp.hop_length / hp.sample_rate
        audio, pedal = np.zeros(lead + samples, np.float32), np.zeros((0, 2))
        if piece < 0:
            notes, pedal = draw_notes(self.pieces, seconds, rng)
        else:
            recording = self.recordings[piece][rng.integers(len(self.recordings[piece]))]
            audio = recording.read(start - lead, start + samples)
            notes = self.notes[piece][:, :4] - np.float32([start / hp.sample_rate] * 2 + [0, 0])
            notes = notes[(notes[:, 0] < seconds) & (notes[:, 1] > -hp.clip_lead_s)]
        return {"audio": audio, "notes": padded(notes, most_notes), "pedal": padded(pedal, most_pedals),
                "made": piece < 0, "heard": piece < 0 or rng.random() < hp.heard_share, "piano": piano, "seed": seed}

    def clip(self, piece, source=0):
        """Return audio [shape=(n,)] and notes [shape=(m, 4)] of a whole piece."""
        recording, notes = self.recordings[piece][source], self.notes[piece]
        return recording.read(), notes[notes[:, 0] >= 0]


def read_notes(folder):
    """Return the notes of a piece [shape=(n, 5)], with their certainty: those of its MIDI file, or heard ones."""
    path = folder / "notes.npy"
    notes = Util.load_array(path if path.exists() else folder / "heard.npy", np.float32)
    return np.pad(notes[:, :5], ((0, 0), (0, max(5 - notes.shape[1], 0))), constant_values=1)


class StoredAudio:
    """Audio that `DatasetCreator` has stored in 16 bits. The file is open only while a part is read."""

    def __init__(self, path):
        self.path, self.samples = path, Util.load_array(path, np.int16, mmap_mode="r").shape[1]

    def read(self, start=0, end=None):
        """Return samples [shape=(end - start,), float32, in [-1, 1]], by default all; silence where there are none."""
        end = self.samples if end is None else end
        stored = Util.load_array(self.path, np.int16, mmap_mode="r")[0, max(start, 0):max(end, 0)]
        before = max(-start, 0)
        return np.pad(stored / np.float32(32768), (before, end - start - before - len(stored)))


def padded(rows, number):
    """Return the last `number` rows of an array [shape=(n, columns)], padded with zeros."""
    rows = rows[-number:].astype(np.float32)
    return torch.from_numpy(np.pad(rows, ((0, number - len(rows)), (0, 0))))
