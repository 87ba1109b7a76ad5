"""MIDI files and their notes are read as players read them, also where they are damaged or unusual."""
import struct

import mido
import numpy as np
import pytest

from notes import midi_reader, note_events
from notes_common import pedal

note = b"\0\x90\x3c\x50\x60\x80\x3c\x40"      # key 60 for 96 ticks, a beat
other = b"\0\x90\x40\x50\x60\x80\x40\x40"     # the same on key 64
end = b"\0\xff\x2f\0"
tempo = b"\0\xff\x51\3\7\xa1\x20"                # 500,000 microseconds per beat


def track(content, length=None, name=b"MTrk"):
    return name + struct.pack(">I", len(content) if length is None else length) + content


def file_of(*chunks, kind=1, tracks=1, division=96):
    return track(struct.pack(">HHH", kind, tracks, division), name=b"MThd") + b"".join(chunks)


@pytest.mark.parametrize("content, notes, warning", (
    (file_of(track(note)), 1, ""),                                              # no end of track
    (b"RIFF" + struct.pack("<I", 60) + b"RMIDdata" + struct.pack("<I", 34) + file_of(track(note + end)) +
     b"LIST\4\0\0\0INFO", 1, ""),
    (bytes(128) + file_of(track(note + end)), 1, ""),                           # with the header of an old Macintosh
    (file_of(track(b"abcd", name=b"XFIH"), track(note + end)), 1, "unknown chunk"),
    (file_of(track(note + end), track(other + end), kind=0), 2, "wrong number of tracks"),
    (file_of(track(note + end), tracks=3), 1, "wrong number of tracks"),
    (file_of(track(note + end), kind=2), 1, ""),                                # one sequence, which is as type 0
    (file_of(track(note + end, 99)), 1, "track longer than the file"),
    (file_of(track(note + end, 3), track(other + end), tracks=2), 2, "wrong length of a track"),
    (file_of(track(note + other + end)[:-11]), 1, "track longer than the file, event that is cut off"),
    (file_of(track(b"\0\xff\x59\2\x09\0" + note + end)), 1, "key signature that does not exist"),
    (file_of(track(b"\0\xff\x51\0" + note + end)), 1, "meta event without its content"),
    (file_of(track(b"\0\xff\x51\3\0\0\0" + note + end)), 1, "tempo of 0"),
    (file_of(track(tempo + b"\0\x3c\x40" + note + end)), 1, "data without a status byte"),
    (file_of(track(b"\0\x3c\x90\x3c\x50\x60\x80\x3c\x40" + end)), 1, "data without a status byte"),
    (file_of(track(b"\0\xf2\1\2\0\xf8" + note + end)), 1, "system message x 2"),
    (file_of(track(b"\0\x90\x3c\xd0\x60\x80\x3c\x40" + end)), 1, "value above 127"),
    (file_of(track(note[:4] + b"\0\xff\1\2hi\x60\x3c\0" + end)), 1, ""),        # running status after a text
    (file_of(track(note + end), division=0xE728), 1, ""),                       # 25 frames of 40 ticks
))
def test_damage_that_players_tolerate_is_tolerated_with_one_warning(tmp_path, capsys, content, notes, warning):
    path = tmp_path / "odd.mid"
    path.write_bytes(content)
    beat = 96 / 1000 if b"\xe7\x28" in content else 0.5
    velocity = 127 if b"\xd0" in content else 80
    for _ in range(2):
        np.testing.assert_allclose(note_events.read_notes(path),
                                   [(0, beat, 60 + 4 * i, velocity) for i in range(notes)], atol=1e-6)
    printed = capsys.readouterr().err
    assert printed == (f"warning: {path}: skipped or repaired while reading: {warning}\n" if warning else "")


@pytest.mark.parametrize("content, reason", (
    (None, ": no such file; give"),
    (b"", "no complete header"), (b"la la la", "no complete header"), (b"MThd\0\0\0\6\0\1", "no complete header"),
    (file_of(), "no tracks|wrong number"),
    (file_of(track(b"\0\x90", 32)), "or is damaged: nothing in it can be read .*event that is cut off"),
    (file_of(track(note + end), division=0), "the time division 0, which gives no unit of time; export it"),
    (file_of(track(note + end), division=0xE700), "which gives no unit of time"),      # no ticks
    (file_of(track(note + end), division=0xD728), "which gives no unit of time"),      # 41 frames
    (file_of(*2 * [track(note + end)], kind=2, tracks=2), "type 2 .independent sequences.; export it"),
))
def test_a_file_without_a_readable_note_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "bad.mid"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError if content is not None else FileNotFoundError, match=f"bad.mid.*({reason})"):
        midi_reader.read_messages(path)


def test_a_note_without_length_is_read(tmp_path):
    tmp_path.joinpath("short.mid").write_bytes(file_of(track(note.replace(b"\x60", b"\0") + end)))
    assert len(note_events.read_notes(tmp_path / "short.mid")) == 1
    assert len(note_events.read_keys_and_pedal(tmp_path / "short.mid")[0]) == 1


def test_undamaged_files_are_read_as_mido_reads_them(root):
    for path in root.glob("data/MIDI_test/*.mid"):
        now, expected = 0.0, []
        for message in mido.MidiFile(path):
            now += message.time
            expected += [(now, message.bytes())] if hasattr(message, "channel") else []
        assert [(time, message.bytes()) for time, message in midi_reader.read_messages(path)] == expected


# notes

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
    found = note_events.read_notes(midi(tmp_path / "piece.mid", notes, requests), limit_s=4)
    assert found.dtype == np.float32 and found.shape == (len(read), 4)
    np.testing.assert_allclose(found, np.array(read).reshape(-1, 4), atol=1e-3)


def test_a_note_that_ends_after_its_key_is_struck_again_keeps_the_next_one_whole(tmp_path):
    played = [(0, 0.502, 60, 80), (0.5, 1, 60, 70), (1.5, 1.501, 62, 60), (1.5, 2, 62, 90)]  # the last two at once
    note_events.save_notes(tmp_path / "a.mid", played)
    kept = [(0, 0.5, 60, 80), (0.5, 1, 60, 70), (1.5, 2, 62, 90)]
    np.testing.assert_allclose(note_events.read_notes(tmp_path / "a.mid"), kept, atol=1e-3)
