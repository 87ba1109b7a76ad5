"""Measure time, disk space and memory per hour of audio, from MIDI files to the report's trained networks.

`python benchmarks/cost.py FOLDER -o benchmarks/cost.md` works on the MIDI files of FOLDER in a temporary folder, each
stage in a process of its own. It also estimates the cost of 200 hours, as many as MAESTRO has. Without -o, the page is
written to the working folder. Run it on an idle machine.
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

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import AEMain
import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Notes
import UNetMain
import Util
from UNetDataset import write_outputs
from benchmark import run_in_subprocess
from common import check_soundfonts, output_path, table

maestro_hours, maestro_performances = 200, 1276


def render_both(data):
    """Render piano and e-piano."""
    for mode in "piano", "synth":
        MIDI2Audio.synthesise_all(mode, data)


def train_autoencoder(data):
    """Train the report's autoencoder for an epoch, and return the seconds of the epoch."""
    AEMain.train(data, epochs=1, network="report")
    return 60 * json.loads((data / "models" / "own" / "ae_losses.json").read_text(encoding="utf-8"))["minutes"]


def write_all_outputs(data):
    """Store the outputs of the autoencoder."""
    write_outputs(data / "models" / "own" / "ae.torch", DatasetCreator.build(data), data)


def train_unet(data):
    """Train the U-Net for an epoch, and return the seconds of the epoch."""
    UNetMain.train(data, epochs=1)
    return 60 * json.loads((data / "models" / "own" / "unet_losses.json").read_text(encoding="utf-8"))["minutes"]


# name, function, folders that it fills, and number of repetitions in the report
stages = (
    ("rendering, both instruments", render_both, ("piano", "synth"), 1),
    ("spectrograms", DatasetCreator.build, ("generated",), 1),
    ("autoencoder, one epoch", train_autoencoder, (), hp.ae_epochs),
    ("outputs of the autoencoder", write_all_outputs, ("ae_output",), 1),
    ("U-Net, one epoch", train_unet, (), hp.unet_epochs),
)


def seconds_of(number, data):
    """Run a stage on a data folder, and return its seconds. Those of a training exclude its preparation."""
    start = time.perf_counter()
    own = stages[number][1](data)
    return own if isinstance(own, float) else time.perf_counter() - start


def in_subprocess(number, data):
    """Run `seconds_of` in a process of its own, and return its seconds and its peak memory in MiB."""
    return run_in_subprocess("import cost; from pathlib import Path; "
                             f"seconds = cost.seconds_of({number}, Path(sys.argv[1]))",
                             data)


def measure_stages(midi_folder):
    """Run all stages on the MIDI files of a folder.

    Returns
    -------
    (list of (float, int, float), float)
        Seconds, bytes on disk and peak memory in MiB of each stage, and hours of audio.
    """
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        data.joinpath("MIDI").symlink_to(midi_folder.resolve())
        for number, (name, _, folders, _) in enumerate(stages):
            seconds, memory = in_subprocess(number, data)
            size = sum(path.stat().st_size for part in folders for path in (data / part).rglob("*") if path.is_file())
            measured.append((seconds, size, memory))
            print(f"{name}: {seconds:.1f} s, {size / 1e6:.1f} MB on disk, {memory:.0f} MiB in memory", flush=True)
        hours = sum(soundfile.info(path).duration for path in (data / "piano").glob("*.wav")) / 3600
    return measured, hours


def cost_table(measured, hours):
    """Return a row per stage, and their sum with the report's numbers of epochs, as Markdown."""
    rows = [("stage", "minutes per hour of audio", "MB on disk per hour", "peak memory, MiB",
             f"hours for {maestro_hours} hours", "GB on disk for them")]
    for (name, *_), (seconds, size, memory) in zip(stages, measured):
        rows.append((name, f"{seconds / 60 / hours:.2f}", f"{size / 1e6 / hours:.0f}" if size else "", f"{memory:.0f}",
                     f"{seconds / 3600 / hours * maestro_hours:.1f}",
                     f"{size / 1e9 / hours * maestro_hours:.1f}" if size else ""))
    whole = sum(seconds * times for (_, _, _, times), (seconds, _, _) in zip(stages, measured)) / hours
    disk = sum(size for _, size, _ in measured) / hours
    rows.append((f"**all**, with the report's {hp.ae_epochs} and {hp.unet_epochs} epochs", f"{whole / 60:.0f}",
                 f"{disk / 1e6:.0f}", f"{max(memory for _, _, memory in measured):.0f}",
                 f"{whole / 3600 * maestro_hours:.0f}", f"{disk / 1e9 * maestro_hours:.1f}"))
    return table(rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Measure time, disk space and memory per hour of audio.")
    parser.add_argument("folder", type=Path, help="folder with MIDI files")
    parser.add_argument("-o", "--output", type=Path, help="page to write (default: cost.md in the working folder)")
    options = parser.parse_args(arguments)
    check_soundfonts(hp.piano_preset, hp.synth_preset)
    pieces = Util.find_pieces(options.folder, Notes.midi_endings)
    output = output_path(Path(__file__).with_suffix(".md"), False, options.output)
    measured, hours = measure_stages(options.folder)
    mapped = sum(size for (_, _, folders, _), (_, size, _) in zip(stages, measured)
                 if folders[:1] in (("generated",), ("ae_output",)))
    Util.save_text(output, f"""# Cost of an hour of audio

`python benchmarks/cost.py FOLDER` on {len(pieces)} pieces, {hours * 60:.1f} minutes of audio, with {os.cpu_count()} \
processor cores, {Util.choose_device()}, torch
{torch.__version__}. The cost of the {maestro_hours} hours in MAESTRO's {maestro_performances:,} performances is a \
proportional estimate. The first {hp.limit_s} s of each
performance, as in the report, are {maestro_performances * hp.limit_s / 3600:.1f} hours.

{cost_table(measured, hours)}
Several machines can share rendering, spectrograms and trainings, see docs/training.md. The spectrograms of \
{maestro_hours} hours take
{mapped / 1e9 / hours * maestro_hours:.0f} GB. They are mapped into memory on demand, so the peak memory does not \
exceed that of the machine.
""")
    print(f"{output.read_text(encoding='utf-8')}\n{output}")


if __name__ == "__main__":
    Util.run(main)
