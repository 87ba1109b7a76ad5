"""Rooms, microphones and coders of training clips, drawn anew for each clip, on the device."""
import math

import numpy as np
import torch

import Hyperparameters as hp


def band_noise(shape, slope, device):
    """Return noise [shape] of unit deviation whose power falls by `slope` [shape=(clips, 1)] times 6 dB an octave."""
    spectrum = torch.fft.rfft(torch.randn(shape, device=device))
    spectrum = spectrum / (torch.arange(spectrum.shape[1], device=device) + 20) ** slope
    noise = torch.fft.irfft(spectrum, shape[1])
    return noise / noise.std(1, keepdim=True)


class Rooms:
    """Impulse responses [shape=(n,)] that were simulated, and those drawn here: early reflections, and a tail that
    falls exponentially, in each band at its own speed."""

    seconds = 3.0

    def __init__(self, simulated, device):
        size = int(self.seconds * hp.sample_rate)
        self.simulated = torch.zeros(max(len(simulated), 1), size, device=device)
        for row, response in zip(self.simulated, simulated):
            response = torch.as_tensor(np.asarray(response, np.float32))[:size]
            row[:len(response)] = response.to(device)
        self.any = len(simulated) > 0
        self.device = device

    def draw(self, clips):
        """Return impulse responses [shape=(clips, n)], the direct sound at the first sample."""
        size, device = self.simulated.shape[1], self.device
        t = torch.arange(size, device=device) / hp.sample_rate

        def uniform(low, high):
            return low + (high - low) * torch.rand(clips, 1, device=device)

        spectrum = torch.fft.rfft(torch.randn(clips, size, device=device))
        hertz = torch.fft.rfftfreq(size, 1 / hp.sample_rate).to(device)
        edges = [0, 250, 1000, 4000, 12000]
        seconds, bright = torch.exp(uniform(math.log(0.25), math.log(3.2))), uniform(0.25, 1.1)
        tail = torch.zeros(clips, size, device=device)
        for band, (low, high) in enumerate(zip(edges, edges[1:])):
            decay = seconds * bright ** (band / 3) * torch.exp(0.15 * torch.randn(clips, 1, device=device))
            noise = torch.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), size)
            tail += noise * 10 ** (-3 * t / decay)
        tail = tail * (t > uniform(0.0, 0.04))
        tail = tail / tail.norm(dim=1, keepdim=True)
        taps = 40
        when = (torch.rand(clips, taps, device=device) ** 1.5 * uniform(0.01, 0.09) * hp.sample_rate).long() + 20
        early = torch.zeros(clips, size, device=device).scatter_add_(
            1, when, torch.randn(clips, taps, device=device) * torch.exp(-when / hp.sample_rate / uniform(0.01, 0.06)))
        early = early / early.norm(dim=1, keepdim=True).clamp(min=1e-6)
        mixed = 10 ** (uniform(-12, 6) / 20) * (tail + early * uniform(0, 1.2))
        second = (torch.rand(clips, 1, device=device) < 0.4) * uniform(0.2, 1)  # another microphone
        mixed.scatter_add_(1, (uniform(0, 0.0015) * hp.sample_rate).long(), second)
        mixed[:, 0] += 1
        if self.any:
            chosen = self.simulated[torch.randint(len(self.simulated), (clips,), device=device)]
            longer = torch.exp(t * uniform(-2.5, 0.8).clamp(max=0.5))  # of other walls
            chosen = chosen * longer
            chosen[:, :64] *= 10 ** (uniform(-4, 6) / 20)
            mixed = torch.where(uniform(0, 1) < 0.5, chosen, mixed)
        return mixed / mixed.norm(dim=1, keepdim=True)


def string_resonance(device, seconds=3.0):
    """Return the response of all open strings to a short sound [shape=(n,)]: decaying partials of each."""
    t = torch.arange(int(seconds * hp.sample_rate), device=device) / hp.sample_rate
    response = torch.zeros_like(t)
    for key in range(0, 66):
        f0 = 440 * 2 ** ((hp.lowest_key + key - 69) / 12)
        for partial in range(1, 11):
            hertz = f0 * partial * math.sqrt(1 + 0.0004 * partial ** 2)
            if hertz > 8000:
                break
            response += torch.sin(2 * math.pi * (hertz * t + torch.rand((), device=device))) / partial * torch.exp(
                -t * (1.2 + hertz / 1500))
    return response / response.norm()


def record(audio, open_strings, rooms, resonance):
    """Return audio [shape=(clips, n)] as recordings of it might sound: resonance of the strings, room, equaliser,
    compressor, clipping, noise, lossy coding, each of them now and then. The first seconds are spoilt by what wraps
    around.

    `open_strings` [shape=(clips, n)]: 1 while the pedal is down.
    """
    clips, size = audio.shape
    device, n_fft = audio.device, 1 << (size - 1).bit_length()

    def uniform(low, high):
        return low + (high - low) * torch.rand(clips, 1, device=device)

    def often(share):
        return torch.rand(clips, 1, device=device) < share

    level = audio.std(1, keepdim=True).clamp(min=1e-7)
    audio = audio / level
    rung = torch.fft.irfft(torch.fft.rfft(audio * open_strings, n_fft) * torch.fft.rfft(resonance, n_fft), n_fft)
    audio = audio + rung[:, :size] * often(0.6) * 10 ** (uniform(-32, -8) / 20)
    # room and equaliser in one go
    response = rooms.draw(clips)
    dry = torch.zeros_like(response)
    dry[:, 0] = 1
    response = torch.where(often(0.72), response, dry)
    hertz = torch.fft.rfftfreq(n_fft, 1 / hp.sample_rate).to(device)
    place = (hertz.clamp(min=20) / 20).log2() / math.log2(hp.sample_rate / 40)
    points = torch.randn(clips, 10, device=device) * uniform(0, 5) + uniform(-9, 9) * torch.linspace(-1, 1, 10, device=device)
    index = (place * 9).clamp(0, 8.999)
    gain = torch.lerp(points[:, index.long()], points[:, index.long() + 1], index % 1) * often(0.7)
    fine = torch.randn(clips, 60, device=device) * uniform(0, 2.5)
    index = (place * 59).clamp(0, 58.999)
    gain = gain + torch.lerp(fine[:, index.long()], fine[:, index.long() + 1], index % 1) * often(0.5)
    gain = gain - torch.where(often(0.15), (hertz / uniform(3000, 9000)).log2().clamp(min=0) * 36, 0)
    gain = gain - torch.where(often(0.15), (uniform(40, 200) / hertz.clamp(min=1)).log2().clamp(min=0) * 18, 0)
    spectrum = torch.fft.rfft(audio, n_fft) * torch.fft.rfft(response, n_fft) * 10 ** (gain / 20)
    audio = torch.fft.irfft(spectrum, n_fft)[:, :size]
    audio = audio / audio.std(1, keepdim=True).clamp(min=1e-7)
    # compressor: level in blocks of 64 samples
    power = torch.nn.functional.avg_pool1d(audio[:, None] ** 2, 64, 64, ceil_mode=True)
    width = 2 * int(torch.randint(8, 100, ())) + 1
    power = torch.nn.functional.avg_pool1d(power, width, 1, width // 2, count_include_pad=False)
    power = torch.nn.functional.interpolate(power, size=size, mode="linear")[:, 0] + 1e-6
    audio = audio * torch.where(often(0.3), power ** (-uniform(0.05, 0.25)), 1)
    peak = audio.abs().amax(1, keepdim=True).clamp(min=1e-7)
    bound = peak * uniform(0.25, 0.9)
    audio = torch.where(often(0.08), torch.maximum(torch.minimum(audio, bound), -bound), audio)
    # noise
    noise = band_noise((clips, size), torch.randint(0, 3, (clips, 1), device=device) / 2, device)
    wave = torch.nn.functional.interpolate(torch.randn(clips, 1, 20, device=device), size=size, mode="linear")[:, 0]
    noise = noise * torch.where(often(0.3), torch.exp(wave), 1)
    hum = sum(torch.sin(2 * math.pi * base * torch.arange(size, device=device) / hp.sample_rate) / base
              for base in (50, 100, 150, 300))
    noise = noise + often(0.1) * hum * uniform(10, 200)
    audio = audio + noise * often(0.6) * 10 ** (uniform(-70, -22) / 20) * audio.std(1, keepdim=True)
    return coded(audio, often(0.4), uniform(1, 14), uniform(5000, 16000))


def coded(audio, where, steps, bandwidth):
    """Return audio as a lossy coder leaves it, of the clips `where`: bins quantised in steps relative to their band,
    nothing above `bandwidth` Hz."""
    size, n_fft, hop = audio.shape[1], 1024, 512
    window = torch.hann_window(n_fft, device=audio.device).sqrt()
    spectrum = torch.stft(audio, n_fft, hop, window=window, return_complex=True)
    magnitude = spectrum.abs()
    band = torch.nn.functional.avg_pool1d(magnitude.transpose(1, 2).flatten(0, 1)[:, None], 17, 1, 8,
                                          count_include_pad=False)[:, 0].unflatten(0, (len(audio), -1)).transpose(1, 2)
    step = 2 * (band + 1e-9) / steps[..., None]
    kept = (magnitude / step).round() * step
    hertz = torch.arange(n_fft // 2 + 1, device=audio.device)[None, :, None] * (hp.sample_rate / n_fft)
    kept = kept * (hertz < bandwidth[..., None])
    spectrum = spectrum * (kept / (magnitude + 1e-12))
    return torch.where(where, torch.istft(spectrum, n_fft, hop, window=window, length=size), audio)
