"""Inversion: from the mel spectrogram to audio."""
import numpy as np
import pytest
import torch

import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Main
from AEModel import AEModel
from audio import audio_files, mel_inversion
from audio.mel_inversion import griffin_lim, invert, power_from_mel
from DatasetCreator import log_mel, mel_filters, mel_from_log, mel_power, stft


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Spectra of the demo's first seconds on both instruments, and the audio of the second."""
    wav, audio = tmp_path_factory.mktemp("pair") / "render.wav", []
    for preset in hp.piano_preset, hp.synth_preset:
        MIDI2Audio.synthesise_midi_to_audio(hp.data / "MIDI_test" / f"{hp.demo.stem}.mid", wav, *preset, limit_s=3)
        audio.append(audio_files.read_audio(wav)[:250 * hp.hop_length])
    return stft(audio[0]), stft(audio[1]), audio[1]


def test_the_round_trip_of_a_render_is_better_than_the_reports(pair):
    piano, synth, audio = pair
    stored = mel_from_log(log_mel(mel_power(synth), mel_power(synth).max()))
    (error, distance), (report_error, report_distance) = (
        (Evaluation.log_mel_l1(found, audio), Evaluation.spectral_distance(found, audio))
        for found in (invert(stored, piano, inversion) for inversion in ("kl", "report")))
    assert error < 1.5 and error < report_error - 1
    assert distance < 0.2 and distance < report_distance


def test_the_power_spectrum_has_the_given_mel_power(pair):
    piano, synth, _ = pair
    power, wanted = power_from_mel(mel_power(synth), np.abs(piano) ** 2), mel_power(synth)
    assert (power >= 0).all() and power.shape == synth.shape
    loud = wanted > wanted.max() * 1e-6
    assert np.abs(10 * np.log10((mel_filters() @ power)[loud] / wanted[loud])).mean() < 0.5


def test_a_spectrum_that_fits_stays_the_same():
    start = np.random.default_rng(0).random((1 + hp.n_fft // 2, 7)).astype(np.float32)
    power, used = power_from_mel(mel_filters() @ start, start), mel_filters().sum(axis=0) > 0
    np.testing.assert_allclose(power[used], start[used], rtol=1e-3, atol=1e-4)


def test_silence_becomes_silence_and_a_silent_guide_does_no_harm(pair):
    silent = np.zeros((1 + hp.n_fft // 2, 20), np.complex64)
    assert not invert(np.zeros((hp.n_mels, 20), np.float32), silent).any()
    audio = invert(mel_power(pair[1])[:, 60:80], silent)
    assert np.isfinite(audio).all() and audio.any()


def test_griffin_lim_keeps_a_consistent_spectrum_and_comes_closer_to_it_with_each_iteration(pair):
    piano, synth, audio = pair
    np.testing.assert_allclose(griffin_lim(np.abs(synth), synth, iterations=4), audio, atol=1e-4)
    distances = [Evaluation.spectral_distance(griffin_lim(np.abs(synth), piano, n), audio) for n in (0, 4, 16, 32)]
    assert distances == sorted(distances, reverse=True) and len(set(distances)) == 4


def test_the_inversion_does_not_depend_on_the_level(pair):
    piano, synth, _ = pair
    loud, soft = (invert(gain * mel_power(synth), piano) for gain in (1, 1e-4))
    np.testing.assert_allclose(soft * 100, loud, atol=0.01 * np.abs(loud).max())


def test_the_inversion_runs_on_the_device_of_the_networks(pair, monkeypatch):
    """Every available kind of device; Apple's MPS is replaced by the processor."""
    _, synth, audio = pair
    part = mel_power(synth)[:, :40], synth[:, :40]
    expected, devices = invert(*part), []
    for device in "mps", *["cuda"] * torch.cuda.is_available():
        assert np.abs(invert(*part, device=device) - expected).mean() < 0.05 * np.abs(expected).mean()
    monkeypatch.setattr(mel_inversion, "invert", lambda mel, guide, inversion, device, voiced: (
        devices.append(device), np.zeros((mel.shape[1] - 1) * hp.hop_length, np.float32))[1])
    monkeypatch.setattr(AEModel, "generate", lambda self, image: image)
    Main.resynthesise(audio[:5000], (AEModel(torch.nn.Identity(), torch.device("cpu", 0)),))
    assert devices == [torch.device("cpu", 0)]


def test_an_unknown_inversion_is_refused(pair):
    with pytest.raises(ValueError, match="'kl' or 'report', not 'magic'"):
        invert(mel_power(pair[0]), pair[0], "magic")
