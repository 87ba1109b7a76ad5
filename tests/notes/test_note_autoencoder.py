"""The note autoencoder: its encoder learns and sees the partials of a key."""
import numpy as np
import pytest
import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from notes.note_autoencoder import HarmonicEncoder, partial_bands, partial_mel_weights
from notes_common import small


@pytest.mark.parametrize("frames", (1, 2, 3, 8, 37))
def test_any_number_of_frames(model, frames):
    rng = np.random.default_rng(0)
    pitch = rng.random((hp.n_pitches, -(-frames // 2)), np.float32)
    mel = rng.random((hp.n_mels, frames), np.float32)
    heard = model.predict_frames(pitch, mel)
    outputs = HarmonicEncoder.outputs + small["channels"] // 2  # behind them the details
    assert heard.shape == (outputs, frames, hp.n_keys) and (0 <= heard).all() and (heard <= 1).all()
    assert model.generate(pitch, mel).shape == (hp.n_mels, frames)


def test_gradients_reach_every_weight_of_the_encoder():
    torch.manual_seed(0)
    encoder = HarmonicEncoder(**small)
    encoder(torch.rand(2, hp.n_pitches, 10), torch.rand(2, hp.n_mels, 20)).square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if not parameter.grad.any()] == []


def test_the_pitch_spectrogram_of_a_tone_is_loudest_in_its_keys_band():
    time, step = np.arange(2 * hp.pitch_n_fft) / hp.sample_rate, hp.sample_rate / hp.pitch_n_fft
    for key, band in enumerate(partial_bands((1,))[:, 1].numpy()):
        hertz = 440 * 2 ** ((key + hp.lowest_key - 69) / 12)
        image = DatasetCreator.pitch_spectrogram(np.sin(2 * np.pi * hertz * time).astype(np.float32))
        assert image.shape == (hp.n_pitches, -(-(time.size // hp.hop_length) // 2)) and image.max() == 1
        loudest = image[:, image.shape[1] // 2].argmax()
        found = 440 * 2 ** (((loudest - 1) / hp.pitch_bands_per_key + hp.lowest_key - 69) / 12)
        assert loudest == band or hertz < 125 and abs(found - hertz) < step  # where a bin is wider than a band


def test_the_bands_of_a_key_are_those_of_its_partials():
    partials = (1, 2, 4)
    share, filters = partial_mel_weights(partials).numpy(), DatasetCreator.mel_filters()
    bins, centre = np.fft.rfftfreq(hp.n_fft, 1 / hp.sample_rate), Util.mel_frequencies(hp.n_mels + 2)[1:-1]
    for key in 24, 50, 87:
        for partial, weights in zip(partials, share[:, key].T):
            hertz = 440 * 2 ** ((key + hp.lowest_key - 69) / 12) * partial
            if hertz > hp.fmax:
                assert not weights.any()
                continue
            assert weights @ centre == pytest.approx(hertz, rel=1e-3)
            assert filters[weights > 0.4, np.abs(bins - hertz).argmin()].all()
    assert partial_bands(partials).max() == hp.n_pitches and partial_bands((0.5,))[0].tolist() == [hp.n_pitches] * 3
