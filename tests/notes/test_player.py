"""A MIDI file is played without a recording: length, tuning, level, files, and what is refused."""
import numpy as np
import pytest
import soundfile

import Hyperparameters as hp
import Main
from audio import audio_files, concert_pitch
from audio_common import rms
from notes import given_notes, note_events

some = ((0, 60, 0.5, 1.5), (0, 64, 0.5, 2.0), (0, 67, 1.0, 3.0), (1, 36, 1.0, 3.2), (9, 40, 0.0, 0.1))  # one drum


@pytest.fixture
def play(tmp_path, midi):
    """Function that plays notes of a MIDI file with some flags, and returns the path of the sound."""

    def call(*flags, notes=some):
        midi(tmp_path / "a piece.mid", notes)
        Main.main([str(tmp_path / "a piece.mid"), "-o", str(tmp_path / "out.wav"), *flags])
        return tmp_path / "out.wav"

    return call


def test_a_file_is_played_with_the_sounds_of_the_voice(play, capsys):
    path = play("--page", "--midi")
    audio, notes = audio_files.read_audio(path), note_events.read_notes(path.with_name("a piece.mid"))
    voice = Main.load_models(*Main.find_weights("shipped"))[0].voice.audio(notes, 0, len(audio))
    assert len(audio) == round((3.2 + hp.release_s) * hp.sample_rate) and len(notes) == 4
    assert np.abs(audio).max() == pytest.approx(hp.peak, abs=1e-3) and np.corrcoef(audio, voice)[0, 1] > 0.9999
    np.testing.assert_allclose(note_events.read_notes(path.with_suffix(".mid")), notes, atol=1e-3)
    page = path.with_suffix(".html").read_text()
    assert "<p>The notes of a MIDI file, played with the sounds of the" in page and "Notes <small>4; a brighter" in page
    assert "Recording" not in page and page.count("<audio ") == 1 and path.with_suffix(".png").stat().st_size > 5000
    assert "without a recording and without the U-Net" in capsys.readouterr().out


def test_the_tuning_is_that_of_all_outputs(play, instruments):
    path = play("--tune", "450", "--studio", "--play", "FluidR3_GM.sf2:0:4", "--sample-rate", "48000")
    for name, rate in (("out", 22050), ("out_studio", 48000), ("out_played", 48000)):
        audio, found = soundfile.read(path.with_stem(name))
        assert (found, len(audio), audio.ndim) == (rate, round(4.2 * rate), 1 + (name != "out"))
        assert concert_pitch.estimate_cents(audio_files.read_audio(path.with_stem(name))) == pytest.approx(
            1200 * np.log2(450 / 440), abs=6)  # FluidR3_GM's sounds are not exact
        loud = np.abs(audio).reshape(-1, rate // 50, audio.ndim).max(axis=(1, 2)) > 0.02 * np.abs(audio).max()
        assert loud.argmax() / 50 == pytest.approx(0.5, abs=0.03)  # the first onset


def test_a_table_plays_without_sounds_of_its_own(play, model, monkeypatch, quick_inversion):
    monkeypatch.setattr(Main, "load_models", lambda *_: [model])
    monkeypatch.setattr(hp, "chunk_frames", 128)
    path = play("--page")
    audio = audio_files.read_audio(path)
    assert len(audio) == round(4.2 * hp.sample_rate) and np.isfinite(audio).all()
    assert rms(audio[:round(0.4 * hp.sample_rate)]) < 0.03 * rms(audio) and path.with_suffix(".html").exists()


def test_a_file_of_days_is_refused_before_memory_is_taken(play, tmp_path):
    with pytest.raises(ValueError, match="a piece.mid lasts 55.6 hours; cut it"):
        play(notes=[(0, 60, 0, 2e5)])
    assert [path.name for path in tmp_path.iterdir()] == ["a piece.mid"]


def test_midi_files_and_recordings_are_converted_together(tmp_path, midi, short_demo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    midi(tmp_path / "A.MID", [(0, 60, 0, 0.3), (0, 60, 0.2, 0.5), (1, 60, 0.2, 9)])  # overlapping notes of one key
    (tmp_path / "bad.mid").write_text("la la la")
    with pytest.raises(ValueError, match="^bad.mid is not a MIDI file, or is damaged"):
        Main.main(["A.MID", "bad.mid", short_demo.name, "--studio"])
    assert {path.name for path in tmp_path.glob("*_epiano*.wav")} == {
        f"{name}_epiano{kind}.wav" for name in ("A", short_demo.stem) for kind in ("", "_studio")}
    assert given_notes.read_piece(tmp_path / "A.MID")[1] == pytest.approx(10)
