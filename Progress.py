"""Progress of a training: the estimated duration, losses on the screen and in files, event files for TensorBoard."""
import json
import time

import numpy as np
from tqdm import tqdm

import Distributed
import Hyperparameters as hp
import Plots
import Util


class Pace:
    """Print the estimated duration of a training once its first steps are done.

    Parameters
    ----------
    steps : int
        Number of steps that remain.
    """

    def __init__(self, steps):
        self.steps, self.times = steps, []

    def step(self):
        """Call this after every step."""
        if len(self.times) > hp.pace_steps:
            return
        self.times.append(time.monotonic())
        if len(self.times) > hp.pace_steps and Distributed.process_rank()[0] == 0:  # the first step is slower
            minutes = (self.times[-1] - self.times[0]) / hp.pace_steps * self.steps / 60
            tqdm.write(f"estimated duration of the {self.steps} steps: {max(minutes, 1):.0f} min")


def event_writer(folder, epoch):
    """Return a writer of event files for TensorBoard in `folder`, which replaces those of later epochs than `epoch`.

    Raises ValueError if the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs a package that is not installed; pip install tensorboard, or leave the "
                         "flag out") from None
    return SummaryWriter(folder, purge_step=epoch + 1)


def write_events(events, state, learning_rate):
    """Write losses and learning rate of the last epoch with a writer of `event_writer`."""
    for part in ("training", "validation"):
        events.add_scalar(f"{state['losses']['loss']}/{part}", state["losses"][part][-1], state["epoch"])
    events.add_scalar("learning rate", learning_rate, state["epoch"])
    events.flush()


def report_epoch(model, training_set, validation_set, weights, state, minutes):
    """Print the losses of an epoch, write and plot the losses so far, and sometimes write the output for a piece.

    The output is written after the first and the last epoch, and every `hp.log_epochs` epochs.
    """
    losses, epoch, epochs = state["losses"], state["epoch"], state["settings"]["epochs"]
    print(f"epoch {epoch}/{epochs}  training {losses['training'][-1]:.5f}  validation {losses['validation'][-1]:.5f}  "
          f"{minutes:.1f} min", flush=True)
    Util.save_text(weights.with_name(f"{weights.stem}_losses.json"), json.dumps(
        {**losses, "settings": state["settings"], "training_pieces": training_set.names,
         "validation_pieces": validation_set.names,
         "minutes": round(minutes, 3)}, indent=1) + "\n")
    Plots.save_figure(weights.with_name(f"{weights.stem}_losses.png"), Plots.plot_losses(losses, weights.stem))
    if epoch in (1, epochs) or epoch % hp.log_epochs == 0:
        source, output, target = model.example(training_set[0])
        stem = weights.with_name(f"{weights.stem}_epoch_{epoch}")
        Util.save_array(stem.with_suffix(".npy"), output.astype(np.float16))
        Plots.save_figure(stem.with_suffix(".png"), Plots.plot_spectrograms(
            {"input": source, f"output after epoch {epoch}": output, "target": target}, training_set.names[0]))


def report_end(weights, state, minutes):
    """Print the best validation loss and the time that the training took."""
    losses = state["losses"]["validation"]
    print(f"{weights}: validation loss {min(losses):.5f}, reached in epoch {losses.index(min(losses)) + 1} of "
          f"{state['settings']['epochs']}, after {minutes:.1f} min in all")


def print_quality_remark(settings, default_epochs):
    """Say after a brief training, of few pieces or of few epochs without initial weights, what gives a better sound."""
    pieces = {name.partition("~")[0] for name in settings["pieces"]}
    few_epochs = settings["epochs"] < default_epochs and not settings["start"] and not settings.get("part")
    advice = ["more pieces (the report has 94, the shipped weights 302)"] * (len(pieces) < hp.few_pieces)
    advice += [f"{default_epochs} epochs"] * few_epochs
    if advice and Distributed.process_rank()[0] == 0:
        print(f"pieces: {len(pieces)}, epochs: {settings['epochs']}; such a training is only to see it run; for a good "
              f"sound take {' and '.join(advice)}", flush=True)
