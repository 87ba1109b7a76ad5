"""Open a page that converts piano recordings in a browser: `python app.py`. It needs requirements-app.txt."""
import argparse
import html
import os
import re
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

import Hyperparameters as hp
import Main
import Util
from audio import audio_files, chunking, input_recordings
from notes import given_notes, note_events
from outputs import marks, output_files, result_page
from rendering import soundfonts

downloads = {"wav": ".wav", "mp3": ".mp3", "MIDI": ".mid", "page": ".html"}
style = ".html-container {padding: 0 !important} .app {padding: .75rem !important}"


class Converter:
    """Convert the recordings of visitors. `options` are those of `main`."""

    def __init__(self, options):
        self.options, self.turn = options, threading.Lock()
        self.uploads, self.results = {}, {}  # paths by visitor and field of the form; folders by visitor

    def move(self, request, field, upload):
        """Move an upload (two visitors' can share a path), or copy the demo, to a folder of its own; return its path.
        Its name is that on the visitor's computer. It stays until `discard` or another upload."""
        place, path = (request.session_hash, field), Path(upload["path"] if upload else hp.demo)
        if str(path) != self.uploads.get(place) and path.is_file():
            name = Path(upload and upload.get("orig_name") or path).name
            name = Path(path.name if name in ("", "..") else name)
            stem = name.stem.encode()[:200].decode(errors="ignore")  # longer names of results are not possible
            kept = Path(tempfile.mkdtemp()) / f"{stem}{name.suffix}"
            (os.renames if upload else shutil.copyfile)(path, kept)
            if place in self.uploads:
                self.discard(request, field, "notes")  # which are those of the former recording
            self.uploads[place] = str(kept)
        return self.uploads.get(place)  # it is there if "Convert" was pressed before the page had the new path

    def discard(self, request, *fields):
        """Remove the visitor's uploads in some fields of the form."""
        for field in fields:
            if path := self.uploads.pop((request.session_hash, field), None):
                shutil.rmtree(Path(path).parent, ignore_errors=True)

    def keep(self, request: gr.Request, upload=None):
        """Keep a recording, by default the demo. Return the upload, none of the microphone, and the corrected notes."""
        if not (path := self.move(request, "recording", upload)):
            raise gr.Error("Choose a file, record a piano, or take the demo recording.", print_exception=False)
        return path, None, self.uploads.get((request.session_hash, "notes"))

    def keep_notes(self, upload, request: gr.Request):
        """Keep corrected notes. Return their path."""
        return self.move(request, "notes", upload)

    def remove(self, request: gr.Request):
        """Remove the visitor's recording and its corrected notes."""
        self.discard(request, "recording", "notes")

    def remove_notes(self, request: gr.Request):
        """Remove the visitor's corrected notes."""
        self.discard(request, "notes")

    def cancel(self, request: gr.Request):
        """Remove the visitor's results, which also stops the visitor's conversion before its next chunk."""
        shutil.rmtree(self.results.pop(request.session_hash, ""), ignore_errors=True)

    def leave(self, request: gr.Request):
        """Remove the visitor's files."""
        self.cancel(request)
        self.remove(request)

    def finish(self, upload, request: gr.Request):
        """Return the form after a conversion: "Convert", no "Cancel", a recording of the microphone as the upload."""
        files = [gr.update()] * 2 if upload else [self.uploads.get((request.session_hash, "recording")), None]
        return [*files, gr.update(interactive=True), gr.update(visible=False)]

    @staticmethod
    def write_files(path, folder, versions, notes, pair, mark):
        """Write the downloads of a recording to `folder`. Return the page, and a dict from ending to path."""
        [stem] = output_files.output_names([(path, Path(path.name))], soundfonts.instrument_names(pair)[1])
        files = {ending: str(folder / f"{stem}{ending}") for ending in downloads.values()
                 if ending != ".mid" or notes is not None}
        page = result_page.recording_page(path.stem, versions, notes, pair)
        *_, result = versions.values()
        audio_files.write_audio(files[".wav"], result, mark)
        audio_files.write_audio(files[".mp3"], result, mark)
        result_page.save_page(files[".html"], page, mark)
        if notes is not None:
            note_events.save_notes(files[".mid"], notes, mark)
        return page, files

    @staticmethod
    def read_notes(path, audio, models):
        """Return corrected notes. Raises as `given_notes.read_given`, and ValueError if they are of no use."""
        if Path(path).stat().st_size > 2 ** 20:  # reading more takes long, and cannot be cancelled
            raise ValueError(f"{path} is larger than 1 MB; save the notes of this recording alone")
        if not isinstance(models[0], Main.NoteModel):
            raise ValueError("This model has no notes to correct; choose another model, or remove the corrected notes")
        return given_notes.read_given(path, len(audio) / hp.sample_rate)

    def convert(self, upload, recorded, given, model, tuning, channels, level, request: gr.Request,
                progress=gr.Progress()):
        """Convert an upload or a recording of the microphone. Return the player and the downloads."""
        path, options, done = Path(self.keep(request, upload or recorded or {"path": ""})[0]), self.options, 0
        given = given and self.keep_notes(given, request)
        self.cancel(request)
        folder = self.results[request.session_hash] = Path(tempfile.mkdtemp())

        def report(stage, number, chunks):
            nonlocal done
            folder.stat()  # raises FileNotFoundError after `cancel`
            progress(done / (stages * chunks + 1), desc=stage)  # and one step for the files
            done += 1

        def without_folders(sentence):
            return html.escape(re.sub(re.escape(tempfile.gettempdir()) + r"/\w+/", "", sentence))

        chunking.on_chunk.set(report)
        Util.on_warning.set(lambda sentence: gr.Warning(without_folders(sentence)))
        try:
            with self.turn:  # a conversion that was cancelled may not have ended yet
                if given_notes.is_midi(path):
                    raise ValueError(f"{path} is a MIDI file; play it with: python Main.py {path.name}")
                input_recordings.check_limits(path, 60 * options.max_minutes, options.max_megabytes * 2 ** 20)
                models = Main.load_models(*Main.find_weights(model))
                stages = 3 if isinstance(models[0], Main.NoteModel) else 2  # transcription, draft and result
                audio = Main.read_recording(path, stereo=channels == 1)
                mark = marks.make_mark(Util.file_digest(path))  # now, since the visitor may remove the recording
                corrected = given and self.read_notes(given, audio, models)
                notes = Main.transcribe_if_possible(audio, models, path)
                versions = Main.make_versions(audio, models, notes, tune=440 if tuning else None, corrected=corrected,
                                              level=level)
                notes = notes if corrected is None else corrected
                progress(done / (done + 1), desc="files")
                page, files = self.write_files(path, folder, versions, notes, models[0].pair, mark)
        except Exception as error:
            raise gr.Error(without_folders(Util.first_line(error)), duration=None, print_exception=False) from None
        finally:
            if self.results.get(request.session_hash) != folder:  # removed, and made again by a file written just then
                shutil.rmtree(folder, ignore_errors=True)
        return [result_page.frame(page, ' sandbox="allow-scripts"'),
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
                    f"{options.max_minutes:g} minutes and {options.max_megabytes} MB. It is kept until you replace or "
                    "remove it, or close this page. The results are deleted when you close this page, or after "
                    f"{options.keep_minutes:g} minutes.")
        with gr.Row(equal_height=True):
            upload = gr.File(label="Audio or video file", elem_id="recording", height=140, min_width=300)
            recorded = gr.Audio(label="Microphone", sources=["microphone"], type="filepath", min_width=300)
        demo = gr.Button("Take the demo recording", size="md")
        with gr.Row():
            choices = [gr.Dropdown(labels, value=default, label="Model"),
                       gr.Radio([("as recorded", 0), ("A = 440 Hz", 1)], value=0, label="Tuning"),
                       gr.Radio([("mono", 0), ("stereo", 1)], value=0, label="Channels"),
                       gr.Radio([("as recorded", "recorded"), ("as loud as possible", "peak")], value="recorded",
                                label="Level")]
        with gr.Accordion("Correct the notes", open=False):
            gr.Markdown("Correct the MIDI file of a conversion in any program, upload it here, and convert again.")
            given = gr.File(label="Corrected notes (MIDI file)", elem_id="midi", height=140,
                            file_types=[".mid", ".midi"])
        start, cancel = gr.Button("Convert", variant="primary"), gr.Button("Cancel", visible=False)
        player = gr.HTML(elem_id="player", min_height=110)
        with gr.Row():
            files = [gr.DownloadButton(f"Download {label}", visible=False, min_width=140) for label in downloads]
        inputs, buttons, results = [upload, recorded, given], [start, cancel], [player, *files]
        none = [None, *[gr.update(visible=False)] * len(files)]
        upload.keep_in_cache = converter.uploads.values()  # which Gradio does not delete after `keep`
        upload.upload(converter.keep, upload, inputs, preprocess=False, **now)
        demo.click(converter.keep, None, inputs, **now)
        given.upload(converter.keep_notes, given, given, preprocess=False, **now)
        given.clear(converter.remove_notes, None, None, **now)
        gr.on([upload.clear, recorded.stop_recording], converter.remove, None, given, **now)
        recorded.stop_recording(lambda: None, None, upload, **now)
        run = start.click(lambda: [gr.update(interactive=False), gr.update(visible=True), *none], None,
                          buttons + results, **now).then(
            converter.convert, inputs + choices, results, preprocess=False, concurrency_limit=1,
            show_progress_on=player, api_visibility="private")
        for end in run.then, run.failure:
            end(converter.finish, upload, inputs[:2] + buttons, preprocess=False, **now)
        cancel.click(converter.cancel, None, None, cancels=[run], **now).then(lambda: none, None, results, **now)
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
        parser.add_argument(flag, type=kind, default=default,
                            help=text if default is None else f"{text} (default: %(default)s)")
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
                enable_monitoring=False, theme=theme, css=style, head=result_page.fit_frames,
                i18n=gr.I18n(en={"common.complete": "done"}))[1]  # Gradio lacks this word for screen readers
        except (OSError, OverflowError):  # the latter of a number that no port has
            raise OSError(f"port {options.port} of {options.address} is not free; choose another --port") from None
        print(f"open {url} in a browser; Ctrl-C ends it", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    Util.run(main)
