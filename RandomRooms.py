"""Rooms, microphones and coders of training clips, drawn anew for each clip, on the device."""
import math

import numpy as np
import torch

import Hyperparameters as hp
from RandomPianos import often, uniform


def decibels(clips, limits, device):
    """Draw a gain for each clip [shape=(clips, 1)], from limits in dB."""
    return 10 ** (uniform(limits, device, clips, 1) / 20)


def unit_power(audio):
    """Return audio [shape=(clips, n)] with a standard deviation of 1."""
    return audio / audio.std(1, keepdim=True).clamp(min=1e-7)


def filtered(audio, response, n_fft):
    """Convolve audio [shape=(clips, n)] with responses, both periodic with `n_fft` samples."""
    return torch.fft.irfft(torch.fft.rfft(audio, n_fft) * torch.fft.rfft(response, n_fft), n_fft)[:, :audio.shape[1]]


def band_noise(shape, slope, device):
    """Return noise [shape] of unit deviation whose power falls by `slope` [shape=(clips, 1)] times 6 dB per octave."""
    spectrum = torch.fft.rfft(torch.randn(shape, device=device))
    spectrum = spectrum / (torch.arange(spectrum.shape[1], device=device) + 20) ** slope
    noise = torch.fft.irfft(spectrum, shape[1])
    return noise / noise.std(1, keepdim=True)


class Rooms:
    """Room impulse responses: simulated ones, slightly changed, and artificial ones.

    An artificial response has early reflections and a reverberant tail. The tail falls by 60 dB within a reverberation
    time of its own in each band of `hp.recorded_bands`. The ratio of direct to reverberant sound (DRR) is drawn too.

    Parameters
    ----------
    simulated : list of np.ndarray [shape=(n,)]
        Impulse responses at `hp.sample_rate`, such as those of `SimulatedRooms.room_responses`.
    device : str or torch.device
    """

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
        """Return impulse responses [shape=(clips, n)] of unit energy, the direct sound at the first sample."""
        device = self.device
        t = torch.arange(self.simulated.shape[1], device=device) / hp.sample_rate
        tail, early = self.draw_tail(clips, t), self.draw_reflections(clips)
        level = decibels(clips, hp.recorded_reverberation_db, device)
        mixed = level * (tail + early * uniform(hp.recorded_taps_gain, device, clips, 1))
        second = often(hp.recorded_second_share, device, clips, 1) * uniform(hp.recorded_second_gain, device, clips, 1)
        late = (uniform(hp.recorded_second_s, device, clips, 1) * hp.sample_rate).long()
        mixed.scatter_add_(1, late, second)
        mixed[:, 0] += 1
        if self.any:
            chosen = self.simulated[torch.randint(len(self.simulated), (clips,), device=device)]
            walls = uniform(hp.recorded_walls, device, clips, 1).clamp(max=hp.recorded_max_walls)
            chosen = chosen * torch.exp(t * walls)
            chosen[:, :hp.recorded_direct_samples] *= decibels(clips, hp.recorded_direct_db, device)
            mixed = torch.where(often(hp.recorded_simulated_share, device, clips, 1), chosen, mixed)
        return mixed / mixed.norm(dim=1, keepdim=True)

    def draw_tail(self, clips, t):
        """Return reverberant tails of unit energy at the times t [shape=(clips, n)]."""
        size, device = len(t), self.device
        spectrum = torch.fft.rfft(torch.randn(clips, size, device=device))
        hertz = torch.fft.rfftfreq(size, 1 / hp.sample_rate).to(device)
        seconds = torch.exp(uniform([math.log(limit) for limit in hp.recorded_reverberation_s], device, clips, 1))
        bright, tail = uniform(hp.recorded_bright, device, clips, 1), torch.zeros(clips, size, device=device)
        for band, (low, high) in enumerate(zip(hp.recorded_bands, hp.recorded_bands[1:])):
            spread = torch.exp(hp.recorded_reverberation_spread * torch.randn(clips, 1, device=device))
            decay = seconds * bright ** (band / 3) * spread
            noise = torch.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), size)
            tail += noise * 10 ** (-3 * t / decay)
        tail = tail * (t > uniform(hp.recorded_predelay_s, device, clips, 1))
        return tail / tail.norm(dim=1, keepdim=True)

    def draw_reflections(self, clips):
        """Return early reflections of unit energy [shape=(clips, n)]."""
        taps, device = hp.recorded_taps, self.device
        when = torch.rand(clips, taps, device=device) ** 1.5 * uniform(hp.recorded_tap_s, device, clips, 1)
        when = (when * hp.sample_rate).long() + hp.recorded_tap_delay
        height = torch.randn(clips, taps, device=device)
        height = height * torch.exp(-when / hp.sample_rate / uniform(hp.recorded_tap_fall_s, device, clips, 1))
        early = torch.zeros(clips, self.simulated.shape[1], device=device).scatter_add_(1, when, height)
        return early / early.norm(dim=1, keepdim=True).clamp(min=1e-6)


def string_resonance(device, seconds=3.0):
    """Return the response [shape=(n,), unit energy] of all open strings to a short sound.

    With the pedal down, every string resonates at its partials: the response is the sum of their decaying sines.
    """
    t = torch.arange(int(seconds * hp.sample_rate), device=device) / hp.sample_rate
    response = torch.zeros_like(t)
    for key in range(hp.resonance_keys):
        f0 = 440 * 2 ** ((hp.lowest_key + key - 69) / 12)
        for partial in range(1, hp.resonance_partials + 1):
            hertz = f0 * partial * math.sqrt(1 + hp.resonance_inharmonicity * partial ** 2)
            if hertz > hp.resonance_hertz:
                break
            wave = torch.sin(2 * math.pi * (hertz * t + torch.rand((), device=device)))
            response += wave / partial * torch.exp(-t * (hp.resonance_fall + hertz / hp.resonance_fall_hertz))
    return response / response.norm()


def record(audio, open_strings, rooms, resonance):
    """Make audio sound as recordings do.

    String resonance, room, equaliser, compressor, clipping, noise and lossy coding, each in a share of the clips.
    Filters are periodic with the clip, so the first seconds contain reverberation of the last ones.

    Parameters
    ----------
    audio : torch.Tensor [shape=(clips, n)]
        Dry sound.
    open_strings : torch.Tensor [shape=(clips, n)]
        1 while the pedal is down, else 0.
    rooms : Rooms
    resonance : torch.Tensor [shape=(m,)]
        As `string_resonance` returns it.

    Returns
    -------
    torch.Tensor [shape=(clips, n)]
    """
    clips, size = audio.shape
    device, n_fft = audio.device, 1 << (size - 1).bit_length()
    audio = unit_power(audio)
    rung = filtered(audio * open_strings, resonance, n_fft) * often(hp.recorded_resonance_share, device, clips, 1)
    audio = audio + rung * decibels(clips, hp.recorded_resonance_db, device)
    response = rooms.draw(clips)
    dry = torch.zeros_like(response)
    dry[:, 0] = 1
    response = torch.where(often(hp.recorded_room_share, device, clips, 1), response, dry)
    gain = recording_gains(clips, torch.fft.rfftfreq(n_fft, 1 / hp.sample_rate).to(device))
    spectrum = torch.fft.rfft(audio, n_fft) * torch.fft.rfft(response, n_fft) * 10 ** (gain / 20)
    audio = unit_power(torch.fft.irfft(spectrum, n_fft)[:, :size])
    audio = add_noise(clipped(compressed(audio)))
    return coded(audio, often(hp.recorded_coding_share, device, clips, 1),
                 uniform(hp.recorded_coding_steps, device, clips, 1), uniform(hp.recorded_coding_hz, device, clips, 1))


def recording_gains(clips, hertz):
    """Return the gains in dB of the equalisers of clips at frequencies in Hz [shape=(clips, len(hertz))]: a broad and
    a fine curve, and filters that cut the highest or the lowest frequencies."""
    device = hertz.device
    place = (hertz.clamp(min=20) / 20).log2() / math.log2(hp.sample_rate / 40)

    def curve(points):
        last = points.shape[1] - 1
        index = (place * last).clamp(0, last - 0.001)
        return torch.lerp(points[:, index.long()], points[:, index.long() + 1], index % 1)

    number = hp.recorded_equaliser_points
    points = torch.randn(clips, number, device=device) * uniform(hp.recorded_equaliser_db, device, clips, 1)
    points = points + uniform(hp.recorded_tilt_db, device, clips, 1) * torch.linspace(-1, 1, number, device=device)
    gain = curve(points) * often(hp.recorded_equaliser_share, device, clips, 1)
    fine = torch.randn(clips, hp.recorded_fine_points, device=device) * uniform(hp.recorded_fine_db, device, clips, 1)
    gain = gain + curve(fine) * often(hp.recorded_fine_share, device, clips, 1)
    filters = often(hp.recorded_low_pass_share, device, clips, 1)
    octaves = (hertz / uniform(hp.recorded_low_pass_hz, device, clips, 1)).log2().clamp(min=0)
    gain = gain - torch.where(filters, octaves * hp.recorded_low_pass_db, 0)
    filters = often(hp.recorded_high_pass_share, device, clips, 1)
    octaves = (uniform(hp.recorded_high_pass_hz, device, clips, 1) / hertz.clamp(min=1)).log2().clamp(min=0)
    return gain - torch.where(filters, octaves * hp.recorded_high_pass_db, 0)


def compressed(audio):
    """Return audio [shape=(clips, n)] after a compressor, which measures the level in blocks, in some clips."""
    (clips, size), device, block = audio.shape, audio.device, hp.recorded_compression_block
    power = torch.nn.functional.avg_pool1d(audio[:, None] ** 2, block, block, ceil_mode=True)
    width = 2 * int(torch.randint(*hp.recorded_compression_blocks, ())) + 1
    power = torch.nn.functional.avg_pool1d(power, width, 1, width // 2, count_include_pad=False)
    power = torch.nn.functional.interpolate(power, size=size, mode="linear")[:, 0] + 1e-6
    where = often(hp.recorded_compression_share, device, clips, 1)
    return audio * torch.where(where, power ** -uniform(hp.recorded_compression, device, clips, 1), 1)


def clipped(audio):
    """Return audio [shape=(clips, n)], in some clips with the peaks cut off."""
    clips, device = len(audio), audio.device
    bound = audio.abs().amax(1, keepdim=True).clamp(min=1e-7) * uniform(hp.recorded_clipping, device, clips, 1)
    return torch.where(often(hp.recorded_clipping_share, device, clips, 1),
                       torch.maximum(torch.minimum(audio, bound), -bound), audio)


def add_noise(audio):
    """Return audio [shape=(clips, n)], in some clips with white, pink or brown noise and mains hum."""
    (clips, size), device = audio.shape, audio.device
    noise = band_noise((clips, size), torch.randint(0, 3, (clips, 1), device=device) / 2, device)
    wave = torch.nn.functional.interpolate(torch.randn(clips, 1, hp.recorded_noise_waves, device=device), size=size,
                                           mode="linear")[:, 0]
    noise = noise * torch.where(often(hp.recorded_noise_wave_share, device, clips, 1), torch.exp(wave), 1)
    hum = sum(torch.sin(2 * math.pi * base * torch.arange(size, device=device) / hp.sample_rate) / base
              for base in hp.recorded_hum_hertz)
    noise = noise + often(hp.recorded_hum_share, device, clips, 1) * hum * uniform(hp.recorded_hum, device, clips, 1)
    level = often(hp.recorded_noise_share, device, clips, 1) * decibels(clips, hp.recorded_noise_db, device)
    return audio + noise * level * audio.std(1, keepdim=True)


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
