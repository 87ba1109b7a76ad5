"""Recording -> notes: frame-wise predictions chunk by chunk, decoded in windows, for any length and tuning."""
import numpy as np
from tqdm import tqdm

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
        At `hp.sample_rate`, not silent. The mean of the channels is transcribed.
    model : NoteModel

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        As `Notes.decode_notes` returns them, with `NoteModel.refine_velocities`.
    """
    factor = Tuning.pitch_factor(audio)
    notes = transcribe_in_tune(Tuning.to_concert_pitch(audio, factor), model)
    notes[:, :2] /= np.float32(factor)
    return notes


def transcribe_in_tune(audio, model):
    """As `transcribe_audio`, of a recording in A 440."""
    exponent, frames = Util.level_exponent(audio), Chunks.n_frames(audio)
    parts = Chunks.chunks(frames)
    references = (max(Chunks.pitch_power(audio, *part, exponent).max() for part in parts),
                  Chunks.loudest_mel_power(audio, exponent, parts))
    pitch = np.empty((hp.n_pitches, -(-frames // 2)), np.float16)

    def predictions():
        for first, last in tqdm(parts, desc="transcription", unit="chunk", disable=len(parts) < 2, leave=False):
            part, image = predict_chunk(audio, model, first, last, exponent, references)
            pitch[:, first // 2:-(-last // 2)] = image
            yield part
            Util.release_memory()

    notes = np.concatenate(list(decode_in_windows(predictions(), frames, model)))
    return model.refine_velocities(notes, pitch)


def predict_chunk(audio, model, first, last, exponent, references):
    """Return the frame-wise predictions of a chunk [shape=(outputs, last - first, n_keys)], and its pitch spectrogram.

    The encoder's steps are two frames long. Its predictions differ if it starts one frame later, and the mean of both
    is better than either. `references`: the largest power of the recording's pitch and mel spectrograms.
    """
    frames = Chunks.n_frames(audio)
    before, after = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
    mel = DatasetCreator.log_mel(DatasetCreator.mel_power(Chunks.spectrum(audio, before, after, exponent)),
                                 references[1])
    images = [DatasetCreator.log_mel(Chunks.pitch_power(audio, before + late, after, exponent), references[0])
              for late in (0, 1)]
    once, again = (model.predict_frames(image, mel[:, late:]) for late, image in enumerate(images))
    once[:, 1:] = (once[:, 1:] + again) / 2
    return once[:, first - before:last - before], images[0][:, (first - before) // 2:-(-(last - before) // 2)]


def decode_in_windows(predictions, frames, model):
    """Decode the notes of a long recording without holding all of its predictions in memory.

    Parameters
    ----------
    predictions : iterable of np.ndarray [shape=(outputs, t, n_keys)]
        As `predict_chunk` returns them, chunk after chunk.
    frames : int
        Number of all frames.
    model : NoteModel

    Yields
    ------
    np.ndarray [shape=(n, 4), float32]
        Notes, in the order of their onsets. A note ends `hp.decode_ahead` frames after its window at the latest.
    """
    window, start, decoded = None, 0, -np.inf  # first frame of the window; frame up to which notes are decoded
    for part in predictions:
        part = part.astype(np.float16).astype(np.float32)
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
