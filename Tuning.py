"""Estimate the tuning of a recording in cents relative to A 440, and correct it by resampling."""
import numpy as np

import Decoding
import Hyperparameters as hp
import Util


def estimate_cents(audio):
    """Estimate the tuning of a recording relative to A 440.

    The function measures the distance of each spectral peak from the nearest key of a piano in A 440. The estimate is
    the mode of these distances, weighted by amplitude. Partials off the tempered scale affect the mode less than the
    mean.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        Recording at `hp.sample_rate`.

    Returns
    -------
    float or None
        Cents from -50 to 50, positive if the recording is sharp. None if the peaks show no common tuning, as in noise.
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
    number = weights.sum() ** 2 / (weights ** 2).sum()  # effective number of peaks
    if share < max(hp.tuning_share, chance + 4 * np.sqrt(chance * (1 - chance) / number)):
        return None
    return float((mode + np.average(distance[near], weights=weights[near]) + 50) % 100 - 50)


def peak_cents(audio):
    """Return the distances in cents of spectral peaks from the nearest key, and the amplitudes of the peaks.

    Both arrays have the shape (n,). `audio` is the recording of `estimate_cents`.
    """
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
        floor = top.max() + hp.tuning_floor_db * np.log(10) / 20
        peaks = np.nonzero((top > before) & (top >= after) & (top > floor))[0]
        shift = 0.5 * (before - after)[peaks] / (before - 2 * top + after)[peaks]
        cents.append(1200 * np.log2((first + peaks + shift) * hertz / 440))
        weights.append(spectrum[1:-1][peaks])
    cents, weights = np.concatenate(cents), np.concatenate(weights)
    return (cents + 50) % 100 - 50, weights


def pitch_factor(audio):
    """Return the ratio of a recording's frequencies to those of a piano in A 440.

    The ratio is 1 if the difference is at most `hp.tuning_tolerance` cents. `audio` is the recording of
    `estimate_cents`.
    """
    cents = estimate_cents(audio) or 0
    return 2 ** (cents / 1200) if abs(cents) > hp.tuning_tolerance else 1.0


def to_concert_pitch(audio, factor):
    """Resample a recording [shape=(n,) or (n, channels)] to A 440, which makes it `factor` times as long.

    `factor` is the ratio that `pitch_factor` returns. With 1, the recording stays the same.
    """
    return Util.resample(audio, hp.sample_rate, hp.sample_rate * factor)


def from_concert_pitch(audio, factor, length, tune=None):
    """Resample audio in A 440 to the tuning and length of the recording.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        Audio in A 440, `factor` times as long as the recording.
    factor : float
        Ratio that `pitch_factor` returns for the recording.
    length : int
        Number of samples of the recording.
    tune : float, optional
        Frequency in Hz of the A above middle C in the result. The default is the tuning of the recording.

    Returns
    -------
    np.ndarray [shape=(length,) or (length, channels), float32]
    """
    wanted = factor if tune is None else tune / 440
    if wanted != factor:
        import librosa  # slow to import, and only needed here

        audio = librosa.effects.time_stretch(audio.T, rate=factor / wanted).T
    return Decoding.fix_length(Util.resample(audio, hp.sample_rate * wanted, hp.sample_rate), length)


def describe(audio):
    """Return a remark on the tuning of a recording in cents. It is empty if the recording is in A 440.

    A piano half a semitone flat has the frequencies of one that is half a semitone sharp, so the remark tells both.
    """
    cents = estimate_cents(audio) or 0
    if abs(cents) <= hp.tuning_tolerance:
        return ""
    words = ("sharp", "flat") if cents > 0 else ("flat", "sharp")
    if abs(cents) > 50 - hp.tuning_tolerance:
        return (f"; the recording is {abs(cents):.0f} cents {words[0]} or {100 - abs(cents):.0f} cents {words[1]}, and "
                f"is taken for {words[0]}")
    return f"; the recording is {abs(cents):.0f} cents {words[0]}"


def check_tune(tune):
    """Return `tune`, a frequency in Hz or None. Raises ValueError if it is outside `hp.tune_hertz`."""
    lowest, highest = hp.tune_hertz
    if tune is not None and not lowest <= tune <= highest:
        raise ValueError(f"tune: {tune:g} is outside {lowest} to {highest} Hz; give the frequency of the A above "
                         "middle C, such as 440")
    return tune
