"""MIDI files -> aligned piano and e-piano wavs (report: data set), with the FluidSynth command line.

`python MIDI2Audio.py` renders data/MIDI into data/piano and data/synth, and data/MIDI_test into data/test.
"""
import argparse
import contextlib
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
import Notes
import Performances
import Util

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
    package = hp.soundfont_packages.get(Path(name).name)
    raise FileNotFoundError(f"SoundFont {name} is neither in {hp.soundfonts.name}/ nor in the system's folders; put it "
                            f"into SoundFonts/ or install {'it' if package else 'one, for instance'}: apt-get install "
                            f"{package or 'fluid-soundfont-gm'}")


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


def trim(midi_path, limit_s=None, bank=0, program=0, detune=0):
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
    limit_s = hp.limit_s if limit_s is None else limit_s
    events = Notes.read_played_messages(midi_path)
    # a note may be held beyond the limit
    length = min(max((time for time, _ in events), default=0) + hp.release_s, limit_s)
    events = [(time, message) for time, message in events if time < limit_s]
    if not any(message.type == "note_on" and message.velocity for _, message in events):
        raise ValueError(f"{midi_path} has no notes in its first {limit_s:g} s (percussion apart); remove it")

    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=Notes.microseconds_per_beat)])
    channels = sorted({message.channel for _, message in events})
    for channel in channels:
        track.append(mido.Message("control_change", channel=channel, control=0, value=bank >> 7))
        track.append(mido.Message("control_change", channel=channel, control=32, value=bank & 127))
        track.append(mido.Message("program_change", channel=channel, program=program))
        if detune:
            track.append(mido.Message("pitchwheel", channel=channel, pitch=round(detune / pitch_wheel_cents * 8191)))
    ticks = 0
    for time, message in events:
        track.append(message.copy(time=round(time * hp.sample_rate) - ticks))
        ticks += track[-1].time
    # FluidSynth renders on until every voice has ended, which a held note of an organ never does
    rest = round(length * hp.sample_rate) - ticks
    for i, channel in enumerate(channels):
        track.append(mido.Message("control_change", channel=channel, control=Notes.all_sound_off,
                                  time=0 if i else rest))
    track.append(mido.MetaMessage("end_of_track"))
    return mido.MidiFile(ticks_per_beat=hp.sample_rate // 2, tracks=[track]), length


def synthesise_midi_to_audio(midi_path, output_path, soundfont, bank=0, program=0, room=False, limit_s=None,
                             detune=0, timbre_rng=None):
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
    timbre_rng : random.Random or None
        If given, draws from it a piano that there is not: see `Performances.render_random_timbre`.

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
        if timbre_rng:
            audio = Performances.render_random_timbre(render, midi, samples, preset, timbre_rng)
        else:
            audio = render(midi, samples, preset)
    except RuntimeError as error:
        raise ValueError(f"FluidSynth could not render {midi_path}: {error}") from None
    loudest = np.abs(audio).max()
    if loudest == 0:
        raise ValueError(f"{midi_path} renders to silence on {Path(soundfont).name}:{bank}:{program}; remove it or "
                         "choose another preset")
    Util.write_audio(output_path, audio * (hp.peak / loudest))


def render(midi, samples, preset, rate=None):
    """Return what FluidSynth makes of a MIDI file at `rate` Hz [shape=(samples,)], both channels' mean.

    `preset` is (path of the SoundFont, bank, program, room or not). Raises as `synthesise_midi_to_audio`, and
    RuntimeError, with what FluidSynth says, if it fails.
    """
    rate = rate or hp.sample_rate
    fluidsynth, (soundfont, bank, program, room) = find_fluidsynth(), preset
    with tempfile.TemporaryDirectory() as folder:
        trimmed, rendered = Path(folder) / "trimmed.mid", Path(folder) / "rendered.wav"
        with Util.atomic_write(trimmed) as temporary:
            midi.save(temporary)
        # the rate is given: FluidSynth's own 44,100 Hz read as 22,050 would be an octave low at half speed
        log = subprocess.run(
            [fluidsynth, "-ni", "-r", str(rate), "-g", str(hp.gain), "-R", str(int(room)), "-C", "0",
             "-o", f"synth.reverb.room-size={hp.fluidsynth_room_size}",
             "-o", f"synth.reverb.level={hp.fluidsynth_room_level}", "-o", "synth.dynamic-sample-loading=1",
             "-o", "synth.midi-bank-select=mma", "-o", f"synth.polyphony={hp.fluidsynth_polyphony}",
             "-T", "wav", "-O", "float", "-F", rendered, soundfont, trimmed],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if "Failed to load SoundFont" in log.stdout or "not a SoundFont" in log.stdout:
            raise ValueError(f"{soundfont} is not a SoundFont that FluidSynth reads; replace it")
        if "Instrument not found" in log.stdout:
            raise ValueError(f"{soundfont} has no preset at bank {bank}, program {program}; choose another")
        # after which FluidSynth ends as if all were well
        full = re.search(r"write error: (?:System error : )?([^.\n]*)", log.stdout)
        if full or log.returncode == -signal.SIGXFSZ:
            raise Util.write_error(rendered, full[1] if full else "the file is too large")
        if log.returncode or not rendered.exists():
            raise RuntimeError(" ".join(log.stdout.split()[-40:]))
        audio = soundfile.read(rendered, dtype="float32", always_2d=True)[0].mean(axis=1)[:samples]
    return np.pad(audio, (0, samples - audio.size))


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
    messages = [message for _, message in Notes.read_messages(midi_path)]
    return not any(message.type == "note_on" and message.channel == Notes.percussion_channel
                   or message.type == "program_change" and message.program > 7
                   and message.channel != Notes.percussion_channel
                   for message in messages)


def save_rendered_midi(midi_folder, audio_folder, output_folder, shard=(0, 1)):
    """Write the part of every MIDI file that has been rendered to `audio_folder`/<piece>.wav to
    `output_folder`/<piece>.mid, whence training has its notes."""
    for name, path in sorted(Util.find_pieces(midi_folder, Notes.midi_endings).items())[shard[0]::shard[1]]:
        output = Path(output_folder) / f"{name}.mid"
        if Path(audio_folder, f"{name}.wav").exists() and not Util.is_up_to_date(output, path):
            with contextlib.suppress(ValueError), Util.atomic_write(output) as temporary:  # the file has changed since
                trim(path)[0].save(temporary)


def synthesise_folder(midi_folder, output_folder, preset, overwrite=False, detune=0, shard=(0, 1), solo_piano=False,
                      variant_presets=(), simulate_recording=False, random_timbre=False):
    """Render every MIDI file below `midi_folder` on one preset, in parallel, to `output_folder`/<piece>.wav.

    Each piece is tuned off by up to `detune` cents, by another, but always the same, amount in each folder. `shard` (i,
    n) does every n-th piece from the i-th on. `solo_piano` skips, with a warning, what asks for other instruments. What
    is there already is kept unless its MIDI file is newer or `overwrite` is set. A MIDI file that cannot be rendered
    does not stop the others. Takes (`Performances.write_variants`) are rendered on one of `variant_presets` each, if
    there are any, and if they are to be `simulate_recording`, `hp.simulated_recording_share` of them go through
    `Augmentation.simulate_recording`; if `random_timbre`, `hp.random_timbre_share` are of pianos that there are not,
    see `Performances.render_random_timbre`.

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
    midi_files = Util.find_pieces(midi_folder, Notes.midi_endings)
    names = sorted(midi_files)[shard[0]::shard[1]]
    note = output_folder / "preset.txt"
    text = (", ".join(dict.fromkeys(map(preset_text, (preset, *variant_presets))))
            + (f", off by up to {detune:g} cents" if detune else "")
            + ", recorded" * simulate_recording + ", voiced" * random_timbre
            + "\n")
    rooms = [*Augmentation.room_responses(), *Augmentation.artificial_responses()] if simulate_recording else []
    # before the note is looked for, which another shard writes first
    others = Util.modification_times(output_folder.glob("*.wav"))
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
    # so that an interruption leaves no mixture; what another shard has rendered since stays
    Util.remove_unchanged(others)
    Util.save_text(note, text)

    def render_one(name):
        output = output_folder / f"{name}.wav"
        try:
            if solo_piano and not is_solo_piano(midi_files.get(name.partition("~")[0], midi_files[name])):
                tqdm.write(f"warning: {midi_files[name]} is not for piano alone; left out", file=sys.stderr)
            elif overwrite or not Util.is_up_to_date(output, midi_files[name]):
                rng = random.Random(f"{output_folder.name} {name}")
                variant, cents = "~" in name, rng.uniform(-detune, detune)
                chosen = rng.choice(variant_presets) if variant and variant_presets else preset
                timbre_rng = rng if variant and random_timbre and rng.random() < hp.random_timbre_share else None
                synthesise_midi_to_audio(midi_files[name], output, *chosen, timbre_rng=timbre_rng,
                                         detune=cents if variant or not variant_presets else 0)
                if variant and simulate_recording and rng.random() < hp.simulated_recording_share:
                    Util.write_audio(output, Augmentation.simulate_recording(
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


def synthesise_all(mode, data=None, presets=None, detune=0, variants=0, simulate_recording=False, random_timbre=False,
                   **how):
    """Render data/MIDI on one side of the pair: `mode` "piano" into data/piano, "synth" into data/synth.

    `presets` are (SoundFont, bank, program), by default `hp.piano_preset` or `hp.synth_preset`. Several pianos for one
    synth go into data/piano, data/piano_2, data/piano_3 and so on, all but the first tuned off by up to `detune` cents.
    What an earlier call has left in more of these folders stays, with a warning. With `variants` of every piece there
    is one folder: the pieces are rendered on the first piano, the takes on one of all of them each, on the piano's side
    as if `simulate_recording` or `random_timbre`, see `synthesise_folder`, or not. The notes of what is rendered are
    kept in data/notes. The rest, and what is raised, is as for `synthesise_folder`; ValueError for another `mode`.
    """
    data = hp.data if data is None else data
    defaults = {"piano": hp.piano_preset, "synth": hp.synth_preset}
    if mode not in defaults:
        raise ValueError(f"mode is 'piano' or 'synth', not '{mode}'")
    presets = presets or [defaults[mode]]
    if variants:
        Performances.write_variants(Path(data) / "MIDI", variants)
        how.update(variant_presets=presets, simulate_recording=simulate_recording and mode == "piano",
                   random_timbre=random_timbre and mode == "piano")
        presets = presets[:1]
    folders = [mode, *(f"{mode}_{number}" for number in range(2, len(presets) + 1))]
    left = [str(Path(data) / name) for name in Util.numbered_folders(data, "piano") if mode == "piano"
            and name not in folders]
    if left:
        tqdm.write(f"warning: there are pianos of an earlier render in {', '.join(left)}; "
                   "remove them or they are trained on too", file=sys.stderr)
    try:
        for folder, preset in zip(folders, presets):
            synthesise_folder(Path(data) / "MIDI", Path(data) / folder, preset,
                              detune=detune if variants or folder != mode else 0, **how)
    finally:  # also where some could not be rendered
        if mode == "piano":
            save_rendered_midi(Path(data) / "MIDI", Path(data) / mode, Path(data) / "notes", how.get("shard", (0, 1)))


def parse_cents(text):
    """Read from the command line by how much to tune off."""
    number = float(text)
    if not 0 <= number <= pitch_wheel_cents:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {pitch_wheel_cents} cents")
    return number


def create_test_set(data=None, piano=None, synth=None, overwrite=False):
    """Render data/MIDI_test on both instruments into data/test/piano and data/test/synth."""
    data = hp.data if data is None else data
    for mode, preset in (("piano", piano or hp.piano_preset), ("synth", synth or hp.synth_preset)):
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
    parser.add_argument("--detune", type=parse_cents, default=0,
                        help="tune all sources but the first off by up to so many cents")
    parser.add_argument("--variants", type=Util.non_negative_int, default=0, metavar="N",
                        help="add N performance variants of every piece, with random timing and dynamics, and an "
                        "exercise, each on one of the sources")
    parser.add_argument("--simulate-recording", action="store_true", help="simulate rooms and microphones for variants")
    parser.add_argument("--random-timbre", action="store_true",
                        help="render most variants with randomised piano timbres, made of the sources")
    for former, present in (("--takes", "variants"), ("--recorded", "simulate_recording"),
                            ("--voiced", "random_timbre")):
        how = dict(type=Util.non_negative_int) if former == "--takes" else dict(action="store_true")
        parser.add_argument(former, dest=present, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **how)
    parser.add_argument("--list", metavar="FILE.sf2", help="list the presets of a SoundFont, and do nothing else")
    parser.add_argument("--shard", type=Util.parse_shard, default=(0, 1), metavar="I/N",
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
    variants = dict(variants=options.variants, simulate_recording=options.simulate_recording,
                    random_timbre=options.random_timbre)
    work = [lambda: synthesise_all("piano", options.data, sources, options.detune, **variants, **how),
            lambda: synthesise_all("synth", options.data, [target], variants=options.variants, **how)]
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
