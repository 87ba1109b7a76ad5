"""Find, read and check the recordings to convert, and choose their output paths."""
import contextlib
import re
import tempfile
from pathlib import Path

import numpy as np
import soundfile

import Decoding
import Util
from Decoding import recording_endings

comment = "electric piano version by Main.py of Instrument resynthesis"  # metadata of the output files


def read_input(recording, sample_rate=None, stereo=False):
    """Return a recording at `hp.sample_rate`, given as a path or as an array: see `Main.pipeline`."""
    if not isinstance(recording, (str, Path)):
        return check_array(recording, sample_rate, stereo)
    if sample_rate is not None:
        raise ValueError(f"sample_rate is for arrays; {recording} has its own sample rate")
    return read_recording(recording, stereo)


def read_recording(path, stereo=False):
    """Read a recording with `Util.read_audio`. Raises ValueError if the recording is silent."""
    audio = Util.read_audio(path, stereo)
    if not audio.any():
        raise ValueError(f"{path} is silent; choose another recording")
    return audio


def check_limits(path, limit_s, limit_bytes):
    """Raise ValueError if a recording is longer than `limit_s` seconds or larger than `limit_bytes`.

    The samples are counted, because the header of a file may be wrong or lack the length. At most `limit_s` seconds and
    one block are decoded. A file that is missing or not audio raises nothing: see `Util.read_audio`.
    """
    if not path.exists():
        return
    if path.stat().st_size > limit_bytes:
        raise ValueError(f"{path} is larger than {limit_bytes / 2 ** 20:g} MB; save it as mp3 or m4a")
    for open_audio in (Decoding.open_with_libsndfile, Decoding.open_with_ffmpeg):
        with contextlib.suppress(Decoding.DecodingError, ImportError), open_audio(path) as (rate, _, blocks):
            samples = 0
            for block in blocks:
                samples += len(block)
                if samples > limit_s * rate:
                    raise ValueError(f"{path} is longer than {limit_s / 60:g} minutes; cut it into shorter parts")
            if samples:
                return


def check_array(audio, rate, stereo=False):
    """Convert an array of samples to a recording at `hp.sample_rate`.

    Parameters
    ----------
    audio : array_like [shape=(n,) or (n, channels)]
        Samples in [-1, 1], or integers over their full range.
    rate : float
        Sample rate in Hz.
    stereo : bool
        Keep the two channels of a stereo recording.

    Returns
    -------
    np.ndarray [shape=(n,) or (n, 2), float32]

    Raises
    ------
    ValueError
        If the rate is missing or implausible, or if the array is not audio, not finite or silent.
    """
    audio = np.asarray(audio)
    if rate is None or not 1000 <= rate <= 1_000_000:
        raise ValueError(f"an array needs its sample rate in Hz, as in sample_rate=44100, not {rate}")
    if audio.ndim not in (1, 2) or not audio.size or audio.ndim > 1 and audio.shape[1] > max(len(audio), 2):
        raise ValueError(f"an array of shape {audio.shape} is no recording; give (samples,) or (samples, channels)")
    if audio.dtype.kind in "iu":
        middle, scale = (128, 128) if audio.dtype == np.uint8 else (0, -float(np.iinfo(audio.dtype).min) or 1)
        audio = (audio - np.float64(middle)) / scale
    audio = audio.astype(np.float32)
    if not np.isfinite(audio).all():
        raise ValueError("the array holds samples that are not finite")
    audio = audio[:, None] if audio.ndim == 1 else audio
    if stereo and audio.shape[1] > 2:
        raise ValueError(f"the array has {audio.shape[1]} channels; mix it to two, or leave stereo out")
    audio = Util.mix_channels(lambda: [audio], stereo and audio.shape[1] > 1, "the array", rate)
    if not audio.any():
        raise ValueError("the array is silent; choose another recording")
    return audio


def find_recordings(given):
    """Find the recordings to convert.

    Parameters
    ----------
    given : sequence of Path
        Files and folders. A folder gives all recordings in it and in its subfolders, without outputs of `Main.py`.

    Returns
    -------
    list of (Path, Path)
        Path of each recording, and the path of its output without an ending. A recording in a subfolder keeps the path
        of its subfolder.

    Raises
    ------
    FileNotFoundError
        If a folder has no recordings.
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


def output_paths(recordings, output=None, overwrite=False):
    """Return the path of the output audio file of each recording.

    Parameters
    ----------
    recordings : list of (Path, Path)
        Recordings and output names, as `find_recordings` returns them.
    output : Path, optional
        Output file for one recording, or output folder. The default is the working folder.
    overwrite : bool
        Replace files that `Main.py` did not write.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        If two recordings have the same output path, or if an output would replace a recording. Also if it would replace
        a file that `Main.py` did not write, or if the format of `output` is not supported.
    OSError
        If the output folder is not writable.
    """
    ending = output.suffix.lower() if output and not output.is_dir() else ""
    if ending in Util.audio_formats:
        if len(recordings) > 1:
            raise ValueError(f"{output} is one file for {len(recordings)} recordings; give a folder")
        paths = [output]
    elif ending in recording_endings or re.fullmatch(r"\.[a-z]\w{0,4}", ending):
        raise ValueError(f"{output}: {ending} is not written; choose {', '.join(Util.audio_formats)}, or a folder "
                         "that exists")
    else:
        paths = [(output or Path()) / f"{name}.wav" for _, name in recordings]
    recordings = [recording for recording, _ in recordings]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(f"{recordings[paths.index(path)]} and {recordings[i]} would both be written to {path}; "
                             "convert them one at a time")
        if any(is_same_file(path, recording) for recording in recordings):
            raise ValueError(f"{path} would be written over a recording; choose another name with -o")
        if path.exists() and not overwrite and not is_output(path):
            raise ValueError(f"{path} exists and was not written by Main.py; choose another name with -o, or replace "
                             "it with --overwrite")
    for folder in dict.fromkeys(path.parent for path in paths):
        check_place(folder, next(path for path in paths if path.parent == folder))
    return paths


def is_same_file(one, other):
    """Return whether two paths lead to the same file. The file need not exist."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def is_output(path):
    """Return whether `Main.py` wrote an audio file, according to its name or its metadata."""
    if path.stem.endswith(("_epiano", "_epiano_played")):
        return True
    try:
        with soundfile.SoundFile(path) as file:
            return file.comment.startswith(comment)
    except (soundfile.LibsndfileError, TypeError, OSError):
        return False


def check_place(folder, path):
    """Raise `Util.write_error` with the name `path` if `folder` is not writable. The folder need not exist yet."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise Util.write_error(path, error.strerror or error) from None
