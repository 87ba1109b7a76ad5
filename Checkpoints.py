"""Checkpoints of interrupted trainings: save them on time, resume from them, and name settings that differ."""
import time

import torch

import Distributed
import Hyperparameters as hp
import Util
from AEModel import load_tensors


def save_tensors(path, content):
    """Write tensors, in dicts and lists, to `path` with `torch.save`.

    Raises OSError if the file cannot be written.
    """
    Util.save_bytes(path, lambda file: torch.save(content, file))


def load_checkpoint(path, settings, model):
    """Read the checkpoint of an interrupted training, and load it into the model if the settings are the same.

    Parameters
    ----------
    path : Path
    settings : dict
        Settings of the present training, see `Training.fit`.
    model : Training.Trainer

    Returns
    -------
    dict
        State of the training, with the present settings.
    dict
        Name of each setting that differs -> (saved value, present value). If it is not empty, the model is unchanged.

    Raises
    ------
    ValueError
        If the file is damaged or is not a checkpoint of this training.
    """
    try:
        state = load_tensors(path)
        saved = state["settings"]
        differing = {name: (saved.get(name), settings.get(name)) for name in {**settings, **saved}
                     if settings.get(name) != saved.get(name)}
        if not differing:
            model.load_state(state)
        missing = {"epoch", "batch", "epoch_losses", "seconds", "best", "losses"} - state.keys()
    except Exception:  # torch raises many kinds for a file of another format
        missing = True
    if missing:
        raise ValueError(f"{path} is not a checkpoint of this training, or is damaged; remove it to start again")
    return {**state, "settings": settings}, differing


def describe_difference(name, saved, present):
    """Return a text that says how a setting differs, such as "epochs 2, now 4".

    Of dicts it names the entries that differ, and of lists how many entries each has and the first few that differ.
    """
    if isinstance(saved, dict) and isinstance(present, dict):
        keys = [key for key in {**saved, **present} if saved.get(key) != present.get(key)]
        return ", ".join(describe_difference(key, saved.get(key), present.get(key)) for key in keys)
    if isinstance(saved, list) and isinstance(present, list) and name == "pieces":
        changes = [f"{text} {', '.join(found[:3])}{', ...' * (len(found) > 3)}" for text, found in (
            ("without", sorted(set(saved) - set(present))), ("with", sorted(set(present) - set(saved)))) if found]
        return f"{len(saved)} pieces, now {len(present)}: {' and '.join(changes)}"
    return f"{name} {describe_value(saved)}, now {describe_value(present)}"


def describe_value(value):
    """Return a setting's value as a user would write it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def describe_position(state):
    """Return where a training is: "in epoch 2 of 6, batch 3" or, between two epochs and at the end, "after epoch 6 of
    6"."""
    epoch, epochs = state["epoch"], state["settings"]["epochs"]
    return f"in epoch {epoch + 1} of {epochs}, batch {state['batch']}" if state["batch"] else (
        f"after epoch {epoch} of {epochs}")


class Checkpoint:
    """The file that an interrupted training resumes from.

    Parameters
    ----------
    path : Path
    model : Training.Trainer
    """

    def __init__(self, path, model):
        self.path, self.model = path, model
        self.started, self.saved = time.monotonic(), float("-inf")

    def resume(self, state, overwrite):
        """Return the state in the file, or `state` if there is no file or it is to be discarded.

        Raises ValueError if the file is damaged, or if settings differ and `overwrite` is false.
        """
        if not self.path.exists():
            return state
        found, differing = load_checkpoint(self.path, state["settings"], self.model)
        if differing and overwrite:  # the first step replaces the file
            return state
        if differing:
            texts = [describe_difference(name, *values) for name, values in differing.items()]
            raise ValueError(f"{self.path} was started with other settings ({'; '.join(texts)}); give the same "
                             "settings, or add --overwrite to start again")
        self.started -= found["seconds"]
        if Distributed.process_rank()[0] == 0:
            print(f"resuming {describe_position(found)}")
        return found

    @property
    def seconds(self):
        """Duration of the training, without interruptions."""
        return time.monotonic() - self.started

    def update(self, state, interrupted):
        """Save the file if it is due, in the first process.

        It is due at the first call, which shows whether the file can be written, then every `hp.checkpoint_minutes`,
        and after an interruption. Every process has to call this at the same step.

        Raises OSError if the file cannot be written, and KeyboardInterrupt after an interruption of any process.
        """
        flag = torch.tensor(float(bool(interrupted)), device=self.model.device)
        stop = Distributed.sum_over_processes(flag).item() > 0
        due = stop or time.monotonic() - self.saved > hp.checkpoint_minutes * 60
        if due and Distributed.process_rank()[0] == 0:
            self.saved = time.monotonic()
            save_tensors(self.path, {**state, **self.model.state(), "seconds": self.seconds})
        if stop:
            raise KeyboardInterrupt(f"stopped {describe_position(state)}, saved in {self.path}; give the same command "
                                    "to resume")

    def remove(self):
        self.path.unlink(missing_ok=True)
