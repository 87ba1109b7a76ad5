"""A sampled instrument: recorded sounds of some keys at some velocities, summed at the notes that are played."""
import torch

import Hyperparameters as hp

block = 2048            # samples: sounds are added in blocks
blocks_at_once = 16384


def interpolate(signals, positions):
    """Read signals [shape=(..., n)] at fractional `positions` in samples [shape=(..., m)], by cubic interpolation.
    Positions outside the signal read 0 (Catmull-Rom spline)."""
    size = signals.shape[-1]
    whole = positions.floor()
    share = (positions - whole).to(signals.dtype)
    whole = whole.long()
    before, first, second, after = (
        torch.where((index >= 0) & (index < size), signals.gather(-1, index.clamp(0, size - 1)), 0)
        for index in (whole - 1, whole, whole + 1, whole + 2))
    return first + 0.5 * share * (second - before + share * (
        2 * before - 5 * first + 4 * second - after + share * (3 * (first - second) + after - before)))


def spread_keys(sounds, keys, shift=0.0, cents=0.0):
    """Give every piano key a sound [shape=(n_keys, layers, n)]: that of the nearest recorded key at another speed.
    `sounds` [shape=(k, layers, n)] are those of the MIDI keys `keys` [shape=(k,)]. The nearest key is looked for
    `shift` semitones higher up, so that strings of another size are heard. `cents` [shape=(n_keys,)] is each key's
    deviation from equal temperament."""
    wanted = torch.arange(hp.lowest_key, hp.lowest_key + hp.n_keys, device=sounds.device)
    nearest = (wanted[:, None] + shift - keys[None]).abs().argmin(1)
    speed = 2 ** (((wanted - keys[nearest]).float() + cents / 100).double() / 12)
    times = torch.arange(sounds.shape[-1], device=sounds.device, dtype=torch.float64)
    result = torch.empty(hp.n_keys, *sounds.shape[1:], device=sounds.device)
    for part in torch.arange(hp.n_keys, device=sounds.device).split(11):
        positions = (times * speed[part, None])[:, None].expand(-1, sounds.shape[1], -1)
        result[part] = interpolate(sounds[nearest[part]].float(), positions)
    return result


def sum_notes(sounds, sound, clip, start, held, gain, release, shape):
    """Sum recorded sounds at the notes of several clips. Each of `sounds` [shape=(number, n)] begins with its onset.
    All others have one entry per note: number of the sound, number of the clip, sample of the onset (also before the
    clip), samples from there until the damper falls, gain, and samples in which the sound then falls to 1 / e. `shape`
    is that of the result: clips, and samples of each."""
    clips, samples = shape
    total = torch.zeros(clips * samples, device=sounds.device)
    start = start.round().long()
    length = (held + 7 * release).clamp(max=sounds.shape[1]).long()
    first = (-start).clamp(min=0) // block
    last = (torch.minimum(length, samples - start) + block - 1) // block
    number = (last - first).clamp(min=0)
    note = torch.repeat_interleave(torch.arange(len(start), device=start.device), number)
    begin = torch.cumsum(number, 0) - number
    which = torch.arange(len(note), device=start.device) - begin[note] + first[note]
    inside, flat = torch.arange(block, device=start.device), sounds.flatten()
    for part in range(0, len(note), blocks_at_once):
        own = note[part:part + blocks_at_once, None]
        place = which[part:part + blocks_at_once, None] * block + inside
        target = place + start[own]
        valid = (target >= 0) & (target < samples) & (place < sounds.shape[1])
        source = sound[own] * sounds.shape[1] + place.clamp(max=sounds.shape[1] - 1)
        fall = torch.exp(-((place - held[own]).clamp(min=0) / release[own]))
        value = flat[source].float() * (fall * gain[own]) * valid
        total.index_add_(0, (clip[own] * samples + target.clamp(0, samples - 1)).flatten(), value.flatten())
    return total.view(clips, samples)
