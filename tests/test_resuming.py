"""An interrupted training goes on as if it had not been stopped, and checkpoints that do not fit are refused."""
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import AEMain
import Distributed
import Hyperparameters as hp
import Main
import Training
import UNetMain
from AEDataset import AEDataset
from AEModel import digest
from Autoencoder import Autoencoder
from training_common import (assert_same, behind_an_autoencoder, brief, fit_settings, interruption, losses, state,
                             train_ae)

pytestmark = pytest.mark.usefixtures("one_thread")


# interruptions

@pytest.fixture(scope="module")
def uninterrupted(three_seconds, tmp_path_factory):
    """The weights of a brief training of the autoencoder that nothing interrupted."""
    data = shutil.copytree(three_seconds, tmp_path_factory.mktemp("uninterrupted") / "data")
    train_ae(data)
    return data / "models" / "own" / "ae.torch"


doomed_training = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
import AEDataset, AEMain, Hyperparameters as hp, Util
torch.set_num_threads(1)
hp.checkpoint_minutes = 0
reads, read = 0, AEDataset.AEDataset.__getitem__

def doomed(self, key):
    global reads
    reads += 1
    if reads == 14:  # an epoch has 8 crops, and a clip to validate on
        os.kill(os.getpid(), int(sys.argv[2]))
    return read(self, key)

AEDataset.AEDataset.__getitem__ = doomed
Util.run(lambda: AEMain.train(".", epochs=2, batch_size=2, crop_frames=64, network="report", channels=(16, 32, 32),
                              device="cpu"))
"""


def doomed(root, data, number):
    """Train as `brief` in a process of its own, which gets a signal in its second epoch."""
    return subprocess.run([sys.executable, "-c", doomed_training, root, str(int(number))], cwd=data,
                          capture_output=True, text=True)


@pytest.mark.parametrize("number, status", ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)))
def test_a_training_resumes_after_a_signal_as_if_there_had_been_none(root, data, uninterrupted, number, status):
    weights = data / "models" / "own" / "ae.torch"
    process = doomed(root, data, number)
    assert process.returncode == status, process.stderr
    assert "Traceback" not in process.stderr
    assert not weights.exists()
    checkpoint = torch.load(weights.with_suffix(".checkpoint"), weights_only=True)
    assert checkpoint["epoch"] == 1 and checkpoint["batch"] > 0
    if number == signal.SIGINT:
        assert process.stderr.splitlines()[-1].endswith(
            f"stopped in epoch 2 of 2, batch {checkpoint['batch']}, saved in models/own/ae.checkpoint; give the same "
            "command to resume")
    train_ae(data)
    assert_same(weights, uninterrupted)
    assert not weights.with_suffix(".checkpoint").exists()


@pytest.mark.parametrize("number, reads", (
    (signal.SIGINT, (1,)), (signal.SIGINT, (2, 11)), (signal.SIGINT, (3, 3, 3)), (signal.SIGTERM, (8,))))
def test_a_training_resumes_from_any_batch(data, uninterrupted, number, reads):
    for read in reads:
        with interruption(data, read, number):
            train_ae(data)
    train_ae(data)
    assert_same(data / "models" / "own" / "ae.torch", uninterrupted)


@pytest.mark.parametrize("read, position", ((14, "in epoch 2 of 2, batch 2"), (18, "in epoch 2 of 2, batch 4"),
                                            (19, "after epoch 2 of 2")))  # the last one amid the last validation
def test_a_training_says_where_it_stops_and_resumes(data, uninterrupted, capsys, read, position):
    with interruption(data, read) as stopped:
        train_ae(data)
    checkpoint = data / "models" / "own" / "ae.checkpoint"
    assert str(stopped.value) == f"stopped {position}, saved in {checkpoint}; give the same command to resume"
    train_ae(data)
    assert f"resuming {position}\n" in capsys.readouterr().out
    assert_same(checkpoint.with_suffix(".torch"), uninterrupted)


def test_the_unet_resumes_as_well(data):
    for model in "own", "uninterrupted":
        behind_an_autoencoder(data, model)
    UNetMain.train(data, model="uninterrupted", wf=3, **brief)
    with interruption(data, 6, signal.SIGINT, "UNetMain.UNetDataset"):
        UNetMain.train(data, wf=3, **brief)
    UNetMain.train(data, wf=3, **brief)
    assert_same(data / "models" / "own" / "unet.torch", data / "models" / "uninterrupted" / "unet.torch")


def test_a_training_that_averages_resumes_as_well(data):
    train_ae(data, model="uninterrupted", average=3)
    with interruption(data, 11):
        train_ae(data, average=3)
    train_ae(data, average=3)
    assert_same(data / "models" / "own" / "ae.torch", data / "models" / "uninterrupted" / "ae.torch")
    with interruption(data, 3):
        train_ae(data, overwrite=True)
    with pytest.raises(ValueError, match=r"other settings \(average 0, now 3\)"):
        train_ae(data, average=3)


def test_a_checkpoint_of_other_settings_is_refused_naming_them(data):
    with interruption(data, 3):
        train_ae(data)
    checkpoint = data / "models" / "own" / "ae.checkpoint"
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"ae.checkpoint was started with other settings \(epochs 2, now 4; batch_size 2, now 3\)"):
        train_ae(data, epochs=4, batch_size=3)
    assert checkpoint.read_bytes() == before
    train_ae(data, epochs=1, overwrite=True)
    assert len(losses(checkpoint.with_suffix(".torch"))["training"]) == 1


def test_a_full_disk_leaves_the_last_checkpoint(data, uninterrupted, small_files):
    with interruption(data, 3):
        train_ae(data)
    checkpoint = data / "models" / "own" / "ae.checkpoint"
    files = {path: path.read_bytes() for path in checkpoint.parent.iterdir()}
    with small_files(20_000), pytest.raises(OSError,
                                            match=f"{checkpoint} cannot be written .*free some space.*command again"):
        train_ae(data)
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == files
    train_ae(data)
    assert_same(checkpoint.with_suffix(".torch"), uninterrupted)


@pytest.mark.parametrize("script", (AEMain, UNetMain))
def test_a_folder_that_cannot_be_written_is_said_before_the_work(data, script):
    shutil.rmtree(data / "models"), shutil.rmtree(data / "generated")
    (data / "models").touch()
    with pytest.raises(OSError, match="models/own cannot be written .*; choose another folder, or change its"):
        script.train(data)
    assert {path.name for path in data.iterdir()} == {"models", "piano", "synth"}


@pytest.mark.parametrize("where", ("a crop", "a clip to validate on"))
def test_a_loss_that_is_not_finite_ends_the_training_with_the_last_checkpoint(data, uninterrupted, monkeypatch, where):
    checkpoint = data / "models" / "own" / "ae.checkpoint"

    def spoilt(self, key, take=AEDataset.__getitem__):
        source, target = take(self, key)
        second = checkpoint.exists() and torch.load(checkpoint, weights_only=True)["epoch"] == 1
        return source, target * float("nan") if second and isinstance(key, tuple) == (where == "a crop") else target

    monkeypatch.setattr(hp, "checkpoint_minutes", 0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(
            ValueError, match="the loss is nan in epoch 2; choose a lower --learning-rate and add --overwrite"):
        patch.setattr(AEDataset, "__getitem__", spoilt)
        train_ae(data)
    assert not checkpoint.with_suffix(".torch").exists()
    train_ae(data)
    assert_same(checkpoint.with_suffix(".torch"), uninterrupted)


def test_overwrite_discards_once_and_the_same_command_goes_on(data, uninterrupted, capsys):
    weights = data / "models" / "own" / "ae.torch"
    train_ae(data, epochs=1, seed=1)
    with interruption(data, 3):
        train_ae(data, overwrite=True)
    train_ae(data, overwrite=True)
    assert "resuming in epoch 1 of 2, batch" in capsys.readouterr().out
    assert_same(weights, uninterrupted)
    train_ae(data, overwrite=True)  # and a finished one is trained anew
    assert "resuming" not in capsys.readouterr().out
    assert_same(weights, uninterrupted)


def flipped(good, place):
    return good[:place] + bytes([good[place] ^ 1]) + good[place + 1:]


@pytest.mark.parametrize("damage", (lambda good: b"", lambda good: b"la la la", lambda good: good[:len(good) // 2],
                                    lambda good: flipped(good, len(good) // 3)))
def test_a_damaged_checkpoint_is_named_and_kept(data, damage):
    with interruption(data, 3):
        train_ae(data)
    checkpoint = data / "models" / "own" / "ae.checkpoint"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    before = checkpoint.read_bytes()
    for overwrite in False, True:
        with pytest.raises(ValueError, match=f"{checkpoint} is not a checkpoint of this training, or is damaged; remove"):
            train_ae(data, overwrite=overwrite)
    assert checkpoint.read_bytes() == before


def another_autoencoder(data, model):
    """Change the weights of an autoencoder a little, in a file as old as the one before."""
    weights = data / "models" / model / "ae.torch"
    content, status = state(weights), weights.stat()
    content["encoder.0.bias"][0] += 0.5
    torch.save(content, weights)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    return weights


def test_a_unet_belongs_to_its_autoencoder(data):
    behind_an_autoencoder(data, "own")
    own = data / "models" / "own"
    ae, unet, half = own / "ae.torch", own / "unet.torch", own / "half.torch"
    UNetMain.train(data, wf=2, **{**brief, "epochs": 1})
    Main.load_models(ae, unet, "cpu")
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in state(ae).items()}, half)
    Main.load_models(half, unet, "cpu")  # stored in half precision it is the same one
    former = digest(state(ae))
    another_autoencoder(data, "own")
    with pytest.raises(ValueError, match=f"^{unet} was trained behind an autoencoder with the weights {former}, and "
                       f"{ae} has {digest(state(ae))}; train the U-Net anew"):
        Main.load_models(ae, unet, "cpu")


def test_an_interrupted_unet_does_not_go_on_behind_another_autoencoder(data):
    behind_an_autoencoder(data, "own")
    with interruption(data, 3, dataset="UNetMain.UNetDataset"):
        UNetMain.train(data, wf=2, **brief)
    another_autoencoder(data, "own")
    with pytest.raises(ValueError, match=r"unet.checkpoint was started with other settings \(autoencoder \w+, now \w+\)"):
        UNetMain.train(data, wf=2, **brief)


def test_more_processes_than_crops_are_refused(three_seconds, tmp_path, monkeypatch):
    piece = AEDataset(["bach_prelude_c"], three_seconds)
    monkeypatch.setattr(Distributed, "process_rank", lambda: (0, 2))
    with pytest.raises(ValueError, match="fewer crops than there are processes, 2"):
        Training.fit(Training.Trainer(Autoencoder(channels=(4, 4, 4)), None, None, torch.device("cpu")), piece, piece,
                     tmp_path / "ae.torch", {**fit_settings, "batch_size": 2, "crop_frames": 0}, "L1 loss")
