"""Score the transcription of other instruments, and of a piano with interfering sounds: results/instruments.md.

`python benchmarks/instruments.py FOLDER` takes six MIDI files of the folder, evenly spaced. It renders them on the
instruments and on the piano of TimGM6mb, adds interfering sounds, and scores the notes of the shipped weights. With
other pieces or weights, the page is written to the working folder.
"""
import argparse
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Evaluation
import Hyperparameters as hp
import Util
from AEModel import find_weights, load_model
from Autoencoder import Autoencoder
from notes import note_events
from rendering import bystanders
from cases import add_bystander, beside_db, left_out
from common import check_soundfonts, choose, copy_pieces, output_path, scored_pieces, table, without_pedal
from goals import score_notes

soundfont = "FluidR3_GM.sf2"
instruments = {"harpsichord": 6, "vibraphone": 11, "electric piano": 4, "nylon guitar": 24, "harp": 46, "organ": 19}
with_pedal = "vibraphone", "electric piano"     # of these instruments
beside = "speech", "singing", "drums", "clapping"   # of `bystanders.kinds`
n_scored = 6        # pieces


def score_instrument(name, pieces, model):
    """Return the scores of `goals.score_notes` for an instrument."""
    read = Path.read_bytes if name in with_pedal else without_pedal
    midi_folder = copy_pieces(pieces, hp.data / "evaluation" / "instruments" / name.replace(" ", "_"), read)
    folder = Evaluation.render_pair(midi_folder, (soundfont, 0, instruments[name]))
    return score_notes(folder, Util.find_pieces(midi_folder, note_events.midi_endings), model)


def make_page(scores, scored):
    """Return the page of scores, a dict from recording to precision, recall and three F1."""
    rows = [(name, *(f"{score:.3f}" for score in values)) for name, values in scores.items()]
    return (f"Transcription, means over {scored} pieces that are not in the training. Instruments of FluidR3, without "
            "the piano's sustain pedal but for vibraphone and electric piano; and the piano of TimGM6mb with "
            f"interfering sounds, {-beside_db} dB softer. Made by `python benchmarks/instruments.py FOLDER`.\n\n"
            + table([("recording", "onset precision", "onset recall", "onset F1", "F1 with offsets",
                      "F1 with velocities"), *rows]))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score the notes of instruments that are not pianos.")
    parser.add_argument("midi", type=Path, help=f"folder with MIDI files, {n_scored} of which are scored")
    parser.add_argument("--ae", type=Path, help="weights of the autoencoder (default: the shipped ones)")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write (default: results/instruments.md for the pieces of results/goals.md and "
                        "the shipped weights, else instruments.md in the working folder)")
    options = parser.parse_args(arguments)
    pieces = choose(options.midi, n_scored)
    check_soundfonts((soundfont,), left_out)
    bystanders.find_espeak()
    output = output_path(hp.root / "results" / "instruments.md",
                         not options.ae and list(pieces) == sorted(scored_pieces)[::2], options.output)
    model = load_model(Autoencoder, options.ae or find_weights("shipped")[0], Util.choose_device())
    scores = {name: score_instrument(name, pieces, model) for name in instruments}
    midi_folder = copy_pieces(pieces, hp.data / "evaluation" / "instruments" / "piano")
    folder, midi_files = Evaluation.render_pair(midi_folder, left_out), Util.find_pieces(
        midi_folder, note_events.midi_endings)
    scores["piano alone"] = score_notes(folder, midi_files, model)
    for kind in beside:
        scores[f"piano and {kind}"] = score_notes(add_bystander(folder, kind), midi_files, model)
    Util.save_text(output, make_page(scores, len(pieces)))
    print(f"{output.read_text(encoding='utf-8')}\n{output}")


if __name__ == "__main__":
    Util.run(main)
