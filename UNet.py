"""The denoising U-Net (Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597)."""
import torch
from torch import nn

import Hyperparameters as hp


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions that keep the size, each with ReLU, and batch normalisation if `batch_norm` is set."""

    def __init__(self, inputs, outputs, batch_norm=False):
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
    """A transposed convolution with kernel and stride 2, which doubles the size of both axes.

    Its outputs do not overlap. It is therefore computed as a 1 x 1 convolution to four times the channels, which are
    rearranged to pixels. Output and parameters are those of torch's layer, and the gradient takes half the time.
    """

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 2, stride=2)

    def forward(self, x):
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)[..., None, None]
        y = nn.functional.conv2d(x, weight, self.bias.repeat(4)).permute(0, 2, 3, 1)
        return y.unflatten(3, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class UpBlock(nn.Module):
    """Double the size of the image, concatenate the skip connection, and convolve."""

    def __init__(self, inputs, outputs, batch_norm=False):
        super().__init__()
        self.up = Upsample2d(inputs, outputs)
        self.conv_block = ConvBlock(inputs, outputs, batch_norm)

    def forward(self, x, skip):
        return self.conv_block(torch.cat([self.up(x), skip], 1))


class UNet(nn.Module):
    """U-Net with skip connections and a final 1 x 1 convolution (report: U-Net).

    The report's published network has depth 4, wf 6 and one input channel, without `residual` and `batch_norm`. Names
    and shapes of the parameters are those of its checkpoints.

    Parameters
    ----------
    depth : int, optional
        Number of levels. The default is `hp.unet_depth`.
    wf : int, optional
        The levels have 2**wf, 2**(wf + 1) and so on channels. The default is `hp.unet_wf`.
    in_channels : int
        1 for the autoencoder's output alone, 2 for the spectrogram of the recording too.
    residual : bool
        Connect the input to the last layer, with initial weights that pass it on. The network then learns a
        correction.
    batch_norm : bool
        Batch normalisation after every 3 x 3 convolution (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167).
    gain_frames : int
        If not 0, an odd number: what is learnt is a gain on each band of the first input, smoothed over so many frames
        (Hann window) and at most `hp.unet_gain_db`. It changes how loud notes are and blurs nothing.

    Attributes
    ----------
    form : dict
        All parameters by name.
    """

    name = "a U-Net"

    def __init__(self, depth=None, wf=None, in_channels=1, residual=False, batch_norm=False, gain_frames=0):
        depth = hp.unet_depth if depth is None else depth
        wf = hp.unet_wf if wf is None else wf
        super().__init__()
        self.form = dict(depth=depth, wf=wf, in_channels=in_channels, residual=residual, batch_norm=batch_norm,
                         gain_frames=gain_frames)
        self.in_channels, self.residual = in_channels, residual
        channels = [2 ** (wf + level) for level in range(depth)]
        self.down_path = nn.ModuleList(ConvBlock(*ends, batch_norm)
                                       for ends in zip([in_channels] + channels[:-1], channels))
        self.up_path = nn.ModuleList(UpBlock(*ends, batch_norm) for ends in zip(channels[:0:-1], channels[-2::-1]))
        self.last = nn.Conv2d(channels[0] + in_channels * residual, 1, 1)
        if gain_frames:
            kernel = torch.hann_window(gain_frames + 2, periodic=False)[1:-1]
            self.register_buffer("smoothing", (kernel / kernel.sum()).view(1, 1, 1, -1))
            with torch.no_grad():  # no gain at first
                self.last.weight *= 0.1
                self.last.bias.zero_()
        if residual:
            with torch.no_grad():
                self.last.weight[:, :channels[0]] *= 0.1
                self.last.bias.zero_()
                self.last.weight[:, channels[0]:] = torch.eye(1, in_channels)[..., None, None]

    @classmethod
    def from_state(cls, state):
        """Return an untrained network with the form of a state_dict.

        Raises KeyError, ValueError or IndexError if the state_dict is not that of a U-Net.
        """
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down_path."))
        first, in_channels, *_ = state["down_path.0.block.0.weight"].shape
        return cls(depth, (first - 1).bit_length(), in_channels, state["last.weight"].shape[1] > first,
                   "down_path.0.block.1.weight" in state,
                   state["smoothing"].shape[-1] if "smoothing" in state else 0)

    def forward(self, x):
        """Map spectrograms [shape=(batch, in_channels, n_mels, t), in [0, 1]] to cleaner ones (batch, 1, n_mels, t).

        Any t >= 1 is possible: the input is padded with silence to a multiple of 2**(depth - 1) frames, and the output
        is cut to t frames.
        """
        frames = x.shape[-1]
        x = source = nn.functional.pad(x, (0, -frames % 2 ** len(self.up_path)))
        skips = []
        for down in self.down_path:
            x = down(nn.functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, skip in zip(self.up_path, skips[-2::-1]):
            x = up(x, skip)
        x = self.last(torch.cat([x, source], 1) if self.residual else x)[..., :frames]
        return self.apply_gain(source[:, :1, :, :frames], x) if hasattr(self, "smoothing") else x

    def pass_on(self):
        """Set weights with which the output is the first input. Return whether the form of the network has any."""
        gain = hasattr(self, "smoothing")
        if not (gain or self.residual):
            return False
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.zero_()
            if not gain:
                self.last.weight[:, -self.in_channels] = 1
        return True

    def apply_gain(self, image, x):
        """Return spectrograms [shape=(batch, 1, n_mels, t), in [0, 1]] with the gain that the last layer's output `x`
        stands for, smoothed; their silence as it is."""
        half = self.smoothing.shape[-1] // 2
        gain = hp.unet_gain_db / hp.top_db * torch.tanh(x.float())
        gain = nn.functional.pad(gain, (half, half, 0, 0), mode="replicate")
        gain = nn.functional.conv2d(gain, self.smoothing.float())
        return torch.where(image > 0, (image + gain).clamp(0, 1), image)
