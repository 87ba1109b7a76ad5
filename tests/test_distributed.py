"""Two processes train as one does."""
import json
import shutil
import subprocess
import sys

import pytest
import torch


@pytest.mark.parametrize("script, name, options", [("AEMain.py", "ae", ["--channels", "64", "128", "256"]), ("UNetMain.py", "unet", ["--wf", "3"])])
def test_two_processes_have_the_losses_of_one(data, root, script, name, options):
    losses = {}
    for number in (1, 2):
        model = data / "models" / f"with_{number}"
        model.mkdir()
        if name == "unet":
            shutil.copy(data / "models" / "untrained" / "ae.torch", model)
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}", root / script,
                               "--data", data, "--model", model.name, "--epochs", "3", "--batch-size", "4", "--crop-frames", "40",
                               "--device", "cpu", *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch 3/3") == 1  # the first process alone speaks
        losses[number] = json.loads((model / f"{name}_losses.json").read_text())
        assert all(tensor.isfinite().all() for tensor in torch.load(model / f"{name}.torch", weights_only=True).values())
    for part in ("training", "validation"):
        assert losses[2][part] == pytest.approx(losses[1][part], abs=1e-4)
