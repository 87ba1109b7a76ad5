"""Checkpoints of interrupted trainings: save them on time, resume from them, and name settings that differ.

The finished weights, ae.torch and unet.torch, are written by `training_loop.finish`.
"""
import time

import torch

import Hyperparameters as hp
import Util
from AEModel import load_tensors
from training import processes


def save_tensors(path, content):
    """Write tensors, in dicts and lists, with `torch.save`. Raises OSError if the file cannot be written."""
    Util.save_bytes(path, lambda file: torch.save(content, file))


def describe_difference(name, saved, present):
    """Return a text that says how a setting differs, such as "epochs 2, now 4". It names the entries of dicts that
    differ, and the number of pieces and the first few that differ."""
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
    """Return where a training is: "in epoch 2 of 6, batch 3", or "after epoch 6 of 6" between epochs and at the end."""
    epoch, epochs = state["epoch"], state["settings"]["epochs"]
    if state["batch"]:
        return f"in epoch {epoch + 1} of {epochs}, batch {state['batch']}"
    return f"after epoch {epoch} of {epochs}"


class Checkpoint:
    """The file that an interrupted training of a `training_loop.Trainer` resumes from."""

    def __init__(self, path, model):
        self.path, self.model = path, model
        self.started, self.saved = time.monotonic(), float("-inf")

    def resume(self, state, overwrite):
        """Load the model and return the state in the file, or `state` if there is no file or it is to be discarded.
        Raises ValueError if the file is damaged, or if settings differ and `overwrite` is false."""
        if not self.path.exists():
            return state
        present = state["settings"]
        try:
            found = load_tensors(self.path)
            saved, missing = found["settings"], state.keys() - found.keys()
            differing = [name for name in {**present, **saved} if present.get(name) != saved.get(name)]
            if not differing:
                self.model.load_state(found)
        except Exception:  # torch raises many kinds for a file of another format
            missing = True
        if missing:
            raise ValueError(f"{self.path} is not a checkpoint of this training, or is damaged; remove it to start "
                             "again")
        if differing and overwrite:  # the first step replaces the file
            return state
        if differing:
            texts = [describe_difference(name, saved.get(name), present.get(name)) for name in differing]
            raise ValueError(f"{self.path} was started with other settings ({'; '.join(texts)}); give the same "
                             "settings, or add --overwrite to start again")
        self.started -= found["seconds"]
        if processes.is_first():
            print(f"resuming {describe_position(found)}")
        return {**found, "settings": present}

    @property
    def seconds(self):
        """Duration of the training, without interruptions."""
        return time.monotonic() - self.started

    def update(self, state, interrupted):
        """Save the file in the first process: at the first call, which shows whether it can be written, then every
        `hp.checkpoint_minutes`, and after an interruption of any process, which raises KeyboardInterrupt. Every process
        has to call this at the same step. Raises OSError as `save_tensors`."""
        flag = torch.tensor(float(bool(interrupted)), device=self.model.device)
        stop = processes.sum_over_processes(flag).item() > 0
        due = stop or time.monotonic() - self.saved > hp.checkpoint_minutes * 60
        if due and processes.is_first():
            self.save(state)
        if stop:
            raise KeyboardInterrupt(f"stopped {describe_position(state)}, saved in {self.path}; give the same command "
                                    "to resume")

    def save(self, state):
        self.saved = time.monotonic()
        save_tensors(self.path, {**state, **self.model.state(), "seconds": self.seconds})
