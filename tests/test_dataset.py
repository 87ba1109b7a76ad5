"""From wav to log-mel spectrogram to pairs of tensors: the front end that all weights depend on."""
import os
import random
import re
import shutil
import tracemalloc
import types

import librosa
import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Util
from AEDataset import AEDataset, make_datasets, split_for_training
from UNetDataset import UNetDataset
from audio import audio_files
from audio.alignment import estimate_lag
from notes_common import rate
from training.note_dataset import NoteDataset


def noise(samples, seed=0):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def music(samples=2 * hp.sample_rate):
    """Three decaying partials with soft noise, for loud and soft bands and frames."""
    time = np.arange(samples) / hp.sample_rate
    tones = sum(np.sin(2 * np.pi * pitch * time) * np.exp(-pitch / 150 * time) for pitch in (220, 440, 3520))
    return (tones + 1e-5 * noise(samples)).astype(np.float32)


# front end

@pytest.mark.parametrize("audio", (music(), noise(22050), np.r_[noise(5000), np.zeros(30000, np.float32)]))
def test_the_front_end_is_librosas_mel_spectrogram_in_db_mapped_to_0_1(audio):
    audio[-2000:] = 0  # librosa has one more frame at the end, which must not have the maximum
    mel = librosa.feature.melspectrogram(y=audio, sr=22050, n_fft=1024, hop_length=256, n_mels=128)
    expected = librosa.power_to_db(mel, ref=np.max, top_db=80) / 80 + 1
    spectrogram = DatasetCreator.spectrogram(audio)
    np.testing.assert_allclose(spectrogram, expected[:, :spectrogram.shape[1]], atol=1e-5)
    assert spectrogram.dtype == np.float32


@pytest.mark.parametrize("center", (True, False))
def test_transform_and_filter_bank_are_librosas_bit_for_bit(center):
    """The shipped weights were trained on these."""
    audio = music()
    expected = librosa.stft(audio, n_fft=hp.n_fft, hop_length=hp.hop_length, center=center)
    found = DatasetCreator.stft(audio, center)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert np.array_equal(DatasetCreator.mel_filters(), librosa.filters.mel(sr=22050, n_fft=1024, n_mels=128))
    np.testing.assert_allclose(Util.mel_frequencies(40), librosa.mel_frequencies(40, fmin=hp.fmin, fmax=hp.fmax))


def test_a_sine_has_the_pinned_spectrogram():
    """The weights depend on these numbers, whatever librosa computes."""
    time = np.arange(22050) / 22050
    bands = [0, 5, 10, 14, 15, 16, 17, 18, 19, 25, 40, 60]
    pinned = [0.0, 0.0589, 0.257, 0.7356, 0.9384, 1.0, 0.9532, 0.741, 0.5306, 0.1211, 0.0, 0.0]
    column = DatasetCreator.spectrogram(np.sin(2 * np.pi * 440 * time).astype(np.float32))[:, 40]
    np.testing.assert_allclose(column[bands], pinned, atol=2e-4)


@pytest.mark.parametrize("samples, frames", (
    (30 * 22050, 2583), (1, 1), (100, 1), (255, 1), (256, 1), (511, 1), (512, 2), (1023, 3), (1024, 4), (22050, 86)))
def test_the_number_of_frames_is_samples_by_hop_length_and_at_least_one(samples, frames):
    spectrogram = DatasetCreator.spectrogram(noise(samples))
    assert spectrogram.shape == (128, frames)
    assert spectrogram.min() >= 0 and spectrogram.max() == 1


@pytest.mark.parametrize("spectrogram", (DatasetCreator.spectrogram, DatasetCreator.pitch_spectrogram))
def test_the_level_of_a_recording_does_not_change_its_spectrograms_and_silence_is_zero(spectrogram):
    audio = music()
    for exponent in -80, -10, 1, 100:
        assert np.array_equal(spectrogram(np.ldexp(audio, exponent)), spectrogram(audio))
    assert not spectrogram(np.zeros(22050, np.float32)).any()


# range

@pytest.mark.parametrize("reference", (1e-8, 1.0, 5e4))
def test_the_log_mel_map_is_inverted_within_top_db_of_the_reference(reference):
    db = np.random.default_rng(0).uniform(-hp.top_db + 0.01, 0, (128, 40))
    power = (reference * 10 ** (db / 10)).astype(np.float32)
    unit = DatasetCreator.log_mel(power, reference)
    assert unit.min() >= 0 and unit.max() <= 1
    np.testing.assert_allclose(DatasetCreator.mel_from_log(unit) * reference, power, rtol=1e-4)
    assert not DatasetCreator.mel_from_log(0 * unit).any()


# pairs

@pytest.fixture
def wavs(tmp_path):
    """Function that writes half a second of noise to files in folders of `tmp_path`, and returns `tmp_path`."""

    def write(folders, *names, samples=11025):
        for folder in folders.split():
            for seed, name in enumerate(names):
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, noise(samples, seed) / 8, hp.sample_rate)
        return tmp_path

    return write


def shapes(data, name="a"):
    """Return the shapes of the two spectrograms of a piece."""
    return [np.load(data / "generated" / name / f"{mode}.npy").shape for mode in ("piano", "synth")]


def age(paths, seconds=1_000_000_000):
    for path in paths:
        os.utime(path, (seconds, seconds))


def test_recordings_are_paired_by_name(wavs):
    wavs("piano", "b.wav", "a.wav", "suite/a.wav")
    data = wavs("synth", "a.WAV", "suite/a.flac", "b.wav")
    names = (("a", "a.wav", "a.WAV"), ("b", "b.wav", "b.wav"), ("suite__a", "suite/a.wav", "suite/a.flac"))
    assert DatasetCreator.find_pairs(data) == {
        name: (data / "piano" / piano, data / "synth" / synth) for name, piano, synth in names}
    assert DatasetCreator.build(data) == sorted(DatasetCreator.find_pairs(data))
    assert {path.parent.name for path in (data / "generated").rglob("*.npy")} == {"a", "b", "suite__a"}


@pytest.mark.parametrize("alone", ("piano", "synth"))
def test_a_recording_without_a_partner_is_left_out_and_what_is_missing_is_named(wavs, capsys, alone):
    data = wavs(alone, "lonely.wav", "suite/lonely.flac")
    other = data / {"piano": "synth", "synth": "piano"}[alone]
    missing = ", ".join(f"{other / name} (partner of {data / alone / name})"
                        for name in ("lonely.wav", "suite/lonely.flac"))
    wavs(other.name, "another.wav")
    with pytest.raises(ValueError) as error:
        DatasetCreator.build(data)
    assert missing in str(error.value) and str(data / alone / "another.wav") in str(error.value)
    assert str(error.value).endswith("; no recording has a partner of the same name; add them")
    assert not (data / "generated").exists()
    wavs("piano synth", "a.wav")
    (other / "another.wav").unlink()
    assert DatasetCreator.build(data) == ["a"]
    assert f"warning: missing: {missing}; these recordings are left out" in capsys.readouterr().err


def test_a_difference_of_one_frame_is_cut_and_more_or_silence_is_refused_by_name(wavs):
    for more in 1, hp.hop_length, hp.hop_length + 1:
        wavs("piano", "a.wav")
        data = wavs("synth", "a.wav", samples=11025 + more)
        if more > hp.hop_length:
            with pytest.raises(ValueError, match="piano/a.wav and .*synth/a.wav differ in length"):
                DatasetCreator.build(data)
        else:
            DatasetCreator.build(data)
            assert shapes(data) == [(128, 11025 // 256)] * 2
    audio_files.write_audio(data / "synth" / "a.wav", np.zeros(11025))
    with pytest.raises(ValueError, match="synth/a.wav is silent"):
        DatasetCreator.build(data)


def test_long_recordings_are_cut_into_pieces_of_30_s(wavs, midi):
    """A last piece of less than five seconds is left out. The notes go where their MIDI file goes."""
    data = wavs("piano synth", "a.wav", samples=66 * 22050)
    wavs("piano synth", "b.wav", samples=34 * 22050)
    file = midi(data / "notes" / "a.mid", [(0, 60, 1.0, 2.0), (0, 62, 29.0, 31.0), (0, 64, 61.5, 62.0)])
    assert DatasetCreator.build(data) == ["a", "a~2", "a~3", "b"]
    assert DatasetCreator.build(data, whole=False) == ["a", "b"]
    assert [shapes(data, name)[0][1] for name in ("a", "a~2", "a~3", "b")] == [2583, 2583, 516, 2583]
    folders = [data / "generated" / name for name in ("a", "a~2", "a~3")]
    audio = audio_files.read_audio(data / "piano" / "a.wav")[30 * 22050:60 * 22050]
    stored = np.load(folders[1] / "piano_audio.npy")[0] / 32767
    np.testing.assert_allclose(stored, audio / np.abs(audio).max(), atol=1e-4)
    notes = [np.load(folder / "notes.npy")[:, :3].tolist() for folder in folders]
    assert notes == [[[1, 2, 60], [29, 30, 62]], [[-1, 1, 62]], [[1.5, 2, 64]]]
    assert DatasetCreator.trained_for(data, ["a", "a~2", "b"])["pieces"] == 2
    dataset = NoteDataset(["a", "a~2", "a~3"], data)
    assert [len(dataset.clip(piece)[0]) / hp.sample_rate for piece in range(3)] == [30, 30, 6]
    assert len(dataset.clip(1)[1]) == 0  # its only note has begun before it
    assert all(len({"a", "a~2"} & set(side)) != 1 for side in split_for_training(["a", "a~2", "b"], 0))
    file.unlink()
    DatasetCreator.build(data)
    assert not list(data.rglob("notes.npy")) and shapes(data)[0] == (128, 2583)


def test_spectrograms_are_built_once_and_again_for_a_newer_recording(wavs):
    data = wavs("piano synth", "a.wav")
    stored = data / "generated" / "a" / "synth.npy"
    age(data.rglob("*.wav"))
    DatasetCreator.build(data)
    first = np.load(stored)
    np.save(stored, first + 1)
    for seconds, change in (1_000_000_000, 1), (3_000_000_000, 0):
        age([data / "synth" / "a.wav"], seconds)
        DatasetCreator.build(data)
        np.testing.assert_array_equal(np.load(stored), first + change)


@pytest.mark.parametrize("name, value, frames", (("hop_length", 128, 516), ("limit_s", 2, 172)))
def test_spectrograms_of_another_front_end_are_built_again(wavs, monkeypatch, name, value, frames):
    data = wavs("piano synth", "a.wav", samples=3 * 22050)
    DatasetCreator.build(data)
    with monkeypatch.context() as patch:
        patch.setattr(hp, name, value)
        DatasetCreator.build(data)
        assert shapes(data) == [(128, frames)] * 2
    DatasetCreator.build(data)
    assert shapes(data) == [(128, 258)] * 2


# tensors

def test_an_item_is_the_stored_pair_and_a_crop_is_part_of_it_padded_with_silence(three_seconds):
    names = DatasetCreator.build(three_seconds)
    dataset = AEDataset(names, three_seconds)
    assert len(dataset) == len(names) == 3
    for tensor, mode in zip(dataset[1], ("piano", "synth")):
        stored = np.load(three_seconds / "generated" / names[1] / f"{mode}.npy")
        assert tensor.shape == (1, 128, 258) and tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor[0].numpy(), stored.astype(np.float32))
        wav = audio_files.read_audio(three_seconds / mode / f"{names[1]}.wav")
        np.testing.assert_allclose(tensor[0].numpy(), DatasetCreator.spectrogram(wav), atol=5e-4)
    for start, frames in (0, 64), (100, 64), (194, 64), (0, 258), (0, 300), (250, 64):
        for whole, crop in zip(dataset[1], dataset[1, start, frames, 0]):
            here = min(frames, 258 - start)
            assert crop.shape == (1, 128, frames) and torch.equal(crop[..., :here], whole[..., start:start + here])
            assert not crop[..., here:].any()


def test_a_pair_of_different_shape_is_refused_by_name(data):
    Util.save_array(data / "generated" / "bach_prelude_c" / "piano.npy", np.zeros((128, 257), np.float16))
    with pytest.raises(ValueError, match="'bach_prelude_c' differ in shape"):
        AEDataset(["bach_prelude_c"], data)


def test_a_data_set_is_not_loaded_into_memory(tmp_path):
    for mode in "piano", "synth":
        path = tmp_path / "generated" / "long" / f"{mode}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(path, "w+", np.float16, (128, 400_000))[:, -64:] = 1
    tracemalloc.start()
    source, target = AEDataset(["long"], tmp_path)[0, 399_936, 64, 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.shape == (1, 128, 64) and bool((source == 1).all() and (target == 1).all())
    assert peak < 1e6 < path.stat().st_size / 100


def test_a_data_set_may_have_more_clips_than_open_files(tmp_path, few_files):
    """`ulimit -n` is 256 on macOS."""
    names = [f"{i:03}" for i in range(300)]
    image, arrays = tmp_path / "piano.npy", {
        "piano": np.ones((hp.n_mels, 9), np.float16), "synth": np.ones((hp.n_mels, 9), np.float16),
        "piano_audio": np.ones((1, 9 * hp.hop_length), np.int16), "notes": np.array([[0, 1, 60, 90]], np.float32)}
    for file, array in arrays.items():
        Util.save_array(tmp_path / f"{file}.npy", array)
        for name in names:
            (tmp_path / "generated" / name).mkdir(parents=True, exist_ok=True)
            os.link(tmp_path / f"{file}.npy", tmp_path / "generated" / name / f"{file}.npy")
    outputs = types.SimpleNamespace(sources=["piano"], own_level=False, paths=lambda name: [(image, image)])
    with few_files(256):
        for dataset in AEDataset(names, tmp_path, augmented=True), UNetDataset(names, tmp_path, outputs, in_channels=2):
            assert len([dataset[key] for i in range(300) for key in (i, (i, 2, 4, 0))]) == 600
        dataset = NoteDataset(names, tmp_path)
        assert len([(dataset[i, 2, 4, 0, 0], dataset.clip(i)) for i in range(300)]) == 300


# split

@pytest.mark.parametrize("count, held_out", ((94, 19), (10, 2), (5, 1), (3, 1), (2, 1)))
def test_the_split_is_80_to_20_disjoint_and_independent_of_order(count, held_out):
    names = [f"piece {i}" for i in range(count)]
    training, validation = Util.split(names, seed=3)
    assert len(validation) == held_out and sorted(training + validation) == sorted(names)
    for seed in range(5):
        random.Random(seed).shuffle(names)
        assert Util.split(names, seed=3) == (training, validation)
    assert count < 94 or Util.split(names, seed=0) != (training, validation)
    assert Util.split(["only"]) == (["only"], ["only"])


# several pianos

def test_pianos_are_numbered_folders_in_order(tmp_path):
    for name in "piano", "piano_10", "piano_2", "piano_old", "piano_", "pianos_3":
        (tmp_path / name).mkdir()
    (tmp_path / "piano_4").touch()
    assert DatasetCreator.find_sources(tmp_path) == ["piano", "piano_2", "piano_10"]


def test_crops_come_from_all_pianos_and_whole_clips_from_the_first(data):
    shutil.copytree(data / "synth", data / "piano_2")
    dataset = AEDataset(DatasetCreator.build(data), data, DatasetCreator.find_sources(data))
    whole = dataset[0]
    seen = {tuple(float((dataset[0, 0, 258, seed][0] - other).abs().max()) == 0 for other in whole)
            for seed in range(20)}
    assert seen == {(True, False), (False, True)}


def test_the_validation_piano_is_not_trained_on(data):
    shutil.copytree(data / "synth", data / "piano_2")
    training, validation = make_datasets(DatasetCreator.build(data), data, 0, False, "piano_2")
    assert all(len(sources) == 1 for sources in training.sources) and len(training) == 2
    (source, target), (held_out, same) = validation
    assert torch.equal(target, same) and torch.equal(held_out, same) and not torch.equal(source, target)


def test_a_validation_piano_that_is_missing_or_the_only_one_is_refused_with_the_names_of_all(data):
    for pianos, source in ("piano", "piano"), ("piano, piano_2", "piano_3"):
        with pytest.raises(ValueError, match=f"at least two pianos, not '{source}'; {data} holds {pianos}$"):
            make_datasets(DatasetCreator.build(data), data, 0, False, source)
        shutil.copytree(data / "synth", data / "piano_2", dirs_exist_ok=True)


# alignment

@pytest.mark.parametrize("frames", (-30, 0, 1, 7, 86))
def test_the_lag_of_a_pair_is_found(three_seconds, frames):
    name = DatasetCreator.build(three_seconds)[1]
    piano, synth = (np.load(three_seconds / "generated" / name / f"{mode}.npy").astype(np.float32)
                    for mode in ("piano", "synth"))
    late = np.roll(synth, frames, axis=1)
    assert estimate_lag(piano, late) == pytest.approx(frames, abs=1) and estimate_lag(synth, late) == frames


def test_a_pair_that_is_not_aligned_is_shifted_with_a_warning(data, capsys):
    shutil.copytree(data / "piano", data / "piano_2")
    path, folder = data / "synth" / "bach_prelude_c.wav", data / "generated" / "bach_prelude_c"
    audio = audio_files.read_audio(path)
    audio_files.write_audio(path, np.concatenate([np.zeros(6615), audio[:-6615]]))
    DatasetCreator.build(data)
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert re.search(rf"{path} comes \+0\.(29|30|31)\d s after {data / 'piano' / path.name}; the later one is shifted",
                     warning), warning
    for source in "piano", "piano_2":
        pair = [np.load(folder / f"{side}.npy").astype(np.float32) for side in (source, "synth")]
        assert pair[0].shape == pair[1].shape and abs(estimate_lag(*pair)) <= 1
    audio_files.write_audio(path, audio)
    DatasetCreator.build(data)
    assert "comes" not in capsys.readouterr().err


def test_music_that_repeats_itself_causes_no_warning(root, instruments, tmp_path, capsys):
    for folder, preset in ("piano", instruments[0]), ("synth", ("FluidR3_GM.sf2", 0, 11)):
        MIDI2Audio.synthesise_midi_to_audio(root / "data" / "MIDI_test" / "bach_prelude_c.mid",
                                            tmp_path / folder / "bach.wav", *preset)
    DatasetCreator.build(tmp_path)
    assert "warning" not in capsys.readouterr().err


# shards

def test_shards_share_the_work(wavs):
    data, built = wavs("piano synth", "a.wav", "b.wav", "c.wav"), []
    for i in range(2):
        DatasetCreator.main(["--data", str(data), "--shard", f"{i}/2"])
        built.append({path.parent.name for path in data.rglob("*.npy")})
    assert built == [{"a", "c"}, {"a", "b", "c"}]


def test_a_shard_keeps_the_spectrograms_of_another_shard(wavs, monkeypatch):
    data = wavs("piano synth", "a.wav", "b.wav")
    DatasetCreator.build(data)
    age(data.rglob("*.npy"))
    monkeypatch.setattr(hp, "top_db", 90)

    def build_first(path, read=Util.read_text):
        text = read(path)
        monkeypatch.setattr(Util, "read_text", read)
        DatasetCreator.build(data, (0, 2))  # the other shard, after this one has read the old front end
        return text

    monkeypatch.setattr(Util, "read_text", build_first)
    DatasetCreator.remove_outdated(data / "generated", {"a", "b"})
    assert {path.parent.name for path in data.rglob("*.npy")} == {"a"}


# notes

@pytest.mark.parametrize("side", ("piano", "synth"))
def test_labels_are_at_the_onsets_of_the_audio(rendered, side):
    DatasetCreator.build(rendered)
    for name in "one", "two":
        folder = rendered / "generated" / name
        notes, image = np.load(folder / "notes.npy"), np.load(folder / f"{side}.npy").astype(np.float32)
        rise, late = np.maximum(np.diff(image, axis=1), 0).sum(axis=0), []
        assert len(notes) == 5
        for onset in notes[:, 0] * rate:
            near = np.arange(int(onset) - 8, int(onset) + 9)
            late.append(near[rise[near].argmax()] + 0.5 - onset)
        # an onset enters a window half a window before its centre
        assert np.abs(np.array(late) + 0.5).max() < 1 and abs(np.mean(late) + 0.5) < 0.5
