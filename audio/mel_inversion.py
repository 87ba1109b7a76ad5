"""From mel spectrogram to audio: multiplicative KL updates, Griffin-Lim, the report's inversion, stereo."""
import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp

silence_threshold = 0.02    # largest output of a network that counts as silence: 1.6 of 80 dB
stereo_frames = 43          # over which the level of a channel is measured, band by band
stereo_limit = 16           # times the power of the mean, at most


def power_from_mel(mel, start, device="cpu", voiced=False):
    """Estimate a power spectrum [shape=(1 + n_fft / 2, t)] from mel power [shape=(n_mels, t)].

    The multiplicative updates for the KL divergence are those of Lee and Seung (2001), "Algorithms for non-negative
    matrix factorization". Unlike least squares, this divergence fits soft bands too. The shape of the power spectrum
    `start` within each band remains, so that of the recording, which has the right pitches, is a good choice.
    """
    settings = hp.voice_kl if voiced else dict(kl_iterations=hp.kl_iterations, kl_floor=hp.kl_floor)
    filters, mel, start = (torch.from_numpy(array).to(device) for array in (DatasetCreator.mel_filters(), mel, start))
    weights = filters.sum(dim=0)[:, None]
    spread = (filters.T / weights.clip(1e-20)).contiguous()
    power = torch.where(weights > 0, start / (start.amax(dim=0) + 1e-20) + settings["kl_floor"], 0)
    for _ in range(settings["kl_iterations"]):
        power *= spread @ (mel / (filters @ power + 1e-20))
    return power.cpu().numpy()


def griffin_lim(magnitude, phase, iterations=None, device="cpu"):
    """Estimate audio [shape=((t - 1) * hop_length,)] from the magnitude of its STFT [shape=(1 + n_fft / 2, t)].

    This is the algorithm of Griffin and Lim (1984) with the momentum of Perraudin, Balazs and Soendergaard (2013), "A
    fast Griffin-Lim algorithm". It starts from the angles of `phase` [shape as magnitude, complex]. With a leading axis
    of 1 + channels, the first is the mean of the others, and the result keeps it so.
    """
    def rebuild(spectrum):
        audio = torch.istft(spectrum, **frame, length=size)
        if audio.ndim > 1:
            audio[1:] += audio[0] - audio[1:].mean(dim=0)
        return audio

    iterations = hp.griffin_lim_iterations if iterations is None else iterations
    frame = dict(n_fft=hp.n_fft, hop_length=hp.hop_length, window=torch.hann_window(hp.n_fft).to(device))
    phase = np.where(np.abs(phase) > 1e-30, phase, 1)  # torch cannot compute the angle of smaller values
    magnitude, estimate = (torch.from_numpy(array).to(device) for array in (magnitude, phase))
    size, previous = (magnitude.shape[-1] - 1) * hp.hop_length, 0
    for _ in range(iterations):
        rebuilt = torch.stft(rebuild(magnitude * estimate.sgn()), **frame, pad_mode="constant", return_complex=True)
        estimate = rebuilt - hp.griffin_lim_momentum / (1 + hp.griffin_lim_momentum) * previous
        previous = rebuilt
    return rebuild(magnitude * estimate.sgn()).cpu().numpy()


def invert_kl(mels, guides, device, voiced):
    """Estimate audio [shape=(k, (t - 1) * hop_length), float32] from k mel powers and as many STFTs: see `invert`."""
    if torch.device(device).type == "mps":  # which lacks complex numbers in some versions of torch
        device = "cpu"
    powers = [power_from_mel(mel, np.abs(guide) ** 2, device, voiced) for mel, guide in zip(mels, guides)]
    iterations = hp.voice_griffin_lim_iterations if voiced else None
    return griffin_lim(np.sqrt(np.stack(powers)), np.stack(guides), iterations, device)


def invert(mel, guide, inversion=None, device="cpu", voiced=False):
    """Estimate audio [shape=((t - 1) * hop_length,), float32] from mel power [shape=(n_mels, t)], at least two frames.

    By the inversion "kl", the default, `power_from_mel` and `griffin_lim` start from `guide`, the STFT of the
    recording, which has the onsets and pitches of the wanted sound. "report" is librosa's non-negative least squares
    and its Griffin-Lim from random phase, as in the report, without `guide` and `device`. Another one raises
    ValueError. If `voiced`, the guide is the STFT of a `SampledVoice`. `mel` then differs from it by slow changes of
    level only, so a few iterations are enough.
    """
    inversion = hp.inversion if inversion is None else inversion
    if inversion == "report":
        import librosa  # slow to import, and not needed elsewhere here

        magnitude = librosa.feature.inverse.mel_to_stft(mel, sr=hp.sample_rate, n_fft=hp.n_fft, fmin=hp.fmin,
                                                        fmax=hp.fmax)
        return librosa.griffinlim(magnitude, n_iter=hp.report_iterations, hop_length=hp.hop_length,
                                  random_state=hp.seed)
    if inversion != "kl":
        raise ValueError(f"inversion is 'kl' or 'report', not '{inversion}'")
    return invert_kl([mel], [guide], device, voiced)[0]


def band_levels(own, mean):
    """Return the ratio of the power of a channel to that of the mean, from their STFTs, in bands [shape=(n_mels, t)].
    The powers are smoothed over `stereo_frames`. The ratio is at most `stereo_limit`, since the mean of channels in
    opposite phase is nearly silent."""
    kernel = np.hanning(stereo_frames + 2)[1:-1]

    def smooth(spectrum):
        reach, power = kernel.size // 2, DatasetCreator.mel_power(spectrum)
        return np.stack([np.convolve(band, kernel)[reach:reach + band.size] for band in power])

    own, mean = smooth(own), smooth(mean)
    return np.minimum(own / (mean + 1e-20), stereo_limit).astype(np.float32)


def invert_chunk(stages, guides, voice, inversion, device):
    """Return the audio of a chunk [shape=(n,) or (n, channels)], from its log-mel spectrograms, the input first.

    `guides` are the STFTs of `chunking.channel_spectra`. If `voice` is the STFT of a `SampledVoice`, not None, it is
    the guide of all channels, louder or softer by the difference of the spectrograms. The level of each channel
    relative to the mean is that of the recording in every band. The mean of several channels is what `invert` gives for
    the mean alone.
    """
    mean, *channels = guides
    if voice is None:
        mel = DatasetCreator.mel_from_log(np.where(stages[-1] > silence_threshold, stages[-1], 0))
    else:
        mel = DatasetCreator.mel_power(voice) * 10 ** ((stages[-1] - stages[1]) * (hp.top_db / 10))
        guides = [voice] * len(guides)
    if not channels:
        return invert(mel, guides[0], inversion, device, voice is not None)
    mels = [mel, *(mel * band_levels(channel, mean) for channel in channels)]
    return invert_kl(mels, guides, device, voice is not None)[1:].T
