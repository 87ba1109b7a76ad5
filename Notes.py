"""Notes: MIDI files in and out, labels of a spectrogram's frames, and notes from frame-wise predictions."""
import numpy as np

import Hyperparameters as hp
import Util

midi_endings = (".mid", ".midi")
percussion_channel = 9
bank_select = (0, 32)    # controllers that, like program changes, would override the chosen preset
sustain = 64             # controller
all_sound_off = 120      # controllers
reset_controllers = 121
sustain_threshold = 64   # value from which on the sustain pedal is down
microseconds_per_beat = 500_000  # tempo of the files that are written
save_ticks_per_beat = 960


def read_messages(path):
    """Read the channel messages of a MIDI file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    list of (float, mido.Message)
        Time in seconds and message, in the order of time, of all channels.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not MIDI, damaged, or of type 2.
    """
    import mido

    try:
        source = mido.MidiFile(path, clip=True)
        if source.ticks_per_beat < 1:
            raise ValueError("its time division is not in ticks a beat")
        messages, now = [], 0.0
        for message in source if source.type < 2 else ():
            now += message.time
            if hasattr(message, "channel"):
                messages.append((now, message))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give the path of a MIDI file") from None
    except (EOFError, OSError, ValueError, LookupError, TypeError, OverflowError, mido.KeySignatureError) as error:
        raise ValueError(f"{path} is not a MIDI file, or is damaged ({error or 'it ends too early'}); "
                         "replace or remove it") from None
    if source.type == 2:
        raise ValueError(f"{path} is a MIDI file of type 2 (independent sequences); export it as type 0 or 1")
    return messages


def read_played_messages(path):
    """As `read_messages`, without percussion and without what chooses another instrument."""
    return [(time, message) for time, message in read_messages(path)
            if message.channel != percussion_channel and message.type != "program_change"
            and not (message.type == "control_change" and message.control in bank_select)]


def read_notes(path, limit_s=None):
    """Read what a MIDI file plays on all channels but percussion.

    Parameters
    ----------
    path : str or Path
    limit_s : float, optional
        By default `hp.limit_s`. Notes that begin later are left out, and others end there.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        Onset and end in seconds, MIDI key, velocity from 1 to 127, in the order of the onsets. A note ends with the
        pedal, and when its key is struck again.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not MIDI, or damaged.
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


def save_notes(path, notes):
    """Write notes [shape=(n, 4)], as `read_notes` returns them, as a MIDI file of one piano track.

    A note ends when it no longer sounds, so that no pedal is needed. A tick is half a millisecond and a little.
    """
    import mido

    events, ticks_per_second = [], save_ticks_per_beat * 1_000_000 // microseconds_per_beat
    for onset, end, key, velocity in np.asarray(notes, np.float64):
        note = dict(note=int(key))
        start = round(onset * ticks_per_second)
        events.append((start, 1, mido.Message("note_on", velocity=int(min(max(round(velocity), 1), 127)), **note)))
        events.append((max(round(end * ticks_per_second), start + 1), 0, mido.Message("note_off", **note)))
    track, now = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=microseconds_per_beat)]), 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=time - now))
        now = time
    with Util.atomic_write(path) as temporary:
        mido.MidiFile(ticks_per_beat=save_ticks_per_beat, tracks=[track]).save(temporary)


def single_track(events):
    """Return a MIDI file of (seconds, rank, message), in the order of time and rank, of one tick a sample."""
    import mido

    track, ticks = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=microseconds_per_beat)]), 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=max(round(time * hp.sample_rate) - ticks, 0)))
        ticks += track[-1].time
    return mido.MidiFile(ticks_per_beat=hp.sample_rate // 2, tracks=[track])


def read_keys_and_pedal(midi_path):
    """Return what hands and foot do in a MIDI file that `read_played_messages` takes: notes (onset, end, key,
    velocity), their ends those of the keys, none longer than to the next onset of its key, and (time, value) of the
    sustain pedal."""
    struck, notes, pedal, now = {}, [], [], 0.0
    for now, message in read_played_messages(midi_path):
        if message.type in ("note_on", "note_off"):
            if message.note in struck:
                onset, velocity = struck.pop(message.note)
                if now - onset >= 0.005:
                    notes.append((onset, now, message.note, velocity))
            if message.type == "note_on" and message.velocity:
                struck[message.note] = now, message.velocity
        elif message.type == "control_change" and message.control == sustain:
            pedal.append((now, message.value))
    notes += [(onset, now, key, velocity) for key, (onset, velocity) in struck.items()]
    return sorted(notes), pedal


def notes_to_frames(notes, first):
    """Return onsets and ends in frames from `first` on, keys from 0, and velocities of notes [shape=(n, 4)], without
    those of keys that no piano has."""
    notes = notes[(notes[:, 2] >= hp.lowest_key) & (notes[:, 2] < hp.lowest_key + hp.n_keys)]
    onset, end = notes[:, :2].T.astype(float) * (hp.sample_rate / hp.hop_length) - first
    return onset, end, notes[:, 2].astype(int) - hp.lowest_key, notes[:, 3]


def note_labels(notes, first, frames):
    """What a `NoteEncoder` is to say [shape=(3, frames, n_keys), float32] of notes [shape=(n, 4)] from a frame on.

    Onset: 1 where a note begins, falling to 0 within `hp.onset_width` on both sides, so that an onset between two
    frames is between their values (Kong et al. 2021); sounding: 1 until its end; velocity, of 127, where the onset is
    not 0.
    """
    onset, end, key, velocity = notes_to_frames(notes, first)
    labels = np.zeros((3, frames, hp.n_keys), np.float32)
    changes = np.zeros((frames + 1, hp.n_keys), int)  # how many notes begin less how many end
    for times, change in ((onset, 1), (np.maximum(end, onset + 2), -1)):
        np.add.at(changes, (np.clip(np.ceil(times).astype(int), 0, frames), key), change)
    labels[1] = changes[:-1].cumsum(axis=0) > 0
    near = np.ceil(onset - hp.onset_width)[:, None] + np.arange(int(2 * hp.onset_width) + 1)
    likely = 1 - np.abs(near - onset[:, None]) / hp.onset_width
    note, place = np.nonzero((likely > 0) & (near >= 0) & (near < frames))
    order = np.argsort(likely[note, place], kind="stable")  # of two notes of one key the nearer is written last
    note, place = note[order], place[order]
    where = near[note, place].astype(int), key[note]
    labels[0][where], labels[2][where] = likely[note, place], velocity[note] / 127
    return labels


def onset_candidates(predictions, onset_threshold, frame_threshold=None):
    """Return frames and keys, from 0, in which notes seem to begin [shape=(n,) each], key by key: where the onset is at
    its highest within two frames and above its threshold, if the key then sounds."""
    onset, sounding, _ = predictions
    frame_threshold = hp.frame_threshold if frame_threshold is None else frame_threshold
    padded = np.pad(onset, ((2, 2), (0, 0)))
    before_2, before, after, after_2 = (padded[i:i + len(onset)] for i in (0, 1, 3, 4))
    peaks = (onset > onset_threshold) & (onset >= before) & (onset > after) & (onset >= before_2) & (onset > after_2)
    key, frame = np.nonzero(peaks.T)
    soon = np.minimum(frame[:, None] + (1, 2, 3), len(onset) - 1)
    sounds = sounding[soon, key[:, None]].mean(axis=1) >= frame_threshold
    return frame[sounds], key[sounds]


def next_onsets(key, begin, last):
    """Return when the key of each note is struck next [shape=(n,)], `last` if it is not; of notes key by key, in the
    order of their beginnings."""
    return np.where(np.append(key[1:] == key[:-1], False), np.roll(begin, -1), last)


def interpolate_peaks(image, frame, key):
    """Return where the peaks of an image [shape=(t, n_keys)] at these frames and keys lie between the frames
    [shape=(n,)]: that of a triangle through the neighbours (Kong et al. 2021)."""
    before, top, after = (np.pad(image, ((1, 1), (0, 0)))[frame + i, key] for i in range(3))
    return (frame + (after - before) / (2 * (top - np.minimum(after, before)) + 1e-9)).astype(np.float32)


def estimate_offsets(sounding, frame, key, next_onset, offset_threshold=None):
    """Return the frames in which notes seem to end [shape=(n,)]: their key no longer sounds [shape=(t, n_keys)], or is
    struck again."""
    offset_threshold = hp.offset_threshold if offset_threshold is None else offset_threshold
    frames = np.arange(len(sounding) + 1, dtype=np.int32)[:, None]
    silent = np.pad(sounding < offset_threshold, ((0, 1), (0, 0)), constant_values=True)
    quiet = np.minimum.accumulate(np.where(silent, frames, len(sounding))[::-1])[::-1]  # the next frame without sound
    return np.minimum(quiet[np.minimum(frame + 2, len(sounding)), key], next_onset).astype(np.float32)


def decode_notes(predictions, classifier=None, onset_threshold=None, frame_threshold=None,
                 offset_threshold=None):
    """Read the notes off what `NoteModel.predict_frames` returns.

    They begin at `onset_candidates`, between frames as a triangle through the neighbours has it (Kong et al. 2021,
    "High-resolution piano transcription with pedals by regressing onset and offset times"), and last while their key
    sounds, or until it is struck again. A `classifier`, a NoteModel, has its say in both: of what is even above
    `hp.candidate_threshold` it keeps what it gives `hp.classifier_threshold`, and it corrects the ends.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        Onset and end in seconds, MIDI key, velocity from 1 to 127, in the order of the onsets.
    """
    onset, sounding, velocity = predictions
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
    """Return notes with their velocities told apart by how loud their partials begin.

    The encoder says how hard a recording is played, with an error that differs from note to note; how much louder one
    note is than another can be measured. What is left of the encoder's velocities without the measured levels is taken
    for a smooth curve over the keys, that of piano and microphones; curve and levels make half of the new velocities.
    These are spread a little, as what is learnt with errors is drawn to the middle.

    Parameters
    ----------
    notes : np.ndarray [shape=(n, 4)]
        As `decode_notes` returns them.
    pitch : np.ndarray [shape=(n_pitches, steps), in [0, 1]]
        Pitch spectrogram of the whole recording that they were heard in.

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
