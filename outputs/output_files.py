"""Find the recordings to convert, and choose and check their output files."""
import collections
import re
from pathlib import Path

import Util
from audio import audio_files
from audio.audio_files import recording_endings
from outputs import marks
from rendering import generated_files


def find_recordings(given):
    """Return the recordings in `given`, files and folders, as a list of (path, path in the given folder or name). Each
    recording comes once. A folder gives all in it and in its subfolders, without hidden files and outputs of `Main.py`.
    Raises FileNotFoundError if a folder has none."""
    found = {}
    for path in given:
        if not path.is_dir():
            found.setdefault(path.absolute(), (path, Path(path.name)))
            continue
        inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in recording_endings
                  and file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)]
        recordings = [file for file in inside if not marks.read_mark(file)]
        if not recordings:
            holds = "only outputs of Main.py and no" if inside else "no"
            raise FileNotFoundError(f"{path} holds {holds} recordings ({' '.join(recording_endings)}); "
                                    "give a folder that does")
        for file in recordings:
            found.setdefault(file.absolute(), (file, file.relative_to(path)))
    return list(found.values())


def output_names(recordings, instrument):
    """Return the path of each output without its ending, <name>_<instrument>.

    `recordings` are those of `find_recordings`, `instrument` is the name of the target. Recordings of the same name get
    their endings in addition, take_mp3_epiano and take_wav_epiano. If these are the same too, they also get the names
    of their folders.
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
    """Return the path of the output audio file of each recording: see `output_names`. `output` is the file for one
    recording, or a folder, by default the working folder. Raises ValueError if two recordings have the same output
    path, or if the format of `output` is not supported or needs a package that is not installed."""
    ending = output.suffix.lower() if output and not output.is_dir() else ""
    if ending in audio_files.audio_formats:
        if len(recordings) > 1:
            raise ValueError(f"{output} is one file for {len(recordings)} recordings; give a folder")
        if ending == ".m4a":
            audio_files.import_av()
        return [output]
    if ending in recording_endings or re.fullmatch(r"\.[a-z]\w{0,4}", ending):
        raise ValueError(f"{output}: {ending} is not written; choose {', '.join(audio_files.audio_formats)}, or a "
                         "folder that exists")
    paths = {}
    for (recording, _), name in zip(recordings, output_names(recordings, instrument)):
        path = (output or Path()) / f"{name}.wav"
        if path in paths:
            raise ValueError(f"{paths[path]} and {recording} would both be written to {path}; rename one of them")
        paths[path] = recording
    return list(paths)


def name_files(path, midi=False, page=False, play=False, studio=False):
    """Return the output files of a recording as {kind: path}, where `path` is that of the audio file."""
    files = {"audio": path, "picture": path.with_suffix(".png")}
    if midi:
        files["midi"] = path.with_suffix(".mid")
    if studio:
        files["studio"] = path.with_name(f"{path.stem}_studio{path.suffix}")
    if play:
        files["played"] = path.with_name(f"{path.stem}_played{path.suffix}")
    if page:
        files["page"] = path.with_suffix(".html")
    return files


def check_outputs(recordings, outputs, overwrite=False, also_read=()):
    """Check that the outputs of recordings can be written and replace nothing that they should not.

    `recordings` are those of `find_recordings`, `outputs` the `name_files` of each, `also_read` the paths of other
    files that are read. Raises ValueError if an output would replace one of these or, without `overwrite`, a file that
    `Main.py` did not write, that was edited since or that is the output of another recording: see `marks`. Raises
    OSError if an output folder is not writable.
    """
    inputs = {file_identity(path) for path in (*(recording for recording, _ in recordings), *also_read)}
    edited, other = [], []
    for (recording, _), files in zip(recordings, outputs):
        for path in files.values():
            if file_identity(path) in inputs:
                raise ValueError(f"{path} would be written over a file that is read; choose another name or folder "
                                 "with -o")
            if path.exists():
                digest, unchanged = marks.read_mark(path) or (None, False)
                if not unchanged:
                    edited.append(str(path))
                elif recording.is_file() and digest != Util.file_digest(recording):
                    other.append(str(path))
    for paths, reason in ((edited, "not written by Main.py, or edited since"),
                          (other, "the output of another recording")):
        if paths and not overwrite:
            raise ValueError(f"{generated_files.join_names(paths)}: {reason}; choose another name or folder with -o, "
                             "or replace with --overwrite")
    for files in outputs:
        Util.check_writable(files["audio"])


def file_identity(path):
    """Return what two paths share that lead to the same file. The file need not exist."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path.resolve()
