"""What the tests of notes share."""
import io
import itertools

import mido
import numpy as np
import soundfile
import torch
from librosa import midi_to_hz as frequency

import Hyperparameters as hp
from notes import note_autoencoder, post_processing
from notes.note_autoencoder import NoteRefiner
from notes.sampled_voice import SampledVoice
from rendering.training_clips import label_clips

rate = hp.sample_rate / hp.hop_length  # frames a second
small = dict(first=6, channels=6, stages=(1, 2), narrow=2, width=12, layers=3)


def some_notes(number=40, seconds=6.0, seed=0):
    """Notes [shape=(number, 4)] of which those of one key begin at least 0.1 s apart."""
    rng, notes = np.random.default_rng(seed), []
    while len(notes) < number:
        onset, key = rng.uniform(0, seconds), rng.integers(hp.lowest_key, hp.lowest_key + hp.n_keys)
        if all(other[2] != key or abs(other[0] - onset) > 0.1 for other in notes):
            notes.append((onset, onset + rng.uniform(0.05, 2), key, rng.integers(1, 128)))
    notes = np.array(sorted(notes), np.float32)
    for i, (onset, _, key, _) in enumerate(notes):  # which ends the one before it
        before = notes[:i][notes[:i, 2] == key]
        notes[:i, 1][notes[:i, 2] == key] = np.minimum(before[:, 1], onset)
    return notes


def clip_notes(notes, clip=0):
    """Notes [shape=(n, 4)] with the number of their clip, as `training_clips` takes them."""
    return torch.from_numpy(np.insert(notes, 0, clip, axis=1).astype(np.float32))


def note_labels(notes, frames):
    """The labels of one clip [shape=(4, frames, n_keys)]."""
    return label_clips(clip_notes(notes), 1, frames)[0].numpy()


# predictions and their post-processing

class EveryOnset(torch.nn.Module):
    """An onset head for which every candidate was played."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, seen, key):
        return torch.ones(len(seen))


class HighestOffset(torch.nn.Module):
    """An offset head that chooses the candidate of the highest offset prediction."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, seen, *others):
        scores = 20 * seen[..., len(post_processing.offset_sounding_lags) + 3]  # more than what a longer note counts
        return scores, scores


def every_onset_refiner():
    """A refiner whose onset head keeps all candidates."""
    refiner = NoteRefiner()
    refiner.onset_head = EveryOnset()
    return refiner


def as_views(labels):
    """Predictions for a refiner: two views of the labels, with details that say nothing."""
    details = np.full((note_autoencoder.n_details // 2, *labels.shape[1:]), 0.5, np.float32)
    return np.concatenate([labels, details, labels])


# a sampled voice

def tone(hertz, seconds=1.5, decay=2.0):
    t = np.arange(int(seconds * hp.sample_rate)) / hp.sample_rate
    return (0.5 * np.exp(-decay * t) * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def make_voice(keys=(57, 60, 69), layers=(127,)):
    """A voice of sines, twice as loud at twice the velocity, released in 10 ms at the lowest and 40 at the highest."""
    streams = []
    for key, harmonic in itertools.product(keys, range(1, 1 + len(layers))):
        flac = io.BytesIO()
        soundfile.write(flac, tone(frequency(key) * harmonic), hp.sample_rate, format="FLAC")
        streams.append(flac.getvalue())
    velocities = torch.tensor([1.0, 64, 127])
    return SampledVoice(
        streams=torch.frombuffer(bytearray(b"".join(streams)), dtype=torch.uint8),
        ends=torch.tensor([len(stream) for stream in streams]).cumsum(0).view(len(keys), -1),
        keys=torch.tensor(keys), layers=torch.tensor(layers).float(), velocities=velocities,
        level=(20 * torch.log10(velocities / 127)).repeat(len(keys), 1),
        release=torch.tensor([0.01, 0.02, 0.04]).repeat(len(keys), 1))


# notes of a MIDI file

def pedal(*steps):
    return [mido.Message("control_change", control=64, value=value, time=time) for time, value in steps]


def late(audio, recorded, most=0.1):
    """Seconds by which a recording is behind, from the cross-correlation."""
    size = 2 * audio.size
    correlation = np.fft.irfft(np.fft.rfft(audio, size).conj() * np.fft.rfft(recorded, size))
    lags = np.arange(-round(most * hp.sample_rate), round(most * hp.sample_rate))
    return lags[np.abs(correlation[lags]).argmax()] / hp.sample_rate
