"""Every notebook runs from top to bottom, wherever it is started and with any file; what is committed is small."""
import re

import nbformat
import numpy as np
import pytest
import soundfile
import torch
from nbclient import NotebookClient

import Hyperparameters as hp
from NoteAutoencoder import NoteAutoencoder

names = sorted(path.name for path in (hp.root / "notebooks").glob("*.ipynb"))


def run(notebook, folder):
    """Run a notebook started in `folder`; an error in a cell is raised."""
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def shown(notebook, kind):
    """What the cells show of a MIME type."""
    return [output.data[kind] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
            if kind in output.get("data", {})]


def test_there_are_four():
    assert names == [f"{name}_Notebook.ipynb" for name in ("AEMain", "Evaluation", "Main", "UNetMain")]


@pytest.mark.parametrize("name", names)
def test_notebook_runs(name):
    notebook = run(nbformat.read(hp.root / "notebooks" / name, 4), hp.root / "notebooks")
    assert shown(notebook, "image/jpeg") and sum("<audio" in text for text in shown(notebook, "text/html")) >= 2


def test_notebook_takes_the_readers_file_and_runs_from_the_root(tmp_path):
    soundfile.write(tmp_path / "own.ogg", np.random.default_rng(0).uniform(-0.5, 0.5, (2 * 44100, 2)), 44100)
    notebook = nbformat.read(hp.root / "notebooks" / "Main_Notebook.ipynb", 4)
    [cell] = [cell for cell in notebook.cells if cell.source.startswith("recording = ")]
    cell.source = re.sub("^recording = .*", f"recording = {str(tmp_path / 'own.ogg')!r}", cell.source)
    run(notebook, hp.root)
    assert cell.outputs[0].text.startswith("2.0 s")


def test_the_notebook_of_the_autoencoder_shows_and_plays_notes_too(tmp_path):
    torch.manual_seed(0)
    network = NoteAutoencoder(first=6, channels=6, blocks=1, narrow=2, width=12)
    network.encoder.head.bias.data[:4] = -0.65  # it hears something, if not what is there
    torch.save(network.state_dict(), tmp_path / "notes.torch")
    notebook = nbformat.read(hp.root / "notebooks" / "AEMain_Notebook.ipynb", 4)
    [cell] = [cell for cell in notebook.cells if cell.source.startswith("weights = ")]
    cell.source = re.sub("^weights = .*", f"weights = {str(tmp_path / 'notes.torch')!r}", cell.source)
    run(notebook, hp.root)
    assert cell.outputs[0].text.startswith("its latent is notes")
    assert len(shown(notebook, "image/jpeg")) == 5
    assert sum("<audio" in text for text in shown(notebook, "text/html")) == 3


@pytest.mark.parametrize("name", names)
def test_notebook_is_committed_executed_small_and_without_paths(name):
    path = hp.root / "notebooks" / name
    assert path.stat().st_size < 1.5e6
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    texts = [cell.source for cell in notebook.cells]
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr"
        texts += [output.get("text", ""),
                  *(text for kind, text in output.get("data", {}).items() if kind in ("text/plain", "text/markdown"))]
    assert not re.search(r"(^|[\s'\"(=])(/\w|[A-Z]:\\)", "\n".join(texts))
