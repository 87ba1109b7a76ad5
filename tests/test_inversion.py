"""Inversion: from the mel spectrogram to audio."""
import librosa
import numpy as np
import pytest
import torch

import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Inversion
import Main
import MIDI2Audio
import Util
from AEModel import AEModel


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Five seconds of the demo on both instruments."""
    folder = tmp_path_factory.mktemp("pair")
    for name, preset in (("piano", hp.piano_preset), ("synth", hp.synth_preset)):
        MIDI2Audio.synthesise_midi_to_audio(hp.data / "MIDI_test" / f"{hp.demo.stem}.mid", folder / f"{name}.wav",
                                            *preset, limit_s=5)
    return Util.read_audio(folder / "piano.wav"), Util.read_audio(folder / "synth.wav")


def mel(audio):
    return DatasetCreator.mel_power(DatasetCreator.stft(audio))


def test_the_round_trip_of_a_render_is_better_than_the_reports(pair):
    piano, synth = pair
    power = mel(synth)
    stored = DatasetCreator.mel_from_log(DatasetCreator.log_mel(power, power.max()))
    error, distance = {}, {}
    for inversion in ("kl", "report"):
        audio = librosa.util.fix_length(Inversion.invert(stored, DatasetCreator.stft(piano), inversion),
                                        size=synth.size)
        error[inversion] = Evaluation.log_mel_l1(audio, synth)
        distance[inversion] = Evaluation.spectral_distance(audio, synth)
    assert error["kl"] < 1.5 and error["kl"] < error["report"] - 1
    assert distance["kl"] < 0.2 and distance["kl"] < distance["report"]


def test_the_power_spectrum_has_the_given_mel_power(pair):
    piano, synth = pair
    power = Inversion.power_from_mel(mel(synth), np.abs(DatasetCreator.stft(piano)) ** 2)
    assert (power >= 0).all() and power.shape == (1 + hp.n_fft // 2, 1 + synth.size // hp.hop_length)
    found, wanted = DatasetCreator.mel_filters() @ power, mel(synth)
    loud = wanted > wanted.max() * 1e-6
    assert np.abs(10 * np.log10(found[loud] / wanted[loud])).mean() < 0.5


def test_a_spectrum_that_fits_stays_the_same():
    start = np.random.default_rng(0).random((1 + hp.n_fft // 2, 7)).astype(np.float32)
    power = Inversion.power_from_mel(DatasetCreator.mel_filters() @ start, start)
    used = DatasetCreator.mel_filters().sum(axis=0) > 0
    np.testing.assert_allclose(power[used], start[used], rtol=1e-3, atol=1e-4)


def test_silence_becomes_silence_and_a_silent_guide_does_no_harm(pair):
    _, synth = pair
    silent = np.zeros((1 + hp.n_fft // 2, 20), np.complex64)
    assert not Inversion.invert(np.zeros((hp.n_mels, 20), np.float32), silent).any()
    audio = Inversion.invert(mel(synth)[:, 60:80], silent)
    assert np.isfinite(audio).all() and audio.any()


def test_griffin_lim_keeps_a_consistent_spectrum(pair):
    _, synth = pair
    size = synth.size // hp.hop_length * hp.hop_length
    spectrum = DatasetCreator.stft(synth[:size])
    np.testing.assert_allclose(Inversion.griffin_lim(np.abs(spectrum), spectrum, iterations=4), synth[:size],
                               atol=1e-4)


def test_more_iterations_of_griffin_lim_come_closer(pair):
    piano, synth = pair
    magnitude, phase = np.abs(DatasetCreator.stft(synth)), DatasetCreator.stft(piano)
    distances = [Evaluation.spectral_distance(librosa.util.fix_length(Inversion.griffin_lim(magnitude, phase, n),
                                                                      size=synth.size), synth)
                 for n in (0, 4, 16, 32)]
    assert distances == sorted(distances, reverse=True) and len(set(distances)) == 4


def test_the_inversion_does_not_depend_on_the_level(pair):
    piano, synth = pair
    loud, soft = (Inversion.invert(gain * mel(synth), DatasetCreator.stft(piano)) for gain in (1, 1e-4))
    np.testing.assert_allclose(soft * 100, loud, atol=0.01 * np.abs(loud).max())


def test_the_inversion_runs_on_the_device_of_the_networks(pair, monkeypatch):
    """Every available kind of device; Apple's MPS is replaced by the processor."""
    _, synth = pair
    part, guide = mel(synth)[:, :40], DatasetCreator.stft(synth)[:, :40]
    expected = Inversion.invert(part, guide)
    for device in "mps", *["cuda"] * torch.cuda.is_available():
        found = Inversion.invert(part, guide, device=device)
        assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()
    devices = []

    def invert(mel, guide, inversion, device, voiced):
        devices.append(device)
        return np.zeros((mel.shape[1] - 1) * hp.hop_length, np.float32)

    monkeypatch.setattr(Inversion, "invert", invert)
    there = torch.device("cpu", 0)
    network = torch.nn.Conv2d(1, 1, 1)
    network.in_channels = 1
    Main.resynthesise(synth[:5000], (AEModel(network, there),))
    assert devices == [there]


def test_an_unknown_inversion_is_refused(pair):
    with pytest.raises(ValueError, match="'kl' or 'report', not 'magic'"):
        Inversion.invert(mel(pair[0]), DatasetCreator.stft(pair[0]), "magic")
