"""What the training data is made of: performance variants of a piece, exercises, randomised piano timbres."""
import contextlib
import math
import random

import mido
import numpy as np
from tqdm import tqdm

import Augmentation
import Hyperparameters as hp
import Notes
import Util


def render_random_timbre(render, midi, samples, preset, rng):
    """As `MIDI2Audio.render`, on a piano that there is not: one of the preset's samples, played up to `hp.max_resize`
    semitones higher or lower and slowed down or sped up until the pitch is right again, so that the strings are of
    another size; and voiced, `Augmentation.random_timbre`, in groups of a few neighbouring keys. `rng` is a
    `random.Random`."""
    shift = rng.randint(-hp.max_resize, hp.max_resize)
    first, *messages = midi.tracks[0]  # the tempo, and what is played
    groups = sorted({message.note // hp.random_timbre_keys for message in messages if message.type == "note_on"})
    channels = sorted({message.channel for message in messages if hasattr(message, "channel")})
    # After each group, for what still sounds. FluidSynth counts in milliseconds and begins notes at every 64th sample:
    # so that the groups begin theirs together.
    pause = hp.sample_rate + -(samples + hp.sample_rate) % (64 * 441)
    track = mido.MidiTrack([first])
    for group in groups:  # one after the other
        rest = 0
        for message in [mido.Message("control_change", channel=channel, control=Notes.reset_controllers)
                        for channel in channels] + messages:
            rest += message.time
            if message.type in ("note_on", "note_off"):
                if message.note // hp.random_timbre_keys != group:
                    continue
                message = message.copy(note=min(max(message.note + shift, 0), 127))
            elif message.type == "end_of_track":
                continue
            track.append(message.copy(time=rest))
            rest = 0
        # to the same place in the next
        track.append(mido.Message("control_change", channel=channels[0], control=Notes.all_sound_off,
                                  time=rest + pause))
    rate = 2 * round(hp.sample_rate / 2 * 2 ** (shift / 12))
    whole = mido.MidiFile(ticks_per_beat=rate // 2, tracks=[track])
    audio = render(whole, len(groups) * (samples + pause), preset, rate).reshape(len(groups), -1)[:, :samples]
    return Augmentation.random_timbre(audio, [hp.random_timbre_keys * (group + 0.5) for group in groups],
                                      np.random.default_rng(rng.getrandbits(64)))


def vary_performance(midi_path, rng, limit_s=None):
    """Return a take: half a minute from somewhere in a MIDI file, as another pianist might play it elsewhere.

    From a random onset on; tempo, key, velocities (their mean, spread and unevenness), lengths and the togetherness of
    chords drawn at random; the pedal as it is, late, left out or added. `rng` is a `random.Random`. Returns a
    `mido.MidiFile` of one track and channel, one tick a sample. Raises as `Notes.read_messages`, and ValueError if it
    has no notes.
    """
    limit_s = hp.limit_s if limit_s is None else limit_s
    notes, pedal = Notes.read_keys_and_pedal(midi_path)
    if not notes:
        raise ValueError(f"{midi_path} has no notes (percussion apart); remove it")
    length = Notes.read_played_messages(midi_path)[-1][0] + hp.release_s
    tempo = math.exp(rng.uniform(*hp.variant_tempo))
    span = limit_s * tempo
    start = rng.choice([onset for onset, *_ in notes if onset <= max(length - span, 0)] or [notes[0][0]])
    start = max(start - 0.1, 0)
    notes = [((onset - start) / tempo, (end - start) / tempo, key, velocity) for onset, end, key, velocity in notes
             if start <= onset < start + span]
    down = max([(0, 0), *((time, value) for time, value in pedal if time <= start)])[1]
    pedal = [(0.0, down)] + [((time - start) / tempo, value) for time, value in pedal if start < time < start + span]
    keys = [key for _, _, key, _ in notes]
    shift = rng.choice([shift for shift in range(hp.variant_transposition[0], hp.variant_transposition[1] + 1)
                        if min(keys) + shift >= hp.lowest_key
                        and max(keys) + shift < hp.lowest_key + hp.n_keys] or [0])
    bend, mean = math.exp(rng.uniform(*hp.variant_velocity_bend)), rng.uniform(*hp.variant_velocity_mean)
    scale = mean * len(notes) / sum((velocity / 127) ** bend for *_, velocity in notes)
    velocity_jitter, onset_jitter = rng.choice(hp.variant_velocity_jitter), rng.choice(hp.variant_onset_jitter)
    longer = math.exp(rng.uniform(*hp.variant_length)) if rng.random() < hp.variant_length_share else 1
    treatment = rng.random()
    if treatment < hp.variant_no_pedal:
        pedal = []
    elif treatment < hp.variant_late_pedal:
        late = rng.uniform(*hp.variant_pedal_lag)
        pedal = pedal[:1] + [(max(time + late, 0), value) for time, value in pedal[1:]]
    elif treatment < hp.variant_new_pedal:
        period, pedal = rng.uniform(*hp.variant_pedal_period), [(0.0, 0)]
        for onset, *_ in notes:
            if onset - pedal[-1][0] > period or len(pedal) == 1:
                pedal += [(onset + 0.03, 0), (onset + 0.03 + rng.uniform(*hp.variant_pedal_lift), 127)]
    events = [(time, 0, mido.Message("control_change", control=Notes.sustain, value=value)) for time, value in pedal]
    for onset, end, key, velocity in notes:
        begin = max(onset + onset_jitter * rng.gauss(0, 1), 0)
        strength = round(127 * (scale * (velocity / 127) ** bend + velocity_jitter * rng.gauss(0, 1)))
        events += [(begin, 2, mido.Message("note_on", note=key + shift,
                                           velocity=min(max(strength, hp.variant_min_velocity), 127))),
                   (begin + max((end - onset) * longer, hp.variant_min_length), 1,
                    mido.Message("note_off", note=key + shift))]
    return Notes.single_track(events)


def random_exercise(rng, limit_s=None):
    """Return half a minute that no piece is: all keys, at all velocities, alone and together, short and held, now and
    then with the pedal. So that the keys that pieces leave alone are learnt too. `rng` is a `random.Random`; returns as
    `vary_performance`."""
    limit_s = hp.limit_s if limit_s is None else limit_s
    events, now, centre = [], 0.1, rng.uniform(hp.lowest_key, hp.lowest_key + hp.n_keys)
    pause, pedalled = rng.uniform(0.1, 0.6), rng.random() < 0.3
    free = dict.fromkeys(range(hp.lowest_key, hp.lowest_key + hp.n_keys), 0.0)
    while now < limit_s - 0.5:
        if rng.random() < 0.2:
            centre = rng.uniform(hp.lowest_key, hp.lowest_key + hp.n_keys)
        if pedalled and rng.random() < 0.3:
            events += [(now - 0.05, 0, mido.Message("control_change", control=Notes.sustain, value=0)),
                       (now + 0.05, 0, mido.Message("control_change", control=Notes.sustain, value=127))]
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            key = round(rng.gauss(centre, 9))
            if free.get(key, limit_s) < now:
                length = math.exp(rng.uniform(-3, 2.4))
                free[key] = now + length + 0.02
                struck = now + rng.uniform(0, 0.02)
                events += [(struck, 2, mido.Message("note_on", note=key, velocity=rng.randint(8, 127))),
                           (now + 0.02 + length, 1, mido.Message("note_off", note=key))]
        now += pause * math.exp(rng.gauss(0, 0.6))
    return Notes.single_track(events)


def write_variants(midi_folder, number):
    """Write `number` takes of every piece beside it, <piece>~1.mid and so on, see `vary_performance`, and an
    `random_exercise`, <piece>~0.mid, always the same. What is there already, and newer than its piece, is kept; a
    damaged file has none.
    """
    pieces = {name: path for name, path in Util.find_pieces(midi_folder, Notes.midi_endings).items()
              if "~" not in path.stem}
    for name, path in tqdm(pieces.items(), desc="variants", unit="piece"):
        with contextlib.suppress(ValueError):  # of a damaged file the rendering tells
            for i in reversed(range(number + 1)):
                variant, rng = path.with_name(f"{path.stem}~{i}.mid"), random.Random(f"{name} {i}")
                if not Util.is_up_to_date(variant, path):
                    with Util.atomic_write(variant) as temporary:
                        (vary_performance(path, rng) if i else random_exercise(rng)).save(temporary)
