"""What the tests of notes share."""
import mido
import numpy as np
import torch

import Hyperparameters as hp
from NoteAutoencoder import NoteRefiner

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
        scores = 20 * seen[..., len(hp.offset_sounding_lags) + 3]  # more than what a longer note counts
        return scores, scores


def every_onset_refiner():
    """A refiner whose onset head keeps all candidates."""
    refiner = NoteRefiner()
    refiner.onset_head = EveryOnset()
    return refiner


def as_views(labels):
    """Predictions for a refiner: two views of the labels, with details that say nothing."""
    return np.concatenate([labels, np.full((hp.refiner_details // 2, *labels.shape[1:]), 0.5, np.float32), labels])


# notes of a MIDI file

def pedal(*steps):
    return [mido.Message("control_change", control=64, value=value, time=time) for time, value in steps]


def late(audio, recorded, most=0.1):
    """Seconds by which a recording is behind, from the cross-correlation."""
    size = 2 * audio.size
    correlation = np.fft.irfft(np.fft.rfft(audio, size).conj() * np.fft.rfft(recorded, size))
    lags = np.arange(-round(most * hp.sample_rate), round(most * hp.sample_rate))
    return lags[np.abs(correlation[lags]).argmax()] / hp.sample_rate
