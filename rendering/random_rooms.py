"""Draw rooms, microphones and coders of training clips, anew for each clip, on the device.

Some of the rooms are those of simulated_rooms.py, slightly changed.
"""
import math

import numpy as np
import torch

import Hyperparameters as hp
from rendering.random_pianos import often, uniform

# a "share" is that of the clips; two numbers are the limits between which a value is drawn
response_s = 3.0                        # seconds of impulse responses
bands = (0, 250, 1000, 4000, 12000)     # Hz: edges of the bands, each with its own reverberation time
reverberation_s = (0.25, 3.2)           # of the lowest band
brightness = (0.25, 1.1)                # reverberation time of the highest band, relative to it
reverberation_spread = 0.15             # standard deviation of the logarithm, band by band
reverberation_db = (-12, 6)             # of the tail, relative to the direct sound
predelay_s = (0.0, 0.04)
reflections = dict(number=40, delay=20, latest_s=(0.01, 0.09), fall_s=(0.01, 0.06), gain=(0, 1.2))  # delay in samples
second_microphone = dict(share=0.4, gain=(0.2, 1), delay_s=(0, 0.0015))
simulated_share = 0.5                   # if there are simulated rooms
decay_change = (-2.5, 0.8)              # of a simulated room, 1 / s
max_decay_change = 0.5                  # to which larger changes are reduced
direct_sound = dict(samples=64, db=(-4, 6))     # change of the direct sound of a simulated room
strings = dict(number=66, partials=10, max_hertz=8000, inharmonicity=0.0004)    # those with dampers
string_fall = dict(rate=1.2, hertz=1500)        # 1 / s, and the frequency at which it is larger by 1
resonance = dict(share=0.6, db=(-32, -8))
room_share = 0.72
beside = dict(share=0.35, db=(-20, 6))    # interfering sounds; level relative to the piano
equaliser = dict(share=0.7, points=10, db=(0, 5), tilt_db=(-9, 9))
fine_equaliser = dict(share=0.5, points=60, db=(0, 2.5))
low_pass = dict(share=0.15, hertz=(3000, 9000), db=36)  # per octave
high_pass = dict(share=0.15, hertz=(40, 200), db=18)
compressor = dict(share=0.3, exponent=(0.05, 0.25), block=64, half_width=(8, 100))  # samples; blocks that are averaged
clipping = dict(share=0.08, bound=(0.25, 0.9))  # relative to the peak
noise_level = dict(share=0.6, db=(-70, -22))
noise_waves = dict(share=0.3, points=20)        # of a level that changes
hum = dict(share=0.1, gain=(10, 200), hertz=(50, 100, 150, 300))
coder = dict(share=0.4, steps=(1, 14), bandwidth=(5000, 16000))     # steps in a bin as loud as its neighbours; Hz


def decibels(limits, *shape):
    """Draw gains from limits in dB; `shape` as for `uniform`."""
    return 10 ** (uniform(limits, *shape) / 20)


def unit_power(audio):
    """Return audio [shape=(clips, n)] with a standard deviation of 1."""
    return audio / audio.std(1, keepdim=True).clamp(min=1e-7)


def unit_energy(responses):
    """Return impulse responses [shape=(..., n)] with a norm of 1; silence stays silence."""
    return responses / responses.norm(dim=-1, keepdim=True).clamp(min=1e-6)


class Rooms:
    """Room impulse responses: simulated ones, slightly changed, and artificial ones. An artificial response has early
    reflections and a reverberant tail. The tail falls by 60 dB within a reverberation time of its own in each band. The
    ratio of direct to reverberant sound (DRR) is drawn too. `simulated` is a list of arrays [shape=(n,)] as
    `simulated_rooms.room_responses` returns it."""

    def __init__(self, simulated, device):
        self.device, self.size = device, int(response_s * hp.sample_rate)
        self.simulated = torch.zeros(len(simulated), self.size, device=device)
        for row, response in zip(self.simulated, simulated):
            response = torch.as_tensor(np.asarray(response, np.float32))[:self.size]
            row[:len(response)] = response.to(device)

    def draw(self, clips):
        """Return impulse responses [shape=(clips, n)] of unit energy, the direct sound at the first sample."""
        each = self.device, clips, 1
        t = torch.arange(self.size, device=self.device) / hp.sample_rate
        tail, number = self.draw_tail(clips, t), reflections["number"]
        when = torch.rand(clips, number, device=self.device) ** 1.5 * uniform(reflections["latest_s"], *each)
        when = (when * hp.sample_rate).long() + reflections["delay"]
        height = torch.randn(clips, number, device=self.device)
        height = height * torch.exp(-when / hp.sample_rate / uniform(reflections["fall_s"], *each))
        early = unit_energy(torch.zeros_like(tail).scatter_add_(1, when, height))
        level = decibels(reverberation_db, *each)
        mixed = level * (tail + early * uniform(reflections["gain"], *each))
        second = often(second_microphone["share"], *each) * uniform(second_microphone["gain"], *each)
        late = (uniform(second_microphone["delay_s"], *each) * hp.sample_rate).long()
        mixed.scatter_add_(1, late, second)
        mixed[:, 0] += 1
        if len(self.simulated):
            chosen = self.simulated[torch.randint(len(self.simulated), (clips,), device=self.device)]
            chosen = chosen * torch.exp(t * uniform(decay_change, *each).clamp(max=max_decay_change))
            chosen[:, :direct_sound["samples"]] *= decibels(direct_sound["db"], *each)
            mixed = torch.where(often(simulated_share, *each), chosen, mixed)
        return unit_energy(mixed)

    def draw_tail(self, clips, t):
        """Return reverberant tails of unit energy at the times t [shape=(clips, n)]."""
        each = self.device, clips, 1
        spectrum = torch.fft.rfft(torch.randn(clips, self.size, device=self.device))
        hertz = torch.fft.rfftfreq(self.size, 1 / hp.sample_rate).to(self.device)
        seconds = torch.exp(uniform(map(math.log, reverberation_s), *each))
        bright, tail = uniform(brightness, *each), 0
        for band, (low, high) in enumerate(zip(bands, bands[1:])):
            spread = torch.exp(reverberation_spread * torch.randn(clips, 1, device=self.device))
            noise = torch.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), self.size)
            tail = tail + noise * 10 ** (-3 * t / (seconds * bright ** (band / 3) * spread))
        return unit_energy(tail * (t > uniform(predelay_s, *each)))


def string_resonance(device):
    """Return the response [shape=(n,), unit energy] of all open strings to a short sound, as with the pedal down: the
    sum of decaying sines at their partials."""
    t = torch.arange(int(response_s * hp.sample_rate), device=device) / hp.sample_rate
    response = torch.zeros_like(t)
    for key in range(strings["number"]):
        f0 = 440 * 2 ** ((hp.lowest_key + key - 69) / 12)
        for partial in range(1, strings["partials"] + 1):
            hertz = f0 * partial * math.sqrt(1 + strings["inharmonicity"] * partial ** 2)
            if hertz > strings["max_hertz"]:
                break
            wave = torch.sin(2 * math.pi * (hertz * t + torch.rand((), device=device)))
            response += wave / partial * torch.exp(-t * (string_fall["rate"] + hertz / string_fall["hertz"]))
    return unit_energy(response)


def record(audio, open_strings, rooms, string_response, others=None):
    """Return dry audio [shape=(clips, n)] as recordings sound. String resonance (`string_resonance`, where
    `open_strings` [shape as audio] is 1 because the pedal is down), one of `Rooms`, the interfering sounds `others`
    [shape as audio] in the same room, equaliser, compressor, clipping, noise and lossy coding, each in a share of the
    clips. Filters are periodic with the clip, so the first seconds contain reverberation of the last ones."""
    clips, size = audio.shape
    each, n_fft = (audio.device, clips, 1), 1 << (size - 1).bit_length()
    audio = unit_power(audio)
    rung = torch.fft.rfft(audio * open_strings, n_fft) * torch.fft.rfft(string_response, n_fft)
    rung = torch.fft.irfft(rung, n_fft)[:, :size] * often(resonance["share"], *each)
    audio = audio + rung * decibels(resonance["db"], *each)
    response = rooms.draw(clips)
    dry = torch.zeros_like(response)
    dry[:, 0] = 1
    in_room = often(room_share, *each)
    gain = recording_gains(clips, torch.fft.rfftfreq(n_fft, 1 / hp.sample_rate).to(audio.device))

    def heard(sound, response):
        response = torch.where(in_room, response, dry)
        spectrum = torch.fft.rfft(sound, n_fft) * torch.fft.rfft(response, n_fft) * 10 ** (gain / 20)
        return unit_power(torch.fft.irfft(spectrum, n_fft)[:, :size])

    audio = heard(audio, response)
    if others is not None:
        level = often(beside["share"], *each) * decibels(beside["db"], *each)
        audio = unit_power(audio + heard(others, rooms.draw(clips)) * level)
    return coded(add_noise(clipped(compressed(audio))))


def recording_gains(clips, hertz):
    """Return the gains in dB of the equalisers of clips at frequencies in Hz [shape=(clips, len(hertz))]: a broad and
    a fine curve, and filters that cut the highest or the lowest frequencies."""
    device, each = hertz.device, (hertz.device, clips, 1)
    place = (hertz.clamp(min=20) / 20).log2() / math.log2(hp.sample_rate / 40)

    def curve(points):
        last = points.shape[1] - 1
        index = (place * last).clamp(0, last - 0.001)
        return torch.lerp(points[:, index.long()], points[:, index.long() + 1], index % 1)

    points = torch.randn(clips, equaliser["points"], device=device) * uniform(equaliser["db"], *each)
    tilt = uniform(equaliser["tilt_db"], *each) * torch.linspace(-1, 1, equaliser["points"], device=device)
    gain = curve(points + tilt) * often(equaliser["share"], *each)
    points = torch.randn(clips, fine_equaliser["points"], device=device) * uniform(fine_equaliser["db"], *each)
    gain = gain + curve(points) * often(fine_equaliser["share"], *each)
    where, edge = often(low_pass["share"], *each), uniform(low_pass["hertz"], *each)
    gain = gain - torch.where(where, (hertz / edge).log2().clamp(min=0) * low_pass["db"], 0)
    where, edge = often(high_pass["share"], *each), uniform(high_pass["hertz"], *each)
    return gain - torch.where(where, (edge / hertz.clamp(min=1)).log2().clamp(min=0) * high_pass["db"], 0)


def compressed(audio):
    """Return audio [shape=(clips, n)] after a compressor, which measures the level in blocks, in some clips."""
    each, block = (audio.device, len(audio), 1), compressor["block"]
    power = torch.nn.functional.avg_pool1d(audio[:, None] ** 2, block, block, ceil_mode=True)
    width = 2 * int(torch.randint(*compressor["half_width"], ())) + 1
    power = torch.nn.functional.avg_pool1d(power, width, 1, width // 2, count_include_pad=False)
    power = torch.nn.functional.interpolate(power, size=audio.shape[1], mode="linear")[:, 0] + 1e-6
    where = often(compressor["share"], *each)
    return audio * torch.where(where, power ** -uniform(compressor["exponent"], *each), 1)


def clipped(audio):
    """Return audio [shape=(clips, n)], in some clips with the peaks cut off."""
    each = audio.device, len(audio), 1
    bound = audio.abs().amax(1, keepdim=True).clamp(min=1e-7) * uniform(clipping["bound"], *each)
    return torch.where(often(clipping["share"], *each), audio.clamp(-bound, bound), audio)


def add_noise(audio):
    """Return audio [shape=(clips, n)], in some clips with white, pink or brown noise and mains hum."""
    (clips, size), device, each = audio.shape, audio.device, (audio.device, len(audio), 1)
    slope = torch.randint(0, 3, (clips, 1), device=device) / 2  # of the power, times 6 dB per octave
    spectrum = torch.fft.rfft(torch.randn(clips, size, device=device))
    noise = torch.fft.irfft(spectrum / (torch.arange(spectrum.shape[1], device=device) + 20) ** slope, size)
    noise = noise / noise.std(1, keepdim=True)
    wave = torch.randn(clips, 1, noise_waves["points"], device=device)
    wave = torch.nn.functional.interpolate(wave, size=size, mode="linear")[:, 0]
    noise = noise * torch.where(often(noise_waves["share"], *each), torch.exp(wave), 1)
    tones = sum(torch.sin(2 * math.pi * hertz * torch.arange(size, device=device) / hp.sample_rate) / hertz
                for hertz in hum["hertz"])
    noise = noise + often(hum["share"], *each) * tones * uniform(hum["gain"], *each)
    level = often(noise_level["share"], *each) * decibels(noise_level["db"], *each)
    return audio + noise * level * audio.std(1, keepdim=True)


def coded(audio):
    """Return audio [shape=(clips, n)], some clips as a lossy coder leaves them: bins quantised in steps relative to
    their neighbours, nothing above a bandwidth."""
    size, n_fft, hop, each = audio.shape[1], 1024, 512, (audio.device, len(audio), 1)
    where, steps = often(coder["share"], *each), uniform(coder["steps"], *each)
    bandwidth = uniform(coder["bandwidth"], *each)
    window = torch.hann_window(n_fft, device=audio.device).sqrt()
    spectrum = torch.stft(audio, n_fft, hop, window=window, return_complex=True)
    magnitude = spectrum.abs()
    band = torch.nn.functional.avg_pool1d(magnitude.transpose(1, 2), 17, 1, 8, count_include_pad=False).transpose(1, 2)
    step = 2 * (band + 1e-9) / steps[..., None]
    kept = (magnitude / step).round() * step
    hertz = torch.arange(n_fft // 2 + 1, device=audio.device)[:, None] * (hp.sample_rate / n_fft)
    kept = kept * (hertz < bandwidth[..., None])
    spectrum = spectrum * (kept / (magnitude + 1e-12))
    return torch.where(where, torch.istft(spectrum, n_fft, hop, window=window, length=size), audio)
