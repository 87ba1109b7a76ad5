"""Helpers that several scripts share: mapping of ranges, finding and writing files, command lines."""
import argparse
import contextlib
import contextvars
import functools
import hashlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
from outputs import marks

on_warning = contextvars.ContextVar("on_warning")  # function that `warn` calls instead of printing


def to_unit(db):
    """Map dB in [-top_db, 0] to [0, 1]; what lies outside is clipped. The inverse is `to_db`."""
    return np.clip(db / hp.top_db + 1, 0, 1)


def to_db(unit):
    """Map [0, 1] back to dB in [-top_db, 0]."""
    return (unit - 1) * hp.top_db


def mel_frequencies(number):
    """Return `number` frequencies in Hz from `hp.fmin` to `hp.fmax`, evenly spaced on the mel scale of librosa."""
    def mel(hertz):  # linear up to 1 kHz, 15 mel, then 27 mel to a factor of 6.4
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    mels = np.linspace(mel(hp.fmin), mel(hp.fmax), number)
    return np.where(mels < 15, mels * (200 / 3), 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))


def split(names, seed=None, share=None):
    """Split piece names into (training, validation), the same for the same names and seed, in any order. A single piece
    serves as both; otherwise each side gets at least one. The takes of a piece, "piece~1" and so on, stay with it."""
    shuffled = sorted({name.partition("~")[0] for name in names})
    random.Random(hp.seed if seed is None else seed).shuffle(shuffled)
    held_out = round((hp.validation_share if share is None else share) * len(shuffled))
    held_out = min(max(held_out, 1), len(shuffled) - 1)
    sides = (shuffled, shuffled) if len(shuffled) < 2 else (shuffled[held_out:], shuffled[:held_out])
    return tuple(sorted(name for name in names if name.partition("~")[0] in set(side)) for side in sides)


def seed_of(text):
    """Return a number that seeds random draws, always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def find_pieces(folder, suffix):
    """Map piece name -> file for every file below `folder` whose ending is in `suffix`, whatever its case. The name is
    the path below `folder` without its ending, folders joined by "__". Raises FileNotFoundError if there are no files,
    ValueError if two files would share a name."""
    folder, found = Path(folder), {}
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in suffix and path.name[0] != "."]
    for path in sorted(paths):
        name = "__".join(path.relative_to(folder).with_suffix("").parts)
        if name in found:
            raise ValueError(f"{found[name]} and {path} would both be the piece '{name}'; rename one of them")
        found[name] = path
    if not found:
        kinds = " or ".join(suffix[:4]) + (" (or other)" if len(suffix) > 4 else "")
        raise FileNotFoundError(f"{folder} holds no {kinds} files; put some there (see data/README.md)")
    return found


def numbered_folders(folder, name):
    """Return the names of the folders `name`_2, `name`_3 and so on in `folder`, in the order of their numbers."""
    numbers = [path.name.removeprefix(f"{name}_") for path in Path(folder).glob(f"{name}_*") if path.is_dir()]
    return [f"{name}_{number}" for number in sorted(filter(str.isdecimal, numbers), key=int)]


def modification_times(paths):
    """Map each path that is there to when it was last written."""
    times = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime_ns
    return times


def remove_unchanged(times):
    """Remove what `modification_times` has found, but for what another process has removed or written anew since."""
    for path, time in times.items():
        if modification_times([path]).get(path) == time:
            path.unlink(missing_ok=True)


def file_digest(path):
    """Return 16 hexadecimal digits that identify the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def is_up_to_date(path, *sources):
    """True if `path` exists and is not older than any of `sources`."""
    return path.exists() and all(path.stat().st_mtime >= source.stat().st_mtime for source in sources)


def find_program(name, advice):
    """Return the path of a program. Raises FileNotFoundError with the advice if it is not on PATH."""
    found = shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is not on PATH; {advice}")
    return found


def write_error(path, reason):
    """The OSError for a file that a full disk or a read-only folder does not take."""
    return OSError(f"{path} cannot be written ({reason}); free some space or choose another folder, and give the "
                   "command again")


def check_writable(path):
    """Raise OSError if a file or its folder cannot be made. Nothing is left behind."""
    folder = path.parent.resolve()
    try:
        with tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if place.exists())):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror}); choose another folder, or change its "
                      "permissions") from None


@contextlib.contextmanager
def atomic_write(path, mark=None):
    """Yield a temporary path beside `path` and rename it to `path` at the end, so no file is ever half-written. A file
    with a `mark` is sealed before: see `outputs.marks`. Raises `write_error` in place of what fails in between."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if mark:
            marks.seal(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error.strerror or error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def save_text(path, text, mark=None):
    """Write `text`, which may hold a mark, to `path`, in UTF-8 on every system."""
    with atomic_write(path, mark) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path):
    """Return the text of a file that `save_text` wrote. Raises ValueError if it is damaged."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8; restore or remove it") from None


def save_bytes(path, write, mark=None):
    """Write to `path` what `write` puts into the binary file that it is called with, which may be a mark, too."""
    buffer = io.BytesIO()  # numpy, Pillow and torch each have errors of their own for a full disk
    write(buffer)
    with atomic_write(path, mark) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_array(path, array):
    """Write a numpy array to `path` (.npy)."""
    save_bytes(path, lambda file: np.save(file, array))


def load_array(path, dtype, mmap_mode=None):
    """Read the array of two axes that `save_array` wrote. Raises ValueError if it is damaged, or of another type."""
    try:
        array = np.load(path, mmap_mode)
        if array.dtype != dtype or array.ndim != 2:
            raise ValueError("it holds something else")
    except OSError:
        raise
    except Exception:  # numpy raises a dozen kinds for a header that is none
        raise ValueError(f"{path} is damaged; remove it, and the same command makes it anew") from None
    return array


def parse_shard(text):
    """Read "I/N" from the command line as (I, N): one of N machines that share a work, counted from 0."""
    part, _, number = text.partition("/")
    if not (part.isdecimal() and number.isdecimal() and int(part) < int(number)):
        raise argparse.ArgumentTypeError(f"'{text}' is no shard; write 0/4 for the first of four")
    return int(part), int(number)


def choose_device(name="auto"):
    """Return the `torch.device` called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU. Raises ValueError if
    `name` is none of torch's devices, or this machine lacks it or cannot use it."""
    import torch

    if isinstance(name, torch.device):
        return name
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    present = [kind for kind in here if here[kind]]
    if name == "auto":
        return torch.device(present[0])
    if name.split(":")[0] not in present:
        raise ValueError(f"device '{name}' is not available here; choose from {', '.join(present)}")
    try:
        device = torch.device(name)
        if device.index is not None:  # cuda:99 is a name too, and found out only when it is used
            torch.empty(1, device=device)
        return device
    except RuntimeError as error:
        raise ValueError(f"device '{name}' cannot be used ({first_line(error)}); choose another, cuda, mps or "
                         "cpu") from None


@contextlib.contextmanager
def seeded(seed):
    """Draw torch's random numbers from a seed within a `with` block, and afterwards as before it."""
    import torch

    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@functools.cache
def compute_after_fork():
    """Let forked processes compute with one thread. They lack the other threads of OpenMP, and would wait for them."""
    import torch

    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def positive_float(text, kind=float):
    """Read a positive, finite number from the command line."""
    number = kind(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def positive_int(text):
    """Read a positive integer from the command line."""
    return positive_float(text, int)


def non_negative_int(text):
    """Read a natural number from the command line."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def first_line(error):
    """Return the first line of an error: those of CUDA fill a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_model_name(name):
    """Return the name of a model. Raises ValueError if it is not the name of a single folder."""
    if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|') or not name.isprintable():
        raise ValueError(f"'{name}' is not the name of a single folder; choose a --model such as 'vibraphone', without "
                         "slashes and without a dot in front")
    return name


def warn(sentence):
    """Give a warning to the function in `on_warning`; by default print it on stderr, clear of progress bars."""
    if os.environ.get("RANK", "0") == "0":  # the first of the processes that torchrun has started
        on_warning.get(lambda sentence: tqdm.write(f"warning: {sentence}", file=sys.stderr))(sentence)


class Output:
    """A standard stream, None if it is closed. If it takes no more, this is said once, and the program goes on."""

    def __init__(self, stream, name):
        self.stream, self.name, self.failed = stream or open(os.devnull, "w", encoding="utf-8"), name, False
        if hasattr(self.stream, "reconfigure"):  # not in a notebook
            self.stream.reconfigure(errors="backslashreplace")  # for characters that a terminal lacks

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self.attempt(self.stream.write, text)

    def flush(self):
        self.attempt(self.stream.flush)

    def attempt(self, function, *arguments):
        """Call a function of the stream. Raises BrokenPipeError if the reader has gone away."""
        try:
            return function(*arguments)
        except OSError as error:  # from now on the stream leads nowhere, or Python would complain at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            self.failed = True
            warn(f"{self.name} cannot be written ({error.strerror}); the work goes on without it")


def run(main):
    """Call `main()` as the program of the command line. An error that the user can mend, or an output that takes no
    more, ends in one sentence on stderr and status 1. Ctrl-C ends in status 130, and a reader that goes away (`| head`)
    in 141, as of SIGPIPE."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `Main.py` sets it while it imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    name = Path(sys.argv[0]).name
    streams = Output(sys.stdout, "standard output"), Output(sys.stderr, "standard error")
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            main()
            sys.stdout.flush()
            if any(stream.failed for stream in streams):
                sys.exit(1)
        except BrokenPipeError:
            sys.exit(141)
        except (ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        except (MemoryError, RuntimeError) as error:
            # torch's errors for a device without memory, or that fails; named, as not all scripts import torch
            kinds = {kind.__name__ for kind in type(error).mro()}
            if not {"MemoryError", "OutOfMemoryError", "AcceleratorError"} & kinds:
                raise
            sys.exit(f"{name}: the device failed ({first_line(error)}); choose another --device, or, in training, a "
                     "smaller --batch-size")
        except KeyboardInterrupt as interrupt:
            print(f"{name}: {str(interrupt) or 'stopped'}", file=sys.stderr)
            sys.exit(130)
        finally:
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
