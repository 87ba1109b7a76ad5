"""Train the autoencoder: build the data set if needed, and write the weights.

`python AEMain.py` trains data/models/own/ae.torch on the recordings in data/piano and data/synth, from the shipped
weights. `python AEMain.py --report` trains the report's autoencoder.
"""
from pathlib import Path

import torch

import AEParts
import DatasetCreator
import Distributed
import Hyperparameters as hp
import Progress
import Training
import TrainingOptions
import Util
from AEDataset import make_datasets
from AEModel import NoteModel, load_model
from Autoencoder import Autoencoder


def train_report(data, names, weights, settings, device, channels=None, **how):
    """Train the report's autoencoder; see `train`. Return what `Training.fit` returns, in a list, and the settings.

    Raises ValueError if the initial weights have other channels than `channels`, or are of the note autoencoder.
    """
    initial = load_model(Autoencoder, settings["start"]) if settings["start"] else None
    if isinstance(initial, NoteModel):
        raise ValueError(f"{settings['start']} holds weights of the note autoencoder; leave --report and --network "
                         "out, or give other weights to --start")
    if initial:
        TrainingOptions.check_form(initial.path, dict(channels=initial.network.channels),
                                   dict(channels=channels and tuple(channels)))
    torch.manual_seed(settings["seed"])
    autoencoder = initial.network if initial else Autoencoder(channels=channels)
    training, validation = make_datasets(names, data, settings["seed"], settings["augmented"],
                                         settings["validation_source"])
    settings = {**settings, "channels": list(autoencoder.channels), "pieces": names,
                "trained_for": DatasetCreator.trained_for(data, training.names)}
    trainer = Training.Trainer(autoencoder, torch.nn.functional.l1_loss, settings["learning_rate"], device,
                               started=bool(initial), **TrainingOptions.trainer_settings(settings))
    losses = Training.fit(trainer, training, validation, weights, settings, "L1 loss", **how)
    return [losses], settings


def train_notes(data, names, weights, settings, device, part=None, decoder=None, scratch=False, overwrite=False, **how):
    """Train the parts of the note autoencoder, one after the other; see `train`.

    Return what `Training.fit` returns of each part, and the settings.
    """
    initial = None if scratch else AEParts.load_start(settings["start"])
    lessons = AEParts.Lessons(data, names, initial, settings, device)
    torch.manual_seed(settings["seed"])
    network = AEParts.build_network(initial, lessons, decoder, part)
    parts = AEParts.choose_parts(network, part, lessons)
    if not parts:
        Training.save_finished(network, weights, lessons.trained_for)
        return [], {**settings, "pieces": lessons.names, "trained_for": lessons.trained_for}
    losses = []
    AEParts.print_plan(parts, lessons, initial, settings)
    for number, name in enumerate(parts):
        path = weights if name == parts[-1] else weights.with_name(f"ae_{name}.torch")
        trainer, training, validation, own = AEParts.prepare(name, network, lessons, weights.parent, settings,
                                                             number == 0, bool(initial) or number > 0)
        losses.append(Training.fit(trainer, training, validation, path, own, f"loss of the {name}", overwrite,
                                   resume=path != weights, **how))
    if Distributed.process_rank()[0] == 0:
        AEParts.remove_intermediate(weights, parts)
    return losses, own


def train(data=None, model="own", network=None, part=None, decoder=None, channels=None, from_scratch=False,
          device="auto", overwrite=False, tensorboard=False, on_epoch=None, **settings):
    """Train data/models/<model>/ae.torch on the pairs in a data folder.

    Parameters
    ----------
    data, model : Path, str
        Folder with piano/ and synth/, by default `hp.data`. Name of the model.
    network : str, optional
        "notes" for the note autoencoder, the default, or "report" for the report's autoencoder.
    part : str, optional
        Part of the note autoencoder to train alone: "encoder" (with the heads behind it), "heads" or "decoder".
    decoder : str, optional
        "sampled" or "table", see `AEParts.choose_decoder`.
    channels : (int, int, int), optional
        Channels of the report's autoencoder, by default those of the initial weights, or `hp.ae_channels`.
    from_scratch : bool
        Train the note autoencoder from nothing, not from the shipped weights or "start".
    device, overwrite, tensorboard, on_epoch
        See `Util.choose_device` and `Training.fit`.
    **settings
        See `TrainingOptions.complete_settings`. "start" is the path of the initial weights.

    Returns
    -------
    dict
        All settings, as the losses file stores them.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        See `DatasetCreator.build`, `AEParts.Lessons`, `AEModel.load_model` and `Training.fit`.
    """
    data, device = Path(hp.data if data is None else data), Util.choose_device(device)
    weights = data / "models" / TrainingOptions.check_model_name(model) / "ae.torch"
    Training.check_unfinished(weights, overwrite)
    Util.check_writable(weights.parent)
    network = network or "notes"
    check_options(network, part, decoder, channels, from_scratch, settings)
    names = []
    if (data / "piano").exists() or network == "report" or not (data / "clips").exists():
        names = Distributed.first_process_first(
            lambda: DatasetCreator.build(data, whole=settings.get("crop_frames") != 0))
    how = dict(overwrite=overwrite, tensorboard=tensorboard, on_epoch=on_epoch)
    if network == "report":
        settings = TrainingOptions.complete_settings(settings, epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
                                                     learning_rate=hp.ae_learning_rate, augmented=False)
        losses, settings = train_report(data, names, weights, settings, device, channels, **how)
    else:
        settings = AEParts.complete_settings(settings, from_scratch)
        losses, settings = train_notes(data, names, weights, settings, device, part, decoder, from_scratch, **how)
    settings.update(network=network, part=part, decoder=decoder)
    Progress.print_result(*losses)
    Progress.print_quality_remark(settings)
    return settings


def check_options(network, part, decoder, channels, from_scratch, settings):
    """Raise ValueError if an option belongs to the other network, or options exclude each other."""
    if network == "report" and (part or decoder or from_scratch):
        flag = f"--{'part' if part else 'decoder' if decoder else 'from-scratch'}"
        raise ValueError(f"{flag} belongs to the note autoencoder; leave it out, or leave --report and --network out")
    if network == "notes" and channels:
        raise ValueError("--channels belongs to the report's autoencoder; leave it out, or add --report")
    if from_scratch and settings.get("start"):
        raise ValueError("--from-scratch begins without weights; leave it or --start out")


def unet_arguments(settings, data, model, device="auto", report=False):
    """Return the command-line arguments of UNetMain.py that train the U-Net behind the autoencoder just trained.

    Parameters
    ----------
    settings : dict
        What `train` returned.
    data : Path
    model, device, report
        See `main`.

    Returns
    -------
    list of str
    """
    arguments = ["--data", data] if data != hp.data else []
    arguments += ["--model", model] if model != "own" else []
    arguments += ["--device", device] if device != "auto" else []
    arguments += ["--seed", settings["seed"]] if settings["seed"] != hp.seed else []  # for the same split
    arguments += ["--validation-source", settings["validation_source"]] if settings["validation_source"] else []
    arguments += ["--report"] * report
    if settings["network"] == "report" and settings["epochs"] < hp.ae_epochs:  # a U-Net that is as much shorter
        arguments += ["--epochs", max(round(settings["epochs"] / hp.ae_epochs * hp.unet_epochs), 1)]
    unet = data / "models" / model / "unet.torch"  # belongs to an earlier autoencoder
    arguments += ["--overwrite"] * (unet.exists() or unet.with_suffix(".checkpoint").exists())
    return [str(argument) for argument in arguments]


def main(arguments=None):
    parser = TrainingOptions.training_parser(
        "Train the autoencoder.", "ae", (hp.ae_epochs, hp.note_epochs), (hp.ae_batch_size, hp.note_batch_size),
        (hp.ae_learning_rate, hp.note_learning_rate))
    parser.add_argument("--channels", type=Util.positive_int, nargs=3, metavar="N",
                        help="channels of the three layers of the report's autoencoder (default: {} {} {}, or those of "
                        "--start)".format(*hp.ae_channels))
    parser.add_argument("--network", choices=("notes", "report"),
                        help="the note autoencoder, or the report's autoencoder (default: notes)")
    parser.add_argument("--part", choices=("encoder", "heads", "decoder"),
                        help="part of the note autoencoder to train alone (encoder: with the heads behind it)")
    parser.add_argument("--decoder", choices=("sampled", "table"),
                        help="the sounds of the target, rendered from its SoundFont, or a table of spectra to train "
                        "(default: sampled where MIDI2Audio.py has rendered the target)")
    parser.add_argument("--from-scratch", action="store_true",
                        help="train the note autoencoder from nothing instead of from the shipped weights")
    options = vars(TrainingOptions.parse_training_options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    settings = train(**options)
    TrainingOptions.print_next_command("UNetMain.py", *unet_arguments(
        settings, options["data"], options["model"], options["device"], report))


if __name__ == "__main__":
    Util.run(main)
