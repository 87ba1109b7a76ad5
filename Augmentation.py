"""What separates a recording from a render, applied to mel spectrograms (report: future work, several pianos).

All of it works on mel power, so that a crop is augmented in a few milliseconds while the network trains.
"""
import numpy as np
from scipy.signal import lfilter

import Hyperparameters as hp

frames_per_second = hp.sample_rate / hp.hop_length
bands = np.linspace(0, 1, hp.n_mels)


def equaliser(rng):
    """Gain of each band in dB: seven points of 5 dB, a tilt of up to 15 dB at the ends, sometimes cut-off ends."""
    gain = np.interp(bands, np.linspace(0, 1, 7), rng.normal(0, 5, 7)) + rng.uniform(-15, 15) * (2 * bands - 1)
    if rng.random() < 0.3:  # what a small loudspeaker, a telephone or a low bit rate leaves
        gain -= rng.uniform(100, 1000) * np.maximum(bands - rng.uniform(0.5, 1), 0)
    if rng.random() < 0.3:
        gain -= rng.uniform(100, 600) * np.maximum(rng.uniform(0, 0.15) - bands, 0)
    return gain[:, None]


def room(power, rng):
    """Add the diffuse part of a room's response: power that decays exponentially, faster in the upper bands."""
    seconds = rng.uniform(0.2, 2.0) * np.linspace(1, rng.uniform(0.2, 1), hp.n_mels)  # until 60 dB down
    wet = 10 ** (rng.uniform(-25, -5) / 10)
    reverberant = np.empty_like(power)
    for band, decay in enumerate(10 ** (-6 / (seconds * frames_per_second))):
        reverberant[band] = lfilter([0, 1 - decay], [1, -decay], power[band])
    return power + wet * seconds[:, None] * frames_per_second / 6 * reverberant


def compress(power, rng):
    """Bring loud and soft frames closer together, as a microphone's automatic level or a mastering does."""
    level = 10 * np.log10(power.sum(axis=0) + 1e-9)
    smoothing = 1 - 1 / (rng.uniform(0.05, 0.5) * frames_per_second)
    level = lfilter([1 - smoothing], [1, -smoothing], level, zi=[smoothing * level[0]])[0]
    return power * 10 ** (-rng.uniform(0.1, 0.5) * (level - level.max()) / 10)


def coding_loss(power, rng):
    """Remove what lies far below the loudest band of its frame, as lossy coders do."""
    return np.where(power < power.max(axis=0) * 10 ** (-rng.uniform(40, 65) / 10), power * 1e-3, power)


def noise(shape, rng):
    """A noise floor between -80 and -50 dB with a tilt, as uneven as the power of a few STFT bins is."""
    floor = rng.uniform(-80, -50) + rng.uniform(-15, 5) * (2 * bands - 1)
    return 10 ** (floor[:, None] / 10) * rng.standard_gamma(3, shape) / 3


def augment(power, maxima, rng):
    """Return mel power as another microphone in another room might have taken it.

    Parameters
    ----------
    power : np.ndarray [shape=(n_mels, t)]
        Mel power of a crop, relative to the maximum of its clip.
    maxima : np.ndarray [shape=(n_mels,)]
        The largest power of each band in the whole clip, from which the new maximum follows.
    rng : np.random.Generator

    Returns
    -------
    np.ndarray [shape=(n_mels, t)]
        Relative to the maximum of the clip after the equaliser.
    """
    if rng.random() < 0.4:
        power = room(power, rng)
    gain = 10 ** (equaliser(rng) / 10)
    power = power * gain / (maxima[:, None] * gain).max()
    if rng.random() < 0.3:
        power = compress(power, rng)
    if rng.random() < 0.2:
        power = coding_loss(power, rng)
    if rng.random() < 0.5:
        power = power + noise(power.shape, rng)
    return power
