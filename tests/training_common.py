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


def behind_an_autoencoder(data, model="own"):
    """Give the U-Net of that name an autoencoder to be trained behind."""
    (data / "models" / model).mkdir(exist_ok=True)
    shutil.copy(data / "models" / "untrained" / "ae.torch", data / "models" / model)


def train_network(name, data, **options):
    """Train "ae", in the report's form, or "unet", narrow and briefly; return the path of the weights."""
    if name == "ae":
        AEMain.train(data, **{**brief, "network": "report", "channels": (16, 32, 32), **options})
    else:
        behind_an_autoencoder(data, options.get("model", "own"))
        UNetMain.train(data, **{**brief, "wf": 2, **options})
    return data / "models" / options.get("model", "own") / f"{name}.torch"


def train_ae(data, **options):
    return train_network("ae", data, **options)


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
def at_read(read, act, dataset):
    """Call `act` when a dataset, given by its name, reads its `read`-th crop or clip."""
    reads, dataset = [], pkgutil.resolve_name(dataset)
    take = dataset.__getitem__

    def acting(self, key):
        reads.append(key)
        if len(reads) == read:
            act()
        return take(self, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "__getitem__", acting)
        yield


@contextlib.contextmanager
def interruption(data, read, number=signal.SIGINT, dataset="AEDataset.AEDataset"):
    """Have a training get Ctrl-C when it reads its `read`-th crop or clip; expect that it ends with a checkpoint. Yield
    what `pytest.raises` gives."""
    previous = signal.signal(number, lambda *_: pytest.fail("the training does not defer the signal"))
    try:
        with at_read(read, lambda: os.kill(os.getpid(), number), dataset), pytest.raises(KeyboardInterrupt) as stopped:
            yield stopped
    finally:
        signal.signal(number, previous)
    assert list((data / "models" / "own").glob("*.checkpoint"))


def kill(train, read, dataset):
    """Train in a fork of this process, which gets SIGKILL when it reads its `read`-th crop or clip."""
    child = os.fork()
    if not child:
        with at_read(read, lambda: os.kill(os.getpid(), signal.SIGKILL), dataset):
            train()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
