"""What the tests of training share."""
import contextlib
import json
import os
import pkgutil
import shutil
import signal

import pytest
import torch

import AEMain
import UNetMain

brief = dict(epochs=2, batch_size=2, crop_frames=64, device="cpu")  # 4 batches an epoch: two clips of 258 frames
fit_settings = dict(epochs=2, batch_size=1, crop_frames=64, schedule="constant", seed=0, trained_for={"pair": "A -> B"})


def behind_an_autoencoder(data, model):
    """Give the U-Net of that name an autoencoder to be trained behind."""
    (data / "models" / model).mkdir(exist_ok=True)
    shutil.copy(data / "models" / "untrained" / "ae.torch", data / "models" / model)


@pytest.fixture(params=("ae", "unet"))
def train(request, data):
    """Function that trains one of the networks, briefly unless told otherwise, and returns the path of its weights."""

    def run(**options):
        script, form = (AEMain, dict(network="report", channels=(16, 32, 32))) if request.param == "ae" else (
            UNetMain, {"wf": 3})
        if script is UNetMain:
            behind_an_autoencoder(data, options.get("model", "own"))
        script.train(**{**brief, "data": data, **form, **options})
        return data / "models" / options.get("model", "own") / f"{request.param}.torch"

    return run


def train_ae(data, **options):
    """Train the autoencoder in the report's form, but narrow, briefly unless told otherwise."""
    AEMain.train(data, **{**brief, "network": "report", "channels": (16, 32, 32), **options})


def state(weights):
    return torch.load(weights, weights_only=True)


def losses(weights):
    recorded = json.loads(weights.with_name(f"{weights.stem}_losses.json").read_text())
    del recorded["minutes"]
    return recorded


def assert_same(weights, others):
    one, other = state(weights), state(others)
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    assert losses(weights) == losses(others)


@contextlib.contextmanager
def interruption(data, read, number=signal.SIGINT, dataset="AEDataset.AEDataset"):
    """Have a training get Ctrl-C when it reads its `read`-th crop or clip; expect that it ends with a checkpoint.

    Yield what `pytest.raises` gives.
    """
    reads, dataset = [], pkgutil.resolve_name(dataset)
    take = dataset.__getitem__

    def interrupting(self, key):
        reads.append(key)
        if len(reads) == read:
            os.kill(os.getpid(), number)
        return take(self, key)

    previous = signal.signal(number, lambda *_: pytest.fail("the training does not defer the signal"))
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
            patch.setattr(dataset, "__getitem__", interrupting)
            yield stopped
    finally:
        signal.signal(number, previous)
    assert list((data / "models" / "own").glob("*.checkpoint"))
