"""Both networks: any width in, the same out; parameters named and shaped as in the report's checkpoints."""
import pytest
import torch

import Hyperparameters as hp
from AEModel import AEModel, autocast, load_model
from Autoencoder import Autoencoder, BandConv2d, BandConvTranspose2d, TimeUpsample
from UNet import UNet, Upsample2d


@pytest.mark.parametrize("emulated, mixed", ((True, False), (False, True)))
def test_bfloat16_is_used_where_it_is_not_emulated(monkeypatch, emulated, mixed):
    """As on a T4 or V100."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation or not emulated)
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: (kind, enabled))
    assert autocast(torch.device("cuda")) == ("cuda", mixed)


autoencoder_shapes = {
    "encoder.0.weight": (64, 1, 128, 1), "encoder.0.bias": (64,),
    "encoder.1.weight": (64,), "encoder.1.bias": (64,),
    "encoder.1.running_mean": (64,), "encoder.1.running_var": (64,), "encoder.1.num_batches_tracked": (),
    "encoder.3.weight": (128, 64, 1, 2), "encoder.3.bias": (128,),
    "encoder.4.weight": (128,), "encoder.4.bias": (128,),
    "encoder.4.running_mean": (128,), "encoder.4.running_var": (128,), "encoder.4.num_batches_tracked": (),
    "encoder.6.weight": (256, 128, 1, 2), "encoder.6.bias": (256,),
    "encoder.7.weight": (256,), "encoder.7.bias": (256,),
    "encoder.7.running_mean": (256,), "encoder.7.running_var": (256,), "encoder.7.num_batches_tracked": (),
    "decoder.0.weight": (256, 128, 1, 2), "decoder.0.bias": (128,),
    "decoder.1.weight": (128,), "decoder.1.bias": (128,),
    "decoder.1.running_mean": (128,), "decoder.1.running_var": (128,), "decoder.1.num_batches_tracked": (),
    "decoder.3.weight": (128, 64, 1, 2), "decoder.3.bias": (64,),
    "decoder.4.weight": (64,), "decoder.4.bias": (64,),
    "decoder.4.running_mean": (64,), "decoder.4.running_var": (64,), "decoder.4.num_batches_tracked": (),
    "decoder.6.weight": (64, 1, 128, 4), "decoder.6.bias": (1,),
}

unet_shapes = {  # depth 4, wf 6
    "down_path.0.block.0.weight": (64, 1, 3, 3), "down_path.0.block.0.bias": (64,),
    "down_path.0.block.2.weight": (64, 64, 3, 3), "down_path.0.block.2.bias": (64,),
    "down_path.1.block.0.weight": (128, 64, 3, 3), "down_path.1.block.0.bias": (128,),
    "down_path.1.block.2.weight": (128, 128, 3, 3), "down_path.1.block.2.bias": (128,),
    "down_path.2.block.0.weight": (256, 128, 3, 3), "down_path.2.block.0.bias": (256,),
    "down_path.2.block.2.weight": (256, 256, 3, 3), "down_path.2.block.2.bias": (256,),
    "down_path.3.block.0.weight": (512, 256, 3, 3), "down_path.3.block.0.bias": (512,),
    "down_path.3.block.2.weight": (512, 512, 3, 3), "down_path.3.block.2.bias": (512,),
    "up_path.0.up.weight": (512, 256, 2, 2), "up_path.0.up.bias": (256,),
    "up_path.0.conv_block.block.0.weight": (256, 512, 3, 3), "up_path.0.conv_block.block.0.bias": (256,),
    "up_path.0.conv_block.block.2.weight": (256, 256, 3, 3), "up_path.0.conv_block.block.2.bias": (256,),
    "up_path.1.up.weight": (256, 128, 2, 2), "up_path.1.up.bias": (128,),
    "up_path.1.conv_block.block.0.weight": (128, 256, 3, 3), "up_path.1.conv_block.block.0.bias": (128,),
    "up_path.1.conv_block.block.2.weight": (128, 128, 3, 3), "up_path.1.conv_block.block.2.bias": (128,),
    "up_path.2.up.weight": (128, 64, 2, 2), "up_path.2.up.bias": (64,),
    "up_path.2.conv_block.block.0.weight": (64, 128, 3, 3), "up_path.2.conv_block.block.0.bias": (64,),
    "up_path.2.conv_block.block.2.weight": (64, 64, 3, 3), "up_path.2.conv_block.block.2.bias": (64,),
    "last.weight": (1, 64, 1, 1), "last.bias": (1,),
}


networks = {"autoencoder": Autoencoder, "unet": lambda: UNet(wf=3), "residual unet": lambda: UNet(wf=3, residual=True),
            "unet of the default form": lambda: UNet(wf=3, in_channels=2, batch_norm=True)}


@pytest.fixture(scope="module", params=networks)
def network(request):
    torch.manual_seed(0)
    return networks[request.param]().eval()


@pytest.mark.parametrize("network_class, options, shapes", (
    (Autoencoder, dict(channels=(64, 128, 256)), autoencoder_shapes), (UNet, dict(depth=4, wf=6), unet_shapes)),
                         ids=("autoencoder", "unet"))
def test_parameters_are_named_and_shaped_as_in_the_published_checkpoints(network_class, options, shapes):
    assert {key: tuple(value.shape) for key, value in network_class(**options).state_dict().items()} == shapes


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
def test_nothing_is_sampled(network):
    source = torch.rand(1, network.in_channels, 128, 50)
    assert torch.equal(network(source), network(source))


@torch.inference_mode()
def test_a_clip_does_not_depend_on_the_others_in_its_batch(network):
    batch = torch.rand(3, network.in_channels, 128, 40)
    torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]))


@pytest.mark.parametrize("frames", (20, 21, 22))
@torch.inference_mode()
def test_a_width_that_does_not_fit_is_filled_up_with_silence(network, frames):
    fits = 23 if isinstance(network, Autoencoder) else 24
    source = torch.rand(1, network.in_channels, 128, frames)
    filled = torch.cat([source, torch.zeros(1, network.in_channels, 128, fits - frames)], 3)
    torch.testing.assert_close(network(filled)[..., :frames], network(source))


@torch.inference_mode()
def test_the_autoencoders_output_is_within_0_and_1():
    output = Autoencoder().eval()(10 * torch.randn(2, 1, 128, 40))
    assert output.min() >= 0 and output.max() <= 1


@pytest.mark.parametrize("form", (
    dict(depth=4, wf=3), dict(depth=4, wf=6), dict(depth=3, wf=5), dict(depth=3, wf=3, in_channels=2),
    dict(depth=3, wf=2, in_channels=2, residual=True), dict(wf=3, batch_norm=True), dict(wf=1, residual=True)), ids=str)
@torch.inference_mode()
def test_the_form_is_read_from_the_weights(tmp_path, form):
    saved = AEModel(UNet(**form)).network  # as it lies in memory when it is loaded
    torch.save(saved.state_dict(), tmp_path / "unet.torch")
    loaded = load_model(UNet, tmp_path / "unet.torch").network
    source = torch.rand(1, form.get("in_channels", 1), 128, 9)
    assert loaded.in_channels == form.get("in_channels", 1) and len(loaded.down_path) == form.get("depth", 4)
    assert torch.equal(loaded(source), saved(source))


@torch.inference_mode()
def test_with_a_residual_the_first_of_the_channels_is_where_learning_starts():
    torch.manual_seed(0)
    source = torch.rand(1, 2, 128, 40)
    network = UNet(wf=3, in_channels=2, residual=True)
    assert (network(source) - source[:, :1]).abs().mean() < 0.1
    network.last.weight[:, :8], network.last.bias[:] = 0, 0
    torch.testing.assert_close(network(source), source[:, :1])


@torch.inference_mode()
def test_weights_in_half_precision_are_loaded_in_full(tmp_path):
    network = UNet(wf=3)
    torch.save({key: value.half() for key, value in network.state_dict().items()}, tmp_path / "half.torch")
    loaded = load_model(UNet, tmp_path / "half.torch").network
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[key].half().float())


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
    assert UNet.from_state(unet.state_dict()).smoothing.shape[-1] == 33
    source = 0.4 + 0.2 * torch.rand(1, 2, hp.n_mels, 100)
    source[:, 0, :, 50:] = 0
    with torch.no_grad():
        unet.last.weight *= 1000
        output = unet(source)
    gain = (output - source[:, :1]) * hp.top_db
    assert output.shape == (1, 1, hp.n_mels, 100) and not output[..., 50:].any()
    assert 0.1 < gain[..., :50].abs().max() <= hp.unet_gain_db * 1.001
    assert gain[..., :50].diff().abs().max() <= 2 * hp.unet_gain_db * unet.smoothing.max()
