"""Train the U-Net behind the autoencoder that AEMain.py has trained.

`python UNetMain.py` trains data/models/own/unet.torch.
"""
import argparse
import copy
from pathlib import Path

import torch

import DatasetCreator
import Distributed
import Hyperparameters as hp
import Progress
import Training
import TrainingOptions
import Util
from AEDataset import ValidationSet, choose_sources, split_for_training, warn_of_single_piece
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from UNet import UNet
from UNetDataset import StoredOutputs, UNetDataset


class UNetTrainer(Training.Trainer):
    """Trainer of a U-Net. Its training has to surpass the output of the autoencoder without a U-Net."""

    baseline_text = "no U-Net: these weights pass the autoencoder's output on unchanged"

    def baseline(self, dataset):
        network = copy.deepcopy(self.network)
        if not network.pass_on():
            return None
        return network, *UNetTrainer(network, self.loss, None, self.device, bfloat16=self.bfloat16).validate(dataset)


def load_autoencoder(path, data, device):
    """Load the autoencoder behind which the U-Net is trained.

    Raises as `AEModel.load_model`, and ValueError if it was trained for other instruments than those in `data`.
    """
    autoencoder, pair = load_model(Autoencoder, path, device), DatasetCreator.pair(data)
    if not autoencoder.fits(pair):
        raise ValueError(f"{path} was trained for {autoencoder.pair}, and {data} holds {pair}; train it again with "
                         "AEMain.py --overwrite, or choose another --model")
    return autoencoder


def build_unet(start=None, autoencoder=None, **form):
    """Return the U-Net to train.

    Parameters
    ----------
    start : str or Path, optional
        Initial weights. The form of the network follows from them.
    autoencoder : AEModel, optional
        A free correction would blur the sound of a sampled voice, so `gain_frames` is then not 0 by default. Behind
        another note autoencoder the U-Net is `residual` by default, so that it can pass on its input.
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
    notes, voice = isinstance(autoencoder, NoteModel), getattr(autoencoder, "voice", None)
    defaults = dict(wf=hp.unet_wf, in_channels=hp.unet_in_channels, residual=hp.unet_residual or notes and not voice,
                    batch_norm=hp.unet_batch_norm, gain_frames=hp.unet_gain_frames if voice else 0)
    return UNet(**{name: default if form[name] is None else form[name] for name, default in defaults.items()})


def make_datasets(autoencoder, names, data, model, in_channels, settings):
    """Store the outputs of the autoencoder, and return the training set and the validation set of the U-Net.

    Both have dry recordings, and, with "augmented", as many that are heard in rooms.
    """
    training, validation = split_for_training(names, settings["seed"])
    warn_of_single_piece(training, validation, data)
    sources, held_out = choose_sources(data, settings["validation_source"])
    versions = (0, 1) if settings["augmented"] else (0,)
    every = StoredOutputs(autoencoder, data, model, sources, versions)
    parts = [StoredOutputs(autoencoder, data, model, [source], [version]) for source in held_out
             for version in versions]
    Distributed.first_process_first(lambda: [outputs.write(part) for outputs, part in (
        (every, training), *((outputs, validation) for outputs in parts))])
    return UNetDataset(training, data, every, in_channels), ValidationSet(
        validation, [UNetDataset(validation, data, outputs, in_channels) for outputs in parts])


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
        See `load_autoencoder`, `build_unet`, `DatasetCreator.build` and `Training.fit`.
    """
    data, device = Path(hp.data if data is None else data), Util.choose_device(device)
    folder = data / "models" / TrainingOptions.check_model_name(model)
    ae, weights = folder / "ae.torch", folder / "unet.torch"
    Training.check_unfinished(weights, overwrite)
    Util.check_writable(folder)
    names = Distributed.first_process_first(
        lambda: DatasetCreator.build(data, whole=settings.get("crop_frames") != 0))
    autoencoder = load_autoencoder(ae, data, device)
    notes = isinstance(autoencoder, NoteModel)
    settings = TrainingOptions.complete_settings(
        settings, epochs=hp.note_unet_epochs if notes else hp.unet_epochs, batch_size=hp.unet_batch_size,
        learning_rate=hp.unet_learning_rate, loss=hp.unet_loss, held_out=False, augmented=notes)
    autoencoder.bfloat16 = settings["bfloat16"]
    torch.manual_seed(settings["seed"])
    unet = build_unet(settings["start"], autoencoder, wf=wf, in_channels=in_channels, residual=residual,
                      batch_norm=batch_norm, gain_frames=gain_frames)
    if settings["held_out"]:
        names = Util.split(names, settings["seed"])[1]
    training, validation = make_datasets(autoencoder, names, data, model, unet.in_channels, settings)
    loss = {"mse": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}[settings["loss"]]
    trainer = UNetTrainer(unet, loss, settings["learning_rate"], device, **TrainingOptions.trainer_settings(settings))
    settings.update(unet.form, pieces=names, trained_for=DatasetCreator.trained_for(data, training.names),
                    autoencoder=digest(autoencoder.network.state_dict()))
    losses = Training.fit(trainer, training, validation, weights, settings, f"{settings['loss'].upper()} loss",
                          overwrite, tensorboard, on_epoch)
    Progress.print_result(losses)
    Progress.print_quality_remark(settings)
    return settings


def main_arguments(data, model, device="auto"):
    """Return the command-line arguments of Main.py that convert a recording with the networks just trained."""
    own = data / "models" / model
    pair = ["--model", model] if data == hp.data else ["--ae", own / "ae.torch", "--unet", own / "unet.torch"]
    return ["RECORDING", *map(str, pair), *(["--device", device] if device != "auto" else [])]


def main(arguments=None):
    parser = TrainingOptions.training_parser(
        "Train the U-Net.", "unet", (hp.unet_epochs, hp.note_unet_epochs), 2 * (hp.unet_batch_size,),
        2 * (hp.unet_learning_rate,))
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
    settings = train(**options)
    enough = settings["trained_for"]["pieces"] >= hp.few_pieces
    if enough and (options["data"], options["model"]) == (hp.data, "own") and Distributed.process_rank()[0] == 0:
        print("Main.py now prefers these weights to the shipped ones; --model shipped selects the shipped ones")
    TrainingOptions.print_next_command("Main.py", *main_arguments(options["data"], options["model"],
                                                                  options["device"]))


if __name__ == "__main__":
    Util.run(main)
