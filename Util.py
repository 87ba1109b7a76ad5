"""Helpers that several scripts share: range mapping, finding and writing files, audio in and out, command lines."""
import argparse
import contextlib
import contextvars
import ctypes
import functools
import hashlib
import io
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

import Decoding
import Hyperparameters as hp
import Marks

# how each kind of file that we write is encoded; of mp3 and ogg the quality, from 0, the best, to 1
audio_formats = {".wav": dict(subtype="PCM_16"), ".flac": dict(subtype="PCM_16"),
                 ".ogg": dict(format="OGG", subtype="VORBIS", compression_level=0.2),
                 ".mp3": dict(format="MP3", bitrate_mode="VARIABLE", compression_level=0.0)}
on_warning = contextvars.ContextVar("on_warning")  # function that `warn` calls instead of printing


def to_unit(db, top_db=None):
    """Map dB in [-top_db, 0] to [0, 1]; what lies outside is clipped. The inverse is `to_db`."""
    top_db = hp.top_db if top_db is None else top_db
    return np.clip(db / top_db + 1, 0, 1)


def to_db(unit, top_db=None):
    """Map [0, 1] back to dB in [-top_db, 0]."""
    top_db = hp.top_db if top_db is None else top_db
    return (unit - 1) * top_db


def mel_frequencies(number, fmin=None, fmax=None):
    """Return `number` frequencies in Hz from `fmin` to `fmax`, evenly spaced on Slaney's mel scale, as librosa has it.

    Linear up to 1 kHz, 15 mel, then 27 mel to a factor of 6.4.
    """
    fmin = hp.fmin if fmin is None else fmin
    fmax = hp.fmax if fmax is None else fmax
    def mel(hertz):
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    mels = np.linspace(mel(fmin), mel(fmax), number)
    return np.where(mels < 15, mels * (200 / 3), 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))


def split(names, seed=None, share=None):
    """Split piece names into (training, validation), the same for the same names and seed, in any order.

    A single piece serves as both; otherwise each side gets at least one. The takes of a piece, "piece~1" and so on,
    stay with it.
    """
    seed = hp.seed if seed is None else seed
    share = hp.validation_share if share is None else share
    shuffled = sorted({name.partition("~")[0] for name in names})
    random.Random(seed).shuffle(shuffled)
    held_out = min(max(round(share * len(shuffled)), 1), len(shuffled) - 1)
    sides = (shuffled, shuffled) if len(shuffled) < 2 else (shuffled[held_out:], shuffled[:held_out])
    return tuple(sorted(name for name in names if name.partition("~")[0] in set(side)) for side in sides)


def settings():
    """Return all numbers, texts and tables of `Hyperparameters` by name, on which stored results may depend."""
    return {name: value for name, value in sorted(vars(hp).items())
            if isinstance(value, (int, float, str, tuple, dict)) and not name.startswith("_")}


def seed_of(text):
    """Return a number that seeds random draws, always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def find_pieces(folder, suffix):
    """Map piece name -> file for every file below `folder` whose ending is in `suffix`, whatever its case.

    The name is the path below `folder` without its ending, folders joined by "__", so that two files of one
    name in different folders stay apart. Raises FileNotFoundError if there are none, ValueError if two files
    would share a name.
    """
    folder = Path(folder)
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffix or path.name.startswith("."):
            continue
        name = "__".join(path.relative_to(folder).with_suffix("").parts)
        if name in found:
            raise ValueError(f"{found[name]} and {path} would both be the piece '{name}'; rename one of them")
        found[name] = path
    if not found:
        kinds = " or ".join(suffix[:4]) + (" (or other)" if len(suffix) > 4 else "")
        raise FileNotFoundError(f"{folder} holds no {kinds} files; put some there (see data/README.md)")
    return found


def numbered_folders(folder, name):
    """Names of the folders `name`_2, `name`_3 and so on in `folder`, in the order of their numbers."""
    found = [path.name for path in Path(folder).glob(f"{name}_*") if path.is_dir()
             and path.name[len(name) + 1:].isdecimal()]
    return sorted(found, key=lambda found: int(found[len(name) + 1:]))


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


def is_up_to_date(path, *sources):
    """True if `path` exists and is not older than any of `sources`."""
    return path.exists() and all(path.stat().st_mtime >= source.stat().st_mtime for source in sources)


def write_error(path, reason):
    """The OSError for a file that a full disk or a read-only folder does not take."""
    return OSError(f"{path} cannot be written ({reason}); free some space or choose another folder, and give the "
                   "command again")


def check_writable(folder):
    """Raise OSError if a folder cannot be made, or a file in it. Nothing is left behind."""
    try:
        with tempfile.TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error.strerror}); choose another folder, or change its "
                      "permissions") from None


@contextlib.contextmanager
def atomic_write(path, mark=None):
    """Yield a temporary path beside `path` and rename it to `path` at the end, so no file is ever half-written.

    A file that holds a `mark` is sealed before: see `Marks`. Raises `write_error` in place of what fails in between.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if mark:
                Marks.seal(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error.strerror or error) from None
    except soundfile.LibsndfileError:  # which does not pass on what the system says
        raise write_error(path, "no space left, or not allowed") from None


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
    """Write to `path` what `write` puts into the binary file that it is called with, which may be a mark, too.

    In one go: numpy, Pillow and torch each have errors of their own for a full disk.
    """
    buffer = io.BytesIO()
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


def read_audio(path, stereo=False):
    """Read a recording at `hp.sample_rate`, as mono unless `stereo` is set.

    Parameters
    ----------
    path : str or Path
        Any audio or video file that libsndfile or FFmpeg reads, any rate, width and number of channels. Of a file that
        is cut off, what is there.

    Returns
    -------
    np.ndarray [shape=(n,)], float32
        The mean of the channels; n = duration * hp.sample_rate, rounded, at least 1. With `stereo` and two channels
        these, [shape=(n, 2)]. If the channels cancel each other, the loudest alone, with a warning. Without direct
        current where there is much of it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is empty, not audio, holds no samples or infinite ones, claims a rate that no recording has, or with
        `stereo` has more than two channels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a recording")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file; record or export it again")
    audio = None
    for open_audio in (Decoding.open_with_libsndfile, Decoding.open_with_ffmpeg):
        try:
            audio = read_with(open_audio, path, stereo)
        except Decoding.DecodingError:
            continue
        except ImportError:
            raise ValueError(f"{path} needs FFmpeg; install the package av (pip install av), or convert the file, for "
                             f"instance with {Decoding.conversion_hint(path)}") from None
        if audio.size:
            break
    if audio is None:
        raise ValueError(f"{path} is not audio that libsndfile or FFmpeg reads; export it again, as wav or flac")
    if not audio.size:
        raise ValueError(f"{path} has no samples; record or export it again")
    if not np.isfinite(audio).all():
        raise ValueError(f"{path} holds samples that are not finite; export it again")
    return audio


def read_with(open_audio, path, stereo=False):
    """Read a recording as `read_audio` by one of the decoders in `Decoding`; without samples the result is empty."""
    def blocks():
        with open_audio(path) as (_, _, blocks):
            yield from blocks

    with open_audio(path) as (rate, channels, _):
        if not 1000 <= rate <= 1_000_000:  # a few seconds would become hours, or nothing
            raise ValueError(f"{path} claims a rate of {rate} Hz; export it again")
        if stereo and channels > 2:
            raise ValueError(f"{path} has {channels} channels; mix it to two, or leave --stereo out")
    return mix_channels(blocks, stereo and channels > 1, path, rate)


def mix_channels(blocks, stereo, name, rate=None):
    """As `Decoding.mix_channels`, the sound alone, with a warning that names the recording if its channels cancel."""
    audio, only = Decoding.mix_channels(blocks, stereo, rate)
    if only is not None:
        warn(f"the channels of {name} cancel each other; only channel {only + 1} is used")
    return audio


def resample(audio, rate, to_rate=None):
    """Bring audio [shape=(n,) or (n, channels), float32] from `rate` Hz to `to_rate`, by default `hp.sample_rate`, as
    librosa does.

    It becomes n * to_rate / rate samples long, rounded, at least 1.
    """
    to_rate = hp.sample_rate if to_rate is None else to_rate
    if rate == to_rate:
        return audio
    import soxr  # what librosa calls, which is slow to import

    resampled = soxr.resample(audio, rate, to_rate, quality="HQ")
    return Decoding.fix_length(resampled, max(round(len(audio) * to_rate / rate), 1))


def normalise(audio):
    """Return audio with its largest sample from 1/2 to 1, and the exponent of 2 by which it has been divided.

    Powers of samples at 1e30 or 1e-30 are beyond single precision. All others keep their bits but for the exponent.
    """
    exponent = level_exponent(audio)
    return np.ldexp(audio, -exponent), exponent


def level_exponent(audio):
    """Return the exponent of 2 by which to divide audio to bring its largest sample from 1/2 to 1."""
    return int(np.frexp(max(audio.max(initial=0), -audio.min(initial=0)))[1])


def write_audio(path, audio, mark=None):
    """Write `audio` [shape=(n,) or (n, 2), in [-1, 1]] at `hp.sample_rate`: wav and flac with 16 bits, ogg or mp3, by
    the ending of `path`, with a `mark` in the metadata."""
    with atomic_write(path, mark) as temporary:
        encode_audio(temporary, audio, mark, **audio_formats.get(Path(path).suffix.lower(), audio_formats[".wav"]))


def encode_audio(file, audio, comment=None, **how):
    """Write `audio` as `write_audio` to a path or a binary file, in a format of libsndfile's."""
    with soundfile.SoundFile(file, "w", hp.sample_rate, 1 if audio.ndim == 1 else audio.shape[1], **how) as opened:
        if comment:
            opened.comment = comment
        for start in range(0, len(audio), 1 << 16):  # of more at once the encoder of ogg runs out of stack
            opened.write(audio[start:start + (1 << 16)])


def encode_mp3(audio, **how):
    """Return `audio` [shape=(n,) or (n, 2)] as the bytes of an mp3, of about 55 kbit/s if it is mono; `how` are other
    settings of libsndfile's."""
    buffer = io.BytesIO()
    encode_audio(buffer, audio, format="MP3", **how)
    return buffer.getvalue()


def parse_shard(text):
    """Read "I/N" from the command line as (I, N): one of N machines that share a work, counted from 0."""
    part, _, number = text.partition("/")
    if not (part.isdecimal() and number.isdecimal() and int(part) < int(number)):
        raise argparse.ArgumentTypeError(f"'{text}' is no shard; write 0/4 for the first of four")
    return int(part), int(number)


def choose_device(name="auto"):
    """Return the `torch.device` called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises ValueError if `name` is none of torch's devices, or this machine lacks it or cannot use it.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    if not present.get(name.split(":")[0]):
        raise ValueError(f"device '{name}' is not available here; choose from "
                         f"{', '.join(k for k in present if present[k])}")
    try:
        device = torch.device(name)
        if device.index is not None:  # cuda:99 is a name too, and found out only when it is used
            torch.empty(1, device=device)
        return device
    except RuntimeError as error:
        raise ValueError(f"device '{name}' cannot be used ({first_line(error)}); choose another, cuda, mps or "
                         "cpu") from None


@functools.cache
def compute_after_fork():
    """Let forked processes compute with one thread. They lack the other threads of OpenMP, and would wait for them."""
    import torch

    if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def positive_float(text):
    """Read a positive, finite number from the command line."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def non_negative_int(text):
    """Read a natural number from the command line."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def positive_int(text):
    """Read a positive integer from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def reuse_memory():
    """Have Linux's malloc keep blocks of any size for the next step, a tenth of which it takes to get them anew."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # macOS has no such function, Windows no such call
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, 2 ** 31 - 1)


def release_memory():
    """Have Linux's malloc give freed blocks back to the system, which it keeps between larger ones in use."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def deferred_interrupt():
    """Yield a list that Ctrl-C and SIGTERM fill instead of breaking off, so that a step is never left half-done."""
    seen = []
    previous = {number: signal.signal(number, lambda number, frame: seen.append(number))
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def first_line(error):
    """What an error says first: those of CUDA say a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_model_name(name):
    """Return the name of a model. Raises ValueError if it is not the name of a single folder."""
    if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|') or not name.isprintable():
        raise ValueError(f"'{name}' is not the name of a single folder; choose a --model such as 'vibraphone', without "
                         "slashes and without a dot in front")
    return name


def training_command(data):
    """Return the words of the command that trains an autoencoder on a data folder, as a model that is not there yet."""
    names = ("own", *(f"own_{number}" for number in range(2, 10_000)))
    model = next(name for name in names if not list((data / "models" / name).glob("ae.*")))
    return ["python", "AEMain.py", *(["--data", str(data)] if data != hp.data else []),
            *(["--model", model] if model != "own" else [])]


def warn(sentence):
    """Give a warning to the function in `on_warning`; by default print it on stderr, clear of progress bars.

    If torchrun has started several processes, only the first one warns.
    """
    if os.environ.get("RANK", "0") == "0":
        on_warning.get(lambda sentence: tqdm.write(f"warning: {sentence}", file=sys.stderr))(sentence)


class Output:
    """A standard stream, None if it is closed. If it takes no more, this is said once, and the program goes on."""

    def __init__(self, stream, name):
        self.stream, self.name, self.failed = stream or open(os.devnull, "w", encoding="utf-8"), name, False
        if hasattr(self.stream, "reconfigure"):  # not in a notebook
            self.stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        """Write text. Raises BrokenPipeError if the reader has gone away."""
        return self.attempt(self.stream.write, text)

    def flush(self):
        """Pass on what was written. Raises BrokenPipeError if the reader has gone away."""
        self.attempt(self.stream.flush)

    def attempt(self, function, *arguments):
        """Call a function of the stream. After an error the stream leads nowhere, or Python complains as it ends."""
        try:
            return function(*arguments)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            self.failed = True
            warn(f"{self.name} cannot be written ({error.strerror}); the work goes on without it")


def run(main):
    """Call `main()` as the program of the command line.

    An error that the user can mend ends in one sentence on stderr and status 1, Ctrl-C in status 130. If the reader of
    the output goes away (`| head`), the status is 141, as of the signal SIGPIPE. Characters that the terminal lacks are
    written as escapes. A program whose standard output cannot be written does its work, and ends in status 1.
    """
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
