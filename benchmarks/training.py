"""Compare training speed and validation loss of a plain training loop and ours: benchmarks/training.md.

- Plain: whole clips in single precision, one per step, each from a .npy file that is opened at every step; Adam with a
  constant learning rate; torch's own layers.
- Faster layers: plain, with `BandConv2d`, `BandConvTranspose2d`, `TimeUpsample` and `Upsample2d`, which compute the
  same in less time.
- Ours: `Training.Trainer` with the default crops, batches and schedule of AEMain.py and UNetMain.py.

Networks, initial weights, losses, learning rates and pieces are the same. `--data FOLDER` names a folder with piano/
and synth/, as MIDI2Audio.py writes it. With other data or options, the page is written to the working folder. Run it on
an idle machine.
"""
import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import random
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from AEDataset import AEDataset, split_for_training
from AEModel import NoteModel, autocast, load_model
from Autoencoder import Autoencoder, BandConv2d, BandConvTranspose2d, TimeUpsample
from UNet import UNet, Upsample2d
from UNetDataset import UNetDataset, write_outputs
from UNetMain import UNetTrainer
from common import is_default, min_training_pieces, output_path, table

faster = "plain, faster layers"
networks = {  # the report's size and ours, and the training loops that are compared
    "autoencoder of the report": ("plain", "ours"),
    "autoencoder": ("plain", faster, "ours"),
    "U-Net of the report": ("plain", "ours"),
    "U-Net": ("plain", faster, "ours"),
}


def plain_layer(layer):
    """Return torch's own layer with the same parameters, in place of a faster one."""
    if not isinstance(layer, (BandConv2d, BandConvTranspose2d, TimeUpsample, Upsample2d)):
        return layer
    own = type(layer).__base__(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
    own.weight, own.bias = layer.weight, layer.bias
    return own


def plain(network, loss, learning_rate, paths, clips):
    """Train with the plain loop on `paths`, a list of (*sources, target).

    Yields the number of clips of each step, up to `clips` in all.
    """
    network.train()
    optimiser, rng, seen = torch.optim.Adam(network.parameters(), learning_rate), random.Random(hp.seed), 0
    while True:
        for files in rng.sample(paths, len(paths)):
            *sources, target = (torch.from_numpy(np.load(path).astype(np.float32))[None, None] for path in files)
            source = torch.cat(sources, 1)
            optimiser.zero_grad()
            step_loss = loss(network(source), target)
            step_loss.backward()
            optimiser.step()
            step_loss.item()
            yield target.shape[-1] / hp.clip_frames
            seen += target.shape[-1] / hp.clip_frames
            if seen >= clips:
                return


def ours(model, dataset, batch_size, clips):
    """Train on a data set with our loop. Yields the number of clips of each step, up to `clips` in all."""
    lengths, batches, epoch = [target.shape[-1] for target in dataset.targets], [], 0
    crops = clips * hp.clip_frames / hp.crop_frames
    while sum(map(len, batches)) < crops:
        batches += Training.crop_batches(lengths, hp.crop_frames, batch_size, f"{hp.seed} {epoch}")
        epoch += 1
    while sum(map(len, batches[:-1])) >= crops:
        batches.pop()
    factors = [Training.schedule_factor(step, len(batches)) for step in range(len(batches))]
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches)
    for batch, _ in zip(batches, model.train_epoch(loader, factors)):
        yield len(batch) * hp.crop_frames / hp.clip_frames


def speed(training, warm_up):
    """Return the clips per second of a training, without its first `warm_up` clips."""
    seen = 0
    while seen < warm_up:
        seen += next(training)
    start = time.perf_counter()
    clips = sum(training)
    return clips / (time.perf_counter() - start)


def measure(name, form, clips, options):
    """Train one of `networks` with one of its loops.

    Parameters
    ----------
    name, form : str
        Key of `networks`, and one of its values.
    clips : int
    options : argparse.Namespace
        Options of the command line.

    Returns
    -------
    (float, float)
        Clips per second, and validation loss.
    """
    names, cpu = DatasetCreator.build(options.data), torch.device("cpu")
    torch.manual_seed(hp.seed)
    dataset, sources = AEDataset, ["generated/{}/piano.npy"]
    learning_rate, batch_size = hp.unet_learning_rate, hp.unet_batch_size
    if name.startswith("autoencoder"):
        learning_rate, batch_size = hp.ae_learning_rate, hp.ae_batch_size
        channels = hp.ae_channels if name == "autoencoder" else hp.ae_report["channels"]
        model = Training.Trainer(Autoencoder(channels=channels), torch.nn.functional.l1_loss, learning_rate, cpu)
    elif name == "U-Net":
        unet = UNet(wf=options.wf or hp.unet_wf, in_channels=2, batch_norm=hp.unet_batch_norm)
        autoencoder, l1 = load_model(Autoencoder, options.ae), torch.nn.functional.l1_loss
        if isinstance(autoencoder, NoteModel):  # the U-Net is trained on its stored outputs
            model = Training.Trainer(unet, l1, learning_rate, cpu)
            dataset = functools.partial(UNetDataset, in_channels=2)
        else:
            model = UNetTrainer(unet, autoencoder, l1, learning_rate, cpu)
        sources.insert(0, "ae_output/own/{}.npy")
    else:
        unet = UNet(wf=options.wf or hp.unet_report["wf"])
        model = Training.Trainer(unet, torch.nn.functional.mse_loss, learning_rate, cpu)
        dataset, sources = UNetDataset, ["ae_output/own/{}.npy"]
    training, validation = (dataset(part, options.data) for part in split_for_training(names, hp.seed))
    if form == "ours":
        Util.reuse_memory()
        rate = speed(ours(model, training, batch_size, clips), options.warm_up)
    else:
        paths = [[options.data / part.format(piece) for part in (*sources, "generated/{}/synth.npy")]
                 for piece in training.names]
        if form == "plain":
            Training.replace_layers(model.network, plain_layer)
        rate = speed(plain(model.network, model.loss, learning_rate, paths, clips), options.warm_up)
    return rate, model.validate(validation)


def in_subprocess(*arguments):
    """Run `measure` in a process of its own, which has not allocated memory before."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure, *arguments).result()


def compare(options):
    """Measure all `networks`, and return the rows of the table."""
    rows = [("network", "training loop", "clips", "clips per second", "speed-up", "validation loss")]
    for name, forms in networks.items():
        clips = options.ae_clips if name.startswith("autoencoder") else options.unet_clips
        for form in forms:
            rate, error = in_subprocess(name, form, clips, options)
            first = rate if form == "plain" else first
            rows.append((name, form, str(clips), f"{rate:.2f}", f"**{rate / first:.1f}**", f"{error:.5f}"))
            print(*rows[-1], sep="  ", flush=True)
    return rows


def make_page(command, rows, names):
    """Return the page of a command line, for the rows of `compare` and the pieces `names`."""
    with autocast(torch.device("cpu")):
        precision = "bfloat16" if torch.is_autocast_enabled("cpu") else "single precision"
    training, validation = split_for_training(names, hp.seed)
    return f"""# Training speed

`{command}`: clips of 30 s per second of training, and validation loss after the same number of clips.
The networks have the report's sizes and ours. Our autoencoder is larger \
({' '.join(map(str, hp.ae_channels))} channels in place of 64 128 256).
Our U-Net is smaller ({2 ** hp.unet_wf} first channels in place of 64) and has the L1 loss in place of MSE.

- *plain*: whole clips, single precision, batches of one, files opened for each clip, torch's own layers;
- *{faster}*: the same with `BandConv2d`, `BandConvTranspose2d`, `TimeUpsample` and `Upsample2d`, which compute the \
same in less time;
- *ours*: those layers, crops of {hp.crop_frames} frames in batches of {hp.ae_batch_size} and {hp.unet_batch_size}, \
{precision}, channels last,
  memory reused, mapped files, the `{hp.schedule}` schedule.

{len(training)} training pieces and {len(validation)} validation pieces, {os.cpu_count()} processor cores, \
torch {torch.__version__}.

{table(rows)}"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Compare a plain training loop and ours.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/ (default: data/)")
    parser.add_argument("--ae-clips", type=Util.positive_int, default=640,
                        help="number of clips to train an autoencoder on (default: %(default)s)")
    parser.add_argument("--unet-clips", type=Util.positive_int, default=64,
                        help="number of clips to train a U-Net on (default: %(default)s)")
    parser.add_argument("--warm-up", type=Util.positive_int, default=8,
                        help="number of clips before the time is measured (default: %(default)s)")
    parser.add_argument("--wf", type=Util.positive_int,
                        help="size of the U-Nets, with 2**WF first channels (default: 6 and hp.unet_wf)")
    parser.add_argument("--ae", type=Path, default=hp.ae_weights,
                        help="weights of the autoencoder behind which the U-Nets are trained (default: ae.torch)")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write (default: benchmarks/training.md for default options and at least "
                        f"{min_training_pieces} pieces, else training.md in the working folder)")
    options = parser.parse_args(arguments)
    if options.warm_up >= min(options.ae_clips, options.unet_clips):
        raise ValueError(f"a warm-up of {options.warm_up} clips leaves none to measure; choose a shorter --warm-up")
    names = DatasetCreator.build(options.data)
    full = (is_default(parser, options, "data", "ae_clips", "unet_clips", "warm_up", "wf", "ae")
            and len(names) >= min_training_pieces)
    output = output_path(Path(__file__).with_suffix(".md"), full, options.output)
    write_outputs(options.ae, names, options.data)
    command = shlex.join(["python", "benchmarks/training.py", *(sys.argv[1:] if arguments is None else arguments)])
    Util.save_text(output, make_page(command, compare(options), names))
    print(f"{output.read_text(encoding='utf-8')}\n{output}")


if __name__ == "__main__":
    Util.run(main)
