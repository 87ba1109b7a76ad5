"""Spectrograms without late reverberation, for the second run of the encoder and for half of its training crops."""
import torch

import Hyperparameters as hp

reverberation_delay_s = 0.05    # delay of the late reverberation
reverberation_decay_s = 0.06    # its decay
reverberation_decays = 20       # after which it is neglected
reverberation_share = 0.9       # share of its estimated power that is subtracted
reverberation_floor = 0.1       # share of the power that is left at least


def reduce_reverberation(images, hop_length):
    """Return spectrograms [shape=(..., bands, t), in [0, 1]] without their late reverberation; frames are `hop_length`
    samples apart. The power of the reverberation in each band is the mean of all that is older than
    `reverberation_delay_s`, with a weight that decays in `reverberation_decay_s` (Lebart, Boucher and Denbigh 2001, "A
    new method based on spectral subtraction for speech dereverberation")."""
    decay, delay = (seconds * hp.sample_rate / hop_length for seconds in (reverberation_decay_s, reverberation_delay_s))
    delay = max(round(delay), 1)
    weights = torch.exp(-torch.arange(int(reverberation_decays * decay), device=images.device) / decay)
    weights = torch.nn.functional.pad((weights / weights.sum()).flip(0), (0, delay))
    power = torch.where(images > 0, 10 ** ((images - 1) * (hp.top_db / 10)), 0)
    late = torch.nn.functional.pad(power, (len(weights) - 1, 0)).flatten(0, -2)[:, None]
    late = torch.nn.functional.conv1d(late, weights[None, None]).view_as(power)
    dry = (power - reverberation_share * late).maximum(reverberation_floor * power)
    return (10 / hp.top_db * dry.clamp(min=1e-12).log10() + 1).clamp(0, 1)
