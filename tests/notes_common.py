"""What the tests of notes share."""
import mido
import numpy as np

import Hyperparameters as hp
from Notes import note_labels

rate = hp.sample_rate / hp.hop_length  # frames a second
small = dict(first=6, channels=6, blocks=1, narrow=2, width=12)


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


# the classifier

def with_ghosts(seed, frames=600):
    """Heard [shape=(3, frames, n_keys)] and true notes: each is heard an octave above too, a little softer, where it
    was not played."""
    notes = some_notes(30, frames / rate - 1, seed)
    notes = notes[notes[:, 2] < hp.lowest_key + hp.n_keys - 12]
    ghosts = notes + (0, 0, 12, 0)
    played = note_labels(notes, 0, frames)
    return np.maximum(played, 0.8 * note_labels(ghosts, 0, frames)), played


# notes of a MIDI file

def pedal(*steps):
    return [mido.Message("control_change", control=64, value=value, time=time) for time, value in steps]


def late(audio, recorded, most=0.1):
    """Seconds by which a recording is behind, from the cross-correlation."""
    size = 2 * audio.size
    correlation = np.fft.irfft(np.fft.rfft(audio, size).conj() * np.fft.rfft(recorded, size))
    lags = np.arange(-round(most * hp.sample_rate), round(most * hp.sample_rate))
    return lags[np.abs(correlation[lags]).argmax()] / hp.sample_rate
