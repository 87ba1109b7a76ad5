"""The options of `Main.py`, and what it writes and says beside the result."""
import argparse
import tempfile
from pathlib import Path

import numpy as np

import Hyperparameters as hp
from audio import audio_files, concert_pitch, loudness
from notes import note_events
from rendering import soundfonts


def make_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Convert piano recordings to an electric piano. Write an audio file, <name>_epiano.wav, and a "
        "picture of the spectrograms, <name>_epiano.png, per recording. A model of another instrument gives other "
        "names, such as <name>_vibraphone.wav.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", default=[hp.demo],
                        help="audio or video file, or folder of them (default: the demo recording)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT",
                        help="output file, .wav, .flac, .ogg or .mp3, or output folder (default: <name>_epiano.wav in "
                        "the working folder)")
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
    parser.add_argument("--midi", action="store_true", help="also write the transcribed notes, <name>_epiano.mid")
    parser.add_argument("--play", metavar="FILE.sf2:BANK:PROGRAM",
                        help="also render the notes on a preset of a SoundFont with FluidSynth, "
                        "<name>_epiano_played.wav")
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


def read_preset(text):
    """Return the preset of `--play`. Raises the errors of `parse_preset` and of `MIDI2Audio.check_preset`."""
    import MIDI2Audio  # slow to import, and rarely needed

    preset = soundfonts.parse_preset(text)
    MIDI2Audio.check_preset(preset)
    return preset


def save_played(path, notes, preset, audio, tune, mark):
    """Render notes on a preset, write them to `path` with `mark`, and return the audio [shape=(n,)]. Length, level and
    tuning are those of the recording `audio`. `tune` sets another tuning: see `Main.pipeline`. Raises the errors of
    `MIDI2Audio.synthesise_midi_to_audio`."""
    import MIDI2Audio

    length, factor = len(audio), tune / 440 if tune else concert_pitch.pitch_factor(audio)
    with tempfile.TemporaryDirectory() as folder:
        midi, rendered = Path(folder) / "notes.mid", Path(folder) / "rendered.wav"
        note_events.save_notes(midi, notes)
        MIDI2Audio.synthesise_midi_to_audio(midi, rendered, *preset, limit_s=length / hp.sample_rate,
                                            detune=1200 * float(np.log2(factor)))
        played = audio_files.read_audio(rendered)[:length]
    mean = audio if audio.ndim == 1 else audio.mean(axis=1)
    played = loudness.match_rms(mean, np.pad(played, (0, length - played.size)))
    audio_files.write_audio(path, played, mark)
    return played


def list_files(files, notes, preset):
    """Return a sentence part that lists the output files of a recording: see `output_files.name_files`."""
    words = {"picture": "its picture", "midi": "the notes", "played": f"the notes on {preset and preset[0]}",
             "page": "the page"}
    said = {kind: f"{words[kind]} {files[kind].name}" for kind in words if kind in files}
    if "played" in said and not len(notes):
        said["played"] = "no notes, since none were found"
    *first, last = said.values()
    return f"{files['audio']} and " + (f"{', '.join(first)} and {last}" if first else last)
