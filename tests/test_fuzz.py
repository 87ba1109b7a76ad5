"""Damaged or odd files are read correctly or refused in one sentence that names them. Some 800 seeded cases.

Nothing is written or removed meanwhile, nothing takes longer than 30 s, and no code is run from weights. Each test
has a positive control: files that must be accepted, or a smallest share of accepted files.
"""
import fractions
import io
import json
import os
import pickle
import struct
import time

import av
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
    """Damage bytes: cut them, flip bits, overwrite, remove or insert parts, or change the header."""
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
    else:  # the header
        bad[rng.integers(min(len(good), 64))] = rng.integers(256)
    return bytes(bad)


class Code:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def outcome(tmp_path):
    """Function that returns the result of a call, or None if it refuses a file in one sentence that names it.

    Nothing may be written or removed meanwhile, and the call may not take longer than 30 s.
    """

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


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Paths of the random weights of two tiny networks."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    unet = UNet(depth=2, wf=1, in_channels=2)
    torch.nn.init.constant_(unet.last.bias, 0.5)
    torch.save(Autoencoder(channels=(4, 4, 4)).state_dict(), folder / "ae.torch")
    torch.save(unet.state_dict(), folder / "unet.torch")
    return {"ae": folder / "ae.torch", "unet": folder / "unet.torch"}


def tone(seconds=0.25, rate=hp.sample_rate):
    times = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * times) * np.exp(-3 * times)).astype(np.float32)


def playable(audio):
    return audio is None or audio.size and np.isfinite(audio).all() and np.abs(audio).max() <= 1


# recordings: 240

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
    assert played or ending == "ogg"  # ogg pages have checksums


def encode(ending, codec):
    """Return `tone` as the bytes of a file, encoded by libsndfile or, in a container that it does not know, FFmpeg."""
    buffer = io.BytesIO()
    if ending.upper() in soundfile.available_formats():
        soundfile.write(buffer, tone(), hp.sample_rate, format=ending, subtype=codec)
        return buffer.getvalue()
    with av.open(buffer, "w", format={"m4a": "mp4", "wma": "asf"}.get(ending, ending)) as container:
        stream = container.add_stream(codec, rate=hp.sample_rate, layout="mono", bit_rate=64_000)
        frame = av.AudioFrame.from_ndarray(tone()[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = hp.sample_rate, 0, fractions.Fraction(1, hp.sample_rate)
        for part in frame, None:
            container.mux(stream.encode(part))
    return buffer.getvalue()


@pytest.mark.parametrize("ending, codec, smallest", (
    ("wav", "PCM_16", 15), ("flac", "PCM_16", 1), ("ogg", "VORBIS", 0), ("mp3", "MPEG_LAYER_III", 15),
    ("m4a", "aac", 10), ("wma", "wmav2", 10), ("matroska", "flac", 10)))
def test_damaged_containers(tmp_path, outcome, ending, codec, smallest):
    good, accepted = encode(ending, codec), 0
    path = tmp_path / f"good.{ending}"
    path.write_bytes(good)
    whole = outcome(path, lambda: Util.read_audio(path))
    assert np.abs(np.fft.rfft(whole)).argmax() * hp.sample_rate / whole.size == pytest.approx(440, abs=8)
    assert np.linalg.norm(whole) == pytest.approx(np.linalg.norm(tone()), rel=0.25)
    for seed in range(100, 130):
        path = tmp_path / f"{seed}.{ending}"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        audio = outcome(path, lambda: Util.read_audio(path))
        assert audio is None or audio.size and np.isfinite(audio).all() and audio.size < 30 * hp.sample_rate
        accepted += audio is not None
    assert accepted >= smallest


def test_damaged_samples_of_a_wav_leave_the_others(tmp_path, outcome):
    path = tmp_path / "in.wav"
    Util.write_audio(path, tone())
    good, whole = path.read_bytes(), Util.read_audio(path)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first, length = int(rng.integers(tone().size - 200)), int(rng.integers(1, 200))
        bad = bytearray(good)
        bad[44 + 2 * first:44 + 2 * (first + length)] = rng.bytes(2 * length)
        path.write_bytes(bad)
        audio = outcome(path, lambda: Util.read_audio(path))
        difference = np.delete(audio - whole, range(first, first + length))
        assert np.ptp(difference) < 1e-6 and abs(difference[0]) < 0.05  # direct current of the damage is taken out


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
    # the sum of two samples of 3e38 is infinite
    assert (played is not None) == (abs(value) <= 1e30 or value == 3e38 and where != "stereo")


# weights: 64

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
    assert playable(Main.resynthesise(tone(), Main.load_models(**networks))[0])
    for number, state in enumerate(odd_states(tmp_path)):
        path = tmp_path / f"{number}.torch"
        torch.save(state, path)
        for name in "ae", "unet":
            models = {**networks, name: path}
            assert playable(outcome(path, lambda: Main.resynthesise(tone(), Main.load_models(**models))[0]))


@pytest.mark.parametrize("name", ("ae", "unet"))
def test_damaged_weights(tmp_path, networks, outcome, name):
    good = networks[name].read_bytes()
    assert outcome(networks[name], lambda: Main.load_models(**networks)) is not None
    for seed in range(18):
        path = tmp_path / f"{seed}.torch"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        models = {**networks, name: path}
        assert playable(outcome(path, lambda: Main.resynthesise(tone(), Main.load_models(**models))[0]))
    path.write_bytes(pickle.dumps(Code(tmp_path / "code was run")))
    assert outcome(path, lambda: Main.load_models(**models)) is None


# MIDI files: 360

def check_midi(path, outcome):
    """Return the notes of a MIDI file, or None if it is refused."""
    trimmed = outcome(path, lambda: MIDI2Audio.trim(path))
    if trimmed:
        assert isinstance(trimmed[0], mido.MidiFile) and 0 < trimmed[1] <= hp.limit_s
        assert trimmed[0].length <= hp.limit_s + 1e-3
    notes = outcome(path, lambda: Notes.read_notes(path))
    assert notes is None or np.isfinite(notes).all() and (notes[:, :2] <= hp.limit_s).all()
    assert notes is None or (notes[:, 0] < notes[:, 1]).all()
    return notes


@pytest.mark.parametrize("name", ("satie_gymnopedie_1", "bach_prelude_c", "smpte", "empty_meta"))
def test_damaged_midi_files(root, tmp_path, outcome, name):
    [source] = [*root.glob(f"data/MIDI_test/{name}.mid"), *root.glob(f"tests/cases/{name}.mid")]
    good, accepted, right, seeds = source.read_bytes(), 0, 0, 50
    whole = {tuple(note) for note in Notes.read_notes(source)[:, [0, 2, 3]].round(3)}
    for seed in range(seeds):
        path = tmp_path / f"{seed}.mid"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        notes = check_midi(path, outcome)
        if notes is not None:
            accepted += 1
            right += len(whole & {tuple(note) for note in notes[:, [0, 2, 3]].round(3)}) / len(whole)
    assert accepted >= 0.8 * seeds and right >= 0.3 * seeds


@pytest.fixture
def melody(tmp_path):
    """A MIDI file of one track, and its notes."""
    rng = np.random.default_rng(0)
    onset = np.arange(60) * 0.4
    notes = np.stack([onset, onset + rng.uniform(0.1, 0.3, 60), rng.integers(21, 109, 60), rng.integers(1, 128, 60)], 1)
    Notes.save_notes(tmp_path / "melody.mid", notes)
    return (tmp_path / "melody.mid").read_bytes(), Notes.read_notes(tmp_path / "melody.mid")


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
    accepted = 0
    for seed in range(40):
        path = tmp_path / f"{seed}.sf2"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        listed = outcome(path, lambda: MIDI2Audio.list_presets(path))
        assert listed is None or all(len(preset) == 2 for preset in listed)
        accepted += listed is not None
        if seed < 3:  # FluidSynth reports that the rest is missing
            assert outcome(path, lambda: MIDI2Audio.synthesise_midi_to_audio(
                root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid", tmp_path / "out.wav", path, limit_s=1)) is None
    assert accepted >= 5


# files of a data folder: 60

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
    for content in [good] + [damaged(good, np.random.default_rng(seed)) for seed in range(24)] + others:
        path.write_bytes(content)
        item = outcome("piece", lambda: AEDataset(["piece"], tmp_path)[0, 3, 20, 0])  # its folder, or the file in it
        assert item is not None or content != good
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
def test_odd_preset_files(midi, instruments, tmp_path, outcome, text):
    midi(tmp_path / "MIDI" / "one.mid")
    Util.write_audio(tmp_path / "piano" / "one.wav", tone())
    (tmp_path / "piano" / "preset.txt").write_bytes(text)
    found = outcome(tmp_path / "piano" / "preset.txt", lambda: DatasetCreator.pair(tmp_path))
    assert found is None or "\n" not in found
    assert outcome(tmp_path / "piano", lambda: MIDI2Audio.synthesise_folder(
        tmp_path / "MIDI", tmp_path / "piano", instruments[0])) is None


def test_damaged_json(tmp_path, outcome):
    path, good = tmp_path / "scores.json", json.dumps({"mean": {"final": {"log_mel_l1": 4.1}}}, indent=1).encode()
    path.write_bytes(good)
    assert outcome(path, lambda: make.load_json(path)) == json.loads(good)
    for seed in range(20):
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        outcome(path, lambda: make.load_json(path))
    front_end = tmp_path / "generated" / "front_end.json"
    front_end.parent.mkdir()
    front_end.write_bytes(b"\xff\xfe")
    outcome(front_end, lambda: DatasetCreator.remove_outdated(front_end.parent))
