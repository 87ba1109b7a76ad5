"""Repeat the report's experiment, and change one setting at a time: results/report_tables.md.

`python benchmarks/report.py TRAIN TEST --target JR_elepiano.sf2:0:0` takes 94 MIDI files of the folder TRAIN. It trains
the report's autoencoder for 600 epochs and its U-Net for 50 below data/report, scores both on the pieces in TEST
beside the report's published sounds, and draws its figures 1 and 5. This takes hours. The same command resumes after an
interruption, and `--so-far` makes tables and figures without training. With other pieces, another target or
`--so-far`, tables and figures are written to the working folder.
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import AEMain
import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Main
import UNetMain
import Util
from AEDataset import split_for_training
from AEModel import load_model, load_tensors, provenance, snapshot
from Autoencoder import Autoencoder
from UNet import UNet
from UNetDataset import StoredOutputs, UNetDataset
from audio import chunking
from notes import note_events
from outputs import plots
from training.checkpoints import save_tensors
from cases import left_out
from common import check_soundfonts, copy_pieces, output_path, scored_pieces, table

n_pieces = 94           # as many as in the report
report_target = "JR_elepiano.sf2:0:0"
data = hp.data / "report"
unseen = "mz_331_3"     # an unseen piece whose sounds the report published
several = [hp.piano_preset, ("FluidR3_GM.sf2", 0, 1), ("Salamander.sf2", 0, 0), ("MuseScore_General_Full.sf3", 0, 0)]
published = {  # log-mel L1 of the report's own sound files, dB: mz_331_3, a training piece
    "unchanged": (11.05, 12.24), "autoencoder": (5.70, 4.38), "final": (5.95, 4.36), "reference": (2.25, 2.01)}
drawn = {"report_figure_1": ("ae", "The report's experiment: losses of the autoencoder"),
           "report_figure_5": ("unet", "The report's experiment: losses of the U-Net")}
ae_kept, unet_kept = (50, 100, 200, 400, 600), (1, 2, 5, 10, 20, 50)  # epochs whose weights are kept
# Each ablation is trained to the last of these epochs and compared after each of them, because at a constant learning
# rate the quality changes from epoch to epoch.
ae_brief, unet_brief = (60, 70, 80, 90, 100), (3, 4, 5)
ae_ablations = {"wider": dict(channels=hp.ae_channels), "augmented": dict(augmented=True), "pianos": {}}
unet_ablations = {"two_inputs": dict(in_channels=2), "l1": dict(loss="l1"), "batch_norm": dict(batch_norm=True)}
ablation_names = {"wider": "channels 256 512 512", "augmented": "augmented", "pianos": "four pianos in place of one",
                  "two_inputs": "the recording as second input", "l1": "L1 in place of MSE",
                  "batch_norm": "batch normalisation"}


def choose(folder, number=n_pieces):
    """Return the training pieces, every third of a folder by name: a dict from name to path."""
    return dict(sorted(Util.find_pieces(folder, note_events.midi_endings).items())[::3][:number])


def prepare(train, test, target):
    """Render the pieces of the folders `train` and `test` below `data`, with the preset `target` as the e-piano.

    Raises ValueError or FileNotFoundError before any work if a piece, FluidSynth or a SoundFont is missing.
    """
    pieces_of = {"MIDI": choose(train), "MIDI_test": Util.find_pieces(test, note_events.midi_endings)}
    if unseen not in pieces_of["MIDI_test"]:
        raise ValueError(f"{test} does not hold {unseen}.mid, one of the report's pieces; get it from piano-midi.de")
    check_soundfonts(MIDI2Audio.parse_preset(target), left_out, *several)
    for folder, pieces in pieces_of.items():
        copy_pieces(pieces, data / folder)
    MIDI2Audio.main(["--data", str(data), "--target", target])
    MIDI2Audio.synthesise_folder(data / "MIDI_test", data / "left_out" / "piano", left_out)
    shutil.copytree(data / "test" / "synth", data / "left_out" / "synth", dirs_exist_ok=True)


def train(main, weights, kept=(), **settings):
    """Train a network with the module `main`, `AEMain` or `UNetMain`, unless `weights` are finished.

    The weights of the epochs `kept` are kept as NAME_EPOCH.torch. `settings` are other parameters of `main.train`.
    """
    if weights.exists() and not weights.with_suffix(".checkpoint").exists():
        return

    def keep_weights(model, state):
        if state["epoch"] in kept:
            save_tensors(weights.with_name(f"{weights.stem}_{state['epoch']}.torch"),
                         snapshot(model.network, provenance(state["best"])))

    main.train(model=weights.parent.name, on_epoch=keep_weights, **settings)


def weights(model, network="ae", folder=None):
    """Return the path of a model's weights below `data`, or below another folder."""
    return (folder or data) / "models" / model / f"{network}.torch"


def unet_so_far():
    """Return the path of the baseline's U-Net and its number of epochs, or (None, 0) before the first epoch.

    During the training this is the best epoch up to now, taken from the checkpoint.
    """
    path = weights("report", "unet")
    if path.exists():
        return path, hp.unet_epochs
    checkpoint = path.with_suffix(".checkpoint")
    state = load_tensors(checkpoint) if checkpoint.exists() else {"best": None}
    if not state["best"]:
        return None, 0
    so_far = path.with_name("unet_so_far.torch")
    save_tensors(so_far, state["best"])
    return so_far, state["epoch"]


def train_all():
    """Train the baseline, then the ablations. All U-Nets are trained behind the baseline's autoencoder."""
    train(AEMain, weights("report"), ae_kept + ae_brief, data=data, epochs=hp.ae_epochs, **hp.ae_report)
    unet = {**hp.unet_report, "bfloat16": True}
    train(UNetMain, weights("report", "unet"), unet_kept + unet_brief, data=data, epochs=hp.unet_epochs, **unet)
    for name, change in ae_ablations.items():
        folder = several_pianos() if name == "pianos" else data
        train(AEMain, weights(name, folder=folder), ae_brief, data=folder, epochs=ae_brief[-1],
              **{**hp.ae_report, **change})
    for name, change in unet_ablations.items():
        weights(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(weights("report"), weights(name))
        train(UNetMain, weights(name, "unet"), unet_brief, data=data, epochs=unet_brief[-1], **{**unet, **change})


def several_pianos():
    """Render the training pieces on four pianos, and return their data folder."""
    folder = data.with_name("report_pianos")
    shutil.copytree(data / "MIDI", folder / "MIDI", dirs_exist_ok=True)
    shutil.copytree(data / "synth", folder / "synth", dirs_exist_ok=True)
    MIDI2Audio.synthesise_all("piano", folder, several)
    return folder


def errors(folder, names, models, inversion):
    """Return the mean log-mel L1 of each of `Evaluation.versions` in dB, over the pieces `names` of a folder."""
    distances = []
    for name in tqdm(names, desc=f"{folder.name}, {inversion}", unit="piece", leave=False):
        recording, truth = Evaluation.read_pair(folder / side / f"{name}.wav" for side in ("piano", "synth"))
        outputs = Evaluation.make_outputs(recording, truth, models, inversion)
        distances.append([Evaluation.log_mel_l1(output, truth) for output in outputs.values()])
    return np.mean(distances, axis=0).tolist()


def error(folder, names, *paths):
    """Score the networks at `paths` on the pieces `names` of a folder.

    Return the mean log-mel L1 in dB, and the mean excess of the predicted level in dB, in bands up to 24 dB below the
    maximum.
    """
    models, both = [load_model(kind, path) for kind, path in zip((Autoencoder, UNet), paths)], []
    for name in tqdm(names, desc=paths[-1].parent.name, unit="piece", leave=False):
        recording, truth = Evaluation.read_pair(folder / side / f"{name}.wav" for side in ("piano", "synth"))
        output, (*_, image) = Main.resynthesise(recording, models)
        true = chunking.whole_spectrogram(truth).astype(np.float32)[:, :image.shape[1]]
        too_loud = hp.top_db * (image - true)
        both.append((Evaluation.log_mel_l1(output, truth), too_loud[hp.top_db * (1 - true) < 24].mean()))
    return np.mean(both, axis=0).tolist()


def comparison_table(training, test, unet):
    """Yield the rows of a table that compares the report's published sounds with this run.

    `training` and `test` are names of pieces, `unet` is the path of the U-Net's weights, or None if there are none.
    """
    models = [load_model(kind, path) for kind, path in ((Autoencoder, weights("report")), (UNet, unet)) if path]
    places = (data / "test", [unseen]), (data, training[:1]), (data / "test", test)
    here = [[errors(*place, models, inversion) for inversion in ("report", "kl")] for place in places]
    yield "", *(f"{what}: {how}" for what in (unseen, "training piece") for how in
                ("published", "report's inversion", "ours")), "test pieces: report's inversion", "ours"
    for i, version in enumerate(Evaluation.versions):
        cells = [["-" if version == "final" and not unet else figures[i] for figures in place] for place in here]
        yield version, published[version][0], *cells[0], published[version][1], *cells[1], *cells[2]


def identity_loss(names, folder=None):
    """Return the MSE of the autoencoder's outputs for the training and validation pieces, as without a U-Net."""
    folder, parts = folder or data, split_for_training(names, hp.seed)
    outputs = StoredOutputs(load_model(Autoencoder, weights("report", folder=folder)), folder, "report")
    outputs.write(names)
    return [np.average([float(((source - target) ** 2).mean()) for source, target in clips],
                       weights=[target.shape[-1] for _, target in clips])
            for clips in (list(UNetDataset(part, folder, outputs)) for part in parts)]


def epoch_table(training, test, unet):
    """Yield the rows of a table of losses and distances by epoch. Epoch 0 of the U-Net means no U-Net."""
    yield "", "epoch", "training loss", "validation loss", "training pieces, dB", "test pieces, dB"
    for network, epochs in ("ae", ae_kept), ("unet", (0, *unet_kept)):
        if network == "unet" and not unet:
            continue
        losses = json.loads(Util.read_text(weights("report", network).with_name(f"{network}_losses.json")))
        for epoch in epochs:
            kept = weights("report", f"{network}_{epoch}")
            if epoch and not kept.exists():
                continue
            paths = [kept] if network == "ae" else [weights("report"), kept][:1 + bool(epoch)]
            both = [losses[part][epoch - 1] for part in ("training", "validation")] if epoch else identity_loss(
                losses["settings"]["pieces"])
            yield ({"ae": "autoencoder", "unet": "U-Net"}[network], epoch, *(f"{loss:.5f}" for loss in both),
                   error(data, training[:len(test)], *paths)[0], error(data / "test", test, *paths)[0])


def ablation_table(test):
    """Yield the rows of a table of the ablations, on the piano of the training and on another one.

    Each cell has the mean over the epochs `ae_brief` or `unet_brief` and, in brackets, the score of each epoch.
    """
    def after(epochs, name, network, folder=data):
        return [[weights(name, folder=folder)] * (network == "unet") + [weights(name, f"{network}_{epoch}", folder)]
                for epoch in epochs]

    yield "", "test pieces, dB", "level error of loud bands, dB", "on a piano left out, dB"
    folders = {"pianos": data.with_name("report_pianos")}
    rows = {"the report's autoencoder": after(ae_brief, "report", "ae"),
            **{ablation_names[name]: after(ae_brief, name, "ae", folders.get(name, data)) for name in ae_ablations},
            f"the report's autoencoder, {hp.ae_epochs} epochs": [[weights("report")]],
            "and its U-Net": after(unet_brief, "report", "unet"),
            **{ablation_names[name]: after(unet_brief, name, "unet") for name in unet_ablations}}
    for label, networks in rows.items():
        if not all(path.exists() for paths in networks for path in paths):
            continue
        (here, loud), (elsewhere, _) = (zip(*(error(data / side, test, *paths) for paths in networks))
                                        for side in ("test", "left_out"))
        yield label, *(f"{np.mean(part):.2f} ({', '.join(f'{each:.2f}' for each in part)})" for part in (
            here, loud, elsewhere))


def save_figures(folder, unet):
    """Draw the loss curves of the baseline into a folder. `unet` is the path of the U-Net's weights or None."""
    for name, (network, title) in drawn.items():
        if network == "ae" or unet:
            losses = json.loads(Util.read_text(weights("report", network).with_name(f"{network}_losses.json")))
            plots.save_figure(folder / f"{name}.png", plots.plot_losses(losses, title))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Repeat the report's experiment, and change one setting at a time.")
    parser.add_argument("train", type=Path, help="folder with MIDI files, a third of which is trained on")
    parser.add_argument("test", type=Path, help="folder with MIDI files to score")
    parser.add_argument("--target", default=MIDI2Audio.preset_text(hp.synth_preset), metavar="FILE.sf2:BANK:PROGRAM",
                        help=f"electric piano (default: %(default)s; the report's is {report_target})")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write, with figures beside it (default: results/report_tables.md for the "
                        "report's target and the pieces of results/report.md, else report_tables.md in the working "
                        "folder)")
    parser.add_argument("--so-far", action="store_true", help="train nothing, and leave out rows that are not trained")
    options = parser.parse_args(arguments)
    if not options.so_far:
        prepare(options.train, options.test, options.target)
        train_all()
    unet, epochs = unet_so_far()
    if not weights("report").exists():
        raise FileNotFoundError(f"{weights('report')} is not trained yet; leave --so-far out")
    training = json.loads(Util.read_text(weights("report").with_name("ae_losses.json")))["training_pieces"]
    test, trained = sorted(Util.find_pieces(data / "MIDI_test", note_events.midi_endings)), choose(options.train)
    full = (options.target == report_target and len(trained) == n_pieces and test == sorted(scored_pieces)
            and not options.so_far)
    output = output_path(hp.root / "results" / "report_tables.md", full, options.output)
    tables = comparison_table(training, test, unet), epoch_table(training, test, unet), ablation_table(test)
    Util.save_text(output, "\n".join(table(list(rows)) for rows in tables)
                   + f"\nThe U-Net is that of the best epoch of {epochs}, by validation loss. Training pieces: "
                   + f"{', '.join(trained)}.\n")
    save_figures(output.parent / "figures" if output.parent == hp.root / "results" else output.parent, unet)
    print(output)


if __name__ == "__main__":
    Util.run(main)
