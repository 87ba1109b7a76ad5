"""Train the U-Net behind the autoencoder that AEMain.py has trained.

`python UNetMain.py` trains data/models/own/unet.torch.
"""
import argparse
import functools
from pathlib import Path

import torch

import DatasetCreator
import Distributed
import Hyperparameters as hp
import Progress
import Training
import TrainingOptions
import Util
from AEDataset import make_datasets
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from UNet import UNet
from UNetDataset import UNetDataset, write_outputs


class UNetTrainer(Training.Trainer):
    """Trainer of a U-Net behind a finished autoencoder, which runs on each batch.

    Parameters
    ----------
    unet : UNet
    autoencoder : AEModel
    loss, learning_rate, device, **settings
        See `Training.Trainer`.
    """

    def __init__(self, unet, autoencoder, loss, learning_rate, device, **settings):
        super().__init__(unet, loss, learning_rate, device, **settings)
        self.autoencoder = autoencoder
        self.autoencoder.bfloat16 = self.bfloat16

    def prepare(self, source):
        with torch.no_grad():
            return torch.cat([self.autoencoder.run(source), source], 1)[:, :self.network.in_channels]


def load_autoencoder(path, data, device):
    """Load the autoencoder behind which the U-Net is trained.

    Raises as `AEModel.load_model`, and ValueError if it was trained for other instruments than those in `data`.
    """
    autoencoder, pair = load_model(Autoencoder, path, device), DatasetCreator.trained_for(data)["pair"]
    if not autoencoder.fits(pair):
        raise ValueError(f"{path} was trained for {autoencoder.pair}, and {data} holds {pair}; train it again with "
                         "AEMain.py --overwrite, or choose another --model")
    return autoencoder


def build_unet(start=None, voice=None, **form):
    """Return the U-Net to train.

    Parameters
    ----------
    start : str or Path, optional
        Initial weights. The form of the network follows from them.
    voice : SampledVoice, optional
        The decoder, if it is sampled. A free correction would blur it, so `gain_frames` is then not 0 by default.
    **form
        wf, in_channels, residual, batch_norm and gain_frames of `UNet`. None is the form of the initial weights, or
        the default in `Hyperparameters`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `AEModel.load_model`, and ValueError if the form is not that of the initial weights.
    """
    if start:
        network = load_model(UNet, start).network
        TrainingOptions.check_form(start, network.form, form)
        return network
    defaults = dict(wf=hp.unet_wf, in_channels=hp.unet_in_channels, residual=hp.unet_residual,
                    batch_norm=hp.unet_batch_norm, gain_frames=hp.unet_gain_frames if voice else 0)
    return UNet(**{name: default if form[name] is None else form[name] for name, default in defaults.items()})


def make_trainer(unet, autoencoder, ae, names, data, settings, device):
    """Return the trainer of a U-Net, its training set and its validation set.

    The U-Net learns from stored outputs of the autoencoder if that is a note autoencoder, which transcribes whole
    clips, or if the U-Net has one input channel and nothing is augmented, as in the report. Otherwise the autoencoder
    runs on each batch.

    Parameters
    ----------
    unet : UNet
    autoencoder : AEModel
    ae : Path
        Weights of the autoencoder.
    names : list of str
        Pieces.
    data : Path
    settings : dict
        See `train`.
    device : torch.device
    """
    loss = {"mse": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}[settings["loss"]]
    how = settings["learning_rate"], device
    seed, validation_source = settings["seed"], settings["validation_source"]
    notes = isinstance(autoencoder, NoteModel)
    if notes or unet.in_channels == 1 and not settings["augmented"]:
        sources = DatasetCreator.find_sources(data)
        Distributed.first_process_first(
            lambda: write_outputs(ae, names, data, device, sources, settings["bfloat16"], ae.parent.name))
        kind = functools.partial(UNetDataset, in_channels=unet.in_channels, own_level=notes, model=ae.parent.name)
        sets = make_datasets(names, data, seed, False, validation_source, kind)
        return Training.Trainer(unet, loss, *how, **TrainingOptions.trainer_settings(settings)), *sets
    sets = make_datasets(names, data, seed, settings["augmented"], validation_source)
    return UNetTrainer(unet, autoencoder, loss, *how, **TrainingOptions.trainer_settings(settings)), *sets


def train(data=None, model="own", wf=None, in_channels=None, residual=None, batch_norm=None, gain_frames=None,
          device="auto", overwrite=False, tensorboard=False, on_epoch=None, **settings):
    """Train data/models/<model>/unet.torch behind the autoencoder data/models/<model>/ae.torch.

    Parameters
    ----------
    data : Path, optional
        Folder with piano/ and synth/. The default is `hp.data`.
    model : str
        Name of the model.
    wf, in_channels, residual, batch_norm, gain_frames : optional
        Form of the network, see `build_unet`.
    device, overwrite, tensorboard, on_epoch
        See `Util.choose_device` and `Training.fit`.
    **settings
        "loss" ("l1" or "mse"), "held_out" and those of `TrainingOptions.complete_settings`. "start" is the path of the
        initial weights. "held_out" trains on the pieces that the autoencoder has not seen, as its transcription of the
        others is better than that of a recording (Wolpert 1992, "Stacked generalization").

    Returns
    -------
    dict
        All settings, as the losses file stores them.

    Raises
    ------
    FileNotFoundError
        If the autoencoder's weights are missing.
    ValueError, OSError
        See `load_autoencoder`, `build_unet`, `DatasetCreator.build` and `Training.fit`. Also ValueError for augmented
        crops behind a note autoencoder.
    """
    data, device = Path(hp.data if data is None else data), Util.choose_device(device)
    folder = data / "models" / TrainingOptions.check_model_name(model)
    ae, weights = folder / "ae.torch", folder / "unet.torch"
    Training.check_unfinished(weights, overwrite)
    names = Distributed.first_process_first(lambda: DatasetCreator.build(data))
    autoencoder = load_autoencoder(ae, data, device)
    notes = isinstance(autoencoder, NoteModel)
    epochs = hp.note_unet_epochs if notes else hp.unet_epochs
    settings = TrainingOptions.complete_settings(
        settings, epochs=epochs, batch_size=hp.unet_batch_size, learning_rate=hp.unet_learning_rate, loss=hp.unet_loss,
        held_out=False)
    if notes and settings["augmented"]:
        raise ValueError(f"{ae} is a note autoencoder, whose outputs are stored and not augmented; leave --augmented "
                         "out")
    torch.manual_seed(settings["seed"])
    unet = build_unet(settings["start"], getattr(autoencoder, "voice", None), wf=wf, in_channels=in_channels,
                      residual=residual, batch_norm=batch_norm, gain_frames=gain_frames)
    if settings["held_out"]:
        names = Util.split(names, settings["seed"])[1]
    trainer, training, validation = make_trainer(unet, autoencoder, ae, names, data, settings, device)
    settings.update(unet.form, pieces=names, trained_for=DatasetCreator.trained_for(data),
                    autoencoder=digest(autoencoder.network.state_dict()))
    Training.fit(trainer, training, validation, weights, settings, f"{settings['loss'].upper()} loss", overwrite,
                 tensorboard, on_epoch)
    Progress.print_quality_remark(settings, epochs)
    return settings


def main_arguments(data, model, device="auto"):
    """Return the command-line arguments of Main.py that convert a recording with the networks just trained."""
    own = data / "models" / model
    pair = ["--model", model] if data == hp.data else ["--ae", own / "ae.torch", "--unet", own / "unet.torch"]
    return ["RECORDING", *map(str, pair), *(["--device", device] if device != "auto" else [])]


def main(arguments=None):
    parser = TrainingOptions.training_parser("Train the U-Net.", "unet", (hp.unet_epochs, hp.note_unet_epochs),
                                             hp.unet_batch_size, hp.unet_learning_rate)
    parser.add_argument("--wf", type=Util.positive_int,
                        help=f"2**WF channels in the first layer (default: {hp.unet_wf}, or that of --start)")
    parser.add_argument("--in-channels", type=int, choices=(1, 2),
                        help="input channels: 1 for the autoencoder's output, 2 for the recording too (default: "
                        f"{hp.unet_in_channels}, or that of --start)")
    parser.add_argument("--residual", action=argparse.BooleanOptionalAction,
                        help="connect the input to the last layer (default: "
                        f"{'yes' if hp.unet_residual else 'no'}, or that of --start)")
    parser.add_argument("--batch-norm", action=argparse.BooleanOptionalAction,
                        help="use batch normalisation (default: "
                        f"{'yes' if hp.unet_batch_norm else 'no'}, or that of --start)")
    parser.add_argument("--gain-frames", type=Util.non_negative_int,
                        help="odd number of frames over which the correction, a gain per band, is smoothed; 0 for a "
                        f"free correction (default: {hp.unet_gain_frames} behind a sampled voice, else 0)")
    parser.add_argument("--loss", choices=("mse", "l1"), default=hp.unet_loss, help="loss of the spectrograms")
    parser.add_argument("--held-out", action="store_true",
                        help="train on the pieces that the autoencoder has not seen, which needs the same --seed")
    options = vars(TrainingOptions.parse_training_options(parser, arguments,
                                                          dict(hp.unet_report, epochs=hp.unet_epochs)))
    del options["report"]
    train(**options)
    if (options["data"], options["model"]) == (hp.data, "own") and Distributed.process_rank()[0] == 0:
        print("Main.py now prefers these weights to the shipped ones; --model shipped selects the shipped ones")
    TrainingOptions.print_next_command("Main.py", *main_arguments(options["data"], options["model"],
                                                                  options["device"]))


if __name__ == "__main__":
    Util.run(main)
