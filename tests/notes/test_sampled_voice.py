"""The sampled voice: it sums what it should, wherever notes begin, and is stored with the weights."""
import mido
import numpy as np
import pytest
import torch
from librosa import midi_to_hz as frequency

import AEModel
import DatasetCreator
import Hyperparameters as hp
import Main
import MIDI2Audio
from audio import chunking, mel_inversion
from Autoencoder import Autoencoder
from notes import sampled_voice, transcription
from notes.note_autoencoder import NoteAutoencoder
from notes_common import make_voice, small, tone
from rendering import voice_sampling
from training import note_training


@pytest.fixture(scope="module")
def voice():
    return make_voice()


def unit(sound):
    return sound / np.sqrt((sound[:int(sampled_voice.voice_level_s * hp.sample_rate)] ** 2).mean())


def test_the_voice_is_a_direct_sum_of_the_sounds_at_fractional_onsets(voice):
    rng, samples = np.random.default_rng(0), 2 * hp.sample_rate
    notes = np.stack([rng.uniform(0, 1, 20), np.zeros(20), rng.choice((57, 60, 69), 20), rng.uniform(5, 127, 20)], 1)
    notes[:, 1] = notes[:, 0] + rng.uniform(0.02, 0.6, 20)
    direct = np.zeros(samples)
    for onset, end, key, velocity in notes:
        t = (np.arange(samples) - 44) / hp.sample_rate - onset
        level = velocity / 127 * unit(tone(frequency(key))).max() / tone(frequency(key)).max()
        release = np.interp(np.log(velocity), np.log([1, 64, 127]), [0.01, 0.02, 0.04])
        sound = 0.5 * np.exp(-2 * t) * np.sin(2 * np.pi * frequency(key) * t) * (t >= 0) * (t < 1.5)
        direct += level * sound * np.exp(-np.maximum(t - (end - onset), 0) / release)
    others = [(0, 1, key, 100) for key in (0, 20, 109, 127)]  # that no piano has
    assert np.abs(voice.audio(np.concatenate([notes, others]), 0, samples) - direct).max() < 0.01 * np.abs(direct).max()


def test_a_key_that_is_not_recorded_takes_the_nearest_sound_at_its_own_pitch(voice):
    assert abs(np.abs(np.fft.rfft(voice.sound(58, 100)[:hp.sample_rate])).argmax() - frequency(58)) <= 1


def test_layers_are_mixed_between_their_velocities():
    voice = make_voice(keys=(69,), layers=(40, 100))
    soft, loud = unit(tone(440)), unit(tone(880))
    for velocity, share in ((20, 0), (40, 0), (70, 0.5), (100, 1), (127, 1)):
        np.testing.assert_allclose(voice.sound(69, velocity), (1 - share) * soft + share * loud, atol=1e-3)


def test_a_sound_is_prolonged_without_a_break_and_goes_on_falling():
    sound, exact = tone(441.3, 4, decay=0.3), tone(441.3, 8, decay=0.3)
    longer = sampled_voice.prolonged(sound, exact.size)
    assert longer.size == exact.size and np.abs(np.diff(longer)).max() <= np.abs(np.diff(sound)).max() * 1.01
    ours, wanted = (np.abs(signal.reshape(8, -1)[4:]).max(axis=1) for signal in (longer, exact))
    np.testing.assert_allclose(ours, wanted, rtol=0.1)
    assert not sampled_voice.prolonged(tone(440, 3, decay=20), 5 * hp.sample_rate)[3 * hp.sample_rate:].any()


def note_model(voice):
    torch.manual_seed(0)
    return AEModel.NoteModel(NoteAutoencoder(voice, **small))


@pytest.mark.parametrize("sampled", (True, False))
def test_weights_hold_the_decoder_and_load_without_running_code(voice, tmp_path, sampled):
    model, path, notes = note_model(voice if sampled else None), tmp_path / "ae.torch", np.float32([[0.1, 0.5, 60, 90]])
    torch.save(AEModel.snapshot(model.network, {"pair": "a -> b"}), path)
    loaded = AEModel.load_model(Autoencoder, path)
    assert bool(loaded.voice) == sampled and loaded.pair == "a -> b"
    np.testing.assert_array_equal(loaded.note_spectrogram(notes, 40), model.note_spectrogram(notes, 40))
    assert AEModel.digest(loaded.network.state_dict()) == AEModel.digest(model.network.state_dict())


def test_the_spectrogram_of_notes_is_that_of_their_audio(voice):
    model, notes = note_model(voice), np.array([[0.1, 0.5, 60, 90], [0.3, 0.9, 69, 50]], np.float32)
    audio = voice.audio(notes, 0, 86 * hp.hop_length)
    ours = model.note_spectrogram(notes, 86)
    np.testing.assert_allclose(ours[:, :84], DatasetCreator.spectrogram(audio)[:, :84], atol=2e-3)
    assert not model.note_spectrogram(notes[:0], 20).any()


@pytest.mark.parametrize("shape", [(1,), (1, 2), (300,), (5000, 2), (40001,)])
def test_any_length_comes_out_as_long_and_as_loud(voice, shape, monkeypatch):
    monkeypatch.setattr(transcription, "explained_share", lambda audio, notes: 1)
    recording = 0.1 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    notes = np.array([[0.0, 1.0, 60, 90], [0.5, 1.9, 69, 40]], np.float32)
    output, pictures = Main.resynthesise(recording, [note_model(voice)], notes=notes)
    assert output.shape == shape and len(pictures) == 2 and np.isfinite(output).all()
    if len(recording) > 1000:
        assert np.linalg.norm(output) == pytest.approx(np.linalg.norm(recording), rel=0.05)


@pytest.mark.parametrize("sampled", (True, False))
def test_chunks_have_no_seams_where_notes_are_held_across_them(voice, monkeypatch, sampled):
    monkeypatch.setattr(transcription, "explained_share", lambda audio, notes: 1)
    notes = np.array([(onset, onset + 0.7, key, 80) for onset, key in zip(np.arange(0, 5, 0.31), (57, 60, 69) * 6)] +
                     [(0.2, 5.5, 64, 100)], np.float32)
    recording = 0.1 * np.random.default_rng(0).standard_normal(6 * hp.sample_rate).astype(np.float32)
    model, played = note_model(voice if sampled else None), []
    for size, context in (5000, 448), (128, 64):
        monkeypatch.setattr(hp, "chunk_frames", size)
        monkeypatch.setattr(hp, "context_frames", context)
        played.append(Main.resynthesise(recording, [model], notes=notes)[0])
    assert len(chunking.chunks(chunking.n_frames(recording))) > 4
    assert np.abs(played[1] - played[0]).max() < (0.01 if sampled else 0.05) * np.abs(played[0]).max()


def test_without_a_correction_the_voice_comes_out_as_it_is(voice):
    notes = np.array([[0.2, 1.0, 60, 90], [0.5, 1.9, 69, 40], [0.9, 1.5, 57, 110]], np.float32)
    spectrum, image = voice.spectrum(notes, 0, 180), np.zeros((hp.n_mels, 180), np.float32)
    audio = mel_inversion.invert_chunk([image] * 3, [spectrum], spectrum, None, "cpu")
    direct = voice.audio(notes, 0, len(audio))
    audio *= np.linalg.norm(direct) / np.linalg.norm(audio)
    assert np.linalg.norm(audio - direct) < 0.05 * np.linalg.norm(direct)


def test_a_scale_is_rendered_and_plays_like_the_instrument(instruments, monkeypatch):
    file, bank, program = instruments[1]
    monkeypatch.setattr(hp, "lowest_key", 60)
    monkeypatch.setattr(hp, "n_keys", 2)
    messages = [(0, mido.Message("note_on", note=60, velocity=100)), (9000, mido.Message("note_off", note=60))]
    rendered = voice_sampling.render_events(messages, hp.sample_rate,
                                            (MIDI2Audio.find_soundfont(file), bank, program, False))
    note = np.array([[0, 9000 / hp.sample_rate, 60, 100]])
    voice = voice_sampling.render_voice(instruments[1])
    played = voice.audio(note, voice.delay, hp.sample_rate)
    assert np.linalg.norm(played - rendered) < 0.2 * np.linalg.norm(rendered)


def test_the_decoder_is_sampled_where_the_target_can_be_rendered():
    choose, preset = note_training.choose_decoder, "FluidR3_GM.sf2:0:5"
    assert choose(preset) == "sampled"
    assert choose(preset, "table") == choose("recordings") == choose(f"{preset}:room") == "table"
    with pytest.raises(ValueError, match="--decoder table"):
        choose("recordings", "sampled")
