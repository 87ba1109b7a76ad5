"""Train the autoencoder: builds the data set if needed and writes the weights.

`python AEMain.py` trains data/models/own/ae.torch on data/piano and data/synth, with the report's 600 epochs.
"""
from pathlib import Path

import torch

import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from AEModel import AEModel


def train(data=hp.data, model="own", epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
          learning_rate=hp.ae_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          augmented=False, validation_source=None, start=None, channels=hp.ae_channels, device="auto",
          overwrite=False, tensorboard=False):
    """Train data/models/<model>/ae.torch on the pairs below `data`, from the weights in `start` if there are any.

    Raises as `DatasetCreator.build`, `Training.start_from` and `Training.fit`.
    """
    device = hp.choose_device(device)
    names = Training.first_alone(lambda: DatasetCreator.build(data))
    training, validation = Training.datasets(names, data, seed, augmented, validation_source)
    torch.manual_seed(seed)
    autoencoder = AEModel(device, learning_rate, channels)
    if start:
        Training.start_from(autoencoder.network, start)
    Training.fit(autoencoder, training, validation, Path(data) / "models" / model / "ae.torch", dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, augmented=augmented, validation_source=validation_source, start=start and str(start),
        channels=list(channels), pieces=names, trained_for=DatasetCreator.trained_for(data)), "L1 loss", overwrite, tensorboard)


def main(arguments=None):
    parser = Training.command_line("Train the autoencoder.", "ae", hp.ae_epochs, hp.ae_batch_size, hp.ae_learning_rate)
    parser.add_argument("--channels", type=Training.positive, nargs=3, default=hp.ae_channels, help="of the three layers")
    options = vars(Training.options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    train(**options)
    Training.finish(
        "UNetMain.py", *(["--data", options["data"]] if options["data"] != hp.data else []), "--model", options["model"],
        *(["--seed", options["seed"]] if options["seed"] != hp.seed else []),  # else the split is another
        *["--augmented"] * options["augmented"], *["--report"] * report,
        *(["--validation-source", options["validation_source"]] if options["validation_source"] else []))


if __name__ == "__main__":
    Util.run(main)
