"""Read and check the recordings to convert: files and arrays."""
import contextlib
from pathlib import Path

import numpy as np

from audio import audio_files


def read_input(recording, sample_rate=None, stereo=False):
    """Return a recording at `hp.sample_rate`, given as a path or as an array: see `Main.pipeline`."""
    if not isinstance(recording, (str, Path)):
        return check_array(recording, sample_rate, stereo)
    if sample_rate is not None:
        raise ValueError(f"sample_rate is for arrays; {recording} has its own sample rate")
    return read_recording(recording, stereo)


def read_recording(path, stereo=False):
    """Read a recording with `audio_files.read_audio`. Raises ValueError if the recording is silent."""
    audio = audio_files.read_audio(path, stereo)
    if not audio.any():
        raise ValueError(f"{path} is silent; choose another recording")
    return audio


def check_array(audio, rate, stereo=False):
    """Convert an array of samples to a recording at `hp.sample_rate` [shape=(n,), float32], or (n, 2) with `stereo`.
    `audio` [shape=(n,) or (n, channels)] holds samples in [-1, 1], or integers over their full range. Raises ValueError
    if the rate in Hz is missing or implausible, or if the array is not audio, not finite or silent."""
    audio = np.asarray(audio)
    if rate is None or not 1000 <= rate <= 1_000_000:
        raise ValueError(f"an array needs its sample rate in Hz, as in sample_rate=44100, not {rate}")
    if audio.ndim not in (1, 2) or not audio.size or audio.ndim > 1 and audio.shape[1] > max(len(audio), 2):
        raise ValueError(f"an array of shape {audio.shape} is no recording; give (samples,) or (samples, channels)")
    if audio.dtype.kind in "iu":
        middle, scale = (128, 128) if audio.dtype == np.uint8 else (0, -float(np.iinfo(audio.dtype).min) or 1)
        audio = (audio - np.float64(middle)) / scale
    audio = audio.astype(np.float32).reshape(len(audio), -1)
    if not np.isfinite(audio).all():
        raise ValueError("the array holds samples that are not finite")
    if stereo and audio.shape[1] > 2:
        raise ValueError(f"the array has {audio.shape[1]} channels; mix it to two, or leave stereo out")
    audio = audio_files.mix_channels(lambda: [audio], stereo and audio.shape[1] > 1, "the array", rate)
    if not audio.any():
        raise ValueError("the array is silent; choose another recording")
    return audio


def check_limits(path, limit_s, limit_bytes):
    """Raise ValueError if a recording is longer than `limit_s` seconds or larger than `limit_bytes`. The samples are
    counted, because the header of a file may be wrong or lack the length. At most `limit_s` seconds and one block are
    decoded. A file that is missing or not audio raises nothing: see `audio_files.read_audio`."""
    if not path.exists():
        return
    if path.stat().st_size > limit_bytes:
        raise ValueError(f"{path} is larger than {limit_bytes / 2 ** 20:g} MB; save it as mp3 or m4a")
    for open_audio in (audio_files.open_with_libsndfile, audio_files.open_with_ffmpeg):
        with contextlib.suppress(audio_files.DecodingError, ImportError), open_audio(path) as (rate, _, blocks):
            samples = 0
            for block in blocks:
                samples += len(block)
                if samples > limit_s * rate:
                    raise ValueError(f"{path} is longer than {limit_s / 60:g} minutes; cut it into shorter parts")
            if samples:
                return
