"""Each metric on cases with a known answer, and the whole evaluation on shipped pieces."""
import json

import numpy as np
import pytest

import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Util


@pytest.fixture(scope="module")
def truth():
    return Util.read_audio(hp.demo)[:6 * hp.sample_rate]


def test_identical_audio_has_no_error(truth):
    assert Evaluation.log_mel_l1(truth, truth) == pytest.approx(0, abs=1e-3)
    assert Evaluation.convergence(truth, truth) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("gain", [0.01, 3])
def test_a_gain_is_no_error(truth, gain):
    assert Evaluation.log_mel_l1(gain * truth, truth) == pytest.approx(0, abs=1e-2)
    assert Evaluation.convergence(gain * truth, truth) == pytest.approx(0, abs=1e-4)


def test_silence_is_as_far_from_the_truth_as_its_bands_lie_above_the_floor(truth):
    import DatasetCreator
    spectrogram = DatasetCreator.mel_power(DatasetCreator.stft(truth))
    above_floor = 80 + np.maximum(10 * np.log10(np.maximum(spectrogram / spectrogram.max(), 1e-12)), -80)
    assert Evaluation.log_mel_l1(np.zeros_like(truth), truth) == pytest.approx(above_floor.mean(), rel=1e-3)
    assert Evaluation.convergence(np.zeros_like(truth), truth) == pytest.approx(1, abs=1e-3)


def test_noise_at_the_level_of_a_tone_is_far_from_it():
    time = np.arange(hp.sample_rate) / hp.sample_rate
    noise = np.random.default_rng(0).standard_normal(time.size)
    assert Evaluation.convergence(noise, np.sin(2 * np.pi * 440 * time)) > 1
    assert Evaluation.log_mel_l1(noise, np.sin(2 * np.pi * 440 * time)) > 20


@pytest.fixture(scope="module")
def clicks():
    """A click every half second, and its onsets."""
    onsets = np.arange(1, 9) / 2
    audio = np.zeros(5 * hp.sample_rate, np.float32)
    for onset in onsets:
        start = round(onset * hp.sample_rate)
        audio[start:start + 2000] = np.exp(-np.arange(2000) / 300) * np.sin(np.arange(2000) * 0.2)
    return audio, onsets


@pytest.mark.parametrize("shift, expected", [(0, 1), (0.03, 1), (0.2, 0)])
def test_onsets_match_within_fifty_milliseconds(clicks, shift, expected):
    audio, onsets = clicks
    assert Evaluation.onset_f1(np.roll(audio, round(shift * hp.sample_rate)), onsets) == pytest.approx(expected)


def test_onsets_missing_and_too_many(clicks):
    audio, onsets = clicks
    assert Evaluation.onset_f1(audio, onsets[::2]) == pytest.approx(2 * 4 / 12)
    assert Evaluation.onset_f1(np.zeros_like(audio), onsets) == 0
    assert Evaluation.onset_f1(np.zeros_like(audio), []) == 1


def test_onsets_of_a_midi_file_count_a_chord_once():
    onsets = Evaluation.onsets_of_midi(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid", limit_s=9)
    quarter = 60 / 72
    assert onsets == pytest.approx([quarter * beat for beat in (0, 1, 3, 4, 6, 7, 9, 10)], abs=0.002)


def test_evaluation_writes_the_same_table_twice(tmp_path, capsys):
    for mode, preset in (("piano", hp.piano_preset), ("synth", hp.synth_preset)):
        MIDI2Audio.synthesise_midi_to_audio(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid",
                                            tmp_path / "set" / mode / "satie_gymnopedie_1.wav", *preset, limit_s=5)
    written = []
    for _ in range(2):
        Evaluation.main([str(tmp_path / "set"), "--model", "shipped", "-o", str(tmp_path / "scores")])
        written.append([tmp_path.joinpath(f"scores{ending}").read_bytes() for ending in (".md", ".json", ".png")])
    assert written[0] == written[1]
    scores = json.loads(written[0][1])
    assert set(scores) == {"satie_gymnopedie_1", "mean"} and set(scores["mean"]) == set(Evaluation.versions)
    piece = scores["satie_gymnopedie_1"]
    assert piece["ceiling"]["log_mel_l1"] < piece["final"]["log_mel_l1"] < piece["unchanged"]["log_mel_l1"]
    assert 0 < Evaluation.gap_closed(piece) < 1
    assert "| satie_gymnopedie_1 |" in written[0][0].decode()
