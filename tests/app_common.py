"""Servers of app.py, visitors in headless Chromium, and what they do."""
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
import torch

import Hyperparameters as hp
from audio import audio_files

endings = (".wav", ".mp3", ".mid", ".html")
results = sorted(f"short_epiano{ending}" for ending in endings)
with_models = ("import sys, pathlib; sys.path.insert(0, sys.argv.pop(1)); import Hyperparameters as hp; "
               "hp.models = pathlib.Path(sys.argv.pop(1)); import app; app.Util.run(app.main)")


@contextlib.contextmanager
def serve(folder, *command):
    """Run a server on a free port, with its temporary files and its output in `folder`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (folder / "temporary").mkdir()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=log, stderr=log, env={
            **os.environ, "TMPDIR": str(folder / "temporary"), "PYTHONUNBUFFERED": "1",
            "GRADIO_SERVER_PORT": str(port)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job ignores Ctrl-C
    server = types.SimpleNamespace(process=process, port=port, url=f"http://127.0.0.1:{port}/", folder=folder,
                                   log=lambda: (folder / "log").read_text(encoding="utf-8"))
    server.files = lambda: sorted(path.name for path in (folder / "temporary").rglob("*") if path.is_file())
    try:
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory, root, weights):
    """Two servers: one with a model in the report's form of few pieces, and one that keeps files for three seconds."""
    models = tmp_path_factory.mktemp("models")
    (models / "own").mkdir()
    for path in weights:
        state = torch.load(path, weights_only=True)
        state._metadata["trained_for"] = {"pieces": 8, "pair": "FluidR3_GM.sf2:0:11 -> FluidR3_GM.sf2:0:10"}
        torch.save(state, models / "own" / path.name)
    (models / "half").mkdir()
    (models / "half" / "ae.torch").symlink_to(weights[0])
    with (serve(tmp_path_factory.mktemp("app"), "-c", with_models, root, models, "--max-minutes", "10",
                "--max-megabytes", "10") as one,
          serve(tmp_path_factory.mktemp("brief"), root / "app.py", "--keep-minutes", "0.05") as other):
        for server in one, other:
            wait(lambda: f"open {server.url} in a browser" in server.log() or server.process.poll() is not None)
            assert server.process.poll() is None, server.log()
        yield one, other


@pytest.fixture(scope="module")
def server(servers):
    return servers[0]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Four seconds of the demo recording, and the samples."""
    path = tmp_path_factory.mktemp("recording") / "short.wav"
    audio = audio_files.read_audio(hp.demo)[:4 * hp.sample_rate]
    audio_files.write_audio(path, audio)
    return path, audio


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """Three minutes: the demo recording again and again."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.tile(audio_files.read_audio(hp.demo)[::2], 6), hp.sample_rate // 2, subtype="PCM_U8")
    return path


@pytest.fixture(scope="module")
def browser(start_browser, recording):
    return start_browser("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                         f"--use-file-for-fake-audio-capture={recording[0]}")


def wait(condition, seconds=90):
    """Wait until a condition is true and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


class Visitor:
    """What a visitor of the page does."""

    def __init__(self, browser, url, folder):
        self.browser, self.run, self.folder = browser, browser.execute_script, folder
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        browser.get(url)
        wait(lambda: self.button("Convert"))

    def until(self, script):
        return wait(lambda: self.run(f"return {script}"))

    def button(self, text):
        """Return the button with a text if it can be pressed, else None."""
        return self.run("""
            return [...document.querySelectorAll("button")].find(one =>
                one.innerText.trim() === arguments[0] && one.offsetHeight && !one.disabled);""", text)

    def click(self, text):
        wait(lambda: self.run("return arguments[0] && (arguments[0].click(), true)", self.button(text)))

    def field(self, inside, name="recording"):
        """Return what fits a selector in the field for a file, "recording" or "midi", or None."""
        return next(iter(self.browser.find_elements("css selector", f"#{name} {inside}")), None)

    def is_empty(self, name="recording"):
        return self.file_input(name) is not None

    def file_input(self, name="recording"):
        return self.field("input[type=file]", name)

    def remove(self, name="recording"):
        self.run("arguments[0].click()", self.field("button[aria-label=Clear]", name))
        wait(lambda: self.is_empty(name))

    def choose(self, path, name="recording"):
        if not self.is_empty(name):
            self.remove(name)
        self.file_input(name).send_keys(str(path))
        wait(lambda: self.field(".file-preview", name))

    def page(self):
        return self.run("return document.body.innerText")

    @contextlib.contextmanager
    def in_player(self):
        """Work within the frame of the player."""
        self.browser.switch_to.frame(self.player())
        yield
        self.browser.switch_to.default_content()

    def finish(self):
        """Wait until the form is ready for another conversion."""
        wait(lambda: self.button("Convert") and not self.button("Cancel"))

    def percentages(self):
        """Return what the page shows of the progress until the player is there."""
        found = []
        wait(lambda: self.button("Cancel"))
        while not self.browser.find_elements("css selector", "#player iframe"):
            text = self.run("return document.querySelector('#player').innerText.split('\\n').pop()")
            if " - " in text and text not in found:
                found.append(text)
        return found

    def convert(self, path=None):
        if path:
            self.choose(path)
        known = len(self.errors())
        self.click("Convert")
        wait(lambda: not self.button("Convert") or len(self.errors()) > known)
        self.finish()

    def tick(self, *labels):
        """Make choices by their labels."""
        for label in labels:
            self.run("""[...document.querySelectorAll('fieldset label')].findLast(
                one => one.innerText.trim() === arguments[0]).click();""", label)

    def open_notes(self):
        """Open the part of the form that takes corrected notes."""
        self.browser.find_element("css selector", "button.label-wrap").click()
        wait(lambda: self.is_empty("midi"))

    def begin(self, path, sign="transcription - [1-9]"):
        """Begin a conversion, and wait until the page shows text that matches `sign`."""
        self.choose(path)
        self.click("Convert")
        self.until(f"/{sign.replace('/', '.')}/.test(document.body.innerText)")

    def errors(self):
        return self.run("return [...document.querySelectorAll('[data-testid=toast-text]')].map(one => one.innerText)")

    def player(self):
        return wait(lambda: self.browser.find_elements("css selector", "#player iframe"))[0]

    def download(self, name):
        """Download a file, and return its path. Earlier downloads are removed."""
        for path in self.folder.glob("*_epiano.*"):
            path.unlink()
        before = set(self.folder.iterdir())
        self.click(f"Download {name}")
        return wait(lambda: [path for path in set(self.folder.iterdir()) - before
                             if path.suffix in endings and path.stat().st_size])[0]


@pytest.fixture
def visit(browser, tmp_path):
    """Function that opens the page of a server as a new visitor."""
    yield lambda server: Visitor(browser, server.url, tmp_path)
    browser.get("about:blank")


def ask(url, data=None, headers={}):
    """Return the status and the text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
