"""Audio files -> samples: decoding by libsndfile or FFmpeg block by block, mixing of channels, resampling."""
import contextlib
import io
import itertools
import os
import shlex
import subprocess

import numpy as np
import soundfile

import Hyperparameters as hp

# endings of the files that count as recordings in a folder; libsndfile reads the first row, FFmpeg the others
recording_endings = (
    ".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64",
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".amr",
    ".webm", ".mka", ".mkv", ".wma", ".wmv", ".asf", ".avi", ".ac3", ".mp2", ".mpg", ".mpeg", ".ape", ".wv",
)
block_frames = 1 << 18


class DecodingError(ValueError):
    """A decoder does not read a file."""


@contextlib.contextmanager
def open_with_libsndfile(path):
    """Open an audio file with libsndfile.

    Yields
    ------
    (int, int, iterator of np.ndarray [shape=(n, channels), float32])
        Sample rate in Hz, number of channels, and the samples block by block.

    Raises
    ------
    DecodingError
        If libsndfile does not read the file, or only its beginning.
    """
    try:
        with soundfile.SoundFile(path) as file:
            yield file.samplerate, file.channels, file.blocks(block_frames, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: x.raw, which it takes for bare samples
        raise DecodingError(str(error)) from None


class SeekableFile(io.FileIO):
    """A file that answers an impossible seek with -1, as FFmpeg expects. PyAV prints a traceback for an exception."""

    def seek(self, offset, whence=os.SEEK_SET):
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


@contextlib.contextmanager
def open_with_ffmpeg(path):
    """Open an audio or video file with FFmpeg. Yields as `open_with_libsndfile`, of the first audio stream.

    Damaged packets are skipped, as players do.

    Raises
    ------
    DecodingError
        If FFmpeg does not read the file, or finds no audio in it.
    ImportError
        If the package av is missing.
    """
    import av  # brings FFmpeg; most recordings do not need it

    try:
        # a playlist may not open other files: only this one is open
        how = dict(metadata_errors="ignore", options={"protocol_whitelist": "none"})
        with SeekableFile(path) as file, av.open(file, **how) as container:
            if not container.streams.audio:
                raise DecodingError("no audio stream")
            frames = ffmpeg_frames(container, container.streams.audio[0])
            first = next(frames, None)
            if first is None:
                raise DecodingError("no samples")
            channels = first.layout.nb_channels  # of the first frame: the header may name half the rate
            yield first.sample_rate, channels, ffmpeg_blocks(first, frames)
    except (av.error.FFmpegError, OSError) as error:
        if not isinstance(error, av.error.FFmpegError) and str(error.filename) == str(path):  # not opened at all
            raise
        raise DecodingError(str(error)) from None


def ffmpeg_frames(container, stream):
    """Yield the decoded frames of an audio stream, without the packets that are damaged."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):  # the end, or where the file is cut off
            return
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def ffmpeg_blocks(first, frames):
    """Yield the samples [shape=(n, channels), float32] of decoded frames, at the rate and channels of the first."""
    import av

    resamplers = {}  # one per kind of frame: the kind may change within a file
    for frame in itertools.chain([first], frames):
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind not in resamplers:
            resamplers[kind] = av.AudioResampler(format="flt", layout=first.layout, rate=first.sample_rate)
        for part in resamplers[kind].resample(frame):
            yield part.to_ndarray().reshape(-1, first.layout.nb_channels)
    for resampler in resamplers.values():
        for part in resampler.resample(None):
            yield part.to_ndarray().reshape(-1, first.layout.nb_channels)


class Levels:
    """Mean and variance of each channel of a recording, and of the mean of the channels, from its blocks."""

    def __init__(self):
        self.number, self.sum, self.squares = 0, 0.0, 0.0

    def add(self, block):
        """Count a block [shape=(n, channels)]."""
        columns = np.column_stack([block, block.mean(axis=1)]).astype(np.float64)
        self.number, self.sum = self.number + len(block), self.sum + columns.sum(axis=0)
        self.squares = self.squares + (columns ** 2).sum(axis=0)

    @property
    def offset(self):
        """The mean of each channel and of their mean: direct current."""
        return self.sum / self.number

    @property
    def variance(self):
        """Their power without direct current."""
        return np.maximum(self.squares / self.number - self.offset ** 2, 0)

    def cancelled(self):
        """Return the number of the loudest channel if the mean of the channels is far softer, as in opposite phase,
        else None. See `hp.cancelled_db`."""
        *channels, mean = self.variance
        loudest = int(np.argmax(channels))
        return loudest if mean < channels[loudest] * 10 ** (hp.cancelled_db / 10) else None

    def removable_offset(self, mixed):
        """Return the direct current to take out of some columns of `offset`: 0 where it is negligible, and in a click
        of less than `hp.n_fft` samples, whose mean is no direct current."""
        offset, power = self.offset[mixed], self.variance[mixed]
        removable = (offset ** 2 > hp.offset_share ** 2 * power) & (self.number >= hp.n_fft)
        return np.where(removable, offset, 0).astype(np.float32)


def mix_channels(blocks, stereo=False, rate=None):
    """Mix a recording to mono, or keep its two channels, without direct current where there is much of it.

    Parameters
    ----------
    blocks : callable
        Returns an iterable of the samples [shape=(n, channels), float32]. It is called once more if the channels
        cancel each other, or if there is direct current.
    stereo : bool
        Keep the first two channels.
    rate : float, optional
        Sample rate in Hz, from which the result is resampled to `hp.sample_rate`.

    Returns
    -------
    (np.ndarray [shape=(n,) or (n, 2), float32], int or None)
        The sound, and the number of its only channel if the channels cancel each other.
    """
    def mix(block, mixed, offset=0):
        return (block.mean(axis=1) if mixed == -1 else block[:, mixed]) - offset

    def measured():
        for block in blocks():
            levels.add(block)
            yield mix(block, mixed)

    levels, rate, mixed = Levels(), rate or hp.sample_rate, slice(0, 2) if stereo else -1
    audio = resample_blocks(measured(), rate)
    if not audio.size or not np.isfinite(audio).all():
        return audio, None
    cancelled = levels.cancelled()
    mixed = mixed if cancelled is None else cancelled
    offset = levels.removable_offset(mixed)
    if cancelled is not None or offset.any():
        del audio
        audio = resample_blocks((mix(block, mixed, offset) for block in blocks()), rate)
    return audio, cancelled


def resample_blocks(blocks, rate):
    """Return audio in blocks [shape=(n,) or (n, channels), float32] as one array, resampled from `rate` Hz to
    `hp.sample_rate` as `Util.resample` does it. Memory holds the result, and one block of the source."""
    if rate == hp.sample_rate:
        return join(list(blocks))
    import soxr

    number, stream, parts = 0, None, []
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(rate, hp.sample_rate, block[0].size, dtype="float32", quality="HQ")
        number += len(block)
        parts.append(stream.resample_chunk(np.ascontiguousarray(block)))
    if not number:
        return np.zeros(0, np.float32)
    parts.append(stream.resample_chunk(np.zeros((0, *block.shape[1:]), np.float32), last=True))
    return fix_length(join(parts), max(round(number * hp.sample_rate / rate), 1))


def join(parts):
    """Concatenate a list of arrays along their first axis. Each is released once it is copied: the list is empty
    afterwards."""
    if not parts:
        return np.zeros(0, np.float32)
    joined, start = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype), 0
    parts.reverse()
    while parts:
        part = parts.pop()
        joined[start:start + len(part)] = part
        start += len(part)
    return joined


def fix_length(audio, length):
    """Cut audio [shape=(n,) or (n, channels)] to `length` samples, or pad it with silence."""
    if len(audio) >= length:
        return audio[:length]
    return np.pad(audio, [(0, length - len(audio))] + [(0, 0)] * (audio.ndim - 1))


def conversion_hint(path):
    """Return a command that converts a file to flac beside it, as the system's shell takes it."""
    command = ["ffmpeg", "-i", str(path), str(path.with_suffix(".flac"))]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
