"""Command-line flags and settings that the trainings of both networks share."""
import argparse
import os
import shlex
from pathlib import Path

import DatasetCreator
import Hyperparameters as hp
import Util
from training import processes
from training.checkpoints import describe_value


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Formatter of help texts that names the default of a flag, where it has one."""

    def _get_help_string(self, action):
        named = action.default in (None, False) or "(default:" in action.help
        return action.help if named else super()._get_help_string(action)


def training_parser(description, name, epochs, batch_size, learning_rate):
    """Return a parser of the flags that both trainings share, which are the keyword arguments of their `train`. Epochs
    and so on are a default for the report's and one for the note autoencoder; `name` is that of the weights file."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    for flag, kind, (report, notes), text in (
            ("--epochs", Util.positive_int, epochs, "number of epochs"),
            ("--batch-size", Util.positive_int, batch_size, "crops per step"),
            ("--learning-rate", Util.positive_float, learning_rate, "learning rate of Adam")):
        parser.add_argument(flag, type=kind, help=f"{text} (default: {report} for the report's autoencoder, {notes} "
                            "for the note autoencoder)" if report != notes else f"{text} (default: {report})")
    parser.add_argument("--crop-frames", type=Util.non_negative_int, default=hp.crop_frames,
                        help="frames per crop; 0 for whole clips")
    parser.add_argument("--schedule", choices=("linear", "constant"), default=hp.schedule,
                        help="schedule of the learning rate")
    parser.add_argument("--seed", type=int, default=hp.seed,
                        help="random seed of the split, the initial weights and the crops")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu; auto takes the first that is available")
    parser.add_argument("--data", type=Path, default=hp.data,
                        help="folder that holds piano/ and synth/ (default: data/)")
    parser.add_argument("--augmented", action=argparse.BooleanOptionalAction,
                        help="whether crops are heard in rooms through microphones that are drawn (default: yes with "
                        "the note autoencoder, no with the report's)")
    parser.add_argument("--validation-source", help="folder with a piano for validation only, such as piano_2")
    parser.add_argument("--average", type=Util.non_negative_int, default=0, metavar="STEPS",
                        help="validate and keep the mean of the weights over this number of steps; 0 for the weights "
                        "themselves")
    parser.add_argument("--start", type=Path, help="initial weights, such as the shipped ones; the network gets "
                        "their form")
    parser.add_argument("--model", default="own",
                        help=f"name of the model: the weights are written to <data>/models/<model>/{name}.torch")
    parser.add_argument("--overwrite", action="store_true",
                        help="train a finished model again, or start an interrupted training again with other settings")
    parser.add_argument("--report", action="store_true",
                        help="use the report's network and settings instead of these defaults")
    parser.add_argument("--tensorboard", action="store_true",
                        help="write event files for TensorBoard, beside the weights")
    return parser


def parse_training_options(parser, arguments, report):
    """Parse the command line. With `--report`, the defaults are those in the dict `report`."""
    if parser.parse_args(arguments).report:
        parser.set_defaults(**report)
    return parser.parse_args(arguments)


def weights_to_train(data, model, name, overwrite):
    """Return the path <data>/models/<model>/<name>.torch. Raises ValueError if a training of these weights is finished,
    unless `overwrite` is set, or if the model names no single folder or the shipped weights. Raises OSError if the
    weights cannot be written."""
    if model == "shipped":
        raise ValueError("'shipped' is the name of the weights that come with the project; choose another --model")
    weights = data / "models" / Util.check_model_name(model) / f"{name}.torch"
    if weights.exists() and not weights.with_suffix(".checkpoint").exists() and not overwrite:
        raise ValueError(f"{weights} is finished; choose another --model, or add --overwrite to train it again"
                         f"{DatasetCreator.unrendered_remark(data)}")
    Util.check_writable(weights)
    return weights


def complete_settings(given, **defaults):
    """Return the settings of a training, with defaults for those of the dict `given` that are missing or None, among
    them those that both networks share. Raises TypeError if a name is unknown."""
    defaults.update(crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed, validation_source=None, start=None,
                    gradient_norm=hp.gradient_norm, bfloat16=hp.bfloat16, average=0)
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise TypeError(f"a training has no setting {', '.join(unknown)}; it has {', '.join(sorted(defaults))}")
    settings = {name: default if given.get(name) is None else given[name] for name, default in defaults.items()}
    return {**settings, "start": settings["start"] and str(settings["start"])}


def trainer_settings(settings):
    """Return the settings that `Trainer` takes."""
    return {name: settings[name] for name in ("gradient_norm", "bfloat16", "average")}


def check_form(path, form, wanted):
    """Raise ValueError if the form of a network from the weights in `path`, a dict of flags and values, is not the
    wanted one, in which a value of None is any."""
    for name, value in wanted.items():
        if value is not None and value != form[name]:
            flag, has, asked = name.replace("_", "-"), *map(describe_value, (form[name], value))
            raise ValueError(f"the weights in {path} have {flag} {has}, not {asked}; leave --{flag} (and --report) out "
                             "or give other weights to --start")


def print_next_command(*command):
    """Print the command that comes after a training, in the first process. One of several processes then ends."""
    rank, number = processes.process_rank()
    if rank == 0:
        print("next: python", shlex.join(map(str, command)), flush=True)
    if number > 1:
        os._exit(0)  # the usual exit sometimes aborts the threads of torch.distributed
