"""Train the U-Net on the autoencoder's outputs, which AEMain.py leaves in data/ae_output.

`python UNetMain.py` trains data/models/own/unet.torch, with the report's 50 epochs.
"""
from pathlib import Path

import torch

import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from UNet import UNet
from UNetDataset import UNetDataset


def train(data=hp.data, model="own", epochs=hp.unet_epochs, batch_size=hp.unet_batch_size,
          learning_rate=hp.unet_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          wf=hp.unet_wf, device="auto", overwrite=False):
    """Train data/models/<model>/unet.torch, with 2**wf channels in the first layer.

    Raises as `Training.fit`, and FileNotFoundError if the autoencoder's outputs are missing.
    """
    device = hp.choose_device(device)
    names = DatasetCreator.build(data)
    training, validation = (UNetDataset(part, data) for part in Util.split(names, seed))
    torch.manual_seed(seed)
    unet = Training.Model(UNet(wf=wf), torch.nn.functional.mse_loss, learning_rate, device)
    Training.fit(unet, training, validation, Path(data) / "models" / model / "unet.torch", dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, wf=wf), "MSE loss", overwrite)


def main(arguments=None):
    parser = Training.command_line("Train the U-Net.", "unet", hp.unet_epochs, hp.unet_batch_size, hp.unet_learning_rate)
    parser.add_argument("--wf", type=Training.positive, default=hp.unet_wf, help="2**wf channels in the first layer; the report's is 6")
    train(**vars(parser.parse_args(arguments)))
    print("next: Main.py RECORDING, with the same --model")


if __name__ == "__main__":
    Util.run(main)
