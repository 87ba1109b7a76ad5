"""From mel spectrogram to audio: multiplicative KL updates, Griffin-Lim, the report's inversion, stereo."""
import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp


def power_from_mel(mel, start, device="cpu", kl_iterations=None, kl_floor=None):
    """Estimate a power spectrum from mel power by multiplicative updates for the KL divergence.

    The updates are those of Lee and Seung (2001), "Algorithms for non-negative matrix factorization", with the mel
    filter bank as the fixed factor. Least squares fits only the loudest bands; this divergence fits soft bands too.

    Parameters
    ----------
    mel : np.ndarray [shape=(n_mels, t)]
    start : np.ndarray [shape=(1 + n_fft / 2, t)]
        Power spectrum to start from. Its shape within each band remains, so the spectrum of the recording, which has
        the right pitches, is a good choice. Its level does not matter.
    device : torch.device or str
    kl_iterations, kl_floor : int, float, optional
        The defaults are those of `Hyperparameters`.

    Returns
    -------
    np.ndarray [shape=(1 + n_fft / 2, t)]
    """
    kl_iterations = hp.kl_iterations if kl_iterations is None else kl_iterations
    kl_floor = hp.kl_floor if kl_floor is None else kl_floor
    filters, mel, start = (torch.from_numpy(array).to(device) for array in (DatasetCreator.mel_filters(), mel, start))
    weights = filters.sum(dim=0)[:, None]
    spread = (filters.T / weights.clip(1e-20)).contiguous()
    power = torch.where(weights > 0, start / (start.amax(dim=0) + 1e-20) + kl_floor, 0)
    for _ in range(kl_iterations):
        power *= spread @ (mel / (filters @ power + 1e-20))
    return power.cpu().numpy()


def griffin_lim(magnitude, phase, iterations=None, device="cpu"):
    """Estimate audio from the magnitude of its STFT with the fast Griffin-Lim algorithm, from a given phase.

    The algorithm is that of Griffin and Lim (1984) with the momentum of Perraudin, Balazs and Soendergaard (2013), "A
    fast Griffin-Lim algorithm".

    Parameters
    ----------
    magnitude : np.ndarray [shape=(1 + n_fft / 2, t) or (1 + channels, 1 + n_fft / 2, t)]
        With several channels, the first is the mean of the others, and the result keeps it so.
    phase : np.ndarray [shape as magnitude, complex]
        STFT whose angles are used.
    iterations : int, optional
        By default `hp.griffin_lim_iterations`.
    device : torch.device or str

    Returns
    -------
    np.ndarray [shape=((t - 1) * hop_length,) or (1 + channels, (t - 1) * hop_length)], float32
    """
    def rebuild(spectrum):
        audio = torch.istft(spectrum, **frame, length=size)
        if audio.ndim > 1:
            audio[1:] += audio[0] - audio[1:].mean(dim=0)
        return audio

    iterations = hp.griffin_lim_iterations if iterations is None else iterations
    window = torch.hann_window(hp.n_fft).to(device)
    frame = dict(n_fft=hp.n_fft, hop_length=hp.hop_length, window=window)
    phase = np.where(np.abs(phase) > 1e-30, phase, 1)  # torch cannot compute the angle of smaller values
    magnitude, estimate = (torch.from_numpy(array).to(device) for array in (magnitude, phase))
    size, previous = (magnitude.shape[-1] - 1) * hp.hop_length, 0
    for _ in range(iterations):
        rebuilt = torch.stft(rebuild(magnitude * estimate.sgn()), **frame, pad_mode="constant", return_complex=True)
        estimate = rebuilt - hp.griffin_lim_momentum / (1 + hp.griffin_lim_momentum) * previous
        previous = rebuilt
    return rebuild(magnitude * estimate.sgn()).cpu().numpy()


def inversion_device(device):
    """Return the device, or the processor for Apple's MPS, which lacks complex numbers in some versions of torch."""
    return "cpu" if torch.device(device).type == "mps" else device


def invert(mel, guide, inversion=None, device="cpu", voiced=False):
    """Estimate audio from mel power.

    Parameters
    ----------
    mel : np.ndarray [shape=(n_mels, t)]
        At least two frames.
    guide : np.ndarray [shape=(1 + n_fft / 2, t), complex]
        STFT of the recording. It has the onsets and pitches of the wanted sound, so its power spectrum and its phase
        are the starting point.
    inversion : str
        "kl" (default): `power_from_mel` and `griffin_lim`, both starting from `guide`. "report": librosa's
        non-negative least squares and its Griffin-Lim from random phase, as in the report, without `guide`.
    device : torch.device or str
        Device for "kl", see `inversion_device`. "report" runs on the processor.
    voiced : bool
        Whether `guide` is the STFT of a `SampledVoice`. `mel` then differs from it by slow changes of level only, so a
        few iterations are enough.

    Returns
    -------
    np.ndarray [shape=((t - 1) * hop_length,)], float32

    Raises
    ------
    ValueError
        For another `inversion`.
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
    device = inversion_device(device)
    power = power_from_mel(mel, np.abs(guide) ** 2, device, **hp.voice_kl if voiced else {})
    return griffin_lim(np.sqrt(power), guide, hp.voice_griffin_lim_iterations if voiced else None, device)


def change_level(guide, before, after):
    """Return the mel power of an STFT, as much louder as `after` is than `before`, two log-mel spectrograms in [0, 1]:
    what is too soft for them keeps its level."""
    return DatasetCreator.mel_power(guide) * 10 ** ((after - before) * (hp.top_db / 10))


def band_levels(own, mean):
    """Return the ratio of a channel's power to that of the mean of all channels in each band.

    The powers are smoothed over `hp.stereo_frames`. The ratio is at most `hp.stereo_limit`, since the mean of
    channels in opposite phase is nearly silent.

    Parameters
    ----------
    own, mean : np.ndarray [shape=(1 + n_fft / 2, t), complex]
        STFTs of the channel and of the mean.

    Returns
    -------
    np.ndarray [shape=(n_mels, t), float32]
    """
    kernel = np.hanning(hp.stereo_frames + 2)[1:-1]

    def smooth(spectrum):
        reach, power = kernel.size // 2, DatasetCreator.mel_power(spectrum)
        return np.stack([np.convolve(band, kernel)[reach:reach + band.size] for band in power])

    own, mean = smooth(own), smooth(mean)
    return np.minimum(own / (mean + 1e-20), hp.stereo_limit).astype(np.float32)


def invert_stereo(mel, mean, channels, device="cpu", voice=None):
    """Estimate the audio of several channels from mel power; see `invert`.

    Each channel has its own guide, or all have the STFT of a `SampledVoice`.

    The level of each channel relative to the mean is that of the recording in every band. The mean of the result is
    what `invert` gives for the mean alone.

    Parameters
    ----------
    mel : np.ndarray [shape=(n_mels, t)]
        Of the mean of the channels.
    mean : np.ndarray [shape=(1 + n_fft / 2, t), complex]
        STFT of the mean.
    channels : list of np.ndarray [shape=(1 + n_fft / 2, t), complex]
        STFTs of the channels.
    device : torch.device or str

    Returns
    -------
    np.ndarray [shape=(channels, (t - 1) * hop_length), float32]
    """
    guides = np.stack([mean, *channels] if voice is None else [voice] * (1 + len(channels)))
    mels = [mel, *(mel * band_levels(channel, mean) for channel in channels)]
    device = inversion_device(device)
    powers = [power_from_mel(one, np.abs(guide) ** 2, device, **hp.voice_kl if voice is not None else {})
              for one, guide in zip(mels, guides)]
    iterations = None if voice is None else hp.voice_griffin_lim_iterations
    return griffin_lim(np.sqrt(np.stack(powers)), guides, iterations, device)[1:]


def invert_chunk(stages, guides, voice, inversion, device):
    """Return the audio of a chunk [shape=(channels, n)], from the log-mel spectrograms in `stages`, the input first.

    `guides` are the STFTs of the mean of all channels of the recording, and of the channels; `voice` is that of a
    `SampledVoice`, or None.
    """
    mean, *channels = guides
    if voice is None:
        mel = DatasetCreator.mel_from_log(np.where(stages[-1] > hp.silence_threshold, stages[-1], 0))
    else:
        mel = change_level(voice, stages[1], stages[-1])
    if len(channels) > 1:
        return invert_stereo(mel, mean, channels, device, voice)
    return invert(mel, mean if voice is None else voice, inversion, device, voice is not None)[None]
