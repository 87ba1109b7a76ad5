"""Wav -> log-mel spectrogram: the one front end that training and `Main.pipeline` share, and its inverse.

`build(data)` stores the spectrograms of every pair of wavs in data/piano and data/synth, once, as
data/generated/<piece>/piano.npy and synth.npy.
"""
import functools
from pathlib import Path

import librosa
import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util

audio_endings = (".wav", ".flac", ".ogg", ".mp3")


@functools.cache
def mel_filters():
    """Return the mel filter bank (Slaney's scale and norm, librosa's default) [shape=(n_mels, 1 + n_fft / 2)]."""
    return librosa.filters.mel(sr=hp.sample_rate, n_fft=hp.n_fft, n_mels=hp.n_mels, fmin=hp.fmin, fmax=hp.fmax)


def stft(audio, center=True):
    """Short-time Fourier transform, Hann window [shape=(1 + n_fft / 2, t), complex64].

    Frame i is centred on sample i * hop_length, so t = 1 + len(audio) // hop_length; with `center=False` it starts
    there.
    """
    return librosa.stft(audio, n_fft=hp.n_fft, hop_length=hp.hop_length, center=center)


def mel_power(spectrum):
    """Mel power [shape=(n_mels, t)] of an STFT [shape=(1 + n_fft / 2, t)]."""
    return mel_filters() @ (np.abs(spectrum) ** 2)


def log_mel(power, reference):
    """Mel power as dB relative to the power `reference`, from [-top_db, 0] mapped to [0, 1] (report: data set).

    The map is fixed, so `mel_from_log` undoes it for all that lies within `top_db` of the reference.
    """
    if reference <= 0:
        return np.zeros_like(power)
    return Util.to_unit(10 * np.log10(np.maximum(power / reference, 1e-12)))


def mel_from_log(spectrogram):
    """Mel power relative to its reference, the inverse of `log_mel`; a band at the floor has no power at all."""
    return np.where(spectrogram > 0, 10 ** (Util.to_db(spectrogram) / 10), 0).astype(np.float32)


def spectrogram(audio):
    """Log-mel spectrogram of a clip, relative to its own maximum [shape=(n_mels, len(audio) // hop_length), at least 1].

    The frame centred on the very end is left out: 30 s are 2,583 frames, as in the report.
    """
    power = mel_power(stft(audio))[:, :max(len(audio) // hp.hop_length, 1)]
    return log_mel(power, power.max())


def pairs(data=hp.data):
    """Map piece -> (piano recording, synth recording), matched by name.

    Raises FileNotFoundError if a folder is empty, ValueError naming the recordings without a partner.
    """
    piano, synth = (Util.pieces(Path(data) / name, audio_endings) for name in ("piano", "synth"))
    alone = sorted({str(piano.get(name) or synth.get(name)) for name in piano.keys() ^ synth.keys()})
    if alone:
        raise ValueError(f"no partner of the same name in the other folder for {', '.join(alone)}; "
                         "render it (MIDI2Audio.py) or remove it")
    return {name: (piano[name], synth[name]) for name in piano}


def build(data=hp.data):
    """Store the log-mel spectrograms of every pair below `data`; what is there and not older than its wav is kept.

    Returns the names of the pieces. Raises as `pairs`, and ValueError for a recording that is not audio or silent,
    or whose length differs from its partner's by more than a frame.
    """
    found = pairs(data)
    for name, recordings in tqdm(found.items(), desc="spectrograms", unit="piece"):
        folder = Path(data) / "generated" / name
        outputs = folder / "piano.npy", folder / "synth.npy"
        if all(map(Util.newer, outputs, recordings)):
            continue
        clips = [Util.read_audio(recording)[:hp.limit_s * hp.sample_rate] for recording in recordings]
        for clip, recording in zip(clips, recordings):
            if not clip.any():
                raise ValueError(f"{recording} is silent; record it again or remove the pair")
        if abs(clips[0].size - clips[1].size) > hp.hop_length:
            raise ValueError(f"{recordings[0]} and {recordings[1]} differ in length by "
                             f"{abs(clips[0].size - clips[1].size) / hp.sample_rate:.2f} s; they have to be aligned")
        size = min(clip.size for clip in clips)
        for clip, output in zip(clips, outputs):
            Util.save_array(output, spectrogram(clip[:size]).astype(np.float16))
    return list(found)
