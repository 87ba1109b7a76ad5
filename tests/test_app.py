"""The page of app.py in headless Chromium, on real servers: files, microphone, results, limits, privacy."""
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request

import mido
import numpy as np
import pytest
import soundfile
import torch
from selenium.webdriver import ActionChains

import Chunks
import Hyperparameters as hp
import Marks
import Recordings
import Tuning
import Util

endings = (".wav", ".mp3", ".mid", ".html")
with_models = ("import sys, pathlib; sys.path.insert(0, sys.argv.pop(1)); import Hyperparameters as hp; "
               "hp.models = pathlib.Path(sys.argv.pop(1)); import app; app.Util.run(app.main)")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def serve(folder, command, port, **environment):
    """Run a server with its temporary files and its output in `folder`."""
    (folder / "temporary").mkdir()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=log, stderr=log, env={
            **os.environ, "TMPDIR": str(folder / "temporary"), "PYTHONUNBUFFERED": "1", **environment},
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
    ports = free_port(), free_port()
    with (serve(tmp_path_factory.mktemp("app"), ["-c", with_models, str(root), str(models), "--max-minutes", "10",
                                                 "--max-megabytes", "10"], ports[0], GRADIO_SERVER_PORT=str(ports[0]))
          as one, serve(tmp_path_factory.mktemp("brief"), [str(root / "app.py"), "--port", str(ports[1]),
                                                           "--keep-minutes", "0.05"], ports[1]) as other):
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
    audio = Util.read_audio(hp.demo)[:4 * hp.sample_rate]
    Util.write_audio(path, audio)
    return path, audio


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """Three minutes: the demo recording again and again."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.tile(Util.read_audio(hp.demo)[::2], 6), hp.sample_rate // 2, subtype="PCM_U8")
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
        return wait(lambda: self.run(script))

    def button(self, text, script="true"):
        """Return whether there is a button that can be pressed, after a script over it, `found`."""
        return self.run("""
            const found = [...document.querySelectorAll("button")].find(one =>
                one.innerText.trim() === arguments[0] && one.offsetHeight && !one.disabled);
            return found ? (() => { """ + script + """; return true; })() : false;""", text)

    def click(self, text):
        wait(lambda: self.button(text, "found.click()"))

    def is_empty(self):
        return self.run("return document.querySelector('input[type=file]') !== null")

    def give(self, path):
        wait(self.is_empty)
        self.browser.find_element("css selector", "input[type=file]").send_keys(str(path))

    def remove(self):
        self.run("document.querySelector('button[aria-label=Clear]').click()")
        wait(self.is_empty)

    def choose(self, path):
        if not self.is_empty():
            self.remove()
        self.give(path)
        self.until("return document.querySelector('.file-preview') !== null")

    def page(self):
        return self.run("return document.body.innerText")

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

    def errors(self):
        return self.run("return [...document.querySelectorAll('[data-testid=toast-text]')].map(one => one.innerText)")

    def player(self):
        return wait(lambda: self.browser.find_elements("css selector", "#player iframe"))[0]

    def download(self, name):
        """Download a file, and return its path."""
        before = set(self.folder.iterdir())
        self.click(f"Download {name}")
        path = wait(lambda: [path for path in set(self.folder.iterdir()) - before
                             if path.suffix in endings and path.stat().st_size])[0]
        return path


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


def test_a_recording_is_converted_played_and_downloaded(visit, server, recording, browser):
    visitor = visit(server)
    assert "at most 10 minutes and 10 MB. It is kept until you replace or remove it, or close" in visitor.page()
    assert not visitor.button("Download wav")
    visitor.convert(recording[0])
    assert visitor.errors() == []
    page = visitor.player().get_attribute("srcdoc")
    assert visitor.player().get_attribute("sandbox") == "allow-scripts"
    browser.switch_to.frame(visitor.player())
    assert visitor.run("return pieces.map(piece => [piece.seconds, piece.sounds.length])") == [[4, 3]]
    browser.find_element("css selector", "button.play").click()
    visitor.until("return active.source && active.current > 0.1")
    began = visitor.run("return active.began")
    for key in "31":
        ActionChains(browser).send_keys(key).perform()
        visitor.until(f"return active.sounding === {int(key) - 1}")
        assert visitor.run("return active.source !== null")
        assert visitor.run("return active.began") == pytest.approx(began, abs=1e-6)
    browser.switch_to.default_content()
    for name in "wav", "mp3":
        path = visitor.download(name)
        audio, rate = soundfile.read(path)
        assert path.name == f"short_epiano.{name}" and rate == hp.sample_rate
        assert len(audio) == pytest.approx(len(recording[1]), abs=2500 * (name == "mp3"))
        assert np.sqrt(np.mean(audio ** 2)) == pytest.approx(np.sqrt(np.mean(recording[1] ** 2)), rel=0.3)
    messages = [message.type for message in mido.MidiFile(visitor.download("MIDI"))]
    assert messages.count("note_on") > 10
    saved = visitor.download("page")
    head, mark, rest = saved.read_text(encoding="utf-8").partition(f'<meta name="generator" content="{Marks.program}')
    assert head + rest.partition("\n")[2] == page and mark and Marks.read_mark(saved)[1]
    for entry in map(json.loads, (entry["message"] for entry in browser.get_log("performance"))):
        if entry["message"]["method"] == "Network.requestWillBeSent":  # nothing from elsewhere
            address = entry["message"]["params"]["request"]["url"]
            assert address.startswith((server.url, "data:", "blob:", "about:", "chrome"))


def test_the_recording_stays_until_it_is_removed_and_all_is_removed_when_the_visitor_leaves(visit, server, recording,
                                                                                           browser):
    visitor, results = visit(server), sorted(f"short_epiano{ending}" for ending in endings)
    wait(lambda: server.files() == [])
    visitor.choose(recording[0])
    wait(lambda: server.files() == ["short.wav"])  # for a moment the upload is seen where it was and where it goes
    for _ in range(2):  # the second time without an upload
        visitor.click("Convert")
        shown = visitor.percentages()
        assert len(shown) > 1 and shown == [step for step in (
            "transcription - 0.0%", "resynthesis - 25.0%", "resynthesis - 50.0%", "files - 75.0%") if step in shown]
        visitor.finish()
        assert server.files() == ["short.wav", *results] and not visitor.is_empty()
    link = visitor.run("return document.querySelector('a[href*=short]').href")
    assert ask(link)[0] == 200
    visitor.remove()
    wait(lambda: server.files() == results)
    visitor.convert()
    assert visitor.errors() == ["Choose a file, record a piano, or take the demo recording."]
    visitor.convert(recording[0])
    browser.get("about:blank")
    wait(lambda: server.files() == [])
    assert ask(link)[0] == 403


def test_results_of_an_open_page_are_removed_after_a_time(visit, servers, recording):
    server = servers[1]
    visitor = visit(server)
    visitor.choose(recording[0])
    visitor.click("Convert")
    wait(lambda: server.files() == ["short.wav", *sorted(f"short_epiano{ending}" for ending in endings)])
    visitor.finish()
    wait(lambda: server.files() == ["short.wav"], 15)
    visitor.convert()
    assert visitor.errors() == []


def test_wrong_files_give_one_sentence_and_the_next_conversion_works(visit, server, recording, tmp_path):
    visitor = visit(server)
    visitor.convert()
    (tmp_path / "wrong.wav").write_text("no audio", encoding="utf-8")
    (tmp_path / "empty.m4a").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(hp.sample_rate), hp.sample_rate)
    for name in "wrong.wav", "silent.wav":
        visitor.convert(tmp_path / name)
        wait(lambda: any(name in error for error in visitor.errors()))
    assert visitor.errors() == ["Choose a file, record a piano, or take the demo recording.",
                                "wrong.wav is not audio that libsndfile or FFmpeg reads; export it again, as wav or "
                                "flac", "silent.wav is silent; choose another recording"]
    assert server.files() == ["silent.wav"]
    visitor.convert(recording[0])
    visitor.player()
    assert "Traceback" not in server.log()


def test_limits_are_checked_before_the_work(visit, server, tmp_path):
    soundfile.write(tmp_path / "hours.flac", np.zeros(601 * 8000, np.int16), 8000)
    (tmp_path / "large.wav").write_bytes(bytes(11 << 20))
    visitor = visit(server)
    visitor.convert(tmp_path / "hours.flac")
    assert visitor.errors() == ["hours.flac is longer than 10 minutes; cut it into shorter parts"]
    visitor.remove()
    visitor.give(tmp_path / "large.wav")
    wait(lambda: any("maximum allowed size" in error for error in visitor.errors()))
    assert upload(server, "large.wav", bytes(11 << 20))[0] == 413
    assert server.files() == []


def upload(server, name, content):
    """Upload a file without a browser."""
    body = (f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content
            + b"\r\n--x--\r\n")
    return ask(f"{server.url}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})


def test_the_sizes_and_lengths_that_pass(recording, tmp_path):
    Recordings.check_limits(recording[0], 4, 1e6)
    with pytest.raises(ValueError, match="is longer than 0.05 minutes"):
        Recordings.check_limits(recording[0], 3, 1e6)
    with pytest.raises(ValueError, match="is larger than 0.1 MB"):
        Recordings.check_limits(recording[0], 4, 0.1 * 2 ** 20)
    Recordings.check_limits(tmp_path / "missing.wav", 4, 1e6)
    (tmp_path / "wrong.wav").write_text("no audio", encoding="utf-8")
    Recordings.check_limits(tmp_path / "wrong.wav", 4, 1e6)


def computed(server):
    """Return the seconds that a server has computed."""
    shown = subprocess.run(["ps", "-o", "cputime=", "-p", str(server.process.pid)], capture_output=True, text=True)
    return sum(60 ** place * float(part) for place, part in enumerate(reversed(shown.stdout.strip().split(":"))))


def computed_until_idle(server):
    """Return the seconds that a server computes until it has nothing to do."""
    before = now = computed(server)
    while time.sleep(1.1) or now != computed(server):
        now = computed(server)
    return now - before


def test_one_conversion_at_a_time_and_cancel(visit, server, recording, long_recording, browser):
    visitor = visit(server)
    visitor.choose(long_recording)
    visitor.click("Convert")
    visitor.until(r"return /transcription - [1-9]/.test(document.body.innerText)")
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        other = visit(server)
        other.choose(recording[0])
        other.click("Convert")
        other.until("return document.body.innerText.includes('queue: 1/1')")
        browser.switch_to.window(first)
        visitor.click("Cancel")
        before = computed(server)
        visitor.finish()
        assert visitor.errors() == [] and not browser.find_elements("css selector", "#player iframe")
        browser.switch_to.window(browser.window_handles[1])
        other.finish()  # far earlier than the long one would have
        other.player()
        assert computed(server) - before + computed_until_idle(server) < 12
        assert server.files() == ["long.wav", "short.wav", *sorted(f"short_epiano{ending}" for ending in endings)]
    finally:
        browser.close()
        browser.switch_to.window(first)
    visitor.convert(recording[0])
    visitor.player()


def test_closing_the_page_stops_the_conversion(visit, server, long_recording, browser):
    visitor = visit(server)
    visitor.choose(long_recording)
    visitor.click("Convert")
    visitor.until(r"return /transcription - [1-9]/.test(document.body.innerText)")
    browser.get("about:blank")
    wait(lambda: server.files() == [])
    assert computed_until_idle(server) < 8  # a whole conversion takes 30 s
    assert "Traceback" not in server.log()


def test_names_of_files_are_only_text(visit, server, recording, tmp_path, browser):
    path = tmp_path / """a<script>alert(1)<b>..'"$(touch x)`;{{7*7}}${7*7}&lt; \u00e9 \U0001f3b9 #1 100%.wav"""
    path.write_bytes(recording[0].read_bytes())
    visitor = visit(server)
    visitor.convert(path)
    assert visitor.errors() == []
    assert path.name in visitor.page().replace("\n", "") and path.name in server.files()
    found = visitor.download("wav").name
    assert re.sub('[<>":*?|~]', "_", found) == re.sub('[<>":*?|~]', "_", f"{path.stem}_epiano.wav")  # as Chromium does
    browser.switch_to.frame(visitor.player())
    assert visitor.run("return document.querySelector('h1').textContent") == path.stem
    assert visitor.run("return document.querySelectorAll('h1 *, script').length") == 1  # the player's own
    browser.switch_to.default_content()
    wrong = tmp_path / "<img src=x onerror=alert(1)>.wav"
    wrong.write_text("no audio", encoding="utf-8")
    visitor.convert(wrong)
    assert browser.find_elements("css selector", "[data-testid=toast-text] img") == []
    status, answer = upload(server, "../../../evil.wav", b"evil")
    assert status == 200 and json.loads(answer)[0].startswith(str(server.folder / "temporary"))
    assert ".." not in answer and not list(server.folder.glob("evil*"))


def test_nothing_else_is_served(server, root, recording):
    inside = next((server.folder / "temporary").glob("*"))
    for path in ("/etc/passwd", root / "app.py", server.folder / "log", inside, inside / "short_epiano.wav",
                 inside / "tmpguess" / "short_epiano.wav", "http://127.0.0.1:1/", "http://example.com/"):
        assert ask(f"{server.url}gradio_api/file={path}")[0] in (403, 404), path
    assert json.loads(ask(f"{server.url}gradio_api/info")[1]) == {"named_endpoints": {}, "unnamed_endpoints": {}}
    number = next(one["id"] for one in json.loads(ask(f"{server.url}config")[1])["dependencies"]
                  if len(one["inputs"]) == 5)
    for path in str(root / "data" / "demo" / hp.demo.name), "http://127.0.0.1:1/a.wav":
        body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, None, "shipped", 0, 0],
                "fn_index": number, "session_hash": "guess"}
        ask(f"{server.url}gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"})
        answer = ask(f"{server.url}gradio_api/queue/data?session_hash=guess")[1]
        assert '"success":false' in answer and "epiano" not in answer
    assert hp.demo.exists()


def test_it_listens_on_this_computer_alone(server):
    with contextlib.suppress(OSError), socket.create_connection((socket.gethostbyname(socket.gethostname()),
                                                                 server.port), timeout=5) as connection:
        assert connection.getpeername()[0].startswith("127.")


def test_microphone(visit, server, browser):
    visitor = visit(server)
    visitor.click("Record")
    time.sleep(2.5)
    visitor.click("Stop")
    wait(lambda: not visitor.button("Stop"))
    time.sleep(0.5)
    visitor.convert()
    browser.switch_to.frame(visitor.player())
    assert 1 < visitor.run("return pieces[0].seconds") < 10
    browser.switch_to.default_content()
    assert visitor.download("wav").stat().st_size > 44
    visitor.convert()  # the same recording, now as a file
    assert visitor.errors() == []


def test_demo_recording(visit, server, browser):
    visitor = visit(server)
    wait(lambda: server.files() == ["evil.wav"] or not server.files())
    for _ in range(2):
        visitor.click("Take the demo recording")
        wait(lambda: hp.demo.name in server.files() and visitor.run(
            "return document.querySelector('.file-preview')?.innerText.includes(arguments[0])", hp.demo.stem))
        assert hp.demo.exists()
        visitor.click("Convert")
        visitor.click("Cancel")
        visitor.finish()
        for _ in range(20):  # Gradio says it to screen readers for a second
            assert "common." not in visitor.page()
            time.sleep(0.1)
        assert hp.demo.name in server.files() and not visitor.is_empty()


def test_stereo_and_tuning(visit, server, tmp_path):
    audio = Util.resample(Util.read_audio(hp.demo)[:5 * hp.sample_rate], 10000, round(10000 * 2 ** (30 / 1200)))
    soundfile.write(tmp_path / "flat.flac", np.stack([audio, audio / 2], 1), hp.sample_rate)
    visitor = visit(server)
    for label in "A = 440 Hz", "stereo":
        visitor.run("""[...document.querySelectorAll('label')].find(
            one => one.innerText.trim() === arguments[0]).click();""", label)
    visitor.convert(tmp_path / "flat.flac")
    sound, _ = soundfile.read(visitor.download("wav"), dtype="float32")
    assert sound.shape == audio.shape + (2,)
    assert Tuning.estimate_cents(audio) == pytest.approx(-28, abs=5)
    assert Tuning.estimate_cents(sound) == pytest.approx(0, abs=5)


def test_a_model_of_few_pieces_without_notes(visit, server, recording, browser):
    visitor = visit(server)
    assert visitor.run("return document.querySelector('input[aria-label=Model]').value") == "shipped"
    browser.find_element("css selector", "input[aria-label=Model]").click()
    options = visitor.until("return [...document.querySelectorAll('[role=option]')].map(one => one.innerText.trim())")
    assert [option.removeprefix("\u2713").strip() for option in options] == ["own, trained on 8 pieces", "shipped"]
    browser.find_elements("css selector", "[role=option]")[0].click()
    visitor.convert(recording[0])
    assert visitor.errors() == []
    assert [visitor.button(f"Download {name}") for name in ("wav", "mp3", "MIDI", "page")] == [1, 1, 0, 1]
    browser.switch_to.frame(visitor.player())
    assert visitor.run("return [pieces[0].sounds.length, document.querySelector('.notes')]") == [3, None]
    assert "From Vibraphone to Music Box" in visitor.page()
    browser.switch_to.default_content()
    assert visitor.download("wav").name == "short_music_box.wav"


def test_it_fits_the_window_in_light_and_dark(visit, server, recording, browser):
    visitor = visit(server)
    visitor.convert(recording[0])
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        for frame in None, visitor.player():
            if frame:
                browser.switch_to.frame(frame)
            wait(lambda: seen(visitor.run)[1:] == (True, scheme))
            assert seen(visitor.run)[0] <= width
            if frame:  # which is as high as the page in it
                wait(lambda: visitor.run("return document.documentElement.offsetHeight === innerHeight"))
        browser.switch_to.default_content()


def seen(run):
    """Return the width of a page, whether it fits its window, and whether it is light or dark."""
    wide, room, ground, ink = run("""
        const style = getComputedStyle(document.body);
        return [document.documentElement.scrollWidth, innerWidth,
                ...[style.backgroundColor, style.color].map(text => Math.max(...text.match(/\\d+/g).map(Number)))];""")
    return wide, wide <= room, "light" if ground > ink else "dark"


def test_ctrl_c_ends_it_without_a_trace(servers):
    server = servers[1]
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 130
    assert server.log().splitlines()[-1] == "app.py: stopped" and "Traceback" not in server.log()
    assert server.files() == []


def test_a_port_in_use_and_a_missing_package(command, server, tmp_path):
    process = command(tmp_path, "app.py", "--port", server.port)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == f"app.py: port {server.port} of 127.0.0.1 is not free; choose another --port\n"
    (tmp_path / "gradio.py").write_text("raise ImportError", encoding="utf-8")
    process = command(tmp_path, "app.py", PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    assert process.stderr == "app.py: Gradio is missing; install it with: pip install -r requirements-app.txt\n"


def test_on_chunk_hears_of_each_chunk_and_may_end_the_work(capsys):
    def stop(*call):
        calls.append(call)
        if call[1] == 2:
            raise ValueError("stopped")

    calls, done = [], []
    token = Chunks.on_chunk.set(stop)
    try:
        with pytest.raises(ValueError, match="stopped"):
            done.extend(Chunks.track([(0, 8), (8, 16), (16, 24)], "transcription"))
    finally:
        Chunks.on_chunk.reset(token)
    assert calls == [("transcription", number, 3) for number in range(3)]
    assert list(Chunks.track([(0, 8)], "transcription")) == [(0, 8)] and capsys.readouterr().err == ""


def test_warnings_go_where_they_are_wanted(capsys):
    found, token = [], Util.on_warning.set(None)
    Util.on_warning.set(found.append)
    try:
        Util.warn("one")
    finally:
        Util.on_warning.reset(token)
    Util.warn("two")
    assert found == ["one"] and capsys.readouterr().err == "warning: two\n"
