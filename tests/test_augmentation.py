"""Augmentation of spectrograms: ranges, determinism, and what stays as it is."""
import numpy as np
import pytest
import torch

import Augmentation
import DatasetCreator
import Hyperparameters as hp
import Util
from AEDataset import AEDataset


@pytest.fixture
def power():
    """Mel power of the demo, relative to its maximum."""
    power = DatasetCreator.mel_power(DatasetCreator.stft(Util.read_audio(hp.demo)[:4 * hp.sample_rate]))
    return power / power.max()


@pytest.mark.parametrize("seed", range(10))
def test_augmented_power_is_finite_and_positive_and_depends_on_its_seed(power, seed):
    first, again, other = (Augmentation.augment(power, power.max(axis=1), np.random.default_rng(s))
                           for s in (seed, seed, seed + 100))
    assert first.shape == power.shape and np.isfinite(first).all() and (first >= 0).all()
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_without_room_compression_and_noise_the_maximum_is_one(power, monkeypatch):
    for effect in ("add_room", "compress", "lossy_coding"):
        monkeypatch.setattr(Augmentation, effect, lambda power, rng: power)
    monkeypatch.setattr(Augmentation, "noise_floor", lambda shape, rng: 0)
    for seed in range(20):
        augmented = Augmentation.augment(power, power.max(axis=1), np.random.default_rng(seed))
        assert augmented.max() == pytest.approx(1, rel=1e-5)


def test_reverberation_adds_power_after_the_sound_only(power):
    click = np.zeros_like(power)
    click[:, 20] = 1
    reverberant = Augmentation.add_room(click, np.random.default_rng(0))
    assert not reverberant[:, :20].any() and (reverberant >= click).all()
    tail = reverberant[:, 21:]
    assert (np.diff(tail, axis=1) < 0).all()


def test_noise_is_within_its_limits():
    for seed in range(20):
        level = 10 * np.log10(Augmentation.noise_floor((hp.n_mels, 2000), np.random.default_rng(seed)).mean(axis=1))
        assert -97 < level.min() and level.max() < -33


def test_compression_reduces_the_dynamic_range(power):
    steps = np.repeat(power[:, 100:101], 600, axis=1)
    steps[:, 300:] *= 1e-4
    compressed = Augmentation.compress(steps, np.random.default_rng(0))
    assert compressed[:, 599].sum() / compressed[:, 299].sum() > 2 * steps[:, 599].sum() / steps[:, 299].sum()


def test_targets_and_whole_clips_are_not_augmented(three_seconds):
    names = DatasetCreator.build(three_seconds)
    clean, augmented = AEDataset(names, three_seconds), AEDataset(names, three_seconds, augmented=True)
    for key in [(0, 0, 100, 1), (1, 150, 64, 2), (2, 200, 100, 3)]:
        (source, target), (changed, same) = clean[key], augmented[key]
        assert torch.equal(target, same) and source.shape == changed.shape and not torch.equal(source, changed)
        assert changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(clean[0][0], augmented[0][0])
