"""Notes that a person gives: they are played instead of the transcribed ones, and all others stay as they are."""
import numpy as np
import pytest
import soundfile

import DatasetCreator
import Hyperparameters as hp
import Main
from audio import audio_files
from audio_common import rms
from notes import given_notes, note_events, post_processing

cut_s = 4


@pytest.fixture(scope="module")
def cut():
    """The first seconds of the demo recording."""
    return audio_files.read_audio(hp.demo)[:cut_s * hp.sample_rate].copy()


@pytest.fixture(scope="module")
def heard(cut):
    return Main.transcribe(cut, sample_rate=hp.sample_rate)


@pytest.fixture(scope="module")
def whole(cut):
    return Main.pipeline(cut, sample_rate=hp.sample_rate)


def away(note, number, per_second):
    """Which of so many samples or frames are well before a note or after it."""
    time = np.arange(number) / per_second
    return (time < note[0] - 0.1) | (time > note[1] + 1.5)


def difference_db(audio, wanted):
    return 20 * np.log10(rms(audio - wanted) / rms(wanted) + 1e-15)


def test_the_transcribed_notes_give_the_same_output_with_and_without_certainty(cut, heard, whole):
    sure = Main.transcribe(cut, sample_rate=hp.sample_rate, certainty=True)
    np.testing.assert_array_equal(sure[:, :4], heard)
    assert (sure[:, 4] > post_processing.onset_threshold).all() and (sure[:, 4:] <= 1).all()
    for given in heard[::-1].tolist(), sure:
        np.testing.assert_allclose(Main.pipeline(cut, sample_rate=hp.sample_rate, notes=given), whole, atol=1e-5)


@pytest.mark.parametrize("channels", (1, 2))
def test_a_file_of_midi_comes_back_with_notes(tmp_path, cut, channels, capsys):
    path, file, again = (str(tmp_path / name) for name in ("my take.wav", "first.mid", "again.wav"))
    soundfile.write(path, np.stack([cut, 0.5 * cut][:channels], axis=1), hp.sample_rate)
    Main.main([path, "--midi", "-o", str(tmp_path / "first.wav")])
    Main.main([path, "--notes", file, "-o", again, "--midi", *["--stereo"] * (channels > 1)])
    notes = note_events.read_notes(file)
    found = audio_files.read_audio(again, channels > 1)
    wanted = Main.pipeline(path, notes=notes, stereo=channels > 1)
    assert difference_db(found, wanted) < -50 and found.shape == wanted.shape == (len(cut), 2)[:channels]
    np.testing.assert_array_equal(note_events.read_notes(tmp_path / "again.mid"), notes)
    assert f"; played from {file}" in capsys.readouterr().out


@pytest.mark.parametrize("change", ("without the loudest", "without another", "with one more"))
def test_a_note_is_added_or_removed_and_the_rest_stays(cut, heard, whole, change):
    note = {"without the loudest": heard[heard[:, 3].argmax()], "without another": heard[20],
            "with one more": np.float32([1.5, 2, 33, 100])}[change]
    given = np.concatenate([heard, note[None]]) if "more" in change else heard[(heard != note).any(axis=1)]
    output = Main.pipeline(cut, sample_rate=hp.sample_rate, notes=given)
    rest, changed = away(note, len(cut), hp.sample_rate), output - whole
    assert len(given) - len(heard) == (1 if "more" in change else -1)
    assert difference_db(output[rest], whole[rest]) < -48  # what the U-Net sees of it
    voice = Main.load_models(*Main.find_weights("shipped"))[0].voice
    alone, sounds = voice.audio(note[None], 0, len(cut)), slice(*(note[:2] * hp.sample_rate).astype(int))
    correlation = np.corrcoef(changed[sounds], alone[sounds])[0, 1]
    assert correlation * (len(given) - len(heard)) > 0.99


def test_a_table_plays_the_rest_as_before(cut, heard, model):
    note = heard[20]
    outputs = [Main.resynthesise(cut, [model], notes=heard, corrected=given)[0]
               for given in (None, heard[(heard != note).any(axis=1)])]
    powers = [DatasetCreator.mel_power(DatasetCreator.stft(audio)) for audio in outputs]
    before, after = (DatasetCreator.log_mel(power, powers[0].max()) for power in powers)
    rest = away(note, before.shape[1], note_events.frame_rate)
    assert hp.top_db * np.abs(after - before)[:, rest].mean() < 0.3


def test_notes_are_played_where_none_were_found(cut, heard, whole, monkeypatch):
    monkeypatch.setattr(Main, "transcribe_in_tune", lambda *_: np.zeros((0, 4), np.float32))
    output = Main.pipeline(cut, sample_rate=hp.sample_rate, notes=heard)
    assert rms(output) == pytest.approx(rms(whole), rel=0.02) and difference_db(output, whole) < -30


good = [0.5, 1.0, 60, 90]


@pytest.mark.parametrize("notes, reason", (
    ([], "one row per note"), ([good[:3]], "one row per note"), (good, "one row per note"), ({}, "one row per note"),
    ([good, good[:3]], "one row per note"), ([["C4"] * 4], "one row per note"), (3, "one row per note"),
    ([[0.5, np.nan, 60, 90]], "finite"), ([[0.5, 0.4, 60, 90]], "offsets after them"),
    ([[-0.1, 0.4, 60, 90]], "at least 0"), ([[0.5, 1, 60, 0]], "from 1 to 127"), ([[0.5, 1, 60, 128]], "from 1 to 127"),
    (np.zeros((0, 4)), "no notes of a piano in the first 4 s"), ([[4.5, 5, 60, 90]], "no notes of a piano"),
    ([[0.5, 1, 20, 90], [0.5, 1, 109, 90]], "no notes of a piano"), ("nosuch.mid", "nosuch.mid: no such file")))
def test_notes_that_cannot_be_played_are_refused(cut, notes, reason):
    for model, why in ((None, reason), ("report", "without notes.*leave out notes, or choose another model")):
        with pytest.raises((ValueError, FileNotFoundError), match=why):
            Main.pipeline(cut, model, sample_rate=hp.sample_rate, notes=notes)


def test_notes_that_no_piano_plays_or_that_come_late_are_left_out_with_a_warning(capsys):
    played = given_notes.read_given([[3, 9, 64, 90], good, [0, 1, 20, 90], [4, 5, 60, 90]], 4)
    np.testing.assert_array_equal(played, [good, [3, 4, 64, 90]])
    assert capsys.readouterr().err == "".join(
        f"warning: notes: 1 of 4 notes {reason}, and are left out\n"
        for reason in ("begin after the end of the recording", "are not on a piano"))
