"""The training loop that both networks share: random crops, Adam, checkpoints, resuming, loss curves, several processes."""
import argparse
import contextlib
import ctypes
import datetime
import json
import math
import os
import random
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Util
from AEDataset import AEDataset


def crops(lengths, frames, batch_size, seed):
    """Cut clips of the given lengths into crops from a random first frame on, shuffle, and return batches of keys.

    One call covers every frame of every clip about once: an epoch. `frames` 0 gives whole clips. The same seed
    gives the same batches.
    """
    chance = random.Random(seed)
    frames = frames or max(lengths)
    keys = []
    for piece, length in enumerate(lengths):
        count = max(length // frames, 1)
        first = chance.randint(0, max(length - count * frames, 0))
        keys += [(piece, first + i * frames, frames, chance.getrandbits(32)) for i in range(count)]
    chance.shuffle(keys)
    return [keys[i:i + batch_size] for i in range(0, len(keys), batch_size)]


def schedule(step, steps, name=hp.schedule):
    """Factor on the learning rate at a step: "constant" is 1 throughout, as in the report; "linear" warms up over
    `hp.warmup_steps`, then falls to zero at the last step."""
    if name == "constant":
        return 1.0
    return min((step + 1) / min(hp.warmup_steps, steps), 1) * (1 - step / steps)


def autocast(device):
    """Mixed precision with bfloat16 where the processor computes with it and `hp.bfloat16` is set."""
    fast = {"cuda": lambda: torch.cuda.is_bf16_supported(),
            "cpu": lambda: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()}.get(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(hp.bfloat16 and fast and fast()))


def reuse_memory():
    """Have Linux's malloc keep blocks of any size for the next step: to get them from the system anew takes a tenth of it."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # macOS has no such function, Windows no such call
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, 2 ** 31 - 1)


def processes():
    """Return (rank, number) of the processes that torchrun started, and join them at the first call; else (0, 1)."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        own_gpu = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        if own_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # the others wait while the first alone builds the data set
        dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo", timeout=datetime.timedelta(days=1))
    return dist.get_rank(), dist.get_world_size()


def first_alone(work):
    """Call `work` in the first process, then in the others, which find done what it left; return its result."""
    rank, number = processes()
    if rank == 0:
        result = work()
    if number > 1:
        dist.barrier()
    return result if rank == 0 else work()


def summed(tensor):
    """The sum of a tensor over all processes."""
    if processes()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


class SharedSum(torch.autograd.Function):
    """`summed`, through which gradients flow: what a process adds to the sum acts on the losses of all."""

    @staticmethod
    def forward(context, tensor):
        return summed(tensor.clone())

    @staticmethod
    def backward(context, gradient):
        return summed(gradient.clone())


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' batches, so that how many there are does not matter.
    (torch's own SyncBatchNorm needs CUDA.)"""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        axes, x = (0, 2, 3), x.float()
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = SharedSum.apply(torch.cat([x.sum(axes), (x ** 2).sum(axes), count]))
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = (square - mean ** 2).clamp(min=0)  # rounding may leave it below
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * sums[-1] / (sums[-1] - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


class Upsampling(nn.ConvTranspose2d):
    """A transposed convolution whose kernel is as large as its stride, so that its outputs do not overlap: computed as a 1 x 1
    convolution to more channels, which are then laid out beside each other. The same sums, the gradient in half the time."""

    def forward(self, x):
        _, channels, *kernel = self.weight.shape
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]
        y = nn.functional.conv2d(x, weight, self.bias.repeat(kernel[0] * kernel[1])).permute(0, 2, 3, 1)
        return y.unflatten(3, (*kernel, channels)).transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class Model:
    """A network from spectrogram to spectrogram, with its loss and Adam: train one epoch, validate, generate.

    Parameters
    ----------
    network : nn.Module
        Maps [shape=(batch, 1, n_mels, t)] to the same shape.
    loss : callable
        (output, target) -> scalar tensor.
    learning_rate : float or None
        None if it is not to be trained: importing the optimiser takes a second.
    device : torch.device
    """

    def __init__(self, network, loss, learning_rate, device):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.loss, self.learning_rate, self.device = loss, learning_rate, device
        if learning_rate:
            self.optimiser = torch.optim.Adam(network.parameters(), learning_rate)
        for module in network.modules():
            if processes()[1] > 1 and isinstance(module, nn.BatchNorm2d):
                module.__class__ = SharedBatchNorm2d  # same parameters, same names

    def train_epoch(self, batches, factors):
        """Yield the loss of each batch (source, target) after its step; `factors` scale the learning rate."""
        self.network.train()
        for (source, target), factor in zip(batches, factors):
            source, target = self.prepare(self.move(source)), self.move(target)
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate * factor
            with autocast(self.device):
                output = self.network(source)
            share = len(source) / summed(torch.tensor(float(len(source)), device=self.device))
            loss = share * self.loss(output.float(), target)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if processes()[1] > 1:
                gradients = [parameter.grad for parameter in self.network.parameters()]
                flat = summed(torch.cat([gradient.flatten() for gradient in gradients]))
                for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                    gradient.copy_(part.view(gradient.shape))
            nn.utils.clip_grad_norm_(self.network.parameters(), hp.gradient_norm)
            self.optimiser.step()
            yield summed(loss.detach()).item()

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean loss over all frames of whole clips, longer ones in parts, so that memory does not grow with their length."""
        loss = frames = 0
        for clips in dataset:
            for source, target in zip(*(clip[None].split(hp.chunk_frames, dim=-1) for clip in clips)):
                output = self.run(self.prepare(self.move(source)))
                loss += self.loss(output, self.move(target)).item() * target.shape[-1]
                frames += target.shape[-1]
        return loss / frames

    @torch.inference_mode()
    def generate(self, *spectrograms):
        """Map a spectrogram, np.ndarray [shape=(n_mels, t), in [0, 1]], to another of the same shape and range.

        A network of several input channels takes as many, the one to improve first; what is left over is ignored.
        """
        source = torch.from_numpy(np.stack(spectrograms[:self.network.inputs]))[None].float()
        return self.run(self.move(source))[0, 0].cpu().numpy()

    def run(self, source):
        """Map a batch as `generate` does."""
        self.network.eval()
        with autocast(self.device):
            return self.network(source).float().clip(0, 1)

    def prepare(self, source):
        """Make the network's input from a batch of the data set."""
        return source

    def move(self, batch):
        return batch.to(self.device, memory_format=torch.channels_last)

    def state(self):
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state(self, state):
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


class Pieces(torch.utils.data.ConcatDataset):
    """The same pieces from several data sets, after each other."""

    def __init__(self, names, datasets):
        super().__init__(datasets)
        self.names = names


def split(names, seed):
    """As `Util.split`, with at most `hp.validation_pieces` for validation, evenly from those held out."""
    training, validation = Util.split(names, seed)
    return training, validation[::-(-len(validation) // hp.validation_pieces)]


def datasets(names, data, seed, augmented, validation_source):
    """Split the pieces: return the training set, on all pianos but `validation_source`, and the validation set, whole
    clips of up to `hp.validation_pieces` on the first piano and on `validation_source`.

    Raises ValueError if that is none of at least two pianos."""
    training, validation = split(names, seed)
    found = DatasetCreator.sources(data)
    if validation_source and (validation_source not in found or len(found) < 2):
        raise ValueError(f"the validation source is one of at least two pianos, not '{validation_source}'; {data} holds {', '.join(found)}")
    pianos = [source for source in found if source != validation_source]
    held_out = [AEDataset(validation, data, [source]) for source in (pianos[0], validation_source) if source]
    return AEDataset(training, data, pianos, augmented), Pieces(validation, held_out)


def load_weights(path):
    """Read a state_dict, in single precision.

    Raises FileNotFoundError if there is no such file, ValueError if it holds anything but tensors by name, or what was
    trained with another front end than the present one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; train them with AEMain.py and UNetMain.py, or restore the file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key, value in state.items():
            state[key] = value.float() if value.is_floating_point() else value
    except Exception:  # torch raises a dozen kinds for what is not a file of its own
        raise ValueError(f"{path} does not hold the weights of a network; train it again or restore the file") from None
    front_end = trained_for(state).get("front_end", DatasetCreator.front_end())
    for name, value in DatasetCreator.front_end().items():
        if front_end.get(name) != value:
            raise ValueError(f"{path} was trained with {name} = {front_end.get(name)}, and Hyperparameters.py has {value}; "
                             "set it back or train again")
    return state


def start_from(network, path):
    """Give a network the weights in `path` to train on from; `UNet.Memory`, where they lack it, starts as it is made.

    Raises as `load_weights`, and ValueError if they are of a network of another form.
    """
    try:
        missing, unexpected = network.load_state_dict(load_weights(path), strict=False)
    except RuntimeError:  # another size
        missing = [""]
    if not all(key.startswith("memory.") for key in missing) or unexpected:
        raise ValueError(f"{path} does not fit the network to train; give the flags of its form that it was trained with")


def trained_for(state):
    """What `snapshot` noted in a state_dict: "front_end" and "pair", or nothing if it is from elsewhere."""
    return getattr(state, "_metadata", {}).get("trained_for", {})


def save(path, content):
    Util.save(path, lambda file: torch.save(content, file))


@contextlib.contextmanager
def deferred_interrupt():
    """Yield a list that Ctrl-C and SIGTERM fill instead of breaking off, so that a step is never left half-done."""
    seen = []
    previous = {number: signal.signal(number, lambda number, frame: seen.append(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def event_writer(folder, epoch):
    """Return a writer of TensorBoard's event files in `folder`; what lies there of later epochs than `epoch` counts no more.

    Raises ValueError if the package is not there.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs a package that is not installed; pip install tensorboard, or leave the flag out") from None
    return SummaryWriter(folder, purge_step=epoch + 1)


def finish(*command):
    """Print the command that comes after a training, in the first process. One of several processes ends at once: on the usual
    way out, now and then, the threads through which they speak abort it."""
    rank, number = processes()
    if rank == 0:
        print("next: python", shlex.join(map(str, command)), flush=True)
    if number > 1:
        os._exit(0)


def fit(model, training_set, validation_set, weights, settings, loss_name, overwrite=False, tensorboard=False):
    """Train `model` and write its best weights, by validation loss, with the recorded losses beside them.

    For the weights `x.torch` there are those of the last epoch, `x_last.torch`, the losses, `x_losses.json` and `.png`,
    every `hp.log_epochs` epochs the output for one training piece, `x_epoch_<n>.npy` and `.png`, and while the training
    lasts `x.checkpoint`, from which the same call goes on after an interruption, with the same result as if there had been
    none. Of several processes (torchrun) each takes its share of every batch, and the first alone writes.

    Parameters
    ----------
    model : Model
    training_set : AEDataset
    validation_set : AEDataset or Pieces
    weights : Path
    settings : dict
        "epochs", "batch_size", "crop_frames", "schedule", "seed", "trained_for" (`DatasetCreator.trained_for`) and what else
        the result depends on, the names of the pieces among it; a checkpoint of other settings is refused.
    loss_name : str
        What the loss measures, for the plot.
    overwrite : bool
        Discard finished weights, or the checkpoint of an interrupted run.
    tensorboard : bool
        Write both losses and the learning rate of every epoch to event files in the folder `x` too.

    Raises
    ------
    ValueError
        If `weights` is finished already, its checkpoint was started with other settings, TensorBoard is missing, there are more
        processes than crops, or a loss is not finite; the checkpoint written last stays.
    OSError
        If a file cannot be written; the checkpoint written last stays.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, with the checkpoint saved.
    """
    reuse_memory()
    weights, (rank, number) = Path(weights), processes()
    checkpoint = weights.with_suffix(".checkpoint")
    if settings["batch_size"] % number:
        raise ValueError(f"a batch of {settings['batch_size']} does not divide among {number} processes; choose another --batch-size")
    if overwrite:
        first_alone(lambda: checkpoint.unlink(missing_ok=True))
    elif weights.exists() and not checkpoint.exists():
        raise ValueError(f"{weights} is finished; choose another --model, or add --overwrite to train it anew")
    state = {"settings": settings, "epoch": 0, "batch": 0, "epoch_losses": [], "seconds": 0.0, "best": None,
             "losses": {"loss": loss_name, "training": [], "validation": []}}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        differing = [key for key in settings if settings[key] != state["settings"].get(key)]
        if differing:
            raise ValueError(f"{checkpoint} was started with other settings ({', '.join(differing)}); "
                             "give the same ones, or add --overwrite to start anew")
        model.load_state(state)
        if rank == 0:
            print(f"going on from epoch {state['epoch'] + 1}, batch {state['batch']}")
    losses, lengths = state["losses"], [target.shape[-1] for target in training_set.targets]
    events = event_writer(weights.with_suffix(""), state["epoch"]) if tensorboard and rank == 0 else None
    saved, started = float("-inf"), time.monotonic() - state["seconds"]

    def pause():
        """Save the checkpoint at the first call, which shows whether it can be, every few minutes, and on Ctrl-C, which
        then takes effect."""
        nonlocal saved
        stop = summed(torch.tensor(float(bool(interrupted)), device=model.device)).item() > 0
        if rank == 0 and (stop or time.monotonic() - saved > hp.checkpoint_minutes * 60):
            saved = time.monotonic()
            save(checkpoint, {**state, **model.state(), "seconds": saved - started})
        if stop:
            raise KeyboardInterrupt(f"stopped in epoch {min(state['epoch'] + 1, settings['epochs'])} of {settings['epochs']}, saved in "
                                    f"{checkpoint}; give the same command to go on")

    with deferred_interrupt() as interrupted:
        while state["epoch"] < settings["epochs"]:
            batches = crops(lengths, settings["crop_frames"], settings["batch_size"], f"{settings['seed']} {state['epoch']}")
            if len(batches[-1]) < number:  # some process would have nothing to do
                batches.pop()
            if not batches:
                raise ValueError(f"an epoch has fewer crops than there are processes, {number}; start fewer of them, or add pieces")
            first, steps = state["epoch"] * len(batches), settings["epochs"] * len(batches)
            factors = [schedule(first + i, steps, settings["schedule"]) for i in range(state["batch"], len(batches))]
            keys = [batch[rank::number] for batch in batches[state["batch"]:]]
            with tqdm(model.train_epoch(torch.utils.data.DataLoader(training_set, batch_sampler=keys), factors),
                      total=len(batches), initial=state["batch"], leave=False, disable=rank > 0,
                      desc=f"epoch {state['epoch'] + 1}/{settings['epochs']}", unit="batch") as bar:
                for loss in bar:
                    check_finite(loss, state["epoch"] + 1)
                    state["batch"] += 1
                    state["epoch_losses"].append(loss)
                    bar.set_postfix({name: f"{value:.5f}" for name, value in (
                        ("loss", sum(state["epoch_losses"]) / state["batch"]), *[("validation", v) for v in losses["validation"][-1:]])})
                    pause()
            losses["training"].append(sum(state["epoch_losses"]) / len(state["epoch_losses"]))
            state.update(epoch=state["epoch"] + 1, batch=0, epoch_losses=[])
            if rank == 0:
                losses["validation"].append(check_finite(model.validate(validation_set), state["epoch"]))
                if losses["validation"][-1] == min(losses["validation"]):
                    state["best"] = snapshot(model.network, settings["trained_for"])
                report(model, training_set, validation_set, weights, state, (time.monotonic() - started) / 60)
                if events:
                    for part in ("training", "validation"):
                        events.add_scalar(f"{loss_name}/{part}", losses[part][-1], state["epoch"])
                    events.add_scalar("learning rate", model.optimiser.param_groups[0]["lr"], state["epoch"])
                    events.flush()
            pause()
    if rank == 0:
        save(weights.with_name(f"{weights.stem}_last.torch"), snapshot(model.network, settings["trained_for"]))
        save(weights, state["best"])
        checkpoint.unlink(missing_ok=True)
        model.network.load_state_dict(state["best"])
        best = min(losses["validation"])
        print(f"{weights}: validation loss {best:.5f}, reached in epoch {losses['validation'].index(best) + 1} of {settings['epochs']}, "
              f"after {(time.monotonic() - started) / 60:.1f} min in all")


def check_finite(loss, epoch):
    """Return the loss. Raises ValueError if it is infinite or no number."""
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} in epoch {epoch}; choose a lower --learning-rate and add --overwrite")
    return loss


def snapshot(network, trained_for):
    """A copy of a network's state_dict in the processor's memory, with a note of the front end and pair it is for."""
    state = network.state_dict()
    state._metadata["trained_for"] = trained_for  # beside the tensors: the file remains a plain state_dict
    for key in state:
        state[key] = state[key].detach().cpu().clone()
    return state


def report(model, training_set, validation_set, weights, state, minutes):
    """Say how the epoch went, store the losses, their plot and the pieces they are for, and every `hp.log_epochs` what becomes
    of one piece."""
    losses, epoch, epochs = state["losses"], state["epoch"], state["settings"]["epochs"]
    print(f"epoch {epoch}/{epochs}  training {losses['training'][-1]:.5f}  validation {losses['validation'][-1]:.5f}  "
          f"{minutes:.1f} min", flush=True)
    Util.save_text(weights.with_name(f"{weights.stem}_losses.json"), json.dumps(
        {**losses, "settings": state["settings"], "training_pieces": training_set.names, "validation_pieces": validation_set.names,
         "minutes": round(minutes, 3)}, indent=1) + "\n")
    Util.save_figure(weights.with_name(f"{weights.stem}_losses.png"), Util.plot_losses(losses, weights.stem))
    if epoch % hp.log_epochs == 0 or epoch == epochs:
        source, target = (clip[..., :hp.chunk_frames] for clip in training_set[0])
        with torch.inference_mode():
            output = model.run(model.prepare(model.move(source[None])))[0, 0].cpu().numpy()
        stem = weights.with_name(f"{weights.stem}_epoch_{epoch}")
        Util.save_array(stem.with_suffix(".npy"), output.astype(np.float16))
        Util.save_figure(stem.with_suffix(".png"), Util.plot_spectrograms(
            {"input": source[0], f"output after epoch {epoch}": output, "target": target[0]}, training_set.names[0]))


def command_line(description, name, epochs, batch_size, learning_rate):
    """Return the parser of the flags that both trainings share: the keyword arguments of their `train`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=epochs, help="times that every clip is seen")
    parser.add_argument("--batch-size", type=positive, default=batch_size, help="crops a step")
    parser.add_argument("--learning-rate", type=rate, default=learning_rate, help="Adam's")
    parser.add_argument("--crop-frames", type=natural, default=hp.crop_frames, help="length of a crop; 0 for whole clips")
    parser.add_argument("--schedule", choices=("linear", "constant"), default=hp.schedule, help="of the learning rate")
    parser.add_argument("--seed", type=int, default=hp.seed, help="of the split, the first weights and the crops")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu; auto takes the first there is")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/")
    parser.add_argument("--augmented", action="store_true", help="train as if other microphones in other rooms had recorded")
    parser.add_argument("--validation-source", help="folder with a piano to validate on too, and not to train on")
    parser.add_argument("--start", type=Path, help="weights to start from, such as the shipped ones")
    parser.add_argument("--model", type=model_name, default="own", help=f"the weights go to <data>/models/<model>/{name}.torch")
    parser.add_argument("--overwrite", action="store_true", help="discard a finished model of that name")
    parser.add_argument("--report", action="store_true", help="the report's network and training in place of the defaults named here")
    parser.add_argument("--tensorboard", action="store_true", help="write event files for TensorBoard beside the weights")
    return parser


def options(parser, arguments, report):
    """Read the command line; after `--report` the defaults are those in `report`."""
    if parser.parse_args(arguments).report:
        parser.set_defaults(**report)
    return parser.parse_args(arguments)


def model_name(text):
    """Read the name of a model to train from the command line."""
    if text == "shipped":
        raise argparse.ArgumentTypeError("'shipped' is what Main.py calls the weights that come with the project; choose another name")
    return text


def rate(text):
    """Read a positive, finite number from the command line."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def natural(text):
    """Read a natural number from the command line."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def positive(text):
    """Read a positive integer from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number
