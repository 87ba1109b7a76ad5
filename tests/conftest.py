"""Fixtures of several test files. Slow ones are made once per session, in pytest's temporary folder."""
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several workers would wait for one another
    # numba crashes if two processes compile for one cache at the same time
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".pytest_cache" / worker))

import numpy as np
import pytest
import soundfile
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "results")]
import Hyperparameters as hp
import MIDI2Audio
from AEModel import NoteModel
from audio import audio_files
from notes.note_autoencoder import NoteAutoencoder
from notes.table_decoder import TableDecoder
from outputs import plots
from notes_common import pedal, small


@pytest.fixture(scope="session")
def root():
    """The folder that holds the scripts."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def instruments():
    """The default presets (piano, synth), on a machine that can render them."""
    try:
        MIDI2Audio.find_fluidsynth()
        MIDI2Audio.find_soundfont(hp.piano_preset[0])
    except FileNotFoundError as error:
        pytest.fail(f"{error}\nto run the tests: apt-get install fluidsynth fluid-soundfont-gm", pytrace=False)
    return hp.piano_preset, hp.synth_preset


@pytest.fixture(scope="module")
def start_browser(tmp_path_factory):
    """Function that starts headless Chromium with some more flags."""
    from selenium import webdriver

    import make

    started = []

    def start(*flags):
        chromium = next(filter(None, map(shutil.which, make.browsers)), None)
        driver = shutil.which("chromedriver")
        if not (chromium and driver):
            pytest.fail("Chromium or its driver is missing; to run the tests: apt-get install chromium chromium-driver",
                        pytrace=False)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
                     f"--user-data-dir={tmp_path_factory.mktemp('profile')}", *flags):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        started.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)))
        started[-1].set_script_timeout(60)
        return started[-1]

    yield start
    for browser in started:
        browser.quit()


@pytest.fixture(scope="session")
def midi():
    """Function that writes a MIDI file of notes (channel, pitch, onset, end), in seconds, and returns its path.
    `requests` are messages of any other type with an absolute `time` in seconds; they precede notes of that time."""
    import mido

    def write(path, notes=((0, 69, 0.0, 1.0),), requests=(), **header):
        events = [(message.time, 0, message) for message in requests]
        for channel, pitch, onset, end in notes:
            note = dict(channel=channel, note=pitch, velocity=90)
            events += [(onset, 2, mido.Message("note_on", **note)), (end, 1, mido.Message("note_off", **note))]
        file = mido.MidiFile(ticks_per_beat=500, **header)  # at the default tempo a tick is a millisecond
        track, now = file.add_track(), 0
        for time, _, message in sorted(events, key=lambda event: event[:2]):
            track.append(message.copy(time=round(time * 1000) - now))
            now += track[-1].time
        path.parent.mkdir(parents=True, exist_ok=True)
        file.save(path)
        return path

    return write


@pytest.fixture(scope="session")
def command(root):
    """Function that runs a script as its user does, from the folder `cwd`, and returns the finished process."""

    def run(cwd, script, *arguments, **environment):
        return subprocess.run([sys.executable, root / script, *map(str, arguments)], cwd=cwd, capture_output=True,
                              text=True, env={**os.environ, **environment})

    return run


@pytest.fixture(scope="session")
def short_pair(tmp_path_factory, root, instruments):
    """A folder with piano/ and synth/ of the first three seconds of one excerpt."""
    folder = tmp_path_factory.mktemp("short_pair")
    for mode, preset in zip(("piano", "synth"), instruments):
        MIDI2Audio.synthesise_midi_to_audio(root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid",
                                            folder / mode / "satie.wav", *preset, limit_s=3)
    return folder


@pytest.fixture(scope="session")
def demo():
    """The first six seconds of the demo recording."""
    return audio_files.read_audio(hp.demo)[:6 * hp.sample_rate]


@pytest.fixture
def short_demo(tmp_path, monkeypatch):
    """The first two seconds of the demo recording, in place of it."""
    audio, rate = soundfile.read(hp.demo, frames=2 * hp.sample_rate, dtype="int16")
    soundfile.write(tmp_path / hp.demo.name, audio, rate)
    monkeypatch.setattr(hp, "demo", tmp_path / hp.demo.name)
    return hp.demo


@pytest.fixture
def quick_inversion(monkeypatch):
    """Few iterations of the inversion, for tests of something else."""
    for name in "kl_iterations", "griffin_lim_iterations", "report_iterations":
        monkeypatch.setattr(hp, name, 2)


@pytest.fixture(scope="session")
def three_seconds(tmp_path_factory, root, instruments, weights):
    """A data folder with the first three seconds of the excerpts: piano/, synth/ and generated/."""
    import DatasetCreator

    data = tmp_path_factory.mktemp("three_seconds")
    for folder, preset in zip(("piano", "synth"), instruments):
        for excerpt in (root / "data" / "MIDI_test").glob("*.mid"):
            MIDI2Audio.synthesise_midi_to_audio(excerpt, data / folder / f"{excerpt.stem}.wav", *preset, limit_s=3)
    untrained = data / "models" / "untrained" / "ae.torch"
    untrained.parent.mkdir(parents=True)
    shutil.copy(weights[0], untrained)
    DatasetCreator.build(data)
    return data


@contextlib.contextmanager
def limited(name, number):
    """A limit of the system's, for this process and those that it starts."""
    import resource

    limit = getattr(resource, name)
    previous = resource.getrlimit(limit)
    resource.setrlimit(limit, (number, previous[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit, previous)


@pytest.fixture
def small_files():
    """Context manager in which no file, of this process or one that it starts, can grow beyond so many bytes."""
    return lambda size: limited("RLIMIT_FSIZE", size)


@pytest.fixture
def few_files():
    """Context manager in which this process can have so many files open, as after `ulimit -n`."""
    return lambda number: limited("RLIMIT_NOFILE", number)


@pytest.fixture
def data(three_seconds, tmp_path):
    """A copy of `three_seconds` that a test may train on and change."""
    return shutil.copytree(three_seconds, tmp_path / "data")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Paths of the weights of an untrained autoencoder and an untrained, narrow U-Net."""
    from Autoencoder import Autoencoder
    from UNet import UNet

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name, network in ("ae", Autoencoder(channels=(16, 32, 32))), ("unet", UNet(wf=3)):
        torch.save(network.state_dict(), folder / f"{name}.torch")
    return folder / "ae.torch", folder / "unet.torch"


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Paths of the random weights of two tiny networks, of the default form. What they play is not silent."""
    from Autoencoder import Autoencoder
    from UNet import UNet

    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    unet = UNet(2, 1, in_channels=hp.unet_in_channels, residual=hp.unet_residual, batch_norm=hp.unet_batch_norm)
    torch.nn.init.constant_(unet.last.bias, 0.5)
    torch.save(Autoencoder(channels=(4, 4, 4)).state_dict(), folder / "ae.torch")
    torch.save(unet.state_dict(), folder / "unet.torch")
    return {"ae": folder / "ae.torch", "unet": folder / "unet.torch"}


@pytest.fixture(scope="module")
def one_thread():
    """Use one thread, because sums in another order differ in the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def no_pictures():
    """Trainings without pictures, which take longer to draw than a short epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", lambda *_: None)
        yield


@pytest.fixture
def decoder():
    """A decoder whose weights are all different."""
    torch.manual_seed(0)
    decoder = TableDecoder()
    with torch.no_grad():
        for curve in decoder.partials, decoder.floor, decoder.deviation, decoder.loudness, decoder.slope:
            curve.add_(4 * torch.randn(curve.shape))
        decoder.release.add_(torch.rand(decoder.release.shape))
    return decoder


@pytest.fixture
def model(decoder):
    """A small, untrained note autoencoder with that decoder."""
    torch.manual_seed(1)
    network = NoteAutoencoder(**small)
    network.decoder = decoder
    return NoteModel(network)


@pytest.fixture(scope="session")
def responses():
    """Two room impulse responses: the direct sound, then noise that decays."""
    rng = np.random.default_rng(0)
    tail = np.exp(-np.arange(8000) / 1500)[None] * rng.standard_normal((2, 8000)) * 0.03
    tail[:, :6] = 0
    tail[:, 5] = 1
    return [response.astype(np.float32) for response in tail]


@pytest.fixture(scope="session")
def rendered(tmp_path_factory, instruments, midi):
    """A data folder with renders of two short pieces, and of two transposed takes of each."""
    data = tmp_path_factory.mktemp("takes")
    for name, keys in ("one", (43, 60, 67, 72, 88)), ("two", (36, 55, 64, 69, 100)):
        for shift, take in enumerate((name, f"{name}~0", f"{name}~1")):
            notes = [(0, key + shift, 0.317 + 0.4531 * i, 0.6 + 0.4531 * i) for i, key in enumerate(keys)]
            midi(data / "MIDI" / f"{take}.mid", notes, pedal((0.0, 0), (1.9, 127), (2.2, 0)))
    MIDI2Audio.main(["--data", str(data)])
    return data


@pytest.fixture
def render(instruments, tmp_path):
    """Function that renders a MIDI file on a preset (by default the piano) and returns the samples."""

    def samples(path, preset=instruments[0], **options):
        MIDI2Audio.synthesise_midi_to_audio(path, tmp_path / "render.wav", *preset, **options)
        audio, rate = soundfile.read(tmp_path / "render.wav", dtype="int16")
        assert rate == hp.sample_rate and audio.ndim == 1
        return audio

    return samples
