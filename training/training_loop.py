"""Training loop of both networks: random crops, Adam, validation, loss curves."""
import contextlib
import math

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import Hyperparameters as hp
import Util
from AEModel import AEModel, autocast, half_precision, load_weights, snapshot
from outputs import plots
from training import processes, progress
from training.checkpoints import Checkpoint, save_tensors


def schedule_factor(step, steps, name):
    """Return the factor of the learning rate, in (0, 1], at a step of 0 to `steps` - 1. The schedule "constant" is 1,
    as in the report; "linear" rises over `hp.warmup_steps`, then falls to zero after the last step."""
    if name == "constant":
        return 1.0
    warmup = min(hp.warmup_steps, steps // 10)
    return (step + 1) / (warmup + 1) if step < warmup else (steps - step) / (steps - warmup)


class Trainer(AEModel):
    """An `AEModel` with a loss, (output, target) -> scalar tensor, and an optimiser, Adam with decoupled weight decay.

    A `learning_rate` of None is for a model that is not trained. `gradient_norm` is the maximum norm of the gradients,
    0 for no limit. `bfloat16` allows mixed precision, see `AEModel.autocast`. `average` is the number of steps over
    which the weights are averaged (Polyak and Juditsky 1992, as an exponential mean), to be validated and kept.
    `parameters` are those to train, or groups of them as torch's optimisers take them, by default all. If the network
    is `started`, its weights are trained already, and are a baseline.
    """

    # what `baselines` may return -> what is said if no epoch is better
    baseline_texts = {"before the first step": "what the training began with, which is kept"}

    def __init__(self, network, loss, learning_rate, device, gradient_norm=0, bfloat16=True, average=0,
                 parameters=None, weight_decay=0, started=False):
        super().__init__(network, device)
        self.loss, self.learning_rate, self.gradient_norm, self.bfloat16 = loss, learning_rate, gradient_norm, bfloat16
        self.average, self.mean, self.steps, self.started = average, {}, 0, started
        if learning_rate:
            self.optimiser = torch.optim.AdamW(network.parameters() if parameters is None else parameters,
                                               learning_rate, weight_decay=weight_decay)
        processes.share_batch_norms(network)

    def train_epoch(self, batches, factors):
        """Train on batches for `batch_loss`, each with a factor of the learning rate, and yield the losses."""
        self.network.train()
        for batch, factor in zip(batches, factors):
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate * group.get("scale", 1) * factor
            loss, size = self.batch_loss(batch)
            loss = loss * size / processes.sum_over_processes(torch.tensor(float(size), device=self.device))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.step()
            yield processes.sum_over_processes(loss.detach()).item()

    def step(self):
        """Change the weights by the gradients, and the average of the weights by the weights."""
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        processes.sum_gradients(parameters)
        if self.gradient_norm:
            nn.utils.clip_grad_norm_(parameters, self.gradient_norm)
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
        """Write the output for the first `hp.chunk_frames` frames of the first training piece, and a picture of it."""
        source, target = (part[..., :hp.chunk_frames] for part in training_set[0])
        output = self.run(self.to_device(source[None]))[0, 0].cpu().numpy()
        Util.save_array(stem.with_suffix(".npy"), output.astype(np.float16))
        plots.save_figure(stem.with_suffix(".png"), plots.plot_spectrograms(
            {"input": source[0], f"output after epoch {epoch}": output, "target": target[0]}, training_set.names[0]))

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean loss over all frames of whole clips, and figures to show, as {"dry": {"onset F1": 0.9}}."""
        loss = frames = 0
        for clips in dataset:
            for source, target in zip(*(clip[None].split(hp.chunk_frames, dim=-1) for clip in clips)):  # for memory
                output = self.run(self.to_device(source))
                loss += self.loss(output, self.to_device(target)).item() * target.shape[-1]
                frames += target.shape[-1]
        return loss / frames, {}

    def baselines(self):
        """Return weights that the training has to surpass: one of `baseline_texts` -> state_dict."""
        return {"before the first step": self.network.state_dict()} if self.started else {}

    @contextlib.contextmanager
    def temporary_weights(self, weights):
        """Give the network other weights within a `with` block. It is unchanged if they are empty."""
        last = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(weights or last)
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
        on_epoch=None, keep_checkpoint=False):
    """Train a model, and write the weights with the smallest validation loss, those of an epoch or a baseline.

    Beside the weights `x.torch` lie `x_last.torch`, `x_losses.json` and `.png`, and the output for a piece of some
    epochs, `x_epoch_<n>.npy` and `.png`. An interrupted training leaves `x.checkpoint`: the same call then resumes,
    with the same result as without the interruption. `settings` hold all that the result depends on: "epochs",
    "batch_size", "crop_frames", "schedule", "seed", "trained_for" (`DatasetCreator.trained_for`), for a U-Net
    "autoencoder" (`AEModel.digest`), and others. `overwrite` discards a checkpoint with other settings. `tensorboard`
    writes event files to the folder `x`. `on_epoch` is called with model and state after every epoch, in the first
    process. `keep_checkpoint` leaves the checkpoint of a finished training, so that the same call does not train again.

    Return "training" and "validation", a loss per epoch, "figures" of each validation, "before", the validation of the
    best baseline or None, and "kept", the number of the kept epoch or 0, in a dict. Raises ValueError if the checkpoint
    is damaged or has other settings, TensorBoard is missing, there are more processes than crops, or a loss is not
    finite; OSError if a file cannot be written; KeyboardInterrupt after Ctrl-C or SIGTERM.
    """
    processes.reuse_memory()
    batches = count_batches(training_set, settings)
    checkpoint = Checkpoint(weights.with_suffix(".checkpoint"), model)
    losses = {"loss": loss_name, "training": [], "validation": [], "figures": [], "before": None, "kept": 0}
    state = checkpoint.resume({"settings": settings, "epoch": 0, "batch": 0, "epoch_losses": [], "seconds": 0.0,
                               "best": None, "losses": losses}, overwrite)
    events = tensorboard and processes.is_first() and progress.event_writer(weights.with_suffix(""), state["epoch"])
    pace = progress.Pace((settings["epochs"] - state["epoch"]) * batches - state["batch"])
    with processes.deferred_interrupt() as interrupted:
        if processes.is_first() and state["best"] is None:
            validate_baselines(model, validation_set, state)
        while state["epoch"] < settings["epochs"]:
            for _ in train_epoch(model, training_set, state):
                pace.step()
                checkpoint.update(state, interrupted)
            if processes.is_first():
                finish_epoch(model, training_set, validation_set, weights, state, checkpoint, on_epoch, events)
            checkpoint.update(state, interrupted)
    finish(model, weights, state, checkpoint, keep_checkpoint)
    return state["losses"]


def save_finished(network, weights, trained_for):
    """Write the weights of a network that needs no training, in half precision, in the first process."""
    if processes.is_first():
        save_tensors(weights, half_precision(snapshot(network, trained_for)))
        print(weights, flush=True)


def count_batches(training_set, settings):
    """Return the batches per epoch. Raises ValueError if crops and batch size do not suit the number of processes."""
    number = processes.process_rank()[1]
    if settings["batch_size"] % number:
        raise ValueError(f"a batch of {settings['batch_size']} does not divide among {number} processes; choose "
                         "another --batch-size")
    batches = epoch_batches(training_set, settings, 0)
    if not batches:
        raise ValueError(f"an epoch has fewer crops than there are processes, {number}; start fewer of them, or add "
                         "pieces")
    return len(batches)


def epoch_batches(training_set, settings, epoch):
    """Return the keys of all items of an epoch, in batches of which every process gets a share."""
    batches = training_set.batches(settings, epoch)
    return batches if len(batches[-1]) >= processes.process_rank()[1] else batches[:-1]


def train_epoch(model, training_set, state):
    """Train one epoch, or the rest of an interrupted one, and yield after every step. The state of `fit` changes."""
    settings, (rank, number) = state["settings"], processes.process_rank()
    batches = epoch_batches(training_set, settings, state["epoch"])
    done, steps = state["epoch"] * len(batches), settings["epochs"] * len(batches)
    factors = [schedule_factor(done + i, steps, settings["schedule"]) for i in range(state["batch"], len(batches))]
    loader = torch.utils.data.DataLoader(  # with its own generator, so that torch's, for dropout, stays as it was
        training_set, batch_sampler=[batch[rank::number] for batch in batches[state["batch"]:]],
        generator=torch.Generator(), collate_fn=getattr(training_set, "collate", None))
    with tqdm(model.train_epoch(loader, factors), total=len(batches), initial=state["batch"], leave=False,
              disable=rank > 0, desc=f"epoch {state['epoch'] + 1}/{settings['epochs']}", unit="batch") as bar:
        for loss in bar:
            check_finite(loss, state["epoch"] + 1)
            state["batch"] += 1
            state["epoch_losses"].append(loss)
            shown = {"loss": sum(state["epoch_losses"]) / state["batch"]}
            if state["losses"]["validation"]:
                shown["validation"] = state["losses"]["validation"][-1]
            bar.set_postfix({name: f"{value:.5f}" for name, value in shown.items()})
            yield
    state["losses"]["training"].append(sum(state["epoch_losses"]) / len(state["epoch_losses"]))
    state.update(epoch=state["epoch"] + 1, batch=0, epoch_losses=[])


def finish_epoch(model, training_set, validation_set, weights, state, checkpoint, on_epoch, events):
    """Validate and report an epoch, and keep the weights if they are the best so far; `events` is a writer or false."""
    losses = state["losses"]
    with model.temporary_weights(model.mean):
        loss, figures = model.validate(validation_set)
        former = [*losses["validation"], *([losses["before"]["validation"]] if losses["before"] else [])]
        losses["validation"].append(check_finite(loss, state["epoch"]))
        losses["figures"].append(figures)
        if loss < min(former, default=math.inf):
            state["best"], losses["kept"] = copy_weights(model, state), state["epoch"]
        progress.report_epoch(model, training_set, validation_set, weights, state, checkpoint.seconds / 60)
        if on_epoch:
            on_epoch(model, state)
    if events:
        progress.write_events(events, state, model.optimiser.param_groups[0]["lr"])


def validate_baselines(model, validation_set, state):
    """Validate what the training has to surpass, if there is something, and keep the best of it as the best so far."""
    losses = state["losses"]
    for what, weights in model.baselines().items():
        with model.temporary_weights(weights):
            loss, figures = model.validate(validation_set)
            progress.print_figures(what, check_finite(loss, 0), figures)
            if not losses["before"] or loss < losses["before"]["validation"]:
                state["best"] = copy_weights(model, state)
                losses["before"] = {"validation": loss, "figures": figures, "what": what}


def copy_weights(model, state):
    """Copy the weights, with front end, instruments and, for a U-Net, the autoencoder's digest beside them."""
    autoencoder = {key: value for key, value in state["settings"].items() if key == "autoencoder"}
    return snapshot(model.network, {**state["settings"]["trained_for"], **autoencoder})


def finish(model, weights, state, checkpoint, keep_checkpoint):
    """Write the last weights and the best ones, in the first process, and load the best ones into the model."""
    if processes.is_first():
        with model.temporary_weights(model.mean):
            save_tensors(weights.with_name(f"{weights.stem}_last.torch"), copy_weights(model, state))
        save_tensors(weights, state["best"])
        if keep_checkpoint:
            checkpoint.save(state)
        else:
            checkpoint.path.unlink(missing_ok=True)
        progress.report_end(weights, state, checkpoint.seconds / 60, model.baseline_texts)
    processes.wait_for_all()
    model.network.load_state_dict(load_weights(weights))


def check_finite(loss, epoch):
    """Return the loss. Raises ValueError if it is infinite or NaN."""
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} in epoch {epoch}; choose a lower --learning-rate and add --overwrite")
    return loss
