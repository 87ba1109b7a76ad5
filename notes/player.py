"""Play notes on the instrument of a note autoencoder, without a recording and without the U-Net."""
import numpy as np

import DatasetCreator
import Hyperparameters as hp
from audio import audio_files, chunking, mel_inversion
from notes.note_events import scale_times


def play_notes(notes, model, seconds, factor=1):
    """Return the audio of notes [shape=(n, 4)] on the target instrument of a `NoteModel`, so many seconds at
    `hp.sample_rate` [shape=(n,), float32]. All frequencies are `factor` times those of A 440. A `SampledVoice` plays
    its sounds; the spectrogram of a table is inverted from random phase, as in the report."""
    notes, length = scale_times(notes, factor), round(seconds * hp.sample_rate * factor)
    audio = model.voice.audio(notes, 0, length) if model.voice else invert_notes(notes, model, length)
    return audio_files.fix_length(audio_files.resample(audio, hp.sample_rate * factor), round(seconds * hp.sample_rate))


def invert_notes(notes, model, length):
    """Return the audio of notes on a `NoteModel` without sounds, about `length` samples: see `play_notes`."""
    frames = 1 + max(-(-length // hp.hop_length), 1)
    parts, output = chunking.chunks(frames), np.zeros((frames - 1) * hp.hop_length, np.float32)
    render = model.note_renderer(notes, parts)
    for first, last in chunking.track(parts, "resynthesis"):
        start, end = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        image, _ = render(start, end)
        chunk = mel_inversion.invert(DatasetCreator.mel_from_log(image), None, "report")
        chunking.add_faded(output, chunk, start, first, last)
    return output
