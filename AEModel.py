"""The autoencoder with its loss and optimiser: train one epoch, validate, generate."""
import torch

import Hyperparameters as hp
from Autoencoder import Autoencoder
from Training import Model, load_weights, trained_for


class AEModel(Model):
    """The report's training of the autoencoder: L1 loss and Adam. See `Training.Model` for the methods."""

    def __init__(self, device=torch.device("cpu"), learning_rate=hp.ae_learning_rate, channels=hp.ae_channels):
        super().__init__(Autoencoder(channels=channels), torch.nn.functional.l1_loss, learning_rate, device)

    @classmethod
    def load(cls, path=hp.ae_weights, device=torch.device("cpu")):
        """Return a model with the weights of `path`, of their width, to generate with. Raises as `Training.load_weights`."""
        state = load_weights(path)
        try:
            model = cls(device, None, channels=[len(state[f"encoder.{layer}.weight"]) for layer in (0, 3, 6)])
            model.network.load_state_dict(state)
            model.network.pair = trained_for(state).get("pair")
        except (KeyError, RuntimeError):
            raise ValueError(f"{path} does not hold the weights of an autoencoder; train it again or restore the file") from None
        return model
