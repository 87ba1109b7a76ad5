"""Train the U-Net behind the autoencoder that AEMain.py has trained.

`python UNetMain.py` trains data/models/own/unet.torch. The loss is the L1 distance of spectrograms, or the report's
MSE (`hp.unet_loss`).
"""
import argparse
import copy
from pathlib import Path

import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from AEDataset import ValidationSet, choose_sources, split_for_training
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from UNet import UNet
from UNetDataset import StoredOutputs, UNetDataset
from training import processes, progress, training_loop, training_options


def train(data=hp.data, model="own", wf=None, in_channels=None, residual=None, batch_norm=None, gain_frames=None,
          device="auto", overwrite=False, tensorboard=False, on_epoch=None, **settings):
    """Train data/models/<model>/unet.torch behind ae.torch beside it, on the pairs in the folder `data`.

    Return all settings, as the losses file stores them. `build_unet` explains the form of the network, and
    `training_loop.fit` what `overwrite`, `tensorboard` and `on_epoch` do. `settings` are "loss" ("l1" or "mse"),
    "held_out" and those of `training_options.complete_settings`, such as "start", the path of initial weights.
    "held_out" trains on the pieces that the autoencoder has not seen, as its transcription of the others is better than
    that of a recording (Wolpert 1992, "Stacked generalization").

    Raises ValueError if the autoencoder was trained for other instruments than those in `data`, and as
    `AEModel.load_model`, `build_unet`, `DatasetCreator.build` and `training_loop.fit`.
    """
    data, device = Path(data), Util.choose_device(device)
    weights = training_options.weights_to_train(data, model, "unet", overwrite)
    names = processes.first_process_first(
        lambda: DatasetCreator.build(data, whole=settings.get("crop_frames") != 0))
    autoencoder, pair = load_model(Autoencoder, weights.with_name("ae.torch"), device), DatasetCreator.pair(data)
    if not autoencoder.fits(pair):
        raise ValueError(f"{autoencoder.path} was trained for {autoencoder.pair}, and {data} holds {pair}; train it "
                         "again with AEMain.py --overwrite, or choose another --model")
    notes = isinstance(autoencoder, NoteModel)
    settings = training_options.complete_settings(
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
    trainer = UNetTrainer(unet, loss, settings["learning_rate"], device, started=bool(settings["start"]),
                          **training_options.trainer_settings(settings))
    settings.update(unet.form, pieces=names, trained_for=DatasetCreator.trained_for(data, training.names),
                    autoencoder=digest(autoencoder.network.state_dict()))
    losses = training_loop.fit(trainer, training, validation, weights, settings, f"{settings['loss'].upper()} loss",
                               overwrite, tensorboard, on_epoch)
    progress.print_result(losses)
    progress.print_quality_remark(settings)
    return settings


def build_unet(start, autoencoder, **form):
    """Return the U-Net to train, of the `form` (wf, in_channels, residual, batch_norm and gain_frames of `UNet`).

    What is None in `form` comes from the initial weights `start`, or has the default in `Hyperparameters`. A free
    correction would blur the sound of a sampled voice, so `gain_frames` is not 0 by default behind one. Behind another
    note autoencoder the U-Net is `residual` by default, so that it can pass on its input.

    Raises as `AEModel.load_model`, and ValueError if the form is not that of the initial weights.
    """
    if start:
        network = load_model(UNet, start).network
        training_options.check_form(start, network.form, form)
        return network
    notes, voice = isinstance(autoencoder, NoteModel), getattr(autoencoder, "voice", None)
    defaults = dict(wf=hp.unet_wf, in_channels=hp.unet_in_channels, residual=hp.unet_residual or notes and not voice,
                    batch_norm=hp.unet_batch_norm, gain_frames=hp.unet_gain_frames if voice else 0)
    return UNet(**{name: default if form[name] is None else form[name] for name, default in defaults.items()})


def make_datasets(autoencoder, names, data, model, in_channels, settings):
    """Store the outputs of the autoencoder, and return the training set and the validation set of the U-Net. Both have
    dry recordings, and, with "augmented", as many that are heard in rooms."""
    training, validation = split_for_training(names, settings["seed"], data=data)
    sources, held_out = choose_sources(data, settings["validation_source"])
    versions = (0, 1) if settings["augmented"] else (0,)
    every = StoredOutputs(autoencoder, data, model, sources, versions)
    parts = [StoredOutputs(autoencoder, data, model, [source], [version]) for source in held_out
             for version in versions]
    processes.first_process_first(lambda: [outputs.write(part) for outputs, part in (
        (every, training), *((outputs, validation) for outputs in parts))])
    return UNetDataset(training, data, every, in_channels), ValidationSet(
        validation, [UNetDataset(validation, data, outputs, in_channels) for outputs in parts])


class UNetTrainer(training_loop.Trainer):
    """Trainer of a U-Net. Its training has to surpass the output of the autoencoder without a U-Net, and its start."""

    baseline_texts = {**training_loop.Trainer.baseline_texts,
                      "without a U-Net": "no U-Net: these weights pass the autoencoder's output on unchanged"}

    def baselines(self):
        unchanged = copy.deepcopy(self.network)
        none = {"without a U-Net": unchanged.state_dict()} if unchanged.pass_on() else {}
        return super().baselines() | none


def main_arguments(data, model, device="auto"):
    """Return the command-line arguments of Main.py that convert a recording with the networks just trained."""
    own = data / "models" / model
    pair = ["--model", model] if data == hp.data else ["--ae", own / "ae.torch", "--unet", own / "unet.torch"]
    return ["RECORDING", *map(str, pair), *(["--device", device] if device != "auto" else [])]


def main(arguments=None):
    parser = training_options.training_parser(
        "Train the U-Net.", "unet", (hp.unet_epochs, hp.note_unet_epochs), 2 * (hp.unet_batch_size,),
        2 * (hp.unet_learning_rate,))
    parser.add_argument("--wf", type=Util.positive_int,
                        help=f"2**WF channels in the first layer (default: {hp.unet_wf}, or that of --start)")
    parser.add_argument("--in-channels", type=int, choices=(1, 2),
                        help="input channels: 1 for the autoencoder's output, 2 for the recording too (default: "
                        f"{hp.unet_in_channels}, or that of --start)")
    for flag, default, text in (("--residual", hp.unet_residual, "connect the input to the last layer"),
                                ("--batch-norm", hp.unet_batch_norm, "use batch normalisation")):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction,
                            help=f"{text} (default: {'yes' if default else 'no'}, or that of --start)")
    parser.add_argument("--gain-frames", type=Util.non_negative_int,
                        help="odd number of frames over which the correction, a gain per band, is smoothed; 0 for a "
                        f"free correction (default: {hp.unet_gain_frames} behind a sampled voice, else 0)")
    parser.add_argument("--loss", choices=("mse", "l1"), default=hp.unet_loss, help="loss of the spectrograms")
    parser.add_argument("--held-out", action="store_true",
                        help="train on the pieces that the autoencoder has not seen, which needs the same --seed")
    options = vars(training_options.parse_training_options(parser, arguments,
                                                           dict(hp.unet_report, epochs=hp.unet_epochs)))
    del options["report"]
    settings = train(**options)
    data, model = options["data"], options["model"]
    enough = settings["trained_for"]["pieces"] >= hp.few_pieces
    if enough and (data, model) == (hp.data, "own") and processes.is_first():
        print("Main.py now prefers these weights to the shipped ones; --model shipped selects the shipped ones")
    training_options.print_next_command("Main.py", *main_arguments(data, model, options["device"]))


if __name__ == "__main__":
    Util.run(main)
