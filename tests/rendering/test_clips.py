"""Training clips: notes, pianos and rooms that are drawn, and the sources that they are drawn from."""
import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
from rendering import (bystanders, clip_sources, random_performances, random_pianos, random_rooms, sample_player,
                       simulated_rooms, training_clips)
from notes_common import clip_notes, late, note_labels, pedal, rate, some_notes

pytestmark = pytest.mark.usefixtures("one_thread")


def sine_piano(keys=(30, 60, 90), layers=(24, 56, 88, 120), seconds=1.0):
    """Return decaying sines, louder in the layers of higher velocities, as `random_pianos.read_piano` does."""
    t = torch.arange(int(seconds * hp.sample_rate)) / hp.sample_rate
    hertz = 440 * 2 ** ((torch.tensor(keys)[:, None, None] - 69) / 12)
    sounds = torch.sin(2 * np.pi * hertz * t) * torch.exp(-3 * t) * (torch.tensor(layers)[:, None] / 127)
    return sounds, torch.tensor(keys).float(), torch.tensor(layers)


def test_notes_are_summed_sample_by_sample(monkeypatch):
    monkeypatch.setattr(sample_player, "block", 700)
    monkeypatch.setattr(sample_player, "blocks_at_once", 5)
    rng, notes = np.random.default_rng(0), 40
    sounds = rng.standard_normal((3, 5000)).astype(np.float32)
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
    ours = sample_player.sum_notes(*map(torch.from_numpy, (sounds, sound, clip)), *numbers, (2, 8001))
    assert np.abs(ours.numpy() - direct).max() < 0.01 * np.abs(direct).max()  # a release ends with its block, at -61 dB


@pytest.mark.parametrize("cents", (0, 50))
def test_keys_between_recorded_ones_have_their_own_pitch(cents):
    sounds, keys, _ = sine_piano(layers=(100,))
    spread = sample_player.spread_keys(sounds, keys, cents=torch.full((hp.n_keys,), float(cents)))
    assert spread.shape == (hp.n_keys, 1, sounds.shape[-1])
    for key in (25, 44, 46, 60, 71, 93):
        spectrum = np.abs(np.fft.rfft(spread[key - hp.lowest_key, 0, :11025].numpy() * np.hanning(11025), 2 ** 17))
        hertz = spectrum.argmax() * hp.sample_rate / 2 ** 17
        assert abs(12 * np.log2(hertz / 440) - (key - 69 + cents / 100)) < 0.2, key
    assert not spread[-1, 0, -1000:].any()  # the faster a sound, the sooner it ends


# what the network sees

def test_the_front_end_is_that_of_recordings():
    rng = np.random.default_rng(0)
    frames, size = 120, 120 * hp.hop_length
    audio = (rng.standard_normal((2, size)) * np.geomspace(1, 1e-4, size)).astype(np.float32)
    audio[1] += np.sin(np.arange(size) * 0.1)
    audio = torch.from_numpy(audio)
    pitch, mel = training_clips.batch_spectrograms(audio, frames)
    for i in range(2):
        np.testing.assert_allclose(mel[i], DatasetCreator.spectrogram(audio[i].numpy())[:, :frames], atol=2e-3)
        np.testing.assert_allclose(pitch[i], DatasetCreator.pitch_spectrogram(audio[i].numpy())[:, :60], atol=2e-3)
    assert mel.shape == (2, hp.n_mels, frames) and mel.min() < 0.5 < mel.max() == 1
    _, quieter = training_clips.batch_spectrograms(audio, frames, torch.tensor([0.0, 8.0])[:, None, None])
    assert torch.equal(quieter[0], mel[0])
    torch.testing.assert_close(quieter[1], (mel[1] - 0.1).clamp(min=0), atol=1e-5, rtol=0)


def test_labels_are_those_of_notes_and_those_of_a_crop_are_part_of_the_whole():
    note = np.float32([(20.25 / rate, 40 / rate, 60, 127), (30 / rate, 31 / rate, 62, 64)])
    onset, sounding, velocity, offset = note_labels(note, 60)
    np.testing.assert_allclose(onset[18:23, 39], (0.1, 0.5, 0.9, 0.7, 0.3), atol=1e-4)
    assert (velocity[18:23, 39] == 1).all() and velocity[30, 41] == np.float32(64 / 127)
    assert np.flatnonzero(sounding[:, 39]).tolist() == list(range(21, 40)) and sounding[:, 41].sum() == 2
    assert offset[:, 39].argmax() == 40 and offset[40, 39] == 1 and not onset[:, :39].any()
    both = [some_notes(60, 6.5, seed) for seed in (0, 1)]
    labels = training_clips.label_clips(torch.cat([clip_notes(notes, i) for i, notes in enumerate(both)]), 2, 600)
    for whole, notes in zip(labels, both):
        np.testing.assert_array_equal(whole, note_labels(notes, 600))
        later = notes - np.float32([101 / rate, 101 / rate, 0, 0])
        np.testing.assert_allclose(note_labels(later, 77), whole[:, 101:178], atol=1e-4)
    assert not training_clips.label_clips(torch.zeros(0, 5), 1, 10).any()


# pianos

def test_a_sampled_piano_sounds_like_the_rendered_one(instruments, monkeypatch, midi, tmp_path):
    for name, value in dict(keys=(50, 60, 70), sound_s=1.0, velocities=(30, 60, 90, 120)).items():
        monkeypatch.setattr(clip_sources, name, value)
    for name, value in dict(plain_share=1, touch_deviation=0, layer_deviation=0).items():
        monkeypatch.setattr(random_pianos, name, value)
    monkeypatch.setitem(random_pianos.note_db, "deviation", 0)
    monkeypatch.setitem(random_pianos.release, "seconds", (0.07, 0.07))
    clip_sources.save_piano(tmp_path / "piano.npz", clip_sources.sample_piano(*clip_sources.open_piano(instruments[0])))
    piano = random_pianos.read_piano(np.load(tmp_path / "piano.npz"))
    assert piano[0].shape == (3, 4, hp.sample_rate) and piano[1].tolist() == [50, 60, 70]
    torch.manual_seed(0)
    notes = np.array([(onset, onset + 0.4, key, 90) for onset, key in ((0.3, 60), (0.8, 50), (1.3, 70), (2, 60))])
    pool = random_pianos.Instruments([piano], [], 1)
    pool.hold(0)
    played = pool.play(clip_notes(notes), 1, 3 * hp.sample_rate, 0)[0]
    path = midi(tmp_path / "notes.mid", [(0, int(key), onset, end) for onset, end, key, _ in notes])
    MIDI2Audio.synthesise_midi_to_audio(path, tmp_path / "notes.wav", *instruments[0])
    rendered = soundfile.read(tmp_path / "notes.wav", frames=3 * hp.sample_rate, dtype="float32")[0]
    played = played.numpy()[:len(rendered)]
    assert abs(late(rendered, played)) < 0.004
    ours, theirs = (80 * DatasetCreator.spectrogram(audio) for audio in (played, rendered))
    assert np.abs(ours - theirs).mean() < 3


def test_drawn_pianos_differ_and_plain_ones_do_not(monkeypatch):
    torch.manual_seed(0)
    pianos = [sine_piano(seconds=0.3)]
    monkeypatch.setattr(random_pianos, "plain_share", 1)
    assert torch.equal(random_pianos.draw_piano(pianos)[0], sample_player.spread_keys(*pianos[0][:2]))
    other = sine_piano(keys=(50,), layers=(64,), seconds=0.3)
    drawn = [random_pianos.draw_piano(pianos, [other])[1] for _ in range(60)]
    assert 2 < sum(len(velocities) == 1 for velocities in drawn) < 30
    monkeypatch.setattr(random_pianos, "plain_share", 0)
    first, second, third = (random_pianos.draw_piano(pianos)[0] for _ in range(3))
    assert all(sounds.isfinite().all() for sounds in (first, second, third))
    assert not torch.allclose(first, second) and not torch.allclose(second, third)


def test_a_late_sound_begins_at_its_onset():
    sound = np.repeat(np.float32([0, 1]), 1000)
    assert clip_sources.attack_delay(sound) == 1000 - clip_sources.latest_attack
    assert clip_sources.attack_delay(sound[900:]) == 0


# rooms

def test_a_recording_is_finite_as_long_and_not_late(responses):
    torch.manual_seed(0)
    clips, size = 8, 4 * hp.sample_rate
    dry = torch.randn(clips, size) * torch.exp(-(torch.arange(size) % 11025) / 500)
    rooms, resonance = random_rooms.Rooms(responses, "cpu"), random_rooms.string_resonance("cpu")
    recorded = random_rooms.record(dry, torch.ones_like(dry), rooms, resonance)
    assert recorded.shape == dry.shape and recorded.isfinite().all()
    assert not torch.allclose(recorded[0], dry[0] / dry[0].std(), atol=0.1)
    lags = [late(*(audio[i, hp.sample_rate:].numpy() for audio in (dry, recorded))) for i in range(clips)]
    assert max(map(abs, lags)) < 0.003
    assert random_rooms.record(0 * dry, 0 * dry, rooms, resonance).isfinite().all()


def test_room_responses_begin_with_the_direct_sound_and_have_unit_energy(responses):
    torch.manual_seed(0)
    for simulated in [], responses:
        drawn = random_rooms.Rooms(simulated, "cpu").draw(6)
        torch.testing.assert_close(drawn.norm(dim=1), torch.ones(6))
        assert (drawn.abs().argmax(1) < 0.1 * hp.sample_rate).all()


def test_simulated_rooms_begin_with_the_direct_sound_and_depend_on_their_seed():
    [first], [again], [other] = (simulated_rooms.room_responses(1, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:100], other[:100])
    for response in first, other:
        assert np.linalg.norm(response) == pytest.approx(1, rel=1e-3) and response.size <= 2.5 * hp.sample_rate
        assert np.abs(response[:40]).max() > 0.3 * np.abs(response).max()


# clips

def clip_maker(folder, responses, monkeypatch):
    """Return a maker of clips with one piano of sines, two rooms and a recording of noise beside the piano."""
    monkeypatch.setattr(clip_sources, "keys", (30, 60, 90))
    monkeypatch.setattr(training_clips, "pool_size", 2)
    (folder / "pianos").mkdir(parents=True, exist_ok=True)
    clip_sources.save_piano(folder / "pianos" / "sines.npz", sine_piano(seconds=0.3)[0].numpy())
    np.savez(folder / "rooms.npz", *[response.astype(np.float16) for response in responses])
    (folder / "beside").mkdir(exist_ok=True)
    noise = np.random.default_rng(0).uniform(-1, 1, hp.sample_rate)
    soundfile.write(folder / "beside" / "noise.wav", noise, hp.sample_rate)
    return training_clips.ClipMaker(folder)


def test_clips_of_the_same_notes_differ(responses, tmp_path, monkeypatch):
    torch.manual_seed(0)
    maker, frames = clip_maker(tmp_path, responses, monkeypatch), 64
    notes = torch.cat([clip_notes(np.array([[0.2, 0.5, 60, 90], [-0.5, 0.4, 40, 70]]), clip) for clip in (0, 1)])
    images, lead, first = [], int(maker.lead * hp.sample_rate), int((maker.lead + 0.1) * hp.sample_rate)
    for _ in range(2):
        dry, down = maker.play(notes, torch.tensor([[0, 0.1, 0.4]]), 2, frames, 0)
        assert not down[0, :first].any() and down[0, first + 1:first + 6000].all() and not down[1].any()
        audio = maker.hear(dry, down)
        assert audio.shape == dry.shape == down.shape == (2, lead + frames * hp.hop_length)
        pitch, mel = maker.spectrograms(audio[:, lead:], frames)
        assert pitch.shape == (2, hp.n_pitches, 32) and mel.shape == (2, hp.n_mels, 64)
        assert 0 <= mel.min() < mel.max() <= 1
        images.append(mel)
    for other in images[0][1], images[1][0]:
        assert (images[0][0] - other).abs().mean() > 0.01


def test_the_pianos_of_a_number_and_the_rooms_of_a_seed_are_always_the_same(responses, tmp_path, monkeypatch):
    monkeypatch.setattr(random_pianos, "plain_share", 0)
    notes, audio = clip_notes(np.array([[0.2, 0.5, 60, 90]])), {}
    for numbers in (0, 8), (8,):  # the second as if resumed
        maker = clip_maker(tmp_path, responses, monkeypatch)
        for first in numbers:
            torch.manual_seed(7)
            audio[numbers, first] = maker.play(notes, torch.zeros(0, 3), 1, 32, first)[0][0].numpy()
        assert maker.instruments.numbers == [8, 9]
        before = torch.get_rng_state()
        audio[numbers, "heard"] = maker.hear_recording(audio[numbers, 8], 3)
        assert torch.equal(torch.get_rng_state(), before)
    for made in 8, "heard":
        np.testing.assert_array_equal(audio[(0, 8), made], audio[(8,), made])
    assert not np.array_equal(audio[(0, 8), 0], audio[(0, 8), 8])


def test_what_is_beside_the_piano_is_heard_at_its_level(responses, tmp_path, monkeypatch):
    for part in ("equaliser", "fine_equaliser", "low_pass", "high_pass", "compressor", "clipping", "noise_level",
                 "coder", "resonance"):
        monkeypatch.setitem(getattr(random_rooms, part), "share", 0)
    monkeypatch.setattr(random_rooms, "room_share", 0)
    maker, size = clip_maker(tmp_path, responses, monkeypatch), 2 * hp.sample_rate
    tone = torch.sin(torch.arange(size) * 0.1)[None].repeat(40, 1)
    for share, db in (0, (-10, -10)), (1, (-10, -10)), (1, (-20, -20)):
        monkeypatch.setitem(random_rooms.beside, "share", share), monkeypatch.setitem(random_rooms.beside, "db", db)
        heard = maker.hear(tone)
        rest = heard - tone * (heard * tone).sum(1, keepdim=True) / (tone * tone).sum(1, keepdim=True)
        found = (rest.norm(dim=1) / (heard - rest).norm(dim=1)).mean()
        assert found == pytest.approx(share * 10 ** (db[0] / 20), abs=2e-3)
    assert maker.hear(0 * tone).std(1).min() == pytest.approx(1, abs=0.1)  # nobody plays
    notes, pedal = (torch.zeros(0, columns) for columns in (5, 3))
    assert not maker.play(notes, pedal, 1, 32, 0)[0].any()


@pytest.mark.parametrize("exercise_share", (0, 1))
def test_drawn_notes_are_valid_and_repeatable(monkeypatch, exercise_share):
    monkeypatch.setattr(random_performances, "exercise_share", exercise_share)
    pieces = [(some_notes(80, 20).astype(float), np.array([[1.0, 2.0], [3.0, 9.0]]))]
    drawn = [random_performances.draw_notes(pieces, 4.0, np.random.default_rng(seed)) for seed in (*range(10), 0)]
    np.testing.assert_array_equal(drawn[0][0], drawn[-1][0])
    assert drawn[0][0].shape != drawn[1][0].shape
    for notes, spans in drawn:
        onset, end, key, velocity = notes.T
        assert (end > onset).all() and (onset > -hp.clip_lead_s - 0.2).all() and (spans[:, 1] > spans[:, 0]).all()
        assert (key >= hp.lowest_key).all() and (key < hp.lowest_key + hp.n_keys).all()
        assert (velocity >= random_performances.min_velocity).all() and (velocity <= 127).all()
        order = np.lexsort((onset, key))
        same = np.diff(key[order]) == 0
        assert (end[order][:-1][same] <= onset[order][1:][same] + 1e-4).all()


def test_some_clips_are_silent():
    pieces = [(some_notes(80, 20).astype(float), np.zeros((0, 2)))]
    drawn = [len(random_performances.draw_notes(pieces, 4.0, np.random.default_rng(seed))[0]) for seed in range(200)]
    assert 0 < drawn.count(0) < 20


# sources

def test_bystanders_are_heard_and_written_once(instruments, tmp_path, monkeypatch):
    monkeypatch.setattr(bystanders, "stored_s", dict.fromkeys(bystanders.kinds, 3))
    bystanders.store(tmp_path)
    paths = sorted(tmp_path.glob("*"))
    assert [path.stem for path in paths] == sorted(bystanders.kinds)
    shares = {}
    for path in paths:
        audio, rate = soundfile.read(path, dtype="float32")
        assert rate == hp.sample_rate and len(audio) >= 3 * rate - 1 and np.abs(audio).max() > 0.5
        power = DatasetCreator.mel_power(DatasetCreator.stft(audio))
        peaks = np.sort(power, axis=0)[-6:].sum(0)  # a harmonic sound has most of its power in few bands
        shares[path.stem] = float(peaks.sum() / power.sum())
    assert shares["singing"] > shares["clapping"] + 0.2 and shares["speech"] > shares["clapping"]
    times = [path.stat().st_mtime_ns for path in paths]
    bystanders.store(tmp_path)
    assert times == [path.stat().st_mtime_ns for path in paths]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        bystanders.find_espeak()


def test_pieces_are_collected_and_read_again(midi, tmp_path, capsys, monkeypatch):
    for i in range(4):
        midi(tmp_path / "MIDI" / f"piece{i}.mid", [(0, 60 + i, 0.5, 1.0), (0, 72, 1.0, 4.0)],
             pedal((0.25, 127), (1.5, 0), (3.0, 100)))
    midi(tmp_path / "MIDI" / "too_high.mid", [(0, 120, 0, 1)])
    (tmp_path / "MIDI" / "damaged.mid").write_bytes(b"MThd\0\0")
    collected = clip_sources.collect_pieces([tmp_path / "MIDI"])
    assert "damaged.mid" in capsys.readouterr().err
    assert collected["note_counts"] == [2] * 4 and collected["pedal_counts"] == [2] * 4
    np.savez(tmp_path / "pieces.npz", **collected)
    monkeypatch.setattr(clip_sources, "validation_step", 3)
    validation, training = clip_sources.read_pieces(tmp_path / "pieces.npz")
    assert [notes[0, 2] for notes, _ in validation] == [60, 63] and [notes[0, 2] for notes, _ in training] == [61, 62]
    notes, spans = training[0]
    np.testing.assert_allclose(notes[:, :3], [[0.5, 1, 61], [1, 4, 72]], atol=1e-3)
    np.testing.assert_allclose(spans, [[0.25, 1.5], [3, 4]], atol=1e-3)  # up at the end of the last note


def test_an_sfz_instrument_is_sampled_with_the_controllers_that_are_asked_for(tmp_path, monkeypatch):
    for name, value in dict(keys=(57, 69), sound_s=0.5, velocities=(30, 127)).items():
        monkeypatch.setattr(clip_sources, name, value)
    t = np.arange(4 * hp.sample_rate) / hp.sample_rate
    soundfile.write(tmp_path / "a4.wav", np.sin(2 * np.pi * 440 * np.maximum(t - 0.1, 0)), hp.sample_rate)
    path = tmp_path / "sine.sfz"
    path.write_text("<region> sample=a4.wav pitch_keycenter=69 lokey=0 hikey=127 volume=0 volume_oncc7=-20")
    pianos = [clip_sources.open_piano(clip_sources.parse_piano(f"{path}:7={value}")) for value in (0, 127)]
    loud, soft = (clip_sources.sample_piano(*piano) for piano in pianos)
    assert loud.shape == (2, 2, hp.sample_rate // 2) and pianos[0][0] == "sine_7-0"
    for sound, hertz in zip(loud[:, 1, 1000:9000], (220, 440)):
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(8000)))
        assert spectrum.argmax() == pytest.approx(hertz * 8000 / hp.sample_rate, abs=1)
    assert 20 * np.log10(np.abs(soft).max() / np.abs(loud).max()) == pytest.approx(-20, abs=0.5)
    assert np.abs(loud[:, 0]).max() < 0.5 * np.abs(loud[:, 1]).max()
    assert np.flatnonzero(np.abs(loud[1, 1]) > 0.1 * loud.max())[0] == pytest.approx(clip_sources.latest_attack, abs=9)
    for text, error, said in (("none.sfz", FileNotFoundError, "none.sfz"), ("a.sfz:7=x", ValueError, "FILE.sfz:74=127"),
                              (f"{tmp_path / 'empty.sfz'}", ValueError, "recordings are missing")):
        (tmp_path / "empty.sfz").write_text("<region> sample=none.wav")
        with pytest.raises(error, match=said):
            clip_sources.open_piano(clip_sources.parse_piano(text))


def test_folders_without_notes_are_one_sentence(instruments, midi, tmp_path):
    (tmp_path / "empty").mkdir()
    midi(tmp_path / "high" / "too_high.mid", [(0, 120, 0, 1)])
    for folder, piano, error, text in (("empty", "FluidR3_GM.sf2", FileNotFoundError, "empty"),
                                       ("empty", "Missing.sf2", FileNotFoundError, "Missing.sf2"),
                                       ("high", "FluidR3_GM.sf2", ValueError, "no MIDI file with notes")):
        with pytest.raises(error, match=text):
            clip_sources.main([str(tmp_path / folder), "--data", str(tmp_path), "--pianos", f"{piano}:0:0", "--others"])
    assert not (tmp_path / "clips").exists()
