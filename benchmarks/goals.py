"""Score the shipped weights on the seven kinds of recordings of `cases.py`: results/goals.md.

`python benchmarks/goals.py FOLDER` renders the MIDI files of FOLDER in each case, and scores the sound of the output
and the transcription. The page in results/ is about the twelve pieces that results/README.md names. With other pieces,
weights or options, the page is written to the working folder.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import librosa
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Main
import Util
from AEModel import NoteModel
from audio import audio_files, audio_metrics
from notes import note_events
from rendering import bystanders
from cases import cases, cases_of, prepare
from common import check_packages, check_soundfonts, is_default, output_path, scored_pieces, silence, table

visqol_rate = 48000     # Hz, of its mode for music
basic_pitch_modules = "basic_pitch.inference", "onnxruntime", "pretty_midi"
to_install = "pip install pretty_midi onnxruntime resampy scikit-learn, then pip install --no-deps basic-pitch"


def note_f1(audio, midi_path):
    """Return the onset F1 of the notes that basic-pitch (Bittner et al. 2022) transcribes from audio [shape=(n,)].

    An onset counts within 50 ms and a quarter tone.
    """
    import mir_eval
    import pretty_midi

    with silence(), tempfile.TemporaryDirectory() as folder:
        from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
        from basic_pitch.inference import Model, predict

        audio_files.write_audio(Path(folder) / "audio.wav", audio)
        model = Model(build_icassp_2022_model_path(FilenameSuffix.onnx))
        predicted = predict(str(Path(folder) / "audio.wav"), model)[2]
    true = [(note.start, max(note.end, note.start + 0.02), note.pitch)
            for instrument in pretty_midi.PrettyMIDI(str(midi_path)).instruments for note in instrument.notes]
    sides = []
    for notes in true, predicted:
        notes = np.array([note[:3] for note in notes if note[0] < min(note[1], hp.limit_s - 0.05)]).reshape(-1, 3)
        sides += [notes[:, :2], librosa.midi_to_hz(notes[:, 2])]
    return float(mir_eval.transcription.precision_recall_f1_overlap(*sides, offset_ratio=None)[2])


def find_visqol():
    """Return a function of (output, truth) to the quality by ViSQOL, from 1 to 5, or None if it is not installed.

    ViSQOL is by Chinen et al. (2020), "ViSQOL v3: an open source production ready objective speech and audio metric".
    """
    try:
        from visqol import VisqolApi
    except ImportError:
        print("ViSQOL is not installed, its column is left out; install it: pip install visqol-python")
        return None
    api = VisqolApi()
    api.create(mode="audio")

    def score_visqol(output, truth):
        output = output * np.sqrt((truth ** 2).mean() / ((output ** 2).mean() + 1e-20))
        sides = (librosa.resample(side.astype(np.float64), orig_sr=hp.sample_rate, target_sr=visqol_rate)
                 for side in (truth, output))
        return api.measure_from_arrays(*sides, visqol_rate).moslqo

    return score_visqol


# columns of the sound's table: heading, and function of (output, truth, path of the MIDI file)
sound_metrics = [
    ("log-mel L1, dB", lambda output, truth, midi: audio_metrics.log_mel_l1(output, truth)),
    ("texture, dB", lambda output, truth, midi: audio_metrics.texture(output, truth)),
    ("normalised spectral distance", lambda output, truth, midi: audio_metrics.spectral_distance(output, truth)),
]
basic_pitch_metric = "note F1 of the audio", lambda output, truth, midi: note_f1(output, midi)


def score_sound(folder, midi_files, models, columns, inversion):
    """Score the sound of each version of each piece of a folder: np.ndarray [shape=(pieces, versions, columns)]."""
    scores = []
    for name, paths in tqdm(DatasetCreator.find_pairs(folder).items(), desc="sound", unit="piece"):
        recording, truth = Evaluation.read_pair(paths)
        outputs = Evaluation.make_outputs(recording, truth, models, inversion)
        scores.append([[score(outputs[version], truth, midi_files[name]) for _, score in columns]
                       for version in Evaluation.versions])
    return np.array(scores)


def score_notes(folder, midi_files, model):
    """Return the mean of `audio_metrics.note_scores` over the pieces of a folder [shape=(metrics,)]."""
    scores = []
    for name, (piano, _) in tqdm(DatasetCreator.find_pairs(folder).items(), desc="notes", unit="piece"):
        predicted = Main.transcribe_audio(Main.read_recording(piano), model)
        scores.append([*audio_metrics.note_scores(note_events.read_notes(midi_files[name]), predicted).values()])
    return np.mean(scores, axis=0)


def score_decoder(folder, midi_files, model):
    """Return mean log-mel L1 and texture in dB of the autoencoder's audio when it gets the true notes."""
    distances = []
    for name, paths in DatasetCreator.find_pairs(folder).items():
        recording, truth = Evaluation.read_pair(paths)
        output = Main.resynthesise(recording, [model], notes=note_events.read_notes(midi_files[name]))[0]
        distances.append([audio_metrics.log_mel_l1(output, truth), audio_metrics.texture(output, truth)])
    return np.mean(distances, axis=0)


def sound_table(sound, columns):
    """Return a row per case and version. `sound` is a dict from case to the scores of `score_sound`."""
    return table([("recording", "version", *(heading for heading, _ in columns)),
                  *((case, version, *scores.mean(axis=0)[i])
                    for case, scores in sound.items() for i, version in enumerate(Evaluation.versions))])


def notes_table(notes):
    """Return a row per case. `notes` is a dict from case to the scores of `score_notes` and `score_decoder`."""
    return table([("recording", *audio_metrics.note_metrics.values(), "true notes: log-mel L1, dB",
                   "true notes: texture, dB"),
                  *((case, *(f"{score:.3f}" for score in scores), *decoder)
                    for case, (scores, decoder) in notes.items())])


def make_page(sound, notes, names, columns, command):
    """Return the page of the cases scored so far. `command` is the command line that makes it."""
    parts = [f"Means over {len(names)} pieces, made by `{command}`.\n"]
    if notes:
        parts.append(f"## Notes\n\n{notes_table(notes)}")
    return "\n".join([*parts, f"## Sound\n\n{sound_table(sound, columns)}"])


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score sound and notes on seven kinds of recordings.")
    parser.add_argument("midi", type=Path, help="folder with MIDI files")
    parser.add_argument("--model", default="shipped", help="as for Main.py (default: shipped)")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion,
                        help="as for Main.py (default: %(default)s)")
    parser.add_argument("--no-notes", action="store_true",
                        help="leave out the note F1 of the audio, which needs basic-pitch")
    parser.add_argument("-o", "--output", type=Path,
                        help="page to write (default: results/goals.md for the twelve pieces, the shipped weights and "
                        "all metrics, results/goals_report.md for --model report, else a page of that name in the "
                        "working folder)")
    parser.add_argument("--no-visqol", action="store_true",
                        help="leave out ViSQOL, which takes a minute per piece")
    options = parser.parse_args(arguments)
    weights = Main.choose_weights(options.model, None, None)
    names = sorted(Util.find_pieces(options.midi, note_events.midi_endings))
    check_soundfonts(hp.synth_preset, *(case.preset for case in cases.values()))
    if any(case.beside for case in cases.values()):
        bystanders.find_espeak()
    columns = [*sound_metrics] + ([] if options.no_notes else [basic_pitch_metric])
    visqol = None if options.no_visqol else find_visqol()
    columns += [("ViSQOL", lambda output, truth, midi: visqol(output, truth))] if visqol else []
    if not options.no_notes:
        check_packages("the note F1 of the audio", basic_pitch_modules, to_install, "--no-notes")
    report = options.model == "report"
    chosen = cases_of(names, cases)
    full = (weights == Main.find_weights("report" if report else "shipped") and names == sorted(scored_pieces)
            and not options.no_notes and is_default(parser, options, "inversion") and chosen == list(cases))
    page, flags = ("goals_report.md", " --model report") if report else ("goals.md", "")
    command = f"python benchmarks/goals.py FOLDER{flags}"
    output = output_path(hp.root / "results" / page, full, options.output)
    models, sound, notes = Main.load_models(*weights), {}, {}
    for case in chosen:
        folder, midi_files = prepare(case, options.midi)
        sound[case] = score_sound(folder, midi_files, models, columns, options.inversion)
        if isinstance(models[0], NoteModel):
            notes[case] = score_notes(folder, midi_files, models[0]), score_decoder(folder, midi_files, models[0])
        Util.save_text(output, make_page(sound, notes, names, columns, command))
    print(f"{output.read_text(encoding='utf-8')}\n{output}")


if __name__ == "__main__":
    Util.run(main)
