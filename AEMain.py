"""Train the autoencoder: builds the data set if needed and writes the weights.

`python AEMain.py` trains data/models/own/ae.torch on data/piano and data/synth, with the report's 600 epochs.
"""
from pathlib import Path

import torch

import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from AEDataset import datasets
from Autoencoder import Autoencoder
from Processes import finish, first_alone


def train(data=hp.data, model="own", epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
          learning_rate=hp.ae_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          augmented=False, validation_source=None, start=None, channels=hp.ae_channels, device="auto",
          overwrite=False, tensorboard=False):
    """Train data/models/<model>/ae.torch on the pairs below `data`, from the weights in `start` if there are any.

    Raises as `DatasetCreator.build`, `Training.start_from` and `Training.fit`.
    """
    device = Util.choose_device(device)
    names = first_alone(lambda: DatasetCreator.build(data))
    training, validation = datasets(names, data, seed, augmented, validation_source)
    torch.manual_seed(seed)
    network = Autoencoder(channels=channels)
    if start:
        Training.start_from(network, start)
    settings = dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, augmented=augmented, validation_source=validation_source, start=start and str(start),
        channels=list(channels), pieces=names, trained_for=DatasetCreator.trained_for(data))
    Training.fit(Training.Trainer(network, torch.nn.functional.l1_loss, learning_rate, device), training, validation,
                 Path(data) / "models" / model / "ae.torch", settings, "L1 loss", overwrite, tensorboard)


def main(arguments=None):
    parser = Util.training_flags("Train the autoencoder.", "ae", hp.ae_epochs, hp.ae_batch_size, hp.ae_learning_rate)
    parser.add_argument("--channels", type=Util.positive, nargs=3, default=hp.ae_channels, help="of the three layers")
    options = vars(Util.training_options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    train(**options)
    data, seed, source = options["data"], options["seed"], options["validation_source"]
    finish("UNetMain.py", *(["--data", data] if data != hp.data else []), "--model", options["model"],
           *(["--seed", seed] if seed != hp.seed else []),  # else the split is another
           *["--augmented"] * options["augmented"], *["--report"] * report,
           *(["--validation-source", source] if source else []))


if __name__ == "__main__":
    Util.run(main)
