"""The training loop that both networks share: random crops, Adam, checkpoints, resuming, loss curves."""
import argparse
import contextlib
import json
import random
import signal
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import Hyperparameters as hp
import Util


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
        keys += [(piece, first + i * frames, frames) for i in range(count)]
    chance.shuffle(keys)
    return [keys[i:i + batch_size] for i in range(0, len(keys), batch_size)]


def schedule(step, steps, name=hp.schedule):
    """Factor on the learning rate at a step: "constant" is 1 throughout, as in the report; "linear" warms up over
    `hp.warmup_steps`, then falls to zero at the last step."""
    if name == "constant":
        return 1.0
    return min((step + 1) / min(hp.warmup_steps, steps), 1) * (1 - step / steps)


def autocast(device):
    """Mixed precision with bfloat16 where the processor computes with it, else an empty context."""
    fast = {"cuda": torch.cuda.is_bf16_supported, "cpu": torch.ops.mkldnn._is_mkldnn_bf16_supported}.get(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(fast and fast()))


class Model:
    """A network from spectrogram to spectrogram, with its loss and Adam: train one epoch, validate, generate.

    Parameters
    ----------
    network : nn.Module
        Maps [shape=(batch, 1, n_mels, t)] to the same shape.
    loss : callable
        (output, target) -> scalar tensor.
    learning_rate : float
    device : torch.device
    """

    def __init__(self, network, loss, learning_rate, device):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.loss, self.learning_rate, self.device = loss, learning_rate, device
        self.optimiser = torch.optim.Adam(network.parameters(), learning_rate)

    def train_epoch(self, batches, factors):
        """Yield the loss of each batch (source, target) after its step; `factors` scale the learning rate."""
        self.network.train()
        for (source, target), factor in zip(batches, factors):
            source, target = self.move(source), self.move(target)
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate * factor
            with autocast(self.device):
                output = self.network(source)
            loss = self.loss(output.float(), target)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), hp.gradient_norm)
            self.optimiser.step()
            yield loss.item()

    def validate(self, dataset):
        """Return the mean loss over whole clips."""
        losses = []
        for source, target in dataset:
            output = torch.from_numpy(self.generate(source[0].numpy()))
            losses.append(self.loss(output, target[0]).item())
        return sum(losses) / len(losses)

    @torch.inference_mode()
    def generate(self, spectrogram):
        """Map one spectrogram, np.ndarray [shape=(n_mels, t), in [0, 1]], to another of the same shape and range."""
        self.network.eval()
        source = self.move(torch.from_numpy(spectrogram)[None, None].float())
        with autocast(self.device):
            output = self.network(source)
        return output[0, 0].float().clip(0, 1).cpu().numpy()

    def move(self, batch):
        return batch.to(self.device, memory_format=torch.channels_last)

    def state(self):
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state(self, state):
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


def load_weights(path, network=None):
    """Read a state_dict, and put it into `network` if one is given.

    Raises FileNotFoundError if there is no such file, ValueError if it holds anything but weights of that network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; train them with AEMain.py and UNetMain.py, or restore the file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        if network is not None:
            network.load_state_dict(state)
    except Exception:
        raise ValueError(f"{path} does not hold the weights of this network; train it again or restore the file") from None
    return state


def save(path, content):
    with Util.replacing(path) as temporary:
        torch.save(content, temporary)


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


def fit(model, training_set, validation_set, weights, settings, loss_name, overwrite=False):
    """Train `model` and write its best weights, by validation loss, with the recorded losses beside them.

    For the weights `x.torch` there are `x_losses.json` and `x_losses.png`, every `hp.log_epochs` epochs the output for
    one training piece as `x_epoch_<n>.png`, and while the training lasts `x.checkpoint`, from which the same call
    goes on after an interruption, with the same result as if there had been none.

    Parameters
    ----------
    model : Model
    training_set, validation_set : AEDataset
    weights : Path
    settings : dict
        "epochs", "batch_size", "crop_frames", "schedule" and "seed"; a checkpoint of other settings is refused.
    loss_name : str
        What the loss measures, for the plot.
    overwrite : bool
        Discard finished weights, or the checkpoint of an interrupted run.

    Raises
    ------
    ValueError
        If `weights` is finished already, or its checkpoint was started with other settings.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, with the checkpoint saved.
    """
    weights = Path(weights)
    beside = {name: weights.with_name(weights.stem + name) for name in (".checkpoint", "_losses.json", "_losses.png")}
    checkpoint = beside[".checkpoint"]
    if overwrite:
        checkpoint.unlink(missing_ok=True)
    elif weights.exists() and not checkpoint.exists():
        raise ValueError(f"{weights} is finished; choose another --model, or add --overwrite to train it anew")
    settings = {**settings, "training": training_set.names, "validation": validation_set.names}
    state = {"settings": settings, "epoch": 0, "batch": 0, "epoch_losses": [], "seconds": 0.0, "best": None,
             "losses": {"loss": loss_name, "training": [], "validation": []}}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        differing = [key for key in settings if settings[key] != state["settings"][key]]
        if differing:
            raise ValueError(f"{checkpoint} was started with other settings ({', '.join(differing)}); "
                             "give the same ones, or add --overwrite to start anew")
        model.load_state(state)
        print(f"going on from epoch {state['epoch'] + 1}, batch {state['batch']}")
    lengths = [target.shape[-1] for _, target in training_set.clips]
    started = saved = time.monotonic() - state["seconds"]

    def save_checkpoint():
        nonlocal saved
        saved = time.monotonic()
        save(checkpoint, {**state, **model.state(), "seconds": saved - started})

    with deferred_interrupt() as interrupted:
        while state["epoch"] < settings["epochs"]:
            batches = crops(lengths, settings["crop_frames"], settings["batch_size"], f"{settings['seed']} {state['epoch']}")
            first, steps = state["epoch"] * len(batches), settings["epochs"] * len(batches)
            factors = [schedule(first + i, steps, settings["schedule"]) for i in range(state["batch"], len(batches))]
            loader = torch.utils.data.DataLoader(training_set, batch_sampler=batches[state["batch"]:])
            bar = tqdm(model.train_epoch(loader, factors), total=len(batches), initial=state["batch"], leave=False,
                       desc=f"epoch {state['epoch'] + 1}/{settings['epochs']}", unit="batch")
            for loss in bar:
                state["batch"] += 1
                state["epoch_losses"].append(loss)
                bar.set_postfix(loss=f"{sum(state['epoch_losses']) / state['batch']:.5f}")
                if interrupted or time.monotonic() - saved > hp.checkpoint_minutes * 60:
                    save_checkpoint()
                if interrupted:
                    raise KeyboardInterrupt
            losses = state["losses"]
            losses["training"].append(sum(state["epoch_losses"]) / len(state["epoch_losses"]))
            losses["validation"].append(model.validate(validation_set))
            if losses["validation"][-1] == min(losses["validation"]):
                state["best"] = {key: value.detach().cpu().clone() for key, value in model.network.state_dict().items()}
            state.update(epoch=state["epoch"] + 1, batch=0, epoch_losses=[])
            print(f"epoch {state['epoch']}/{settings['epochs']}  training {losses['training'][-1]:.5f}  "
                  f"validation {losses['validation'][-1]:.5f}  {(time.monotonic() - started) / 60:.1f} min", flush=True)
            Util.save_figure(beside["_losses.png"], Util.plot_losses(losses, weights.stem))
            if state["epoch"] % hp.log_epochs == 0 or state["epoch"] == settings["epochs"]:
                source, target = (clip[0].numpy() for clip in training_set[0])
                Util.save_figure(weights.with_name(f"{weights.stem}_epoch_{state['epoch']}.png"), Util.plot_spectrograms(
                    {"input": source, f"output after epoch {state['epoch']}": model.generate(source), "target": target},
                    training_set.names[0]))
            if interrupted or time.monotonic() - saved > hp.checkpoint_minutes * 60:
                save_checkpoint()
            if interrupted:
                raise KeyboardInterrupt
    with Util.replacing(beside["_losses.json"]) as temporary:
        temporary.write_text(json.dumps({**state["losses"], "settings": settings,
                                         "minutes": round((time.monotonic() - started) / 60, 1)}, indent=1) + "\n")
    save(weights, state["best"])
    checkpoint.unlink(missing_ok=True)
    model.network.load_state_dict(state["best"])
    best = min(state["losses"]["validation"])
    print(f"{weights}: validation loss {best:.5f} after {(time.monotonic() - started) / 60:.1f} min")


def command_line(description, name, epochs, batch_size, learning_rate):
    """Return the parser of the flags that both trainings share: the keyword arguments of their `train`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=epochs, help="times that every clip is seen")
    parser.add_argument("--batch-size", type=positive, default=batch_size, help="crops a step")
    parser.add_argument("--learning-rate", type=float, default=learning_rate, help="Adam's")
    parser.add_argument("--crop-frames", type=natural, default=hp.crop_frames, help="length of a crop; 0 for whole clips")
    parser.add_argument("--schedule", choices=("linear", "constant"), default=hp.schedule, help="of the learning rate")
    parser.add_argument("--seed", type=int, default=hp.seed, help="of the split, the first weights and the crops")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu; auto takes the first there is")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/")
    parser.add_argument("--model", default="own", help=f"the weights go to <data>/models/<model>/{name}.torch")
    parser.add_argument("--overwrite", action="store_true", help="discard a finished model of that name")
    return parser


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
