"""The target instrument as a sampled instrument: its own sounds, summed at the notes. The decoder that knows phases."""
import io

import numpy as np
import soundfile
import torch
from torch import nn

import DatasetCreator
import Hyperparameters as hp
import Util


class SampledVoice(nn.Module):
    """A decoder of notes to audio, in place of `NoteAutoencoder.NoteDecoder`.

    All that it knows are buffers, so that weights hold it; `Scale.render_voice` makes them. Nothing is trained by
    gradient. Sounds are decoded when a note needs them, and then kept.

    Parameters
    ----------
    streams : torch.Tensor [shape=(bytes,), uint8]
        The sounds, FLAC one after the other: for each recorded key those of its layers.
    ends : torch.Tensor [shape=(keys, layers), int64]
        Where the bytes of each sound end.
    keys : torch.Tensor [shape=(keys,)]
        MIDI keys that are recorded, ascending. The others take the sound of the nearest one, resampled.
    layers : torch.Tensor [shape=(layers,)]
        Velocities at which sounds are recorded, ascending; between them, sounds are mixed.
    velocities : torch.Tensor [shape=(velocities,)]
        Velocities at which levels and releases are known, ascending.
    level : torch.Tensor [shape=(keys, velocities)]
        RMS level in dB of the first `hp.voice_level_s` of a note.
    release : torch.Tensor [shape=(keys, velocities)]
        Seconds in which a note falls to 1 / e of its amplitude, once it has ended.
    """

    names = ("streams", "ends", "keys", "layers", "velocities", "level", "release")

    def __init__(self, **tensors):
        super().__init__()
        for name in self.names:
            self.register_buffer(name, tensors[name])
        self.decoded, self.tables = {}, None

    @classmethod
    def from_state(cls, state, prefix="decoder."):
        """Return the voice that a state_dict holds. Raises KeyError if it holds none."""
        return cls(**{name: state[prefix + name].clone() for name in cls.names})

    def forward(self, notes, first, frames):
        """Return the mel power in dB [shape=(n_mels, frames)] of notes, from a frame on: see `NoteDecoder.forward`."""
        spectrum = self.spectrum(notes.cpu().numpy(), first, first + frames)
        decibels = 10 * np.log10(np.maximum(DatasetCreator.mel_power(spectrum), 10 ** (hp.decoder_silence / 10)))
        return torch.from_numpy(decibels.astype(np.float32)).to(notes.device)

    def spectrum(self, notes, first, last):
        """Return the STFT of the frames from `first` to `last` of the notes' audio [shape=(1 + n_fft / 2, last -
        first), complex64]."""
        samples = (last - 1 - first) * hp.hop_length + hp.n_fft
        audio = self.audio(notes, first * hp.hop_length - hp.n_fft // 2, samples)
        return DatasetCreator.stft(audio, center=False)

    def audio(self, notes, start, samples):
        """Play notes.

        Parameters
        ----------
        notes : np.ndarray [shape=(n, 4)]
            Onset and end in seconds, MIDI key, velocity from 1 to 127. Keys that no piano has count for nothing.
        start, samples : int
            First sample to return, also before 0, and how many.

        Returns
        -------
        np.ndarray [shape=(samples,), float32]
        """
        total = np.zeros(samples, np.float32)
        for onset, end, key, velocity in np.asarray(notes, np.float64):
            if not hp.lowest_key <= key < hp.lowest_key + hp.n_keys:
                continue
            level, release = self.law(int(key), velocity)
            place = onset * hp.sample_rate + hp.voice_delay - start
            held = max(end - onset, 0) * hp.sample_rate
            if place >= samples or place + held + hp.voice_release_lengths * release <= 0:
                continue
            share, place = place % 1, int(place // 1)
            first = max(-place, 0)
            length = int(held + share + hp.voice_release_lengths * release) + 1
            last = min(length, samples - place)
            sound = prolonged(self.sound(int(key), velocity), length + hp.voice_taps)
            note = delayed(sound, first, last, share) * np.float32(level)
            ended = max(int(np.ceil(held + share)), first)
            since = np.arange(ended, last, dtype=np.float32) - np.float32(held + share)
            note[ended - first:] *= np.exp(since * np.float32(-1 / release))
            total[place + first:place + last] += note
        return total

    def law(self, key, velocity):
        """Return amplitude and release, in samples, of a key that is struck so hard."""
        row = self.row(key)
        if "law" not in self.decoded:
            self.decoded["law"] = [np.log(self.velocities.cpu().numpy()), *(
                table.cpu().numpy() for table in (self.level, self.release))]
        known, level, release = self.decoded["law"]
        hard = np.log(min(max(velocity, 1), 127))
        return 10 ** (np.interp(hard, known, level[row]) / 20), np.interp(hard, known, release[row]) * hp.sample_rate

    def row(self, key):
        """Return the place of the recorded key that is nearest to a key."""
        return int(np.abs(self.keys.cpu().numpy() - key).argmin())

    def sound(self, key, velocity):
        """Return the sound of a key [shape=(n,)], of unit RMS in its first `hp.voice_level_s`: the two layers around a
        velocity, mixed."""
        layers = self.layers.cpu().numpy()
        right = int(np.searchsorted(layers, velocity).clip(1, len(layers) - 1)) if len(layers) > 1 else 0
        share = np.float32(np.clip((velocity - layers[right - 1]) / (layers[right] - layers[right - 1]), 0, 1)
                           if right else 1)
        louder = self.layer(key, right)
        return louder if share == 1 else mix(self.layer(key, right - 1), louder, share)

    def layer(self, key, layer):
        """Return the sound of a key in a layer, decoded and, if another key's is taken, resampled."""
        if (key, layer) not in self.decoded:
            row = self.row(key)
            ends = self.ends.cpu().flatten().tolist()
            place = row * len(self.layers) + layer
            stream = self.streams[ends[place - 1] if place else 0:ends[place]].cpu().numpy().tobytes()
            sound, _ = soundfile.read(io.BytesIO(stream), dtype="float32")
            semitones = key - int(self.keys[row])
            if semitones:
                sound = Util.resample(sound, hp.sample_rate * 2 ** (semitones / 12))
            loud = np.sqrt(np.mean(sound[:int(hp.voice_level_s * hp.sample_rate)] ** 2))
            self.decoded[key, layer] = sound / max(loud, 1e-9)
        return self.decoded[key, layer]


def mix(softer, louder, share):
    """Mix two sounds, the shorter one filled up with silence."""
    sound = np.zeros(max(len(softer), len(louder)), np.float32)
    sound[:len(softer)] += (1 - share) * softer
    sound[:len(louder)] += share * louder
    return sound


def delayed(sound, first, last, share):
    """Return the samples from `first` to `last` of a sound that begins `share` of a sample later, by an interpolation
    with `hp.voice_taps` values of a windowed sinc."""
    half = hp.voice_taps // 2
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
    """Return the values of a sinc, windowed by Hann's window, that delay by a share of a sample [shape=(voice_taps,)].
    """
    half = hp.voice_taps // 2
    place = np.arange(1 - half, half + 1) - share
    kernel = np.sinc(place) * (1 + np.cos(np.pi * place / half))
    return (kernel / kernel.sum()).astype(np.float32)


def prolonged(sound, samples):
    """Return a sound that lasts for at least so many samples: its end repeated, ever softer, as it fell before.

    It is repeated after the period, between a half and all of `hp.voice_loop_s`, after which it is most like itself.
    A sound that has died away ends in silence.
    """
    if samples <= len(sound):
        return sound
    window, longest = hp.voice_loop_fade, int(hp.voice_loop_s * hp.sample_rate)
    peak = np.abs(sound).max(initial=0)
    if len(sound) < 2 * longest + window or np.abs(sound[-longest:]).max() < peak * 10 ** (-hp.voice_range_db / 20):
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
