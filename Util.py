"""Small helpers that several scripts share: range mapping, files, audio in and out, plots, the page, command lines."""
import argparse
import contextlib
import ctypes
import io
import os
import random
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import soundfile

import Hyperparameters as hp

# how each kind of file that we write is encoded; of mp3 and ogg the quality, from 0, the best, to 1
audio_formats = {".wav": dict(subtype="PCM_16"), ".flac": dict(subtype="PCM_16"),
                 ".ogg": dict(format="OGG", subtype="VORBIS", compression_level=0.2),
                 ".mp3": dict(format="MP3", bitrate_mode="VARIABLE", compression_level=0.0)}
# what counts as a recording in a folder; of those that libsndfile does not read is said how to convert them
recording_endings = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".m4a", ".aac", ".mp4", ".wma")


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
        raise FileNotFoundError(f"{folder} holds no {' or '.join(suffix)} files; put some there (see data/README.md)")
    return found


def find_recordings(given):
    """Return (recording, name of its output without an ending) of every file that is given, and of every recording
    below the folders that are: one below a folder keeps its place there.

    Our own outputs are left out. Raises FileNotFoundError if a folder holds no recordings.
    """
    found = []
    for path in given:
        if not path.is_dir():
            found.append((path, Path(f"{path.stem}_epiano")))
            continue
        inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in recording_endings
                  and file.is_file()
                  and not file.stem.endswith(("_epiano", "_epiano_played"))
                  and not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not inside:
            raise FileNotFoundError(f"{path} holds no recordings ({' '.join(recording_endings)}); "
                                    "give a folder that does")
        found += [(file, file.relative_to(path).with_name(f"{file.stem}_epiano")) for file in inside]
    return found


def output_paths(recordings, output):
    """Return where to write the sound of each recording, (path, name) as `find_recordings` returns them: `output`, a
    file if there is one recording, or a folder.

    Raises ValueError if two recordings would be written to one file, or one over a recording, or a kind of file is
    asked for that is not written.
    """
    ending = output.suffix.lower() if output else ""
    if ending in recording_endings and not output.is_dir():
        if ending not in audio_formats:
            raise ValueError(f"{output}: {ending} is not written; choose {', '.join(audio_formats)}")
        if len(recordings) > 1:
            raise ValueError(f"{output} is one file for {len(recordings)} recordings; give a folder")
        paths = [output]
    else:
        paths = [(output or Path()) / f"{name}.wav" for _, name in recordings]
    recordings = [recording for recording, _ in recordings]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(f"{recordings[paths.index(path)]} and {recordings[i]} would both be written to {path}; "
                             "convert them apart")
        if path.resolve() in [recording.resolve() for recording in recordings]:
            raise ValueError(f"{path} would be written over a recording; choose another name with -o")
    return paths


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


@contextlib.contextmanager
def atomic_write(path):
    """Yield a temporary path beside `path` and rename it to `path` at the end, so no file is ever half-written.

    Raises `write_error` in place of what fails in between.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error.strerror or error) from None
    except soundfile.LibsndfileError:  # which does not pass on what the system says
        raise write_error(path, "no space left, or not allowed") from None


def save_text(path, text):
    """Write `text` to `path`, in UTF-8 on every system."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path):
    """Return the text of a file that `save_text` wrote. Raises ValueError if it is damaged."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8; restore or remove it") from None


def save_bytes(path, write):
    """Write to `path` what `write` puts into the binary file that it is called with.

    In one go: numpy, Pillow and torch each have errors of their own for a full disk.
    """
    buffer = io.BytesIO()
    write(buffer)
    with atomic_write(path) as temporary:
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
        Any file that libsndfile reads (wav, flac, ogg, mp3), any rate, width and number of channels.

    Returns
    -------
    np.ndarray [shape=(n,)], float32
        The mean of the channels; n = duration * hp.sample_rate, rounded, at least 1. With `stereo` and two channels
        these, [shape=(n, 2)].

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
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            # block by block: all channels of a long recording need not fit in memory at once
            stereo = stereo and file.channels > 1
            if stereo and file.channels > 2:
                raise ValueError(f"{path} has {file.channels} channels; mix it to two, or leave --stereo out")
            blocks = [block if stereo else block.mean(axis=1)
                      for block in file.blocks(1 << 18, dtype="float32", always_2d=True)]
    except soundfile.LibsndfileError:
        command = shlex.join(["ffmpeg", "-i", path.name, path.stem + ".flac"])
        raise ValueError(f"{path} is not audio that libsndfile reads; convert it to wav, flac, ogg or mp3, for "
                         f"instance with {command}") from None
    audio = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not audio.size:
        raise ValueError(f"{path} has no samples; record or export it again")
    if not 1000 <= rate <= 1_000_000:  # a few seconds would become hours, or nothing
        raise ValueError(f"{path} claims a rate of {rate} Hz; export it again")
    audio = resample(audio, rate) if np.isfinite(audio).all() else audio
    if not np.isfinite(audio).all():
        raise ValueError(f"{path} holds samples that are not finite; export it again")
    return audio


def resample(audio, rate):
    """Bring audio [shape=(n,) or (n, channels), float32] from `positive_float` Hz to `hp.sample_rate`, as librosa does.

    It becomes n * hp.sample_rate / rate samples long, rounded, at least 1.
    """
    length = max(round(len(audio) * hp.sample_rate / rate), 1)
    if rate != hp.sample_rate:
        import soxr  # what librosa calls, which is slow to import

        audio = soxr.resample(audio, rate, hp.sample_rate, quality="HQ")[:length]
        audio = np.pad(audio, [(0, length - len(audio))] + [(0, 0)] * (audio.ndim - 1))
    return audio


def normalise(audio):
    """Return audio with its largest sample from 1/2 to 1, and the exponent of 2 by which it has been divided.

    Powers of samples at 1e30 or 1e-30 are beyond single precision. All others keep their bits but for the exponent.
    """
    _, exponent = np.frexp(max(audio.max(initial=0), -audio.min(initial=0)))
    return np.ldexp(audio, -exponent), int(exponent)


def write_audio(path, audio):
    """Write `audio` [shape=(n,) or (n, 2), in [-1, 1]] at `hp.sample_rate`: wav and flac with 16 bits, ogg or mp3, by
    the ending of `path`."""
    with atomic_write(path) as temporary:
        encode_audio(temporary, audio, **audio_formats.get(Path(path).suffix.lower(), audio_formats[".wav"]))


def encode_audio(file, audio, **how):
    """Write `audio` as `write_audio` to a path or a binary file, in a format of libsndfile's."""
    with soundfile.SoundFile(file, "w", hp.sample_rate, 1 if audio.ndim == 1 else audio.shape[1], **how) as opened:
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


def run(main):
    """Call `main()`; what the user can mend ends in one sentence on stderr and status 1, Ctrl-C in status 130, and a
    reader of the output that goes away (`| head`) quietly in 141, as of the signal SIGPIPE."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
        sys.exit(141)
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except (MemoryError, RuntimeError) as error:
        # torch's errors for a device without memory, or that fails; named, as not all scripts import torch
        if not {"MemoryError", "OutOfMemoryError", "AcceleratorError"} & {kind.__name__ for kind in type(error).mro()}:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: the device failed ({first_line(error)}); choose another --device, or, in "
                 "training, a smaller --batch-size")
    except KeyboardInterrupt as interrupt:
        print(f"{Path(sys.argv[0]).name}: {interrupt or 'stopped'}", file=sys.stderr)
        sys.exit(130)
