"""Tuning: by how many cents a recording differs from A 440, and its correction by resampling."""
import numpy as np

import Decoding
import Hyperparameters as hp
import Util


def estimate_cents(audio):
    """Estimate the tuning of a recording relative to A 440.

    Spectral peaks of the whole recording vote for their distance from the nearest key of a piano in A 440, weighted by
    their amplitude. The estimate lies at the mode of these distances. Partials that are off the tempered scale move it
    less than they move the mean.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        At `hp.sample_rate`.

    Returns
    -------
    float or None
        Cents from -50 to 50, positive if the recording is sharp. None if the peaks prefer no tuning, as in noise.
    """
    cents, weights = peak_cents(audio)
    if not weights.any():
        return None
    histogram = np.histogram((cents + 50) % 100, 100, (0, 100), weights=weights)[0]
    kernel = np.exp(-0.5 * (((np.arange(100) + 50) % 100 - 50) / hp.tuning_width) ** 2)
    mode = np.argmax(np.fft.irfft(np.fft.rfft(histogram) * np.fft.rfft(kernel), 100)) - 49.5
    distance = (cents - mode + 50) % 100 - 50
    near = np.abs(distance) < 2 * hp.tuning_width
    share, chance = weights[near].sum() / weights.sum(), 4 * hp.tuning_width / 100
    number = weights.sum() ** 2 / (weights ** 2).sum()  # of peaks, if all had the same weight
    if share < max(hp.tuning_share, chance + 4 * np.sqrt(chance * (1 - chance) / number)):
        return None
    return float((mode + np.average(distance[near], weights=weights[near]) + 50) % 100 - 50)


def peak_cents(audio):
    """Return the distances in cents of spectral peaks from the nearest key, and their amplitudes [shape=(n,) each]."""
    size, most = hp.tuning_n_fft, hp.tuning_frames
    starts = np.arange(0, max(len(audio) - size, 0) + 1, size // 2)
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), most)).astype(int)]
    window, hertz = np.hanning(size + 1)[:-1], hp.sample_rate / size
    first, last = (round(limit / hertz) for limit in hp.tuning_hertz)
    cents, weights = [], []
    for start in starts:
        part = audio[start:start + size]
        part = part.mean(axis=1) if part.ndim > 1 else part
        spectrum = np.abs(np.fft.rfft(window * Decoding.fix_length(part, size)))[first - 1:last + 2]
        level = np.log(spectrum + 1e-30)
        before, top, after = level[:-2], level[1:-1], level[2:]
        peaks = np.nonzero((top > before) & (top >= after) & (top > top.max() + hp.tuning_floor_db * np.log(10) / 20))[0]
        shift = 0.5 * (before - after)[peaks] / (before - 2 * top + after)[peaks]
        cents.append(1200 * np.log2((first + peaks + shift) * hertz / 440))
        weights.append(spectrum[1:-1][peaks])
    cents, weights = np.concatenate(cents), np.concatenate(weights)
    return (cents + 50) % 100 - 50, weights


def pitch_factor(audio):
    """Return by what factor the frequencies of a recording differ from A 440: 1 up to `hp.tuning_tolerance` cents.

    `audio` as in `estimate_cents`.
    """
    cents = estimate_cents(audio) or 0
    return 2 ** (cents / 1200) if abs(cents) > hp.tuning_tolerance else 1.0


def to_concert_pitch(audio, factor):
    """Return a recording [shape=(n,) or (n, channels)] in A 440, by resampling: it becomes `factor` times as long.

    `factor` as `pitch_factor` returns it; 1 leaves the recording as it is.
    """
    return Util.resample(audio, hp.sample_rate, hp.sample_rate * factor)


def from_concert_pitch(audio, factor, length, tune=None):
    """Return what was made of `to_concert_pitch` in the recording's own tuning and length.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        In A 440, `factor` times as long as the recording.
    factor : float
    length : int
        Samples of the recording.
    tune : float, optional
        Frequency in Hz of the A above middle C of the result, in place of the recording's own.

    Returns
    -------
    np.ndarray [shape=(length,) or (length, channels), float32]
    """
    wanted = factor if tune is None else tune / 440
    if wanted != factor:
        import librosa  # slow to import, and needed for nothing else here

        audio = librosa.effects.time_stretch(audio.T, rate=factor / wanted).T
    return Decoding.fix_length(Util.resample(audio, hp.sample_rate * wanted, hp.sample_rate), length)


def check_tune(tune):
    """Return the frequency in Hz of an A that a piano may have. Raises ValueError for another."""
    lowest, highest = hp.tune_hertz
    if tune is not None and not lowest <= tune <= highest:
        raise ValueError(f"tune is the frequency of the A above middle C in Hz, from {lowest} to {highest}, as in 440, "
                         f"not {tune:g}")
    return tune
