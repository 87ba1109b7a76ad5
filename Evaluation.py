"""Score the system: compare its output with the true e-piano render, and its notes with the MIDI file.

`python Evaluation.py` scores data/test. `python Evaluation.py FOLDER` scores FOLDER/piano against FOLDER/synth, or real
recordings beside their MIDI files, or MIDI files alone. It renders what is missing. Scores are written to the working
folder as evaluation.md, evaluation.json and evaluation.png. `Metrics` defines them.
"""
import argparse
import hashlib
import json
from pathlib import Path

import librosa
import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Inversion
import Main
import MIDI2Audio
import Notes
import Plots
import Util
from AEModel import NoteModel, target_instrument
from Metrics import log_mel_l1, note_metrics, note_scores, onset_f1, read_onsets, spectral_distance, texture

versions = ("unchanged", "autoencoder", "final", "ceiling")
metrics = {"log_mel_l1": "log-mel L1, dB", "texture": "texture, dB",
           "spectral_distance": "normalised spectral distance", "onset_f1": "onset F1"}


def ceiling(recording, truth, inversion=None):
    """Return the inversion of the true mel spectrogram: the best result that the networks can lead to.

    Parameters
    ----------
    recording, truth : np.ndarray [shape=(n,)]
        Audio at 22,050 Hz.
    inversion : str, optional
        See `Inversion.invert`. By default `hp.inversion`.

    Returns
    -------
    np.ndarray [shape=(n,)]
    """
    inversion = hp.inversion if inversion is None else inversion
    power = DatasetCreator.mel_power(DatasetCreator.stft(truth))
    mel = DatasetCreator.mel_from_log(DatasetCreator.log_mel(power, power.max()))
    audio = Inversion.invert(mel, DatasetCreator.stft(recording), inversion)
    return librosa.util.fix_length(audio, size=truth.size)


def make_outputs(recording, truth, models, inversion=None):
    """Return a dict from each of `versions` to its audio, for a recording and its true render [shape=(n,) each]."""
    inversion = hp.inversion if inversion is None else inversion
    return {
        "unchanged": recording,
        "autoencoder": Main.resynthesise(recording, models[:1], inversion)[0],
        "final": Main.resynthesise(recording, models, inversion)[0],
        "ceiling": ceiling(recording, truth, inversion),
    }


def score_outputs(outputs, truth, midi_file=None):
    """Score the outputs of `make_outputs`: a dict from version to metric to score.

    The metric "onset_f1" needs the MIDI file of the piece.
    """
    scores = {version: {"log_mel_l1": log_mel_l1(audio, truth), "texture": texture(audio, truth),
                        "spectral_distance": spectral_distance(audio, truth)}
              for version, audio in outputs.items()}
    if midi_file:
        onsets = read_onsets(midi_file)
        for version, audio in outputs.items():
            scores[version]["onset_f1"] = onset_f1(audio, onsets)
    return scores


def read_pair(paths):
    """Read a recording and its true e-piano [shape=(n,) each], each cut or padded with silence to `hp.limit_s`."""
    return [librosa.util.fix_length(Main.read_recording(path), size=hp.limit_s * hp.sample_rate) for path in paths]


def evaluate(folder, midi_folder, models, inversion=None):
    """Score every piece of `folder`/piano against `folder`/synth, each cut or padded with silence to `hp.limit_s`.

    Parameters
    ----------
    folder, midi_folder : Path or None
        Pieces that `midi_folder` lacks get no "onset_f1" and no "transcription".
    models : sequence of AEModel.AEModel
        Autoencoder and U-Net.
    inversion : str, optional
        See `Inversion.invert`. By default `hp.inversion`.

    Returns
    -------
    dict
        From piece to version to metric to score. The last piece is "mean". With a note autoencoder, "transcription"
        stands beside the versions and holds `note_scores`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `DatasetCreator.find_pairs` and `Main.read_recording`.
    """
    inversion = hp.inversion if inversion is None else inversion
    midi_files = Util.find_pieces(midi_folder, Notes.midi_endings) if midi_folder and midi_folder.is_dir() else {}
    scores = {}
    for name, recordings in tqdm(DatasetCreator.find_pairs(folder).items(), desc="evaluation", unit="piece"):
        recording, truth = read_pair(recordings)
        scores[name] = score_outputs(make_outputs(recording, truth, models, inversion), truth, midi_files.get(name))
        if name in midi_files and isinstance(models[0], NoteModel):
            scores[name]["transcription"] = note_scores(Notes.read_notes(midi_files[name]),
                                                        Main.transcribe_audio(recording, models[0]))
    return {**scores, "mean": mean_scores(list(scores.values()))}


def mean_scores(pieces):
    """Return the mean of each score that all pieces have, for the pieces of `evaluate`."""
    groups = [group for group in pieces[0] if all(group in piece for piece in pieces)]
    return {group: {metric: float(np.mean([piece[group][metric] for piece in pieces])) for metric in pieces[0][group]
                    if all(metric in piece[group] for piece in pieces)} for group in groups}


def gap_closed(piece):
    """Return the timbre gap closed, (unchanged - final) / (unchanged - ceiling) in log-mel L1, for a piece's scores.

    It is 0 if the output is as far away as the recording, and 1 if it reaches the ceiling.
    """
    unchanged, final, best = (piece[version]["log_mel_l1"] for version in ("unchanged", "final", "ceiling"))
    return (unchanged - final) / (unchanged - best)


def markdown_table(scores):
    """Return the scores of `evaluate` as Markdown: a table of the sound and, if there are any, a table of the notes."""
    present = [metric for metric in metrics if any(metric in piece["final"] for piece in scores.values())]
    shown = [version for version in next(iter(scores.values())) if version != "transcription"]
    heads = [f"{metrics[metric]}: {version}" if version == versions[0] else version for metric in present
             for version in shown]
    rows = {name: [f"{piece[version].get(metric, float('nan')):.2f}" for metric in present for version in shown]
            + [f"{100 * gap_closed(piece):.0f} %"] for name, piece in scores.items()}
    text = table_lines(["piece", *heads, "timbre gap closed"], rows)
    rows = {name: [f"{piece['transcription'][metric]:.3f}" for metric in note_metrics]
            for name, piece in scores.items() if "transcription" in piece}
    if rows:
        text += "\n" + table_lines(["transcription", *note_metrics.values()], rows)
    return text


def table_lines(heads, rows):
    """Return a Markdown table of `rows`, a dict from the first cell of a row to the others."""
    cells = [heads, *([name, *row] for name, row in rows.items())]
    lines = [f"| {' | '.join(row)} |\n" for row in cells]
    return "".join([lines[0], "|---" * len(heads) + "|\n", *lines[1:]])


def plot_scores(scores):
    """Draw the log-mel L1 of all versions of each piece. Returns a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.45 * len(scores)), layout="constrained")
    axis = figure.subplots()
    for offset, version in enumerate(versions):
        axis.barh(np.arange(len(scores)) + (offset - 1.5) / 5,
                  [piece[version]["log_mel_l1"] for piece in scores.values()],
                  height=0.2, label=version)
    axis.set_yticks(range(len(scores)), scores)
    axis.invert_yaxis()
    axis.set_xlabel("log-mel L1 to the true e-piano, dB")
    figure.legend(loc="outside upper center", ncols=len(versions))
    return figure


def cache_folder(folder, data, *parts):
    """Return the folder below `data`/evaluation for what is rendered from `folder`, a different one for each path."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return Path(data) / "evaluation" / "_".join([folder.resolve().name, digest, *map(str, parts)])


def render_pair(midi_folder, data=None, piano=None):
    """Render a folder of MIDI files on the preset `piano` and on the e-piano.

    Returns the folder below `data`/evaluation with piano/ and synth/. Renders whose MIDI file no longer exists are
    removed. Raises FileNotFoundError and ValueError as `MIDI2Audio.synthesise_folder`.
    """
    data = hp.data if data is None else data
    piano = hp.piano_preset if piano is None else piano
    folder, pieces = cache_folder(midi_folder, data, *piano), Util.find_pieces(midi_folder, Notes.midi_endings)
    for mode, preset in (("piano", piano), ("synth", hp.synth_preset)):
        for path in (folder / mode).glob("*.wav"):
            if path.stem not in pieces:
                path.unlink()
        MIDI2Audio.synthesise_folder(midi_folder, folder / mode, preset)
    return folder


def prepare_recordings(folder, data=None):
    """Prepare real recordings with their MIDI files, as in MAESTRO: x.wav or x.mp3 beside x.midi or x.mid.

    Both lie in `folder` or below it. MIDI files without a recording are ignored. A recording may begin up to
    `hp.max_lag_s` earlier or later than its MIDI file. It is then shifted, with a warning if the lag exceeds a frame.

    Returns
    -------
    Path
        A folder with piano/ (the recordings), synth/ (e-piano renders of the MIDI files) and MIDI/ (the rendered part
        of the MIDI files).

    Raises
    ------
    FileNotFoundError
        If the folder holds no recordings or no MIDI files.
    ValueError
        If a recording has no MIDI file, or a file is damaged.
    """
    data = hp.data if data is None else data
    found = Util.find_pieces(folder, DatasetCreator.audio_endings)
    midi_files = Util.find_pieces(folder, Notes.midi_endings)
    alone = [str(path) for name, path in found.items() if name not in midi_files]
    if alone:
        raise ValueError(f"no MIDI file of the same name lies beside {', '.join(alone)}; put it there, or remove the "
                         "recording")
    place = cache_folder(folder, data, "recorded", hp.limit_s)
    for path in place.glob("*/*.*"):
        if path.suffix in (".wav", ".mid") and path.stem not in found:
            path.unlink()
    for name in found:
        midi = place / "MIDI" / f"{name}.mid"
        if not Util.is_up_to_date(midi, midi_files[name]):
            trimmed, _ = MIDI2Audio.trim(midi_files[name])
            with Util.atomic_write(midi) as temporary:
                trimmed.save(temporary)
    MIDI2Audio.synthesise_folder(place / "MIDI", place / "synth", hp.synth_preset)
    for name, path in found.items():
        recording, truth = place / "piano" / f"{name}.wav", place / "synth" / f"{name}.wav"
        if not Util.is_up_to_date(recording, path, truth):
            Util.write_audio(recording, align_recording(path, Util.read_audio(truth)))
    return place


def align_recording(path, truth):
    """Read the first `hp.limit_s` seconds of a recording, shifted so that its onsets match those of `truth`.

    Parameters
    ----------
    path : Path
    truth : np.ndarray [shape=(m,)]
        E-piano render at 22,050 Hz.

    Returns
    -------
    np.ndarray [shape=(n,)]
    """
    size, recording = hp.limit_s * hp.sample_rate, Main.read_recording(path)
    images = (DatasetCreator.spectrogram(librosa.util.fix_length(audio, size=size)) for audio in (recording, truth))
    early = DatasetCreator.estimate_lag(*images, round(hp.max_lag_s * hp.sample_rate / hp.hop_length))
    if abs(early) > 1:
        seconds = -early * hp.hop_length / hp.sample_rate
        Util.warn(f"{path} comes {seconds:+.3f} s after its MIDI file; shifted")
        recording = np.pad(recording[max(-early, 0) * hp.hop_length:], (max(early, 0) * hp.hop_length, 0))
    return recording[:size]


def save_scores(path, scores):
    """Write the scores of `evaluate` to `path`.md and, with four decimals, to `path`.json."""
    rounded = {name: {version: {metric: round(score, 4) for metric, score in found.items()}
                      for version, found in piece.items()} for name, piece in scores.items()}
    Util.save_text(path.with_suffix(".md"), markdown_table(scores))
    Util.save_text(path.with_suffix(".json"), json.dumps(rounded, indent=1) + "\n")


def find_pairs(folder, midi_folder=None):
    """Return the folder with piano/ and synth/, and that of the MIDI files, for the folder of the command line.

    Renders what is missing. Raises FileNotFoundError and ValueError as `render_pair` and `prepare_recordings`.
    """
    if folder == hp.data / "test" and not folder.joinpath("piano").exists():
        MIDI2Audio.create_test_set()
    elif folder.is_dir() and not folder.joinpath("piano").exists():
        if any(path.suffix.lower() in DatasetCreator.audio_endings for path in folder.rglob("*")):
            prepared = prepare_recordings(folder, hp.data)
            return prepared, midi_folder or prepared / "MIDI"
        return render_pair(folder, hp.data), midi_folder or folder
    return folder, midi_folder or hp.data / "MIDI_test"


def check_instruments(folder, models):
    """Raise ValueError if `folder` holds renders of another target than the one the models were trained for."""
    pairs = [DatasetCreator.pair(folder), models[-1].pair or "recordings"]
    targets = [target_instrument(pair) for pair in pairs]
    if targets[0] != targets[1] and "recordings" not in targets:
        raise ValueError(f"{folder} holds {pairs[0]}, and the weights were trained for {pairs[1]}; render it again or "
                         "choose other weights")


def score_folder(options):
    """Score the folder of the command line. Writes a table, the scores behind it and a plot."""
    weights = Main.choose_weights(options.model, options.ae, options.unet)
    if weights != Main.find_weights("shipped"):
        print(f"scoring {weights[0]} and {weights[1]}")
    models = Main.load_models(*weights, options.device)
    folder, midi_folder = find_pairs(options.folder, options.midi)
    check_instruments(folder, models)
    scores = evaluate(folder, midi_folder, models, options.inversion)
    name = "evaluation" if options.inversion == hp.inversion else f"evaluation_{options.inversion}"
    output = options.output or Path(name)
    save_scores(output, scores)
    Plots.save_figure(output.with_suffix(".png"), plot_scores(scores))
    print(f"{markdown_table({'mean': scores['mean']})}all pieces: {output.with_suffix('.md').absolute()}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score the system against the true e-piano.")
    parser.add_argument("folder", nargs="?", type=Path, default=hp.data / "test",
                        help="folder with piano/ and synth/, with recordings beside their MIDI files, or with MIDI "
                        "files to render (default: data/test)")
    parser.add_argument("--midi", type=Path,
                        help="folder with the MIDI files of the pieces, for onsets and notes (default: data/MIDI_test)")
    parser.add_argument("--model", help="as for Main.py")
    parser.add_argument("--ae", type=Path, help="as for Main.py")
    parser.add_argument("--unet", type=Path, help="as for Main.py")
    parser.add_argument("--device", default="auto", help="as for Main.py")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion, help="as for Main.py")
    parser.add_argument("-o", "--output", type=Path,
                        help="name of the .md, .json and .png files without its ending (default: evaluation in the "
                        "working folder, or evaluation_INVERSION with another inversion)")
    score_folder(parser.parse_args(arguments))


if __name__ == "__main__":
    Util.run(main)
