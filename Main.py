"""Convert a piano recording to the same performance on an electric piano.

`python Main.py recording.wav` writes recording_epiano.wav and a picture, recording_epiano.png. With --page it also
writes an HTML page for listening. In Python: `audio = Main.pipeline("recording.wav")`.
"""
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import argparse
import functools
import html
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Chunks
import DatasetCreator
import Hyperparameters as hp
import Inversion
import Marks
import Notes
import Page
import Plots
import Presets
import Recordings
import Transcription
import Tuning
import Util
from AEModel import NoteModel, digest, load_model, training_pieces
from Autoencoder import Autoencoder
from Chunks import whole_spectrogram
from Recordings import read_input, read_recording
from Transcription import transcribe_audio, transcribe_in_tune
from UNet import UNet

# name and explanation of each version of a recording on its HTML page
version_remarks = {"Recording": "as it was recorded", "Draft": "the result before the last correction",
                   "report": "the result of the 2020 report's networks"}
stage_names = ("recording", "after the autoencoder", "after the U-Net: the result")


def find_weights(model=None):
    """Return the paths of the weights of an autoencoder and its U-Net.

    `model` is the name of a folder in data/models, or "shipped". None selects "own", the default of the training, if
    both files exist and name no fewer than `hp.few_pieces` training pieces, else "shipped".
    """
    folder = hp.models / Util.check_model_name(model or "own")
    own = folder / "ae.torch", folder / "unet.torch"
    if model == "shipped" or (model is None and not (all(path.exists() for path in own) and has_enough_pieces(own))):
        return hp.ae_weights, hp.unet_weights
    return own


def has_enough_pieces(paths):
    """Return whether weights were trained on `hp.few_pieces` pieces or more, or do not name the number."""
    pieces = training_pieces(*paths)
    return pieces is None or pieces >= hp.few_pieces


def describe_model(ae, unet):
    """Return the name of a model and its number of training pieces, as in "own, trained on 8 pieces"."""
    ae, unet = Path(ae), Path(unet)
    pieces, folder = training_pieces(ae, unet), hp.models / ae.parent.name
    if (ae, unet) == find_weights("shipped"):
        name = "shipped"
    else:
        name = folder.name if (ae, unet) == (folder / "ae.torch", folder / "unet.torch") else f"{ae} and {unet}"
    return name + (f", trained on {pieces} piece{'s' * (pieces != 1)}" if pieces is not None else "")


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


def recording_page(name, versions, notes=None, pair=None):
    """Return the HTML page of one recording: see `Page.render_page`.

    Parameters
    ----------
    name : str
        Name of the recording.
    versions : dict of str -> np.ndarray [shape=(n,) or (n, 2)]
        Name and audio of each version. The page explains the versions in `version_remarks`.
    notes : np.ndarray [shape=(m, 4)], optional
        Notes to show on the page.
    pair : str, optional
        Instruments of the weights: see `Presets.instrument_names`.
    """
    source, target = Presets.instrument_names(pair)
    remarks = {**version_remarks, capitalised(target): "the result"}
    shown = [(version, remarks.get(version, ""), audio, whole_spectrogram(audio))
             for version, audio in versions.items()]
    return Page.render_page(name, [Page.make_piece("", shown, notes=notes)],
                            f"<p>From {html.escape(source)} to {html.escape(target)}: a recording, and the same "
                            "performance on the other instrument. A program listened to the recording and played it "
                            "again.</p>")


def capitalised(name):
    """Return a name with a capital at its beginning."""
    return name[:1].upper() + name[1:]


def name_versions(models, *sounds):
    """Return a dict from name to audio of a recording, the draft and the result: see `recording_page`."""
    return dict(zip(("Recording", "Draft", capitalised(Presets.instrument_names(models[0].pair)[1])), sounds))


def make_versions(recording, models, inversion=None, stereo=False, tune=None, compare=()):
    """Return the arguments of `recording_page`: name, versions, notes or None, pair. Raises as `read_recording`.

    `compare` holds names of other models, such as "report", whose results are more versions.
    """
    audio = read_recording(recording, stereo)
    notes = transcribe_if_possible(audio, models, recording)
    sounds = audio, *(resynthesise(audio, part, inversion, notes, tune)[0] for part in (models[:1], models))
    versions = {**name_versions(models, *sounds), **results_of(compare, audio, inversion, tune)}
    return Path(recording).stem, versions, notes, models[0].pair


def results_of(models, audio, inversion=None, tune=None, device="auto"):
    """Return the results of the models with these names for a recording: a dict from name to audio."""
    return {name: resynthesise(audio, load_models(*find_weights(name), device), inversion, tune=tune)[0]
            for name in models}


def transcribe_if_possible(audio, models, name):
    """Transcribe a recording [shape=(n,) or (n, channels)]. Return None if the autoencoder has no notes.

    A recording that may not be of a piano causes a warning with its name. If the model is not the shipped one, the
    warning advises to try that first."""
    if not isinstance(models[0], NoteModel):
        return None
    notes = transcribe_audio(audio, models[0])
    doubt = Transcription.doubt_piano(audio, notes)
    if doubt:
        paths = [model.path for model in models]
        advice = "" if paths[0] in (None, hp.ae_weights) else (
            f"try the model 'shipped' first, since this one is {describe_model(*paths)}; ")
        Util.warn(f"{name}: {doubt}; {advice}is this a piano?")
    return notes


def render_notes(preset, notes, path, mark, audio, tune=None):
    """Render notes with a preset of a SoundFont, write them to `path` with `mark`, and return the audio [shape=(n,)].

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
    Util.write_audio(path, played, mark)
    return played


def convert(recording, files, models, options):
    """Convert a recording, write `files`, see `Recordings.output_files`, and return a line that lists them."""
    started = time.monotonic()
    audio = read_recording(recording, options.stereo)
    if options.stereo and audio.ndim == 1:
        Util.warn(f"{recording} has one channel to keep, and so has the output")
    notes = transcribe_if_possible(audio, models, recording)
    output, pictures = resynthesise(audio, models, options.inversion, notes, options.tune)
    mark = Marks.make_mark(recording)
    Util.write_audio(files["audio"], output, mark)
    beside, versions = [f"its picture {files['picture'].name}"], {}
    if options.midi:
        Notes.save_notes(files["midi"], notes, mark)
        beside.append(f"the notes {files['midi'].name}")
    if options.page:
        draft = resynthesise(audio, models[:1], options.inversion, notes, options.tune)[0]
        versions = name_versions(models, audio, draft, output)
        compared = [options.compare] if options.compare else []
        versions |= results_of(compared, audio, options.inversion, options.tune, options.device)
    if options.play and not len(notes):
        beside.append("no notes, since none were found")
    elif options.play:
        name = f"{Path(options.play[0]).stem} {options.play[1]}:{options.play[2]}"
        versions[name] = render_notes(options.play, notes, files["played"], mark, audio, options.tune)
        beside.append(f"the notes on {options.play[0]} {files['played'].name}")
    if options.page:
        Page.save_page(files["page"], recording_page(recording.stem, versions, notes, models[0].pair), mark)
        beside.append(f"the page {files['page'].name}")
    figure = Plots.plot_spectrograms(dict(zip(stage_names, pictures)), recording.name)
    Plots.save_figure(files["picture"], figure, mark)
    beside = beside[0] if len(beside) == 1 else ", ".join(beside[:-1]) + " and " + beside[-1]
    return (f"{files['audio']} and {beside}: {len(audio) / hp.sample_rate:.1f} s in {time.monotonic() - started:.1f} s"
            f"{Tuning.describe(audio)}")


def make_parser():
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Convert piano recordings to an electric piano. Write an audio file, <name>_epiano.wav, and a "
        "picture of the spectrograms, <name>_epiano.png, per recording. A model of another instrument gives other "
        "names, such as <name>_vibraphone.wav.")
    parser.add_argument("recordings", nargs="*", type=Path, metavar="RECORDING", default=[hp.demo],
                        help="audio or video file, or folder of them (default: the demo recording)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT",
                        help="output file, .wav, .flac, .ogg or .mp3, or output folder (default: <name>_epiano.wav in "
                        "the working folder)")
    parser.add_argument("--overwrite", action="store_true",
                        help="also replace files that Main.py did not write, files that were edited since, and outputs "
                        "of other recordings")
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
                        f"'shipped' (default: 'own' if trained on at least {hp.few_pieces} pieces, else 'shipped')")
    parser.add_argument("--ae", type=Path, metavar="FILE",
                        help="weights of the autoencoder, instead of those of the model")
    parser.add_argument("--unet", type=Path, metavar="FILE",
                        help="weights of the U-Net, instead of those of the model")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first that is available)")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion,
                        help="method from spectrogram to audio; 'report' is the slower method of the 2020 report "
                        "(default: %(default)s)")
    return parser


def announce_model(chosen, by_default):
    """Print the name of a model if it is not the shipped one, and why "own" is not the default if it is not."""
    own, shipped = find_weights("own"), find_weights("shipped")
    if chosen != shipped:
        print(f"model: {describe_model(*chosen)}; --model shipped for the shipped one")
    elif by_default and all(path.exists() for path in own):
        print(f"model: shipped, not {describe_model(*own)}, which is too few; --model own for that")


def main(arguments=None):
    """Run the command line. `arguments` replaces those of the process."""
    options = make_parser().parse_args(arguments)
    if options.stereo and options.inversion == "report":
        raise ValueError("--inversion report has no stereo; leave out --inversion or --stereo")
    Tuning.check_tune(options.tune)
    if options.compare and not options.page:
        raise ValueError("--compare adds a version to the page; add --page")
    found = Recordings.find_recordings(options.recordings)
    chosen = choose_weights(options.model, options.ae, options.unet)
    models = load_models(*chosen, options.device)
    instrument = Presets.instrument_names(models[0].pair)[1]
    outputs = [Recordings.output_files(path, options.midi, options.page, options.play)
               for path in Recordings.output_paths(found, instrument, options.output)]
    Recordings.check_outputs(found, outputs, options.overwrite)
    if options.compare:
        load_models(*find_weights(options.compare), options.device)  # tried before the work
    if (options.midi or options.play) and not isinstance(models[0], NoteModel):
        raise ValueError(f"{chosen[0]} is an autoencoder without notes, as --report trains it; leave out "
                         f"{'--midi' if options.midi else '--play'}, or choose another --model")
    if options.play:
        import MIDI2Audio

        options.play = MIDI2Audio.parse_preset(options.play)
        MIDI2Audio.check_preset(options.play)
    announce_model(chosen, by_default=not (options.model or options.ae or options.unet))
    errors = []
    progress = tqdm(list(zip(found, outputs)), unit="recording", disable=len(found) < 2)
    for (recording, _), files in progress:
        try:
            said = convert(recording, files, models, options)
            progress.write(said) if len(found) > 1 else print(said)
        except (ValueError, FileNotFoundError) as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(errors))


if __name__ == "__main__":
    Util.run(main)
