"""Recording -> the same performance on an electric piano: autoencoder, U-Net, spectrogram inversion.

`python Main.py recording.wav` writes recording_epiano.wav and a picture, recording_epiano.png.
In Python: `audio = Main.pipeline("recording.wav")`.
"""
import argparse
import functools
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Util
from AEModel import Model, NoteModel, digest, level_to_own, pick_notes
from Autoencoder import Autoencoder
from UNet import UNet

stage_names = ("input", "autoencoder", "autoencoder + U-Net")


def find_weights(model=None):
    """Return the paths of the autoencoder's and the U-Net's weights of a trained pair.

    `model` is a name below data/models, or "shipped". None is "own", what AEMain.py and UNetMain.py train unless told
    otherwise, if both are there, else "shipped".
    """
    folder = hp.models / (model or "own")
    own = folder / "ae.torch", folder / "unet.torch"
    if model == "shipped" or (model is None and not all(path.exists() for path in own)):
        return hp.ae_weights, hp.unet_weights
    return own


def load_models(ae, unet, device="auto"):
    """Return the two trained models; each pair of weights is read once, and again when its files have changed.

    Raises as `AEModel.load_weights`, and ValueError if the two were trained for different instruments, or the U-Net
    behind another autoencoder.
    """
    statuses = [Path(path).stat() for path in (ae, unet) if Path(path).exists()]
    return read_models(ae, unet, device, *((now.st_mtime_ns, now.st_ctime_ns, now.st_size) for now in statuses))


@functools.lru_cache(maxsize=4)
def read_models(ae, unet, device, *stamps):
    """As `load_models`, of files that have not changed since the same `stamps`."""
    device = Util.choose_device(device)
    models = Model.load(Autoencoder, ae, device), Model.load(UNet, unet, device)
    pairs = [model.pair for model in models]
    if all(pairs) and pairs[0] != pairs[1]:
        raise ValueError(f"{ae} was trained for {pairs[0]} and {unet} for {pairs[1]}; take two of the same pair")
    digests = models[1].autoencoder, models[1].autoencoder and digest(models[0].network.state_dict())
    if digests[0] != digests[1]:
        raise ValueError(f"{unet} was trained behind an autoencoder with the weights {digests[0]}, and {ae} has "
                         f"{digests[1]}; train the U-Net anew with UNetMain.py --overwrite, or restore the autoencoder")
    return models


def pipeline(path, model=None, ae=None, unet=None, device="auto", inversion=hp.inversion):
    """Play a recording on the electric piano.

    Parameters
    ----------
    path : str or Path
        Any file that libsndfile reads; channels are mixed, any rate and length.
    model : str, optional
        Which pair of networks: see `find_weights`.
    ae, unet : str or Path, optional
        Weights to use in place of the pair's.
    device : str
        "auto", "cuda", "mps" or "cpu".
    inversion : str
        "kl", or "report" for the report's own: see `DatasetCreator.invert`.

    Returns
    -------
    np.ndarray [shape=(n,)], float32
        Mono at 22,050 Hz, as long and as loud as the recording, in [-1, 1].

    Raises
    ------
    FileNotFoundError
        If the recording or the weights are missing.
    ValueError
        If the recording is not audio, empty or silent, or the weights do not fit.
    """
    return resynthesise(read_recording(path), load_models(*weights(model, ae, unet), device), inversion)[0]


def weights(model, ae, unet):
    """Return the paths of both weights: the given ones, else those of the pair `model`."""
    found = find_weights(model)
    return Path(ae or found[0]), Path(unet or found[1])


def read_recording(path):
    """Read a recording as `Util.read_audio`, and raise ValueError if it is silent."""
    audio = Util.read_audio(path)
    if not audio.any():
        raise ValueError(f"{path} is silent; there is nothing to play")
    return audio


def samples(audio, first, last, n_fft, hop_length):
    """Return what the frames from `first` to `last` of a centred STFT are made of, silence where there is no audio."""
    start, end = first * hop_length - n_fft // 2, (last - 1) * hop_length + n_fft // 2
    before, part = max(-start, 0), audio[max(start, 0):max(end, 0)]
    return np.pad(part, (before, end - start - before - part.size))


def spectrum(audio, first, last):
    """STFT of the frames from `first` to `last`."""
    return DatasetCreator.stft(samples(audio, first, last, hp.n_fft, hp.hop_length), center=False)


def pitch_power(audio, first, last):
    """As `DatasetCreator.pitch_power`, of the frames from `first` to `last` of the mel spectrogram; `first` is even."""
    part = samples(audio, first // 2, (last + 1) // 2, hp.pitch_n_fft, hp.pitch_hop_length)
    return DatasetCreator.pitch_power(part, center=False)


def n_frames(audio):
    """Frames of a recording's spectrogram; the last is centred on or after its end."""
    return 1 + max(-(-audio.size // hp.hop_length), 1)


def chunks(frames, number=0):
    """Cut a recording into `number` chunks, or as many as `hp.chunk_frames` makes of it: [(first, last + 1)]."""
    number = number or -(-frames // hp.chunk_frames)
    size = -(-frames // (8 * number)) * 8  # the U-Net halves time three times
    return [(first, min(first + size, frames)) for first in range(0, frames, size)]


def listen(audio, model):
    """Return the notes of a recording, as `AEModel.pick_notes`, heard chunk by chunk.

    `audio` [shape=(n,), float32]: mono at `hp.sample_rate`, not silent. `model`: a NoteModel.
    """
    audio, _ = Util.normalised(audio)
    frames = n_frames(audio)
    parts = chunks(frames)
    loudest = max(DatasetCreator.mel_power(spectrum(audio, *part)).max() for part in parts)
    loudest_pitch = max(pitch_power(audio, *part).max() for part in parts)
    heard = np.empty((3, frames, hp.n_keys), np.float16)
    for first, last in tqdm(parts, desc="listening", unit="chunk", disable=len(parts) < 2, leave=False):
        before, after = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        mel = DatasetCreator.log_mel(DatasetCreator.mel_power(spectrum(audio, before, after)), loudest)
        pitch = DatasetCreator.log_mel(pitch_power(audio, before, after), loudest_pitch)
        heard[:, first:last] = model.hear(pitch, mel)[:, first - before:last - before]
    return pick_notes(heard.astype(np.float32))


def play_notes(notes, model, frames):
    """Return the log-mel spectrogram of notes on the target instrument [shape=(n_mels, frames), in [0, 1], float16],
    relative to its own maximum."""
    return level_to_own(model.play(notes, 0, frames)).astype(np.float16)


def resynthesise(audio, models, inversion=hp.inversion):
    """Turn a recording into the electric piano, chunk by chunk, so that memory does not grow with its length.

    The networks and the inversion see `hp.context_frames` beyond each side of a chunk, more than they look around, the
    chunks fade into each other, and the reference of the dB scale is that of the whole recording: there is no seam.
    Notes are those of the whole recording too, so that one may be held across chunks. The report's inversion starts
    from random phase, so that its chunks would not fit: it takes the recording whole.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,), float32]
        Mono at `hp.sample_rate`, not silent.
    models : sequence of Model
        What the spectrogram passes through in turn: autoencoder and U-Net, as `load_models` returns them.
    inversion : str
        See `DatasetCreator.invert`.

    Returns
    -------
    (np.ndarray [shape=(n,), float32], list of np.ndarray [shape=(n_mels, t), in [0, 1]])
        The audio, as loud as the recording, and the spectrograms of the first chunk: input, then each model's output.
    """
    audio, exponent = Util.normalised(audio)
    frames = n_frames(audio)
    parts = chunks(frames, 1 if inversion == "report" else 0)
    half, rise = hp.fade_frames // 2, np.linspace(0, 1, hp.fade_frames * hp.hop_length, dtype=np.float32)
    reference = max(DatasetCreator.mel_power(spectrum(audio, *part)).max() for part in parts)
    played = play_notes(listen(audio, models[0]), models[0], frames) if isinstance(models[0], NoteModel) else None
    output, pictures = np.zeros((frames - 1) * hp.hop_length, np.float32), []
    for first, last in tqdm(parts, unit="chunk", disable=len(parts) < 2, leave=False):
        before, after = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        guide = spectrum(audio, before, after)
        stages = [DatasetCreator.log_mel(DatasetCreator.mel_power(guide), reference)]
        if played is not None:
            stages.append(played[:, before:after].astype(np.float32))
        for model in models[len(stages) - 1:]:
            stages.append(model.generate(*stages[::-1]))
        chunk = DatasetCreator.invert(DatasetCreator.mel_from_log(stages[-1]), guide, inversion, models[-1].device)
        start, end = max(first - half, 0) * hp.hop_length, min(last + half, frames) * hp.hop_length
        part = chunk[start - before * hp.hop_length:end - before * hp.hop_length]
        if first > 0:
            part[:rise.size] *= rise
        if last < frames:
            part[-rise.size:] *= rise[::-1]
        output[start:start + part.size] += part
        pictures = pictures or [stage[:, :last] for stage in stages]
    return at_level_of(audio, output[:audio.size], exponent), pictures


def at_level_of(recording, audio, exponent=0):
    """Scale `audio` to the RMS level of `recording` times 2 to the `exponent`, or as far as its largest sample stays
    within `hp.peak`."""
    peak = max(audio.max(), -audio.min())
    if peak == 0:
        return audio
    louder = np.ldexp(float(np.linalg.norm(recording) / np.linalg.norm(audio)), exponent)
    audio *= np.float32(min(louder, hp.peak / peak))
    return audio


def output_paths(recordings, output):
    """Return where to write the wav of each recording: `output`, a wav if there is one recording, or a folder.

    Raises ValueError if two recordings would be written to one file, or one over a recording.
    """
    if output and output.suffix.lower() == ".wav":
        if len(recordings) > 1:
            raise ValueError(f"{output} is one file for {len(recordings)} recordings; give a folder")
        paths = [output]
    else:
        paths = [(output or Path()) / f"{recording.stem}_epiano.wav" for recording in recordings]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(f"{recordings[paths.index(path)]} and {recordings[i]} would both be written to {path}; "
                             "convert them apart")
        if path.resolve() in [recording.resolve() for recording in recordings]:
            raise ValueError(f"{path} would be written over a recording; choose another name with -o")
    return paths


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Play piano recordings on an electric piano.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", default=[hp.demo],
                        help="wav, flac, ogg or mp3 (default: the demo recording)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT",
                        help="a wav, or a folder for several (default: <name>_epiano.wav in the working folder)")
    parser.add_argument("--model",
                        help="name below data/models, or 'shipped' (default: 'own' if trained, else 'shipped')")
    parser.add_argument("--ae", type=Path, help="weights of the autoencoder, in place of the model's")
    parser.add_argument("--unet", type=Path, help="weights of the U-Net, in place of the model's")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first there is)")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion,
                        help="spectrogram to audio; 'report' is the slower one of the report (default: %(default)s)")
    options = parser.parse_args(arguments)
    paths = output_paths(options.recordings, options.output)
    chosen = weights(options.model, options.ae, options.unet)
    models = load_models(*chosen, options.device)
    if chosen != (hp.ae_weights, hp.unet_weights):
        print(f"playing with {chosen[0]} and {chosen[1]}")
    errors = []
    for recording, path in zip(options.recordings, paths):
        started = time.monotonic()
        try:
            audio, pictures = resynthesise(read_recording(recording), models, options.inversion)
        except (ValueError, FileNotFoundError) as error:
            errors.append(str(error))
            continue
        Util.write_audio(path, audio)
        # not cover.png beside a cover.wav: there is many a cover.png that is none of ours
        picture = path.with_name(f"{path.stem.removesuffix('_epiano')}_epiano.png")
        Util.save_figure(picture, Util.plot_spectrograms(dict(zip(stage_names, pictures)), recording.name))
        print(f"{path} and its picture {picture}: {audio.size / hp.sample_rate:.1f} s in "
              f"{time.monotonic() - started:.1f} s")
    if errors:
        raise ValueError("; ".join(errors))


if __name__ == "__main__":
    Util.run(main)
