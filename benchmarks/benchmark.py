"""Compare the report's path from recording to audio with ours: benchmarks/benchmark.md.

`python benchmarks/benchmark.py [FOLDER]` makes three tables: the seconds of each stage for a 30 s clip, the errors of
the inversions on the pieces of FOLDER/piano and FOLDER/synth (default: data/test, rendered if it is missing), and time
and memory by the length of the recording. With other pieces or options, the page is written to the working folder. Run
it on an idle machine.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import librosa
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Hyperparameters as hp
import Inversion
import Main
import Metrics
import MIDI2Audio
import Util
from AEModel import NoteModel
from Autoencoder import Autoencoder
from UNet import UNet
from common import check_soundfonts, excerpts, is_default, output_path, table


class Stages:
    """Seconds of named stages, each from the one before to its call of `done`."""

    def __init__(self):
        self.seconds, self.last = {}, time.perf_counter()

    def done(self, name):
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now


@torch.no_grad()
def report_path(audio, networks):
    """Run the report's path, and return the seconds of its stages.

    Both networks in single precision on the whole clip, non-negative least squares, librosa's Griffin-Lim.
    """
    stages = Stages()
    spectrogram = torch.from_numpy(DatasetCreator.spectrogram(audio))[None, None]
    stages.done("front end")
    for name, network in zip(("autoencoder", "U-Net"), networks):
        spectrogram = network(spectrogram)
        stages.done(name)
    mel = DatasetCreator.mel_from_log(spectrogram[0, 0].clip(0, 1).numpy())
    magnitude = librosa.feature.inverse.mel_to_stft(mel, sr=hp.sample_rate, n_fft=hp.n_fft)
    stages.done("mel to linear")
    librosa.griffinlim(magnitude, n_iter=32, hop_length=hp.hop_length, random_state=hp.seed)
    stages.done("Griffin-Lim")
    return stages.seconds


def our_path(audio, models):
    """Run the steps of `Main.resynthesise` for a recording of one chunk, and return the seconds of its stages."""
    stages = Stages()
    guide = DatasetCreator.stft(audio)
    power = DatasetCreator.mel_power(guide)
    spectrograms = [DatasetCreator.log_mel(power, power.max())]
    stages.done("front end")
    for name, model in zip(("autoencoder", "U-Net"), models):
        if isinstance(model, NoteModel):
            spectrograms.append(model.note_spectrogram(Main.transcribe_audio(audio, model), power.shape[1]))
        else:
            spectrograms.append(model.generate(*spectrograms[::-1]))
        stages.done(name)
    magnitude = np.sqrt(Inversion.power_from_mel(DatasetCreator.mel_from_log(spectrograms[-1]),
                                                 np.abs(guide) ** 2))
    stages.done("mel to linear")
    Inversion.griffin_lim(magnitude, guide)
    stages.done("Griffin-Lim")
    return stages.seconds


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
    audio = Util.read_audio(hp.demo)[:round(clip_s * hp.sample_rate)]
    # the report's sizes; their weights do not change the time
    networks = Autoencoder(channels=(64, 128, 256)).eval(), UNet(wf=6).eval()
    models = Main.load_models(*Main.choose_weights("shipped", None, None))
    best = []
    for path, parts in ((report_path, networks), (our_path, models)):
        path(audio[:hp.sample_rate], parts)  # the first call also compiles
        best.append(min((path(audio, parts) for _ in range(repeats)), key=lambda seconds: sum(seconds.values())))
    report, ours = best
    rows = [("stage", "report's path, s", "ours, s", "speed-up")]
    for name in report:
        rows.append((name, f"{report[name]:.2f}", f"{ours[name]:.2f}", f"{report[name] / ours[name]:.1f}"))
    total = sum(report.values()), sum(ours.values())
    rows.append(("**all**", f"**{total[0]:.2f}**", f"**{total[1]:.2f}**", f"**{total[0] / total[1]:.1f}**"))
    length = audio.size / hp.sample_rate
    rows.append(("real-time factor", f"{total[0] / length:.3f}", f"{total[1] / length:.3f}", ""))
    code = (f"audio = b.Util.read_audio(b.hp.demo)[:{audio.size}]; "
            "start = time.time(); {}; seconds = time.time() - start")
    memory = [list(run_in_subprocess(code.format(call)))[1] for call in (
        "b.report_path(audio, (b.Autoencoder(channels=(64, 128, 256)).eval(), b.UNet(wf=6).eval()))",
        "b.our_path(audio, b.Main.load_models(*b.Main.choose_weights('shipped', None, None)))")]
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


methods = {  # name of an inversion, and its function of (mel magnitude, STFT of the recording)
    "librosa NNLS, 32 Griffin-Lim iterations from random phase (report)":
        lambda mel, guide: Inversion.invert(mel, guide, "report"),
    "KL updates from a flat start, Griffin-Lim from random phase":
        lambda mel, guide: Inversion.griffin_lim(
            np.sqrt(Inversion.power_from_mel(mel, np.ones(guide.shape, np.float32))), random_phase(guide.shape)),
    "KL updates from the recording's spectrum, Griffin-Lim from its phase (ours)":
        lambda mel, guide: Inversion.invert(mel, guide, "kl"),
}
limit = "ceiling: true magnitude, Griffin-Lim from the recording's phase"


def predict_spectrogram(recording, piano, models):
    """Return the spectrogram that the networks predict for a recording [shape=(n,)] of the spectrogram `piano`."""
    found = [piano]
    for model in models:
        found.append(model.note_spectrogram(Main.transcribe_audio(recording, model), piano.shape[1])
                     if isinstance(model, NoteModel) else model.generate(*found[::-1]))
    return found[-1]


def score_inversions(recording, truth, models):
    """Run all `methods` for a recording and its true e-piano [shape=(n,) each].

    Returns
    -------
    dict
        From ("true" or "predicted", method) to log-mel L1 in dB, normalised spectral distance and seconds.
    """
    guide, target = DatasetCreator.stft(recording), DatasetCreator.stft(truth)
    powers = [DatasetCreator.mel_power(spectrum) for spectrum in (guide, target)]
    piano, synth = (DatasetCreator.log_mel(power, power.max()) for power in powers)
    mels = {"true": DatasetCreator.mel_from_log(synth),
            "predicted": DatasetCreator.mel_from_log(predict_spectrogram(recording, piano, models))}
    scores = {}

    def measure(key, invert):
        start = time.perf_counter()
        audio = librosa.util.fix_length(invert(), size=truth.size)
        seconds = time.perf_counter() - start
        scores[key] = Metrics.log_mel_l1(audio, truth), Metrics.spectral_distance(audio, truth), seconds

    for kind, mel in mels.items():
        for method, invert in methods.items():
            measure((kind, method), lambda: invert(mel, guide))
    measure(("true", limit), lambda: Inversion.griffin_lim(np.abs(target), guide))
    return scores


def inversions(folder, clip_s):
    """Return tables of the errors of the inversions, from true and from predicted mel spectrograms."""
    models, scores = Main.load_models(*Main.choose_weights("shipped", None, None)), {}
    for name, recordings in DatasetCreator.find_pairs(folder).items():
        pair = (librosa.util.fix_length(Util.read_audio(path), size=round(clip_s * hp.sample_rate))
                for path in recordings)
        scores[name] = score_inversions(*pair, models)
    rows = [("inversion", "true mel: log-mel L1, dB", "normalised spectral distance", "predicted mel: log-mel L1, dB",
             "normalised spectral distance", "seconds")]
    for method in [*methods, limit]:
        means = {kind: np.mean([piece[kind, method] for piece in scores.values()], axis=0)
                 for kind in ("true", "predicted") if (kind, method) in next(iter(scores.values()))}
        rows.append((method, *(f"{means[kind][i]:.{2 + i}f}" if kind in means else ""
                               for kind in ("true", "predicted") for i in (0, 1)), f"{means['true'][2]:.2f}"))
    report, _, ours = methods
    pieces = [("piece", "report's inversion", "ours", "difference")]
    for name, piece in scores.items():
        distances = [piece["predicted", method][0] for method in (report, ours)]
        pieces.append((name, *(f"{distance:.2f}" for distance in (*distances, distances[0] - distances[1]))))
    return (f"## Inversions, mean of {len(scores)} pieces\n\n{table(rows)}\nFrom the predicted spectrogram by piece, "
            f"log-mel L1 in dB:\n\n{table(pieces)}")


def lengths(minutes):
    """Return a table of the seconds and the peak memory of `Main.pipeline` by the length of the recording."""
    clip = Util.read_audio(hp.demo)
    rows = [("minutes", "seconds", "seconds per minute", "peak memory, MiB")]
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder) / "long.wav"
            Util.write_audio(path, np.resize(clip, round(length * 60 * hp.sample_rate)))
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
