"""Compute spectrograms of long recordings chunk by chunk, to limit memory."""
import contextvars

import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Util

# function that `track` calls before each chunk instead of showing a progress bar; an exception of it ends the work
on_chunk = contextvars.ContextVar("on_chunk", default=None)


def n_frames(audio):
    """Return the number of frames of a recording's spectrogram. The last frame is centred on or after the end."""
    return 1 + max(-(-len(audio) // hp.hop_length), 1)


def chunks(frames, number=0):
    """Divide the frames of a recording into chunks.

    Parameters
    ----------
    frames : int
        Number of frames, as `n_frames` returns it.
    number : int
        Number of chunks. The default 0 gives one chunk of up to `hp.chunk_frames`, or chunks of about
        `hp.long_chunk_frames`, which with their context need no more memory.

    Returns
    -------
    list of (int, int)
        First frame of each chunk, and the frame after its last. Each chunk has at least `hp.fade_frames` frames, unless
        the recording is shorter.
    """
    most = hp.chunk_frames if frames <= hp.chunk_frames else min(hp.chunk_frames, hp.long_chunk_frames)
    number = number or -(-frames // most)
    size = max(-(-frames // (8 * number)) * 8, hp.fade_frames)  # multiple of 8: the U-Net halves time three times
    starts = [0, *range(size, frames - hp.fade_frames + 1, size)]  # a short rest joins the last chunk
    return list(zip(starts, [*starts[1:], frames]))


def track(parts, stage):
    """Yield the chunks of a stage and show the progress.

    Parameters
    ----------
    parts : list of (int, int)
        Chunks, as `chunks` returns them.
    stage : str
        Name of the stage, "transcription" or "resynthesis". The function in `on_chunk` is called with this name, the
        number of finished chunks and the number of all chunks.
    """
    report = on_chunk.get()
    shown = tqdm(parts, desc=stage, unit="chunk", disable=len(parts) < 2 or report is not None, leave=False)
    for number, part in enumerate(shown):
        if report:
            report(stage, number, len(parts))
        yield part


def frame_samples(audio, first, last, n_fft, hop_length, exponent=0):
    """Return the samples under a range of frames of a centred STFT, padded with silence outside the recording.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        Recording. The mean of its channels is used.
    first, last : int
        First frame, and the frame after the last.
    n_fft, hop_length : int
        Window length and hop of the STFT in samples.
    exponent : int
        The samples are divided by 2 ** `exponent`.

    Returns
    -------
    np.ndarray [shape=(samples,), float32]
    """
    start, end = first * hop_length - n_fft // 2, (last - 1) * hop_length + n_fft // 2
    before, part = max(-start, 0), audio[max(start, 0):max(end, 0)]
    part = np.ldexp(part if part.ndim == 1 else part.mean(axis=1), -exponent)
    return np.pad(part, (before, end - start - before - part.size))


def spectrum(audio, first, last, exponent=0):
    """Return the STFT of a range of frames of a recording: see `frame_samples`."""
    return DatasetCreator.stft(frame_samples(audio, first, last, hp.n_fft, hp.hop_length, exponent), center=False)


def pitch_power(audio, first, last, exponent=0):
    """Return the pitch power of every second frame in a range of frames of the mel spectrogram.

    See `DatasetCreator.pitch_power` for the result, and `frame_samples` for the parameters.
    """
    steps = (last - first + 1) // 2
    part = frame_samples(audio, first, first + 2 * steps - 1, hp.pitch_n_fft, hp.hop_length, exponent)
    return DatasetCreator.pitch_power(part, center=False)


def add_faded(output, chunk, start, first, last):
    """Add the audio of a chunk to the output in place, with a cross-fade to each adjacent chunk.

    Parameters
    ----------
    output : np.ndarray [shape=(n,) or (n, channels), float32]
        Audio of all frames.
    chunk : np.ndarray [shape=(m,) or (m, channels), float32]
        Audio of the chunk with its context, from frame `start` on. Its samples are scaled in place.
    start : int
        First frame of `chunk`.
    first, last : int
        First frame of the chunk without context, and the frame after its last.
    """
    half, hop, frames = hp.fade_frames // 2, hp.hop_length, len(output) // hp.hop_length + 1
    begin, end = max(first - half, 0), min(last + half, frames)
    rise = np.linspace(0, 1, hp.fade_frames * hop, dtype=np.float32).reshape(-1, *[1] * (output.ndim - 1))
    part = chunk[(begin - start) * hop:(end - start) * hop]
    if first > 0:
        part[:len(rise)] *= rise
    if last < frames:
        part[-len(rise):] *= rise[::-1]
    output[begin * hop:begin * hop + len(part)] += part


def loudest_mel_power(audio, exponent=0, parts=None):
    """Return the largest mel power of a recording. It is the reference of the log-mel spectrogram."""
    parts = chunks(n_frames(audio)) if parts is None else parts
    return max(DatasetCreator.mel_power(spectrum(audio, *part, exponent)).max() for part in parts)


def norm(audio, exponent=0, block=1 << 20):
    """Return the Euclidean norm of audio divided by 2 ** `exponent`, computed in blocks of `block` samples."""
    parts = (np.ldexp(audio[start:start + block], -exponent).ravel() for start in range(0, len(audio), block))
    return np.float32(np.sqrt(sum(float(part @ part) for part in parts)))


def whole_spectrogram(audio):
    """Return the log-mel spectrogram of a whole recording, relative to its maximum [shape=(n_mels, t), float16].

    `audio` has the shape (n,) or (n, channels). The mean of the channels is used.
    """
    exponent, parts = Util.level_exponent(audio), chunks(n_frames(audio))
    powers = [DatasetCreator.mel_power(spectrum(audio, *part, exponent)).astype(np.float32) for part in parts]
    loudest = max(power.max() for power in powers)
    return np.concatenate([DatasetCreator.log_mel(power, loudest).astype(np.float16) for power in powers], axis=1)


def explained_share(audio, notes):
    """Measure the share of a recording's energy that lies at the partials of its notes.

    Frequencies below the lowest key are ignored. At most `hp.explained_max_chunks` chunks are measured. What may be
    left of notes from before the recording counts as explained: see `earlier_notes`.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        Recording in A 440, at `hp.sample_rate`.
    notes : np.ndarray [shape=(n, 4)]
        Notes as `NoteRefinement.decode_notes` returns them, on the time axis of `audio`.

    Returns
    -------
    float
        Share from 0 to 1. It is 1 if the recording is silent.
    """
    exponent, parts = Util.level_exponent(audio), chunks(n_frames(audio))
    measured = np.linspace(0, len(parts) - 1, min(len(parts), hp.explained_max_chunks)).astype(int)
    explained = whole = 0.0
    lowest = int(hp.explained_from_hz * hp.pitch_n_fft / hp.sample_rate)
    for first, last in (parts[i] for i in measured):
        steps = (last - first + 1) // 2
        part = frame_samples(audio, first, first + 2 * steps - 1, hp.pitch_n_fft, hp.hop_length, exponent)
        power = np.abs(DatasetCreator.stft(part, False, hp.pitch_n_fft, hp.pitch_hop_length)) ** 2
        power[:lowest] = 0
        mask = partial_mask(notes, first // 2, steps)
        explained += power[mask].sum(dtype=float) + (0 if first else earlier_notes(power)[~mask].sum(dtype=float))
        whole += power.sum(dtype=float)
    return explained / whole if whole else 1.0


def earlier_notes(power):
    """Return the power that may be left of notes that began before the recording.

    Such notes only decay. So this is the minimum of each bin up to each frame, which also decays by
    `hp.explained_decay_db_per_s` at least: a steady hum is not a note.

    Parameters
    ----------
    power : np.ndarray [shape=(bins, steps)]
        Power spectrogram from the first frame of the recording on.

    Returns
    -------
    np.ndarray [shape=(bins, steps)]
        At most `power`.
    """
    steps = power.shape[1]
    full = min(hp.pitch_n_fft // 2 // hp.pitch_hop_length, steps - 1)  # the first window that begins in the recording
    decay = 10 ** (-hp.explained_decay_db_per_s / 10 * hp.pitch_hop_length / hp.sample_rate * np.arange(steps))
    left = np.concatenate([np.repeat(power[:, full:full + 1], full, axis=1), power[:, full:]], axis=1)
    left = np.minimum(np.minimum.accumulate(left, axis=1), left[:, :1] * np.float32(decay))
    return np.minimum(left, power)


def partial_mask(notes, first, steps):
    """Mark the STFT bins that belong to partials of notes.

    A note covers its bins from `hp.explained_before` seconds before its onset to `hp.explained_after` seconds after its
    offset. The margin after the offset covers reverberation.

    Parameters
    ----------
    notes : np.ndarray [shape=(n, 4)]
        Onset and offset in seconds, MIDI key, velocity.
    first, steps : int
        First frame of the pitch spectrogram, and number of frames.

    Returns
    -------
    np.ndarray [shape=(1 + pitch_n_fft / 2, steps), bool]
    """
    mask, rate = np.zeros((1 + hp.pitch_n_fft // 2, steps), bool), hp.sample_rate / hp.pitch_hop_length
    starts = np.floor((notes[:, 0] - hp.explained_before) * rate).astype(int) - first
    ends = np.ceil((notes[:, 1] + hp.explained_after) * rate).astype(int) - first
    numbers = np.arange(1, hp.explained_partials + 1)
    for start, end, key in zip(starts, ends, notes[:, 2]):
        if start < steps and end > 0:
            bins = 440 * 2 ** ((key - 69) / 12) * numbers * hp.pitch_n_fft / hp.sample_rate
            width = np.maximum(hp.explained_width * bins, 2)  # main lobe of the window: two bins on each side
            for low, high in zip(np.rint(bins - width).astype(int), np.rint(bins + width).astype(int)):
                mask[low:high + 1, max(start, 0):end] = True
    return mask
