"""An interrupted training goes on as if it had not been stopped, and checkpoints that do not fit are refused."""
import os
import random
import shutil
import signal

import pytest
import torch

import AEMain
import Hyperparameters as hp
import Main
import UNetMain
from AEDataset import AEDataset
from AEModel import digest
from training import checkpoints
from training_common import (assert_same, behind_an_autoencoder, interruption, kill, losses, state,
                             train_ae, train_network)

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")
datasets = {"ae": "AEDataset.AEDataset", "unet": "UNetDataset.UNetDataset"}


@pytest.fixture(scope="module")
def whole(three_seconds, tmp_path_factory, one_thread, no_pictures):
    """The weights of both networks after brief trainings that nothing interrupted."""
    data = shutil.copytree(three_seconds, tmp_path_factory.mktemp("whole") / "data")
    return {name: train_network(name, data, model=name) for name in datasets}


@pytest.fixture
def checkpoint(data):
    """The checkpoint of an autoencoder whose training was interrupted in its first epoch."""
    with interruption(data, 3):
        train_ae(data)
    return data / "models" / "own" / "ae.checkpoint"


@pytest.mark.parametrize("name", ("ae", "unet"))
def test_sigkill_at_random_moments_changes_no_bit(data, whole, monkeypatch, name):
    monkeypatch.setattr(hp, "checkpoint_minutes", 0)
    for _ in range(3):  # an epoch reads 8 crops, and a clip to validate on
        kill(lambda: train_network(name, data), random.randint(3, 6), datasets[name])
    assert not (data / "models" / "own" / f"{name}.torch").exists()
    assert_same(train_network(name, data), whole[name])
    assert not list((data / "models" / "own").glob("*.checkpoint"))


@pytest.mark.parametrize("name, number, reads, position", (
    ("ae", signal.SIGINT, (1, 2, 11), "in epoch 2 of 2, batch 3"),
    ("ae", signal.SIGTERM, (8,), "in epoch 1 of 2, batch 4"),
    ("ae", signal.SIGINT, (19,), "after epoch 2 of 2"),  # amid the last validation
    ("unet", signal.SIGINT, (6,), "in epoch 1 of 2, batch 3")))
def test_a_training_says_where_it_stops_and_resumes(data, whole, capsys, name, number, reads, position):
    for read in reads:
        with interruption(data, read, number, datasets[name]) as stopped:
            train_network(name, data)
    checkpoint = data / "models" / "own" / f"{name}.checkpoint"
    assert str(stopped.value) == f"stopped {position}, saved in {checkpoint}; give the same command to resume"
    assert_same(train_network(name, data), whole[name])
    assert f"resuming {position}\n" in capsys.readouterr().out


def test_a_training_that_averages_resumes_as_well(data):
    whole = train_ae(data, model="whole", average=3)
    with interruption(data, 11):
        train_ae(data, average=3)
    assert_same(train_ae(data, average=3), whole)


def test_a_checkpoint_of_other_settings_is_refused_naming_them(data, checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"ae.checkpoint was started with other settings \(epochs 2, now 4; "
                                         r"batch_size 2, now 3; average 0, now 3\)"):
        train_ae(data, epochs=4, batch_size=3, average=3)
    assert checkpoint.read_bytes() == before
    assert len(losses(train_ae(data, epochs=1, overwrite=True))["training"]) == 1


@pytest.mark.parametrize("differing, text", (
    (("start", None, "ae.torch"), "start not set, now ae.torch"),
    (("channels", [4, 4, 4], [8, 8, 8]), "channels 4 4 4, now 8 8 8"),
    (("residual", True, False), "residual on, now off"),
    (("pieces", list("abcdefg"), list("gh")), "7 pieces, now 2: without a, b, c, ... and with h"),
    (("trained_for", {"pair": "a -> b", "front_end": {"n_fft": 1024}}, {"pair": "a -> c", "front_end": {"n_fft": 9}}),
     "pair a -> b, now a -> c, n_fft 1024, now 9")))
def test_a_setting_that_differs_is_said_with_both_values(differing, text):
    assert checkpoints.describe_difference(*differing) == text


def test_overwrite_discards_once_and_the_same_command_goes_on(data, whole, capsys):
    weights = train_ae(data, epochs=1, seed=1)
    finished = weights.read_bytes()
    with interruption(data, 3):
        train_ae(data, overwrite=True)
    assert weights.read_bytes() == finished  # until the training that overwrites it is finished
    assert_same(train_ae(data, overwrite=True), whole["ae"])
    assert "resuming in epoch 1 of 2, batch" in capsys.readouterr().out
    train_ae(data, overwrite=True)  # and a finished one is trained anew
    assert "resuming" not in capsys.readouterr().out


def test_a_damaged_checkpoint_is_named_and_kept(data, checkpoint):
    good = checkpoint.read_bytes()
    place = len(good) // 3
    for damaged in b"", b"la la la", good[:len(good) // 2], good[:place] + bytes([good[place] ^ 1]) + good[place + 1:]:
        checkpoint.write_bytes(damaged)
        for overwrite in False, True:
            with pytest.raises(ValueError, match=f"{checkpoint} is not a checkpoint of this training, or is damaged; "
                                                 "remove"):
                train_ae(data, overwrite=overwrite)
        assert checkpoint.read_bytes() == damaged


def another_autoencoder(weights):
    """Change the weights of an autoencoder a little, in a file as old as the one before."""
    content, status = state(weights), weights.stat()
    content["encoder.0.bias"][0] += 0.5
    torch.save(content, weights)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_unet_belongs_to_its_autoencoder(data, whole):
    unet = whole["unet"]
    ae, half = (data / "models" / "own" / f"{name}.torch" for name in ("ae", "half"))
    behind_an_autoencoder(data)
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in state(ae).items()}, half)
    for weights in ae, half:  # stored in half precision it is the same one
        Main.load_models(weights, unet, "cpu")
    former = digest(state(ae))
    another_autoencoder(ae)
    with pytest.raises(ValueError, match=f"^{unet} was trained behind an autoencoder with the weights {former}, and "
                       f"{ae} has {digest(state(ae))}; train the U-Net anew"):
        Main.load_models(ae, unet, "cpu")


def test_an_interrupted_unet_does_not_go_on_behind_another_autoencoder(data):
    with interruption(data, 3, dataset=datasets["unet"]):
        train_network("unet", data)
    another_autoencoder(data / "models" / "untrained" / "ae.torch")
    with pytest.raises(ValueError, match=r"unet.checkpoint was started with other settings \(autoencoder \w+, now \w+"):
        train_network("unet", data)


def test_a_full_disk_leaves_the_last_checkpoint(data, checkpoint, whole, small_files):
    files = {path: path.read_bytes() for path in checkpoint.parent.iterdir()}
    with small_files(20_000), pytest.raises(OSError,
                                            match=f"{checkpoint} cannot be written .*free some space.*command again"):
        train_ae(data)
    assert {path: path.read_bytes() for path in checkpoint.parent.iterdir()} == files
    assert_same(train_ae(data), whole["ae"])


@pytest.mark.parametrize("script", (AEMain, UNetMain))
def test_a_folder_that_cannot_be_written_is_said_before_the_work(data, script):
    shutil.rmtree(data / "models"), shutil.rmtree(data / "generated")
    (data / "models").touch()
    with pytest.raises(OSError, match=r"models/own/\w+.torch cannot be written .*; choose another folder, or change"):
        script.train(data)
    assert {path.name for path in data.iterdir()} == {"models", "piano", "synth"}


@pytest.mark.parametrize("where", ("a crop", "a clip to validate on"))
def test_a_loss_that_is_not_finite_ends_the_training_with_the_last_checkpoint(data, whole, monkeypatch, where):
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
    assert_same(train_ae(data), whole["ae"])
