"""Training loop of both networks: random crops, Adam, validation, loss curves."""
import contextlib
import math
import random
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import Distributed
import Hyperparameters as hp
import Progress
import Util
from AEModel import AEModel, autocast, half_precision, snapshot
from Checkpoints import Checkpoint, save_tensors


def crop_batches(lengths, frames, batch_size, seed):
    """Cut clips into crops that start at a random frame, and shuffle them into the batches of one epoch.

    An epoch covers every frame of every clip about once.

    Parameters
    ----------
    lengths : list of int
        Frames of each clip.
    frames : int
        Frames of a crop; 0 gives whole clips.
    batch_size : int
        Crops per batch.
    seed : str or int
        The same seed gives the same batches.

    Returns
    -------
    list of list of (int, int, int, int)
        Clip, first frame, frames and random seed of each crop: keys of an `AEDataset`.
    """
    rng = random.Random(seed)
    frames = frames or max(lengths)
    keys = []
    for piece, length in enumerate(lengths):
        count = max(length // frames, 1)
        first = rng.randint(0, max(length - count * frames, 0))
        keys += [(piece, first + i * frames, frames, rng.getrandbits(32)) for i in range(count)]
    rng.shuffle(keys)
    return [keys[i:i + batch_size] for i in range(0, len(keys), batch_size)]


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
    return min((step + 1) / min(hp.warmup_steps, steps), 1) * (1 - step / steps)


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
    """

    def __init__(self, network, loss, learning_rate, device, gradient_norm=None, bfloat16=None, average=0):
        super().__init__(network, device)
        self.loss, self.learning_rate = loss, learning_rate
        self.gradient_norm = hp.gradient_norm if gradient_norm is None else gradient_norm
        self.bfloat16 = hp.bfloat16 if bfloat16 is None else bfloat16
        self.average, self.mean, self.steps = average, {}, 0
        if learning_rate:
            self.optimiser = torch.optim.Adam(network.parameters(), learning_rate)
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
            nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_norm)
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
        source, target = self.prepare(self.to_device(batch[0])), self.to_device(batch[1])
        with autocast(self.device, self.bfloat16):
            output = self.network(source)
        return self.loss(output.float(), target), len(source)

    def prepare(self, source):
        """Return the input of the network for a batch of the data set."""
        return source

    @torch.inference_mode()
    def example(self, clip):
        """Return input, output and target of a clip of the data set, its first `hp.chunk_frames` frames."""
        source, target = (part[..., :hp.chunk_frames] for part in clip)
        return source[0], self.run(self.prepare(self.to_device(source[None])))[0, 0].cpu().numpy(), target[0]

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean loss over all frames of whole clips.

        Long clips are split into parts, so the memory does not grow with their length.
        """
        loss = frames = 0
        for clips in dataset:
            for source, target in zip(*(clip[None].split(hp.chunk_frames, dim=-1) for clip in clips)):
                output = self.run(self.prepare(self.to_device(source)))
                loss += self.loss(output, self.to_device(target)).item() * target.shape[-1]
                frames += target.shape[-1]
        return loss / frames

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
        if "random" in state:  # older checkpoints lack it
            torch.set_rng_state(state["random"])
        if self.average:
            self.steps = state["steps"]
            self.mean = {name: value.to(self.device) for name, value in state["mean"].items()}


def fit(model, training_set, validation_set, weights, settings, loss_name, overwrite=False, tensorboard=False,
        on_epoch=None):
    """Train a model and write the weights of the epoch with the smallest validation loss.

    Beside the weights `x.torch` it writes `x_last.torch`, the losses `x_losses.json` and `.png`, and sometimes the
    output for a piece, `x_epoch_<n>.npy` and `.png`. An interrupted training leaves `x.checkpoint`. The same call then
    resumes, with the same result as without the interruption. Each process takes its share of every batch.

    Parameters
    ----------
    model : Trainer
    training_set, validation_set : AEDataset
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
    check_unfinished(weights, overwrite)
    check_crops(training_set, settings)
    checkpoint = Checkpoint(weights.with_suffix(".checkpoint"), model)
    state = checkpoint.resume(initial_state(settings, loss_name), overwrite)
    events = Progress.event_writer(weights.with_suffix(""), state["epoch"]) if tensorboard and first else None
    pace = Progress.Pace(steps_left(training_set, state))
    with Util.deferred_interrupt() as interrupted:
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
        Progress.report_end(weights, state, checkpoint.seconds / 60)


def initial_state(settings, loss_name):
    """Return the state of a training before its first step, which checkpoints store."""
    return {"settings": settings, "epoch": 0, "batch": 0, "epoch_losses": [], "seconds": 0.0, "best": None,
            "losses": {"loss": loss_name, "training": [], "validation": []}}


def save_finished(network, weights, trained_for):
    """Write the weights of a network that needs no training, in half precision, in the first process."""
    if Distributed.process_rank()[0] == 0:
        save_tensors(weights, half_precision(snapshot(network, trained_for)))
        print(weights, flush=True)


def check_unfinished(weights, overwrite):
    """Raise ValueError if a training of these weights is finished, unless `overwrite` is set."""
    weights = Path(weights)
    if weights.exists() and not weights.with_suffix(".checkpoint").exists() and not overwrite:
        raise ValueError(f"{weights} is finished; choose another --model, or add --overwrite to train it again")


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
    """Return the keys of all crops of an epoch, in batches of which every process gets a share."""
    lengths = [target.shape[-1] for target in training_set.targets]
    batches = crop_batches(lengths, settings["crop_frames"], settings["batch_size"], f"{settings['seed']} {epoch}")
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
        training_set, batch_sampler=keys, generator=torch.Generator())
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


def validate_epoch(model, validation_set, state):
    """Record the validation loss of an epoch, and keep the weights if it is the smallest so far."""
    losses = state["losses"]["validation"]
    losses.append(check_finite(model.validate(validation_set), state["epoch"]))
    if losses[-1] == min(losses):
        state["best"] = snapshot(model.network, provenance_note(state["settings"]))


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
