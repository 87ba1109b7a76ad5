"""Transcription of long recordings, of recordings without notes, and of those whose notes explain little of them."""
import numpy as np
import pytest
import soundfile

import Hyperparameters as hp
import Main
from audio import audio_files, chunking
from audio_common import rms, tone
from notes import note_events, post_processing, transcription
from notes_common import HighestOffset, as_views, every_onset_refiner, note_labels, some_notes


def test_predictions_in_chunks_are_those_of_the_whole(responses, model, monkeypatch):
    audio = audio_files.read_audio(hp.demo)[:12 * hp.sample_rate]
    audio = np.convolve(audio, responses[0][:3000])[:audio.size].astype(np.float32)
    monkeypatch.setattr(hp, "bfloat16", False)
    monkeypatch.setattr(transcription, "decode_in_windows",
                        lambda predictions, frames, refiner: [np.concatenate(list(predictions), axis=1)])
    monkeypatch.setattr(post_processing, "refine_velocities", lambda predictions, pitch, refiner: (predictions, pitch))
    parts = []
    for size in 5000, 264:
        monkeypatch.setattr(hp, "chunk_frames", size)
        parts.append(transcription.transcribe_in_tune(audio, model, certainty=True))
    assert len(chunking.chunks(chunking.n_frames(audio))) == 4
    for whole, part in zip(*parts):
        np.testing.assert_allclose(whole, part, atol=2e-3)  # the pitch spectrogram is in half precision
        assert whole.astype(np.float32).std() > 0.01


def test_notes_of_windows_are_those_of_the_whole(monkeypatch):
    def decode_notes(predictions, refiner, decode=post_processing.decode_notes):
        windows.append(predictions.shape[1])
        return decode(predictions, refiner)

    windows, frames, refiner = [], 4000, every_onset_refiner()
    refiner.offset_head = HighestOffset()
    predictions = as_views(note_labels(some_notes(300, 44), frames)).astype(np.float16)
    wanted = post_processing.decode_notes(predictions, refiner)
    monkeypatch.setattr(transcription, "decode_frames", 400)
    monkeypatch.setattr(transcription, "decode_ahead", 300)
    monkeypatch.setattr(post_processing, "decode_notes", decode_notes)
    found = np.concatenate(list(transcription.decode_in_windows(
        (predictions[:, first:first + 136] for first in range(0, frames, 136)), frames, refiner)))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert len(wanted) > 200 and max(windows) < 400 + 300 + hp.context_frames + 2 * 136


def test_a_recording_without_notes_gives_silence_of_its_length(model):
    noise = np.random.default_rng(0).normal(0, 0.01, hp.sample_rate).astype(np.float32)
    audio, _ = Main.resynthesise(noise, [model], notes=np.zeros((0, 4), np.float32))
    assert audio.shape == noise.shape and not audio.any()


# no piano

def test_noise_with_a_ghost_is_as_loud_as_the_ghost(model, quick_inversion):
    rng, ghost = np.random.default_rng(0), np.array([[1.0, 1.6, 69, 90]], np.float32)
    noise = (0.01 * rng.standard_normal(4 * hp.sample_rate)).astype(np.float32)
    share = transcription.explained_share(noise, ghost)
    assert 0 < share < 0.25
    output, _ = Main.resynthesise(noise, [model], notes=ghost)
    assert rms(output) == pytest.approx(share ** 0.5 * rms(noise), rel=0.01)
    assert transcription.doubt_piano(noise, ghost) == f"its notes explain {100 * share:.0f} % of the sound"
    assert transcription.doubt_piano(np.tile(noise, 2), ghost) == "few notes in 8 s"
    assert transcription.doubt_piano(noise, ghost[:0]) == "no notes in 4 s"


def test_music_keeps_its_level(model, quick_inversion):
    music, notes = 0.01 * tone(3), np.array([[0.0, 3.0, 69, 90]], np.float32)
    assert transcription.explained_share(music, notes) > 0.99 and transcription.doubt_piano(music, notes) is None
    assert rms(Main.resynthesise(music, [model], notes=notes)[0]) == pytest.approx(rms(music), rel=0.01)


def test_notes_that_began_before_the_recording_explain_sound(root, render):
    """A cut of three seconds in which a bass note and a chord decay: without them, 65 % is explained."""
    path, start = root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid", 7.5
    cut = np.float32(render(path)[int(start * hp.sample_rate):int((start + 3) * hp.sample_rate)] / 2 ** 15)
    notes = note_events.read_notes(path)
    notes = notes[(notes[:, 0] >= start) & (notes[:, 0] < start + 3)] - np.float32([start, start, 0, 0])
    assert transcription.explained_share(cut, notes) > 0.9 and transcription.doubt_piano(cut, notes) is None
    assert transcription.explained_share(tone(8), notes[:0]) < 0.2  # a steady tone


def test_a_glide_fits_no_tuning(monkeypatch):
    time = np.arange(8 * hp.sample_rate) / hp.sample_rate
    glide = np.sin(2 * np.pi * np.cumsum(200 * 2 ** (time / 4)) / hp.sample_rate).astype(np.float32)
    heard = np.array([[i / 3, (i + 1) / 3, 55 + i, 30] for i in range(24)], np.float32)
    monkeypatch.setattr(transcription, "explained_share", lambda *_: 0.95)
    assert transcription.doubt_piano(glide, heard) == "its pitches fit no tuning"


def test_the_command_line_doubts(tmp_path, model, monkeypatch, capsys, quick_inversion):
    noise = 0.1 * np.random.default_rng(0).standard_normal(8 * hp.sample_rate)
    soundfile.write(tmp_path / "in.wav", noise, hp.sample_rate)
    monkeypatch.setattr(Main, "load_models", lambda *_: [model])
    monkeypatch.setattr(Main, "transcribe_audio", lambda *_, **__: np.array([[1.0, 1.6, 69, 90]], np.float32))
    Main.main([str(tmp_path / "in.wav"), "-o", str(tmp_path / "out"), "--stereo"])
    assert soundfile.info(tmp_path / "out" / "in_epiano.wav").channels == 1
    complaints = capsys.readouterr().err
    assert f"warning: {tmp_path / 'in.wav'}: few notes in 8 s; is this a piano?" in complaints
    assert f"warning: {tmp_path / 'in.wav'} has one channel to keep, and so has the output" in complaints
