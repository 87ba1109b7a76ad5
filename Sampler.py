"""A sampled instrument: recorded sounds of some keys at some velocities, summed at the notes that are played."""
import torch
from torch import nn

import Hyperparameters as hp


def interpolate(signals, positions):
    """Read signals [shape=(..., n)] at fractional `positions` in samples [shape=(..., m)], by cubic interpolation.

    Positions outside the signal read 0 (Catmull-Rom spline).
    """
    size = signals.shape[-1]
    whole = positions.floor()
    share = (positions - whole).to(signals.dtype)
    whole = whole.long()
    before, first, second, after = (
        torch.where((index >= 0) & (index < size), signals.gather(-1, index.clamp(0, size - 1)), 0)
        for index in (whole - 1, whole, whole + 1, whole + 2))
    return first + 0.5 * share * (second - before + share * (
        2 * before - 5 * first + 4 * second - after + share * (3 * (first - second) + after - before)))


def spread_keys(sounds, keys, shift=0.0, cents=None):
    """Give every piano key a sound, the recorded one of the nearest key at another speed.

    Parameters
    ----------
    sounds : torch.Tensor [shape=(k, layers, n)]
        Sounds of the MIDI keys `keys` [shape=(k,)].
    shift : float
        Semitones by which the nearest key is looked for higher up, so that strings of another size are heard.
    cents : torch.Tensor [shape=(n_keys,)], optional
        Deviation of each key from equal temperament.

    Returns
    -------
    torch.Tensor [shape=(n_keys, layers, n)]
    """
    wanted = torch.arange(hp.lowest_key, hp.lowest_key + hp.n_keys, device=sounds.device)
    nearest = (wanted[:, None] + shift - keys[None]).abs().argmin(1)
    semitones = (wanted - keys[nearest]).float()
    if cents is not None:
        semitones = semitones + cents / 100
    speed = 2 ** (semitones.double() / 12)
    times = torch.arange(sounds.shape[-1], device=sounds.device, dtype=torch.float64)
    result = torch.empty(hp.n_keys, *sounds.shape[1:], device=sounds.device, dtype=sounds.dtype)
    for part in torch.arange(hp.n_keys, device=sounds.device).split(11):
        positions = (times * speed[part, None])[:, None].expand(-1, sounds.shape[1], -1)
        result[part] = interpolate(sounds[nearest[part]], positions)
    return result


def sum_notes(sounds, sound, clip, start, held, gain, release, shape, block=2048, most=16384):
    """Sum recorded sounds at the notes of several clips.

    Parameters
    ----------
    sounds : torch.Tensor [shape=(number, n)]
        Each sound begins with its onset.
    sound, clip : torch.Tensor [shape=(notes,), int64]
        Sound that each note plays, and the clip that it belongs to.
    start, held : torch.Tensor [shape=(notes,), float]
        Sample of the onset, also before the clip, and samples from there until the damper falls.
    gain : torch.Tensor [shape=(notes,)]
    release : torch.Tensor [shape=(notes,)]
        Samples in which the sound falls to 1 / e after that.
    shape : (int, int)
        Clips, and samples of each.
    block, most : int
        Sounds are added in blocks of so many samples, so many blocks at once.

    Returns
    -------
    torch.Tensor [shape=shape, float32]
    """
    clips, samples = shape
    total = torch.zeros(clips * samples, device=sounds.device)
    start = start.round().long()
    length = torch.minimum(held + 7 * release, torch.full_like(held, sounds.shape[1])).long()
    first = (-start).clamp(min=0) // block
    last = (torch.minimum(length, samples - start) + block - 1) // block
    number = (last - first).clamp(min=0)
    note = torch.repeat_interleave(torch.arange(len(start), device=start.device), number)
    begin = torch.cumsum(number, 0) - number
    which = torch.arange(len(note), device=start.device) - begin[note] + first[note]
    inside, flat = torch.arange(block, device=start.device), sounds.flatten()
    for part in range(0, len(note), most):
        own, place = note[part:part + most], which[part:part + most, None] * block + inside
        target = place + start[own, None]
        valid = (target >= 0) & (target < samples) & (place < sounds.shape[1])
        source = sound[own, None] * sounds.shape[1] + place.clamp(max=sounds.shape[1] - 1)
        fall = torch.exp(-((place - held[own, None]).clamp(min=0) / release[own, None]))
        value = flat[source].float() * (fall * gain[own, None]) * valid
        total.index_add_(0, (clip[own, None] * samples + target.clamp(0, samples - 1)).flatten(), value.flatten())
    return total.view(clips, samples)
