"""Draw docs/architecture.png, and write the table of docs/architecture.md, from the imports and docstrings of the code.

`python results/architecture.py` does both. It fails if a way names a module that its scripts no longer import.
"""
import argparse
import ast
import graphlib
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Util

root = Path(__file__).resolve().parent.parent
page, picture = (root / "docs" / f"architecture.{ending}" for ending in ("md", "png"))
colours = {"training": "#f6d5d2", "outputs": "#e4daf3", "rendering": "#fbe6c6", "notes": "#d6edd2", "audio": "#d0e4f7"}
use_colours = {"recording": "#1f5fa8", "training": "#a8431f", "both": "black"}
ways = {  # name: scripts that it starts from, and its steps, each with the modules in which it happens
    "A recording: Main.pipeline": (["Main"], {
        "read, tune": ["audio.audio_files", "audio.concert_pitch"],
        "log-mel\nspectrograms": ["DatasetCreator"],
        "encode to notes": ["AEModel", "notes.transcription", "notes.post_processing"],
        "play the notes": ["AEModel", "notes.sampled_voice"],
        "correct": ["AEModel", "UNet"],
        "invert to audio": ["audio.mel_inversion"],
        "write files,\npage": ["outputs.output_files", "outputs.result_page"]}),
    "A training: MIDI2Audio.py, AEMain.py, UNetMain.py": (["MIDI2Audio", "AEMain", "UNetMain"], {
        "render pairs": ["MIDI2Audio", "rendering.fluidsynth"],
        "store\nspectrograms": ["DatasetCreator"],
        "draw crops,\nmake clips": ["training.note_dataset", "rendering.training_clips"],
        "train encoder,\nheads, decoder": ["AEMain", "training.note_training", "training.head_training"],
        "store its\noutputs": ["UNetDataset"],
        "train the U-Net": ["UNetMain", "UNet"],
        "keep the best,\nresume": ["training.training_loop", "training.checkpoints"]}),
}


def read_modules():
    """Return two dicts by module, such as "notes.midi_reader": names of our modules that it imports, its docstring."""
    paths = [*root.glob("*.py"), *(path for package in colours for path in root.joinpath(package).glob("[!_]*.py"))]
    trees = {".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
             for path in sorted(paths)}
    imports = {}
    for module, tree in trees.items():
        nodes = list(ast.walk(tree))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        imports[module] = names & trees.keys()
    return imports, {module: ast.get_docstring(tree) for module, tree in trees.items()}


def reach(imports, starts):
    """Return all modules that some modules import, directly or by way of others, and these."""
    found, waiting = set(), list(starts)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports[module] - {"Util"}
    return found


def describe(imports):
    """Return what is drawn as a dict: "packages", from package to {module: use}; "ways", from name to {step: modules}.
    Packages come in an order in which each only imports later ones. Raises ValueError if there is none, or if a way
    names a module that its scripts do not import."""
    reached = [reach(imports, starts) for starts, _ in ways.values()]
    for (name, (_, steps)), found in zip(ways.items(), reached):
        missing = {module for modules in steps.values() for module in modules} - found
        if missing:
            raise ValueError(f"{name} does not come through {', '.join(sorted(missing))}; mend `ways` in {__file__}")
    modules_of = {package: [module for module in imports if module.startswith(f"{package}.")] for package in colours}
    package_imports = {package: {name.split(".")[0] for module in modules for name in imports[module]} & colours.keys()
                       - {package} for package, modules in modules_of.items()}
    try:
        order = list(graphlib.TopologicalSorter(package_imports).static_order())[::-1]
    except graphlib.CycleError as error:
        raise ValueError(f"packages import each other: {', '.join(error.args[1])}") from None
    uses = {module: ["", "recording", "training", "both"][(module in reached[0]) + 2 * (module in reached[1])]
            for module in imports}
    return {"packages": {package: {module.split(".")[1]: uses[module] for module in modules_of[package]}
                         for package in order},
            "ways": {name: steps for name, (_, steps) in ways.items()}}


def draw_row(axis, y, height, boxes, arrow_colour):
    """Draw boxes with arrows between, their upper edges at `y`. Each of `boxes` is (colour, title, {line of text: its
    colour})."""
    gap = 0.25
    width = (9.6 + gap) / len(boxes) - gap
    for i, (colour, title, lines) in enumerate(boxes):
        left = 0.2 + i * (width + gap)
        axis.add_patch(FancyBboxPatch((left, y - height), width, height, boxstyle="round,pad=0,rounding_size=0.07",
                                      facecolor=colour, edgecolor="#888888", linewidth=0.8))
        text = dict(x=left + width / 2, ha="center", va="top")
        axis.text(y=y - 0.1, s=title, weight="bold", fontsize=8.5, linespacing=1.1, **text)
        below = y - 0.38 - 0.14 * title.count("\n")
        for j, (line, line_colour) in enumerate(lines.items()):
            axis.text(y=below - 0.18 * j, s=line, fontsize=7.8, color=line_colour, **text)
        if i:
            axis.add_patch(FancyArrowPatch((left - gap, y - height / 2), (left, y - height / 2), arrowstyle="-|>",
                                           mutation_scale=10, color=arrow_colour, shrinkA=0, shrinkB=0))


def draw(described):
    """Draw the ways over the packages, and return the figure."""
    tallest = 0.5 + 0.18 * max(len(modules) for modules in described["packages"].values())
    figure = plt.figure(figsize=(10, tallest + 3.65))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, 10), ylim=(0, tallest + 3.65))
    axis.axis("off")
    heading = dict(va="top", fontsize=10.5, weight="bold")
    for y, use, (name, steps) in zip((tallest + 3.5, tallest + 1.95), use_colours, described["ways"].items()):
        axis.text(0.2, y, name, color=use_colours[use], **heading)
        boxes = []
        for step, modules in steps.items():
            package = next((module.split(".")[0] for module in modules[::-1] if "." in module), None)
            boxes.append((colours.get(package, "white"), step, {module.split(".")[-1]: "black" for module in modules}))
        draw_row(axis, y - 0.27, 1.08, boxes, use_colours[use])
    axis.text(0.2, tallest + 0.4, "The packages", **heading)
    axis.text(1.45, tallest + 0.4, "Each imports only from those to its right. Its modules are used by", va="top",
              fontsize=10.5)
    for x, (use, colour) in zip((6.4, 7.35, 8.15), use_colours.items()):
        axis.text(x, tallest + 0.4, use, color=colour, **heading)
    draw_row(axis, tallest + 0.13, tallest, [
        (colours[package], package, {module: use_colours[use] for module, use in modules.items()})
        for package, modules in described["packages"].items()], "#444444")
    return figure


def make_table(docstrings, described):
    """Return the Markdown table of the modules of all packages, with the first sentence of each docstring."""
    rows = ["| module | content |", "|---|---|"]
    for package, modules in reversed(described["packages"].items()):
        for module in modules:
            text = " ".join(docstrings[f"{package}.{module}"].split("\n\n")[0].split())
            rows.append(f"| `{package}/{module}.py` | {re.match(r'.*?[.](?= |$)', text)[0]} |")
    return "\n".join(rows) + "\n"


def make_page(text):
    """Return the text of the page with a new table in place of its own, and what is drawn (`describe`)."""
    imports, docstrings = read_modules()
    described = describe(imports)
    return text[:text.index("| module |")] + make_table(docstrings, described), described


def main(arguments=None):
    argparse.ArgumentParser(description="Draw the packages and write the table of their modules.").parse_args(arguments)
    text, described = make_page(Util.read_text(page))
    Util.save_text(page, text)
    Util.save_bytes(picture, lambda file: draw(described).savefig(
        file, dpi=160, metadata={"Description": repr(described), "Software": None}))
    print(f"{page}\n{picture}")


if __name__ == "__main__":
    Util.run(main)
