"""Notes: from and to MIDI files, as labels of spectrogram frames, and as peaks of frame-wise predictions.

Notes are an array [shape=(n, 4)]: onset and offset in seconds, MIDI key, velocity from 1 to 127.
"""
import hashlib

import numpy as np

import Hyperparameters as hp
import MIDIReader
import Util

midi_endings = (".mid", ".midi")
percussion_channel = 9
bank_select = (0, 32)    # controllers; together with program changes they choose an instrument
sustain = 64             # controller of the sustain pedal
all_sound_off = 120      # controllers
reset_controllers = 121
registered_parameter = (100, 101)   # controllers that choose a parameter; 0 and 0 choose the range of the pitch wheel
data_entry = 6                      # controller that sets the chosen parameter
sustain_threshold = 64   # smallest value at which the sustain pedal counts as down
microseconds_per_beat = 500_000  # tempo of the files that we write
save_ticks_per_beat = 960


def read_played_messages(path):
    """Read the channel messages of a MIDI file, without percussion and without messages that choose an instrument.

    Returns and raises as `MIDIReader.read_messages`.
    """
    return [(time, message) for time, message in MIDIReader.read_messages(path)
            if message.channel != percussion_channel and message.type != "program_change"
            and not (message.type == "control_change" and message.control in bank_select)]


def read_notes(path, limit_s=None):
    """Read the notes of a MIDI file, on all channels except percussion.

    A note ends when key and sustain pedal are up, or when its key is struck again.

    Parameters
    ----------
    path : str or Path
    limit_s : float, optional
        Seconds to read, by default `hp.limit_s`. Later notes are left out, longer notes end there.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        Onset and offset in seconds, MIDI key, velocity from 1 to 127, in the order of the onsets.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a MIDI file, or damaged: see `MIDIReader.read_messages`.
    """
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


def save_notes(path, notes, mark=None):
    """Write notes [shape=(n, 4)], as `read_notes` returns them, to a MIDI file of one piano track.

    Offsets include the sustain pedal, so the file has no pedal messages. A tick is 0.52 ms. A text message holds the
    `mark`.
    """
    import mido

    events, ticks_per_second = [], save_ticks_per_beat * 1_000_000 // microseconds_per_beat
    for onset, offset, key, velocity in np.asarray(notes, np.float64):
        note = dict(note=int(key))
        start = round(onset * ticks_per_second)
        events.append((start, 1, mido.Message("note_on", velocity=int(min(max(round(velocity), 1), 127)), **note)))
        events.append((max(round(offset * ticks_per_second), start + 1), 0, mido.Message("note_off", **note)))
    texts = [mido.MetaMessage("text", text=mark)] if mark else []
    track, now = mido.MidiTrack([*texts, mido.MetaMessage("set_tempo", tempo=microseconds_per_beat)]), 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=time - now))
        now = time
    with Util.atomic_write(path, mark) as temporary:
        mido.MidiFile(ticks_per_beat=save_ticks_per_beat, tracks=[track]).save(temporary)


def single_track(events):
    """Make a MIDI file of one track from events.

    Parameters
    ----------
    events : list of (float, int, mido.Message)
        Time in seconds, rank among events of the same time, message.

    Returns
    -------
    mido.MidiFile
        With one tick per sample of `hp.sample_rate`.
    """
    import mido

    track, ticks = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=microseconds_per_beat)]), 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=max(round(time * hp.sample_rate) - ticks, 0)))
        ticks += track[-1].time
    return mido.MidiFile(ticks_per_beat=hp.sample_rate // 2, tracks=[track])


def read_keys_and_pedal(midi_path):
    """Read the movements of keys and sustain pedal from a MIDI file.

    Returns
    -------
    notes : list of (float, float, int, int)
        Onset in seconds, time when the key is up or struck again, MIDI key, velocity. Channels are merged. A key
        that is struck twice within `hp.double_strike_s` gives one note.
    pedal : list of (float, int)
        Time in seconds and value of the sustain pedal.
    """
    struck, notes, pedal, now = {}, [], [], 0.0     # struck: key -> onset, velocity, whether it was down before
    for now, message in read_played_messages(midi_path):
        if message.type in ("note_on", "note_off"):
            strikes, held = message.type == "note_on" and message.velocity, message.note in struck
            if held:
                onset, velocity, again = struck.pop(message.note)
                if now - onset >= hp.double_strike_s or not (strikes or again):
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


def notes_to_frames(notes, first):
    """Convert notes [shape=(n, 4)] to frames and piano keys. Notes outside the piano's range are left out.

    Returns
    -------
    onset, offset : np.ndarray [shape=(m,)]
        In frames, counted from frame `first`.
    key : np.ndarray [shape=(m,), int]
        Counted from 0.
    velocity : np.ndarray [shape=(m,)]
    """
    notes = notes[(notes[:, 2] >= hp.lowest_key) & (notes[:, 2] < hp.lowest_key + hp.n_keys)]
    onset, end = notes[:, :2].T.astype(float) * (hp.sample_rate / hp.hop_length) - first
    return onset, end, notes[:, 2].astype(int) - hp.lowest_key, notes[:, 3]


def note_labels(notes, first, frames):
    """Make the labels that the encoder is trained on.

    Parameters
    ----------
    notes : np.ndarray [shape=(n, 4)]
    first, frames : int
        First frame, and number of frames.

    Returns
    -------
    np.ndarray [shape=(4, frames, n_keys), float32, in [0, 1]]
        Onset: 1 where a note begins, with a linear slope to 0 over `hp.onset_width` frames on both sides, so that
        the labels of neighbouring frames encode an onset between them (Kong et al. 2021). Frame: 1 while a note
        sounds. Velocity / 127: given where the onset label is not 0. Offset: as the onset, where a note ends.
    """
    onset, end, key, velocity = notes_to_frames(notes, first)
    labels = np.zeros((4, frames, hp.n_keys), np.float32)
    changes = np.zeros((frames + 1, hp.n_keys), int)  # number of onsets minus number of offsets
    for times, change in ((onset, 1), (np.maximum(end, onset + 2), -1)):
        np.add.at(changes, (np.clip(np.ceil(times).astype(int), 0, frames), key), change)
    labels[1] = changes[:-1].cumsum(axis=0) > 0
    note, frame, likely = slopes(onset, frames)
    labels[0][frame, key[note]], labels[2][frame, key[note]] = likely, velocity[note] / 127
    note, frame, likely = slopes(end, frames)
    labels[3][frame, key[note]] = likely
    return labels


def slopes(times, frames):
    """Make the slopes of labels around times.

    Parameters
    ----------
    times : np.ndarray [shape=(n,)]
        In frames.
    frames : int
        Number of frames.

    Returns
    -------
    time, frame, label : np.ndarray [shape=(m,)]
        Index into `times`, frame and label, in ascending order of the labels.
    """
    near = np.ceil(times - hp.onset_width)[:, None] + np.arange(int(2 * hp.onset_width) + 1)
    likely = 1 - np.abs(near - times[:, None]) / hp.onset_width
    note, place = np.nonzero((likely > 0) & (near >= 0) & (near < frames))
    order = np.argsort(likely[note, place], kind="stable")  # the nearer of two notes of one key is written last
    note, place = note[order], place[order]
    return note, near[note, place].astype(int), likely[note, place]


def find_peaks(image, threshold):
    """Return where an image [shape=(t, n_keys)] is above a threshold and at its highest within two frames [shape as
    image, bool]."""
    padded = np.pad(image, ((2, 2), (0, 0)))
    before_2, before, after, after_2 = (padded[i:i + len(image)] for i in (0, 1, 3, 4))
    return (image > threshold) & (image >= before) & (image > after) & (image >= before_2) & (image > after_2)


def onset_candidates(predictions, onset_threshold, frame_threshold):
    """Find the frames and keys where notes may begin.

    These are local maxima of the onset probability within two frames, above `onset_threshold`, if the mean
    probability that the key sounds in the next three frames is at least `frame_threshold`.

    Returns
    -------
    frame, key : np.ndarray [shape=(n,), int]
        Counted from 0, sorted by key, then by frame.
    """
    onset, sounding, *_ = predictions
    key, frame = np.nonzero(find_peaks(onset, onset_threshold).T)
    soon = np.minimum(frame[:, None] + (1, 2, 3), len(onset) - 1)
    sounds = sounding[soon, key[:, None]].mean(axis=1) >= frame_threshold
    return frame[sounds], key[sounds]


def next_onsets(key, begin, last):
    """Return the next onset of each note's key [shape=(n,)], or `last` if there is none.

    `key` and `begin` [shape=(n,)] are the key and the onset of each note, in any order.
    """
    order = np.lexsort((begin, key))
    key, begin = key[order], begin[order]
    following = np.where(np.append(key[1:] == key[:-1], False), np.roll(begin, -1), last)
    return following[np.argsort(order)]


def interpolate_peaks(image, frame, key):
    """Find the positions of peaks between the frames.

    See Kong et al. 2021, "High-resolution piano transcription with pedals by regressing onset and offset times".

    Parameters
    ----------
    image : np.ndarray [shape=(t, n_keys)]
    frame, key : np.ndarray [shape=(n,), int]
        Local maxima.

    Returns
    -------
    np.ndarray [shape=(n,), float32]
        In frames: the peak of a triangle through each maximum and its neighbours.
    """
    before, top, after = (np.pad(image, ((1, 1), (0, 0)))[frame + i, key] for i in range(3))
    return (frame + (after - before) / (2 * (top - np.minimum(after, before)) + 1e-9)).astype(np.float32)
