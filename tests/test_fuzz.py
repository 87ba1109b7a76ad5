"""Whatever is damaged or odd is played as a finite wav or refused in one sentence that names it; nothing else is
written, and no code is run from weights. Some 400 cases, the same every time."""
import io
import json
import os
import pickle
import struct

import mido
import numpy as np
import pytest
import soundfile
import torch

import Checkpoints
import DatasetCreator
import Hyperparameters as hp
import Main
import MIDI2Audio
import Notes
import Training
import Util
from AEDataset import AEDataset
from Autoencoder import Autoencoder
from UNet import UNet
import make


def damaged(good, rng):
    """Bytes with something wrong in them: cut, flipped, overwritten, moved, or much of it noise."""
    bad, start = bytearray(good), int(rng.integers(len(good)))
    length = int(rng.integers(1, 1 + min(len(good), 400)))
    kind = rng.integers(7)
    if kind == 0:
        return good[:start]
    if kind == 1:
        for place in rng.integers(len(good), size=rng.integers(1, 20)):
            bad[place] ^= 1 << rng.integers(8)
    elif kind == 2:
        bad[start:start + length] = rng.bytes(length)
    elif kind == 3:
        bad[start:start + length] = bytes([rng.choice((0, 255, 127))]) * length
    elif kind == 4:
        del bad[start:start + length]
    elif kind == 5:
        bad[start:start] = good[:length]
    else:  # the header, where most can go wrong
        bad[rng.integers(min(len(good), 64))] = rng.integers(256)
    return bytes(bad)


class Code:
    """What a pickle can do as it is read, if one lets it: make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def outcome(tmp_path):
    """Function that returns what a call returns, or None if it refuses a file in one sentence that names it.

    Nothing may be written or removed meanwhile.
    """

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def call(path, work):
        before, result = files(), None
        try:
            result = work()
        except (ValueError, OSError) as error:
            sentence = str(error)
            assert str(path) in sentence and "\n" not in sentence and len(sentence) < 600, sentence
        assert files() == before and not list(tmp_path.rglob("code was run"))
        return result

    return call


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Paths of two tiny networks of random weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    unet = UNet(depth=2, wf=1, in_channels=2)
    torch.nn.init.constant_(unet.last.bias, 0.5)
    torch.save(Autoencoder(channels=(4, 4, 4)).state_dict(), folder / "ae.torch")
    torch.save(unet.state_dict(), folder / "unet.torch")
    return {"ae": folder / "ae.torch", "unet": folder / "unet.torch"}


def tone(seconds=0.25, rate=hp.sample_rate):
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * time) * np.exp(-3 * time)).astype(np.float32)


def playable(audio):
    return audio is None or audio.size and np.isfinite(audio).all() and np.abs(audio).max() <= 1


# recordings: 120

encodings = (("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"))


@pytest.mark.parametrize("ending, subtype", encodings)
def test_damaged_recordings(tmp_path, networks, outcome, ending, subtype):
    played = 0
    for seed in range(18):
        rng = np.random.default_rng(seed)
        buffer = io.BytesIO()
        soundfile.write(buffer, tone(), hp.sample_rate, format=ending, subtype=subtype)
        path = tmp_path / f"{seed}.{ending}"
        path.write_bytes(damaged(buffer.getvalue(), rng))
        audio = outcome(path, lambda: Main.pipeline(path, **networks, device="cpu"))
        assert playable(audio)
        played += audio is not None
    assert played or ending == "ogg"  # whose pages have checksums


@pytest.mark.parametrize("value", (1e30, -1e30, 3e38, 1e-30, 1e-38, 1e-42, 1e10, np.inf, np.nan, 1.0))
@pytest.mark.parametrize("where", ("all", "one", "stereo"))
def test_extreme_samples(tmp_path, networks, outcome, value, where):
    audio, path = tone(), tmp_path / "in.wav"
    with np.errstate(over="ignore"):
        if where == "one":
            audio[1000] = value
        else:
            audio = np.float32(value) * np.sign(audio)
        if where == "stereo":
            audio = np.stack([audio, audio], axis=1)
    soundfile.write(path, audio, 44100 if where == "stereo" else hp.sample_rate, subtype="FLOAT")
    played = outcome(path, lambda: Main.pipeline(path, **networks, device="cpu"))
    assert playable(played)
    assert (played is not None) == (abs(value) <= 1e30 or value == 3e38 and where != "stereo")  # twice that is too much


# weights: 64

def odd_states(folder):
    """What else may be in a file of weights."""
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
    for number, state in enumerate(odd_states(tmp_path)):
        path = tmp_path / f"{number}.torch"
        torch.save(state, path)
        for name in "ae", "unet":
            models = {**networks, name: path}
            assert playable(outcome(path, lambda: Main.resynthesise(tone(), Main.load_models(**models))[0]))


@pytest.mark.parametrize("name", ("ae", "unet"))
def test_damaged_weights(tmp_path, networks, outcome, name):
    good = networks[name].read_bytes()
    for seed in range(18):
        path = tmp_path / f"{seed}.torch"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        models = {**networks, name: path}
        assert playable(outcome(path, lambda: Main.resynthesise(tone(), Main.load_models(**models))[0]))
    path.write_bytes(pickle.dumps(Code(tmp_path / "code was run")))
    assert outcome(path, lambda: Main.load_models(**models)) is None


# MIDI files: 40

def test_damaged_midi_files(root, tmp_path, outcome):
    good = (root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid").read_bytes()
    for seed in range(40):
        path = tmp_path / f"{seed}.mid"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        trimmed = outcome(path, lambda: MIDI2Audio.trim(path))
        if trimmed:
            assert isinstance(trimmed[0], mido.MidiFile) and 0 < trimmed[1] <= hp.limit_s
        notes = outcome(path, lambda: Notes.read_notes(path))
        assert notes is None or np.isfinite(notes).all() and (notes[:, :2] <= hp.limit_s).all()


# SoundFonts: 40

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
    for seed in range(40):
        path = tmp_path / f"{seed}.sf2"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        listed = outcome(path, lambda: MIDI2Audio.list_presets(path))
        assert listed is None or all(len(preset) == 2 for preset in listed)
        if seed < 3:  # FluidSynth finds that the rest is missing
            assert outcome(path, lambda: MIDI2Audio.synthesise_midi_to_audio(
                root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid", tmp_path / "out.wav", path, limit_s=1)) is None


# what a data folder holds: 60

def test_damaged_spectrograms(tmp_path, outcome):
    images = {side: np.random.default_rng(0).random((hp.n_mels, 30)).astype(np.float16) for side in ("piano", "synth")}
    for side, image in images.items():
        Util.save_array(tmp_path / "generated" / "piece" / f"{side}.npy", image)
    path = tmp_path / "generated" / "piece" / "synth.npy"
    good, others = path.read_bytes(), []
    shape = hp.n_mels, 30
    for odd in (np.zeros(3, np.float16), np.zeros(shape), np.zeros((hp.n_mels, 0), np.float16), np.array(7),
                np.full(shape, np.nan, np.float16), np.array([[Code(tmp_path / "code was run")]])):
        buffer = io.BytesIO()
        np.save(buffer, odd, allow_pickle=True)
        others.append(buffer.getvalue())
    for content in [damaged(good, np.random.default_rng(seed)) for seed in range(24)] + others:
        path.write_bytes(content)
        item = outcome("piece", lambda: AEDataset(["piece"], tmp_path)[0, 3, 20, 0])  # its folder, or the file in it
        assert item is None or all(part.shape == (1, hp.n_mels, 20) and part.isfinite().all() for part in item)


def test_damaged_checkpoints(tmp_path, outcome):
    def trainer():
        return Training.Trainer(UNet(depth=2, wf=1), torch.nn.functional.l1_loss, 1e-3, torch.device("cpu"))

    settings, path = {"epochs": 3, "pieces": ["one"]}, tmp_path / "unet.checkpoint"
    state = {"settings": settings, "epoch": 1, "batch": 0, "epoch_losses": [], "seconds": 0.0, "best": None,
             "losses": {"loss": "L1", "training": [1.0], "validation": [1.0]}, **trainer().state()}
    torch.save(state, path)
    assert Checkpoints.load_checkpoint(path, settings, trainer())[0]["epoch"] == 1
    good = path.read_bytes()
    contents = [damaged(good, np.random.default_rng(seed)) for seed in range(18)]
    for odd in {}, 7, {"settings": 3}, {**state, "network": {}}, {**state, "settings": Code(tmp_path / "code was run")}:
        torch.save(odd, path)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        found = outcome(path, lambda: Checkpoints.load_checkpoint(path, settings, trainer()))
        assert found is None or content == good or found[0]["epoch"] == 1


@pytest.mark.parametrize("text", (b"", b"\xff\xfe\x00", b"la\nla\nla\n", bytes(range(256)), b"\0" * 50,
                                  "\u00fc:0:0".encode()))
def test_odd_notes_of_presets(midi, instruments, tmp_path, outcome, text):
    midi(tmp_path / "MIDI" / "one.mid")
    Util.write_audio(tmp_path / "piano" / "one.wav", tone())
    (tmp_path / "piano" / "preset.txt").write_bytes(text)
    found = outcome(tmp_path / "piano" / "preset.txt", lambda: DatasetCreator.trained_for(tmp_path))
    assert found is None or "\n" not in found["pair"]
    assert outcome(tmp_path / "piano", lambda: MIDI2Audio.synthesise_folder(
        tmp_path / "MIDI", tmp_path / "piano", instruments[0])) is None


def test_damaged_json(tmp_path, outcome):
    path, good = tmp_path / "scores.json", json.dumps({"mean": {"final": {"log_mel_l1": 4.1}}}, indent=1).encode()
    for seed in range(20):
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        outcome(path, lambda: make.load_json(path))
    front_end = tmp_path / "generated" / "front_end.json"
    front_end.parent.mkdir()
    front_end.write_bytes(b"\xff\xfe")
    outcome(front_end, lambda: DatasetCreator.remove_outdated(front_end.parent))
