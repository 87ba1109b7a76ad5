"""Settings of trainings: crops, the report's form, initial weights, names and data."""
import contextlib
import random
import shutil

import numpy as np
import pytest
import torch

import AEMain
import DatasetCreator
import Hyperparameters as hp
import Main
import UNetDataset
import UNetMain
import Util
from AEDataset import crop_batches, split_for_training
from AEModel import load_model
from Autoencoder import Autoencoder
from training_common import behind_an_autoencoder, brief, losses, state, train_ae, train_network
from UNet import UNet

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.mark.parametrize("seed", range(5))
def test_crops_cover_every_clip_within_its_bounds_and_are_fixed_by_the_seed(seed):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 2583) for _ in range(30)]
    frames, batch_size = rng.randint(1, 400), rng.randint(1, 16)
    batches = crop_batches(lengths, frames, batch_size, seed)
    assert batches == crop_batches(lengths, frames, batch_size, seed) != crop_batches(lengths, frames, batch_size, 9)
    assert {len(batch) for batch in batches[:-1]} == {batch_size} and 1 <= len(batches[-1]) <= batch_size
    for piece, length in enumerate(lengths):
        crops = sorted((start, size) for key, start, size, _ in sum(batches, []) if key == piece)
        assert {size for _, size in crops} == {frames}
        starts = [start for start, _ in crops]
        assert starts == list(range(starts[0], starts[0] + frames * len(starts), frames))  # side by side
        if length < frames:
            assert starts == [0]
        else:
            assert starts[0] >= 0 and starts[-1] + frames <= length < frames * (len(starts) + 1)


@pytest.mark.parametrize("frames", (0, None))
def test_whole_clips_are_crops_too(frames):
    batches = crop_batches([2583, 2583, 2000], frames, 2, 0)
    assert sorted(key[:3] for key in sum(batches, [])) == [(0, 0, 2583), (1, 0, 2583), (2, 0, 2583)]


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


def test_an_epoch_is_judged_on_some_pieces_from_all_over_those_held_out():
    names = [f"{i:03}" for i in range(302)]
    training, held_out = Util.split(names)
    assert split_for_training(names, 0) == (training, held_out[::4]) and len(held_out[::4]) <= hp.max_validation_pieces
    assert split_for_training(names[:3], 0) == Util.split(names[:3])


def test_one_piece_alone_is_in_both_sets_and_gives_a_warning(data, capsys):
    for path in data.glob("*/*.wav"):
        if path.stem != "bach_prelude_c":
            path.unlink()
    for name in "ae", "unet":
        train_network(name, data, epochs=1, overwrite=True)
        assert (f"warning: {data} holds a single piece, bach_prelude_c, which is used for training and for validation"
                in capsys.readouterr().err)


@pytest.mark.parametrize("script", (AEMain, UNetMain))
def test_report_gives_the_reports_settings_and_a_flag_beside_it_counts(data, monkeypatch, script):
    """Gradients are not clipped, and precision is not mixed."""
    behind_an_autoencoder(data)
    precisions, clipped = set(), []

    def autocast(kind, dtype, enabled):
        precisions.add(enabled)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: clipped.append(1))
    flags = ["--data", str(data), "--epochs", "2", "--batch-size", "2", "--device", "cpu", "--overwrite"]
    script.main([*flags, "--report", *(("--wf", "2") if script is UNetMain else ())])
    assert precisions == {False} and not clipped
    own = data / "models" / "own"
    settings = losses(own / ("ae.torch" if script is AEMain else "unet.torch"))["settings"]
    assert settings.items() > dict(crop_frames=0, schedule="constant", batch_size=2, augmented=False, gradient_norm=0,
                                   bfloat16=False).items()
    if script is UNetMain:
        assert settings.items() > dict(wf=2, in_channels=1, residual=False, batch_norm=False, loss="mse").items()
        unet = load_model(UNet, own / "unet.torch").network
        assert unet.in_channels == 1 and {key.split(".")[0] for key in unet.state_dict()} == {"down_path", "up_path",
                                                                                              "last"}
    else:
        assert settings["channels"] == [64, 128, 256]
        precisions.clear()
        script.main([*flags, "--network", "report", "--channels", "4", "4", "4", "--crop-frames", "64"])
        assert precisions == {True} and clipped


def assert_begun(weights, start):
    """The last weights are those that the training began with, as its learning rate was next to nothing."""
    last = state(weights.with_name(f"{weights.stem}_last.torch"))
    for key, value in state(start).items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(last[key], value, msg=key)


def test_the_autoencoder_gets_width_and_weights_of_those_that_it_starts_from(data):
    start = data / "models" / "untrained" / "ae.torch"
    with pytest.raises(ValueError, match=f"weights in {start} have channels 16 32 32, not 4 4 4; leave --channels"):
        train_ae(data, start=start, channels=(4, 4, 4))
    weights = train_ae(data, start=start, channels=None, epochs=1, seed=1, learning_rate=1e-12)
    assert losses(weights)["settings"]["channels"] == [16, 32, 32]
    assert_begun(weights, start)


def test_the_unet_gets_form_and_weights_of_those_that_it_starts_from(data):
    behind_an_autoencoder(data)
    form = dict(depth=3, wf=2, in_channels=1, residual=True, batch_norm=False, gain_frames=0)
    first = data / "first.torch"
    torch.save(UNet(**form).state_dict(), first)
    UNetMain.main(["--data", str(data), "--epochs", "1", "--crop-frames", "64", "--learning-rate", "1e-12", "--start",
                   str(first), "--wf", "2"])
    own = data / "models" / "own" / "unet.torch"
    assert load_model(UNet, own).network.form == form
    assert losses(own)["settings"].items() >= form.items()
    assert_begun(own, first)


@pytest.mark.parametrize("flag, name, has, wanted", (
    (["--wf", "4"], "wf", "3", "4"), (["--in-channels", "1"], "in-channels", "2", "1"),
    (["--residual"], "residual", "off", "on"), (["--no-batch-norm"], "batch-norm", "on", "off"),
    (["--report"], "wf", "3", "6")))
def test_a_form_that_is_not_that_of_the_initial_weights_is_refused(data, flag, name, has, wanted):
    behind_an_autoencoder(data)
    start = data / "start.torch"
    torch.save(UNet(wf=3, in_channels=2, batch_norm=True).state_dict(), start)
    with pytest.raises(ValueError, match=f"weights in {start} have {name} {has}, not {wanted}; leave --{name}"):
        UNetMain.main(["--data", str(data), "--start", str(start), *flag])
    assert not (data / "models" / "own" / "unet.torch").exists()


def test_weights_of_another_kind_are_nothing_to_start_from(data):
    behind_an_autoencoder(data)
    ae = data / "models" / "untrained" / "ae.torch"
    for script, options, refusal in (
            (UNetMain, dict(start=ae), f"{ae} does not hold the weights of a U-Net"),
            (AEMain, dict(start=hp.unet_weights), f"{hp.unet_weights} does not hold the weights of an autoencoder"),
            (AEMain, dict(start=ae), f"{ae} holds weights of the report's autoencoder; add --report, or give"),
            (AEMain, dict(start=hp.ae_weights, network="report"),
             f"{hp.ae_weights} holds weights of the note autoencoder; leave --report and")):
        with pytest.raises(ValueError, match=refusal):
            script.train(data, overwrite=True, **options, **brief)


@pytest.mark.parametrize("name", ("../escape", "..", ".", "", "/tmp/escape", "a/b", "a\\b", "c:d", ".hidden",
                                  "two\nlines"))
def test_the_name_of_a_model_is_that_of_a_single_folder(tmp_path, name):
    training = ["--data", str(tmp_path), "--model", name]
    for call, given in (AEMain.main, training), (UNetMain.main, training), (Main.find_weights, name or ".."):
        with pytest.raises(ValueError, match="is not the name of a single folder; choose a --model such as"):
            call(given)  # to play, an empty name is the default
    assert not list(tmp_path.iterdir())
    for other in "vibraphone", "my model 2", "Klavier_\u00fc", "two.words":
        assert Util.check_model_name(other) == other


def test_a_setting_that_does_not_exist_is_refused(data):
    behind_an_autoencoder(data)
    for script in AEMain, UNetMain:
        with pytest.raises(TypeError, match="a training has no setting epoch; it has augmented"):
            script.train(data, epoch=3, overwrite=True)
