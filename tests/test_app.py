"""The page of app.py in headless Chromium, on real servers: files, microphone, results, limits, privacy."""
import contextlib
import json
import re
import signal
import socket
import subprocess
import time

import mido
import numpy as np
import pytest
import soundfile
from selenium.webdriver import ActionChains

import Hyperparameters as hp
import Util
from audio import audio_files, concert_pitch
from notes import note_events
from outputs import marks
from app_common import ask, browser, long_recording, recording, results, server, servers, visit, wait


def test_a_recording_is_converted_played_and_downloaded(visit, server, recording, browser):
    visitor = visit(server)
    assert "at most 10 minutes and 10 MB. It is kept until you replace or remove it, or close" in visitor.page()
    assert not visitor.button("Download wav")
    visitor.convert(recording[0])
    assert visitor.errors() == []
    page = visitor.player().get_attribute("srcdoc")
    assert visitor.player().get_attribute("sandbox") == "allow-scripts"
    with visitor.in_player():
        assert visitor.run("return pieces.map(piece => [piece.seconds, piece.sounds.length])") == [[4, 3]]
        browser.find_element("css selector", "button.play").click()
        visitor.until("active.source && active.current > 0.1")
        began = visitor.run("return active.began")
        ActionChains(browser).send_keys("3").perform()
        visitor.until("active.sounding === 2 && active.source !== null")
        assert visitor.run("return active.began") == pytest.approx(began, abs=1e-6)
    for name in "wav", "mp3":
        path = visitor.download(name)
        audio, rate = soundfile.read(path)
        assert path.name == f"short_epiano.{name}" and rate == hp.sample_rate
        assert len(audio) == pytest.approx(len(recording[1]), abs=2500 * (name == "mp3"))
        assert np.sqrt(np.mean(audio ** 2)) == pytest.approx(np.sqrt(np.mean(recording[1] ** 2)), rel=0.3)
    assert [message.type for message in mido.MidiFile(visitor.download("MIDI"))].count("note_on") > 10
    saved = visitor.download("page")
    head, mark, rest = saved.read_text(encoding="utf-8").partition(f'<meta name="generator" content="{marks.program}')
    assert head + rest.partition("\n")[2] == page and mark and marks.read_mark(saved)[1]
    for entry in map(json.loads, (entry["message"] for entry in browser.get_log("performance"))):
        if entry["message"]["method"] == "Network.requestWillBeSent":  # nothing from elsewhere
            address = entry["message"]["params"]["request"]["url"]
            assert address.startswith((server.url, "data:", "blob:", "about:", "chrome"))


def test_the_recording_stays_until_it_is_removed_and_all_is_removed_when_the_visitor_leaves(visit, server, recording,
                                                                                           browser):
    visitor = visit(server)
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
    visitor.begin(recording[0], ".")
    wait(lambda: server.files() == ["short.wav", *results])
    visitor.finish()
    wait(lambda: server.files() == ["short.wav"], 15)
    visitor.convert()
    assert visitor.errors() == []


def test_wrong_files_give_one_sentence_and_the_next_conversion_works(visit, server, recording, tmp_path):
    (tmp_path / "wrong.wav").write_text("no audio", encoding="utf-8")
    soundfile.write(tmp_path / "silent.wav", np.zeros(hp.sample_rate), hp.sample_rate)
    soundfile.write(tmp_path / "hours.flac", np.zeros(601 * 8000, np.int16), 8000)
    (tmp_path / "large.wav").write_bytes(bytes(11 << 20))
    visitor = visit(server)
    for name in "wrong.wav", "silent.wav", "hours.flac":
        visitor.convert(tmp_path / name)
        wait(lambda: any(name in error for error in visitor.errors()))
    assert visitor.errors() == ["wrong.wav is not audio that libsndfile or FFmpeg reads; export it again, as wav or "
                                "flac", "silent.wav is silent; choose another recording",
                                "hours.flac is longer than 10 minutes; cut it into shorter parts"]
    assert server.files() == ["hours.flac"]
    visitor.remove()
    visitor.file_input().send_keys(str(tmp_path / "large.wav"))
    wait(lambda: any("maximum allowed size" in error for error in visitor.errors()))
    assert upload(server, "large.wav", bytes(11 << 20))[0] == 413 and server.files() == []
    visitor = visit(server)
    visitor.convert(recording[0])
    visitor.player()
    assert "Traceback" not in server.log()


def test_corrected_notes_and_the_level(visit, server, recording, tmp_path):
    visitor = visit(server)
    visitor.convert(recording[0])
    notes = note_events.read_notes(visitor.download("MIDI"))
    before, _ = soundfile.read(visitor.download("wav"))
    early = notes[notes[:, 0] < 2]
    note_events.save_notes(tmp_path / "early.mid", early)
    visitor.open_notes()
    visitor.choose(tmp_path / "early.mid", "midi")
    wait(lambda: server.files() == ["early.mid", "short.wav", *results])
    for label, peak in ("as loud as possible", hp.peak), ("as recorded", np.abs(before[:44100]).max()):
        visitor.tick(label)
        visitor.convert()
        after, _ = soundfile.read(visitor.download("wav"))
        assert np.abs(after).max() == pytest.approx(peak, rel=0.1)
    assert visitor.errors() == []
    assert np.linalg.norm(after[:44100]) == pytest.approx(np.linalg.norm(before[:44100]), rel=0.05)
    assert np.linalg.norm(after[-22050:]) < 0.01 * np.linalg.norm(before[-22050:])
    assert note_events.read_notes(visitor.download("MIDI")) == pytest.approx(early, abs=2e-3)
    with visitor.in_player():
        assert f"Notes {len(early)};" in visitor.page()
    visitor.remove("midi")
    wait(lambda: server.files() == ["short.wav", *results])
    visitor.choose(tmp_path / "early.mid", "midi")
    visitor.remove()  # the recording, and its notes with it
    wait(lambda: visitor.is_empty("midi") and server.files() == results)
    visitor.choose(tmp_path / "early.mid", "midi")  # which may come first
    visitor.choose(recording[0])
    wait(lambda: server.files() == ["early.mid", "short.wav", *results])
    visitor.click("Take the demo recording")
    wait(lambda: visitor.is_empty("midi") and server.files() == sorted([hp.demo.name, *results]))


def test_wrong_corrected_notes_and_notes_instead_of_a_recording(visit, server, recording, tmp_path):
    (tmp_path / "text.mid").write_text("no notes", encoding="utf-8")
    (tmp_path / "large.MID").write_bytes(bytes((1 << 20) + 1))
    note_events.save_notes(tmp_path / "late.mid", np.float32([[5, 6, 60, 64]]))
    visitor = visit(server)
    visitor.choose(recording[0])
    visitor.open_notes()
    for name in "text.mid", "large.MID", "late.mid":
        visitor.choose(tmp_path / name, "midi")
        visitor.convert()
    visitor.convert(tmp_path / "late.mid")
    assert visitor.errors() == [
        "text.mid is not a MIDI file, or is damaged (no complete header); replace or remove it",
        "large.MID is larger than 1 MB; save the notes of this recording alone",
        "late.mid has no notes of a piano in the first 4 s; give others",
        "late.mid is a MIDI file; play it with: python Main.py late.mid"]


def upload(server, name, content):
    """Upload a file without a browser."""
    body = (f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content
            + b"\r\n--x--\r\n")
    return ask(f"{server.url}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})


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
    visitor.begin(long_recording)
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        other = visit(server)
        other.begin(recording[0], "queue: 1/1")
        browser.switch_to.window(first)
        visitor.click("Cancel")
        before = computed(server)
        visitor.finish()
        assert visitor.errors() == [] and not browser.find_elements("css selector", "#player iframe")
        browser.switch_to.window(browser.window_handles[1])
        other.finish()  # far earlier than the long one would have
        other.player()
        assert computed(server) - before + computed_until_idle(server) < 12
        assert server.files() == ["long.wav", "short.wav", *results]
    finally:
        browser.close()
        browser.switch_to.window(first)
    visitor.convert(recording[0])
    visitor.player()


def test_closing_the_page_stops_the_conversion(visit, server, long_recording, browser):
    visit(server).begin(long_recording)
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
    with visitor.in_player():
        assert visitor.run("return document.querySelector('h1').textContent") == path.stem
        assert visitor.run("return document.querySelectorAll('h1 *, script').length") == 1  # the player's own
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
                  if len(one["inputs"]) == 7)
    for path in str(root / "data" / "demo" / hp.demo.name), "http://127.0.0.1:1/a.wav":
        body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, None, None, "shipped", 0, 0, "recorded"],
                "fn_index": number, "session_hash": "guess"}
        ask(f"{server.url}gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"})
        answer = ask(f"{server.url}gradio_api/queue/data?session_hash=guess")[1]
        assert '"success":false' in answer and "epiano" not in answer
    assert hp.demo.exists()
    # the server listens on this computer alone
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
    with visitor.in_player():
        assert 1 < visitor.run("return pieces[0].seconds") < 10
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
    audio = audio_files.read_audio(hp.demo)[:5 * hp.sample_rate]
    audio = audio_files.resample(audio, 10000, round(10000 * 2 ** (30 / 1200)))
    soundfile.write(tmp_path / "flat.flac", np.stack([audio, audio / 2], 1), hp.sample_rate)
    visitor = visit(server)
    visitor.tick("A = 440 Hz", "stereo")
    visitor.convert(tmp_path / "flat.flac")
    sound, _ = soundfile.read(visitor.download("wav"), dtype="float32")
    assert sound.shape == audio.shape + (2,)
    assert concert_pitch.estimate_cents(audio) == pytest.approx(-28, abs=5)
    assert concert_pitch.estimate_cents(sound) == pytest.approx(0, abs=5)


def test_a_model_of_few_pieces_without_notes(visit, server, recording, browser, tmp_path):
    visitor = visit(server)
    assert visitor.run("return document.querySelector('input[aria-label=Model]').value") == "shipped"
    browser.find_element("css selector", "input[aria-label=Model]").click()
    options = visitor.until("[...document.querySelectorAll('[role=option]')].map(one => one.innerText.trim())")
    assert [option.removeprefix("\u2713").strip() for option in options] == ["own, trained on 8 pieces", "shipped"]
    browser.find_elements("css selector", "[role=option]")[0].click()
    visitor.convert(recording[0])
    assert visitor.errors() == []
    offered = [name for name in ("wav", "mp3", "MIDI", "page") if visitor.button(f"Download {name}")]
    assert offered == ["wav", "mp3", "page"]
    with visitor.in_player():
        assert visitor.run("return [pieces[0].sounds.length, document.querySelector('.notes')]") == [3, None]
        assert "From Vibraphone to Music Box" in visitor.page()
    assert visitor.download("wav").name == "short_music_box.wav"
    visitor.open_notes()
    note_events.save_notes(tmp_path / "one.mid", np.float32([[1, 2, 60, 64]]))
    visitor.choose(tmp_path / "one.mid", "midi")
    visitor.convert()
    assert [error.partition(";")[0] for error in visitor.errors()] == ["This model has no notes to correct"]


@pytest.mark.parametrize("width, scheme", ((390, "dark"), (1280, "light")))
def test_it_fits_the_window_in_light_and_dark(visit, server, recording, browser, width, scheme):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    visitor, fits = visit(server), f"document.documentElement.scrollWidth <= Math.min(innerWidth, {width})"
    visitor.convert(recording[0])
    visitor.until(fits)
    with visitor.in_player():
        visitor.until(f"{fits} && document.documentElement.offsetHeight === innerHeight")  # as high as the page in it
        ground = visitor.run("return getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(19, 17, 22)"}[scheme]


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


def test_warnings_go_where_they_are_wanted(capsys):
    found, token = [], Util.on_warning.set(None)
    Util.on_warning.set(found.append)
    try:
        Util.warn("one")
    finally:
        Util.on_warning.reset(token)
    Util.warn("two")
    assert found == ["one"] and capsys.readouterr().err == "warning: two\n"
