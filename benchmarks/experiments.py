"""Short trainings that differ in one thing each, on a fixed split, to choose what the shipped weights are trained with.

`python benchmarks/experiments.py --validation-source piano_5` trains them below data/models/experiments, one after the
other, and writes results/experiments.md. What is trained already is kept; an interrupted one goes on.
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
import Training
import UNetMain
import Util
from AEDataset import AEDataset
from AEModel import AEModel
from UNet import UNet
from UNetMain import UNetModel

pieces = 20  # of the validation set, that are scored
narrow = dict(epochs=8, channels=(64, 128, 256))
wide = dict(epochs=8, augmented=True, channels=(256, 512, 512))
small = dict(epochs=2, augmented=True, wf=4, inputs=1, memory=0, shortcut=False, normalised=False, loss="mse")
sees = dict(small, inputs=2, loss="l1")
experiments = {  # autoencoder, U-Net (None trains none)
    "autoencoder, the report's": (narrow, None),
    "autoencoder, augmented": (dict(narrow, augmented=True), None),
    "autoencoder, augmented, channels 256 512 512": (wide, None),
    "autoencoder, augmented, channels 512 1024 1024": (dict(wide, channels=(512, 1024, 1024)), None),
    "U-Net, augmented": (wide, small),
    "U-Net, augmented, two inputs": (wide, dict(small, inputs=2)),
    "U-Net, augmented, two inputs, L1": (wide, sees),
    "U-Net, augmented, two inputs, L1, shortcut": (wide, dict(sees, shortcut=True)),
    "U-Net, augmented, two inputs, L1, shortcut, memory 512": (wide, dict(sees, shortcut=True, memory=512)),
    "U-Net, augmented, two inputs, L1, normalised": (wide, dict(sees, normalised=True)),
    "U-Net, augmented, two inputs, L1, normalised, memory 512": (wide, dict(sees, normalised=True, memory=512)),
}


@torch.inference_mode()
def error(model, data, source):
    """Mean distance from the true spectrogram in dB over the first validation pieces on the piano `source`."""
    names = DatasetCreator.build(data)
    dataset = AEDataset(Util.split(names, hp.seed)[1][:pieces], data, [source])
    return sum(hp.top_db * (model.run(model.prepare(piano[None])) - synth).abs().mean().item() for piano, synth in dataset) / len(dataset)


def minutes(model, settings, repeats=10):
    """How long a training takes on an idle machine, from the pace of its steps on random crops."""
    batch, frames = settings["batch_size"], settings["crop_frames"]
    crops = [(torch.rand(batch, 1, hp.n_mels, frames), torch.rand(batch, 1, hp.n_mels, frames))] * repeats
    list(model.train_epoch(crops[:3], [0] * 3))
    started = time.monotonic()
    list(model.train_epoch(crops, [0] * repeats))
    lengths = [hp.clip_frames] * len(Training.split(settings["pieces"], hp.seed)[0])
    steps = settings["epochs"] * len(Training.crops(lengths, frames, batch, ""))
    return steps * (time.monotonic() - started) / repeats / 60


def run(name, autoencoder, unet, data, validation_source):
    """Train what is missing of one experiment; return (minutes, error on the first piano, error on the validation piano)."""
    folders = {name: f"experiments/{i}" for i, name in enumerate(experiments, 1)}
    first = next(other for other, (settings, _) in experiments.items() if settings == autoencoder)
    ae, weights = (Path(data) / "models" / folders[first] / "ae.torch"), Path(data) / "models" / folders[name] / "unet.torch"
    sources = dict(validation_source=validation_source)
    if not ae.exists() or ae.with_suffix(".checkpoint").exists():
        AEMain.train(data, folders[first], **sources, **autoencoder)
    model = AEModel.load(ae)
    if unet:
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.with_name("ae.torch").write_bytes(ae.read_bytes())
        if not weights.exists() or weights.with_suffix(".checkpoint").exists():
            UNetMain.train(data, folders[name], **sources, **unet)
        model = UNetModel(UNet.load(weights), model, torch.nn.functional.l1_loss, None, torch.device("cpu"))
    settings = json.loads((weights.with_name("unet_losses.json") if unet else ae.with_name("ae_losses.json")).read_text())["settings"]
    errors = [error(model, data, source) for source in ("piano", validation_source)]
    model.learning_rate, model.optimiser = 1, torch.optim.Adam(model.network.parameters())
    return minutes(model, settings), *errors


def main():
    parser = argparse.ArgumentParser(description="Compare short trainings.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/, piano_2/ and so on, and synth/ (default: data/)")
    parser.add_argument("--validation-source", default="piano_2", help="folder with the piano that none is trained on")
    options = parser.parse_args()
    lines = [f"Made by `python benchmarks/experiments.py --validation-source {options.validation_source}`, which holds the settings by "
             f"name. Mean distance of the spectrograms from the true ones in dB, {pieces} validation pieces. A U-Net's minutes come "
             "after those of its autoencoder.", "",
             "| what | minutes | piano trained on | piano not trained on |", "|---|---|---|---|"]
    for name, (autoencoder, unet) in experiments.items():
        print(name, flush=True)
        lines.append(f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in run(name, autoencoder, unet, options.data,
                                                                                options.validation_source)) + " |")
        print(lines[-1], flush=True)
        Util.save_text(hp.root / "results" / "experiments.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    Util.run(main)
