"""Spectrograms of long recordings, chunk by chunk to limit memory. Audio has the shape (n,) or (n, channels)."""
import contextlib
import contextvars
import ctypes

import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
from audio import audio_files

fade_frames = 16                # over which one chunk fades into the next

# function that `track` calls before each chunk instead of showing a progress bar; an exception of it ends the work
on_chunk = contextvars.ContextVar("on_chunk", default=None)


def n_frames(audio):
    """Return the number of frames of a recording's spectrogram. The last frame is centred on or after the end."""
    return 1 + max(-(-len(audio) // hp.hop_length), 1)


def chunks(frames, number=0):
    """Divide a number of frames into chunks. Return the first frame of each, and the frame after its last. By default a
    chunk has up to `hp.chunk_frames`, or, if there are several, about `hp.long_chunk_frames`. It has at least
    `fade_frames`, unless the recording is shorter."""
    most = hp.chunk_frames if frames <= hp.chunk_frames else min(hp.chunk_frames, hp.long_chunk_frames)
    number = number or -(-frames // most)
    size = max(-(-frames // (8 * number)) * 8, fade_frames)  # multiple of 8: the U-Net halves time three times
    starts = [0, *range(size, frames - fade_frames + 1, size)]  # a short rest joins the last chunk
    return list(zip(starts, [*starts[1:], frames]))


def track(parts, stage):
    """Yield the `chunks` of a stage, "transcription" or "resynthesis", and show the progress. The function in
    `on_chunk` is called with the stage, the number of finished chunks and the number of all chunks."""
    report = on_chunk.get()
    shown = tqdm(parts, desc=stage, unit="chunk", disable=len(parts) < 2 or report is not None, leave=False)
    for number, part in enumerate(shown):
        if report:
            report(stage, number, len(parts))
        yield part


def release_memory():
    """Have Linux's malloc give freed blocks back to the system, which it keeps between larger ones in use."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def frame_samples(audio, first, last, n_fft, exponent=0):
    """Return the samples under the frames of a centred STFT from `first` up to `last` [shape=(samples,), float32]. They
    are those of the mean of the channels, with silence outside the recording, divided by 2 ** `exponent`."""
    start, end = first * hp.hop_length - n_fft // 2, (last - 1) * hp.hop_length + n_fft // 2
    before, part = max(-start, 0), audio[max(start, 0):max(end, 0)]
    part = np.ldexp(part if part.ndim == 1 else part.mean(axis=1), -exponent)
    return np.pad(part, (before, end - start - before - part.size))


def spectrum(audio, first, last, exponent=0):
    """Return the STFT of a range of frames of a recording: see `frame_samples`."""
    return DatasetCreator.stft(frame_samples(audio, first, last, hp.n_fft, exponent), center=False)


def channel_spectra(audio, first, last, exponent=0):
    """Return the STFTs of the mean of the channels and, if `audio` has several, of each channel: see `spectrum`."""
    return [spectrum(side, first, last, exponent) for side in (audio, *(audio.T if audio.ndim > 1 else ()))]


def pitch_stft_power(audio, first, last, exponent=0):
    """Return the power in the bins of the longer STFT [shape=(1 + pitch_n_fft / 2, steps)], that of the pitch
    spectrogram, of every second frame in a range of frames: see `frame_samples`. It is four times as long as that of
    the mel spectrogram, whose bands are 25 Hz apart in the bass: a semitone has 2 to 8 Hz."""
    steps = (last - first + 1) // 2
    part = frame_samples(audio, first, first + 2 * steps - 1, hp.pitch_n_fft, exponent)
    return np.abs(DatasetCreator.stft(part, False, hp.pitch_n_fft, hp.pitch_hop_length)) ** 2


def pitch_power(audio, first, last, exponent=0):
    """Return the power in pitch bands [shape=(n_pitches, steps)] of every second frame in a range of frames."""
    return DatasetCreator.pitch_filters() @ pitch_stft_power(audio, first, last, exponent)


def add_faded(output, chunk, start, first, last):
    """Add the audio of the frames from `first` up to `last` to the output in place, faded into the adjacent chunks.
    `chunk` is this audio with its context, from frame `start` on. Its samples are scaled in place."""
    half, hop, frames = fade_frames // 2, hp.hop_length, len(output) // hp.hop_length + 1
    begin, end = max(first - half, 0), min(last + half, frames)
    rise = np.linspace(0, 1, fade_frames * hop, dtype=np.float32).reshape(-1, *[1] * (output.ndim - 1))
    part = chunk[(begin - start) * hop:(end - start) * hop]
    if first > 0:
        part[:len(rise)] *= rise
    if last < frames:
        part[-len(rise):] *= rise[::-1]
    output[begin * hop:begin * hop + len(part)] += part


def loudest_mel_power(audio, exponent, parts):
    """Return the largest mel power of a recording. It is the reference of the log-mel spectrogram."""
    return max(DatasetCreator.mel_power(spectrum(audio, *part, exponent)).max() for part in parts)


def whole_spectrogram(audio):
    """Return the log-mel spectrogram of a recording, relative to its maximum [shape=(n_mels, t), float16]."""
    exponent, parts = audio_files.level_exponent(audio), chunks(n_frames(audio))
    powers = [DatasetCreator.mel_power(spectrum(audio, *part, exponent)).astype(np.float32) for part in parts]
    loudest = max(power.max() for power in powers)
    return np.concatenate([DatasetCreator.log_mel(power, loudest).astype(np.float16) for power in powers], axis=1)
