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

import Chunks
import Hyperparameters as hp
import Main
import Notes
import Page
import Recordings
import Util

try:
    import gradio as gr
except ImportError:
    raise SystemExit("app.py: Gradio is missing; install it with: pip install -r requirements-app.txt") from None

tunings = {"as recorded": None, "A = 440 Hz": 440}
downloads = {"wav": ".wav", "mp3": ".mp3", "MIDI": ".mid", "page": ".html"}
style = "#player {min-height: 7rem} .html-container {padding: 0 !important} .app {padding: .75rem !important}"


class Converter:
    """Convert the recordings of visitors. `options` are those of `main`."""

    def __init__(self, options):
        self.options, self.turn = options, threading.Lock()
        self.folders = collections.defaultdict(lambda: Path(tempfile.mkdtemp()))  # a visitor's files, while they stay

    def keep(self, request: gr.Request, upload=None):
        """Move an upload (two visitors' can share a path) or copy the demo to the visitor's folder; return its path."""
        path = Path(upload["path"] if upload else hp.demo)
        if not path.is_file():
            raise gr.Error("Choose a file, record a piano, or take the demo recording.", print_exception=False)
        kept = self.folders[request.session_hash] / path.name
        (os.renames if upload else shutil.copyfile)(path, kept)
        return str(kept), None  # and nothing for the microphone

    def leave(self, request: gr.Request):
        """Remove the visitor's files from the disk and from the page, which also stops the visitor's conversion."""
        shutil.rmtree(self.folders.pop(request.session_hash, ""), ignore_errors=True)

    def convert(self, upload, recorded, model, channels, tuning, request: gr.Request, progress=gr.Progress()):
        """Convert an upload or a recording of the microphone, and remove it. Return the player and the downloads."""
        path = Path(self.keep(request, upload or recorded or {"path": ""})[0])
        folder, options, steps = path.parent, self.options, itertools.count()
        def plain(sentence):
            return html.escape(sentence.replace(f"{folder}/", "").replace(f"{hp.root}/", ""))

        def report(stage, number, chunks):
            if not folder.exists():
                raise ValueError("cancelled")
            progress(min(next(steps) / chunks / 3, 1), desc=f"{stage}, chunk {number + 1} of {chunks}")

        Chunks.on_chunk.set(report)
        Util.on_warning.set(lambda sentence: gr.Warning(plain(sentence)))
        try:
            with self.turn:  # a conversion that was cancelled may not have ended yet
                Recordings.check_limits(path, 60 * options.max_minutes, 1e6 * options.max_megabytes)
                models = Main.load_models(*Main.find_weights(model))
                name, versions, notes = Main.make_versions(path, models, None, channels == "stereo", tunings[tuning])
                page = Main.recording_page(name, versions, notes)
                files = {ending: str(folder / f"{name}_epiano{ending}") for ending in downloads.values()}
                for ending in ".wav", ".mp3":
                    Util.write_audio(files[ending], versions["Electric piano"], Recordings.comment)
                Util.save_text(files[".html"], page)
                Notes.save_notes(files[".mid"], notes) if notes is not None else files.pop(".mid")
        except Exception as error:
            raise gr.Error(plain(Util.first_line(error)), duration=None, print_exception=False) from None
        finally:
            path.unlink(missing_ok=True)
            if self.folders.get(request.session_hash) != folder:  # removed and made again by a file written just then
                shutil.rmtree(folder, ignore_errors=True)
        return [Page.frame(page, 1070 if ".mid" in files else 900, ' sandbox="allow-scripts"'),
                *(gr.update(value=files.get(ending), visible=ending in files) for ending in downloads.values())]


def make_page(converter):
    """Return the Gradio page over the functions of a `Converter`."""
    options, quick = converter.options, dict(queue=False, api_visibility="private")
    folders = sorted(path.parent.name for path in hp.models.glob("*/ae.torch"))
    names = [name for name in dict.fromkeys(["own", "shipped", "report", *folders])
             if all(path.exists() for path in Main.find_weights(name))]
    with gr.Blocks(title="Piano to electric piano", analytics_enabled=False,
                   delete_cache=(20 * options.keep_minutes, 60 * options.keep_minutes)) as page:
        gr.Markdown("# Piano to electric piano\nHear a piano recording of at most "
                    f"{options.max_minutes:g} minutes and {options.max_megabytes:g} MB as the same performance on an "
                    "electric piano. The recording is deleted after the conversion. The results are deleted when you "
                    f"close this page, or after {options.keep_minutes:g} minutes.")
        with gr.Row():
            upload = gr.File(label="Audio or video file", height=156)
            with gr.Column():
                recorded = gr.Audio(label="Microphone", sources=["microphone"], type="filepath")
                demo = gr.Button("Take the demo recording")
        with gr.Row():
            model = gr.Dropdown(names, value=names[0], label="Model")
            tuning = gr.Radio(list(tunings), value="as recorded", label="Tuning")
            channels = gr.Radio(["mono", "stereo"], value="mono", label="Channels")
        with gr.Row():
            start, cancel = gr.Button("Convert", variant="primary"), gr.Button("Cancel", visible=False)
        player = gr.HTML(elem_id="player")
        with gr.Row():
            files = [gr.DownloadButton(f"Download {label}", visible=False, min_width=100) for label in downloads]
        fields, results = [upload, recorded, start, cancel], [player, *files]
        upload.upload(converter.keep, upload, fields[:2], preprocess=False, **quick)
        demo.click(converter.keep, None, fields[:2], **quick)
        recorded.stop_recording(lambda: None, None, upload, **quick)
        start.click(lambda: [gr.update(interactive=False), gr.update(visible=True)], None, fields[2:], **quick)
        work = start.click(converter.convert, [upload, recorded, model, channels, tuning], results, preprocess=False,
                           concurrency_limit=1, show_progress_on=player, api_visibility="private")
        idle = [None, None, gr.update(interactive=True), gr.update(visible=False)]
        work.then(lambda: idle, None, fields, **quick)
        cancel.click(converter.leave, None, None, cancels=[work], **quick).then(
            lambda: [*idle, None, *[gr.update(visible=False)] * len(files)], None, fields + results, **quick)
        page.unload(converter.leave)
    return page


def main(arguments=None):
    """Run the command line. `arguments` replaces those of the process."""
    parser = argparse.ArgumentParser(description="Open a page that converts piano recordings in a browser.")
    for flag, kind, default, text in (
            ("--address", str, os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), "address to listen on"),
            ("--port", int, os.environ.get("GRADIO_SERVER_PORT"), "port to listen on, else the first free one"),
            ("--max-minutes", Util.positive_float, 20, "longest recording in minutes"),
            ("--max-megabytes", Util.positive_float, 200, "largest file in megabytes"),
            ("--keep-minutes", Util.positive_float, 60, "minutes until the results of an open page are deleted")):
        parser.add_argument(flag, type=kind, default=default, help=f"{text} (default: %(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # hosting services end a program with SIGTERM
    gr.processing_utils.sh.async_validate_url = None  # else Gradio fetches any address that a visitor sends
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = folder
        page = make_page(Converter(options))
        theme = gr.themes.Default(primary_hue="pink", font=["system-ui"], font_mono=["system-ui"])
        try:
            page.launch(server_name=options.address, server_port=options.port, share=False, quiet=True, css=style,
                        prevent_thread_lock=True, footer_links=[], run_history=False, ssr_mode=False, theme=theme,
                        enable_monitoring=False, max_file_size=int(1e6 * options.max_megabytes))
        except OSError:
            raise OSError(f"port {options.port} of {options.address} is not free; choose another --port") from None
        print(f"open {page.local_url} in a browser; Ctrl-C ends it", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    Util.run(main)
