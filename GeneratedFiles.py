"""Which files of a folder the scripts have generated, and with which settings: its list `generated.txt`.

The list tells generated files from those of the user, which are never replaced or removed, and current ones from
outdated ones. Several processes may share a folder, so lines are only ever added; the last line of a file counts.
"""
import hashlib
import json
import sys
import threading
from pathlib import Path

from tqdm import tqdm

import Util

list_name = "generated.txt"
names_in_message = 10


def values_digest(*values):
    """Return a digest of values, such as the arguments that a file was made with."""
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]


def content_digest(path):
    """Return a digest of the bytes of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def join_names(names):
    """Join names for a message; of many, only the first."""
    names = sorted(names)
    more = [f"and {len(names) - names_in_message} more"] if len(names) > names_in_message else []
    return ", ".join(names[:names_in_message] + more)


class GeneratedFiles:
    """The list of generated files of a folder.

    Parameters
    ----------
    folder : str or Path

    Raises
    ------
    ValueError
        If the list is not text.
    """

    def __init__(self, folder):
        self.folder, self.lock = Path(folder), threading.Lock()
        self.list = self.folder / list_name
        lines = Util.read_text(self.list).splitlines() if self.list.exists() else []
        parts = [line.split(" ", 2) for line in lines]
        self.entries = {name: (content, settings) for content, settings, name in
                        (part for part in parts if len(part) == 3)}  # a full disk can cut a line off

    def name(self, path):
        """Return the name of a file in the list."""
        return Path(path).relative_to(self.folder).as_posix()

    def add(self, path, settings):
        """Add a file that has been generated, with the digest of its settings."""
        entry = content_digest(path), settings
        with self.lock:
            self.entries[self.name(path)] = entry
            try:
                with open(self.list, "a", encoding="utf-8") as file:
                    file.write(" ".join([*entry, self.name(path)]) + "\n")
            except OSError as error:
                raise Util.write_error(self.list, error.strerror) from None

    def is_ours(self, path):
        """Return whether a file has been generated, and not been changed since."""
        content, _ = self.entries.get(self.name(path), (None, None))
        return path.exists() and content == content_digest(path)

    def has_settings(self, path, settings):
        """Return whether a file was generated with these settings, or is not in the list."""
        return self.entries.get(self.name(path), (None, settings))[1] == settings

    def is_current(self, path, settings, *sources):
        """Return whether a file exists, is not older than its sources and was generated with these settings."""
        return Util.is_up_to_date(path, *sources) and self.has_settings(path, settings)

    def check_ours(self, path):
        """Raise ValueError if a file exists that was not generated, or was changed since."""
        if path.exists() and not self.is_ours(path):
            raise ValueError(f"{path} was not generated here, or was changed since, and is not replaced; move it, and "
                             "give the command again")

    def remove_orphans(self, keep):
        """Remove the generated files that `keep`, a function of their names, does not want, and say so."""
        orphans = [name for name in self.entries if not keep(name) and self.is_ours(self.folder / name)]
        for name in orphans:
            (self.folder / name).unlink(missing_ok=True)
        if orphans:
            tqdm.write(f"removed from {self.folder}, since their MIDI files are gone: {join_names(orphans)}",
                       file=sys.stderr)
