"""The autoencoder with its loss and optimiser: train one epoch, validate, generate."""
import torch

import Hyperparameters as hp
from Autoencoder import Autoencoder
from Training import Model, load_weights


class AEModel(Model):
    """The report's training of the autoencoder: L1 loss and Adam. See `Training.Model` for the methods."""

    def __init__(self, device=torch.device("cpu"), learning_rate=hp.ae_learning_rate):
        super().__init__(Autoencoder(), torch.nn.functional.l1_loss, learning_rate, device)

    @classmethod
    def load(cls, path=hp.ae_weights, device=torch.device("cpu")):
        """Return a model with the weights of `path`. Raises as `Training.load_weights`."""
        model = cls(device)
        load_weights(path, model.network)
        return model
