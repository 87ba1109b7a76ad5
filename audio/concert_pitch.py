"""Estimate the tuning of a recording in cents relative to A 440, and correct it by resampling."""
import numpy as np

import Hyperparameters as hp
from audio import audio_files

tuning_n_fft = 8192     # spectra whose peaks tell the tuning
tuning_frames = 3000    # of them at most, spread over the recording
tuning_hertz = (110, 2100)  # lowest and highest peak
tuning_floor_db = -30   # softest peak of a frame, below its loudest
tuning_width = 8        # cents: standard deviation of the smoothing
tuning_share = 0.45     # of the peaks, by weight, that have to lie near the estimate
tuning_tolerance = 8    # cents up to which a recording counts as being in A 440


def estimate_cents(audio):
    """Return the tuning of a recording in cents from -50 to 50, relative to A 440; None if its peaks show none.

    This is the mode of the distances of spectral peaks from the nearest key of a piano in A 440, weighted by amplitude.
    Partials off the tempered scale affect the mode less than the mean. `audio` [shape=(n,) or (n, channels)] is at
    `hp.sample_rate`.
    """
    cents, weights = peak_cents(audio)
    if not weights.any():
        return None
    histogram = np.histogram((cents + 50) % 100, 100, (0, 100), weights=weights)[0]
    kernel = np.exp(-0.5 * (((np.arange(100) + 50) % 100 - 50) / tuning_width) ** 2)
    mode = np.argmax(np.fft.irfft(np.fft.rfft(histogram) * np.fft.rfft(kernel), 100)) - 49.5
    distance = (cents - mode + 50) % 100 - 50
    near = np.abs(distance) < 2 * tuning_width
    share, chance = weights[near].sum() / weights.sum(), 4 * tuning_width / 100
    number = weights.sum() ** 2 / (weights ** 2).sum()  # effective number of peaks
    if share < max(tuning_share, chance + 4 * np.sqrt(chance * (1 - chance) / number)):
        return None
    return float((mode + np.average(distance[near], weights=weights[near]) + 50) % 100 - 50)


def peak_cents(audio):
    """Return the distances of spectral peaks from the nearest key in cents, and their amplitudes [shape=(n,)]."""
    size = tuning_n_fft
    starts = np.arange(0, max(len(audio) - size, 0) + 1, size // 2)
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), tuning_frames)).astype(int)]
    window, hertz = np.hanning(size + 1)[:-1], hp.sample_rate / size
    first, last = (round(limit / hertz) for limit in tuning_hertz)
    cents, weights = [], []
    for start in starts:
        part = audio[start:start + size]
        part = part.mean(axis=1) if part.ndim > 1 else part
        spectrum = np.abs(np.fft.rfft(window * audio_files.fix_length(part, size)))[first - 1:last + 2]
        level = np.log(spectrum + 1e-30)
        before, top, after = level[:-2], level[1:-1], level[2:]
        floor = top.max() + tuning_floor_db * np.log(10) / 20
        peaks = np.nonzero((top > before) & (top >= after) & (top > floor))[0]
        shift = 0.5 * (before - after)[peaks] / (before - 2 * top + after)[peaks]
        cents.append(1200 * np.log2((first + peaks + shift) * hertz / 440))
        weights.append(spectrum[1:-1][peaks])
    cents, weights = np.concatenate(cents), np.concatenate(weights)
    return (cents + 50) % 100 - 50, weights


def pitch_factor(audio):
    """Return the ratio of a recording's frequencies to those of a piano in A 440; 1 within `tuning_tolerance`."""
    cents = estimate_cents(audio) or 0
    return 2 ** (cents / 1200) if abs(cents) > tuning_tolerance else 1.0


def to_concert_pitch(audio, factor):
    """Resample a recording to A 440, which makes it as many times as long as `pitch_factor` returns."""
    return audio_files.resample(audio, hp.sample_rate, hp.sample_rate * factor)


def from_concert_pitch(audio, factor, length, tune=None):
    """Resample audio in A 440 [shape=(n,) or (n, channels), float32] to the tuning and length of the recording.
    `factor` is what `pitch_factor` returns for the recording. `tune` is the frequency in Hz of the A above middle C in
    the result, by default that of the recording."""
    wanted = factor if tune is None else tune / 440
    if wanted != factor:
        import librosa  # slow to import, and only needed here

        audio = librosa.effects.time_stretch(audio.T, rate=factor / wanted).T
    return audio_files.fix_length(audio_files.resample(audio, hp.sample_rate * wanted, hp.sample_rate), length)


def describe(audio):
    """Return a remark on the tuning of a recording in cents. It is empty if the recording is in A 440. A piano half a
    semitone flat has the frequencies of one that is half a semitone sharp, so the remark tells both."""
    cents = estimate_cents(audio) or 0
    if abs(cents) <= tuning_tolerance:
        return ""
    words = ("sharp", "flat") if cents > 0 else ("flat", "sharp")
    if abs(cents) > 50 - tuning_tolerance:
        return (f"; the recording is {abs(cents):.0f} cents {words[0]} or {100 - abs(cents):.0f} cents {words[1]}, and "
                f"is taken for {words[0]}")
    return f"; the recording is {abs(cents):.0f} cents {words[0]}"


def check_tune(tune):
    """Raise ValueError if `tune`, a frequency in Hz or None, is outside `hp.tune_hertz`."""
    lowest, highest = hp.tune_hertz
    if tune is not None and not lowest <= tune <= highest:
        raise ValueError(f"tune: {tune:g} is outside {lowest} to {highest} Hz; give the frequency of the A above "
                         "middle C, such as 440")
