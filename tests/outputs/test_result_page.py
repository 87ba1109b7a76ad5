"""The page of a recording, and that of results/, in headless Chromium: playing, switching, seeking."""
import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys

import Hyperparameters as hp
import Util
from audio import audio_files
from outputs import result_page
import make

tones = {"Recording": 440, "Draft": 880, "Electric <piano>": 1760}  # Hz
seconds = 12.0


@pytest.fixture(scope="module")
def browser(start_browser):
    return start_browser("--autoplay-policy=no-user-gesture-required")


@pytest.fixture
def open_page(browser):
    """Function that opens a page and returns one that runs JavaScript on it, with `until(condition)` and `await`."""

    def run(script):
        return browser.execute_async_script("""
            const done = arguments[arguments.length - 1];
            const until = async condition => { while (!condition()) await new Promise(next => setTimeout(next, 20)); };
            (async () => {""" + script + "})().then(done, error => done(String(error)));")

    def open_page(path):
        browser.get(path.as_uri())
        run("for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);")  # else keys are lost
        return run

    return open_page


@pytest.fixture(scope="module")
def tone_page(tmp_path_factory):
    """A page of three versions, a tone each, and of three notes."""
    time = np.arange(round(seconds * hp.sample_rate)) / hp.sample_rate
    versions = {name: (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32) for name, hertz in tones.items()}
    notes = np.array([[0.5, 3, 60, 20], [2, 11.9, 64, 80], [11, 12, 67, 127]], np.float32)
    path = tmp_path_factory.mktemp("page") / "mine.html"
    Util.save_text(path, result_page.recording_page("A & B <c>", versions, notes))
    return path


@pytest.fixture
def page(open_page, tone_page):
    return open_page(tone_page)


def resize(browser, width):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


heard = """
    const analyser = context.createAnalyser(), bins = new Float32Array(analyser.fftSize = 2048);
    active.level.connect(analyser);
    await new Promise(next => setTimeout(next, 300));
    const found = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(found);
    return found.indexOf(Math.max(...found)) * context.sampleRate / analyser.fftSize;"""


def test_a_page_is_complete_in_itself_and_names_no_path(browser, page, tone_page):
    text = tone_page.read_text()
    assert str(tone_page.parent) not in text and str(hp.root) not in text
    assert page("""
        return performance.getEntriesByType("resource").filter(one => !one.name.startsWith("data:")).length;""") == 0
    assert page("return [document.title, document.querySelector('h1').textContent];") == ["A & B <c>"] * 2
    assert page("return active.buttons.map(button => button.textContent.trim());") == [
        f"{number} {name} {result_page.version_remarks.get(name, '')}".strip() for number, name in enumerate(tones, 1)]
    lengths = page("return (await Promise.all([0, 1, 2].map(i => active.sound(i)))).map(one => one.duration);")
    assert lengths == pytest.approx([seconds] * 3, abs=0.1)
    assert page("""
        await until(() => [...document.images].every(image => image.complete));
        return [...document.images].every(image => image.naturalWidth > 0);""")
    assert browser.get_log("browser") == []
    # without scripts there are players
    assert text.count('<audio controls preload="none" src="data:audio/mpeg;base64,') == 3
    assert text.count('<img src="data:image/webp;base64,') == 3


def test_switching_keeps_the_position_to_the_sample(browser, page):
    press(browser, "1")
    page("await until(() => active.source && active.current > 0.2);")
    assert page(heard) == pytest.approx(440, abs=25)
    began = page("return active.began;")
    for key, hertz in zip("23", list(tones.values())[1:]):
        press(browser, key)
        page(f"await until(() => active.sounding === {key} - 1);")
        assert page(heard) == pytest.approx(hertz, abs=25)
        assert page("return active.began;") == pytest.approx(began, abs=1e-6)
    assert page("return [...document.querySelectorAll('.on')].map(lane => lane.getAttribute('aria-label'));") == [
        "Electric <piano>"]
    assert browser.get_log("browser") == []


def test_keys_and_buttons(browser, page):
    press(browser, " ")
    page("await until(() => active.source && active.current > 0.2);")
    press(browser, " ")
    assert page("return active.source;") is None
    stood = page("return active.current;")
    press(browser, Keys.ARROW_RIGHT)
    assert page("return active.current;") == pytest.approx(stood + 5, abs=0.01)
    press(browser, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page("return active.current;") == 0
    page("""
        active.buttons[1].click();
        await until(() => active.sounding === 1 && active.source);
        active.buttons[1].click();""")
    assert page("return [active.source, active.version, active.button.ariaLabel];") == [None, 1, "Play"]
    zoom = page("return active.zoom;")
    press(browser, "+")
    assert page("return active.zoom;") == pytest.approx(1.5 * zoom)
    press(browser, Keys.TAB, Keys.ENTER)  # the first that the keyboard reaches plays
    page("await until(() => active.source);")


def test_a_click_and_the_slider_go_there(page):
    time, line = page("""
        const box = active.strip.getBoundingClientRect(), picture = active.strip.querySelector("img");
        const clientX = box.left + 7 * active.zoom;
        picture.dispatchEvent(new MouseEvent("click", {clientX, clientY: box.top + 60, bubbles: true}));
        await until(() => active.current > 0);
        return [active.current, (active.head.getBoundingClientRect().left + 1
                                 - active.strip.getBoundingClientRect().left) / active.zoom];""")
    assert time == pytest.approx(7, abs=0.05) and line == pytest.approx(7, abs=0.05)
    assert page("""
        active.range.value = 9;
        active.range.dispatchEvent(new Event("input"));
        return [active.current, active.time.textContent];""") == [9, "0:09 / 0:12"]


def test_seeking_while_it_plays_the_end_and_two_started_at_once(page):
    assert page("""
        active.play(2);
        await until(() => active.source);
        await active.seek(11.5);
        const after = active.current;
        await until(() => !active.source);
        return [after > 11.4 && after < 11.8, active.current, active.version];""") == [True, 0, 2]
    assert page("""
        for (const key of ["3", "2", "1"])
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
        await until(() => active.source && active.current > 0.1);
        return [active.version, active.sounding];""") == [0, 0]


def test_notes_lie_over_the_spectrogram_and_in_a_lane(page):
    over, lane = page("""
        return ["img + svg", ".notes svg"].map(which => [...active.section.querySelectorAll(which + " path")]
            .map(path => path.getBoundingClientRect()).map(box => [box.left, box.right])
            .map(ends => ends.map(x => (x - active.strip.getBoundingClientRect().left) / active.zoom)));""")
    assert over == lane and len(lane) == 3
    assert lane == pytest.approx(np.array([[0.5, 3], [2, 11.9], [11, 12]]), abs=0.05)
    assert page("""
        active.notes.click();
        return getComputedStyle(active.section.querySelector("img + svg")).display;""") == "none"


def test_doubtful_notes_are_paler_and_counted(browser, open_page, tmp_path):
    notes = np.array([[0.5, 1, 60, 20, 1], [1, 2, 64, 80, 0.79], [1.5, 2, 67, 127, 0.5], [2, 3, 60, 1, 0.8],
                      [59.96, 61, 60, 1, 0.5]], np.float32)
    versions, path = {"Recording": np.zeros(4 * hp.sample_rate, np.float32)}, tmp_path / "mine.html"
    Util.save_text(path, result_page.recording_page("mine", versions, notes))
    page = open_page(path)
    for place in ".lane.notes", ".lane:has(img)":
        assert page(f"return [...document.querySelectorAll('{place} path')].map(one => [one.classList.value, "
                    "getComputedStyle(one).opacity < 0.5]);") == [
            ["v0", False], ["v2 doubtful", True], ["v3 doubtful", True]]
    assert page("return document.querySelector('.lane.notes small').textContent;") == (
        "5; a brighter one is louder; 3 paler may be wrong, at 0:01.0, 0:01.5, 1:00.0")
    assert "may be wrong" not in result_page.recording_page("mine", versions, notes[:, :4])


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(browser, page, width):
    resize(browser, width)
    page("dispatchEvent(new Event('resize'));")
    assert page("return document.documentElement.scrollWidth;") <= width
    boxes = page("""
        return [...document.querySelectorAll(".bar button, .bar .time, .version, .overview")]
            .map(one => one.getBoundingClientRect()).map(box => [box.left, box.right, box.height]);""")
    assert all(left >= 0 and right <= width for left, right, _ in boxes)
    assert all(height >= 24 for *_, height in boxes)


def test_a_long_piece_is_cut_into_minutes_stays_readable_and_small(open_page, tmp_path):
    audio = np.tile(audio_files.read_audio(hp.demo), 5)  # 150 s
    text = result_page.recording_page("long", {"Recording": audio})
    assert 3 * len(text) < 10e6
    Util.save_text(tmp_path / "long.html", text)
    page = open_page(tmp_path / "long.html")
    widths = page("""
        return [...document.querySelectorAll(".tile")].map(tile => tile.getBoundingClientRect().width / active.zoom);""")
    assert widths == pytest.approx([60, 60, 30], abs=0.1) and sum(widths) == pytest.approx(150, abs=0.05)
    assert page("return active.zoom;") >= 60  # pixels a second
    middle = page("""
        active.seek(120);
        const box = active.scroll.getBoundingClientRect();
        return (active.head.getBoundingClientRect().left - box.left) / box.width;""")
    assert 0.2 < middle < 0.8
    assert page("""
        for (let i = 0; i < 20; i++) active.rescale(active.zoom / 1.5);
        return active.strip.getBoundingClientRect().width - active.scroll.clientWidth;""") == pytest.approx(0, abs=2)


def test_the_page_of_results(browser, open_page, tmp_path):
    for path in make.results.iterdir():
        if path.suffix == ".json" or path.name == "figures":
            (tmp_path / path.name).symlink_to(path)
        if path.suffix == ".wav":  # a second of each, to be quick
            audio_files.write_audio(tmp_path / path.name, audio_files.read_audio(path)[:hp.sample_rate])
    make.save_page(tmp_path)
    page = open_page(tmp_path / "index.html")
    assert page("return pieces.map(piece => [piece.seconds, piece.sounds.length]);") == [[1, 5]] * len(make.sounds)
    assert [title for _, _, title, _ in make.sounds.values()] == page(
        "return pieces.map(piece => piece.section.querySelector('h2').textContent);")
    assert page("""
        const pictures = [...document.images];
        for (const picture of pictures) picture.loading = "eager";
        await until(() => pictures.every(picture => picture.complete));
        return pictures.filter(picture => !picture.naturalWidth).length;""") == 0
    page("await pieces[0].play(0); await until(() => pieces[0].current > 0);")
    page("await pieces[1].play(); await until(() => pieces[1].current > 0);")
    assert page("return [pieces[0].source, pieces[0].current > 0, active === pieces[1]];") == [None, True, True]
    for width in 390, 1280:
        resize(browser, width)
        assert page("return document.documentElement.scrollWidth;") <= width
    assert browser.get_log("browser") == []


def test_a_frame_in_a_notebook_is_as_high_as_its_page(open_page, browser, tone_page):
    path = tone_page.with_name("notebook.html")
    Util.save_text(path, "<!DOCTYPE html>" + result_page.notebook_frame(tone_page.read_text(encoding="utf-8")).data)
    run = open_page(path)
    for width in 500, 1280:
        browser.set_window_size(width, 600)
        browser.switch_to.frame(0)
        run("await until(() => innerHeight > 600 && document.documentElement.offsetHeight === innerHeight);")
        browser.switch_to.default_content()
