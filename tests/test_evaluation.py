"""Each metric on cases with a known answer, and the whole evaluation on shipped pieces."""
import json

import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Metrics
import MIDI2Audio
import Util
from notes_common import small


@pytest.fixture(scope="module")
def truth():
    return Util.read_audio(hp.demo)[:6 * hp.sample_rate]


def test_identical_audio_has_no_error(truth):
    assert Metrics.log_mel_l1(truth, truth) == pytest.approx(0, abs=1e-3)
    assert Metrics.spectral_distance(truth, truth) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("gain", [0.01, 3])
def test_a_gain_is_no_error(truth, gain):
    assert Metrics.log_mel_l1(gain * truth, truth) == pytest.approx(0, abs=1e-2)
    assert Metrics.spectral_distance(gain * truth, truth) == pytest.approx(0, abs=1e-4)


def test_silence_is_as_far_from_the_truth_as_its_bands_lie_above_the_floor(truth):
    spectrogram = DatasetCreator.mel_power(DatasetCreator.stft(truth))
    above_floor = 80 + np.maximum(10 * np.log10(np.maximum(spectrogram / spectrogram.max(), 1e-12)), -80)
    assert Metrics.log_mel_l1(np.zeros_like(truth), truth) == pytest.approx(above_floor.mean(), rel=1e-3)
    assert Metrics.spectral_distance(np.zeros_like(truth), truth) == pytest.approx(1, abs=1e-3)


def test_a_shift_by_whole_frames_is_the_distance_of_frames_so_far_apart(truth):
    silence = np.zeros(20 * hp.hop_length, np.float32)
    padded = np.concatenate([silence, truth, silence])
    spectrogram = DatasetCreator.spectrogram(padded)
    expected = 80 * np.abs(np.roll(spectrogram, 10, axis=1) - spectrogram).mean()
    assert Metrics.log_mel_l1(np.roll(padded, 10 * hp.hop_length), padded) == pytest.approx(expected, rel=2e-3)


def test_a_click_shifted_to_where_silence_was_shares_nothing():
    click = np.zeros(hp.sample_rate, np.float32)
    click[5000] = 1
    assert Metrics.spectral_distance(np.roll(click, 10_000), click) == pytest.approx(2 ** 0.5)


@pytest.mark.parametrize("final, expected", [(12, 0), (2, 1), (7, 0.5), (14, -0.2)])
def test_the_timbre_gap_is_closed_from_unchanged_to_ceiling(final, expected):
    distances = {"unchanged": 12, "final": final, "ceiling": 2}
    piece = {version: {"log_mel_l1": distance} for version, distance in distances.items()}
    assert Evaluation.gap_closed(piece) == pytest.approx(expected)


def test_noise_at_the_level_of_a_tone_is_far_from_it():
    time = np.arange(hp.sample_rate) / hp.sample_rate
    noise = np.random.default_rng(0).standard_normal(time.size)
    assert Metrics.spectral_distance(noise, np.sin(2 * np.pi * 440 * time)) > 1
    assert Metrics.log_mel_l1(noise, np.sin(2 * np.pi * 440 * time)) > 20


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
    assert Metrics.onset_f1(np.roll(audio, round(shift * hp.sample_rate)), onsets) == pytest.approx(expected)


def test_onsets_missing_and_too_many(clicks):
    audio, onsets = clicks
    assert Metrics.onset_f1(audio, onsets[::2]) == pytest.approx(2 * 4 / 12)
    assert Metrics.onset_f1(np.zeros_like(audio), onsets) == 0
    assert Metrics.onset_f1(np.zeros_like(audio), []) == 1


def test_onsets_of_a_midi_file_count_a_chord_once():
    onsets = Metrics.read_onsets(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid", limit_s=9)
    quarter = 60 / 72
    assert onsets == pytest.approx([quarter * beat for beat in (0, 1, 3, 4, 6, 7, 9, 10)], abs=0.002)


@pytest.fixture
def three_second_limit(monkeypatch):
    """Pieces of three seconds, in place of 30."""
    monkeypatch.setattr(hp, "limit_s", 3)


def test_evaluation_writes_the_same_table_twice(short_pair, tmp_path, three_second_limit, capsys):
    written = []
    for _ in range(2):
        Evaluation.main([str(short_pair), "--model", "shipped", "-o", str(tmp_path / "scores")])
        written.append([tmp_path.joinpath(f"scores{ending}").read_bytes() for ending in (".md", ".json", ".png")])
    assert written[0] == written[1]
    scores = json.loads(written[0][1])
    assert set(scores) == {"satie", "mean"}
    assert set(scores["mean"]) - {"transcription"} == set(Evaluation.versions)
    piece = scores["satie"]
    assert piece["ceiling"]["log_mel_l1"] < piece["final"]["log_mel_l1"] < piece["unchanged"]["log_mel_l1"]
    assert 0 < Evaluation.gap_closed(piece) < 1
    assert "| satie |" in written[0][0].decode()


@pytest.fixture
def no_work(tmp_path, monkeypatch):
    """An evaluation whose scores are known, in an empty working folder."""
    figures = {version: {"log_mel_l1": level} for level, version in enumerate(Evaluation.versions)}
    monkeypatch.setattr(Evaluation, "evaluate", lambda *_: {"mean": figures})
    monkeypatch.setattr(MIDI2Audio, "create_test_set", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "piano").mkdir(parents=True)
    return tmp_path


def test_the_scores_of_another_inversion_do_not_replace_the_first(no_work):
    for flags in [], ["--inversion", "report"]:
        Evaluation.main(["set", "--model", "shipped", *flags])
    assert {path.name for path in no_work.glob("evaluation*")} == {
        f"evaluation{label}.{ending}" for label in ("", "_report") for ending in ("md", "json", "png")}


def test_the_evaluation_writes_to_the_working_folder_and_says_where(no_work, monkeypatch, capsys):
    monkeypatch.setattr(hp, "data", no_work / "data")
    monkeypatch.setattr(hp, "root", no_work / "root")
    Evaluation.main(["--model", "shipped"])  # even of the default folder and with the shipped weights
    assert (no_work / "evaluation.md").exists() and not hp.root.exists()
    assert str(no_work / "evaluation.md") in capsys.readouterr().out


def test_renders_of_folders_whose_paths_are_alike_lie_apart(tmp_path):
    folders = [Evaluation.cache_folder(tmp_path / place, tmp_path) for place in ("a/b_c", "a_b/c", "a/b/c", "a/b_c")]
    assert len(set(folders)) == 3 and folders[0] == folders[3]


@pytest.fixture
def recordings(tmp_path, instruments, midi, monkeypatch):
    """A folder like MAESTRO's: stand-ins for three recordings below it, the second late, the third early and an mp3."""
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    monkeypatch.setattr(hp, "limit_s", 4)
    folder = tmp_path / "maestro"
    for i, (name, ending) in enumerate((("2004/one", "wav"), ("2008/two", "wav"), ("three", "mp3"))):
        keys = np.random.default_rng(i).integers(36, 90, 12)
        path = midi(folder / f"{name}.{'mid' if i else 'midi'}",
                    [(0, int(key), 0.9 + 0.4 * j + 0.05 * (j % 3), 1.3 + 0.4 * j) for j, key in enumerate(keys)])
        MIDI2Audio.synthesise_midi_to_audio(path, tmp_path / "render.wav", *instruments[0])
        audio = Util.read_audio(tmp_path / "render.wav")
        shift = (0, 8000, -12000)[i]
        audio = np.pad(audio, (max(shift, 0), 0))[max(-shift, 0):]
        soundfile.write(folder / f"{name}.{ending}", np.stack([audio, audio], 1) * 0.5, hp.sample_rate)
    midi(folder / "2008" / "not_recorded.midi")
    folder.joinpath("maestro-v3.0.0.csv").write_text("split")
    return folder


def test_recordings_beside_their_midi_files_are_aligned_and_scored(recordings, tmp_path, weights, quick_inversion, capsys):
    from NoteAutoencoder import NoteAutoencoder

    note_weights = tmp_path / "notes.torch"
    network = NoteAutoencoder(**small)
    network.encoder.head.bias.data.fill_(-1)  # a network that is not trained would hear thousands of notes
    torch.save(network.state_dict(), note_weights)
    for ae in weights[0], note_weights:
        Evaluation.main([str(recordings), "--ae", str(ae), "--unet", str(weights[1]), "-o", str(tmp_path / "scores")])
        scores = json.loads(tmp_path.joinpath("scores.json").read_text())
        assert set(scores) == {"2004__one", "2008__two", "three", "mean"}
        for piece in scores.values():
            assert set(piece["final"]) == set(Evaluation.metrics)
            assert ("transcription" in piece) == (ae == note_weights)
        text = tmp_path.joinpath("scores.md").read_text()
        assert "nan" not in text and ("| transcription | precision |" in text) == (ae == note_weights)
    said = capsys.readouterr().err
    assert "one.wav" not in said and "two.wav comes +0.37" in said and "three.mp3 comes -0.5" in said
    assert said.count("warning") == 2  # the second time all is there
    [place] = (tmp_path / "data" / "evaluation").iterdir()
    for name in "2004__one", "2008__two", "three":
        pair = [DatasetCreator.spectrogram(Util.read_audio(place / side / f"{name}.wav")[:3 * hp.sample_rate])
                for side in ("piano", "synth")]
        assert abs(DatasetCreator.estimate_lag(*pair)) <= 1
        assert place.joinpath("MIDI", f"{name}.mid").exists()


def test_a_recording_without_its_midi_file_is_named(recordings, tmp_path):
    (recordings / "2008" / "two.mid").unlink()
    with pytest.raises(ValueError, match="no MIDI file of the same name lies beside .*two.wav; put it there"):
        Evaluation.prepare_recordings(recordings, tmp_path)
    for path in recordings.rglob("*.mid*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="maestro holds no .mid or .midi files; put some there"):
        Evaluation.prepare_recordings(recordings, tmp_path)


true_notes = np.array([(0.5, 1.5, 60, 80), (1, 2, 60, 90), (1, 2, 64, 40), (3, 4, 70, 70)], float)


def test_notes_found_too_many_and_missing():
    extra = np.concatenate([true_notes[:3], [(2.5, 3, 80, 60)]])
    assert Metrics.note_scores(true_notes, true_notes) == dict.fromkeys(Metrics.note_metrics, 1)
    scores = Metrics.note_scores(true_notes, extra)
    assert [scores[name] for name in ("precision", "recall", "onset_f1")] == pytest.approx([3 / 4] * 3)
    twice = Metrics.note_scores(true_notes, np.concatenate([true_notes, true_notes]))
    assert [twice[name] for name in ("precision", "recall", "onset_f1")] == pytest.approx([1 / 2, 1, 2 / 3])


@pytest.mark.parametrize("true, predicted", [(true_notes, true_notes[:0]), (true_notes[:0], true_notes),
                                             (true_notes[:0], true_notes[:0])])
def test_without_notes_the_scores_are_zero(true, predicted):
    assert Metrics.note_scores(true, predicted) == dict.fromkeys(Metrics.note_metrics, 0)


@pytest.mark.parametrize("change, right", [
    ((0.08, 0, 0, 0), {"onset_f1": 3 / 4, "offset_f1": 3 / 4, "velocity_f1": 3 / 4}),   # onset, of one note
    ((0.04, 0, 0, 0), {"onset_f1": 1, "offset_f1": 1, "velocity_f1": 1}),
    ((0, 0.19, 0, 0), {"onset_f1": 1, "offset_f1": 1, "velocity_f1": 1}),               # 20 % of its second
    ((0, 0.3, 0, 0), {"onset_f1": 1, "offset_f1": 3 / 4, "velocity_f1": 3 / 4}),
    ((0, 0, 1, 0), {"onset_f1": 3 / 4, "offset_f1": 3 / 4, "velocity_f1": 3 / 4}),      # another key
    ((0, 0, 0, 57), {"onset_f1": 1, "offset_f1": 1}),
])
def test_each_note_metric_counts_what_it_should(change, right):
    predicted = true_notes.copy()
    predicted[3] += change
    scores = Metrics.note_scores(true_notes, predicted)
    assert {name: scores[name] for name in right} == pytest.approx(right)
    assert scores["velocity_f1"] < 1 or not change[3]


def test_a_linear_change_of_all_velocities_is_no_error():
    scores = Metrics.note_scores(true_notes, true_notes * (1, 1, 1, 0.5) + (0, 0, 0, 20))
    assert scores["velocity_f1"] == 1


@pytest.mark.parametrize("shift, expected", [(0.07, 1), (-0.07, 1), (0.08, 0), (-0.08, 0)])
def test_all_notes_may_be_shifted_together_by_up_to_24_ms(shift, expected):
    """50 ms of tolerance and 24 ms of shift are 74 ms."""
    assert Metrics.note_scores(true_notes, true_notes + (shift, shift, 0, 0))["onset_f1"] == expected


def test_of_several_shifts_the_smallest_is_taken():
    """With an onset F1 of 1 at each, another shift would put offsets of short notes too far away."""
    short = true_notes.copy()
    short[:, 1] = short[:, 0] + 0.1
    predicted = short + (0, 0.045, 0, 0)
    assert Metrics.note_scores(short, predicted)["offset_f1"] == 1
    assert Metrics.note_scores(short, short - (0, 0.045, 0, 0))["offset_f1"] == 1


def test_notes_after_the_limit_are_ignored(monkeypatch):
    monkeypatch.setattr(hp, "limit_s", 2)
    assert Metrics.note_scores(true_notes, true_notes[:3])["recall"] == 1
    assert Metrics.note_scores(true_notes[:3], true_notes)["precision"] == 1
