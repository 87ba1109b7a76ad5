"""Inversion: from the mel spectrogram to audio, and the chunks of a long one."""
import numpy as np
import pytest
import torch

import Evaluation
import Hyperparameters as hp
import Main
from AEModel import AEModel
from audio import audio_files, chunking, mel_inversion
from audio.mel_inversion import griffin_lim, invert, power_from_mel
from DatasetCreator import log_mel, mel_filters, mel_from_log, mel_power, stft


@pytest.fixture(scope="module")
def pair(three_seconds):
    """Spectra of the demo's first seconds on both instruments, and the audio of the second."""
    piano, synth = (audio_files.read_audio(three_seconds / side / f"{hp.demo.stem}.wav")[:250 * hp.hop_length]
                    for side in ("piano", "synth"))
    return stft(piano), stft(synth), synth


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


@pytest.mark.parametrize("chunk_frames", (16, 64, 200))
def test_chunks_of_all_lengths_fade_into_each_other(monkeypatch, chunk_frames):
    monkeypatch.setattr(hp, "chunk_frames", chunk_frames)
    monkeypatch.setattr(hp, "hop_length", 4)
    for frames in range(2, 700):
        parts = chunking.chunks(frames)
        assert parts[0][0] == 0 and parts[-1][1] == frames
        assert all(end == start for (_, end), (start, _) in zip(parts, parts[1:]))
        assert len(parts) == 1 or min(end - start for start, end in parts) >= chunking.fade_frames
        output = np.zeros((frames - 1) * 4, np.float32)
        for first, last in parts:
            before, after = max(first - 12, 0), min(last + 12, frames)
            chunking.add_faded(output, np.ones((after - before - 1) * 4, np.float32), before, first, last)
        np.testing.assert_allclose(output, 1, atol=1e-6)
