"""The whole sequence of commands, and imports without side effects."""
import importlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import AEMain
import Hyperparameters as hp
import MIDI2Audio
import Main
import Util
from AEModel import load_model, snapshot
from Checkpoints import save_tensors
from NoteAutoencoder import NoteAutoencoder
from Presets import preset_text
from UNet import UNet
from notes_common import small
from test_sampler import make_voice

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


# advised commands

@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Flags of a training of a few steps, with a small network in place of the shipped one."""
    torch.manual_seed(0)
    network = NoteAutoencoder(make_voice(), **small)
    save_tensors(tmp_path / "shipped.torch", snapshot(network, {"pair": f"piano -> {preset_text(hp.synth_preset)}"}))
    for name, value in dict(ae_weights=tmp_path / "shipped.torch", limit_s=3, note_min_steps=2, note_max_steps=2,
                            note_epochs=1, head_epochs=1, head_clips=2, unet_wf=1).items():
        monkeypatch.setattr(hp, name, value)
    monkeypatch.chdir(tmp_path)
    return ["--epochs", "1", "--device", "cpu"]


def test_the_commands_of_the_readme_run(root, instruments, quick, tmp_path, monkeypatch, capsys):
    lines = re.findall(r"^    \.venv/bin/python (\S.*)$",
                       (root / "README.md").read_text().split("\n## Train\n")[1].split("\n## ")[0], flags=re.M)
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    for folder in "data", "organ":
        (tmp_path / folder / "MIDI").mkdir(parents=True)
        for path in root.glob("data/MIDI_test/[bs]*.mid"):
            shutil.copy(path, tmp_path / folder / "MIDI")
    Util.write_audio(tmp_path / "recording.wav", Util.read_audio(hp.demo)[:30_000])
    for line in lines:
        script, *arguments = shlex.split(line)
        more = quick if script in ("AEMain.py", "UNetMain.py") else []
        importlib.import_module(script.removesuffix(".py")).main([*arguments, *more])
        if more:
            said = capsys.readouterr().out.splitlines()
            following = {"AEMain.py": ["UNetMain.py"], "UNetMain.py": ["Main.py", "RECORDING"]}[script]
            assert shlex.split(said[-1].removeprefix("next: python "))[:len(following)] == following
            assert any("for a good sound take at least" in line for line in said)
    assert Main.find_weights() == (hp.ae_weights, hp.unet_weights)  # of two pieces nothing becomes the default
    assert list(tmp_path.glob("recording_*.wav"))


def test_the_command_after_rendering_runs_and_replaces_no_model(instruments, midi, quick, tmp_path, capsys):
    for name in "one", "two":
        midi(tmp_path / "MIDI" / f"{name}.mid")
    MIDI2Audio.main(["--data", str(tmp_path), "--shard", "0/2"])
    assert "next:" not in capsys.readouterr().out
    for model in "own", "own_2":
        MIDI2Audio.main(["--data", str(tmp_path)])
        _, _, script, *arguments = shlex.split(capsys.readouterr().out.splitlines()[-1])
        assert script == "AEMain.py" and arguments == [
            "--data", str(tmp_path), *(["--model", model] if model != "own" else [])]
        AEMain.main([*arguments, *quick])
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
