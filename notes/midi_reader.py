"""Read Standard MIDI Files as players do: skip or repair what is damaged, with one warning per file.

The format is that of the MIDI Association, "Standard MIDI Files 1.0" (RP-001).
"""
import collections
import functools
import io
import operator
import struct
from pathlib import Path

import Util

default_tempo = 500_000     # microseconds per beat, before the first tempo event
frames_per_second = {24: 24, 25: 25, 29: 30_000 / 1001, 30: 30}     # of SMPTE divisions; 29 is "30 drop frame"
end_of_track = 0x2F         # types of meta events
set_tempo = 0x51
key_signature = 0x59
meta_lengths = {set_tempo: 3, 0x54: 5, 0x58: 4, key_signature: 2}   # bytes of content that the standard demands
system_lengths = {0xF1: 1, 0xF2: 2, 0xF3: 1}                        # data bytes of system messages; 0 for all others

warn_once = functools.cache(Util.warn)  # warn of each file once


def read_messages(path):
    """Return the channel messages of a MIDI file as a list of (time in seconds, `mido.Message`), in the order of time.
    Damage that players tolerate is skipped or repaired, and one warning per file lists it. Raises FileNotFoundError if
    there is no such file, and ValueError if it is not a MIDI file, if no message in it can be read, if it gives no unit
    of time, or if it holds several independent sequences (type 2)."""
    import mido

    data = read_bytes(path)
    repairs = collections.Counter()
    file_type, n_tracks, division = struct.unpack(">HHH", data[8:14])
    tracks = [list(track_events(track, repairs)) for track in find_tracks(data, repairs)]
    if file_type == 2 and len(tracks) > 1:
        raise ValueError(f"{path} is a MIDI file of type 2 (independent sequences); export it as type 0 or 1")
    if len(tracks) != n_tracks:
        repairs["wrong number of tracks"] += 1
    events = sorted((event for track in tracks for event in track), key=operator.itemgetter(0))
    messages = [(seconds, mido.Message.from_bytes(event)) for seconds, event in to_seconds(events, division, path)
                if event[0] < 0xF0]
    listed = ", ".join(f"{what} x {number}" if number > 1 else what for what, number in repairs.items())
    if not messages and (repairs or not tracks):
        raise ValueError(f"{path} is not a MIDI file, or is damaged: nothing in it can be read "
                         f"({listed or 'no tracks'}); replace or remove it")
    if repairs:
        warn_once(f"{path}: skipped or repaired while reading: {listed}")
    return messages


def read_bytes(path):
    """Return the bytes of a MIDI file from its header "MThd" on, without a RIFF container or other bytes before it.
    Raises FileNotFoundError if there is no such file, and ValueError if there is no header in it."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give the path of a MIDI file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); replace or remove it") from None
    start = data.find(b"MThd")
    if start < 0 or len(data) < start + 14:
        raise ValueError(f"{path} is not a MIDI file, or is damaged (no complete header); replace or remove it")
    if data[:4] == b"RIFF" and data[start - 8:start - 4] == b"data":
        return data[start:max(start + int.from_bytes(data[start - 4:start], "little"), start + 14)]
    return data[start:]


def find_tracks(data, repairs):
    """Yield the content of each track chunk of a MIDI file. Other chunks are skipped, wrong lengths are corrected."""
    place = 8 + int.from_bytes(data[4:8], "big")
    if not is_boundary(data, place):
        repairs["wrong length of the header"] += 1
        place = 14
    while place < len(data):
        name, start = data[place:place + 4], place + 8
        end = start + int.from_bytes(data[place + 4:start], "big")
        next_track = data.find(b"MTrk", place + 4)
        next_track = len(data) if next_track < 0 else next_track
        if name != b"MTrk":
            repairs["unknown chunk"] += 1
            place = end if is_boundary(data, end) else next_track
            continue
        if not is_boundary(data, end) and not (end <= len(data) and data[end - 3:end] == b"\xff\x2f\0"):
            repairs["track longer than the file" if end > len(data) else "wrong length of a track"] += 1
            end = next_track
        yield data[start:end]
        place = end


def is_boundary(data, place):
    """Return whether a chunk can begin, or the file end, at a place."""
    return place == len(data) or place + 8 <= len(data) and data[place:place + 4].isalnum()


class TrackBytes(io.BytesIO):
    """Bytes of a track. Reading beyond their end raises EOFError."""

    def take(self, length):
        """Return the next `length` bytes."""
        content = self.read(length)
        if len(content) < length:
            raise EOFError
        return content

    def number(self):
        """Return the next number of variable length, at most four bytes."""
        value = 0
        for _ in range(4):
            [byte] = self.take(1)
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value
        raise EOFError


def track_events(data, repairs):
    """Yield (tick, event) of a track up to its end. An event is the bytes of a channel message, those of a meta event
    without its length, or b"\xf0" for any other."""
    track, tick, running_status = TrackBytes(data), 0, None
    try:
        while track.tell() < len(data):
            tick += track.number()
            [status] = track.take(1)
            if status < 0x80 and running_status:    # data bytes; the status is that of the event before
                track.seek(-1, io.SEEK_CUR)
                status = running_status
            elif status < 0x80:
                repairs["data without a status byte"] += 1
                [status] = track.take(1)            # of an event after one data byte, else the second data byte
            if status == 0xFF:
                [kind] = track.take(1)
                content = track.take(track.number())
                if kind == end_of_track:
                    return
                yield tick, bytes([status, kind]) + check_meta(kind, content, repairs)
            elif status in (0xF0, 0xF7):            # system exclusive
                track.take(track.number())
                yield tick, b"\xf0"
            elif status > 0xF0:
                track.take(system_lengths.get(status, 0))
                repairs["system message"] += 1
            elif status >= 0x80:
                running_status = status
                values = track.take(1 if status >> 4 in (0xC, 0xD) else 2)
                repairs.update(["value above 127"] * (max(values) > 127))
                yield tick, bytes([status, *(min(value, 127) for value in values)])
    except EOFError:
        repairs["event that is cut off"] += 1


def check_meta(kind, content, repairs):
    """Return the content of a meta event, or nothing if it is invalid."""
    if len(content) < meta_lengths.get(kind, 0):
        repairs["meta event without its content"] += 1
    elif kind == key_signature and 7 < content[0] < 249:  # -7 flats to 7 sharps
        repairs["key signature that does not exist"] += 1
    elif kind == set_tempo and not any(content[:3]):
        repairs["tempo of 0"] += 1
    else:
        return content
    return b""


def to_seconds(events, division, path):
    """Yield (seconds, event) of events in the order of their ticks. `division` is the number of ticks per beat, or,
    with its upper byte negative, that of SMPTE frames per second and ticks per frame. Raises ValueError if it gives no
    unit of time."""
    frames, ticks = 256 - (division >> 8), division & 0xFF
    smpte = division >= 0x8000
    if not division or smpte and not (ticks and frames in frames_per_second):
        raise ValueError(f"{path} has the time division {division}, which gives no unit of time; export it again")
    seconds_per_tick = 1 / (frames_per_second[frames] * ticks) if smpte else default_tempo * 1e-6 / division
    seconds, before = 0.0, 0
    for tick, event in events:
        seconds += (tick - before) * seconds_per_tick
        before = tick
        yield seconds, event
        if event[:2] == bytes([0xFF, set_tempo]) and len(event) > 2 and not smpte:
            seconds_per_tick = int.from_bytes(event[2:5], "big") * 1e-6 / division
