"""Simulated impulse responses of rooms, for training clips and for the halls of the benchmark."""
import numpy as np

import Hyperparameters as hp


def room_responses(number, seed):
    """Simulate impulse responses of rooms, from a piano to the sum of two microphones.

    The rooms are between a living room and a hall, the microphones close or far. The simulation is the image source
    method with ray tracing of pyroomacoustics (Scheibler et al. 2018, https://arxiv.org/abs/1710.04196).

    Parameters
    ----------
    number : int
    seed : int
        Random seed.

    Returns
    -------
    list of np.ndarray [shape=(n,), float32]
        At `hp.sample_rate`, with unit energy, beginning with the direct sound.

    Raises
    ------
    ValueError
        If pyroomacoustics is not installed.
    """
    try:
        import pyroomacoustics
    except ImportError:
        raise ValueError("pyroomacoustics is not installed; pip install pyroomacoustics") from None
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
