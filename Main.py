"""Convert a piano recording to the same performance on an electric piano.

`python Main.py recording.wav` writes recording_epiano.wav and a picture, recording_epiano.png. With --page it also
writes an HTML page for listening. In Python: `audio = Main.pipeline("recording.wav")`.
"""
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Util
from AEModel import NoteModel, choose_weights, describe_model, find_weights, load_models
from audio import audio_files, chunking, concert_pitch, loudness, mel_inversion
from audio.input_recordings import read_input, read_recording
from notes import note_events, transcription
from notes.transcription import transcribe_audio, transcribe_in_tune
from outputs import conversion, marks, output_files, plots, result_page
from rendering import soundfonts


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
        Method from spectrogram to audio, "kl" or "report": see `mel_inversion.invert`.
    sample_rate : float, optional
        Sample rate of an array in Hz.
    stereo : bool
        Keep the two channels of a stereo recording.
    tune : float, optional
        Frequency in Hz of the A above middle C in the output, such as 440. The default is that of the recording.

    Returns
    -------
    np.ndarray [shape=(n,), float32], or [shape=(n, 2), float32] for a stereo recording with `stereo`
        Audio at 22,050 Hz in [-1, 1], as long and as loud as the recording.

    Raises
    ------
    FileNotFoundError, ValueError
        If the recording or the weights are missing, damaged or do not fit together, if the recording is silent, if an
        array has no sample rate, or if `tune` is outside `hp.tune_hertz`.

    Examples
    --------
    >>> import soundfile
    >>> audio, sample_rate = soundfile.read("data/demo/mozart_rondo_alla_turca.wav")
    >>> pipeline(audio, sample_rate=sample_rate).shape
    (661500,)
    """
    concert_pitch.check_tune(tune)
    audio = read_input(recording, sample_rate, stereo)
    models = load_models(*choose_weights(model, ae, unet), device)
    notes = transcribe_if_possible(audio, models, recording if isinstance(recording, (str, Path)) else "the array")
    return resynthesise(audio, models, inversion, notes, tune)[0]


def resynthesise(audio, models, inversion=None, notes=None, tune=None):
    """Convert a recording to the electric piano with loaded models: tuning, chunks, autoencoder, U-Net, inversion.

    `audio` [shape=(n,) or (n, channels), float32] is at `hp.sample_rate` and not silent. `models` are the autoencoder
    and the U-Net, or the autoencoder alone. `notes` [shape=(n, 4)] are for a `NoteModel`, by default the output of
    `transcribe_audio`. See `pipeline` for `inversion` and `tune`. Returns audio of the same shape, as loud as the
    recording, or softer if the notes explain too little of it, and the log-mel spectrograms [shape=(n_mels, t), in
    [0, 1]] of the first chunk: input, then the output of each model.
    """
    factor, share = concert_pitch.pitch_factor(audio), 1
    in_tune = concert_pitch.to_concert_pitch(audio, factor)  # the networks know pianos in A 440
    exponent, frames = audio_files.level_exponent(in_tune), chunking.n_frames(in_tune)
    inversion = inversion or hp.inversion
    parts = chunking.chunks(frames, 1 if inversion == "report" else 0)  # one: the report begins with random phase
    if isinstance(models[0], NoteModel):
        notes = transcribe_in_tune(in_tune, models[0]) if notes is None else notes * np.float32([factor, factor, 1, 1])
        share = transcription.explained_share(in_tune, notes)
        render = models[0].note_renderer(notes, parts)  # the latent is that of the whole recording
    reference = chunking.loudest_mel_power(in_tune, exponent, parts)
    output, first_stages = np.zeros(((frames - 1) * hp.hop_length, *audio.shape[1:]), np.float32), None
    for first, last in chunking.track(parts, "resynthesis"):
        start, end = max(first - hp.context_frames, 0), min(last + hp.context_frames, frames)
        guides = chunking.channel_spectra(in_tune, start, end, exponent)
        stages, voice = [DatasetCreator.log_mel(DatasetCreator.mel_power(guides[0]), reference)], None
        for model in models:
            if isinstance(model, NoteModel):
                image, voice = render(start, end)
            else:
                image = model.generate(*stages[::-1])
            stages.append(image)
        chunk = mel_inversion.invert_chunk(stages, guides, voice, inversion, models[-1].device)
        chunking.add_faded(output, chunk, start, first, last)
        first_stages = first_stages or [image[:, :last] for image in stages]
        chunking.release_memory()
    output = output[:len(in_tune)]
    del in_tune  # a long recording needs its memory
    output = concert_pitch.from_concert_pitch(output, factor, len(audio), tune)
    share = share if share < transcription.explained_min_share else 1
    return loudness.match_rms(audio, output, share), first_stages


def transcribe(recording, model=None, ae=None, unet=None, device="auto", sample_rate=None):
    """Transcribe a piano recording to notes. The parameters are those of `pipeline`. Returns onset and offset in
    seconds, MIDI key and velocity from 1 to 127 of each note [shape=(n, 4), float32], sorted by onset. Raises the
    errors of `pipeline`, and ValueError if the model is the report's autoencoder."""
    audio, paths = read_input(recording, sample_rate), choose_weights(model, ae, unet)
    models = load_models(*paths, device)
    check_notes(models, paths, "choose another model")
    return transcribe_audio(audio, models[0])


def check_notes(models, paths, advice):
    """Raise ValueError if the autoencoder of `models`, loaded from `paths`, has no notes."""
    if not isinstance(models[0], NoteModel):
        raise ValueError(f"{paths[0]} is an autoencoder without notes, as --report trains it; {advice}")


def transcribe_if_possible(audio, models, name):
    """Transcribe a recording [shape=(n,) or (n, channels)]. Return None if the autoencoder has no notes. A recording
    that may not be of a piano causes a warning with its name. If the model is not the shipped one, the warning advises
    to try that first."""
    if not isinstance(models[0], NoteModel):
        return None
    notes = transcribe_audio(audio, models[0])
    doubt = transcription.doubt_piano(audio, notes)
    if doubt:
        paths = [model.path for model in models]
        advice = "" if paths[0] in (None, hp.ae_weights) else (
            f"try the model 'shipped' first, since this one is {describe_model(*paths)}; ")
        Util.warn(f"{name}: {doubt}; {advice}is this a piano?")
    return notes


def announce_model(chosen, by_default):
    """Print the name of a model if it is not the shipped one, and why "own" is not the default if it is not."""
    own, shipped = find_weights("own"), find_weights("shipped")
    if chosen != shipped:
        print(f"model: {describe_model(*chosen)}; --model shipped for the shipped one")
    elif by_default and all(path.exists() for path in own):
        print(f"model: shipped, not {describe_model(*own)}, which is too few; --model own for that")


def make_versions(audio, models, notes, result=None, inversion=None, tune=None, compare=None, device="auto"):
    """Return {name: audio} for `result_page.recording_page`: recording, draft, result, that of the model `compare`."""
    result = resynthesise(audio, models, inversion, notes, tune)[0] if result is None else result
    draft = resynthesise(audio, models[:1], inversion, notes, tune)[0]
    versions = dict(zip(result_page.version_names(models[0].pair), (audio, draft, result)))
    if compare:
        other = load_models(*find_weights(compare), device)
        versions[compare] = resynthesise(audio, other, inversion, tune=tune)[0]
    return versions


def convert(recording, files, models, options):
    """Convert a recording, write `files`, see `output_files.name_files`, and return a line that lists them."""
    started = time.monotonic()
    audio = read_recording(recording, options.stereo)
    if options.stereo and audio.ndim == 1:
        Util.warn(f"{recording} has one channel to keep, and so has the output")
    notes = transcribe_if_possible(audio, models, recording)
    result, stages = resynthesise(audio, models, options.inversion, notes, options.tune)
    mark = marks.make_mark(Util.file_digest(recording))
    audio_files.write_audio(files["audio"], result, mark)
    if options.midi:
        note_events.save_notes(files["midi"], notes, mark)
    versions = {}
    if options.page:
        versions = make_versions(audio, models, notes, result, options.inversion, options.tune, options.compare,
                                 options.device)
    if options.play and len(notes):
        name = f"{Path(options.play[0]).stem} {options.play[1]}:{options.play[2]}"
        versions[name] = conversion.save_played(files["played"], notes, options.play, audio, options.tune, mark)
    if options.page:
        page = result_page.recording_page(recording.stem, versions, notes, models[0].pair)
        result_page.save_page(files["page"], page, mark)
    plots.save_figure(files["picture"], plots.plot_stages(stages, recording.name), mark)
    return (f"{conversion.list_files(files, notes, options.play)}: {len(audio) / hp.sample_rate:.1f} s in "
            f"{time.monotonic() - started:.1f} s{concert_pitch.describe(audio)}")


def main(arguments=None):
    """Run the command line. `arguments` replaces those of the process."""
    options = conversion.make_parser().parse_args(arguments)
    conversion.check_options(options)
    found = output_files.find_recordings(options.recordings)
    chosen = choose_weights(options.model, options.ae, options.unet)
    models = load_models(*chosen, options.device)
    instrument = soundfonts.instrument_names(models[0].pair)[1]
    outputs = [output_files.name_files(path, options.midi, options.page, options.play)
               for path in output_files.output_paths(found, instrument, options.output)]
    output_files.check_outputs(found, outputs, options.overwrite)
    if options.compare:
        load_models(*find_weights(options.compare), options.device)  # tried before the work
    if options.midi or options.play:
        check_notes(models, chosen, f"leave out {'--midi' if options.midi else '--play'}, or choose another --model")
    options.play = options.play and conversion.read_preset(options.play)
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
