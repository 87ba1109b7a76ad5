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
import AEModel
import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Main
import UNetMain
import Util
from AEModel import snapshot
from UNetDataset import StoredOutputs, UNetDataset
from audio import audio_files
from notes.note_autoencoder import NoteAutoencoder
from rendering.soundfonts import preset_text
from training.checkpoints import save_tensors
from notes_common import make_voice, small

pytestmark = pytest.mark.usefixtures("one_thread")


def advised(capsys, script):
    """Return the arguments of the command that was advised last, which is of that script."""
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: "))
    assert words[:2] == ["python", script]
    return words[2:]


def test_the_advised_commands_leave_what_the_data_folder_describes(root, instruments, tmp_path, monkeypatch, capsys,
                                                                   quick_inversion):
    monkeypatch.setattr(hp, "ae_channels", (8, 16, 16)), monkeypatch.setattr(hp, "unet_wf", 2)
    for folder, pieces in ("MIDI", "[bs]*.mid"), ("MIDI_test", "satie*.mid"):
        tmp_path.joinpath(folder).mkdir()
        for excerpt in (root / "data" / "MIDI_test").glob(pieces):
            MIDI2Audio.trim(excerpt, 5 - hp.release_s)[0].save(tmp_path / folder / excerpt.name)
    data = ["--data", str(tmp_path)]
    MIDI2Audio.main([*data, "--shard", "0/2"])
    assert "next:" not in capsys.readouterr().out
    MIDI2Audio.main(data)
    AEMain.main([*advised(capsys, "AEMain.py"), "--network", "report", "--epochs", "2", "--device", "cpu"])
    arguments = advised(capsys, "UNetMain.py")
    assert arguments == [*data, "--device", "cpu", "--epochs", "1"]  # of 50, as 2 of 600
    UNetMain.main(arguments)
    recording, *arguments = advised(capsys, "Main.py")
    pieces = {"bach_prelude_c", "satie_gymnopedie_1"}
    rendered = {f"{folder}/{piece}.wav" for folder in ("piano", "synth") for piece in pieces}
    rendered |= {"test/piano/satie_gymnopedie_1.wav", "test/synth/satie_gymnopedie_1.wav"}
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.wav")} == rendered
    assert all(soundfile.info(path).frames == 5 * hp.sample_rate for path in tmp_path.rglob("*.wav"))
    for piece in pieces:
        for mode in "piano", "synth":
            assert np.load(tmp_path / "generated" / piece / f"{mode}.npy").shape == (128, 430)
    models = tmp_path / "models" / "own"
    assert {path.name for path in models.iterdir()} == {
        f"{stem}{ending}" for stem, epochs in (("ae", (1, 2)), ("unet", (1,))) for ending in (
            ".torch", "_last.torch", "_losses.json", "_losses.png",
            *(f"_epoch_{epoch}.{kind}" for epoch in epochs for kind in ("npy", "png")))}
    assert recording == "RECORDING"
    audio = audio_files.read_audio(tmp_path / "test" / "piano" / "satie_gymnopedie_1.wav")[:3 * 22050 + 123]
    audio_files.write_audio(tmp_path / "recording.wav", audio)
    Main.main([str(tmp_path / "recording.wav"), *arguments, "-o", str(tmp_path / "output.wav")])
    assert audio_files.read_audio(tmp_path / "output.wav").shape == audio.shape
    MIDI2Audio.main(data)
    assert advised(capsys, "AEMain.py") == [*data, "--model", "own_2"]  # which replaces no model


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
    audio_files.write_audio(tmp_path / "recording.wav", audio_files.read_audio(hp.demo)[:30_000])
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


def test_the_command_after_the_autoencoder_has_only_what_is_not_the_default(tmp_path, monkeypatch):
    def arguments(model="own", report=False, data=tmp_path, **settings):
        return AEMain.unet_arguments(dict(seed=hp.seed, validation_source=None) | settings, data, model, report=report)

    monkeypatch.setattr(hp, "data", tmp_path)
    for network, epochs in ("report", 600), ("notes", None), ("notes", 2):
        assert arguments(network=network, epochs=epochs) == []
    assert arguments("mine", network="notes", epochs=2) == ["--model", "mine"]
    Util.save_text(tmp_path / "models" / "own" / "unet.torch", "")  # of another autoencoder
    more = dict(seed=3, validation_source="piano_2")
    assert arguments(report=True, network="report", epochs=6, **more) == [
        "--seed", "3", "--validation-source", "piano_2", "--report", "--epochs", "1", "--overwrite"]


importing = """
import sys
root, own, written = sys.argv[1], sys.argv[2:], []
sys.path.insert(0, root)

def watch(event, arguments):
    opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if opened or event in ("os.mkdir", "os.rename", "os.remove"):
        written.append(str(arguments[0]))

sys.addaudithook(watch)
for name in own:
    __import__(name)
    assert "matplotlib.pyplot" not in sys.modules, f"{name} imports matplotlib.pyplot"
    beside = [path for path in written if path.startswith(root) or not path.startswith("/")]
    assert not beside, f"{name} writes {beside}"
"""


def test_importing_a_module_does_nothing_else(root, tmp_path):
    packages = "audio", "notes", "outputs", "rendering", "training"
    modules = sorted([path.stem for path in root.glob("*.py")] + [
        f"{package}.{path.stem}" for package in packages for path in root.joinpath(package).glob("*.py")])
    process = subprocess.run([sys.executable, "-B", "-c", importing, root, *modules], cwd=tmp_path, capture_output=True,
                             text=True)
    assert process.returncode == 0, process.stderr
    assert not process.stdout and not process.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("in_channels", (1, 2))
def test_training_and_playing_give_the_unet_its_inputs_in_the_same_order(in_channels, tmp_path):
    seen = []

    class Inverse(torch.nn.Module):
        in_channels = 1

        def forward(self, x):
            return 1 - x

    class Recorder(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, :1]

    unet = Recorder()
    unet.in_channels = in_channels
    autoencoder, audio = AEModel.AEModel(Inverse()), np.random.default_rng(0).uniform(-1, 1, 9000).astype(np.float32)
    Main.resynthesise(audio, (autoencoder, AEModel.AEModel(unet)))
    for side in "piano", "synth":
        audio_files.write_audio(tmp_path / side / "noise.wav", audio)
    outputs = StoredOutputs(autoencoder, tmp_path, "own")
    outputs.write(DatasetCreator.build(tmp_path))
    source, _ = UNetDataset(["noise"], tmp_path, outputs, in_channels)[0]
    torch.testing.assert_close(source, seen[0][0, :, :, :source.shape[-1]], atol=0.01, rtol=0)
    assert len(source) == in_channels
