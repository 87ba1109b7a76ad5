"""Every notebook runs from top to bottom, from any folder and with any file; what is committed is small."""
import html
import re

import nbformat
import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient

import Hyperparameters as hp

names = sorted(path.name for path in (hp.root / "notebooks").glob("*.ipynb"))
report = "AEMain_Notebook.ipynb with the report's autoencoder"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory, weights):
    """A function from a name to the executed notebook, on two seconds of audio. An error in a cell is raised."""
    own = tmp_path_factory.mktemp("notebooks") / "own.ogg"
    soundfile.write(own, np.random.default_rng(0).uniform(-0.5, 0.5, (2 * 44100, 2)), 44100)

    def execute(name):
        changes = {"Main_Notebook.ipynb": ("recording", own), report: ("weights", weights[0])}
        variable, value = changes.get(name, ("", ""))
        notebook = nbformat.read(hp.root / "notebooks" / name.split(" ")[0], 4)
        for cell in code_cells(notebook):
            cell.source = cell.source.replace("10 * hp.sample_rate", "2 * hp.sample_rate")
            if variable and cell.source.startswith(f"{variable} = "):
                cell.source = re.sub("^.*", f"{variable} = {str(value)!r}", cell.source)
        folder = hp.root if variable else hp.root / "notebooks"
        NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(folder)}}).execute()
        return notebook

    return execute


def shown(notebook, kind):
    """Return what the cells show of a MIME type."""
    return [output.data[kind] for cell in code_cells(notebook) for output in cell.outputs
            if kind in output.get("data", {})]


@pytest.mark.parametrize("name, pictures, sounds, texts", [
    ("AEMain_Notebook.ipynb", 5, 3, ["latent: notes"]), (report, 3, 2, ["latent: channels"]),
    ("Evaluation_Notebook.ipynb", 2, 4, ["delay of 0.1 s"]), ("UNetMain_Notebook.ipynb", 3, 3, ["2 input"]),
    ("Main_Notebook.ipynb", 1, 2, ["2.0 s", "own.ogg: ", "is this a piano?"])])  # which gets noise
def test_notebook_shows_and_plays(executed, name, pictures, sounds, texts):
    notebook = executed(name)
    printed = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    assert [text for text in texts if text not in printed] == []
    players = ["<audio" in html.unescape(text) for text in shown(notebook, "text/html")]  # alone or in a frame
    assert (len(shown(notebook, "image/jpeg")), sum(players)) == (pictures, sounds)


@pytest.mark.parametrize("name", names)
def test_notebook_is_committed_executed_small_and_without_paths(name):
    path = hp.root / "notebooks" / name
    assert path.stat().st_size <= 1.2e6
    notebook = nbformat.read(path, 4)
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    texts = [cell.source for cell in notebook.cells] + [output.get("text", "") for output in outputs]
    texts += shown(notebook, "text/plain") + shown(notebook, "text/markdown")
    assert not re.search(r"(^|[\s'\"(=])(/\w|[A-Z]:\\)", "\n".join(texts))
