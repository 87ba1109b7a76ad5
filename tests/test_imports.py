"""The imports draw the report: scripts in front, packages behind them, one way."""
import ast
import graphlib
import re
import sys

import pytest

packages = "audio", "notes", "outputs", "rendering", "training"
scripts = {"MIDI2Audio", "DatasetCreator", "AEDataset", "UNetDataset", "Autoencoder", "AEModel", "AEMain", "UNet",
           "UNetMain", "Util", "Hyperparameters", "Main"}  # of the report
names_to_install = {"IPython": "ipython", "PIL": "pillow"}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path):
    """Return the modules that a file imports, at its top or within a function."""
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside if node.module in packages else {node.module}
    return names


@pytest.fixture(scope="module")
def imports(root):
    """Module, as "AEMain" or "notes.midi_reader" -> all that it imports."""
    paths = *root.glob("*.py"), *(path for folder in (*packages, "benchmarks", "results", "SoundFonts")
                                  for path in root.joinpath(folder).glob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts): imported(path) for path in paths}


def test_in_front_are_the_scripts_of_the_report_and_two_more(imports):
    assert {name for name in imports if "." not in name} == scripts | {"Evaluation", "app"}


def test_no_module_imports_itself_by_way_of_others(imports):
    graphlib.TopologicalSorter({module: names & imports.keys() for module, names in imports.items()}).prepare()


@pytest.mark.parametrize("package", packages)
def test_a_package_says_what_it_imports_and_what_imports_it(imports, root, package):
    text = ast.get_docstring(parse(root / package / "__init__.py"))
    may, by = (set(re.findall(r"`(\w+)`", part)) for part in re.search(r"May import (.*)\. Is imported by (.*)",
                                                                       " ".join(text.split())).groups())
    does = {name.partition(".")[0] for module, names in imports.items() if module.startswith(f"{package}.")
            for name in names if name in imports}
    assert does - {package, "Util", "Hyperparameters"} == may
    assert all(any(name.startswith(f"{package}.") for name in imports[script]) for script in by)


def test_nothing_but_benchmarks_and_results_imports_a_main(imports):
    """Evaluation scores the output of `Main`, and app shows it."""
    importing = {(module, name) for module, names in imports.items() for name in names if name.endswith("Main")}
    assert {(module, name) for module, name in importing if not module.startswith(("benchmarks.", "results."))} == {
        ("Evaluation", "Main"), ("app", "Main")}


def test_the_networks_are_leaves(imports):
    """But for the note autoencoder, whose heads and decoders are in other files. The two others share a layer."""
    for module in "Autoencoder", "UNet", "notes.note_heads":
        assert imports[module] - {"UNet"} == {"Hyperparameters", "torch"}


def test_only_one_module_speaks_of_processes(imports):
    assert {module for module, names in imports.items() if "torch.distributed" in names} == {"training.processes"}


def test_every_text_file_has_its_encoding_given(root):
    """Else it is the platform's."""
    without = []
    for path in (*root.glob("*.py"), *root.glob("[!t]*/*.py"), *root.glob("training/*.py")):
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            binary = any(isinstance(part, ast.Constant) and "b" in str(part.value) for part in node.args[1:2])
            method = isinstance(node.func, ast.Attribute) and owner != "Util"
            text = method and name in ("read_text", "write_text") or name == "open" and owner in ("", "io")
            if text and not binary and "encoding" not in {keyword.arg for keyword in node.keywords}:
                without.append(f"{path.name}:{node.lineno}")
    assert not without


def test_each_script_finds_what_it_imports_in_its_requirements(root, imports):
    user, app, dev = ({line.split("==")[0] for line in (root / f"requirements{name}.txt").read_text().split()}
                      for name in ("", "-app", "-dev"))
    tests = {path.stem: path for path in root.glob("tests/**/*.py")}
    own = {module.split(".")[-1] for module in imports} | {*packages} | tests.keys()

    def third_party(modules):
        names = {name.split(".")[0] for module in modules for name in module}
        return {names_to_install.get(name, name) for name in names - own - set(sys.stdlib_module_names)}

    scripts_and_packages = {module: names for module, names in imports.items()
                            if module != "app" and module.split(".")[0] in scripts | {"Evaluation", *packages}}
    only_developers = {"ipython", "pyroomacoustics", "pysfizz"}    # in notebooks; to make data/clips, which says so
    behind_librosa = {"scipy"}
    assert third_party(scripts_and_packages.values()) - only_developers | behind_librosa == user
    named_by_benchmarks = {"basic_pitch", "pretty_midi", "transkun", "moduleconf", "visqol"}
    assert third_party([*imports.values(), *map(imported, tests.values())]) - named_by_benchmarks <= user | app | dev
    assert {script for script, names in imports.items() if names & app} == {"app"}
