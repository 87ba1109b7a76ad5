"""The shipped weights are as good as measured. With new weights, change `measured` and nothing else."""
import json

import pytest

import Evaluation
import Hyperparameters as hp
import Main
import Metrics
import Notes
import Util

# Means over the three excerpts (results/evaluation.json). `python results/make.py --scores` measures them again.
measured = {("final", "log_mel_l1"): 1.60, ("final", "texture"): 0.59, ("final", "spectral_distance"): 0.28,
            ("transcription", "onset_f1"): 1.000, ("transcription", "offset_f1"): 0.945,
            ("transcription", "velocity_f1"): 0.782}


@pytest.fixture(scope="module")
def scores():
    return json.loads((hp.root / "results" / "evaluation.json").read_text(encoding="utf-8"))


def test_the_committed_scores_are_within_ten_percent_of_the_measured_ones(scores):
    assert {key: scores["mean"][key[0]][key[1]] for key in measured} == pytest.approx(measured, rel=0.1)


def test_the_shipped_weights_reach_the_committed_scores(scores, instruments, tmp_path):
    """On the demo recording, which is one of the excerpts."""
    midi = hp.data / "MIDI_test" / f"{hp.demo.stem}.mid"
    Evaluation.MIDI2Audio.synthesise_midi_to_audio(midi, tmp_path / "truth.wav", *instruments[1])
    models, truth = Main.load_models(*Main.find_weights("shipped")), Util.read_audio(tmp_path / "truth.wav")
    recording = Main.read_recording(hp.demo)
    notes = Main.transcribe_audio(recording, models[0])
    output, _ = Main.resynthesise(recording, models, notes=notes)
    committed = scores[hp.demo.stem]
    assert Metrics.log_mel_l1(output, truth) == pytest.approx(committed["final"]["log_mel_l1"], rel=0.1)
    found = Metrics.note_scores(Notes.read_notes(midi), notes)
    assert found == pytest.approx(committed["transcription"], rel=0.1)
