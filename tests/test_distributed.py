"""Two processes train as one does."""
import json
import shutil
import subprocess
import sys

import pytest
import torch

main_of = {"ae": "AEMain", "unet": "UNetMain"}


@pytest.mark.parametrize("name, options, mixed_precision", [
    ("ae", ["--network", "report"], False),  # in mixed precision the wide autoencoder rounds otherwise
    ("ae", ["--network", "report", "--channels", "64", "128", "256"], True), ("unet", ["--wf", "3"], True)])
def test_two_processes_have_the_losses_of_one(data, root, name, options, mixed_precision):
    losses, script = {}, data / "train.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(root)!r}); import Hyperparameters as hp; hp.bfloat16 = "
                      f"{mixed_precision}; import Util, {main_of[name]}; Util.run({main_of[name]}.main)")
    for number in (1, 2):
        model = data / "models" / f"with_{number}"
        model.mkdir()
        if name == "unet":
            shutil.copy(data / "models" / "untrained" / "ae.torch", model)
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                               f"--nproc_per_node={number}", script,
                               "--data", data, "--model", model.name, "--epochs", "3", "--batch-size", "4",
                               "--crop-frames", "40",
                               "--device", "cpu", *options], capture_output=True, text=True)
        assert done.returncode == 0 and "terminate" not in done.stderr, done.stderr
        assert done.stdout.count("epoch 3/3") == 1  # the first process alone speaks
        losses[number] = json.loads((model / f"{name}_losses.json").read_text())
        assert all(tensor.isfinite().all()
                   for tensor in torch.load(model / f"{name}.torch", weights_only=True).values())
    for part in ("training", "validation"):
        assert losses[2][part] == pytest.approx(losses[1][part], abs=5e-4 if mixed_precision else 1e-4)
