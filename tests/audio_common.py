"""What the tests of recordings share: sounds, and files of all kinds that hold them."""
import io

import numpy as np
import soundfile

import Hyperparameters as hp


def tone(seconds=1.0, rate=hp.sample_rate):
    """Return a sine of 440 Hz."""
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def rms(audio):
    return float(np.sqrt(np.mean(np.square(audio, dtype=float))))


def encode(audio, ending, codec, rate=hp.sample_rate):
    """Return audio [shape=(n,) or (n, 2)] as the bytes of a file, by libsndfile or, in its other containers, FFmpeg."""
    import av

    buffer, layout = io.BytesIO(), "mono" if audio.ndim == 1 else "stereo"
    if ending.upper() in soundfile.available_formats():
        soundfile.write(buffer, audio, rate, format=ending, subtype=codec)
        return buffer.getvalue()
    form = {"aac": "adts", "m4a": "mp4", "mka": "matroska", "wma": "asf"}.get(ending, ending)
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(np.atleast_2d(audio.T)), "fltp", layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or 1024)
        for part in (*resampler.resample(frame), None):
            container.mux(stream.encode(part))
    return buffer.getvalue()


def damaged(good, rng):
    """Damage bytes: cut them, flip bits, overwrite, remove or insert parts, or change the header."""
    bad, start = bytearray(good), int(rng.integers(len(good)))
    length = int(rng.integers(1, 1 + min(len(good), 400)))
    kind = rng.integers(7)
    if kind == 0:
        return good[:start]
    if kind == 1:
        for place in rng.integers(len(good), size=rng.integers(1, 20)):
            bad[place] ^= 1 << rng.integers(8)
    elif kind == 2:
        bad[start:start + length] = rng.bytes(length)
    elif kind == 3:
        bad[start:start + length] = bytes([rng.choice((0, 255, 127))]) * length
    elif kind == 4:
        del bad[start:start + length]
    elif kind == 5:
        bad[start:start] = good[:length]
    else:  # the header
        bad[rng.integers(min(len(good), 64))] = rng.integers(256)
    return bytes(bad)
