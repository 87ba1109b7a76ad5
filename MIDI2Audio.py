"""Render MIDI files to aligned wavs of piano and electric piano with FluidSynth (report: data set).

`python MIDI2Audio.py` renders data/MIDI to data/piano and data/synth, and data/MIDI_test to data/test.
"""
import argparse
import contextlib
import os
import random
import shlex
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mido
import numpy as np
from tqdm import tqdm

import Augmentation
import Decoding
import Hyperparameters as hp
import MIDIReader
import Notes
import Performances
import Util
from FluidSynth import find_fluidsynth, preset_messages, render, retune, wheel_cents
from GeneratedFiles import GeneratedFiles, join_names, settings_digest
from Presets import find_soundfont, list_presets, parse_preset, preset_text

last_piano_program = 7  # of General MIDI
render_settings = ("gain", "fluidsynth_", "limit_s", "release_s", "peak", "sample_rate")
recording_settings = ("simulated_recording_share", "recording_", "room_", "artificial_", "response_",
                      "n_room_responses", "n_artificial_responses", "seed")
timbre_settings = ("random_timbre_", "timbre_", "max_resize")


def trim(midi_path, limit_s=None, bank=0, program=0, detune=0):
    """Reduce a MIDI file to what one instrument plays in its first seconds.

    Every channel gets the given preset. Program changes, percussion and system messages of the file are left out.

    Parameters
    ----------
    midi_path : str or Path
    limit_s : float, optional
        Seconds to keep, by default `hp.limit_s`.
    bank, program : int
    detune : float
        Cents to add to the pitch, from -200 to 200. Pitch bends of the file are added to it.

    Returns
    -------
    mido.MidiFile
        One track with one tick per sample of `hp.sample_rate`.
    float
        Length in seconds: up to `hp.release_s` after the last event, at most `limit_s`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a MIDI file, is damaged, or has no notes.
    """
    limit_s = hp.limit_s if limit_s is None else limit_s
    events = Notes.read_played_messages(midi_path)
    # the last note may be longer than the limit
    length = min(max((time for time, _ in events), default=0) + hp.release_s, limit_s)
    events = [(time, message) for time, message in events if time < limit_s]
    if not any(message.type == "note_on" and message.velocity for _, message in events):
        raise ValueError(f"{midi_path} has no notes in its first {limit_s:g} s (percussion excluded); remove it")
    channels = sorted({message.channel for _, message in events})
    if detune:
        events = retune(events, detune)
    # FluidSynth renders until every voice has ended, which a held note of an organ never does
    ends = [mido.Message("control_change", channel=channel, control=Notes.all_sound_off) for channel in channels]
    starts = [message for channel in channels for message in preset_messages(channel, bank, program, detune)]
    ranked = [*((0, 0, message) for message in starts), *((time, 1, message) for time, message in events),
              *((length, 2, message) for message in ends)]
    return Notes.single_track(ranked), length


def synthesise_midi_to_audio(midi_path, output_path, soundfont, bank=0, program=0, room=False, limit_s=None,
                             detune=0, timbre_rng=None):
    """Render the first seconds of a MIDI file on one preset of a SoundFont to a wav.

    Parameters
    ----------
    midi_path, output_path : str or Path
        The MIDI file, and the wav to write: mono, 16 bits, `hp.sample_rate`, with the maximum `hp.peak`.
    soundfont : str or Path
        A file, or the name of one in SoundFonts/ or in the system's folders.
    bank, program : int
        The preset, counted from 0. All channels play it.
    room : bool
        Whether FluidSynth adds reverberation.
    limit_s : float, optional
        Seconds to render, by default `hp.limit_s`. A shorter piece ends `hp.release_s` after its last event.
    detune : float
        Cents to add to the pitch.
    timbre_rng : random.Random, optional
        Draws a random piano timbre from it: see `Performances.render_random_timbre`.

    Raises
    ------
    FileNotFoundError
        If the MIDI file, the SoundFont or FluidSynth is missing.
    ValueError
        If the MIDI file is damaged or has no notes, or if the SoundFont lacks the preset.
    OSError
        If the wav, or a temporary file of FluidSynth, cannot be written.
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


def check_preset(preset):
    """Render one note on a preset. Raises as `synthesise_midi_to_audio` if that is impossible."""
    with tempfile.TemporaryDirectory() as folder:
        track = mido.MidiTrack([mido.Message("note_on", note=60), mido.Message("note_off", note=60, time=480)])
        midi_path = Path(folder) / "note.mid"
        mido.MidiFile(tracks=[track]).save(midi_path)
        synthesise_midi_to_audio(midi_path, Path(folder) / "note.wav", *preset)


def is_solo_piano(midi_path):
    """Return whether a MIDI file has no percussion and no instruments except the pianos of General MIDI.

    Raises as `trim` for a damaged file.
    """
    trim(midi_path)
    messages = [message for _, message in MIDIReader.read_messages(midi_path)]
    return not any(message.type == "note_on" and message.channel == Notes.percussion_channel
                   or message.type == "program_change" and message.program > last_piano_program
                   and message.channel != Notes.percussion_channel
                   for message in messages)


def save_rendered_midi(midi_folder, audio_folder, output_folder, shard=(0, 1), overwrite=False):
    """Write the rendered part of each MIDI file, from which training reads the notes.

    A piece gets `output_folder`/<piece>.mid if `audio_folder`/<piece>.wav exists. MIDI files of the user in
    `output_folder` are kept; generated ones whose piece is gone are removed.
    """
    pieces, folder = Util.find_pieces(midi_folder, Notes.midi_endings), Path(output_folder)
    generated, settings = GeneratedFiles(folder), settings_digest("limit_s", "release_s", "sample_rate")
    generated.adopt(path for path in folder.glob("*.mid") if Notes.is_single_track(path))
    generated.remove_orphans(lambda name: Path(name).stem in pieces)
    for name, path in sorted(pieces.items())[shard[0]::shard[1]]:
        output = folder / f"{name}.mid"
        if not Path(audio_folder, f"{name}.wav").exists() or output.exists() and not generated.is_ours(output):
            continue
        if overwrite or not generated.is_current(output, settings, path):
            with contextlib.suppress(ValueError):  # damaged since it was rendered
                trimmed, _ = trim(path)
                with Util.atomic_write(output) as temporary:
                    trimmed.save(temporary)
                generated.add(output, settings)


class FolderRenderer:
    """Renders the MIDI files of a folder on one preset; `synthesise_folder` explains the parameters."""

    def __init__(self, output_folder, preset, detune=0, variant_presets=(), simulate_recording=False,
                 random_timbre=False):
        self.folder, self.preset, self.detune = Path(output_folder), preset, detune
        self.variant_presets, self.simulate_recording = variant_presets, simulate_recording
        self.random_timbre, self.generated = random_timbre, GeneratedFiles(output_folder)
        self.responses = ([*Augmentation.room_responses(), *Augmentation.artificial_responses()]
                          if simulate_recording else [])

    def description(self):
        """Return the text of preset.txt: the presets, and what is done to the variants."""
        presets = ", ".join(dict.fromkeys(map(preset_text, (self.preset, *self.variant_presets))))
        return (presets + (f", off by up to {self.detune:g} cents" if self.detune else "")
                + ", recorded" * self.simulate_recording + ", voiced" * self.random_timbre)

    def settings(self, name):
        """Return the digest of the settings that the wav of a piece depends on."""
        variant = "~" in name
        return settings_digest(*render_settings, *recording_settings * (variant and self.simulate_recording),
                               *timbre_settings * (variant and self.random_timbre))

    def claim(self, names, overwrite):
        """Prepare the folder for renders of these pieces. Raises ValueError if it holds others: see
        `synthesise_folder`."""
        note, text = self.folder / "preset.txt", self.description()
        # before the note is read, which another shard may write meanwhile
        stored = Util.modification_times(path for path in self.folder.glob("*")
                                         if path.suffix.lower() in Decoding.recording_endings and path.name[0] != ".")
        if stored and not note.exists():
            raise ValueError(f"{self.folder} holds recordings that were not rendered here; move them, or choose "
                             "another --data")
        former = " ".join(Util.read_text(note).split()) if stored else text
        if former != text and not overwrite:
            raise ValueError(f"{self.folder} holds renders of {former}, not of {text}; add --overwrite to replace them")
        if stored:
            self.generated.adopt(path for path in stored if path.stem in names and path.suffix == ".wav")
        if former != text:
            check_preset(self.preset)  # before anything is removed
            # at once, so that an interruption leaves no mixture; what another shard has rendered since stays
            Util.remove_unchanged({path: time for path, time in stored.items() if self.generated.is_ours(path)})
        Util.save_text(note, text + "\n")
        self.generated.remove_orphans(lambda name: Path(name).stem in names)
        self.report(names)

    def report(self, names):
        """Print which recordings have no MIDI file, and how many renders have other settings than now."""
        found = {path.stem: path for path in self.folder.glob("*.wav") if path.name[0] != "."}
        if found.keys() - set(names):
            Util.warn(f"{self.folder} holds recordings without a MIDI file, which are trained on too: "
                      f"{join_names(found.keys() - set(names))}; remove them if they are old renders")
        outdated = [name for name in found if not self.generated.has_settings(found[name], self.settings(name))]
        if outdated:
            tqdm.write(f"{self.folder}: {len(outdated)} wavs were rendered with other settings in Hyperparameters.py "
                       f"and are rendered again: {join_names(outdated)}", file=sys.stderr)

    def render(self, name, midi_path, overwrite):
        """Render a piece, unless its wav is current. Raises ValueError if it cannot be rendered."""
        output, settings = self.folder / f"{name}.wav", self.settings(name)
        if not overwrite and self.generated.is_current(output, settings, midi_path):
            return
        self.generated.check_ours(output)
        rng = random.Random(f"{self.folder.name} {name}")
        variant, cents = "~" in name, rng.uniform(-self.detune, self.detune)
        chosen = rng.choice(self.variant_presets) if variant and self.variant_presets else self.preset
        timbre_rng = rng if variant and self.random_timbre and rng.random() < hp.random_timbre_share else None
        with Util.atomic_write(output) as temporary:
            synthesise_midi_to_audio(midi_path, temporary, *chosen, timbre_rng=timbre_rng,
                                     detune=cents if variant or not self.variant_presets else 0)
            if variant and self.simulate_recording and rng.random() < hp.simulated_recording_share:
                Util.write_audio(temporary, Augmentation.simulate_recording(
                    Util.read_audio(temporary), np.random.default_rng(rng.getrandbits(64)), self.responses))
        self.generated.add(output, settings)


def synthesise_folder(midi_folder, output_folder, preset, overwrite=False, detune=0, shard=(0, 1), solo_piano=False,
                      variant_presets=(), simulate_recording=False, random_timbre=False):
    """Render every MIDI file below a folder on one preset, in parallel, to `output_folder`/<piece>.wav.

    A wav that exists is kept if it is newer than its MIDI file and was rendered with the present settings. A MIDI
    file that cannot be rendered does not stop the others. Renders whose MIDI file is gone are removed; recordings
    that were not rendered here stay.

    Parameters
    ----------
    midi_folder, output_folder : str or Path
    preset : tuple
        As `Presets.parse_preset` returns it.
    overwrite : bool
        Render again what is there, also if it was rendered on another preset.
    detune : float
        Largest detuning in cents. Each piece has its own, which does not change from call to call.
    shard : (int, int)
        (i, n) renders every n-th piece from the i-th on.
    solo_piano : bool
        Skip, with a warning, pieces that ask for other instruments.
    variant_presets : sequence of tuple
        Presets for performance variants (`Performances.write_variants`), one at random for each.
    simulate_recording, random_timbre : bool
        Whether the shares `hp.simulated_recording_share` and `hp.random_timbre_share` of the variants get a
        simulated recording (`Augmentation.simulate_recording`) and a random timbre
        (`Performances.render_random_timbre`).

    Raises
    ------
    FileNotFoundError
        If there are no MIDI files, or the SoundFont or FluidSynth is missing.
    ValueError
        If `output_folder` holds renders of another preset, or recordings that were not rendered here, or, at the
        end, naming the MIDI files that could not be rendered.
    """
    find_fluidsynth(), find_soundfont(preset[0])
    midi_files = Util.find_pieces(midi_folder, Notes.midi_endings)
    names = sorted(midi_files)[shard[0]::shard[1]]
    renderer = FolderRenderer(output_folder, preset, detune, variant_presets, simulate_recording, random_timbre)
    renderer.claim(midi_files, overwrite)

    def render_one(name):
        try:
            if solo_piano and not is_solo_piano(midi_files.get(name.partition("~")[0], midi_files[name])):
                Util.warn(f"{midi_files[name]} is not for piano alone; left out")
            else:
                renderer.render(name, midi_files[name], overwrite)
        except ValueError as error:
            return str(error)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        errors = [error for error in tqdm(pool.map(render_one, names), total=len(names), desc=renderer.folder.name,
                                          unit="piece") if error]
    finally:
        pool.shutdown(cancel_futures=True)
    if errors:
        raise ValueError("; ".join(errors))


def synthesise_all(mode, data=None, presets=None, detune=0, variants=0, simulate_recording=False, random_timbre=False,
                   **how):
    """Render data/MIDI on one side of the pair, "piano" or "synth".

    Several pianos go to data/piano, data/piano_2 and so on. With performance variants there is one folder: pieces are
    rendered on the first piano, each variant on one of all of them. The notes of the renders go to data/notes.

    Parameters
    ----------
    mode : str
        "piano" renders to data/piano, "synth" to data/synth.
    data : Path, optional
        By default `hp.data`.
    presets : list of tuple, optional
        By default `hp.piano_preset` or `hp.synth_preset`.
    detune : float
        Largest detuning in cents, of all pianos except the first, or of all variants.
    variants : int
        Number of performance variants per piece, which are written to data/MIDI first.
    simulate_recording, random_timbre : bool
        As for `synthesise_folder`, on the side of the piano only.
    **how
        Other parameters of `synthesise_folder`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `synthesise_folder`, and ValueError for another `mode`.
    """
    data = Path(hp.data if data is None else data)
    defaults = {"piano": hp.piano_preset, "synth": hp.synth_preset}
    if mode not in defaults:
        raise ValueError(f"mode is 'piano' or 'synth', not '{mode}'")
    presets = presets or [defaults[mode]]
    Performances.remove_orphan_variants(data / "MIDI")
    if variants:
        Performances.write_variants(data / "MIDI", variants)
        how.update(variant_presets=presets, simulate_recording=simulate_recording and mode == "piano",
                   random_timbre=random_timbre and mode == "piano")
        presets = presets[:1]
    folders = [mode, *(f"{mode}_{number}" for number in range(2, len(presets) + 1))]
    if mode == "piano":
        check_other_pianos(data, folders)
    try:
        for folder, preset in zip(folders, presets):
            synthesise_folder(data / "MIDI", data / folder, preset,
                              detune=detune if variants or folder != mode else 0, **how)
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
        pieces = Util.find_pieces(data / "MIDI", Notes.midi_endings)
        for folder in left:
            GeneratedFiles(folder).remove_orphans(lambda name: Path(name).stem in pieces)


def parse_cents(text):
    """Read a detuning in cents from the command line."""
    number = float(text)
    if not 0 <= number <= wheel_cents:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {wheel_cents} cents")
    return number


def create_test_set(data=None, piano=None, synth=None, overwrite=False):
    """Render data/MIDI_test on both instruments to data/test/piano and data/test/synth."""
    data = hp.data if data is None else data
    for mode, preset in (("piano", piano or hp.piano_preset), ("synth", synth or hp.synth_preset)):
        synthesise_folder(Path(data) / "MIDI_test", Path(data) / "test" / mode, preset, overwrite)


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
    parser.add_argument("--variants", type=Util.non_negative_int, default=0, metavar="N",
                        help="number of performance variants per piece, with random timing and dynamics; adds "
                        "one exercise per piece; each is rendered on one of the sources (default: 0)")
    parser.add_argument("--simulate-recording", action="store_true",
                        help="simulate rooms and microphones for most variants")
    parser.add_argument("--random-timbre", action="store_true",
                        help="render most variants with randomised piano timbres")
    for former, present in (("--takes", "variants"), ("--recorded", "simulate_recording"),
                            ("--voiced", "random_timbre")):
        how = dict(type=Util.non_negative_int) if former == "--takes" else dict(action="store_true")
        parser.add_argument(former, dest=present, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **how)
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
        print("next:", shlex.join(Util.training_command(options.data)))


def render_data(options):
    """Render what the command line asks for. Raises ValueError with all errors at the end."""
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
