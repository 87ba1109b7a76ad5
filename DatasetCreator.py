"""The front end, from audio to log-mel spectrogram, that training and `Main.pipeline` share, and its inverse.

`build(data)` stores the spectrograms of every pair of wavs in data/piano and data/synth as
data/generated/<piece>/piano.npy and synth.npy, and what training hears, piano_audio.npy. Recordings longer than 30 s
give several pieces. `python DatasetCreator.py` does it from the command line.
"""
import argparse
import contextlib
import functools
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Decoding
import Hyperparameters as hp
import Notes
import Util

audio_endings = Decoding.recording_endings


def front_end():
    """Return the settings of the spectrograms, on which trained weights depend, as a dict."""
    return {name: getattr(hp, name)
            for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "fmin", "fmax", "top_db", "pitch_n_fft",
                         "pitch_hop_length", "pitch_bands_per_key", "n_pitches")}


def pair(data):
    """Return the presets of the sources and of the target of a data folder, "A, B -> C", with "recordings" for folders
    that MIDI2Audio.py has not rendered."""
    notes = [Path(data) / folder / "preset.txt" for folder in [*find_sources(data), "synth"]]
    presets = [" ".join(Util.read_text(note).split()) if note.exists() else "recordings" for note in notes]
    return f"{', '.join(presets[:-1])} -> {presets[-1]}"


def trained_for(data, names):
    """Return what is stored with networks that were trained on some pieces of a data folder.

    Returns
    -------
    dict
        "front_end": see `front_end`. "pair": see `pair`. "pieces": number of recordings that the pieces are parts of.
    """
    return {"front_end": front_end(), "pair": pair(data), "pieces": len({name.partition("~")[0] for name in names})}


@functools.cache
def mel_filters():
    """Return the mel filter bank (Slaney's scale and norm, librosa's default) [shape=(n_mels, 1 + n_fft / 2)]."""
    edges = Util.mel_frequencies(hp.n_mels + 2, hp.fmin, hp.fmax)
    slopes = edges[:, None] - np.fft.rfftfreq(hp.n_fft, 1 / hp.sample_rate)
    width = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / width[:-1], slopes[2:] / width[1:])).astype(np.float32)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def stft(audio, center=True, n_fft=None, hop_length=None):
    """Compute the short-time Fourier transform with a Hann window, bit for bit as librosa does.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,)]
    center : bool
        Whether frame i is centred on sample i * hop_length, so that t = 1 + n // hop_length, or starts there.
    n_fft, hop_length : int, optional
        By default `hp.n_fft` and `hp.hop_length`.

    Returns
    -------
    np.ndarray [shape=(1 + n_fft / 2, t), complex64]
    """
    n_fft, hop_length = n_fft or hp.n_fft, hop_length or hp.hop_length
    audio = np.pad(audio, n_fft // 2) if center else audio
    frames = np.lib.stride_tricks.sliding_window_view(audio, n_fft)[::hop_length]
    window = 0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, n_fft + 1)[:-1])
    spectrum = np.empty((len(frames), 1 + n_fft // 2), np.complex64)
    for i in range(0, len(frames), 64):  # in double precision, as many frames as fit in the processor's cache
        spectrum[i:i + 64] = np.fft.rfft(window * frames[i:i + 64])
    return spectrum.T


def mel_power(spectrum):
    """Return the mel power [shape=(n_mels, t)] of an STFT [shape=(1 + n_fft / 2, t)]."""
    return mel_filters() @ (np.abs(spectrum) ** 2)


@functools.cache
def pitch_filters():
    """Return the pitch filter bank [shape=(n_pitches, 1 + pitch_n_fft / 2)].

    The filters are triangles, a third of a semitone apart, from just below the lowest key. Each side is as wide as
    the distance to the neighbouring filter, at least one bin of the transform. Each filter sums to 1.
    """
    numbers = np.arange(-2, hp.n_pitches + 1) / hp.pitch_bands_per_key + hp.lowest_key  # with both neighbours
    below, centre, above = (440 * 2 ** ((numbers[i:i + hp.n_pitches, None] - 69) / 12) for i in range(3))
    step = hp.sample_rate / hp.pitch_n_fft
    hertz = np.arange(hp.pitch_n_fft // 2 + 1) * step
    below, above = np.minimum(below, centre - step), np.maximum(above, centre + step)
    filters = np.clip(np.minimum((hertz - below) / (centre - below), (above - hertz) / (above - centre)), 0, None)
    return (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)


def pitch_power(audio, center=True):
    """Return the power in bands of a third of a semitone [shape=(n_pitches, 1 + len(audio) // pitch_hop_length)].

    The transform is four times as long as that of the mel spectrogram, whose bands are 25 Hz apart in the bass, where
    a semitone is 2 to 8 Hz. Frame i is centred on frame 2 i of the mel spectrogram.
    """
    return pitch_filters() @ (np.abs(stft(audio, center, hp.pitch_n_fft, hp.pitch_hop_length)) ** 2)


def log_mel(power, reference):
    """Map mel power to [0, 1], linearly from [-top_db, 0] dB relative to the power `reference` (report: data set).

    The map is fixed. `mel_from_log` inverts it within `top_db` of the reference.
    """
    if reference <= 0:
        return np.zeros_like(power)
    return Util.to_unit(10 * np.log10(np.maximum(power / reference, 1e-12)))


def mel_from_log(spectrogram):
    """Return mel power relative to its reference, the inverse of `log_mel`. The value 0 gives no power."""
    return np.where(spectrogram > 0, 10 ** (Util.to_db(spectrogram) / 10), 0).astype(np.float32)


def reduce_reverberation(image, step):
    """Subtract the late reverberation from a spectrogram (Lebart, Boucher and Denbigh 2001, "A new method based on
    spectral subtraction for speech dereverberation").

    Its power in each band is estimated from the power before: the mean of what is older than
    `hp.reverberation_delay_s`, with a weight that decays in `hp.reverberation_decay_s`.

    Parameters
    ----------
    image : np.ndarray [shape=(bands, t), in [0, 1]]
        As `log_mel` returns it.
    step : float
        Seconds from frame to frame.

    Returns
    -------
    np.ndarray [shape=(bands, t), in [0, 1], float32]
    """
    power, decay = mel_from_log(image).T.copy(), np.float32(np.exp(-step / hp.reverberation_decay_s))
    late, delay = np.zeros_like(power), max(round(hp.reverberation_delay_s / step), 1)
    for frame in range(delay, len(power)):
        late[frame] = decay * late[frame - 1] + (1 - decay) * power[frame - delay]
    return log_mel(np.maximum(power - hp.reverberation_share * late, hp.reverberation_floor * power), 1).T.copy()


def spectrogram(audio):
    """Return the log-mel spectrogram of a clip relative to its maximum [shape=(n_mels, t)].

    t = len(audio) // hop_length, at least 1. The frame centred on the end is left out, so that 30 s have 2,583
    frames, as in the report.
    """
    power = mel_power(stft(Util.normalise(audio)[0]))[:, :max(len(audio) // hp.hop_length, 1)]
    return log_mel(power, power.max())


def pitch_spectrogram(audio):
    """Return the pitch spectrogram of a clip relative to its maximum [shape=(n_pitches, ceil(t / 2))].

    t is the number of frames of its `spectrogram`.
    """
    frames = max(len(audio) // hp.hop_length, 1)
    power = pitch_power(Util.normalise(audio)[0])[:, :-(-frames // 2)]
    return log_mel(power, power.max())


def find_sources(data=None):
    """Return the names of the folders with pianos below `data`: "piano", and "piano_2" and so on if they exist."""
    data = hp.data if data is None else data
    return ["piano", *Util.numbered_folders(data, "piano")]


def find_pairs(data=None, source="piano"):
    """Return the pairs as {piece: (recording in `source`, recording in synth)}, matched by name.

    A recording without a partner is left out with a warning. Raises FileNotFoundError if a folder is empty, and
    ValueError if no recording has a partner.
    """
    data = Path(hp.data if data is None else data)
    try:
        piano, synth = (Util.find_pieces(data / name, audio_endings) for name in (source, "synth"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}, or render MIDI files with MIDI2Audio.py") from None
    missing = [f"{data / folder / other[name].relative_to(data / side)} (partner of {other[name]})"
               for folder, own, side, other in (("synth", synth, source, piano), (source, piano, "synth", synth))
               for name in sorted(other.keys() - own.keys())]
    if missing:
        text = f"missing: {', '.join(missing[:5])}{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}"
        if not piano.keys() & synth.keys():
            raise ValueError(f"{text}; no recording has a partner of the same name; add them")
        Util.warn(f"{text}; these recordings are left out")
    return {name: (piano[name], synth[name]) for name in piano if name in synth}


def unrendered_remark(data):
    """Return a remark that names MIDI files of a data folder that have not been rendered, or "" if there are none."""
    midi = {"__".join(path.relative_to(Path(data) / "MIDI").with_suffix("").parts)
            for path in (Path(data) / "MIDI").rglob("*") if path.suffix.lower() in Notes.midi_endings}
    new = sorted(name for name in midi if not (Path(data) / "piano" / f"{name}.wav").exists())
    rendered = (Path(data) / "piano" / "preset.txt").exists()
    return (f"; {', '.join(new[:3])}{', ...' * (len(new) > 3)} in {Path(data) / 'MIDI'} still has to be rendered "
            "(MIDI2Audio.py)") if new and rendered else ""


def build(data=None, shard=(0, 1), whole=True):
    """Store spectrograms and audio of every pair below `data`, and the notes of pairs that have a MIDI file.

    Recordings are cut into pieces of `hp.limit_s` seconds. What is stored is kept if it is not older than its
    recordings. All is computed again after a change of the front end or of `hp.limit_s`. Recordings that were not
    rendered here are shifted if they are not aligned, with a warning.

    Parameters
    ----------
    data : Path, optional
        By default `hp.data`.
    shard : (int, int)
        (i, n) does every n-th pair from the i-th on, so that n machines share the work.
    whole : bool
        Whether the pieces after the first of each recording count, which the report does not use.

    Returns
    -------
    list of str
        The names of all pieces. The later pieces of "take" are "take~2" and so on.

    Raises
    ------
    FileNotFoundError, ValueError
        As `find_pairs`, and ValueError, at the end, for all recordings that are not audio or silent, pairs whose
        lengths differ by more than a frame, and MIDI files that cannot be read.
    """
    data = Path(hp.data if data is None else data)
    folder, sources = data / "generated", find_sources(data)
    found = {(source, name): recordings for source in sources
             for name, recordings in find_pairs(data, source).items()}
    names = sorted({name for _, name in found})
    remove_outdated(folder)
    remove_orphans(folder, names)
    errors, parts = [], {}
    for source, name in tqdm(sorted(found)[shard[0]::shard[1]], desc="spectrograms", unit="piece"):
        try:
            stored = store_pair(found[source, name], data, source, name)
            parts[name] = [part for part in stored["parts"] if part in parts.get(name, stored["parts"])]
            midi = data / "notes" / f"{name}.mid"
            if midi.exists():
                store_notes(midi, folder, stored["parts"])
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(dict.fromkeys(errors)))
    return sorted(part for name in parts for part in parts[name][:None if whole else 1])


def remove_outdated(folder):
    """Remove what is stored in a folder if it has other settings than now, and write the present ones.

    The settings are those in front_end.json.
    """
    note, text = folder / "front_end.json", json.dumps({**front_end(), "limit_s": hp.limit_s}, indent=1) + "\n"
    # before the note is read, which another shard may write meanwhile
    stored = Util.modification_times([*folder.glob("*/*.npy"), *folder.glob("*/*_parts.json")])
    if note.exists() and Util.read_text(note) == text:
        return
    Util.remove_unchanged(stored)
    Util.save_text(note, text)


def remove_orphans(folder, names):
    """Remove what is stored of pieces that are not in `names`, since their recordings are gone."""
    for path in [*folder.glob("*/*.npy"), *folder.glob("*/*_parts.json")]:
        if path.parent.name.partition("~")[0] not in names and path.parent.name not in names:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of a folder that holds more
                path.parent.rmdir()


def store_pair(recordings, data, source, name):
    """Store audio and spectrograms of a pair in pieces of `hp.limit_s` seconds, if missing or older than a recording.

    Parameters
    ----------
    recordings : (Path, Path)
        Source and target.
    data : Path
    source, name : str
        Folder of the source, and name of the pair.

    Returns
    -------
    dict
        "parts", the names of the pieces, and "lag", the frames by which the target was late.
    """
    folder, note = data / "generated", data / "generated" / name / f"{source}_parts.json"
    if Util.is_up_to_date(note, *recordings):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # of a damaged file
            stored = json.loads(Util.read_text(note))
            if all((folder / part / file).exists() for part in stored["parts"]
                   for file in (f"{source}.npy", f"{source}_audio.npy", "synth.npy")):
                return stored
    clips = [Util.read_audio(recording) for recording in recordings]
    for clip, recording in zip(clips, recordings):
        if not clip.any():
            raise ValueError(f"{recording} is silent; record it again or remove the pair")
    if abs(clips[0].size - clips[1].size) > hp.hop_length:
        raise ValueError(f"{recordings[0]} and {recordings[1]} differ in length by "
                         f"{abs(clips[0].size - clips[1].size) / hp.sample_rate:.2f} s; align them, and cut both at "
                         "the same place")
    clips, lag = align(clips, recordings, source, note)
    size, length = min(clip.size for clip in clips), hp.limit_s * hp.sample_rate
    stored = {"parts": [], "lag": lag}
    for number, start in enumerate(range(0, max(size - hp.min_piece_s * hp.sample_rate, 0) + 1, length)):
        cut, part = [clip[start:min(start + length, size)] for clip in clips], f"{name}~{number + 1}" * (number > 0)
        if all(clip.any() for clip in cut):
            stored["parts"].append(part or name)
            save_piece(folder / (part or name), source, cut, not rendered(recordings))
    Util.save_text(note, json.dumps(stored) + "\n")
    return stored


def rendered(recordings):
    """Return whether `MIDI2Audio.py` has rendered all of these recordings."""
    return all((recording.parent / "preset.txt").exists() for recording in recordings)


def save_piece(folder, source, clips, both=False):
    """Write the spectrograms of a piece, source and target, and the audio of the source [shape=(1, n), int16].

    `both` adds the audio of the target, from which notes are heard where there is no MIDI file.
    """
    for side, clip in zip((source, "synth"), clips):
        Util.save_array(folder / f"{side}.npy", spectrogram(clip).astype(np.float16))
        if side == source or both:
            audio = clip * np.float32(32767 / np.abs(clip).max())
            Util.save_array(folder / f"{side}_audio.npy", np.rint(audio).astype(np.int16)[None])


def align(clips, recordings, source, note):
    """Shift recordings that are not aligned, with a warning. Pairs that `MIDI2Audio.py` has rendered stay.

    The target is shifted to the piano, and other pianos to this target.

    Returns
    -------
    (list of np.ndarray, int)
        Source and target, and the frames by which the target was late.
    """
    if rendered(recordings):
        return clips, 0
    clip, target = clips
    first = note.with_name("piano_parts.json")
    if source != "piano" and first.exists():
        target = shift(target, json.loads(Util.read_text(first))["lag"])
    length = hp.limit_s * hp.sample_rate
    lag = estimate_lag(*(spectrogram(side[:length]) for side in (clip, target)))
    if abs(lag) <= 1:
        return [clip, target], 0
    Util.warn(f"{recordings[1]} comes {lag * hp.hop_length / hp.sample_rate:+.3f} s after {recordings[0]}; "
              "the later one is shifted")
    return ([clip, shift(target, lag)] if source == "piano" else [shift(clip, -lag), target]), lag


def shift(audio, frames):
    """Return audio that begins so many frames later, or earlier if it is negative, with silence in front."""
    samples = frames * hp.hop_length
    return audio[samples:] if samples > 0 else np.pad(audio, (-samples, 0))


def store_notes(midi, folder, parts):
    """Write the notes of a MIDI file to the folder of each piece, where missing or outdated.

    Onsets and offsets count from the beginning of the piece. A note that began before it has a negative onset.
    """
    paths = [folder / part / "notes.npy" for part in parts]
    if all(Util.is_up_to_date(path, midi) for path in paths):
        return
    notes = Notes.read_notes(midi, float("inf"))
    for part, path in zip(parts, paths):
        number = int(part[len(midi.stem) + 1:] or 1)
        start = (number - 1) * hp.limit_s
        own = notes[(notes[:, 0] < start + hp.limit_s) & (notes[:, 1] > start)]
        own = own - np.float32([start, start, 0, 0])
        own[:, 1] = np.minimum(own[:, 1], hp.limit_s)
        Util.save_array(path, own)


def with_notes(names, data=None):
    """Return those pieces that have notes. If only some have, a warning names the others, which are left out."""
    data = Path(hp.data if data is None else data)
    found = [name for name in names if (data / "generated" / name / "notes.npy").exists()]
    without = sorted({name.partition("~")[0] for name in names if name not in found})
    if found and without:
        Util.warn(f"missing: {', '.join(str(data / 'notes' / f'{name}.mid') for name in without[:5])}"
                  f"{', ...' * (len(without) > 5)}; these pairs are left out")
    return found


def estimate_lag(source, target, most=None):
    """Estimate by how many frames a spectrogram comes after another.

    The lag has the highest correlation of the onset strength, summed over the bands, so that pitches count as well as
    the rhythm. Music that repeats itself also correlates at its period, so a lag of at most one frame is preferred if
    its correlation is nearly as high (`hp.lag_preference`).

    Parameters
    ----------
    source, target : np.ndarray [shape=(n_mels, t)]
    most : int, optional
        Largest lag in frames, by default `hp.max_lag_frames`.

    Returns
    -------
    int
        Positive if `target` is late.
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
    parser = argparse.ArgumentParser(description="Store the spectrograms of data/piano and data/synth. AEMain.py "
                                     "does so, too.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/ (default: data/)")
    parser.add_argument("--shard", type=Util.parse_shard, default=(0, 1), metavar="I/N",
                        help="process every N-th pair from the I-th on, counted from 0")
    options = parser.parse_args(arguments)
    build(options.data, options.shard)


if __name__ == "__main__":
    Util.run(main)
