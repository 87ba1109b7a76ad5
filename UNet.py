"""The denoising U-Net (Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597)."""
import torch
from torch import nn

import Hyperparameters as hp


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions that keep the size, each with ReLU, and batch normalisation if `batch_norm` is set."""

    def __init__(self, inputs, outputs, batch_norm):
        super().__init__()
        layers = []
        for channels in (inputs, outputs):
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
            layers += [nn.BatchNorm2d(outputs)] * batch_norm
            layers.append(nn.ReLU(inplace=True))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return self.block(x)


class Upsample2d(nn.ConvTranspose2d):
    """A transposed convolution with kernel and stride 2, which doubles the size of both axes. It computes the same as
    its parent class, as a 1 x 1 convolution to four times the channels, which are rearranged to pixels. The gradient
    takes half the time."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 2, stride=2)

    def forward(self, x):
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]
        y = nn.functional.conv2d(x, weight, self.bias.repeat(4)).permute(0, 2, 3, 1)
        return y.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class UpBlock(nn.Module):
    """Double the size of the image, concatenate the skip connection, and convolve."""

    def __init__(self, inputs, outputs, batch_norm):
        super().__init__()
        self.up = Upsample2d(inputs, outputs)
        self.conv_block = ConvBlock(inputs, outputs, batch_norm)

    def forward(self, x, skip):
        return self.conv_block(torch.cat([self.up(x), skip], 1))


class UNet(nn.Module):
    """U-Net with skip connections and a final 1 x 1 convolution (report: U-Net).

    It has `depth` levels of 2**wf, 2**(wf + 1) and so on channels. `in_channels` is 1 for the autoencoder's output, 2
    for the spectrogram of the recording too. `residual` connects the input to the last layer, with initial weights that
    pass it on, so that a correction is learnt. `batch_norm` adds batch normalisation after every 3 x 3 convolution
    (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167). With `gain_frames`, an odd number, what is learnt is a
    gain on each band of the first input, smoothed over so many frames (Hann window) and at most `hp.unet_gain_db`. It
    changes how loud notes are and blurs nothing. `form` holds these parameters by name.

    The report's published network has depth 4, wf 6 and one input channel, without `residual` and `batch_norm`. Names
    and shapes of the parameters are those of its checkpoints.
    """

    name = "a U-Net"

    def __init__(self, depth=hp.unet_depth, wf=hp.unet_wf, in_channels=1, residual=False, batch_norm=False,
                 gain_frames=0):
        super().__init__()
        self.form = dict(depth=depth, wf=wf, in_channels=in_channels, residual=residual, batch_norm=batch_norm,
                         gain_frames=gain_frames)
        self.in_channels, self.residual, self.has_gain = in_channels, residual, bool(gain_frames)
        channels = [2 ** (wf + level) for level in range(depth)]
        self.down_path = nn.ModuleList(ConvBlock(*ends, batch_norm)
                                       for ends in zip([in_channels] + channels[:-1], channels))
        self.up_path = nn.ModuleList(UpBlock(*ends, batch_norm) for ends in zip(channels[:0:-1], channels[-2::-1]))
        self.last = nn.Conv2d(channels[0] + in_channels * residual, 1, 1)
        if gain_frames:
            kernel = torch.hann_window(gain_frames + 2, periodic=False)[1:-1]
            self.register_buffer("smoothing", (kernel / kernel.sum()).view(1, 1, 1, -1))
        with torch.no_grad():  # at first hardly any gain or correction
            if gain_frames:
                self.last.weight *= 0.1
                self.last.bias.zero_()
            if residual:
                self.last.weight[:, :channels[0]] *= 0.1
                self.last.bias.zero_()
                self.last.weight[:, channels[0]:] = torch.eye(1, in_channels)[..., None, None]

    @classmethod
    def from_state(cls, state):
        """Return an untrained network with the form of a state_dict. Raises KeyError or ValueError if it has none."""
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down_path."))
        first, in_channels, *_ = state["down_path.0.block.0.weight"].shape
        return cls(depth, (first - 1).bit_length(), in_channels, state["last.weight"].shape[1] > first,
                   "down_path.0.block.1.weight" in state, state["smoothing"].shape[-1] if "smoothing" in state else 0)

    def forward(self, x):
        """Map spectrograms [shape=(batch, in_channels, n_mels, t), in [0, 1]] to cleaner ones (batch, 1, n_mels, t).
        Any t >= 1 is possible: the input is padded with silence to a multiple of 2**(depth - 1) frames, and the output
        is cut to t frames."""
        frames = x.shape[-1]
        x = source = nn.functional.pad(x, (0, -frames % 2 ** len(self.up_path)))
        skips = []
        for down in self.down_path:
            x = down(nn.functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, skip in zip(self.up_path, skips[-2::-1]):
            x = up(x, skip)
        x = self.last(torch.cat([x, source], 1) if self.residual else x)[..., :frames]
        return self.apply_gain(source[:, :1, :, :frames], x) if self.has_gain else x

    def pass_on(self):
        """Set weights with which the output is the first input. Return whether the form of the network has any."""
        if self.has_gain or self.residual:
            with torch.no_grad():
                self.last.weight.zero_()
                self.last.bias.zero_()
                if not self.has_gain:
                    self.last.weight[:, -self.in_channels] = 1
        return self.has_gain or self.residual

    def apply_gain(self, image, x):
        """Return `image` [shape=(batch, 1, n_mels, t), in [0, 1]] with the smoothed gain `x`. Silence stays silent."""
        half = self.smoothing.shape[-1] // 2
        gain = hp.unet_gain_db / hp.top_db * torch.tanh(x.float())
        gain = nn.functional.pad(gain, (half, half, 0, 0), mode="replicate")
        gain = nn.functional.conv2d(gain, self.smoothing.float())
        return torch.where(image > 0, (image + gain).clamp(0, 1), image)
