"""Tuning: by how many cents a recording differs from A 440, and its correction by resampling."""
import numpy as np

import Decoding
import Hyperparameters as hp



def estimate_cents(audio):
    """Estimate the tuning of a recording relative to A 440.

    Spectral peaks of the whole recording vote for their distance from the nearest key of a piano in A 440, weighted by
    their amplitude. The estimate is the mode of these distances, which upper partials off the tempered scale move less
    than the mean.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        At `hp.sample_rate`.

    Returns
    -------
    float
        Cents from -50 to 50, positive if the recording is sharp. 0 if the peaks prefer no tuning, as in noise.
    """
    cents, weights = peak_cents(audio)
    if not len(cents):
        return 0.0
    histogram = np.histogram((cents + 50) % 100, 100, (0, 100), weights=weights)[0]
    kernel = np.exp(-0.5 * (((np.arange(100) + 50) % 100 - 50) / hp.tuning_width) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(histogram) * np.fft.rfft(kernel), 100)
    mode = np.argmax(smooth) - 49.5
    near = (cents - mode + 50) % 100 - 50
    within = np.abs(near) < 2 * hp.tuning_width
    share = weights[within].sum() / weights.sum()
    number = weights.sum() ** 2 / (weights ** 2).sum()  # of peaks, if all had the same weight
    chance = 4 * hp.tuning_width / 100
    if share < max(hp.tuning_share, chance + 4 * np.sqrt(chance * (1 - chance) / number)):
        return 0.0
    near = near[within]
    return float((mode + (near * weights[within]).sum() / weights[within].sum() + 50) % 100 - 50)


def peak_cents(audio):
    """Return the distances in cents of spectral peaks from the nearest key [shape=(n,)], and their weights."""
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
