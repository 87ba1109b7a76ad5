"""The sampled voice: it sums what it should, wherever notes begin, and is stored with the weights."""
import io

import mido
import numpy as np
import pytest
import soundfile
import torch

import AEModel
import AEParts
import Chunks
import DatasetCreator
import Hyperparameters as hp
import Inversion
import Main
import SampledVoice
import Scale
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder
from TableDecoder import TableDecoder
from notes_common import small


def flac(sound):
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, hp.sample_rate, format="FLAC")
    return buffer.getvalue()


def tone(hertz, seconds=1.5, decay=2.0):
    t = np.arange(int(seconds * hp.sample_rate)) / hp.sample_rate
    return (0.5 * np.exp(-decay * t) * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def make_voice(keys=(57, 60, 69), layers=(127,), seconds=1.5):
    """A voice of sines, twice as loud at twice the velocity, released in 10 ms at the lowest and 40 at the highest."""
    streams = [flac(tone(440 * 2 ** ((key - 69) / 12) * (1 + layer), seconds)) for key in keys
               for layer in range(len(layers))]
    velocities = np.array([1.0, 64, 127])
    return SampledVoice.SampledVoice(
        streams=torch.frombuffer(bytearray(b"".join(streams)), dtype=torch.uint8),
        ends=torch.tensor(np.cumsum([len(stream) for stream in streams]).reshape(len(keys), -1)),
        keys=torch.tensor(keys), layers=torch.tensor(layers, dtype=torch.float32),
        velocities=torch.tensor(velocities, dtype=torch.float32),
        level=torch.tensor(np.tile(20 * np.log10(velocities / 127), (len(keys), 1)), dtype=torch.float32),
        release=torch.tensor([[0.01, 0.02, 0.04]] * len(keys)))


@pytest.fixture(scope="module")
def voice():
    return make_voice()


def unit(sound):
    return sound / np.sqrt((sound[:int(hp.voice_level_s * hp.sample_rate)] ** 2).mean())


def direct_sum(notes, samples):
    """What the voice is to compute, sample by sample, of sines that it knows as functions of time."""
    total = np.zeros(samples)
    for onset, end, key, velocity in notes:
        t = np.arange(samples) / hp.sample_rate - onset - hp.voice_delay / hp.sample_rate
        hertz = 440 * 2 ** ((key - 69) / 12)
        level = velocity / 127 / np.sqrt((tone(hertz)[:int(hp.voice_level_s * hp.sample_rate)] ** 2).mean())
        release = np.interp(np.log(velocity), np.log([1, 64, 127]), [0.01, 0.02, 0.04])
        sound = 0.5 * np.exp(-2 * t) * np.sin(2 * np.pi * hertz * t) * (t >= 0) * (t < 1.5)
        total += level * sound * np.exp(-np.maximum(t - (end - onset), 0) / release)
    return total


def test_the_voice_is_a_direct_sum_of_the_sounds_at_fractional_onsets(voice):
    rng = np.random.default_rng(0)
    notes = np.stack([rng.uniform(0, 1, 20), np.zeros(20), rng.choice((57, 60, 69), 20), rng.uniform(5, 127, 20)], 1)
    notes[:, 1] = notes[:, 0] + rng.uniform(0.02, 0.6, 20)
    ours, direct = voice.audio(notes, 0, 2 * hp.sample_rate), direct_sum(notes, 2 * hp.sample_rate)
    assert np.abs(ours - direct).max() < 0.01 * np.abs(direct).max()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_a_note_may_begin_between_two_samples(share):
    t = np.arange(4000)
    sound = np.sin(0.9 * t + 1).astype(np.float32) * np.hanning(4000).astype(np.float32)
    late = SampledVoice.delayed(sound, 100, 3900, share)
    exact = np.sin(0.9 * (t[100:3900] - share) + 1) * np.interp(t[100:3900] - share, t, np.hanning(4000))
    assert late.shape == exact.shape and np.abs(late - exact).max() < 3e-3


def test_parts_join_into_the_whole(voice):
    notes = np.array([[0.013, 0.5, 57, 90], [0.4, 1.9, 69, 60], [0.401, 0.41, 60, 127], [1.7, 4.0, 57, 30]])
    whole = voice.audio(notes, 0, 60000)
    assert whole.shape == (60000,) and np.abs(whole).max() > 0.1
    parts = [voice.audio(notes, start, size) for start, size in ((0, 1), (1, 30000), (30001, 29999))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    assert not voice.audio(notes, -5000, 5000).any()
    assert not voice.audio(np.zeros((0, 4)), 0, 10).any()


def test_keys_that_no_piano_has_count_for_nothing(voice):
    assert not voice.audio(np.array([[0, 1, 0, 100], [0, 1, 127, 100]]), 0, 1000).any()


def test_a_key_that_is_not_recorded_takes_the_nearest_sound_at_its_own_pitch(voice):
    sound = voice.sound(58, 100)
    hertz = np.abs(np.fft.rfft(sound[:hp.sample_rate])).argmax()
    assert abs(hertz - 440 * 2 ** (-11 / 12)) <= 1


def test_layers_are_mixed_between_their_velocities():
    voice = make_voice(keys=(69,), layers=(40, 100))
    soft, loud = unit(tone(440)), unit(tone(880))
    for velocity, share in ((20, 0), (40, 0), (70, 0.5), (100, 1), (127, 1)):
        np.testing.assert_allclose(voice.sound(69, velocity), (1 - share) * soft + share * loud, atol=1e-3)


def test_a_sound_is_prolonged_without_a_break_and_goes_on_falling():
    sound = tone(441.3, 4, decay=0.3)
    longer = SampledVoice.prolonged(sound, 8 * hp.sample_rate)
    assert len(longer) >= 8 * hp.sample_rate
    t = np.arange(8 * hp.sample_rate) / hp.sample_rate
    exact = 0.5 * np.exp(-0.3 * t) * np.sin(2 * np.pi * 441.3 * t)
    assert np.abs(np.diff(longer)).max() <= np.abs(np.diff(sound)).max() * 1.01
    envelope = [np.abs(signal[second * hp.sample_rate:(second + 1) * hp.sample_rate]).max()
                for signal in (longer, exact) for second in (4, 5, 6, 7)]
    np.testing.assert_allclose(envelope[:4], envelope[4:], rtol=0.1)
    assert not SampledVoice.prolonged(tone(440, 3, decay=20), 5 * hp.sample_rate)[3 * hp.sample_rate:].any()


def note_model(voice):
    torch.manual_seed(0)
    return AEModel.NoteModel(NoteAutoencoder(voice, **small))


def test_weights_hold_the_voice_and_load_without_running_code(voice, tmp_path):
    model, path = note_model(voice), tmp_path / "ae.torch"
    torch.save(AEModel.snapshot(model.network, {"pair": "a -> b"}), path)
    loaded = AEModel.load_model(Autoencoder, path)
    assert loaded.voice and loaded.pair == "a -> b"
    notes = np.array([[0.1, 0.5, 60, 90]], np.float32)
    np.testing.assert_array_equal(loaded.mel_decibels(notes, 0, 40), model.mel_decibels(notes, 0, 40))
    assert AEModel.digest(loaded.network.state_dict()) == AEModel.digest(model.network.state_dict())


def test_weights_with_a_table_still_load_and_sound_as_before(tmp_path):
    model, path = note_model(None), tmp_path / "ae.torch"
    torch.save(model.network.state_dict(), path)
    loaded = AEModel.load_model(Autoencoder, path)
    assert loaded.voice is None and isinstance(loaded.network.decoder, TableDecoder)
    notes = np.array([[0.1, 0.5, 60, 90]], np.float32)
    np.testing.assert_array_equal(loaded.note_spectrogram(notes, 40), model.note_spectrogram(notes, 40))


def test_the_spectrogram_of_notes_is_that_of_their_audio(voice):
    model, notes = note_model(voice), np.array([[0.1, 0.5, 60, 90], [0.3, 0.9, 69, 50]], np.float32)
    audio = voice.audio(notes, 0, 86 * hp.hop_length)
    ours = model.note_spectrogram(notes, 86)
    np.testing.assert_allclose(ours[:, :84], DatasetCreator.spectrogram(audio)[:, :84], atol=2e-3)
    assert not model.note_spectrogram(notes[:0], 20).any()


@pytest.mark.parametrize("samples", [1, 300, 5000, 40001])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_length_comes_out_as_long_and_as_loud(voice, samples, channels, monkeypatch):
    monkeypatch.setattr(Chunks, "explained_share", lambda audio, notes: 1)
    rng = np.random.default_rng(0)
    recording = 0.1 * rng.standard_normal((samples, channels)).astype(np.float32)
    recording = recording if channels > 1 else recording[:, 0]
    notes = np.array([[0.0, 1.0, 60, 90], [0.5, 1.9, 69, 40]], np.float32)
    output, pictures = Main.resynthesise(recording, [note_model(voice)], notes=notes)
    assert output.shape == recording.shape and len(pictures) == 2 and np.isfinite(output).all()
    if samples > 1000:
        assert np.linalg.norm(output) == pytest.approx(np.linalg.norm(recording), rel=0.05)


def test_chunks_have_no_seams(voice, monkeypatch):
    monkeypatch.setattr(Chunks, "explained_share", lambda audio, notes: 1)
    notes = np.array([[onset, onset + 0.7, key, 80] for onset, key in zip(np.arange(0, 9, 0.31), (57, 60, 69) * 10)],
                     np.float32)
    recording = 0.1 * np.random.default_rng(0).standard_normal(10 * hp.sample_rate).astype(np.float32)
    whole = Main.resynthesise(recording, [note_model(voice)], notes=notes)[0]
    monkeypatch.setattr(hp, "chunk_frames", 128)
    monkeypatch.setattr(hp, "context_frames", 32)
    assert len(Chunks.chunks(Chunks.n_frames(recording))) > 5
    parts = Main.resynthesise(recording, [note_model(voice)], notes=notes)[0]
    assert np.abs(parts - whole).max() < 0.01 * np.abs(whole).max()


def test_without_a_correction_the_voice_comes_out_as_it_is(voice):
    notes = np.array([[0.2, 1.0, 60, 90], [0.5, 1.9, 69, 40], [0.9, 1.5, 57, 110]], np.float32)
    spectrum = voice.spectrum(notes, 0, 180)
    image = np.zeros((hp.n_mels, 180), np.float32)
    audio = Inversion.invert(Inversion.change_level(spectrum, image, image), spectrum, voiced=True)
    direct = voice.audio(notes, 0, len(audio))
    audio *= np.linalg.norm(direct) / np.linalg.norm(audio)
    assert np.linalg.norm(audio - direct) < 0.05 * np.linalg.norm(direct)


# rendered by FluidSynth

def test_a_scale_is_rendered_and_plays_like_the_instrument(instruments, monkeypatch):
    import MIDI2Audio

    file, bank, program = instruments[1]
    monkeypatch.setattr(hp, "lowest_key", 60)
    monkeypatch.setattr(hp, "n_keys", 2)
    voice = Scale.render_voice((file, bank, program))
    preset = MIDI2Audio.find_soundfont(file), bank, program, False
    messages = [(0, mido.Message("note_on", note=60, velocity=100)), (9000, mido.Message("note_off", note=60))]
    rendered = Scale.render_events(messages, hp.sample_rate, preset)
    note = [-hp.voice_delay / hp.sample_rate, (9000 - hp.voice_delay) / hp.sample_rate, 60, 100]
    played = voice.audio(np.array([note]), 0, hp.sample_rate)
    assert np.linalg.norm(played - rendered) < 0.2 * np.linalg.norm(rendered)


def test_the_decoder_is_sampled_where_the_target_can_be_rendered():
    assert AEParts.choose_decoder("FluidR3_GM.sf2:0:5") == "sampled"
    assert AEParts.choose_decoder("FluidR3_GM.sf2:0:5", "table") == "table"
    assert AEParts.choose_decoder("recordings") == AEParts.choose_decoder("FluidR3_GM.sf2:0:5:room") == "table"
    with pytest.raises(ValueError, match="--decoder table"):
        AEParts.choose_decoder("recordings", "sampled")
