"""Render a scale on a preset of a SoundFont, and store its sounds as a `SampledVoice` or a `StudioVoice`.

`python -m rendering.voice_sampling` writes the sounds for --studio of the shipped model, studio.torch.
"""
import argparse
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mido
import numpy as np
import torch
from tqdm import tqdm

import Hyperparameters as hp
import Util
from audio import audio_files
from notes import note_events, sampled_voice, studio_voice
from notes.sampled_voice import SampledVoice
from notes.studio_voice import StudioVoice
from rendering.fluidsynth import play_on_preset, render
from rendering.generated_files import settings, values_digest
from rendering.soundfonts import find_soundfont, parse_preset, preset_text

layer_velocities = (32, 64, 96, 127)    # at which every key is recorded
measured_velocities = (1, 16, 32, 48, 64, 80, 96, 112, 127)     # at which its level and release are measured
stored_s = (9.0, 3.5)       # seconds that are stored of the lowest and the highest key
stored_bytes = 20e6         # most that all sounds may need; else every second key is stored, or every third
studio_bytes = 5e6          # the same, of middle and of side in studio quality
same_layer = 0.1            # distance of layers, of their norm, below which they are one sound, louder or softer
slot = 28224                # samples between notes of the scale: whole milliseconds, and blocks of FluidSynth's 64
long_slots = 8              # for a note that is held
pause = 2205                # samples before the next note, in which all is silent
held_s = 0.3                # of the short notes
measured_release = dict(block=220, fall_db=40, limits_s=(0.005, 5.0), default_s=0.05)   # samples of a block
processes = 2               # FluidSynths at once


def stored_voice(target, folder):
    """Return the `SampledVoice` of a target, which is rendered once and kept in a folder. Raises as `render_voice`."""
    preset = parse_preset(target)
    file = find_soundfont(preset[0]).stat()
    key = values_digest(preset, file.st_size, file.st_mtime_ns, settings())
    path = folder / f"{key}.torch"
    if path.exists():
        with contextlib.suppress(Exception):  # torch raises many kinds for damaged files
            return SampledVoice.from_state(torch.load(path, weights_only=True), "")
    voice = render_voice(preset)
    Util.save_bytes(path, lambda file: torch.save(voice.state_dict(), file))
    return voice


def render_voice(preset):
    """Render every key of a preset in the same way as the training pairs, and return a `SampledVoice`. Long notes at
    `layer_velocities` give the sounds, short ones at `measured_velocities` level and release. If the layers differ only
    in level, the voice stores the loudest one alone. If the sounds need more than `stored_bytes`, it stores every
    second or third key. Raises FileNotFoundError and ValueError as `MIDI2Audio.synthesise_midi_to_audio`."""
    [voice] = record_scale(preset, hp.sample_rate, lambda audio: [audio.mean(axis=1)], stored_bytes)
    return voice


def record_scale(preset, rate, split, most_bytes):
    """Render all keys of a preset at a sample rate in Hz. Return a `SampledVoice` of each of the signals
    [shape=(n,)] that `split` makes of the two channels [shape=(n, 2)]: see `render_voice`."""
    preset = find_soundfont(preset[0]), *preset[1:3], False
    keys = np.arange(hp.lowest_key, hp.lowest_key + hp.n_keys)
    with ThreadPoolExecutor(processes) as pool:
        found = list(tqdm(pool.map(lambda key: record_key(int(key), preset, rate, split), keys), desc="scale",
                          unit="key", total=len(keys), leave=False))
    return [make_voice(keys, signal, rate, most_bytes) for signal in zip(*found)]


def make_voice(keys, found, rate, most_bytes):
    """Return the `SampledVoice` of what `measure_key` has found for all keys."""
    streams, differences, level, release = (list(part) for part in zip(*found))
    layers = layer_velocities
    if np.median(differences) < same_layer:
        layers, streams = layers[-1:], [sounds[-1:] for sounds in streams]
    for step in (1, 2, 3):
        chosen = list(range(min(step // 2, 1), len(keys), step))
        if sum(len(sound) for i in chosen for sound in streams[i]) <= most_bytes:
            break
    sizes = np.array([[len(sound) for sound in streams[i]] for i in chosen])
    joined = b"".join(sound for i in chosen for sound in streams[i])
    return SampledVoice(
        rate, streams=torch.frombuffer(bytearray(joined), dtype=torch.uint8),
        ends=torch.from_numpy(np.cumsum(sizes).reshape(sizes.shape)), keys=torch.from_numpy(keys[chosen]),
        layers=torch.tensor(layers, dtype=torch.float32),
        velocities=torch.tensor(measured_velocities, dtype=torch.float32),
        level=torch.from_numpy(np.array(level, np.float32)[chosen]),
        release=torch.from_numpy(np.array(release, np.float32)[chosen]))


def record_key(key, preset, rate, split):
    """Render the long and short notes of a MIDI key on a preset (path, bank, program, room) at a sample rate, and
    return what `measure_key` finds for each signal that `split` makes of the channels."""
    scale, layers, short = rate // hp.sample_rate, len(layer_velocities), len(measured_velocities)
    starts = np.cumsum([0, *[long_slots * slot] * layers, *[slot] * short]) * scale
    lengths = [long_slots * slot * scale] * layers + [int(held_s * rate)] * short
    events = []
    for start, end, velocity, length in zip(starts, starts[1:], layer_velocities + measured_velocities, lengths):
        events += [(start, mido.Message("note_on", note=key, velocity=velocity)),
                   (min(start + length, end - pause * scale), mido.Message("note_off", note=key)),
                   (end - pause * scale, mido.Message("control_change", control=note_events.all_sound_off))]
    audio = render_events(events, int(starts[-1]), preset, rate, stereo=True)
    return [measure_key(key, [signal[start:end - pause * scale] for start, end in zip(starts, starts[1:])], rate)
            for signal in split(audio)]


def measure_key(key, notes, rate):
    """Measure the long and short notes [shape=(n,) each] of a key. Return the sound of each layer as FLAC, their
    largest distance from the loudest, relative to its norm and at the best gain, and at each of `measured_velocities`
    the RMS level in dB and the time in seconds in which the amplitude falls to 1 / e after the offset."""
    layers, short = len(layer_velocities), len(measured_velocities)
    sounds, notes = notes[:layers], notes[layers:]
    level = [decibels(note[:int(sampled_voice.voice_level_s * rate)]) for note in notes]
    release = np.array([measure_release(note, sounds[-1], rate) for note in notes])
    known = np.isfinite(release)
    release = (np.interp(measured_velocities, np.array(measured_velocities)[known], release[known]) if known.any()
               else np.full(short, measured_release["default_s"]))
    first = [sound[:2 * rate].astype(np.float64) for sound in sounds]
    units = [sound / (np.linalg.norm(sound) + 1e-12) for sound in first]
    difference = max(np.sqrt(max(1 - (unit @ units[-1]) ** 2, 0)) for unit in units)
    return [encode_sound(sound, key, rate) for sound in sounds], difference, level, release


def render_events(events, samples, preset, rate=hp.sample_rate, stereo=False):
    """Return the audio of events (sample, message) on a preset (path, bank, program, room): see `fluidsynth.render`."""
    events = [(sample / rate, message) for sample, message in events]
    midi = play_on_preset(events, max(time for time, _ in events) + hp.release_s, *preset[1:3])
    return render(midi, samples, preset, preset_text(preset), rate, stereo)


def decibels(audio):
    """Return the RMS level of audio in dB."""
    return 10 * np.log10(np.mean(audio.astype(np.float64) ** 2) + 1e-20)


def measure_release(note, sustained, rate):
    """Estimate the time in seconds in which the amplitude of a note falls to 1 / e after its offset. A line is fitted
    to the level difference in dB between the note [shape=(n,)], which is released after `held_s`, and a sustained one.
    Returns NaN if too few blocks of the note can be measured."""
    block = measured_release["block"] * rate // hp.sample_rate
    first = int(held_s * rate) + 2 * block
    blocks = (min(len(note), len(sustained)) - first) // block
    own, other = (np.array([decibels(part) for part in np.split(audio[first:first + blocks * block], blocks)])
                  for audio in (note, sustained))
    fallen = own - other
    used = np.flatnonzero((fallen < fallen[0] - 1) & (fallen > fallen[0] - measured_release["fall_db"]) & (own > -140))
    used = used[:np.argmax(np.append(np.diff(used) > 1, True)) + 1]  # the blocks before the first gap
    if len(used) < 3:
        return np.nan
    slope = np.polyfit(used * block / rate, fallen[used], 1)[0]  # dB per second
    return float(np.clip(-20 / np.log(10) / min(slope, -1e-3), *measured_release["limits_s"]))


def encode_sound(sound, key, rate):
    """Return a sound as 16-bit FLAC, up to where it has decayed by `sampled_voice.voice_range_db`, or at most for
    `stored_s`, which is interpolated between the lowest and the highest key."""
    share = (key - hp.lowest_key) / (hp.n_keys - 1)
    longest = stored_s[0] * (stored_s[1] / stored_s[0]) ** share
    sound = sound[:int(longest * rate)]
    peak = np.abs(sound).max()
    loud = np.flatnonzero(np.abs(sound) > peak * 10 ** (-sampled_voice.voice_range_db / 20))
    sound = sound[:loud[-1] + 1] if len(loud) and peak else np.zeros(1, np.float32)
    return audio_files.encoded(sound * (hp.peak / max(peak, 1e-9)), format="FLAC")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Sample the target instrument of a model for Main.py --studio.")
    parser.add_argument("--target", default=preset_text(hp.synth_preset), metavar="FILE.sf2:BANK:PROGRAM",
                        help="preset that the model was trained for (default: %(default)s)")
    parser.add_argument("--ae", type=Path, default=hp.ae_weights, metavar="FILE",
                        help="weights of the model, beside which studio.torch is written (default: the shipped ones)")
    options = parser.parse_args(arguments)
    path, target = studio_voice.studio_file(options.ae), parse_preset(options.target)
    if not options.ae.is_file():
        raise FileNotFoundError(f"{options.ae}: no such weights; give those of a model to --ae")
    Util.check_writable(path)
    signals = record_scale(target, studio_voice.rate, studio_voice.middle_and_side, studio_bytes)
    studio_voice.save(path, StudioVoice(*signals), preset_text(target))
    print(f"{path} is ready; next: python Main.py recording.wav --studio")


if __name__ == "__main__":
    Util.run(main)
