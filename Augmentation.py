"""What separates a recording from a render (report: future work, several pianos).

`augment` works on mel power, so that a crop is augmented in a few milliseconds while the network trains;
`simulate_recording`, which is closer to what happens, on audio, once.
"""
import functools
import io

import librosa
import numpy as np
import scipy.fft
import soundfile
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

import Hyperparameters as hp
import Util

frames_per_second = hp.sample_rate / hp.hop_length
band_positions = np.linspace(0, 1, hp.n_mels)


def random_equaliser(rng, positions, points, tilt_db):
    """Draw the gains of an equaliser in dB at `positions`, from 0 to 1.

    Parameters
    ----------
    rng : np.random.Generator
    positions : np.ndarray
    points : sequence of (int, float)
        Curves that are summed: the number of their points, evenly spaced, and the standard deviation of these in dB.
    tilt_db : float
        Largest gain at the ends of a straight line that is added.
    """
    curves = [np.interp(positions, np.linspace(0, 1, n), rng.normal(0, db, n)) for n, db in points]
    return sum(curves) + rng.uniform(-tilt_db, tilt_db) * (2 * positions - 1)


def random_band_gains(rng):
    """Gain of each band in dB: an equaliser, and sometimes cut-off ends."""
    gain = random_equaliser(rng, band_positions, **hp.augment_equaliser)
    if rng.random() < hp.augment_cut_share:  # what a small loudspeaker, a telephone or a low bit rate leaves
        gain -= rng.uniform(*hp.augment_cut_high_db) * np.maximum(
            band_positions - rng.uniform(*hp.augment_cut_high_from), 0)
    if rng.random() < hp.augment_cut_share:
        gain -= rng.uniform(*hp.augment_cut_low_db) * np.maximum(
            rng.uniform(*hp.augment_cut_low_to) - band_positions, 0)
    return gain[:, None]


def add_room(power, rng):
    """Add the diffuse part of a room's response: power that decays exponentially, faster in the upper bands."""
    seconds = rng.uniform(*hp.augment_room_seconds) * np.linspace(
        1, rng.uniform(*hp.augment_room_upper), hp.n_mels)  # until 60 dB down
    wet = 10 ** (rng.uniform(*hp.augment_room_db) / 10)
    reverberant = np.empty_like(power)
    for band, decay in enumerate(10 ** (-6 / (seconds * frames_per_second))):
        reverberant[band] = lfilter([0, 1 - decay], [1, -decay], power[band])
    return power + wet * seconds[:, None] * frames_per_second / 6 * reverberant


def compress(power, rng):
    """Bring loud and soft frames closer together, as a microphone's automatic level or a mastering does."""
    level = 10 * np.log10(power.sum(axis=0) + 1e-9)
    smoothing = 1 - 1 / (rng.uniform(*hp.augment_attack) * frames_per_second)
    level = lfilter([1 - smoothing], [1, -smoothing], level, zi=[smoothing * level[0]])[0]
    return power * 10 ** (-rng.uniform(*hp.augment_compression) * (level - level.max()) / 10)


def lossy_coding(power, rng):
    """Remove what lies far below the loudest band of its frame, as lossy coders do."""
    return np.where(power < power.max(axis=0) * 10 ** (-rng.uniform(*hp.augment_coding_db) / 10), power * 1e-3, power)


def noise_floor(shape, rng):
    """A noise floor between -80 and -50 dB with a tilt, as uneven as the power of a few STFT bins is."""
    floor = rng.uniform(*hp.augment_noise_db) + rng.uniform(*hp.augment_noise_tilt_db) * (2 * band_positions - 1)
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


def random_timbre(groups, keys, rng):
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
    octaves = np.log2(hp.timbre_partials)  # above the fundamental
    size = groups.shape[1]
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / hp.sample_rate), 1)
    piano = rng.normal(0, hp.timbre_db, len(octaves)) + rng.uniform(*hp.timbre_tilt_db) * octaves
    total = np.zeros(size, np.float32)
    for audio, key in zip(groups, keys):
        spectrum, own = scipy.fft.rfft(audio), piano + rng.normal(0, hp.timbre_group_db, len(octaves))
        gain = 10 ** (np.interp(np.log2(hertz / 440) - (key - 69) / 12, octaves, own) / 20)
        changed = spectrum * gain.astype(np.float32)
        before, after = (np.linalg.norm(image) for image in (spectrum, changed))
        if after > 0:
            total += scipy.fft.irfft(changed * (before / after), size)
    return total


@functools.cache
def room_responses(number=None, seed=None):
    """Simulate rooms: impulse responses of unit energy from a piano to two microphones, summed, the direct sound first.

    From a living room to a hall, from close to far, with the image source method and ray tracing of pyroomacoustics
    (Scheibler et al. 2018, https://arxiv.org/abs/1710.04196). Returns a list of np.ndarray [shape=(n,)] at
    `hp.sample_rate`, the same for a seed. Raises ValueError if the package, which nothing else needs, is missing.
    """
    number = hp.n_room_responses if number is None else number
    seed = hp.seed if seed is None else seed
    try:
        import pyroomacoustics
    except ImportError:
        raise ValueError("rooms are simulated by a package that is not installed; pip install pyroomacoustics, or "
                         "leave --recorded out") from None
    pyroomacoustics.random.seed(seed)
    rng, responses = np.random.default_rng(seed), []
    for _ in range(number):
        size = rng.uniform(*hp.room_size)
        seconds = rng.uniform(*hp.room_seconds) + hp.room_seconds_per_metre * np.cbrt(size.prod()) * rng.uniform(
            *hp.room_absorption_spread)  # until 60 dB down
        try:
            absorption, _ = pyroomacoustics.inverse_sabine(seconds, size)
        except ValueError:  # no walls are that dull
            absorption = hp.room_default_absorption
        walls = pyroomacoustics.Material(min(absorption, hp.room_max_absorption))
        room = pyroomacoustics.ShoeBox(size, fs=hp.sample_rate, materials=walls, max_order=10, ray_tracing=True,
                                       air_absorption=True)
        piano = np.append(rng.uniform(0.2, 0.8, 2) * size[:2], rng.uniform(0.7, 1.3))
        distance = rng.uniform(hp.room_distance[0], hp.room_distance[1] * size.max())
        direction = rng.uniform(0, 2 * np.pi)
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
        response = response[max(first - 5, 0):][:int(hp.response_seconds * hp.sample_rate)]
        responses.append((response / np.linalg.norm(response)).astype(np.float32))
    return responses


@functools.cache
def artificial_responses(number=None, seed=None):
    """Draw artificial reverbs, as studios and electronic pianos add them: impulse responses of unit energy, the direct
    sound, and after a delay noise that falls exponentially, in the upper bands as fast or faster.

    As a room's upper bands always fall faster, what is learnt from `room_responses` alone takes such a tail for held
    notes. Returns as `room_responses`.
    """
    number = hp.n_artificial_responses if number is None else number
    seed = hp.seed if seed is None else seed
    rng, responses = np.random.default_rng(seed), []
    for _ in range(number):
        noise = librosa.stft(rng.standard_normal(int(hp.response_seconds * hp.sample_rate)), n_fft=hp.n_fft,
                             hop_length=hp.hop_length)
        places, times = np.linspace(0, 1, len(noise))[:, None], np.arange(noise.shape[1]) / frames_per_second
        seconds = rng.uniform(*hp.artificial_seconds) * rng.uniform(*hp.artificial_upper) ** places  # until 60 dB down
        tail = librosa.istft(noise * 10 ** (-3 * times / seconds), hop_length=hp.hop_length)
        delay, wet = rng.uniform(*hp.artificial_delay), 10 ** (rng.uniform(*hp.artificial_db) / 20)
        response = np.append(np.zeros(round(delay * hp.sample_rate)), tail * wet / np.linalg.norm(tail))
        response[0] += 1
        responses.append((response / np.linalg.norm(response)).astype(np.float32))
    return responses


def simulate_recording(audio, rng, responses):
    """Return a render [shape=(n,)] as a recording of it might sound: room, equaliser, compression, noise, a narrow
    band, mp3, each sometimes. As long as it was, not late, largest sample `hp.peak`."""
    size = audio.size
    if responses and rng.random() < hp.recording_room_share:
        audio = fftconvolve(audio, responses[rng.integers(len(responses))])[:size]
    if rng.random() < hp.recording_equaliser_share:
        spectrum, hertz = np.fft.rfft(audio), np.fft.rfftfreq(size, 1 / hp.sample_rate)
        octaves = np.log2(np.maximum(hertz, 30) / 30) / np.log2(hp.sample_rate / 60)  # from 30 Hz, to 1
        gain = random_equaliser(rng, octaves, **hp.recording_equaliser)
        audio = np.fft.irfft(spectrum * 10 ** (gain / 20), size)
    if rng.random() < hp.recording_compression_share:
        smoothing = 1 - 1 / (rng.uniform(*hp.recording_attack) * hp.sample_rate)
        level = 10 * np.log10(lfilter([1 - smoothing], [1, -smoothing], audio ** 2) + 1e-7)
        audio = audio * 10 ** (-rng.uniform(*hp.recording_compression) * (level - level.max()) / 20)
    if rng.random() < hp.recording_noise_share:
        slope = rng.choice(hp.recording_noise_slopes)
        hiss = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) / (np.arange(size // 2 + 1) + 20) ** slope, size)
        audio = audio + hiss / hiss.std() * audio.std() * 10 ** (rng.uniform(*hp.recording_noise_db) / 20)
    if rng.random() < hp.recording_low_pass_share:
        audio = sosfilt(butter(6, rng.uniform(*hp.recording_low_pass_hz), fs=hp.sample_rate, output="sos"), audio)
    audio = audio * (hp.peak / np.abs(audio).max())
    if rng.random() < hp.recording_mp3_share:
        audio = mp3_round_trip(audio, rng.uniform(*hp.recording_mp3_compression))
    return audio.astype(np.float32)


def mp3_round_trip(audio, compression):
    """Return audio [shape=(n,)] written as mp3 and read again; `compression` from 0 to 1, 0.4 being 96 kbit/s."""
    encoded = Util.encode_mp3(audio.astype(np.float32), subtype="MPEG_LAYER_III", compression_level=float(compression),
                              bitrate_mode="CONSTANT")
    decoded = soundfile.read(io.BytesIO(encoded), dtype="float32")[0][:audio.size]
    return np.pad(decoded, (0, audio.size - decoded.size))


def random_eq(pitch, mel, rng):
    """The two spectrograms, np.ndarray [in [0, 1]], as through an equaliser, the same for both, with another level, and
    a floor of noise."""
    points = np.linspace(0, 1, 41)
    gains = random_equaliser(rng, points, **hp.notes_equaliser) + rng.uniform(*hp.notes_level_db)
    octaves = np.log2(np.maximum(Util.mel_frequencies(hp.n_mels + 2)[1:-1], 27.5) / 27.5)  # above the lowest key
    positions = np.arange(hp.n_pitches) / 12 / hp.pitch_bands_per_key, octaves
    if rng.random() < hp.notes_noise_share:
        noise = rng.uniform(*hp.notes_noise_db) + rng.uniform(*hp.notes_noise_difference_db, 2)
    else:
        noise = -np.inf, -np.inf
    images = []
    for image, position, floor in zip((pitch, mel), positions, noise):
        gain = np.interp(position / 8.7, points, gains)[:, None]
        decibels = np.where(image > 0, Util.to_db(image) + gain, -hp.top_db)
        decibels = np.maximum(decibels, floor + hp.notes_noise_spread_db * rng.standard_normal(image.shape, np.float32))
        images.append(np.maximum(decibels / hp.top_db + 1, 0).astype(np.float32))
    return images