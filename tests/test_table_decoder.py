"""The table decoder: it sums what it should, and wrong notes hardly change what it learns."""
import numpy as np
import pytest
import torch

import Hyperparameters as hp
import TableDecoder as table
from AEModel import normalise_level
from notes_common import rate, some_notes

pytestmark = pytest.mark.usefixtures("one_thread")


def direct_sum(decoder, notes, first, frames):
    """What the decoder is to compute, note by note and frame by frame."""
    weights = decoder.state_dict() | dict(decoder.named_buffers())
    shares, knots, responses, partials, floor, deviation, loudness, slope, release = (
        weights[name].double().numpy() for name in ("shares", "knots", "responses", "partials", "floor", "deviation",
                                                    "loudness", "slope", "release"))
    power = np.zeros((hp.n_mels, frames))
    for onset, end, key, velocity in notes.astype(np.float64):
        key, velocity = int(key) - hp.lowest_key, max(velocity / 127, 0.02)
        tones, noise = (10 ** (np.tensordot(shares[key], curve, 1) / 10) for curve in (partials, floor))
        levels = 10 * np.log10(tones @ responses[key] + noise) + deviation[key]
        levels += shares[key] @ loudness * (np.log10(velocity) + 0.22) + shares[key] @ slope * (velocity - 0.6)
        fall = np.maximum(shares[key] @ release, hp.decoder_min_release)
        for frame in range(frames):
            since, over = first + frame - onset * rate, max(first + frame - end * rate, 0)
            if since >= knots[0]:
                level = np.array([np.interp(since, knots, band) for band in levels.T])
                power[:, frame] += 10 ** ((level - fall * over) / 10)
    return 10 * np.log10(np.maximum(power, 1e-12))


@torch.inference_mode()
@pytest.mark.parametrize("first, frames", ((0, 20), (57, 9), (300, 3), (500, 3)))
def test_the_decoder_is_a_direct_sum_of_powers(decoder, first, frames):
    notes = np.array([(0.0, 0.3, 60, 90), (0.113, 0.5, 60, 20), (0.15, 10.4, 21, 127), (0.2, 0.9, 108, 1),
                      (0.62, 0.7, 64, 64), (3.46, 3.6, 50, 80)], np.float32)
    ours = decoder(torch.from_numpy(notes), first, frames).numpy()
    direct = direct_sum(decoder, notes, first, frames)
    loud = direct > -105
    assert loud.mean() > 0.5
    np.testing.assert_allclose(ours[loud], direct[loud], atol=0.05)
    assert (ours[~loud] < -100).all()


@torch.inference_mode()
def test_without_notes_the_decoder_is_silent_and_other_keys_count_for_nothing(decoder):
    others = torch.tensor([[0.1, 1, 0, 0], [0.1, 1, 20, 90], [0.1, 1, 109, 90]])
    for silent in torch.zeros(0, 4), others:
        assert (decoder(silent, 0, 7) == hp.decoder_silence).all() and decoder(silent, 0, 7).shape == (hp.n_mels, 7)
    notes = torch.from_numpy(some_notes())
    assert torch.equal(decoder(torch.cat([notes, others]), 100, 20), decoder(notes, 100, 20))


@torch.inference_mode()
def test_parts_of_a_piece_are_those_of_the_whole(model, monkeypatch):
    notes = some_notes(60)
    notes[0, 1] = 9  # held all the way
    whole = model.network.decoder(torch.from_numpy(notes), 0, 700).numpy()
    for size in 7, 256:
        monkeypatch.setattr(hp, "decoder_frames", size)
        parts = (0, 301), (301, 1), (302, 398)
        played = np.concatenate([model.mel_decibels(notes, first, frames) for first, frames in parts], 1)
        audible = whole > whole.max() - 60  # what has died away is left out
        np.testing.assert_allclose(played[audible], whole[audible], atol=0.01)


@torch.inference_mode()
def test_a_note_ends_whatever_was_learnt(decoder):
    """Else each frame of a long recording would be a sum over all notes before it."""
    decoder.release[:] = -1
    notes = torch.from_numpy(some_notes(60, 3.0))
    last = notes[:, 1].max().item() * rate
    assert (decoder(notes, int(last + 1 + table.inaudible / hp.decoder_min_release), 20) == hp.decoder_silence).all()
    assert (decoder(notes, int(last), 3) > hp.decoder_silence).all()


def test_a_key_that_is_not_played_is_learnt_from_its_neighbours(decoder):
    decoder(torch.tensor([[0.1, 2.0, 60, 90], [0.1, 2.0, 64, 90]]), 0, 40).sum().backward()
    reached = [(decoder.shares @ getattr(decoder, name).grad.flatten(1).abs()).sum(1) > 0
               for name in ("partials", "floor", "loudness")]
    assert all(part[62 - hp.lowest_key] and not part[90 - hp.lowest_key] for part in reached)
    own = decoder.deviation.grad.abs().sum(1) > 0
    assert (own.nonzero().flatten() + hp.lowest_key).tolist() == [60, 64]


def test_a_decoder_loses_by_another_shape_and_a_little_by_another_level(decoder):
    """Of the level of a whole clip its spectrogram does not tell; yet it must not drift away."""
    notes, certain, slope = torch.from_numpy(some_notes(60, 3.0)), torch.ones(60), torch.linspace(-1, 1, hp.n_mels)
    with torch.no_grad():
        target = torch.from_numpy(normalise_level(decoder(notes, 0, 200).numpy(), -15.0))
        right = hp.top_db * (target - decoder(notes, 0, 200) / hp.top_db - 1)[target > 0.25].mean().item()

    def loss(louder=0.0, treble=0.0):
        shift, before = louder + treble * slope, decoder.deviation.clone()
        with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(table, "deviation_penalty", 0)
            decoder.deviation.add_(shift)
            value = table.decoder_loss(decoder, notes, certain, 0, target).item()
            decoder.deviation.copy_(before)
        return value

    assert loss(right) < 1e-3
    assert 4e-3 < loss(right - 20) < loss(right - 50) < 0.02
    assert loss(right + 20) == pytest.approx(loss(right - 20), 0.1)
    assert loss(right, treble=5) > loss(right - 20)


def learn(notes, certainty, target, steps=20):
    decoder = table.TableDecoder()
    optimiser = torch.optim.Adam(table.parameter_groups(decoder))
    for group in optimiser.param_groups:
        group["lr"] = 2e-3 * group["scale"]
    for _ in range(steps):
        loss = table.decoder_loss(decoder, notes, certainty, 0, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return decoder


def test_missed_and_false_notes_do_not_pull_levels(decoder):
    """A table with a curve per key gave keys that were found by mistake, very soft, levels of up to 154 dB."""
    notes, frames = torch.from_numpy(some_notes(20, 1.2)), 120
    with torch.no_grad():
        target = torch.from_numpy(normalise_level(decoder(notes, 0, frames).numpy(), -15.0))
    false = torch.tensor([[0.3, 1.0, 61, 2], [0.6, 1.2, 77, 2]])
    found, certainty = torch.cat([notes[2:], false]), torch.cat([torch.ones(18), torch.full((2,), 0.3)])
    true, heard = learn(notes, torch.ones(20), target), learn(found, certainty, target)
    with torch.no_grad():
        before, best, after = (table.decoder_loss(part, notes, torch.ones(20), 0, target).item()
                               for part in (table.TableDecoder(), true, heard))
        loudest = heard.levels(torch.arange(hp.n_keys)).max()
    assert best < 0.3 * before and after < 0.8 * before and loudest < 0


def test_a_crop_without_notes_has_no_loss_and_no_gradient_that_is_not_finite(decoder):
    loss = table.decoder_loss(decoder, torch.zeros(0, 4), torch.zeros(0), 0, torch.rand(hp.n_mels, 9))
    loss.backward()
    assert loss == 0 and decoder.deviation.grad.isfinite().all()
