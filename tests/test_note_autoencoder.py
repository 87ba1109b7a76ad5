"""The note autoencoder: its decoder sums what it should, its encoder learns and sees the partials of a key."""
import numpy as np
import pytest
import torch

import AEMain
import DatasetCreator
import Hyperparameters as hp
import Util
from AEModel import NoteModel, normalise_level
from NoteAutoencoder import HarmonicEncoder, NoteAutoencoder, partial_bands, partial_mel_weights
from NoteRefinement import frames_after, frames_before, onset_features
from Notes import note_labels
from notes_common import rate, small, some_notes

pytestmark = pytest.mark.usefixtures("one_thread")


# the decoder

def direct_sum(decoder, notes, first, frames):
    """What the decoder is to compute, band by band and note by note, without torch."""
    knots, level, loudness, slope, release = (
        part.detach().double().numpy()
        for part in (decoder.knots, decoder.level, decoder.loudness, decoder.slope, decoder.release))
    power = np.zeros((hp.n_mels, frames))
    for onset, end, key, velocity in notes.astype(np.float64):
        key, velocity = int(key) - hp.lowest_key, max(velocity / 127, 0.02)
        for frame in range(frames):
            since, over = first + frame - onset * rate, max(first + frame - end * rate, 0)
            if since < knots[0]:
                continue
            for band in range(hp.n_mels):
                decibels = np.interp(since, knots, level[key, :, band])
                decibels += loudness[key, 0, band] * (np.log10(velocity) + 0.22)
                decibels += slope[key, 0, band] * (velocity - 0.6)
                power[band, frame] += 10 ** ((decibels - max(release[key, band], hp.decoder_min_release) * over) / 10)
    return 10 * np.log10(np.maximum(power, 1e-12))


@torch.inference_mode()
@pytest.mark.parametrize("first, frames", ((0, 20), (57, 9), (300, 3), (500, 3)))
def test_the_decoder_is_a_direct_sum_of_powers(decoder, first, frames):
    notes = np.array([(0.0, 0.3, 60, 90), (0.113, 0.5, 60, 20), (0.15, 10.4, 21, 127), (0.2, 0.9, 108, 1),
                      (0.62, 0.7, 64, 64), (3.46, 3.6, 50, 80)], np.float32)
    ours = decoder(torch.from_numpy(notes), first, frames).numpy()
    direct = direct_sum(decoder, notes, first, frames)
    loud = direct > -115
    assert loud.mean() > 0.5
    np.testing.assert_allclose(ours[loud], direct[loud], atol=0.02)
    assert (ours[~loud] < -100).all()


@torch.inference_mode()
def test_without_notes_the_decoder_is_silent_and_other_keys_count_for_nothing(decoder):
    nothing = torch.zeros(0, 4)
    assert (decoder(nothing, 0, 7) == hp.decoder_silence).all() and decoder(nothing, 0, 7).shape == (hp.n_mels, 7)
    others = torch.tensor([[0.1, 1, 0, 0], [0.1, 1, 20, 90], [0.1, 1, 109, 90]])
    assert (decoder(others, 0, 7) == hp.decoder_silence).all()
    notes = torch.from_numpy(some_notes())
    padded = torch.cat([notes, torch.zeros(9, 4)])
    assert torch.equal(decoder(padded, 100, 20), decoder(notes, 100, 20))


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
    with torch.no_grad():
        decoder.release[:] = -1
    notes = torch.from_numpy(some_notes(60, 3.0))
    last = notes[:, 1].max().item() * rate
    assert (decoder(notes, int(last + 1 + hp.decoder_inaudible / hp.decoder_min_release),
                    20) == hp.decoder_silence).all()
    assert (decoder(notes, int(last), 3) > hp.decoder_silence).all()


def test_an_onset_may_lie_between_two_frames(decoder):
    first, between, last = (decoder(torch.tensor([[(43 + share) / rate, 2, 60, 80]]), 43, 15) for share in (0, 0.5, 1))
    torch.testing.assert_close(first[:, :-1], last[:, 1:], atol=0.02, rtol=0)
    torch.testing.assert_close(between, (first + last) / 2, atol=0.02, rtol=0)


def test_gradients_reach_the_weights_of_the_keys_that_sound_and_no_others(decoder):
    notes = torch.tensor([[0.1, 0.3, 60, 90], [0.2, 2.0, 64, 50]])
    decoder(notes, 0, 40).sum().backward()
    struck = torch.zeros(hp.n_keys, dtype=torch.bool)
    struck[[60 - hp.lowest_key, 64 - hp.lowest_key]] = True
    for name in "level", "loudness", "slope":
        reached = getattr(decoder, name).grad.flatten(1).abs().sum(1) > 0
        assert torch.equal(reached, struck), name
    released = decoder.release.grad.abs().sum(1) > 0  # the second is still down
    assert released.nonzero().flatten().tolist() == [60 - hp.lowest_key]
    times = decoder.level.grad[60 - hp.lowest_key].abs().sum(1) > 0
    last = 40 - 0.1 * rate
    assert times[0] and times[decoder.knots <= last].all() and not times[decoder.knots > last + 2].any()


def test_gradients_of_the_decoder_are_those_of_finite_differences(decoder):
    decoder, notes = decoder.double(), torch.tensor([[0.1, 0.2, 60, 90], [0.12, 0.5, 60, 50]], dtype=torch.double)
    decoder(notes, 5, 30).sum().backward()
    key = 60 - hp.lowest_key
    for parameter, place in ((decoder.level, (key, 8, 3)), (decoder.loudness, (key, 0, 100)),
                             (decoder.slope, (key, 0, 7)), (decoder.release, (key, 50))):
        sums = []
        for step in 1e-4, -2e-4:
            with torch.no_grad():
                parameter[place] += step
                sums.append(decoder(notes, 5, 30).sum().item())
        assert parameter.grad[place].item() == pytest.approx((sums[0] - sums[1]) / 2e-4, rel=1e-3)


# the encoder

@pytest.mark.parametrize("frames", (1, 2, 3, 8, 37))
def test_any_number_of_frames(model, frames):
    rng = np.random.default_rng(0)
    pitch = rng.random((hp.n_pitches, -(-frames // 2)), np.float32)
    mel = rng.random((hp.n_mels, frames), np.float32)
    heard = model.predict_frames(pitch, mel)
    outputs = HarmonicEncoder.outputs + small["channels"] // 2  # behind them the details
    assert heard.shape == (outputs, frames, hp.n_keys) and (0 <= heard).all() and (heard <= 1).all()
    assert model.generate(pitch, mel).shape == (hp.n_mels, frames)
    assert note_labels(some_notes(), 100, frames).shape == (4, frames, hp.n_keys)
    model.network.train()
    images = torch.from_numpy(pitch)[None].repeat(2, 1, 1), torch.from_numpy(mel)[None].repeat(2, 1, 1)
    assert model.network(*images).shape == (2, outputs, frames, hp.n_keys)


def test_gradients_reach_every_weight_of_the_encoder():
    torch.manual_seed(0)
    encoder = HarmonicEncoder(**small)
    encoder(torch.rand(2, hp.n_pitches, 10), torch.rand(2, hp.n_mels, 20)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_a_decoder_loses_by_another_shape_and_a_little_by_another_level(decoder):
    """Of the level of a whole clip its spectrogram does not tell; yet it must not drift away."""
    torch.manual_seed(0)
    notes = torch.from_numpy(some_notes(60, 3.0))
    with torch.no_grad():
        target = torch.from_numpy(normalise_level(decoder(notes, 0, 200).numpy(), -15.0))

    def loss(louder=0.0, treble=0.0):
        network = NoteAutoencoder(**small)
        network.decoder.load_state_dict(decoder.state_dict())
        with torch.no_grad():
            network.decoder.level.add_(louder + treble * torch.linspace(-1, 1, hp.n_mels))
        return AEMain.NoteTrainer(network, 2e-3, torch.device("cpu"), ("decoder",)).decoder_loss(notes, 0,
                                                                                                 target).item()

    with torch.no_grad():  # at the level of the target
        right = hp.top_db * (target - decoder(notes, 0, 200) / hp.top_db - 1)[target > 0.25].mean().item()
    assert loss(right) < 1e-3
    assert 5e-3 < loss(right - 20) < loss(right - 50) < 0.02 and loss(right + 20) == pytest.approx(loss(right - 20),
                                                                                                   0.1)
    assert loss(right, treble=5) > loss(right - 50)


# what the onset head sees

def test_a_note_is_seen_alike_at_any_time_on_any_key_and_among_any_others(monkeypatch):
    heard = np.random.default_rng(0).random((3, 200, hp.n_keys), np.float32)
    frame, key = np.array([60, 70, 80]), np.array([40, 43, 46])
    seen = onset_features(heard, frame, key)
    assert seen.shape == (3, hp.refiner_onset_features)
    later = onset_features(np.pad(heard, ((0, 0), (25, 0), (0, 0))), frame + 25, key)
    np.testing.assert_array_equal(later, seen)
    higher = onset_features(np.roll(heard, 5, axis=2), frame, key + 5)
    np.testing.assert_array_equal(higher[:, :-1], seen[:, :-1])
    changed = heard.copy()
    changed[:, :60 - frames_before] = changed[:, 80 + frames_after:] = 0  # beyond what is looked at
    np.testing.assert_array_equal(onset_features(changed, frame, key), seen)
    monkeypatch.setattr(hp, "onset_batch_size", 2)
    np.testing.assert_array_equal(onset_features(heard, frame, key), seen)


def test_notes_at_the_edges_are_seen():
    heard, (frame, key) = np.random.default_rng(0).random((3, 50, hp.n_keys), np.float32), np.meshgrid((0, 49), (0, 87))
    order = np.argsort(frame.ravel(), kind="stable")
    seen = onset_features(heard, frame.ravel()[order], key.ravel()[order])
    assert seen.shape == (4, hp.refiner_onset_features) and np.isfinite(seen).all()


# the input of the encoder

def test_the_pitch_spectrogram_of_a_tone_is_loudest_in_its_keys_band():
    time, step = np.arange(2 * hp.pitch_n_fft) / hp.sample_rate, hp.sample_rate / hp.pitch_n_fft
    bands = partial_bands((1,))[:, 1].numpy()
    for key, band in enumerate(bands):
        hertz = 440 * 2 ** ((key + hp.lowest_key - 69) / 12)
        image = DatasetCreator.pitch_spectrogram(np.sin(2 * np.pi * hertz * time).astype(np.float32))
        assert image.shape == (hp.n_pitches, -(-(time.size // hp.hop_length) // 2)) and image.max() == 1
        loudest = image[:, image.shape[1] // 2].argmax()
        found = 440 * 2 ** (((loudest - 1) / hp.pitch_bands_per_key + hp.lowest_key - 69) / 12)
        assert loudest == band or hertz < 125 and abs(found - hertz) < step  # where a bin is wider than a band


def test_the_bands_of_a_key_are_those_of_its_partials():
    partials = (1, 2, 4)
    share, filters = partial_mel_weights(partials).numpy(), DatasetCreator.mel_filters()
    hertz = np.fft.rfftfreq(hp.n_fft, 1 / hp.sample_rate)
    centre = Util.mel_frequencies(hp.n_mels + 2)[1:-1]
    for key in 24, 50, 87:
        for i, partial in enumerate(partials):
            frequency = 440 * 2 ** ((key + hp.lowest_key - 69) / 12) * partial
            if frequency > hp.fmax:
                assert not share[:, key, i].any()
                continue
            assert share[:, key, i] @ centre == pytest.approx(frequency, rel=1e-3)
            heard = filters[:, np.abs(hertz - frequency).argmin()]
            assert heard[share[:, key, i] > 0.4].all()
    assert partial_bands(partials).max() == hp.n_pitches and partial_bands((0.5,))[0].tolist() == [hp.n_pitches] * 3
