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
from tqdm import tqdm

import Decoding
import Hyperparameters as hp
import Notes
import Util

audio_endings = Decoding.recording_endings


def front_end():
    """The numbers that a trained network depends on."""
    return {name: getattr(hp, name)
            for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "fmin", "fmax", "top_db", "pitch_n_fft",
                         "pitch_hop_length", "pitch_bands_per_key", "n_pitches")}


def trained_for(data=None):
    """The front end, and the instruments in `data`: their presets where MIDI2Audio.py has rendered them.

    Of what it has not rendered there is no more to say than "recordings".
    """
    data = hp.data if data is None else data
    notes = [Path(data) / folder / "preset.txt" for folder in [*find_sources(data), "synth"]]
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
    power = mel_power(stft(Util.normalise(audio)[0]))[:, :max(len(audio) // hp.hop_length, 1)]
    return log_mel(power, power.max())


def pitch_spectrogram(audio):
    """`pitch_power` of a clip as `log_mel`, relative to its own maximum [shape=(n_pitches, ceil(t / 2))], for the t
    frames of its `spectrogram`."""
    frames = max(len(audio) // hp.hop_length, 1)
    power = pitch_power(Util.normalise(audio)[0])[:, :-(-frames // 2)]
    return log_mel(power, power.max())


def find_sources(data=None):
    """Names of the folders with pianos below `data`: "piano", and "piano_2" and so on where there are several."""
    data = hp.data if data is None else data
    return ["piano", *Util.numbered_folders(data, "piano")]


def find_pairs(data=None, source="piano"):
    """Map piece -> (recording in `source`, recording in synth), matched by name.

    Raises FileNotFoundError if a folder is empty, ValueError naming the recordings without a partner.
    """
    data = hp.data if data is None else data
    piano, synth = (Util.find_pieces(Path(data) / name, audio_endings) for name in (source, "synth"))
    alone = sorted({str(piano.get(name) or synth.get(name)) for name in piano.keys() ^ synth.keys()})
    if alone:
        raise ValueError(f"no partner of the same name in the other folder for {', '.join(alone)}; "
                         "render it (MIDI2Audio.py) or remove it")
    return {name: (piano[name], synth[name]) for name in piano}


def build(data=None, shard=(0, 1)):
    """Store the log-mel spectrograms of every pair below `data`; what is there and not older than its wav is kept.

    `shard` (i, n) does every n-th pair from the i-th on, so that n machines share the work. Returns the names of all
    pieces. Spectrograms of another front end or `hp.limit_s` are removed first. Raises as `find_pairs`, and ValueError
    for a recording that is not audio or silent, or whose length differs from its partner's by more than a frame.
    """
    data = hp.data if data is None else data
    found = {(source, name): recordings for source in find_sources(data)
             for name, recordings in find_pairs(data, source).items()}
    remove_outdated(Path(data) / "generated")
    for source, name in tqdm(sorted(found)[shard[0]::shard[1]], desc="spectrograms", unit="piece"):
        folder, notes = Path(data) / "generated" / name, Path(data) / "notes" / f"{name}.mid"
        store_pair(found[source, name], [folder / f"{side}.npy" for side in (source, "synth")])
        if notes.exists():
            store_notes(found[source, name][0], notes, folder / f"{source}.npy", folder / f"{source}_pitch.npy",
                        folder / "notes.npy")
    return sorted({name for _, name in found})


def remove_outdated(folder):
    """Note in `folder` what its spectrograms depend on, having removed them if that was another.

    Without a note they are kept.
    """
    note, text = folder / "front_end.json", json.dumps({**front_end(), "limit_s": hp.limit_s}, indent=1) + "\n"
    # before the note is read, which another shard writes first
    stored = Util.modification_times(folder.glob("*/*.npy"))
    if note.exists():
        if Util.read_text(note) == text:
            return
        Util.remove_unchanged(stored)
    Util.save_text(note, text)


def store_pair(recordings, outputs):
    """Write the spectrograms of a pair of recordings, where one is missing or older than its recording."""
    stale = [not Util.is_up_to_date(output, recording) for output, recording in zip(outputs, recordings)]
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
    late = estimate_lag(*spectrograms)
    if abs(late) > 1:
        tqdm.write(f"warning: {recordings[1]} comes {late * hp.hop_length / hp.sample_rate:+.3f} s after "
                   f"{recordings[0]}; shift one of them", file=sys.stderr)
    for image, output, old in zip(spectrograms, outputs, stale):
        if old:
            Util.save_array(output, image.astype(np.float16))


def read_pitch_spectrogram(recording, frames):
    """Return the pitch spectrogram of a file, as long as its stored mel spectrogram of so many frames."""
    return pitch_spectrogram(Util.read_audio(recording)[:hp.limit_s * hp.sample_rate])[:, :-(-frames // 2)]


def store_notes(recording, midi_path, mel, pitch, notes):
    """Write the pitch spectrogram of a recording, as long as that in `mel`, and the notes of its MIDI file, where
    missing or older than these."""
    if not Util.is_up_to_date(pitch, mel):
        frames = Util.load_array(mel, np.float16, mmap_mode="r").shape[1]
        Util.save_array(pitch, read_pitch_spectrogram(recording, frames).astype(np.float16))
    if not Util.is_up_to_date(notes, midi_path):
        Util.save_array(notes, Notes.read_notes(midi_path))


def has_notes(names, data=None):
    """Whether each of the pieces has its notes, data/notes/<piece>.mid. Raises ValueError if only some of them have."""
    data = hp.data if data is None else data
    without = [name for name in names if not (Path(data) / "notes" / f"{name}.mid").exists()]
    if without and len(without) < len(names):
        raise ValueError(f"{Path(data) / 'notes'} lacks {', '.join(without[:10])}; put their MIDI files there, or "
                         "remove the folder to train without notes")
    return not without


def estimate_lag(source, target, most=None):
    """Frames by which the onsets of `target` come after those of `source` [both shape=(n_mels, t)], at most `most`.

    The lag of the highest correlation of the onsets, the rise from frame to frame, band by band: the pitches tell apart
    what the rhythm alone would not. Music that repeats itself correlates at its period too, so a lag of at most a frame
    is taken if it is nearly as good.
    """
    most = hp.max_lag_frames if most is None else most
    frames = source.shape[1]
    if frames < 3:
        return 0
    rises = [np.maximum(np.diff(image, axis=1), 0) for image in (source, target)]
    first, second = (np.fft.rfft(rise - rise.mean(axis=1, keepdims=True), 2 * frames) for rise in rises)
    correlation = np.fft.irfft((first.conj() * second).sum(axis=0))
    lags = np.arange(-min(most, frames - 2), min(most, frames - 2) + 1)
    best, near = (part[np.argmax(correlation[part])] for part in (lags, np.arange(-1, 2)))
    return int(near if correlation[near] > hp.lag_preference * correlation[best] else best)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Store the spectrograms of data/piano and data/synth; AEMain.py does "
                                     "it too.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/ (default: data/)")
    parser.add_argument("--shard", type=Util.parse_shard, default=(0, 1), metavar="I/N",
                        help="do every N-th pair from the I-th on, from 0")
    options = parser.parse_args(arguments)
    build(options.data, options.shard)


if __name__ == "__main__":
    Util.run(main)
