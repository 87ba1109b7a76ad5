"""The table decoder: it sums what it should, and wrong notes hardly change what it learns."""
import numpy as np
import pytest
import torch

import Hyperparameters as hp
from AEModel import normalise_level, peak_frame_level
from notes import table_decoder
from notes_common import rate, some_notes

pytestmark = pytest.mark.usefixtures("one_thread")


def direct_sum(decoder, notes, first, frames):
    """What the decoder is to compute, note by note and frame by frame."""
    weights = {name: value.double().numpy() for name, value in
               (decoder.state_dict() | dict(decoder.named_buffers())).items()}
    power = np.zeros((hp.n_mels, frames))
    for onset, end, key, velocity in notes.astype(np.float64):
        key, velocity = int(key) - hp.lowest_key, max(velocity / 127, 0.02)
        partials, floor, loudness, slope, release = (
            np.tensordot(weights["shares"][key], weights[name], 1)
            for name in ("partials", "floor", "loudness", "slope", "release"))
        levels = 10 * np.log10(10 ** (partials / 10) @ weights["responses"][key] + 10 ** (floor / 10))
        levels += weights["deviation"][key] + loudness * (np.log10(velocity) + 0.22) + slope * (velocity - 0.6)
        for frame in range(frames):
            since, over = first + frame - onset * rate, max(first + frame - end * rate, 0)
            if since >= weights["knots"][0]:
                level = np.array([np.interp(since, weights["knots"], band) for band in levels.T])
                power[:, frame] += 10 ** ((level - np.maximum(release, table_decoder.min_release) * over) / 10)
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
        assert torch.equal(decoder(silent, 0, 7), torch.full((hp.n_mels, 7), hp.decoder_silence))
    notes = torch.from_numpy(some_notes())
    assert torch.equal(decoder(torch.cat([notes, others]), 100, 20), decoder(notes, 100, 20))


@torch.inference_mode()
def test_a_note_ends_whatever_was_learnt(decoder):
    """Else each frame of a long recording would be a sum over all notes before it."""
    decoder.release[:] = -1
    note, later = torch.tensor([[0.1, 1, 60, 90]]), table_decoder.inaudible / table_decoder.min_release + 1
    assert (decoder(note, int(rate), 3) > hp.decoder_silence).all()
    assert (decoder(note, int(rate + later), 3) == hp.decoder_silence).all()


def test_a_key_that_is_not_played_is_learnt_from_its_neighbours(decoder):
    decoder(torch.tensor([[0.1, 2.0, 60, 90], [0.1, 2.0, 64, 90]]), 0, 40).sum().backward()
    for name in "partials", "floor", "loudness":
        reached = (decoder.shares @ getattr(decoder, name).grad.flatten(1).abs()).sum(1) > 0
        assert reached[62 - hp.lowest_key] and not reached[90 - hp.lowest_key]
    own = decoder.deviation.grad.abs().sum(1) > 0
    assert (own.nonzero().flatten() + hp.lowest_key).tolist() == [60, 64]


def crop(decoder, notes, frames):
    """The spectrogram of notes as a target, with the loudest frame at -15 dB."""
    decibels = decoder(notes, 0, frames).detach().numpy()
    return torch.from_numpy(normalise_level(decibels, -15.0, peak_frame_level(decibels)))


@torch.no_grad()
def test_a_decoder_loses_by_another_shape_and_a_little_by_another_level(decoder, monkeypatch):
    """Of the level of a whole clip its spectrogram does not tell; yet it must not drift away."""
    monkeypatch.setattr(table_decoder, "deviation_penalty", 0)
    notes, slope = torch.from_numpy(some_notes(60, 3.0)), torch.linspace(-1, 1, hp.n_mels)
    target, before = crop(decoder, notes, 200), decoder.deviation.clone()
    right = hp.top_db * (target - decoder(notes, 0, 200) / hp.top_db - 1)[target > 0.25].mean().item()

    def loss(louder=0.0, treble=0.0):
        decoder.deviation.copy_(before + louder + treble * slope)
        return table_decoder.decoder_loss(decoder, notes, torch.ones(60), 0, target).item()

    assert loss(right) < 1e-3
    assert 4e-3 < loss(right - 20) < loss(right - 50) < 0.02
    assert loss(right + 20) == pytest.approx(loss(right - 20), 0.1)
    assert loss(right, treble=5) > loss(right - 20)


def test_missed_and_false_notes_do_not_pull_levels(decoder):
    """A table with a curve per key gave keys that were found by mistake, very soft, levels of up to 154 dB."""
    notes = torch.from_numpy(some_notes(20, 1.2))
    target = crop(decoder, notes, 120)

    def loss(learner, notes=notes, certainty=torch.ones(20)):
        return table_decoder.decoder_loss(learner, notes, certainty, 0, target)

    def learnt(*found):
        learner = table_decoder.TableDecoder()
        optimiser = torch.optim.Adam([group | {"lr": 2e-3 * group["scale"]}
                                      for group in table_decoder.parameter_groups(learner)])
        for _ in range(20):
            optimiser.zero_grad()
            loss(learner, *found).backward()
            optimiser.step()
        return learner

    false = torch.tensor([[0.3, 1.0, 61, 2], [0.6, 1.2, 77, 2]])
    misled = learnt(torch.cat([notes[2:], false]), torch.cat([torch.ones(18), torch.full((2,), 0.3)]))
    true = learnt()
    with torch.no_grad():
        before, best, after = map(loss, (table_decoder.TableDecoder(), true, misled))
        assert best < 0.3 * before and after < 0.8 * before and misled.levels(torch.arange(hp.n_keys)).max() < 0


def test_a_crop_without_notes_has_no_loss_and_no_gradient_that_is_not_finite(decoder):
    loss = table_decoder.decoder_loss(decoder, torch.zeros(0, 4), torch.zeros(0), 0, torch.rand(hp.n_mels, 9))
    loss.backward()
    assert loss == 0 and decoder.deviation.grad.isfinite().all()
