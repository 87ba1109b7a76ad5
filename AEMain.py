"""Train the autoencoder: build the data set if needed, and write the weights.

`python AEMain.py` trains data/models/own/ae.torch on the recordings in data/piano and data/synth.
"""
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Distributed
import Hyperparameters as hp
import Progress
import Training
import TrainingOptions
import Util
from AEDataset import AEDataset, NoteDataset, make_datasets
from AEModel import NoteModel, load_model, peak_frame_level, target_instrument
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder, NoteDecoder
from NoteTrainer import NoteTrainer
from SampledVoice import SampledVoice


def choose_network(network, initial, part, decoder, channels, names, data):
    """Return which autoencoder to train: "notes" or "report".

    Parameters
    ----------
    network : str or None
        The choice of the user. None chooses that of the initial weights, else "notes" where every piece has notes.
    initial : AEModel or None
        Initial weights.
    part, decoder, channels
        Options of one of the two, see `train`.
    names : list of str
        Pieces.
    data : Path

    Raises
    ------
    ValueError
        If the notes are missing, the initial weights are of the other network, or an option belongs to the other.
    """
    known = initial and ("notes" if isinstance(initial, NoteModel) else "report")
    network = network or known or ("notes" if DatasetCreator.has_notes(names, data) else "report")
    called = {"notes": "the note autoencoder", "report": "the report's autoencoder"}
    if known not in (None, network):
        raise ValueError(f"{initial.path} holds weights of {called[known]}; give --network {known}, or other weights "
                         "to --start")
    if network == "notes" and not DatasetCreator.has_notes(names, data):
        raise ValueError(f"{data / 'notes'} holds no notes, which {called['notes']} needs; put the MIDI files of the "
                         "pieces there, or give --network report" + " and leave --start out" * bool(initial))
    if network == "report" and (part or decoder):
        raise ValueError(f"--{'part' if part else 'decoder'} belongs to {called['notes']}; leave it out, or give "
                         "--network notes")
    if network == "notes" and channels:
        raise ValueError(f"--channels belongs to {called['report']}; leave it out, or give --network report")
    return network


parts_of = {None: ("encoder", "decoder"), "encoder": ("encoder",), "decoder": ("decoder",)}  # of each value of --part


def choose_decoder(target, decoder=None):
    """Return which decoder of notes to make: "sampled" or "table".

    The default is "sampled" for a target that MIDI2Audio.py has rendered without reverberation, else "table". Raises
    ValueError if "sampled" is asked for and the sounds of the target cannot be rendered.
    """
    rendered = target != "recordings" and not target.endswith(":room")
    if decoder == "sampled" and not rendered:
        raise ValueError(f"the target, {target}, is not a preset of a SoundFont without reverberation, whose sounds "
                         "could be rendered; give --decoder table")
    return decoder or ("sampled" if rendered else "table")


def build_note_network(initial, target, decoder):
    """Return a `NoteAutoencoder` to train.

    Parameters
    ----------
    initial : NoteModel or None
        Initial weights, and with them the form.
    target : str
        Target instrument.
    decoder : str or None
        "sampled" for a `SampledVoice` of the target, "table" for a `NoteDecoder` to train. That of the initial weights
        is kept if it is of this kind and for this target. None keeps the decoder.
    """
    network = initial.network if initial else NoteAutoencoder()
    same_target = initial and target_instrument(initial.pair) in ("", target)
    if decoder == "sampled" and not (same_target and isinstance(network.decoder, SampledVoice)):
        import MIDI2Audio  # which only rendering needs
        import Scale

        network.decoder = Distributed.first_process_first(lambda: Scale.render_voice(MIDI2Audio.parse_preset(target)))
    elif decoder == "table" and initial and not (same_target and isinstance(network.decoder, NoteDecoder)):
        network.decoder = NoteDecoder()  # learns faster than the decoder of another instrument
    return network


def note_trainer(initial, part, decoder, training, trained_for, settings, device):
    """Return the trainer of a note autoencoder.

    Parameters
    ----------
    initial : NoteModel or None
        Initial weights, see `build_note_network`.
    part : str or None
        Part to train alone.
    decoder : str
        See `choose_decoder`. A sampled decoder is not trained.
    training : NoteDataset
        Its targets give the level of the decoder's output.
    trained_for : dict
        See `DatasetCreator.trained_for`.
    settings : dict
    device : torch.device
    """
    parts = parts_of[part]
    target = target_instrument(trained_for["pair"])
    network = build_note_network(initial, target, decoder if "decoder" in parts else None)
    if decoder == "sampled":
        parts = tuple(part for part in parts if part != "decoder")
    if "decoder" in parts:
        levels = [peak_frame_level(Util.to_db(target[:].numpy())) for target in training.targets]
        network.decoder.loudest.fill_(float(np.mean(levels)))
    return NoteTrainer(network, settings["learning_rate"], device, parts, part is None,
                       **TrainingOptions.trainer_settings(settings))


def report_trainer(initial, channels, settings, device):
    """Return the trainer of the report's autoencoder, with the form of the initial weights if there are any.

    Raises ValueError if these have other channels than `channels`.
    """
    if initial:
        TrainingOptions.check_form(initial.path, dict(channels=initial.network.channels),
                                   dict(channels=channels and tuple(channels)))
    network = initial.network if initial else Autoencoder(channels=channels)
    return Training.Trainer(network, torch.nn.functional.l1_loss, settings["learning_rate"], device,
                            **TrainingOptions.trainer_settings(settings))


def default_epochs(network):
    """Return the default number of epochs of "notes" or "report"."""
    return hp.note_epochs if network == "notes" else hp.ae_epochs


def complete_settings(given, network):
    """Return the settings of a training of "notes" or "report", see `TrainingOptions.complete_settings`."""
    settings = TrainingOptions.complete_settings(given, epochs=default_epochs(network), batch_size=hp.ae_batch_size,
                                                 learning_rate=hp.ae_learning_rate)
    return {**settings, "network": network}


def train(data=None, model="own", network=None, part=None, decoder=None, channels=None, device="auto", overwrite=False,
          tensorboard=False, on_epoch=None, **settings):
    """Train data/models/<model>/ae.torch on the pairs in a data folder.

    Parameters
    ----------
    data, model : Path, str
        Folder with piano/ and synth/, by default `hp.data`. Name of the model.
    network : str, optional
        "notes" for the note autoencoder, which needs the notes of each piece, data/notes/<piece>.mid. "report" for the
        report's autoencoder. The default follows from the initial weights, or from whether there are notes.
    part : str, optional
        Part of the note autoencoder to train alone: "encoder" or "decoder".
    decoder : str, optional
        "sampled" or "table", see `choose_decoder`. A sampled decoder alone needs the preset of the target only.
    channels : (int, int, int), optional
        Channels of the report's autoencoder, by default those of the initial weights, or `hp.ae_channels`.
    device, overwrite, tensorboard, on_epoch
        See `Util.choose_device` and `Training.fit`.
    **settings
        See `complete_settings`. "start" is the path of the initial weights.

    Returns
    -------
    dict
        All settings, as the losses file stores them.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        See `DatasetCreator.build`, `choose_network`, `AEModel.load_model` and `Training.fit`.
    """
    data, device = Path(hp.data if data is None else data), Util.choose_device(device)
    weights = data / "models" / TrainingOptions.check_model_name(model) / "ae.torch"
    Training.check_unfinished(weights, overwrite)
    initial = load_model(Autoencoder, settings["start"]) if settings.get("start") else None
    trained_for = DatasetCreator.trained_for(data)
    target = target_instrument(trained_for["pair"])
    if part == "decoder" and network != "report" and choose_decoder(target, decoder) == "sampled":
        Training.save_finished(build_note_network(initial, target, "sampled"), weights, trained_for)
        settings = complete_settings({**settings, "epochs": None}, "notes")  # there were no epochs
        return {**settings, "part": part, "decoder": "sampled"}
    names = Distributed.first_process_first(lambda: DatasetCreator.build(data))
    network = choose_network(network, initial, part, decoder, channels, names, data)
    settings = complete_settings(settings, network)
    kind = NoteDataset if network == "notes" else AEDataset
    training, validation = make_datasets(names, data, settings["seed"], settings["augmented"],
                                         settings["validation_source"], kind)
    torch.manual_seed(settings["seed"])
    if network == "notes":
        decoder = choose_decoder(target, decoder)
        trainer = note_trainer(initial, part, decoder, training, trained_for, settings, device)
        loss_name = f"loss of the {part}" if part else "loss of notes and spectrogram (validation: L1)"
    else:
        trainer, loss_name = report_trainer(initial, channels, settings, device), "L1 loss"
        channels = list(trainer.network.channels)
    settings.update(part=part, decoder=decoder, channels=channels, pieces=names, trained_for=trained_for)
    Training.fit(trainer, training, validation, weights, settings, loss_name, overwrite, tensorboard, on_epoch)
    Progress.print_quality_remark(settings, default_epochs(network))
    return settings


def unet_arguments(settings, data, model, device="auto", report=False):
    """Return the command-line arguments of UNetMain.py that train the U-Net behind the autoencoder just trained.

    Parameters
    ----------
    settings : dict
        What `train` returned. A shorter training than the default is followed by one that is as much shorter. If a
        U-Net lies beside the initial weights, training starts from it.
    data : Path
    model, device, report
        See `main`.

    Returns
    -------
    list of str
    """
    arguments = ["--data", data] if data != hp.data else []
    arguments += ["--model", model]
    arguments += ["--device", device] if device != "auto" else []
    arguments += ["--seed", settings["seed"]] if settings["seed"] != hp.seed else []  # for the same split
    arguments += ["--validation-source", settings["validation_source"]] if settings["validation_source"] else []
    arguments += ["--augmented"] if settings["augmented"] and settings["network"] == "report" else []
    arguments += ["--report"] * report
    share = settings["epochs"] / default_epochs(settings["network"])
    if share < 1:
        unet_epochs = hp.note_unet_epochs if settings["network"] == "notes" and not report else hp.unet_epochs
        arguments += ["--epochs", max(round(share * unet_epochs), 1)]
    start = settings["start"] and Path(settings["start"]).with_name("unet.torch")
    if start and start.exists() and not report:
        arguments += ["--start", start]
    unet = data / "models" / model / "unet.torch"  # belongs to an earlier autoencoder
    arguments += ["--overwrite"] * (unet.exists() or unet.with_suffix(".checkpoint").exists())
    return [str(argument) for argument in arguments]


def main(arguments=None):
    parser = TrainingOptions.training_parser("Train the autoencoder.", "ae", (hp.ae_epochs, hp.note_epochs),
                                             hp.ae_batch_size, hp.ae_learning_rate)
    parser.add_argument("--channels", type=Util.positive_int, nargs=3, metavar="N",
                        help="channels of the three layers of the report's autoencoder (default: {} {} {}, or those of "
                        "--start)".format(*hp.ae_channels))
    parser.add_argument("--network", choices=("notes", "report"),
                        help="the note autoencoder, or the report's autoencoder (default: that of --start, or notes "
                        "where data/notes has them)")
    parser.add_argument("--part", choices=("encoder", "decoder"), help="part of the note autoencoder to train alone")
    parser.add_argument("--decoder", choices=("sampled", "table"),
                        help="the sounds of the target, rendered from its SoundFont, or a table of spectra to train "
                        "(default: sampled where MIDI2Audio.py has rendered the target)")
    options = vars(TrainingOptions.parse_training_options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    settings = train(**options)
    TrainingOptions.print_next_command("UNetMain.py", *unet_arguments(
        settings, options["data"], options["model"], options["device"], report))


if __name__ == "__main__":
    Util.run(main)
