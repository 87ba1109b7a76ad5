"""The tuning of a recording: its estimate, notes and sound of pianos that are not in A 440."""
import numpy as np
import pytest
import torch

import Hyperparameters as hp
import Main
from AEModel import AEModel
from audio import audio_metrics, concert_pitch
from notes import note_events


def chords(cents, seconds=2.0, stretch=2e-4, gain=0.05):
    """Decaying chords of a piano `cents` from A 440, with partials as sharp as those of stiff strings."""
    time, k = np.arange(round(seconds * hp.sample_rate)) / hp.sample_rate, np.arange(1, 9)[:, None]
    audio = np.zeros(time.size)
    for onset, keys in ((0, (45, 60, 64, 67)), (0.7, (43, 59, 62, 71)), (1.3, (48, 60, 67, 76))):
        since = np.maximum(time - onset, 0)
        for key in keys:
            hertz = 440 * 2 ** ((key - 69) / 12 + cents / 1200) * k * np.sqrt(1 + stretch * k ** 2)
            audio += (np.exp(-2 * since - 0.4 * k) * np.sin(2 * np.pi * hertz * since)).sum(axis=0)
    return (gain * audio).astype(np.float32)


@pytest.mark.parametrize("cents", (-45, -20, 0, 45))
@pytest.mark.parametrize("audio", (
    chords, lambda cents: chords(cents) + 0.01 * np.random.default_rng(0).standard_normal(2 * hp.sample_rate),
    lambda cents: np.stack([chords(cents), 0 * chords(cents)], 1)), ids=("dry", "noisy", "one side"))
def test_the_tuning_of_two_seconds_is_found(cents, audio):
    assert concert_pitch.estimate_cents(audio(cents).astype(np.float32)) == pytest.approx(cents, abs=4)


@pytest.mark.parametrize("samples", (1, 100, 9000, 66150, 8 * hp.sample_rate))
def test_noise_and_silence_have_none(samples):
    noise = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    assert samples < hp.n_fft or concert_pitch.estimate_cents(noise) is None
    assert concert_pitch.estimate_cents(0 * noise) is None and concert_pitch.pitch_factor(0 * noise) == 1


@pytest.mark.parametrize("cents", (-6, 6))
def test_a_piano_in_tune_is_left_as_it_is(cents):
    audio = chords(cents)
    factor = concert_pitch.pitch_factor(audio)
    assert factor == 1 and concert_pitch.to_concert_pitch(audio, factor) is audio
    np.testing.assert_array_equal(concert_pitch.from_concert_pitch(audio, factor, len(audio)), audio)


@pytest.mark.parametrize("cents, remark", (
    (5, ""), (-20, "; the recording is 20 cents flat"), (30, "; the recording is 30 cents sharp"),
    (48, "; the recording is 48 cents sharp or 52 cents flat, and is taken for sharp"),
    (52, "; the recording is 48 cents flat or 52 cents sharp, and is taken for flat")))
def test_a_remark_tells_the_tuning_and_what_nobody_can_know(monkeypatch, cents, remark):
    monkeypatch.setattr(concert_pitch, "estimate_cents", lambda _: (cents + 50) % 100 - 50)
    assert concert_pitch.describe(None) == remark


@pytest.mark.parametrize("cents, tune, wanted", (
    (-40, None, -40), (30, None, 30), (-40, 440, 0), (30, 445, 19.56)))
def test_the_output_has_the_tuning_and_length_that_it_should(quick_inversion, monkeypatch, cents, tune, wanted):
    monkeypatch.setattr(hp, "kl_iterations", 5)
    audio, seen = chords(cents, 3.0), []
    monkeypatch.setattr(AEModel, "generate", lambda self, image: seen.append(image) or image)
    output, _ = Main.resynthesise(audio, [AEModel(torch.nn.Identity())], tune=tune)
    assert output.shape == audio.shape
    assert concert_pitch.estimate_cents(output) == pytest.approx(wanted, abs=5)
    level = [np.add.reduceat(np.square(sound, dtype=float), range(0, sound.size, 2000)) for sound in (audio, output)]
    assert np.corrcoef(*level)[0, 1] > 0.9  # its chords begin when they did
    longer = seen[0].shape[1] / (len(audio) // hp.hop_length + 1)
    assert longer == pytest.approx(2 ** (cents / 1200), abs=0.01)  # the network got it in A 440


@pytest.mark.parametrize("tune", (0, -440, 44, 880, float("nan"), float("inf")))
def test_a_pitch_that_no_piano_has_is_refused(tune):
    with pytest.raises(ValueError, match=f"tune: {tune:g} is outside 392 to 493 Hz; .* such as 440"):
        Main.pipeline(chords(0, 0.1), sample_rate=hp.sample_rate, tune=tune)


def test_recall_does_not_depend_on_the_tuning(root, render):
    """The shipped autoencoder on a render, whose piano FluidSynth tunes off."""
    excerpt, seconds = root / "data" / "MIDI_test" / "mozart_rondo_alla_turca.mid", 8
    true = note_events.read_notes(excerpt, seconds)
    model = Main.load_models(*Main.find_weights("shipped"))[0]
    recall, ends = [], []
    for cents in (0, -45, 45):
        audio = render(excerpt, limit_s=seconds, detune=cents).astype(np.float32) / 32768
        notes = Main.transcribe_audio(audio, model)
        recall.append(audio_metrics.note_scores(true, notes)["recall"])
        ends.append(notes[-1, 0])
    assert recall[0] > 0.9 and min(recall) > recall[0] - 0.03, recall
    assert max(ends) - min(ends) < 0.03  # in the recording's own time
