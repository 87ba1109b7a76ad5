"""Render a scale on a preset of a SoundFont, and store its sounds as a `SampledVoice`."""
import contextlib
import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mido
import numpy as np
import torch
from tqdm import tqdm

import Hyperparameters as hp
import MIDI2Audio
import Notes
import Util
from GeneratedFiles import values_digest
from SampledVoice import SampledVoice


def stored_voice(target, folder):
    """Return the `SampledVoice` of a target, which is rendered once and kept in a folder.

    Parameters
    ----------
    target : str
        Preset, as `Presets.preset_text` writes it.
    folder : Path

    Raises
    ------
    FileNotFoundError, ValueError
        As `render_voice`.
    """
    preset = MIDI2Audio.parse_preset(target)
    file = MIDI2Audio.find_soundfont(preset[0]).stat()
    key = values_digest(preset, file.st_size, file.st_mtime_ns, Util.settings())
    path = folder / f"{key}.torch"
    if path.exists():
        with contextlib.suppress(Exception):  # torch raises many kinds for damaged files
            return SampledVoice.from_state(torch.load(path, weights_only=True), "")
    voice = render_voice(preset)
    Util.save_bytes(path, lambda file: torch.save(voice.state_dict(), file))
    return voice


def render_voice(preset):
    """Render every key of a preset in the same way as the training pairs, and return a `SampledVoice`.

    Long notes at the velocities `hp.voice_layers` give the sounds. Short notes at the velocities `hp.voice_velocities`
    give level and release. If the layers differ only in level, the voice stores the loudest layer alone. If the sounds
    need more than `hp.voice_bytes`, the voice stores every second or third key.

    Parameters
    ----------
    preset : tuple
        File, bank and program: see `MIDI2Audio.parse_preset`.

    Returns
    -------
    SampledVoice

    Raises
    ------
    FileNotFoundError, ValueError
        As `MIDI2Audio.synthesise_midi_to_audio`.
    """
    preset = MIDI2Audio.find_soundfont(preset[0]), *preset[1:3], False
    keys = np.arange(hp.lowest_key, hp.lowest_key + hp.n_keys)
    with ThreadPoolExecutor(hp.voice_processes) as pool:
        found = list(tqdm(pool.map(lambda key: record_key(int(key), preset), keys), desc="scale", unit="key",
                          total=len(keys), leave=False))
    streams, differences, level, release = (list(part) for part in zip(*found))
    if np.median(differences) < hp.voice_same_layer:
        layers, streams = hp.voice_layers[-1:], [sounds[-1:] for sounds in streams]
    else:
        layers = hp.voice_layers
    for step in (1, 2, 3):
        chosen = range(min(step // 2, 1), len(keys), step)
        if sum(len(sound) for i in chosen for sound in streams[i]) <= hp.voice_bytes:
            break
    sizes = np.array([[len(sound) for sound in streams[i]] for i in chosen])
    joined = b"".join(sound for i in chosen for sound in streams[i])
    return SampledVoice(
        streams=torch.frombuffer(bytearray(joined), dtype=torch.uint8),
        ends=torch.from_numpy(np.cumsum(sizes).reshape(sizes.shape)), keys=torch.from_numpy(keys[list(chosen)]),
        layers=torch.tensor(layers, dtype=torch.float32),
        velocities=torch.tensor(hp.voice_velocities, dtype=torch.float32),
        level=torch.from_numpy(np.array(level, np.float32)[list(chosen)]),
        release=torch.from_numpy(np.array(release, np.float32)[list(chosen)]))


def record_key(key, preset):
    """Render the long and short notes of a key, and measure them.

    Parameters
    ----------
    key : int
        MIDI key.
    preset : tuple
        File, bank, program and whether the render has a room.

    Returns
    -------
    streams : list of bytes
        Sound of each layer as FLAC.
    difference : float
        Relative distance of the layers from the loudest: see `layer_difference`.
    level : list of float
        RMS level in dB at each velocity in `hp.voice_velocities`.
    release : np.ndarray [shape=(velocities,)]
        Time in seconds in which the amplitude falls to 1 / e after the offset, at the same velocities.
    """
    long, short = (length * hp.voice_slot for length in (hp.voice_long_slots, 1))
    held = int(hp.voice_held_s * hp.sample_rate)
    starts = np.cumsum([0, *[long] * len(hp.voice_layers), *[short] * len(hp.voice_velocities)])
    events = []
    for start, end, velocity, length in zip(starts, starts[1:], hp.voice_layers + hp.voice_velocities, (
            *[long] * len(hp.voice_layers), *[held] * len(hp.voice_velocities))):
        stop = min(start + length, end - hp.voice_pause)
        events += [(start, mido.Message("note_on", note=key, velocity=velocity)),
                   (stop, mido.Message("note_off", note=key)),
                   (end - hp.voice_pause, mido.Message("control_change", control=Notes.all_sound_off))]
    audio = render_events(events, int(starts[-1]), preset)
    notes = [audio[start:end - hp.voice_pause] for start, end in zip(starts, starts[1:])]
    layers, short_notes = notes[:len(hp.voice_layers)], notes[len(hp.voice_layers):]
    level = [decibels(note[:int(hp.voice_level_s * hp.sample_rate)]) for note in short_notes]
    release = [measure_release(note, layers[-1], held) for note in short_notes]
    known = np.isfinite(release)
    release = np.interp(hp.voice_velocities, np.array(hp.voice_velocities)[known],
                        np.array(release)[known]) if known.any() else np.full(len(level), hp.voice_default_release_s)
    return [encode_sound(layer, key) for layer in layers], layer_difference(layers), level, release


def render_events(events, samples, preset):
    """Render MIDI events with FluidSynth.

    Parameters
    ----------
    events : list of (int, mido.Message)
        Time in samples and message of each event.
    samples : int
        Length of the audio in samples.
    preset : tuple
        As in `record_key`.

    Returns
    -------
    np.ndarray [shape=(samples,), float32]

    Raises
    ------
    ValueError
        If FluidSynth fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scale.mid"
        Notes.single_track([(sample / hp.sample_rate, i, message) for i, (sample, message) in enumerate(events)]).save(
            path)
        midi, _ = MIDI2Audio.trim(path, float("inf"), *preset[1:3])
    try:
        return MIDI2Audio.render(midi, samples, preset)
    except RuntimeError as error:
        raise ValueError(f"FluidSynth could not render {MIDI2Audio.preset_text(preset)}: {error}") from None


def decibels(audio):
    """Return the RMS level of audio in dB."""
    return 10 * np.log10(np.mean(audio.astype(np.float64) ** 2) + 1e-20)


def layer_difference(layers):
    """Return the largest distance of a layer from the loudest layer, relative to its norm and at the best gain."""
    first = [layer[:2 * hp.sample_rate].astype(np.float64) for layer in layers]
    units = [sound / (np.linalg.norm(sound) + 1e-12) for sound in first]
    return max(np.sqrt(max(1 - (unit @ units[-1]) ** 2, 0)) for unit in units)


def measure_release(note, sustained, held):
    """Estimate the time in seconds in which the amplitude of a note falls to 1 / e after its offset.

    A line is fitted to the level difference in dB between the released note and a sustained note.

    Parameters
    ----------
    note, sustained : np.ndarray [shape=(n,), float32]
        Audio of the released note and of the sustained note.
    held : int
        Offset of the released note in samples.

    Returns
    -------
    float
        Time in seconds, or NaN if too few blocks of the note can be measured.
    """
    block = hp.voice_release_block
    first = held + 2 * block
    blocks = (min(len(note), len(sustained)) - first) // block
    own, other = (np.array([decibels(part) for part in np.split(audio[first:first + blocks * block], blocks)])
                  for audio in (note, sustained))
    fallen = own - other
    used = np.flatnonzero((fallen < fallen[0] - 1) & (fallen > fallen[0] - hp.voice_release_fit_db) & (own > -140))
    if len(used) < 3:
        return np.nan
    used = used[used <= used[0] + np.argmax(np.append(np.diff(used) > 1, True))]  # keep the blocks before the first gap
    if len(used) < 3:
        return np.nan
    slope = np.polyfit(used * block / hp.sample_rate, fallen[used], 1)[0]  # dB per second
    return float(np.clip(-20 / np.log(10) / min(slope, -1e-3), *hp.voice_release_limits_s))


def encode_sound(sound, key):
    """Trim a sound and encode it as 16-bit FLAC.

    The sound ends where it has decayed by `hp.voice_range_db`, or at its longest duration. `hp.voice_seconds` sets this
    duration for the lowest and the highest key, and the keys between them are interpolated.
    """
    share = (key - hp.lowest_key) / (hp.n_keys - 1)
    longest = hp.voice_seconds[0] * (hp.voice_seconds[1] / hp.voice_seconds[0]) ** share
    sound = sound[:int(longest * hp.sample_rate)]
    peak = np.abs(sound).max()
    loud = np.flatnonzero(np.abs(sound) > peak * 10 ** (-hp.voice_range_db / 20))
    sound = sound[:loud[-1] + 1] if len(loud) and peak else np.zeros(1, np.float32)
    buffer = io.BytesIO()
    Util.encode_audio(buffer, sound * (hp.peak / max(peak, 1e-9)), format="FLAC")
    return buffer.getvalue()
