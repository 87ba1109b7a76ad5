"""Pairs of spectrograms for the U-Net: the autoencoder's output in, true e-piano out."""
from AEDataset import AEDataset, read


class UNetDataset(AEDataset):
    """As `AEDataset`, with data/ae_output/<piece>.npy, which AEMain.py writes, in place of the piano."""

    def load(self, name, data, sources):
        return [read(data / "ae_output" / f"{name}.npy")]
