"""Open a page that converts piano recordings in a browser: `python app.py`. It needs requirements-app.txt."""
import argparse
import collections
import html
import itertools
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports below without a traceback

try:
    import gradio as gr
except ImportError:
    raise SystemExit("app.py: Gradio is missing; install it with: pip install -r requirements-app.txt") from None

import Chunks
import Hyperparameters as hp
import Main
import Marks
import Notes
import Page
import Presets
import Recordings
import Util

downloads = {"wav": ".wav", "mp3": ".mp3", "MIDI": ".mid", "page": ".html"}
style = ".html-container {padding: 0 !important} .app {padding: .75rem !important}"


class Converter:
    """Convert the recordings of visitors. `options` are those of `main`."""

    def __init__(self, options):
        self.options, self.turn = options, threading.Lock()
        self.folders = collections.defaultdict(lambda: Path(tempfile.mkdtemp()))  # one for each visitor

    def keep(self, request: gr.Request, upload=None):
        """Move an upload (two visitors' can share a path) or copy the demo to the visitor's folder; return its path."""
        path = Path(upload["path"] if upload else hp.demo)
        kept = self.folders[request.session_hash] / path.name
        if path.is_file():
            (os.renames if upload else shutil.copyfile)(path, kept)
        elif not kept.is_file():  # it is there if "Convert" was pressed before the page had the new path
            raise gr.Error("Choose a file, record a piano, or take the demo recording.", print_exception=False)
        return str(kept), None  # and nothing for the microphone

    def leave(self, request: gr.Request):
        """Remove the visitor's files, which also stops the visitor's conversion before its next chunk."""
        shutil.rmtree(self.folders.pop(request.session_hash, ""), ignore_errors=True)

    def convert(self, upload, recorded, model, tuning, channels, request: gr.Request, progress=gr.Progress()):
        """Convert an upload or a recording of the microphone, and remove it. Return the player and the downloads."""
        path = Path(self.keep(request, upload or recorded or {"path": ""})[0])
        folder, options, steps = path.parent, self.options, itertools.count()
        def report(stage, number, chunks):
            folder.stat()  # raises FileNotFoundError after `leave`
            progress(min(next(steps) / chunks / 3, 1), desc=f"{stage}, chunk {number + 1} of {chunks}")

        Chunks.on_chunk.set(report)
        Util.on_warning.set(lambda sentence: gr.Warning(html.escape(sentence.replace(f"{folder}/", ""))))
        try:
            with self.turn:  # a conversion that was cancelled may not have ended yet
                Recordings.check_limits(path, 60 * options.max_minutes, options.max_megabytes * 2 ** 20)
                models = Main.load_models(*Main.find_weights(model))
                name, versions, notes, pair = made = Main.make_versions(path, models, None, channels == 1,
                                                                        440 if tuning else None)
                page, mark, (*_, result) = Main.recording_page(*made), Marks.make_mark(path), versions.values()
                [stem] = Recordings.output_names([(path, Path(path.name))], Presets.instrument_names(pair)[1])
                files = {ending: str(folder / f"{stem}{ending}") for ending in downloads.values()}
                for ending in ".wav", ".mp3":
                    Util.write_audio(files[ending], result, mark)
                Page.save_page(files[".html"], page, mark)
                Notes.save_notes(files[".mid"], notes, mark) if notes is not None else files.pop(".mid")
        except Exception as error:
            sentence = html.escape(Util.first_line(error).replace(f"{folder}/", ""))
            raise gr.Error(sentence, duration=None, print_exception=False) from None
        finally:
            path.unlink(missing_ok=True)
            if self.folders.get(request.session_hash) != folder:  # removed and made again by a file written just then
                shutil.rmtree(folder, ignore_errors=True)
        return [Page.frame(page, 1070 if ".mid" in files else 900, ' sandbox="allow-scripts"'),
                *(gr.update(value=files.get(ending), visible=ending in files) for ending in downloads.values())]


def make_page(options):
    """Return the Gradio page over a `Converter`. `options` are those of `main`."""
    converter, now, keep = Converter(options), dict(queue=False, api_visibility="private"), 60 * options.keep_minutes
    names = ["own", "shipped", "report", *sorted(path.name for path in hp.models.glob("[!.]*"))]
    names = [name for name in dict.fromkeys(names) if all(path.exists() for path in Main.find_weights(name))]
    labels = [(Main.describe_model(*Main.find_weights(name)), name) for name in names]
    default = next(name for name in names if Main.find_weights(name) == Main.find_weights())
    with gr.Blocks(title="Piano to electric piano", analytics_enabled=False, delete_cache=(keep / 3, keep)) as page:
        gr.Markdown("# Piano to electric piano\nHear your piano recording on an electric piano. It may have at most "
                    f"{options.max_minutes:g} minutes and {options.max_megabytes} MB. It is deleted after conversion. "
                    f"The results are deleted when you close this page, or after {options.keep_minutes:g} minutes.")
        with gr.Row(equal_height=True):
            upload = gr.File(label="Audio or video file", height=140, min_width=300)
            recorded = gr.Audio(label="Microphone", sources=["microphone"], type="filepath", min_width=300)
        demo = gr.Button("Take the demo recording", size="md")
        with gr.Row():
            choices = [gr.Dropdown(labels, value=default, label="Model"),
                       gr.Radio([("as recorded", 0), ("A = 440 Hz", 1)], value=0, label="Tuning"),
                       gr.Radio([("mono", 0), ("stereo", 1)], value=0, label="Channels")]
        start, cancel = gr.Button("Convert", variant="primary"), gr.Button("Cancel", visible=False)
        player = gr.HTML(elem_id="player", min_height=110)
        with gr.Row():
            files = [gr.DownloadButton(f"Download {label}", visible=False, min_width=140) for label in downloads]
        form, results = [upload, recorded, start, cancel], [player, *files]
        upload.upload(converter.keep, upload, form[:2], preprocess=False, **now)
        demo.click(converter.keep, None, form[:2], **now)
        recorded.stop_recording(lambda: None, None, upload, **now)
        run = start.click(lambda: [gr.update(interactive=False), gr.update(visible=True)], None, form[2:], **now).then(
            converter.convert, form[:2] + choices, results, preprocess=False, concurrency_limit=1,
            show_progress_on=player, api_visibility="private")
        for end in run.then, run.failure:
            end(lambda: [None, None, gr.update(interactive=True), gr.update(visible=False)], None, form, **now)
        cancel.click(converter.leave, None, None, cancels=[run], **now).then(
            lambda: [None, *[gr.update(visible=False)] * len(files)], None, results, **now)
        page.unload(converter.leave)
    return page


def main(arguments=None):
    """Run the command line. `arguments` replaces those of the process."""
    parser = argparse.ArgumentParser(description="Open a page that converts piano recordings in a browser.")
    for flag, kind, default, text in (
            ("--address", str, os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), "address to listen on"),
            ("--port", int, os.environ.get("GRADIO_SERVER_PORT"), "port to listen on, else the first free one"),
            ("--max-minutes", Util.positive_float, 20, "longest recording in minutes"),
            ("--max-megabytes", Util.positive_int, 200, "largest file in megabytes"),
            ("--keep-minutes", Util.positive_float, 60, "minutes until the results of an open page are deleted")):
        parser.add_argument(flag, type=kind, default=default, help=f"{text} (default: %(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # hosting services end a program with SIGTERM
    gr.processing_utils.sh.async_validate_url = None  # else Gradio fetches any address that a visitor sends
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = folder
        theme = gr.themes.Default(primary_hue="pink", font=["system-ui"], font_mono=["system-ui"])
        try:
            url = make_page(options).launch(
                server_name=options.address, server_port=options.port, max_file_size=f"{options.max_megabytes}mb",
                share=False, quiet=True, prevent_thread_lock=True, footer_links=[], run_history=False, ssr_mode=False,
                enable_monitoring=False, theme=theme, css=style)[1]
        except OSError:
            raise OSError(f"port {options.port} of {options.address} is not free; choose another --port") from None
        print(f"open {url} in a browser; Ctrl-C ends it", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    Util.run(main)
