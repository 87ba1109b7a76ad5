"""Every notebook runs from top to bottom, from any folder and with any file; what is committed is small."""
import functools
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


def read(name, **changes):
    """Read a notebook, with the value of a variable's first assignment changed, and with two seconds of audio."""
    notebook = nbformat.read(hp.root / "notebooks" / name, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = cell.source.replace("10 * hp.sample_rate", "2 * hp.sample_rate")
    for variable, value in changes.items():
        [cell] = [cell for cell in notebook.cells if cell.source.startswith(f"{variable} = ")]
        cell.source = re.sub(f"^{variable} = .*", f"{variable} = {str(value)!r}", cell.source)
    return notebook


@pytest.fixture(scope="module")
def executed(tmp_path_factory, weights):
    """A function from a name to the executed notebook. An error in a cell is raised."""
    folder = tmp_path_factory.mktemp("notebooks")
    soundfile.write(folder / "own.ogg", np.random.default_rng(0).uniform(-0.5, 0.5, (2 * 44100, 2)), 44100)

    @functools.cache
    def execute(name):
        file, changes, place = {
            "Main_Notebook.ipynb": ("Main_Notebook.ipynb", {"recording": folder / "own.ogg"}, hp.root),
            report: ("AEMain_Notebook.ipynb", {"weights": weights[0]}, hp.root),
        }.get(name, (name, {}, hp.root / "notebooks"))
        notebook = read(file, **changes)
        NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(place)}}).execute()
        return notebook

    return execute


def shown(notebook, kind):
    """Return what the cells show of a MIME type."""
    return [output.data[kind] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
            if kind in output.get("data", {})]


def players(notebook):
    """Return how many cells show an audio player, alone or in a frame."""
    return sum("<audio" in html.unescape(text) for text in shown(notebook, "text/html"))


def printed(notebook):
    """Return what the cells print."""
    return [output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
            if output.output_type == "stream"]


def test_there_are_four():
    assert names == [f"{name}_Notebook.ipynb" for name in ("AEMain", "Evaluation", "Main", "UNetMain")]


@pytest.mark.parametrize("name", [*names, report])
def test_notebook_runs(executed, name):
    notebook = executed(name)
    assert shown(notebook, "image/jpeg") and players(notebook) >= 2


def test_the_notebook_takes_the_readers_file(executed):
    texts = printed(executed("Main_Notebook.ipynb"))
    assert any(text.startswith("2.0 s") for text in texts)
    doubt = r"own.ogg: (no notes in 2 s|its notes explain \d+ % of the sound); is this a piano\?"  # it is noise
    assert any(re.search(doubt, text) for text in texts)


def test_the_notebook_of_the_autoencoder_shows_notes_or_the_reports_latent(executed):
    for name, latent, figures, sounds in ("AEMain_Notebook.ipynb", "notes", 5, 3), (report, "channels", 3, 2):
        notebook = executed(name)
        assert any(text.startswith(f"latent: {latent}") for text in printed(notebook))
        assert len(shown(notebook, "image/jpeg")) == figures
        assert players(notebook) == sounds


@pytest.mark.parametrize("name", names)
def test_notebook_is_committed_executed_small_and_without_paths(name):
    path = hp.root / "notebooks" / name
    assert path.stat().st_size <= 1.2e6
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    texts = [cell.source for cell in notebook.cells]
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr"
        texts += [output.get("text", ""),
                  *(text for kind, text in output.get("data", {}).items() if kind in ("text/plain", "text/markdown"))]
    assert not re.search(r"(^|[\s'\"(=])(/\w|[A-Z]:\\)", "\n".join(texts))
