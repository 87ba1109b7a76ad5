"""The HTML page that plays and shows the versions of a recording: `template.html`, filled in by jinja2."""
import base64
import html
import io
from pathlib import Path

import numpy as np

import Hyperparameters as hp
import Util
from audio import audio_files, chunking
from rendering import soundfonts

doubtful_below = 0.8    # certainty of a note, below which the page shows it paler

# explanations of the versions of a recording, besides the result
version_remarks = {"Recording": "as it was recorded", "Draft": "the result before the last correction",
                   "report": "the result of the 2020 report's networks"}

# script of a document with frames of `frame`: sets the height that the page in a frame has sent
fit_frames = """<script>addEventListener("message", event => {
  for (const frame of document.querySelectorAll("iframe"))
    if (frame.contentWindow === event.source && event.data?.height) frame.style.height = event.data.height + "px";
});</script>"""


def version_names(pair=None):
    """Return the names of recording, draft and result, for a pair of instruments: see `soundfonts.instrument_names`."""
    target = soundfonts.instrument_names(pair)[1]
    return "Recording", "Draft", target[:1].upper() + target[1:]


def recording_page(name, versions, notes=None, pair=None):
    """Return the HTML page of one recording. `versions` is a dict from the name of each version to its audio
    [shape=(n,) or (n, 2)]: see `Main.make_versions`. `notes` [shape=(m, 4 or 5)] are shown on the page. `pair` is that
    of the weights."""
    source, target = soundfonts.instrument_names(pair)
    remarks = {**version_remarks, version_names(pair)[2]: "the result"}
    shown = [(version, remarks.get(version, ""), audio) for version, audio in versions.items()]
    intro = (f"<p>From {html.escape(source)} to {html.escape(target)}: a recording, and the same performance on the "
             "other instrument. A program listened to the recording and played it again.</p>")
    if version_names()[0] not in versions:
        intro = f"<p>The notes of a MIDI file, played with the sounds of the {html.escape(target)}.</p>"
    return render_page(name, [make_piece("", shown, notes=notes)], intro)


def make_piece(title, versions, remark="", notes=None):
    """Return what a page shows of one piece, as the template takes it: see `render_page`. `versions` holds tuples:
    name, remark and audio [shape=(n,) or (n, 2)]. `title` is the heading, or "" for none, `remark` a line of HTML below
    it. `notes` [shape=(m, 4 or 5)] have a lane of their own, and are lines over the first spectrogram."""
    from markupsafe import Markup

    spectrograms, shown = [chunking.whole_spectrogram(audio) for *_, audio in versions], []
    minutes = split_minutes(spectrograms[0].shape[1])
    for number, ((name, aside, audio), spectrogram) in enumerate(zip(versions, spectrograms)):
        parts = [{"seconds": seconds, "image": spectrogram_uri(spectrogram[:, first:last]),
                  "notes": None if notes is None or number else note_paths(notes, start, seconds, 100, mel_row)}
                 for first, last, start, seconds in minutes]
        shown.append({"name": name, "remark": aside, "parts": parts,
                      "sound": data_uri("audio/mpeg", audio_files.encoded(audio, format="MP3"))})
    times = ["{:.0f}:{:04.1f}".format(*divmod(round(float(onset), 1), 60))
             for onset in ([] if notes is None else notes[doubtful(notes), 0])]
    roll = None if notes is None else {"number": len(notes), "doubtful": times, "parts": [
        {"seconds": seconds, "notes": note_paths(notes, start, seconds, hp.n_keys,
                                                 lambda key: key - hp.lowest_key + 0.5)}
        for _, _, start, seconds in minutes]}
    return {"title": title, "remark": Markup(remark), "seconds": len(versions[0][2]) / hp.sample_rate,
            "versions": shown, "notes": roll}


def split_minutes(frames):
    """Cut the frames of a spectrogram into minutes: (first, last + 1, start in seconds, seconds)."""
    step, hop = 2 * round(30 * hp.sample_rate / hp.hop_length), hp.hop_length / hp.sample_rate
    return [(first, min(first + step, frames), first * hop, (min(first + step, frames) - first) * hop)
            for first in range(0, frames, step)]


def spectrogram_uri(spectrogram):
    """Return a log-mel spectrogram as the address of an image, two frames a pixel."""
    from matplotlib.image import imsave

    part = np.asarray(spectrogram, np.float32)
    part = np.pad(part, ((0, 0), (0, part.shape[1] % 2)), mode="edge")
    buffer = io.BytesIO()
    imsave(buffer, np.maximum(part[:, ::2], part[:, 1::2]), vmin=0, vmax=1, cmap="magma", format="webp", origin="lower",
           pil_kwargs=dict(quality=50, method=4))
    return data_uri("image/webp", buffer.getvalue())


def data_uri(kind, content):
    """Return bytes of a MIME type as the address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def mel_row(key):
    """Return how high the pitch of a key lies in the picture of a log-mel spectrogram, from 0 to 100."""
    hertz = 440 * 2 ** ((key - 69) / 12)
    band = np.interp(hertz, Util.mel_frequencies(hp.n_mels), np.arange(hp.n_mels))
    return 100 * float((band + 0.5) / hp.n_mels)


def note_paths(notes, start, seconds, height, row):
    """Return the notes that sound in some seconds from `start` on as paths of an svg, for the template. `row(key)` is
    the height of a key above the bottom, of `height` in all. There is one path for each of four ranges of velocity,
    which differ in colour, and four paler ones of `doubtful` notes."""
    paths = [""] * 8
    for (onset, end, key, velocity, *_), pale in zip(notes, doubtful(notes)):
        if onset < start + seconds and end > start:
            paths[min(int(velocity / 32), 3) + 4 * pale] += (
                f"M{max(onset - start, 0):.2f} {height - row(key):.4g}H{min(end - start, seconds):.2f}")
    return {"height": height, "paths": paths}


def doubtful(notes):
    """Return which notes [shape=(n, 4 or 5)] have a certainty below `doubtful_below` [shape=(n,), bool]; none without a
    column of certainty."""
    return notes[:, 4] < doubtful_below if notes.shape[1] > 4 else np.zeros(len(notes), bool)


def render_page(title, pieces, intro="", rest=""):
    """Return a page of the pieces of `make_piece`, complete in itself; `intro` and `rest` are HTML around them."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(Util.read_text(Path(__file__).with_name("template.html")))
    return template.render(title=title, pieces=pieces, intro=Markup(intro), rest=Markup(rest))


def save_page(path, page, mark):
    """Write a page, HTML, with a `mark` in its metadata: see `marks`."""
    Util.save_text(path, page.replace("<head>", f'<head>\n<meta name="generator" content="{mark}">', 1), mark)


def frame(page, attributes=""):
    """Return a page as the HTML of a frame with these attributes, as high as the page if `fit_frames` is around it."""
    return (f'<iframe srcdoc="{html.escape(page)}" width="100%" height="1200" style="border: 0; display: block" '
            f'title="player"{attributes}></iframe>')


def notebook_frame(page):
    """Return a page, HTML, as an `IPython.display.HTML` that shows it in a frame of its own in a notebook."""
    from IPython.display import HTML

    return HTML(f"<div>{frame(page)}</div>{fit_frames}")  # what begins with an iframe IPython warns of


def audio_player(audio, seconds=10):
    """Return an `IPython.display.Audio` of the first seconds of mono `audio`, as mp3, so that notebooks stay small."""
    from IPython.display import Audio

    shown = Audio(data=audio_files.encoded(audio[:seconds * hp.sample_rate], format="MP3"))
    shown.mimetype = "audio/mpeg"
    return shown
