"""Train the U-Net behind the autoencoder that AEMain.py has trained.

`python UNetMain.py` trains data/models/own/unet.torch, with the report's 50 epochs.
"""
import argparse
from pathlib import Path

import torch

import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from AEModel import AEModel
from UNet import UNet
from UNetDataset import UNetDataset, write_outputs


class UNetModel(Training.Model):
    """A U-Net trained behind a finished autoencoder, which runs on each batch; see `Training.Model`."""

    def __init__(self, unet, autoencoder, loss, learning_rate, device):
        super().__init__(unet, loss, learning_rate, device)
        self.autoencoder = autoencoder

    def prepare(self, source):
        with torch.no_grad():
            return torch.cat([self.autoencoder.run(source), source], 1)[:, :self.network.inputs]


def train(data=hp.data, model="own", epochs=hp.unet_epochs, batch_size=hp.unet_batch_size,
          learning_rate=hp.unet_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          augmented=False, validation_source=None, start=None, wf=hp.unet_wf, inputs=hp.unet_inputs, memory=hp.unet_memory,
          shortcut=hp.unet_shortcut, normalised=hp.unet_normalised, loss=hp.unet_loss, device="auto", overwrite=False,
          tensorboard=False):
    """Train data/models/<model>/unet.torch, from the weights in `start` if there are any; `UNet` says what its form is.

    One input and nothing augmented is the report's form, on the stored outputs of the autoencoder
    data/models/<model>/ae.torch; else the autoencoder runs on each batch.

    Raises as `Training.start_from` and `Training.fit`, FileNotFoundError if the autoencoder's weights are missing, and
    ValueError if they are for another pair of instruments than those below `data`.
    """
    device, folder = hp.choose_device(device), Path(data) / "models" / model
    names = Training.first_alone(lambda: DatasetCreator.build(data))
    autoencoder, trained_for = AEModel.load(folder / "ae.torch", device), DatasetCreator.trained_for(data)
    if autoencoder.network.pair not in (None, trained_for["pair"]):
        raise ValueError(f"{folder / 'ae.torch'} was trained for {autoencoder.network.pair}, and {data} holds {trained_for['pair']}; "
                         "train it anew with AEMain.py --overwrite, or choose another --model")
    losses = {"mse": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}
    torch.manual_seed(seed)
    unet = UNet(wf=wf, inputs=inputs, memory=memory, shortcut=shortcut, normalised=normalised)
    if start:
        Training.start_from(unet, start)
    if inputs == 1 and not augmented and not validation_source:
        Training.first_alone(lambda: write_outputs(folder / "ae.torch", names, data, device))
        training, validation = (UNetDataset(part, data) for part in Training.split(names, seed))
        unet = Training.Model(unet, losses[loss], learning_rate, device)
    else:
        training, validation = Training.datasets(names, data, seed, augmented, validation_source)
        unet = UNetModel(unet, autoencoder, losses[loss], learning_rate, device)
    Training.fit(unet, training, validation, folder / "unet.torch", dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, augmented=augmented, validation_source=validation_source, start=start and str(start), wf=wf, inputs=inputs,
        memory=memory, shortcut=shortcut, normalised=normalised, loss=loss, pieces=names,
        trained_for=trained_for),
        f"{loss.upper()} loss", overwrite, tensorboard)


def main(arguments=None):
    parser = Training.command_line("Train the U-Net.", "unet", hp.unet_epochs, hp.unet_batch_size, hp.unet_learning_rate)
    parser.add_argument("--wf", type=Training.positive, default=hp.unet_wf, help="2**wf channels in the first layer")
    parser.add_argument("--inputs", type=int, choices=(1, 2), default=hp.unet_inputs,
                        help="2 shows it the recording beside the autoencoder's output")
    parser.add_argument("--memory", type=Training.natural, default=hp.unet_memory, metavar="WIDTH",
                        help="width of the layers that span all bands and look further back; 0 for none")
    parser.add_argument("--shortcut", action=argparse.BooleanOptionalAction, default=hp.unet_shortcut,
                        help="whether the last layer sees the input too")
    parser.add_argument("--normalised", action=argparse.BooleanOptionalAction, default=hp.unet_normalised,
                        help="with batch normalisation or without")
    parser.add_argument("--loss", choices=("mse", "l1"), default=hp.unet_loss, help="of the spectrograms")
    options = Training.options(parser, arguments, hp.unet_report)
    del options.report
    train(**vars(options))
    own = options.data / "models" / options.model
    Training.finish("Main.py", "RECORDING", *(["--model", options.model] if options.data == hp.data else
                                              ["--ae", own / "ae.torch", "--unet", own / "unet.torch"]))


if __name__ == "__main__":
    Util.run(main)
