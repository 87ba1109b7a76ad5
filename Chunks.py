"""Spectrograms of recordings of any length, chunk by chunk, so that memory holds one chunk of them."""
import numpy as np

import DatasetCreator
import Hyperparameters as hp
import Util


def n_frames(audio):
    """Return the number of frames of a recording's spectrogram; the last is centred on or after its end."""
    return 1 + max(-(-len(audio) // hp.hop_length), 1)


def chunks(frames, number=0):
    """Cut a recording into chunks.

    Parameters
    ----------
    frames : int
        As `n_frames` returns it.
    number : int
        Number of chunks; by default as many as `hp.chunk_frames` makes of it.

    Returns
    -------
    list of (int, int)
        First frame of each chunk, and the frame after its last. None is shorter than `hp.fade_frames`, unless the
        recording is.
    """
    number = number or -(-frames // hp.chunk_frames)
    size = max(-(-frames // (8 * number)) * 8, hp.fade_frames)  # the U-Net halves time three times
    starts = [0, *range(size, frames - hp.fade_frames + 1, size)]  # what is left at the end joins the last chunk
    return list(zip(starts, [*starts[1:], frames]))


def frame_samples(audio, first, last, n_fft, hop_length, exponent=0):
    """Return the samples that the frames from `first` to `last` of a centred STFT are made of, silence where there is
    no audio [shape=(n,), float32].

    `audio` [shape=(n,) or (n, channels)], of which the mean is taken, is divided by 2 ** `exponent`.
    """
    start, end = first * hop_length - n_fft // 2, (last - 1) * hop_length + n_fft // 2
    before, part = max(-start, 0), audio[max(start, 0):max(end, 0)]
    part = np.ldexp(part if part.ndim == 1 else part.mean(axis=1), -exponent)
    return np.pad(part, (before, end - start - before - part.size))


def spectrum(audio, first, last, exponent=0):
    """Return the STFT of the frames from `first` to `last` of a recording, as `frame_samples` takes it."""
    return DatasetCreator.stft(frame_samples(audio, first, last, hp.n_fft, hp.hop_length, exponent), center=False)


def pitch_power(audio, first, last, exponent=0):
    """As `DatasetCreator.pitch_power`, of every other frame from `first` to `last` of the mel spectrogram of a
    recording, as `frame_samples` takes it."""
    steps = (last - first + 1) // 2
    part = frame_samples(audio, first, first + 2 * steps - 1, hp.pitch_n_fft, hp.hop_length, exponent)
    return DatasetCreator.pitch_power(part, center=False)


def add_faded(output, chunk, start, first, last):
    """Add the sound of the frames from `first` to `last` to the output, faded in and out where others adjoin.

    `output` [shape=(n,) or (n, channels)]: that of all frames. `chunk`, of as many axes, begins at the frame `start`.
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
    """Return the largest mel power of a recording, the reference of its log-mel spectrogram."""
    parts = chunks(n_frames(audio)) if parts is None else parts
    return max(DatasetCreator.mel_power(spectrum(audio, *part, exponent)).max() for part in parts)


def norm(audio, exponent=0, block=1 << 20):
    """Return the Euclidean norm of the samples of audio divided by 2 ** `exponent`, block by block, in single
    precision."""
    parts = (np.ldexp(audio[start:start + block], -exponent).ravel() for start in range(0, len(audio), block))
    return np.float32(np.sqrt(sum(float(part @ part) for part in parts)))


def whole_spectrogram(audio):
    """Return the log-mel spectrogram of a recording, relative to its own maximum [shape=(n_mels, t), float16].

    `audio` [shape=(n,) or (n, channels)], of which the mean is taken.
    """
    exponent, parts = Util.level_exponent(audio), chunks(n_frames(audio))
    powers = [DatasetCreator.mel_power(spectrum(audio, *part, exponent)).astype(np.float32) for part in parts]
    loudest = max(power.max() for power in powers)
    return np.concatenate([DatasetCreator.log_mel(power, loudest).astype(np.float16) for power in powers], axis=1)


def explained_share(audio, notes):
    """Return the share of a recording's energy that lies at the partials of its notes.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
    notes : np.ndarray [shape=(n, 4)]
        As `Notes.decode_notes` returns them, in the time of `audio`.

    Returns
    -------
    float
        From 0 to 1; 1 if the recording is silent. Frequencies below the lowest key do not count. Of a long recording,
        `hp.explained_max_chunks` are measured.
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
        explained += power[partial_mask(notes, first // 2, steps)].sum(dtype=float)
        whole += power.sum(dtype=float)
    return explained / whole if whole else 1.0


def partial_mask(notes, first, steps):
    """Return which bins of the spectra that the pitch spectrogram is made of belong to partials of notes.

    They do from shortly before a note's onset until its reverberation has ended: see `hp.explained_before` and
    `hp.explained_after`.

    Parameters
    ----------
    notes : np.ndarray [shape=(n, 4)]
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
            width = np.maximum(hp.explained_width * bins, 2)  # two bins are the window's main lobe
            for low, high in zip(np.rint(bins - width).astype(int), np.rint(bins + width).astype(int)):
                mask[low:high + 1, max(start, 0):end] = True
    return mask
