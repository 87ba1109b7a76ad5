"""Measures, in one run, training in the plain form and in ours: 30 s clips a second, and validation loss after as many
clips, for each network; run it on an idle machine.

Plain: whole clips in single precision, one at a time, each from a .npy of its own that is opened at every step; Adam at a
constant rate. Ours: `Training.Model` on `AEDataset` and `UNetDataset`, with the crops, batches and schedule that AEMain.py and
UNetMain.py have by default. The networks, their first weights, losses, learning rates and the pieces are the same; the
U-Net is of the report's form but for its width: one input, MSE loss.

`python benchmarks/training.py --data FOLDER` prints a table and writes it to benchmarks/training.md. FOLDER holds the
recordings piano/ and synth/, as MIDI2Audio.py leaves them.
"""
import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from AEDataset import AEDataset
from Autoencoder import Autoencoder
from benchmark import table
from UNet import UNet
from UNetDataset import UNetDataset, write_outputs

clip_frames = hp.limit_s * hp.sample_rate // hp.hop_length


def plain(network, loss, learning_rate, paths, clips):
    """Train on the files (source, target) in the plain form; yield after each step the clips it was, until there are `clips`."""
    network.train()
    optimiser, chance, seen = torch.optim.Adam(network.parameters(), learning_rate), random.Random(hp.seed), 0
    while True:
        for files in chance.sample(paths, len(paths)):
            source, target = (torch.from_numpy(np.load(path).astype(np.float32))[None, None] for path in files)
            optimiser.zero_grad()
            step_loss = loss(network(source), target)
            step_loss.backward()
            optimiser.step()
            step_loss.item()
            yield target.shape[-1] / clip_frames
            seen += target.shape[-1] / clip_frames
            if seen >= clips:
                return


def ours(model, dataset, batch_size, clips):
    """Train on a data set in our form; yield after each step the clips it was, until there are `clips`."""
    lengths, batches, epoch = [target.shape[-1] for target in dataset.targets], [], 0
    crops = clips * clip_frames / hp.crop_frames
    while sum(map(len, batches)) < crops:
        batches += Training.crops(lengths, hp.crop_frames, batch_size, f"{hp.seed} {epoch}")
        epoch += 1
    while sum(map(len, batches[:-1])) >= crops:
        batches.pop()
    factors = [Training.schedule(step, len(batches)) for step in range(len(batches))]
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches)
    for batch, _ in zip(batches, model.train_epoch(loader, factors)):
        yield len(batch) * hp.crop_frames / clip_frames


def speed(training, warm_up):
    """Clips a second of a training, from its `warm_up`-th clip on to its end."""
    seen = 0
    while seen < warm_up:
        seen += next(training)
    start = time.perf_counter()
    clips = sum(training)
    return clips / (time.perf_counter() - start)


def measure(make, loss, learning_rate, batch_size, training, validation, paths, clips, warm_up):
    """Train a network in both forms; return [(clips a second, validation loss) of the plain one, of ours]."""
    results = []
    for form in "plain", "ours":
        torch.manual_seed(hp.seed)
        network = make()
        if form == "plain":
            steps = plain(network, loss, learning_rate, paths, clips)
            rate = speed(steps, warm_up)
            model = Training.Model(network, loss, None, torch.device("cpu"))  # both are validated by the same code
        else:
            model = Training.Model(network, loss, learning_rate, torch.device("cpu"))
            rate = speed(ours(model, training, batch_size, clips), warm_up)
        results.append((rate, model.validate(validation)))
        print(f"{form}: {results[-1][0]:.2f} clips a second, validation loss {results[-1][1]:.5f}", flush=True)
    return results


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Measure training in the plain form and in ours.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/ (default: data/)")
    parser.add_argument("--ae-clips", type=Training.positive, default=1920, help="to train the autoencoder on (default: %(default)s)")
    parser.add_argument("--unet-clips", type=Training.positive, default=480, help="to train the U-Net on (default: %(default)s)")
    parser.add_argument("--warm-up", type=Training.positive, default=8, help="clips before the time is taken (default: %(default)s)")
    parser.add_argument("--wf", type=Training.positive, default=hp.unet_wf, help="of both U-Nets; the report's is 6 (default: %(default)s)")
    parser.add_argument("--ae", type=Path, default=hp.ae_weights, help="whose output the U-Nets are trained on (default: ae.torch)")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".md"), help="(default: benchmarks/training.md)")
    options = parser.parse_args(arguments)
    if options.warm_up >= min(options.ae_clips, options.unet_clips):
        raise ValueError(f"a warm-up of {options.warm_up} clips leaves none to measure; choose a shorter --warm-up")
    names = DatasetCreator.build(options.data)
    parts = Training.split(names, hp.seed)
    rows = [("network", "plain: clips/s", "ours: clips/s", "times faster", "clips", "plain: validation loss", "ours: validation loss")]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        data.joinpath("generated").symlink_to((options.data / "generated").resolve())
        write_outputs(options.ae, names, data)
        for name, make, dataset, source, loss, learning_rate, batch_size, clips in (
                ("autoencoder, L1", Autoencoder, AEDataset, "generated/{}/piano.npy", torch.nn.functional.l1_loss,
                 hp.ae_learning_rate, hp.ae_batch_size, options.ae_clips),
                (f"U-Net, wf {options.wf}, MSE", lambda: UNet(wf=options.wf), UNetDataset, "ae_output/{}.npy",
                 torch.nn.functional.mse_loss, hp.unet_learning_rate, hp.unet_batch_size, options.unet_clips)):
            print(name, flush=True)
            paths = [(data / source.format(piece), data / "generated" / piece / "synth.npy") for piece in parts[0]]
            sets = [dataset(part, data) for part in parts]
            (before, error), (after, ours_error) = measure(make, loss, learning_rate, batch_size, *sets, paths, clips, options.warm_up)
            rows.append((name, f"{before:.2f}", f"{after:.2f}", f"**{after / before:.1f}**", str(clips), f"{error:.5f}", f"{ours_error:.5f}"))
    with Training.autocast(torch.device("cpu")):
        precision = "bfloat16" if torch.is_autocast_enabled("cpu") else "single precision"
    Util.save_text(options.output, f"# Training speed\n\n`python benchmarks/training.py`: 30 s clips a second in training, and validation "
                   f"loss after as many clips, in the plain form (whole clips,\nsingle precision, batches of one, a file opened per clip) and "
                   f"in ours (crops of {hp.crop_frames} frames in batches, {precision},\nchannels last, mapped files, the `{hp.schedule}` "
                   f"schedule).\n{len(parts[0])} pieces to train on and {len(parts[1])} to validate on, {os.cpu_count()} processor cores, torch "
                   f"{torch.__version__}.\n\n{table(rows)}")
    print(options.output.read_text())


if __name__ == "__main__":
    Util.run(main)
