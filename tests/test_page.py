"""results/index.html in headless Chromium: players load, one plays at a time, versions of a piece keep one position."""
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys

import make


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = next(filter(None, map(shutil.which, (
        "chromium", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.fail("Chromium or its driver is missing; to run the tests: apt-get install chromium chromium-driver",
                    pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--mute-audio",
                 "--autoplay-policy=no-user-gesture-required",
                 f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_script_timeout(20)
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser):
    """Function that runs JavaScript on the page, with `players`, `until(condition)` and `await`; returns its result."""
    path = make.results / "index.html"
    assert path.exists(), "make results writes the page"
    browser.get(path.as_uri())

    def run(script):
        return browser.execute_async_script("""
            const done = arguments[arguments.length - 1], players = [...document.querySelectorAll("audio")];
            const until = async condition => { while (!condition()) await new Promise(next => setTimeout(next, 20)); };
            (async () => {""" + script + "})().then(done, error => done(String(error)));")

    run("""
        await until(() => players.every(player => player.readyState > 0 || player.error));
        for (let frame = 0; frame < 2; frame++)  // Chromium drops keys that come before it has painted
            await new Promise(requestAnimationFrame);""")
    return run


def test_every_player_and_picture_loads_and_nothing_complains(browser, page):
    players = page("return players.map(player => [player.getAttribute('src'), player.duration, player.error]);")
    assert [source for source, *_ in players] == [f"{name}_{side}.wav" for name in make.sounds for side in make.sides]
    assert all(duration == pytest.approx(30) and error is None for _, duration, error in players)
    pictures = page("""
        const pictures = [...document.images];
        for (const picture of pictures) picture.loading = "eager";
        await until(() => pictures.every(picture => picture.complete));
        return pictures.map(picture => [picture.getAttribute("src"), picture.naturalWidth, picture.alt]);""")
    assert len(pictures) == len(players) + len(make.figure_names)
    assert [source for source, width, alt in pictures if not (width and alt)] == []
    assert browser.get_log("browser") == []


def test_playing_pauses_the_others_and_keeps_the_position(page):
    first, second, alone, other_piece = page("""
        players[0].currentTime = 10;
        await until(() => !players[0].seeking);
        players[0].play();
        await until(() => players[0].currentTime > 10.3);
        const first = players[0].currentTime;
        players[2].play();
        await until(() => players[0].paused && !players[2].seeking);
        const second = players[2].currentTime, alone = players.filter(player => !player.paused).length;
        players[5].play();
        await until(() => players[2].paused);
        return [first, second, alone, players[5].currentTime];""")
    assert second == pytest.approx(first, abs=0.25) and alone == 1
    assert other_piece < 1


def test_a_seek_moves_all_versions_of_the_piece(page):
    assert page("""
        players[5].currentTime = 20;
        await until(() => players.slice(4, 8).every(player => player.currentTime === 20));
        return players.map(player => player.currentTime);""") == [0] * 4 + [20] * 4 + [0] * 4


def test_of_two_started_at_once_the_last_plays(browser, page):
    keys = """
        for (const key of ['3', '2', '1'])
            document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));"""
    assert page(keys + """
        await until(() => players[0].currentTime > 0.1);
        return players.map((player, number) => player.paused ? null : number)
            .filter(number => number !== null);""") == [0]
    assert browser.get_log("browser") == []


def test_keys(browser, page):
    playing = "return players.map(player => !player.paused).indexOf(true);"

    def press(*keys):
        ActionChains(browser).send_keys(*keys).perform()

    press("3")
    page("await until(() => !players[2].paused);")
    press("2")
    page("await until(() => !players[1].paused && players[2].paused);")
    page("await until(() => players[1].currentTime > 0.1 && !players[1].seeking);")  # it plays by now
    press(Keys.ARROW_RIGHT)
    assert 5 <= page("return players[1].currentTime;") < 8
    press(" ")
    assert page(playing) == -1
    for _ in range(100):  # from player to player into the second piece
        press(Keys.TAB)
        if page("return players.indexOf(document.activeElement);") >= 4:
            break
    press("4")
    page("await until(() => !players[7].paused);")
    assert page(playing) == 7


def test_a_click_on_a_spectrogram_goes_there_and_its_line_follows(page):
    time, line = page("""
        const picture = document.querySelector(".picture"), line = picture.querySelector("i");
        const box = picture.getBoundingClientRect();
        players[0].currentTime = 15;
        await until(() => !players[3].seeking && players[3].currentTime === 15);
        const middle = line.getBoundingClientRect().left;
        players[0].currentTime = 0;
        await until(() => !players[0].seeking && players[3].currentTime === 0);
        picture.dispatchEvent(new MouseEvent("click", {clientX: middle, clientY: box.top + 50, bubbles: true}));
        await until(() => players[3].currentTime > 0);
        return [players[3].currentTime, (line.getBoundingClientRect().left - box.left) / box.width];""")
    assert time == pytest.approx(15, abs=0.1) and 0.3 < line < 0.7


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window(browser, page, width):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    assert page("return document.documentElement.scrollWidth;") <= width
