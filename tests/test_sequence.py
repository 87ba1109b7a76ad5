"""The whole sequence of commands, and imports without side effects."""
import functools
import importlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import AEMain
import Hyperparameters as hp
import MIDI2Audio
import Main
import Util
from AEModel import load_model
from notes_common import small
from NoteAutoencoder import NoteAutoencoder
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


# the whole sequence

def test_the_three_commands_leave_what_the_data_folder_describes(trained):
    pieces = {"bach_prelude_c", "mozart_rondo_alla_turca", "satie_gymnopedie_1"}
    rendered = {f"{folder}/{piece}.wav" for folder in ("piano", "synth") for piece in pieces}
    rendered |= {"test/piano/satie_gymnopedie_1.wav", "test/synth/satie_gymnopedie_1.wav"}
    assert {path.relative_to(trained).as_posix() for path in trained.rglob("*.wav")} == rendered
    assert all(soundfile.info(path).frames == 5 * hp.sample_rate for path in trained.rglob("*.wav"))
    for piece in pieces:
        for mode in "piano", "synth":
            assert np.load(trained / "generated" / piece / f"{mode}.npy").shape == (128, 430)
    assert {path.name for path in (trained / "models" / "own").iterdir()} == {
        f"{stem}{ending}" for stem, epochs in (("ae", (1, 2)), ("unet", (1,))) for ending in (
            ".torch", "_last.torch", "_losses.json", "_losses.png",
            *(f"_epoch_{epoch}.{kind}" for epoch in epochs for kind in ("npy", "png")))}
    assert load_model(UNet, trained / "models" / "own" / "unet.torch").network.last.in_channels == 2 ** hp.unet_wf


def test_what_was_trained_plays_a_recording(trained, tmp_path):
    recording = Util.read_audio(trained / "test" / "piano" / "satie_gymnopedie_1.wav")[:3 * 22050 + 123]
    Util.write_audio(tmp_path / "recording.wav", recording)
    models = trained / "models" / "own"
    audio = Main.pipeline(tmp_path / "recording.wav", ae=models / "ae.torch", unet=models / "unet.torch", device="cpu")
    assert audio.shape == recording.shape and audio.dtype == np.float32
    assert np.isfinite(audio).all() and np.abs(audio).max() <= 1  # after two epochs it may hear no notes


# the first try

def test_the_first_try_of_the_readme_runs_and_leaves_the_shipped_weights_the_default(
        root, instruments, tmp_path, monkeypatch, capsys):
    lines = re.findall(r"^    (?:\.venv/bin/python )?(\S.*)$",
                       (root / "README.md").read_text().split("\n## Train\n")[1].split("\n## ")[0], flags=re.M)
    copy, render, *trainings, play = map(shlex.split, lines)
    assert [copy[0], render, trainings[0][0], trainings[1][0], play[0]] == [
        "cp", ["MIDI2Audio.py"], "AEMain.py", "UNetMain.py", "Main.py"]
    data, recording = tmp_path / "data", tmp_path / "recording.wav"
    Util.write_audio(recording, Util.read_audio(hp.demo)[:30_000])
    (data / "MIDI").mkdir(parents=True)
    for path in root.glob(copy[1]):
        shutil.copy(path, data / "MIDI")
    for name, value in dict(data=data, models=data / "models", limit_s=3).items():
        monkeypatch.setattr(hp, name, value)
    monkeypatch.chdir(tmp_path)
    for weights in "ae.torch", "unet.torch":
        shutil.copy(root / weights, tmp_path)
    MIDI2Audio.main([])
    assert capsys.readouterr().out.splitlines()[-1] == "next: python AEMain.py"  # which trains longer, as "own"
    for script, following in ("AEMain", trainings[1]), ("UNetMain", ["Main.py", "RECORDING", "--model", "try"]):
        line = next(words for words in trainings if words[0] == f"{script}.py")
        importlib.import_module(script).main(line[1:])
        said = capsys.readouterr().out.splitlines()
        assert shlex.split(said[-1])[2:] == following
        assert "only to see it run; for a good sound take more pieces" in said[-2]
    assert Main.find_weights() == (hp.ae_weights, hp.unet_weights)
    Main.main(play[1:])
    assert (tmp_path / "recording_epiano.wav").exists()


def test_the_command_after_rendering_runs_and_replaces_no_model(instruments, midi, tmp_path, capsys, monkeypatch):
    for name in "one", "two":
        midi(tmp_path / "MIDI" / f"{name}.mid")
    monkeypatch.setattr(AEMain, "NoteAutoencoder", functools.partial(NoteAutoencoder, **small))
    monkeypatch.setattr(AEMain, "choose_decoder", lambda *_: "table")  # a sampled one takes a minute to render
    MIDI2Audio.main(["--data", str(tmp_path), "--shard", "0/2"])
    assert "next:" not in capsys.readouterr().out
    for model in "own", "own_2":
        MIDI2Audio.main(["--data", str(tmp_path)])
        _, _, script, *arguments = shlex.split(capsys.readouterr().out.splitlines()[-1])
        assert script == "AEMain.py" and arguments == [
            "--data", str(tmp_path), *(["--model", model] if model != "own" else [])]
        AEMain.main([*arguments, "--epochs", "1", "--crop-frames", "32", "--device", "cpu"])
        assert (tmp_path / "models" / model / "ae.torch").exists()


# importing

importing = """
import sys
root, own = sys.argv[1], sys.argv[2:]
sys.path.insert(0, root)
written = []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        written.append(str(arguments[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove"):
        written.append(str(arguments[0]))

sys.addaudithook(watch)
for name in own:
    for module in own:
        sys.modules.pop(module, None)  # each as if it were the first
    __import__(name)
    assert "matplotlib.pyplot" not in sys.modules, f"{name} imports matplotlib.pyplot"
    beside = [path for path in written if path.startswith(root) or not path.startswith("/")]
    assert not beside, f"{name} writes {beside}"
"""


def test_importing_a_module_does_nothing_else(root, tmp_path):
    modules = sorted(path.stem for path in root.glob("*.py"))
    assert {"Main", "AEMain", "UNetMain", "MIDI2Audio", "DatasetCreator"} <= set(modules)
    process = subprocess.run([sys.executable, "-B", "-c", importing, root, *modules], cwd=tmp_path, capture_output=True,
                             text=True)
    assert process.returncode == 0, process.stderr
    assert not process.stdout and not process.stderr and not list(tmp_path.iterdir())
