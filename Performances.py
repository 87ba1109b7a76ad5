"""Training data made from MIDI files: performance variants, exercises and randomised piano timbres."""
import contextlib
import math
import random
import re
import sys
from pathlib import Path

import mido
import numpy as np
from tqdm import tqdm

import Augmentation
import Hyperparameters as hp
import Notes
import Util
from GeneratedFiles import GeneratedFiles, settings_digest

variant_settings = ("variant_", "exercise_", "double_strike_s", "limit_s", "release_s", "lowest_key", "n_keys")
fluidsynth_block = 64   # samples; FluidSynth begins notes only at multiples of it


def render_random_timbre(render, midi, samples, preset, rng):
    """Render a MIDI file on a piano with a random timbre.

    The samples of the preset are transposed by up to `hp.max_resize` semitones, and the render is resampled to the
    right pitch, as if the strings had another size. Groups of neighbouring keys then go through random equalisers
    (`Augmentation.random_timbre`).

    Parameters
    ----------
    render : callable
        `FluidSynth.render`.
    midi : mido.MidiFile
        As `MIDI2Audio.trim` returns it.
    samples : int
        Length of the result.
    preset : tuple
        As for `FluidSynth.render`.
    rng : random.Random

    Returns
    -------
    np.ndarray [shape=(samples,), float32]
    """
    shift = rng.randint(-hp.max_resize, hp.max_resize)
    messages = midi.tracks[0][1:]  # without the tempo
    groups = sorted({message.note // hp.random_timbre_keys for message in messages if message.type == "note_on"})
    # silence after each group, so that notes do not overlap and each group begins at a whole millisecond and block
    pause = hp.sample_rate + -(samples + hp.sample_rate) % (fluidsynth_block * hp.sample_rate // 50)
    track = mido.MidiTrack([midi.tracks[0][0], *(message for group in groups
                                                 for message in group_messages(messages, group, shift, pause))])
    rate = 2 * round(hp.sample_rate / 2 * 2 ** (shift / 12))
    whole = mido.MidiFile(ticks_per_beat=rate // 2, tracks=[track])
    audio = render(whole, len(groups) * (samples + pause), preset, rate).reshape(len(groups), -1)[:, :samples]
    return Augmentation.random_timbre(audio, [hp.random_timbre_keys * (group + 0.5) for group in groups],
                                      np.random.default_rng(rng.getrandbits(64)))


def group_messages(messages, group, shift, pause):
    """Return the messages of one group of keys, transposed by `shift` semitones, with `pause` ticks at the end."""
    channels = sorted({message.channel for message in messages if hasattr(message, "channel")})
    resets = [mido.Message("control_change", channel=channel, control=Notes.reset_controllers) for channel in channels]
    kept, rest = [], 0  # rest: ticks of the messages that are left out
    for message in resets + messages:
        rest += message.time
        if message.type in ("note_on", "note_off"):
            if message.note // hp.random_timbre_keys != group:
                continue
            message = message.copy(note=min(max(message.note + shift, 0), 127))
        elif message.type == "end_of_track":
            continue
        kept.append(message.copy(time=rest))
        rest = 0
    return [*kept, mido.Message("control_change", channel=channels[0], control=Notes.all_sound_off, time=rest + pause)]


def vary_performance(midi_path, rng, limit_s=None):
    """Make a performance variant: an excerpt as another pianist might play it.

    The excerpt begins at a random onset. Tempo, key, velocities, note lengths, timing and pedal are changed at
    random, within the ranges `hp.variant_*`.

    Parameters
    ----------
    midi_path : str or Path
    rng : random.Random
    limit_s : float, optional
        Seconds, by default `hp.limit_s`.

    Returns
    -------
    mido.MidiFile
        One track and channel, one tick per sample.

    Raises
    ------
    FileNotFoundError, ValueError
        As `MIDIReader.read_messages`, and ValueError if the file has no notes.
    """
    limit_s = hp.limit_s if limit_s is None else limit_s
    notes, pedal = Notes.read_keys_and_pedal(midi_path)
    if not notes:
        raise ValueError(f"{midi_path} has no notes (percussion excluded); remove it")
    length = Notes.read_played_messages(midi_path)[-1][0] + hp.release_s
    notes, pedal, tempo = random_excerpt(notes, pedal, length, limit_s, rng)
    keys = [key for _, _, key, _ in notes]
    shift = rng.choice([shift for shift in range(hp.variant_transposition[0], hp.variant_transposition[1] + 1)
                        if min(keys) + shift >= hp.lowest_key
                        and max(keys) + shift < hp.lowest_key + hp.n_keys] or [0])
    bend, mean = math.exp(rng.uniform(*hp.variant_velocity_bend)), rng.uniform(*hp.variant_velocity_mean)
    scale = mean * len(notes) / sum((velocity / 127) ** bend for *_, velocity in notes)
    velocity_jitter, onset_jitter = rng.choice(hp.variant_velocity_jitter), rng.choice(hp.variant_onset_jitter)
    longer = math.exp(rng.uniform(*hp.variant_length)) if rng.random() < hp.variant_length_share else 1
    pedal = vary_pedal(pedal, notes, rng)
    events = [(time, 0, mido.Message("control_change", control=Notes.sustain, value=value)) for time, value in pedal]
    for onset, end, key, velocity in notes:
        begin = max(onset + onset_jitter * rng.gauss(0, 1), 0)
        strength = round(127 * (scale * (velocity / 127) ** bend + velocity_jitter * rng.gauss(0, 1)))
        events += [(begin, 2, mido.Message("note_on", note=key + shift,
                                           velocity=min(max(strength, hp.variant_min_velocity), 127))),
                   (begin + max((end - onset) * longer, hp.variant_min_length), 1,
                    mido.Message("note_off", note=key + shift))]
    return Notes.single_track(events)


def random_excerpt(notes, pedal, length, limit_s, rng):
    """Take an excerpt of a performance at a random tempo.

    Parameters
    ----------
    notes, pedal
        As `Notes.read_keys_and_pedal` returns them.
    length, limit_s : float
        Length of the performance, and of the excerpt at the new tempo, in seconds.
    rng : random.Random

    Returns
    -------
    notes, pedal
        In seconds from the start of the excerpt, which is 0.1 s before its first onset.
    tempo : float
    """
    tempo = math.exp(rng.uniform(*hp.variant_tempo))
    span = limit_s * tempo
    start = rng.choice([onset for onset, *_ in notes if onset <= max(length - span, 0)] or [notes[0][0]])
    start = max(start - hp.variant_lead_s, 0)
    notes = [((onset - start) / tempo, (end - start) / tempo, key, velocity) for onset, end, key, velocity in notes
             if start <= onset < start + span]
    down = max([(0, 0), *((time, value) for time, value in pedal if time <= start)])[1]
    pedal = [(0.0, down)] + [((time - start) / tempo, value) for time, value in pedal if start < time < start + span]
    return notes, pedal, tempo


def vary_pedal(pedal, notes, rng):
    """Return the pedal, a list of (seconds, value), as it is, left out, late, or replaced by one that follows the
    notes."""
    treatment = rng.random()
    if treatment < hp.variant_no_pedal:
        return []
    if treatment < hp.variant_late_pedal:
        late = rng.uniform(*hp.variant_pedal_lag)
        return pedal[:1] + [(max(time + late, 0), value) for time, value in pedal[1:]]
    if treatment < hp.variant_new_pedal:
        period, pedal = rng.uniform(*hp.variant_pedal_period), [(0.0, 0)]
        for onset, *_ in notes:
            if onset - pedal[-1][0] > period or len(pedal) == 1:
                up = onset + hp.variant_pedal_delay
                pedal += [(up, 0), (up + rng.uniform(*hp.variant_pedal_lift), 127)]
    return pedal


def random_exercise(rng, limit_s=None):
    """Make an exercise: random notes and chords on all keys, at all velocities, in part with the pedal.

    It teaches the networks keys that pieces seldom use. The ranges are `hp.exercise_*`.

    Parameters
    ----------
    rng : random.Random
    limit_s : float, optional
        Seconds, by default `hp.limit_s`.

    Returns
    -------
    mido.MidiFile
        As of `vary_performance`.
    """
    limit_s = hp.limit_s if limit_s is None else limit_s
    events, now, centre = [], hp.exercise_start_s, rng.uniform(hp.lowest_key, hp.lowest_key + hp.n_keys)
    pause, pedalled = rng.uniform(*hp.exercise_pause), rng.random() < hp.exercise_pedal_share
    free = dict.fromkeys(range(hp.lowest_key, hp.lowest_key + hp.n_keys), 0.0)  # when each key is up again
    while now < limit_s - hp.exercise_end_s:
        if rng.random() < hp.exercise_jump_share:
            centre = rng.uniform(hp.lowest_key, hp.lowest_key + hp.n_keys)
        if pedalled and rng.random() < hp.exercise_pedal_change_share:
            events += [(now - hp.exercise_pedal_s, 0, mido.Message("control_change", control=Notes.sustain, value=0)),
                       (now + hp.exercise_pedal_s, 0, mido.Message("control_change", control=Notes.sustain, value=127))]
        for _ in range(rng.choice(hp.exercise_chord_sizes)):
            key = round(rng.gauss(centre, hp.exercise_key_spread))
            if free.get(key, limit_s) < now:
                length = math.exp(rng.uniform(*hp.exercise_length))
                free[key] = now + length + hp.exercise_spread_s
                struck = now + rng.uniform(0, hp.exercise_spread_s)
                events += [(struck, 2, mido.Message("note_on", note=key, velocity=rng.randint(*hp.exercise_velocity))),
                           (now + hp.exercise_spread_s + length, 1, mido.Message("note_off", note=key))]
        now += pause * math.exp(rng.gauss(0, hp.exercise_pause_spread))
    return Notes.single_track(events)


def variant_files(midi_folder):
    """Return the list of generated variants of a folder, with those from before there was a list."""
    folder = Path(midi_folder)
    generated = GeneratedFiles(folder)
    generated.adopt(path for path in folder.rglob("*.mid") if re.search(r"~\d+$", path.stem)
                    and Notes.is_single_track(path))
    return generated


def remove_orphan_variants(midi_folder):
    """Remove the generated variants of pieces that are gone, and say so."""
    def is_wanted(name):
        piece = Path(midi_folder, name).with_name(Path(name).stem.partition("~")[0])
        return any(path.stem == piece.name and path.suffix.lower() in Notes.midi_endings
                   for path in piece.parent.glob("*"))

    variant_files(midi_folder).remove_orphans(is_wanted)


def write_variants(midi_folder, number):
    """Write performance variants and an exercise beside each piece, <piece>~1.mid and so on and <piece>~0.mid.

    They are the same in each call. What exists is kept if it is newer than its piece and was made with the present
    settings. A file of that name that was not generated here is kept, with a warning.

    Parameters
    ----------
    midi_folder : str or Path
    number : int
        Variants per piece (`vary_performance`).
    """
    pieces = {name: path for name, path in Util.find_pieces(midi_folder, Notes.midi_endings).items()
              if "~" not in path.stem}
    generated, settings = variant_files(midi_folder), settings_digest(*variant_settings)
    for name, path in tqdm(pieces.items(), desc="variants", unit="piece"):
        with contextlib.suppress(ValueError):  # the rendering reports a damaged file
            for i in reversed(range(number + 1)):
                variant, rng = path.with_name(f"{path.stem}~{i}.mid"), random.Random(f"{name} {i}")
                if variant.exists() and not generated.is_ours(variant):
                    tqdm.write(f"warning: {variant} was not generated here, or was changed since; it is kept",
                               file=sys.stderr)
                elif not generated.is_current(variant, settings, path):
                    with Util.atomic_write(variant) as temporary:
                        (vary_performance(path, rng) if i else random_exercise(rng)).save(temporary)
                    generated.add(variant, settings)
