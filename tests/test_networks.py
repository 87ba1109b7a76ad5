"""Both networks: any width in, the same out; parameters named and shaped as in the report's checkpoints."""
import copy

import pytest
import torch

import Hyperparameters as hp
from AEModel import AEModel, fold_batch_norms, load_model
from Autoencoder import Autoencoder, BandConv2d, BandConvTranspose2d, TimeUpsample
from UNet import UNet, Upsample2d


def layer(name, *shape, bias):
    return {f"{name}.weight": shape, f"{name}.bias": (bias,)}


def published_autoencoder():
    """Return the names and shapes of the parameters in the report's checkpoint of the autoencoder."""
    shapes = layer("encoder.0", 64, 1, 128, 1, bias=64) | layer("decoder.6", 64, 1, 128, 4, bias=1)
    for name, wide, narrow, outputs in (("encoder.3", 128, 64, 128), ("encoder.6", 256, 128, 256),
                                        ("decoder.0", 256, 128, 128), ("decoder.3", 128, 64, 64)):
        shapes |= layer(name, wide, narrow, 1, 2, bias=outputs)
    for norm, size in ("encoder.1", 64), ("encoder.4", 128), ("encoder.7", 256), ("decoder.1", 128), ("decoder.4", 64):
        shapes |= {f"{norm}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes


def published_unet():
    """Return the same of the U-Net of depth 4 and wf 6."""
    shapes, sizes = layer("last", 1, 64, 1, 1, bias=1), (64, 128, 256, 512)
    for i, (inputs, size) in enumerate(zip((1, *sizes), sizes)):
        for number, channels in (0, inputs), (2, size):
            shapes |= layer(f"down_path.{i}.block.{number}", size, channels, 3, 3, bias=size)
    for i, size in enumerate((256, 128, 64)):
        shapes |= layer(f"up_path.{i}.up", 2 * size, size, 2, 2, bias=size)
        for number, channels in (0, 2 * size), (2, size):
            shapes |= layer(f"up_path.{i}.conv_block.block.{number}", size, channels, 3, 3, bias=size)
    return shapes


networks = {"autoencoder": Autoencoder, "unet": lambda: UNet(wf=3), "residual unet": lambda: UNet(wf=3, residual=True),
            "unet of the default form": lambda: UNet(wf=3, in_channels=2, batch_norm=True)}


@pytest.fixture(scope="module", params=networks)
def network(request):
    torch.manual_seed(0)
    return networks[request.param]().eval()


def test_parameters_are_named_and_shaped_as_in_the_published_checkpoints():
    for network, shapes in (Autoencoder((64, 128, 256)), published_autoencoder()), (UNet(4, 6), published_unet()):
        assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == shapes


@pytest.mark.parametrize("frames", (*range(1, 21), 2583))
@torch.inference_mode()
def test_as_many_frames_come_out_as_go_in(network, frames):
    output = network(torch.rand(1, network.in_channels, 128, frames))
    assert output.shape == (1, 1, 128, frames) and output.isfinite().all()


@pytest.mark.parametrize("frames", (1, 6, 255))
def test_training_takes_any_width_too(network, frames):
    network.train()
    source = torch.rand(2, network.in_channels, 128, frames, requires_grad=True)
    network(source).sum().backward()
    assert source.grad.shape == source.shape and source.grad.any()
    network.eval()


@torch.inference_mode()
def test_a_clip_of_30_s_has_the_reports_latent():
    assert Autoencoder(channels=(64, 128, 256)).encoder(torch.rand(1, 1, 128, 2583)).shape == (1, 256, 1, 645)


@torch.inference_mode()
def test_nothing_is_sampled_and_a_clip_does_not_depend_on_the_others_in_its_batch(network):
    batch = torch.rand(3, network.in_channels, 128, 40)
    assert torch.equal(network(batch), network(batch))
    torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]))


@pytest.mark.parametrize("frames", (20, 21, 22))
@torch.inference_mode()
def test_a_width_that_does_not_fit_is_filled_up_with_silence(network, frames):
    fits = 23 if isinstance(network, Autoencoder) else 24
    source = torch.rand(1, network.in_channels, 128, frames)
    filled = torch.cat([source, torch.zeros(1, network.in_channels, 128, fits - frames)], 3)
    torch.testing.assert_close(network(filled)[..., :frames], network(source))


@pytest.mark.parametrize("half", (False, True))
@pytest.mark.parametrize("form", (
    dict(depth=4, wf=6), dict(depth=3, wf=3, in_channels=2), dict(depth=3, wf=2, in_channels=2, residual=True),
    dict(wf=3, batch_norm=True), dict(wf=1, residual=True), dict(wf=2, gain_frames=33)), ids=str)
@torch.inference_mode()
def test_the_form_is_read_from_the_weights_of_any_precision(tmp_path, form, half):
    saved = AEModel(UNet(**form)).network  # as it lies in memory when it is loaded
    if half:
        saved.load_state_dict({key: value.half() for key, value in saved.state_dict().items()})
    torch.save({key: value.half() if half else value for key, value in saved.state_dict().items()}, tmp_path / "unet")
    loaded = load_model(UNet, tmp_path / "unet").network
    source = torch.rand(1, form.get("in_channels", 1), 128, 9)
    assert loaded.form == saved.form and torch.equal(loaded(source), saved(source))


@torch.inference_mode()
def test_with_a_residual_the_first_of_the_channels_is_where_learning_starts():
    torch.manual_seed(0)
    source = torch.rand(1, 2, 128, 40)
    network = UNet(wf=3, in_channels=2, residual=True)
    assert (network(source) - source[:, :1]).abs().mean() < 0.1
    network.last.weight[:, :8], network.last.bias[:] = 0, 0
    torch.testing.assert_close(network(source), source[:, :1])


@pytest.mark.parametrize("layer, shape", (
    (BandConv2d(1, 6, (16, 1)), (2, 1, 16, 9)),
    (BandConvTranspose2d(6, 1, (16, 4)), (2, 6, 1, 9)),
    (TimeUpsample(6, 4), (2, 6, 1, 9)),
    (Upsample2d(6, 4), (2, 6, 3, 5)),
))
def test_our_layers_compute_what_torchs_own_do(layer, shape):
    layer, x = layer.double(), torch.rand(shape, dtype=torch.double, requires_grad=True)
    results = []
    for forward in (type(layer).forward, type(layer).__base__.forward):
        y = forward(layer, x)
        scale = torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape)
        results.append((y, *torch.autograd.grad((y * scale).sum(), (x, layer.weight, layer.bias))))
    for ours, torchs in zip(*results):
        torch.testing.assert_close(ours, torchs)


def test_a_smoothed_gain_changes_levels_slowly_and_keeps_silence():
    torch.manual_seed(0)
    unet = UNet(wf=2, in_channels=2, batch_norm=True, gain_frames=33).eval()
    source = 0.4 + 0.2 * torch.rand(1, 2, hp.n_mels, 100)
    source[:, 0, :, 50:] = 0
    with torch.no_grad():
        unet.last.weight *= 1000
        output = unet(source)
    gain = (output - source[:, :1]) * hp.top_db
    assert output.shape == (1, 1, hp.n_mels, 100) and not output[..., 50:].any()
    assert 0.1 < gain[..., :50].abs().max() <= hp.unet_gain_db * 1.001
    assert gain[..., :50].diff().abs().max() <= 2 * hp.unet_gain_db * unet.smoothing.max()


@torch.inference_mode()
def test_folded_batch_normalisations_change_nothing(network):
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2)
    folded, source = copy.deepcopy(network), torch.rand(1, network.in_channels, 128, 40)
    fold_batch_norms(folded)
    left = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    assert left == isinstance(network, Autoencoder)
    torch.testing.assert_close(folded(source), network(source), rtol=1e-4, atol=1e-5)
