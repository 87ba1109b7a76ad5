"""The evaluation on shipped pieces: its scores, its files, real recordings beside their MIDI files, shipped weights."""
import json

import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Main
from audio import alignment, audio_files, audio_metrics
from notes import note_events
from notes.note_autoencoder import NoteAutoencoder
from notes_common import small


@pytest.mark.parametrize("final, expected", [(12, 0), (2, 1), (7, 0.5), (14, -0.2), (1, 1.1)])
def test_the_timbre_gap_is_closed_from_unchanged_to_reference(final, expected):
    distances = {"unchanged": 12, "final": final, "reference": 2}
    piece = {version: {"log_mel_l1": distance} for version, distance in distances.items()}
    assert Evaluation.gap_closed(piece) == pytest.approx(expected)


def test_evaluation_writes_the_same_table_twice(short_pair, tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "limit_s", 3)
    written = []
    for _ in range(2):
        Evaluation.main([str(short_pair), "--model", "shipped", "-o", str(tmp_path / "scores")])
        written.append([tmp_path.joinpath(f"scores{ending}").read_bytes() for ending in (".md", ".json", ".png")])
    assert written[0] == written[1]
    scores = json.loads(written[0][1])
    assert set(scores) == {"satie", "mean"}
    assert set(scores["mean"]) - {"transcription"} == set(Evaluation.versions)
    piece = scores["satie"]
    assert piece["reference"]["log_mel_l1"] < piece["final"]["log_mel_l1"] < piece["unchanged"]["log_mel_l1"]
    assert 0 < Evaluation.gap_closed(piece) < 1
    assert "| satie |" in written[0][0].decode()


def test_scores_go_to_the_working_folder_and_those_of_another_inversion_apart(tmp_path, monkeypatch, capsys):
    scores = {version: {"log_mel_l1": level} for level, version in enumerate(Evaluation.versions)}
    monkeypatch.setattr(Evaluation, "evaluate", lambda *_: {"mean": scores})
    monkeypatch.setattr(MIDI2Audio, "create_test_set", lambda: None)
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for flags in [], ["--inversion", "report"]:  # even of the default folder and with the shipped weights
        Evaluation.main(["--model", "shipped", *flags])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"evaluation{label}.{ending}" for label in ("", "_report") for ending in ("md", "json", "png")}
    assert str(tmp_path / "evaluation_report.md") in capsys.readouterr().out


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
        audio = audio_files.read_audio(tmp_path / "render.wav")
        shift = (0, 8000, -12000)[i]
        audio = np.pad(audio, (max(shift, 0), 0))[max(-shift, 0):]
        soundfile.write(folder / f"{name}.{ending}", np.stack([audio, audio], 1) * 0.5, hp.sample_rate)
    midi(folder / "2008" / "not_recorded.midi")
    folder.joinpath("maestro-v3.0.0.csv").write_text("split")
    return folder


def test_recordings_beside_their_midi_files_are_aligned_and_scored(recordings, tmp_path, weights, quick_inversion,
                                                                   capsys):
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
        pair = [DatasetCreator.spectrogram(audio_files.read_audio(place / side / f"{name}.wav")[:3 * hp.sample_rate])
                for side in ("piano", "synth")]
        assert abs(alignment.estimate_lag(*pair)) <= 1
        assert place.joinpath("MIDI", f"{name}.mid").exists()


def test_a_recording_without_its_midi_file_is_named(recordings):
    (recordings / "2008" / "two.mid").unlink()
    with pytest.raises(ValueError, match="no MIDI file of the same name lies beside .*two.wav; put it there"):
        Evaluation.prepare_recordings(recordings)
    for path in recordings.rglob("*.mid*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="maestro holds no .mid or .midi files; put some there"):
        Evaluation.prepare_recordings(recordings)


def test_the_shipped_weights_reach_the_committed_scores(instruments, tmp_path):
    midi = hp.data / "MIDI_test" / f"{hp.demo.stem}.mid"
    MIDI2Audio.synthesise_midi_to_audio(midi, tmp_path / "truth.wav", *instruments[1])
    models, truth = Main.load_models(*Main.find_weights("shipped")), audio_files.read_audio(tmp_path / "truth.wav")
    recording = Main.read_recording(hp.demo)
    notes = Main.transcribe_audio(recording, models[0])
    output, _ = Main.resynthesise(recording, models, notes=notes)
    committed = json.loads((hp.root / "results" / "evaluation.json").read_text(encoding="utf-8"))[hp.demo.stem]
    assert audio_metrics.log_mel_l1(output, truth) == pytest.approx(committed["final"]["log_mel_l1"], rel=0.1)
    found = audio_metrics.note_scores(note_events.read_notes(midi), notes)
    assert found == pytest.approx(committed["transcription"], rel=0.1)
