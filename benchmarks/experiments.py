"""Short trainings that differ in one thing each, on a fixed split, to choose what the shipped weights are trained with.

`python benchmarks/experiments.py --validation-source piano_5` trains them below data/models/experiments, one after the
other, and writes results/experiments.md. What is trained already is kept; an interrupted one goes on.
"""
import argparse
import json
import sys
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
wide = dict(epochs=8, augmented=True, channels=(256, 512, 512))
small = dict(epochs=2, augmented=True, wf=4)
sees = dict(small, inputs=2, loss="l1")
experiments = {  # autoencoder, U-Net (None trains none)
    "autoencoder, the report's": (dict(epochs=8), None),
    "autoencoder, augmented": (dict(epochs=8, augmented=True), None),
    "autoencoder, augmented, channels 256 512 512": (wide, None),
    "autoencoder, augmented, channels 512 1024 1024": (dict(wide, channels=(512, 1024, 1024)), None),
    "U-Net, augmented": (wide, small),
    "U-Net, augmented, two inputs": (wide, dict(small, inputs=2)),
    "U-Net, augmented, two inputs, L1": (wide, sees),
    "U-Net, augmented, two inputs, L1, shortcut": (wide, dict(sees, shortcut=True)),
    "U-Net, augmented, two inputs, L1, shortcut, memory 512": (wide, dict(sees, shortcut=True, memory=512)),
    "the same, 4 crops of 511 frames": (wide, dict(sees, shortcut=True, memory=512, crop_frames=511, batch_size=4)),
}


@torch.inference_mode()
def error(model, data, source):
    """Mean distance from the true spectrogram in dB over the first validation pieces on the piano `source`."""
    names = DatasetCreator.build(data)
    dataset = AEDataset(Util.split(names, hp.seed)[1][:pieces], data, [source])
    return sum(hp.top_db * (model.run(model.prepare(piano[None])) - synth).abs().mean().item() for piano, synth in dataset) / len(dataset)


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
        model = UNetModel(UNet.load(weights), model, None, None, torch.device("cpu"))
    losses = (weights if unet else ae).with_name("unet_losses.json" if unet else "ae_losses.json")
    return json.loads(losses.read_text())["minutes"], error(model, data, "piano"), error(model, data, validation_source)


def main():
    parser = argparse.ArgumentParser(description="Compare short trainings.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/, piano_2/ and so on, and synth/ (default: data/)")
    parser.add_argument("--validation-source", default="piano_2", help="folder with the piano that none is trained on")
    options = parser.parse_args()
    lines = [f"Made by `python benchmarks/experiments.py --validation-source {options.validation_source}`, which holds the settings by "
             f"name. Mean distance of the spectrograms from the true ones in dB, {pieces} validation pieces.", "",
             "| what | minutes | piano trained on | piano not trained on |", "|---|---|---|---|"]
    for name, (autoencoder, unet) in experiments.items():
        print(name, flush=True)
        minutes, first, held_out = run(name, autoencoder, unet, options.data, options.validation_source)
        lines.append(f"| {name} | {minutes:.1f} | {first:.2f} | {held_out:.2f} |")
        print(lines[-1], flush=True)
        Util.save_text(hp.root / "results" / "experiments.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    Util.run(main)
