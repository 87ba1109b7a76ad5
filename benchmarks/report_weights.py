"""Train the networks of `Main.py --model report`: the report's pair, with the report's settings.

`python benchmarks/report_weights.py FOLDER` takes 94 MIDI files of FOLDER, those of `report.py`, and renders them on
the default piano and electric piano. It trains the report's autoencoder for 600 epochs and its U-Net for `n_epochs`.
It then compares the epochs of the U-Net by their sound on the validation pieces, prints a table, and writes the
networks in half precision to data/models/report. The same command resumes after an interruption.
"""
import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import AEMain
import Hyperparameters as hp
import MIDI2Audio
import UNetMain
import Util
from training.checkpoints import save_tensors
import report
from AEDataset import split_for_training
from AEModel import half_precision, load_tensors
from common import check_soundfonts, copy_pieces, table

data = hp.data / "report_pair"
n_epochs = 10   # of the U-Net


def train_pair(folder):
    """Render the pieces and train both networks below `data`. The weights of each epoch of the U-Net are kept."""
    copy_pieces(report.choose(folder), data / "MIDI")
    MIDI2Audio.main(["--data", str(data)])
    report.train(AEMain, report.weights("report", folder=data), data=data, epochs=hp.ae_epochs, **hp.ae_report)
    report.train(UNetMain, report.weights("report", "unet", data), range(1, n_epochs + 1), data=data, epochs=n_epochs,
                 **{**hp.unet_report, "bfloat16": True})


def compare_epochs():
    """Score the output after each epoch of the U-Net on the validation pieces.

    Return a list of (epoch, validation loss, mean log-mel L1 in dB). Epoch 0 is the output of the autoencoder.
    """
    losses = json.loads(Util.read_text(report.weights("report", "unet_losses", data).with_suffix(".json")))
    pieces = losses["settings"]["pieces"]
    networks = [report.weights("report", f"unet_{epoch}", data) for epoch in range(1, n_epochs + 1)]
    autoencoder, names = report.weights("report", folder=data), split_for_training(pieces, hp.seed)[1]
    before = report.error(data, names, autoencoder)[0]
    distances = [before, *(report.error(data, names, autoencoder, network)[0] for network in networks)]
    return list(zip(range(n_epochs + 1), [report.identity_loss(pieces, data)[1], *losses["validation"]], distances))


def save_pair(epoch):
    """Write the autoencoder and the U-Net of an epoch in half precision to data/models/report."""
    for network, name in ("ae", "ae"), ("unet", f"unet_{epoch}"):
        save_tensors(hp.models / "report" / f"{network}.torch",
                     half_precision(load_tensors(report.weights("report", name, data))))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Train the networks of Main.py --model report.")
    parser.add_argument("midi", type=Path, help="folder with MIDI files, a third of which is trained on")
    options = parser.parse_args(arguments)
    check_soundfonts(hp.piano_preset, hp.synth_preset)
    train_pair(options.midi)
    scores = compare_epochs()
    print(table([("epoch of the U-Net", "validation loss", "log-mel L1 of the validation pieces, dB"),
                 *((epoch, f"{loss:.5f}", distance) for epoch, loss, distance in scores)]))
    best = min(scores[1:], key=lambda score: score[2])[0]
    save_pair(best)
    print(f"epoch {best}: {hp.models / 'report'}")


if __name__ == "__main__":
    Util.run(main)
