"""The training loop that both networks share: random crops, Adam, checkpoints, resuming, loss curves, processes."""
import argparse
import contextlib
import json
import math
import os
import random
import shlex
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import Distributed
import Hyperparameters as hp
import Plots
import Util
from AEModel import AEModel, autocast, load_tensors, load_weights, rename_keys, snapshot


def training_parser(description, name, epochs, batch_size, learning_rate):
    """Return the parser of the flags that both trainings share: the keyword arguments of their `train`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=Util.positive_int, default=epochs, help="times that every clip is seen")
    parser.add_argument("--batch-size", type=Util.positive_int, default=batch_size, help="crops a step")
    parser.add_argument("--learning-rate", type=Util.positive_float, default=learning_rate, help="Adam's")
    parser.add_argument("--crop-frames", type=Util.non_negative_int, default=hp.crop_frames,
                        help="length of a crop; 0 for whole clips")
    parser.add_argument("--schedule", choices=("linear", "constant"), default=hp.schedule, help="of the learning rate")
    parser.add_argument("--seed", type=int, default=hp.seed, help="of the split, the first weights and the crops")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu; auto takes the first there is")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/")
    parser.add_argument("--augmented", action="store_true",
                        help="train as if other microphones in other rooms had recorded")
    parser.add_argument("--validation-source", help="folder with a piano to validate on too, and not to train on")
    parser.add_argument("--average", type=Util.non_negative_int, default=0, metavar="STEPS",
                        help="validate and keep the mean of the weights over so many steps")
    parser.add_argument("--start", type=Path, help="weights to start from, such as the shipped ones")
    parser.add_argument("--model", type=parse_model_name, default="own",
                        help=f"the weights go to <data>/models/<model>/{name}.torch")
    parser.add_argument("--overwrite", action="store_true",
                        help="train a finished model of that name anew, or an interrupted one of other settings")
    parser.add_argument("--report", action="store_true",
                        help="the report's network and training in place of the defaults named here")
    parser.add_argument("--tensorboard", action="store_true",
                        help="write event files for TensorBoard beside the weights")
    return parser


def parse_training_options(parser, arguments, report):
    """Read the command line; after `--report` the defaults are those in `report`."""
    if parser.parse_args(arguments).report:
        parser.set_defaults(**report)
    return parser.parse_args(arguments)


def parse_model_name(text):
    """Read the name of a model to train from the command line."""
    if text == "shipped":
        raise argparse.ArgumentTypeError("'shipped' is what Main.py calls the weights that come with the project; "
                                         "choose another name")
    return text


def crop_batches(lengths, frames, batch_size, seed):
    """Cut clips of the given lengths into crops from a random first frame on, shuffle, and return batches of keys.

    One call covers every frame of every clip about once: an epoch. `frames` 0 gives whole clips. The same seed
    gives the same batches.
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
    """Factor on the learning rate at a step: "constant" is 1 throughout, as in the report; "linear" warms up over
    `hp.warmup_steps`, then falls to zero at the last step."""
    name = hp.schedule if name is None else name
    if name == "constant":
        return 1.0
    return min((step + 1) / min(hp.warmup_steps, steps), 1) * (1 - step / steps)


def print_next_command(*command):
    """Print the command that comes after a training, in the first process. One of several processes ends at once: on
    the usual way out, now and then, the threads through which they speak abort it."""
    rank, number = Distributed.process_rank()
    if rank == 0:
        print("next: python", shlex.join(map(str, command)), flush=True)
    if number > 1:
        os._exit(0)


def replace_layers(network, convert):
    """Replace every layer of a network by what `convert` makes of it: another layer, or the same."""
    for name, layer in network.named_children():
        converted = convert(layer)
        if converted is layer:
            replace_layers(layer, convert)
        else:
            setattr(network, name, converted)


class Trainer(AEModel):
    """A `AEModel` with its loss and Adam: train one epoch, validate.

    Parameters
    ----------
    network : nn.Module
    loss : callable
        (output, target) -> scalar tensor.
    learning_rate : float or None
        None if it is not to be trained.
    device : torch.device
    gradient_norm : float
        To which gradients are clipped; 0 leaves them as they are.
    bfloat16 : bool
        Whether mixed precision may be used: see `AEModel.autocast`.
    average : int
        Steps over which the weights are averaged that are validated and kept (Polyak and Juditsky 1992, as an
        exponential mean); 0 takes them as they are.
    """

    def __init__(self, network, loss, learning_rate, device, gradient_norm=None, bfloat16=None,
                 average=0):
        gradient_norm = hp.gradient_norm if gradient_norm is None else gradient_norm
        bfloat16 = hp.bfloat16 if bfloat16 is None else bfloat16
        super().__init__(network, device)
        self.loss, self.learning_rate, self.gradient_norm, self.bfloat16 = loss, learning_rate, gradient_norm, bfloat16
        self.average, self.mean, self.steps = average, {}, 0
        if learning_rate:
            self.optimiser = torch.optim.Adam(network.parameters(), learning_rate)
        if Distributed.process_rank()[1] > 1:
            replace_layers(network, Distributed.share_batch_norm)

    def train_epoch(self, batches, factors):
        """Yield the loss of each batch after its step; `factors` scale the learning rate."""
        self.network.train()
        for batch, factor in zip(batches, factors):
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate * group.get("scale", 1) * factor
            loss, size = self.batch_loss(batch)
            loss = loss * size / Distributed.sum_over_processes(torch.tensor(float(size), device=self.device))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if Distributed.process_rank()[1] > 1:
                trained = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
                gradients = [(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
                             for parameter in trained]
                flat = Distributed.sum_over_processes(torch.cat(gradients))
                for parameter, part in zip(trained, flat.split([parameter.numel() for parameter in trained])):
                    parameter.grad = part.view(parameter.shape)
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
            yield Distributed.sum_over_processes(loss.detach()).item()

    def batch_loss(self, batch):
        """Return the mean loss of a batch (source, target), and how many crops it has."""
        source, target = self.prepare(self.to_device(batch[0])), self.to_device(batch[1])
        with autocast(self.device, self.bfloat16):
            output = self.network(source)
        return self.loss(output.float(), target), len(source)

    @torch.inference_mode()
    def example(self, clip):
        """Return the input, output and target of a clip of the data set, its first `hp.chunk_frames` frames."""
        source, target = (part[..., :hp.chunk_frames] for part in clip)
        return source[0], self.run(self.prepare(self.to_device(source[None])))[0, 0].cpu().numpy(), target[0]

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean loss over all frames of whole clips.

        Longer ones go in parts, so that memory does not grow with their length.
        """
        loss = frames = 0
        for clips in dataset:
            for source, target in zip(*(clip[None].split(hp.chunk_frames, dim=-1) for clip in clips)):
                output = self.run(self.prepare(self.to_device(source)))
                loss += self.loss(output, self.to_device(target)).item() * target.shape[-1]
                frames += target.shape[-1]
        return loss / frames

    def prepare(self, source):
        """Make the network's input from a batch of the data set."""
        return source

    @contextlib.contextmanager
    def averaged_weights(self):
        """Within it the network has the mean of its weights, if there is one."""
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
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
                "random": torch.get_rng_state(),
                **({"mean": self.mean, "steps": self.steps} if self.average else {})}

    def load_state(self, state):
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if "random" in state:  # not in older checkpoints
            torch.set_rng_state(state["random"])
        if self.average:
            self.steps = state["steps"]
            self.mean = {name: value.to(self.device) for name, value in state["mean"].items()}


def load_initial_weights(network, path):
    """Give a network the weights in `path` to train on from; a note classifier that they lack starts anew.

    Raises as `load_weights`, and ValueError if they are of a network of another form.
    """
    state = load_weights(path)
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError:  # other shapes
        missing, unexpected = state, ()
    if unexpected or not all(key.startswith("classifier.") for key in missing):
        raise ValueError(f"{path} does not fit the network to train; "
                         "give the flags of its form that it was trained with")


def save_tensors(path, content):
    """Write tensors, in dicts and lists, to `path`, as torch does."""
    Util.save_bytes(path, lambda file: torch.save(content, file))


# settings of checkpoints of earlier versions: names and values that have others now
former_names = {"inputs": "in_channels", "shortcut": "residual", "normalised": "batch_norm"}
former_values = {("part", "reviewer"): "classifier"}


def load_checkpoint(path, settings, model):
    """Read the checkpoint of an interrupted training. Return it, and the names of the settings in which it differs; if
    there are none, the `model` goes on from it.

    Settings are compared under their present names, and those that there were not yet count as what was done then.
    Raises ValueError if it is damaged.
    """
    try:
        state = load_tensors(path)
        for part in ("network", "mean", "best"):
            rename_keys(state.get(part) or {})
        saved = {former_names.get(name, name): value for name, value in state["settings"].items()}
        saved.update({name: present for (name, value), present in former_values.items() if saved.get(name) == value})
        if not saved.get("memory"):  # layers that the U-Net once could have; none is what it has now
            saved.pop("memory", None)
        for name, then in (("gradient_norm", hp.gradient_norm), ("bfloat16", hp.bfloat16), ("average", 0),
                           ("held_out", False), ("gain_frames", 0), ("autoencoder", settings.get("autoencoder")),
                           ("decoder", "table" if settings.get("network") == "notes" else None)):
            if name in settings:
                saved.setdefault(name, then)
        differing = [name for name in {**settings, **saved} if settings.get(name) != saved.get(name)]
        if not differing:
            model.load_state(state)
        missing = {"epoch", "batch", "epoch_losses", "seconds", "best", "losses"} - state.keys()
    except Exception:  # torch raises a dozen kinds for what is not a file of its own
        missing = True
    if missing:
        raise ValueError(f"{path} is no checkpoint of this training, or is damaged; remove it to start anew")
    return {**state, "settings": settings}, differing


def event_writer(folder, epoch):
    """Return a writer of TensorBoard's event files in `folder`, where those of later epochs than `epoch` count no more.

    Raises ValueError if the package is not there.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs a package that is not installed; pip install tensorboard, or leave the "
                         "flag out") from None
    return SummaryWriter(folder, purge_step=epoch + 1)


def check_unfinished(weights, overwrite):
    """Raise ValueError if `weights` are there already, and not to be overwritten."""
    if Path(weights).exists() and not overwrite:
        raise ValueError(f"{weights} is finished; choose another --model, or add --overwrite to train it anew")


def save_finished(network, weights, trained_for):
    """Write the weights of a network that needs no training; of several processes, the first."""
    if Distributed.process_rank()[0] == 0:
        save_tensors(weights, snapshot(network, trained_for))
        print(weights, flush=True)


def fit(model, training_set, validation_set, weights, settings, loss_name, overwrite=False, tensorboard=False,
        on_epoch=None):
    """Train `model` and write its best weights, by validation loss, with the recorded losses beside them.

    For the weights `x.torch` there are those of the last epoch, `x_last.torch`, the losses, `x_losses.json` and `.png`,
    every `hp.log_epochs` epochs the output for one training piece, `x_epoch_<n>.npy` and `.png`, and while the training
    lasts `x.checkpoint`, from which the same call goes on after an interruption, with the same result as if there had
    been none. Of several processes (torchrun) each takes its share of every batch, and the first alone writes.

    Parameters
    ----------
    model : Trainer
    training_set : AEDataset
    validation_set : AEDataset or Pieces
    weights : Path
    settings : dict
        "epochs", "batch_size", "crop_frames", "schedule", "seed", "trained_for" (`DatasetCreator.trained_for`), for a
        U-Net "autoencoder" (`AEModel.digest`), and what else the result depends on, the names of the pieces among it; a
        checkpoint of other settings is refused.
    loss_name : str
        What the loss measures, for the plot.
    overwrite : bool
        Discard finished weights, or the checkpoint of a run with other settings; one with the same is gone on with.
    tensorboard : bool
        Write both losses and the learning rate of every epoch to event files in the folder `x` too.
    on_epoch : callable, optional
        Called with the model and the state of the training after every epoch, in the first process.

    Raises
    ------
    ValueError
        If `weights` is finished already, its checkpoint is damaged or was started with other settings, TensorBoard is
        missing, there are more processes than crops, or a loss is not finite; the checkpoint written last stays.
    OSError
        If a file cannot be written; the checkpoint written last stays.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, with the checkpoint saved.
    """
    Util.reuse_memory()
    weights, (rank, number) = Path(weights), Distributed.process_rank()
    checkpoint = weights.with_suffix(".checkpoint")
    if settings["batch_size"] % number:
        raise ValueError(f"a batch of {settings['batch_size']} does not divide among {number} processes; choose "
                         "another --batch-size")
    if not checkpoint.exists():
        check_unfinished(weights, overwrite)
    state = {"settings": settings, "epoch": 0, "batch": 0, "epoch_losses": [], "seconds": 0.0, "best": None,
             "losses": {"loss": loss_name, "training": [], "validation": []}}
    note = {**settings["trained_for"], **{key: settings[key] for key in ("autoencoder",) if key in settings}}
    if checkpoint.exists():
        found, differing = load_checkpoint(checkpoint, settings, model)
        if differing and not overwrite:  # else what the first step saves takes its place
            raise ValueError(f"{checkpoint} was started with other settings ({', '.join(differing)}); "
                             "give the same ones, or add --overwrite to start anew")
        if not differing:
            state = found
            if rank == 0:
                print(f"going on from epoch {state['epoch'] + 1}, batch {state['batch']}")
    losses, lengths = state["losses"], [target.shape[-1] for target in training_set.targets]
    events = event_writer(weights.with_suffix(""), state["epoch"]) if tensorboard and rank == 0 else None
    saved, started = float("-inf"), time.monotonic() - state["seconds"]

    def pause():
        """Save the checkpoint at the first call, which shows whether it can be, every few minutes, and on Ctrl-C, which
        then takes effect."""
        nonlocal saved
        stop = Distributed.sum_over_processes(torch.tensor(float(bool(interrupted)), device=model.device)).item() > 0
        if rank == 0 and (stop or time.monotonic() - saved > hp.checkpoint_minutes * 60):
            saved = time.monotonic()
            save_tensors(checkpoint, {**state, **model.state(), "seconds": saved - started})
        if stop:
            raise KeyboardInterrupt(f"stopped in epoch {min(state['epoch'] + 1, settings['epochs'])} of "
                                    f"{settings['epochs']}, saved in {checkpoint}; give the same command to go on")

    with Util.deferred_interrupt() as interrupted:
        while state["epoch"] < settings["epochs"]:
            batches = crop_batches(lengths, settings["crop_frames"], settings["batch_size"],
                                   f"{settings['seed']} {state['epoch']}")
            if len(batches[-1]) < number:  # some process would have nothing to do
                batches.pop()
            if not batches:
                raise ValueError(f"an epoch has fewer crops than there are processes, {number}; start fewer of them, "
                                 "or add pieces")
            first, steps = state["epoch"] * len(batches), settings["epochs"] * len(batches)
            factors = [schedule_factor(first + i, steps, settings["schedule"])
                       for i in range(state["batch"], len(batches))]
            keys = [batch[rank::number] for batch in batches[state["batch"]:]]
            loader = torch.utils.data.DataLoader(  # a generator of its own leaves torch's, for dropout, as it was
                training_set, batch_sampler=keys, generator=torch.Generator())
            with tqdm(model.train_epoch(loader, factors),
                      total=len(batches), initial=state["batch"], leave=False, disable=rank > 0,
                      desc=f"epoch {state['epoch'] + 1}/{settings['epochs']}", unit="batch") as bar:
                for loss in bar:
                    check_finite(loss, state["epoch"] + 1)
                    state["batch"] += 1
                    state["epoch_losses"].append(loss)
                    bar.set_postfix({name: f"{value:.5f}" for name, value in (
                        ("loss", sum(state["epoch_losses"]) / state["batch"]),
                        *[("validation", v) for v in losses["validation"][-1:]])})
                    pause()
            losses["training"].append(sum(state["epoch_losses"]) / len(state["epoch_losses"]))
            state.update(epoch=state["epoch"] + 1, batch=0, epoch_losses=[])
            if rank == 0:
                with model.averaged_weights():
                    losses["validation"].append(check_finite(model.validate(validation_set), state["epoch"]))
                    if losses["validation"][-1] == min(losses["validation"]):
                        state["best"] = snapshot(model.network, note)
                    report_epoch(model, training_set, validation_set, weights, state, (time.monotonic() - started) / 60)
                    if on_epoch:
                        on_epoch(model, state)
                if events:
                    for part in ("training", "validation"):
                        events.add_scalar(f"{loss_name}/{part}", losses[part][-1], state["epoch"])
                    events.add_scalar("learning rate", model.optimiser.param_groups[0]["lr"], state["epoch"])
                    events.flush()
            pause()
    if rank == 0:
        with model.averaged_weights():
            save_tensors(weights.with_name(f"{weights.stem}_last.torch"), snapshot(model.network, note))
        save_tensors(weights, state["best"])
        checkpoint.unlink(missing_ok=True)
        model.network.load_state_dict(state["best"])
        best = min(losses["validation"])
        print(f"{weights}: validation loss {best:.5f}, reached in epoch {losses['validation'].index(best) + 1} of "
              f"{settings['epochs']}, after {(time.monotonic() - started) / 60:.1f} min in all")


def check_finite(loss, epoch):
    """Return the loss. Raises ValueError if it is infinite or no number."""
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} in epoch {epoch}; choose a lower --learning-rate and add --overwrite")
    return loss


def report_epoch(model, training_set, validation_set, weights, state, minutes):
    """Say how the epoch went, store the losses, their plot and the pieces they are for, and every `hp.log_epochs` what
    becomes of one piece."""
    losses, epoch, epochs = state["losses"], state["epoch"], state["settings"]["epochs"]
    print(f"epoch {epoch}/{epochs}  training {losses['training'][-1]:.5f}  validation {losses['validation'][-1]:.5f}  "
          f"{minutes:.1f} min", flush=True)
    Util.save_text(weights.with_name(f"{weights.stem}_losses.json"), json.dumps(
        {**losses, "settings": state["settings"], "training_pieces": training_set.names,
         "validation_pieces": validation_set.names,
         "minutes": round(minutes, 3)}, indent=1) + "\n")
    Plots.save_figure(weights.with_name(f"{weights.stem}_losses.png"), Plots.plot_losses(losses, weights.stem))
    if epoch % hp.log_epochs == 0 or epoch == epochs:
        source, output, target = model.example(training_set[0])
        stem = weights.with_name(f"{weights.stem}_epoch_{epoch}")
        Util.save_array(stem.with_suffix(".npy"), output.astype(np.float16))
        Plots.save_figure(stem.with_suffix(".png"), Plots.plot_spectrograms(
            {"input": source, f"output after epoch {epoch}": output, "target": target}, training_set.names[0]))
