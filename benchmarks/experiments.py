"""Train the report's networks briefly, with one setting changed at a time: results/ablations.md.

`python benchmarks/experiments.py --validation-source piano_5` trains data/models/experiment_1 and so on. Finished
trainings are kept, and the same command resumes an interrupted one. With other data or options, the page is written to
the working folder.
"""
import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import AEMain
import DatasetCreator
import Hyperparameters as hp
import UNetMain
import Util
from AEDataset import AEDataset, crop_batches, split_for_training
from AEModel import load_model
from Autoencoder import Autoencoder
from UNet import UNet
from UNetDataset import StoredOutputs, UNetDataset
from training import training_loop
from common import min_training_pieces, output_path, table

n_scored = 20  # pieces of the validation set
validation_piano = "piano_5"
narrow = dict(network="report", epochs=8, channels=(64, 128, 256))
wide = dict(network="report", epochs=8, augmented=True, channels=(256, 512, 512))
small = dict(epochs=2, augmented=True, wf=4, in_channels=1, residual=False, batch_norm=False, loss="mse")
sees = dict(small, in_channels=2, loss="l1")
experiments = {  # settings of the autoencoder, and of the U-Net or None
    "autoencoder, the report's": (narrow, None),
    "autoencoder, augmented": (dict(narrow, augmented=True), None),
    "autoencoder, augmented, channels 256 512 512": (wide, None),
    "autoencoder, augmented, channels 512 1024 1024": (dict(wide, channels=(512, 1024, 1024)), None),
    "U-Net, augmented": (wide, small),
    "U-Net, augmented, two inputs": (wide, dict(small, in_channels=2)),
    "U-Net, augmented, two inputs, L1": (wide, sees),
    "U-Net, augmented, two inputs, L1, residual": (wide, dict(sees, residual=True)),
    "U-Net, augmented, two inputs, L1, batch normalisation": (wide, dict(sees, batch_norm=True)),
}


@torch.inference_mode()
def error(trainer, dataset):
    """Return the mean distance from the true spectrogram in dB, over the pieces of a data set."""
    distances = [(trainer.run(source[None]) - target).abs().mean().item() for source, target in dataset]
    return hp.top_db * sum(distances) / len(distances)


def minutes(trainer, settings, repeats=10):
    """Estimate the minutes of a training on an idle machine, from the time of `repeats` steps on random crops."""
    batch, frames = settings["batch_size"], settings["crop_frames"]
    crops = [tuple(torch.rand(batch, channels, hp.n_mels, frames) for channels in (trainer.network.in_channels, 1))
             ] * repeats
    list(trainer.train_epoch(crops[:3], [0] * 3))
    started = time.monotonic()
    list(trainer.train_epoch(crops, [0] * repeats))
    lengths = [hp.clip_frames] * len(split_for_training(settings["pieces"], hp.seed)[0])
    steps = settings["epochs"] * len(crop_batches(lengths, frames, batch, ""))
    return steps * (time.monotonic() - started) / repeats / 60


def run(name, autoencoder, unet, data, validation_source):
    """Train an experiment, with these settings of `AEMain.train` and `UNetMain.train` (or None), unless it is finished.

    Return the minutes, and the errors in dB on the first piano and on the piano `validation_source`.
    """
    folders = {name: f"experiment_{i}" for i, name in enumerate(experiments, 1)}
    first = next(other for other, (settings, _) in experiments.items() if settings == autoencoder)
    models = Path(data) / "models"
    ae, weights = models / folders[first] / "ae.torch", models / folders[name] / "unet.torch"
    sources = dict(validation_source=validation_source)
    if not ae.exists() or ae.with_suffix(".checkpoint").exists():
        AEMain.train(data, folders[first], **sources, **autoencoder)
    names = Util.split(DatasetCreator.build(data), hp.seed)[1][:n_scored]
    network, scored = load_model(Autoencoder, ae), ["piano", validation_source]
    datasets = [AEDataset(names, data, [source]) for source in scored]
    if unet:
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.with_name("ae.torch").write_bytes(ae.read_bytes())
        if not weights.exists() or weights.with_suffix(".checkpoint").exists():
            UNetMain.train(data, folders[name], **sources, **unet)
        outputs = [StoredOutputs(network, data, folders[name], [source]) for source in scored]
        network = load_model(UNet, weights)
        for part in outputs:
            part.write(names)
        datasets = [UNetDataset(names, data, part, network.network.in_channels) for part in outputs]
    losses = weights.with_name("unet_losses.json") if unet else ae.with_name("ae_losses.json")
    settings = json.loads(losses.read_text(encoding="utf-8"))["settings"]
    trainer = training_loop.Trainer(network.network, torch.nn.functional.l1_loss, 1, torch.device("cpu"))
    errors = [error(trainer, dataset) for dataset in datasets]  # before the steps of `minutes` change the weights
    return minutes(trainer, settings), *errors


def check_data(data, validation_source):
    """Return the pieces of a data folder. Raises FileNotFoundError if a folder is missing that the trainings need."""
    for folder in "piano", "synth", validation_source:
        if not (data / folder).is_dir():
            raise FileNotFoundError(f"{data / folder} is missing; render it with MIDI2Audio.py --source (several "
                                    "pianos), or choose another --data or --validation-source")
    return DatasetCreator.build(data)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Compare short trainings of the report's networks.")
    parser.add_argument("--data", type=Path, default=hp.data,
                        help="folder with piano/, piano_2/ and so on, and synth/ (default: data/)")
    parser.add_argument("--validation-source", default=validation_piano,
                        help="folder with the piano that is not trained on (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write (default: results/ablations.md for data/ with at least "
                        f"{min_training_pieces} pieces and {validation_piano}, else ablations.md in the working "
                        "folder)")
    options = parser.parse_args(arguments)
    names = check_data(options.data, options.validation_source)
    full = (options.data == hp.data and options.validation_source == validation_piano
            and len(names) >= min_training_pieces)
    output = output_path(hp.root / "results" / "ablations.md", full, options.output)
    rows = [("setting", "minutes", "piano in the training set, dB", "unseen piano, dB")]
    for name, (autoencoder, unet) in experiments.items():
        print(name, flush=True)
        figures = run(name, autoencoder, unet, options.data, options.validation_source)
        rows.append((name, *figures))
        Util.save_text(output, "Mean distance of the spectrograms from the true ones in dB, over "
                       f"{n_scored} validation pieces, made by `python benchmarks/experiments.py --validation-source "
                       f"{options.validation_source}`. That script holds the settings by name. The minutes of a U-Net "
                       f"are in addition to those of its autoencoder.\n\n{table(rows)}")
    print(f"{table(rows)}{output}")


if __name__ == "__main__":
    Util.run(main)
