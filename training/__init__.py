"""What both training scripts share: loop, checkpoints, options, progress, processes. The parts of the note autoencoder.

May import `audio`, `notes`, `outputs`, `rendering`, `AEDataset`, `AEModel`, `Autoencoder`, `DatasetCreator`. Is
imported by `AEMain`, `UNetMain` and their data sets.
"""
