"""The options of `Main.py`, and what it writes and says."""
import argparse
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np

import Hyperparameters as hp
import Util
from audio import audio_files, concert_pitch, loudness
from notes import note_events, studio_voice
from outputs import marks, plots, result_page
from rendering import soundfonts

sample_rates = (22050, 32000, 44100, 48000, 88200, 96000)  # Hz, of --play and --studio
mp3_max_rate = 48000    # Hz

# what is written: audio [shape=(n,) or (n, 2)] at `hp.sample_rate`, the notes that were played, what the page compares,
# tuning relative to A 440, a function that draws the picture, and what is said of it
Result = namedtuple("Result", "audio notes versions factor picture remark")


def make_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Convert piano recordings to an electric piano. Write an audio file, <name>_epiano.wav, and a "
        "picture of the spectrograms, <name>_epiano.png, per recording. A model of another instrument gives other "
        "names, such as <name>_vibraphone.wav.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", default=[hp.demo],
                        help="audio or video file, or folder of them; or a MIDI file, which is played without a "
                        "recording (default: the demo recording)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT",
                        help="output file, .wav, .flac, .ogg, .mp3 or .m4a, or output folder (default: "
                        "<name>_epiano.wav in the working folder)")
    parser.add_argument("--overwrite", action="store_true",
                        help="also replace files that Main.py did not write, files that were edited since, and outputs "
                        "of other recordings")
    parser.add_argument("--page", action="store_true",
                        help="also write <name>_epiano.html, a page for listening that needs no network")
    parser.add_argument("--compare", metavar="MODEL",
                        help="with --page: also show the result of another model on the page, such as 'report'")
    parser.add_argument("--stereo", action="store_true", help="keep the two channels of a stereo recording")
    parser.add_argument("--tune", type=float, metavar="HZ",
                        help="tuning of the output: frequency in Hz of the A above middle C, such as 440 (default: "
                        "tuning of the recording)")
    parser.add_argument("--level", choices=loudness.levels, default=loudness.levels[0],
                        help="level of the output: that of the recording, or a peak just below full scale (default: "
                        "%(default)s)")
    parser.add_argument("--midi", action="store_true", help="also write the notes, <name>_epiano.mid")
    parser.add_argument("--notes", type=Path, metavar="FILE.mid",
                        help="MIDI file with the notes to play instead of the transcribed ones, such as a corrected "
                        "file of --midi")
    parser.add_argument("--studio", action="store_true",
                        help="also play the notes in studio quality, 44,100 Hz in stereo, <name>_epiano_studio.wav")
    parser.add_argument("--play", metavar="FILE.sf2:BANK:PROGRAM",
                        help="also render the notes on a preset of a SoundFont with FluidSynth, in stereo, "
                        "<name>_epiano_played.wav")
    parser.add_argument("--sample-rate", type=int, choices=sample_rates, metavar="HZ",
                        help=f"sample rate of --play and --studio: {', '.join(map(str, sample_rates))} Hz (default: "
                        "44100)")
    add_model_options(parser)
    return parser


def add_model_options(parser):
    """Add the options of the networks and the inversion to a parser."""
    parser.add_argument("--model",
                        help="name of a model in data/models, such as 'report' for the 2020 report's networks, or "
                        f"'shipped' (default: 'own' if trained on at least {hp.few_pieces} pieces, else 'shipped')")
    parser.add_argument("--ae", type=Path, metavar="FILE",
                        help="weights of the autoencoder, instead of those of the model")
    parser.add_argument("--unet", type=Path, metavar="FILE",
                        help="weights of the U-Net, instead of those of the model")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first that is available)")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion,
                        help="method from spectrogram to audio; 'report' is the slower method of the 2020 report "
                        "(default: %(default)s)")


def check_options(options):
    """Raise ValueError if options do not fit together, before any work."""
    if options.stereo and options.inversion == "report":
        raise ValueError("--inversion report has no stereo; leave out --inversion or --stereo")
    concert_pitch.check_tune(options.tune)
    if options.compare and not options.page:
        raise ValueError("--compare adds a version to the page; add --page")
    if options.sample_rate and not (options.play or options.studio):
        raise ValueError("--sample-rate is that of --play and --studio; add one of them, or leave it out")
    if (options.sample_rate or 0) > mp3_max_rate and options.output and options.output.suffix.lower() == ".mp3":
        raise ValueError(f"{options.output}: an mp3 has at most {mp3_max_rate} Hz; choose another --sample-rate or "
                         "format")


def read_preset(text):
    """Return the preset of `--play`: path, bank, program, reverberation. Raises the errors of `parse_preset` and of
    `MIDI2Audio.check_preset`."""
    import MIDI2Audio  # slow to import, and rarely needed

    preset = soundfonts.parse_preset(text)
    MIDI2Audio.check_preset(preset)
    return soundfonts.find_soundfont(preset[0]), *preset[1:3], len(preset) > 3


def save_result(result, source, files, pair, options):
    """Write a `Result` of the recording or MIDI file `source` to `files`: see `output_files.name_files`. `pair` is that
    of the weights."""
    mark, versions = marks.make_mark(Util.file_digest(source)), dict(result.versions)
    audio_files.write_audio(files["audio"], result.audio, mark)
    if options.midi:
        note_events.save_notes(files["midi"], result.notes, mark)
    seconds, rate = len(result.audio) / hp.sample_rate, options.sample_rate or studio_voice.rate
    if options.studio and len(result.notes):
        blocks = options.studio.blocks(result.notes, seconds, result.factor)
        save_blocks(files["studio"], blocks, studio_voice.rate * result.factor, rate, result.audio, options.level, mark)
    if options.play and len(result.notes):
        from rendering import fluidsynth  # slow to import, and rarely needed

        blocks = fluidsynth.play_notes(result.notes, options.play, seconds, result.factor, rate)
        save_blocks(files["played"], blocks, rate, rate, result.audio, options.level, mark)
        if options.page:
            name = f"{Path(options.play[0]).stem} {options.play[1]}:{options.play[2]}"
            versions[name] = audio_files.fix_length(audio_files.read_audio(files["played"]), len(result.audio))
    if options.page:
        page = result_page.recording_page(source.stem, versions, result.notes, pair)
        result_page.save_page(files["page"], page, mark)
    plots.save_figure(files["picture"], result.picture(), mark)


def save_blocks(path, blocks, block_rate, rate, like, level, mark):
    """Write blocks of audio [shape=(n, 2), float32] at `block_rate` Hz to `path` at `rate` Hz, as long and as loud as
    `like` [shape=(n,) or (n, 2)], which is at `hp.sample_rate`. See `match_level` for `level`."""
    samples = round(len(like) * rate / hp.sample_rate)
    with tempfile.TemporaryFile(dir=path.parent) as file:  # a long recording is larger than the memory
        try:
            for part in audio_files.resampled(blocks, block_rate, rate):
                file.write(np.ascontiguousarray(part, np.float32))
            file.write(bytes(max(samples * 8 - file.tell(), 0)))
            file.flush()
        except OSError as error:  # without a number, it is one sentence already
            raise Util.write_error(path, error.strerror) if error.errno else error from None
        audio = np.memmap(file, np.float32, "r+", shape=(samples, 2))
        loudness.match_level(like, audio, level=level)
        audio_files.write_audio(path, audio, mark, rate)


def list_files(files, notes, preset):
    """Return a sentence part that lists the output files of a recording: see `output_files.name_files`."""
    words = {"picture": "its picture", "midi": "the notes", "studio": "the studio version",
             "played": f"the notes on {preset and preset[0].name}", "page": "the page"}
    said = {kind: f"{words[kind]} {files[kind].name}" for kind in words if kind in files}
    for kind in ("studio", "played"):
        if kind in said and not len(notes):
            said[kind] = f"no {files[kind].name}, since no notes were found"
    *first, last = said.values()
    return f"{files['audio']} and " + (f"{', '.join(first)} and {last}" if first else last)
