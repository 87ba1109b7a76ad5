"""The note autoencoder: its decoder sums what it should, its encoder learns and sees the partials of a key."""
import numpy as np
import pytest
import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from NoteAutoencoder import HarmonicEncoder, partial_bands, partial_mel_weights
from NoteRefinement import frames_after, frames_before, onset_features
from Notes import note_labels
from notes_common import small, some_notes

pytestmark = pytest.mark.usefixtures("one_thread")


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
