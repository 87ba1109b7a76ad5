"""Train the autoencoder: build the data set if needed, and write the weights.

`python AEMain.py` trains data/models/own/ae.torch on the recordings in data/piano and data/synth, from the shipped
weights. `python AEMain.py --report` trains the report's autoencoder.
"""
from pathlib import Path

import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from AEDataset import make_datasets
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from training import note_training, processes, progress, training_loop, training_options


def train(data=hp.data, model="own", network="notes", part=None, decoder=None, channels=None, from_scratch=False,
          device="auto", overwrite=False, tensorboard=False, on_epoch=None, **settings):
    """Train data/models/<model>/ae.torch on the pairs in the folder `data`, with piano/ and synth/.

    Return all settings, as the losses file stores them. `network` is "notes" for the note autoencoder, or "report" for
    the report's, with `channels` as in `Autoencoder`. Of the note autoencoder, `part` is the part to train alone:
    "encoder" (with the heads behind it), "heads" or "decoder". Its `decoder` is "sampled" or "table" (see
    `note_training.choose_decoder`), and `from_scratch` trains it from nothing, not from the shipped weights.
    `training_loop.fit` explains `overwrite`, `tensorboard` and `on_epoch`. `settings` are those of
    `training_options.complete_settings`, such as "start", the path of other initial weights.

    Raises as `DatasetCreator.build`, `note_training.TrainingData`, `AEModel.load_model` and `training_loop.fit`.
    """
    data, device = Path(data), Util.choose_device(device)
    weights = training_options.weights_to_train(data, model, "ae", overwrite)
    check_options(network, part, decoder, channels, from_scratch, settings)
    names, how = [], dict(overwrite=overwrite, tensorboard=tensorboard, on_epoch=on_epoch)
    if (data / "piano").exists() or network == "report" or not (data / "clips").exists():
        names = processes.first_process_first(
            lambda: DatasetCreator.build(data, whole=settings.get("crop_frames") != 0))
    if network == "report":
        losses, settings = train_report(data, names, weights, settings, device, channels, **how)
    else:
        losses, settings = train_notes(data, names, weights, settings, device, part, decoder, from_scratch, **how)
    settings.update(network=network, part=part, decoder=decoder)
    progress.print_result(*losses)
    progress.print_quality_remark(settings)
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


def train_report(data, names, weights, settings, device, channels, **how):
    """Train the report's autoencoder; see `train`. Return a list with the losses, and the settings. Raises ValueError
    if the initial weights have other channels than `channels`, or are of the note autoencoder."""
    settings = training_options.complete_settings(settings, epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
                                                  learning_rate=hp.ae_learning_rate, augmented=False)
    initial = load_model(Autoencoder, settings["start"]) if settings["start"] else None
    if isinstance(initial, NoteModel):
        raise ValueError(f"{settings['start']} holds weights of the note autoencoder; leave --report and --network "
                         "out, or give other weights to --start")
    if initial:
        training_options.check_form(initial.path, dict(channels=initial.network.channels),
                                    dict(channels=channels and tuple(channels)))
    torch.manual_seed(settings["seed"])
    autoencoder = initial.network if initial else Autoencoder(channels=channels)
    training, validation = make_datasets(names, data, settings["seed"], settings["augmented"],
                                         settings["validation_source"])
    settings.update(channels=list(autoencoder.channels), pieces=names,
                    trained_for=DatasetCreator.trained_for(data, training.names))
    trainer = training_loop.Trainer(autoencoder, torch.nn.functional.l1_loss, settings["learning_rate"], device,
                                    started=bool(initial), **training_options.trainer_settings(settings))
    return [training_loop.fit(trainer, training, validation, weights, settings, "L1 loss", **how)], settings


def train_notes(data, names, weights, settings, device, part, decoder, from_scratch, **how):
    """Train the parts of the note autoencoder; see `train`. Return the losses of each part, and the settings."""
    settings = note_training.complete_settings(settings, from_scratch)
    initial = None if from_scratch else note_training.load_start(settings["start"])
    examples = note_training.TrainingData(data, names, initial, settings, device)
    torch.manual_seed(settings["seed"])
    network = note_training.build_network(initial, examples, decoder, part)
    parts, losses = note_training.choose_parts(network, part, examples), []
    if not parts:
        training_loop.save_finished(network, weights, examples.trained_for)
        return [], {**settings, "pieces": examples.names, "trained_for": examples.trained_for}
    note_training.print_plan(parts, examples, initial, settings)
    before = digest(network.state_dict())  # every process knows it; only the first knows which epoch was kept
    for number, name in enumerate(parts):
        if name == "heads" and losses and examples.shipped and digest(network.state_dict()) == before:
            if name == parts[-1]:
                training_loop.save_finished(network, weights, examples.trained_for)
            continue
        path = weights if name == parts[-1] else weights.with_name(f"ae_{name}.torch")
        trainer, training, validation, own = note_training.prepare(
            name, network, examples, weights.parent, settings, number == 0, bool(initial) or number > 0)
        losses.append(training_loop.fit(trainer, training, validation, path, own, f"loss of the {name}",
                                        keep_checkpoint=path != weights, **how))
    if processes.is_first():
        note_training.remove_intermediate(weights, parts)
    return losses, own


def unet_arguments(settings, data, model, device="auto", report=False):
    """Return the command-line arguments of UNetMain.py after a training with `settings`, but for default values."""
    arguments = []
    for flag, value, default in (
            ("--data", data, hp.data), ("--model", model, "own"), ("--device", device, "auto"),
            ("--seed", settings["seed"], hp.seed),  # for the same split
            ("--validation-source", settings["validation_source"], None)):
        arguments += [flag, value] if value != default else []
    arguments += ["--report"] * report
    if settings["network"] == "report" and settings["epochs"] < hp.ae_epochs:  # a U-Net that is as much shorter
        arguments += ["--epochs", max(round(settings["epochs"] / hp.ae_epochs * hp.unet_epochs), 1)]
    unet = data / "models" / model / "unet.torch"  # belongs to an earlier autoencoder
    arguments += ["--overwrite"] * (unet.exists() or unet.with_suffix(".checkpoint").exists())
    return [str(argument) for argument in arguments]


def main(arguments=None):
    parser = training_options.training_parser(
        "Train the autoencoder.", "ae", (hp.ae_epochs, hp.note_epochs), (hp.ae_batch_size, hp.note_batch_size),
        (hp.ae_learning_rate, hp.note_learning_rate))
    parser.add_argument("--channels", type=Util.positive_int, nargs=3, metavar="N",
                        help="channels of the three layers of the report's autoencoder (default: {} {} {}, or those of "
                        "--start)".format(*hp.ae_channels))
    parser.add_argument("--network", choices=("notes", "report"), default="notes",
                        help="the note autoencoder, or the report's autoencoder")
    parser.add_argument("--part", choices=("encoder", "heads", "decoder"),
                        help="part of the note autoencoder to train alone (encoder: with the heads behind it)")
    parser.add_argument("--decoder", choices=("sampled", "table"),
                        help="the sounds of the target, rendered from its SoundFont, or a table of spectra to train "
                        "(default: sampled where MIDI2Audio.py has rendered the target)")
    parser.add_argument("--from-scratch", action="store_true",
                        help="train the note autoencoder from nothing instead of from the shipped weights")
    options = vars(training_options.parse_training_options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    settings = train(**options)
    training_options.print_next_command("UNetMain.py", *unet_arguments(
        settings, options["data"], options["model"], options["device"], report))


if __name__ == "__main__":
    Util.run(main)
