"""Convert a piano recording to the same performance on an electric piano.

`python Main.py recording.wav` writes recording_epiano.wav and a picture, recording_epiano.png. With --page it also
writes an HTML page for listening. In Python: `audio = Main.pipeline("recording.wav")`. `python Main.py notes.mid` plays
a MIDI file on the electric piano.
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
from AEModel import NoteModel, choose_weights, describe_model, find_weights, load_models, target_instrument
from audio import audio_files, chunking, concert_pitch, loudness, mel_inversion
from audio.input_recordings import read_input, read_recording
from notes import given_notes, note_events, player, studio_voice, transcription
from notes.transcription import transcribe_audio, transcribe_in_tune
from outputs import conversion, output_files, plots, result_page
from rendering import soundfonts


def pipeline(recording, model=None, ae=None, unet=None, device="auto", inversion=None, sample_rate=None,
             stereo=False, tune=None, notes=None, level="recorded"):
    """Convert a piano recording to the electric piano.

    Parameters
    ----------
    recording : str or Path, or np.ndarray [shape=(n,) or (n, channels)]
        Audio or video file that libsndfile or FFmpeg reads, of any sample rate and length. Or an array of samples, in
        [-1, 1] or integers as in a wav file. Channels are mixed.
    model, ae, unet : str or Path, optional
        Name of the trained model: see `find_weights`. Or `ae`, `unet`, the paths of the weights of its networks.
    device : "auto", "cuda", "mps" or "cpu"
    inversion : str
        Method from spectrogram to audio, "kl" or "report": see `mel_inversion.invert`.
    sample_rate : float, optional
        Sample rate of an array in Hz.
    stereo : bool
        Keep the two channels of a stereo recording.
    tune : float, optional
        Frequency in Hz of the A above middle C in the output, such as 440. The default is that of the recording.
    notes : str or Path, or np.ndarray [shape=(m, 4)], optional
        Notes to play instead of the transcribed ones: a MIDI file, or an array as `transcribe` returns it.
    level : str
        "recorded": as loud as the recording. "peak": the loudest sample is at `hp.peak`.

    Returns
    -------
    np.ndarray [shape=(n,), float32], or [shape=(n, 2), float32] for a stereo recording with `stereo`
        Audio at 22,050 Hz in [-1, 1], as long as the recording.

    Raises
    ------
    FileNotFoundError, ValueError
        If recording, weights or notes are missing, damaged or do not fit together, or another value is not as above.

    Examples
    --------
    >>> pipeline("data/demo/mozart_rondo_alla_turca.wav").shape
    (661500,)
    """
    concert_pitch.check_tune(tune)
    loudness.check_level(level)
    audio, paths = read_input(recording, sample_rate, stereo), choose_weights(model, ae, unet)
    models, heard, corrected = load_models(*paths, device), None, None
    if notes is None:
        heard = transcribe_if_possible(audio, models, recording if isinstance(recording, (str, Path)) else "the array")
    else:
        check_notes(models, paths, "leave out notes, or choose another model")
        corrected = given_notes.read_given(notes, len(audio) / hp.sample_rate)
    return resynthesise(audio, models, inversion, heard, tune, corrected, level)[0]


def resynthesise(audio, models, inversion=None, notes=None, tune=None, corrected=None, level="recorded"):
    """Convert a recording to the electric piano with loaded models: tuning, chunks, autoencoder, U-Net, inversion.

    `audio` [shape=(n,) or (n, channels), float32] is at `hp.sample_rate` and not silent. `models` are the autoencoder
    and the U-Net, or the autoencoder alone. `notes` [shape=(n, 4 or 5)] are for a `NoteModel`, by default the output of
    `transcribe_audio`. `corrected` [shape=(m, 4)] are played instead of them. A note that is in both keeps its level.
    See `pipeline` for `inversion`, `tune` and `level`. Returns audio of the same shape, as loud as the recording, or
    softer if the notes explain too little of it, and the log-mel spectrograms [shape=(n_mels, t), in [0, 1]] of the
    first chunk: input, then the output of each model.
    """
    factor, share = concert_pitch.pitch_factor(audio), 1
    in_tune = concert_pitch.to_concert_pitch(audio, factor)  # the networks know pianos in A 440
    exponent, frames = audio_files.level_exponent(in_tune), chunking.n_frames(in_tune)
    inversion = inversion or hp.inversion
    parts = chunking.chunks(frames, 1 if inversion == "report" else 0)  # one: the report begins with random phase
    if isinstance(models[0], NoteModel):
        notes = transcribe_in_tune(in_tune, models[0]) if notes is None else note_events.scale_times(notes, factor)
        played = notes if corrected is None else note_events.scale_times(corrected, factor)
        notes = notes if len(notes) else played
        share = transcription.explained_share(in_tune, notes)
        share = share if share < transcription.explained_min_share else 1
        if corrected is not None:
            share *= models[0].power(played, parts) / models[0].power(notes, parts)
        render = models[0].note_renderer(played, parts, notes)  # the latent is that of the whole recording
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
    return loudness.match_level(audio, output, share, level), first_stages


def transcribe(recording, model=None, ae=None, unet=None, device="auto", sample_rate=None, certainty=False):
    """Transcribe a piano recording to notes. The parameters are those of `pipeline`. Returns onset and offset in
    seconds, MIDI key and velocity from 1 to 127 of each note [shape=(n, 4), float32], sorted by onset. With
    `certainty`, a fifth column has the probability that the note was played. Raises the errors of `pipeline`, and
    ValueError if the model is the report's autoencoder."""
    audio, paths = read_input(recording, sample_rate), choose_weights(model, ae, unet)
    models = load_models(*paths, device)
    check_notes(models, paths, "choose another model")
    return transcribe_audio(audio, models[0], certainty)


def check_notes(models, paths, advice):
    """Raise ValueError if the autoencoder of `models`, loaded from `paths`, has no notes."""
    if not isinstance(models[0], NoteModel):
        raise ValueError(f"{paths[0]} is an autoencoder without notes, as --report trains it; {advice}")


def transcribe_if_possible(audio, models, name):
    """Transcribe a recording [shape=(n,) or (n, channels)], with certainty: see `transcribe`. Return None if the
    autoencoder has no notes. A recording that may not be of a piano causes a warning with its name. If the model is not
    the shipped one, the warning advises to try that first."""
    if not isinstance(models[0], NoteModel):
        return None
    notes = transcribe_audio(audio, models[0], certainty=True)
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


def make_versions(audio, models, notes, result=None, compare=None, device="auto", **how):
    """Return {name: audio} for `result_page.recording_page`: recording, draft, result, that of the model `compare`.
    `notes` are those of `transcribe_if_possible`, and `how` other parameters of `resynthesise`."""
    result = resynthesise(audio, models, notes=notes, **how)[0] if result is None else result
    draft = resynthesise(audio, models[:1], notes=notes, **how)[0]
    versions = dict(zip(result_page.version_names(models[0].pair), (audio, draft, result)))
    if compare:
        versions[compare] = resynthesise(audio, load_models(*find_weights(compare), device), **how)[0]
    return versions


def convert_recording(recording, models, options):
    """Convert a recording with the `options` of the command line. Return a `conversion.Result`."""
    audio, corrected = read_recording(recording, options.stereo), None
    if options.stereo and audio.ndim == 1:
        Util.warn(f"{recording} has one channel to keep, and so has the output")
    if options.notes:
        corrected = given_notes.read_given(options.notes, len(audio) / hp.sample_rate)
    notes = transcribe_audio(audio, models[0]) if options.notes else transcribe_if_possible(audio, models, recording)
    how = dict(inversion=options.inversion, tune=options.tune, corrected=corrected, level=options.level)
    result, stages = resynthesise(audio, models, notes=notes, **how)
    versions = make_versions(audio, models, notes, result, options.compare, options.device,
                             **how) if options.page else {}
    factor = options.tune / 440 if options.tune else concert_pitch.pitch_factor(audio)
    remark = f"; played from {options.notes}" if options.notes else ""
    return conversion.Result(result, notes if corrected is None else corrected, versions, factor,
                             lambda: plots.plot_stages(stages, recording.name), remark + concert_pitch.describe(audio))


def play_midi(path, models, options):
    """Play a MIDI file on the instrument of a model, without a recording. Return a `conversion.Result`."""
    (notes, seconds), factor = given_notes.read_piece(path), (options.tune or 440) / 440
    audio = player.play_notes(notes, models[0], seconds, factor)
    audio, name = loudness.match_level(audio, audio, level="peak"), result_page.version_names(models[0].pair)[-1]
    return conversion.Result(
        audio, notes, {name: audio}, factor, lambda: plots.plot_spectrograms(
            {name: chunking.whole_spectrogram(audio[:hp.limit_s * hp.sample_rate])}, path.name),
        "; played from the notes, without a recording and without the U-Net")


def convert(source, files, models, options):
    """Convert a recording, or play a MIDI file, and write `files`: see `output_files.name_files`. Return a line that
    lists them."""
    started, work = time.monotonic(), play_midi if given_notes.is_midi(source) else convert_recording
    result = work(source, models, options)
    conversion.save_result(result, source, files, models[0].pair, options)
    seconds, needed = len(result.audio) / hp.sample_rate, time.monotonic() - started
    said = conversion.list_files(files, result.notes, options.play)
    return f"{said}: {seconds:.1f} s in {needed:.1f} s{result.remark}"


def check_models(models, paths, found, options):
    """Check before any work that loaded models, of `paths`, can do what the options ask for, and replace the names of
    preset, model and sounds in the options by what they name. `found` are the recordings and MIDI files."""
    midi = [path for path, _ in found if given_notes.is_midi(path)]
    flags = [flag for flag in ("midi", "play", "notes", "studio") if getattr(options, flag)]
    if midi or flags:
        check_notes(models, paths, f"leave out {f'--{flags[0]}' if flags else midi[0]}, or choose another --model")
    if options.notes and (midi or len(found) > 1):
        raise ValueError("--notes belongs to one recording; give one, or leave --notes out")
    for flag in ("compare", "stereo"):
        if midi and getattr(options, flag):
            raise ValueError(f"{midi[0]} has no recording for --{flag}; leave --{flag} out")
    if options.compare:
        load_models(*find_weights(options.compare), options.device)  # tried before the work
    options.play = options.play and conversion.read_preset(options.play)
    options.studio = options.studio and studio_voice.load(paths[0], target_instrument(models[0].pair))


def main(arguments=None):
    """Run the command line. `arguments` replaces those of the process."""
    options = conversion.make_parser().parse_args(arguments)
    conversion.check_options(options)
    found = output_files.find_recordings(options.recordings)
    chosen = choose_weights(options.model, options.ae, options.unet)
    models = load_models(*chosen, options.device)
    instrument = soundfonts.instrument_names(models[0].pair)[1]
    outputs = [output_files.name_files(path, options.midi, options.page, options.play, options.studio)
               for path in output_files.output_paths(found, instrument, options.output)]
    output_files.check_outputs(found, outputs, options.overwrite, [options.notes] if options.notes else [])
    check_models(models, chosen, found, options)
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
