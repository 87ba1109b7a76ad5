"""The front end, from audio to log-mel spectrogram, and the data set of pairs that it is applied to.

`spectrogram(audio)` is the whole front end, which training and `Main.pipeline` share. `build(data)` stores the
spectrograms of every pair of recordings in data/piano and data/synth as data/generated/<piece>/piano.npy and synth.npy,
and what training hears, piano_audio.npy. `python DatasetCreator.py` does it from the command line.
"""
import argparse
import contextlib
import functools
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util
from audio import alignment, audio_files
from notes import note_events

# front end: audio -> STFT -> mel power -> log-mel spectrogram

def spectrogram(audio):
    """Return the log-mel spectrogram of a clip relative to its maximum [shape=(n_mels, t), in [0, 1]]. t = len(audio)
    // hop_length, at least 1. The frame centred on the end is left out, so that 30 s have 2,583 frames, as in the
    report."""
    audio = np.ldexp(audio, -audio_files.level_exponent(audio))
    power = mel_power(stft(audio))[:, :max(len(audio) // hp.hop_length, 1)]
    return log_mel(power, power.max())


def stft(audio, center=True, n_fft=None, hop_length=None):
    """Return the STFT with a Hann window [shape=(1 + n_fft / 2, t), complex64], bit for bit as librosa does. With
    `center`, frame i is centred on sample i * hop_length, so that t = 1 + n // hop_length. Else it starts there.
    `n_fft` and `hop_length` are those of `Hyperparameters` by default."""
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
def mel_filters():
    """Return the mel filter bank (Slaney's scale and norm, librosa's default) [shape=(n_mels, 1 + n_fft / 2)]."""
    edges = Util.mel_frequencies(hp.n_mels + 2)
    slopes = edges[:, None] - np.fft.rfftfreq(hp.n_fft, 1 / hp.sample_rate)
    width = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / width[:-1], slopes[2:] / width[1:])).astype(np.float32)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def log_mel(power, reference):
    """Map mel power to [0, 1], linearly from [-top_db, 0] dB relative to the power `reference` (report: data set)."""
    if reference <= 0:
        return np.zeros_like(power)
    return Util.to_unit(10 * np.log10(np.maximum(power / reference, 1e-12)))


def mel_from_log(image):
    """Return mel power relative to its reference, the inverse of `log_mel`. The value 0 gives no power."""
    return np.where(image > 0, 10 ** (Util.to_db(image) / 10), 0).astype(np.float32)


def front_end():
    """Return the settings of the spectrograms, on which trained weights depend, as a dict."""
    return {name: getattr(hp, name)
            for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "fmin", "fmax", "top_db", "pitch_n_fft",
                         "pitch_hop_length", "pitch_bands_per_key", "n_pitches")}


# second spectrogram, from which notes are transcribed

def pitch_spectrogram(audio):
    """Return the pitch spectrogram of a clip relative to its maximum [shape=(n_pitches, ceil(t / 2)), in [0, 1]]. Its
    bands are a third of a semitone. Frame i is centred on frame 2 i of the mel spectrogram."""
    frames = max(len(audio) // hp.hop_length, 1)
    audio = np.ldexp(audio, -audio_files.level_exponent(audio))
    power = pitch_filters() @ (np.abs(stft(audio, True, hp.pitch_n_fft, hp.pitch_hop_length)) ** 2)
    power = power[:, :-(-frames // 2)]
    return log_mel(power, power.max())


@functools.cache
def pitch_filters():
    """Return the pitch filter bank [shape=(n_pitches, 1 + pitch_n_fft / 2)]. The filters are triangles, a third of a
    semitone apart, from just below the lowest key. Each side is as wide as the distance to the neighbouring filter, at
    least one bin of the transform. Each filter sums to 1."""
    numbers = np.arange(-2, hp.n_pitches + 1) / hp.pitch_bands_per_key + hp.lowest_key  # with both neighbours
    below, centre, above = (440 * 2 ** ((numbers[i:i + hp.n_pitches, None] - 69) / 12) for i in range(3))
    step = hp.sample_rate / hp.pitch_n_fft
    hertz = np.arange(hp.pitch_n_fft // 2 + 1) * step
    below, above = np.minimum(below, centre - step), np.maximum(above, centre + step)
    filters = np.clip(np.minimum((hertz - below) / (centre - below), (above - hertz) / (above - centre)), 0, None)
    return (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32)


# pairs of recordings

def find_sources(data):
    """Return the names of the folders with pianos below `data`: "piano", and "piano_2" and so on if they exist."""
    return ["piano", *Util.numbered_folders(data, "piano")]


def find_pairs(data, source="piano"):
    """Return the pairs as {piece: (recording in `source`, recording in synth)}, matched by name. A recording without a
    partner is left out with a warning. Raises FileNotFoundError if a folder is empty, and ValueError if no recording
    has a partner."""
    try:
        piano, synth = (Util.find_pieces(data / name, audio_files.recording_endings)
                        for name in (source, "synth"))
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


def pair(data):
    """Return the presets of the sources and of the target of a data folder, "A, B -> C", with "recordings" for folders
    that MIDI2Audio.py has not rendered."""
    notes = [Path(data) / folder / "preset.txt" for folder in [*find_sources(data), "synth"]]
    presets = [" ".join(Util.read_text(note).split()) if note.exists() else "recordings" for note in notes]
    return f"{', '.join(presets[:-1])} -> {presets[-1]}"


def trained_for(data, names):
    """Return what is stored with networks that were trained on some pieces: `front_end`, `pair`, number of pieces."""
    return {"front_end": front_end(), "pair": pair(data), "pieces": len({name.partition("~")[0] for name in names})}


def unrendered_remark(data):
    """Return a remark that names MIDI files of a data folder that have not been rendered, or ""."""
    midi, rendered = data / "MIDI", {path.stem for path in (data / "piano").glob("*.wav")}
    names = {"__".join(path.relative_to(midi).with_suffix("").parts) for path in midi.rglob("*")
             if path.suffix.lower() in note_events.midi_endings}
    new = sorted(names - rendered)
    if not new or not (data / "piano" / "preset.txt").exists():
        return ""
    return f"; {', '.join(new[:3])}{', ...' * (len(new) > 3)} in {midi} still has to be rendered (MIDI2Audio.py)"


# data/generated: pieces of each pair, of 30 s

def build(data, shard=(0, 1), whole=True):
    """Store spectrograms and audio of every pair below `data`, and the notes of pairs that have a MIDI file.

    Recordings are cut into pieces of `hp.limit_s` seconds: "take", "take~2" and so on. What is stored is kept if it is
    not older than its recordings and has the present front end. A `shard` (i, n) does every n-th pair from the i-th on.
    Return the names of all pieces, or of the first of each recording if not `whole`, as in the report. Raises as
    `find_pairs`, and ValueError, at the end, for all recordings that are not audio or silent, pairs whose lengths
    differ by more than a frame, and MIDI files that cannot be read.
    """
    folder = data / "generated"
    found = {(source, name): recordings for source in find_sources(data)
             for name, recordings in find_pairs(data, source).items()}
    remove_outdated(folder, {name for _, name in found})
    errors, parts = [], {}
    for source, name in tqdm(sorted(found)[shard[0]::shard[1]], desc="spectrograms", unit="piece"):
        try:
            stored = store_pair(found[source, name], data, source, name)["parts"]
            parts[name] = [part for part in stored if part in parts.get(name, stored)]
            store_notes(data / "notes" / f"{name}.mid", folder, stored)
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(dict.fromkeys(errors)))
    return sorted(part for name in parts for part in parts[name][:None if whole else 1])


def remove_outdated(folder, names):
    """Remove what a folder holds of pieces not in the set `names`, and all if it was stored with other settings."""
    note, text = folder / "front_end.json", json.dumps({**front_end(), "limit_s": hp.limit_s}, indent=1) + "\n"
    # before the note is read, which another shard may write meanwhile
    stored = Util.modification_times([*folder.glob("*/*.npy"), *folder.glob("*/*_parts.json")])
    current = note.exists() and Util.read_text(note) == text
    gone = {path: time for path, time in stored.items()
            if not names & {path.parent.name, path.parent.name.partition("~")[0]}}
    Util.remove_unchanged(gone if current else stored)
    for piece in {path.parent for path in gone}:
        with contextlib.suppress(OSError):  # of a folder that holds more
            piece.rmdir()
    if not current:
        Util.save_text(note, text)


def store_pair(recordings, data, source, name):
    """Store a pair in pieces, if missing or older than a recording. Return {"parts": names of the pieces, "lag": frames
    by which the target was late}, which <source>_parts.json holds."""
    folder, note = data / "generated", data / "generated" / name / f"{source}_parts.json"
    if Util.is_up_to_date(note, *recordings):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # of a damaged file
            stored = json.loads(Util.read_text(note))
            if all((folder / part / file).exists() for part in stored["parts"]
                   for file in (f"{source}.npy", f"{source}_audio.npy", "synth.npy")):
                return stored
    rendered = all((recording.parent / "preset.txt").exists() for recording in recordings)
    clips, lag = read_pair(recordings), 0
    if not rendered:
        clips, lag = align(clips, recordings, source, note)
    size, length = min(clip.size for clip in clips), hp.limit_s * hp.sample_rate
    stored = {"parts": [], "lag": lag}
    for number, start in enumerate(range(0, max(size - hp.min_piece_s * hp.sample_rate, 0) + 1, length)):
        cut = [clip[start:min(start + length, size)] for clip in clips]
        if all(clip.any() for clip in cut):
            stored["parts"].append(f"{name}~{number + 1}" if number else name)
            store_piece(folder / stored["parts"][-1], source, cut, not rendered)
    Util.save_text(note, json.dumps(stored) + "\n")
    return stored


def read_pair(recordings):
    """Return the audio of two recordings. Raises ValueError if one is silent, or their lengths differ."""
    clips = [audio_files.read_audio(recording) for recording in recordings]
    for clip, recording in zip(clips, recordings):
        if not clip.any():
            raise ValueError(f"{recording} is silent; record it again or remove the pair")
    difference = abs(clips[0].size - clips[1].size)
    if difference > hp.hop_length:
        raise ValueError(f"{recordings[0]} and {recordings[1]} differ in length by {difference / hp.sample_rate:.2f} "
                         "s; align them, and cut both at the same place")
    return clips


def align(clips, recordings, source, note):
    """Return source and target, shifted with a warning if not aligned, and the frames by which the target was late."""
    clip, target = clips
    first, length = note.with_name("piano_parts.json"), hp.limit_s * hp.sample_rate
    if source != "piano" and first.exists():
        target = alignment.shift(target, json.loads(Util.read_text(first))["lag"])
    lag = alignment.estimate_lag(*(spectrogram(side[:length]) for side in (clip, target)))
    if abs(lag) <= 1:
        return [clip, target], 0
    Util.warn(f"{recordings[1]} comes {lag * hp.hop_length / hp.sample_rate:+.3f} s after {recordings[0]}; "
              "the later one is shifted")
    return ([clip, alignment.shift(target, lag)] if source == "piano" else [alignment.shift(clip, -lag), target]), lag


def store_piece(folder, source, clips, both):
    """Write the spectrograms of a piece, and the audio [shape=(1, n), int16] of the source, or of `both` sides."""
    for side, clip in zip((source, "synth"), clips):
        Util.save_array(folder / f"{side}.npy", spectrogram(clip).astype(np.float16))
        if side == source or both:
            audio = clip * np.float32(32767 / np.abs(clip).max())
            Util.save_array(folder / f"{side}_audio.npy", np.rint(audio).astype(np.int16)[None])


def store_notes(midi, folder, parts):
    """Write the notes of a MIDI file to the folder of each piece, and remove those of a MIDI file that is gone. Onsets
    and offsets count from the beginning of the piece. A note that began before it has a negative onset."""
    paths = [folder / part / "notes.npy" for part in parts]
    if not midi.exists():
        for path in paths:
            path.unlink(missing_ok=True)
        return
    if all(Util.is_up_to_date(path, midi) for path in paths):
        return
    notes = note_events.read_notes(midi, float("inf"))
    for part, path in zip(parts, paths):
        start = (int(part[len(midi.stem) + 1:] or 1) - 1) * hp.limit_s
        own = notes[(notes[:, 0] < start + hp.limit_s) & (notes[:, 1] > start)] - np.float32([start, start, 0, 0])
        own[:, 1] = np.minimum(own[:, 1], hp.limit_s)
        Util.save_array(path, own)


def with_notes(names, data):
    """Return those pieces that have notes. If only some have, a warning names the others, which are left out."""
    found = [name for name in names if (data / "generated" / name / "notes.npy").exists()]
    without = sorted({name.partition("~")[0] for name in names if name not in found})
    if found and without:
        Util.warn(f"missing: {', '.join(str(data / 'notes' / f'{name}.mid') for name in without[:5])}"
                  f"{', ...' * (len(without) > 5)}; these pairs are left out")
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Store the spectrograms of a data folder. AEMain.py does so, too.")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/ (default: data/)")
    parser.add_argument("--shard", type=Util.parse_shard, default=(0, 1), metavar="I/N",
                        help="process every N-th pair from the I-th on, counted from 0")
    build(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    Util.run(main)
