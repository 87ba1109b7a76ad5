"""Which files of a folder the scripts have generated, and with which settings: its list `generated.txt`.

The list tells generated files from those of the user, which are never replaced or removed, and current ones from
outdated ones. Several processes may share a folder, so lines are only ever added; the last line of a file counts.
"""
import contextlib
import functools
import hashlib
import json
import sys
import threading
from pathlib import Path

from tqdm import tqdm

import Hyperparameters as hp
import Util

names_in_message = 10


def values_digest(*values):
    """Return a digest of values, such as the arguments that a file was made with."""
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]


def settings():
    """Return what stored results may depend on: a digest of our code, and what is set in `Hyperparameters`."""
    values = {name: value for name, value in sorted(vars(hp).items())
              if isinstance(value, (int, float, str, tuple, dict)) and not name.startswith("_")}
    return values | {"code": code_digest()}


@functools.cache
def code_digest():
    """Return a digest of our scripts and rooms."""
    root, rooms = Path(hp.__file__).parent, ("audio", "notes", "outputs", "rendering", "training")
    return hashlib.sha256(b"".join(path.read_bytes() for folder in ("", *rooms)
                                   for path in sorted((root / folder).glob("*.py")))).hexdigest()


def join_names(names):
    """Join names for a message; of many, only the first."""
    first, more = sorted(names)[:names_in_message], len(names) - names_in_message
    return ", ".join(first + ([f"and {more} more"] if more > 0 else []))


class GeneratedFiles:
    """The list of generated files of a folder. Raises ValueError if it is not text."""

    def __init__(self, folder):
        self.folder, self.lock = Path(folder), threading.Lock()
        self.list = self.folder / "generated.txt"
        lines = Util.read_text(self.list).splitlines() if self.list.exists() else []
        parts = (line.split(" ", 2) for line in lines)
        self.entries = {part[2]: tuple(part[:2]) for part in parts if len(part) == 3}  # a full disk can cut a line off

    def add(self, path, settings):
        """Add a file that has been generated, with the digest of its settings."""
        content = Util.file_digest(path)
        with self.lock:
            self.entries[path.name] = content, settings
            try:
                with open(self.list, "a", encoding="utf-8") as file:
                    file.write(f"{content} {settings} {path.name}\n")
            except OSError as error:
                raise Util.write_error(self.list, error.strerror) from None

    def is_ours(self, path):
        """Return whether a file has been generated, and not been changed since."""
        return path.exists() and self.entries.get(path.name, (None,))[0] == Util.file_digest(path)

    def has_settings(self, path, settings):
        """Return whether a file was generated with these settings, or is not in the list."""
        return self.entries.get(path.name, (None, settings))[1] == settings

    def is_current(self, path, settings, *sources):
        """Return whether a file exists, is not older than its sources and was generated with these settings."""
        return Util.is_up_to_date(path, *sources) and self.has_settings(path, settings)

    @contextlib.contextmanager
    def write(self, path, settings):
        """Yield a temporary path, rename it to `path` at the end, and add that to the list. Raises ValueError if a file
        exists that was not generated, or was changed since."""
        if path.exists() and not self.is_ours(path):
            raise ValueError(f"{path} was not generated here, or was changed since, and is not replaced; move it, and "
                             "give the command again")
        with Util.atomic_write(path) as temporary:
            yield temporary
        self.add(path, settings)

    def remove_orphans(self, pieces):
        """Remove the generated files of other pieces, and say so."""
        orphans = [name for name in self.entries if Path(name).stem not in pieces and self.is_ours(self.folder / name)]
        for name in orphans:
            (self.folder / name).unlink(missing_ok=True)
        if orphans:
            tqdm.write(f"removed from {self.folder}, since their MIDI files are gone: {join_names(orphans)}",
                       file=sys.stderr)
