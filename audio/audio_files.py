"""Read and write audio files: decoding by libsndfile or FFmpeg block by block, mixing of channels, resampling."""
import contextlib
import io
import itertools
import os
import shlex
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile

import Hyperparameters as hp
import Util

cancelled_db = -20      # level of the mean of the channels below the loudest, at which they cancel each other
offset_share = 0.01     # direct current from which on it is taken out, of the RMS level without it
read_frames = 1 << 18   # samples of a block
write_frames = 1 << 16  # the same; of more at once the encoder of ogg runs out of stack

# endings of the files that count as recordings in a folder; libsndfile reads the first row, FFmpeg the others
recording_endings = (
    ".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64",
    ".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".aac", ".amr",
    ".webm", ".mka", ".mkv", ".wma", ".wmv", ".asf", ".avi", ".ac3", ".mp2", ".mpg", ".mpeg", ".ape", ".wv",
)
# how each kind of file that we write is encoded; of mp3 and ogg the quality, from 0, the best, to 1
audio_formats = {".wav": dict(subtype="PCM_16"), ".flac": dict(subtype="PCM_16"),
                 ".ogg": dict(format="OGG", subtype="VORBIS", compression_level=0.2),
                 ".mp3": dict(format="MP3", bitrate_mode="VARIABLE", compression_level=0.0),
                 ".m4a": dict(format="M4A")}
aac_frames = 1024           # samples of a block of AAC
aac_bit_rate = 96_000       # bit/s per channel


class DecodingError(ValueError):
    """A decoder does not read a file."""


def read_audio(path, stereo=False):
    """Return a recording at `hp.sample_rate` [shape=(n,), float32; or (n, 2) with `stereo` and two channels].

    Any audio or video file that libsndfile or FFmpeg reads will do; of a file that is cut off, what is there. See
    `mix_channels` for what becomes of its channels. Raises FileNotFoundError if there is no such file. Raises
    ValueError if it is empty, not audio, holds no samples or infinite ones, claims a rate that no recording has, or
    with `stereo` has more than two channels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a recording")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file; record or export it again")
    audio = None
    for open_audio in (open_with_libsndfile, open_with_ffmpeg):
        try:
            audio = read_with(open_audio, path, stereo)
        except DecodingError:
            continue
        except ImportError:
            raise ValueError(f"{path} needs FFmpeg; install the package av (pip install av), or convert the file, for "
                             f"instance with {conversion_command(path)}") from None
        if audio.size:
            break
    if audio is None:
        raise ValueError(f"{path} is not audio that libsndfile or FFmpeg reads; export it again, as wav or flac")
    if not audio.size:
        raise ValueError(f"{path} has no samples; record or export it again")
    if not np.isfinite(audio).all():
        raise ValueError(f"{path} holds samples that are not finite; export it again")
    return audio


def read_with(open_audio, path, stereo):
    """Read a recording as `read_audio` by one of the decoders; without samples the result is empty."""
    def blocks():
        with open_audio(path) as (_, _, blocks):
            yield from blocks

    with open_audio(path) as (rate, channels, _):
        if not 1000 <= rate <= 1_000_000:  # a few seconds would become hours, or nothing
            raise ValueError(f"{path} claims a rate of {rate} Hz; export it again")
        if stereo and channels > 2:
            raise ValueError(f"{path} has {channels} channels; mix it to two, or leave --stereo out")
    return mix_channels(blocks, stereo and channels > 1, path, rate)


def conversion_command(path):
    """Return a command that converts a file to flac beside it, as the system's shell takes it."""
    command = ["ffmpeg", "-i", str(path), str(path.with_suffix(".flac"))]
    return subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)


@contextlib.contextmanager
def open_with_libsndfile(path):
    """Yield the sample rate in Hz, the number of channels and the blocks [shape=(n, channels), float32] of a file.
    Raises DecodingError if libsndfile does not read the file, or only its beginning."""
    try:
        with soundfile.SoundFile(path) as file:
            yield file.samplerate, file.channels, file.blocks(read_frames, dtype="float32", always_2d=True)
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
    """Yield as `open_with_libsndfile`, of the first audio stream of a file; damaged packets are skipped. Raises
    DecodingError if FFmpeg does not read the file, or finds no audio in it, ImportError without the package av."""
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
    """Mean and variance of some signals, from their blocks: the channels of a recording and, last, their mean."""

    def __init__(self):
        self.number, self.sum, self.squares = 0, 0.0, 0.0

    def add(self, block):
        """Count a block [shape=(n, signals)]."""
        block = block.astype(np.float64)
        self.number, self.sum = self.number + len(block), self.sum + block.sum(axis=0)
        self.squares = self.squares + (block ** 2).sum(axis=0)
        self.offset = self.sum / self.number  # direct current
        self.variance = np.maximum(self.squares / self.number - self.offset ** 2, 0)

    def cancelled(self):
        """Return the number of the loudest channel if the mean of the channels is far softer, else None."""
        *channels, mean = self.variance
        loudest = int(np.argmax(channels))
        return loudest if mean < channels[loudest] * 10 ** (cancelled_db / 10) else None

    def removable_offset(self, chosen):
        """Return the direct current to take out of signals: 0 where it is negligible, or the recording a click."""
        offset, power = self.offset[chosen], self.variance[chosen]
        removable = (offset ** 2 > offset_share ** 2 * power) & (self.number >= hp.n_fft)
        return np.where(removable, offset, 0).astype(np.float32)


def mix_channels(blocks, stereo, name, rate):
    """Return a recording as mono [shape=(n,), float32] or its first two channels [shape=(n, 2)], at `hp.sample_rate`.

    If the channels cancel each other, as in opposite phase, the loudest alone is used, with a warning that gives
    `name`. Direct current is taken out where there is much of it. `blocks` returns an iterable of the samples
    [shape=(n, channels), float32] at `rate` Hz, whenever it is called.
    """
    def mixed(offset=0):
        for block in blocks():
            signals = np.column_stack([block, block.mean(axis=1)])
            levels.add(signals)
            yield signals[:, chosen] - offset

    levels, chosen = Levels(), slice(0, 2) if stereo else -1
    with np.errstate(over="ignore", invalid="ignore"):  # samples that are not finite are refused later
        audio = resample_blocks(mixed(), rate)
    if not audio.size or not np.isfinite(audio).all():
        return audio
    cancelled = levels.cancelled()
    if cancelled is not None:
        chosen = cancelled
        Util.warn(f"the channels of {name} cancel each other; only channel {chosen + 1} is used")
    offset = levels.removable_offset(chosen)
    if cancelled is not None or offset.any():
        del audio
        audio = resample_blocks(mixed(offset), rate)
    return audio


def resample_blocks(blocks, rate):
    """Return blocks [shape=(n,) or (n, channels), float32] as one array at `hp.sample_rate`: see `resampled`. Memory
    holds the result, and one block of the source. Each resampled block is released once copied."""
    parts = list(resampled(blocks, rate, hp.sample_rate))
    if not parts:
        return np.zeros(0, np.float32)
    joined, start = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype), 0
    parts.reverse()
    while parts:
        part = parts.pop()
        joined[start:start + len(part)] = part
        start += len(part)
    return joined


def resampled(blocks, rate, to_rate):
    """Yield the audio of blocks [shape=(n,) or (n, channels), float32] from `rate` at `to_rate` Hz, of the length of
    `resample`."""
    if rate == to_rate:
        yield from blocks
        return
    import soxr

    number, made, stream = 0, 0, None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(rate, to_rate, block[0].size, dtype="float32", quality="HQ")
        number += len(block)
        part = stream.resample_chunk(np.ascontiguousarray(block))
        made += len(part)
        yield part
    if number:
        part = stream.resample_chunk(np.zeros((0, *block.shape[1:]), np.float32), last=True)
        yield fix_length(part, max(round(number * to_rate / rate), 1) - made)


def resample(audio, rate, to_rate=hp.sample_rate):
    """Bring audio [shape=(n,) or (n, channels), float32] from `rate` to `to_rate` Hz, as librosa does. It becomes n *
    to_rate / rate samples long, rounded, at least 1."""
    if rate == to_rate:
        return audio
    import soxr  # what librosa calls, which is slow to import

    resampled = soxr.resample(audio, rate, to_rate, quality="HQ")
    return fix_length(resampled, max(round(len(audio) * to_rate / rate), 1))


def fix_length(audio, length):
    """Cut audio [shape=(n,) or (n, channels)] to `length` samples, or pad it with silence."""
    if len(audio) >= length:
        return audio[:length]
    return np.pad(audio, [(0, length - len(audio))] + [(0, 0)] * (audio.ndim - 1))


def level_exponent(audio):
    """Return the exponent of 2 by which to divide audio to bring its largest sample from 1/2 to 1. Powers of samples at
    1e30 or 1e-30 are beyond single precision. Divided samples keep their other bits."""
    return int(np.frexp(max(audio.max(initial=0), -audio.min(initial=0)))[1])


def write_audio(path, audio, mark=None, rate=hp.sample_rate):
    """Write audio [shape=(n,) or (n, 2), in [-1, 1]] at `rate` Hz, with a `mark` in the metadata. The ending of `path`
    chooses wav or flac with 16 bits, ogg, mp3 or m4a."""
    how = audio_formats.get(Path(path).suffix.lower(), audio_formats[".wav"])
    with Util.atomic_write(path, mark) as temporary:
        try:
            encode_audio(temporary, audio, mark, rate, **how)
        except soundfile.LibsndfileError:  # which does not pass on what the system says
            raise OSError("no space left, or not allowed") from None


def encode_audio(file, audio, comment=None, rate=hp.sample_rate, **how):
    """Write audio as `write_audio` to a path or a binary file, in a format of libsndfile's, or to a path as m4a."""
    if how.get("format") == "M4A":
        return encode_m4a(file, audio, comment, rate)
    with soundfile.SoundFile(file, "w", rate, 1 if audio.ndim == 1 else audio.shape[1], **how) as opened:
        if comment:
            opened.comment = comment
        for start in range(0, len(audio), write_frames):
            opened.write(audio[start:start + write_frames])


def import_av():
    """Return the package av, which writes m4a by FFmpeg. Raises ValueError if it is not installed."""
    try:
        import av
    except ImportError:
        raise ValueError("m4a needs FFmpeg; install the package av (pip install av), or choose .wav, .flac, .ogg or "
                         ".mp3") from None
    return av


def encode_m4a(path, audio, comment, rate):
    """Write audio [shape=(n,) or (n, 2)] as AAC in an MP4 container, at `rate` Hz.

    `comment` is also the name of the track. `marks` finds this name near the beginning of a file of any length. The
    tags come after the table of blocks, which grows with the length.
    """
    av, layout, channels = import_av(), *(("mono", 1) if audio.ndim == 1 else ("stereo", 2))
    options = {"movflags": "faststart", "movie_timescale": str(rate)}  # else the length is in ms
    with av.open(Path(path).absolute(), "w", format="ipod", options=options) as container:
        stream = container.add_stream("aac", rate, layout=layout, bit_rate=aac_bit_rate * channels)
        if comment:
            container.metadata["comment"] = comment.partition("; content")[0]
            stream.metadata["handler_name"] = comment
        for start in range(0, len(audio), aac_frames):
            block = np.atleast_2d(audio[start:start + aac_frames].T.astype(np.float32))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def encoded(audio, **how):
    """Return audio [shape=(n,) or (n, 2)] as the bytes of a file: see `encode_audio`. An mp3 of mono audio has about 55
    kbit/s."""
    buffer = io.BytesIO()
    encode_audio(buffer, audio, **how)
    return buffer.getvalue()
