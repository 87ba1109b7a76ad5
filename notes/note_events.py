"""Notes: from and to MIDI files, and as peaks of frame-wise predictions.

Notes are an array [shape=(n, 4)]: onset and offset in seconds, MIDI key, velocity from 1 to 127.
"""
import hashlib

import numpy as np

import Hyperparameters as hp
import Util
from notes import midi_reader

frame_rate = hp.sample_rate / hp.hop_length     # frames of the mel spectrogram per second
double_strike_s = 0.005     # a key that is struck twice within these seconds gives one note
save_ticks_per_beat = 960

midi_endings = (".mid", ".midi")
percussion_channel = 9
bank_select = (0, 32)       # controllers; together with program changes they choose an instrument
sustain = 64                # controller of the sustain pedal
all_sound_off = 120         # controllers
reset_controllers = 121
registered_parameter = (100, 101)   # controllers that choose a parameter; 0 and 0 choose the range of the pitch wheel
data_entry = 6                      # controller that sets the chosen parameter
sustain_threshold = 64      # smallest value at which the sustain pedal counts as down


def read_played_messages(path):
    """Read the channel messages of a MIDI file, without percussion and without messages that choose an instrument.
    Returns and raises as `midi_reader.read_messages`."""
    return [(time, message) for time, message in midi_reader.read_messages(path)
            if message.channel != percussion_channel and message.type != "program_change"
            and not (message.type == "control_change" and message.control in bank_select)]


def read_notes(path, limit_s=None):
    """Read the notes of a MIDI file, on all channels except percussion. Return onset and offset in seconds, MIDI key
    and velocity from 1 to 127 [shape=(n, 4), float32], in the order of the onsets. A note ends when key and sustain
    pedal are up, or when its key is struck again. Notes after `limit_s` seconds (default: `hp.limit_s`) are left out,
    longer ones end there. Raises as `midi_reader.read_messages`."""
    limit_s = hp.limit_s if limit_s is None else limit_s
    sounding, held, notes, pedal = {}, {}, [], set()  # sounding: (channel, key) -> onset, velocity

    def end(key, time):
        onset, velocity = sounding.pop(key)
        notes.append((onset, min(max(time, onset + 1e-3), limit_s), key[1], velocity))

    for now, message in read_played_messages(path):
        key = message.channel, getattr(message, "note", None)
        if message.type == "note_on" and message.velocity:
            if key in sounding:
                end(key, now)
            held[key] = True
            sounding[key] = now, message.velocity
        elif message.type in ("note_on", "note_off"):
            held[key] = False
            if key in sounding and message.channel not in pedal:
                end(key, now)
        elif message.type == "control_change" and message.control == sustain:
            (pedal.add if message.value >= sustain_threshold else pedal.discard)(message.channel)
            if message.value < sustain_threshold:
                for key in [key for key in sounding if key[0] == message.channel and not held[key]]:
                    end(key, now)
    for key in list(sounding):
        end(key, limit_s)
    return np.array(sorted(note for note in notes if note[0] < limit_s), np.float32).reshape(-1, 4)


def scale_times(notes, factor):
    """Return notes [shape=(n, 4)] with all times `factor` times as long."""
    return notes[:, :4] * np.float32([factor, factor, 1, 1])


def save_notes(path, notes, mark=None):
    """Write notes [shape=(n, 4 or 5)], as `read_notes` returns them, to a MIDI file of one piano track. Offsets include
    the sustain pedal, so the file has no pedal messages. A tick is 0.52 ms. A text message holds the `mark`."""
    with Util.atomic_write(path, mark) as temporary:
        single_track(note_messages(notes), save_ticks_per_beat, mark).save(temporary)


def note_messages(notes, ticks_per_second=save_ticks_per_beat * 1_000_000 // midi_reader.default_tempo):
    """Return the MIDI messages of notes [shape=(n, 4 or 5)] as events (time in seconds, in whole ticks, rank among
    events of one time, message). A note ends when its key is struck again, since a later end would also end the next
    note. A key that is struck twice within a tick gives one note."""
    import mido

    events, notes = [], np.asarray(notes, np.float64)
    for (onset, offset, key, velocity, *_), following in zip(notes, next_onsets(notes[:, 2], notes[:, 0], np.inf)):
        note, start = dict(note=int(key)), round(onset * ticks_per_second)
        if following * ticks_per_second < start + 1:
            continue
        end = max(round(min(offset, following) * ticks_per_second), start + 1)
        velocity = int(min(max(round(velocity), 1), 127))
        events.append((start / ticks_per_second, 1, mido.Message("note_on", velocity=velocity, **note)))
        events.append((end / ticks_per_second, 0, mido.Message("note_off", **note)))
    return events


def single_track(events, ticks_per_beat=hp.sample_rate // 2, text=None):
    """Make a `mido.MidiFile` of one track from events (time in seconds, rank among events of one time, message). By
    default, a tick is one sample of `hp.sample_rate`. The track begins with a `text`, if any."""
    import mido

    track = mido.MidiTrack([mido.MetaMessage("text", text=text)] if text else [])
    track.append(mido.MetaMessage("set_tempo", tempo=midi_reader.default_tempo))
    ticks, ticks_per_second = 0, ticks_per_beat * 1_000_000 // midi_reader.default_tempo
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=max(round(time * ticks_per_second) - ticks, 0)))
        ticks += track[-1].time
    return mido.MidiFile(ticks_per_beat=ticks_per_beat, tracks=[track])


def read_keys_and_pedal(midi_path):
    """Read the movements of keys and sustain pedal from a MIDI file, with all channels merged. Return notes (onset in
    seconds, time when the key is up or struck again, MIDI key, velocity) and pedal movements (time, value). A key that
    is struck twice within `double_strike_s` gives one note."""
    struck, notes, pedal, now = {}, [], [], 0.0     # struck: key -> onset, velocity, whether it was down before
    for now, message in read_played_messages(midi_path):
        if message.type in ("note_on", "note_off"):
            strikes, held = message.type == "note_on" and message.velocity, message.note in struck
            if held:
                onset, velocity, again = struck.pop(message.note)
                if now - onset >= double_strike_s or not (strikes or again):
                    notes.append((onset, now, message.note, velocity))
            if strikes:
                struck[message.note] = now, message.velocity, held
        elif message.type == "control_change" and message.control == sustain:
            pedal.append((now, message.value))
    notes += [(onset, now, key, velocity) for key, (onset, velocity, _) in struck.items()]
    return sorted(notes), pedal


def piece_digest(notes):
    """Return 8 hexadecimal digits that identify a piece by the keys of its first notes, whatever plays them."""
    first = sorted((round(float(onset), 2), int(key)) for onset, _, key, *_ in notes if onset >= 0)[:32]
    return hashlib.sha256(" ".join(str(key) for _, key in first).encode()).hexdigest()[:8]


def find_peaks(image, threshold):
    """Return where an image [shape=(t, n_keys)] is above a threshold and at its highest within two frames [shape as
    image, bool]."""
    padded = np.pad(image, ((2, 2), (0, 0)))
    before_2, before, after, after_2 = (padded[i:i + len(image)] for i in (0, 1, 3, 4))
    return (image > threshold) & (image >= before) & (image > after) & (image >= before_2) & (image > after_2)


def next_onsets(key, begin, last):
    """Return the next onset of each note's key, or `last`, from keys and onsets in any order [shape=(n,) each]."""
    order = np.lexsort((begin, key))
    key, begin = key[order], begin[order]
    following = np.where(np.append(key[1:] == key[:-1], False), np.roll(begin, -1), last)
    return following[np.argsort(order)]


def interpolate_peaks(image, frame, key):
    """Return the positions [shape=(n,), float32], in frames, of the peaks of an image [shape=(t, n_keys)]. `frame` and
    `key` are those of its local maxima. A position is the peak of a triangle through a maximum and its neighbours: see
    Kong et al. 2021, "High-resolution piano transcription with pedals by regressing onset and offset times"."""
    before, top, after = (np.pad(image, ((1, 1), (0, 0)))[frame + i, key] for i in range(3))
    return (frame + (after - before) / (2 * (top - np.minimum(after, before)) + 1e-9)).astype(np.float32)
