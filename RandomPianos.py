"""Pianos of training clips: recorded sounds with other hammers, strings, tuning and wear, summed at notes."""
import contextlib
import io
import math

import numpy as np
import torch

import Hyperparameters as hp
from Sampler import spread_keys, sum_notes


def read_piano(stored, device="cpu"):
    """Read a piano that `ClipSources.save_piano` has written.

    Parameters
    ----------
    stored : mapping
        The file, opened by `np.load`.
    device : str or torch.device

    Returns
    -------
    (torch.Tensor [shape=(k, layers, n)], torch.Tensor [shape=(k,)], torch.Tensor [shape=(layers,)])
        Sounds, their MIDI keys, and the velocities at which they were recorded.
    """
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


def uniform(limits, device=None, *shape):
    """Draw numbers between two limits [shape], by default a single one [shape=()]."""
    low, high = limits
    return low + (high - low) * torch.rand(shape, device=device)


def often(share, device=None, *shape):
    """Draw true with the probability `share` [shape], by default once [shape=()]."""
    return torch.rand(shape, device=device) < share


def random_equaliser(size, device):
    """Draw an equaliser whose points lie at multiples of a key's fundamental, as hammers of other felt sound.

    Returns
    -------
    callable
        Number of keys from the lowest one [shape=(keys,)] -> gains in dB [shape=(keys, size // 2 + 1)] of the
        frequencies of a signal of `size` samples. Every call draws how single keys deviate.
    """
    octaves = torch.tensor(hp.piano_points, device=device).log2()
    hertz = torch.arange(size // 2 + 1, device=device).clamp(min=1) * (hp.sample_rate / size)
    strength = torch.rand((), device=device)
    piano = torch.randn(len(octaves), device=device) * hp.piano_db * strength
    piano = piano + uniform(hp.piano_tilt_db, device) * octaves
    worn = uniform(hp.piano_key_db, device)

    def gains(keys):
        f0 = 440 * 2 ** ((hp.lowest_key + keys[:, None] - 69) / 12)
        own = piano + torch.randn(len(keys), len(octaves), device=device) * worn
        place = (hertz / f0).log2()
        right = torch.bucketize(place, octaves).clamp(1, len(octaves) - 1)
        share = ((place - octaves[right - 1]) / (octaves[right] - octaves[right - 1])).clamp(0, 1)
        return torch.lerp(own.gather(1, right - 1), own.gather(1, right), share).clamp(*hp.piano_gain_db)

    return gains


def random_timbre(sounds, device):
    """Give a piano other hammers, strings and wear, in place.

    An equaliser follows the partials of each key, sounds decay faster, keys are uneven, and the action knocks.

    Parameters
    ----------
    sounds : torch.Tensor [shape=(n_keys, layers, n)]

    Returns
    -------
    torch.Tensor [shape as before]
    """
    size, points, knocked = sounds.shape[-1], hp.piano_curve_points, hp.piano_knock_samples
    gains, t = random_equaliser(size, device), torch.arange(size, device=device) / hp.sample_rate
    faster = uniform(hp.piano_faster, device) * often(hp.piano_faster_share, device)
    decay = faster + smooth(hp.n_keys, points["decay"], device, hp.piano_key_decay)
    decay = decay.clamp(*hp.piano_decay)
    level = smooth(hp.n_keys, points["level"], device, hp.piano_level_db)
    level = 10 ** ((level + torch.randn(hp.n_keys, device=device) * hp.piano_key_level_db) / 20)
    knock = 10 ** (uniform(hp.piano_knock_db, device) / 20) * often(hp.piano_knock_share, device)
    fade = torch.exp(-t[:knocked] * hp.piano_knock_fall)
    for part in torch.arange(hp.n_keys, device=device).split(11):
        old = sounds[part].float()
        changed = torch.fft.irfft(torch.fft.rfft(old) * 10 ** (gains(part) / 20)[:, None], size)
        changed *= old.norm(dim=-1, keepdim=True) / (changed.norm(dim=-1, keepdim=True) + 1e-9)
        changed *= torch.exp(-decay[part, None] * t)[:, None]
        noise = torch.nn.functional.avg_pool1d(torch.randn(len(part), 1, knocked, device=device), 9, 1, 4) * fade
        peak = changed[..., :2 * knocked].abs().amax(-1, keepdim=True)
        changed[..., :knocked] += knock * peak * noise / noise.abs().amax()
        sounds[part] = (changed * level[part, None, None]).to(sounds.dtype)
    return sounds


def draw_piano(pianos, plain=None):
    """Draw a piano.

    Most are changed: sounds come from other keys, as those of strings of another size; two sounds are mixed, so that
    they beat; strings are detuned; timbre and decay change (`random_timbre`).

    Parameters
    ----------
    pianos : list
        As `read_piano` returns them.
    plain : float, optional
        Share of draws that return a piano unchanged, by default `hp.piano_plain_share`.

    Returns
    -------
    (torch.Tensor [shape=(n_keys, layers, n)], torch.Tensor [shape=(layers,)])
        Sounds of every key, and the velocities of the layers.
    """
    def pick():
        return pianos[int(torch.randint(len(pianos), ()))]

    sounds, keys, velocities = pick()
    device, draw = sounds.device, torch.rand(8).tolist()
    if draw[0] < (hp.piano_plain_share if plain is None else plain):
        return spread_keys(sounds, keys), velocities
    tuning, most = hp.piano_tuning_cents, hp.piano_resize
    cents = smooth(hp.n_keys, hp.piano_curve_points["tuning"], device, tuning["curve"])
    cents = cents + torch.randn(hp.n_keys, device=device) * tuning["key"] * draw[1] ** 2
    cents = cents + torch.randn((), device=device) * tuning["whole"]
    shift = float(torch.randint(-most, most + 1, ())) if draw[2] < hp.piano_resize_share else 0.0
    result = spread_keys(sounds, keys, shift, cents)
    if draw[3] < hp.piano_mixed_share:  # two strings that beat, or another piano beside
        other, other_keys, other_velocities = (
            (sounds, keys, velocities) if draw[4] < hp.piano_unison_share else pick())
        low, high = hp.piano_mixed_cents
        apart = torch.randn(hp.n_keys, device=device) * (low + (high - low) * draw[5])
        beside = spread_keys(other, other_keys, shift, cents + apart)
        nearest = (velocities[:, None] - other_velocities[None]).abs().argmin(1)
        low, high = hp.piano_mixed_gain
        result += beside[:, nearest] * (low + (high - low) * draw[6])
    return random_timbre(result, device), velocities


@contextlib.contextmanager
def seeded(seed):
    """Draw torch's random numbers from a seed within a `with` block, and afterwards as before it."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


class Instruments:
    """A pool of drawn pianos, numbered in the order in which they are used.

    Sounds are kept for each key and layer of velocity; a piano with fewer layers has its last ones twice.

    Parameters
    ----------
    pianos : list
        As `read_piano` returns them.
    size : int
        Pianos in the pool.
    dtype : torch.dtype
        Of the sounds.
    """

    layers = hp.piano_layers

    def __init__(self, pianos, size, dtype=torch.float16):
        self.pianos, self.size, self.numbers = pianos, size, [None] * size
        device, length = pianos[0][0].device, pianos[0][0].shape[-1]
        self.sounds = torch.zeros(size, hp.n_keys, self.layers, length, dtype=dtype, device=device)
        self.velocities = torch.zeros(size, self.layers, device=device)
        self.level = torch.zeros(size, hp.n_keys, self.layers, device=device)

    def hold(self, first):
        """Have the pianos from number `first` on in the pool. The same number is always the same piano."""
        for number in range(first, first + self.size):
            if self.numbers[number % self.size] != number:
                with seeded(hp.seed * 1_000_003 + number):
                    self.replace(number % self.size)
                self.numbers[number % self.size] = number

    def replace(self, place):
        """Put a drawn piano into a place of the pool, at the level `hp.piano_level`."""
        sounds, velocities = draw_piano(self.pianos)
        level = 10 * (sounds[..., :hp.sample_rate // 2].float() ** 2).mean(-1).clamp(min=1e-12).log10()
        loudest = level[30:60].mean(0).max()
        number = len(velocities)
        for layer in range(self.layers):
            source = min(layer, number - 1)
            self.sounds[place, :, layer] = sounds[:, source] * 10 ** ((hp.piano_level - loudest) / 20)
            self.velocities[place, layer] = velocities[source] + 200 * (layer >= number)
            self.level[place, :, layer] = level[:, source] - loudest + hp.piano_level

    def play(self, notes, clips, samples, lead):
        """Play notes, those of each clip on one piano of the pool.

        The level of a note follows its velocity between the two layers around it. After its end, a sound falls as
        fast as the damper makes it; the highest keys have no dampers.

        Parameters
        ----------
        notes : torch.Tensor [shape=(n, 5)]
            Clip, onset and end in seconds, MIDI key, velocity.
        clips, samples : int
        lead : float
            Sample from which the times count.

        Returns
        -------
        torch.Tensor [shape=(clips, samples)]
        """
        device = notes.device

        def drawn(low, high):
            return low + (high - low) * torch.rand(clips, device=device)

        clip, key = notes[:, 0].long(), notes[:, 3].long() - hp.lowest_key
        piano = torch.randint(self.size, (clips,), device=device)[clip]
        layer, gain = self.choose_layers(piano, clip, key, notes[:, 4], clips)
        release = torch.exp(drawn(*map(math.log, hp.piano_release_s)))[clip] * hp.sample_rate
        release = release * 2 ** ((60 - notes[:, 3]) / hp.piano_release_keys)
        release = release * torch.exp(hp.piano_release_spread * torch.randn(len(notes), device=device))
        undamped = notes[:, 3] >= drawn(*hp.piano_undamped_key)[clip]
        release = torch.where(undamped, hp.piano_undamped_s * hp.sample_rate, release)
        start, held = notes[:, 1] * hp.sample_rate + lead, (notes[:, 2] - notes[:, 1]) * hp.sample_rate
        sound = (piano * hp.n_keys + key) * self.layers + layer
        return sum_notes(self.sounds.flatten(0, 2), sound, clip, start, held, gain, release, (clips, samples))

    def choose_layers(self, piano, clip, key, velocity, clips):
        """Return the layer that each note plays, and its gain [shape=(n,) each]; every clip has a touch of its own."""
        velocities, level = self.velocities[piano], self.level[piano, key]  # (n, layers)
        device, number = velocity.device, len(velocity)
        touch = torch.exp(hp.piano_touch * torch.randn(clips, device=device))[clip]
        wanted = 127 * (velocity / 127) ** touch
        jitter = torch.randn(number, 1, device=device) * hp.piano_layer_jitter
        layer = (wanted[:, None] + jitter - velocities).abs().argmin(1)
        right = (wanted[:, None] > velocities).sum(1).clamp(1, 3)[:, None]
        low, high = (velocities.gather(1, place)[:, 0].log() for place in (right - 1, right))
        softer, louder = (level.gather(1, place)[:, 0] for place in (right - 1, right))
        share = ((wanted.log() - low) / (high - low)).clamp(*hp.piano_velocity_span)
        decibels = torch.lerp(softer, louder.maximum(softer + hp.piano_layer_step_db), share)
        decibels = (decibels - level.gather(1, layer[:, None])[:, 0]).clamp(*hp.piano_note_gain_db)
        return layer, 10 ** ((decibels + hp.piano_note_db * torch.randn(number, device=device)) / 20)
