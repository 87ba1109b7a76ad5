"""Render MIDI files to aligned wavs of piano and electric piano with FluidSynth (report: data set).

`python MIDI2Audio.py` renders data/MIDI to data/piano and data/synth, and data/MIDI_test to data/test.
"""
import argparse
import contextlib
import os
import shlex
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util
from audio import audio_files
from notes import midi_reader, note_events
from rendering.fluidsynth import find_fluidsynth, play_on_preset, render, wheel_cents
from rendering.generated_files import GeneratedFiles
from rendering.rendered_folder import RenderedFolder, excerpt_settings
from rendering.soundfonts import find_soundfont, list_presets, parse_preset, preset_text

last_piano_program = 7  # of General MIDI


def trim(midi_path, limit_s=None, bank=0, program=0, detune=0):
    """Reduce a MIDI file to what one instrument plays in its first `limit_s` seconds, by default `hp.limit_s`.

    Every channel gets the given preset, and `detune` cents, from -200 to 200, in addition to its pitch bends. Program
    changes, percussion and system messages are left out. Returns a `mido.MidiFile` with one tick per sample, and its
    length in seconds: up to `hp.release_s` after the last event, at most `limit_s`. Raises FileNotFoundError if the
    file is missing, and ValueError if it is damaged or has no notes.
    """
    limit_s = hp.limit_s if limit_s is None else limit_s
    events = note_events.read_played_messages(midi_path)
    # the last note may be longer than the limit
    length = min(max((time for time, _ in events), default=0) + hp.release_s, limit_s)
    events = [(time, message) for time, message in events if time < limit_s]
    if not any(message.type == "note_on" and message.velocity for _, message in events):
        raise ValueError(f"{midi_path} has no notes in its first {limit_s:g} s (percussion excluded); remove it")
    return play_on_preset(events, length, bank, program, detune), length


def synthesise_midi_to_audio(midi_path, output_path, soundfont, bank=0, program=0, room=False, limit_s=None,
                             detune=0):
    """Render the first seconds of a MIDI file on one preset of a SoundFont to a wav.

    The wav is mono, with 16 bits, `hp.sample_rate` and the maximum `hp.peak`. `soundfont` is a file, or the name of one
    in SoundFonts/ or in the system's folders. Bank and program are counted from 0. With `room`, FluidSynth adds
    reverberation. `limit_s` and `detune` are as for `trim`.

    Raises FileNotFoundError if the MIDI file, the SoundFont or FluidSynth is missing, ValueError if the MIDI file is
    damaged or has no notes, or if the SoundFont lacks the preset, and OSError if a file cannot be written.
    """
    preset = find_soundfont(soundfont), bank, program, room
    midi, length = trim(midi_path, limit_s, bank, program, detune)
    audio = render(midi, round(length * hp.sample_rate), preset, midi_path)
    loudest = np.abs(audio).max()
    if loudest == 0:
        raise ValueError(f"{midi_path} renders to silence on {Path(soundfont).name}:{bank}:{program}; remove it or "
                         "choose another preset")
    audio_files.write_audio(output_path, audio * (hp.peak / loudest))


def check_preset(preset):
    """Render one note on a preset. Raises as `synthesise_midi_to_audio` if that is impossible."""
    with tempfile.TemporaryDirectory() as folder:
        midi_path = Path(folder) / "note.mid"
        note_events.save_notes(midi_path, [(0, 0.5, 60, 64)])
        synthesise_midi_to_audio(midi_path, Path(folder) / "note.wav", *preset)


def is_solo_piano(midi_path):
    """Return whether a MIDI file has no percussion and no instruments except pianos. Raises as `trim` if damaged."""
    trim(midi_path)
    messages = [message for _, message in midi_reader.read_messages(midi_path)]
    return not any(message.type == "note_on" and message.channel == note_events.percussion_channel
                   or message.type == "program_change" and message.program > last_piano_program
                   and message.channel != note_events.percussion_channel
                   for message in messages)


def synthesise_folder(midi_folder, output_folder, preset, overwrite=False, detune=0, shard=(0, 1), solo_piano=False):
    """Render every MIDI file below a folder on one preset, in parallel, to `output_folder`/<piece>.wav.

    `preset` is as `soundfonts.parse_preset` returns it. A wav that exists is kept if it is newer than its MIDI file and
    was rendered with the present settings. With `overwrite` all are rendered again, also those of another preset.
    Renders whose MIDI file is gone are removed; recordings that were not rendered here stay. Each piece is detuned by
    up to `detune` cents, always the same. The shard (i, n) renders every n-th piece from the i-th on. `solo_piano`
    leaves out, with a warning, pieces that ask for other instruments.

    Raises FileNotFoundError if there are no MIDI files, or the SoundFont or FluidSynth is missing, and ValueError as
    `RenderedFolder.claim`, or, after all others are rendered, with the MIDI files that could not be rendered.
    """
    find_fluidsynth()
    find_soundfont(preset[0])
    midi_files = Util.find_pieces(midi_folder, note_events.midi_endings)
    names = sorted(midi_files)[shard[0]::shard[1]]
    folder = RenderedFolder(output_folder, preset, detune)
    folder.claim(midi_files, overwrite, check_preset)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        rendered = pool.map(lambda name: render_piece(midi_files[name], name, folder, overwrite, solo_piano), names)
        errors = [error for error in tqdm(rendered, total=len(names), desc=folder.folder.name, unit="piece") if error]
    finally:
        pool.shutdown(cancel_futures=True)
    if errors:
        raise ValueError("; ".join(errors))


def render_piece(midi_path, name, folder, overwrite, solo_piano):
    """Render a piece to a `RenderedFolder`, unless its wav is current. Returns an error as text."""
    try:
        output, settings = folder.folder / f"{name}.wav", folder.settings()
        if solo_piano and not is_solo_piano(midi_path):
            Util.warn(f"{midi_path} is not for piano alone; left out")
        elif overwrite or not folder.is_current(output, settings, midi_path):
            with folder.write(output, settings) as temporary:
                synthesise_midi_to_audio(midi_path, temporary, *folder.preset, detune=folder.cents(name))
    except ValueError as error:
        return str(error)


def save_rendered_midi(midi_folder, audio_folder, output_folder, shard=(0, 1), overwrite=False):
    """Write the rendered part of each MIDI file to `output_folder`, from which training reads the notes, of pieces that
    have a wav in `audio_folder`. MIDI files of the user there are kept; generated ones whose piece is gone are removed.
    """
    pieces, folder = Util.find_pieces(midi_folder, note_events.midi_endings), GeneratedFiles(output_folder)
    folder.remove_orphans(pieces)
    for name in sorted(pieces)[shard[0]::shard[1]]:
        output, settings = folder.folder / f"{name}.mid", excerpt_settings()
        if not Path(audio_folder, f"{name}.wav").exists() or output.exists() and not folder.is_ours(output):
            continue
        if overwrite or not folder.is_current(output, settings, pieces[name]):
            with contextlib.suppress(ValueError):  # damaged since it was rendered
                trimmed, _ = trim(pieces[name])
                with folder.write(output, settings) as temporary:
                    trimmed.save(temporary)


def synthesise_all(mode, data, presets=None, detune=0, **how):
    """Render data/MIDI on one side of the pair, "piano" or "synth", by default on the preset in Hyperparameters.py.
    Several pianos go to data/piano, data/piano_2 and so on, and the notes of the renders to data/notes. `detune` is for
    all pianos except the first; `how` are other parameters of `synthesise_folder`, whose errors this raises."""
    defaults = {"piano": hp.piano_preset, "synth": hp.synth_preset}
    if mode not in defaults:
        raise ValueError(f"mode is 'piano' or 'synth', not '{mode}'")
    data, presets = Path(data), presets or [defaults[mode]]
    folders = [mode, *(f"{mode}_{number}" for number in range(2, len(presets) + 1))]
    if mode == "piano":
        check_other_pianos(data, folders)
    try:
        for folder, preset in zip(folders, presets):
            synthesise_folder(data / "MIDI", data / folder, preset, detune=detune if folder != mode else 0, **how)
    finally:  # also if some pieces could not be rendered
        if mode == "piano":
            save_rendered_midi(data / "MIDI", data / mode, data / "notes", how.get("shard", (0, 1)),
                               how.get("overwrite", False))


def check_other_pianos(data, folders):
    """Warn of pianos that an earlier call has rendered, and remove their renders of pieces that are gone."""
    left = [data / name for name in Util.numbered_folders(data, "piano") if name not in folders]
    if left:
        Util.warn(f"there are pianos of an earlier render in {', '.join(map(str, left))}; remove them or they are "
                  "trained on too")
        pieces = Util.find_pieces(data / "MIDI", note_events.midi_endings)
        for folder in left:
            GeneratedFiles(folder).remove_orphans(pieces)


def create_test_set(data=None, piano=None, synth=None, overwrite=False):
    """Render data/MIDI_test on both instruments to data/test/piano and data/test/synth."""
    data = Path(data or hp.data)
    for mode, preset in (("piano", piano or hp.piano_preset), ("synth", synth or hp.synth_preset)):
        synthesise_folder(data / "MIDI_test", data / "test" / mode, preset, overwrite)


def render_data(options):
    """Render what the command line asks for. Raises ValueError with all errors at the end."""
    sources, target = [parse_preset(text) for text in options.source], parse_preset(options.target)
    how = dict(overwrite=options.overwrite, shard=options.shard, solo_piano=options.solo_piano)
    work = [lambda: synthesise_all("piano", options.data, sources, options.detune, **how),
            lambda: synthesise_all("synth", options.data, [target], **how)]
    if (options.data / "MIDI_test").exists():
        work.append(lambda: create_test_set(options.data, sources[0], target, options.overwrite))
    errors = []
    for step in work:
        try:
            step()
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(dict.fromkeys(errors)))


def parse_cents(text):
    """Read a detuning in cents from the command line."""
    number = float(text)
    if not 0 <= number <= wheel_cents:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {wheel_cents} cents")
    return number


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Render MIDI files on the source and target instruments.")
    parser.add_argument("--data", type=Path, default=hp.data,
                        help="folder with MIDI/ and MIDI_test/ (default: data/)")
    parser.add_argument("--source", nargs="+", default=[preset_text(hp.piano_preset)],
                        metavar="FILE.sf2:BANK:PROGRAM[:room]",
                        help="source instrument, or several, with :room for reverberation (default: %(default)s)")
    parser.add_argument("--target", default=preset_text(hp.synth_preset), metavar="FILE.sf2:BANK:PROGRAM",
                        help="target instrument (default: %(default)s)")
    parser.add_argument("--detune", type=parse_cents, default=0,
                        metavar="CENTS", help="largest random detuning of all sources except the first (default: 0)")
    parser.add_argument("--list", metavar="FILE.sf2", help="list the presets of a SoundFont and exit")
    parser.add_argument("--shard", type=Util.parse_shard, default=(0, 1), metavar="I/N",
                        help="render every N-th piece from the I-th on, counted from 0")
    parser.add_argument("--solo-piano", action="store_true",
                        help="skip MIDI files that ask for other instruments, with a warning")
    parser.add_argument("--overwrite", action="store_true",
                        help="render existing files again, also those of other instruments")
    options = parser.parse_args(arguments)
    if options.list:
        for (bank, program), name in list_presets(options.list).items():
            print(f"{options.list}:{bank}:{program}  {name}")
        return
    render_data(options)
    if options.shard == (0, 1):  # else other shards may not be ready
        print("next:", shlex.join(training_command(options.data)))


def training_command(data):
    """Return the words of the command that trains an autoencoder on a data folder, as a model that is not there yet."""
    names = ("own", *(f"own_{number}" for number in range(2, 10_000)))
    model = next(name for name in names if not list((data / "models" / name).glob("ae.*")))
    return ["python", "AEMain.py", *(["--data", str(data)] if data != hp.data else []),
            *(["--model", model] if model != "own" else [])]


if __name__ == "__main__":
    Util.run(main)
