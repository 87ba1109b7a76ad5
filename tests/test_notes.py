"""Notes: read from MIDI files, as labels, decoded from predictions, and over long recordings."""
import numpy as np
import pytest
import torch

import DatasetCreator
import Hyperparameters as hp
import Inversion
import Main
import MIDI2Audio
import Notes
import Util
from AEModel import AEModel, NoteModel, normalise_level
from Notes import decode_notes, note_labels, refine_velocities
from notes_common import pedal, rate, some_notes
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("notes, requests, read", (
    ([(0, 60, 0.5, 1.0)], [], [(0.5, 1.0, 60, 90)]),
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 2.0, 60, 90)]),          # the pedal holds it
    ([(0, 60, 0.5, 3.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 3.0, 60, 90)]),          # so does the key
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 63), (2.0, 0)), [(0.5, 1.0, 60, 90)]),           # hardly down
    ([(0, 60, 0.5, 1.0)], pedal((1.2, 127), (2.0, 0)), [(0.5, 1.0, 60, 90)]),          # too late
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 127)), [(0.5, 4.0, 60, 90)]),                    # never up again
    ([(0, 60, 0.5, 1.0), (0, 60, 1.5, 1.8)], pedal((0.0, 127), (3.0, 0)), [(0.5, 1.5, 60, 90), (1.5, 3.0, 60, 90)]),
    ([(0, 60, 0.5, 1.0), (1, 64, 0.5, 1.0)], pedal((0.0, 127), (3.0, 0)), [(0.5, 1.0, 64, 90), (0.5, 3.0, 60, 90)]),
    ([(9, 36, 0.5, 1.0), (0, 60, 1.0, 1.5)], [], [(1.0, 1.5, 60, 90)]),                # percussion
    ([(0, 60, 3.5, 7.0), (0, 64, 4.5, 5.0)], [], [(3.5, 4.0, 60, 90)]),                # cut at the limit of 4 s
    ([(0, 60, 4.5, 5.0)], [], []),
))
def test_notes_are_read_from_midi(tmp_path, midi, notes, requests, read):
    found = Notes.read_notes(midi(tmp_path / "piece.mid", notes, requests), limit_s=4)
    assert found.dtype == np.float32 and found.shape == (len(read), 4)
    np.testing.assert_allclose(found, np.array(read).reshape(-1, 4), atol=1e-3)


def test_what_is_no_midi_is_named(tmp_path):
    tmp_path.joinpath("broken.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\1\0`MTrk\0\0\0\x20\0\x90")
    with pytest.raises(ValueError, match="broken.mid is not a MIDI file, or is damaged"):
        Notes.read_notes(tmp_path / "broken.mid")
    with pytest.raises(FileNotFoundError, match="none.mid: no such file; give"):
        Notes.read_notes(tmp_path / "none.mid")


@pytest.mark.parametrize("seed", range(3))
def test_notes_are_picked_where_their_labels_put_them(seed):
    notes = some_notes(200, 20, seed)
    picked = decode_notes(note_labels(notes, 0, 2000))
    for true, found in zip(*(part[np.lexsort((part[:, 0], part[:, 2]))] for part in (notes, picked)), strict=True):
        assert found[2] == true[2] and abs(found[3] - true[3]) < 0.01
        assert abs(found[0] - true[0]) < 0.005
        assert abs(found[1] - max(true[1], true[0] + 2 / rate)) < 1.01 / rate


def test_nothing_heard_is_no_notes():
    assert decode_notes(np.zeros((3, 50, hp.n_keys), np.float32)).shape == (0, 4)
    assert not normalise_level(np.full((hp.n_mels, 5), hp.decoder_silence), -15).any()


def test_a_crop_has_the_labels_of_its_place():
    notes = some_notes()
    whole = note_labels(notes, 0, 600)
    for first, frames in ((0, 50), (101, 77), (590, 10)):
        np.testing.assert_allclose(note_labels(notes, first, frames), whole[:, first:first + frames], atol=1e-4)


# long recordings

@pytest.fixture
def long(responses):
    """Twelve seconds of the demo, in a room."""
    audio = Util.read_audio(hp.demo)[:12 * hp.sample_rate]
    return np.convolve(audio, responses[0][:3000])[:audio.size].astype(np.float32)


def test_a_long_recording_is_heard_as_a_whole(long, model, monkeypatch):
    monkeypatch.setattr(hp, "bfloat16", False)
    monkeypatch.setattr(NoteModel, "decode_notes", lambda self, heard: heard)
    monkeypatch.setattr(Main, "refine_velocities", lambda *heard: heard)
    parts = []
    for size in 5000, 264:
        monkeypatch.setattr(hp, "chunk_frames", size)
        parts.append(Main.transcribe_audio(long, model))
    assert len(Main.chunks(Main.n_frames(long))) == 4
    for whole, part in zip(*parts):
        np.testing.assert_allclose(whole, part, atol=2e-3)  # they are kept in half precision
        assert whole.astype(np.float32).std() > 0.01


def test_velocities_are_told_apart_by_level(tmp_path):
    """Of a scale whose notes were all heard as equally hard, those played harder come out harder, in order."""
    played = np.array([(0.2 + 0.5 * i, 0.5 + 0.5 * i, 60 + i % 12, 30 + 15 * (i % 5)) for i in range(40)])
    Notes.save_notes(tmp_path / "scale.mid", played)
    MIDI2Audio.synthesise_midi_to_audio(tmp_path / "scale.mid", tmp_path / "scale.wav", *hp.piano_preset)
    pitch = DatasetCreator.pitch_spectrogram(Util.read_audio(tmp_path / "scale.wav"))
    heard = played.astype(np.float32)
    heard[:, 3] = 60
    weighed = refine_velocities(heard, pitch)
    np.testing.assert_array_equal(weighed[:, :3], heard[:, :3])
    assert np.corrcoef(np.log(weighed[:, 3]), np.log(played[:, 3]))[0, 1] > 0.9
    for few in heard[:0], heard[:1], heard[:3]:
        assert np.isfinite(refine_velocities(few, pitch)).all() and len(refine_velocities(few, pitch)) == len(few)
    np.testing.assert_allclose(refine_velocities(heard[:1], pitch), heard[:1], rtol=1e-4)  # nothing to compare it with


def test_a_long_recording_is_played_without_seams_though_a_note_is_held_across(long, model, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(hp, "bfloat16", False)
    notes = some_notes(60, 11)
    notes = np.concatenate([notes, [[0.5, 11.5, 45, 100]]]).astype(np.float32)
    monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model: notes)
    monkeypatch.setattr(hp, "context_frames", 96)
    unet = UNet(wf=2)
    unet.last.bias.data[:] = 0.5  # else what it draws, not trained, is black
    models, played = (model, AEModel(unet)), []
    for size in 5000, 264:
        monkeypatch.setattr(hp, "chunk_frames", size)
        images = []
        monkeypatch.setattr(Inversion, "invert", lambda mel, guide, *_, invert=Inversion.griffin_lim: (
            images.append(mel), invert(np.sqrt(Inversion.power_from_mel(mel, np.abs(guide) ** 2)), guide, 2))[1])
        audio, pictures = Main.resynthesise(long, models[:1])
        assert audio.shape == long.shape and np.isfinite(audio).all() and len(pictures) == 2
        played.append((audio, Main.resynthesise(long, models)[0], pictures[1]))
    (whole, whole_unet, image), (parts, parts_unet, first) = played
    np.testing.assert_allclose(image[:, :first.shape[1]], first, atol=2e-3)
    for one, other in (whole, parts), (whole_unet, parts_unet):
        assert np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_a_note_held_across_a_boundary_sounds_on_both_sides(decoder, model):
    notes = np.array([[0.5, 8.0, 60, 100]], np.float32)
    image = model.note_spectrogram(notes, 700)
    power = DatasetCreator.mel_from_log(image).sum(axis=0)
    for boundary in 256, 512:
        assert power[boundary] == pytest.approx(power[boundary - 1], rel=0.3) and power[boundary] > 0


def test_a_recording_without_notes_comes_out_silent_and_as_long(model, monkeypatch):
    noise = np.random.default_rng(0).normal(0, 0.01, hp.sample_rate).astype(np.float32)
    monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model: np.zeros((0, 4), np.float32))
    audio, _ = Main.resynthesise(noise, [model])
    assert audio.shape == noise.shape and not audio.any()
