"""Notes of training clips: performance variants of parts of pieces, and exercises, drawn anew for each clip."""
import math

import numpy as np
import torch

import Hyperparameters as hp
from Notes import next_onsets


def with_pedal(off, pedal):
    """Return when notes end whose keys are released at `off` [shape=(n,)]: the pedal holds them.

    `pedal` [shape=(m, 2)]: when it goes down and up, in order.
    """
    if not len(pedal):
        return off
    place = np.searchsorted(pedal[:, 0], off, side="right") - 1
    held = (place >= 0) & (off < pedal[place.clip(0), 1])
    return np.where(held, pedal[place.clip(0), 1], off)


def draw_performance(notes, pedal, rng, seconds, lead):
    """Draw a performance variant of a part of a piece.

    Parameters
    ----------
    notes : np.ndarray [shape=(n, 4)]
        Onset, release of the key, both in seconds, MIDI key, velocity.
    pedal : np.ndarray [shape=(m, 2)]
    seconds, lead : float
        Length of the part; and how long before it notes begin that may still sound.

    Returns
    -------
    (np.ndarray [shape=(k, 4)], np.ndarray [shape=(j, 2)])
        Onset relative to the beginning of the part, end, key, velocity; and the pedal.
    """
    tempo = math.exp(rng.uniform(*hp.clip_tempo))
    start = notes[rng.integers(len(notes)), 0] - rng.uniform(0, seconds) / tempo
    inside = (notes[:, 0] > start - lead / tempo) & (notes[:, 0] < start + seconds / tempo)
    notes, pedal = notes[inside], pedal[(pedal[:, 1] > start - lead / tempo) & (pedal[:, 0] < start + seconds / tempo)]
    if not len(notes):
        return np.zeros((0, 4)), np.zeros((0, 2))
    onset, off, pedal = ((times - start) * tempo for times in (notes[:, 0], notes[:, 1], pedal))
    key, velocity = notes[:, 2].copy(), notes[:, 3] / 127
    most = hp.clip_transposition
    lowest, highest = hp.lowest_key - key.min(), hp.lowest_key + hp.n_keys - 1 - key.max()
    key += rng.integers(max(lowest, -most), min(highest, most) + 1) if highest >= lowest else 0
    bend, loud = math.exp(rng.uniform(*hp.clip_velocity_bend)), rng.uniform(*hp.clip_velocity_mean)
    velocity = velocity ** bend
    velocity = velocity * (loud / velocity.mean())
    velocity = velocity + rng.choice(hp.clip_velocity_jitter) * rng.standard_normal(len(key))
    velocity = (127 * velocity).clip(hp.clip_min_velocity, 127)
    length = (off - onset) * (math.exp(rng.uniform(*hp.clip_length)) if rng.random() < hp.clip_length_share else 1)
    onset = onset + rng.choice(hp.clip_onset_jitter) * rng.standard_normal(len(key))
    off = onset + length.clip(hp.clip_note_s)
    pedal = draw_pedal(pedal, onset, rng, lead)
    return np.stack([onset, with_pedal(off, pedal), key, velocity], 1), pedal


def draw_pedal(pedal, onset, rng, lead):
    """Draw how the sustain pedal is used: not at all, as it is, later or earlier, or changed at some onsets.

    Parameters
    ----------
    pedal : np.ndarray [shape=(m, 2)]
        Times in seconds when the pedal goes down and up.
    onset : np.ndarray [shape=(n,)]
        Onsets in seconds.
    lead : float
        Seconds before time 0 in which notes begin.

    Returns
    -------
    np.ndarray [shape=(k, 2)]
    """
    treatment = rng.random()
    if treatment < hp.clip_no_pedal:
        return pedal[:0]
    if treatment < hp.clip_late_pedal and len(pedal):
        return pedal + rng.uniform(*hp.clip_pedal_lag)
    if hp.clip_new_pedal <= treatment:
        return pedal
    period = rng.uniform(*hp.clip_pedal_period)
    changes = np.cumsum(rng.exponential(period, hp.clip_pedal_changes) + hp.clip_pedal_min_period) - lead
    near = np.searchsorted(np.sort(onset), changes).clip(0, len(onset) - 1)
    down = np.unique(np.sort(onset)[near] + rng.uniform(*hp.clip_pedal_delay))
    pedal = np.stack([down, np.append(down[1:] - rng.uniform(*hp.clip_pedal_lift), down[-1] + 1)], 1)
    return pedal[(pedal[:, 1] > pedal[:, 0] + hp.clip_pedal_s) & (rng.random(len(pedal)) < hp.clip_pedal_kept)]


def draw_exercise(rng, seconds, lead):
    """Draw notes that no piece has: scattered over all keys, or chords that are repeated.

    Parameters
    ----------
    rng : np.random.Generator
    seconds, lead : float
        As in `draw_performance`.

    Returns
    -------
    (np.ndarray [shape=(n, 4)], np.ndarray [shape=(m, 2)])
        Notes and pedal, as `draw_performance` returns them.
    """
    highest = hp.lowest_key + hp.n_keys
    notes, now = [], -lead / 2
    soft = rng.uniform(*hp.drill_velocity)
    centre = rng.uniform(hp.lowest_key + hp.drill_margin, highest - hp.drill_margin)
    scattered = rng.random() < hp.drill_scattered_share
    period = math.exp(rng.uniform(*map(math.log, hp.drill_period)))
    while now < seconds:
        number = rng.choice(hp.drill_chord_sizes)
        if rng.random() < hp.drill_jump_share:
            centre = rng.uniform(hp.lowest_key + hp.drill_jump_margin, highest - hp.drill_jump_margin)
        keys = np.unique(np.rint(rng.normal(centre, hp.drill_key_spread, number)).clip(hp.lowest_key, highest - 1))
        if rng.random() < hp.drill_octave_share:
            keys = np.unique(np.append(keys, keys + 12).clip(hp.lowest_key, highest - 1))
        for _ in range(1 if scattered else rng.integers(*hp.drill_repetitions)):
            hold = (math.exp(rng.uniform(*hp.drill_length)) if scattered
                    else period * rng.uniform(*hp.drill_repeated_length))
            for key in keys:
                onset = now + abs(rng.normal(0, hp.drill_onset_jitter))
                velocity = soft + rng.uniform(*hp.drill_velocity_range) + rng.normal(0, hp.drill_velocity_jitter)
                notes.append((onset, now + hp.drill_hold_s + hold, key, np.clip(velocity, hp.clip_min_velocity, 127)))
            now += period * math.exp(rng.normal(0, hp.drill_period_spread))
        now += rng.uniform(*hp.drill_pause)
    notes = np.array(notes)
    pedal = np.zeros((0, 2))
    if rng.random() < hp.drill_pedal_share:
        down = np.sort(rng.uniform(-lead, seconds, rng.integers(*hp.drill_pedal_spans)))
        pedal = np.stack([down[:-1] + hp.drill_pedal_lift, down[1:]], 1)
        pedal = pedal[pedal[:, 1] > pedal[:, 0] + hp.drill_pedal_lift]
    notes[:, 1] = with_pedal(notes[:, 1], pedal)
    return notes, pedal


class Performances(torch.utils.data.IterableDataset):
    """Stream endless batches of notes.

    A batch is a dict of "notes" [shape=(n, 5)], clip, onset and end in seconds, MIDI key and velocity of each, and
    "pedal" [shape=(m, 3)], clip, and the times in seconds when the pedal goes down and up.

    Parameters
    ----------
    pieces : list of (np.ndarray [shape=(n, 4)], np.ndarray [shape=(m, 2)])
        Notes and pedal of each piece, see `draw_performance`.
    clips : int
        Clips per batch.
    seconds, lead : float
        Length of a clip, and of the time before it in which notes begin that may still sound.
    seed : int
    exercises : float, optional
        Share of clips that are exercises, by default `hp.clip_exercise_share`.
    """

    def __init__(self, pieces, clips, seconds, lead, seed=hp.seed, exercises=None):
        self.pieces, self.clips, self.seconds, self.lead = pieces, clips, seconds, lead
        self.seed, self.exercises = seed, hp.clip_exercise_share if exercises is None else exercises

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            yield self.draw(rng)

    def draw(self, rng):
        """Draw a batch; a key's note ends at the latest when the key is struck again."""
        notes, pedals = [], []
        for clip in range(self.clips):
            if rng.random() < self.exercises:
                played, pedal = draw_exercise(rng, self.seconds, self.lead)
            else:
                played, pedal = draw_performance(*self.pieces[rng.integers(len(self.pieces))], rng, self.seconds,
                                                 self.lead)
            if len(played):
                played[:, 1] = np.minimum(np.maximum(played[:, 1], played[:, 0] + hp.clip_note_s),
                                          next_onsets(played[:, 2], played[:, 0], np.inf))
                played = played[played[:, 1] - played[:, 0] > hp.clip_cut_note_s]
            notes.append(np.insert(played, 0, clip, axis=1))
            pedals.append(np.insert(pedal, 0, clip, axis=1))
        return {name: torch.from_numpy(np.concatenate(part).astype(np.float32))
                for name, part in (("notes", notes), ("pedal", pedals))}
