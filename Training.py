"""Training loop of both networks: random crops, Adam, validation, loss curves."""
import contextlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import DatasetCreator
import Distributed
import Hyperparameters as hp
import Plots
import Progress
import Util
from AEModel import AEModel, autocast, half_precision, load_weights, snapshot
from Checkpoints import Checkpoint, save_tensors


def schedule_factor(step, steps, name=None):
    """Return the factor of the learning rate at a step.

    Parameters
    ----------
    step : int
        Number of the step, from 0.
    steps : int
        Number of all steps.
    name : str, optional
        "constant" is 1 at every step, as in the report. "linear" rises over `hp.warmup_steps`, then falls to zero at
        the last step. The default is `hp.schedule`.

    Returns
    -------
    float in (0, 1]
    """
    name = hp.schedule if name is None else name
    if name == "constant":
        return 1.0
    warmup = min(hp.warmup_steps, steps // 10)
    return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / (steps - warmup)


def replace_layers(network, convert):
    """Replace every layer of a network, in place.

    Parameters
    ----------
    network : nn.Module
    convert : callable
        Returns another layer for a layer, or the same one.
    """
    for name, layer in network.named_children():
        converted = convert(layer)
        if converted is layer:
            replace_layers(layer, convert)
        else:
            setattr(network, name, converted)


class Trainer(AEModel):
    """An `AEModel` with its loss and optimiser.

    Parameters
    ----------
    network : nn.Module
    loss : callable
        (output, target) -> scalar tensor.
    learning_rate : float or None
        None for a model that is not trained.
    device : torch.device
    gradient_norm : float, optional
        Maximum norm of the gradients; 0 for no limit. The default is `hp.gradient_norm`.
    bfloat16 : bool, optional
        Whether mixed precision may be used, see `AEModel.autocast`. The default is `hp.bfloat16`.
    average : int
        Number of steps over which the weights are averaged (Polyak and Juditsky 1992, as an exponential mean). The
        average is validated and kept. 0 for the weights themselves.
    parameters : iterable, optional
        Parameters to train, or groups of them, as torch's optimisers take them. The default is all.
    weight_decay : float
        Decoupled weight decay of Adam.
    started : bool
        Whether the network begins with trained weights, which are then validated before the first step.

    Attributes
    ----------
    baseline_text : str
        What `baseline` returns, in words.
    """

    baseline_text = "what the training began with, which is kept"

    def __init__(self, network, loss, learning_rate, device, gradient_norm=None, bfloat16=None, average=0,
                 parameters=None, weight_decay=0, started=False):
        super().__init__(network, device)
        self.loss, self.learning_rate = loss, learning_rate
        self.gradient_norm = hp.gradient_norm if gradient_norm is None else gradient_norm
        self.bfloat16 = hp.bfloat16 if bfloat16 is None else bfloat16
        self.average, self.mean, self.steps, self.started = average, {}, 0, started
        if learning_rate:
            self.optimiser = torch.optim.AdamW(network.parameters() if parameters is None else parameters,
                                               learning_rate, weight_decay=weight_decay)
        if Distributed.process_rank()[1] > 1:
            replace_layers(network, Distributed.share_batch_norm)

    def train_epoch(self, batches, factors):
        """Train on each batch, and yield its loss after the step.

        Parameters
        ----------
        batches : iterable
            Batches as `batch_loss` takes them.
        factors : list of float
            Factor of the learning rate at each step.
        """
        self.network.train()
        for batch, factor in zip(batches, factors):
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate * group.get("scale", 1) * factor
            loss, size = self.batch_loss(batch)
            loss = loss * size / Distributed.sum_over_processes(torch.tensor(float(size), device=self.device))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.step()
            yield Distributed.sum_over_processes(loss.detach()).item()

    def step(self):
        """Change the weights by the gradients, and the average of the weights by the weights."""
        if Distributed.process_rank()[1] > 1:
            Distributed.sum_gradients([parameter for group in self.optimiser.param_groups
                                       for parameter in group["params"]])
        if self.gradient_norm:
            nn.utils.clip_grad_norm_([parameter for group in self.optimiser.param_groups
                                      for parameter in group["params"]], self.gradient_norm)
        self.optimiser.step()
        if self.average:
            self.steps += 1
            for name, value in self.network.state_dict().items():
                if self.steps > 1 and value.is_floating_point():
                    self.mean[name].lerp_(value, 1 / min(self.steps, self.average))
                else:
                    self.mean[name] = value.clone()

    def batch_loss(self, batch):
        """Return the mean loss of a batch (source, target) and its number of crops."""
        source, target = self.to_device(batch[0]), self.to_device(batch[1])
        with autocast(self.device, self.bfloat16):
            output = self.network(source)
        return self.loss(output.float(), target), len(source)

    @torch.inference_mode()
    def save_example(self, stem, epoch, training_set, validation_set):
        """Write what the network makes of the first training piece, its first `hp.chunk_frames` frames, to `stem`.npy
        and a picture of it."""
        source, target = (part[..., :hp.chunk_frames] for part in training_set[0])
        output = self.run(self.to_device(source[None]))[0, 0].cpu().numpy()
        Util.save_array(stem.with_suffix(".npy"), output.astype(np.float16))
        Plots.save_figure(stem.with_suffix(".png"), Plots.plot_spectrograms(
            {"input": source[0], f"output after epoch {epoch}": output, "target": target[0]}, training_set.names[0]))

    @torch.inference_mode()
    def validate(self, dataset):
        """Validate the network on whole clips.

        Long clips are split into parts, so the memory does not grow with their length.

        Returns
        -------
        float
            Mean loss over all frames. The epoch with the smallest value is kept.
        dict
            Figures to show, as {"dry": {"onset F1": 0.9}}. There are none beside the loss.
        """
        loss = frames = 0
        for clips in dataset:
            for source, target in zip(*(clip[None].split(hp.chunk_frames, dim=-1) for clip in clips)):
                output = self.run(self.to_device(source))
                loss += self.loss(output, self.to_device(target)).item() * target.shape[-1]
                frames += target.shape[-1]
        return loss / frames, {}

    def baseline(self, dataset):
        """Return the network that a training has to surpass, and what `validate` returns of it; None if there is
        none."""
        return (self.network, *self.validate(dataset)) if self.started else None

    @contextlib.contextmanager
    def averaged_weights(self):
        """Give the network the average of its weights, within a `with` block. Without an average it is unchanged."""
        if not self.mean:
            yield
            return
        last = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.mean)
        try:
            yield
        finally:
            self.network.load_state_dict(last)

    def state(self):
        """Return what a checkpoint stores of the model."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
                "random": torch.get_rng_state(),
                **({"mean": self.mean, "steps": self.steps} if self.average else {})}

    def load_state(self, state):
        """Load what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if self.average:
            self.steps = state["steps"]
            self.mean = {name: value.to(self.device) for name, value in state["mean"].items()}


def fit(model, training_set, validation_set, weights, settings, loss_name, overwrite=False, tensorboard=False,
        on_epoch=None, resume=False):
    """Train a model and write the weights of the epoch with the smallest validation loss, or what it began with.

    Beside the weights `x.torch` it writes `x_last.torch`, the losses `x_losses.json` and `.png`, and sometimes the
    output for a piece, `x_epoch_<n>.npy` and `.png`. An interrupted training leaves `x.checkpoint`. The same call then
    resumes, with the same result as without the interruption. Each process takes its share of every batch.

    Parameters
    ----------
    model : Trainer
    training_set, validation_set : Dataset
        Their names are those of the pieces. Batches are those of `training_set.batches(settings, epoch)`.
    weights : Path
    settings : dict
        All that the result depends on: "epochs", "batch_size", "crop_frames", "schedule", "seed", "trained_for"
        (`DatasetCreator.trained_for`), for a U-Net "autoencoder" (`AEModel.digest`), and others.
    loss_name : str
        Name of the loss, for the plot.
    overwrite, tensorboard : bool
        Discard finished weights, or a checkpoint with other settings. Write event files too, to the folder `x`.
    on_epoch : callable, optional
        Called with model and state after every epoch, in the first process.
    resume : bool
        Whether finished weights of the same settings are loaded into the model instead of an error.

    Returns
    -------
    dict
        "training" and "validation", a loss per epoch, "figures" of each validation, "before", the validation before the
        first step or None, and "kept", the number of the kept epoch or 0.

    Raises
    ------
    ValueError
        If `weights` are finished already, the checkpoint is damaged or has other settings, TensorBoard is missing,
        there are more processes than crops, or a loss is not finite. The last checkpoint stays.
    OSError
        If a file cannot be written. The last checkpoint stays.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, with the checkpoint saved.
    """
    Util.reuse_memory()
    weights, first = Path(weights), Distributed.process_rank()[0] == 0
    if resume and weights.exists() and not weights.with_suffix(".checkpoint").exists():
        found = load_finished(model, weights, settings, overwrite)
        if found:
            return found
    else:
        check_unfinished(weights, overwrite)
    check_crops(training_set, settings)
    checkpoint = Checkpoint(weights.with_suffix(".checkpoint"), model)
    state = checkpoint.resume(initial_state(settings, loss_name), overwrite)
    events = Progress.event_writer(weights.with_suffix(""), state["epoch"]) if tensorboard and first else None
    pace = Progress.Pace(steps_left(training_set, state))
    with Util.deferred_interrupt() as interrupted:
        if first and state["best"] is None:
            judge_start(model, validation_set, state)
        while state["epoch"] < settings["epochs"]:
            for _ in train_epoch(model, training_set, state):
                pace.step()
                checkpoint.update(state, interrupted)
            if first:
                with model.averaged_weights():
                    validate_epoch(model, validation_set, state)
                    Progress.report_epoch(model, training_set, validation_set, weights, state, checkpoint.seconds / 60)
                    if on_epoch:
                        on_epoch(model, state)
                if events:
                    Progress.write_events(events, state, model.optimiser.param_groups[0]["lr"])
            checkpoint.update(state, interrupted)
    if first:
        save_weights(model, weights, state)
        checkpoint.remove()
        Progress.report_end(weights, state, checkpoint.seconds / 60, model.baseline_text)
    if Distributed.process_rank()[1] > 1:
        torch.distributed.barrier()
        model.network.load_state_dict(load_weights(weights))
    return state["losses"]


def load_finished(model, weights, settings, overwrite):
    """Load finished weights into the model if they were trained with the same settings; return their losses.

    If settings differ, return None with `overwrite`, else raise ValueError.
    """
    recorded = json.loads(Util.read_text(weights.with_name(f"{weights.stem}_losses.json")))
    if recorded["settings"] == json.loads(json.dumps(settings)):
        model.network.load_state_dict(load_weights(weights))
        return recorded
    if not overwrite:
        raise ValueError(f"{weights} was trained with other settings; give the same settings, or add --overwrite to "
                         "start again")
    return None


def initial_state(settings, loss_name):
    """Return the state of a training before its first step, which checkpoints store."""
    return {"settings": settings, "epoch": 0, "batch": 0, "epoch_losses": [], "seconds": 0.0, "best": None,
            "losses": {"loss": loss_name, "training": [], "validation": [], "figures": [], "before": None, "kept": 0}}


def save_finished(network, weights, trained_for):
    """Write the weights of a network that needs no training, in half precision, in the first process."""
    if Distributed.process_rank()[0] == 0:
        save_tensors(weights, half_precision(snapshot(network, trained_for)))
        print(weights, flush=True)


def check_unfinished(weights, overwrite):
    """Raise ValueError if a training of these weights is finished, unless `overwrite` is set."""
    weights = Path(weights)
    if weights.exists() and not weights.with_suffix(".checkpoint").exists() and not overwrite:
        raise ValueError(f"{weights} is finished; choose another --model, or add --overwrite to train it again"
                         f"{DatasetCreator.unrendered_remark(weights.parent.parent.parent)}")


def check_crops(training_set, settings):
    """Raise ValueError if the crops and the batch size do not suit the number of processes."""
    number = Distributed.process_rank()[1]
    if settings["batch_size"] % number:
        raise ValueError(f"a batch of {settings['batch_size']} does not divide among {number} processes; choose "
                         "another --batch-size")
    if not epoch_batches(training_set, settings, 0):
        raise ValueError(f"an epoch has fewer crops than there are processes, {number}; start fewer of them, or add "
                         "pieces")


def epoch_batches(training_set, settings, epoch):
    """Return the keys of all items of an epoch, in batches of which every process gets a share."""
    batches = training_set.batches(settings, epoch)
    return batches if len(batches[-1]) >= Distributed.process_rank()[1] else batches[:-1]


def steps_left(training_set, state):
    """Return the number of steps from the state of a training to its end."""
    epochs = state["settings"]["epochs"] - state["epoch"]
    return epochs * len(epoch_batches(training_set, state["settings"], state["epoch"])) - state["batch"]


def train_epoch(model, training_set, state):
    """Train one epoch, or the rest of an interrupted one, and yield after every step.

    Parameters
    ----------
    model : Trainer
    training_set : AEDataset
    state : dict
        State of the training, see `fit`. Its "batch", "epoch_losses", "epoch" and "losses" change.
    """
    settings, losses, (rank, number) = state["settings"], state["losses"], Distributed.process_rank()
    batches = epoch_batches(training_set, settings, state["epoch"])
    done, steps = state["epoch"] * len(batches), settings["epochs"] * len(batches)
    factors = [schedule_factor(done + i, steps, settings["schedule"]) for i in range(state["batch"], len(batches))]
    keys = [batch[rank::number] for batch in batches[state["batch"]:]]
    loader = torch.utils.data.DataLoader(  # with its own generator, so that torch's, for dropout, stays as it was
        training_set, batch_sampler=keys, generator=torch.Generator(),
        collate_fn=getattr(training_set, "collate", None))
    with tqdm(model.train_epoch(loader, factors), total=len(batches), initial=state["batch"], leave=False,
              disable=rank > 0, desc=f"epoch {state['epoch'] + 1}/{settings['epochs']}", unit="batch") as bar:
        for loss in bar:
            check_finite(loss, state["epoch"] + 1)
            state["batch"] += 1
            state["epoch_losses"].append(loss)
            shown = {"loss": sum(state["epoch_losses"]) / state["batch"],
                     **{"validation": value for value in losses["validation"][-1:]}}
            bar.set_postfix({name: f"{value:.5f}" for name, value in shown.items()})
            yield
    losses["training"].append(sum(state["epoch_losses"]) / len(state["epoch_losses"]))
    state.update(epoch=state["epoch"] + 1, batch=0, epoch_losses=[])


def judge_start(model, validation_set, state):
    """Validate what the training has to surpass, if there is something, and keep it as the best so far."""
    found = model.baseline(validation_set)
    if found:
        network, loss, figures = found
        state["best"] = snapshot(network, provenance_note(state["settings"]))
        state["losses"]["before"] = {"validation": check_finite(loss, 0), "figures": figures}
        Progress.print_figures("before the first step", loss, figures)


def validate_epoch(model, validation_set, state):
    """Record the validation loss of an epoch, and keep the weights if it is the smallest so far."""
    losses = state["losses"]
    loss, figures = model.validate(validation_set)
    former = [*losses["validation"], *([losses["before"]["validation"]] if losses["before"] else [])]
    losses["validation"].append(check_finite(loss, state["epoch"]))
    losses["figures"].append(figures)
    if loss < min(former, default=math.inf):
        state["best"], losses["kept"] = snapshot(model.network, provenance_note(state["settings"])), state["epoch"]


def provenance_note(settings):
    """Return what is stored beside the weights: front end, instruments, for a U-Net the autoencoder's digest."""
    return {**settings["trained_for"], **{key: settings[key] for key in ("autoencoder",) if key in settings}}


def save_weights(model, weights, state):
    """Write the last weights and those of the best epoch, and load the latter into the model."""
    with model.averaged_weights():
        last = snapshot(model.network, provenance_note(state["settings"]))
        save_tensors(weights.with_name(f"{weights.stem}_last.torch"), last)
    save_tensors(weights, state["best"])
    model.network.load_state_dict(state["best"])


def check_finite(loss, epoch):
    """Return the loss. Raises ValueError if it is infinite or NaN."""
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} in epoch {epoch}; choose a lower --learning-rate and add --overwrite")
    return loss
