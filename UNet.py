"""The denoising U-Net (Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597)."""
import torch
from torch import nn

import Hyperparameters as hp
from Training import load_weights, trained_for


class Block(nn.Module):
    """Two 3 x 3 convolutions, each followed by ReLU; the size of the image stays."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
                                   nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return self.block(x)


class Up(nn.Module):
    """Double the size of the image, put the skip connection beside it, and convolve."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.conv_block = Block(inputs, outputs)

    def forward(self, x, skip):
        return self.conv_block(torch.cat([self.up(x), skip], 1))


class UNet(nn.Module):
    """`depth` levels with 2**wf, 2**(wf + 1), ... channels and skip connections, then a 1 x 1 layer (report: U-Net).

    With two inputs it sees the recording's spectrogram beside the autoencoder's output. The report's published network has
    depth 4, wf 6 and one input; the names and shapes of the parameters are those of its
    checkpoints.
    """

    def __init__(self, depth=hp.unet_depth, wf=hp.unet_wf, inputs=1):
        super().__init__()
        self.inputs = inputs
        channels = [2 ** (wf + level) for level in range(depth)]
        self.down_path = nn.ModuleList(map(Block, [inputs] + channels[:-1], channels))
        self.up_path = nn.ModuleList(map(Up, channels[:0:-1], channels[-2::-1]))
        self.last = nn.Conv2d(channels[0], 1, 1)

    @classmethod
    def load(cls, path=hp.unet_weights):
        """Return a U-Net of the depth and width that the weights in `path` have. Raises as `Training.load_weights`."""
        state = load_weights(path)
        try:
            depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down_path."))
            first, inputs, *_ = state["down_path.0.block.0.weight"].shape
            network = cls(depth, (first - 1).bit_length(), inputs)
            network.load_state_dict(state)
            network.pair = trained_for(state).get("pair")
        except (KeyError, ValueError, IndexError, RuntimeError):
            raise ValueError(f"{path} does not hold the weights of a U-Net; train it again or restore the file") from None
        return network

    def forward(self, x):
        """Map spectrograms [shape=(batch, inputs, n_mels, t), in [0, 1]] to cleaner ones [shape=(batch, 1, n_mels, t)].

        Any t from 1 up: the image is halved `depth` - 1 times, so the input is filled up with silence to a multiple
        of 2**(depth - 1) frames, and the output cut back.
        """
        frames = x.shape[-1]
        x = nn.functional.pad(x, (0, -frames % 2 ** len(self.up_path)))
        skips = []
        for down in self.down_path:
            x = down(nn.functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, skip in zip(self.up_path, skips[-2::-1]):
            x = up(x, skip)
        return self.last(x)[..., :frames]
