"""Decode notes to the mel spectrogram of the target instrument with a learnt table, and the loss that trains it.

Neighbouring keys share most of the table, so missed notes and false positives hardly change it.
"""
import functools

import numpy as np
import torch
from torch import nn

import DatasetCreator
import Hyperparameters as hp
from notes.note_events import frame_rate

min_release = 0.5           # smallest decay after key and pedal are up, dB per frame
loss_from = 0.25            # smallest level in the target, of 1, that counts for the level that fits best
clipped_slope = 0.01        # slope of the loss where its output lies below the range
level_loss_weight = 0.02    # weight of the level error of a crop in the decoder's loss

decibel = 10 / np.log(10)   # dB per unit of the natural logarithm of power
partials = 32               # per key; the noise floor stands for higher ones
spacing = 6                 # semitones between keys whose curves are learnt; those between are interpolated
knots = (-4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 34, 45, 60, 80, 107, 143, 190, 253, 338, 450, 600,
         800, 1000)         # frames since the onset
inaudible = 100.0           # decay in dB after which a note is left out
deviation_penalty = 1e-4    # per square of a key's deviation in dB, beside a loss that is 1 for 80 dB
# factors of the learning rate: curves and the deviations of keys are in dB, the decay after the offset in dB per frame
rate_factors = dict(curves=600, deviations=300, release=30)
betas = (0.9, 0.99)         # of Adam: a short memory, so that rarely played keys take steps of their own size


@functools.cache
def partial_responses():
    """Return the mel power of each partial of each key, relative to the largest [shape=(n_keys, partials, n_mels)]."""
    keys, numbers = np.arange(hp.lowest_key, hp.lowest_key + hp.n_keys), np.arange(1, partials + 1)
    bins = 440 * 2 ** ((keys[:, None, None] - 69) / 12) * numbers[:, None] * hp.n_fft / hp.sample_rate
    away = bins - np.arange(hp.n_fft // 2 + 1)
    window = np.sinc(away) + (np.sinc(away - 1) + np.sinc(away + 1)) / 2  # spectrum of a Hann window
    power = (window ** 2 * (bins < hp.n_fft / 2)) @ DatasetCreator.mel_filters().T
    return torch.from_numpy(power / power.max()).float()


class TableDecoder(nn.Module):
    """Decode notes to the mel spectrogram of the target instrument with a learnt table.

    The spectrum of a note is a sum of harmonic partials and a noise floor. Their levels are curves over the time since
    the onset, and change linearly between every `spacing`-th key. Curves of the velocity add to the level of each mel
    band, and a decay after the offset is subtracted. Each key has a small deviation per band of its own. The powers of
    all notes are summed. `loudest` is the mean power in dB of the loudest frame of a target spectrogram: see
    `AEModel.normalise_level`.
    """

    def __init__(self):
        super().__init__()
        times, curves = torch.tensor(knots).float(), -(-hp.n_keys // spacing) + 1
        place = torch.arange(hp.n_keys)[:, None] / spacing
        self.register_buffer("knots", times, persistent=False)
        self.register_buffer("shares", (1 - (place - torch.arange(curves)).abs()).clamp(min=0), persistent=False)
        self.register_buffer("responses", partial_responses(), persistent=False)
        self.register_buffer("loudest", torch.tensor(-15.0))
        decay = torch.where(times < 0, -55, -times / 10)[:, None]  # dB
        self.partials = nn.Parameter((-25 + decay - torch.arange(partials)).repeat(curves, 1, 1))
        self.floor = nn.Parameter((-60 + decay - torch.zeros(hp.n_mels)).repeat(curves, 1, 1))
        self.deviation = nn.Parameter(torch.zeros(hp.n_keys, hp.n_mels))
        self.loudness = nn.Parameter(torch.full((curves, hp.n_mels), 40.0))  # dB per decade of velocity
        self.slope = nn.Parameter(torch.zeros(curves, hp.n_mels))            # dB per full range of velocity
        self.release = nn.Parameter(torch.full((curves, hp.n_mels), 1.5))    # dB per frame

    def forward(self, notes, first, frames):
        """Return the mel power in dB of notes [shape=(n, 4)] in frames from `first` on [shape=(n_mels, frames)]. Keys
        outside the piano's range, such as 0, are ignored. A silent frame has the value `hp.decoder_silence`."""
        return total(self.note_levels(notes, first, frames)[0])

    def note_levels(self, notes, first, frames):
        """Return the level of each audible note as natural logarithm of the power [shape=(m, frames, n_mels)], and
        which notes are audible [shape=(n,), bool]. The parameters are those of `forward`."""
        onset, end = notes[:, :2].T * frame_rate
        key = notes[:, 2].long() - hp.lowest_key
        known = (key >= 0) & (key < hp.n_keys)
        release = (self.shares @ self.release).clamp(min=min_release)
        slowest = release.amin(1)[key.clamp(0, hp.n_keys - 1)]
        audible = known & (onset + self.knots[0] < first + frames) & (end + inaudible / slowest > first)
        onset, end, key, velocity = onset[audible], end[audible], key[audible], (notes[audible, 3] / 127).clamp(0.02, 1)
        keys, index = key.unique(return_inverse=True)
        loudness, slope = ((self.shares[keys] @ part)[index] for part in (self.loudness, self.slope))
        gain = loudness * (torch.log10(velocity) + 0.22)[:, None] + slope * (velocity - 0.6)[:, None]
        silence = torch.full_like(gain, hp.decoder_silence)
        # one matrix product per note: the rows are what adds to its level, the columns how much of it in each frame
        rows = torch.cat([self.levels(keys)[index], torch.stack([gain, -release[key], silence], 1)], 1)
        now = torch.arange(first, first + frames, device=notes.device)
        since, over = now - onset[:, None], (now - end[:, None]).clamp(min=0)
        columns = torch.stack([torch.ones_like(over), over, (since < self.knots[0]).to(over.dtype)], 2)
        return torch.cat([self.knot_shares(since), columns], 2) @ (rows / decibel), audible

    def levels(self, keys):
        """Return the level of keys in dB at each knot [shape=(keys, knots, n_mels)], without velocity and release."""
        tones, floor = (torch.einsum("ka,atp->ktp", self.shares[keys], part / decibel).exp()
                        for part in (self.partials, self.floor))
        power = tones @ self.responses[keys] + floor
        return power.clamp(min=1e-30).log() * decibel + self.deviation[keys][:, None]

    def knot_shares(self, since):
        """Return the share of each knot [shape=(..., knots)] in the level at times since an onset, in frames."""
        since = since.clamp(self.knots[0], self.knots[-1])[..., None]
        passed = ((since - self.knots[:-1]) / self.knots.diff()).clamp(0, 1)
        return nn.functional.pad(passed, (1, 0), value=1) - nn.functional.pad(passed, (0, 1))


def total(levels):
    """Return the power in dB of all notes together [shape=(n_mels, frames)]: see `TableDecoder.note_levels`."""
    return (torch.logsumexp(levels, 0).T * decibel).clamp(min=hp.decoder_silence)


def decoder_loss(decoder, notes, certainty, first, target):
    """Return the loss of a table decoder for a crop.

    The loss is the L1 distance between the spectrogram of the notes and the target, at the level that fits best. Each
    value has the weight of the certainties of its notes, in the proportion of their powers. A small part of the level
    error is added, since otherwise the levels drift away from those of rare keys. Deviations of single keys are
    penalised.

    `notes` [shape=(n, 4)] include all that sound in the crop. `certainty` [shape=(n,), in [0, 1]] is their probability,
    1 for true notes. `first` is the first frame of the crop, whose spectrogram is `target` [shape=(n_mels, t)].
    """
    levels, audible = decoder.note_levels(notes, first, target.shape[1])
    if not audible.any():
        return 0 * decoder.deviation.sum()
    output = total(levels) / hp.top_db + 1
    with torch.no_grad():
        weight = torch.tensordot(certainty[audible].to(levels.dtype), levels.softmax(0), 1).T
    loud, off = target > loss_from, 0
    if loud.any():
        differences = (target - output)[loud]
        output, off = output + differences.detach().median(), differences.mean().abs()
    within = output.clamp(0, 1)  # levels below the range still get a gradient
    distance = ((within + clipped_slope * (output - within) - target).abs() * weight).mean()
    keys = (notes[audible, 2].long() - hp.lowest_key).unique()
    deviation = decoder.deviation[keys].square().mean()
    return distance + level_loss_weight * off + deviation_penalty * deviation


def parameter_groups(decoder):
    """Return the parameter groups for Adam. `scale` is the factor of the learning rate of each group."""
    groups = dict(curves=[decoder.partials, decoder.floor, decoder.loudness, decoder.slope],
                  deviations=[decoder.deviation], release=[decoder.release])
    return [dict(params=params, scale=rate_factors[name], betas=betas) for name, params in groups.items()]
