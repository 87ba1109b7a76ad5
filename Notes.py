"""Notes: from and to MIDI files, as labels of spectrogram frames, and decoded from frame-wise predictions.

Notes are an array [shape=(n, 4)]: onset and offset in seconds, MIDI key, velocity from 1 to 127.
"""
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


def is_single_track(path):
    """Return whether a MIDI file has the division of `single_track`, which other programs do not write."""
    with open(path, "rb") as file:
        return file.read(14)[12:] == (hp.sample_rate // 2).to_bytes(2, "big")


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
    """Make the labels that a `NoteEncoder` is trained on.

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


def onset_candidates(predictions, onset_threshold, frame_threshold=None):
    """Find the frames and keys where notes may begin.

    These are local maxima of the onset probability within two frames, above `onset_threshold`, if the mean
    probability that the key sounds in the next three frames is at least `frame_threshold`.

    Returns
    -------
    frame, key : np.ndarray [shape=(n,), int]
        Counted from 0, sorted by key, then by frame.
    """
    onset, sounding, *_ = predictions
    frame_threshold = hp.frame_threshold if frame_threshold is None else frame_threshold
    key, frame = np.nonzero(find_peaks(onset, onset_threshold).T)
    soon = np.minimum(frame[:, None] + (1, 2, 3), len(onset) - 1)
    sounds = sounding[soon, key[:, None]].mean(axis=1) >= frame_threshold
    return frame[sounds], key[sounds]


def next_onsets(key, begin, last):
    """Return the next onset of each note's key [shape=(n,)], or `last` if there is none.

    `key` and `begin` [shape=(n,)] are sorted by key, then by onset.
    """
    return np.where(np.append(key[1:] == key[:-1], False), np.roll(begin, -1), last)


def interpolate_peaks(image, frame, key):
    """Find the positions of peaks between the frames (Kong et al. 2021).

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


def estimate_offsets(sounding, frame, key, next_onset, offset_threshold=None):
    """Estimate the offset of each note [shape=(n,), frames].

    It is the first frame in which the probability that the key sounds, `sounding` [shape=(t, n_keys)], is below
    `offset_threshold`, or the next onset of the key if that is earlier.
    """
    offset_threshold = hp.offset_threshold if offset_threshold is None else offset_threshold
    frames = np.arange(len(sounding) + 1, dtype=np.int32)[:, None]
    silent = np.pad(sounding < offset_threshold, ((0, 1), (0, 0)), constant_values=True)
    quiet = np.minimum.accumulate(np.where(silent, frames, len(sounding))[::-1])[::-1]  # next frame without sound
    return np.minimum(quiet[np.minimum(frame + 2, len(sounding)), key], next_onset).astype(np.float32)


def decode_notes(predictions, classifier=None, onset_threshold=None, frame_threshold=None,
                 offset_threshold=None):
    """Decode notes from frame-wise predictions.

    Notes begin at `onset_candidates`. The onset lies between frames, where the triangle through the neighbouring
    predictions has its peak (Kong et al. 2021, "High-resolution piano transcription with pedals by regressing onset
    and offset times"). Notes end as `estimate_offsets` finds.

    Parameters
    ----------
    predictions : np.ndarray [shape=(3, t, n_keys), in [0, 1]]
        Onset, frame and velocity, as `NoteModel.predict_frames` returns them.
    classifier : NoteModel, optional
        Its note classifier keeps the candidates above `hp.classifier_threshold`, and corrects the offsets. The
        candidates are then those above `hp.candidate_threshold`.
    onset_threshold, frame_threshold, offset_threshold : float, optional
        By default those of `Hyperparameters`.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        Onset and offset in seconds, MIDI key, velocity from 1 to 127, in the order of the onsets.
    """
    onset, sounding, velocity, *_ = predictions
    onset_threshold = hp.onset_threshold if onset_threshold is None else onset_threshold
    frame, key = onset_candidates(predictions, hp.candidate_threshold if classifier else onset_threshold,
                                  frame_threshold)
    if classifier and len(frame):
        kept = classifier.note_probability(predictions, frame, key) > hp.classifier_threshold
        frame, key = frame[kept], key[kept]
    if not len(frame):
        return np.zeros((0, 4), np.float32)
    begin = interpolate_peaks(onset, frame, key)
    next_onset = next_onsets(key, begin, np.float32(len(onset)))
    end = estimate_offsets(sounding, frame, key, next_onset, offset_threshold)
    if classifier:
        shift = classifier.offset_shift(predictions, frame, key, end, next_onset)
        shift = shift.clip(-hp.max_offset_shift, hp.max_offset_shift) - hp.offset_bias
        end = np.minimum(np.maximum(end + shift, begin + hp.min_note_frames), next_onset)
    seconds = np.stack([begin, end]) * (hp.hop_length / hp.sample_rate)
    notes = np.stack([*seconds, key + hp.lowest_key, np.maximum(127 * velocity[frame, key], 1)], 1)
    return notes[np.lexsort(notes.T[::-1])].astype(np.float32)


def refine_velocities(notes, pitch):
    """Refine the velocities of transcribed notes with the measured levels of their onsets.

    The encoder's velocity errors differ from note to note, while differences of level between notes can be measured.
    The difference between the encoder's velocities and the measured levels is fitted with a smooth curve over the
    keys, which stands for piano and microphones. Curve plus level replaces the share `hp.velocity_level_share` of
    each velocity. Finally the spread is increased by `hp.velocity_spread`, since regression draws values to the mean.

    Parameters
    ----------
    notes : np.ndarray [shape=(n, 4)]
        As `decode_notes` returns them.
    pitch : np.ndarray [shape=(n_pitches, steps), in [0, 1]]
        Pitch spectrogram of the whole recording.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
    """
    if not len(notes):
        return notes
    partials = np.log2(np.arange(1, 9))
    bands = np.rint(1 + hp.pitch_bands_per_key * (notes[:, 2, None] - hp.lowest_key + 12 * partials)).astype(int)
    bands = bands[..., None] + np.arange(-1, 2)  # (n, 8, 3)
    audible = bands < hp.n_pitches
    onset = np.rint(notes[:, 0] * hp.sample_rate / hp.pitch_hop_length).astype(int)[:, None, None, None]

    def power(steps):
        image = pitch[np.minimum(bands, hp.n_pitches - 1)[..., None], (onset + steps).clip(0, pitch.shape[1] - 1)]
        return 10 ** (Util.to_db(image.astype(np.float32)) / 10)

    rise = np.maximum(power(np.arange(6)).max(-1) - power(np.arange(-3, -1)).mean(-1), 1e-9)
    measured = hp.velocity_per_db * 10 * np.log10((rise * audible).sum((1, 2)) + 1e-9)
    predicted, key = np.log(notes[:, 3]), (notes[:, 2] - 60) / 24
    curve = np.stack([np.ones_like(key), key, key ** 2, key ** 3], 1)
    fitted = curve @ np.linalg.lstsq(curve, predicted - measured, rcond=None)[0] + measured
    refined = notes.copy()
    blended = predicted + hp.velocity_level_share * (fitted - predicted)
    refined[:, 3] = np.exp(blended.mean() + hp.velocity_spread * (blended - blended.mean())).clip(1, 127)
    return refined
