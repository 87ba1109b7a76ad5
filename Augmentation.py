"""Effects that make renders resemble recordings: equalisers, rooms, compression, lossy coding and noise.

`augment` and `random_eq` change spectrograms while a network trains, in a few milliseconds per crop.
`simulate_recording` and `random_timbre` change audio, once, when the training data is rendered.
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


def random_timbre(groups, keys, rng):
    """Sum the audio of groups of keys, each with a random equaliser, as if the piano had other hammers and strings.

    The gains are functions of the partial, not of the frequency. Most of each curve is common to all groups. The
    energy of each group stays the same.

    Parameters
    ----------
    groups : np.ndarray [shape=(n, samples)]
        Audio of each group.
    keys : list of float
        Middle of each group, as MIDI keys.
    rng : np.random.Generator

    Returns
    -------
    np.ndarray [shape=(samples,), float32]
    """
    octaves = np.log2(hp.timbre_partials)  # relative to the fundamental
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
    """Simulate impulse responses of rooms, from a piano to the sum of two microphones.

    The rooms are between a living room and a hall, the microphones close or far. The simulation is the image source
    method with ray tracing of pyroomacoustics (Scheibler et al. 2018, https://arxiv.org/abs/1710.04196).

    Parameters
    ----------
    number : int, optional
        By default `hp.n_room_responses`.
    seed : int, optional
        Random seed, by default `hp.seed`.

    Returns
    -------
    list of np.ndarray [shape=(n,), float32]
        At `hp.sample_rate`, with unit energy, beginning with the direct sound.

    Raises
    ------
    ValueError
        If pyroomacoustics is not installed.
    """
    number = hp.n_room_responses if number is None else number
    seed = hp.seed if seed is None else seed
    try:
        import pyroomacoustics
    except ImportError:
        raise ValueError("pyroomacoustics, which simulates rooms, is not installed; pip install pyroomacoustics, or "
                         "leave --simulate-recording out") from None
    pyroomacoustics.random.seed(seed)
    rng = np.random.default_rng(seed)
    return [room_response(rng, pyroomacoustics) for _ in range(number)]


def room_response(rng, pyroomacoustics):
    """Simulate the impulse response of one random room; see `room_responses`."""
    size = rng.uniform(*hp.room_size)
    seconds = rng.uniform(*hp.room_seconds) + hp.room_seconds_per_metre * np.cbrt(size.prod()) * rng.uniform(
        *hp.room_absorption_spread)  # reverberation time
    try:
        absorption, _ = pyroomacoustics.inverse_sabine(seconds, size)
    except ValueError:  # no walls absorb that much
        absorption = hp.room_default_absorption
    walls = pyroomacoustics.Material(min(absorption, hp.room_max_absorption))
    room = pyroomacoustics.ShoeBox(size, fs=hp.sample_rate, materials=walls, max_order=hp.room_max_order,
                                   ray_tracing=True, air_absorption=True)
    piano = np.append(rng.uniform(*hp.room_piano, 2) * size[:2], rng.uniform(*hp.room_piano_height))
    distance = rng.uniform(hp.room_distance[0], hp.room_distance[1] * size.max())
    direction = rng.uniform(0, 2 * np.pi)
    lowest, highest = hp.room_microphone_height
    microphones = [np.clip((piano[0] + distance * np.cos(direction + side), piano[1] + distance * np.sin(
        direction + side), rng.uniform(lowest, min(highest, size[2] - hp.room_margin))), hp.room_margin,
        size - hp.room_margin) for side in hp.room_microphone_angles]
    room.add_source(piano)
    room.add_microphone(np.transpose(microphones))
    room.compute_rir()
    pair = [response[0] for response in room.rir]
    response = np.zeros(max(map(len, pair)))
    for single in pair:
        response[:len(single)] += single
    first = min(int(np.argmax(np.abs(single) > hp.room_direct_sound * np.abs(single).max())) for single in pair)
    response = response[max(first - 5, 0):][:int(hp.response_seconds * hp.sample_rate)]
    return (response / np.linalg.norm(response)).astype(np.float32)


@functools.cache
def artificial_responses(number=None, seed=None):
    """Draw impulse responses of artificial reverberation, as studios and electric pianos add it.

    Each has the direct sound and, after a delay, exponentially decaying noise. Upper bands may decay as slowly as
    lower ones. In `room_responses` they never do, and a network trained on those alone takes such a tail for held
    notes. Parameters and result are those of `room_responses`.
    """
    number = hp.n_artificial_responses if number is None else number
    seed = hp.seed if seed is None else seed
    rng, responses = np.random.default_rng(seed), []
    for _ in range(number):
        noise = librosa.stft(rng.standard_normal(int(hp.response_seconds * hp.sample_rate)), n_fft=hp.n_fft,
                             hop_length=hp.hop_length)
        places, times = np.linspace(0, 1, len(noise))[:, None], np.arange(noise.shape[1]) / frames_per_second
        seconds = rng.uniform(*hp.artificial_seconds) * rng.uniform(*hp.artificial_upper) ** places
        tail = librosa.istft(noise * 10 ** (-3 * times / seconds), hop_length=hp.hop_length)
        delay, wet = rng.uniform(*hp.artificial_delay), 10 ** (rng.uniform(*hp.artificial_db) / 20)
        response = np.append(np.zeros(round(delay * hp.sample_rate)), tail * wet / np.linalg.norm(tail))
        response[0] += 1
        responses.append((response / np.linalg.norm(response)).astype(np.float32))
    return responses


def simulate_recording(audio, rng, responses):
    """Simulate a recording of a render: room, equaliser, compression, noise, low-pass and mp3, each at random.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,)]
    rng : np.random.Generator
    responses : list of np.ndarray
        Impulse responses, as `room_responses` returns them.

    Returns
    -------
    np.ndarray [shape=(n,), float32]
        Without delay, and with the maximum `hp.peak`, except for mp3's errors.
    """
    size = audio.size
    if responses and rng.random() < hp.recording_room_share:
        audio = fftconvolve(audio, responses[rng.integers(len(responses))])[:size]
    if rng.random() < hp.recording_equaliser_share:
        spectrum, hertz, lowest = np.fft.rfft(audio), np.fft.rfftfreq(size, 1 / hp.sample_rate), hp.recording_lowest_hz
        octaves = np.log2(np.maximum(hertz, lowest) / lowest) / np.log2(hp.sample_rate / 2 / lowest)  # from 0 to 1
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
    """Encode audio [shape=(n,)] as mp3 and decode it. A `compression` from 0 to 1 sets the bit rate, 0.4 96 kbit/s."""
    encoded = Util.encode_mp3(audio.astype(np.float32), subtype="MPEG_LAYER_III", compression_level=float(compression),
                              bitrate_mode="CONSTANT")
    decoded = soundfile.read(io.BytesIO(encoded), dtype="float32")[0][:audio.size]
    return np.pad(decoded, (0, audio.size - decoded.size))


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
