"""The report's wrapper of a network, the autoencoder or the U-Net: load its weights, run it on a device, generate."""
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp


def autocast(device):
    """Mixed precision with bfloat16 where the processor computes with it and `hp.bfloat16` is set."""
    fast = {
        "cuda": lambda: torch.cuda.is_bf16_supported(),
        "cpu": lambda: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    }.get(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(hp.bfloat16 and fast and fast()))


class Model:
    """A network from spectrogram to spectrogram, on a device.

    Parameters
    ----------
    network : nn.Module
        Maps [shape=(batch, in_channels, n_mels, t)] to [shape=(batch, 1, n_mels, t)].
    device : torch.device
    pair : str, optional
        The instruments that it was trained for.
    """

    def __init__(self, network, device=torch.device("cpu"), pair=None):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.device, self.pair = device, pair

    @classmethod
    def load(cls, kind, path, device=torch.device("cpu")):
        """Return the model of a `kind`, Autoencoder or UNet, whose form and weights are those of `path`.

        Raises as `load_weights`, and ValueError if they are of another kind.
        """
        state = load_weights(path)
        try:
            network = kind.of_form(state)
            network.load_state_dict(state)
        except (KeyError, ValueError, IndexError, RuntimeError):
            raise ValueError(f"{path} does not hold the weights of {kind.name}; "
                             "train it again or restore the file") from None
        return cls(network, device, noted(state).get("pair"))

    @torch.inference_mode()
    def generate(self, *spectrograms):
        """Map a spectrogram, np.ndarray [shape=(n_mels, t), in [0, 1]], to another of the same shape and range.

        A network of several input channels takes as many, the one to improve first; what is left over is ignored.
        """
        source = torch.from_numpy(np.stack(spectrograms[:self.network.in_channels]))[None].float()
        return self.run(self.move(source))[0, 0].cpu().numpy()

    def run(self, source):
        """Map a batch as `generate` does."""
        self.network.eval()
        with autocast(self.device):
            return self.network(source).float().clip(0, 1)

    def move(self, batch):
        """Return a batch on the model's device, as its network reads it fastest."""
        return batch.to(self.device, memory_format=torch.channels_last)


def load_weights(path):
    """Read a state_dict, in single precision.

    Raises FileNotFoundError if there is no such file, ValueError if it holds anything but tensors by name, or what was
    trained with another front end than the present one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; train them with AEMain.py and UNetMain.py, or restore the "
                                "file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key, value in state.items():
            state[key] = value.float() if value.is_floating_point() else value
    except Exception:  # torch raises a dozen kinds for what is not a file of its own
        raise ValueError(f"{path} does not hold the weights of a network; train it again or restore the file") from None
    front_end = noted(state).get("front_end", DatasetCreator.front_end())
    for name, value in DatasetCreator.front_end().items():
        if front_end.get(name) != value:
            raise ValueError(f"{path} was trained with {name} = {front_end.get(name)}, and Hyperparameters.py has "
                             f"{value}; set it back or train again")
    return state


def noted(state):
    """What `snapshot` noted in a state_dict: "front_end" and "pair", or nothing if it is from elsewhere."""
    return getattr(state, "_metadata", {}).get("trained_for", {})


def snapshot(network, trained_for):
    """A copy of a network's state_dict in the processor's memory, with `DatasetCreator.trained_for` as its note."""
    state = network.state_dict()
    state._metadata["trained_for"] = trained_for  # beside the tensors: the file remains a plain state_dict
    for key in state:
        state[key] = state[key].detach().cpu().clone()
    return state
