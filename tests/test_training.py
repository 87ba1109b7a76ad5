"""Training: losses fall, the same seed gives the same weights, and what a training leaves and says."""
import contextlib
import json
import random
import shlex
import shutil
import sys
import types

import numpy as np
import pytest
import torch

import AEMain
import Checkpoints
import DatasetCreator
import Distributed
import Hyperparameters as hp
import Main
import Progress
import Training
import TrainingOptions
import UNetDataset
import UNetMain
import Util
from AEDataset import AEDataset, split_for_training
from AEModel import digest, load_model
from Autoencoder import Autoencoder
from training_common import assert_same, behind_an_autoencoder, brief, interruption, losses, state, train_ae
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=("ae", "unet"))
def train(request, data):
    """Function that trains one of the networks, briefly unless told otherwise, and returns the path of its weights."""

    def run(**options):
        script, width = (AEMain, {}) if request.param == "ae" else (UNetMain, {"wf": 3})
        if script is UNetMain:
            behind_an_autoencoder(data, options.get("model", "own"))
        script.train(**{**brief, "data": data, **width, **options})
        return data / "models" / options.get("model", "own") / f"{request.param}.torch"

    return run


# one training

def test_the_loss_falls(train):
    recorded = losses(train(epochs=6, crop_frames=16, learning_rate=2e-3, schedule="constant"))
    for part in "training", "validation":
        assert len(recorded[part]) == 6
        assert recorded[part][-1] < 0.8 * recorded[part][0]


def test_the_same_seed_gives_the_same_weights_and_losses(train):
    first, again, other = train(model="first"), train(model="again"), train(model="other", seed=1)
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
        f"{stem}{ending}" for ending in (".torch", "_last.torch", "_losses.json", "_losses.png", "_epoch_2.npy",
                                         "_epoch_2.png")}
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
    settings = {**brief, "batch_size": 1, "schedule": "constant", "seed": 0, "trained_for": {}}
    for epochs in 1, 3:
        network = torch.nn.Conv2d(1, 1, 1)
        torch.nn.init.zeros_(network.weight), torch.nn.init.zeros_(network.bias)
        model = Training.Trainer(network, torch.nn.functional.l1_loss, 0.01, torch.device("cpu"))
        Training.fit(model, *sets, tmp_path / f"{epochs}.torch", {**settings, "epochs": epochs}, "L1 loss")
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
    settings = {**brief, "batch_size": 1, "schedule": "constant", "seed": 0, "trained_for": {}, "epochs": 6}
    steps = {}
    for average in 0, 3:
        network = torch.nn.Conv2d(1, 1, 1)
        torch.nn.init.zeros_(network.weight), torch.nn.init.zeros_(network.bias)
        model = Training.Trainer(network, torch.nn.functional.l1_loss, 0.01, torch.device("cpu"), average=average)
        step, steps[average] = model.optimiser.step, []
        model.optimiser.step = lambda: (step(), steps[average].append(network.bias.item()))
        Training.fit(model, *sets, tmp_path / f"{average}.torch", settings, "L1 loss")
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
    assert model.validate([(source, target)]) == pytest.approx((source - target).mean().item(), rel=0.01)
    assert lengths == [100, 100, 50]


def test_a_unet_of_one_input_stores_the_autoencoders_output_for_every_piece_though_stopped_meanwhile(data, monkeypatch):
    behind_an_autoencoder(data, "own")
    shutil.rmtree(data / "ae_output")

    def read_one(path, read=UNetDataset.map_spectrogram):
        if list((data / "ae_output" / "own").glob("*.npy")):
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(UNetDataset, "map_spectrogram", read_one)
    with pytest.raises(KeyboardInterrupt):
        UNetMain.train(data, in_channels=1, wf=2, **brief)
    monkeypatch.undo()
    assert len(list((data / "ae_output" / "own").glob("*.npy"))) == 1
    assert not list((data / "models" / "own").glob("unet*"))
    UNetMain.train(data, in_channels=1, wf=2, **brief)
    model = load_model(Autoencoder, data / "models" / "own" / "ae.torch")
    folders = list((data / "generated").glob("*/"))
    assert len(folders) == 3
    assert {path.stem for path in (data / "ae_output" / "own").glob("*.npy")} == {folder.name for folder in folders}
    for folder in folders:
        output, target = np.load(data / "ae_output" / "own" / f"{folder.name}.npy"), np.load(folder / "synth.npy")
        assert output.shape == target.shape == (128, 258) and output.dtype == np.float16
        np.testing.assert_array_equal(output, model.generate(np.load(folder / "piano.npy")).astype(np.float16))


# what a training says

def test_the_last_lines_say_what_was_reached(train, capsys):
    weights = train(epochs=3)
    reached, remark = capsys.readouterr().out.splitlines()[-2:]
    validation = losses(weights)["validation"]
    best = min(validation)
    assert reached.startswith(f"{weights}: validation loss {best:.5f}, reached in epoch "
                              f"{validation.index(best) + 1} of 3, ")
    assert "only to see it run" in remark


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
        assert (tmp_path / "recording_epiano.wav").stat().st_size > 20_000
        (tmp_path / "recording_epiano.wav").unlink()
        return unet_arguments

    return run


def test_the_advised_commands_run(data, follow, monkeypatch):
    monkeypatch.setattr(hp, "ae_channels", (4, 4, 4)), monkeypatch.setattr(hp, "unet_wf", 2)
    arguments = ["--data", str(data), "--model", "own", "--device", "cpu"]
    assert follow("--epochs", "2") == [*arguments, "--epochs", "1"]  # of 50, as 2 of 600
    unet = data / "models" / "own" / "unet.torch"
    first = unet.read_bytes()
    assert follow("--epochs", "2", "--seed", "3", "--overwrite") == [  # the U-Net there belongs to other weights
        *arguments, "--seed", "3", "--epochs", "1", "--overwrite"]
    assert unet.read_bytes() != first


def test_the_advised_commands_keep_what_both_trainings_share(data, follow, monkeypatch):
    monkeypatch.setattr(hp, "ae_channels", (4, 4, 4)), monkeypatch.setattr(hp, "unet_wf", 2)
    monkeypatch.setitem(hp.ae_report, "channels", (4, 4, 4)), monkeypatch.setitem(hp.unet_report, "wf", 2)
    shutil.copytree(data / "synth", data / "piano_2")
    arguments = ["--data", str(data), "--device", "cpu", "--validation-source", "piano_2"]
    assert follow("--epochs", "1", "--model", "two", "--augmented", "--validation-source", "piano_2") == [
        *arguments[:2], "--model", "two", *arguments[2:], "--augmented", "--epochs", "1"]
    assert follow("--epochs", "1", "--model", "report", "--report") == [
        *arguments[:2], "--model", "report", "--device", "cpu", "--report", "--epochs", "1"]


def test_what_is_trained_further_gets_the_unet_beside_the_initial_weights(data, follow):
    behind_an_autoencoder(data, "own")
    start = data / "models" / "own"
    torch.save(UNet(wf=2, depth=3, in_channels=1).state_dict(), start / "unet.torch")
    assert follow("--epochs", "1", "--model", "more", "--start", str(start / "ae.torch")) == [
        "--data", str(data), "--model", "more", "--device", "cpu", "--epochs", "1", "--start",
        str(start / "unet.torch")]
    assert load_model(UNet, data / "models" / "more" / "unet.torch").network.form["depth"] == 3


def test_a_training_of_the_default_length_is_followed_by_one():
    settings = dict(seed=hp.seed, validation_source=None, augmented=True, start=None)
    for network, epochs, more in ("report", 600, ["--augmented"]), ("notes", 20, []), ("notes", 40, []):
        assert AEMain.unet_arguments({**settings, "network": network, "epochs": epochs}, hp.data, "own") == [
            "--model", "own", *more]


def test_tensorboard_gets_what_is_recorded(train, data, monkeypatch):
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
    weights = train(tensorboard=True, schedule="constant", learning_rate=3e-3)
    recorded = losses(weights)
    for part in "training", "validation":
        assert written[f"{recorded['loss']}/{part}"] == list(enumerate(recorded[part], 1))
    assert written["learning rate"] == [(1, 3e-3), (2, 3e-3)]
    assert folders == [(weights.with_suffix(""), 1)]


def test_without_the_package_tensorboard_the_flag_says_so(train, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError,
                       match="--tensorboard needs a package that is not installed; pip install tensorboard"):
        train(tensorboard=True)


# finished models

def test_a_finished_model_is_overwritten_only_on_demand(train):
    weights = train(epochs=1)
    before = weights.read_bytes(), weights.stat().st_mtime_ns
    for seed in 0, 1:
        with pytest.raises(ValueError, match=f"{weights.name} is finished"):
            train(epochs=1, seed=seed)
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == before
    train(epochs=1, seed=1, overwrite=True)
    assert weights.read_bytes() != before[0] and losses(weights)["settings"]["seed"] == 1


def test_a_finished_model_is_finished_also_once_there_are_other_pieces(train, data):
    weights = train(epochs=1)
    before = weights.read_bytes()
    for mode in "piano", "synth":
        shutil.copy(data / mode / "bach_prelude_c.wav", data / mode / "another.wav")
    with pytest.raises(ValueError, match=f"{weights.name} is finished"):
        train(epochs=1)
    assert weights.read_bytes() == before


def test_a_finished_model_stays_until_the_one_that_overwrites_it_is_finished(data):
    train_ae(data)
    weights = data / "models" / "own" / "ae.torch"
    before = weights.read_bytes()
    with interruption(data, 3):
        train_ae(data, seed=1, overwrite=True)
    assert weights.read_bytes() == before
    train_ae(data, seed=1)
    assert losses(weights)["settings"]["seed"] == 1


# crops and schedule

@pytest.mark.parametrize("seed", range(20))
def test_crops_cover_every_clip_within_its_bounds(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 2583) for _ in range(30)]
    frames, batch_size = rng.randint(1, 400), rng.randint(1, 16)
    batches = Training.crop_batches(lengths, frames, batch_size, seed)
    assert [len(batch)
            for batch in batches[:-1]] == [batch_size] * (len(batches) - 1) and 1 <= len(batches[-1]) <= batch_size
    for piece, length in enumerate(lengths):
        crops = sorted((start, size) for key, start, size, _ in sum(batches, []) if key == piece)
        assert {size for _, size in crops} == {frames}
        starts = [start for start, _ in crops]
        assert starts == list(range(starts[0], starts[0] + frames * len(starts), frames))  # side by side
        if length < frames:
            assert starts == [0]
        else:
            assert starts[0] >= 0 and starts[-1] + frames <= length < frames * (len(starts) + 1)


def test_crops_are_fixed_by_the_seed():
    lengths = [2583] * 10
    assert Training.crop_batches(lengths, 255, 16, "0 1") == Training.crop_batches(lengths, 255, 16, "0 1")
    assert Training.crop_batches(lengths, 255, 16, "0 1") != Training.crop_batches(lengths, 255, 16, "0 2")


@pytest.mark.parametrize("frames", (0, None))
def test_whole_clips_are_crops_too(frames):
    batches = Training.crop_batches([2583, 2583, 2000], frames, 2, 0)
    assert sorted(key[:3] for key in sum(batches, [])) == [(0, 0, 2583), (1, 0, 2583), (2, 0, 2583)]


@pytest.mark.parametrize("step, steps, factor", (
    (0, 1000, 0.01), (49, 1000, 0.5 * 0.951), (99, 1000, 0.901), (500, 1000, 0.5), (999, 1000, 0.001), (0, 1, 1.0),
    (4, 10, 0.3)))
def test_the_linear_schedule_warms_up_and_falls_to_zero(step, steps, factor):
    assert Training.schedule_factor(step, steps, "linear") == pytest.approx(factor)


@pytest.mark.parametrize("steps", (1, 7, 100, 101, 3000))
def test_factors_of_the_schedules_are_within_0_and_1(steps):
    factors = [Training.schedule_factor(step, steps, "linear") for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[hp.warmup_steps:] == sorted(factors[hp.warmup_steps:], reverse=True)
    assert {Training.schedule_factor(step, steps, "constant") for step in range(steps)} == {1.0}


# the report's form

def test_report_gives_the_reports_settings_and_a_flag_beside_it_counts(data):
    flags = ["--data", str(data), "--report", "--epochs", "1", "--device", "cpu"]
    AEMain.main([*flags, "--batch-size", "2"])
    UNetMain.main([*flags, "--wf", "2"])
    own = data / "models" / "own"
    settings = [json.loads((own / f"{name}_losses.json").read_text())["settings"] for name in ("ae", "unet")]
    assert settings[0].items() > dict(channels=[64, 128, 256], crop_frames=0, schedule="constant", batch_size=2,
                                      augmented=False).items()
    assert settings[1].items() > dict(
        wf=2, in_channels=1, residual=False, batch_norm=False, loss="mse", crop_frames=0, schedule="constant",
        batch_size=1).items()
    unet = load_model(UNet, own / "unet.torch").network
    assert unet.in_channels == 1 and {key.split(".")[0] for key in unet.state_dict()} == {"down_path", "up_path",
                                                                                          "last"}
    expected = digest(state(own / "ae.torch"))
    note = (data / "ae_output" / "own" / "weights.txt").read_text()
    assert note == f"models/own/ae.torch {expected} in single precision\n"


@pytest.mark.parametrize("script", (AEMain, UNetMain))
def test_report_neither_clips_gradients_nor_uses_mixed_precision_and_trains_on_all_pianos(data, monkeypatch, script):
    shutil.copytree(data / "synth", data / "piano_2")
    behind_an_autoencoder(data, "own")
    precisions, clipped, read = set(), [], set()

    def autocast(kind, dtype, enabled):
        precisions.add(enabled)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: clipped.append(1))

    def recorded(path, load=Util.load_array):
        read.add(path.relative_to(data).as_posix())
        return load(path, np.float16, "c")

    monkeypatch.setattr(Util, "load_array", lambda path, *_, **__: recorded(path))
    flags = ["--data", str(data), "--epochs", "2", "--crop-frames", "64", "--device", "cpu", "--overwrite",
             *(("--wf", "2") if script is UNetMain else ())]
    script.main([*flags, "--report"])
    assert precisions == {False} and not clipped
    settings = losses(data / "models" / "own" / ("ae.torch" if script is AEMain else "unet.torch"))["settings"]
    assert settings["gradient_norm"] == 0 and settings["bfloat16"] is False
    piece = split_for_training(DatasetCreator.build(data), hp.seed)[0][0]
    assert read >= ({f"generated/{piece}/piano.npy", f"generated/{piece}/piano_2.npy"} if script is AEMain else
                    {f"ae_output/own/{piece}.npy", f"ae_output/own/piano_2/{piece}.npy"})
    precisions.clear()
    if script is AEMain:
        script.main([*flags, "--channels", "4", "4", "4"])
        assert precisions == {True} and clipped


def test_a_stored_crop_is_of_the_piano_that_its_seed_chooses(data):
    shutil.copytree(data / "synth", data / "piano_2")
    names = DatasetCreator.build(data)
    UNetDataset.write_outputs(data / "models" / "untrained" / "ae.torch", names, data, sources=("piano", "piano_2"))
    dataset = UNetDataset.UNetDataset(names, data, ("piano", "piano_2"), in_channels=2)
    pairs = [[np.load(data / "ae_output" / "own" / folder / f"{names[0]}.npy"),
              np.load(data / "generated" / names[0] / f"{source}.npy")]
             for folder, source in ((".", "piano"), ("piano_2", "piano_2"))]
    seen = [[np.array_equal(dataset[0, 0, 258, seed][0].numpy(), pair) for pair in pairs] for seed in range(12)]
    assert {tuple(found) for found in seen} == {(True, False), (False, True)}
    assert np.array_equal(dataset[0][0].numpy(), pairs[0])


def test_a_stray_rank_is_no_distributed_training(monkeypatch):
    for name in "RANK", "WORLD_SIZE", "LOCAL_RANK":
        monkeypatch.setenv(name, "1")
    assert Distributed.process_rank() == (0, 1) and not torch.distributed.is_initialized()


def test_an_epoch_is_judged_on_some_pieces_from_all_over_those_held_out():
    names = [f"{i:03}" for i in range(302)]
    training, held_out = Util.split(names)
    assert split_for_training(names, 0) == (training, held_out[::4]) and len(held_out[::4]) <= hp.max_validation_pieces
    assert split_for_training(names[:3], 0) == Util.split(names[:3])


def test_training_starts_from_given_weights(train, data):
    weights = train(model="first")
    began = state(train(model="second", start=weights, seed=1, learning_rate=1e-12))
    for key, value in state(weights).items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(began[key], value, msg=key)


def test_the_unet_gets_the_form_of_the_weights_that_it_starts_from(data):
    behind_an_autoencoder(data, "own")
    form = dict(depth=3, wf=2, in_channels=1, residual=True, batch_norm=False, gain_frames=0)
    first = data / "first.torch"
    torch.save(UNet(**form).state_dict(), first)
    UNetMain.main(["--data", str(data), "--epochs", "1", "--crop-frames", "64", "--learning-rate", "1e-12", "--start",
                   str(first), "--wf", "2"])
    own = data / "models" / "own" / "unet.torch"
    assert load_model(UNet, own).network.form == form
    assert losses(own)["settings"].items() >= form.items()
    for key, value in state(first).items():
        torch.testing.assert_close(state(own)[key], value, msg=key)


@pytest.mark.parametrize("flag, name, has, wanted", (
    (["--wf", "4"], "wf", "3", "4"), (["--in-channels", "1"], "in-channels", "2", "1"),
    (["--residual"], "residual", "off", "on"), (["--no-batch-norm"], "batch-norm", "on", "off"),
    (["--report"], "wf", "3", "6")))
def test_a_form_that_is_not_that_of_the_initial_weights_is_refused(data, flag, name, has, wanted):
    behind_an_autoencoder(data, "own")
    start = data / "start.torch"
    torch.save(UNet(wf=3, in_channels=2, batch_norm=True).state_dict(), start)
    with pytest.raises(ValueError, match=f"weights in {start} have {name} {has}, not {wanted}; leave --{name}"):
        UNetMain.main(["--data", str(data), "--start", str(start), *flag])
    assert not (data / "models" / "own" / "unet.torch").exists()


def test_the_autoencoder_gets_the_width_of_the_weights_that_it_starts_from(data):
    start = data / "models" / "untrained" / "ae.torch"
    with pytest.raises(ValueError, match=f"weights in {start} have channels 16 32 32, not 4 4 4; leave --channels"):
        AEMain.train(data, start=start, channels=(4, 4, 4), **brief)
    AEMain.train(data, start=start, **{**brief, "epochs": 1})
    assert losses(data / "models" / "own" / "ae.torch")["settings"]["channels"] == [16, 32, 32]


def test_weights_of_another_kind_are_nothing_to_start_from(data):
    behind_an_autoencoder(data, "own")
    ae = data / "models" / "untrained" / "ae.torch"
    with pytest.raises(ValueError, match=f"{ae} does not hold the weights of a U-Net"):
        UNetMain.train(data, start=ae, **brief)
    with pytest.raises(ValueError, match=f"{hp.unet_weights} does not hold the weights of an autoencoder"):
        AEMain.train(data, model="new", start=hp.unet_weights, **brief)
    with pytest.raises(ValueError, match="notes holds no notes, which the note autoencoder needs.* leave --start out"):
        AEMain.train(data, model="new", start=hp.ae_weights, **brief)
    with pytest.raises(ValueError, match=f"{hp.ae_weights} holds weights of the note autoencoder; give --network note"):
        AEMain.train(data, model="new", start=hp.ae_weights, network="report", **brief)


# names, settings, data

@pytest.mark.parametrize("name", ("../escape", "..", ".", "", "/tmp/escape", "a/b", "a\\b", "c:d", ".hidden",
                                  "two\nlines"))
def test_the_name_of_a_model_is_that_of_a_single_folder(data, capsys, name):
    before = sorted(data.parent.rglob("*"))
    for script in AEMain, UNetMain:
        with pytest.raises(ValueError, match="is not the name of a single folder; choose a --model such as"):
            script.train(data, model=name, **brief)
        with pytest.raises(SystemExit):
            script.main(["--data", str(data), "--model", name])
        assert "is not the name of a single folder; choose a --model such as" in capsys.readouterr().err
    assert sorted(data.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ("vibraphone", "my model 2", "Klavier_\u00fc", "two.words"))
def test_other_names_of_models_are_taken(name):
    assert TrainingOptions.parse_model_name(name) == name


def test_a_setting_that_does_not_exist_is_refused(data):
    for script in AEMain, UNetMain:
        with pytest.raises(TypeError, match="a training has no setting epoch; it has augmented"):
            behind_an_autoencoder(data, "own")
            script.train(data, epoch=3, overwrite=True)


def test_constants_that_are_changed_later_are_the_defaults(data, monkeypatch):
    for name, value in dict(crop_frames=40, ae_epochs=1, ae_batch_size=3, ae_channels=(4, 5, 6), seed=7,
                            unet_epochs=2, unet_wf=1, unet_loss="mse").items():
        monkeypatch.setattr(hp, name, value)
    settings = AEMain.train(data, device="cpu")
    assert settings.items() >= dict(crop_frames=40, epochs=1, batch_size=3, channels=[4, 5, 6], seed=7).items()
    settings = UNetMain.train(data, device="cpu")
    assert settings.items() >= dict(crop_frames=40, epochs=2, wf=1, seed=7, loss="mse").items()


def test_one_piece_alone_is_in_both_sets_and_gives_a_warning(train, data, capsys):
    train(model="three", epochs=1)
    assert "warning" not in capsys.readouterr().err
    for folder in "piano", "synth":
        for path in (data / folder).glob("*.wav"):
            if path.stem != "bach_prelude_c":
                path.unlink()
    train(epochs=1)
    assert (f"warning: {data} holds a single piece, bach_prelude_c, which is used for training and for validation"
            in capsys.readouterr().err)


@pytest.mark.parametrize("differing, text", (
    (("epochs", 2, 4), "epochs 2, now 4"), (("start", None, "ae.torch"), "start not set, now ae.torch"),
    (("channels", [4, 4, 4], [8, 8, 8]), "channels 4 4 4, now 8 8 8"), (("residual", True, False),
                                                                      "residual on, now off"),
    (("pieces", list("abcdefg"), list("gh")), "7 pieces, now 2: without a, b, c, ... and with h"),
    (("trained_for", {"pair": "a -> b", "front_end": {"n_fft": 1024}}, {"pair": "a -> c", "front_end": {"n_fft": 9}}),
     "pair a -> b, now a -> c, n_fft 1024, now 9")))
def test_a_setting_that_differs_is_said_with_both_values(differing, text):
    assert Checkpoints.describe_difference(*differing) == text


# duration and quality

def test_the_estimated_duration_is_said_after_the_first_steps(data, monkeypatch, capsys):
    times = iter([100.0, 200.0, 230.0, 260.0])  # the first step takes longer
    monkeypatch.setattr(Progress.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(hp, "pace_steps", 2)
    pace, said = Progress.Pace(42), []
    for _ in range(5):
        pace.step()
        said.append(capsys.readouterr().out)
    assert said == ["", "", "estimated duration of the 42 steps: 46 min\n", "", ""]


def test_a_training_says_its_estimated_duration_before_its_first_epoch_ends(train, capsys, monkeypatch):
    monkeypatch.setattr(hp, "pace_steps", 2)
    train(epochs=2)
    lines = capsys.readouterr().out.splitlines()
    said = [number for number, line in enumerate(lines) if line.startswith("estimated duration of the 8 steps: ")]
    assert len(said) == 1 and said[0] < next(n for n, line in enumerate(lines) if line.startswith("epoch 1/2"))


@pytest.mark.parametrize("settings, advice", (
    (dict(epochs=20, pieces=50, start=None), None),
    (dict(epochs=3, pieces=50, start=None), "20 epochs"),
    (dict(epochs=3, pieces=50, start="ae.torch"), None),
    (dict(epochs=3, pieces=50, start=None, part="decoder"), None),
    (dict(epochs=2, pieces=3, start="ae.torch"), "more pieces (the report has 94, the shipped weights 302)"),
    (dict(epochs=2, pieces=3, start=None), "more pieces (the report has 94, the shipped weights 302) and 20 epochs")))
def test_a_brief_training_says_what_gives_a_better_sound(settings, advice, capsys):
    names = [f"{i}~{variant}" for i in range(settings["pieces"]) for variant in range(10)]
    Progress.print_quality_remark({**settings, "pieces": names}, 20)
    said = capsys.readouterr().out
    assert said == (f"pieces: {settings['pieces']}, epochs: {settings['epochs']}; such a training is only to see it "
                    f"run; for a good sound take {advice}\n" if advice else "")
