"""Convert a piano recording to the same performance on an electric piano.

`python Main.py recording.wav` writes recording_epiano.wav and a picture, recording_epiano.png. With --page it also
writes an HTML page for listening. In Python: `audio = Main.pipeline("recording.wav")`.
"""
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import argparse
import functools
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Chunks
import DatasetCreator
import Hyperparameters as hp
import Inversion
import Notes
import Page
import Plots
import Recordings
import Transcription
import Tuning
import Util
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from Chunks import whole_spectrogram
from Recordings import read_input, read_recording
from Transcription import transcribe_audio, transcribe_in_tune
from UNet import UNet

# name and explanation of each version of a recording on its HTML page
version_remarks = {"Recording": "the piano, as it was recorded",
                   "Draft": "the electric piano before the last correction",
                   "Electric piano": "the result",
                   "report": "the result of the 2020 report's networks"}
stage_names = ("recording", "after the autoencoder", "after the U-Net: the result")


def find_weights(model=None):
    """Return the paths of the weights of an autoencoder and its U-Net.

    `model` is the name of a folder in data/models, or "shipped". None selects "own", the default of the training, if
    both files exist, else "shipped".
    """
    folder = hp.models / Util.check_model_name(model or "own")
    own = folder / "ae.torch", folder / "unet.torch"
    if model == "shipped" or (model is None and not all(path.exists() for path in own)):
        return hp.ae_weights, hp.unet_weights
    return own


def load_models(ae, unet, device="auto"):
    """Load the autoencoder and the U-Net. Models stay in memory until their files change.

    Raises the errors of `AEModel.load_model`. Raises ValueError if the two were trained for different instruments, or
    if the U-Net was trained with another autoencoder.
    """
    statuses = [Path(path).stat() for path in (ae, unet) if Path(path).exists()]
    return read_models(ae, unet, device, *((now.st_mtime_ns, now.st_ctime_ns, now.st_size) for now in statuses))


@functools.lru_cache(maxsize=4)
def read_models(ae, unet, device, *stamps):
    """Load the models for `load_models`. The cache identifies a file by its times and size in `stamps`."""
    device = Util.choose_device(device)
    models = load_model(Autoencoder, ae, device), load_model(UNet, unet, device)
    if not models[0].fits(models[1].pair):
        raise ValueError(f"{ae} was trained for {models[0].pair} and {unet} for {models[1].pair}; take two of the same "
                         "pair")
    digests = models[1].autoencoder, models[1].autoencoder and digest(models[0].network.state_dict())
    if digests[0] != digests[1]:
        raise ValueError(f"{unet} was trained behind an autoencoder with the weights {digests[0]}, and {ae} has "
                         f"{digests[1]}; train the U-Net anew with UNetMain.py --overwrite, or restore the autoencoder")
    return models


def pipeline(recording, model=None, ae=None, unet=None, device="auto", inversion=None, sample_rate=None,
             stereo=False, tune=None):
    """Convert a piano recording to the electric piano.

    Parameters
    ----------
    recording : str or Path, or np.ndarray [shape=(n,) or (n, channels)]
        Audio or video file that libsndfile or FFmpeg reads, of any sample rate and length. Or an array of samples, in
        [-1, 1] or integers as in a wav file. Channels are mixed.
    model : str, optional
        Name of the trained model: see `find_weights`.
    ae, unet : str or Path, optional
        Weights of the autoencoder and of the U-Net, instead of those of the model.
    device : str
        "auto", "cuda", "mps" or "cpu".
    inversion : str
        Method from spectrogram to audio, "kl" or "report": see `Inversion.invert`.
    sample_rate : float, optional
        Sample rate of an array in Hz.
    stereo : bool
        Keep the two channels of a stereo recording.
    tune : float, optional
        Frequency in Hz of the A above middle C in the output, such as 440. The default is that of the recording.

    Returns
    -------
    np.ndarray [shape=(n,)], float32
        Audio at 22,050 Hz in [-1, 1], as long and as loud as the recording. A stereo recording gives
        [shape=(n, 2)] with `stereo`.

    Raises
    ------
    FileNotFoundError
        If the recording or the weights are missing.
    ValueError
        If the recording is not audio, empty or silent, or if an array has no sample rate. Also if `tune` is
        outside `hp.tune_hertz`, or if the weights do not fit together.

    Examples
    --------
    >>> import soundfile
    >>> audio, sample_rate = soundfile.read("data/demo/mozart_rondo_alla_turca.wav")
    >>> pipeline(audio, sample_rate=sample_rate).shape
    (661500,)
    """
    Tuning.check_tune(tune)
    audio = read_input(recording, sample_rate, stereo)
    models = load_models(*choose_weights(model, ae, unet), device)
    notes = transcribe_if_possible(audio, models, recording if isinstance(recording, (str, Path)) else "the array")
    return resynthesise(audio, models, inversion, notes, tune)[0]


def transcribe(recording, model=None, ae=None, unet=None, device="auto", sample_rate=None):
    """Transcribe a piano recording to notes.

    Parameters
    ----------
    recording, model, ae, unet, device, sample_rate
        See `pipeline`.

    Returns
    -------
    np.ndarray [shape=(n, 4)], float32
        Onset and offset in seconds, MIDI key, velocity from 1 to 127, sorted by onset.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `pipeline`. Also ValueError if the model is the report's autoencoder, which has no notes.
    """
    audio, paths = read_input(recording, sample_rate), choose_weights(model, ae, unet)
    models = load_models(*paths, device)
    if not isinstance(models[0], NoteModel):
        raise ValueError(f"{paths[0]} is an autoencoder without notes, as --report trains it; choose another model")
    return transcribe_audio(audio, models[0])


def choose_weights(model, ae, unet):
    """Return the paths of the weights of both networks: `ae` and `unet` if given, else those of `model`."""
    found = find_weights(model)
    return Path(ae or found[0]), Path(unet or found[1])


def resynthesise(audio, models, inversion=None, notes=None, tune=None):
    """Convert audio to the electric piano with loaded models.

    The networks process the recording in A 440: see `Tuning`. If the notes explain too little of the recording, the
    output is softer: see `Chunks.explained_share`.

    Parameters
    ----------
    audio : np.ndarray [shape=(n,) or (n, channels), float32]
        Recording at `hp.sample_rate`, not silent. The networks process the mean of the channels. The inversion uses the
        phase of each channel, and its level relative to the mean per band.
    models : sequence of AEModel
        Autoencoder and U-Net, as `load_models` returns them, or the autoencoder alone.
    inversion : str
        See `Inversion.invert`.
    notes : np.ndarray [shape=(n, 4)], optional
        Notes for a `NoteModel`. The default is the output of `transcribe_audio`.
    tune : float, optional
        See `pipeline`.

    Returns
    -------
    (np.ndarray [shape as audio, float32], list of np.ndarray [shape=(n_mels, t), in [0, 1]])
        Audio, and the spectrograms of the first chunk in A 440: input, then the output of each model.
    """
    factor = Tuning.pitch_factor(audio)
    in_tune, share = Tuning.to_concert_pitch(audio, factor), 1
    if isinstance(models[0], NoteModel):
        notes = transcribe_in_tune(in_tune, models[0]) if notes is None else notes * np.float32([factor, factor, 1, 1])
        share = Chunks.explained_share(in_tune, notes)
    output, pictures = resynthesise_in_tune(in_tune, models, inversion, notes)
    del in_tune
    output = Tuning.from_concert_pitch(output, factor, len(audio), tune)
    return match_rms(audio, output, share if share < hp.explained_min_share else 1), pictures


def resynthesise_in_tune(audio, models, inversion=None, notes=None):
    """Convert a recording in A 440 chunk by chunk, without matching its level: see `resynthesise`.

    Each chunk has `hp.context_frames` more frames on each side, which exceeds the receptive field. Chunks are
    cross-faded, and share the dB reference of the whole recording. Notes are those of the whole recording, so a note
    can last over several chunks. The report's inversion starts from random phase, so it needs the whole recording in
    one chunk.
    """
    inversion = inversion or hp.inversion
    exponent, frames = Util.level_exponent(audio), Chunks.n_frames(audio)
    parts = Chunks.chunks(frames, 1 if inversion == "report" else 0)
    reference = Chunks.loudest_mel_power(audio, exponent, parts)
    render = models[0].note_renderer(notes, parts) if isinstance(models[0], NoteModel) else None
    output = np.zeros(((frames - 1) * hp.hop_length, *audio.shape[1:]), np.float32)
    pictures = []
    for first, last in Chunks.track(parts, "resynthesis"):
        context = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        sides = [audio, *(audio.T if audio.ndim > 1 else ())]  # mean of the channels, then each channel
        guides = [Chunks.spectrum(side, *context, exponent) for side in sides]
        stages, voice = [DatasetCreator.log_mel(DatasetCreator.mel_power(guides[0]), reference)], None
        if render:
            image, voice = render(*context)
            stages.append(image)
        for model in models[len(stages) - 1:]:
            stages.append(model.generate(*stages[::-1]))
        chunk = Inversion.invert_chunk(stages, guides, voice, inversion, models[-1].device)
        chunk = chunk.T if audio.ndim > 1 else chunk[0]
        Chunks.add_faded(output, chunk, context[0], first, last)
        Util.release_memory()
        pictures = pictures or [stage[:, :last] for stage in stages]
    return output[:len(audio)], pictures


def match_rms(recording, audio, share=1):
    """Scale `audio` in place to `share` of the power of `recording`, or to the peak `hp.peak` if softer; return it."""
    peak = max(audio.max(), -audio.min())
    if peak == 0:
        return audio
    exponent = Util.level_exponent(recording)
    louder = np.ldexp(float(Chunks.norm(recording, exponent) / Chunks.norm(audio)), exponent) * share ** 0.5
    audio *= np.float32(min(louder, hp.peak / peak))
    return audio


def recording_page(name, versions, notes=None):
    """Return the HTML page of one recording: see `Page.render_page`.

    Parameters
    ----------
    name : str
        Name of the recording.
    versions : dict of str -> np.ndarray [shape=(n,) or (n, 2)]
        Name and audio of each version. The page explains the versions in `version_remarks`.
    notes : np.ndarray [shape=(m, 4)], optional
        Notes to show on the page.
    """
    shown = [(version, version_remarks.get(version, ""), audio, whole_spectrogram(audio))
             for version, audio in versions.items()]
    return Page.render_page(name, [Page.make_piece("", shown, notes=notes)],
                            "<p>A piano recording, and the same performance on an electric piano. A program listened "
                            "to the recording and played it again.</p>")


def make_versions(recording, models, inversion=None, stereo=False, tune=None, compare=()):
    """Return the arguments of `recording_page`: name, versions, and notes or None. Raises as `read_recording`.

    `compare` holds names of other models, such as "report", whose results are more versions.
    """
    audio = read_recording(recording, stereo)
    notes = transcribe_if_possible(audio, models, recording)
    sounds = audio, *(resynthesise(audio, part, inversion, notes, tune)[0] for part in (models[:1], models))
    versions = {**dict(zip(version_remarks, sounds)), **results_of(compare, audio, inversion, tune)}
    return Path(recording).stem, versions, notes


def results_of(models, audio, inversion=None, tune=None, device="auto"):
    """Return the results of the models with these names for a recording: a dict from name to audio."""
    return {name: resynthesise(audio, load_models(*find_weights(name), device), inversion, tune=tune)[0]
            for name in models}


def transcribe_if_possible(audio, models, name):
    """Transcribe a recording [shape=(n,) or (n, channels)]. Return None if the autoencoder has no notes.

    A recording that may not be of a piano causes a warning with its name."""
    if not isinstance(models[0], NoteModel):
        return None
    notes = transcribe_audio(audio, models[0])
    doubt = Transcription.doubt_piano(audio, notes)
    if doubt:
        Util.warn(f"{name}: {doubt}; is this a piano?")
    return notes


def render_notes(preset, notes, path, audio, tune=None):
    """Render notes with a preset of a SoundFont, write them to `path` and return the audio [shape=(n,)].

    Length, level and tuning are those of the recording `audio`. `tune` sets another tuning: see `pipeline`. Raises
    the errors of `MIDI2Audio.synthesise_midi_to_audio`."""
    import MIDI2Audio

    length, factor = len(audio), tune / 440 if tune else Tuning.pitch_factor(audio)
    with tempfile.TemporaryDirectory() as folder:
        midi, rendered = Path(folder) / "notes.mid", Path(folder) / "rendered.wav"
        Notes.save_notes(midi, notes)
        MIDI2Audio.synthesise_midi_to_audio(midi, rendered, *preset, limit_s=length / hp.sample_rate,
                                            detune=1200 * float(np.log2(factor)))
        played = Util.read_audio(rendered)[:length]
    mean = audio if audio.ndim == 1 else audio.mean(axis=1)
    played = match_rms(mean, np.pad(played, (0, length - played.size)))
    Util.write_audio(path, played, Recordings.comment)
    return played


def convert(recording, path, models, options):
    """Convert a recording, write the audio to `path` and other outputs beside it, and return a line that lists them."""
    started = time.monotonic()
    audio = read_recording(recording, options.stereo)
    if options.stereo and audio.ndim == 1:
        Util.warn(f"{recording} has one channel to keep, and so has the output")
    notes = transcribe_if_possible(audio, models, recording)
    output, pictures = resynthesise(audio, models, options.inversion, notes, options.tune)
    Util.write_audio(path, output, Recordings.comment)
    # the picture of cover.wav is cover_epiano.png, since a user's file may be named cover.png
    own = f"{path.stem.removesuffix('_epiano')}_epiano"
    picture, midi, page = (path.with_name(own + ending) for ending in (".png", ".mid", ".html"))
    beside, versions = [f"its picture {picture.name}"], {}
    if options.midi:
        Notes.save_notes(midi, notes)
        beside.append(f"the notes {midi.name}")
    if options.page:
        draft = resynthesise(audio, models[:1], options.inversion, notes, options.tune)[0]
        versions = dict(zip(version_remarks, (audio, draft, output)))
        compared = [options.compare] if options.compare else []
        versions |= results_of(compared, audio, options.inversion, options.tune, options.device)
    if options.play and not len(notes):
        beside.append("no notes, since none were found")
    elif options.play:
        other = path.with_name(f"{own}_played{path.suffix}")
        name = f"{Path(options.play[0]).stem} {options.play[1]}:{options.play[2]}"
        versions[name] = render_notes(options.play, notes, other, audio, options.tune)
        beside.append(f"the notes on {options.play[0]} {other.name}")
    if options.page:
        Util.save_text(page, recording_page(recording.stem, versions, notes))
        beside.append(f"the page {page.name}")
    Plots.save_figure(picture, Plots.plot_spectrograms(dict(zip(stage_names, pictures)), recording.name))
    beside = beside[0] if len(beside) == 1 else ", ".join(beside[:-1]) + " and " + beside[-1]
    return (f"{path} and {beside}: {len(audio) / hp.sample_rate:.1f} s in {time.monotonic() - started:.1f} s"
            f"{Tuning.describe(audio)}")


def make_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Convert piano recordings to an electric piano. Write an audio file, <name>_epiano.wav, and a "
        "picture of the spectrograms, <name>_epiano.png, per recording.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", default=[hp.demo],
                        help="audio or video file, or folder of them (default: the demo recording)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT",
                        help="output file, .wav, .flac, .ogg or .mp3, or output folder (default: <name>_epiano.wav in "
                        "the working folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace output files that Main.py did not write")
    parser.add_argument("--page", action="store_true",
                        help="also write <name>_epiano.html, a page for listening that needs no network")
    parser.add_argument("--compare", metavar="MODEL",
                        help="with --page: also show the result of another model on the page, such as 'report'")
    parser.add_argument("--stereo", action="store_true", help="keep the two channels of a stereo recording")
    parser.add_argument("--tune", type=float, metavar="HZ",
                        help="tuning of the output: frequency in Hz of the A above middle C, such as 440 (default: "
                        "tuning of the recording)")
    parser.add_argument("--midi", action="store_true", help="also write the transcribed notes, <name>_epiano.mid")
    parser.add_argument("--play", metavar="FILE.sf2:BANK:PROGRAM",
                        help="also render the notes on a preset of a SoundFont with FluidSynth, "
                        "<name>_epiano_played.wav")
    parser.add_argument("--model",
                        help="name of a model in data/models, such as 'report' for the 2020 report's networks, or "
                        "'shipped' (default: 'own' if trained, else 'shipped')")
    parser.add_argument("--ae", type=Path, metavar="FILE",
                        help="weights of the autoencoder, instead of those of the model")
    parser.add_argument("--unet", type=Path, metavar="FILE",
                        help="weights of the U-Net, instead of those of the model")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first that is available)")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion,
                        help="method from spectrogram to audio; 'report' is the slower method of the 2020 report "
                        "(default: %(default)s)")
    return parser


def main(arguments=None):
    """Run the command line. `arguments` replaces those of the process."""
    options = make_parser().parse_args(arguments)
    if options.stereo and options.inversion == "report":
        raise ValueError("--inversion report has no stereo; leave out --inversion or --stereo")
    Tuning.check_tune(options.tune)
    if options.compare and not options.page:
        raise ValueError("--compare adds a version to the page; add --page")
    found = Recordings.find_recordings(options.recordings)
    paths = Recordings.output_paths(found, options.output, options.overwrite)
    chosen = choose_weights(options.model, options.ae, options.unet)
    models = load_models(*chosen, options.device)
    if options.compare:
        load_models(*find_weights(options.compare), options.device)  # tried before the work
    if (options.midi or options.play) and not isinstance(models[0], NoteModel):
        raise ValueError(f"{chosen[0]} is an autoencoder without notes, as --report trains it; leave out "
                         f"{'--midi' if options.midi else '--play'}, or choose another --model")
    if options.play:
        import MIDI2Audio

        options.play = MIDI2Audio.parse_preset(options.play)
        MIDI2Audio.check_preset(options.play)
    if chosen != (hp.ae_weights, hp.unet_weights):
        print(f"weights: {chosen[0]} and {chosen[1]}")
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
