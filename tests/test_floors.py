"""The imports draw the report: a script imports only from its own floor and from those below."""
import ast
import fnmatch
import graphlib
import subprocess
import sys

import pytest

# Lowest first. A new script belongs to the floor of the first pattern that fits, unless its name is in a list.
floors = (
    ("Hyperparameters", "Marks"),
    ("Decoding",),
    ("Util", "MIDIReader", "Presets", "Autoencoder", "NoteHeads", "UNet", "Distributed", "Sampler", "NoteLoss"),
    ("GeneratedFiles", "Notes", "Plots", "Recordings", "Tuning", "RandomPianos", "RandomPerformances",
     "RandomRooms", "SimulatedRooms"),
    ("DatasetCreator", "FluidSynth", "Page", "SoundFonts/salamander", "SampledVoice"),
    ("AEDataset", "AEModel", "Chunks", "Inversion", "MIDI2Audio", "Metrics", "Clips"),
    ("UNetDataset", "Checkpoints", "Progress", "Transcription", "RefinerTraining", "Scale", "ClipSources",
     "HeardNotes"),
    ("Training", "TrainingOptions", "Main"),
    ("NoteTrainer", "AEParts"),
    ("*Main", "Evaluation", "app"),
    ("benchmarks/common", "results/*"),
    ("benchmarks/cases", "benchmarks/benchmark", "benchmarks/experiments", "benchmarks/report"),
    ("benchmarks/goals",),
    ("benchmarks/*",),
)
floor_of_others = next(number for number, names in enumerate(floors) if "AEModel" in names)


def floor(script):
    """Return the number of a script's floor."""
    for fits in (str.__eq__, fnmatch.fnmatch):
        for number, names in enumerate(floors):
            if any(fits(script, name) for name in names):
                return number
    return floor_of_others


@pytest.fixture(scope="module")
def imports(root):
    """Script -> every module that it names in an import, at its top or within a function."""
    found = {}
    for path in (*root.glob("*.py"), *(path for folder in ("benchmarks", "results", "SoundFonts")
                                       for path in root.joinpath(folder).glob("*.py"))):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        found[path.relative_to(root).with_suffix("").as_posix()] = names
    return found


@pytest.fixture(scope="module")
def ours(imports):
    """Script -> those of our scripts that it imports."""
    by_name = {script.split("/")[-1]: script for script in imports}
    return {script: {by_name[name] for name in names if name in by_name} for script, names in imports.items()}


def test_every_script_imports_only_from_its_floor_and_below(ours):
    assert [(script, above) for script, names in ours.items() for above in names if floor(above) > floor(script)] == []


def test_no_script_imports_itself_by_way_of_others(ours):
    graphlib.TopologicalSorter(ours).prepare()  # raises CycleError


def test_nothing_but_benchmarks_and_results_imports_a_main(ours):
    """Evaluation scores the output of `Main`, and app shows it."""
    importing = {(script, name) for script, names in ours.items() for name in names if name.endswith("Main")}
    assert {(script, name) for script, name in importing if "/" not in script} == {("Evaluation", "Main"),
                                                                                      ("app", "Main")}


def test_the_networks_are_leaves(imports):
    """But for the note autoencoder, whose heads, decoder and mel scale are in other files."""
    for script in "Autoencoder", "UNet", "NoteHeads":
        assert imports[script] == {"Hyperparameters", "torch"}
    assert imports["NoteAutoencoder"] - {"NoteHeads", "SampledVoice", "TableDecoder", "Util", "torch"} == {
        "Hyperparameters"}


def test_only_the_training_speaks_of_optimisers_and_processes(imports):
    assert {script for script, names in imports.items() if "torch.distributed" in names} == {"Distributed"}


def test_every_text_file_has_its_encoding_given(root):
    """Else it is the platform's."""
    without = []
    for path in (*root.glob("*.py"), *root.glob("benchmarks/*.py"), *root.glob("results/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_what_is_imported_is_in_the_requirements(root, imports):
    packages = {"IPython": "ipython", "PIL": "pillow"}  # under other names than they are imported by
    optional = {"basic_pitch", "pretty_midi", "transkun", "moduleconf", "visqol"}  # of the benchmarks, which name them
    listed, for_app = ({line.split("==")[0] for line in (root / name).read_text(encoding="utf-8").split()}
                       for name in ("requirements.txt", "requirements-app.txt"))
    tests = {node.module if isinstance(node, ast.ImportFrom) else alias.name for path in root.glob("tests/*.py")
             for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    own = {script.split("/")[-1] for script in imports} | {path.stem for path in root.glob("tests/*.py")}
    third = {name.split(".")[0] for names in (*imports.values(), tests) for name in names}
    third -= own | optional | set(sys.stdlib_module_names)
    assert {packages.get(name, name) for name in third} <= listed | for_app
    assert {script for script, names in imports.items() if names & for_app} == {"app"}


def test_main_imports_no_more_than_it_needs_to_play(root):
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import torch; before = set(sys.modules); import Main; "
            "print(*{name for name in set(sys.modules) - before})")
    more = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True).stdout.split()
    for name in ("torch.optim", "torch.distributed", "scipy", "librosa", "numba", "matplotlib", "PIL", "mido", "jinja2",
                 "AEDataset", "UNetDataset", "Training"):
        assert name not in more, name
