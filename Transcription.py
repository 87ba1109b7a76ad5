"""Transcribe recordings of any length and tuning: predict frames chunk by chunk, then decode notes in windows."""
import numpy as np

import Chunks
import DatasetCreator
import Hyperparameters as hp
import Tuning
import Util


def transcribe_audio(audio, model):
    """Transcribe a recording of any length and tuning.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        Recording at `hp.sample_rate`, not silent. The mean of the channels is transcribed.
    model : NoteModel
        Trained note autoencoder.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        Onset and offset in seconds, MIDI key, velocity from 1 to 127, sorted by onset.
    """
    factor = Tuning.pitch_factor(audio)
    notes = transcribe_in_tune(Tuning.to_concert_pitch(audio, factor), model)
    notes[:, :2] /= np.float32(factor)
    return notes


def transcribe_in_tune(audio, model):
    """Transcribe a recording in A 440: see `transcribe_audio`."""
    exponent, frames = Util.level_exponent(audio), Chunks.n_frames(audio)
    parts = Chunks.chunks(frames)
    references = (max(Chunks.pitch_power(audio, *part, exponent).max() for part in parts),
                  Chunks.loudest_mel_power(audio, exponent, parts))
    pitch = np.empty((hp.n_pitches, -(-frames // 2)), np.float16)

    def predictions():
        for first, last in Chunks.track(parts, "transcription"):
            part, image = predict_chunk(audio, model, first, last, exponent, references)
            pitch[:, first // 2:-(-last // 2)] = image
            yield part
            Util.release_memory()

    notes = np.concatenate(list(decode_in_windows(predictions(), frames, model)))
    return model.refine_velocities(notes, pitch)


def predict_chunk(audio, model, first, last, exponent, references):
    """Predict the frames of a chunk.

    A step of the encoder is two frames. The encoder runs twice, from the first and from the second frame.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        Whole recording in A 440.
    model : NoteModel
        Trained note autoencoder.
    first, last : int
        First frame of the chunk, and the frame after its last.
    exponent : int
        The samples are divided by 2 ** `exponent`.
    references : (float, float)
        Largest power in the pitch and in the mel spectrogram of the recording.

    Returns
    -------
    predictions : np.ndarray [shape=(outputs, last - first, n_keys), in [0, 1]]
        See `NoteModel.predict_views`.
    pitch : np.ndarray [shape=(n_pitches, steps), in [0, 1]]
        Pitch spectrogram of the chunk.
    """
    frames = Chunks.n_frames(audio)
    before, after = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
    mel = DatasetCreator.log_mel(DatasetCreator.mel_power(Chunks.spectrum(audio, before, after, exponent)),
                                 references[1])
    images = [DatasetCreator.log_mel(Chunks.pitch_power(audio, before + late, after, exponent), references[0])
              for late in (0, 1)]
    predictions = model.predict_views(images, mel)
    return predictions[:, first - before:last - before], images[0][:, (first - before) // 2:-(-(last - before) // 2)]


def decode_in_windows(predictions, frames, model):
    """Decode the notes of a long recording window by window, to limit memory.

    Parameters
    ----------
    predictions : iterable of np.ndarray [shape=(outputs, t, n_keys)]
        Predictions of consecutive chunks, as `predict_chunk` returns them.
    frames : int
        Number of frames of the recording.
    model : NoteModel
        Trained note autoencoder.

    Yields
    ------
    np.ndarray [shape=(n, 4), float32]
        Notes of one window, sorted by onset. A note ends at most `hp.decode_ahead` frames after its window.
    """
    window, start, decoded = None, 0, -np.inf  # first frame of the window; frame up to which notes are decoded
    for part in predictions:
        part = part.astype(np.float16)
        window = part if window is None else np.concatenate([window, part], axis=1)
        end = start + window.shape[1]
        ready = np.inf if end == frames else end - hp.decode_ahead
        if ready < max(decoded, 0) + hp.decode_frames:
            continue
        notes = model.decode_notes(window)
        onset = notes[:, 0] * (hp.sample_rate / hp.hop_length) + start
        notes = notes[(onset >= decoded) & (onset < ready)]
        notes[:, :2] += np.float32(start * hp.hop_length / hp.sample_rate)
        yield notes
        if end < frames:
            window = window[:, ready - hp.context_frames - start:].copy()
            start, decoded = ready - hp.context_frames, ready


def doubt_piano(audio, notes):
    """Return why a recording may not be of a piano (few notes, unexplained energy, no common tuning), or None."""
    factor, seconds = Tuning.pitch_factor(audio), len(audio) / hp.sample_rate
    share = Chunks.explained_share(Tuning.to_concert_pitch(audio, factor), notes * np.float32([factor, factor, 1, 1]))
    if share >= hp.explained_min_share and (Tuning.estimate_cents(audio) is not None or seconds < hp.doubt_min_s):
        return None
    if len(notes) < hp.few_notes_per_s * seconds:
        return f"{'few' if len(notes) else 'no'} notes in {seconds:.0f} s"
    if share < hp.explained_min_share:
        return f"its notes explain {100 * share:.0f} % of the sound"
    return "its pitches fit no tuning"
