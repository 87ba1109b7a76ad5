"""Each metric on cases with a known answer, and the whole evaluation on shipped pieces."""
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Main
import MIDI2Audio
import Util
import make


@pytest.fixture(scope="module")
def truth():
    return Util.read_audio(hp.demo)[:6 * hp.sample_rate]


def test_identical_audio_has_no_error(truth):
    assert Evaluation.log_mel_l1(truth, truth) == pytest.approx(0, abs=1e-3)
    assert Evaluation.spectral_distance(truth, truth) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("gain", [0.01, 3])
def test_a_gain_is_no_error(truth, gain):
    assert Evaluation.log_mel_l1(gain * truth, truth) == pytest.approx(0, abs=1e-2)
    assert Evaluation.spectral_distance(gain * truth, truth) == pytest.approx(0, abs=1e-4)


def test_silence_is_as_far_from_the_truth_as_its_bands_lie_above_the_floor(truth):
    spectrogram = DatasetCreator.mel_power(DatasetCreator.stft(truth))
    above_floor = 80 + np.maximum(10 * np.log10(np.maximum(spectrogram / spectrogram.max(), 1e-12)), -80)
    assert Evaluation.log_mel_l1(np.zeros_like(truth), truth) == pytest.approx(above_floor.mean(), rel=1e-3)
    assert Evaluation.spectral_distance(np.zeros_like(truth), truth) == pytest.approx(1, abs=1e-3)


def test_a_shift_by_whole_frames_is_the_distance_of_frames_so_far_apart(truth):
    silence = np.zeros(20 * hp.hop_length, np.float32)
    padded = np.concatenate([silence, truth, silence])
    spectrogram = DatasetCreator.spectrogram(padded)
    expected = 80 * np.abs(np.roll(spectrogram, 10, axis=1) - spectrogram).mean()
    assert Evaluation.log_mel_l1(np.roll(padded, 10 * hp.hop_length), padded) == pytest.approx(expected, rel=2e-3)


def test_a_click_shifted_to_where_silence_was_shares_nothing():
    click = np.zeros(hp.sample_rate, np.float32)
    click[5000] = 1
    assert Evaluation.spectral_distance(np.roll(click, 10_000), click) == pytest.approx(2 ** 0.5)


@pytest.mark.parametrize("final, expected", [(12, 0), (2, 1), (7, 0.5), (14, -0.2)])
def test_the_timbre_gap_is_closed_from_unchanged_to_ceiling(final, expected):
    distances = {"unchanged": 12, "final": final, "ceiling": 2}
    piece = {version: {"log_mel_l1": distance} for version, distance in distances.items()}
    assert Evaluation.gap_closed(piece) == pytest.approx(expected)


def test_noise_at_the_level_of_a_tone_is_far_from_it():
    time = np.arange(hp.sample_rate) / hp.sample_rate
    noise = np.random.default_rng(0).standard_normal(time.size)
    assert Evaluation.spectral_distance(noise, np.sin(2 * np.pi * 440 * time)) > 1
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
    onsets = Evaluation.read_onsets(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid", limit_s=9)
    quarter = 60 / 72
    assert onsets == pytest.approx([quarter * beat for beat in (0, 1, 3, 4, 6, 7, 9, 10)], abs=0.002)


def test_evaluation_writes_the_same_table_twice(tmp_path, capsys):
    for mode, preset in (("piano", hp.piano_preset), ("synth", hp.synth_preset)):
        MIDI2Audio.synthesise_midi_to_audio(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid",
                                            tmp_path / "set" / mode / "satie_gymnopedie_1.wav", *preset, limit_s=10)
    written = []
    for _ in range(2):
        Evaluation.main([str(tmp_path / "set"), "--model", "shipped", "-o", str(tmp_path / "scores")])
        written.append([tmp_path.joinpath(f"scores{ending}").read_bytes() for ending in (".md", ".json", ".png")])
    assert written[0] == written[1]
    scores = json.loads(written[0][1])
    assert set(scores) == {"satie_gymnopedie_1", "mean"}
    assert set(scores["mean"]) - {"transcription"} == set(Evaluation.versions)
    piece = scores["satie_gymnopedie_1"]
    assert piece["ceiling"]["log_mel_l1"] < piece["final"]["log_mel_l1"] < piece["unchanged"]["log_mel_l1"]
    assert 0 < Evaluation.gap_closed(piece) < 1
    assert "| satie_gymnopedie_1 |" in written[0][0].decode()


def test_the_scores_of_another_inversion_do_not_take_the_place_of_the_first(tmp_path, monkeypatch):
    figures = {version: {"log_mel_l1": level} for level, version in enumerate(Evaluation.versions)}
    monkeypatch.setattr(Evaluation, "evaluate", lambda *_: {"mean": figures})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "piano").mkdir(parents=True)
    for flags in [], ["--inversion", "report"]:
        Evaluation.main(["set", "--model", "shipped", *flags])
    assert {path.name for path in tmp_path.glob("evaluation*")} == {
        f"evaluation{label}.{ending}" for label in ("", "_report") for ending in ("md", "json", "png")}


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


def test_recordings_beside_their_midi_files_are_aligned_and_scored(recordings, tmp_path, weights, monkeypatch, capsys):
    from NoteAutoencoder import NoteAutoencoder

    note_weights = tmp_path / "notes.torch"
    torch.save(NoteAutoencoder(first=6, channels=6, blocks=1, narrow=2, width=12).state_dict(), note_weights)
    for ae in weights[0], note_weights:
        Evaluation.main([str(recordings), "--ae", str(ae), "--unet", str(weights[1]), "-o", str(tmp_path / "scores")])
        scores = json.loads(tmp_path.joinpath("scores.json").read_text())
        assert set(scores) == {"2004__one", "2008__two", "three", "mean"}
        for piece in scores.values():
            assert set(piece["final"]) == {"log_mel_l1", "texture", "spectral_distance", "onset_f1"}
            assert ("transcription" in piece) == (ae == note_weights)
        text = tmp_path.joinpath("scores.md").read_text()
        assert "nan" not in text and ("transcription: precision" in text) == (ae == note_weights)
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


def test_notes_found_too_many_and_missing():
    true = np.array([(0, 1, 60, 80), (1, 2, 60, 90), (1, 2, 64, 40), (3, 4, 70, 70)], float)
    heard = true[:3] + [[0.03, 0, 0, 0], [-0.04, 0, 0, 10], [0.07, 0, 0, 0]]
    assert Evaluation.note_scores(true, heard) == pytest.approx((2 / 3, 2 / 4, 4 / 7, 5))
    assert Evaluation.note_scores(true, np.concatenate([true, true])) == pytest.approx((0.5, 1, 2 / 3, 0))
    assert Evaluation.note_scores(true, true[:0]) == (0, 0, 0, 0)


@pytest.fixture
def results(tmp_path, root):
    """A results folder with what the rest is made from, the recordings cut to 2 s."""
    shutil.copytree(root / "results" / "training", tmp_path / "training")
    for name in ("evaluation.json",):
        shutil.copy(root / "results" / name, tmp_path / name)
    for name in make.sounds:
        for side in ("input", "truth"):
            audio = Util.read_audio(root / "results" / f"{name}_{side}.wav")
            Util.write_audio(tmp_path / f"{name}_{side}.wav", audio[:2 * hp.sample_rate])
    np.save(tmp_path / "training" / "ae_epoch_1.npy",
            np.zeros((hp.n_mels, 2 * hp.sample_rate // hp.hop_length + 2), np.float16))
    return tmp_path


def test_everything_in_results_is_the_same_bytes_twice(results):
    models, written = Main.load_models(*Main.find_weights("shipped")), []
    for _ in range(2):
        make.save_sounds(models, results)
        make.save_figures(models, results)
        make.save_page(results)
        written.append({str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*")
                        if path.is_file()})
    assert written[0] == written[1]
    expected = {f"{name}_{side}.wav" for name in make.sounds for side in make.sides}
    expected |= {f"figures/{name}.png" for name in make.figure_names} | {"figures/demo.png", "sounds.md", "sounds.json",
                                                                         "index.html"}
    assert expected <= set(written[0])
    page = written[0]["index.html"].decode()
    assert all(f'"{name}"' in page for name in expected if name.startswith("figures/") and "demo" not in name)
    assert page.count('src="data:audio/mpeg;base64,') == len(make.sounds) * len(make.sides)


def test_the_epoch_1_output_has_to_be_there_and_of_the_training_piece(results):
    models, early = Main.load_models(*Main.find_weights("shipped")), results / "training" / "ae_epoch_1.npy"
    np.save(early, np.zeros((hp.n_mels, 7), np.float16))
    with pytest.raises(ValueError, match="ae_epoch_1.npy"):
        make.save_figures(models, results)
    early.unlink()
    with pytest.raises(FileNotFoundError, match="ae_epoch_1.npy.*copy it"):
        make.save_figures(models, results)
    assert not results.joinpath("figures").exists()


def test_the_page_needs_the_scores(results):
    with pytest.raises(FileNotFoundError, match="sounds.json is missing; python results/make.py"):
        make.save_page(results)


def test_a_missing_midi_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="alb_esp1.mid"):
        make.render_sounds(tmp_path, tmp_path)


def test_sounds_are_rendered_from_midi_files_anywhere_below_a_folder(tmp_path, midi, instruments, monkeypatch):
    monkeypatch.setattr(make, "sounds", {"one": ("piece", instruments[0], "a title", "a remark")})
    midi(tmp_path / "below" / "piece.mid")
    make.render_sounds(tmp_path, tmp_path / "out")
    piano, synth = (Util.read_audio(tmp_path / "out" / f"one_{side}.wav") for side in ("input", "truth"))
    assert piano.size == synth.size and not np.array_equal(piano, synth)


def test_texture_hears_blur_and_no_gain():
    t = np.arange(3 * hp.sample_rate) / hp.sample_rate
    beating = (np.sin(2 * np.pi * 440 * t) + np.sin(2 * np.pi * 452 * t)) * np.exp(-t)
    steady = np.sin(2 * np.pi * 446 * t) * np.exp(-t)
    assert Evaluation.texture(beating, beating) == 0
    assert Evaluation.texture(3 * beating, beating) == pytest.approx(0, abs=1e-3)
    assert Evaluation.texture(steady, beating) > 3
