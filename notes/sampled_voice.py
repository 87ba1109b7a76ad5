"""Play notes on a sampled instrument that is stored in the weights. This decoder returns audio, with phase."""
import functools
import io

import numpy as np
import soundfile
import torch
from torch import nn

import DatasetCreator
import Hyperparameters as hp
from audio import audio_files

voice_range_db = 80         # below its peak, at which a sound has died away
voice_level_s = 0.25        # of a note, over which its level is measured
voice_release_lengths = 8   # after so many times the release a note is left out: 69 dB
voice_block = 64            # samples; FluidSynth begins notes at whole blocks, on average half a block late
voice_delay_s = 0.00054     # mean further delay of a note of FluidSynth, relative to the notes of the rendered scale
voice_taps = 16             # of the interpolation between samples
voice_loop_s = 1.0          # of a sound's end, at most, repeated if a note is longer
voice_loop_fade = 2048      # samples over which a repetition is faded in


class SampledVoice(nn.Module):
    """Decode notes to audio with the recorded sounds of the target instrument.

    The sounds are buffers, so the weights store them. `voice_sampling.render_voice` makes them, and gradient descent
    does not change them. A sound is decoded from FLAC when a note first needs it, and stays in memory. This class can
    replace `TableDecoder`.

    Tensors: `streams` [shape=(bytes,), uint8], the concatenated FLAC streams, ordered by recorded key and then by
    layer. `ends` [shape=(keys, layers), int64], where each of them ends. `keys`, the recorded MIDI keys; any other key
    uses the sound of the nearest one, resampled. `layers`, the velocities of the recorded sounds; other velocities mix
    two layers. `level` [shape=(keys, velocities)], the RMS level in dB of a note's first `voice_level_s` seconds, and
    `release` [same shape], the seconds in which the amplitude falls to 1 / e after the offset, at these `velocities`.
    Keys, layers and velocities ascend. `rate` is the sample rate of sounds and audio in Hz.
    """

    names = ("streams", "ends", "keys", "layers", "velocities", "level", "release")

    def __init__(self, rate=hp.sample_rate, **tensors):
        super().__init__()
        self.rate, self.delay = rate, voice_block // 2 + round(voice_delay_s * rate)
        for name in self.names:
            self.register_buffer(name, tensors[name])
        self.decoded = {}

    @classmethod
    def from_state(cls, state, prefix="decoder.", rate=hp.sample_rate):
        """Build the voice that a state_dict stores. Raises KeyError if the state_dict has no voice."""
        return cls(rate, **{name: state[prefix + name].clone() for name in cls.names})

    def forward(self, notes, first, frames):
        """Return the mel power in dB [shape=(n_mels, frames)] of notes: see `TableDecoder.forward`."""
        spectrum = self.spectrum(notes.cpu().numpy(), first, first + frames)
        decibels = 10 * np.log10(np.maximum(DatasetCreator.mel_power(spectrum), 10 ** (hp.decoder_silence / 10)))
        return torch.from_numpy(decibels.astype(np.float32)).to(notes.device)

    def spectrum(self, notes, first, last):
        """Return the STFT of notes [shape=(n, 4)] from frame `first` to before `last`
        [shape=(1 + n_fft / 2, last - first), complex64]."""
        samples = (last - 1 - first) * hp.hop_length + hp.n_fft
        audio = self.audio(notes, first * hp.hop_length - hp.n_fft // 2, samples)
        return DatasetCreator.stft(audio, center=False)

    def audio(self, notes, start, samples):
        """Return the audio of notes [shape=(n, 4)] from sample `start` on [shape=(samples,), float32]. `start` can be
        negative. Keys outside the piano's range are ignored."""
        total, notes = np.zeros(samples, np.float32), np.asarray(notes, np.float64)
        longest = voice_release_lengths * self.arrays["release"].max() + 1  # seconds after an offset, delay included
        near = (notes[:, 0] * self.rate < start + samples) & ((notes[:, :2].max(1) + longest) * self.rate > start)
        for onset, end, key, velocity, *_ in notes[near]:
            if not hp.lowest_key <= key < hp.lowest_key + hp.n_keys:
                continue
            level, release = self.law(int(key), velocity)
            place = onset * self.rate + self.delay - start
            held = max(end - onset, 0) * self.rate
            if place >= samples or place + held + voice_release_lengths * release <= 0:
                continue
            share, place = place % 1, int(place // 1)
            first = max(-place, 0)
            length = int(held + share + voice_release_lengths * release) + 1
            last = min(length, samples - place)
            sound = prolonged(self.sound(int(key), velocity), length + voice_taps, self.rate)
            note = delayed(sound, first, last, share) * np.float32(level)
            ended = max(int(np.ceil(held + share)), first)
            since = np.arange(ended, last, dtype=np.float32) - np.float32(held + share)
            note[ended - first:] *= np.exp(since * np.float32(-1 / release))
            total[place + first:place + last] += note
        return total

    @functools.cached_property
    def arrays(self):
        """Return all tensors except `streams` as arrays."""
        return {name: getattr(self, name).cpu().numpy() for name in self.names[1:]}

    def law(self, key, velocity):
        """Return the amplitude of a key at a velocity, and its release in samples."""
        known, hard = np.log(self.arrays["velocities"]), np.log(min(max(velocity, 1), 127))
        level, release = (np.interp(hard, known, self.arrays[name][self.row(key)]) for name in ("level", "release"))
        return 10 ** (level / 20), release * self.rate

    def row(self, key):
        """Return the index in `keys` of the recorded key that is nearest to a MIDI key."""
        return int(np.abs(self.arrays["keys"] - key).argmin())

    def sound(self, key, velocity):
        """Return a mix of the two layers around a velocity [shape=(n,)], each with RMS 1 in its first seconds."""
        layers = self.arrays["layers"]
        right = int(np.searchsorted(layers, velocity).clip(1, len(layers) - 1)) if len(layers) > 1 else 0
        share = np.float32(np.clip((velocity - layers[right - 1]) / (layers[right] - layers[right - 1]), 0, 1)
                           if right else 1)
        louder = self.layer(key, right)
        return louder if share == 1 else mix(self.layer(key, right - 1), louder, share)

    def layer(self, key, layer):
        """Return the decoded sound of a key in a layer [shape=(n,)]. A key that is not recorded is resampled."""
        if (key, layer) not in self.decoded:
            row, ends = self.row(key), self.arrays["ends"].flatten()
            place = row * len(self.layers) + layer
            stream = self.streams[ends[place - 1] if place else 0:ends[place]].cpu().numpy().tobytes()
            sound, _ = soundfile.read(io.BytesIO(stream), dtype="float32")
            semitones = key - int(self.arrays["keys"][row])
            if semitones:
                sound = audio_files.resample(sound, self.rate * 2 ** (semitones / 12), self.rate)
            loud = np.sqrt(np.mean(sound[:int(voice_level_s * self.rate)] ** 2))
            self.decoded[key, layer] = sound / max(loud, 1e-9)
        return self.decoded[key, layer]


def mix(softer, louder, share):
    """Return (1 - share) * softer + share * louder. The shorter sound is padded with silence."""
    length = max(len(softer), len(louder))
    return (1 - share) * audio_files.fix_length(softer, length) + share * audio_files.fix_length(louder, length)


def delayed(sound, first, last, share):
    """Return the samples from `first` to before `last` of a sound that is delayed by `share` of a sample. `sound`
    [shape=(n,), float32] is at least `voice_taps` samples longer than `last`. The interpolation is a windowed sinc of
    `voice_taps` values."""
    half = voice_taps // 2
    part = sound[max(first - half, 0):last + half - 1]
    part = np.pad(part, (last - first + 2 * half - 1 - len(part), 0))
    if share == 0:
        return part[half:half + last - first].copy()
    kernel = delay_kernel(share)
    result = kernel[-1] * part[:last - first]
    for i in range(1, 2 * half):
        result += kernel[-1 - i] * part[i:i + last - first]
    return result


def delay_kernel(share):
    """Return a sinc with a Hann window that delays by `share` of a sample [shape=(voice_taps,), float32]."""
    half = voice_taps // 2
    place = np.arange(1 - half, half + 1) - share
    kernel = np.sinc(place) * (1 + np.cos(np.pi * place / half))
    return (kernel / kernel.sum()).astype(np.float32)


def prolonged(sound, samples, rate=hp.sample_rate):
    """Extend a sound to at least `samples` samples by looping its end. Each repetition is softer than the one before,
    at the rate at which the end of the sound decays. The loop lasts between half and all of `voice_loop_s` seconds. Its
    length has the largest correlation between the sound's last samples and those one loop earlier. A sound that has
    decayed to silence is padded with zeros."""
    if samples <= len(sound):
        return sound
    window, longest = voice_loop_fade, int(voice_loop_s * rate)
    peak = np.abs(sound).max(initial=0)
    if len(sound) < 2 * longest + window or np.abs(sound[-longest:]).max() < peak * 10 ** (-voice_range_db / 20):
        return np.pad(sound, (0, samples - len(sound)))
    end = sound[-window:].astype(np.float64)
    lags = np.arange(longest // 2, longest)
    near = np.lib.stride_tricks.sliding_window_view(sound[-longest - window:], window)[longest - lags]
    lag = int(lags[(near @ end / (np.linalg.norm(near, axis=1) + 1e-9)).argmax()])
    fall = min(float(np.linalg.norm(sound[-lag:]) / (np.linalg.norm(sound[-2 * lag:-lag]) + 1e-9)), 1)
    fade = np.linspace(0, 1, window, dtype=np.float32)
    period = sound[-lag:].copy()
    period[-window:] += fade * (fall * sound[-lag - window:-lag] - period[-window:])
    parts = [sound[:-lag], period]
    for repeat in range(1, 2 + (samples - len(sound)) // lag):
        parts.append(period * np.float32(fall ** repeat))
    return np.concatenate(parts)[:samples]
