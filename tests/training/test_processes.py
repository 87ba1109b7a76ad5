"""Two processes train as one does."""
import subprocess
import sys

import pytest
import torch

from training import processes
from training_common import losses, state, train_network

networks = {"unet": dict(bfloat16=True), "ae": dict(bfloat16=False)}
tolerance = {"unet": 3e-3, "ae": 1e-3}  # Adam enlarges what is rounded
brief = dict(epochs=2, batch_size=4, crop_frames=40, overwrite=True)
script = f"""
import pathlib, sys
sys.path[:0] = sys.argv[1:3]
from training import training_options
from training_common import train_network
for name, options in {networks}.items():
    train_network(name, pathlib.Path(sys.argv[3]), model="two", **options, **{brief})
training_options.print_next_command("Main.py")
"""


def test_two_processes_have_the_losses_of_one(data, root):
    data.joinpath("train.py").write_text(script)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                           data / "train.py", root, root / "tests", data], capture_output=True, text=True)
    assert done.returncode == 0 and "terminate" not in done.stderr, done.stderr
    assert done.stdout.count("epoch 2/2") == 2 and done.stdout.count("next: ") == 1  # the first process alone speaks
    for name, options in networks.items():
        one = train_network(name, data, model="one", **options, **brief)
        two = data / "models" / "two" / f"{name}.torch"
        assert all(tensor.isfinite().all() for tensor in state(two).values())
        for part in "training", "validation":
            assert losses(two)[part] == pytest.approx(losses(one)[part], abs=tolerance[name])


def test_a_stray_rank_is_no_distributed_training(monkeypatch):
    for name in "RANK", "WORLD_SIZE", "LOCAL_RANK":
        monkeypatch.setenv(name, "1")
    assert processes.process_rank() == (0, 1) and not torch.distributed.is_initialized()
