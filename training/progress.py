"""Progress of a training: the estimated duration, losses on the screen and in files, event files for TensorBoard."""
import json
import time

from tqdm import tqdm

import Hyperparameters as hp
import Util
from outputs import plots
from training import processes

pace_steps = 5          # number of steps that are timed for the estimated duration of a training


class Pace:
    """Print the estimated duration of a training of so many steps once its first steps are done."""

    def __init__(self, steps):
        self.steps, self.times = steps, []

    def step(self):
        """Call this after every step."""
        if len(self.times) > pace_steps:
            return
        self.times.append(time.monotonic())
        if len(self.times) > pace_steps and processes.is_first():  # the first step is slower
            minutes = (self.times[-1] - self.times[0]) / pace_steps * self.steps / 60
            tqdm.write(f"estimated duration of the {self.steps} steps: {max(minutes, 1):.0f} min")


def event_writer(folder, epoch):
    """Return a writer of event files for TensorBoard, which replaces those of later epochs than `epoch` in the folder.
    Raises ValueError if the package is missing."""
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


def print_figures(what, loss, figures):
    """Print the figures of a validation in one line, or its loss if there are none."""
    texts = [f"{kind} " + " / ".join(f"{value:.3f}" for value in part.values()) for kind, part in figures.items()]
    print(f"{what}  {'; '.join(texts) or f'validation {loss:.5f}'}", flush=True)


def report_epoch(model, training_set, validation_set, weights, state, minutes):
    """Print the losses of an epoch, write and plot those so far, and write the output for a piece after the first and
    the last epoch and every `hp.log_epochs` epochs."""
    losses, epoch, epochs = state["losses"], state["epoch"], state["settings"]["epochs"]
    print_figures(f"epoch {epoch}/{epochs}  {minutes:.1f} min  training {losses['training'][-1]:.5f}",
                  losses["validation"][-1], losses["figures"][-1])
    Util.save_text(weights.with_name(f"{weights.stem}_losses.json"), json.dumps(
        {**losses, "settings": state["settings"], "training_pieces": training_set.names,
         "validation_pieces": validation_set.names, "minutes": round(minutes, 3)}, indent=1) + "\n")
    title = f"{weights.parent.name}/{weights.stem}: {state['settings']['trained_for']['pair'] or 'made clips'}"
    plots.save_figure(weights.with_name(f"{weights.stem}_losses.png"), plots.plot_losses(losses, title))
    if epoch in (1, epochs) or epoch % hp.log_epochs == 0:
        model.save_example(weights.with_name(f"{weights.stem}_epoch_{epoch}"), epoch, training_set, validation_set)


def report_end(weights, state, minutes, baseline_texts):
    """Print how a training ended: the time that it took, and what it kept, the best epoch or a baseline."""
    losses, kept, epochs = state["losses"], state["losses"]["kept"], state["settings"]["epochs"]
    if kept:
        print(f"{weights}: validation loss {losses['validation'][kept - 1]:.5f}, reached in epoch {kept} of {epochs}, "
              f"after {minutes:.1f} min in all")
    else:
        print(f"{weights}: none of {epochs} epochs is better than {baseline_texts[losses['before']['what']]}; "
              f"{minutes:.1f} min in all")


def print_result(*trainings):
    """Print a small table of the figures before and after the trainings of one part after the other, if there was
    something before. They are what `training_loop.fit` returned."""
    before, after = {}, {}
    for losses in trainings:
        if losses["before"]:
            old, kept = losses["before"], losses["kept"]
            before = {**(old["figures"] or {"": {"validation loss": old["validation"]}}), **before}
            new = {name: losses[name][kept - 1] for name in ("validation", "figures")} if kept else old
            after.update(new["figures"] or {"": {"validation loss": new["validation"]}})
    rows = [(f"{kind} {name}".strip(), value, after[kind][name])
            for kind in before for name, value in before[kind].items()]
    if processes.is_first() and rows:
        width = max(len(name) for name, *_ in rows)
        print(f"{'':{width}}   before    after")
        for name, old, new in rows:
            print(f"{name:{width}}  {old:7.3f}  {new:7.3f}", flush=True)


def print_quality_remark(settings):
    """Say after a training on few pieces what gives a better sound."""
    pieces = settings["trained_for"]["pieces"]
    if pieces < hp.few_pieces and processes.is_first():
        print(f"trained on {pieces} pieces; Main.py takes such a model only if --model names it; for a good sound take "
              f"at least {hp.few_pieces}", flush=True)
