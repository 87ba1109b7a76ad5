"""The report's fully convolutional autoencoder. Its latent has 256 channels per four frames.

The default autoencoder, whose latent is a list of notes, is in notes/note_autoencoder.py.
"""
import torch
from torch import nn

import Hyperparameters as hp


# The next three classes compute the same as their parent classes, with the same parameters, several times faster. The
# first two use the mel bands as channels, since their kernels span all bands.

class BandConv2d(nn.Conv2d):
    """A convolution with a kernel of all mel bands: (batch, 1, bands, t) to (batch, channels, 1, t)."""

    def forward(self, x):
        bands = x.transpose(1, 2).contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(bands, self.weight.transpose(1, 2), self.bias)


class BandConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with a kernel of all mel bands: (batch, channels, 1, t) to (batch, 1, bands, t')."""

    def forward(self, x):
        weight = self.weight.transpose(1, 2)
        bands = nn.functional.conv_transpose2d(x, weight, self.bias.expand(weight.shape[1]))
        return bands.contiguous().transpose(1, 2)


class TimeUpsample(nn.ConvTranspose2d):
    """A transposed convolution of kernel and stride (1, 2): (batch, channels, 1, t) to (batch, channels', 1, 2 t), by a
    1 x 1 convolution to twice the channels, which are rearranged to frames."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, (1, 2), stride=(1, 2))

    def forward(self, x):
        weight = self.weight.permute(3, 1, 0, 2).flatten(0, 1)[..., None]
        y = nn.functional.conv2d(x, weight, self.bias.repeat(2)).permute(0, 2, 3, 1)
        return y.unflatten(3, (2, -1)).flatten(2, 3).permute(0, 3, 1, 2)


class Autoencoder(nn.Module):
    """Autoencoder of six convolutional layers, without fully connected layers and without sampling (report).

    The first layer of the encoder spans all mel bands and one frame. Two more layers halve the number of frames. The
    decoder mirrors them, and its last layer spans all bands and four frames. `channels` are those of the encoder's
    layers, by default `hp.ae_channels`. With the report's, 64, 128 and 256, a clip [shape=(1, 1, 128, 2583)] has a
    latent representation [shape=(1, 256, 1, 645)]. Parameters are named and shaped as in the report's published
    checkpoints.
    """

    name = "an autoencoder"
    in_channels = 1

    def __init__(self, channels=None):
        super().__init__()
        self.channels = first, second, third = tuple(channels or hp.ae_channels)
        self.encoder = nn.Sequential(
            BandConv2d(1, first, (hp.n_mels, 1)), nn.BatchNorm2d(first), nn.Tanh(),
            nn.Conv2d(first, second, (1, 2), stride=(1, 2)), nn.BatchNorm2d(second), nn.Tanh(),
            nn.Conv2d(second, third, (1, 2), stride=(1, 2)), nn.BatchNorm2d(third), nn.Tanh(),
        )
        self.decoder = nn.Sequential(
            TimeUpsample(third, second), nn.BatchNorm2d(second), nn.Tanh(),
            TimeUpsample(second, first), nn.BatchNorm2d(first), nn.Tanh(),
            BandConvTranspose2d(first, 1, (hp.n_mels, 4)), nn.Sigmoid(),
        )

    @classmethod
    def from_state(cls, state):
        """Return an untrained network with the channels of a state_dict. Raises KeyError if it is of another kind."""
        return cls([len(state[f"encoder.{layer}.weight"]) for layer in (0, 3, 6)])

    def forward(self, x):
        """Map spectrograms [shape=(batch, 1, n_mels, t), in [0, 1]] to spectrograms of the same shape and range. Any t
        >= 1 is possible: the decoder returns 4 k + 3 frames, so the input is padded with silence to the next such
        number, and the output is cut to t frames."""
        frames = x.shape[-1]
        x = nn.functional.pad(x, (0, max(-(frames - 3) % 4, 7 - frames)))
        return self.decoder(self.encoder(x))[..., :frames]
