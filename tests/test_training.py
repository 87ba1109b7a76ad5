"""Training: losses fall, the same seed gives the same weights, and what a training leaves and says."""
import json
import shlex
import shutil
import sys
import types

import numpy as np
import pytest
import torch

import AEMain
import Hyperparameters as hp
import Main
import Plots
import Training
import UNetDataset
import UNetMain
import Util
from AEDataset import AEDataset
from AEModel import load_model
from Autoencoder import Autoencoder
from training_common import (assert_same, behind_an_autoencoder, brief, fit_settings, interruption, losses, state,
                             train, train_ae)
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


# one training

def test_the_loss_falls(train):
    recorded = losses(train(epochs=6, crop_frames=16, learning_rate=2e-3, schedule="constant"))
    for part in "training", "validation":
        assert len(recorded[part]) == 6
        assert recorded[part][-1] < 0.8 * recorded[part][0]


def test_the_same_seed_gives_the_same_weights_and_losses(train):
    first, again, other = (train(model=model, epochs=1, seed=seed) for model, seed in (
        ("first", 0), ("again", 0), ("other", 1)))
    assert_same(first, again)
    assert losses(first)["training"] != losses(other)["training"]


def test_a_unet_is_trained_on_what_its_autoencoder_was_not(data):
    train_ae(data, epochs=1, seed=3)
    held_out = Util.split(losses(data / "models" / "own" / "ae.torch")["settings"]["pieces"], 3)[1]
    UNetMain.train(**{**brief, "data": data, "wf": 3, "epochs": 1, "seed": 3, "held_out": True})
    recorded = losses(data / "models" / "own" / "unet.torch")
    assert recorded["settings"]["pieces"] == held_out
    assert sorted({*recorded["training_pieces"], *recorded["validation_pieces"]}) == held_out


def test_what_a_training_leaves(train):
    weights = train()
    stem = weights.stem
    assert {path.name for path in weights.parent.iterdir() if path.stem.startswith(stem)} == {
        f"{stem}{ending}" for ending in (".torch", "_last.torch", "_losses.json", "_losses.png", "_epoch_1.npy",
                                         "_epoch_1.png", "_epoch_2.npy", "_epoch_2.png")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in weights.parent.glob("*.png"))
    recorded = losses(weights)
    assert len(recorded["training"]) == len(recorded["validation"]) == 2
    assert recorded["loss"] == {"ae": "L1 loss", "unet": "L1 loss"}[stem]
    assert (recorded["training_pieces"], recorded["validation_pieces"]) == Util.split(recorded["settings"]["pieces"])
    assert {value.dtype for value in state(weights).values()} <= {torch.float32, torch.int64}


def test_the_weights_are_those_of_the_epoch_with_the_least_validation_loss(tmp_path):
    for name, target in ("training", 1), ("validation", 0):  # the better on the one, the worse on the other
        for mode, level in ("piano", 1), ("synth", target):
            Util.save_array(tmp_path / "generated" / name / f"{mode}.npy", np.full((128, 64), level, np.float16))
    sets = AEDataset(["training"], tmp_path), AEDataset(["validation"], tmp_path)
    for epochs in 1, 3:
        network = torch.nn.Conv2d(1, 1, 1)
        torch.nn.init.zeros_(network.weight), torch.nn.init.zeros_(network.bias)
        model = Training.Trainer(network, torch.nn.functional.l1_loss, 0.01, torch.device("cpu"))
        Training.fit(model, *sets, tmp_path / f"{epochs}.torch", {**fit_settings, "epochs": epochs}, "L1 loss")
        assert torch.equal(network.bias, state(tmp_path / f"{epochs}.torch")["bias"])  # the model goes on with them
    first, second, third = losses(tmp_path / "3.torch")["validation"]
    assert first < second < third
    for key, value in state(tmp_path / "1.torch").items():
        assert torch.equal(value, state(tmp_path / "3.torch")[key])


def test_the_mean_of_the_weights_is_what_is_validated_and_kept(tmp_path):
    for name in "training", "validation":
        for mode in "piano", "synth":
            Util.save_array(tmp_path / "generated" / name / f"{mode}.npy", np.full((128, 64), 1, np.float16))
    sets = AEDataset(["training"], tmp_path), AEDataset(["validation"], tmp_path)
    steps = {}
    for average in 0, 3:
        network = torch.nn.Conv2d(1, 1, 1)
        torch.nn.init.zeros_(network.weight), torch.nn.init.zeros_(network.bias)
        model = Training.Trainer(network, torch.nn.functional.l1_loss, 0.01, torch.device("cpu"), average=average)
        step, steps[average] = model.optimiser.step, []
        model.optimiser.step = lambda: (step(), steps[average].append(network.bias.item()))
        Training.fit(model, *sets, tmp_path / f"{average}.torch", {**fit_settings, "epochs": 6}, "L1 loss")
    assert steps[0] == steps[3] and len(steps[0]) == 6  # the training goes on from the weights, not from their mean
    mean = steps[0][0]
    for n, bias in enumerate(steps[0][1:], 2):
        mean += (bias - mean) / min(n, 3)
    assert state(tmp_path / "0_last.torch")["bias"].item() == pytest.approx(steps[0][-1])
    assert state(tmp_path / "3_last.torch")["bias"].item() == pytest.approx(mean)
    assert losses(tmp_path / "3.torch")["validation"][-1] > losses(tmp_path / "0.torch")["validation"][-1]  # it lags


def test_long_clips_are_validated_in_parts(monkeypatch):
    lengths = []

    class Copy(torch.nn.Conv2d):
        def forward(self, x):
            lengths.append(x.shape[-1])
            return x

    model = Training.Trainer(Copy(1, 1, 1), torch.nn.functional.l1_loss, None, torch.device("cpu"))
    source = torch.rand(1, 128, 250)
    target = torch.cat([source[..., :100], source[..., 100:200] * 0, source[..., 200:]], dim=-1)
    monkeypatch.setattr(hp, "chunk_frames", 100)
    assert model.validate([(source, target)]) == (pytest.approx((source - target).mean().item(), rel=0.01), {})
    assert lengths == [100, 100, 50]


def test_the_outputs_of_the_autoencoder_are_stored_for_every_piece_though_stopped_meanwhile(data, monkeypatch):
    behind_an_autoencoder(data, "own")

    def one(model, audio, make=UNetDataset.make_output):
        if list((data / "ae_output").rglob("*.npy")):
            raise KeyboardInterrupt
        return make(model, audio)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UNetDataset, "make_output", one)
        UNetMain.train(data, wf=2, **brief)
    assert len(list((data / "ae_output").rglob("*.npy"))) == 1
    assert not list((data / "models" / "own").glob("unet*"))
    UNetMain.train(data, wf=2, **{**brief, "epochs": 1})
    model = load_model(Autoencoder, data / "models" / "own" / "ae.torch")
    outputs, pieces = UNetDataset.StoredOutputs(model, data, "own"), [*(data / "generated").glob("*/")]
    assert len(pieces) == len(list((data / "ae_output").rglob("*.npy"))) == 3
    for piece in pieces:
        [(output, seen)] = outputs.paths(piece.name)
        wanted = model.generate(Util.load_array(seen, np.float16).astype(np.float32))
        np.testing.assert_allclose(np.load(output), wanted, atol=2e-3)  # of the sound, not of what is stored of it
        assert np.load(output).shape == np.load(piece / "synth.npy").shape == (128, 258)


@pytest.mark.parametrize("form", (dict(residual=True), dict(gain_frames=33)), ids=str)
def test_a_unet_that_is_no_better_than_none_passes_its_input_on(tmp_path, capsys, form):
    for mode in "piano", "synth":  # the input is the target
        Util.save_array(tmp_path / "generated" / "piece" / f"{mode}.npy", np.eye(128, 64, dtype=np.float16))
    pairs = AEDataset(["piece"], tmp_path)
    model = UNetMain.UNetTrainer(UNet(depth=2, wf=1, **form), torch.nn.functional.l1_loss, 0.01, torch.device("cpu"))
    Training.fit(model, pairs, pairs, tmp_path / "own" / "unet.torch", fit_settings, "L1 loss")
    kept = load_model(UNet, tmp_path / "own" / "unet.torch")
    assert torch.equal(kept.run(pairs[0][0][None])[0], pairs[0][0])
    assert losses(tmp_path / "own" / "unet.torch")["kept"] == 0
    assert ("none of 2 epochs is better than no U-Net: these weights pass the autoencoder's output on unchanged; "
            in capsys.readouterr().out.splitlines()[-1])


# what a training says

def test_the_last_lines_say_what_was_reached(train, capsys):
    weights = train(epochs=3)
    reached, remark = capsys.readouterr().out.splitlines()[-2:]
    validation = losses(weights)["validation"]
    best = min(validation)
    assert reached.startswith(f"{weights}: validation loss {best:.5f}, reached in epoch "
                              f"{validation.index(best) + 1} of 3, ")
    assert remark.startswith("trained on 2 pieces; Main.py takes such a model only if --model names it; ")


def test_the_picture_of_the_losses_has_two_panels_and_marks_the_kept_epoch():
    figure = Plots.plot_losses({"loss": "L1 loss", "training": [28, 5, 5.5], "validation": [0.28, 0.15, 0.2],
                                "before": {"validation": 0.3}, "kept": 2}, "own/ae: A -> B")
    training, validation = figure.axes
    assert figure.get_suptitle() == "own/ae: A -> B"
    assert [axis.get_title() for axis in figure.axes] == ["training", "validation"]
    assert (training.get_ylabel(), training.get_yscale(), validation.get_yscale()) == ("L1 loss", "log", "linear")
    assert training.lines[0].get_xydata().tolist() == [[1, 28], [2, 5], [3, 5.5]]
    assert validation.lines[0].get_xydata().tolist() == [[0, 0.3], [1, 0.28], [2, 0.15], [3, 0.2]]
    assert validation.lines[1].get_xydata().tolist() == [[2, 0.15]]
    assert [text.get_text() for text in validation.get_legend().get_texts()] == ["kept: epoch 2"]
    assert all(tick == round(tick) for axis in figure.axes for tick in axis.get_xticks())


# the commands that are advised

brief_flags = ["--batch-size", "2", "--crop-frames", "64", "--device", "cpu"]


def advised(capsys):
    """Return the script and the arguments of the command that was advised last."""
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("next: python ")
    script, *arguments = shlex.split(line.removeprefix("next: python "))
    return script, arguments


@pytest.fixture
def follow(data, capsys, tmp_path, monkeypatch):
    """Function that runs AEMain.py and then every advised command, to Main.py. Returns the arguments of UNetMain.py."""
    Util.write_audio(tmp_path / "recording.wav", Util.read_audio(next((data / "piano").glob("*.wav")))[:20_000])
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        AEMain.main(["--data", str(data), *brief_flags, *arguments])
        script, unet_arguments = advised(capsys)
        assert script == "UNetMain.py"
        UNetMain.main([*unet_arguments, *brief_flags[:4]])
        script, main_arguments = advised(capsys)
        assert script == "Main.py" and main_arguments[0] == "RECORDING"
        Main.main(["recording.wav", *main_arguments[1:]])
        output = tmp_path / "recording_target_instrument.wav"  # of recorded pairs
        assert output.stat().st_size > 20_000
        output.unlink()
        return unet_arguments

    return run


def test_the_advised_commands_run(data, follow, monkeypatch):
    monkeypatch.setattr(hp, "ae_channels", (4, 4, 4)), monkeypatch.setattr(hp, "unet_wf", 2)
    monkeypatch.setitem(hp.ae_report, "channels", (4, 4, 4)), monkeypatch.setitem(hp.unet_report, "wf", 2)
    shutil.copytree(data / "synth", data / "piano_2")
    arguments, more = ["--data", str(data), "--device", "cpu"], ["--seed", "3", "--validation-source", "piano_2"]
    assert follow("--network", "report", "--epochs", "2") == [*arguments, "--epochs", "1"]  # of 50, as 2 of 600
    assert follow("--report", "--epochs", "1", "--overwrite", *more) == [  # the U-Net there belongs to other weights
        *arguments, *more, "--report", "--epochs", "1", "--overwrite"]


def test_the_advised_command_has_only_what_is_not_the_default(data, monkeypatch):
    monkeypatch.setattr(hp, "data", data)
    settings = dict(seed=hp.seed, validation_source=None)
    for network, epochs in ("report", 600), ("notes", None), ("notes", 2):
        assert AEMain.unet_arguments({**settings, "network": network, "epochs": epochs}, data, "own") == []
    assert AEMain.unet_arguments({**settings, "network": "notes", "epochs": 2}, data, "mine") == ["--model", "mine"]


def test_tensorboard_gets_what_is_recorded(data, monkeypatch):
    written, folders = {}, []

    class Writer:
        """Takes what `torch.utils.tensorboard.SummaryWriter` takes."""

        def __init__(self, folder, purge_step):
            folders.append((folder, purge_step))

        def add_scalar(self, tag, value, step):
            written.setdefault(tag, []).append((step, value))

        def flush(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    train_ae(data, tensorboard=True, schedule="constant", learning_rate=3e-3)
    weights = data / "models" / "own" / "ae.torch"
    recorded = losses(weights)
    for part in "training", "validation":
        assert written[f"{recorded['loss']}/{part}"] == list(enumerate(recorded[part], 1))
    assert written["learning rate"] == [(1, 3e-3), (2, 3e-3)]
    assert folders == [(weights.with_suffix(""), 1)]


def test_without_the_package_tensorboard_the_flag_says_so(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError,
                       match="--tensorboard needs a package that is not installed; pip install tensorboard"):
        train_ae(data, tensorboard=True)


# finished models

def test_a_finished_model_is_overwritten_only_on_demand(train, data):
    weights = train(epochs=1)
    before = weights.read_bytes(), weights.stat().st_mtime_ns
    for mode in "piano", "synth":  # even if there are other pieces
        shutil.copy(data / mode / "bach_prelude_c.wav", data / mode / "another.wav")
    for seed in 0, 1:
        with pytest.raises(ValueError, match=f"{weights.name} is finished.*to train it again$"):
            train(epochs=1, seed=seed)
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == before
    train(epochs=1, seed=1, overwrite=True)
    assert weights.read_bytes() != before[0] and losses(weights)["settings"]["seed"] == 1


def test_a_finished_model_is_said_with_the_midi_files_that_are_not_rendered(data):
    Util.save_text(data / "piano" / "preset.txt", "FluidR3_GM.sf2:0:0\n")
    for path in "MIDI/bach_prelude_c.mid", "MIDI/suite/new.mid", "models/own/ae.torch":
        (data / path).parent.mkdir(parents=True, exist_ok=True), (data / path).touch()
    with pytest.raises(ValueError, match=f"is finished; .*; suite__new in {data / 'MIDI'} still has to be rendered"):
        AEMain.train(data)


def test_a_finished_model_stays_until_the_one_that_overwrites_it_is_finished(data):
    train_ae(data)
    weights = data / "models" / "own" / "ae.torch"
    before = weights.read_bytes()
    with interruption(data, 3):
        train_ae(data, seed=1, overwrite=True)
    assert weights.read_bytes() == before
    train_ae(data, seed=1)
    assert losses(weights)["settings"]["seed"] == 1
