"""The denoising U-Net (Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597)."""
import torch
from torch import nn

import Hyperparameters as hp
from Training import Upsampling, load_weights, trained_for


class Block(nn.Module):
    """Two 3 x 3 convolutions, each followed by batch normalisation, if so `normalised`, and ReLU; the size of the image stays."""

    def __init__(self, inputs, outputs, normalised=False):
        super().__init__()
        layers = []
        for channels in (inputs, outputs):
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1))
            layers += [nn.BatchNorm2d(outputs)] * normalised
            layers.append(nn.ReLU(inplace=True))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return self.block(x)


class Up(nn.Module):
    """Double the size of the image, put the skip connection beside it, and convolve."""

    def __init__(self, inputs, outputs, normalised=False):
        super().__init__()
        self.up = Upsampling(inputs, outputs, 2, stride=2)
        self.conv_block = Block(inputs, outputs, normalised)

    def forward(self, x, skip):
        return self.conv_block(torch.cat([self.up(x), skip], 1))


class Memory(nn.Module):
    """What all bands did in the last seconds, added to the image: a layer that spans them all, as the autoencoder's first, then
    convolutions over time of growing dilation (van den Oord et al. 2016, https://arxiv.org/abs/1609.03499), and back."""

    def __init__(self, channels, bands, width, dilations=(1, 2, 4, 8)):
        super().__init__()
        self.gather = nn.Conv2d(channels, width, (bands, 1))
        self.dilated = nn.ModuleList(nn.Conv2d(width, width, (1, 3), padding=(0, d), dilation=(1, d)) for d in dilations)
        self.spread = nn.ConvTranspose2d(width, channels, (bands, 1))
        nn.init.zeros_(self.spread.weight)  # it adds nothing until it has learnt something
        nn.init.zeros_(self.spread.bias)

    def forward(self, x):
        seen = nn.functional.relu(self.gather(x))
        for layer in self.dilated:
            seen = seen + nn.functional.relu(layer(seen))
        return x + self.spread(seen)


class UNet(nn.Module):
    """`depth` levels with 2**wf, 2**(wf + 1), ... channels and skip connections, then a 1 x 1 layer (report: U-Net).

    The report's published network has depth 4, wf 6 and one input, and none of the other three; the names and shapes of
    the parameters are those of its checkpoints.

    Parameters
    ----------
    depth, wf : int
    inputs : int
        2 shows it the recording's spectrogram beside the autoencoder's output.
    memory : int
        Width of the `Memory` at the lowest level; 0 for none.
    shortcut : bool
        The last layer sees the input too, and starts from it: what is learnt is a correction.
    normalised : bool
        Batch normalisation after every 3 x 3 convolution (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167).
    """

    def __init__(self, depth=hp.unet_depth, wf=hp.unet_wf, inputs=1, memory=0, shortcut=False, normalised=False):
        super().__init__()
        self.inputs, self.shortcut = inputs, shortcut
        channels = [2 ** (wf + level) for level in range(depth)]
        self.down_path = nn.ModuleList(Block(*ends, normalised) for ends in zip([inputs] + channels[:-1], channels))
        self.memory = Memory(channels[-1], hp.n_mels >> (depth - 1), memory) if memory else nn.Identity()
        self.up_path = nn.ModuleList(Up(*ends, normalised) for ends in zip(channels[:0:-1], channels[-2::-1]))
        self.last = nn.Conv2d(channels[0] + inputs * shortcut, 1, 1)
        if shortcut:
            with torch.no_grad():
                self.last.weight[:, :channels[0]] *= 0.1
                self.last.bias.zero_()
                self.last.weight[:, channels[0]:] = torch.eye(1, inputs)[..., None, None]

    @classmethod
    def load(cls, path=hp.unet_weights):
        """Return a U-Net of the form that the weights in `path` have. Raises as `Training.load_weights`."""
        state = load_weights(path)
        try:
            depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down_path."))
            first, inputs, *_ = state["down_path.0.block.0.weight"].shape
            memory = len(state.get("memory.gather.weight", ()))
            network = cls(depth, (first - 1).bit_length(), inputs, memory, state["last.weight"].shape[1] > first,
                          "down_path.0.block.1.weight" in state)
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
        x = source = nn.functional.pad(x, (0, -frames % 2 ** len(self.up_path)))
        skips = []
        for down in self.down_path:
            x = down(nn.functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        x = self.memory(x)
        for up, skip in zip(self.up_path, skips[-2::-1]):
            x = up(x, skip)
        return self.last(torch.cat([x, source], 1) if self.shortcut else x)[..., :frames]
