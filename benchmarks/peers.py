"""Score other ways to the same e-piano on the cases of `goals.py`: results/peers_table.md.

`python benchmarks/peers.py FOLDER` has transcribers write down what they hear of a recording, transkun (Yan and Duan
2024, "Scoring time intervals using non-hierarchical transformer for automatic piano transcription") and basic-pitch
(Bittner et al. 2022), plays their MIDI files on the e-piano with FluidSynth, and sets this repository beside them.
"""
import argparse
import contextlib
import io
import logging
import shutil
import sys
import time
import types
import warnings
from pathlib import Path

import librosa
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Main
import MIDI2Audio
import Notes
import Util
from AEModel import NoteModel
import goals

to_install = f"pip install --no-deps transkun moduleconf, {goals.to_install}"


def mel_filters(n_freqs, f_min, f_max, n_mels, sample_rate):
    """The filter bank for which transkun needs torchaudio: HTK's mel scale, triangles of height one
    [shape=(n_freqs, n_mels)]."""
    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(mel(f_min), mel(f_max), n_mels + 2) / 2595) - 1)
    slopes = edges - np.linspace(0, sample_rate // 2, n_freqs)[:, None]
    width = np.diff(edges)
    triangles = np.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:])
    return torch.from_numpy(np.maximum(triangles, 0)).float()


def transkun():
    """Return transkun, with the weights of its package: a function that writes the MIDI file of a recording
    [shape=(n,)] at `hp.sample_rate`."""
    import moduleconf
    import transkun.Data

    stand_in = types.ModuleType("torchaudio")
    stand_in.functional = types.SimpleNamespace(melscale_fbanks=mel_filters)
    sys.modules.setdefault("torchaudio", stand_in)

    folder = Path(transkun.Data.__file__).parent / "pretrained"
    form = moduleconf.parseFromFile(str(folder / "2.0.conf"))["Model"]
    model = form.module.TransKun(conf=form.config)
    state = torch.load(folder / "2.0.pt", map_location="cpu")
    model.load_state_dict(state.get("best_state_dict", state.get("state_dict")), strict=False)
    model.eval()

    @torch.inference_mode()
    def write(audio, path):
        audio = librosa.resample(audio, orig_sr=hp.sample_rate, target_sr=model.fs)
        notes = model.transcribe(torch.from_numpy(audio)[:, None], discardSecondHalf=False)
        transkun.Data.writeMidi(notes).write(str(path))

    return write


def basic_pitch():
    """Return basic-pitch: see `transkun`."""
    from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
    from basic_pitch.inference import Model, predict

    model = Model(build_icassp_2022_model_path(FilenameSuffix.onnx))

    def write(audio, path):
        wav = path.with_suffix(".wav")
        Util.write_audio(wav, audio)
        with contextlib.redirect_stdout(io.StringIO()):
            predict(str(wav), model)[1].write(str(path))

    return write


def rendered(write, folder):
    """Return a function from a recording to (audio, notes), by way of the MIDI file that `write` makes of it."""
    folder.mkdir(parents=True, exist_ok=True)

    def play(audio):
        midi, wav = folder / "heard.mid", folder / "played.wav"
        write(audio, midi)
        MIDI2Audio.synthesise_midi_to_audio(midi, wav, *hp.synth_preset)
        return Util.read_audio(wav), Notes.read_notes(midi)

    return play


def ours(models):
    """Return the function of `rendered` for this repository; of a report's autoencoder there are no notes to know."""
    def play(audio):
        notes = Main.transcribe_audio(audio, models[0]) if isinstance(models[0], NoteModel) else None
        return Main.resynthesise(audio, models)[0], notes

    return play


def players(names, model, folder):
    """Return name -> function of `rendered`. Raises ValueError if the packages of one are missing."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    make = {"this repository": lambda: ours(Main.load_models(*Main.choose_weights(model, None, None))),
            "transkun + FluidSynth": lambda: rendered(transkun(), folder),
            "basic-pitch + FluidSynth": lambda: rendered(basic_pitch(), folder)}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return {name: made() for name, made in make.items() if not names or name.split()[0] in names}
    except ImportError as error:
        raise ValueError(f"the peers need packages that are not installed ({error.name} among them); {to_install}; or "
                         "leave them out (--players this)") from None


def score(play, folder, midi_files, note_f1):
    """Return the means over the pieces of a folder: log-mel L1, spectral distance, note F1 of the audio or nan;
    precision, recall and F1 of the notes heard and their velocities' error, or nan; seconds a piece."""
    scores = []
    for name, paths in tqdm(DatasetCreator.find_pairs(folder).items(), unit="piece", leave=False):
        recording, truth = Evaluation.read_pair(paths)
        started = time.perf_counter()
        audio, notes = play(recording)
        seconds, audio = time.perf_counter() - started, librosa.util.fix_length(audio, size=truth.size)
        heard = [np.nan] * 4 if notes is None else Evaluation.note_scores(Notes.read_notes(midi_files[name]), notes)
        scores.append([Evaluation.log_mel_l1(audio, truth), Evaluation.spectral_distance(audio, truth),
                       goals.note_f1(audio, midi_files[name]) if note_f1 else np.nan, *heard, seconds])
    return np.mean(scores, axis=0)


def first(midi_folder, number):
    """Return a folder with the first `number` pieces of another."""
    folder = hp.data / "evaluation" / f"first_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, path in sorted(Util.find_pieces(midi_folder, Notes.midi_endings).items())[:number]:
        shutil.copy(path, folder / f"{name}.mid")
    return folder


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score other ways to the e-piano beside this repository.")
    parser.add_argument("midi", type=Path, help="folder with MIDI files")
    parser.add_argument("--pieces", type=Util.positive_int, help="only the first so many")
    parser.add_argument("--cases", nargs="+", choices=goals.cases, default=list(goals.cases), metavar="CASE",
                        help=f"which of: {', '.join(goals.cases)} (default: all)")
    parser.add_argument("--players", nargs="+", choices=("this", "transkun", "basic-pitch"),
                        help="which (default: all)")
    parser.add_argument("--model", default="shipped", help="as for Main.py (default: shipped)")
    parser.add_argument("--no-notes", action="store_true", help="without the note F1, which needs basic-pitch")
    parser.add_argument("-o", "--output", type=Path, default=hp.root / "results" / "peers_table.md",
                        help="default: results/peers_table.md")
    options = parser.parse_args(arguments)
    folder = hp.data / "evaluation" / "peers"
    found = players(options.players, options.model, folder)
    midi_folder = first(options.midi, options.pieces) if options.pieces else options.midi
    pieces = len(Util.find_pieces(midi_folder, Notes.midi_endings))
    lines = [f"Mean over {pieces} pieces, seconds a clip of {hp.limit_s} s on {torch.get_num_threads()} threads. "
             "Notes heard: onsets within 50 ms.", "",
             "| | | log-mel L1, dB | spectral distance | note F1 of the audio | transcription: precision | recall "
             "| F1 | velocity off by | seconds |", "|---" * 10 + "|"]
    for case in options.cases:
        rendered_folder, midi_files = goals.prepare(case, midi_folder)
        for name, play in found.items():
            figures = score(play, rendered_folder, midi_files, not options.no_notes)
            cells = [f"{figure:.{digits}f}" if np.isfinite(figure) else ""
                     for figure, digits in zip(figures, (2, 2, 2, 3, 3, 3, 0, 1))]
            lines.append(f"| {case} | {name} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
            Util.save_text(options.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    Util.run(main)
