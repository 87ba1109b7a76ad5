"""Small helpers that several scripts share: range mapping, files, audio in and out, plots, the page, command lines."""
import argparse
import base64
import contextlib
import html
import io
import os
import random
import shlex
import string
import sys
from pathlib import Path

import numpy as np
import soundfile

import Hyperparameters as hp

# how each kind of file that we write is encoded; of mp3 and ogg the quality, from 0, the best, to 1
written = {".wav": dict(subtype="PCM_16"), ".flac": dict(subtype="PCM_16"),
           ".ogg": dict(format="OGG", subtype="VORBIS", compression_level=0.2),
           ".mp3": dict(format="MP3", bitrate_mode="VARIABLE", compression_level=0.0)}
magma = bytes.fromhex("000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 "
                      "fea772 fec488 fde2a3 fcfdbf")  # matplotlib's colours, at every sixteenth of the range


def to_unit(db, top_db=hp.top_db):
    """Map dB in [-top_db, 0] to [0, 1]; what lies outside is clipped. The inverse is `to_db`."""
    return np.clip(db / top_db + 1, 0, 1)


def to_db(unit, top_db=hp.top_db):
    """Map [0, 1] back to dB in [-top_db, 0]."""
    return (unit - 1) * top_db


def mel_frequencies(number, fmin=hp.fmin, fmax=hp.fmax):
    """Return `number` frequencies in Hz from `fmin` to `fmax`, evenly spaced on Slaney's mel scale, as librosa has it.

    Linear up to 1 kHz, 15 mel, then 27 mel to a factor of 6.4.
    """
    def mel(hertz):
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    mels = np.linspace(mel(fmin), mel(fmax), number)
    return np.where(mels < 15, mels * (200 / 3), 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))


def split(names, seed=hp.seed, share=hp.validation_share):
    """Split piece names into (training, validation), the same for the same names and seed, in any order.

    A single piece serves as both; otherwise each side gets at least one. The takes of a piece, "piece~1" and so on,
    stay with it.
    """
    shuffled = sorted({name.partition("~")[0] for name in names})
    random.Random(seed).shuffle(shuffled)
    held_out = min(max(round(share * len(shuffled)), 1), len(shuffled) - 1)
    sides = (shuffled, shuffled) if len(shuffled) < 2 else (shuffled[held_out:], shuffled[:held_out])
    return tuple(sorted(name for name in names if name.partition("~")[0] in set(side)) for side in sides)


def pieces(folder, suffix):
    """Map piece name -> file for every file below `folder` whose ending is in `suffix`, whatever its case.

    The name is the path below `folder` without its ending, folders joined by "__", so that two files of one
    name in different folders stay apart. Raises FileNotFoundError if there are none, ValueError if two files
    would share a name.
    """
    folder = Path(folder)
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffix or path.name.startswith("."):
            continue
        name = "__".join(path.relative_to(folder).with_suffix("").parts)
        if name in found:
            raise ValueError(f"{found[name]} and {path} would both be the piece '{name}'; rename one of them")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{folder} holds no {' or '.join(suffix)} files; put some there (see data/README.md)")
    return found


def numbered(folder, name):
    """Names of the folders `name`_2, `name`_3 and so on in `folder`, in the order of their numbers."""
    found = [path.name for path in Path(folder).glob(f"{name}_*") if path.is_dir()
             and path.name[len(name) + 1:].isdecimal()]
    return sorted(found, key=lambda found: int(found[len(name) + 1:]))


def modified(paths):
    """Map each path that is there to when it was last written."""
    times = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime_ns
    return times


def remove(times):
    """Remove what `modified` has found, but for what another process has removed or written anew since."""
    for path, time in times.items():
        if modified([path]).get(path) == time:
            path.unlink(missing_ok=True)


def newer(path, *sources):
    """True if `path` exists and is not older than any of `sources`."""
    return path.exists() and all(path.stat().st_mtime >= source.stat().st_mtime for source in sources)


def unwritable(path, reason):
    """The OSError for a file that a full disk or a read-only folder does not take."""
    return OSError(f"{path} cannot be written ({reason}); free some space or choose another folder, and give the "
                   "command again")


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path` and rename it to `path` at the end, so no file is ever half-written.

    Raises `unwritable` in place of what fails in between.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error.strerror or error) from None
    except soundfile.LibsndfileError:  # which does not pass on what the system says
        raise unwritable(path, "no space left, or not allowed") from None


def save_text(path, text):
    """Write `text` to `path`, in UTF-8 on every system."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path):
    """Return the text of a file that `save_text` wrote. Raises ValueError if it is damaged."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8; restore or remove it") from None


def save_bytes(path, write):
    """Write to `path` what `write` puts into the binary file that it is called with.

    In one go: numpy, Pillow and torch each have errors of their own for a full disk.
    """
    buffer = io.BytesIO()
    write(buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def save_array(path, array):
    """Write a numpy array to `path` (.npy)."""
    save_bytes(path, lambda file: np.save(file, array))


def load_array(path, dtype, mmap_mode=None):
    """Read the array of two axes that `save_array` wrote. Raises ValueError if it is damaged, or of another type."""
    try:
        array = np.load(path, mmap_mode)
        if array.dtype != dtype or array.ndim != 2:
            raise ValueError("it holds something else")
    except OSError:
        raise
    except Exception:  # numpy raises a dozen kinds for a header that is none
        raise ValueError(f"{path} is damaged; remove it, and the same command makes it anew") from None
    return array


def read_audio(path, stereo=False):
    """Read a recording at `hp.sample_rate`, as mono unless `stereo` is set.

    Parameters
    ----------
    path : str or Path
        Any file that libsndfile reads (wav, flac, ogg, mp3), any rate, width and number of channels.

    Returns
    -------
    np.ndarray [shape=(n,)], float32
        The mean of the channels; n = duration * hp.sample_rate, rounded, at least 1. With `stereo` and two channels
        these, [shape=(n, 2)].

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is empty, not audio, holds no samples or infinite ones, claims a rate that no recording has, or with
        `stereo` has more than two channels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a recording")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file; record or export it again")
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            # block by block: all channels of a long recording need not fit in memory at once
            stereo = stereo and file.channels > 1
            if stereo and file.channels > 2:
                raise ValueError(f"{path} has {file.channels} channels; mix it to two, or leave --stereo out")
            blocks = [block if stereo else block.mean(axis=1)
                      for block in file.blocks(1 << 18, dtype="float32", always_2d=True)]
    except soundfile.LibsndfileError:
        command = shlex.join(["ffmpeg", "-i", path.name, path.stem + ".flac"])
        raise ValueError(f"{path} is not audio that libsndfile reads; convert it to wav, flac, ogg or mp3, for "
                         f"instance with {command}") from None
    audio = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not audio.size:
        raise ValueError(f"{path} has no samples; record or export it again")
    if not 1000 <= rate <= 1_000_000:  # a few seconds would become hours, or nothing
        raise ValueError(f"{path} claims a rate of {rate} Hz; export it again")
    audio = resample(audio, rate) if np.isfinite(audio).all() else audio
    if not np.isfinite(audio).all():
        raise ValueError(f"{path} holds samples that are not finite; export it again")
    return audio


def resample(audio, rate):
    """Bring audio [shape=(n,) or (n, channels), float32] from `rate` Hz to `hp.sample_rate`, as librosa does.

    It becomes n * hp.sample_rate / rate samples long, rounded, at least 1.
    """
    length = max(round(len(audio) * hp.sample_rate / rate), 1)
    if rate != hp.sample_rate:
        import soxr  # what librosa calls, which is slow to import

        audio = soxr.resample(audio, rate, hp.sample_rate, quality="HQ")[:length]
        audio = np.pad(audio, [(0, length - len(audio))] + [(0, 0)] * (audio.ndim - 1))
    return audio


def normalised(audio):
    """Return audio with its largest sample from 1/2 to 1, and the exponent of 2 by which it has been divided.

    Powers of samples at 1e30 or 1e-30 are beyond single precision. All others keep their bits but for the exponent.
    """
    _, exponent = np.frexp(max(audio.max(initial=0), -audio.min(initial=0)))
    return np.ldexp(audio, -exponent), int(exponent)


def read_notes(path, limit_s=hp.limit_s):
    """Read what a MIDI file plays on all channels but percussion.

    Parameters
    ----------
    path : str or Path
    limit_s : float
        Notes that begin later are left out, and others end there.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        Onset and end in seconds, MIDI key, velocity from 1 to 127, in the order of the onsets. A note ends with the
        pedal, and when its key is struck again.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not MIDI, or damaged.
    """
    import mido

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a MIDI file")
    sounding, held, notes, pedal, now = {}, {}, [], set(), 0.0  # sounding: (channel, key) -> onset, velocity

    def end(key, time):
        onset, velocity = sounding.pop(key)
        notes.append((onset, min(max(time, onset + 1e-3), limit_s), key[1], velocity))

    try:
        for message in mido.MidiFile(path, clip=True):
            now += message.time
            if getattr(message, "channel", 9) == 9:
                continue
            key = message.channel, getattr(message, "note", None)
            if message.type == "note_on" and message.velocity:
                if key in sounding:
                    end(key, now)
                held[key] = True
                sounding[key] = now, message.velocity
            elif message.type in ("note_on", "note_off"):
                held[key] = False
                if key in sounding and message.channel not in pedal:
                    end(key, now)
            elif message.type == "control_change" and message.control == 64:
                (pedal.add if message.value >= 64 else pedal.discard)(message.channel)
                if message.value < 64:
                    for key in [key for key in sounding if key[0] == message.channel and not held[key]]:
                        end(key, now)
    except (EOFError, OSError, ValueError, LookupError, TypeError, OverflowError, mido.KeySignatureError) as error:
        raise ValueError(f"{path} is not a MIDI file, or is damaged ({error or 'it ends too early'}); "
                         "replace or remove it") from None
    for key in list(sounding):
        end(key, limit_s)
    return np.array(sorted(note for note in notes if note[0] < limit_s), np.float32).reshape(-1, 4)


def save_notes(path, notes):
    """Write notes [shape=(n, 4)], as `read_notes` returns them, as a MIDI file of one piano track.

    A note ends when it no longer sounds, so that no pedal is needed. A tick is half a millisecond and a little.
    """
    import mido

    events = []
    for onset, end, key, velocity in np.asarray(notes, np.float64):
        note = dict(note=int(key))
        start = round(onset * 1920)
        events.append((start, 1, mido.Message("note_on", velocity=int(min(max(round(velocity), 1), 127)), **note)))
        events.append((max(round(end * 1920), start + 1), 0, mido.Message("note_off", **note)))
    track, now = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)]), 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=time - now))
        now = time
    with replacing(path) as temporary:
        mido.MidiFile(ticks_per_beat=960, tracks=[track]).save(temporary)


def write_audio(path, audio):
    """Write `audio` [shape=(n,) or (n, 2), in [-1, 1]] at `hp.sample_rate`: wav and flac with 16 bits, ogg or mp3, by
    the ending of `path`."""
    with replacing(path) as temporary:
        encode(temporary, audio, **written.get(Path(path).suffix.lower(), written[".wav"]))


def encode(file, audio, **how):
    """Write `audio` as `write_audio` to a path or a binary file, in a format of libsndfile's."""
    with soundfile.SoundFile(file, "w", hp.sample_rate, 1 if audio.ndim == 1 else audio.shape[1], **how) as opened:
        for start in range(0, len(audio), 1 << 16):  # of more at once the encoder of ogg runs out of stack
            opened.write(audio[start:start + (1 << 16)])


def mp3(audio):
    """Return `audio` [shape=(n,) or (n, 2)] as the bytes of an mp3, of about 55 kbit/s if it is mono."""
    buffer = io.BytesIO()
    encode(buffer, audio, format="MP3")
    return buffer.getvalue()


def player(audio, seconds=10):
    """Return an `IPython.display.Audio` of the first seconds of mono `audio`, as mp3, so that notebooks stay small."""
    from IPython.display import Audio

    shown = Audio(data=mp3(audio[:seconds * hp.sample_rate]))
    shown.mimetype = "audio/mpeg"
    return shown


def save_figure(path, figure):
    """Write a matplotlib figure to `path` as a png of 256 colours, the same bytes for the same figure."""
    from PIL import Image  # as matplotlib does

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    # a third of the size of all colours; maximum coverage keeps the rare, loud ones
    image = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    save_bytes(path, lambda file: image.save(file, format="png", optimize=True))


def spectrogram_image(spectrogram):
    """Return a log-mel spectrogram [shape=(n_mels, t), in [0, 1]] as a Pillow image in the colours of
    `plot_spectrograms`, a pixel a band and frame."""
    from PIL import Image

    anchors = np.frombuffer(magma, np.uint8).reshape(-1, 3)
    steps = np.linspace(0, len(anchors) - 1, 256)
    colours = np.stack([np.interp(steps, np.arange(len(anchors)), channel) for channel in anchors.T], axis=1)
    levels = np.round(255 * np.asarray(spectrogram[::-1], np.float32)).astype(np.uint8)
    return Image.fromarray(np.round(colours).astype(np.uint8)[levels])


def save_stages(path, spectrograms, title=""):
    """Draw spectrograms below each other, as `plot_spectrograms` does with matplotlib, and write the png to `path`.

    For a picture in passing: Pillow alone starts and draws in a tenth of matplotlib's time.
    """
    from PIL import Image, ImageDraw, ImageFont

    left, top, width, height, gap, ink = 64, 44, 900, 220, 34, (32, 32, 32)
    size = left + width + 20, top + len(spectrograms) * (height + gap) + 24
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    draw.text((left + width / 2, 6), title, ink, ImageFont.load_default(16), anchor="ma")
    seconds = max(spectrogram.shape[1] for spectrogram in spectrograms.values()) * hp.hop_length / hp.sample_rate
    for i, (name, spectrogram) in enumerate(spectrograms.items()):
        y = top + i * (height + gap)
        canvas.paste(spectrogram_image(spectrogram).resize((width, height), Image.Resampling.BILINEAR), (left, y))
        draw.text((left, y - 4), name, ink, font, anchor="lb")
        for hertz in (128, 512, 1024, 2048, 4096, 8192):
            tick = y + height * (1 - band_of(hertz))
            draw.line((left - 5, tick, left - 1, tick), ink)
            draw.text((left - 8, tick), f"{hertz} Hz" if hertz == 8192 else str(hertz), ink, font, anchor="rm")
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10) if seconds / step <= 10 or step == 10)
    for tick in np.arange(0, seconds + 1e-6, step).tolist():
        x = left + width * tick / seconds
        draw.line((x, y + height, x, y + height + 5), ink)
        draw.text((x, y + height + 8), f"{tick:g}" + " s" * (tick == 0), ink, font, anchor="ma")
    save_bytes(path, lambda file: canvas.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
               .save(file, format="png"))


def band_of(hertz):
    """How high a frequency lies in the picture of a log-mel spectrogram, from 0 to 1."""
    return float((np.interp(hertz, mel_frequencies(hp.n_mels), np.arange(hp.n_mels)) + 0.5) / hp.n_mels)


def plot_spectrograms(spectrograms, title="", width=9):
    """Draw log-mel spectrograms below each other, on one colour range.

    Parameters
    ----------
    spectrograms : dict of str -> np.ndarray [shape=(n_mels, t), in [0, 1]]
        Title and spectrogram of each panel.
    title : str
        Of the whole figure.
    width : float
        Of the figure, in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window: save it, or let a notebook show it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 0.6 + 2.2 * len(spectrograms)), layout="constrained")
    axes = figure.subplots(len(spectrograms), sharex=True, squeeze=False)[:, 0]
    bands = mel_frequencies(hp.n_mels)
    hertz = [128, 512, 1024, 2048, 4096, 8192]
    for axis, (name, spectrogram) in zip(axes, spectrograms.items()):
        seconds = spectrogram.shape[1] * hp.hop_length / hp.sample_rate
        image = axis.imshow(to_db(np.asarray(spectrogram, dtype=np.float32)), origin="lower", aspect="auto",
                            extent=(0, seconds, -0.5, hp.n_mels - 0.5), vmin=-hp.top_db, vmax=0, cmap="magma",
                            interpolation="nearest")
        axis.set_yticks(np.interp(hertz, bands, np.arange(hp.n_mels)), hertz)
        axis.set_title(name, loc="left", fontsize="medium")
        axis.set_ylabel("Hz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="dB below maximum", pad=0.01)
    figure.suptitle(title)
    return figure


def plot_notes(spectrogram, notes, title="", width=9):
    """Draw notes, the louder the brighter, over a pitch spectrogram.

    Parameters
    ----------
    spectrogram : np.ndarray [shape=(n_pitches, t), in [0, 1]]
    notes : np.ndarray [shape=(n, 4)]
        Onset and end in seconds, MIDI key, velocity from 1 to 127.
    title : str
    width : float
        In inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    axis = figure.subplots()
    seconds = spectrogram.shape[1] * hp.pitch_hop_length / hp.sample_rate
    keys = np.array((-1.5, hp.n_pitches - 1.5)) / hp.pitch_bands_per_key + hp.lowest_key  # the lowest is band 1
    axis.imshow(spectrogram, origin="lower", aspect="auto", extent=(0, seconds, *keys), vmin=0, vmax=1, cmap="gray_r",
                interpolation="nearest")
    onset, end, key, velocity = np.reshape(notes, (-1, 4)).T
    axis.barh(key, end - onset, 0.9, onset, color=colormaps["plasma"](velocity / 127), alpha=0.8)
    axis.set(xlim=(0, seconds), ylim=(hp.lowest_key - 0.5, hp.lowest_key + hp.n_keys - 0.5), xlabel="seconds",
             title=title)
    octaves = range(24, hp.lowest_key + hp.n_keys, 12)
    axis.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])
    return figure


def plot_losses(losses, title=""):
    """Draw training and validation loss against the epoch.

    `losses` holds the lists "training" and "validation", one number an epoch, and the text "loss" that names them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name in ("training", "validation"):
        axis.plot(range(1, len(losses[name]) + 1), losses[name], label=name,
                  marker="." if len(losses[name]) < 40 else "")
    axis.set(xlabel="epoch", ylabel=losses["loss"], title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def data_uri(kind, content):
    """Return bytes of a MIME type as the address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def minutes(frames):
    """Cut the frames of a spectrogram into minutes: (first, last + 1, start in seconds, seconds)."""
    step, hop = 2 * round(30 * hp.sample_rate / hp.hop_length), hp.hop_length / hp.sample_rate
    return [(first, min(first + step, frames), first * hop, (min(first + step, frames) - first) * hop)
            for first in range(0, frames, step)]


def tile_html(seconds, content):
    """Return a piece of a lane, a minute or less of it."""
    return f'<div class="tile" style="--seconds: {seconds:.4f}">{content}</div>'


def tile_image(spectrogram):
    """Return a log-mel spectrogram as the address of an image, two frames a pixel."""
    part = np.asarray(spectrogram, np.float32)
    part = np.pad(part, ((0, 0), (0, part.shape[1] % 2)), mode="edge")
    buffer = io.BytesIO()
    spectrogram_image(np.maximum(part[:, ::2], part[:, 1::2])).save(buffer, format="WEBP", quality=50, method=4)
    return data_uri("image/webp", buffer.getvalue())


def notes_svg(notes, start, seconds, height, row):
    """Return an svg of the notes that sound in some seconds from `start` on, `row(key)` of `height` rows from its
    bottom; the colour goes with the velocity."""
    lines = [[] for _ in range(4)]
    for onset, end, key, velocity in notes:
        if onset < start + seconds and end > start:
            lines[min(int(velocity / 32), 3)].append(
                f"M{max(onset - start, 0):.2f} {height - row(key):.4g}H{min(end - start, seconds):.2f}")
    paths = "".join(f'<path class="v{i}" d="{"".join(found)}"/>' for i, found in enumerate(lines) if found)
    return f'<svg viewBox="0 0 {seconds:.4f} {height}" preserveAspectRatio="none" aria-hidden="true">{paths}</svg>'


def piece_html(title, versions, remark="", notes=None):
    """Return the part of a page that plays and shows the versions of one piece: see `page_html`.

    Parameters
    ----------
    title : str
        Heading, or "" for none.
    versions : sequence of (str, str, np.ndarray [shape=(n,) or (n, 2)], np.ndarray [shape=(n_mels, t), in [0, 1]])
        Name and remark of each, its audio, and its log-mel spectrogram.
    remark : str
        A line below the title, HTML.
    notes : np.ndarray [shape=(m, 4)], optional
        As `read_notes` returns them: a lane of their own, and lines over the first spectrogram.
    """
    lanes, sounds, parts = "", "", minutes(versions[0][3].shape[1])
    for number, (name, aside, audio, spectrogram) in enumerate(versions, 1):
        name, aside, images = html.escape(name), html.escape(aside), ""
        for first, last, start, seconds in parts:
            over = "" if notes is None or number > 1 else notes_svg(
                notes, start, seconds, 100, lambda key: 100 * band_of(440 * 2 ** ((key - 69) / 12)))
            images += tile_html(seconds, f'<img src="{tile_image(spectrogram[:, first:last])}" alt="">{over}')
        lanes += f'''
      <div class="lane" role="group" aria-label="{name}">
        <button class="version" aria-pressed="false"><kbd>{number}</kbd> {name} <small>{aside}</small></button>
        <div class="tiles">{images}</div>
      </div>'''
        sounds += f'''
    <figure><figcaption>{name}</figcaption>
      <audio controls preload="none" src="{data_uri("audio/mpeg", mp3(audio))}"></audio></figure>'''
    if notes is not None:
        roll = "".join(
            tile_html(seconds, notes_svg(notes, start, seconds, hp.n_keys, lambda key: key - hp.lowest_key + 0.5))
            for _, _, start, seconds in parts)
        lanes += f'''
      <div class="lane notes" role="group" aria-label="Notes">
        <span class="version">Notes <small>{len(notes)}, brighter where louder</small></span>
        <div class="tiles">{roll}</div>
      </div>'''
    return f'''
<section class="piece" data-seconds="{len(versions[0][2]) / hp.sample_rate:.4f}"
  aria-label="{html.escape(title) or "Player"}">
  {f"<h2>{html.escape(title)}</h2>" if title else ""}{f"<p>{remark}</p>" if remark else ""}
  <div class="scroll" tabindex="-1">
    <div class="strip">{lanes}
    </div>
  </div>
  <div class="sounds">{sounds}
  </div>
</section>'''


def page_html(title, pieces, intro="", rest=""):
    """Return a page, complete in itself, that plays and shows pieces.

    `results/template.html` filled in: `title`, `intro` and `rest` as HTML, `pieces` the results of `piece_html`.
    """
    template = string.Template(read_text(hp.root / "results" / "template.html"))
    return template.substitute(title=html.escape(title), intro=intro, pieces="".join(pieces), rest=rest)


def frame(page, height=900):
    """Return a page, HTML, as an `IPython.display.HTML` that shows it in a frame of its own in a notebook."""
    from IPython.display import HTML

    inside = page.replace("&", "&amp;").replace('"', "&quot;")
    return HTML(f'<div><iframe srcdoc="{inside}" width="100%" height="{height}" style="border: 0" title="player">'
                "</iframe></div>")  # what begins with an iframe IPython warns of


def shard(text):
    """Read "I/N" from the command line as (I, N): one of N machines that share a work, counted from 0."""
    part, _, number = text.partition("/")
    if not (part.isdecimal() and number.isdecimal() and int(part) < int(number)):
        raise argparse.ArgumentTypeError(f"'{text}' is no shard; write 0/4 for the first of four")
    return int(part), int(number)


def choose_device(name="auto"):
    """Return the `torch.device` called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises ValueError if `name` is none of torch's devices, or this machine lacks it or cannot use it.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return torch.device(next(kind for kind, here in present.items() if here))
    if not present.get(name.split(":")[0]):
        raise ValueError(f"device '{name}' is not available here; choose from "
                         f"{', '.join(k for k in present if present[k])}")
    try:
        device = torch.device(name)
        if device.index is not None:  # cuda:99 is a name too, and found out only when it is used
            torch.empty(1, device=device)
        return device
    except RuntimeError as error:
        raise ValueError(f"device '{name}' cannot be used ({first_line(error)}); choose another, cuda, mps or "
                         "cpu") from None


def training_flags(description, name, epochs, batch_size, learning_rate):
    """Return the parser of the flags that both trainings share: the keyword arguments of their `train`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=positive, default=epochs, help="times that every clip is seen")
    parser.add_argument("--batch-size", type=positive, default=batch_size, help="crops a step")
    parser.add_argument("--learning-rate", type=rate, default=learning_rate, help="Adam's")
    parser.add_argument("--crop-frames", type=natural, default=hp.crop_frames,
                        help="length of a crop; 0 for whole clips")
    parser.add_argument("--schedule", choices=("linear", "constant"), default=hp.schedule, help="of the learning rate")
    parser.add_argument("--seed", type=int, default=hp.seed, help="of the split, the first weights and the crops")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu; auto takes the first there is")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder with piano/ and synth/")
    parser.add_argument("--augmented", action="store_true",
                        help="train as if other microphones in other rooms had recorded")
    parser.add_argument("--validation-source", help="folder with a piano to validate on too, and not to train on")
    parser.add_argument("--average", type=natural, default=0, metavar="STEPS",
                        help="validate and keep the mean of the weights over so many steps")
    parser.add_argument("--start", type=Path, help="weights to start from, such as the shipped ones")
    parser.add_argument("--model", type=model_name, default="own",
                        help=f"the weights go to <data>/models/<model>/{name}.torch")
    parser.add_argument("--overwrite", action="store_true",
                        help="train a finished model of that name anew, or an interrupted one of other settings")
    parser.add_argument("--report", action="store_true",
                        help="the report's network and training in place of the defaults named here")
    parser.add_argument("--tensorboard", action="store_true",
                        help="write event files for TensorBoard beside the weights")
    return parser


def training_options(parser, arguments, report):
    """Read the command line; after `--report` the defaults are those in `report`."""
    if parser.parse_args(arguments).report:
        parser.set_defaults(**report)
    return parser.parse_args(arguments)


def model_name(text):
    """Read the name of a model to train from the command line."""
    if text == "shipped":
        raise argparse.ArgumentTypeError("'shipped' is what Main.py calls the weights that come with the project; "
                                         "choose another name")
    return text


def rate(text):
    """Read a positive, finite number from the command line."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def natural(text):
    """Read a natural number from the command line."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number


def positive(text):
    """Read a positive integer from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def first_line(error):
    """What an error says first: those of CUDA say a page."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def run(main):
    """Call `main()`; what the user can mend ends in one sentence on stderr and status 1, Ctrl-C in status 130, and a
    reader of the output that goes away (`| head`) quietly in 141, as of the signal SIGPIPE."""
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
        sys.exit(141)
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except (MemoryError, RuntimeError) as error:
        # torch's errors for a device without memory, or that fails; named, as not all scripts import torch
        if not {"MemoryError", "OutOfMemoryError", "AcceleratorError"} & {kind.__name__ for kind in type(error).mro()}:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: the device failed ({first_line(error)}); choose another --device, or, in "
                 "training, a smaller --batch-size")
    except KeyboardInterrupt as interrupt:
        print(f"{Path(sys.argv[0]).name}: {interrupt or 'stopped'}", file=sys.stderr)
        sys.exit(130)
