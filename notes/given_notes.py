"""Read and check the notes that a person gives instead of a transcription: a MIDI file, or an array."""
from pathlib import Path

import numpy as np

import Hyperparameters as hp
import Util
from notes import midi_reader, note_events

longest_s = 4 * 3600    # of a MIDI file


def is_midi(path):
    """Return whether a path is that of a MIDI file, by its ending."""
    return Path(path).suffix.lower() in note_events.midi_endings


def read_given(notes, seconds):
    """Return the notes for a recording of so many seconds [shape=(n, 4), float32], in the order of their onsets.
    `notes` is the path of a MIDI file, or an array [shape=(n, 4 or 5)] as `Main.transcribe` returns it. Notes that
    begin after the recording, and keys that a piano lacks, are left out with a warning. Raises as
    `note_events.read_notes`, and ValueError if there are no notes, or if the array is not one of notes."""
    if isinstance(notes, (str, Path)):
        return within(note_events.read_notes(notes, np.inf), seconds, notes)
    try:
        array = np.asarray(notes, np.float32)
    except (TypeError, ValueError):  # not numbers, or rows that differ in length
        array = np.zeros(0, np.float32)
    if array.ndim != 2 or array.shape[1] not in (4, 5) or not np.isfinite(array).all():
        raise ValueError("notes: the path of a MIDI file is needed, or an array [shape=(n, 4)] of finite values, one "
                         "row per note: onset and offset in seconds, MIDI key, velocity")
    onset, offset, key, velocity = array[:, :4].T
    if (onset < 0).any() or (offset <= onset).any() or (velocity < 1).any() or (velocity > 127).any():
        raise ValueError("notes: onsets have to be at least 0, offsets after them, and velocities from 1 to 127")
    return within(array[np.lexsort((key, onset)), :4], seconds, "notes")


def read_piece(path):
    """Return the notes of a MIDI file that is played without a recording [shape=(n, 4), float32], and its length in
    seconds, with `hp.release_s` after the last message. Raises as `read_given`, and ValueError if it is too long."""
    messages = midi_reader.read_messages(path)
    seconds = max((time for time, _ in messages), default=0) + hp.release_s
    if seconds > longest_s:
        raise ValueError(f"{path} lasts {seconds / 3600:.1f} hours; cut it into parts of {longest_s // 3600} hours")
    return read_given(path, seconds), seconds


def within(notes, seconds, name):
    """Return those of the notes [shape=(n, 4)] that begin within so many seconds and have a key of a piano, cut off at
    the end. Warns of others, which `name` has. Raises ValueError if there are none."""
    early = notes[:, 0] < seconds
    playable = (hp.lowest_key <= notes[:, 2]) & (notes[:, 2] < hp.lowest_key + hp.n_keys)
    if not (early & playable).any():
        raise ValueError(f"{name} has no notes of a piano in the first {seconds:.0f} s; give others")
    for left_out, reason in ((~early, "begin after the end of the recording"), (~playable, "are not on a piano")):
        if left_out.any():
            Util.warn(f"{name}: {left_out.sum()} of {len(notes)} notes {reason}, and are left out")
    notes = notes[early & playable].copy()
    notes[:, 1] = notes[:, 1].clip(max=seconds)
    return notes
