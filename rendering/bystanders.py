"""What is heard beside the piano in training clips: somebody who speaks or sings, drums, clapping, chairs and traffic."""
import io
import math
import shutil
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
seconds_each = 240
languages = ("en-us", "en-gb", "de", "fr-fr", "it", "es", "nl", "sv", "pl", "pt")   # voices of espeak-ng
speakers = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5")    # its variants of each voice
speech = dict(words_per_minute=(110, 230), pitch=(10, 90), numbers=(2, 12), digits=(1, 7), pause_s=(0, 1.5))
soundfont = "FluidR3_GM.sf2"
singers = 52, 53, 54, 85            # programs: choir, voice, synthesised voice, lead voice
song = dict(lowest=(45, 62), span=19, log_note_s=(-1.8, 0.6), pause_share=0.15, step=2.5, modulation=(0, 127))
kits = 0, 8, 16, 24, 25, 32, 40     # programs of the percussion channel
rhythm = dict(beat_s=(0.35, 0.9), velocity=(40, 127), bars=4)
drums = {36: (0, 8), 38: (4, 12), 42: (0, 2, 4, 6, 8, 10, 12, 14), 46: (14,), 45: (10, 11), 49: (0,)}  # key -> places
left_out_share = 0.3                # of the beats of a drum
applause = dict(per_second=(1.5, 80), hertz=(700, 2600), fall_s=(0.003, 0.02), span_s=(2, 10))
clap_size = 4000                    # samples
chair = dict(pause_s=(0.1, 2), seconds=(0.05, 0.8), hertz=(60, 1500), rate=(15, 90))
street = dict(span_s=(4, 15), hertz=(30, 160), partials=12, noise=0.6)


def speak(seconds, rng):
    """Return audio [shape=(n,)] of at least so many seconds: voices of espeak-ng read numbers in their languages."""
    parts, size = [], 0
    while size < seconds * hp.sample_rate:
        numbers = [str(rng.integers(10 ** rng.integers(*speech["digits"]))) for _ in range(rng.integers(
            *speech["numbers"]))]
        done = subprocess.run([
            find_espeak(), "--stdout", "-v", f"{rng.choice(languages)}+{rng.choice(speakers)}",
            "-s", str(rng.integers(*speech["words_per_minute"])), "-p", str(rng.integers(*speech["pitch"])),
            ", ".join(numbers)], stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            raise ValueError(f"espeak-ng could not speak: {done.stderr.decode(errors='replace').strip()}")
        samples = np.frombuffer(done.stdout[44:], "<i2") / np.float32(32768)  # the header is that of a stream
        parts += [samples, np.zeros(int(rng.uniform(*speech["pause_s"]) * hp.sample_rate), np.float32)]
        size += sum(map(len, parts[-2:]))
    return np.concatenate(parts)


def find_espeak():
    """Return the path of espeak-ng. Raises FileNotFoundError if it is not on PATH."""
    found = shutil.which("espeak-ng")
    if not found:
        raise FileNotFoundError("espeak-ng is not on PATH; install it: apt-get install espeak-ng, or brew install "
                                "espeak-ng")
    return found


def sing(seconds, rng):
    """Return audio [shape=(n,)] of so many seconds: one voice after the other sings notes that nobody composed."""
    parts = []
    for program in singers:
        now, events, lowest = 0.0, [], rng.uniform(*song["lowest"])
        key = lowest + song["span"] / 2
        while now < seconds / len(singers):
            key = float(np.clip(key + rng.normal(0, song["step"]), lowest, lowest + song["span"]))
            end = now + math.exp(rng.uniform(*song["log_note_s"]))
            events += [(now, mido.Message("control_change", control=1, value=int(rng.integers(*song["modulation"])))),
                       (now, mido.Message("note_on", note=round(key), velocity=int(rng.integers(50, 127)))),
                       (end, mido.Message("note_off", note=round(key)))]
            now = end + (rng.random() < song["pause_share"]) * rng.exponential(0.5)
        parts.append(render(events, now, program))
    return np.concatenate(parts)


def drum(seconds, rng):
    """Return audio [shape=(n,)] of so many seconds: drum kits that change their rhythm every few bars."""
    parts = []
    for kit in kits:
        now, events = 0.0, []
        while now < seconds / len(kits):
            sixteenth = rng.uniform(*rhythm["beat_s"]) / 4
            struck = [(key, place) for key, places in drums.items() if rng.random() > left_out_share for place in places
                      if rng.random() > left_out_share]
            for bar in range(rhythm["bars"]):
                for key, place in struck:
                    velocity = int(rng.integers(*rhythm["velocity"]))
                    events.append((now + (16 * bar + place) * sixteenth, mido.Message(
                        "note_on", channel=note_events.percussion_channel, note=key, velocity=velocity)))
            now += 16 * rhythm["bars"] * sixteenth
        parts.append(render(events, now, kit))
    return np.concatenate(parts)


def render(events, seconds, program):
    """Return the audio [shape=(n,)] of events (time in seconds, message) on a preset of `soundfont`."""
    preset = soundfonts.find_soundfont(soundfont), 0, program, False
    midi = fluidsynth.play_on_preset(sorted(events, key=lambda event: event[0]), seconds, 0, program)
    return fluidsynth.render(midi, int(seconds * hp.sample_rate), preset, "a voice")


def clap(seconds, rng):
    """Return audio [shape=(n,)] of so many seconds: single hands and audiences, each clap a burst of filtered noise."""
    audio, now = np.zeros(int(seconds * hp.sample_rate) + clap_size, np.float32), 0.0
    t = np.arange(clap_size) / hp.sample_rate
    while now < seconds:
        end, rate = now + rng.uniform(*applause["span_s"]), math.exp(rng.uniform(*np.log(applause["per_second"])))
        steady = rate < 4  # a single person claps in time
        while now < min(end, seconds):
            burst = resonant_noise(clap_size, math.exp(rng.uniform(*np.log(applause["hertz"]))), 0.9, rng)
            start = int(now * hp.sample_rate)
            audio[start:start + clap_size] += burst * np.exp(-t / rng.uniform(*applause["fall_s"])) * rng.uniform(0.3, 1)
            now += rng.normal(1, 0.03) / rate if steady else rng.exponential(1 / rate)
    return audio


def move_chairs(seconds, rng):
    """Return audio [shape=(n,)] of about so many seconds: knocks and scrapes, as of chairs, steps and doors."""
    parts, size = [], 0
    while size < seconds * hp.sample_rate:
        t = np.arange(int(rng.uniform(*chair["seconds"]) * hp.sample_rate)) / hp.sample_rate
        noise = resonant_noise(len(t), math.exp(rng.uniform(*np.log(chair["hertz"]))), rng.uniform(0.9, 0.995), rng)
        scrapes = np.abs(np.sin(math.pi * rng.uniform(*chair["rate"]) * t)) * np.sin(math.pi * t / t[-1])
        shape = scrapes if rng.random() < 0.5 else np.exp(-t / rng.uniform(0.01, 0.1))
        parts += [noise * shape * rng.uniform(0.1, 1), np.zeros(int(rng.uniform(*chair["pause_s"]) * hp.sample_rate))]
        size += sum(map(len, parts[-2:]))
    return np.concatenate(parts)


def drive_past(seconds, rng):
    """Return audio [shape=(n,)] of about so many seconds: engines and tyres that come and go, as of traffic."""
    parts, size = [], 0
    while size < seconds * hp.sample_rate:
        t = np.arange(int(rng.uniform(*street["span_s"]) * hp.sample_rate)) / hp.sample_rate
        place = 2 * t / t[-1] - 1
        hertz = rng.uniform(*street["hertz"]) * (1 - 0.06 * np.tanh(4 * place) + 0.1 * rng.random() * place)
        phase = 2 * math.pi * np.cumsum(hertz) / hp.sample_rate
        engine = sum(rng.random() * np.sin(n * phase) / n for n in range(1, street["partials"]))
        tyres = resonant_noise(len(t), rng.uniform(100, 900), 0.8, rng)
        parts.append((engine + street["noise"] * tyres) * np.exp(-6 * place ** 2))
        size += len(t)
    return np.concatenate(parts)


def resonant_noise(size, hertz, radius, rng):
    """Return noise [shape=(size,)] with a resonance at a frequency, sharper for a larger `radius` of its pole, below
    1, with a standard deviation of 1."""
    poles = [1, -2 * radius * math.cos(2 * math.pi * hertz / hp.sample_rate), radius ** 2]
    noise = lfilter([1.0], poles, rng.standard_normal(size))
    return noise / (noise.std() + 1e-9)


kinds = {"speech": speak, "singing": sing, "drums": drum, "clapping": clap, "chairs": move_chairs,
         "traffic": drive_past}


def store(folder):
    """Write a recording of each kind to a folder, as Vorbis, where it is missing."""
    for number, (name, make) in enumerate(tqdm(kinds.items(), desc="beside the piano", unit="kind", leave=False)):
        path, content = folder / f"{name}.ogg", io.BytesIO()
        if not path.exists():
            audio = make(seconds_each, np.random.default_rng((hp.seed, number)))
            audio_files.encode_audio(content, audio * (hp.peak / np.abs(audio).max()), format="OGG",
                                     subtype="VORBIS")
            Util.save_bytes(path, lambda file: file.write(content.getvalue()))
