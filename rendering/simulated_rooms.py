"""Simulate impulse responses of rooms, for training clips and for the halls of the benchmark."""
import numpy as np

import Hyperparameters as hp

room_size = ((3.5, 3, 2.4), (30, 20, 12))       # metres: smallest and largest sides
reverberation_s = (0.15, 0.35)
reverberation_growth = 0.14         # seconds per metre of volume ** (1 / 3)
growth_factor = (0.3, 1)
max_absorption = 0.95
default_absorption = 0.4            # of a room whose walls cannot absorb enough
max_order = 10                      # reflections of the image source method; later ones come from ray tracing
piano_place = (0.2, 0.8)            # share of the room's sides
piano_height = (0.7, 1.3)           # metres
microphone_distance = (0.6, 0.35)   # minimum in metres, maximum as a share of the longest side
microphone_height = (1, 3.5)        # metres
microphone_angles = (-0.1, 0.1)     # radians, seen from the piano
margin = 0.2                        # metres between microphones and walls, at least
direct_sound = 0.3                  # share of the maximum at which the direct sound begins
response_s = 2.5


def room_responses(number, seed):
    """Simulate impulse responses of rooms, from a piano to the sum of two microphones. The rooms are between a living
    room and a hall, the microphones close or far (image source method with ray tracing of pyroomacoustics, Scheibler et
    al. 2018, https://arxiv.org/abs/1710.04196). Returns a list of arrays [shape=(n,), float32] of unit energy that
    begin with the direct sound. Raises ValueError if pyroomacoustics is not installed."""
    try:
        import pyroomacoustics
    except ImportError:
        raise ValueError("pyroomacoustics is not installed; pip install pyroomacoustics") from None
    pyroomacoustics.random.seed(seed)
    rng = np.random.default_rng(seed)
    return [room_response(rng, pyroomacoustics) for _ in range(number)]


def room_response(rng, pyroomacoustics):
    """Simulate the impulse response of one random room; see `room_responses`."""
    size = rng.uniform(*room_size)
    seconds = rng.uniform(*reverberation_s)
    seconds = seconds + reverberation_growth * np.cbrt(size.prod()) * rng.uniform(*growth_factor)
    try:
        absorption, _ = pyroomacoustics.inverse_sabine(seconds, size)
    except ValueError:  # no walls absorb that much
        absorption = default_absorption
    walls = pyroomacoustics.Material(min(absorption, max_absorption))
    room = pyroomacoustics.ShoeBox(size, fs=hp.sample_rate, materials=walls, max_order=max_order, ray_tracing=True,
                                   air_absorption=True)
    piano = np.append(rng.uniform(*piano_place, 2) * size[:2], rng.uniform(*piano_height))
    distance = rng.uniform(microphone_distance[0], microphone_distance[1] * size.max())
    direction = rng.uniform(0, 2 * np.pi)
    room.add_source(piano)
    for side in microphone_angles:
        towards = np.cos(direction + side), np.sin(direction + side)
        height = rng.uniform(microphone_height[0], min(microphone_height[1], size[2] - margin))
        room.add_microphone(np.append(piano[:2] + distance * np.array(towards), height).clip(margin, size - margin))
    room.compute_rir()
    pair = [response[0] for response in room.rir]
    response = np.zeros(max(map(len, pair)))
    for single in pair:
        response[:len(single)] += single
    first = min(int(np.argmax(np.abs(single) > direct_sound * np.abs(single).max())) for single in pair)
    response = response[max(first - 5, 0):][:int(response_s * hp.sample_rate)]
    return (response / np.linalg.norm(response)).astype(np.float32)
