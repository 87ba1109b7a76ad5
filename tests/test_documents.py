"""README and other Markdown pages: their size, links, names of files and functions, and commands."""
import argparse
import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import Hyperparameters as hp

root = Path(__file__).resolve().parent.parent
registries = ["pypi" + ".org", "pythonhosted" + ".org", "deb.debian" + ".org", "archive.ubuntu" + ".com",
              "registry.npmjs" + ".org", "npmjs" + ".com", "anaconda" + ".org", "crates" + ".io",
              "rubygems" + ".org"]
programs = {"make", "cp", "mkdir", "find", "wget", "unzip", "apt-get", "sudo", ".venv/bin/pip", ".venv/bin/jupyter"}
pythons = {"python", "python3", ".venv/bin/python", ".venv/bin/torchrun"}
quick = {  # command -> files that it writes, in a folder with the files of the fixture `recordings`
    ".venv/bin/python Main.py": ["mozart_rondo_alla_turca_epiano.wav", "mozart_rondo_alla_turca_epiano.png"],
    ".venv/bin/python Main.py recording.mp3 --page": ["recording_epiano.wav", "recording_epiano.html"],
    ".venv/bin/python Main.py recordings -o folder": ["folder/one_epiano.wav", "folder/below/two_epiano.wav"],
    ".venv/bin/python Main.py recording.wav --midi --stereo": ["recording_epiano.wav", "recording_epiano.mid"],
    ".venv/bin/python -c 'import Main; audio = Main.pipeline(\"recording.wav\")'": [],
    ".venv/bin/python -c 'import Main; notes = Main.transcribe(\"recording.wav\")'": [],
    ".venv/bin/python MIDI2Audio.py --list FluidR3_GM.sf2": [],
}


def tracked_files():
    """Return the files that Git tracks, or all outside of hidden folders where there is no Git."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, text=True)
    if listed.returncode:
        return [path for path in root.rglob("*") if path.is_file() and not any(
            part.startswith(".") for part in path.relative_to(root).parts)]
    return [root / name for name in listed.stdout.splitlines() if (root / name).is_file()]


def read(path):
    return path.read_text(encoding="utf-8")


def code_blocks(text):
    """Return the lines of all code blocks, indented or fenced, with continued lines joined."""
    lines, fenced, before = [], False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    ") and (not before.strip() or before.startswith("    ")
                                                    or before.startswith("#")):
            lines.append(line if fenced else line[4:])
        before = line
    return [line for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line.strip()]


def prose(text):
    """Return a page without its code blocks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.sub(r"^    .*\n", "", text, flags=re.M)


pages = sorted(path for path in tracked_files() if path.suffix == ".md")
page_names = [path.relative_to(root).as_posix() for path in pages]
texts = {name: read(path) for name, path in zip(page_names, pages)}
commands = sorted({line for text in texts.values() for line in code_blocks(text) if "-->" not in line})


def script_and_arguments(command):
    """Return (script, arguments) of a command that runs one of our scripts, else None."""
    words = shlex.split(command, comments=True)
    if words[0] not in pythons or words[1] in ("-c", "-m"):
        return None
    number = next(i for i, word in enumerate(words) if i and not word.startswith("-"))
    return words[number], words[number + 1:]


def load(script, monkeypatch):
    """Import a script under a name of its own."""
    monkeypatch.syspath_prepend(str((root / script).parent))
    specification = importlib.util.spec_from_file_location("documented_" + Path(script).stem.lower(), root / script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Parsed(Exception):
    """The command line of a script has been read; its work is not wanted."""


def read_command_line(script, arguments, monkeypatch):
    """Run a script up to the point where its command line is read, and return its visible flags.

    With `arguments` None only the flags are returned. Raises AssertionError if the parser refuses the arguments.
    """
    if "parser" not in read(root / script):
        assert not arguments, f"{script} takes no arguments"
        return set()
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser, given=None, namespace=None):
        if arguments is not None:
            original(parser, given, namespace)
        raise Parsed({flag for action in parser._actions if action.help != argparse.SUPPRESS
                      for flag in action.option_strings})

    def refuse(parser, message):
        raise AssertionError(f"{script} {shlex.join(arguments)}: {message}")

    module = load(script, monkeypatch)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    monkeypatch.setattr(sys, "argv", [script, *(arguments or [])])
    with pytest.raises(Parsed) as parsed:
        module.main()
    return parsed.value.args[0]


def test_readme_is_short():
    lines = texts["README.md"].splitlines()
    assert len(lines) <= 180
    assert [line for line in lines if len(line) > 120] == []


def test_tables_of_the_readme_have_at_most_five_columns():
    rows = [line for line in texts["README.md"].splitlines() if line.startswith("|")]
    assert rows and [row for row in rows if row.count("|") > 6] == []


def test_no_address_of_a_package_registry():
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content[:4096]:
            found += [(path.relative_to(root).as_posix(), name) for name in registries if name.encode() in content]
    assert found == []


def heading_anchors(text):
    headings = re.findall(r"^#+ (.*)$", prose(text), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", page_names)
def test_relative_links_exist(name):
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(texts[name])):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (root / name).parent / path if path else root / name
        if not linked.exists():
            missing.append(target)
        elif anchor and anchor not in heading_anchors(read(linked)):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("name", page_names)
def test_named_files_and_functions_exist(name):
    """`Module.function`, `hp.constant` and the names of scripts in code quotes."""
    missing = []
    for quoted in re.findall(r"`([^`\n]+)`", prose(texts[name])):
        word = quoted.split()[1] if quoted.startswith(("python ", ".venv/bin/python ")) else quoted.split()[0]
        if word.endswith("_epiano.html"):  # written by Main.py
            continue
        if re.fullmatch(r"[\w/]+\.(py|html)", word):
            if not any((folder / word).exists() for folder in (root, (root / name).parent, root / "benchmarks")):
                missing.append(quoted)
        elif re.fullmatch(r"(hp|[A-Z]\w+)(\.[A-Za-z_]\w*)+", word) and not re.search(r"\.(sf\d|pdf|md|wav|mid)$", word):
            module, *attributes = word.split(".")
            try:
                found = importlib.import_module({"hp": "Hyperparameters"}.get(module, module))
                for attribute in attributes:
                    found = getattr(found, attribute)
            except (ImportError, AttributeError):
                missing.append(quoted)
    assert missing == []


def test_the_map_of_the_readme_lists_every_script():
    section = texts["README.md"].split("\n## Files\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"`(\w+\.\w+)`", section))
    scripts = {path.name for path in root.glob("*.py")} | {path.name for path in root.glob("*.html")}
    assert {name for name in scripts if not name.endswith("_epiano.html")} == listed
    folders = set(re.findall(r"`(\w+)/`", section))
    assert {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))} == folders


def test_code_blocks_hold_commands_of_known_programs():
    assert [line for line in commands if shlex.split(line, comments=True)[0] not in programs | pythons] == []


@pytest.mark.parametrize("command", [line for line in commands if shlex.split(line)[0] in programs])
def test_targets_and_files_of_other_commands_exist(command):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", read(root / "Makefile"), flags=re.M)
    if words[0] == "cp":
        assert list(root.glob(words[1])) and (root / words[2]).is_dir()
    if words[-2:-1] == ["-r"]:
        assert (root / words[-1]).exists()


@pytest.mark.parametrize("command", [line for line in commands if script_and_arguments(line)])
def test_command_lines_are_accepted(command, monkeypatch):
    script, arguments = script_and_arguments(command)
    visible = read_command_line(script, arguments, monkeypatch)
    assert {word for word in arguments if re.match(r"--?[a-z]", word)} <= visible


@pytest.mark.parametrize("name", page_names)
def test_flags_in_the_text_exist(name, monkeypatch):
    """Those after the name of a script in code quotes, as in `Main.py --page`."""
    for quoted in re.findall(r"`(?:python |\.venv/bin/python )?([\w/]+\.py [^`]*--[^`]+)`", prose(texts[name])):
        script, *arguments = quoted.split()
        script = script if (root / script).exists() else f"benchmarks/{script}"
        with monkeypatch.context() as patch:
            visible = read_command_line(script, None, patch)
        assert {word for word in arguments if word.startswith("--")} <= visible, quoted


def test_python_code_in_commands_names_functions_that_exist():
    code = [shlex.split(line)[2] for line in commands if shlex.split(line)[1:2] == ["-c"]]
    assert code
    for node in (node for text in code for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert hasattr(importlib.import_module(node.value.id), node.attr), node.attr


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """A working folder with a second of the demo recording under the names that the pages use."""
    audio, rate = soundfile.read(hp.demo, frames=hp.sample_rate, dtype="float32")
    for name in "recording.wav", "recording.mp3", "recordings/one.wav", "recordings/below/two.wav":
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.stack([audio, 0.5 * audio], 1), rate)
    soundfile.write(tmp_path / "demo.wav", audio, rate)
    (tmp_path / "demo.wav").rename(tmp_path / hp.demo.name)
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
        script, arguments = script_and_arguments(command)
        load(script, monkeypatch).main(arguments)
    for name in quick[command]:
        assert (recordings / name).stat().st_size > 0
    assert "--list" not in command or "FluidR3_GM.sf2:0:0  Yamaha Grand Piano" in capsys.readouterr().out
