"""MIDI files -> aligned piano and e-piano wavs (report: data set), with the FluidSynth command line.

`python MIDI2Audio.py` renders data/MIDI into data/piano and data/synth, and data/MIDI_test into data/test.
"""
import argparse
import contextlib
import math
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mido
import numpy as np
import soundfile
from tqdm import tqdm

import Augmentation
import Hyperparameters as hp
import Util

midi_endings = (".mid", ".midi")
percussion_channel = 9
bank_select = (0, 32)  # controllers that, like program changes, would override the chosen preset
all_sound_off = 120    # controllers
reset_controllers = 121
sustain = 64           # controller
ticks_per_second = hp.sample_rate
pitch_wheel_cents = 200  # the range of the pitch wheel that General MIDI starts with


def find_soundfont(name):
    """Return the path of a SoundFont: `name` itself, or a file of that name in SoundFonts/ or a system folder.

    Raises FileNotFoundError if it is nowhere, ValueError if it is shorter than it says, as after half a download.
    """
    for path in (Path(name), hp.soundfonts / name, *(folder / name for folder in hp.system_soundfonts)):
        if path.is_file():
            with open(path, "rb") as file:
                header, size = file.read(8), path.stat().st_size
            if header[:4] == b"RIFF" and size < 8 + int.from_bytes(header[4:], "little"):
                raise ValueError(f"{path} is cut short, {size} of {8 + int.from_bytes(header[4:], 'little')} bytes; "
                                 "download it again")
            return path
    raise FileNotFoundError(f"SoundFont {name} is neither in {hp.soundfonts.name}/ nor in the system's folders; put it "
                            "into SoundFonts/ or install one, for instance: apt-get install fluid-soundfont-gm")


def find_fluidsynth():
    """Return the path of FluidSynth. Raises FileNotFoundError if it is not on PATH."""
    found = shutil.which("fluidsynth")
    if not found:
        raise FileNotFoundError("fluidsynth is not on PATH; install FluidSynth 2: apt-get install fluidsynth, "
                                "or brew install fluid-synth")
    return found


def list_presets(soundfont):
    """Return the presets of a SoundFont as {(bank, program): name}, in order (SoundFont 2.04, section 7.2).

    Raises FileNotFoundError as `find_soundfont`, and ValueError if it is no SoundFont.
    """
    path = find_soundfont(soundfont)

    def chunks(file, end):
        while file.tell() + 8 <= end:
            name, size = struct.unpack("<4sI", file.read(8))
            start = file.tell()
            yield name, start + size
            file.seek(start + size + size % 2)

    with open(path, "rb") as file, contextlib.suppress(struct.error):  # as of a list that is cut off
        header = file.read(12)
        if header[:4] != b"RIFF" or header[8:] != b"sfbk":
            raise ValueError(f"{path} is not a SoundFont; replace it")
        for name, end in chunks(file, path.stat().st_size):
            if name == b"LIST" and file.read(4) == b"pdta":
                for name, end in chunks(file, end):
                    if name == b"phdr":
                        presets = list(struct.iter_unpack("<20sHH14x", file.read(end - file.tell())))
                        return dict(sorted(((bank, program), text.split(b"\0")[0].decode("latin-1").strip())
                                           for text, program, bank in presets[:-1]))  # the last ends the list
    raise ValueError(f"{path} holds no presets; replace it")


def parse_preset(text):
    """Turn "FILE.sf2:BANK:PROGRAM", or "FILE.sf2:NAME" with the preset's name, into (file, bank, program).

    ":room" at the end makes it (file, bank, program, True). Raises ValueError if it is anything else, and
    FileNotFoundError if there is no such SoundFont to look the name up in.
    """
    if text.endswith(":room"):
        return *parse_preset(text.removesuffix(":room")), True
    file, *numbers = text.rsplit(":", 2)
    if len(numbers) == 2 and file and all(number.isdecimal() for number in numbers):
        bank, program = map(int, numbers)
        if bank <= 16383 and program <= 127:
            return file, bank, program
    elif text.count(":"):
        file, name = text.rsplit(":", 1)
        for (bank, program), found in list_presets(file).items():
            if name and found.lower() == name.lower():
                return file, bank, program
        raise ValueError(f"{file} has no preset called '{name}'; python MIDI2Audio.py --list {file} shows what it has")
    raise ValueError(f"'{text}' is no preset; write FILE.sf2:BANK:PROGRAM, for instance FluidR3_GM.sf2:0:5, or "
                     "FILE.sf2:NAME")


def preset_text(preset):
    """The inverse of `parse_preset`."""
    return ":".join(map(str, preset[:3])) + (":room" if any(preset[3:]) else "")


def trim(midi_path, limit_s=hp.limit_s, bank=0, program=0, detune=0):
    """Reduce a MIDI file to what one instrument plays in its first `limit_s` seconds.

    Every channel gets the given preset, `detune` cents from its pitch (at most 200); the file's own program changes,
    its percussion channel and its system messages are left out. The result has one track and one tick a sample at
    `hp.sample_rate`.

    Returns
    -------
    (mido.MidiFile, float)
        The file, and its length in seconds: at most `limit_s`, with `hp.release_s` after the last event.

    Raises
    ------
    ValueError
        If the file is not MIDI, is damaged, or has no notes.
    """
    try:
        source = mido.MidiFile(midi_path, clip=True)
        if source.ticks_per_beat < 1:
            raise ValueError("its time division is not in ticks a beat")
        events, now = [], 0.0
        for message in source if source.type < 2 else ():
            now += message.time
            events.append((now, message))
    except FileNotFoundError:
        raise FileNotFoundError(f"{midi_path}: no such file; give the path of a MIDI file") from None
    except (EOFError, OSError, ValueError, LookupError, TypeError, OverflowError, mido.KeySignatureError) as error:
        raise ValueError(f"{midi_path} is not a MIDI file, or is damaged ({error or 'it ends too early'}); "
                         "replace or remove it") from None
    if source.type == 2:
        raise ValueError(f"{midi_path} is a MIDI file of type 2 (independent sequences); export it as type 0 or 1")
    events = [(time, message) for time, message in events
              if hasattr(message, "channel") and message.channel != percussion_channel
              and message.type != "program_change"
              and not (message.type == "control_change" and message.control in bank_select)]
    # a note may be held beyond the limit
    length = min(max((time for time, _ in events), default=0) + hp.release_s, limit_s)
    events = [(time, message) for time, message in events if time < limit_s]
    if not any(message.type == "note_on" and message.velocity for _, message in events):
        raise ValueError(f"{midi_path} has no notes in its first {limit_s:g} s (percussion apart); remove it")

    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)])
    channels = sorted({message.channel for _, message in events})
    for channel in channels:
        track.append(mido.Message("control_change", channel=channel, control=0, value=bank >> 7))
        track.append(mido.Message("control_change", channel=channel, control=32, value=bank & 127))
        track.append(mido.Message("program_change", channel=channel, program=program))
        if detune:
            track.append(mido.Message("pitchwheel", channel=channel, pitch=round(detune / pitch_wheel_cents * 8191)))
    ticks = 0
    for time, message in events:
        track.append(message.copy(time=round(time * ticks_per_second) - ticks))
        ticks += track[-1].time
    # FluidSynth renders on until every voice has ended, which a held note of an organ never does
    rest = round(length * ticks_per_second) - ticks
    for i, channel in enumerate(channels):
        track.append(mido.Message("control_change", channel=channel, control=all_sound_off, time=0 if i else rest))
    track.append(mido.MetaMessage("end_of_track"))
    return mido.MidiFile(ticks_per_beat=ticks_per_second // 2, tracks=[track]), length


def synthesise_midi_to_audio(midi_path, output_path, soundfont, bank=0, program=0, room=False, limit_s=hp.limit_s,
                             detune=0, voice=None):
    """Render the first seconds of a MIDI file on one preset of a SoundFont.

    Parameters
    ----------
    midi_path, output_path : str or Path
        The MIDI file, and the wav to write: 16 bits, mono, `hp.sample_rate`, largest sample `hp.peak`.
    soundfont : str or Path
        A file, or the name of one in SoundFonts/ or the system's folders.
    bank, program : int
        The preset, counted from 0; it plays on every channel whatever the file asks for.
    room : bool
        With FluidSynth's reverb, as in a room, or dry.
    limit_s : float
        Seconds to render; a shorter piece ends `hp.release_s` after its last event.
    detune : float
        Cents by which the instrument is tuned off.
    voice : random.Random or None
        If given, draws from it a piano that there is not: see `render_voiced`.

    Raises
    ------
    FileNotFoundError
        If the MIDI file, the SoundFont or FluidSynth is missing.
    ValueError
        If the MIDI file is damaged or has no notes, or the SoundFont lacks the preset.
    OSError
        If the wav, or FluidSynth's in the system's temporary folder, cannot be written.
    """
    preset = find_soundfont(soundfont), bank, program, room
    midi, length = trim(midi_path, limit_s, bank, program, detune)
    samples = round(length * hp.sample_rate)
    try:
        audio = render_voiced(midi, samples, preset, voice) if voice else render(midi, samples, preset)
    except RuntimeError as error:
        raise ValueError(f"FluidSynth could not render {midi_path}: {error}") from None
    loudest = np.abs(audio).max()
    if loudest == 0:
        raise ValueError(f"{midi_path} renders to silence on {Path(soundfont).name}:{bank}:{program}; remove it or "
                         "choose another preset")
    Util.write_audio(output_path, audio * (hp.peak / loudest))


def render(midi, samples, preset, rate=hp.sample_rate):
    """Return what FluidSynth makes of a MIDI file at `rate` Hz [shape=(samples,)], both channels' mean.

    `preset` is (path of the SoundFont, bank, program, room or not). Raises as `synthesise_midi_to_audio`, and
    RuntimeError, with what FluidSynth says, if it fails.
    """
    fluidsynth, (soundfont, bank, program, room) = find_fluidsynth(), preset
    with tempfile.TemporaryDirectory() as folder:
        trimmed, rendered = Path(folder) / "trimmed.mid", Path(folder) / "rendered.wav"
        with Util.replacing(trimmed) as temporary:
            midi.save(temporary)
        # the rate is given: FluidSynth's own 44,100 Hz read as 22,050 would be an octave low at half speed
        log = subprocess.run(
            [fluidsynth, "-ni", "-r", str(rate), "-g", str(hp.gain), "-R", str(int(room)), "-C", "0",
             "-o", "synth.reverb.room-size=0.7", "-o", "synth.reverb.level=0.5", "-o", "synth.dynamic-sample-loading=1",
             "-o", "synth.midi-bank-select=mma", "-o", "synth.polyphony=512",
             "-T", "wav", "-O", "float", "-F", rendered, soundfont, trimmed],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if "Failed to load SoundFont" in log.stdout or "not a SoundFont" in log.stdout:
            raise ValueError(f"{soundfont} is not a SoundFont that FluidSynth reads; replace it")
        if "Instrument not found" in log.stdout:
            raise ValueError(f"{soundfont} has no preset at bank {bank}, program {program}; choose another")
        # after which FluidSynth ends as if all were well
        full = re.search(r"write error: (?:System error : )?([^.\n]*)", log.stdout)
        if full or log.returncode == -signal.SIGXFSZ:
            raise Util.unwritable(rendered, full[1] if full else "the file is too large")
        if log.returncode or not rendered.exists():
            raise RuntimeError(" ".join(log.stdout.split()[-40:]))
        audio = soundfile.read(rendered, dtype="float32", always_2d=True)[0].mean(axis=1)[:samples]
    return np.pad(audio, (0, samples - audio.size))


def render_voiced(midi, samples, preset, rng):
    """As `render`, on a piano that there is not: one of the preset's samples, played up to `hp.most_resized` semitones
    higher or lower and slowed down or sped up until the pitch is right again, so that the strings are of another size;
    and voiced, `Augmentation.voiced`, in groups of a few neighbouring keys. `rng` is a `random.Random`."""
    shift = rng.randint(-hp.most_resized, hp.most_resized)
    first, *messages = midi.tracks[0]  # the tempo, and what is played
    groups = sorted({message.note // hp.voiced_keys for message in messages if message.type == "note_on"})
    channels = sorted({message.channel for message in messages if hasattr(message, "channel")})
    # After each group, for what still sounds. FluidSynth counts in milliseconds and begins notes at every 64th sample:
    # so that the groups begin theirs together.
    pause = hp.sample_rate + -(samples + hp.sample_rate) % (64 * 441)
    track = mido.MidiTrack([first])
    for group in groups:  # one after the other
        rest = 0
        for message in [mido.Message("control_change", channel=channel, control=reset_controllers)
                        for channel in channels] + messages:
            rest += message.time
            if message.type in ("note_on", "note_off"):
                if message.note // hp.voiced_keys != group:
                    continue
                message = message.copy(note=min(max(message.note + shift, 0), 127))
            elif message.type == "end_of_track":
                continue
            track.append(message.copy(time=rest))
            rest = 0
        # to the same place in the next
        track.append(mido.Message("control_change", channel=channels[0], control=all_sound_off, time=rest + pause))
    rate = 2 * round(hp.sample_rate / 2 * 2 ** (shift / 12))
    whole = mido.MidiFile(ticks_per_beat=rate // 2, tracks=[track])
    audio = render(whole, len(groups) * (samples + pause), preset, rate).reshape(len(groups), -1)[:, :samples]
    return Augmentation.voiced(audio, [hp.voiced_keys * (group + 0.5) for group in groups],
                               np.random.default_rng(rng.getrandbits(64)))


def check_preset(preset):
    """Raise as `synthesise_midi_to_audio` if a preset cannot be rendered, by trying a note."""
    with tempfile.TemporaryDirectory() as folder:
        track = mido.MidiTrack([mido.Message("note_on", note=60), mido.Message("note_off", note=60, time=480)])
        midi_path = Path(folder) / "note.mid"
        mido.MidiFile(tracks=[track]).save(midi_path)
        synthesise_midi_to_audio(midi_path, Path(folder) / "note.wav", *preset)


def is_solo_piano(midi_path):
    """True if a MIDI file has no percussion and asks for nothing but General MIDI's pianos, programs 0 to 7.

    Raises ValueError as `trim` for a damaged file.
    """
    trim(midi_path)
    channels = [message for track in mido.MidiFile(midi_path, clip=True).tracks for message in track
                if hasattr(message, "channel")]
    return not any(message.type == "note_on" and message.channel == percussion_channel
                   or message.type == "program_change" and message.program > 7 and message.channel != percussion_channel
                   for message in channels)


def alter(midi_path, rng, limit_s=hp.limit_s):
    """Return a take: half a minute from somewhere in a MIDI file, as another pianist might play it elsewhere.

    From a random onset on; tempo, key, velocities (their mean, spread and unevenness), lengths and the togetherness of
    chords drawn at random; the pedal as it is, late, left out or added. `rng` is a `random.Random`. Returns a
    `mido.MidiFile` of one track and channel, one tick a sample. Raises as `trim`.
    """
    _, length = trim(midi_path, float("inf"))
    notes, pedal = keys_and_pedal(midi_path)
    tempo = math.exp(rng.uniform(-0.25, 0.25))
    span = limit_s * tempo
    start = rng.choice([onset for onset, *_ in notes if onset <= max(length - span, 0)] or [notes[0][0]])
    start = max(start - 0.1, 0)
    notes = [((onset - start) / tempo, (end - start) / tempo, key, velocity) for onset, end, key, velocity in notes
             if start <= onset < start + span]
    down = max([(0, 0), *((time, value) for time, value in pedal if time <= start)])[1]
    pedal = [(0.0, down)] + [((time - start) / tempo, value) for time, value in pedal if start < time < start + span]
    keys = [key for _, _, key, _ in notes]
    shift = rng.choice([shift for shift in range(-5, 6) if min(keys) + shift >= hp.lowest_key
                        and max(keys) + shift < hp.lowest_key + hp.n_keys] or [0])
    bend, mean = math.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0.3, 0.8)
    scale = mean * len(notes) / sum((velocity / 127) ** bend for *_, velocity in notes)
    uneven, apart = rng.choice((0, 0.02, 0.05, 0.09)), rng.choice((0, 0.005, 0.012, 0.02))  # of 127; seconds
    longer = math.exp(rng.uniform(-0.3, 0.15)) if rng.random() < 0.5 else 1
    treatment = rng.random()
    if treatment < 0.15:
        pedal = []
    elif treatment < 0.4:
        late = rng.uniform(-0.05, 0.15)
        pedal = pedal[:1] + [(max(time + late, 0), value) for time, value in pedal[1:]]
    elif treatment < 0.6:
        period, pedal = rng.uniform(0.4, 2.5), [(0.0, 0)]
        for onset, *_ in notes:
            if onset - pedal[-1][0] > period or len(pedal) == 1:
                pedal += [(onset + 0.03, 0), (onset + 0.03 + rng.uniform(0.04, 0.15), 127)]
    events = [(time, 0, mido.Message("control_change", control=sustain, value=value)) for time, value in pedal]
    for onset, end, key, velocity in notes:
        begin = max(onset + apart * rng.gauss(0, 1), 0)
        strength = round(127 * (scale * (velocity / 127) ** bend + uneven * rng.gauss(0, 1)))
        events += [(begin, 2, mido.Message("note_on", note=key + shift, velocity=min(max(strength, 6), 127))),
                   (begin + max((end - onset) * longer, 0.03), 1, mido.Message("note_off", note=key + shift))]
    return one_track(events)


def exercise(rng, limit_s=hp.limit_s):
    """Return half a minute that no piece is: all keys, at all velocities, alone and together, short and held, now and
    then with the pedal. So that the keys that pieces leave alone are learnt too. `rng` is a `random.Random`; returns as
    `alter`."""
    events, now, centre = [], 0.1, rng.uniform(hp.lowest_key, hp.lowest_key + hp.n_keys)
    pause, pedalled = rng.uniform(0.1, 0.6), rng.random() < 0.3
    free = dict.fromkeys(range(hp.lowest_key, hp.lowest_key + hp.n_keys), 0.0)
    while now < limit_s - 0.5:
        if rng.random() < 0.2:
            centre = rng.uniform(hp.lowest_key, hp.lowest_key + hp.n_keys)
        if pedalled and rng.random() < 0.3:
            events += [(now - 0.05, 0, mido.Message("control_change", control=sustain, value=0)),
                       (now + 0.05, 0, mido.Message("control_change", control=sustain, value=127))]
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            key = round(rng.gauss(centre, 9))
            if free.get(key, limit_s) < now:
                length = math.exp(rng.uniform(-3, 2.4))
                free[key] = now + length + 0.02
                struck = now + rng.uniform(0, 0.02)
                events += [(struck, 2, mido.Message("note_on", note=key, velocity=rng.randint(8, 127))),
                           (now + 0.02 + length, 1, mido.Message("note_off", note=key))]
        now += pause * math.exp(rng.gauss(0, 0.6))
    return one_track(events)


def one_track(events):
    """Return a MIDI file of (seconds, rank, message), in the order of time and rank, of one tick a sample."""
    track, ticks = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)]), 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=max(round(time * ticks_per_second) - ticks, 0)))
        ticks += track[-1].time
    return mido.MidiFile(ticks_per_beat=ticks_per_second // 2, tracks=[track])


def keys_and_pedal(midi_path):
    """Return what hands and foot do in a MIDI file that `trim` takes: notes (onset, end, key, velocity), their ends
    those of the keys, none longer than to the next onset of its key, and (time, value) of the sustain pedal."""
    struck, notes, pedal, now = {}, [], [], 0.0
    for message in mido.MidiFile(midi_path, clip=True):
        now += message.time
        if getattr(message, "channel", percussion_channel) == percussion_channel:
            continue
        if message.type in ("note_on", "note_off"):
            if message.note in struck:
                onset, velocity = struck.pop(message.note)
                if now - onset >= 0.005:
                    notes.append((onset, now, message.note, velocity))
            if message.type == "note_on" and message.velocity:
                struck[message.note] = now, message.velocity
        elif message.type == "control_change" and message.control == sustain:
            pedal.append((now, message.value))
    notes += [(onset, now, key, velocity) for key, (onset, velocity) in struck.items()]
    return sorted(notes), pedal


def write_takes(midi_folder, number):
    """Write `number` takes of every piece beside it, <piece>~1.mid and so on, see `alter`, and an `exercise`,
    <piece>~0.mid, always the same. What is there already, and newer than its piece, is kept; a damaged file has none.
    """
    pieces = {name: path for name, path in Util.pieces(midi_folder, midi_endings).items() if "~" not in path.stem}
    for name, path in tqdm(pieces.items(), desc="takes", unit="piece"):
        with contextlib.suppress(ValueError):  # of a damaged file the rendering tells
            for i in reversed(range(number + 1)):
                take, rng = path.with_name(f"{path.stem}~{i}.mid"), random.Random(f"{name} {i}")
                if not Util.newer(take, path):
                    with Util.replacing(take) as temporary:
                        (alter(path, rng) if i else exercise(rng)).save(temporary)


def keep_notes(midi_folder, audio_folder, output_folder, shard=(0, 1)):
    """Write the part of every MIDI file that has been rendered to `audio_folder`/<piece>.wav to
    `output_folder`/<piece>.mid, whence training has its notes."""
    for name, path in sorted(Util.pieces(midi_folder, midi_endings).items())[shard[0]::shard[1]]:
        output = Path(output_folder) / f"{name}.mid"
        if Path(audio_folder, f"{name}.wav").exists() and not Util.newer(output, path):
            with contextlib.suppress(ValueError), Util.replacing(output) as temporary:  # the file has changed since
                trim(path)[0].save(temporary)


def synthesise_folder(midi_folder, output_folder, preset, overwrite=False, detune=0, shard=(0, 1), solo_piano=False,
                      take_presets=(), recorded=False, voiced=False):
    """Render every MIDI file below `midi_folder` on one preset, in parallel, to `output_folder`/<piece>.wav.

    Each piece is tuned off by up to `detune` cents, by another, but always the same, amount in each folder. `shard` (i,
    n) does every n-th piece from the i-th on. `solo_piano` skips, with a warning, what asks for other instruments. What
    is there already is kept unless its MIDI file is newer or `overwrite` is set. A MIDI file that cannot be rendered
    does not stop the others. Takes (`write_takes`) are rendered on one of `take_presets` each, if there are any, and if
    they are to be `recorded`, `hp.recorded_share` of them go through `Augmentation.record`; if `voiced`,
    `hp.voiced_share` are of pianos that there are not, see `render_voiced`.

    Raises
    ------
    FileNotFoundError
        If there are no MIDI files, or the SoundFont or FluidSynth is missing.
    ValueError
        If `output_folder` holds renders of another preset, or recordings that were not rendered, or, once the others
        are done, naming the MIDI files that could not be rendered.
    """
    find_fluidsynth(), find_soundfont(preset[0])
    output_folder = Path(output_folder)
    midi_files = Util.pieces(midi_folder, midi_endings)
    names = sorted(midi_files)[shard[0]::shard[1]]
    note = output_folder / "preset.txt"
    text = (", ".join(dict.fromkeys(map(preset_text, (preset, *take_presets))))
            + (f", off by up to {detune:g} cents" if detune else "") + ", recorded" * recorded + ", voiced" * voiced
            + "\n")
    rooms = [*Augmentation.rooms(), *Augmentation.reverbs()] if recorded else []
    # before the note is looked for, which another shard writes first
    others = Util.modified(output_folder.glob("*.wav"))
    if others and not note.exists():
        raise ValueError(f"{output_folder} holds recordings that were not rendered here; move them, or choose another "
                         "--data")
    former = " ".join(Util.read_text(note).split()) if others else ""
    if others and former == text.strip():
        others = {}
    if others and not overwrite:
        raise ValueError(f"{output_folder} holds renders of {former}, not of {text.strip()}; "
                         "add --overwrite to replace them")
    if others:
        check_preset(preset)  # before anything is lost
    Util.remove(others)  # so that an interruption leaves no mixture; what another shard has rendered since stays
    Util.save_text(note, text)

    def render_one(name):
        output = output_folder / f"{name}.wav"
        try:
            if solo_piano and not is_solo_piano(midi_files.get(name.partition("~")[0], midi_files[name])):
                tqdm.write(f"warning: {midi_files[name]} is not for piano alone; left out", file=sys.stderr)
            elif overwrite or not Util.newer(output, midi_files[name]):
                rng = random.Random(f"{output_folder.name} {name}")
                take, cents = "~" in name, rng.uniform(-detune, detune)
                chosen = rng.choice(take_presets) if take and take_presets else preset
                voice = rng if take and voiced and rng.random() < hp.voiced_share else None
                synthesise_midi_to_audio(midi_files[name], output, *chosen, voice=voice,
                                         detune=cents if take or not take_presets else 0)
                if take and recorded and rng.random() < hp.recorded_share:
                    Util.write_audio(output, Augmentation.record(
                        Util.read_audio(output), np.random.default_rng(rng.getrandbits(64)), rooms))
        except ValueError as error:
            return str(error)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        errors = [error for error in tqdm(pool.map(render_one, names), total=len(names), desc=str(output_folder.name),
                                          unit="piece") if error]
    finally:
        pool.shutdown(cancel_futures=True)
    if errors:
        raise ValueError("; ".join(errors))


def synthesise_all(mode, data=hp.data, presets=None, detune=0, takes=0, recorded=False, voiced=False, **how):
    """Render data/MIDI on one side of the pair: `mode` "piano" into data/piano, "synth" into data/synth.

    `presets` are (SoundFont, bank, program), by default `hp.piano_preset` or `hp.synth_preset`. Several pianos for one
    synth go into data/piano, data/piano_2, data/piano_3 and so on, all but the first tuned off by up to `detune` cents.
    What an earlier call has left in more of these folders stays, with a warning. With `takes` of every piece there is
    one folder: the pieces are rendered on the first piano, the takes on one of all of them each, on the piano's side
    as if `recorded` or `voiced`, see `synthesise_folder`, or not. The notes of what is rendered are kept in data/notes.
    The rest, and what is raised, is as for `synthesise_folder`; ValueError for another `mode`.
    """
    defaults = {"piano": hp.piano_preset, "synth": hp.synth_preset}
    if mode not in defaults:
        raise ValueError(f"mode is 'piano' or 'synth', not '{mode}'")
    presets = presets or [defaults[mode]]
    if takes:
        write_takes(Path(data) / "MIDI", takes)
        how.update(take_presets=presets, recorded=recorded and mode == "piano", voiced=voiced and mode == "piano")
        presets = presets[:1]
    folders = [mode, *(f"{mode}_{number}" for number in range(2, len(presets) + 1))]
    left = [str(Path(data) / name) for name in Util.numbered(data, "piano") if mode == "piano" and name not in folders]
    if left:
        tqdm.write(f"warning: there are pianos of an earlier render in {', '.join(left)}; "
                   "remove them or they are trained on too", file=sys.stderr)
    try:
        for folder, preset in zip(folders, presets):
            synthesise_folder(Path(data) / "MIDI", Path(data) / folder, preset,
                              detune=detune if takes or folder != mode else 0, **how)
    finally:  # also where some could not be rendered
        if mode == "piano":
            keep_notes(Path(data) / "MIDI", Path(data) / mode, Path(data) / "notes", how.get("shard", (0, 1)))


def cents(text):
    """Read from the command line by how much to tune off."""
    number = float(text)
    if not 0 <= number <= pitch_wheel_cents:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {pitch_wheel_cents} cents")
    return number


def create_test_set(data=hp.data, piano=hp.piano_preset, synth=hp.synth_preset, overwrite=False):
    """Render data/MIDI_test on both instruments into data/test/piano and data/test/synth."""
    for mode, preset in (("piano", piano), ("synth", synth)):
        synthesise_folder(Path(data) / "MIDI_test", Path(data) / "test" / mode, preset, overwrite)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Render MIDI files on the piano and on the electric piano.")
    parser.add_argument("--data", type=Path, default=hp.data,
                        help="folder that holds MIDI/ and MIDI_test/ (default: data/)")
    parser.add_argument("--source", nargs="+", default=[preset_text(hp.piano_preset)],
                        metavar="FILE.sf2:BANK:PROGRAM[:room]",
                        help="the instrument to listen to, or several, dry or in a room (default: %(default)s)")
    parser.add_argument("--target", default=preset_text(hp.synth_preset), metavar="FILE.sf2:BANK:PROGRAM",
                        help="the instrument to play (default: %(default)s)")
    parser.add_argument("--detune", type=cents, default=0,
                        help="tune all sources but the first off by up to so many cents")
    parser.add_argument("--takes", type=Util.natural, default=0, metavar="N",
                        help="add N takes of every piece, played differently, and an exercise, on one of the sources")
    parser.add_argument("--recorded", action="store_true", help="takes sound as if recorded in rooms")
    parser.add_argument("--voiced", action="store_true",
                        help="most takes are played on pianos that there are not, made of the sources")
    parser.add_argument("--list", metavar="FILE.sf2", help="list the presets of a SoundFont, and do nothing else")
    parser.add_argument("--shard", type=Util.shard, default=(0, 1), metavar="I/N",
                        help="do every N-th piece from the I-th on, from 0")
    parser.add_argument("--solo-piano", action="store_true",
                        help="skip, with a warning, files that ask for other instruments")
    parser.add_argument("--overwrite", action="store_true", help="render again what is there")
    options = parser.parse_args(arguments)
    if options.list:
        for (bank, program), name in list_presets(options.list).items():
            print(f"{options.list}:{bank}:{program}  {name}")
        return
    sources, target = [parse_preset(text) for text in options.source], parse_preset(options.target)
    how = dict(overwrite=options.overwrite, shard=options.shard, solo_piano=options.solo_piano)
    takes = dict(takes=options.takes, recorded=options.recorded, voiced=options.voiced)
    work = [lambda: synthesise_all("piano", options.data, sources, options.detune, **takes, **how),
            lambda: synthesise_all("synth", options.data, [target], takes=options.takes, **how)]
    if (options.data / "MIDI_test").exists():
        work.append(lambda: create_test_set(options.data, sources[0], target, options.overwrite))
    errors = []
    for step in work:
        try:
            step()
        except ValueError as error:
            if str(error) not in errors:
                errors.append(str(error))
    if errors:
        raise ValueError("; ".join(errors))


if __name__ == "__main__":
    Util.run(main)
