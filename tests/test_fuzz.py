"""Damaged or odd files are read correctly or refused in one sentence that names them. Some 600 seeded cases.

Nothing is written or removed meanwhile, nothing takes longer than 30 s, and no code is run from weights. Each test
has a positive control: files that must be accepted, or a smallest share of accepted files.
"""
import io
import os
import pickle
import struct
import time

import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Main
import Util
from AEDataset import AEDataset
from Autoencoder import Autoencoder
from UNet import UNet
from audio import audio_files
from audio_common import damaged, encode, rms, tone
from notes import note_events
from training import checkpoints, training_loop


def damaged_files(good, path, seeds):
    """Damage a file in many ways, one after the other."""
    for seed in range(seeds):
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        yield path


class Code:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def outcome(tmp_path):
    """Function that returns the result of a call, or None if it refuses a file in one sentence that names it. Nothing
    may be written or removed meanwhile, and the call may not take longer than 30 s."""

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def call(path, work):
        before, result, start = files(), None, time.monotonic()
        try:
            result = work()
        except (ValueError, OSError) as error:
            sentence = str(error)
            assert str(path) in sentence and "\n" not in sentence and len(sentence) < 600, sentence
        assert files() == before and not list(tmp_path.rglob("code was run")) and time.monotonic() - start < 30
        return result

    return call


sound = tone(0.25)


def playable(audio):
    return audio is None or audio.size and np.isfinite(audio).all() and np.abs(audio).max() <= 1


# recordings

@pytest.mark.parametrize("ending, codec, smallest", (
    ("wav", "PCM_16", 15), ("wav", "FLOAT", 15), ("flac", "PCM_16", 1), ("ogg", "VORBIS", 0),
    ("mp3", "MPEG_LAYER_III", 15), ("m4a", "aac", 10), ("wma", "wmav2", 10), ("mka", "aac", 10),
    ("webm", "libopus", 10), ("aac", "aac", 10)))
def test_damaged_recordings(tmp_path, outcome, ending, codec, smallest):
    good, path = encode(tone(0.25, 48000), ending, codec, 48000), tmp_path / f"in.{ending}"
    path.write_bytes(good)
    whole = outcome(path, lambda: audio_files.read_audio(path))
    assert np.abs(np.fft.rfft(whole)).argmax() * hp.sample_rate / whole.size == pytest.approx(440, abs=8)
    assert rms(whole) == pytest.approx(rms(sound), rel=0.25)
    played = [outcome(path, lambda: audio_files.read_audio(path)) for path in damaged_files(good, path, 30)]
    played = [audio for audio in played if audio is not None]
    assert len(played) >= smallest
    assert all(audio.size and np.isfinite(audio).all() and audio.size < 30 * hp.sample_rate for audio in played)


@pytest.mark.parametrize("value", (1e30, -1e30, 3e38, 1e-30, 1e-38, 1e-42, 1e10, np.inf, np.nan, 1.0))
@pytest.mark.parametrize("where", ("all", "one", "stereo"))
def test_extreme_samples(tmp_path, networks, outcome, value, where):
    audio, path = sound.copy(), tmp_path / "in.wav"
    with np.errstate(over="ignore"):
        if where == "one":
            audio[1000] = value
        else:
            audio = np.where(audio < 0, np.float32(-value), np.float32(value))
        if where == "stereo":
            audio = np.stack([audio, audio], axis=1)
    soundfile.write(path, audio, 44100 if where == "stereo" else hp.sample_rate, subtype="FLOAT")
    played = outcome(path, lambda: Main.pipeline(path, **networks, device="cpu"))
    assert playable(played) and (played is None or 0 < np.abs(played).max() <= hp.peak + 1e-6)
    # the sum of two samples of 3e38 is infinite
    assert (played is not None) == (abs(value) <= 1e30 or value == 3e38 and where != "stereo")


# weights

def odd_states(folder):
    """Yield what may be in a file in place of weights."""
    good = Autoencoder(channels=(4, 4, 4)).state_dict()
    first, last = "encoder.0.weight", "decoder.6.weight"
    yield from ({}, [], 7, "weights", None, {0: torch.zeros(3)}, {first: None}, {**good, first: 3.0},
                {**good, first: "text"}, {**good, first: torch.zeros(())}, {**good, first: torch.zeros(0, 1, 128, 1)},
                {**good, first: good[first].long()}, {**good, first: good[first] * float("nan")},
                {**good, first: good[first] * float("inf")}, {**good, last: good[last] * 1e38},
                {key: value * 1e30 if value.is_floating_point() else value for key, value in good.items()},
                {**good, "more": torch.zeros(3)}, {key: good[key] for key in list(good)[:7]},
                {key: value.to_sparse() if value.ndim > 1 else value for key, value in good.items()},
                {**good, first: Code(folder / "code was run")}, Code(folder / "code was run"))
    for note in None, 7, "text", [1], {"front_end": 3}, {"front_end": {"n_mels": "many"}}, {"front_end": {}, "pair": 5}:
        state = Autoencoder(channels=(4, 4, 4)).state_dict()
        state._metadata["trained_for"] = note
        yield state


def test_odd_weights(tmp_path, networks, outcome):
    assert playable(Main.resynthesise(sound, Main.load_models(**networks))[0])
    for number, state in enumerate(odd_states(tmp_path)):
        path = tmp_path / f"{number}.torch"
        torch.save(state, path)
        for name in "ae", "unet":
            models = {**networks, name: path}
            assert playable(outcome(path, lambda: Main.resynthesise(sound, Main.load_models(**models))[0]))


@pytest.mark.parametrize("name", ("ae", "unet"))
def test_damaged_weights(tmp_path, networks, outcome, name):
    assert outcome(networks[name], lambda: Main.load_models(**networks)) is not None
    path = tmp_path / "bad.torch"
    models = {**networks, name: path}
    for _ in damaged_files(networks[name].read_bytes(), path, 18):
        assert playable(outcome(path, lambda: Main.resynthesise(sound, Main.load_models(**models))[0]))
    path.write_bytes(pickle.dumps(Code(tmp_path / "code was run")))
    assert outcome(path, lambda: Main.load_models(**models)) is None


# MIDI files

def check_midi(path, outcome):
    """Return the notes of a MIDI file, or None if it is refused."""
    trimmed = outcome(path, lambda: MIDI2Audio.trim(path))
    assert not trimmed or 0 < trimmed[1] <= hp.limit_s and trimmed[0].length <= hp.limit_s + 1e-3
    notes = outcome(path, lambda: note_events.read_notes(path))
    assert notes is None or np.isfinite(notes).all() and (notes[:, :2] <= hp.limit_s).all()
    assert notes is None or (notes[:, 0] < notes[:, 1]).all()
    return notes


@pytest.mark.parametrize("name", ("satie_gymnopedie_1", "bach_prelude_c", "smpte", "empty_meta"))
def test_damaged_midi_files(root, tmp_path, outcome, name):
    [source] = [*root.glob(f"data/MIDI_test/{name}.mid"), *root.glob(f"tests/cases/{name}.mid")]
    seeds, path = 50, tmp_path / "in.mid"
    whole = {tuple(note) for note in note_events.read_notes(source)[:, [0, 2, 3]].round(3)}
    found = [check_midi(path, outcome) for path in damaged_files(source.read_bytes(), path, seeds)]
    found = [{tuple(note) for note in notes[:, [0, 2, 3]].round(3)} for notes in found if notes is not None]
    assert len(found) >= 0.8 * seeds and sum(len(whole & notes) for notes in found) >= 0.3 * seeds * len(whole)


@pytest.fixture
def melody(tmp_path):
    """A MIDI file of one track, and its notes."""
    rng = np.random.default_rng(0)
    onset = np.arange(60) * 0.4
    notes = np.stack([onset, onset + rng.uniform(0.1, 0.3, 60), rng.integers(21, 109, 60), rng.integers(1, 128, 60)], 1)
    note_events.save_notes(tmp_path / "melody.mid", notes)
    return (tmp_path / "melody.mid").read_bytes(), note_events.read_notes(tmp_path / "melody.mid")


def test_a_midi_file_that_is_cut_off_has_its_notes_up_to_the_cut(tmp_path, melody, outcome):
    good, whole = melody
    path = tmp_path / "cut.mid"
    for seed in range(60):
        place = int(np.random.default_rng(seed).integers(40, len(good)))
        path.write_bytes(good[:place])
        notes = check_midi(path, outcome)
        assert abs(len(notes) - len(whole) * (place - 30) / (len(good) - 30)) < 3
        np.testing.assert_array_equal(notes[:, [0, 2, 3]], whole[:len(notes), [0, 2, 3]])
        np.testing.assert_array_equal(notes[:-1], whole[:len(notes) - 1])


def tolerable(good, rng):
    """Return a MIDI file with damage that no player minds."""
    track, chosen = good[22:], rng.random(9) < 0.3
    if chosen[0]:
        events = b"\0\xff\x59\2\x08\0", b"\0\xff\x59\0", b"\0\xff\x58\0", b"\0\xff\x7f\3abc"
        track = events[rng.integers(len(events))] + track
    if chosen[1]:
        track = b"\0\x40\x40" + track                     # data without a status byte
    if chosen[2]:
        track = track.removesuffix(b"\0\xff\x2f\0")         # no end of track
    length = len(track) + (int(rng.integers(1, 1000)) if chosen[3] else 0)
    content = chunk(b"MTrk", track)[:4] + struct.pack(">I", length) + track
    if chosen[4]:
        other = rng.bytes(int(rng.integers(50)))
        content = b"XFKM" + struct.pack(">I", len(other)) + other + content
    number = int(rng.integers(2, 50)) if chosen[5] else 1
    header = struct.pack(">HHH", int(rng.integers(2)), number, 960) + rng.bytes(2 * chosen[6])
    content = b"MThd" + struct.pack(">I", len(header)) + header + content
    if chosen[7]:
        return b"RIFF" + struct.pack("<I", len(content) + 12) + b"RMIDdata" + struct.pack("<I", len(content)) + content
    return bytes(int(rng.integers(1, 200))) + content if chosen[8] else content


def test_tolerable_damage_leaves_all_notes(tmp_path, melody, outcome):
    good, whole = melody
    path = tmp_path / "odd.mid"
    for seed in range(100):
        path.write_bytes(tolerable(good, np.random.default_rng(seed)))
        np.testing.assert_array_equal(check_midi(path, outcome), whole)


# SoundFonts

def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content


def test_damaged_soundfonts(root, instruments, tmp_path, outcome):
    presets = b"".join(struct.pack("<20sHHHIII", name, program, 0, 0, 0, 0, 0)
                       for name, program in ((b"Piano", 0), (b"Vibraphone", 11), (b"EOP", 0)))
    good = chunk(b"RIFF", b"sfbk" + chunk(b"LIST", b"INFO" + chunk(b"ifil", b"\2\0\4\0"))
                 + chunk(b"LIST", b"sdta" + chunk(b"smpl", bytes(64)))
                 + chunk(b"LIST", b"pdta" + chunk(b"phdr", presets)))
    path = tmp_path / "good.sf2"
    path.write_bytes(good)
    assert MIDI2Audio.list_presets(path) == {(0, 0): "Piano", (0, 11): "Vibraphone"}
    listed = []
    for seed, path in enumerate(damaged_files(good, path, 40)):
        listed.append(outcome(path, lambda: MIDI2Audio.list_presets(path)))
        if seed < 3:  # FluidSynth reports that the rest is missing
            assert outcome(path, lambda: MIDI2Audio.synthesise_midi_to_audio(
                root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid", tmp_path / "out.wav", path, limit_s=1)) is None
    listed = [presets for presets in listed if presets is not None]
    assert len(listed) >= 5 and all(len(preset) == 2 for presets in listed for preset in presets)


# files of a data folder

def test_damaged_spectrograms(tmp_path, outcome):
    path, shape, contents = tmp_path / "generated" / "piece" / "synth.npy", (hp.n_mels, 30), []
    for side in "piano", "synth":
        Util.save_array(path.with_stem(side), np.random.default_rng(0).random(shape).astype(np.float16))
    good = path.read_bytes()
    for odd in (np.zeros(3, np.float16), np.zeros(shape), np.zeros((hp.n_mels, 0), np.float16), np.array(7),
                np.full(shape, np.nan, np.float16), np.array([[Code(tmp_path / "code was run")]])):
        buffer = io.BytesIO()
        np.save(buffer, odd, allow_pickle=True)
        contents.append(buffer.getvalue())
    for content in (good, *contents, *(damaged(good, np.random.default_rng(seed)) for seed in range(24))):
        path.write_bytes(content)
        item = outcome("piece", lambda: AEDataset(["piece"], tmp_path)[0, 3, 20, 0])  # its folder, or the file in it
        assert item is not None or content != good
        assert item is None or all(part.shape == (1, hp.n_mels, 20) and part.isfinite().all() for part in item)


def test_odd_checkpoints(tmp_path, outcome):
    def load():
        return checkpoints.Checkpoint(path, trainer).resume(state, False)["epoch"]

    path = tmp_path / "unet.checkpoint"
    trainer = training_loop.Trainer(UNet(depth=2, wf=1), torch.nn.functional.l1_loss, 1e-3, torch.device("cpu"))
    state = {"settings": {"epochs": 3, "pieces": ["one"]}, "epoch": 1, "batch": 0, "epoch_losses": [], "seconds": 0.0,
             "losses": {"loss": "L1", "training": [1.0], "validation": [1.0]}, "best": None, **trainer.state()}
    code = {**state, "settings": Code(tmp_path / "code was run")}
    for content, expected in (state, 1), ({}, None), (7, None), ({**state, "network": {}}, None), (code, None):
        torch.save(content, path)
        assert outcome(path, load) == expected


@pytest.mark.parametrize("text", (b"", b"\xff\xfe\x00", b"la\nla\nla\n", bytes(range(256)), b"\0" * 50,
                                  "\u00fc:0:0".encode()))
def test_odd_preset_files(midi, instruments, tmp_path, outcome, text):
    midi(tmp_path / "MIDI" / "one.mid")
    audio_files.write_audio(tmp_path / "piano" / "one.wav", sound)
    (tmp_path / "piano" / "preset.txt").write_bytes(text)
    found = outcome(tmp_path / "piano" / "preset.txt", lambda: DatasetCreator.pair(tmp_path))
    assert found is None or "\n" not in found
    assert outcome(tmp_path / "piano", lambda: MIDI2Audio.synthesise_folder(
        tmp_path / "MIDI", tmp_path / "piano", instruments[0])) is None


def test_odd_settings_of_the_front_end(tmp_path):
    (tmp_path / "front_end.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"{tmp_path / 'front_end.json'} is not text in UTF-8"):
        DatasetCreator.remove_outdated(tmp_path, set())
