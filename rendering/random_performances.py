"""Notes of training clips: performance variants of parts of pieces, and exercises, drawn anew for each clip."""
import math

import numpy as np

import Hyperparameters as hp
from notes.note_events import next_onsets

# a "share" is a probability, a "deviation" a standard one; two numbers are limits between which a value is drawn
exercise_share = 0.15               # of the clips; most others are parts of pieces
silent_share = 0.02                 # of the clips, without notes
min_velocity = 4
shortest_note_s = 0.03
shortest_cut_note_s = 0.02          # that is cut off by the next one of its key

# parts of pieces
log_tempo = (-0.35, 0.3)            # logarithm of the tempo factor
transposition = 7                   # semitones, at most
velocity = dict(log_exponent=(-0.6, 0.6), mean=(0.2, 0.85), deviations=(0, 0.03, 0.06, 0.1))    # of 127
log_length = dict(share=0.5, limits=(-0.4, 0.2))    # logarithm of the factor of note lengths
struck_again = dict(share=0.25, notes=(0.05, 0.4), after_s=(0.08, 0.4), louder=(0.6, 1.3))     # clips; of their notes
onset_deviations = (0, 0.005, 0.012, 0.02)  # seconds, of which one is drawn
no_pedal, shifted_pedal, new_pedal = 0.2, 0.45, 0.75    # cumulative shares
pedal_shift_s = (-0.05, 0.15)
added_pedal = dict(changes=64, period_s=(0.3, 1.5), min_period_s=0.25, delay_s=(0.02, 0.15), lift_s=(0.04, 0.15),
                   shortest_s=0.05, kept=0.9)   # from an onset to pedal down; of pedal up before; share of the spans

# exercises
scattered_share = 0.5               # of the exercises; the others repeat chords
exercise_velocity = dict(softest=(5, 90), range=(0, 37), deviation=8)
period = dict(seconds=(0.07, 0.6), log_deviation=0.1)   # between onsets
chord_sizes = (1, 1, 2, 3, 4, 5)
octave_share = 0.25                 # of the chords
hands = dict(margin=6, deviation=9, jump_share=0.3, jump_margin=3)  # keys: from the ends of the keyboard; of a chord
repeated = dict(times=(2, 13), length=(0.3, 1), pause_s=(0, 0.3))   # chords; length in periods
log_scattered_s = (-3, 1.5)         # logarithm of the length of scattered notes
onset_deviation_s = 0.008           # of the notes of a chord
extra_length_s = 0.02
exercise_pedal = dict(share=0.4, changes=(3, 20), lift_s=0.1)   # that it is up; shortest time that it is down


def with_pedal(off, pedal):
    """Return when notes end whose keys are released at `off` [shape=(n,)]: the pedal holds them. `pedal` [shape=(m,
    2)]: when it goes down and up, in order."""
    if not len(pedal):
        return off
    place = np.searchsorted(pedal[:, 0], off, side="right") - 1
    held = (place >= 0) & (off < pedal[place.clip(0), 1])
    return np.where(held, pedal[place.clip(0), 1], off)


def draw_performance(notes, pedal, rng, seconds, lead):
    """Draw a performance variant of a part of a piece. `notes` [shape=(n, 4)] are onset, release of the key, both in
    seconds, MIDI key and velocity, `pedal` [shape=(m, 2)] when it goes down and up. The part has `seconds`; notes begin
    up to `lead` seconds before it that may still sound. Returns notes [shape=(k, 4)] with onsets and ends relative to
    the beginning of the part, and the pedal."""
    tempo = math.exp(rng.uniform(*log_tempo))
    start = notes[rng.integers(len(notes)), 0] - rng.uniform(0, seconds) / tempo
    inside = (notes[:, 0] > start - lead / tempo) & (notes[:, 0] < start + seconds / tempo)
    notes, pedal = notes[inside], pedal[(pedal[:, 1] > start - lead / tempo) & (pedal[:, 0] < start + seconds / tempo)]
    if not len(notes):
        return np.zeros((0, 4)), np.zeros((0, 2))
    onset, off, pedal = ((times - start) * tempo for times in (notes[:, 0], notes[:, 1], pedal))
    key, loudness = notes[:, 2].copy(), notes[:, 3] / 127
    lowest, highest = hp.lowest_key - key.min(), hp.lowest_key + hp.n_keys - 1 - key.max()
    if highest >= lowest:
        key += rng.integers(max(lowest, -transposition), min(highest, transposition) + 1)
    loudness = loudness ** math.exp(rng.uniform(*velocity["log_exponent"]))
    loudness = loudness * (rng.uniform(*velocity["mean"]) / loudness.mean())
    loudness = loudness + rng.choice(velocity["deviations"]) * rng.standard_normal(len(key))
    loudness = (127 * loudness).clip(min_velocity, 127)
    length = (off - onset) * (
        math.exp(rng.uniform(*log_length["limits"])) if rng.random() < log_length["share"] else 1)
    onset = onset + rng.choice(onset_deviations) * rng.standard_normal(len(key))
    off = onset + length.clip(shortest_note_s)
    pedal = draw_pedal(pedal, onset, rng, lead)
    notes = np.stack([onset, with_pedal(off, pedal), key, loudness], 1)
    return (strike_again(notes, rng) if rng.random() < struck_again["share"] else notes), pedal


def strike_again(notes, rng):
    """Return notes [shape=(n, 4)] with more of them: some keys are struck again while they sound."""
    again = notes[rng.random(len(notes)) < rng.uniform(*struck_again["notes"])]
    again[:, 0] += rng.uniform(*struck_again["after_s"], len(again))
    again[:, 3] = (again[:, 3] * rng.uniform(*struck_again["louder"], len(again))).clip(min_velocity, 127)
    return np.concatenate([notes, again[again[:, 0] < again[:, 1]]])


def draw_pedal(pedal, onset, rng, lead):
    """Draw how the sustain pedal [shape=(m, 2)] is used in a part with onsets [shape=(n,)]: not at all, as it is, later
    or earlier, or changed at some onsets."""
    treatment = rng.random()
    if treatment < no_pedal:
        return pedal[:0]
    if treatment < shifted_pedal and len(pedal):
        return pedal + rng.uniform(*pedal_shift_s)
    if new_pedal <= treatment:
        return pedal
    form = added_pedal
    changes = rng.exponential(rng.uniform(*form["period_s"]), form["changes"]) + form["min_period_s"]
    changes = np.cumsum(changes) - lead
    near = np.searchsorted(np.sort(onset), changes).clip(0, len(onset) - 1)
    down = np.unique(np.sort(onset)[near] + rng.uniform(*form["delay_s"]))
    pedal = np.stack([down, np.append(down[1:] - rng.uniform(*form["lift_s"]), down[-1] + 1)], 1)
    return pedal[(pedal[:, 1] > pedal[:, 0] + form["shortest_s"]) & (rng.random(len(pedal)) < form["kept"])]


def draw_exercise(rng, seconds, lead):
    """Draw notes that no piece has, scattered over all keys, or chords that are repeated; as `draw_performance`."""
    highest = hp.lowest_key + hp.n_keys
    notes, now = [], -lead / 2
    softest = rng.uniform(*exercise_velocity["softest"])
    centre = rng.uniform(hp.lowest_key + hands["margin"], highest - hands["margin"])
    scattered = rng.random() < scattered_share
    seconds_apart = math.exp(rng.uniform(*map(math.log, period["seconds"])))
    while now < seconds:
        number = rng.choice(chord_sizes)
        if rng.random() < hands["jump_share"]:
            centre = rng.uniform(hp.lowest_key + hands["jump_margin"], highest - hands["jump_margin"])
        keys = np.unique(np.rint(rng.normal(centre, hands["deviation"], number)).clip(hp.lowest_key, highest - 1))
        if rng.random() < octave_share:
            keys = np.unique(np.append(keys, keys + 12).clip(hp.lowest_key, highest - 1))
        for _ in range(1 if scattered else rng.integers(*repeated["times"])):
            hold = (math.exp(rng.uniform(*log_scattered_s)) if scattered
                    else seconds_apart * rng.uniform(*repeated["length"]))
            for key in keys:
                onset = now + abs(rng.normal(0, onset_deviation_s))
                loudness = softest + rng.uniform(*exercise_velocity["range"])
                loudness = np.clip(loudness + rng.normal(0, exercise_velocity["deviation"]), min_velocity, 127)
                notes.append((onset, now + extra_length_s + hold, key, loudness))
            now += seconds_apart * math.exp(rng.normal(0, period["log_deviation"]))
        now += rng.uniform(*repeated["pause_s"])
    notes, pedal = np.array(notes), np.zeros((0, 2))
    if rng.random() < exercise_pedal["share"]:
        lift = exercise_pedal["lift_s"]
        down = np.sort(rng.uniform(-lead, seconds, rng.integers(*exercise_pedal["changes"])))
        pedal = np.stack([down[:-1] + lift, down[1:]], 1)
        pedal = pedal[pedal[:, 1] > pedal[:, 0] + lift]
    notes[:, 1] = with_pedal(notes[:, 1], pedal)
    return notes, pedal


def draw_notes(pieces, seconds, rng):
    """Draw what a clip of so many seconds plays: an exercise, a performance variant of a part of a piece, or nothing.
    `pieces` is a list of (notes [shape=(n, 4)], pedal [shape=(m, 2)]) as `clip_sources.read_pieces` returns them.
    Returns notes [shape=(k, 4)] and pedal [shape=(j, 2)], both float32: see `draw_performance`. A key's note ends at
    the latest when the key is struck again."""
    kind = rng.random()
    if kind < exercise_share:
        notes, pedal = draw_exercise(rng, seconds, hp.clip_lead_s)
    elif kind > 1 - silent_share:
        notes, pedal = np.zeros((0, 4)), np.zeros((0, 2))
    else:
        notes, pedal = draw_performance(*pieces[rng.integers(len(pieces))], rng, seconds, hp.clip_lead_s)
    if len(notes):
        notes[:, 1] = np.minimum(np.maximum(notes[:, 1], notes[:, 0] + shortest_note_s),
                                 next_onsets(notes[:, 2], notes[:, 0], np.inf))
        notes = notes[notes[:, 1] - notes[:, 0] > shortest_cut_note_s]
    return notes.astype(np.float32), pedal.astype(np.float32)
