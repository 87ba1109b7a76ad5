"""Train the autoencoder: builds the data set if needed, writes the weights and, for the U-Net, data/ae_output.

`python AEMain.py` trains data/models/own/ae.torch on data/piano and data/synth, with the report's 600 epochs.
"""
import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from AEDataset import AEDataset
from AEModel import AEModel


def train(data=hp.data, model="own", epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
          learning_rate=hp.ae_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          device="auto", overwrite=False):
    """Train data/models/<model>/ae.torch on the pairs below `data`, then write its outputs for the U-Net.

    Raises as `DatasetCreator.build` and `Training.fit`.
    """
    device = hp.choose_device(device)
    names = DatasetCreator.build(data)
    training, validation = (AEDataset(part, data) for part in Util.split(names, seed))
    torch.manual_seed(seed)
    autoencoder = AEModel(device, learning_rate)
    weights = Path(data) / "models" / model / "ae.torch"
    finished = weights.exists() and not weights.with_suffix(".checkpoint").exists() and not overwrite
    if finished and not all((Path(data) / "ae_output" / f"{name}.npy").exists() for name in names):
        Training.load_weights(weights, autoencoder.network)  # interrupted while it wrote the outputs
    else:
        Training.fit(autoencoder, training, validation, weights, dict(
            epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
            seed=seed), "L1 loss", overwrite)
    write_outputs(autoencoder, names, data)


def write_outputs(autoencoder, names, data=hp.data):
    """Write the autoencoder's output for every piece to data/ae_output/<piece>.npy."""
    for name, (piano, _) in zip(tqdm(names, desc="ae_output", unit="piece"), AEDataset(names, data)):
        Util.save_array(Path(data) / "ae_output" / f"{name}.npy", autoencoder.generate(piano[0].numpy()).astype(np.float16))


def main(arguments=None):
    parser = Training.command_line("Train the autoencoder.", "ae", hp.ae_epochs, hp.ae_batch_size, hp.ae_learning_rate)
    train(**vars(parser.parse_args(arguments)))
    print("next: UNetMain.py, with the same --model and --data")


if __name__ == "__main__":
    Util.run(main)
