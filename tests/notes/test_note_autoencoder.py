"""The note autoencoder: its encoder learns and sees the partials of a key; what its heads see."""
import numpy as np
import pytest
import torch

import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Util
from audio import audio_files
from notes import note_events, post_processing
from notes.note_autoencoder import HarmonicEncoder, n_onset_features, partial_bands, partial_mel_weights
from notes.post_processing import frames_after, frames_before, onset_features
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


# heads

def test_a_note_is_seen_alike_at_any_time_on_any_key_and_among_any_others(monkeypatch):
    heard = np.random.default_rng(0).random((3, 200, hp.n_keys), np.float32)
    frame, key = np.array([60, 70, 80]), np.array([40, 43, 46])
    seen = onset_features(heard, frame, key)
    later = np.pad(heard, ((0, 0), (25, 0), (0, 0)))
    np.testing.assert_array_equal(onset_features(later, frame + 25, key), seen)
    higher = np.roll(heard, 5, axis=2)
    np.testing.assert_array_equal(onset_features(higher, frame, key + 5)[:, :-1], seen[:, :-1])
    changed = heard.copy()
    changed[:, :60 - frames_before] = changed[:, 80 + frames_after:] = 0  # beyond what is looked at
    np.testing.assert_array_equal(onset_features(changed, frame, key), seen)
    monkeypatch.setattr(post_processing, "onset_batch_size", 2)
    np.testing.assert_array_equal(onset_features(heard, frame, key), seen)


def test_notes_at_the_edges_are_seen():
    heard = np.random.default_rng(0).random((3, 50, hp.n_keys), np.float32)
    seen = onset_features(heard, np.array([0, 0, 49, 49]), np.array([0, 87, 0, 87]))
    assert seen.shape == (4, n_onset_features) and np.isfinite(seen).all()


def test_the_levels_of_partials_tell_the_velocities_where_the_predicted_ones_are_equal(tmp_path):
    played = np.array([(0.2 + 0.5 * i, 0.5 + 0.5 * i, 60 + i % 12, 30 + 15 * (i % 5)) for i in range(40)])
    note_events.save_notes(tmp_path / "scale.mid", played)
    MIDI2Audio.synthesise_midi_to_audio(tmp_path / "scale.mid", tmp_path / "scale.wav", *hp.piano_preset)
    pitch = DatasetCreator.pitch_spectrogram(audio_files.read_audio(tmp_path / "scale.wav"))
    heard = played.astype(np.float32)
    heard[:, 3] = 60
    seen = post_processing.velocity_inputs(heard, pitch)
    assert np.corrcoef(seen[:, 0], np.log(played[:, 3]))[0, 1] > 0.9
