"""Effects that make spectrograms of renders resemble those of recordings: equalisers, rooms, compression, lossy coding
and noise. They take a few milliseconds per crop, while a network trains."""
import numpy as np
from scipy.signal import lfilter

import Hyperparameters as hp
import Util

frames_per_second = hp.sample_rate / hp.hop_length
band_positions = np.linspace(0, 1, hp.n_mels)


def random_equaliser(rng, positions, points, tilt_db):
    """Draw the gains of an equaliser.

    Parameters
    ----------
    rng : np.random.Generator
    positions : np.ndarray [shape=(n,)]
        Positions from 0 to 1 on the frequency axis.
    points : sequence of (int, float)
        Piecewise linear curves that are summed: number of evenly spaced points, and their standard deviation in dB.
    tilt_db : float
        Largest gain at the ends of a straight line, which is added.

    Returns
    -------
    np.ndarray [shape=(n,)]
        Gains in dB.
    """
    curves = [np.interp(positions, np.linspace(0, 1, n), rng.normal(0, db, n)) for n, db in points]
    return sum(curves) + rng.uniform(-tilt_db, tilt_db) * (2 * positions - 1)


def random_band_gains(rng):
    """Draw the gain of each mel band in dB [shape=(n_mels, 1)]: an equaliser, in part with a low-pass or high-pass."""
    gain = random_equaliser(rng, band_positions, **hp.augment_equaliser)
    if rng.random() < hp.augment_cut_share:  # as of a small loudspeaker, a telephone or a low bit rate
        gain -= rng.uniform(*hp.augment_cut_high_db) * np.maximum(
            band_positions - rng.uniform(*hp.augment_cut_high_from), 0)
    if rng.random() < hp.augment_cut_share:
        gain -= rng.uniform(*hp.augment_cut_low_db) * np.maximum(
            rng.uniform(*hp.augment_cut_low_to) - band_positions, 0)
    return gain[:, None]


def add_room(power, rng):
    """Add the reverberation of a room to mel power [shape=(n_mels, t)]: it decays faster in the upper bands."""
    seconds = rng.uniform(*hp.augment_room_seconds) * np.linspace(
        1, rng.uniform(*hp.augment_room_upper), hp.n_mels)  # reverberation time
    wet = 10 ** (rng.uniform(*hp.augment_room_db) / 10)
    reverberant = np.empty_like(power)
    for band, decay in enumerate(10 ** (-6 / (seconds * frames_per_second))):
        reverberant[band] = lfilter([0, 1 - decay], [1, -decay], power[band])
    return power + wet * seconds[:, None] * frames_per_second / 6 * reverberant


def compress(power, rng):
    """Compress the dynamic range of mel power [shape=(n_mels, t)], as automatic gain control or mastering does."""
    level = 10 * np.log10(power.sum(axis=0) + 1e-9)
    smoothing = 1 - 1 / (rng.uniform(*hp.augment_attack) * frames_per_second)
    level = lfilter([1 - smoothing], [1, -smoothing], level, zi=[smoothing * level[0]])[0]
    return power * 10 ** (-rng.uniform(*hp.augment_compression) * (level - level.max()) / 10)


def lossy_coding(power, rng):
    """Attenuate bands far below the loudest band of their frame, as lossy coders do [shape=(n_mels, t)]."""
    return np.where(power < power.max(axis=0) * 10 ** (-rng.uniform(*hp.augment_coding_db) / 10), power * 1e-3, power)


def noise_floor(shape, rng):
    """Draw the power of a noise floor, `hp.augment_noise_db` with a tilt. Its variance is that of a few STFT bins."""
    floor = rng.uniform(*hp.augment_noise_db) + rng.uniform(*hp.augment_noise_tilt_db) * (2 * band_positions - 1)
    return 10 ** (floor[:, None] / 10) * rng.standard_gamma(3, shape) / 3


def augment(power, maxima, rng):
    """Change mel power as another microphone in another room would.

    Parameters
    ----------
    power : np.ndarray [shape=(n_mels, t)]
        Mel power of a crop, relative to the maximum of its clip.
    maxima : np.ndarray [shape=(n_mels,)]
        Largest power of each band in the whole clip.
    rng : np.random.Generator

    Returns
    -------
    np.ndarray [shape=(n_mels, t)]
        Mel power relative to the maximum of the clip after the equaliser.
    """
    if rng.random() < hp.augment_room_share:
        power = add_room(power, rng)
    gain = 10 ** (random_band_gains(rng) / 10)
    power = power * gain / (maxima[:, None] * gain).max()
    if rng.random() < hp.augment_compression_share:
        power = compress(power, rng)
    if rng.random() < hp.augment_coding_share:
        power = lossy_coding(power, rng)
    if rng.random() < hp.augment_noise_share:
        power = power + noise_floor(power.shape, rng)
    return power


def random_eq(pitch, mel, rng):
    """Apply a random equaliser, level and noise floor to both spectrograms of a recording.

    Parameters
    ----------
    pitch, mel : np.ndarray [shape=(n_pitches, steps) and (n_mels, t), in [0, 1]]
    rng : np.random.Generator

    Returns
    -------
    list of np.ndarray
        The changed `pitch` and `mel`.
    """
    points = np.linspace(0, 1, max(number for number, _ in hp.notes_equaliser["points"]))
    gains = random_equaliser(rng, points, **hp.notes_equaliser) + rng.uniform(*hp.notes_level_db)
    lowest = 440 * 2 ** ((hp.lowest_key - 69) / 12)
    octaves = np.log2(np.maximum(Util.mel_frequencies(hp.n_mels + 2)[1:-1], lowest) / lowest)  # above the lowest key
    positions = np.arange(hp.n_pitches) / 12 / hp.pitch_bands_per_key, octaves
    if rng.random() < hp.notes_noise_share:
        noise = rng.uniform(*hp.notes_noise_db) + rng.uniform(*hp.notes_noise_difference_db, 2)
    else:
        noise = -np.inf, -np.inf
    images = []
    for image, position, floor in zip((pitch, mel), positions, noise):
        gain = np.interp(position / hp.notes_octaves, points, gains)[:, None]
        decibels = np.where(image > 0, Util.to_db(image) + gain, -hp.top_db)
        decibels = np.maximum(decibels, floor + hp.notes_noise_spread_db * rng.standard_normal(image.shape, np.float32))
        images.append(np.maximum(decibels / hp.top_db + 1, 0).astype(np.float32))
    return images
