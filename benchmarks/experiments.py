"""Short trainings that differ in one thing each, on a fixed split, to choose what the shipped weights are trained with.

`python benchmarks/experiments.py --validation-source piano_5` trains them below data/models/experiments, one after the
other, and writes results/ablations.md. What is trained already is kept; an interrupted one goes on.
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
from AEDataset import AEDataset, split_for_training
from AEModel import load_model
from Autoencoder import Autoencoder
from UNet import UNet

pieces = 20  # of the validation set, that are scored
narrow = dict(epochs=8, channels=(64, 128, 256))
wide = dict(epochs=8, augmented=True, channels=(256, 512, 512))
small = dict(epochs=2, augmented=True, wf=4, in_channels=1, residual=False, batch_norm=False, loss="mse")
sees = dict(small, in_channels=2, loss="l1")
experiments = {  # autoencoder, U-Net (None trains none)
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
def error(trainer, data, source):
    """Mean distance from the true spectrogram in dB over the first validation pieces on the piano `source`."""
    names = DatasetCreator.build(data)
    dataset = AEDataset(Util.split(names, hp.seed)[1][:pieces], data, [source])
    distances = [(trainer.run(trainer.prepare(piano[None])) - synth).abs().mean().item() for piano, synth in dataset]
    return hp.top_db * sum(distances) / len(distances)


def minutes(trainer, settings, repeats=10):
    """How long a training takes on an idle machine, from the pace of its steps on random crops."""
    batch, frames = settings["batch_size"], settings["crop_frames"]
    crops = [(torch.rand(batch, 1, hp.n_mels, frames), torch.rand(batch, 1, hp.n_mels, frames))] * repeats
    list(trainer.train_epoch(crops[:3], [0] * 3))
    started = time.monotonic()
    list(trainer.train_epoch(crops, [0] * repeats))
    lengths = [hp.clip_frames] * len(split_for_training(settings["pieces"], hp.seed)[0])
    steps = settings["epochs"] * len(Training.crop_batches(lengths, frames, batch, ""))
    return steps * (time.monotonic() - started) / repeats / 60


def run(name, autoencoder, unet, data, validation_source):
    """Train what is missing of one experiment; return (minutes, error on the first piano, on the validation piano)."""
    folders = {name: f"experiment_{i}" for i, name in enumerate(experiments, 1)}
    first = next(other for other, (settings, _) in experiments.items() if settings == autoencoder)
    models = Path(data) / "models"
    ae, weights = models / folders[first] / "ae.torch", models / folders[name] / "unet.torch"
    sources = dict(validation_source=validation_source)
    if not ae.exists() or ae.with_suffix(".checkpoint").exists():
        AEMain.train(data, folders[first], **sources, **autoencoder)
    cpu, l1 = torch.device("cpu"), torch.nn.functional.l1_loss
    autoencoder = load_model(Autoencoder, ae)
    trainer = Training.Trainer(autoencoder.network, l1, 1, cpu)
    if unet:
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.with_name("ae.torch").write_bytes(ae.read_bytes())
        if not weights.exists() or weights.with_suffix(".checkpoint").exists():
            UNetMain.train(data, folders[name], **sources, **unet)
        trainer = UNetMain.UNetTrainer(load_model(UNet, weights).network, autoencoder, l1, 1, cpu)
    losses = weights.with_name("unet_losses.json") if unet else ae.with_name("ae_losses.json")
    settings = json.loads(losses.read_text(encoding="utf-8"))["settings"]
    errors = [error(trainer, data, source) for source in ("piano", validation_source)]
    return minutes(trainer, settings), *errors


def main():
    parser = argparse.ArgumentParser(description="Compare short trainings.")
    parser.add_argument("--data", type=Path, default=hp.data,
                        help="folder with piano/, piano_2/ and so on, and synth/ (default: data/)")
    parser.add_argument("--validation-source", default="piano_2", help="folder with the piano that none is trained on")
    options = parser.parse_args()
    lines = [f"Made by `python benchmarks/experiments.py --validation-source {options.validation_source}`, which holds "
             f"the settings by name. Mean distance of the spectrograms from the true ones in dB, {pieces} validation "
             "pieces. A U-Net's minutes come after those of its autoencoder.", "",
             "| what | minutes | piano trained on | piano not trained on |", "|---|---|---|---|"]
    for name, (autoencoder, unet) in experiments.items():
        print(name, flush=True)
        lines.append(f"| {name} | "
                     + " | ".join(f"{figure:.2f}" for figure in run(name, autoencoder, unet, options.data,
                                                                    options.validation_source)) + " |")
        print(lines[-1], flush=True)
        Util.save_text(hp.root / "results" / "ablations.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    Util.run(main)
