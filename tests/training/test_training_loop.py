"""Training: losses fall, what a training leaves and says, and two processes train as one does."""
import contextlib
import io
import shutil
import subprocess
import sys
import types
import unittest.mock

import numpy as np
import pytest
import torch

import AEMain
import Hyperparameters as hp
import UNetDataset
import UNetMain
import Util
from AEDataset import AEDataset
from AEModel import load_model
from Autoencoder import Autoencoder
from outputs import plots
from training import processes, progress, training_loop
from training_common import fit_settings, losses, state, train_ae, train_network
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")
learning = {name: dict(epochs=4, crop_frames=32, schedule="constant", learning_rate=rate)
            for name, rate in (("ae", 1e-2), ("unet", 5e-3))}
save_figure = plots.save_figure


@pytest.fixture(scope="module", params=("ae", "unet"))
def trained(request, three_seconds, tmp_path_factory, one_thread):
    """The weights of a training, and what it said."""
    data = shutil.copytree(three_seconds, tmp_path_factory.mktemp("trained") / "data")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr(progress, "pace_steps", 2)
        patch.setattr(plots, "save_figure", save_figure)
        weights = train_network(request.param, data, **learning[request.param])
    return weights, said.getvalue().splitlines()


def test_the_loss_falls_and_a_training_leaves_weights_losses_and_pictures(trained):
    weights, _ = trained
    stem, recorded = weights.stem, losses(weights)
    for part in "training", "validation":
        assert len(recorded[part]) == 4
        assert recorded[part][-1] < 0.8 * recorded[part][0]
    assert {path.name for path in weights.parent.iterdir() if path.stem.startswith(stem)} == {
        f"{stem}{ending}" for ending in (".torch", "_last.torch", "_losses.json", "_losses.png", "_epoch_1.npy",
                                         "_epoch_1.png", "_epoch_4.npy", "_epoch_4.png")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in weights.parent.glob("*.png"))
    assert recorded["loss"] == "L1 loss"
    assert (recorded["training_pieces"], recorded["validation_pieces"]) == Util.split(recorded["settings"]["pieces"])


def test_a_training_says_how_long_it_takes_and_what_was_reached(trained, capsys):
    weights, said = trained
    duration, validation = "estimated duration of the 32 steps: ", losses(weights)["validation"]
    places = [place for place, line in enumerate(said) if line.startswith(duration)]
    assert len(places) == 1 and places[0] < next(i for i, line in enumerate(said) if line.startswith("epoch 1/4"))
    assert said[-2].startswith(f"{weights}: validation loss {min(validation):.5f}, reached in epoch "
                               f"{validation.index(min(validation)) + 1} of 4, ")
    assert said[-1] == ("trained on 2 pieces; Main.py takes such a model only if --model names it; for a good sound "
                        "take at least 20")
    progress.print_quality_remark({"trained_for": {"pieces": 20}})
    assert not capsys.readouterr().out


def test_a_finished_model_is_overwritten_only_on_demand_and_the_seed_counts(trained, tmp_path, no_pictures):
    data = shutil.copytree(trained[0].parents[2], tmp_path / "data")
    weights = data / "models" / "own" / trained[0].name
    before = weights.read_bytes(), weights.stat().st_mtime_ns
    for mode in "piano", "synth":  # even if there are other pieces
        shutil.copy(data / mode / "bach_prelude_c.wav", data / mode / "another.wav")
    for seed in 0, 1:
        with pytest.raises(ValueError, match=f"{weights.name} is finished.*to train it again$"):
            train_network(weights.stem, data, seed=seed)
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == before
    for path in data.glob("*/another.wav"):
        path.unlink()
    train_network(weights.stem, data, **{**learning[weights.stem], "epochs": 1}, seed=1, overwrite=True)
    assert weights.read_bytes() != before[0] and losses(weights)["settings"]["seed"] == 1
    assert losses(weights)["training"][0] != losses(trained[0])["training"][0]


def test_a_finished_model_is_said_with_the_midi_files_that_are_not_rendered(tmp_path):
    Util.save_text(tmp_path / "piano" / "preset.txt", "FluidR3_GM.sf2:0:0\n")
    for path in "piano/old.wav", "MIDI/old.mid", "MIDI/suite/new.mid", "models/own/ae.torch":
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True), (tmp_path / path).touch()
    with pytest.raises(ValueError, match=f"is finished; .*; suite__new in {tmp_path / 'MIDI'} still has to be rende"):
        AEMain.train(tmp_path)


def test_more_processes_than_crops_are_refused(three_seconds, tmp_path, monkeypatch):
    piece = AEDataset(["bach_prelude_c"], three_seconds)
    model = training_loop.Trainer(Autoencoder(channels=(4, 4, 4)), None, None, torch.device("cpu"))
    monkeypatch.setattr(processes, "process_rank", lambda: (0, 2))
    with pytest.raises(ValueError, match="fewer crops than there are processes, 2"):
        training_loop.fit(model, piece, piece, tmp_path / "ae.torch",
                          {**fit_settings, "batch_size": 2, "crop_frames": 0}, "L1 loss")


def fit_level(folder, name, target=1, **options):
    """Train a convolution of a single weight and bias, from 0, on images of 1; return its trainer and its biases."""
    for piece, level in ("training", 1), ("validation", target):
        for mode, image in ("piano", 1), ("synth", level):
            Util.save_array(folder / "generated" / piece / f"{mode}.npy", np.full((128, 64), image, np.float16))
    network, biases = torch.nn.Conv2d(1, 1, 1), []
    torch.nn.init.zeros_(network.weight), torch.nn.init.zeros_(network.bias)
    average = options.pop("average", 0)
    model = training_loop.Trainer(network, torch.nn.functional.l1_loss, 0.01, torch.device("cpu"), average=average)
    step = model.optimiser.step
    model.optimiser.step = lambda: (step(), biases.append(network.bias.item()))
    training_loop.fit(model, AEDataset(["training"], folder), AEDataset(["validation"], folder),
                      folder / f"{name}.torch", {**fit_settings, **options}, "L1 loss")
    return network, biases


def test_the_weights_are_those_of_the_epoch_with_the_least_validation_loss(tmp_path, no_pictures):
    for epochs in 1, 3:  # the better on the training set, the worse on the validation set
        network, _ = fit_level(tmp_path, epochs, target=0, epochs=epochs)
        assert torch.equal(network.bias, state(tmp_path / f"{epochs}.torch")["bias"])  # the model goes on with them
    first, second, third = losses(tmp_path / "3.torch")["validation"]
    assert first < second < third and losses(tmp_path / "3.torch")["kept"] == 1
    for key, value in state(tmp_path / "1.torch").items():
        assert torch.equal(value, state(tmp_path / "3.torch")[key])


def test_the_mean_of_the_weights_is_what_is_validated_and_kept(tmp_path, no_pictures):
    steps = {average: fit_level(tmp_path, average, epochs=6, average=average)[1] for average in (0, 3)}
    assert steps[0] == steps[3] and len(steps[0]) == 6  # the training goes on from the weights, not from their mean
    mean = steps[0][0]
    for n, bias in enumerate(steps[0][1:], 2):
        mean += (bias - mean) / min(n, 3)
    assert state(tmp_path / "0_last.torch")["bias"].item() == pytest.approx(steps[0][-1])
    assert state(tmp_path / "3_last.torch")["bias"].item() == pytest.approx(mean)
    assert losses(tmp_path / "3.torch")["validation"][-1] > losses(tmp_path / "0.torch")["validation"][-1]  # it lags


@pytest.mark.parametrize("form, started, target, better", (
    (dict(gain_frames=33), False, 1, "without a U-Net"), (dict(residual=True), True, 1, "without a U-Net"),
    (dict(residual=True), True, 0, "before the first step")))
def test_a_unet_has_to_surpass_the_better_of_none_and_its_start(tmp_path, capsys, no_pictures, form, started, target,
                                                                 better):
    for mode, level in ("piano", 1), ("synth", target):
        image = level * np.eye(128, 64, dtype=np.float16)
        Util.save_array(tmp_path / "generated" / "piece" / f"{mode}.npy", image)
    pairs, network = AEDataset(["piece"], tmp_path), UNet(depth=2, wf=1, **form)
    if started:  # with a network whose output is 0
        torch.nn.init.zeros_(network.last.weight), torch.nn.init.zeros_(network.last.bias)
    model = UNetMain.UNetTrainer(network, torch.nn.functional.l1_loss, 0.01, torch.device("cpu"), started=started)
    training_loop.fit(model, pairs, pairs, tmp_path / "own" / "unet.torch", fit_settings, "L1 loss")
    kept = load_model(UNet, tmp_path / "own" / "unet.torch")
    source, target = pairs[0]
    assert torch.equal(kept.run(source[None])[0], target)
    recorded, said = losses(tmp_path / "own" / "unet.torch"), capsys.readouterr().out.splitlines()
    assert (recorded["kept"], recorded["before"]["what"], recorded["before"]["validation"]) == (0, better, 0)
    assert sum(line.startswith(("without a U-Net  validation ", "before the first step  v")) for line in said) == (
        1 + started)
    assert f"none of 2 epochs is better than {UNetMain.UNetTrainer.baseline_texts[better]}; " in said[-1]


def test_long_clips_are_validated_in_parts(monkeypatch):
    lengths = []

    class Copy(torch.nn.Conv2d):
        def forward(self, x):
            lengths.append(x.shape[-1])
            return x

    model = training_loop.Trainer(Copy(1, 1, 1), torch.nn.functional.l1_loss, None, torch.device("cpu"))
    source = torch.rand(1, 128, 250)
    target = torch.cat([source[..., :100], source[..., 100:200] * 0, source[..., 200:]], dim=-1)
    monkeypatch.setattr(hp, "chunk_frames", 100)
    assert model.validate([(source, target)]) == (pytest.approx((source - target).mean().item(), rel=0.01), {})
    assert lengths == [100, 100, 50]


@pytest.mark.parametrize("steps", (1, 10, 101, 1000))
def test_the_linear_schedule_warms_up_and_falls_to_zero(steps):
    factors = [training_loop.schedule_factor(step, steps, "linear") for step in range(steps)]
    warmup = min(100, steps // 10)
    np.testing.assert_allclose(factors[:warmup], np.arange(1, warmup + 1) / (warmup + 1))
    np.testing.assert_allclose(factors[warmup:], 1 - np.arange(steps - warmup) / (steps - warmup))
    assert {training_loop.schedule_factor(step, steps, "constant") for step in range(steps)} == {1}


def test_a_unet_is_trained_on_what_its_autoencoder_was_not(data, no_pictures):
    weights = train_network("unet", data, epochs=1, seed=3, held_out=True)
    held_out = Util.split([path.stem for path in (data / "piano").glob("*.wav")], 3)[1]
    recorded = losses(weights)
    assert recorded["settings"]["pieces"] == held_out
    assert sorted({*recorded["training_pieces"], *recorded["validation_pieces"]}) == held_out


def test_the_outputs_of_the_autoencoder_are_stored_for_every_piece_though_stopped_meanwhile(data, monkeypatch,
                                                                                            no_pictures):
    def one(model, audio, make=UNetDataset.make_output):
        if list((data / "ae_output").rglob("*.npy")):
            raise KeyboardInterrupt
        return make(model, audio)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UNetDataset, "make_output", one)
        train_network("unet", data)
    assert len(list((data / "ae_output").rglob("*.npy"))) == 1
    assert not list((data / "models" / "own").glob("unet*"))
    train_network("unet", data, epochs=1)
    model = load_model(Autoencoder, data / "models" / "own" / "ae.torch")
    outputs, pieces = UNetDataset.StoredOutputs(model, data, "own"), [*(data / "generated").glob("*/")]
    assert len(pieces) == len(list((data / "ae_output").rglob("*.npy"))) == 3
    for piece in pieces:
        [(output, seen)] = outputs.paths(piece.name)
        wanted = model.generate(Util.load_array(seen, np.float16).astype(np.float32))
        np.testing.assert_allclose(np.load(output), wanted, atol=2e-3)  # of the sound, not of what is stored of it
        assert np.load(output).shape == np.load(piece / "synth.npy").shape == (128, 258)


def test_the_estimated_duration_leaves_out_the_first_step(monkeypatch, capsys):
    times = iter([100.0, 200.0, 230.0, 260.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(progress, "pace_steps", 2)
    pace, said = progress.Pace(42), []
    for _ in range(5):
        pace.step()
        said.append(capsys.readouterr().out)
    assert said == ["", "", "estimated duration of the 42 steps: 46 min\n", "", ""]


def test_the_picture_of_the_losses_has_two_panels_and_marks_the_kept_epoch():
    figure = plots.plot_losses({"loss": "L1 loss", "training": [28, 5, 5.5], "validation": [0.28, 0.15, 0.2],
                                "before": {"validation": 0.3}, "kept": 2}, "own/ae: A -> B")
    training, validation = figure.axes
    assert (training.get_ylabel(), training.get_yscale(), validation.get_yscale()) == ("L1 loss", "log", "linear")
    assert training.lines[0].get_xydata().tolist() == [[1, 28], [2, 5], [3, 5.5]]
    assert validation.lines[0].get_xydata().tolist() == [[0, 0.3], [1, 0.28], [2, 0.15], [3, 0.2]]
    assert validation.lines[1].get_xydata().tolist() == [[2, 0.15]]
    assert [text.get_text() for text in validation.get_legend().get_texts()] == ["kept: epoch 2"]


def test_tensorboard_gets_what_is_recorded_and_its_absence_is_said(data, monkeypatch, no_pictures):
    writer = unittest.mock.MagicMock()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="--tensorboard needs a package that is not installed; pip install tensorb"):
        train_ae(data, tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=writer))
    weights = train_ae(data, tensorboard=True, schedule="constant", learning_rate=3e-3)
    recorded = losses(weights)
    writer.assert_called_once_with(weights.with_suffix(""), purge_step=1)
    assert [call.args for call in writer.return_value.add_scalar.call_args_list] == [
        row for epoch in (1, 2) for row in (*((f"L1 loss/{part}", recorded[part][epoch - 1], epoch)
                                              for part in ("training", "validation")), ("learning rate", 3e-3, epoch))]


# several processes

networks = {"unet": dict(bfloat16=True), "ae": dict(bfloat16=False)}
tolerance = {"unet": 3e-3, "ae": 1e-3}  # Adam enlarges what is rounded
settings = dict(epochs=2, batch_size=4, crop_frames=40, overwrite=True)
script = f"""
import pathlib, sys
sys.path[:0] = sys.argv[1:3]
from training import training_options
from training_common import train_network
for name, options in {networks}.items():
    train_network(name, pathlib.Path(sys.argv[3]), model="two", **options, **{settings})
training_options.print_next_command("Main.py")
"""


def test_two_processes_have_the_losses_of_one(data, root):
    data.joinpath("train.py").write_text(script)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                           data / "train.py", root, root / "tests", data], capture_output=True, text=True)
    assert done.returncode == 0 and "terminate" not in done.stderr, done.stderr
    assert done.stdout.count("epoch 2/2") == 2 and done.stdout.count("next: ") == 1  # the first process alone speaks
    for name, options in networks.items():
        one = train_network(name, data, model="one", **options, **settings)
        two = data / "models" / "two" / f"{name}.torch"
        assert all(tensor.isfinite().all() for tensor in state(two).values())
        for part in "training", "validation":
            assert losses(two)[part] == pytest.approx(losses(one)[part], abs=tolerance[name])


def test_a_stray_rank_is_no_distributed_training(monkeypatch):
    for name in "RANK", "WORLD_SIZE", "LOCAL_RANK":
        monkeypatch.setenv(name, "1")
    assert processes.process_rank() == (0, 1) and not torch.distributed.is_initialized()
