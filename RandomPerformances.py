"""Notes of training clips: performance variants of parts of pieces, and exercises, drawn anew for each clip."""
import math

import numpy as np
import torch

import Hyperparameters as hp


def next_onsets(onset, key, last=np.inf):
    """Return the onset of the next note of the same key of each note [shape=(n,)], `last` after the final one."""
    order = np.lexsort((onset, key))
    following = np.full(len(onset), last)
    same = key[order][1:] == key[order][:-1]
    following[order[:-1][same]] = onset[order[1:][same]]
    return following


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
    tempo = math.exp(rng.uniform(-0.35, 0.3))
    start = notes[rng.integers(len(notes)), 0] - rng.uniform(0, seconds) / tempo
    inside = (notes[:, 0] > start - lead / tempo) & (notes[:, 0] < start + seconds / tempo)
    notes, pedal = notes[inside], pedal[(pedal[:, 1] > start - lead / tempo) & (pedal[:, 0] < start + seconds / tempo)]
    if not len(notes):
        return np.zeros((0, 4)), np.zeros((0, 2))
    onset, off, pedal = ((times - start) * tempo for times in (notes[:, 0], notes[:, 1], pedal))
    key, velocity = notes[:, 2].copy(), notes[:, 3] / 127
    lowest, highest = hp.lowest_key - key.min(), hp.lowest_key + hp.n_keys - 1 - key.max()
    key += rng.integers(max(lowest, -7), min(highest, 7) + 1) if highest >= lowest else 0
    bend, loud = math.exp(rng.uniform(-0.6, 0.6)), rng.uniform(0.2, 0.85)
    velocity = velocity ** bend
    velocity = velocity * (loud / velocity.mean()) + rng.choice((0, 0.03, 0.06, 0.1)) * rng.standard_normal(len(key))
    velocity = (127 * velocity).clip(4, 127)
    length = (off - onset) * (math.exp(rng.uniform(-0.4, 0.2)) if rng.random() < 0.5 else 1)
    onset = onset + rng.choice((0, 0.005, 0.012, 0.02)) * rng.standard_normal(len(key))
    off = onset + length.clip(0.03)
    treatment = rng.random()
    if treatment < 0.2:
        pedal = pedal[:0]
    elif treatment < 0.45 and len(pedal):
        pedal = pedal + rng.uniform(-0.05, 0.15)
    elif treatment < 0.75:
        changes = np.cumsum(rng.exponential(rng.uniform(0.3, 1.5), 64) + 0.25) - lead
        near = np.searchsorted(np.sort(onset), changes).clip(0, len(onset) - 1)
        down = np.unique(np.sort(onset)[near] + rng.uniform(0.02, 0.15))
        pedal = np.stack([down, np.append(down[1:] - rng.uniform(0.04, 0.15), down[-1] + 1)], 1)
        pedal = pedal[(pedal[:, 1] > pedal[:, 0] + 0.05) & (rng.random(len(pedal)) < 0.9)]
    return np.stack([onset, with_pedal(off, pedal), key, velocity], 1), pedal


def draw_exercise(rng, seconds, lead):
    """Draw notes that no piece has: scattered over all keys, or chords and keys that are repeated; as
    `draw_performance`."""
    notes, now = [], -lead / 2
    soft = rng.uniform(5, 90)
    centre, scattered = rng.uniform(hp.lowest_key + 6, hp.lowest_key + hp.n_keys - 6), rng.random() < 0.5
    period = math.exp(rng.uniform(math.log(0.07), math.log(0.6)))
    while now < seconds:
        number = rng.choice((1, 1, 2, 3, 4, 5))
        if rng.random() < 0.3:
            centre = rng.uniform(hp.lowest_key + 3, hp.lowest_key + hp.n_keys - 3)
        keys = np.unique(np.rint(rng.normal(centre, 9, number)).clip(hp.lowest_key, hp.lowest_key + hp.n_keys - 1))
        if rng.random() < 0.25:
            keys = np.unique(np.append(keys, keys + 12).clip(hp.lowest_key, hp.lowest_key + hp.n_keys - 1))
        for _ in range(1 if scattered else rng.integers(2, 13)):
            hold = period * rng.uniform(0.3, 1) if not scattered else math.exp(rng.uniform(-3, 1.5))
            notes += [(now + abs(rng.normal(0, 0.008)), now + 0.02 + hold, key,
                       np.clip(soft + rng.uniform(0, 37) + rng.normal(0, 8), 4, 127)) for key in keys]
            now += period * math.exp(rng.normal(0, 0.1))
        now += rng.uniform(0, 0.3)
    notes = np.array(notes)
    pedal = np.zeros((0, 2))
    if rng.random() < 0.4:
        down = np.sort(rng.uniform(-lead, seconds, rng.integers(3, 20)))
        pedal = np.stack([down[:-1] + 0.1, down[1:]], 1)
        pedal = pedal[pedal[:, 1] > pedal[:, 0] + 0.1]
    notes[:, 1] = with_pedal(notes[:, 1], pedal)
    return notes, pedal


class Performances(torch.utils.data.IterableDataset):
    """An endless stream of batches of notes: dict of "notes" [shape=(n, 5)], clip, onset, end, key and velocity of each,
    and "pedal" [shape=(m, 3)], clip, down and up.

    Parameters
    ----------
    pieces : list of (np.ndarray [shape=(n, 4)], np.ndarray [shape=(m, 2)])
        See `draw_performance`.
    """

    def __init__(self, pieces, clips, seconds, lead, seed=hp.seed, exercises=0.15):
        self.pieces, self.clips, self.seconds, self.lead = pieces, clips, seconds, lead
        self.seed, self.exercises = seed, exercises

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            yield self.draw(rng)

    def draw(self, rng):
        notes, pedals = [], []
        for clip in range(self.clips):
            if rng.random() < self.exercises:
                played, pedal = draw_exercise(rng, self.seconds, self.lead)
            else:
                played, pedal = draw_performance(*self.pieces[rng.integers(len(self.pieces))], rng, self.seconds,
                                                 self.lead)
            if len(played):
                played[:, 1] = np.minimum(np.maximum(played[:, 1], played[:, 0] + 0.03),
                                          next_onsets(played[:, 0], played[:, 2]))
                played = played[played[:, 1] - played[:, 0] > 0.02]
            notes.append(np.insert(played, 0, clip, axis=1))
            pedals.append(np.insert(pedal, 0, clip, axis=1))
        return {name: torch.from_numpy(np.concatenate(part).astype(np.float32))
                for name, part in (("notes", notes), ("pedal", pedals))}
