"""Score the shipped weights on the piano trained on and on one that they never heard: results/goals.md.

`python benchmarks/goals.py FOLDER` renders the MIDI files in FOLDER on the piano of the default pair, and on a piano
left out of training, dry, in a room, and as a recording: takes (`Performances.vary_performance`) in a hall, from two
microphones, with noise, as mp3 of 96 kbit/s. It scores what the system makes of them: the audio, and the notes that it
hears.
"""
import argparse
import contextlib
import io
import logging
import random
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import librosa
import numpy as np
from scipy.signal import fftconvolve
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Augmentation
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Main
import Notes
import Performances
import Util
from AEModel import NoteModel

left_out = "TimGM6mb.sf2", 0, 0
cases = {"piano trained on": hp.piano_preset, "piano left out": left_out,
         "piano left out, in a room": (*left_out, True), "like a recording": left_out}
halls = 12, 1           # how many are simulated, and from which seed: not those of training
signal_to_noise = 45    # dB
visqol_rate = 48000     # Hz, of its mode for music
to_install = ("pip install mir_eval pretty_midi onnxruntime resampy scikit-learn, then pip install --no-deps "
              "basic-pitch")


def note_f1(audio, midi_path):
    """F1 of the notes' onsets, within 50 ms and a quarter tone, as the transcriber basic-pitch hears them (Bittner et
    al. 2022).

    Raises ValueError if its packages, which nothing else here needs, are missing.
    """
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            import mir_eval
            import pretty_midi
            from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
            from basic_pitch.inference import Model, predict
        except ImportError:
            raise ValueError(f"the note F1 needs the transcriber basic-pitch; {to_install}; or leave it out "
                             "(--no-notes)") from None
        with tempfile.TemporaryDirectory() as folder:
            Util.write_audio(Path(folder) / "audio.wav", audio)
            heard = predict(str(Path(folder) / "audio.wav"),
                            Model(build_icassp_2022_model_path(FilenameSuffix.onnx)))[2]
    true = [(note.start, max(note.end, note.start + 0.02), note.pitch)
            for instrument in pretty_midi.PrettyMIDI(str(midi_path)).instruments for note in instrument.notes]
    sides = []
    for notes in true, heard:
        notes = np.array([note[:3] for note in notes if note[0] < min(note[1], hp.limit_s - 0.05)]).reshape(-1, 3)
        sides += [notes[:, :2], librosa.midi_to_hz(notes[:, 2])]
    return float(mir_eval.transcription.precision_recall_f1_overlap(*sides, offset_ratio=None)[2])


def find_visqol():
    """Return a function of output and truth that gives the objective quality by ViSQOL, from 1 to 5 (Chinen et al.
    2020, "ViSQOL v3: an open source production ready objective speech and audio metric"), or None if it is not
    installed."""
    try:
        from visqol import VisqolApi
    except ImportError:
        print("without ViSQOL, as it is not installed: pip install visqol-python")
        return None
    api = VisqolApi()
    api.create(mode="audio")

    def score_visqol(output, truth):
        output = output * np.sqrt((truth ** 2).mean() / ((output ** 2).mean() + 1e-20))
        sides = (librosa.resample(side.astype(np.float64), orig_sr=hp.sample_rate, target_sr=visqol_rate)
                 for side in (truth, output))
        return api.measure_from_arrays(*sides, visqol_rate).moslqo
    return score_visqol


def write_variants(midi_folder):
    """Write a take of every piece, the same each time, and return the folder."""
    folder, pieces = hp.data / "evaluation" / "takes", Util.find_pieces(midi_folder, Notes.midi_endings)
    for path in folder.glob("*.mid"):
        if path.stem not in pieces:  # of another folder
            path.unlink()
    for name, path in pieces.items():
        if not Util.is_up_to_date(folder / f"{name}.mid", path):
            with Util.atomic_write(folder / f"{name}.mid") as temporary:
                Performances.vary_performance(path, random.Random(name)).save(temporary)
    return folder


def record_in_hall(folder):
    """Return a folder like one of `Evaluation.render_pair`, with its pianos as if recorded in halls."""
    recorded, responses = folder.with_name(folder.name + "_recorded"), Augmentation.room_responses(*halls)
    shutil.rmtree(recorded, ignore_errors=True)
    for i, (name, (piano, synth)) in enumerate(DatasetCreator.find_pairs(folder).items()):
        rng, dry = np.random.default_rng(i), Util.read_audio(piano)
        wet = fftconvolve(dry, responses[i % len(responses)])[:dry.size]
        wet += wet.std() * 10 ** (-signal_to_noise / 20) * rng.standard_normal(dry.size)
        Util.write_audio(recorded / "piano" / f"{name}.wav",
                         Augmentation.mp3_round_trip(wet * hp.peak / np.abs(wet).max(), 0.4))
        Util.write_audio(recorded / "synth" / f"{name}.wav", Util.read_audio(synth))
    return recorded


def prepare(case, midi_folder):
    """Return the folder with the recordings of a case, like one of `Evaluation.render_pair`, and each piece's MIDI
    file."""
    take = case == "like a recording"
    midi_folder = write_variants(midi_folder) if take else midi_folder
    folder = Evaluation.render_pair(midi_folder, hp.data, cases[case])
    return record_in_hall(folder) if take else folder, Util.find_pieces(midi_folder, Notes.midi_endings)


def score_notes(folder, midi_files, model):
    """Return the means of `Evaluation.note_scores`, over the pieces of a folder."""
    heard = {name: Main.transcribe_audio(Main.read_recording(piano), model)
             for name, (piano, _) in DatasetCreator.find_pairs(folder).items()}
    return np.mean([Evaluation.note_scores(Notes.read_notes(midi_files[name]), notes) for name, notes in heard.items()],
                   axis=0)


def score_decoder(folder, midi_files, model):
    """Return log-mel L1 and texture of the autoencoder's audio when it is given the true notes; the means over the
    pieces of a folder."""
    distances = []
    for name, paths in DatasetCreator.find_pairs(folder).items():
        recording, truth = Evaluation.read_pair(paths)
        output = Main.resynthesise(recording, [model], notes=Notes.read_notes(midi_files[name]))[0]
        distances.append([Evaluation.log_mel_l1(output, truth), Evaluation.texture(output, truth)])
    return np.mean(distances, axis=0)


def score(folder, midi_files, models, notes, visqol=None):
    """Return [shape=(pieces, versions, metrics)]: log-mel L1 and texture in dB, spectral distance, note F1, ViSQOL; the
    last two where they are measured."""
    scores = []
    for name, paths in tqdm(DatasetCreator.find_pairs(folder).items(), desc="goals", unit="piece"):
        recording, truth = Evaluation.read_pair(paths)
        outputs = Evaluation.make_outputs(recording, truth, models)
        scores.append([[*figures.values(), *([note_f1(outputs[version], midi_files[name])] if notes else []),
                        *([visqol(outputs[version], truth)] if visqol else [])]
                       for version, figures in Evaluation.score_outputs(outputs, truth).items()])
    return np.array(scores)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score the system on a piano trained on and on one left out.")
    parser.add_argument("midi", type=Path, help="folder with MIDI files")
    parser.add_argument("--model", default="shipped", help="as for Main.py (default: shipped)")
    parser.add_argument("--no-notes", action="store_true", help="without the note F1, which needs basic-pitch")
    parser.add_argument("--no-visqol", action="store_true", help="without ViSQOL, which takes a minute per piece")
    parser.add_argument("-o", "--output", type=Path, default=hp.root / "results" / "goals.md",
                        help="default: results/goals.md")
    options = parser.parse_args(arguments)
    models = Main.load_models(*Main.choose_weights(options.model, None, None))
    midi_files = Util.find_pieces(options.midi, Notes.midi_endings)
    visqol = None if options.no_visqol else find_visqol()
    figures = ("log-mel L1 in dB / texture in dB / spectral distance" + ("" if options.no_notes else " / note-onset F1")
               + (" / ViSQOL" if visqol else ""))
    lines = [f"Mean over {len(midi_files)} pieces: {figures}.", "",
             "| | " + " | ".join(Evaluation.versions)
             + " | U-Net better than the autoencoder | worst piece | transcription: "
             "precision / recall / F1, velocity off by | from the true notes: log-mel L1 / texture |", "|---" * 9 + "|"]
    for case in cases:
        folder, midi_files = prepare(case, options.midi)
        scores = score(folder, midi_files, models, not options.no_notes, visqol)
        gain, final = scores[:, 1, 0] - scores[:, 2, 0], scores[:, 2, 0]
        cells = [" / ".join(f"{figure:.2f}" for figure in version) for version in scores.mean(axis=0)]
        cells += [f"by {gain.mean():.2f} dB, {(gain > 0).sum()} of {len(gain)} pieces",
                  f"{sorted(midi_files)[final.argmax()]}, {final.max():.2f} dB"]
        if isinstance(models[0], NoteModel):
            *found, velocity = score_notes(folder, midi_files, models[0])
            cells += [" / ".join(f"{figure:.3f}" for figure in found) + f", {velocity:.0f}",
                      "{:.2f} / {:.2f} dB".format(*score_decoder(folder, midi_files, models[0]))]
        else:
            cells += ["", ""]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        Util.save_text(options.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    Util.run(main)
