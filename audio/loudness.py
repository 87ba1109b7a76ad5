"""Match the loudness of the output to that of the recording."""
import numpy as np

import Hyperparameters as hp
from audio import audio_files

levels = ("recorded", "peak")   # as loud as the recording; as loud as possible


def check_level(level):
    """Raise ValueError if `level` is not one of `levels`."""
    if level not in levels:
        raise ValueError(f"level is 'recorded' or 'peak', not '{level}'")


def norm(audio, exponent=0):
    """Return the Euclidean norm of audio divided by 2 ** `exponent`, computed in blocks."""
    block = 1 << 20
    parts = (np.ldexp(audio[start:start + block], -exponent).ravel() for start in range(0, len(audio), block))
    return np.float32(np.sqrt(sum(float(part @ part) for part in parts)))


def match_level(recording, audio, share=1, level="recorded"):
    """Scale `audio` in place and return it: to `share` of the mean power of `recording`, or to the peak `hp.peak` if
    that is softer, or if `level` is "peak". The two may differ in sample rate and channels."""
    peak = max(audio.max(), -audio.min())
    if peak > 0:
        exponent = audio_files.level_exponent(recording)
        louder = np.ldexp(float(norm(recording, exponent) / norm(audio)), exponent) * share ** 0.5
        louder *= (audio.size / recording.size) ** 0.5
        audio *= np.float32(hp.peak / peak if level == "peak" else min(louder, hp.peak / peak))
    return audio
