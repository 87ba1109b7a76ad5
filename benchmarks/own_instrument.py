"""Train the note autoencoder for sources that are not pianos, and score its notes: results/own_instrument.md.

`python benchmarks/own_instrument.py TRAIN TEST` takes 24 MIDI files of the folder TRAIN and six of TEST, evenly spaced.
It renders them on each instrument and on the electric piano, and trains with the defaults of AEMain.py below
data/own_instrument. The pieces are played without the sustain pedal, which none of these instruments has. Finished
renders and trainings are kept, and the same command resumes after an interruption. With other pieces, the page is
written to the working folder.
"""
import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import AEMain
import Hyperparameters as hp
import MIDI2Audio
import Util
from AEModel import load_model
from Autoencoder import Autoencoder
from notes import note_events
from common import check_soundfonts, choose, copy_pieces, output_path, scored_pieces, table, without_pedal
from goals import score_notes

instruments = {"organ": 19, "nylon guitar": 24, "harp": 46}     # programs of `soundfont`
soundfont = "FluidR3_GM.sf2"
n_training, n_scored = 24, 6    # pieces


def prepare(data, program, training, scored):
    """Render pieces on a preset and on the electric piano below `data`. `training` and `scored` come from `choose`."""
    for folder, pieces in ("MIDI", training), ("MIDI_test", scored):
        copy_pieces(pieces, data / folder, without_pedal)
    MIDI2Audio.main(["--data", str(data), "--source", f"{soundfont}:0:{program}"])


def train(data):
    """Train with all defaults unless that is finished. Return the minutes that this took, interrupted runs included."""
    weights, note, started = data / "models" / "own" / "ae.torch", data / "minutes.txt", time.monotonic()
    before = float(Util.read_text(note)) if note.exists() else 0.0
    if weights.exists() and not weights.with_suffix(".checkpoint").exists():
        return before
    try:
        AEMain.train(data)
    finally:
        minutes = before + (time.monotonic() - started) / 60
        Util.save_text(note, f"{minutes}\n")
    return minutes


def score(data):
    """Return onset F1, F1 with offsets and F1 with velocities of the scored pieces, before and after the training
    [shape=(3,) each]."""
    midi_files = Util.find_pieces(data / "MIDI_test", note_events.midi_endings)
    return [score_notes(data / "test", midi_files, load_model(Autoencoder, path, Util.choose_device()))[2:]
            for path in (hp.ae_weights, data / "models" / "own" / "ae.torch")]


def make_page(scores, training, scored):
    """Return the page of the instruments so far. `scores` is a dict from instrument to before, after and minutes."""
    rows = [(source, *(" / ".join(f"{value:.3f}" for value in values) for values in both), f"{minutes:.0f}")
            for source, (*both, minutes) in scores.items()]
    return (f"Onset F1 / F1 with offsets / F1 with offsets and velocities of the transcription, means over {scored} "
            "pieces that are not in the training. *Before* are the shipped weights. *After* is a training on "
            f"{training} pieces with the defaults of `AEMain.py`, on {os.cpu_count()} processor cores. The pieces are "
            "played without the piano's sustain pedal, which none of these instruments has. Made by "
            "`python benchmarks/own_instrument.py TRAIN TEST`.\n\n"
            + table([("source", "before", "after", "minutes"), *rows]))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Train for sources that are not pianos, and score the notes.")
    parser.add_argument("train", type=Path, help=f"folder with MIDI files, {n_training} of which are trained on")
    parser.add_argument("test", type=Path, help=f"folder with MIDI files, {n_scored} of which are scored")
    parser.add_argument("-o", "--output", type=Path,
                        help=f"page to write (default: results/own_instrument.md for {n_training} pieces and those of "
                        "results/goals.md, else own_instrument.md in the working folder)")
    options = parser.parse_args(arguments)
    training, scored = choose(options.train, n_training), choose(options.test, n_scored)
    check_soundfonts((soundfont,), hp.synth_preset)
    full = len(training) == n_training and list(scored) == sorted(scored_pieces)[::2]
    output = output_path(hp.root / "results" / "own_instrument.md", full, options.output)
    scores = {}
    for instrument, program in instruments.items():
        data = hp.data / "own_instrument" / instrument.replace(" ", "_")
        prepare(data, program, training, scored)
        minutes = train(data)
        scores[instrument] = *score(data), minutes
        Util.save_text(output, make_page(scores, len(training), len(scored)))
    print(f"{output.read_text(encoding='utf-8')}\n{output}")


if __name__ == "__main__":
    Util.run(main)
