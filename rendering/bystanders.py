"""Make interfering sounds for training clips: speech, singing, drums, clapping and noises."""
import math
import subprocess

import mido
import numpy as np
from scipy.signal import lfilter
from tqdm import tqdm

import Hyperparameters as hp
import Util
from audio import audio_files
from notes import note_events
from rendering import fluidsynth, soundfonts

# two numbers are limits between which a value is drawn
stored_s = dict(speech=720, singing=480, drums=240, clapping=240, noises=240)   # seconds of each kind
languages = ("en-us", "en-gb", "de", "fr-fr", "it", "es", "nl", "sv", "pl", "pt")   # voices of espeak-ng
speakers = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")    # its variants of each voice
speech = dict(words_per_minute=(110, 230), pitch=(10, 90), numbers=(2, 12), digits=(1, 7))
soundfont = "FluidR3_GM.sf2"
singers = 52, 53, 54, 85            # programs: choir, voice, synthesised voice, lead voice
song = dict(notes=30, lowest=(45, 62), span=19, step=2.5, note_s=(0.15, 1.8), modulation=(0, 127))
kits = 0, 8, 16, 24, 25, 32, 40     # programs of the percussion channel
drums = {36: (0, 8), 38: (4, 12), 42: (0, 2, 4, 6, 8, 10, 12, 14), 46: (14,), 45: (10, 11), 49: (0,)}  # key -> places
rhythm = dict(bars=4, sixteenth_s=(0.08, 0.22), left_out=0.3)
velocity = 40, 127                  # of singers and drums
applause = dict(seconds=(2, 10), per_second=(1.5, 80), in_time=4, hertz=(700, 2600), fall_s=(0.003, 0.02), size=4000)
noises = {"knock": ((0.05, 0.8), (60, 1500)), "scrape": ((0.05, 0.8), (60, 1500)), "car": ((4, 15), (50, 900))}
noise_form = dict(knock_s=(0.01, 0.1), scrapes_per_second=(15, 90), radius=(0.8, 0.995))    # above: seconds, Hz
pause_s = 0.7                       # mean pause after each sound


def speak(rng):
    """Return audio [shape=(n,)] of a voice of espeak-ng that reads numbers in its language. Raises FileNotFoundError if
    espeak-ng is not installed, and ValueError if it fails."""
    numbers = [str(rng.integers(10 ** rng.integers(*speech["digits"]))) for _ in range(
        rng.integers(*speech["numbers"]))]
    done = subprocess.run([
        find_espeak(), "--stdout", "-v", f"{rng.choice(languages)}+{rng.choice(speakers)}",
        "-s", str(rng.integers(*speech["words_per_minute"])), "-p", str(rng.integers(*speech["pitch"])),
        ", ".join(numbers)], stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise ValueError(f"espeak-ng could not speak: {done.stderr.decode(errors='replace').strip()}")
    return np.frombuffer(done.stdout[44:], "<i2") / np.float32(32768)  # the length in the header is not the true one


def find_espeak():
    """Return the path of espeak-ng. Raises FileNotFoundError if it is not on PATH."""
    return Util.find_program("espeak-ng", "install it: apt-get install espeak-ng, or brew install espeak-ng")


def sing(rng):
    """Return audio [shape=(n,)] of one voice that sings a random melody."""
    now, events, lowest = 0.0, [], rng.uniform(*song["lowest"])
    key = lowest + song["span"] / 2
    for _ in range(song["notes"]):
        key = float(np.clip(key + rng.normal(0, song["step"]), lowest, lowest + song["span"]))
        end, vibrato = now + log_uniform(song["note_s"], rng), int(rng.integers(*song["modulation"]))
        events += [(now, mido.Message("control_change", control=1, value=vibrato)),
                   (now, mido.Message("note_on", note=round(key), velocity=int(rng.integers(*velocity)))),
                   (end, mido.Message("note_off", note=round(key)))]
        now = end
    return render(events, now, int(rng.choice(singers)))


def drum(rng):
    """Return audio [shape=(n,)] of a rhythm on a drum kit."""
    sixteenth, struck = rng.uniform(*rhythm["sixteenth_s"]), [
        (key, place) for key, places in drums.items() if rng.random() > rhythm["left_out"] for place in places
        if rng.random() > rhythm["left_out"]]
    events = [((16 * bar + place) * sixteenth, mido.Message("note_on", channel=note_events.percussion_channel, note=key,
                                                            velocity=int(rng.integers(*velocity))))
              for bar in range(rhythm["bars"]) for key, place in struck]
    return render(events, 16 * rhythm["bars"] * sixteenth, int(rng.choice(kits)))


def render(events, seconds, program):
    """Return the audio [shape=(n,)] of events (time in seconds, message) on a preset of `soundfont`."""
    midi = fluidsynth.play_on_preset(sorted(events, key=lambda event: event[0]), seconds, 0, program)
    preset = soundfonts.find_soundfont(soundfont), 0, program, False
    return fluidsynth.render(midi, int(seconds * hp.sample_rate), preset, "a bystander")


def clap(rng):
    """Return audio [shape=(n,)] of a single person, who claps in time, or of an audience."""
    rate, size, now = log_uniform(applause["per_second"], rng), applause["size"], 0.0
    seconds = rng.uniform(*applause["seconds"])
    audio = np.zeros(int(seconds * hp.sample_rate) + size)
    while now < seconds:
        start, fall_s = int(now * hp.sample_rate), rng.uniform(*applause["fall_s"])
        noise = resonant_noise(size, log_uniform(applause["hertz"], rng), 0.9, rng)
        audio[start:start + size] += rng.uniform(0.3, 1) * noise * np.exp(-np.arange(size) / hp.sample_rate / fall_s)
        now += rng.normal(1, 0.03) / rate if rate < applause["in_time"] else rng.exponential(1 / rate)
    return audio


def make_noise(rng):
    """Return audio [shape=(n,)] of a knock or a scrape, as of chairs and doors, or of a car that drives past."""
    kind = rng.choice(list(noises))
    seconds, hertz = (log_uniform(limits, rng) for limits in noises[kind])
    t = np.arange(int(seconds * hp.sample_rate)) / hp.sample_rate
    place = 2 * t / seconds - 1
    shape = {"knock": np.exp(-t / rng.uniform(*noise_form["knock_s"])), "car": np.exp(-6 * place ** 2), "scrape": (
        1 - place ** 2) * np.abs(np.sin(math.pi * rng.uniform(*noise_form["scrapes_per_second"]) * t))}[kind]
    return rng.uniform(0.1, 1) * shape * resonant_noise(len(t), hertz, rng.uniform(*noise_form["radius"]), rng)


def log_uniform(limits, rng):
    """Draw a number between two limits, whose logarithm has a uniform distribution."""
    return math.exp(rng.uniform(*map(math.log, limits)))


def resonant_noise(size, hertz, radius, rng):
    """Return noise [shape=(size,)] with a resonance at a frequency, sharper for a larger `radius` of its pole, below
    1, with a standard deviation of 1."""
    poles = [1, -2 * radius * math.cos(2 * math.pi * hertz / hp.sample_rate), radius ** 2]
    noise = lfilter([1.0], poles, rng.standard_normal(size))
    return noise / (noise.std() + 1e-9)


kinds = {"speech": speak, "singing": sing, "drums": drum, "clapping": clap, "noises": make_noise}


def record(kind, seconds, rng):
    """Return so many seconds of sounds of a kind, with pauses between them [shape=(n,), float32]."""
    audio = np.zeros(0, np.float32)
    while len(audio) < seconds * hp.sample_rate:
        silence = np.zeros(int(rng.exponential(pause_s) * hp.sample_rate))
        audio = np.concatenate([audio, kinds[kind](rng), silence]).astype(np.float32)
    return audio[:int(seconds * hp.sample_rate)]


def store(folder):
    """Write a recording of each kind to a folder, as Vorbis, where it is missing."""
    for number, kind in enumerate(tqdm(kinds, desc="interfering sounds", unit="kind", leave=False)):
        path = folder / f"{kind}.ogg"
        if not path.exists():
            audio = record(kind, stored_s[kind], np.random.default_rng((hp.seed, number)))
            audio = audio * (hp.peak / np.abs(audio).max())
            Util.save_bytes(path, lambda file: audio_files.encode_audio(file, audio, format="OGG", subtype="VORBIS"))
