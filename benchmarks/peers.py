"""Score other systems that turn a piano recording into an electric piano, beside this repository.

`python benchmarks/peers.py FOLDER --pieces 6` writes results/peers_table.md. It transcribes the recordings of
`cases.py` with transkun (Yan and Duan 2024, "Scoring time intervals using non-hierarchical transformer for automatic
piano transcription") and basic-pitch (Bittner et al. 2022), and renders their notes on the e-piano with FluidSynth.
With other pieces, weights or options, the page is written to the working folder.
"""
import argparse
import hashlib
import sys
import time
import types
from pathlib import Path

import librosa
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Main
import Util
from AEModel import NoteModel
from audio import audio_files, audio_metrics
from notes import note_events
from cases import cases, cases_of, prepare
from common import (check_packages, check_soundfonts, copy_pieces, is_default, output_path, scored_pieces, silence,
                    table)
import goals

committed_pieces = 6    # of the twelve, in the order of their names
peers = {  # name of a system's option: its name in the table, and the packages that it needs
    "this": ("this repository", ()),
    "transkun": ("transkun + FluidSynth", ("transkun.Data", "moduleconf")),
    "basic-pitch": ("basic-pitch + FluidSynth", goals.basic_pitch_modules),
}
to_install = f"pip install --no-deps transkun moduleconf, {goals.to_install}"


def mel_filters(n_freqs, f_min, f_max, n_mels, sample_rate):
    """Return the filter bank for which transkun needs torchaudio [shape=(n_freqs, n_mels)].

    Triangles of height one on HTK's mel scale.
    """
    def mel(hertz):
        return 2595 * np.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(mel(f_min), mel(f_max), n_mels + 2) / 2595) - 1)
    slopes = edges - np.linspace(0, sample_rate // 2, n_freqs)[:, None]
    width = np.diff(edges)
    triangles = np.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:])
    return torch.from_numpy(np.maximum(triangles, 0)).float()


def add_torchaudio():
    """Add a module with the only function of torchaudio that transkun needs, so that torchaudio is not installed."""
    if "torchaudio" not in sys.modules:
        stand_in = types.ModuleType("torchaudio")
        stand_in.functional = types.SimpleNamespace(melscale_fbanks=mel_filters)
        sys.modules["torchaudio"] = stand_in


def transkun():
    """Load transkun with its own weights. Return a function of audio [shape=(n,)] and the MIDI file to write."""
    import moduleconf
    import transkun.Data

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
    """Load basic-pitch, and return a function as `transkun` does."""
    from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
    from basic_pitch.inference import Model, predict

    model = Model(build_icassp_2022_model_path(FilenameSuffix.onnx))

    def write(audio, path):
        wav = path.with_suffix(".wav")
        audio_files.write_audio(wav, audio)
        with silence():
            predict(str(wav), model)[1].write(str(path))

    return write


def transcribe_and_render(write, folder):
    """Return a function from a recording to (audio, notes, seconds), with the transcription that `write` makes.

    Transcriptions and their seconds are kept in `folder`, so that an interrupted run resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def play(audio):
        midi, wav = folder / f"{hashlib.sha256(audio.tobytes()).hexdigest()[:16]}.mid", folder / "rendered.wav"
        if not midi.with_suffix(".txt").exists():
            started = time.perf_counter()
            write(audio, midi)
            Util.save_text(midi.with_suffix(".txt"), f"{time.perf_counter() - started:.2f}")
        started = time.perf_counter()
        MIDI2Audio.synthesise_midi_to_audio(midi, wav, *hp.synth_preset)
        seconds = float(Util.read_text(midi.with_suffix(".txt"))) + time.perf_counter() - started
        return audio_files.read_audio(wav), note_events.read_notes(midi), seconds

    return play


def ours(models):
    """Return a function as `transcribe_and_render` for this repository. Without a note autoencoder, notes are None."""
    def play(audio):
        started = time.perf_counter()
        notes = Main.transcribe_audio(audio, models[0]) if isinstance(models[0], NoteModel) else None
        output = Main.resynthesise(audio, models, notes=notes)[0]
        return output, notes, time.perf_counter() - started

    return play


def make_players(names, weights, folder):
    """Return a dict from the name of a system to its function (`transcribe_and_render`).

    `names` are keys of `peers`, `weights` those of this repository's networks, and `folder` gets transcriptions and
    renders. Raises ValueError if packages are missing.
    """
    if "transkun" in names:
        add_torchaudio()
    check_packages("the comparison", [module for name in names for module in peers[name][1]], to_install,
                   "--players this")
    make = {"this": lambda: ours(Main.load_models(*weights)),
            "transkun": lambda: transcribe_and_render(transkun(), folder / "transkun"),
            "basic-pitch": lambda: transcribe_and_render(basic_pitch(), folder / "basic_pitch")}
    with silence():
        return {peers[name][0]: make[name]() for name in names}


def score(play, folder, midi_files, with_note_f1):
    """Return the means over the pieces of a folder [shape=(columns,)], with nan for what is not known.

    The columns are `goals.sound_metrics`, the note F1 of the audio if `with_note_f1`, `audio_metrics.note_scores`, and
    seconds. `play` is as `transcribe_and_render` returns it, `folder` and `midi_files` as `cases.prepare` does.
    """
    scores = []
    for name, paths in tqdm(DatasetCreator.find_pairs(folder).items(), unit="piece", leave=False):
        recording, truth = Evaluation.read_pair(paths)
        audio, notes, seconds = play(recording)
        audio = librosa.util.fix_length(audio, size=truth.size)
        found = {} if notes is None else audio_metrics.note_scores(note_events.read_notes(midi_files[name]), notes)
        scores.append([*(metric(audio, truth, midi_files[name]) for _, metric in goals.sound_metrics),
                       goals.note_f1(audio, midi_files[name]) if with_note_f1 else np.nan,
                       *(found.get(metric, np.nan) for metric in audio_metrics.note_metrics), seconds])
    return np.mean(scores, axis=0)


def make_page(scores, names):
    """Return the page of `scores`, a list of (case, system, scores), over the pieces `names`."""
    sound = [heading for heading, _ in goals.sound_metrics] + ["note F1 of the audio"]
    heads = "recording", "system", *sound, *audio_metrics.note_metrics.values(), "seconds per piece"
    digits = [2] * len(sound) + [3] * len(audio_metrics.note_metrics) + [1]
    rows = [(case, name, *(f"{figure:.{places}f}" if np.isfinite(figure) else "" for figure, places in
                           zip(figures, digits))) for case, name, figures in scores]
    return (f"Means over {len(names)} pieces of {hp.limit_s} s, made by `python benchmarks/peers.py FOLDER --pieces "
            f"{len(names)}` on {torch.get_num_threads()} CPU thread(s).\n\n{table([heads, *rows])}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score other systems beside this repository.")
    parser.add_argument("midi", type=Path, help="folder with MIDI files")
    parser.add_argument("--pieces", type=Util.positive_int, metavar="N", help="score the first N pieces only")
    parser.add_argument("--cases", nargs="+", choices=cases, metavar="CASE",
                        default=[name for name, case in cases.items() if not case.beside and not case.instrument],
                        help=f"cases to score, of: {'; '.join(cases)} (default: those of a piano alone that FluidSynth "
                        "plays)")
    parser.add_argument("--players", nargs="+", choices=peers, default=list(peers),
                        help="systems to score (default: all)")
    parser.add_argument("--model", default="shipped", help="as for Main.py (default: shipped)")
    parser.add_argument("--no-notes", action="store_true",
                        help="leave out the note F1 of the audio, which needs basic-pitch")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write (default: results/peers_table.md for the first six of the twelve pieces "
                        "with all other options at their defaults, else peers_table.md in the working folder)")
    options = parser.parse_args(arguments)
    weights = Main.choose_weights(options.model, None, None)
    pieces = dict(sorted(Util.find_pieces(options.midi, note_events.midi_endings).items())[:options.pieces])
    names = list(pieces)
    chosen = cases_of(names, options.cases)
    check_soundfonts(hp.synth_preset, *(cases[case].preset for case in chosen))
    if not options.no_notes:
        check_packages("the note F1 of the audio", goals.basic_pitch_modules, goals.to_install, "--no-notes")
    players = make_players(options.players, weights, hp.data / "evaluation" / "peers")
    full = (names == sorted(scored_pieces)[:committed_pieces]
            and is_default(parser, options, "cases", "players", "model", "no_notes"))
    output = output_path(hp.root / "results" / "peers_table.md", full, options.output)
    midi_folder = copy_pieces(pieces, hp.data / "evaluation" / f"first_{len(names)}")
    scores = []
    for case in chosen:
        folder, midi_files = prepare(case, midi_folder)
        for name, play in players.items():
            scores.append((case, name, score(play, folder, midi_files, not options.no_notes)))
            Util.save_text(output, make_page(scores, names))
    print(f"{output.read_text(encoding='utf-8')}\n{output}")


if __name__ == "__main__":
    Util.run(main)
