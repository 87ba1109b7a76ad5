"""How good is it? Scores the system on recordings with their true e-piano renders (report: evaluation).

`python Evaluation.py` scores data/test and writes results/evaluation.md, .json and .png; `python Evaluation.py FOLDER`
scores FOLDER/piano against FOLDER/synth, or real recordings beside their MIDI files, of which it renders the e-piano,
or MIDI files, of which it renders both.

Log-mel L1 is the mean distance of two log-mel spectrograms in dB. The normalised spectral distance is that of two
magnitude spectrograms each brought to unit norm, from 0, the same up to a gain, to sqrt(2); elsewhere it is often the
distance over the norm of the truth alone, which a gain changes.
"""
import argparse
import hashlib
import json
import sys
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
from AEModel import NoteModel

versions = ("unchanged", "autoencoder", "final", "ceiling")
metrics = {"log_mel_l1": "log-mel L1, dB", "spectral_distance": "normalised spectral distance", "onset_f1": "onset F1"}
note_metrics = {"precision": "precision", "recall": "recall", "f1": "F1", "velocity": "velocity error"}


def log_mel_l1(output, truth):
    """Mean distance of two log-mel spectrograms in dB, the output brought to the truth's RMS level.

    128 bands, dB relative to the truth's maximum, floor at -80 dB. `output` and `truth`: np.ndarray [shape=(n,)] at
    22,050 Hz.
    """
    output = output * np.sqrt((truth ** 2).mean() / ((output ** 2).mean() + 1e-20))
    output, truth = (DatasetCreator.mel_power(DatasetCreator.stft(signal)) for signal in (output, truth))
    reference = truth.max()
    output, truth = (DatasetCreator.log_mel(power, reference) for power in (output, truth))
    return hp.top_db * float(np.abs(output - truth).mean())


def spectral_distance(output, truth):
    """Normalised spectral distance: that of two magnitude spectrograms, each at unit norm.

    0 for the same up to a gain, 1 for silence, at most sqrt(2). Mean over the STFT sizes 512, 1024 and 2048. `output`
    and `truth`: np.ndarray [shape=(n,)].
    """
    distances = []
    for n_fft in hp.distance_n_fft:
        spectra = (np.abs(librosa.stft(signal, n_fft=n_fft, hop_length=n_fft // 4)) for signal in (output, truth))
        output_unit, truth_unit = (spectrum / (np.linalg.norm(spectrum) + 1e-9) for spectrum in spectra)
        distances.append(np.linalg.norm(output_unit - truth_unit))
    return float(np.mean(distances))


def read_onsets(path, limit_s=None):
    """Times in seconds at which notes begin, ascending; those of a chord, within 30 ms, count once."""
    limit_s = hp.limit_s if limit_s is None else limit_s
    midi, _ = MIDI2Audio.trim(path, limit_s)
    times, now = [], 0.0
    for message in midi:
        now += message.time
        if message.type == "note_on" and message.velocity and (not times or now - times[-1] > hp.chord_s):
            times.append(now)
    return times


def onset_f1(output, onsets, tolerance=None):
    """F1 of the onsets that librosa finds in `output` against the true `onsets`, in seconds, each matched once."""
    tolerance = hp.onset_tolerance_s if tolerance is None else tolerance
    found = librosa.onset.onset_detect(y=output, sr=hp.sample_rate, hop_length=hp.hop_length, units="time")
    hits, i, j = 0, 0, 0
    while i < len(found) and j < len(onsets):
        if abs(found[i] - onsets[j]) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif found[i] < onsets[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(found) + len(onsets)) if len(found) + len(onsets) else 1.0


def note_scores(true, heard, tolerance=None):
    """Precision, recall and F1 of the onsets of `heard` notes, and the mean distance of their velocities from the true.

    Both [shape=(n, 4)]: onset and end in seconds, MIDI key, velocity. A note is found if one of its key begins within
    `tolerance` seconds, the nearest, each counting once.
    """
    tolerance = hp.onset_tolerance_s if tolerance is None else tolerance
    hits, distance = 0, 0.0
    for key in np.unique(true[:, 2]):
        left = [note for note in heard if note[2] == key]
        for onset, _, _, velocity in true[true[:, 2] == key]:
            best = min(left, key=lambda note: abs(note[0] - onset), default=None)
            if best is not None and abs(best[0] - onset) <= tolerance:
                left = [note for note in left if note is not best]
                hits, distance = hits + 1, distance + abs(best[3] - velocity)
    precision, recall = hits / max(len(heard), 1), hits / max(len(true), 1)
    return precision, recall, 2 * hits / max(len(true) + len(heard), 1), float(distance / max(hits, 1))


def ceiling(recording, truth, inversion=None):
    """The inversion applied to the true mel spectrogram: the best that the networks could lead to."""
    inversion = hp.inversion if inversion is None else inversion
    power = DatasetCreator.mel_power(DatasetCreator.stft(truth))
    mel = DatasetCreator.mel_from_log(DatasetCreator.log_mel(power, power.max()))
    audio = Inversion.invert(mel, DatasetCreator.stft(recording), inversion)
    return librosa.util.fix_length(audio, size=truth.size)


def make_outputs(recording, truth, models, inversion=None):
    """Return the audio of each of `versions` for a recording [shape=(n,)] and its true render [shape=(n,)]."""
    inversion = hp.inversion if inversion is None else inversion
    return {
        "unchanged": recording,
        "autoencoder": Main.resynthesise(recording, models[:1], inversion)[0],
        "final": Main.resynthesise(recording, models, inversion)[0],
        "ceiling": ceiling(recording, truth, inversion),
    }


def score_outputs(outputs, truth, midi_file=None):
    """Return version -> metric -> figure for what `make_outputs` returns; `onset_f1` is there with a MIDI file."""
    scores = {version: {"log_mel_l1": log_mel_l1(audio, truth), "spectral_distance": spectral_distance(audio, truth)}
              for version, audio in outputs.items()}
    if midi_file:
        onsets = read_onsets(midi_file)
        for version, audio in outputs.items():
            scores[version]["onset_f1"] = onset_f1(audio, onsets)
    return scores


def read_pair(paths):
    """Return a recording and its true e-piano [shape=(n,) each], cut or filled up with silence to 30 s."""
    return [librosa.util.fix_length(Main.read_recording(path), size=hp.limit_s * hp.sample_rate) for path in paths]


def evaluate(folder, midi_folder, models, inversion=None):
    """Score every piece of `folder`/piano against `folder`/synth, cut or filled up with silence to 30 s.

    Returns piece -> version -> metric -> figure, with the mean as a last piece. `onset_f1` is there if `midi_folder`
    holds the piece, and then, of an autoencoder of notes, beside the versions, "transcription" (`note_scores`). Raises
    as `DatasetCreator.find_pairs`.
    """
    inversion = hp.inversion if inversion is None else inversion
    midi_files = Util.find_pieces(midi_folder, Notes.midi_endings) if midi_folder and midi_folder.is_dir() else {}
    scores = {}
    for name, recordings in tqdm(DatasetCreator.find_pairs(folder).items(), desc="evaluation", unit="piece"):
        recording, truth = read_pair(recordings)
        scores[name] = score_outputs(make_outputs(recording, truth, models, inversion), truth, midi_files.get(name))
        if name in midi_files and isinstance(models[0], NoteModel):
            scores[name]["transcription"] = dict(zip(note_metrics, note_scores(
                Notes.read_notes(midi_files[name], hp.limit_s), Main.transcribe_audio(recording, models[0]))))
    return {**scores, "mean": mean_scores(list(scores.values()))}


def mean_scores(pieces):
    """The mean of each figure that all pieces have: see `evaluate`."""
    groups = [group for group in pieces[0] if all(group in piece for piece in pieces)]
    return {group: {metric: float(np.mean([piece[group][metric] for piece in pieces])) for metric in pieces[0][group]
                    if all(metric in piece[group] for piece in pieces)} for group in groups}


def gap_closed(piece):
    """Timbre gap closed, (unchanged - final) / (unchanged - ceiling) in log-mel L1: 0 is the piano, 1 all to be won."""
    unchanged, final, best = (piece[version]["log_mel_l1"] for version in ("unchanged", "final", "ceiling"))
    return (unchanged - final) / (unchanged - best)


def markdown_table(scores):
    """The scores as Markdown: a row a piece, a column a metric and version, the notes heard if they are known, the
    timbre gap closed."""
    present = [metric for metric in metrics if any(metric in piece["final"] for piece in scores.values())]
    heads = [f"{metrics[metric]}: {version}" if version == versions[0] else version for metric in present
             for version in versions]
    heard = note_metrics if any("transcription" in piece for piece in scores.values()) else {}
    heads += [f"transcription: {name}" if name == "precision" else name for name in heard.values()]
    lines = [f"| piece | {' | '.join(heads)} | timbre gap closed |", "|---" * (len(heads) + 2) + "|"]
    for name, piece in scores.items():
        cells = [f"{piece[version].get(metric, float('nan')):.2f}" for metric in present for version in versions]
        cells += [f"{piece.get('transcription', {}).get(metric, float('nan')):.{1 if metric == 'velocity' else 3}f}"
                  for metric in heard]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {100 * gap_closed(piece):.0f} % |")
    return "\n".join(lines) + "\n"


def plot_scores(scores):
    """Draw the log-mel L1 of each piece's versions. Returns a matplotlib figure."""
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


def render_pair(midi_folder, data=None, piano=None):
    """Render a folder of MIDI files on `piano` and on the e-piano below `data`.

    Returns the folder with piano/ and synth/.
    Raises as `MIDI2Audio.synthesise_folder`.
    """
    data = hp.data if data is None else data
    piano = hp.piano_preset if piano is None else piano
    place = cache_name(midi_folder, *piano)
    folder, pieces = Path(data) / "evaluation" / place, Util.find_pieces(midi_folder, Notes.midi_endings)
    for mode, preset in (("piano", piano), ("synth", hp.synth_preset)):
        for path in (folder / mode).glob("*.wav"):
            if path.stem not in pieces:  # its MIDI file is gone
                path.unlink()
        MIDI2Audio.synthesise_folder(midi_folder, folder / mode, preset)
    return folder


def cache_name(folder, *depends_on):
    """Return the name of the folder that keeps what is made of `folder`: different for different paths."""
    parts = [str(part) for part in (folder.resolve(), *depends_on)]
    return f"{folder.resolve().name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def prepare_recordings(folder, data=None):
    """Prepare real recordings that lie beside their MIDI files, as in MAESTRO: x.wav or x.mp3 beside x.midi or x.mid,
    in `folder` or below it. MIDI files without a recording are ignored.

    Returns a folder with piano/, the recordings; synth/, the e-piano rendered from the MIDI files; and MIDI/, what of
    these is rendered. A recording that begins up to `hp.max_lag_s` earlier or later than its MIDI file, by more than a
    frame, is shifted, with a warning.

    Raises FileNotFoundError if there are no recordings or no MIDI files, ValueError naming the recordings without one,
    and as `MIDI2Audio.synthesise_folder` and `Main.read_recording`.
    """
    data = hp.data if data is None else data
    found = Util.find_pieces(folder, DatasetCreator.audio_endings)
    midi_files = Util.find_pieces(folder, Notes.midi_endings)
    alone = [str(path) for name, path in found.items() if name not in midi_files]
    if alone:
        raise ValueError(f"no MIDI file of the same name lies beside {', '.join(alone)}; put it there, or take the "
                         "recording away")
    place = Path(data) / "evaluation" / cache_name(folder, "recorded", hp.limit_s, hp.max_lag_s)
    for path in place.glob("*/*.*"):
        if path.suffix in (".wav", ".mid") and path.stem not in found:  # its recording is gone
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
    """Read the first `hp.limit_s` of a recording [shape=(n,)], shifted so that its onsets are those of `truth`."""
    size, recording = hp.limit_s * hp.sample_rate, Main.read_recording(path)
    images = (DatasetCreator.spectrogram(librosa.util.fix_length(audio, size=size)) for audio in (recording, truth))
    early = DatasetCreator.estimate_lag(*images, round(hp.max_lag_s * hp.sample_rate / hp.hop_length))
    if abs(early) > 1:
        seconds = -early * hp.hop_length / hp.sample_rate
        tqdm.write(f"warning: {path} comes {seconds:+.3f} s after its MIDI file; shifted", file=sys.stderr)
        recording = np.pad(recording[max(-early, 0) * hp.hop_length:], (max(early, 0) * hp.hop_length, 0))
    return recording[:size]


def save_scores(path, scores):
    """Write scores to `path`.md and, to four places, .json."""
    rounded = {name: {version: {metric: round(figure, 4) for metric, figure in figures.items()}
                      for version, figures in piece.items()} for name, piece in scores.items()}
    Util.save_text(path.with_suffix(".md"), markdown_table(scores))
    Util.save_text(path.with_suffix(".json"), json.dumps(rounded, indent=1) + "\n")


def score_folder(options):
    """Score the folder of the command line, and write the table, the figures behind it and the plot."""
    folder, midi_folder = options.folder, options.midi or hp.data / "MIDI_test"
    if folder == hp.data / "test" and not folder.joinpath("piano").exists():
        MIDI2Audio.create_test_set()
    elif folder.is_dir() and not folder.joinpath("piano").exists():
        recordings = any(path.suffix.lower() in DatasetCreator.audio_endings for path in folder.rglob("*"))
        midi_folder, folder = folder, (prepare_recordings if recordings else render_pair)(folder, hp.data)
        midi_folder = options.midi or (folder / "MIDI" if recordings else midi_folder)
    weights = Main.choose_weights(options.model, options.ae, options.unet)
    shipped = weights == Main.find_weights("shipped")
    if not shipped:
        print(f"scoring {weights[0]} and {weights[1]}")
    models = Main.load_models(*weights, options.device)
    pairs = [DatasetCreator.trained_for(folder)["pair"], models[-1].pair or "recordings"]
    targets = [pair.split(" -> ")[-1] for pair in pairs]
    if targets[0] != targets[1] and "recordings" not in targets:
        raise ValueError(f"{folder} holds {pairs[0]}, and the weights were trained for {pairs[1]}; render it again or "
                         "choose other weights")
    scores = evaluate(folder, midi_folder, models, options.inversion)
    name = "evaluation" if options.inversion == hp.inversion else f"evaluation_{options.inversion}"
    output = options.output or (hp.root / "results" if shipped and folder == hp.data / "test" else Path()) / name
    save_scores(output, scores)
    Plots.save_figure(output.with_suffix(".png"), plot_scores(scores))
    print(markdown_table({"mean": scores["mean"]})
          + "normalised spectral distance: that of the magnitude spectrograms, each at unit "
          f"norm, 0 to 1.41\nall pieces: {output.with_suffix('.md')}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score the system against the true e-piano.")
    parser.add_argument("folder", nargs="?", type=Path, default=hp.data / "test",
                        help="with piano/ and synth/, or recordings beside their MIDI files, or MIDI files to render "
                        "(default: data/test)")
    parser.add_argument("--midi", type=Path, help="MIDI files of the pieces, for the onsets (default: data/MIDI_test)")
    parser.add_argument("--model", help="as for Main.py")
    parser.add_argument("--ae", type=Path, help="as for Main.py")
    parser.add_argument("--unet", type=Path, help="as for Main.py")
    parser.add_argument("--device", default="auto", help="as for Main.py")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion, help="as for Main.py")
    parser.add_argument("-o", "--output", type=Path,
                        help="name of the .md, .json and .png to write (default: evaluation in the "
                        "working folder; for data/test and the shipped weights results/evaluation; with another "
                        "inversion evaluation_<inversion>)")
    score_folder(parser.parse_args(arguments))


if __name__ == "__main__":
    Util.run(main)
