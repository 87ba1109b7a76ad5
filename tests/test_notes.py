"""Notes: read from MIDI files, written as labels, and found in long recordings."""
import struct

import mido
import numpy as np
import pytest
import torch

import Chunks
import DatasetCreator
import Hyperparameters as hp
import Inversion
import Main
import MIDI2Audio
import MIDIReader
import NoteRefinement
import Notes
import Performances
import Transcription
import Util
from AEModel import AEModel, NoteModel, normalise_level
from Notes import note_labels
from notes_common import pedal, rate, some_notes
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("notes, requests, read", (
    ([(0, 60, 0.5, 1.0)], [], [(0.5, 1.0, 60, 90)]),
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 2.0, 60, 90)]),          # held by the pedal
    ([(0, 60, 0.5, 3.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 3.0, 60, 90)]),          # held by the key
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 63), (2.0, 0)), [(0.5, 1.0, 60, 90)]),           # not far enough down
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


def test_a_file_that_is_not_midi_is_named(tmp_path):
    tmp_path.joinpath("broken.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\1\0`MTrk\0\0\0\x20\0\x90")
    with pytest.raises(ValueError, match="broken.mid is not a MIDI file, or is damaged"):
        Notes.read_notes(tmp_path / "broken.mid")
    with pytest.raises(FileNotFoundError, match="none.mid: no such file; give"):
        Notes.read_notes(tmp_path / "none.mid")


# files that players play although they are damaged or unusual

note = b"\0\x90\x3c\x50\x60\x80\x3c\x40"      # key 60 for 96 ticks, a beat
other = b"\0\x90\x40\x50\x60\x80\x40\x40"     # the same on key 64
end = b"\0\xff\x2f\0"
tempo = b"\0\xff\x51\3\7\xa1\x20"                # 500,000 microseconds per beat


def chunk(name, content, length=None):
    return name + struct.pack(">I", len(content) if length is None else length) + content


def file_of(*chunks, kind=1, tracks=1, division=96):
    return chunk(b"MThd", struct.pack(">HHH", kind, tracks, division)) + b"".join(chunks)


@pytest.mark.parametrize("content, notes, warning", (
    (file_of(chunk(b"MTrk", note + end)), 1, ""),
    (file_of(chunk(b"MTrk", note)), 1, ""),                                     # no end of track
    (b"RIFF" + struct.pack("<I", 60) + b"RMIDdata" + struct.pack("<I", 34) + file_of(chunk(b"MTrk", note + end)) +
     b"LIST\4\0\0\0INFO", 1, ""),
    (bytes(128) + file_of(chunk(b"MTrk", note + end)), 1, ""),                  # with the header of an old Macintosh
    (file_of(chunk(b"XFIH", b"abcd"), chunk(b"MTrk", note + end)), 1, "unknown chunk"),
    (file_of(chunk(b"MTrk", note + end), chunk(b"MTrk", other + end), kind=0), 2, "wrong number of tracks"),
    (file_of(chunk(b"MTrk", note + end), tracks=3), 1, "wrong number of tracks"),
    (file_of(chunk(b"MTrk", note + end), kind=2), 1, ""),                       # one sequence, which is as type 0
    (file_of(chunk(b"MTrk", note + end, 99)), 1, "track longer than the file"),
    (file_of(chunk(b"MTrk", note + end, 3), chunk(b"MTrk", other + end), tracks=2), 2, "wrong length of a track"),
    (file_of(chunk(b"MTrk", note + other + end)[:-11]), 1, "track longer than the file, event that is cut off"),
    (file_of(chunk(b"MTrk", b"\0\xff\x59\2\x09\0" + note + end)), 1, "key signature that does not exist"),
    (file_of(chunk(b"MTrk", b"\0\xff\x51\0" + note + end)), 1, "meta event without its content"),
    (file_of(chunk(b"MTrk", b"\0\xff\x51\3\0\0\0" + note + end)), 1, "tempo of 0"),
    (file_of(chunk(b"MTrk", tempo + b"\0\x3c\x40" + note + end)), 1, "data without a status byte"),
    (file_of(chunk(b"MTrk", b"\0\x3c\x90\x3c\x50\x60\x80\x3c\x40" + end)), 1, "data without a status byte"),
    (file_of(chunk(b"MTrk", b"\0\xf2\1\2\0\xf8" + note + end)), 1, "system message x 2"),
    (file_of(chunk(b"MTrk", b"\0\x90\x3c\xd0\x60\x80\x3c\x40" + end)), 1, "value above 127"),
    (file_of(chunk(b"MTrk", note[:4] + b"\0\xff\1\2hi\x60\x3c\0" + end)), 1, ""),  # running status after a text
    (file_of(chunk(b"MTrk", note + end), division=0xE728), 1, ""),              # 25 frames of 40 ticks
))
def test_damage_that_players_tolerate_is_tolerated_with_one_warning(tmp_path, capsys, content, notes, warning):
    path = tmp_path / "odd.mid"
    path.write_bytes(content)
    for _ in range(2):
        found = Notes.read_notes(path)
        beat = 96 / 1000 if b"\xe7\x28" in content else 0.5
        velocity = 127 if b"\xd0" in content else 80
        np.testing.assert_allclose(found, [(0, beat, 60 + 4 * i, velocity) for i in range(notes)], atol=1e-6)
    printed = capsys.readouterr().err
    assert printed == (f"warning: {path}: skipped or repaired while reading: {warning}\n" if warning else "")


@pytest.mark.parametrize("name, seconds", (("key_8_0", 10), ("empty_meta", 10), ("running_no_status", 10),
                                           ("track_too_long", 10), ("smpte", 9.6)))
def test_the_small_cases_have_their_forty_notes(root, name, seconds):
    path = root / "tests" / "cases" / f"{name}.mid"
    notes = Notes.read_notes(path)
    assert len(notes) == 40 and notes[-1, 1] == pytest.approx(seconds, abs=1e-4)
    assert MIDI2Audio.trim(path)[1] == pytest.approx(seconds + hp.release_s)


@pytest.mark.parametrize("content, reason", (
    (b"", "no complete header"), (b"la la la", "no complete header"), (b"MThd\0\0\0\6\0\1", "no complete header"),
    (file_of(), "no tracks|wrong number"), (file_of(chunk(b"MTrk", b"\0\x90", 32)), "event that is cut off"),
    (file_of(chunk(b"MTrk", note + end), division=0), "the time division 0, which gives no unit of time; export it"),
    (file_of(chunk(b"MTrk", note + end), division=0xE700), "which gives no unit of time"),      # no ticks
    (file_of(chunk(b"MTrk", note + end), division=0xD728), "which gives no unit of time"),      # 41 frames
    (file_of(*2 * [chunk(b"MTrk", note + end)], kind=2, tracks=2), "type 2 .independent sequences.; export it"),
))
def test_a_file_without_a_readable_note_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "bad.mid"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.mid .*({reason})"):
        Notes.read_notes(path)


def test_undamaged_files_are_read_as_mido_reads_them(root):
    for path in root.glob("data/MIDI_test/*.mid"):
        now, expected = 0.0, []
        for message in mido.MidiFile(path):
            now += message.time
            expected += [(now, message.bytes())] if hasattr(message, "channel") else []
        assert [(time, message.bytes()) for time, message in MIDIReader.read_messages(path)] == expected


def test_a_note_without_length_is_read_and_has_variants(midi, tmp_path):
    path = midi(tmp_path / "short.mid", [(0, 60 + i, i / 2, i / 2 + 0.1) for i in range(8)])
    file = mido.MidiFile(path)
    for message in file.tracks[0]:
        message.time = 0 if message.type == "note_off" else message.time
    file.save(path)
    assert len(Notes.read_notes(path)) == len(Notes.read_keys_and_pedal(path)[0]) == 8
    Performances.write_variants(tmp_path, 2)
    for number in 1, 2:
        assert len(Notes.read_notes(tmp_path / f"short~{number}.mid")) > 3


# labels

def test_the_spectrogram_of_no_notes_is_silent():
    assert not normalise_level(np.full((hp.n_mels, 5), hp.decoder_silence), -15).any()


def test_labels_of_a_crop_are_part_of_the_whole():
    notes = some_notes()
    whole = note_labels(notes, 0, 600)
    for first, frames in ((0, 50), (101, 77), (590, 10)):
        np.testing.assert_allclose(note_labels(notes, first, frames), whole[:, first:first + frames], atol=1e-4)


# long recordings

@pytest.fixture
def long(responses):
    """Twelve seconds of the demo with reverberation."""
    audio = Util.read_audio(hp.demo)[:12 * hp.sample_rate]
    return np.convolve(audio, responses[0][:3000])[:audio.size].astype(np.float32)


def test_predictions_in_chunks_are_those_of_the_whole(long, model, monkeypatch):
    monkeypatch.setattr(hp, "bfloat16", False)
    monkeypatch.setattr(Transcription, "decode_in_windows",
                        lambda predictions, frames, model: [np.concatenate(list(predictions), axis=1)])
    monkeypatch.setattr(NoteModel, "refine_velocities", lambda self, predictions, pitch: (predictions, pitch))
    parts = []
    for size in 5000, 264:
        monkeypatch.setattr(hp, "chunk_frames", size)
        parts.append(Transcription.transcribe_in_tune(long, model))
    assert len(Chunks.chunks(Chunks.n_frames(long))) == 4
    for whole, part in zip(*parts):
        np.testing.assert_allclose(whole, part, atol=2e-3)  # the pitch spectrogram is in half precision
        assert whole.astype(np.float32).std() > 0.01


def test_the_levels_of_partials_tell_the_velocities(tmp_path):
    """Also where the predicted ones are equal."""
    played = np.array([(0.2 + 0.5 * i, 0.5 + 0.5 * i, 60 + i % 12, 30 + 15 * (i % 5)) for i in range(40)])
    Notes.save_notes(tmp_path / "scale.mid", played)
    MIDI2Audio.synthesise_midi_to_audio(tmp_path / "scale.mid", tmp_path / "scale.wav", *hp.piano_preset)
    pitch = DatasetCreator.pitch_spectrogram(Util.read_audio(tmp_path / "scale.wav"))
    heard = played.astype(np.float32)
    heard[:, 3] = 60
    seen = NoteRefinement.velocity_features(heard, pitch)
    assert seen.shape == (40, hp.refiner_velocity_features)
    assert np.corrcoef(seen[:, 0], np.log(played[:, 3]))[0, 1] > 0.9


def test_a_long_recording_has_no_seams_where_a_note_is_held_across_chunks(long, model, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(hp, "bfloat16", False)
    notes = some_notes(60, 11)
    notes = np.concatenate([notes, [[0.5, 11.5, 45, 100]]]).astype(np.float32)
    monkeypatch.setattr(Chunks, "explained_share", lambda audio, notes: 1)
    monkeypatch.setattr(hp, "context_frames", 96)
    unet = UNet(wf=2)
    unet.last.bias.data[:] = 0.5  # an untrained U-Net would give silence
    models, played = (model, AEModel(unet)), []
    for size in 5000, 264:
        monkeypatch.setattr(hp, "chunk_frames", size)
        images = []
        monkeypatch.setattr(Inversion, "invert", lambda mel, guide, *_, invert=Inversion.griffin_lim: (
            images.append(mel), invert(np.sqrt(Inversion.power_from_mel(mel, np.abs(guide) ** 2)), guide, 2))[1])
        audio, pictures = Main.resynthesise(long, models[:1], notes=notes)
        assert audio.shape == long.shape and np.isfinite(audio).all() and len(pictures) == 2
        played.append((audio, Main.resynthesise(long, models, notes=notes)[0], pictures[1]))
    (whole, whole_unet, image), (parts, parts_unet, first) = played
    np.testing.assert_allclose(image[:, :first.shape[1]], first, atol=2e-3)
    for one, other in (whole, parts), (whole_unet, parts_unet):
        assert np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_a_note_across_a_boundary_sounds_on_both_sides(decoder, model):
    notes = np.array([[0.5, 8.0, 60, 100]], np.float32)
    image = model.note_spectrogram(notes, 700)
    power = DatasetCreator.mel_from_log(image).sum(axis=0)
    for boundary in 256, 512:
        assert power[boundary] == pytest.approx(power[boundary - 1], rel=0.3) and power[boundary] > 0


def test_a_recording_without_notes_gives_silence_of_its_length(model):
    noise = np.random.default_rng(0).normal(0, 0.01, hp.sample_rate).astype(np.float32)
    audio, _ = Main.resynthesise(noise, [model], notes=np.zeros((0, 4), np.float32))
    assert audio.shape == noise.shape and not audio.any()
