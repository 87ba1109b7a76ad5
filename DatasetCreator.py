"""Wav -> log-mel spectrogram: the one front end that training and `Main.pipeline` share, and its inverse.

`build(data)` stores the spectrograms of every pair of wavs in data/piano and data/synth, once, as
data/generated/<piece>/piano.npy and synth.npy; `python DatasetCreator.py` does it from the command line.
"""
import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import Hyperparameters as hp
import Util

audio_endings = (".wav", ".flac", ".ogg", ".mp3")


def front_end():
    """The numbers that a trained network depends on."""
    return {name: getattr(hp, name)
            for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "fmin", "fmax", "top_db", "pitch_n_fft",
                         "pitch_hop_length", "pitch_bands_per_key", "n_pitches")}


def trained_for(data=hp.data):
    """The front end, and the instruments in `data`: their presets where MIDI2Audio.py has rendered them.

    Of what it has not rendered there is no more to say than "recordings".
    """
    notes = [Path(data) / folder / "preset.txt" for folder in [*sources(data), "synth"]]
    presets = [" ".join(Util.read_text(note).split()) if note.exists() else "recordings" for note in notes]
    return {"front_end": front_end(), "pair": f"{', '.join(presets[:-1])} -> {presets[-1]}"}


@functools.cache
def mel_filters():
    """Return the mel filter bank (Slaney's scale and norm, librosa's default) [shape=(n_mels, 1 + n_fft / 2)]."""
    edges = Util.mel_frequencies(hp.n_mels + 2, hp.fmin, hp.fmax)
    slopes = edges[:, None] - np.fft.rfftfreq(hp.n_fft, 1 / hp.sample_rate)
    width = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / width[:-1], slopes[2:] / width[1:])).astype(np.float32)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def stft(audio, center=True, n_fft=None, hop_length=None):
    """Short-time Fourier transform, Hann window, as librosa's [shape=(1 + n_fft / 2, t), complex64].

    Frame i is centred on sample i * hop_length, so t = 1 + len(audio) // hop_length; with `center=False` it starts
    there.
    """
    n_fft, hop_length = n_fft or hp.n_fft, hop_length or hp.hop_length
    audio = np.pad(audio, n_fft // 2) if center else audio
    frames = np.lib.stride_tricks.sliding_window_view(audio, n_fft)[::hop_length]
    window = 0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, n_fft + 1)[:-1])
    spectrum = np.empty((len(frames), 1 + n_fft // 2), np.complex64)
    for i in range(0, len(frames), 64):  # in double precision, a few at a time: what fits in the cache
        spectrum[i:i + 64] = np.fft.rfft(window * frames[i:i + 64])
    return spectrum.T


def mel_power(spectrum):
    """Mel power [shape=(n_mels, t)] of an STFT [shape=(1 + n_fft / 2, t)]."""
    return mel_filters() @ (np.abs(spectrum) ** 2)


@functools.cache
def pitch_filters():
    """Return triangular filters, a third of a semitone apart from just below the lowest key on
    [shape=(n_pitches, 1 + pitch_n_fft / 2)].

    Each is as wide as its distance to its neighbours, or a bin of the transform where that is more, and sums to one.
    """
    numbers = np.arange(-2, hp.n_pitches + 1) / hp.pitch_bands_per_key + hp.lowest_key  # and both neighbours
    below, centre, above = (440 * 2 ** ((numbers[i:i + hp.n_pitches, None] - 69) / 12) for i in range(3))
    step = hp.sample_rate / hp.pitch_n_fft
    hertz = np.arange(hp.pitch_n_fft // 2 + 1) * step
    below, above = np.minimum(below, centre - step), np.maximum(above, centre + step)
    filters = np.clip(np.minimum((hertz - below) / (centre - below), (above - hertz) / (above - centre)), 0, None)
    return (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)


def pitch_power(audio, center=True):
    """Power in bands of a third of a semitone [shape=(n_pitches, 1 + len(audio) // pitch_hop_length)].

    From a transform four times as long as that of the mel spectrogram, whose bands lie 25 Hz apart in the bass, where a
    semitone is 2 to 8. Frame i is centred where frame 2 i of the mel spectrogram is.
    """
    return pitch_filters() @ (np.abs(stft(audio, center, hp.pitch_n_fft, hp.pitch_hop_length)) ** 2)


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
    """Log-mel spectrogram of a clip, relative to its own maximum [shape=(n_mels, t)].

    t = len(audio) // hop_length, at least 1. The frame centred on the very end is left out: 30 s are 2,583 frames, as
    in the report.
    """
    power = mel_power(stft(Util.normalised(audio)[0]))[:, :max(len(audio) // hp.hop_length, 1)]
    return log_mel(power, power.max())


def pitch_spectrogram(audio):
    """`pitch_power` of a clip as `log_mel`, relative to its own maximum [shape=(n_pitches, ceil(t / 2))], for the t
    frames of its `spectrogram`."""
    frames = max(len(audio) // hp.hop_length, 1)
    power = pitch_power(Util.normalised(audio)[0])[:, :-(-frames // 2)]
    return log_mel(power, power.max())


def power_from_mel(mel, start, device="cpu"):
    """Power spectrum whose mel power is `mel`: KL-divergence multiplicative updates (Lee and Seung 2001,
    "Algorithms for non-negative matrix factorization", with the filter bank as the fixed factor).

    Least squares cares for the loudest bands alone; this divergence also for the soft ones, which the ear hears.

    Parameters
    ----------
    mel : np.ndarray [shape=(n_mels, t)]
    start : np.ndarray [shape=(1 + n_fft / 2, t)]
        A power spectrum to start from. Each frame's level is of no matter; within a band its shape remains, so the
        spectrum of the recording itself, which has its pitches, is a good one.
    device : torch.device or str
        Where it is computed.

    Returns
    -------
    np.ndarray [shape=(1 + n_fft / 2, t)]
    """
    filters, mel, start = (torch.from_numpy(array).to(device) for array in (mel_filters(), mel, start))
    weights = filters.sum(dim=0)[:, None]
    spread = (filters.T / weights.clip(1e-20)).contiguous()
    power = torch.where(weights > 0, start / (start.amax(dim=0) + 1e-20) + hp.kl_floor, 0)
    for _ in range(hp.kl_iterations):
        power *= spread @ (mel / (filters @ power + 1e-20))
    return power.cpu().numpy()


def griffin_lim(magnitude, phase, iterations=None, device="cpu"):
    """Audio whose STFT has the given magnitude: Griffin and Lim (1984) with the momentum of Perraudin, Balazs and
    Soendergaard (2013, "A fast Griffin-Lim algorithm"), started from the phase of an STFT.

    Parameters
    ----------
    magnitude : np.ndarray [shape=(1 + n_fft / 2, t) or (1 + channels, 1 + n_fft / 2, t)]
        Of several, the first is that of the mean of all others, which are kept to it.
    phase : np.ndarray [shape as magnitude, complex]
        Only its angle counts.
    iterations : int, optional
        By default `hp.griffin_lim_iterations`.
    device : torch.device or str
        Where it is computed.

    Returns
    -------
    np.ndarray [shape=((t - 1) * hop_length,) or (1 + channels, (t - 1) * hop_length)], float32
    """
    def rebuild(spectrum):
        audio = torch.istft(spectrum, **frame, length=size)
        if audio.ndim > 1:
            audio[1:] += audio[0] - audio[1:].mean(dim=0)
        return audio

    iterations = hp.griffin_lim_iterations if iterations is None else iterations
    window = torch.hann_window(hp.n_fft).to(device)
    frame = dict(n_fft=hp.n_fft, hop_length=hp.hop_length, window=window)
    phase = np.where(np.abs(phase) > 1e-30, phase, 1)  # smaller ones have none that torch could tell
    magnitude, estimate = (torch.from_numpy(array).to(device) for array in (magnitude, phase))
    size, previous = (magnitude.shape[-1] - 1) * hp.hop_length, 0
    for _ in range(iterations):
        rebuilt = torch.stft(rebuild(magnitude * estimate.sgn()), **frame, pad_mode="constant", return_complex=True)
        estimate = rebuilt - hp.griffin_lim_momentum / (1 + hp.griffin_lim_momentum) * previous
        previous = rebuilt
    return rebuild(magnitude * estimate.sgn()).cpu().numpy()


def inversion_device(device):
    """The device itself, but for Apple's MPS, which lacks complex numbers in some versions of torch, the processor."""
    return "cpu" if torch.device(device).type == "mps" else device


def invert(mel, guide, inversion=hp.inversion, device="cpu"):
    """Mel power -> audio.

    Parameters
    ----------
    mel : np.ndarray [shape=(n_mels, t)]
        At least two frames.
    guide : np.ndarray [shape=(1 + n_fft / 2, t), complex]
        STFT of the recording that `mel` was made from. It shares onsets and pitches with the sound to be found:
        its power spectrum and its phase are where the search starts.
    inversion : str
        "kl": `power_from_mel`, then `griffin_lim`, both from `guide`. "report": librosa's non-negative least squares
        and its Griffin-Lim with 32 iterations from random phase, without a guide, as in the report.
    device : torch.device or str
        Where "kl" is computed, see `inversion_device`; "report" is computed on the processor.

    Returns
    -------
    np.ndarray [shape=((t - 1) * hop_length,)], float32

    Raises
    ------
    ValueError
        For another `inversion`.
    """
    if inversion == "report":
        import librosa  # slow to import, and needed for nothing else here

        magnitude = librosa.feature.inverse.mel_to_stft(mel, sr=hp.sample_rate, n_fft=hp.n_fft, fmin=hp.fmin,
                                                        fmax=hp.fmax)
        return librosa.griffinlim(magnitude, n_iter=32, hop_length=hp.hop_length, random_state=hp.seed)
    if inversion != "kl":
        raise ValueError(f"inversion is 'kl' or 'report', not '{inversion}'")
    device = inversion_device(device)
    power = power_from_mel(mel, np.abs(guide) ** 2, device)
    return griffin_lim(np.sqrt(power), guide, device=device)


def sources(data=hp.data):
    """Names of the folders with pianos below `data`: "piano", and "piano_2" and so on where there are several."""
    return ["piano", *Util.numbered(data, "piano")]


def pairs(data=hp.data, source="piano"):
    """Map piece -> (recording in `source`, recording in synth), matched by name.

    Raises FileNotFoundError if a folder is empty, ValueError naming the recordings without a partner.
    """
    piano, synth = (Util.pieces(Path(data) / name, audio_endings) for name in (source, "synth"))
    alone = sorted({str(piano.get(name) or synth.get(name)) for name in piano.keys() ^ synth.keys()})
    if alone:
        raise ValueError(f"no partner of the same name in the other folder for {', '.join(alone)}; "
                         "render it (MIDI2Audio.py) or remove it")
    return {name: (piano[name], synth[name]) for name in piano}


def build(data=hp.data, shard=(0, 1)):
    """Store the log-mel spectrograms of every pair below `data`; what is there and not older than its wav is kept.

    `shard` (i, n) does every n-th pair from the i-th on, so that n machines share the work. Returns the names of all
    pieces. Spectrograms of another front end or `hp.limit_s` are removed first. Raises as `pairs`, and ValueError for a
    recording that is not audio or silent, or whose length differs from its partner's by more than a frame.
    """
    found = {(source, name): recordings for source in sources(data) for name, recordings in pairs(data, source).items()}
    renew(Path(data) / "generated")
    for source, name in tqdm(sorted(found)[shard[0]::shard[1]], desc="spectrograms", unit="piece"):
        folder, notes = Path(data) / "generated" / name, Path(data) / "notes" / f"{name}.mid"
        store(found[source, name], [folder / f"{side}.npy" for side in (source, "synth")])
        if notes.exists():
            store_notes(found[source, name][0], notes, folder / f"{source}.npy", folder / f"{source}_pitch.npy",
                        folder / "notes.npy")
    return sorted({name for _, name in found})


def renew(folder):
    """Note in `folder` what its spectrograms depend on, having removed them if that was another.

    Without a note they are kept.
    """
    note, text = folder / "front_end.json", json.dumps({**front_end(), "limit_s": hp.limit_s}, indent=1) + "\n"
    stored = Util.modified(folder.glob("*/*.npy"))  # before the note is read, which another shard writes first
    if note.exists():
        if Util.read_text(note) == text:
            return
        Util.remove(stored)
    Util.save_text(note, text)


def store(recordings, outputs):
    """Write the spectrograms of a pair of recordings, where one is missing or older than its recording."""
    stale = [not Util.newer(output, recording) for output, recording in zip(outputs, recordings)]
    if not any(stale):
        return
    clips = [Util.read_audio(recording)[:hp.limit_s * hp.sample_rate] for recording in recordings]
    for clip, recording in zip(clips, recordings):
        if not clip.any():
            raise ValueError(f"{recording} is silent; record it again or remove the pair")
    if abs(clips[0].size - clips[1].size) > hp.hop_length:
        raise ValueError(f"{recordings[0]} and {recordings[1]} differ in length by "
                         f"{abs(clips[0].size - clips[1].size) / hp.sample_rate:.2f} s; they have to be aligned")
    size = min(clip.size for clip in clips)
    spectrograms = [spectrogram(clip[:size]) for clip in clips]
    late = offset(*spectrograms)
    if abs(late) > 1:
        tqdm.write(f"warning: {recordings[1]} comes {late * hp.hop_length / hp.sample_rate:+.3f} s after "
                   f"{recordings[0]}; shift one of them", file=sys.stderr)
    for image, output, old in zip(spectrograms, outputs, stale):
        if old:
            Util.save_array(output, image.astype(np.float16))


def pitch_beside(recording, frames):
    """Return the pitch spectrogram of a file, as long as its stored mel spectrogram of so many frames."""
    return pitch_spectrogram(Util.read_audio(recording)[:hp.limit_s * hp.sample_rate])[:, :-(-frames // 2)]


def store_notes(recording, midi_path, mel, pitch, notes):
    """Write the pitch spectrogram of a recording, as long as that in `mel`, and the notes of its MIDI file, where
    missing or older than these."""
    if not Util.newer(pitch, mel):
        frames = Util.load_array(mel, np.float16, mmap_mode="r").shape[1]
        Util.save_array(pitch, pitch_beside(recording, frames).astype(np.float16))
    if not Util.newer(notes, midi_path):
        Util.save_array(notes, Util.read_notes(midi_path))


def has_notes(names, data=hp.data):
    """Whether each of the pieces has its notes, data/notes/<piece>.mid. Raises ValueError if only some of them have."""
    without = [name for name in names if not (Path(data) / "notes" / f"{name}.mid").exists()]
    if without and len(without) < len(names):
        raise ValueError(f"{Path(data) / 'notes'} lacks {', '.join(without[:10])}; put their MIDI files there, or "
                         "remove the folder to train without notes")
    return not without


def offset(source, target, most=86):
    """Frames by which the onsets of `target` come after those of `source` [both shape=(n_mels, t)], at most `most`.

    The lag of the highest correlation of the onsets, the rise from frame to frame, band by band: the pitches tell apart
    what the rhythm alone would not. Music that repeats itself correlates at its period too, so a lag of at most a frame
    is taken if it is nearly as good.
    """
    frames = source.shape[1]
    if frames < 3:
        return 0
    rises = [np.maximum(np.diff(image, axis=1), 0) for image in (source, target)]
    first, second = (np.fft.rfft(rise - rise.mean(axis=1, keepdims=True), 2 * frames) for rise in rises)
    correlation = np.fft.irfft((first.conj() * second).sum(axis=0))
    lags = np.arange(-min(most, frames - 2), min(most, frames - 2) + 1)
    best, near = (part[np.argmax(correlation[part])] for part in (lags, np.arange(-1, 2)))
    return int(near if correlation[near] > 0.9 * correlation[best] else best)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Store the spectrograms of data/piano and data/synth; AEMain.py does "
                                     "it too.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/ (default: data/)")
    parser.add_argument("--shard", type=Util.shard, default=(0, 1), metavar="I/N",
                        help="do every N-th pair from the I-th on, from 0")
    options = parser.parse_args(arguments)
    build(options.data, options.shard)


if __name__ == "__main__":
    Util.run(main)
