"""The lag between two recordings of the same music, and its removal."""
import numpy as np

import Hyperparameters as hp

max_lag_frames = 86     # largest lag between the onsets that is searched for
lag_preference = 0.9    # share of the highest correlation from which a lag of at most one frame is preferred


def estimate_lag(source, target, most=max_lag_frames):
    """Return by how many frames, at most `most`, the spectrogram `target` [shape=(n_mels, t)] comes after `source`.

    The lag has the highest correlation of the onset strength, summed over the bands, so that pitches count as well as
    the rhythm. Music that repeats itself also correlates at its period, so a lag of at most one frame is preferred if
    its correlation is nearly as high (`lag_preference`).
    """
    frames = source.shape[1]
    if frames < 3:
        return 0
    rises = [np.maximum(np.diff(image, axis=1), 0) for image in (source, target)]
    first, second = (np.fft.rfft(rise - rise.mean(axis=1, keepdims=True), 2 * frames) for rise in rises)
    correlation = np.fft.irfft((first.conj() * second).sum(axis=0))
    most = min(most, frames - 2)
    best, near = (lags[np.argmax(correlation[lags])] for lags in (np.arange(-most, most + 1), np.arange(-1, 2)))
    return int(near if correlation[near] > lag_preference * correlation[best] else best)


def shift(audio, frames):
    """Return audio that begins so many frames later, or earlier if it is negative, with silence in front."""
    samples = frames * hp.hop_length
    return audio[samples:] if samples > 0 else np.pad(audio, (-samples, 0))
