"""Performance variants, exercises, simulated recordings and randomised timbres keep the times of their notes."""
import functools
import random

import mido
import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve

import Augmentation
import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Performances
import Util
from AEDataset import NoteDataset
from notes_common import late, pedal, rate

pytestmark = pytest.mark.usefixtures("one_thread")


# performance variants

def timed_messages(file):
    """Return (seconds, message) of a MIDI file."""
    now, found = 0.0, []
    for message in file:
        now += message.time
        found.append((now, message))
    return found


@pytest.mark.parametrize("make", (
    functools.partial(Performances.vary_performance, hp.data / "MIDI_test" / "mozart_rondo_alla_turca.mid"),
    Performances.random_exercise),
                         ids=("variant", "exercise"))
def test_variants_depend_on_their_seed_and_are_playable(tmp_path, make):
    written = []
    for seed in range(8):
        files = [make(random.Random(seed)) for _ in range(2)]
        for i, file in enumerate(files):
            file.save(tmp_path / f"{i}.mid")
        written.append(tmp_path.joinpath("0.mid").read_bytes())
        assert written[-1] == tmp_path.joinpath("1.mid").read_bytes()
        struck = [(time, message) for time, message in timed_messages(files[0]) if message.type == "note_on"]
        assert len(struck) > 10
        for time, message in struck:
            assert 0 <= time < hp.limit_s + 0.1
            assert hp.lowest_key <= message.note < hp.lowest_key + hp.n_keys and 6 <= message.velocity <= 127
        assert max(length for length, _ in timed_messages(files[0])) < 3 * hp.limit_s
    assert len(set(written)) == 8


def test_exercises_use_all_keys():
    keys = {message.note for seed in range(25) for _,
            message in timed_messages(Performances.random_exercise(random.Random(seed)))
            if message.type == "note_on"}
    assert keys == set(range(hp.lowest_key, hp.lowest_key + hp.n_keys))


def test_a_variant_of_a_piece_whose_pedal_begins_late(tmp_path, midi):
    path = midi(tmp_path / "piece.mid", [(0, 60, 0.0, 0.5), (0, 64, 0.6, 1.0)], pedal((0.8, 127), (1.5, 0)))
    for seed in range(20):
        assert len(timed_messages(Performances.vary_performance(path, random.Random(seed)))) > 2


def test_files_of_a_render_with_variants(rendered, instruments, tmp_path):
    names = {"one", "one~0", "one~1", "two", "two~0", "two~1"}
    for folder, ending in ("MIDI", "mid"), ("notes", "mid"), ("piano", "wav"), ("synth", "wav"):
        found = {path.name for path in (rendered / folder).iterdir()} - {"preset.txt", "generated.txt"}
        assert found == {f"{name}.{ending}" for name in names}
    assert not (rendered / "piano_2").exists()
    assert "FluidR3_GM.sf2:0:1" in (rendered / "piano" / "preset.txt").read_text()
    assert (rendered / "piano" / "preset.txt").read_text().endswith(", recorded\n")
    for name in names:
        piano, synth = (Util.read_audio(rendered / side / f"{name}.wav") for side in ("piano", "synth"))
        assert piano.size == synth.size and np.abs(piano).max() > 0.9
    for side, preset in zip(("piano", "synth"), instruments):  # pieces are rendered as without variants
        MIDI2Audio.synthesise_midi_to_audio(rendered / "MIDI" / "one.mid", tmp_path / "one.wav", *preset)
        assert tmp_path.joinpath("one.wav").read_bytes() == (rendered / side / "one.wav").read_bytes()


def test_existing_files_are_kept(rendered, monkeypatch):
    times = {path: path.stat().st_mtime_ns for path in rendered.rglob("*.*")}
    monkeypatch.setattr(Augmentation, "room_responses", lambda: [])
    monkeypatch.setattr(hp, "simulated_recording_share", 1)  # as when they were rendered
    MIDI2Audio.main(["--data", str(rendered), "--variants", "1", "--simulate-recording", "--source",
                     "FluidR3_GM.sf2:0:0",
                     "FluidR3_GM.sf2:0:1"])
    assert {path: path.stat().st_mtime_ns for path in times if path.name != "preset.txt"} == {
        path: time for path, time in times.items() if path.name != "preset.txt"}


def test_a_damaged_file_gets_no_variants_and_does_not_stop_others(tmp_path, midi):
    midi(tmp_path / "fine.mid"), tmp_path.joinpath("damaged.mid").write_bytes(b"MThd")
    Performances.write_variants(tmp_path, 1)
    assert {path.name for path in tmp_path.glob("*.mid")} == {"damaged.mid", "fine.mid", "fine~0.mid", "fine~1.mid"}


def test_variants_of_a_piece_for_other_instruments_are_left_out_too(tmp_path, midi, instruments, capsys):
    midi(tmp_path / "MIDI" / "strings.mid", requests=[mido.Message("program_change", program=48, time=0)])
    midi(tmp_path / "MIDI" / "strings~1.mid"), midi(tmp_path / "MIDI" / "piano.mid")
    MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "piano", instruments[0], solo_piano=True)
    assert [path.name for path in (tmp_path / "piano").glob("*.wav")] == ["piano.wav"]
    assert capsys.readouterr().err.count("is not for piano alone") == 2


@pytest.mark.parametrize("side", ("piano", "synth"))
def test_labels_are_at_the_onsets_of_the_audio(takes, side):
    DatasetCreator.build(takes)
    for name in "one", "two":
        folder = takes / "generated" / name
        notes, image = np.load(folder / "notes.npy"), np.load(folder / f"{side}.npy").astype(np.float32)
        rise, late = np.maximum(np.diff(image, axis=1), 0).sum(axis=0), []
        assert len(notes) == 5
        for onset in notes[:, 0] * rate:
            near = np.arange(int(onset) - 8, int(onset) + 9)
            late.append(near[rise[near].argmax()] + 0.5 - onset)
        # an onset enters a window half a window before its centre
        assert np.abs(np.array(late) + 0.5).max() < 1 and abs(np.mean(late) + 0.5) < 0.5


def test_items_of_a_data_set_with_notes(takes):
    names = DatasetCreator.build(takes)
    assert DatasetCreator.has_notes(names, takes)
    dataset = NoteDataset(names, takes)
    for piece, name in enumerate(names):
        whole = dataset[piece]
        frames = whole["mel"].shape[1]
        shapes = {"pitch": (hp.n_pitches, -(-frames // 2)), "mel": (hp.n_mels, frames), "target": (hp.n_mels, frames),
                  "labels": (4, frames, hp.n_keys), "notes": (NoteDataset.most_notes, 4)}
        assert {part: tuple(whole[part].shape) for part in shapes} == shapes and whole["first"] == 0
        for start in 0, 41, frames - 20:
            crop, first = dataset[piece, start, 60, 3], start - start % 2
            assert crop["first"] == first
            for part, axis, step in ("pitch", 1, 2), ("mel", 1, 1), ("target", 1, 1), ("labels", 1, 1):
                length = min(60, frames - first) // step
                torch.testing.assert_close(crop[part].narrow(axis, 0, length),
                                           whole[part].narrow(axis, first // step, length), atol=1e-4, rtol=0)


def test_a_recording_a_little_longer_than_its_partner(takes):
    """The pitch spectrogram is as long as the mel spectrogram."""
    for folder in "piano", "synth":
        path = takes / folder / "one.wav"
        audio = Util.read_audio(path)
        size = audio.size // (2 * hp.hop_length) * 2 * hp.hop_length  # an even number of frames
        Util.write_audio(path, audio[:size + 10 * (folder == "piano") - 20 * (folder == "synth")])
    DatasetCreator.build(takes)
    shapes = [np.load(takes / "generated" / "one" / f"{name}.npy").shape[1] for name in ("piano", "piano_pitch")]
    assert shapes[1] == -(-shapes[0] // 2)


# simulated recordings

@pytest.mark.parametrize("seed", range(12))
def test_a_simulated_recording_keeps_length_and_time_and_depends_on_its_seed(responses, seed):
    audio = Util.read_audio(hp.demo)[:4 * hp.sample_rate]
    first, again, other = (Augmentation.simulate_recording(audio, np.random.default_rng(number), responses)
                           for number in (seed, seed, seed + 100))
    np.testing.assert_array_equal(first, again)
    assert first.shape == audio.shape and first.dtype == np.float32 and np.isfinite(first).all()
    assert not np.array_equal(first, other) and np.abs(first).max() < 1.2
    assert abs(late(audio, first)) <= 0.005


# randomised timbres

@pytest.fixture
def played(tmp_path, midi, instruments):
    """Function that renders two chords, the second with pedal, and returns the audio.

    With a seed the piano has a random timbre.
    """
    def render(seed=None, detune=0):
        notes = [(0, key, onset, onset + 0.7) for onset in (0.2, 1.2) for key in (31, 50, 62, 69, 97)]
        path = midi(tmp_path / "chords.mid", notes, pedal((0.0, 0), (1.1, 127), (2.2, 0)))
        MIDI2Audio.synthesise_midi_to_audio(path, tmp_path / "chords.wav", *instruments[0], detune=detune,
                                            timbre_rng=seed if seed is None else random.Random(seed))
        return Util.read_audio(tmp_path / "chords.wav")
    return render


def test_no_transposition_and_no_equaliser_give_the_same_piano(played, monkeypatch):
    monkeypatch.setattr(hp, "max_resize", 0)
    monkeypatch.setattr(Augmentation, "random_timbre", lambda groups, keys, rng: groups.sum(axis=0))
    plain, voiced = played(), played(1)
    assert plain.shape == voiced.shape
    assert np.abs(voiced - plain).mean() < 1e-3 and np.abs(voiced - plain).max() < 0.1


@pytest.mark.parametrize("seed", range(6))
def test_a_random_timbre_keeps_notes_and_times_and_depends_on_its_seed(played, seed):
    plain, first, again = played(), played(seed), played(seed)
    np.testing.assert_array_equal(first, again)
    assert first.shape == plain.shape and np.abs(first).max() == pytest.approx(hp.peak, abs=1e-3)
    whole, voiced = (DatasetCreator.spectrogram(audio) for audio in (plain, first))
    assert np.abs(whole - voiced).mean() * hp.top_db > 1
    assert abs(DatasetCreator.estimate_lag(whole, voiced)) <= 1
    loud = [DatasetCreator.pitch_spectrogram(audio)[:, 20:35].mean(axis=1) for audio in (plain, first)]
    bands = 1 + hp.pitch_bands_per_key * (np.array([50, 62, 69]) - hp.lowest_key)
    for image in loud:  # the fundamentals stand out from the keys between
        assert (image[bands] > image[bands + 3 * hp.pitch_bands_per_key] - 0.05).all()


def test_random_timbre_keeps_the_level():
    noise = np.random.default_rng(0).standard_normal((3, 20000)).astype(np.float32)
    for group, key in zip(noise, (30, 60, 90)):
        alone = Augmentation.random_timbre(group[None], [key], np.random.default_rng(2))
        assert np.linalg.norm(alone) == pytest.approx(np.linalg.norm(group), rel=1e-3)
        assert not np.allclose(alone, group, atol=0.1)
    assert not Augmentation.random_timbre(np.zeros((1, 500), np.float32), [60], np.random.default_rng(2)).any()


def test_only_variants_on_the_side_of_the_piano_get_a_random_timbre(tmp_path, midi, instruments, monkeypatch):
    midi(tmp_path / "MIDI" / "one.mid")
    calls, original = [], Performances.render_random_timbre
    monkeypatch.setattr(Performances, "random_exercise", functools.partial(Performances.random_exercise, limit_s=2))
    monkeypatch.setattr(Performances, "render_random_timbre",
                        lambda *arguments: calls.append(1) or original(*arguments))
    monkeypatch.setattr(hp, "random_timbre_share", 1)
    MIDI2Audio.main(["--data", str(tmp_path), "--takes", "2", "--voiced"])
    assert len(calls) == 3  # two variants and the exercise, not the piece
    assert (tmp_path / "piano" / "preset.txt").read_text().endswith(", voiced\n")
    assert "voiced" not in (tmp_path / "synth" / "preset.txt").read_text()


@pytest.mark.parametrize("compression", (0.3, 0.4, 0.5, 0.6))
def test_mp3_keeps_length_and_time(compression):
    audio = Util.read_audio(hp.demo)[:3 * hp.sample_rate + 77]
    coded = Augmentation.mp3_round_trip(audio, compression)
    assert coded.shape == audio.shape and abs(late(audio, coded)) < 1 / hp.sample_rate
    assert 0 < np.abs(coded - audio).max() < 0.2


def test_room_responses_begin_with_the_direct_sound_and_depend_on_their_seed():
    [first], [again], [other] = (Augmentation.room_responses.__wrapped__(1, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:100], other[:100])
    audio = Util.read_audio(hp.demo)[:2 * hp.sample_rate]
    for response in first, other:
        assert np.linalg.norm(response) == pytest.approx(1, rel=1e-3) and response.size <= 2.5 * hp.sample_rate
        assert np.abs(response[:40]).max() > 0.3 * np.abs(response).max()
        wet = fftconvolve(audio, response)[:audio.size]
        assert abs(DatasetCreator.estimate_lag(*map(DatasetCreator.spectrogram, (audio, wet)))) <= 1


def test_artificial_responses_begin_with_the_direct_sound_and_depend_on_their_seed():
    responses, (again, *_), (other, *_) = (Augmentation.artificial_responses.__wrapped__(8, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(responses[0], again)
    assert not np.array_equal(responses[0][:2000], other[:2000])
    for response in responses:
        assert np.linalg.norm(response) == pytest.approx(1, rel=1e-3) and response[0] == response.max() > 0.5
        halves = np.array_split(response[1:], 2)
        assert np.linalg.norm(halves[0]) > np.linalg.norm(halves[1]) > 0
