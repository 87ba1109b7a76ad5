"""Settings of trainings: crops, schedule, the report's form, initial weights, names and data."""
import contextlib
import json
import random
import shutil

import numpy as np
import pytest
import torch

import AEMain
import Checkpoints
import DatasetCreator
import Distributed
import Hyperparameters as hp
import Progress
import Training
import TrainingOptions
import UNetDataset
import UNetMain
import Util
from AEDataset import crop_batches, split_for_training
from AEModel import load_model
from Autoencoder import Autoencoder
from training_common import behind_an_autoencoder, brief, losses, state, train, train_ae
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread")

# crops and schedule

@pytest.mark.parametrize("seed", range(20))
def test_crops_cover_every_clip_within_its_bounds(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 2583) for _ in range(30)]
    frames, batch_size = rng.randint(1, 400), rng.randint(1, 16)
    batches = crop_batches(lengths, frames, batch_size, seed)
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
    assert crop_batches(lengths, 255, 16, "0 1") == crop_batches(lengths, 255, 16, "0 1")
    assert crop_batches(lengths, 255, 16, "0 1") != crop_batches(lengths, 255, 16, "0 2")


@pytest.mark.parametrize("frames", (0, None))
def test_whole_clips_are_crops_too(frames):
    batches = crop_batches([2583, 2583, 2000], frames, 2, 0)
    assert sorted(key[:3] for key in sum(batches, [])) == [(0, 0, 2583), (1, 0, 2583), (2, 0, 2583)]


@pytest.mark.parametrize("step, steps, factor", (
    (0, 1000, 1 / 101), (49, 1000, 50 / 101), (100, 1000, 1.0), (550, 1000, 0.5), (999, 1000, 1 / 900), (0, 1, 1.0),
    (1, 10, 1.0), (4, 10, 6 / 9)))
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
    autoencoder = load_model(Autoencoder, own / "ae.torch")
    autoencoder.bfloat16 = False
    assert UNetDataset.StoredOutputs(autoencoder, data, "own").folder.exists()


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
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: clipped.append(1))

    def recorded(path, *how, load=Util.load_array, **named):
        read.add("/".join(path.parts[-2:]))
        return load(path, *how, **named)

    monkeypatch.setattr(Util, "load_array", recorded)
    flags = ["--data", str(data), "--epochs", "2", "--crop-frames", "64", "--device", "cpu", "--overwrite",
             *(("--wf", "2") if script is UNetMain else ())]
    script.main([*flags, "--report"])
    assert precisions == {False} and not clipped
    settings = losses(data / "models" / "own" / ("ae.torch" if script is AEMain else "unet.torch"))["settings"]
    assert settings["gradient_norm"] == 0 and settings["bfloat16"] is False
    piece = split_for_training(DatasetCreator.build(data), hp.seed)[0][0]
    assert read >= {f"{piece}/{source}{'_0' if script is UNetMain else ''}.npy" for source in ("piano", "piano_2")}
    precisions.clear()
    if script is AEMain:
        script.main([*flags, "--network", "report", "--channels", "4", "4", "4"])
        assert precisions == {True} and clipped


def test_a_stored_crop_is_of_the_piano_that_its_seed_chooses(data):
    shutil.copytree(data / "synth", data / "piano_2")
    names = DatasetCreator.build(data)
    autoencoder = load_model(Autoencoder, data / "models" / "untrained" / "ae.torch")
    outputs = UNetDataset.StoredOutputs(autoencoder, data, "own", ("piano", "piano_2"))
    outputs.write(names)
    dataset = UNetDataset.UNetDataset(names, data, outputs, in_channels=2)
    pairs = [[np.load(path) for path in pair] for pair in outputs.paths(names[0])]
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
        torch.testing.assert_close(state(own.with_name("unet_last.torch"))[key], value, msg=key)


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
        train_ae(data, start=start, channels=(4, 4, 4))
    train_ae(data, start=start, channels=None, epochs=1)
    assert losses(data / "models" / "own" / "ae.torch")["settings"]["channels"] == [16, 32, 32]


def test_weights_of_another_kind_are_nothing_to_start_from(data):
    behind_an_autoencoder(data, "own")
    ae = data / "models" / "untrained" / "ae.torch"
    with pytest.raises(ValueError, match=f"{ae} does not hold the weights of a U-Net"):
        UNetMain.train(data, start=ae, **brief)
    with pytest.raises(ValueError, match=f"{hp.unet_weights} does not hold the weights of an autoencoder"):
        AEMain.train(data, model="new", start=hp.unet_weights, **brief)
    with pytest.raises(ValueError, match=f"{ae} holds weights of the report's autoencoder; add --report, or give"):
        AEMain.train(data, model="new", start=ae, **brief)
    with pytest.raises(ValueError, match=f"{hp.ae_weights} holds weights of the note autoencoder; leave --report and"):
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
    settings = AEMain.train(data, network="report", device="cpu")
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


def test_a_training_says_its_estimated_duration_before_its_first_epoch_ends(data, capsys, monkeypatch):
    monkeypatch.setattr(hp, "pace_steps", 2)
    train_ae(data)
    lines = capsys.readouterr().out.splitlines()
    said = [number for number, line in enumerate(lines) if line.startswith("estimated duration of the 8 steps: ")]
    assert len(said) == 1 and said[0] < next(n for n, line in enumerate(lines) if line.startswith("epoch 1/2"))


@pytest.mark.parametrize("pieces", (hp.few_pieces - 1, hp.few_pieces))
def test_a_training_on_few_pieces_says_that_it_is_not_the_default(pieces, capsys):
    Progress.print_quality_remark({"trained_for": {"pieces": pieces}})
    assert capsys.readouterr().out == (
        "trained on 19 pieces; Main.py takes such a model only if --model names it; for a good sound take at least 20\n"
        if pieces < 20 else "")
