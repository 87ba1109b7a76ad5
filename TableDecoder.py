"""Decode notes to the mel spectrogram of the target instrument with a learnt table, and its loss and optimisation.

Neighbouring keys share most of the table, so that a note that was missed or found by mistake hardly changes it.
"""
import functools

import numpy as np
import torch
from torch import nn

import DatasetCreator
import Hyperparameters as hp

inaudible = 100.0
decibel = 10 / np.log(10)       # dB per unit of the natural logarithm of power
partials = 32
spacing = 6
knot_times = (-4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 34, 45, 60, 80, 107, 143, 190, 253, 338, 450,
              600, 800, 1000)
dev_penalty = 1e-4
level_scale = 600.
own_scale = 300.
release_scale = 30.
betas = (0.9, 0.99)


@functools.cache
def partial_responses():
    """Return the mel power of each partial of each key at 0 dB [shape=(n_keys, partials, n_mels)]."""
    keys, numbers = np.arange(hp.lowest_key, hp.lowest_key + hp.n_keys), np.arange(1, partials + 1)
    bins = 440 * 2 ** ((keys[:, None] - 69) / 12) * numbers * hp.n_fft / hp.sample_rate
    away = bins[..., None] - np.arange(hp.n_fft // 2 + 1)
    window = np.sinc(away) + (np.sinc(away - 1) + np.sinc(away + 1)) / 2  # spectrum of a Hann window
    mel = (window ** 2 * (bins[..., None] < hp.n_fft / 2)) @ DatasetCreator.mel_filters().T
    return torch.from_numpy(mel / mel.max()).float()


class TableDecoder(nn.Module):

    def __init__(self):
        super().__init__()
        knots = torch.tensor(knot_times).float()
        anchors = -(-hp.n_keys // spacing) + 1
        place = torch.arange(hp.n_keys) / spacing
        weights = (1 - (place[:, None] - torch.arange(anchors)).abs()).clamp(min=0)
        self.register_buffer("knots", knots, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("responses", partial_responses(), persistent=False)
        self.register_buffer("loudest", torch.tensor(-15.0))
        decay = torch.where(knots < 0, -55.0, -knots / 10)[:, None]
        self.partials = nn.Parameter((-25 + decay - torch.arange(partials)).repeat(anchors, 1, 1))
        self.floor = nn.Parameter((-60 + decay - torch.zeros(hp.n_mels)).repeat(anchors, 1, 1))
        self.own = nn.Parameter(torch.zeros(hp.n_keys, hp.n_mels))
        self.loudness = nn.Parameter(torch.full((anchors, hp.n_mels), 40.0))
        self.slope = nn.Parameter(torch.zeros(anchors, hp.n_mels))
        self.release = nn.Parameter(torch.full((anchors, hp.n_mels), 1.5))

    def levels(self, keys):
        weights = self.weights[keys]
        tones, floor = (torch.einsum("ka,atp->ktp", weights, part) for part in (self.partials, self.floor))
        power = torch.einsum("ktp,kpm->ktm", (tones / decibel).exp(), self.responses[keys]) + (floor / decibel).exp()
        return power.clamp(min=1e-30).log() * decibel + self.own[keys][:, None]

    def forward(self, notes, first, frames, certainty=None):
        onset, end = notes[:, :2].T * (hp.sample_rate / hp.hop_length)
        key = notes[:, 2].long() - hp.lowest_key
        known = (key >= 0) & (key < hp.n_keys)
        release = (self.weights @ self.release).clamp(min=hp.decoder_min_release)
        falling = release.amin(1)[key.clamp(0, hp.n_keys - 1)]  # slowest band of each key
        audible = known & (onset + self.knots[0] < first + frames) & (end + inaudible / falling > first)
        if not audible.any():
            empty = self.floor.new_full((hp.n_mels, frames), hp.decoder_silence)
            return empty if certainty is None else (empty, torch.ones_like(empty))
        onset, end, key, velocity = onset[audible], end[audible], key[audible], (notes[audible, 3] / 127).clamp(0.02, 1)
        now = torch.arange(first, first + frames, device=notes.device)
        keys, index = key.unique(return_inverse=True)
        growth = self.weights[keys] @ torch.stack([self.loudness, self.slope])  # (2, keys, n_mels)
        gain = growth[0][index] * (torch.log10(velocity) + 0.22)[:, None] + growth[1][index] * (velocity - 0.6)[:, None]
        silence = gain.new_full((len(key), 1, hp.n_mels), hp.decoder_silence)
        rows = torch.cat([self.levels(keys)[index], gain[:, None], -release[key][:, None], silence], 1)
        since, over = now - onset[:, None], (now - end[:, None]).clamp(min=0)
        columns = torch.cat([self.shares(since), torch.stack([torch.ones_like(over), over,
                                                              (since < self.knots[0]).to(over.dtype)], 2)], 2)
        level = columns @ (rows / decibel)
        total = torch.logsumexp(level, 0).T * decibel
        if certainty is None:
            return total
        with torch.no_grad():
            shares = (level - level.logsumexp(0)).exp_() if False else (level - total.T / decibel).exp_()
            return total, (certainty[audible] @ shares.flatten(1)).view(total.shape[::-1]).T

    def shares(self, since):
        """Return the share of each knot."""
        since = since.clamp(self.knots[0], self.knots[-1])[..., None]
        gaps = self.knots.diff()
        rise = ((since - self.knots[:-1]) / gaps).clamp(0, 1)
        one = torch.ones_like(rise[..., :1])
        return torch.cat([one, rise], -1) - torch.cat([rise, 0 * one], -1)


def decoder_loss(decoder, notes, certainty, first, target):
    output, weight = decoder(notes, first, target.shape[1], certainty)
    output = output / hp.top_db + 1
    loud, off = target > hp.decoder_loss_from, 0
    if loud.any():
        differences = (target - output)[loud]
        output, off = output + differences.detach().median(), differences.mean().abs()
    within = output.clamp(0, 1)
    distance = ((within + hp.decoder_clipped_slope * (output - within) - target).abs() * weight).mean()
    keys = (notes[:, 2].long() - hp.lowest_key).unique()
    return distance + hp.level_loss_weight * off + dev_penalty * decoder.own[keys].square().sum() / max(len(keys), 1) / hp.n_mels


def parameter_groups(decoder):
    return [dict(params=[decoder.partials, decoder.floor, decoder.loudness, decoder.slope], scale=level_scale, betas=betas),
            dict(params=[decoder.own], scale=own_scale, betas=betas),
            dict(params=[decoder.release], scale=release_scale, betas=betas)]
