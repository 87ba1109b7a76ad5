"""What the benchmarks share: Markdown tables, where a page is written, and checks before any work begins."""
import contextlib
import importlib
import io
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import MIDI2Audio
import Util
from notes import note_events

# The committed pages are about these pieces: those of piano-midi.de, and those of data/MIDI_test.
scored_pieces = ("bach_846", "br_im2", "chpn_op66", "clementi_opus36_1_1", "deb_clai", "elise", "gra_esp_2", "muss_1",
                 "mz_331_3", "schuim-1", "ty_november", "waldstein_1")
excerpts = "bach_prelude_c", "mozart_rondo_alla_turca", "satie_gymnopedie_1"
min_training_pieces = 100  # a data folder with fewer is a first try


def table(rows):
    """Return rows of cells as Markdown. The first row is the heading. Floats get two decimals."""
    lines = ["| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
             for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]) + "\n"


def output_path(committed, full, given=None):
    """Return the path `given` on the command line, or the page `committed` if this is the `full` run that it is about,
    or else a file of that name in the working folder."""
    return given or (committed if full else Path.cwd() / committed.name)


def is_default(parser, options, *names):
    """Whether the options called `names` have their default values."""
    return all(getattr(options, name) == parser.get_default(name) for name in names)


def check_soundfonts(*presets):
    """Raise FileNotFoundError if FluidSynth or the SoundFont of a preset is missing, with the package to install."""
    MIDI2Audio.find_fluidsynth()
    for soundfont, *_ in presets:
        MIDI2Audio.find_soundfont(soundfont)


def check_packages(purpose, modules, install, without):
    """Raise ValueError if one of `modules` cannot be imported. The sentence names the `purpose`, the command `install`
    and the option `without`, which makes them unnecessary."""
    missing = []
    with silence():
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                missing.append(error.name or module)
    if missing:
        raise ValueError(f"{purpose} needs packages that are not installed ({', '.join(dict.fromkeys(missing))}); "
                         f"{install}; or use {without}")


def copy_pieces(pieces, folder, read=Path.read_bytes):
    """Make a folder hold just these MIDI files, a dict from name to path, and return it. Equal files stay untouched.
    `read` maps a path to the content of the copy."""
    for path in folder.glob("*.mid"):
        if path.stem not in pieces:
            path.unlink()
    for name, path in pieces.items():
        content, copy = read(path), folder / f"{name}.mid"
        if not copy.exists() or copy.read_bytes() != content:
            Util.save_bytes(copy, lambda file, content=content: file.write(content))
    return folder


def choose(folder, number):
    """Return at most `number` MIDI files of a folder, evenly spaced by name: a dict from name to path."""
    pieces = sorted(Util.find_pieces(folder, note_events.midi_endings).items())
    number = min(number, len(pieces))
    return dict(pieces[i * len(pieces) // number] for i in range(number))


def without_pedal(path):
    """Return the content of a MIDI file with the notes of another, but without its sustain pedal."""
    events = [(time, 0, message) for time, message in note_events.read_played_messages(path)
              if not message.is_cc(note_events.sustain)]
    content = io.BytesIO()
    note_events.single_track(events).save(file=content)
    return content.getvalue()


@contextlib.contextmanager
def silence():
    """Keep warnings, log messages and prints of other packages from the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
