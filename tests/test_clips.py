"""Training clips: notes, pianos and rooms that are drawn, and the sources that they are drawn from."""
import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve

import Clips
import ClipSources
import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Notes
import RandomPerformances
import RandomPianos
import RandomRooms
import Sampler
import SimulatedRooms
import Util
from notes_common import late, pedal, some_notes

pytestmark = pytest.mark.usefixtures("one_thread")


def clip_notes(notes, clip=0):
    return torch.from_numpy(np.insert(notes, 0, clip, axis=1).astype(np.float32))


def sine_piano(keys=(30, 60, 90), layers=(24, 56, 88, 120), seconds=1.0):
    """Return decaying sines, louder in the layers of higher velocities, as `RandomPianos.read_piano` returns sounds."""
    t = torch.arange(int(seconds * hp.sample_rate)) / hp.sample_rate
    hertz = 440 * 2 ** ((torch.tensor(keys)[:, None, None] - 69) / 12)
    sounds = torch.sin(2 * np.pi * hertz * t) * torch.exp(-3 * t) * (torch.tensor(layers)[:, None] / 127)
    return sounds, torch.tensor(keys).float(), torch.tensor(layers)


# sums of sounds

def test_notes_are_summed_sample_by_sample():
    rng = np.random.default_rng(0)
    sounds = rng.standard_normal((3, 5000)).astype(np.float32)
    notes = 40
    sound, clip = rng.integers(0, 3, notes), rng.integers(0, 2, notes)
    start, held = rng.uniform(-4000, 9000, notes), rng.uniform(1, 6000, notes)
    gain, release = rng.uniform(0.1, 1, notes), rng.uniform(10, 800, notes)
    direct = np.zeros((2, 8001))
    for i in range(notes):
        place = np.arange(5000)[np.arange(5000) < held[i] + 7 * release[i]]
        value = gain[i] * sounds[sound[i], place] * np.exp(-np.maximum(place - held[i], 0) / release[i])
        at = place + int(np.round(start[i]))
        inside = (at >= 0) & (at < 8001)
        np.add.at(direct[clip[i]], at[inside], value[inside])
    numbers = [torch.from_numpy(part.astype(np.float32)) for part in (start, held, gain, release)]
    ours = Sampler.sum_notes(torch.from_numpy(sounds), torch.from_numpy(sound), torch.from_numpy(clip), *numbers,
                             (2, 8001), block=700, most=5).numpy()
    assert np.abs(ours - direct).max() < 0.01 * np.abs(direct).max()  # a release ends with its block, at -61 dB


def test_positions_between_samples_are_interpolated():
    wave = torch.sin(0.3 * torch.arange(200.))
    positions = torch.tensor([-5.0, 10.0, 10.25, 100.9, 400.0])
    exact = torch.sin(0.3 * positions) * torch.tensor([0, 1, 1, 1, 0])
    torch.testing.assert_close(Sampler.interpolate(wave, positions), exact, atol=2e-3, rtol=0)


def test_keys_between_recorded_ones_have_their_own_pitch():
    sounds, keys, _ = sine_piano()
    detuned = torch.full((hp.n_keys,), 50.0)
    for cents in None, detuned:
        spread = Sampler.spread_keys(sounds, keys, cents=cents)
        assert spread.shape == (hp.n_keys, 4, sounds.shape[-1])
        for key in (25, 44, 46, 60, 71, 93):
            spectrum = np.abs(np.fft.rfft(spread[key - hp.lowest_key, 0, :11025].numpy() * np.hanning(11025), 2 ** 17))
            hertz = spectrum.argmax() * hp.sample_rate / 2 ** 17
            wanted = key - 69 + (0.5 if cents is not None else 0)
            assert abs(12 * np.log2(hertz / 440) - wanted) < 0.2, key


# what the network sees

def test_the_front_end_is_that_of_recordings():
    rng = np.random.default_rng(0)
    frames = 120
    audio = (rng.standard_normal((2, frames * hp.hop_length)) * np.geomspace(1, 1e-4, frames * hp.hop_length)).astype(
        np.float32)
    audio[1] += np.sin(np.arange(audio.shape[1]) * 0.1)
    pitch, mel = Clips.FrontEnd("cpu")(torch.from_numpy(audio), frames)
    for i in range(2):
        torch.testing.assert_close(mel[i], torch.from_numpy(DatasetCreator.spectrogram(audio[i]))[:, :frames],
                                   atol=2e-3, rtol=0)
        torch.testing.assert_close(pitch[i], torch.from_numpy(DatasetCreator.pitch_spectrogram(audio[i]).astype(
            np.float32))[:, :frames // 2], atol=2e-3, rtol=0)
    assert mel.shape == (2, hp.n_mels, frames) and mel.min() < 0.5 < mel.max() == 1
    quieter = Clips.FrontEnd("cpu")(torch.from_numpy(audio), frames, torch.tensor([0.0, 8.0])[:, None, None])[1]
    assert torch.equal(quieter[0], mel[0])
    torch.testing.assert_close(quieter[1], (mel[1] - 0.1).clamp(min=0), atol=1e-5, rtol=0)


def test_labels_are_those_of_notes():
    frames, both = 600, [some_notes(60, 6.5, seed) for seed in (0, 1)]
    labels = Clips.label_clips(torch.cat([clip_notes(notes, i) for i, notes in enumerate(both)]), 2, frames)
    for label, notes in zip(labels, both):
        np.testing.assert_allclose(label, Notes.note_labels(notes, 0, frames), atol=1e-4)
    assert not Clips.label_clips(torch.zeros(0, 5), 1, 10).any()


# pianos

def test_a_sampled_piano_sounds_like_the_rendered_one(instruments, monkeypatch, midi, tmp_path):
    for name, value in dict(clip_piano_keys=(50, 60, 70), clip_piano_seconds=1.0, clip_piano_layers=(30, 60, 90, 120),
                            piano_plain_share=1, piano_touch=0, piano_layer_jitter=0, piano_note_db=0,
                            piano_release_s=(0.07, 0.07)).items():
        monkeypatch.setattr(hp, name, value)
    ClipSources.save_piano(tmp_path / "piano.npz", ClipSources.sample_preset(instruments[0]))
    piano = RandomPianos.read_piano(np.load(tmp_path / "piano.npz"))
    assert piano[0].shape == (3, 4, hp.sample_rate) and piano[1].tolist() == [50, 60, 70]
    torch.manual_seed(0)
    onsets, keys = (0.3, 0.8, 1.3, 2.0), (60, 50, 70, 60)
    notes = np.array([(onset, onset + 0.4, key, 90) for onset, key in zip(onsets, keys)])
    pool = RandomPianos.Instruments([piano], 1, torch.float32)
    pool.hold(0)
    played = pool.play(clip_notes(notes), 1, 3 * hp.sample_rate, 0)[0]
    path = midi(tmp_path / "notes.mid", [(0, int(key), onset, end) for onset, end, key, _ in notes])
    MIDI2Audio.synthesise_midi_to_audio(path, tmp_path / "notes.wav", *instruments[0])
    rendered = soundfile.read(tmp_path / "notes.wav", frames=3 * hp.sample_rate, dtype="float32")[0]
    played = played.numpy()[:len(rendered)]
    assert abs(late(rendered, played)) < 0.004
    ours, theirs = (80 * DatasetCreator.spectrogram(audio) for audio in (played, rendered))
    assert np.abs(ours - theirs).mean() < 3


def test_drawn_pianos_differ_and_plain_ones_do_not():
    torch.manual_seed(0)
    pianos = [sine_piano()]
    plain = [RandomPianos.draw_piano(pianos, plain=1)[0] for _ in range(2)]
    drawn = [RandomPianos.draw_piano(pianos, plain=0)[0] for _ in range(3)]
    assert torch.equal(*plain) and torch.equal(plain[0], Sampler.spread_keys(*pianos[0][:2]))
    assert all(sounds.isfinite().all() for sounds in drawn)
    assert not torch.allclose(drawn[0], drawn[1]) and not torch.allclose(drawn[1], drawn[2])


def test_a_late_sound_begins_at_its_onset():
    sound = np.zeros(hp.sample_rate, np.float32)
    sound[1000:] = 1
    assert ClipSources.attack_delay(sound) == 1000 - hp.clip_piano_attack
    assert ClipSources.attack_delay(sound[900:]) == 0


# rooms

def test_a_recording_is_finite_as_long_and_not_late(responses):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    clips, size = 8, 4 * hp.sample_rate
    burst = rng.standard_normal((clips, size)) * np.exp(-(np.arange(size) % 11025) / 500)
    dry = torch.from_numpy(burst.astype(np.float32))
    rooms = RandomRooms.Rooms(responses, "cpu")
    recorded = RandomRooms.record(dry, torch.ones_like(dry), rooms, RandomRooms.string_resonance("cpu"))
    assert recorded.shape == dry.shape and recorded.isfinite().all()
    assert not torch.allclose(recorded[0], dry[0] / dry[0].std(), atol=0.1)
    lags = [late(*(audio[i, hp.sample_rate:].numpy() for audio in (dry, recorded))) for i in range(clips)]
    assert max(map(abs, lags)) < 0.003
    silent = RandomRooms.record(torch.zeros(2, size), torch.zeros(2, size), rooms, RandomRooms.string_resonance("cpu"))
    assert silent.isfinite().all()


def test_room_responses_begin_with_the_direct_sound_and_have_unit_energy(responses):
    torch.manual_seed(0)
    for simulated in [], responses:
        drawn = RandomRooms.Rooms(simulated, "cpu").draw(6)
        torch.testing.assert_close(drawn.norm(dim=1), torch.ones(6))
        assert (drawn.abs().argmax(1) < 0.1 * hp.sample_rate).all()


def test_simulated_rooms_begin_with_the_direct_sound_and_depend_on_their_seed():
    [first], [again], [other] = (SimulatedRooms.room_responses(1, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:100], other[:100])
    audio = Util.read_audio(hp.demo)[:2 * hp.sample_rate]
    for response in first, other:
        assert np.linalg.norm(response) == pytest.approx(1, rel=1e-3) and response.size <= 2.5 * hp.sample_rate
        assert np.abs(response[:40]).max() > 0.3 * np.abs(response).max()
        wet = fftconvolve(audio, response)[:audio.size]
        assert abs(DatasetCreator.estimate_lag(*map(DatasetCreator.spectrogram, (audio, wet)))) <= 1


# clips

def clip_maker(folder, responses, monkeypatch):
    """Return a maker of clips with one piano of sines and two rooms."""
    monkeypatch.setattr(hp, "clip_piano_keys", (30, 60, 90))
    (folder / "pianos").mkdir(parents=True, exist_ok=True)
    ClipSources.save_piano(folder / "pianos" / "sines.npz", sine_piano(seconds=0.3)[0].numpy())
    np.savez(folder / "rooms.npz", *[response.astype(np.float16) for response in responses])
    return Clips.ClipMaker(folder, "cpu", pool=2)


def test_clips_of_the_same_notes_differ(responses, tmp_path, monkeypatch):
    torch.manual_seed(0)
    maker, frames = clip_maker(tmp_path, responses, monkeypatch), 64
    notes = torch.cat([clip_notes(np.array([[0.2, 0.5, 60, 90], [-0.5, 0.4, 40, 70]]), clip) for clip in (0, 1)])
    pedal = torch.tensor([[0, 0.1, 0.4]])
    images = []
    for _ in range(2):
        dry, down = maker.play(notes, pedal, 2, frames, 0)
        first = int((maker.lead + 0.1) * hp.sample_rate)
        assert not down[0, :first].any() and down[0, first + 1:first + 6000].all() and not down[1].any()
        audio = maker.hear(dry, down)
        assert audio.shape == dry.shape == down.shape == (2, int(maker.lead * hp.sample_rate) + frames * hp.hop_length)
        pitch, mel = maker.spectrograms(audio[:, int(maker.lead * hp.sample_rate):], frames)
        assert pitch.shape == (2, hp.n_pitches, 32) and mel.shape == (2, hp.n_mels, 64)
        assert 0 <= mel.min() < mel.max() <= 1
        images.append(mel)
    for other in images[0][1], images[1][0]:
        assert (images[0][0] - other).abs().mean() > 0.01


def test_the_pianos_and_the_rooms_of_a_step_are_always_the_same(responses, tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "piano_plain_share", 0)
    notes, audio = clip_notes(np.array([[0.2, 0.5, 60, 90]])), {}
    for steps in (0, 8), (8,):  # the second as if resumed
        maker = clip_maker(tmp_path, responses, monkeypatch)
        for step in steps:
            torch.manual_seed(7)
            audio[steps, step] = maker.play(notes, torch.zeros(0, 3), 1, 32, step)[0][0].numpy()
        assert maker.instruments.numbers == [4, 5]
        before = torch.get_rng_state()
        audio[steps, "heard"] = maker.hear_recording(audio[steps, 8], 3)
        assert torch.equal(torch.get_rng_state(), before)
    for made in 8, "heard":
        np.testing.assert_array_equal(audio[(0, 8), made], audio[(8,), made])
    assert not np.array_equal(audio[(0, 8), 0], audio[(0, 8), 8])


def test_performances_are_endless_valid_and_repeatable():
    notes = some_notes(80, 20)
    pieces = [(notes.astype(float), np.array([[1.0, 2.0], [3.0, 9.0]]))]
    batches = []
    for seed in (0, 0, 1):
        stream = iter(RandomPerformances.Performances(pieces, 5, 4.0, 3.0, seed, exercises=0.4))
        batches.append([next(stream) for _ in range(4)])
    assert all(torch.equal(one["notes"], other["notes"]) for one, other in zip(*batches[:2]))
    assert not torch.equal(batches[0][0]["notes"], batches[2][0]["notes"])
    for batch in batches[0]:
        clip, onset, end, key, velocity = batch["notes"].T
        assert set(clip.tolist()) <= set(range(5)) and (end > onset).all()
        assert (key >= hp.lowest_key).all() and (key < hp.lowest_key + hp.n_keys).all()
        assert (velocity >= hp.clip_min_velocity).all() and (velocity <= 127).all()
        assert (onset > -3.2).all() and (batch["pedal"][:, 2] > batch["pedal"][:, 1]).all()
        order = np.lexsort((onset, 100 * clip + key))
        same = (100 * clip + key)[order].diff() == 0
        assert (end[order][:-1][same] <= onset[order][1:][same] + 1e-4).all()


# sources

def test_pieces_are_collected_and_read_again(midi, tmp_path, capsys, monkeypatch):
    for i in range(4):
        midi(tmp_path / "MIDI" / f"piece{i}.mid", [(0, 60 + i, 0.5, 1.0), (0, 72, 1.0, 4.0)],
             pedal((0.25, 127), (1.5, 0), (3.0, 100)))
    midi(tmp_path / "MIDI" / "too_high.mid", [(0, 120, 0, 1)])
    (tmp_path / "MIDI" / "damaged.mid").write_bytes(b"MThd\0\0")
    collected = ClipSources.collect_pieces([tmp_path / "MIDI"])
    output = capsys.readouterr()
    assert "warning: " in output.out + output.err and "damaged.mid" in output.out + output.err
    assert collected["note_counts"] == [2] * 4 and collected["pedal_counts"] == [2] * 4
    np.savez(tmp_path / "pieces.npz", **collected)
    monkeypatch.setattr(hp, "clip_validation_step", 3)
    validation, training = ClipSources.read_pieces(tmp_path / "pieces.npz")
    assert [notes[0, 2] for notes, _ in validation] == [60, 63] and [notes[0, 2] for notes, _ in training] == [61, 62]
    notes, spans = training[0]
    np.testing.assert_allclose(notes[:, :3], [[0.5, 1, 61], [1, 4, 72]], atol=1e-3)
    np.testing.assert_allclose(spans, [[0.25, 1.5], [3, 4]], atol=1e-3)  # up at the end of the last note


def test_folders_without_notes_are_one_sentence(instruments, midi, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        ClipSources.main([str(tmp_path / "empty"), "--data", str(tmp_path), "--pianos", "FluidR3_GM.sf2:0:0"])
    with pytest.raises(FileNotFoundError, match="Missing.sf2"):
        ClipSources.main([str(tmp_path / "empty"), "--data", str(tmp_path), "--pianos", "Missing.sf2:0:0"])
    assert not (tmp_path / "clips").exists()
    midi(tmp_path / "high" / "too_high.mid", [(0, 120, 0, 1)])
    with pytest.raises(ValueError, match="no MIDI file with notes"):
        ClipSources.collect_pieces([tmp_path / "high"])
