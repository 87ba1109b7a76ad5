"""Compare the report's path from recording to audio with ours: benchmarks/benchmark.md.

`python benchmarks/benchmark.py [FOLDER]` makes three tables: the seconds of each stage for a 30 s clip, the errors of
the inversions on the pieces of FOLDER/piano and FOLDER/synth (default: data/test, rendered if it is missing), and time
and memory by the length of the recording. Both paths are run by `Main.resynthesise`: the report's with the report's
networks in single precision and the report's inversion, ours with the defaults. With other pieces or options, the page
is written to the working folder. Run it on an idle machine.
"""
import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import librosa
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Main
import Util
from AEModel import NoteModel
from audio import audio_files, audio_metrics, chunking, mel_inversion
from common import check_soundfonts, excerpts, is_default, output_path, table

paths = {"report": "report", "shipped": "kl"}   # name of a model, and its inversion
stage_names = "front end", "autoencoder", "U-Net", "mel to linear", "Griffin-Lim", "other: tuning and level"


def load(model):
    """Load a model by name. The report's networks do not use mixed precision."""
    models = Main.load_models(*Main.find_weights(model))
    for part in models:
        part.bfloat16 = model != "report"
    return models


def time_stages(audio, model):
    """Convert a recording with one of `paths`, and return the seconds of each of `stage_names`."""
    models, seconds, running = load(model), dict.fromkeys(stage_names, 0.0), []

    def timed(stage, function):
        def call(*arguments, **options):
            if running:  # within another stage, which counts
                return function(*arguments, **options)
            running.append(stage)
            start = time.perf_counter()
            result = function(*arguments, **options)
            seconds[stage] += time.perf_counter() - start
            running.clear()
            return result

        return call

    places = [("front end", chunking, "loudest_mel_power"), ("front end", chunking, "spectrum"),
              ("front end", DatasetCreator, "mel_power"), ("front end", DatasetCreator, "log_mel"),
              ("U-Net", models[1], "generate"),
              ("mel to linear", mel_inversion, "power_from_mel"), ("Griffin-Lim", mel_inversion, "griffin_lim"),
              ("mel to linear", librosa.feature.inverse, "mel_to_stft"), ("Griffin-Lim", librosa, "griffinlim")]
    places += [("autoencoder", *place) for place in (
        [(Main, "transcribe_in_tune"), (models[0], "note_renderer")] if isinstance(models[0], NoteModel) else
        [(models[0], "generate")])]
    with contextlib.ExitStack() as patches:
        for stage, owner, name in places:
            work = timed(stage, getattr(owner, name))
            if name == "note_renderer":  # which returns another function that works
                work = lambda *arguments, prepare=work: timed("autoencoder", prepare(*arguments))
            patches.enter_context(mock.patch.object(owner, name, work))
        start = time.perf_counter()
        Main.resynthesise(audio, models, paths[model])
        seconds[stage_names[-1]] = time.perf_counter() - start - sum(seconds.values())
    return seconds


def peak_memory():
    """Return the peak memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the memory of the parent when it started this process
        return int(status.read_text(encoding="utf-8").split("VmHWM:")[1].split()[0]) / 2 ** 10
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20


def run_in_subprocess(code, *arguments):
    """Run Python code in a process of its own. Returns its variable `seconds` and its peak memory in MiB."""
    code = (f"import sys, time; sys.path.insert(0, 'benchmarks'); import benchmark as b; {code}; "
            "print(seconds, b.peak_memory())")
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=hp.root, check=True, text=True,
                          stdout=subprocess.PIPE)
    return map(float, done.stdout.split()[-2:])


def stages(clip_s, repeats):
    """Return a table of the seconds of each stage of both paths on the demo recording, the best of `repeats` runs."""
    audio, best, memory = audio_files.read_audio(hp.demo)[:round(clip_s * hp.sample_rate)], [], []
    for model in paths:
        time_stages(audio[:hp.sample_rate], model)  # the first call also imports and compiles
        best.append(min((time_stages(audio, model) for _ in range(repeats)), key=lambda seconds: sum(seconds.values())))
        code = f"b.time_stages(b.audio_files.read_audio(b.hp.demo)[:{audio.size}], '{model}'); seconds = 0"
        memory.append(list(run_in_subprocess(code))[1])
    report, ours = best
    rows = [("stage", "report's path, s", "ours, s", "speed-up")]
    for name in stage_names:
        rows.append((name, report[name], ours[name], f"{report[name] / ours[name]:.1f}"))
    total, length = (sum(report.values()), sum(ours.values())), audio.size / hp.sample_rate
    rows.append(("**all**", f"**{total[0]:.2f}**", f"**{total[1]:.2f}**", f"**{total[0] / total[1]:.1f}**"))
    rows.append(("real-time factor", f"{total[0] / length:.3f}", f"{total[1] / length:.3f}", ""))
    rows.append(("peak memory, MiB", *(f"{peak:.0f}" for peak in memory), ""))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, hp.root / "Main.py", hp.demo, "-o", folder], check=True,
                       stdout=subprocess.DEVNULL)
        rows.append(("`python Main.py clip.wav`, start to files written", "", f"{time.perf_counter() - start:.1f}", ""))
    return f"## A clip of {length:.0f} s\n\n" + table(rows)


def random_phase(shape):
    """Return random phases as complex numbers of absolute value 1 [shape=shape]."""
    return np.exp(2j * np.pi * np.random.default_rng(hp.seed).random(shape)).astype(np.complex64)


# name of an inversion, and its function of mel power, STFT of the recording, and arguments of `invert_chunk`, or None
# for the true mel power
report_method = "librosa NNLS, 32 Griffin-Lim iterations from random phase (report)"
our_method = "KL updates from the sampled voice's spectrum, Griffin-Lim from its phase (ours)"
methods = {
    report_method: lambda mel, guide, chunk: mel_inversion.invert(mel, guide, "report"),
    "KL updates from a flat start, Griffin-Lim from random phase": lambda mel, guide, chunk: mel_inversion.griffin_lim(
        np.sqrt(mel_inversion.power_from_mel(mel, np.ones(guide.shape, np.float32))), random_phase(guide.shape)),
    "KL updates from the recording's spectrum, Griffin-Lim from its phase":
        lambda mel, guide, chunk: mel_inversion.invert(mel, guide, "kl"),
    our_method: lambda mel, guide, chunk: chunk and mel_inversion.invert_chunk(*chunk),
}
limit = "reference: true magnitude, Griffin-Lim from the recording's phase"


def predict(recording, models):
    """Return the arguments with which `Main.resynthesise` inverts a recording as a single chunk."""
    with mock.patch.object(mel_inversion, "invert_chunk", side_effect=lambda stages, *others: np.zeros(
            (stages[0].shape[1] - 1) * hp.hop_length, np.float32)) as invert:
        Main.resynthesise(recording, models, "report")
    stages, guides, voice, _, device = invert.call_args.args
    return stages, guides, voice, "kl", device


def score_inversions(recording, truth, models):
    """Run all `methods` for a recording and its true e-piano [shape=(n,) each].

    Return a dict from ("true" or "predicted", method) to log-mel L1 in dB, normalised spectral distance and seconds.
    """
    guide, target, scores = DatasetCreator.stft(recording), DatasetCreator.stft(truth), {}
    power, chunk = DatasetCreator.mel_power(target), predict(recording, models)
    sides = {"true": (DatasetCreator.log_mel(power, power.max()), guide, None),
             "predicted": (chunk[0][-1], chunk[1][0], chunk)}
    runs = {(side, name): lambda method=method, image=image, more=more: method(
                DatasetCreator.mel_from_log(image), *more)
            for side, (image, *more) in sides.items() for name, method in methods.items()}
    for key, run in {**runs, ("true", limit): lambda: mel_inversion.griffin_lim(np.abs(target), guide)}.items():
        start = time.perf_counter()
        audio = run()
        seconds = time.perf_counter() - start
        if audio is not None:
            audio = librosa.util.fix_length(audio, size=truth.size)
            scores[key] = (audio_metrics.log_mel_l1(audio, truth), audio_metrics.spectral_distance(audio, truth),
                           seconds)
    return scores


def inversions(folder, clip_s):
    """Return tables of the errors of the inversions, from true and from predicted mel spectrograms."""
    models, scores, sides = load("shipped"), {}, ("true", "predicted")
    for name, recordings in DatasetCreator.find_pairs(folder).items():
        pair = (librosa.util.fix_length(audio_files.read_audio(path), size=round(clip_s * hp.sample_rate))
                for path in recordings)
        scores[name] = score_inversions(*pair, models)
    means = {key: np.mean([piece[key] for piece in scores.values()], axis=0) for key in next(iter(scores.values()))}
    rows = [("inversion", "true mel: log-mel L1, dB", "normalised spectral distance", "predicted mel: log-mel L1, dB",
             "normalised spectral distance", "seconds")]
    for method in [*methods, limit]:
        found = [means.get((side, method)) for side in sides]
        rows.append((method, *("" if mean is None else f"{mean[i]:.{2 + i}f}" for mean in found for i in (0, 1)),
                     next(mean for mean in found if mean is not None)[2]))
    pieces = [("piece", "report's inversion", "ours", "difference")]
    for name, piece in scores.items():
        report, ours = (piece["predicted", method][0] for method in (report_method, our_method))
        pieces.append((name, report, ours, report - ours))
    return (f"## Inversions, mean of {len(scores)} pieces\n\n{table(rows)}\nFrom the predicted spectrogram by piece, "
            f"log-mel L1 in dB:\n\n{table(pieces)}")


def lengths(minutes):
    """Return a table of the seconds and the peak memory of `Main.pipeline` by the length of the recording."""
    clip = audio_files.read_audio(hp.demo)
    rows = [("minutes", "seconds", "seconds per minute", "peak memory, MiB")]
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder) / "long.wav"
            audio_files.write_audio(path, np.resize(clip, round(length * 60 * hp.sample_rate)))
            seconds, memory = run_in_subprocess("b.Main.pipeline(b.hp.demo); start = time.time(); "
                                                "b.Main.pipeline(sys.argv[1]); seconds = time.time() - start", path)
            rows.append((f"{length:g}", f"{seconds:.1f}", f"{seconds / length:.1f}", f"{memory:.0f}"))
    return "## Any length\n\n" + table(rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Compare the report's path and ours.")
    parser.add_argument("folder", nargs="?", type=Path, default=hp.data / "test",
                        help="folder with piano/ and synth/ (default: data/test)")
    parser.add_argument("--clip-s", type=float, default=hp.limit_s,
                        help="seconds of each piece that are used (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3,
                        help="number of runs, of which the fastest counts (default: %(default)s)")
    parser.add_argument("--minutes", type=float, nargs="*", default=[1, 2, 5, 10],
                        help="lengths of the recordings (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write (default: benchmarks/benchmark.md for the three excerpts and default "
                        "options, else benchmark.md in the working folder)")
    options = parser.parse_args(arguments)
    if options.folder == hp.data / "test" and not options.folder.joinpath("piano").exists():
        check_soundfonts(hp.piano_preset, hp.synth_preset)
        MIDI2Audio.create_test_set()
    names = DatasetCreator.find_pairs(options.folder)
    full = is_default(parser, options, "folder", "clip_s", "repeats", "minutes") and sorted(names) == sorted(excerpts)
    output = output_path(Path(__file__).with_suffix(".md"), full, options.output)
    parts = [f"# Benchmark\n\n`python benchmarks/benchmark.py`, {os.cpu_count()} processor cores, "
             f"{Util.choose_device()}, torch {torch.__version__}.\n"]
    for part in (lambda: stages(options.clip_s, options.repeats), lambda: inversions(options.folder, options.clip_s),
                 lambda: lengths(options.minutes)):
        parts.append(part())
        print(parts[-1], flush=True)
    Util.save_text(output, "\n".join(parts))
    print(output)


if __name__ == "__main__":
    Util.run(main)
