"""Match the loudness of the output to that of the recording."""
import numpy as np

import Hyperparameters as hp
from audio import audio_files


def norm(audio, exponent=0):
    """Return the Euclidean norm of audio divided by 2 ** `exponent`, computed in blocks."""
    block = 1 << 20
    parts = (np.ldexp(audio[start:start + block], -exponent).ravel() for start in range(0, len(audio), block))
    return np.float32(np.sqrt(sum(float(part @ part) for part in parts)))


def match_rms(recording, audio, share=1):
    """Scale `audio` in place to `share` of the power of `recording`, or to the peak `hp.peak` if softer; return it."""
    peak = max(audio.max(), -audio.min())
    if peak > 0:
        exponent = audio_files.level_exponent(recording)
        louder = np.ldexp(float(norm(recording, exponent) / norm(audio)), exponent) * share ** 0.5
        audio *= np.float32(min(louder, hp.peak / peak))
    return audio
