"""README, other Markdown pages and texts of notebooks: size, links, names of files and functions, commands, figures."""
import argparse
import ast
import functools
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import Hyperparameters as hp
from notes import note_events

root = Path(__file__).resolve().parent.parent
registries = r"(pypi|pythonhosted|anaconda|rubygems|debian|ubuntu|npmjs|crates)[.](org|com|io)"
programs = {"make", "cp", "wget", "unzip", "apt-get", "sudo", ".venv/bin/pip", ".venv/bin/jupyter"}
pythons = {"python", "python3", ".venv/bin/python", ".venv/bin/torchrun"}
quick = {  # command -> files that it writes, in a folder with the files of the fixture `recordings`
    ".venv/bin/python Main.py": ["mozart_rondo_alla_turca_epiano.wav", "mozart_rondo_alla_turca_epiano.png"],
    ".venv/bin/python Main.py recording.mp3 --page": ["recording_epiano.wav", "recording_epiano.html"],
    ".venv/bin/python Main.py recordings -o folder": ["folder/one_epiano.wav", "folder/below/two_epiano.wav"],
    ".venv/bin/python Main.py recording.wav --midi --stereo": ["recording_epiano.wav", "recording_epiano.mid"],
    ".venv/bin/python Main.py recording.wav --notes corrected.mid --studio": ["recording_epiano_studio.wav"],
    ".venv/bin/python Main.py corrected.mid": ["corrected_epiano.wav"],
    ".venv/bin/python -c 'import Main; audio = Main.pipeline(\"recording.wav\")'": [],
    ".venv/bin/python -c 'import Main; notes = Main.transcribe(\"recording.wav\")'": [],
    ".venv/bin/python MIDI2Audio.py --list FluidR3_GM.sf2": [],
}


def read(path):
    """Return the text of a file, of a notebook only that of its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def code_blocks(text):
    """Return the lines of all indented code blocks."""
    lines, before = [], ""
    for line in text.splitlines():
        if line.startswith("    ") and (not before.strip() or before.startswith(("    ", "#"))):
            lines.append(line[4:])
        before = line
    return lines


def prose(text):
    """Return a page without its code blocks."""
    return re.sub(r"^    .*\n", "", text, flags=re.M)


def files(pattern):
    """Return the files of the root and of folders that are not hidden whose names match a pattern."""
    return sorted([*root.glob(pattern), *root.glob(f"[!.]*/**/{pattern}")])


texts = {path.relative_to(root).as_posix(): read(path) for path in files("*.md") + files("*.ipynb")}
commands = sorted({line for text in texts.values() for line in code_blocks(text) if "-->" not in line})
each_page = pytest.mark.parametrize("name", texts)


def from_script(command):
    """Return the words of a command from the name of our script on, or []."""
    words = shlex.split(command, comments=True)
    return words[next((i for i, word in enumerate(words) if word.endswith(".py")), len(words)):]


def load(script, monkeypatch):
    """Import a script under a name of its own."""
    monkeypatch.syspath_prepend(str((root / script).parent))
    specification = importlib.util.spec_from_file_location("documented_" + Path(script).stem.lower(), root / script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def read_command_line(script, arguments, monkeypatch):
    """Return the visible flags of a script. The parser exits if it refuses the arguments; None has it read none."""
    if "parser" not in read(root / script):
        assert not arguments, f"{script} takes no arguments"
        return set()
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser, given=None, namespace=None):
        if arguments is not None:
            original(parser, given, namespace)
        raise StopIteration({flag for action in parser._actions if action.help != argparse.SUPPRESS
                             for flag in action.option_strings})  # instead of the script's work

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [script, *(arguments or [])])
    with pytest.raises(StopIteration) as parsed:
        load(script, monkeypatch).main()
    return parsed.value.args[0]


def test_pages_are_short():
    lines = texts["README.md"].splitlines()
    assert len(lines) <= 170 and [line for line in lines if len(line) > 120 or line.count("|") > 6] == []
    assert sum(len(text.split()) for name, text in texts.items()
               if re.match(r"(README|(docs|results|benchmarks)/[^/]*|(data|SoundFonts)/README)\.md", name)) <= 15000


def test_no_address_of_a_package_registry():
    paths = [root / "Makefile", *(path for kind in ("py", "txt", "html", "md", "ipynb") for path in files(f"*.{kind}"))]
    assert [path for path in paths if re.search(registries, path.read_text(encoding="utf-8"))] == []


@each_page
def test_relative_links_exist(name):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(texts[name])):
        path, _, anchor = target.partition("#")
        linked = (root / name).parent / path if path else root / name
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", prose(read(linked)), flags=re.M) if anchor else [""]
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@each_page
def test_named_files_functions_and_flags_exist(name, monkeypatch):
    """Names of scripts; and in code quotes `module.function`, `hp.constant` and flags as in `Main.py --page`."""
    for word in re.findall(r"(?<![\w/<*])[\w/]+\.(?:py|html)\b", texts[name]):
        folders = root, (root / name).parent, root / "benchmarks", root / "outputs"
        assert word.endswith("_epiano.html") or any((folder / word).exists() for folder in folders), word
    modules = {path.stem: ".".join(path.relative_to(root).with_suffix("").parts) for path in root.glob("*/[!_]*.py")}
    for module, attributes in re.findall(r"`(\w+)((?:\.[A-Za-z_]\w*)+)[`( ]", prose(texts[name])):
        file = re.search(r"\.(py|html|md|pdf|sf\d|json|npy|txt|torch|mid|midi|wav|mp3|png)$", attributes)
        if not file and (module in modules or module == "hp" or module[0].isupper()):
            found = importlib.import_module({"hp": "Hyperparameters", **modules}.get(module, module))
            functools.reduce(getattr, attributes[1:].split("."), found)
    for call in re.findall(r"`(?:python |\.venv/bin/python )?([\w/]+\.py [^`]*--[^`]+)`", prose(texts[name])):
        script, *arguments = call.split()
        script = script if (root / script).exists() else f"benchmarks/{script}"
        with monkeypatch.context() as patch:
            assert {word for word in arguments if word.startswith("--")} <= read_command_line(script, None, patch), call


def test_the_map_of_the_readme_lists_every_script_and_folder():
    section = texts["README.md"].split("\n## Files\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+\.py)`", section)) == {path.name for path in root.glob("*.py")}
    tracked = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    assert set(re.findall(r"`(\w+)/`", section)) == tracked and section.count("\n|") <= 24


def test_the_page_of_the_architecture_is_what_its_command_makes(monkeypatch):
    architecture = load("results/architecture.py", monkeypatch)
    text, described = architecture.make_page(texts["docs/architecture.md"])
    assert text == texts["docs/architecture.md"], "run results/architecture.py again"
    with Image.open(root / "docs" / "architecture.png") as picture:
        assert picture.text["Description"] == repr(described), "run results/architecture.py again"
    monkeypatch.setitem(architecture.ways, "A recording", (["Main"], {"train": ["AEMain"]}))
    with pytest.raises(ValueError, match="A recording does not come through AEMain; mend"):
        architecture.make_page(text)


def test_the_readme_has_the_figures_of_the_results():
    tables = {name: [[cell.strip() for cell in line.split("|")[1:-1]] for line in texts[name].splitlines()
                     if line.startswith("|")] for name in texts}
    final = {name: {row[0]: row[2] for row in tables[f"results/{name}.md"] if row[1:2] == ["final"]}
             for name in ("goals", "goals_report")}
    notes = {row[0]: row[3] for row in tables["results/goals.md"][2:9]}
    peers = {tuple(row[:2]): f"{row[2]} dB, {row[8]}" for row in tables["results/peers_table.md"]}
    rows = [[case, f"{final['goals'][case]} dB, {notes[case]}", f"{final['goals_report'][case]} dB",
             peers[case, "this repository"], peers[case, "transkun + FluidSynth"]] for case in final["goals_report"]]
    assert len(rows) == 5 and [row for row in tables["README.md"] if row[0] in final["goals"]] == rows


@pytest.mark.parametrize("command", commands)
def test_commands_are_accepted(command, monkeypatch):
    """They start known programs, with targets and files that exist, and our scripts with flags that they know."""
    words = shlex.split(command, comments=True)
    assert words[0] in programs | pythons
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (root / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    if words[0] == "cp":
        assert list(root.glob(words[1])) and (root / words[2]).is_dir()
    if words[-2:-1] == ["-r"]:
        assert (root / words[-1]).exists()
    if words[1:2] == ["-c"]:
        for node in ast.walk(ast.parse(words[2])):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert hasattr(importlib.import_module(node.value.id), node.attr), node.attr
    elif from_script(command):
        script, *arguments = from_script(command)
        visible = read_command_line(script, arguments, monkeypatch)
        assert {word for word in arguments if re.match(r"--?[a-z]", word)} <= visible


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A working folder with a second of the demo recording under the names that the pages use."""
    audio, rate = soundfile.read(hp.demo, frames=hp.sample_rate, dtype="float32")
    for name in "recording.wav", "recording.mp3", "recordings/one.wav", "recordings/below/two.wav", hp.demo.name:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.stack([audio, 0.5 * audio], 1), rate)
    note_events.save_notes(tmp_path / "corrected.mid", [(0.1, 0.5, 60, 80)])
    monkeypatch.setattr(hp, "demo", tmp_path / hp.demo.name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "report").symlink_to(hp.models / "report")
    monkeypatch.setattr(hp, "models", tmp_path / "models")  # the shipped weights, whatever has been trained here
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", quick)
def test_quick_commands_run(command, recordings, monkeypatch, instruments, capsys):
    assert command in commands
    if " -c " in command:
        exec(shlex.split(command)[2], {})
    else:
        script, *arguments = from_script(command)
        load(script, monkeypatch).main(arguments)
    for name in quick[command]:
        assert (recordings / name).stat().st_size > 0
    assert "--list" not in command or "FluidR3_GM.sf2:0:0  Yamaha Grand Piano" in capsys.readouterr().out
