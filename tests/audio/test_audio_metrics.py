"""Each metric on cases with a known answer."""
import numpy as np
import pytest

import DatasetCreator
import Hyperparameters as hp
import Evaluation
from audio import audio_metrics


@pytest.mark.parametrize("gain", [1, 0.01, 3])
def test_a_gain_is_no_error(demo, gain):
    assert audio_metrics.log_mel_l1(gain * demo, demo) == pytest.approx(0, abs=1e-2)
    assert audio_metrics.spectral_distance(gain * demo, demo) == pytest.approx(0, abs=1e-4)


def test_silence_is_as_far_from_the_truth_as_its_bands_lie_above_the_floor(demo):
    spectrogram = DatasetCreator.mel_power(DatasetCreator.stft(demo))
    above_floor = 80 + np.maximum(10 * np.log10(np.maximum(spectrogram / spectrogram.max(), 1e-12)), -80)
    assert audio_metrics.log_mel_l1(np.zeros_like(demo), demo) == pytest.approx(above_floor.mean(), rel=1e-3)
    assert audio_metrics.spectral_distance(np.zeros_like(demo), demo) == pytest.approx(1, abs=1e-3)


def test_a_shift_by_whole_frames_is_the_distance_of_frames_so_far_apart(demo):
    silence = np.zeros(20 * hp.hop_length, np.float32)
    padded = np.concatenate([silence, demo, silence])
    spectrogram = DatasetCreator.spectrogram(padded)
    expected = 80 * np.abs(np.roll(spectrogram, 10, axis=1) - spectrogram).mean()
    assert audio_metrics.log_mel_l1(np.roll(padded, 10 * hp.hop_length), padded) == pytest.approx(expected, rel=2e-3)


def test_a_click_shifted_to_where_silence_was_shares_nothing():
    click = np.zeros(hp.sample_rate, np.float32)
    click[5000] = 1
    assert audio_metrics.spectral_distance(np.roll(click, 10_000), click) == pytest.approx(2 ** 0.5)


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
    assert audio_metrics.onset_f1(np.roll(audio, round(shift * hp.sample_rate)), onsets) == pytest.approx(expected)


def test_onsets_missing_and_too_many(clicks):
    audio, onsets = clicks
    assert audio_metrics.onset_f1(audio, onsets[::2]) == pytest.approx(2 * 4 / 12)
    assert audio_metrics.onset_f1(np.zeros_like(audio), onsets) == 0
    assert audio_metrics.onset_f1(np.zeros_like(audio), []) == 1


def test_onsets_of_a_midi_file_count_a_chord_once():
    onsets = Evaluation.read_onsets(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid", limit_s=9)
    quarter = 60 / 72
    assert onsets == pytest.approx([quarter * beat for beat in (0, 1, 3, 4, 6, 7, 9, 10)], abs=0.002)


true_notes = np.array([(0.5, 1.5, 60, 80), (1, 2, 60, 90), (1, 2, 64, 40), (3, 4, 70, 70)], float)


@pytest.mark.parametrize("predicted, precision, recall", [
    (true_notes, 1, 1), ([*true_notes[:3], (2.5, 3, 80, 60)], 3 / 4, 3 / 4), ([*true_notes, *true_notes], 1 / 2, 1),
    (true_notes[:2], 1, 1 / 2)])
def test_notes_found_too_many_and_missing(predicted, precision, recall):
    scores = audio_metrics.note_scores(true_notes, np.array(predicted))
    assert [scores[name] for name in ("precision", "recall", "onset_f1")] == pytest.approx(
        [precision, recall, 2 * precision * recall / (precision + recall)])


@pytest.mark.parametrize("true, predicted", [(true_notes, true_notes[:0]), (true_notes[:0], true_notes),
                                             (true_notes[:0], true_notes[:0])])
def test_without_notes_the_scores_are_zero(true, predicted):
    assert audio_metrics.note_scores(true, predicted) == dict.fromkeys(audio_metrics.note_metrics, 0)


@pytest.mark.parametrize("change, right", [
    ((0.08, 0, 0, 0), (3 / 4, 3 / 4, 3 / 4)),   # onset, of one note
    ((0.04, 0, 0, 0), (1, 1, 1)),
    ((0, 0.19, 0, 0), (1, 1, 1)),               # 20 % of its second
    ((0, 0.3, 0, 0), (1, 3 / 4, 3 / 4)),
    ((0, 0, 1, 0), (3 / 4, 3 / 4, 3 / 4)),      # another key
    ((0, 0, 0, 57), (1, 1, None)),              # the fit of all velocities moves, too
])
def test_each_note_metric_counts_what_it_should(change, right):
    predicted = true_notes.copy()
    predicted[3] += change
    onset, offset, velocity = [audio_metrics.note_scores(true_notes, predicted)[f"{name}_f1"]
                               for name in ("onset", "offset", "velocity")]
    assert (onset, offset) == pytest.approx(right[:2])
    assert velocity < 1 if right[2] is None else velocity == pytest.approx(right[2])


def test_a_linear_change_of_all_velocities_is_no_error():
    scores = audio_metrics.note_scores(true_notes, true_notes * (1, 1, 1, 0.5) + (0, 0, 0, 20))
    assert scores["velocity_f1"] == 1


@pytest.mark.parametrize("shift, expected", [(0.07, 1), (-0.07, 1), (0.08, 0), (-0.08, 0)])
def test_all_notes_may_be_shifted_together_by_up_to_24_ms(shift, expected):
    """50 ms of tolerance and 24 ms of shift are 74 ms."""
    assert audio_metrics.note_scores(true_notes, true_notes + (shift, shift, 0, 0))["onset_f1"] == expected


def test_of_several_shifts_the_smallest_is_taken():
    """With an onset F1 of 1 at each, another shift would put offsets of short notes too far away."""
    short = true_notes.copy()
    short[:, 1] = short[:, 0] + 0.1
    predicted = short + (0, 0.045, 0, 0)
    assert audio_metrics.note_scores(short, predicted)["offset_f1"] == 1
    assert audio_metrics.note_scores(short, short - (0, 0.045, 0, 0))["offset_f1"] == 1


def test_notes_after_the_limit_are_ignored(monkeypatch):
    monkeypatch.setattr(hp, "limit_s", 2)
    assert audio_metrics.note_scores(true_notes, true_notes[:3])["recall"] == 1
    assert audio_metrics.note_scores(true_notes[:3], true_notes)["precision"] == 1
