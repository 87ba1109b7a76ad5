"""What separates a recording from a render (report: future work, several pianos).

`augment` works on mel power, so that a crop is augmented in a few milliseconds while the network trains; `record`,
which is closer to what happens, on audio, once.
"""
import functools
import io

import librosa
import numpy as np
import scipy.fft
import soundfile
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

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


def voiced(groups, keys, rng):
    """Return the sum of groups of keys as a piano sounds whose hammers and strings are others.

    Each group goes through an equaliser that follows its partials: drawn for the whole piano, with deviations of the
    group's own, and without effect on how loud it is.

    Parameters
    ----------
    groups : np.ndarray [shape=(n, samples)]
    keys : list of n floats
        MIDI key in the middle of each group.
    rng : np.random.Generator
    """
    octaves = np.log2((0.25, 0.7, 1, 2, 3, 4, 6, 9, 16, 32, 90))  # above the fundamental
    size = groups.shape[1]
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / hp.sample_rate), 1)
    piano = rng.normal(0, 6, len(octaves)) + rng.uniform(-2, 2) * octaves
    total = np.zeros(size, np.float32)
    for audio, key in zip(groups, keys):
        spectrum, own = scipy.fft.rfft(audio), piano + rng.normal(0, 2.5, len(octaves))
        gain = 10 ** (np.interp(np.log2(hertz / 440) - (key - 69) / 12, octaves, own) / 20)
        changed = spectrum * gain.astype(np.float32)
        before, after = (np.linalg.norm(image) for image in (spectrum, changed))
        if after > 0:
            total += scipy.fft.irfft(changed * (before / after), size)
    return total


@functools.cache
def rooms(number=hp.n_rooms, seed=hp.seed):
    """Simulate rooms: impulse responses of unit energy from a piano to two microphones, summed, the direct sound first.

    From a living room to a hall, from close to far, with the image source method and ray tracing of pyroomacoustics
    (Scheibler et al. 2018, https://arxiv.org/abs/1710.04196). Returns a list of np.ndarray [shape=(n,)] at
    `hp.sample_rate`, the same for a seed. Raises ValueError if the package, which nothing else needs, is missing.
    """
    try:
        import pyroomacoustics
    except ImportError:
        raise ValueError("rooms are simulated by a package that is not installed; pip install pyroomacoustics, or "
                         "leave --recorded out") from None
    pyroomacoustics.random.seed(seed)
    rng, responses = np.random.default_rng(seed), []
    for _ in range(number):
        size = rng.uniform((3.5, 3, 2.4), (30, 20, 12))
        seconds = rng.uniform(0.15, 0.35) + 0.14 * np.cbrt(size.prod()) * rng.uniform(0.3, 1)  # until 60 dB down
        try:
            absorption, _ = pyroomacoustics.inverse_sabine(seconds, size)
        except ValueError:  # no walls are that dull
            absorption = 0.4
        walls = pyroomacoustics.Material(min(absorption, 0.95))
        room = pyroomacoustics.ShoeBox(size, fs=hp.sample_rate, materials=walls, max_order=10, ray_tracing=True,
                                       air_absorption=True)
        piano = np.append(rng.uniform(0.2, 0.8, 2) * size[:2], rng.uniform(0.7, 1.3))
        distance, direction = rng.uniform(0.6, 0.35 * size.max()), rng.uniform(0, 2 * np.pi)
        microphones = [np.clip((piano[0] + distance * np.cos(direction + side), piano[1] + distance * np.sin(
            direction + side), rng.uniform(1, min(3.5, size[2] - 0.2))), 0.2, size - 0.2) for side in (-0.1, 0.1)]
        room.add_source(piano)
        room.add_microphone(np.transpose(microphones))
        room.compute_rir()
        pair = [response[0] for response in room.rir]
        response = np.zeros(max(map(len, pair)))
        for single in pair:
            response[:len(single)] += single
        first = min(int(np.argmax(np.abs(single) > 0.3 * np.abs(single).max())) for single in pair)
        response = response[max(first - 5, 0):][:int(2.5 * hp.sample_rate)]
        responses.append((response / np.linalg.norm(response)).astype(np.float32))
    return responses


@functools.cache
def reverbs(number=hp.n_reverbs, seed=hp.seed):
    """Draw artificial reverbs, as studios and electronic pianos add them: impulse responses of unit energy, the direct
    sound, and after a delay noise that falls exponentially, in the upper bands as fast or faster.

    As a room's upper bands always fall faster, what is learnt from `rooms` alone takes such a tail for held notes.
    Returns as `rooms`.
    """
    rng, responses = np.random.default_rng(seed), []
    for _ in range(number):
        noise = librosa.stft(rng.standard_normal(int(2.5 * hp.sample_rate)), n_fft=hp.n_fft, hop_length=hp.hop_length)
        places, times = np.linspace(0, 1, len(noise))[:, None], np.arange(noise.shape[1]) / frames_per_second
        seconds = rng.uniform(0.4, 3) * rng.uniform(0.3, 1.2) ** places  # until 60 dB down
        tail = librosa.istft(noise * 10 ** (-3 * times / seconds), hop_length=hp.hop_length)
        delay, wet = rng.uniform(0, 0.05), 10 ** (rng.uniform(-18, 0) / 20)
        response = np.append(np.zeros(round(delay * hp.sample_rate)), tail * wet / np.linalg.norm(tail))
        response[0] += 1
        responses.append((response / np.linalg.norm(response)).astype(np.float32))
    return responses


def record(audio, rng, responses):
    """Return a render [shape=(n,)] as a recording of it might sound: room, equaliser, compression, noise, a narrow
    band, mp3, each sometimes. As long as it was, not late, largest sample `hp.peak`."""
    size = audio.size
    if responses and rng.random() < 0.65:
        audio = fftconvolve(audio, responses[rng.integers(len(responses))])[:size]
    if rng.random() < 0.3:
        spectrum, hertz = np.fft.rfft(audio), np.fft.rfftfreq(size, 1 / hp.sample_rate)
        places = np.linspace(0, 1, 9)
        gain = rng.normal(0, 3, 9) + rng.uniform(-8, 8) * (2 * places - 1)
        octave = np.log2(np.maximum(hertz, 30) / 30) / np.log2(hp.sample_rate / 60)
        audio = np.fft.irfft(spectrum * 10 ** (np.interp(octave, places, gain) / 20), size)
    if rng.random() < 0.25:
        smoothing = 1 - 1 / (rng.uniform(0.02, 0.3) * hp.sample_rate)
        level = 10 * np.log10(lfilter([1 - smoothing], [1, -smoothing], audio ** 2) + 1e-7)
        audio = audio * 10 ** (-rng.uniform(0.1, 0.4) * (level - level.max()) / 20)
    if rng.random() < 0.4:
        slope = rng.choice((0, 0.5, 1))  # white, pink, brown
        hiss = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) / (np.arange(size // 2 + 1) + 20) ** slope, size)
        audio = audio + hiss / hiss.std() * audio.std() * 10 ** (rng.uniform(-65, -25) / 20)
    if rng.random() < 0.15:
        audio = sosfilt(butter(6, rng.uniform(3500, 7000), fs=hp.sample_rate, output="sos"), audio)
    audio = audio * (hp.peak / np.abs(audio).max())
    if rng.random() < 0.4:
        audio = mp3(audio, rng.uniform(0.3, 0.6))  # at 32 kbit/s, above 0.75, it comes back 50 ms late
    return audio.astype(np.float32)


def mp3(audio, compression):
    """Return audio [shape=(n,)] written as mp3 and read again; `compression` from 0 to 1, 0.4 being 96 kbit/s."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", hp.sample_rate, 1, format="MP3", subtype="MPEG_LAYER_III",
                             compression_level=float(compression), bitrate_mode="CONSTANT") as writer:
        writer.write(audio.astype(np.float32))
    file.seek(0)
    read = soundfile.read(file, dtype="float32")[0][:audio.size]
    return np.pad(read, (0, audio.size - read.size))
