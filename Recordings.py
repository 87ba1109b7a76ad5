"""Find, read and check the recordings to convert, and choose and check their output files."""
import collections
import contextlib
import re
import tempfile
from pathlib import Path

import numpy as np

import Decoding
import GeneratedFiles
import Marks
import Util
from Decoding import recording_endings


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
        Path of each recording, each only once, and its path in the given folder, or its name.

    Raises
    ------
    FileNotFoundError
        If a folder has no recordings.
    """
    found = {}
    for path in given:
        if not path.is_dir():
            found.setdefault(path.absolute(), (path, Path(path.name)))
            continue
        inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in recording_endings
                  and file.is_file()
                  and not any(part.startswith(".") for part in file.relative_to(path).parts)]
        recordings = [file for file in inside if not Marks.read_mark(file)]
        if not recordings:
            holds = "only outputs of Main.py and no" if inside else "no"
            raise FileNotFoundError(f"{path} holds {holds} recordings ({' '.join(recording_endings)}); "
                                    "give a folder that does")
        for file in recordings:
            found.setdefault(file.absolute(), (file, file.relative_to(path)))
    return list(found.values())


def output_names(recordings, instrument):
    """Return the path of each output without its ending, <name>_<instrument>.

    Parameters
    ----------
    recordings : list of (Path, Path)
        See `find_recordings`.
    instrument : str
        Name of the target instrument.

    Returns
    -------
    list of str
        Recordings of the same name get their endings in addition, take_mp3_epiano and take_wav_epiano. If these are the
        same too, they also get the names of their folders.
    """
    word = "epiano" if instrument == "electric piano" else re.sub(r"\W+", "_", instrument.lower()).strip("_")

    def name(recording, inside, more):
        parts = (recording.absolute().parent.name if more > 1 else "", inside.stem,
                 inside.suffix.removeprefix(".") if more else "", word)
        return str(inside.with_name("_".join(filter(None, parts))))

    added = [0] * len(recordings)  # 1 for the ending, 2 for the folder too
    while True:
        names = [name(*recording, more) for recording, more in zip(recordings, added)]
        counts = collections.Counter(map(str.casefold, names))  # some systems do not distinguish a.wav and A.wav
        same = [i for i, found in enumerate(names) if counts[found.casefold()] > 1 and added[i] < 2]
        if not same:
            return names
        for i in same:
            added[i] += 1


def output_paths(recordings, instrument, output=None):
    """Return the path of the output audio file of each recording.

    Parameters
    ----------
    recordings : list of (Path, Path)
        See `find_recordings`.
    instrument : str
        Name of the target instrument.
    output : Path, optional
        Output file for one recording, or output folder. The default is the working folder.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        If two recordings have the same output path, or if the format of `output` is not supported.
    """
    ending = output.suffix.lower() if output and not output.is_dir() else ""
    if ending in Util.audio_formats:
        if len(recordings) > 1:
            raise ValueError(f"{output} is one file for {len(recordings)} recordings; give a folder")
        return [output]
    if ending in recording_endings or re.fullmatch(r"\.[a-z]\w{0,4}", ending):
        raise ValueError(f"{output}: {ending} is not written; choose {', '.join(Util.audio_formats)}, or a folder "
                         "that exists")
    paths = [(output or Path()) / f"{name}.wav" for name in output_names(recordings, instrument)]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(f"{recordings[paths.index(path)][0]} and {recordings[i][0]} would both be written to "
                             f"{path}; rename one of them")
    return paths


def output_files(path, midi=False, page=False, play=False):
    """Return the output files of a recording as {kind: path}, where `path` is that of the audio file."""
    files = {"audio": path, "picture": path.with_suffix(".png"), "midi": path.with_suffix(".mid"),
             "page": path.with_suffix(".html"), "played": path.with_name(f"{path.stem}_played{path.suffix}")}
    return {kind: file for kind, file in files.items() if dict(midi=midi, page=page, played=play).get(kind, True)}


def check_outputs(recordings, outputs, overwrite=False):
    """Check that outputs can be written and replace nothing that they should not.

    Parameters
    ----------
    recordings : list of (Path, Path)
        See `find_recordings`.
    outputs : list of dict of str -> Path
        Output files of each recording: see `output_files`.
    overwrite : bool
        Replace all files but recordings.

    Raises
    ------
    ValueError
        If an output would replace a recording. Also if it would replace a file that `Main.py` did not write, or that
        was edited since, or that is the output of another recording: see `Marks`.
    OSError
        If an output folder is not writable.
    """
    inputs, edited, other = {file_identity(recording) for recording, _ in recordings}, [], []
    for (recording, _), files in zip(recordings, outputs):
        for path in files.values():
            if file_identity(path) in inputs:
                raise ValueError(f"{path} would be written over a recording; choose another name or folder with -o")
            if path.exists():
                digest, unchanged = Marks.read_mark(path) or (None, False)
                if not unchanged:
                    edited.append(str(path))
                elif recording.is_file() and digest != Marks.file_digest(recording):
                    other.append(str(path))
    for paths, reason in ((edited, "not written by Main.py, or edited since"),
                          (other, "the output of another recording")):
        if paths and not overwrite:
            raise ValueError(f"{GeneratedFiles.join_names(paths)}: {reason}; choose another name or folder with -o, or "
                             "replace with --overwrite")
    paths = [files["audio"] for files in outputs]
    for folder in dict.fromkeys(path.parent for path in paths):
        check_place(folder, next(path for path in paths if path.parent == folder))


def file_identity(path):
    """Return what two paths share that lead to the same file. The file need not exist."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path.resolve()


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
