"""SFZ instruments, pianos as folders of recordings, as sources of training clips.

sfizz plays them, by the package pysfizz.
"""
import re
import time
from pathlib import Path

import numpy as np

import Hyperparameters as hp
from audio import audio_files

block_size = 64     # samples
most_plays = 10     # of the same, until it is whole
loading_s = 0.01    # to wait between them


def is_sfz(text):
    """Return whether a text names an SFZ instrument: see `parse_instrument`."""
    return ".sfz" in text.lower()


def parse_instrument(text):
    """Read an instrument from "FILE.sfz", or from "FILE.sfz:74=127,77=0" with the values of controllers, from 0 to 127,
    which choose among the microphones of some pianos. Returns the path and a dict from controller to value. Raises
    ValueError if the text is not that."""
    written = re.fullmatch(r"(.+\.sfz)(?::(\d+=\d+(?:,\d+=\d+)*))?", text, re.IGNORECASE)
    pairs = re.findall(r"(\d+)=(\d+)", written[2] or "") if written else []
    controllers = {int(number): int(value) for number, value in pairs}
    if not written or max((*controllers, *controllers.values()), default=0) > 127:
        raise ValueError(f"'{text}' is not an SFZ instrument; write FILE.sfz, or FILE.sfz:74=127,77=0 with values of "
                         "controllers")
    return Path(written[1]), controllers


def player(path, controllers):
    """Return a function of events (time in seconds, message) and seconds that plays them on an instrument, and returns
    the mean of both channels at `hp.sample_rate` [shape=(n,), float32]. Raises FileNotFoundError if the file is
    missing, and ValueError if sfizz does not read it, or if pysfizz is not installed."""
    try:
        import pysfizz
    except ImportError:
        raise ValueError("pysfizz is not installed; pip install pysfizz") from None
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such SFZ instrument; give the path of an .sfz file")
    synth = pysfizz.Synth(hp.sample_rate, block_size)
    if not synth.load_sfz_file(path):
        raise ValueError(f"{path} is not an SFZ instrument that sfizz reads, or its recordings are missing")
    sfizz = synth._synth

    def play_once(events, samples):
        sfizz.all_sound_off()
        for number, value in controllers.items():
            sfizz.cc(0, number, value)
        blocks, waiting = [], [(round(at * hp.sample_rate), message) for at, message in events][::-1]
        for start in range(0, samples, block_size):
            while waiting and waiting[-1][0] < start + block_size:
                at, message = waiting.pop()
                if message.type in ("note_on", "note_off"):
                    act = sfizz.note_on if message.type == "note_on" and message.velocity else sfizz.note_off
                    act(at - start, message.note, message.velocity)
                elif message.type == "control_change" and message.control not in controllers:
                    sfizz.cc(at - start, message.control, message.value)
            blocks.append(np.mean(sfizz.render_block(), axis=0, dtype=np.float32))
        return audio_files.fix_length(np.concatenate(blocks), samples)

    def play(events, seconds):
        power = -1.0
        for _ in range(most_plays):  # sfizz loads a recording while it plays it, and what is not loaded yet is missing
            audio, before = play_once(events, int(seconds * hp.sample_rate)), power
            power = float(audio @ audio)
            if before >= 0 and power <= before * 1.001:
                break
            time.sleep(loading_s)
        return audio

    return play
