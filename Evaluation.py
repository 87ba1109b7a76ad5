"""Score the system: compare its output with the true e-piano render, and its notes with the MIDI file.

`python Evaluation.py` scores data/test. `python Evaluation.py FOLDER` scores FOLDER/piano against FOLDER/synth, or real
recordings beside their MIDI files, or MIDI files alone. It renders what is missing. Scores are written to the working
folder as evaluation.md, evaluation.json and evaluation.png. `audio_metrics` defines them.
"""
import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Main
import Util
from AEModel import NoteModel, target_instrument
from audio import alignment, audio_files, mel_inversion
from audio.audio_metrics import log_mel_l1, note_metrics, note_scores, onset_f1, spectral_distance, texture
from notes import note_events
from outputs import conversion, plots

max_lag_s = 5               # by which a recording may begin earlier or later than its MIDI file
chord_s = 0.03              # onsets within it count once

versions = ("unchanged", "autoencoder", "final", "reference")
metrics = {"log_mel_l1": "log-mel L1, dB", "texture": "texture, dB",
           "spectral_distance": "normalised spectral distance", "onset_f1": "onset F1"}


def invert_truth(recording, truth, inversion=None):
    """Return the reference [shape=(n,)]: the mel spectrogram of the truth, inverted from the phase of the recording. It
    shows what the inversion costs. It is no limit: a sampled voice has a phase of its own, so it can score better."""
    power = DatasetCreator.mel_power(DatasetCreator.stft(truth))
    mel = DatasetCreator.mel_from_log(DatasetCreator.log_mel(power, power.max()))
    audio = mel_inversion.invert(mel, DatasetCreator.stft(recording), inversion)
    return audio_files.fix_length(audio, truth.size)


def make_outputs(recording, truth, models, inversion=None):
    """Return a dict from each of `versions` to its audio, for a recording and its true render [shape=(n,) each]."""
    return {
        "unchanged": recording,
        "autoencoder": Main.resynthesise(recording, models[:1], inversion)[0],
        "final": Main.resynthesise(recording, models, inversion)[0],
        "reference": invert_truth(recording, truth, inversion),
    }


def score_outputs(outputs, truth, midi_file=None):
    """Score the outputs of `make_outputs`: version to metric to score. "onset_f1" needs the MIDI file of the piece."""
    scores, onsets = {}, midi_file and read_onsets(midi_file)
    for version, audio in outputs.items():
        scores[version] = {"log_mel_l1": log_mel_l1(audio, truth), "texture": texture(audio, truth),
                           "spectral_distance": spectral_distance(audio, truth)}
        if midi_file:
            scores[version]["onset_f1"] = onset_f1(audio, onsets)
    return scores


def read_onsets(midi_file, limit_s=None):
    """Return the note onsets of a MIDI file, in seconds and ascending. Onsets within 30 ms count as one chord."""
    times, now = [], 0.0
    for message in MIDI2Audio.trim(midi_file, limit_s)[0]:
        now += message.time
        if message.type == "note_on" and message.velocity and (not times or now - times[-1] > chord_s):
            times.append(now)
    return times


def read_pair(paths):
    """Read a recording and its true e-piano [shape=(n,) each], each cut or padded with silence to `hp.limit_s`."""
    return [audio_files.fix_length(Main.read_recording(path), hp.limit_s * hp.sample_rate) for path in paths]


def evaluate(folder, midi_folder, models, inversion=None):
    """Score every piece of `folder`/piano against `folder`/synth: a dict from piece to version to metric to score.

    The last piece is "mean". With a note autoencoder, "transcription" stands beside the versions and holds
    `note_scores`. Pieces that `midi_folder`, a Path or None, lacks get no "onset_f1" and no "transcription". Raises the
    errors of `DatasetCreator.find_pairs` and `Main.read_recording`.
    """
    midi_files = Util.find_pieces(midi_folder, note_events.midi_endings) if midi_folder and midi_folder.is_dir() else {}
    scores = {}
    for name, recordings in tqdm(DatasetCreator.find_pairs(folder).items(), desc="evaluation", unit="piece"):
        recording, truth = read_pair(recordings)
        scores[name] = score_outputs(make_outputs(recording, truth, models, inversion), truth, midi_files.get(name))
        if name in midi_files and isinstance(models[0], NoteModel):
            scores[name]["transcription"] = note_scores(note_events.read_notes(midi_files[name]),
                                                        Main.transcribe_audio(recording, models[0]))
    return {**scores, "mean": mean_scores(list(scores.values()))}


def mean_scores(pieces):
    """Return the mean of each score that all pieces have, for the pieces of `evaluate`."""
    groups = [group for group in pieces[0] if all(group in piece for piece in pieces)]
    return {group: {metric: float(np.mean([piece[group][metric] for piece in pieces])) for metric in pieces[0][group]
                    if all(metric in piece[group] for piece in pieces)} for group in groups}


def gap_closed(piece):
    """Return the timbre gap closed, (unchanged - final) / (unchanged - reference) in log-mel L1, for a piece's scores.
    It is 0 if the output is as far away as the recording, 1 if it is as near as the reference, and can be more."""
    unchanged, final, reference = (piece[version]["log_mel_l1"] for version in ("unchanged", "final", "reference"))
    return (unchanged - final) / (unchanged - reference)


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
    return text + ("\n" + table_lines(["transcription", *note_metrics.values()], rows) if rows else "")


def table_lines(heads, rows):
    """Return a Markdown table of `rows`, a dict from the first cell of a row to the others."""
    head, *lines = (f"| {' | '.join(cells)} |\n" for cells in (heads, *([name, *row] for name, row in rows.items())))
    return "".join([head, "|---" * len(heads) + "|\n", *lines])


def plot_scores(scores):
    """Draw the log-mel L1 of all versions of each piece. Returns a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.45 * len(scores)), layout="constrained")
    axis = figure.subplots()
    for offset, version in enumerate(versions):
        distances = [piece[version]["log_mel_l1"] for piece in scores.values()]
        axis.barh(np.arange(len(scores)) + (offset - 1.5) / 5, distances, height=0.2, label=version)
    axis.set_yticks(range(len(scores)), scores)
    axis.invert_yaxis()
    axis.set_xlabel("log-mel L1 to the true e-piano, dB")
    figure.legend(loc="outside upper center", ncols=len(versions))
    return figure


def cache_folder(folder, *parts):
    """Return the folder below data/evaluation for what is rendered from `folder`, a different one for each path."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    return hp.data / "evaluation" / "_".join([folder.resolve().name, digest, *map(str, parts)])


def remove_orphans(folder, names):
    """Remove the renders and MIDI files in the folders of `folder` that do not belong to one of the pieces `names`."""
    for path in folder.glob("*/*.*"):
        if path.suffix in (".wav", ".mid") and path.stem not in names:
            path.unlink()


def render_pair(midi_folder, piano=None):
    """Render MIDI files on the preset `piano`, by default `hp.piano_preset`, and on the e-piano. Returns the folder
    with piano/ and synth/. Renders whose MIDI file no longer exists are removed. Raises FileNotFoundError and
    ValueError as `MIDI2Audio.synthesise_folder`."""
    piano = piano or hp.piano_preset
    folder = cache_folder(midi_folder, *piano)
    remove_orphans(folder, Util.find_pieces(midi_folder, note_events.midi_endings))
    MIDI2Audio.synthesise_folder(midi_folder, folder / "piano", piano)
    MIDI2Audio.synthesise_folder(midi_folder, folder / "synth", hp.synth_preset)
    return folder


def prepare_recordings(folder):
    """Prepare real recordings in or below a folder, each beside its MIDI file as in MAESTRO: x.wav beside x.midi.

    Returns a folder with piano/ (the recordings, see `align_recording`), synth/ (e-piano renders) and MIDI/ (the
    rendered part of the MIDI files). MIDI files without a recording are ignored. Raises FileNotFoundError if there are
    no recordings or no MIDI files, and ValueError if a recording has no MIDI file, or a file is damaged.
    """
    found = Util.find_pieces(folder, audio_files.recording_endings)
    midi_files = Util.find_pieces(folder, note_events.midi_endings)
    alone = [str(path) for name, path in found.items() if name not in midi_files]
    if alone:
        raise ValueError(f"no MIDI file of the same name lies beside {', '.join(alone)}; put it there, or remove the "
                         "recording")
    place = cache_folder(folder, "recorded", hp.limit_s)
    remove_orphans(place, found)
    for name in found:
        midi = place / "MIDI" / f"{name}.mid"
        if not Util.is_up_to_date(midi, midi_files[name]):
            with Util.atomic_write(midi) as temporary:
                MIDI2Audio.trim(midi_files[name])[0].save(temporary)
    MIDI2Audio.synthesise_folder(place / "MIDI", place / "synth", hp.synth_preset)
    for name, path in found.items():
        recording, truth = place / "piano" / f"{name}.wav", place / "synth" / f"{name}.wav"
        if not Util.is_up_to_date(recording, path, truth):
            audio_files.write_audio(recording, align_recording(path, audio_files.read_audio(truth)))
    return place


def align_recording(path, truth):
    """Read the first `hp.limit_s` seconds of a recording [shape=(n,)], in time with its e-piano render [shape=(m,)]. It
    is shifted by up to `max_lag_s`, with a warning if the lag exceeds a frame."""
    size, recording = hp.limit_s * hp.sample_rate, Main.read_recording(path)
    images = (DatasetCreator.spectrogram(audio_files.fix_length(audio, size)) for audio in (recording, truth))
    early = alignment.estimate_lag(*images, round(max_lag_s * hp.sample_rate / hp.hop_length))
    if abs(early) > 1:
        seconds = -early * hp.hop_length / hp.sample_rate
        Util.warn(f"{path} comes {seconds:+.3f} s after its MIDI file; shifted")
        recording = alignment.shift(recording, -early)
    return recording[:size]


def save_scores(path, scores):
    """Write the scores of `evaluate` to `path`.md and, with four decimals, to `path`.json."""
    rounded = {name: {version: {metric: round(score, 4) for metric, score in found.items()}
                      for version, found in piece.items()} for name, piece in scores.items()}
    Util.save_text(path.with_suffix(".md"), markdown_table(scores))
    Util.save_text(path.with_suffix(".json"), json.dumps(rounded, indent=1) + "\n")


def find_pairs(folder, midi_folder=None):
    """Return the folder with piano/ and synth/, and that of the MIDI files, for the folder of the command line. Renders
    what is missing. Raises FileNotFoundError and ValueError as `render_pair` and `prepare_recordings`."""
    is_prepared, default = folder.joinpath("piano").exists(), hp.data / "MIDI_test"
    if folder == hp.data / "test" and not is_prepared:
        MIDI2Audio.create_test_set()
    elif folder.is_dir() and not is_prepared:
        if any(path.suffix.lower() in audio_files.recording_endings for path in folder.rglob("*")):
            folder = prepare_recordings(folder)
            default = folder / "MIDI"
        else:
            folder, default = render_pair(folder), folder
    return folder, midi_folder or default


def check_instruments(folder, models):
    """Raise ValueError if `folder` holds renders of another target than the one the models were trained for."""
    pairs = [DatasetCreator.pair(folder), models[-1].pair or "recordings"]
    targets = [target_instrument(pair) for pair in pairs]
    if targets[0] != targets[1] and "recordings" not in targets:
        raise ValueError(f"{folder} holds {pairs[0]}, and the weights were trained for {pairs[1]}; render it again or "
                         "choose other weights")


def main(arguments=None):
    """Score the folder of the command line. Writes a table, the scores behind it and a plot."""
    parser = argparse.ArgumentParser(description="Score the system against the true e-piano.")
    parser.add_argument("folder", nargs="?", type=Path, default=hp.data / "test",
                        help="folder with piano/ and synth/, with recordings beside their MIDI files, or with MIDI "
                        "files to render (default: data/test)")
    parser.add_argument("--midi", type=Path,
                        help="folder with the MIDI files of the pieces, for onsets and notes (default: data/MIDI_test)")
    conversion.add_model_options(parser)
    parser.add_argument("-o", "--output", type=Path,
                        help="name of the .md, .json and .png files without its ending (default: evaluation in the "
                        "working folder, or evaluation_INVERSION with another inversion)")
    options = parser.parse_args(arguments)
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
    plots.save_figure(output.with_suffix(".png"), plot_scores(scores))
    print(f"{markdown_table({'mean': scores['mean']})}all pieces: {output.with_suffix('.md').absolute()}")


if __name__ == "__main__":
    Util.run(main)
