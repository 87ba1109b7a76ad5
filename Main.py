"""Recording -> the same performance on an electric piano: autoencoder, U-Net, spectrogram inversion.

`python Main.py recording.wav` writes recording_epiano.wav and a picture, recording_epiano.png; with --page also a page
to listen to. In Python: `audio = Main.pipeline("recording.wav")`.
"""
import argparse
import functools
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Inversion
import Notes
import Page
import Plots
import Util
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from Notes import refine_velocities
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
    models = load_model(Autoencoder, ae, device), load_model(UNet, unet, device)
    pairs = [model.pair for model in models]
    if all(pairs) and pairs[0] != pairs[1]:
        raise ValueError(f"{ae} was trained for {pairs[0]} and {unet} for {pairs[1]}; take two of the same pair")
    digests = models[1].autoencoder, models[1].autoencoder and digest(models[0].network.state_dict())
    if digests[0] != digests[1]:
        raise ValueError(f"{unet} was trained behind an autoencoder with the weights {digests[0]}, and {ae} has "
                         f"{digests[1]}; train the U-Net anew with UNetMain.py --overwrite, or restore the autoencoder")
    return models


def pipeline(recording, model=None, ae=None, unet=None, device="auto", inversion=None, sample_rate=None,
             stereo=False):
    """Play a recording on the electric piano.

    Parameters
    ----------
    recording : str or Path, or np.ndarray [shape=(n,) or (n, channels)]
        Any file that libsndfile reads, any rate and length; or samples, in [-1, 1] or integers of a wav, with their
        rate. Channels are mixed.
    model : str, optional
        Which pair of networks: see `find_weights`.
    ae, unet : str or Path, optional
        Weights to use in place of the pair's.
    device : str
        "auto", "cuda", "mps" or "cpu".
    inversion : str
        "kl", or "report" for the report's own: see `Inversion.invert`.
    sample_rate : float, optional
        Of an array, in Hz.
    stereo : bool
        Keep the two channels of a stereo recording.

    Returns
    -------
    np.ndarray [shape=(n,)], float32
        Mono at 22,050 Hz, as long and as loud as the recording, in [-1, 1]. With `stereo`, [shape=(n, 2)] of a stereo
        recording.

    Raises
    ------
    FileNotFoundError
        If the recording or the weights are missing.
    ValueError
        If the recording is not audio, empty or silent, an array without its rate, or the weights do not fit.

    Examples
    --------
    >>> import soundfile
    >>> audio, sample_rate = soundfile.read("data/demo/mozart_rondo_alla_turca.wav")
    >>> pipeline(audio, sample_rate=sample_rate).shape
    (661500,)
    """
    audio = read_input(recording, sample_rate, stereo)
    models = load_models(*choose_weights(model, ae, unet), device)
    return resynthesise(audio, models, inversion)[0]


def transcribe(recording, model=None, ae=None, unet=None, device="auto", sample_rate=None):
    """Transcribe a piano recording to notes.

    Parameters
    ----------
    recording, model, ae, unet, device, sample_rate
        See `pipeline`.

    Returns
    -------
    np.ndarray [shape=(n, 4)], float32
        Onset and end in seconds, MIDI key, velocity from 1 to 127, in the order of the onsets.

    Raises
    ------
    FileNotFoundError, ValueError
        As `pipeline`, and ValueError if the autoencoder is the report's, which has no notes.
    """
    audio, paths = read_input(recording, sample_rate), choose_weights(model, ae, unet)
    models = load_models(*paths, device)
    if not isinstance(models[0], NoteModel):
        raise ValueError(f"{paths[0]} is an autoencoder without notes, as --report trains it; choose another model")
    return transcribe_audio(audio, models[0])


def read_input(recording, sample_rate=None, stereo=False):
    """Return a recording, a path or an array with its rate, at `hp.sample_rate`: see `pipeline`."""
    if not isinstance(recording, (str, Path)):
        return check_array(recording, sample_rate, stereo)
    if sample_rate is not None:
        raise ValueError(f"sample_rate goes with an array; {recording} has its own")
    return read_recording(recording, stereo)


def choose_weights(model, ae, unet):
    """Return the paths of both weights: the given ones, else those of the pair `model`."""
    found = find_weights(model)
    return Path(ae or found[0]), Path(unet or found[1])


def read_recording(path, stereo=False):
    """Read a recording as `Util.read_audio`, and raise ValueError if it is silent."""
    audio = Util.read_audio(path, stereo)
    if not audio.any():
        raise ValueError(f"{path} is silent; there is nothing to play")
    return audio


def check_array(audio, rate, stereo=False):
    """Return an array as `read_recording` does a file: see `pipeline`."""
    audio = np.asarray(audio)
    if rate is None or not 0 < rate < float("inf"):
        raise ValueError(f"an array needs its rate in Hz, as in sample_rate=44100, not {rate}")
    if audio.ndim not in (1, 2) or not audio.size or audio.ndim > 1 and audio.shape[1] > max(len(audio), 2):
        raise ValueError(f"an array of shape {audio.shape} is no recording; give (samples,) or (samples, channels)")
    if audio.dtype.kind in "iu":
        middle, scale = (128, 128) if audio.dtype == np.uint8 else (0, -float(np.iinfo(audio.dtype).min) or 1)
        audio = (audio - np.float64(middle)) / scale
    audio = audio.astype(np.float32)
    if audio.ndim > 1 and (not stereo or audio.shape[1] == 1):
        audio = audio.mean(axis=1)
    if audio.ndim > 1 and audio.shape[1] > 2:
        raise ValueError(f"the array has {audio.shape[1]} channels; mix it to two, or leave stereo out")
    if not np.isfinite(audio).all():
        raise ValueError("the array holds samples that are not finite")
    if not audio.any():
        raise ValueError("the array is silent; there is nothing to play")
    return Util.resample(audio, rate)


def frame_samples(audio, first, last, n_fft, hop_length):
    """Return what the frames from `first` to `last` of a centred STFT are made of, silence where there is no audio."""
    start, end = first * hop_length - n_fft // 2, (last - 1) * hop_length + n_fft // 2
    before, part = max(-start, 0), audio[max(start, 0):max(end, 0)]
    return np.pad(part, (before, end - start - before - part.size))


def spectrum(audio, first, last):
    """STFT of the frames from `first` to `last`."""
    return DatasetCreator.stft(frame_samples(audio, first, last, hp.n_fft, hp.hop_length), center=False)


def chunk_pitch_power(audio, first, last):
    """As `DatasetCreator.pitch_power`, of every other frame from `first` to `last` of the mel spectrogram."""
    steps = (last - first + 1) // 2
    part = frame_samples(audio, first, first + 2 * steps - 1, hp.pitch_n_fft, hp.hop_length)
    return DatasetCreator.pitch_power(part, center=False)


def n_frames(audio):
    """Frames of a recording's spectrogram; the last is centred on or after its end."""
    return 1 + max(-(-audio.size // hp.hop_length), 1)


def chunks(frames, number=0):
    """Cut a recording into `number` chunks, or as many as `hp.chunk_frames` makes of it: [(first, last + 1)]."""
    number = number or -(-frames // hp.chunk_frames)
    size = -(-frames // (8 * number)) * 8  # the U-Net halves time three times
    return [(first, min(first + size, frames)) for first in range(0, frames, size)]


def transcribe_audio(audio, model):
    """Return the notes of a recording, `Notes.refine_velocities`ed, heard chunk by chunk, and twice: the encoder's
    steps are two frames long, so it hears something else one frame later, and the mean is better than either.

    `audio` [shape=(n,), float32]: mono at `hp.sample_rate`, not silent. `model`: a NoteModel.
    """
    audio, _ = Util.normalise(audio)
    frames = n_frames(audio)
    parts = chunks(frames)
    loudest = max(DatasetCreator.mel_power(spectrum(audio, *part)).max() for part in parts)
    loudest_pitch = max(chunk_pitch_power(audio, *part).max() for part in parts)
    predictions = np.empty((3, frames, hp.n_keys), np.float16)
    pitch = np.empty((hp.n_pitches, -(-frames // 2)), np.float16)
    for first, last in tqdm(parts, desc="listening", unit="chunk", disable=len(parts) < 2, leave=False):
        before, after = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        mel = DatasetCreator.log_mel(DatasetCreator.mel_power(spectrum(audio, before, after)), loudest)
        images = [DatasetCreator.log_mel(chunk_pitch_power(audio, before + late, after), loudest_pitch)
                  for late in (0, 1)]
        once, again = (model.predict_frames(image, mel[:, late:]) for late, image in enumerate(images))
        once[:, 1:] = (once[:, 1:] + again) / 2
        predictions[:, first:last] = once[:, first - before:last - before]
        pitch[:, first // 2:-(-last // 2)] = images[0][:, (first - before) // 2:-(-(last - before) // 2)]
    return refine_velocities(model.decode_notes(predictions.astype(np.float32)), pitch)


def resynthesise(audio, models, inversion=None, notes=None):
    """Turn a recording into the electric piano, chunk by chunk, so that memory does not grow with its length.

    The networks and the inversion see `hp.context_frames` beyond each side of a chunk, more than they look around, the
    chunks fade into each other, and the reference of the dB scale is that of the whole recording: there is no seam.
    Notes are those of the whole recording too, so that one may be held across chunks. The report's inversion starts
    from random phase, so that its chunks would not fit: it takes the recording whole.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        At `hp.sample_rate`, not silent. The networks see the mean of the channels; each channel is inverted with its
        own phase, and is as much louder than the mean as in the recording, band by band.
    models : sequence of AEModel
        What the spectrogram passes through in turn: autoencoder and U-Net, as `load_models` returns them.
    inversion : str
        See `Inversion.invert`.
    notes : np.ndarray [shape=(n, 4)], optional
        What a NoteModel plays; without it, what it hears: see `transcribe_audio`.

    Returns
    -------
    (np.ndarray [shape as audio, float32], list of np.ndarray [shape=(n_mels, t), in [0, 1]])
        The audio, as loud as the recording, and the spectrograms of the first chunk: input, then each model's output.
    """
    inversion = inversion or hp.inversion
    recording, (audio, _) = audio, Util.normalise(audio)
    channels, mean = (audio.T, audio.mean(axis=1)) if audio.ndim > 1 else (audio[None], audio)
    frames = n_frames(mean)
    parts = chunks(frames, 1 if inversion == "report" else 0)
    half, rise = hp.fade_frames // 2, np.linspace(0, 1, hp.fade_frames * hp.hop_length, dtype=np.float32)
    reference = max(DatasetCreator.mel_power(spectrum(mean, *part)).max() for part in parts)
    render = None
    if isinstance(models[0], NoteModel):
        render = models[0].note_renderer(transcribe_audio(mean, models[0]) if notes is None else notes, frames, parts)
    output, pictures = np.zeros((len(channels), (frames - 1) * hp.hop_length), np.float32), []
    for first, last in tqdm(parts, unit="chunk", disable=len(parts) < 2, leave=False):
        before, after = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        guides = [spectrum(channel, before, after) for channel in ((mean, *channels) if audio.ndim > 1 else channels)]
        stages, voice = [DatasetCreator.log_mel(DatasetCreator.mel_power(guides[0]), reference)], None
        if render:
            image, voice = render(before, after)
            stages.append(image)
        for model in models[len(stages) - 1:]:
            stages.append(model.generate(*stages[::-1]))
        chunk = Inversion.invert_chunk(stages, guides, voice, inversion, models[-1].device)
        start, end = max(first - half, 0) * hp.hop_length, min(last + half, frames) * hp.hop_length
        part = chunk[:, start - before * hp.hop_length:end - before * hp.hop_length]
        if first > 0:
            part[:, :rise.size] *= rise
        if last < frames:
            part[:, -rise.size:] *= rise[::-1]
        output[:, start:start + part.shape[1]] += part
        pictures = pictures or [stage[:, :last] for stage in stages]
    output = output[:, :mean.size]
    return match_rms(recording, output.T if audio.ndim > 1 else output[0]), pictures


def match_rms(recording, audio):
    """Scale `audio` to the RMS level of `recording`, or as far as its largest sample stays within `hp.peak`."""
    peak = max(audio.max(), -audio.min())
    if peak == 0:
        return audio
    recording, exponent = Util.normalise(recording)
    louder = np.ldexp(float(np.linalg.norm(recording) / np.linalg.norm(audio)), exponent)
    audio *= np.float32(min(louder, hp.peak / peak))
    return audio


def whole_spectrogram(audio):
    """Return the log-mel spectrogram of a recording of any length, relative to its own maximum [shape=(n_mels, t),
    float16]; `audio` [shape=(n,) or (n, channels)], of which the mean is taken."""
    audio, _ = Util.normalise(audio if audio.ndim == 1 else audio.mean(axis=1))
    powers = [DatasetCreator.mel_power(spectrum(audio, *part)).astype(np.float32) for part in chunks(n_frames(audio))]
    loudest = max(power.max() for power in powers)
    return np.concatenate([DatasetCreator.log_mel(power, loudest).astype(np.float16) for power in powers], axis=1)


def recording_page(name, versions, notes=None):
    """Return the page of one recording as HTML, as `make_versions` returns what is on it: see `Page.render_page`.

    `versions`: name -> audio [shape=(n,) or (n, 2)]; `notes` [shape=(m, 4)], optional.
    """
    shown = [(version, "", audio, whole_spectrogram(audio)) for version, audio in versions.items()]
    return Page.render_page(name, [Page.make_piece("", shown, notes=notes)],
                            "<p>A piano recording, and the same performance on an electric piano.</p>")


def make_versions(recording, models, inversion=None, stereo=False):
    """Return what `recording_page` shows of a recording: its name, name -> audio of the versions, and the notes, None
    if the autoencoder knows none. Raises as `read_recording`."""
    audio = read_recording(recording, stereo)
    notes = transcribe_if_possible(audio, models)
    played = {"Autoencoder": resynthesise(audio, models[:1], inversion, notes)[0],
              "Electric piano": resynthesise(audio, models, inversion, notes)[0]}
    return Path(recording).stem, {"Recording": audio, **played}, notes


def transcribe_if_possible(audio, models):
    """Return the notes of a recording [shape=(n,) or (n, channels)], or None if the autoencoder knows none."""
    if not isinstance(models[0], NoteModel):
        return None
    return transcribe_audio(audio if audio.ndim == 1 else audio.mean(axis=1), models[0])


def render_notes(preset, midi_path, path, audio):
    """Render the notes of a MIDI file on a preset of a SoundFont to `path`, as long and as loud as the recording
    `audio`; return what was written [shape=(n,)]. Raises as `MIDI2Audio.synthesise_midi_to_audio`."""
    import MIDI2Audio

    length = len(audio)
    with tempfile.TemporaryDirectory() as folder:
        rendered = Path(folder) / "rendered.wav"
        MIDI2Audio.synthesise_midi_to_audio(midi_path, rendered, *preset, limit_s=length / hp.sample_rate)
        played = Util.read_audio(rendered)[:length]
    mean = audio if audio.ndim == 1 else audio.mean(axis=1)
    played = match_rms(mean, np.pad(played, (0, length - played.size)))
    Util.write_audio(path, played)
    return played


def convert(recording, path, models, options):
    """Play a recording, and write to `path` and beside it what the command line asks for. Return what to say of it."""
    started = time.monotonic()
    audio = read_recording(recording, options.stereo)
    notes = transcribe_if_possible(audio, models)
    output, pictures = resynthesise(audio, models, options.inversion, notes)
    Util.write_audio(path, output)
    # beside a cover.wav not cover.png, of which there is many a one that is none of ours, but cover_epiano.png
    own = f"{path.stem.removesuffix('_epiano')}_epiano"
    picture, midi, listening = (path.with_name(own + ending) for ending in (".png", ".mid", ".html"))
    beside, versions = ["its picture " + picture.name], {"Recording": audio}
    if options.midi:
        Notes.save_notes(midi, notes)
        beside.append("the notes " + midi.name)
    if options.page:
        versions["Autoencoder"] = resynthesise(audio, models[:1], options.inversion, notes)[0]
        versions["Electric piano"] = output
    if options.play and not len(notes):
        beside.append("no notes, as none were heard")
    elif options.play:
        other = path.with_name(f"{own}_played{path.suffix}")
        with tempfile.TemporaryDirectory() as folder:
            Notes.save_notes(Path(folder) / "notes.mid", notes)
            versions[f"{Path(options.play[0]).stem} {options.play[1]}:{options.play[2]}"] = render_notes(
                options.play, Path(folder) / "notes.mid", other, audio)
        beside.append(f"the notes on {options.play[0]} {other.name}")
    if options.page:
        Util.save_text(listening, recording_page(recording.stem, versions, notes))
        beside.append("the page " + listening.name)
    Plots.save_figure(picture, Plots.plot_spectrograms(dict(zip(stage_names, pictures)), recording.name))
    beside = beside[0] if len(beside) == 1 else ", ".join(beside[:-1]) + " and " + beside[-1]
    return f"{path} and {beside}: {len(audio) / hp.sample_rate:.1f} s in {time.monotonic() - started:.1f} s"


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Play piano recordings on an electric piano.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", default=[hp.demo],
                        help="wav, flac, ogg or mp3, or a folder of them (default: the demo recording)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT",
                        help="a file, .wav, .flac, .ogg or .mp3, or a folder for several (default: <name>_epiano.wav "
                        "in the working folder)")
    parser.add_argument("--page", action="store_true",
                        help="write a page, <name>_epiano.html, to listen and look, complete in one file")
    parser.add_argument("--stereo", action="store_true", help="keep the two channels of a stereo recording")
    parser.add_argument("--midi", action="store_true", help="write the notes that were heard, <name>_epiano.mid")
    parser.add_argument("--play", metavar="FILE.sf2:BANK:PROGRAM",
                        help="play these notes on a preset too, with FluidSynth: <name>_epiano_played.wav")
    parser.add_argument("--model",
                        help="name below data/models, or 'shipped' (default: 'own' if trained, else 'shipped')")
    parser.add_argument("--ae", type=Path, help="weights of the autoencoder, in place of the model's")
    parser.add_argument("--unet", type=Path, help="weights of the U-Net, in place of the model's")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first there is)")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion,
                        help="spectrogram to audio; 'report' is the slower one of the report (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.stereo and options.inversion == "report":
        raise ValueError("--inversion report knows no channels; leave it out, or --stereo")
    found = Util.find_recordings(options.recordings)
    paths = Util.output_paths(found, options.output)
    chosen = choose_weights(options.model, options.ae, options.unet)
    models = load_models(*chosen, options.device)
    if (options.midi or options.play) and not isinstance(models[0], NoteModel):
        raise ValueError(f"{chosen[0]} is an autoencoder without notes, as --report trains it; leave "
                         f"{'--midi' if options.midi else '--play'} out, or choose another --model")
    if options.play:
        import MIDI2Audio

        options.play = MIDI2Audio.parse_preset(options.play)
        MIDI2Audio.check_preset(options.play)
    if chosen != (hp.ae_weights, hp.unet_weights):
        print(f"playing with {chosen[0]} and {chosen[1]}")
    errors = []
    progress = tqdm(list(zip(found, paths)), unit="recording", disable=len(found) < 2)
    for (recording, _), path in progress:
        try:
            said = convert(recording, path, models, options)
            progress.write(said) if len(found) > 1 else print(said)
        except (ValueError, FileNotFoundError) as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(errors))


if __name__ == "__main__":
    Util.run(main)
