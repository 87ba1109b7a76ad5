"""Pianos of training clips: recorded sounds with other hammers, strings, tuning and wear, summed at notes."""
import io
import math

import numpy as np
import torch

import Hyperparameters as hp
from Sampler import spread_keys, sum_notes


def read_piano(stored, device="cpu"):
    """Return (sounds [shape=(k, layers, n)], keys [shape=(k,)], velocities [shape=(layers,)]) of a stored piano."""
    import soundfile

    keys = torch.as_tensor(np.asarray(stored["keys"]), device=device).float()
    layers = []
    for i, gain in enumerate(stored["gains"]):
        audio, _ = soundfile.read(io.BytesIO(np.asarray(stored[f"stream{i}"]).tobytes()), dtype="float32")
        layers.append(torch.from_numpy(audio * np.float32(gain)).view(len(keys), -1))
    return torch.stack(layers, 1).to(device), keys, torch.as_tensor(np.asarray(stored["velocities"]), device=device)


def smooth(size, points, device, deviation=1.0):
    """Return a random curve [shape=(size,)] through so many normally distributed points."""
    curve = torch.randn(1, 1, points, device=device) * deviation
    return torch.nn.functional.interpolate(curve, size=size, mode="linear", align_corners=True)[0, 0]


def randomised(sounds, device):
    """Return the sounds of all keys [shape=(n_keys, layers, n)] with other hammers, strings and wear: an equaliser that
    follows the partials, another decay, uneven keys, knocks."""
    size, octaves = sounds.shape[-1], torch.tensor(
        [0.1, 0.25, 0.7, 1, 2, 3, 4, 6, 9, 16, 32, 90, 400], device=device).log2()
    hertz = torch.arange(size // 2 + 1, device=device).clamp(min=1) * (hp.sample_rate / size)
    strength = torch.rand((), device=device)
    piano = torch.randn(len(octaves), device=device) * 7 * strength + (torch.rand((), device=device) * 4 - 2) * octaves
    worn = torch.rand((), device=device) * 3
    t = torch.arange(size, device=device) / hp.sample_rate
    faster = torch.rand((), device=device) * 0.8 * (torch.rand((), device=device) < 0.5)
    decay = (faster + smooth(hp.n_keys, 6, device, 0.3)).clamp(-0.1, 2)
    level = 10 ** ((smooth(hp.n_keys, 5, device, 2.5) + torch.randn(hp.n_keys, device=device) * 1.2) / 20)
    knock = 10 ** ((-28 - 25 * torch.rand((), device=device)) / 20) * (torch.rand((), device=device) < 0.5)
    fade = torch.exp(-t[:3000] * 90)
    for part in torch.arange(hp.n_keys, device=device).split(11):
        old = sounds[part].float()
        f0 = 440 * 2 ** ((hp.lowest_key + part[:, None] - 69) / 12)
        own = piano + torch.randn(len(part), len(octaves), device=device) * worn
        place = (hertz / f0).log2()
        right = torch.bucketize(place, octaves).clamp(1, len(octaves) - 1)
        share = ((place - octaves[right - 1]) / (octaves[right] - octaves[right - 1])).clamp(0, 1)
        gain = torch.lerp(own.gather(1, right - 1), own.gather(1, right), share).clamp(-40, 30)
        changed = torch.fft.irfft(torch.fft.rfft(old) * 10 ** (gain / 20)[:, None], size)
        changed *= old.norm(dim=-1, keepdim=True) / (changed.norm(dim=-1, keepdim=True) + 1e-9)
        changed *= torch.exp(-decay[part, None] * t)[:, None]
        noise = torch.nn.functional.avg_pool1d(torch.randn(len(part), 1, 3000, device=device), 9, 1, 4) * fade
        peak = changed[..., :6000].abs().amax(-1, keepdim=True)
        changed[..., :3000] += knock * peak * noise / noise.abs().amax()
        sounds[part] = (changed * level[part, None, None]).to(sounds.dtype)
    return sounds


def draw_piano(pianos, plain=0.15):
    """Draw a piano: (sounds [shape=(n_keys, layers, n), half precision on cuda], velocities [shape=(layers,)]).

    `pianos` as `read_piano` returns them. A share `plain` is one of them as it is; of the others, sounds come from
    other keys, two pianos are mixed, strings are detuned, timbre and decay change.
    """
    def pick():
        return pianos[int(torch.randint(len(pianos), ()))]

    sounds, keys, velocities = pick()
    device, draw = sounds.device, torch.rand(8).tolist()
    if draw[0] < plain:
        return spread_keys(sounds, keys), velocities
    cents = smooth(hp.n_keys, 4, device, 3) + torch.randn(hp.n_keys, device=device) * 5 * draw[1] ** 2
    cents = cents + torch.randn((), device=device) * 8
    shift = float(torch.randint(-6, 7, ())) if draw[2] < 0.6 else 0.0
    result = spread_keys(sounds, keys, shift, cents)
    if draw[3] < 0.25:  # two strings that beat, or another piano beside
        other, other_keys, other_velocities = (sounds, keys, velocities) if draw[4] < 0.5 else pick()
        beside = spread_keys(other, other_keys, shift, cents + torch.randn(hp.n_keys, device=device) * (2 + 6 * draw[5]))
        nearest = (velocities[:, None] - other_velocities[None]).abs().argmin(1)
        result += beside[:, nearest] * (0.2 + 0.8 * draw[6])
    return randomised(result, device), velocities


class Instruments:
    """A pool of drawn pianos, of which one is replaced now and then.

    Sounds are kept for each key and layer of velocity; a piano with fewer layers has its last ones twice.
    """

    layers = 5

    def __init__(self, pianos, size, dtype=torch.float16):
        self.pianos, self.size, self.next = pianos, size, 0
        device, length = pianos[0][0].device, pianos[0][0].shape[-1]
        self.sounds = torch.zeros(size, hp.n_keys, self.layers, length, dtype=dtype, device=device)
        self.velocities = torch.zeros(size, self.layers, device=device)
        self.level = torch.zeros(size, hp.n_keys, self.layers, device=device)
        for _ in range(size):
            self.renew()

    def renew(self):
        sounds, velocities = draw_piano(self.pianos)
        level = 10 * (sounds[..., :hp.sample_rate // 2].float() ** 2).mean(-1).clamp(min=1e-12).log10()
        loudest = level[30:60].mean(0).max()
        number = len(velocities)
        for layer in range(self.layers):
            source = min(layer, number - 1)
            self.sounds[self.next, :, layer] = sounds[:, source] * 10 ** ((-25 - loudest) / 20)
            self.velocities[self.next, layer] = velocities[source] + 200 * (layer >= number)
            self.level[self.next, :, layer] = level[:, source] - loudest - 25
        self.next = (self.next + 1) % self.size

    def play(self, notes, clips, samples, lead):
        """Return the audio [shape=(clips, samples)] of notes [shape=(n, 5)], whose times count from sample `lead`."""
        device = notes.device

        def drawn(low, high):
            return low + (high - low) * torch.rand(clips, device=device)

        clip, key, velocity = notes[:, 0].long(), notes[:, 3].long() - hp.lowest_key, notes[:, 4]
        piano = torch.randint(self.size, (clips,), device=device)[clip]
        velocities, level = self.velocities[piano], self.level[piano, key]  # (n, layers)
        wanted = 127 * (velocity / 127) ** torch.exp(0.25 * torch.randn(clips, device=device))[clip]  # touch
        layer = (wanted[:, None] + torch.randn(len(notes), 1, device=device) * 6 - velocities).abs().argmin(1)
        right = (wanted[:, None] > velocities).sum(1).clamp(1, 3)[:, None]
        low, high = (velocities.gather(1, place)[:, 0].log() for place in (right - 1, right))
        softer, louder = (level.gather(1, place)[:, 0] for place in (right - 1, right))
        share = ((wanted.log() - low) / (high - low)).clamp(-1.5, 1.2)
        decibels = torch.lerp(softer, louder.maximum(softer + 2), share)
        decibels = (decibels - level.gather(1, layer[:, None])[:, 0]).clamp(-30, 20)
        gain = 10 ** ((decibels + 0.7 * torch.randn(len(notes), device=device)) / 20)
        release = torch.exp(drawn(math.log(0.02), math.log(0.3)))[clip] * hp.sample_rate * 2 ** ((60 - notes[:, 3]) / 36)
        release = release * torch.exp(0.2 * torch.randn(len(notes), device=device))
        release = torch.where(notes[:, 3] >= drawn(89, 94)[clip], 2.0 * hp.sample_rate, release)  # without dampers
        start, held = notes[:, 1] * hp.sample_rate + lead, (notes[:, 2] - notes[:, 1]) * hp.sample_rate
        sound = (piano * hp.n_keys + key) * self.layers + layer
        return sum_notes(self.sounds.flatten(0, 2), sound, clip, start, held, gain, release, (clips, samples))
