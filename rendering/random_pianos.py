"""Pianos of training clips: recorded sounds with other hammers, strings, tuning and wear, summed at notes."""
import io
import math

import numpy as np
import soundfile
import torch

import Hyperparameters as hp
import Util
from rendering.sample_player import spread_keys, sum_notes

# a "share" is that of the pianos, a "deviation" a standard one; two numbers are limits between which a value is drawn
plain_share = 0.15              # that stay as they are
largest_shift = 6               # semitones by which sounds come from other keys, as of strings of another size
shift_share = 0.6
mixed_share = 0.25              # with a second sound
unison_share = 0.5              # of these: with a sound of the same piano
mixed_cents = (2, 8)            # deviation of the second sound's tuning
mixed_gain = (0.2, 1.0)
tuning_cents = dict(curve=3, key=5, whole=8)            # deviations of the tuning: over the keyboard, of a key, of all
curve_points = dict(decay=6, level=5, tuning=4)         # of the smooth curves over the keyboard
equaliser_points = (0.1, 0.25, 0.7, 1, 2, 3, 4, 6, 9, 16, 32, 90, 400)  # times the fundamental
equaliser_db = dict(deviation=7, tilt=(-2, 2), key_deviation=(0, 3), bounds=(-40, 30))  # tilt per octave
faster_decay = dict(share=0.5, rate=(0, 0.8), key_deviation=0.3, bounds=(-0.1, 2))      # 1 / s
level_deviation_db = dict(curve=2.5, key=1.2)
knock = dict(share=0.5, db=(-28, -53), samples=3000, fall=90)   # of the action; relative to the peak; 1 / s
other_share = 0.3               # that are other instruments, where there are any
layers = 5                      # of a piano in the pool, at most
loudest_layer_db = -25          # in the middle of the keyboard
touch_deviation = 0.25          # of the logarithm of the velocities' exponent, clip by clip
layer_deviation = 6             # of the velocity that chooses the layer
velocity_span = (-1.5, 1.2)     # between and beyond two layers, in which the level follows the velocity
layer_step_db = 2               # at least, between layers
note_db = dict(bounds=(-30, 20), deviation=0.7)
release = dict(seconds=(0.02, 0.3), spread=0.2, octaves=3)      # of middle C to 1 / e; octaves in which it doubles
undamped = dict(lowest_key=(89, 94), seconds=2.0)       # keys without a damper


def read_piano(stored, device="cpu"):
    """Return sounds [shape=(k, layers, n), float16], their MIDI keys [shape=(k,)] and the velocities of the layers of a
    piano that `clip_sources.save_piano` has written and `np.load` has opened."""
    keys = torch.as_tensor(stored["keys"], device=device).float()
    sounds = []
    for i, gain in enumerate(stored["gains"]):
        audio, _ = soundfile.read(io.BytesIO(stored[f"stream{i}"].tobytes()), dtype="float32")
        sounds.append(torch.from_numpy(audio * np.float32(gain)).view(len(keys), -1).half())
    return torch.stack(sounds, 1).to(device), keys, torch.as_tensor(stored["velocities"], device=device)


def smooth(points, device, deviation):
    """Return a random curve over the keys [shape=(n_keys,)] through so many normally distributed points."""
    curve = torch.randn(1, 1, points, device=device) * deviation
    return torch.nn.functional.interpolate(curve, size=hp.n_keys, mode="linear", align_corners=True)[0, 0]


def uniform(limits, device=None, *shape):
    """Draw numbers between two limits [shape], by default a single one [shape=()]."""
    low, high = limits
    return low + (high - low) * torch.rand(shape, device=device)


def often(share, device=None, *shape):
    """Draw true with the probability `share` [shape], by default once [shape=()]."""
    return torch.rand(shape, device=device) < share


def random_equaliser(size, device):
    """Draw an equaliser whose points lie at multiples of a key's fundamental, as hammers of other felt sound. Returns a
    function: keys, counted from the lowest [shape=(n,)] -> gains in dB [shape=(n, size // 2 + 1)] of the frequencies of
    a signal of `size` samples. Every call draws how single keys deviate."""
    octaves = torch.tensor(equaliser_points, device=device).log2()
    hertz = torch.arange(size // 2 + 1, device=device).clamp(min=1) * (hp.sample_rate / size)
    strength = torch.rand((), device=device)
    piano = torch.randn(len(octaves), device=device) * equaliser_db["deviation"] * strength
    piano = piano + uniform(equaliser_db["tilt"], device) * octaves
    worn = uniform(equaliser_db["key_deviation"], device)

    def gains(keys):
        f0 = 440 * 2 ** ((hp.lowest_key + keys[:, None] - 69) / 12)
        own = piano + torch.randn(len(keys), len(octaves), device=device) * worn
        place = (hertz / f0).log2()
        right = torch.bucketize(place, octaves).clamp(1, len(octaves) - 1)
        share = ((place - octaves[right - 1]) / (octaves[right] - octaves[right - 1])).clamp(0, 1)
        return torch.lerp(own.gather(1, right - 1), own.gather(1, right), share).clamp(*equaliser_db["bounds"])

    return gains


def random_timbre(sounds):
    """Give a piano [shape=(n_keys, layers, n)] other hammers, strings and wear, in place, and return it: an equaliser
    follows the partials of each key, sounds decay faster, keys are uneven, and the action knocks."""
    device, size, knocked = sounds.device, sounds.shape[-1], knock["samples"]
    gains, t = random_equaliser(size, device), torch.arange(size, device=device) / hp.sample_rate
    decay = uniform(faster_decay["rate"], device) * often(faster_decay["share"], device)
    decay = decay + smooth(curve_points["decay"], device, faster_decay["key_deviation"])
    decay = decay.clamp(*faster_decay["bounds"])
    level = smooth(curve_points["level"], device, level_deviation_db["curve"])
    level = 10 ** ((level + torch.randn(hp.n_keys, device=device) * level_deviation_db["key"]) / 20)
    knock_gain = 10 ** (uniform(knock["db"], device) / 20) * often(knock["share"], device)
    fade = torch.exp(-t[:knocked] * knock["fall"])
    for part in torch.arange(hp.n_keys, device=device).split(11):
        old = sounds[part].float()
        changed = torch.fft.irfft(torch.fft.rfft(old) * 10 ** (gains(part) / 20)[:, None], size)
        changed *= old.norm(dim=-1, keepdim=True) / (changed.norm(dim=-1, keepdim=True) + 1e-9)
        changed *= torch.exp(-decay[part, None] * t)[:, None]
        noise = torch.nn.functional.avg_pool1d(torch.randn(len(part), 1, knocked, device=device), 9, 1, 4) * fade
        peak = changed[..., :2 * knocked].abs().amax(-1, keepdim=True)
        changed[..., :knocked] += knock_gain * peak * noise / noise.abs().amax()
        sounds[part] = (changed * level[part, None, None]).to(sounds.dtype)
    return sounds


def draw_piano(pianos, others=()):
    """Draw a piano, or another instrument, from those that `read_piano` returns: sounds of every key [shape=(n_keys,
    layers, n)], and the velocities of the layers. Most are changed: sounds come from other keys, as those of strings of
    another size; two are mixed, so that they beat; strings are detuned; timbre and decay change (`random_timbre`)."""
    chosen = others if others and often(other_share) else pianos

    def pick():
        return chosen[int(torch.randint(len(chosen), ()))]

    def between(limits, share):
        return limits[0] + (limits[1] - limits[0]) * share

    sounds, keys, velocities = pick()
    device, draw = sounds.device, torch.rand(8).tolist()
    if draw[0] < plain_share:
        return spread_keys(sounds, keys), velocities
    cents = smooth(curve_points["tuning"], device, tuning_cents["curve"])
    cents = cents + torch.randn(hp.n_keys, device=device) * tuning_cents["key"] * draw[1] ** 2
    cents = cents + torch.randn((), device=device) * tuning_cents["whole"]
    shift = float(torch.randint(-largest_shift, largest_shift + 1, ())) if draw[2] < shift_share else 0.0
    result = spread_keys(sounds, keys, shift, cents)
    if draw[3] < mixed_share:  # two strings that beat, or another piano beside
        other, other_keys, other_velocities = (sounds, keys, velocities) if draw[4] < unison_share else pick()
        apart = torch.randn(hp.n_keys, device=device) * between(mixed_cents, draw[5])
        beside = spread_keys(other, other_keys, shift, cents + apart)
        nearest = (velocities[:, None] - other_velocities[None]).abs().argmin(1)
        result += beside[:, nearest] * between(mixed_gain, draw[6])
    return random_timbre(result), velocities


class Instruments:
    """A pool of `size` pianos and other instruments, drawn from those that `read_piano` returns and numbered in the
    order of their use. Sounds are kept for each key and layer of velocity; a piano with fewer layers has its last ones
    twice."""

    def __init__(self, pianos, others, size):
        self.pianos, self.others, self.size, self.numbers = pianos, others, size, [None] * size
        device, length = pianos[0][0].device, pianos[0][0].shape[-1]
        self.sounds = torch.zeros(size, hp.n_keys, layers, length, dtype=torch.float16, device=device)
        self.velocities = torch.zeros(size, layers, device=device)
        self.level = torch.zeros(size, hp.n_keys, layers, device=device)

    def hold(self, first):
        """Have the pianos from number `first` on in the pool. The same number is always the same piano."""
        for number in range(first, first + self.size):
            place = number % self.size
            if self.numbers[place] == number:
                continue
            with Util.seeded(hp.seed * 1_000_003 + number):
                sounds, velocities = draw_piano(self.pianos, self.others)
            level = 10 * (sounds[..., :hp.sample_rate // 2].float() ** 2).mean(-1).clamp(min=1e-12).log10()
            loudest = level[30:60].mean(0).max()
            for layer in range(layers):
                source = min(layer, len(velocities) - 1)
                self.sounds[place, :, layer] = sounds[:, source] * 10 ** ((loudest_layer_db - loudest) / 20)
                self.velocities[place, layer] = velocities[source] + 200 * (layer >= len(velocities))
                self.level[place, :, layer] = level[:, source] - loudest + loudest_layer_db
            self.numbers[place] = number

    def play(self, notes, clips, samples, lead):
        """Return the audio [shape=(clips, samples)] of notes, those of each clip on one piano of the pool. The columns
        of `notes` [shape=(n, 5)] are clip, onset and end in seconds from the sample `lead` on, MIDI key and velocity.
        After its end, a sound falls as fast as the damper makes it; the highest keys have no dampers."""
        clip, key, device = notes[:, 0].long(), notes[:, 3].long() - hp.lowest_key, notes.device
        piano = torch.randint(self.size, (clips,), device=device)[clip]
        layer, gain = self.choose_layers(piano, clip, key, notes[:, 4], clips)
        fall = torch.exp(uniform(map(math.log, release["seconds"]), device, clips))[clip] * hp.sample_rate
        fall = fall * 2 ** ((60 - notes[:, 3]) / (12 * release["octaves"]))
        fall = fall * torch.exp(release["spread"] * torch.randn(len(notes), device=device))
        without_damper = notes[:, 3] >= uniform(undamped["lowest_key"], device, clips)[clip]
        fall = torch.where(without_damper, undamped["seconds"] * hp.sample_rate, fall)
        start, held = notes[:, 1] * hp.sample_rate + lead, (notes[:, 2] - notes[:, 1]) * hp.sample_rate
        sound = (piano * hp.n_keys + key) * layers + layer
        return sum_notes(self.sounds.flatten(0, 2), sound, clip, start, held, gain, fall, (clips, samples))

    def choose_layers(self, piano, clip, key, velocity, clips):
        """Return the layer that each note plays, and its gain [shape=(n,) each]. The level follows the velocity between
        the two layers around it; every clip has a touch of its own."""
        velocities, level = self.velocities[piano], self.level[piano, key]  # (n, layers)
        device, number = velocity.device, len(velocity)
        touch = torch.exp(touch_deviation * torch.randn(clips, device=device))[clip]
        wanted = 127 * (velocity / 127) ** touch
        jitter = torch.randn(number, 1, device=device) * layer_deviation
        layer = (wanted[:, None] + jitter - velocities).abs().argmin(1)
        right = (wanted[:, None] > velocities).sum(1).clamp(1, 3)[:, None]
        low, high = (velocities.gather(1, place)[:, 0].log() for place in (right - 1, right))
        softer, louder = (level.gather(1, place)[:, 0] for place in (right - 1, right))
        share = ((wanted.log() - low) / (high - low)).clamp(*velocity_span)
        decibels = torch.lerp(softer, louder.maximum(softer + layer_step_db), share)
        decibels = (decibels - level.gather(1, layer[:, None])[:, 0]).clamp(*note_db["bounds"])
        return layer, 10 ** ((decibels + note_db["deviation"] * torch.randn(number, device=device)) / 20)
