"""Train the U-Net behind the autoencoder that AEMain.py has trained.

`python UNetMain.py` trains data/models/own/unet.torch, with the report's 50 epochs.
"""
import argparse
import functools
from pathlib import Path

import torch

import DatasetCreator
import Distributed
import Hyperparameters as hp
import Training
import Util
from AEDataset import make_datasets
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from UNet import UNet
from UNetDataset import UNetDataset, write_outputs


class UNetTrainer(Training.Trainer):
    """A U-Net trained behind a finished autoencoder, which runs on each batch; see `Training.Trainer`."""

    def __init__(self, unet, autoencoder, loss, learning_rate, device, **how):
        super().__init__(unet, loss, learning_rate, device, **how)
        self.autoencoder = autoencoder
        self.autoencoder.bfloat16 = self.bfloat16

    def prepare(self, source):
        with torch.no_grad():
            return torch.cat([self.autoencoder.run(source), source], 1)[:, :self.network.in_channels]


def train(data=None, model="own", epochs=hp.unet_epochs, batch_size=hp.unet_batch_size,
          learning_rate=hp.unet_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          augmented=False, validation_source=None, start=None, wf=hp.unet_wf, in_channels=hp.unet_in_channels,
          residual=hp.unet_residual, batch_norm=hp.unet_batch_norm, gain_frames=None, loss=hp.unet_loss,
          held_out=False, gradient_norm=hp.gradient_norm, bfloat16=hp.bfloat16, average=0, device="auto",
          overwrite=False, tensorboard=False, on_epoch=None):
    """Train data/models/<model>/unet.torch, from the weights in `start` if there are any; `UNet` says what its form is.

    One channel in and nothing augmented is the report's form, on the stored outputs of the autoencoder
    data/models/<model>/ae.torch; so it is behind an autoencoder of notes, which are heard in whole clips. Else the
    autoencoder runs on each batch. With `held_out` the pieces, those for validation too, are those that a training of
    the autoencoder with this seed has not seen: of the others it hears the notes too well, so that there is less to
    mend than in a recording (Wolpert 1992, "Stacked generalization"). `gradient_norm`, `bfloat16` and `average`: see
    `Training.Trainer`.

    Raises as `Training.load_initial_weights` and `Training.fit`, FileNotFoundError if the autoencoder's weights are
    missing, and ValueError if they are for another pair of instruments than those below `data`.
    """
    data = hp.data if data is None else data
    device, folder = Util.choose_device(device), Path(data) / "models" / model
    ae, trained_for = folder / "ae.torch", DatasetCreator.trained_for(data)
    names = Distributed.first_process_first(lambda: DatasetCreator.build(data))
    if held_out:
        names = Util.split(names, seed)[1]
    autoencoder = load_model(Autoencoder, ae, device)
    if autoencoder.pair not in (None, trained_for["pair"]):
        raise ValueError(f"{ae} was trained for {autoencoder.pair}, and {data} holds {trained_for['pair']}; "
                         "train it anew with AEMain.py --overwrite, or choose another --model")
    losses = {"mse": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}
    torch.manual_seed(seed)
    if gain_frames is None:  # one that is free would blur a sampled voice
        gain_frames = hp.unet_gain_frames if getattr(autoencoder, "voice", None) else 0
    unet = UNet(wf=wf, in_channels=in_channels, residual=residual, batch_norm=batch_norm, gain_frames=gain_frames)
    if start:
        Training.load_initial_weights(unet, start)
    how = dict(gradient_norm=gradient_norm, bfloat16=bfloat16, average=average)
    if isinstance(autoencoder, NoteModel) or in_channels == 1 and not augmented:
        sources = DatasetCreator.find_sources(data)
        Distributed.first_process_first(lambda: write_outputs(ae, names, data, device, sources, bfloat16))
        kind = functools.partial(UNetDataset, in_channels=in_channels, own_level=isinstance(autoencoder, NoteModel))
        training, validation = make_datasets(names, data, seed, False, validation_source, kind)
        trainer = Training.Trainer(unet, losses[loss], learning_rate, device, **how)
    else:
        training, validation = make_datasets(names, data, seed, augmented, validation_source)
        trainer = UNetTrainer(unet, autoencoder, losses[loss], learning_rate, device, **how)
    settings = dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, augmented=augmented, validation_source=validation_source, start=start and str(start), wf=wf,
        in_channels=in_channels, residual=residual, batch_norm=batch_norm, gain_frames=gain_frames, loss=loss,
        held_out=held_out, **how, pieces=names,
        trained_for=trained_for, autoencoder=digest(autoencoder.network.state_dict()))
    Training.fit(trainer, training, validation, folder / "unet.torch", settings, f"{loss.upper()} loss", overwrite,
                 tensorboard, on_epoch)


def main(arguments=None):
    parser = Training.training_parser("Train the U-Net.", "unet", hp.unet_epochs, hp.unet_batch_size,
                                      hp.unet_learning_rate)
    parser.add_argument("--wf", type=Util.positive_int, default=hp.unet_wf, help="2**wf channels in the first layer")
    parser.add_argument("--in-channels", type=int, choices=(1, 2), default=hp.unet_in_channels,
                        help="2 shows it the recording beside the autoencoder's output")
    parser.add_argument("--residual", action=argparse.BooleanOptionalAction, default=hp.unet_residual,
                        help="whether the last layer sees the input too")
    parser.add_argument("--batch-norm", action=argparse.BooleanOptionalAction, default=hp.unet_batch_norm,
                        help="with batch normalisation or without")
    parser.add_argument("--gain-frames", type=Util.non_negative_int,
                        help="odd number of frames over which its correction is smoothed, a gain per band; 0 for a "
                        f"free correction (default: {hp.unet_gain_frames} behind a sampled voice, else 0)")
    parser.add_argument("--loss", choices=("mse", "l1"), default=hp.unet_loss, help="of the spectrograms")
    parser.add_argument("--held-out", action="store_true",
                        help="train on the pieces that the autoencoder was not trained on, with the same --seed")
    options = Training.parse_training_options(parser, arguments, hp.unet_report)
    del options.report
    train(**vars(options))
    own = options.data / "models" / options.model
    pair = ["--model", options.model] if options.data == hp.data else ["--ae", own / "ae.torch", "--unet",
                                                                       own / "unet.torch"]
    Training.print_next_command("Main.py", "RECORDING", *pair)


if __name__ == "__main__":
    Util.run(main)
