"""Measures what an hour of audio costs from MIDI to both networks: time, disk and memory, stage by stage; run it on an
idle machine.

`python benchmarks/cost.py FOLDER` works on the MIDI files below FOLDER in a temporary folder, each stage in a process
of its own, prints a table and writes it to benchmarks/cost.md, with what 200 hours, as MAESTRO has in 1,276
performances, would take.
"""
import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import AEMain
import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Notes
import UNetMain
import Util
from UNetDataset import write_outputs
from benchmark import run_in_subprocess, table

maestro_hours, maestro_performances = 200, 1276


def rendering(data):
    for mode in "piano", "synth":
        MIDI2Audio.synthesise_all(mode, data)


def autoencoder(data):
    AEMain.train(data, epochs=1)
    return 60 * json.loads((data / "models" / "own" / "ae_losses.json").read_text(encoding="utf-8"))["minutes"]


def outputs(data):
    write_outputs(data / "models" / "own" / "ae.torch", DatasetCreator.build(data), data)


def unet(data):
    UNetMain.train(data, epochs=1)
    return 60 * json.loads((data / "models" / "own" / "unet_losses.json").read_text(encoding="utf-8"))["minutes"]


# name, what to call, the folders that it fills, and how often the report does it
stages = (
    ("rendering, both sides", rendering, ("piano", "synth"), 1),
    ("spectrograms", DatasetCreator.build, ("generated",), 1),
    ("autoencoder, an epoch", autoencoder, (), hp.ae_epochs),
    ("the autoencoder's outputs", outputs, ("ae_output",), 1),
    ("U-Net, an epoch", unet, (), hp.unet_epochs),
)


def seconds_of(number, data):
    """Do a stage on a data folder; return its seconds, those of the training alone where it says them itself."""
    start = time.perf_counter()
    own = stages[number][1](data)
    return own if isinstance(own, float) else time.perf_counter() - start


def in_subprocess(number, data):
    """`seconds_of` in a process of its own; return its seconds, and the peak memory of the process in MiB."""
    return run_in_subprocess("import cost; from pathlib import Path; "
                             f"seconds = cost.seconds_of({number}, Path(sys.argv[1]))",
                             data)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Measure time, disk and memory for an hour of audio.")
    parser.add_argument("folder", type=Path, help="with MIDI files")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".md"),
                        help="(default: benchmarks/cost.md)")
    options = parser.parse_args(arguments)
    pieces = Util.find_pieces(options.folder, Notes.midi_endings)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        data.joinpath("MIDI").symlink_to(options.folder.resolve())
        for number, (name, _, folders, _) in enumerate(stages):
            seconds, memory = in_subprocess(number, data)
            size = sum(path.stat().st_size for part in folders for path in (data / part).rglob("*") if path.is_file())
            measured.append((seconds, size, memory))
            print(f"{name}: {seconds:.1f} s, {size / 1e6:.1f} MB on disk, {memory:.0f} MiB in memory", flush=True)
        hours = sum(soundfile.info(path).duration for path in (data / "piano").glob("*.wav")) / 3600
    rows = [("stage", "an hour: minutes", "disk, MB", "peak memory, MiB", f"{maestro_hours} hours: hours", "disk, GB")]
    for (name, *_), (seconds, size, memory) in zip(stages, measured):
        rows.append((name, f"{seconds / 60 / hours:.2f}", f"{size / 1e6 / hours:.0f}" if size else "", f"{memory:.0f}",
                     f"{seconds / 3600 / hours * maestro_hours:.1f}",
                     f"{size / 1e9 / hours * maestro_hours:.1f}" if size else ""))
    whole = sum(seconds * times for (_, _, _, times), (seconds, _, _) in zip(stages, measured)) / hours
    disk = sum(size for _, size, _ in measured) / hours
    rows.append((f"**all**, with the report's {hp.ae_epochs} and {hp.unet_epochs} epochs", f"{whole / 60:.0f}",
                 f"{disk / 1e6:.0f}",
                 f"{max(memory for _, _, memory in measured):.0f}", f"{whole / 3600 * maestro_hours:.0f}",
                 f"{disk / 1e9 * maestro_hours:.1f}"))
    mapped = sum(size for (_, _, folders, _), (_, size, _) in zip(stages, measured)
                 if folders[:1] in (("generated",), ("ae_output",)))
    Util.save_text(options.output, f"""# What an hour of audio costs

`python benchmarks/cost.py FOLDER` on {len(pieces)} pieces, {hours * 60:.1f} minutes of audio, {os.cpu_count()} \
processor cores, {Util.choose_device()}, torch
{torch.__version__}. The {maestro_hours} hours of MAESTRO's {maestro_performances:,} performances are computed from \
it, in proportion; the first {hp.limit_s} s of each, as the
report takes them, are {maestro_performances * hp.limit_s / 3600:.1f} hours.

{table(rows)}
Rendering, spectrograms and trainings are shared by several machines as docs/training.md says. The spectrograms of \
{maestro_hours} hours are
{mapped / 1e9 / hours * maestro_hours:.0f} GB. They are mapped, not read: the peak memory above counts those in use, \
and does not grow beyond the memory there is.
""")
    print(options.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    Util.run(main)
