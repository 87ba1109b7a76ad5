"""Play notes in studio quality, 44,100 Hz in stereo, with recorded sounds of the target instrument."""
from pathlib import Path

import numpy as np
import torch
from torch import nn

import Util
from notes.note_events import scale_times
from notes.sampled_voice import SampledVoice

rate = 44100            # Hz
block_s = 30            # seconds of audio that are made at once
stored_type = torch.float16     # of levels and releases


class StudioVoice(nn.Module):
    """Two `SampledVoice` at `rate` Hz: `middle` is half the sum of the channels, `side` half their difference."""

    def __init__(self, middle, side):
        super().__init__()
        self.middle, self.side = middle, side

    def audio(self, notes, start, samples):
        """Return the audio of notes [shape=(n, 4)] from sample `start` on [shape=(samples, 2), float32]."""
        middle, side = (voice.audio(notes, start, samples) for voice in (self.middle, self.side))
        return np.stack([middle + side, middle - side], axis=1)

    def blocks(self, notes, seconds, factor=1):
        """Yield the audio of notes [shape=(n, 4)] in blocks [shape=(n, 2), float32], `seconds` long in all. The pitch
        is `factor` times that of the sounds if the blocks are played at `rate` * `factor` Hz."""
        samples, notes = round(seconds * rate * factor), scale_times(notes, factor)
        for start in range(0, samples, block_s * rate):
            yield self.audio(notes, start, min(block_s * rate, samples - start))


def middle_and_side(audio):
    """Return half the sum and half the difference of two channels [shape=(n,) each] of audio [shape=(n, 2)]."""
    return audio.mean(axis=1), (audio[:, 0] - audio[:, 1]) / 2


def studio_file(ae):
    """Return the path of the studio sounds that belong to weights of an autoencoder."""
    return Path(ae).with_name("studio.torch")


def save(path, voice, target):
    """Write a `StudioVoice` of the preset `target`, "file.sf2:bank:program", to a file."""
    state = {name: value.to(stored_type) if value.is_floating_point() else value
             for name, value in voice.state_dict().items()}
    Util.save_bytes(path, lambda file: torch.save({"target": target, **state}, file))


def load(ae, target):
    """Return the `StudioVoice` beside weights of an autoencoder whose target instrument is `target`. Raises
    FileNotFoundError if there is none, and ValueError if the file is damaged or of another instrument."""
    path = studio_file(ae)
    if target.count(":") != 2:
        raise ValueError(f"{ae} was not trained for a preset of a SoundFont, so it has no sounds for --studio; leave "
                         "--studio out")
    again = f"python -m rendering.voice_sampling --target {target} --ae {ae}"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such studio sounds; make them with: {again}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["target"]
        state = {name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
                 for name, value in state.items()}
        voice = StudioVoice(*(SampledVoice.from_state(state, prefix, rate) for prefix in ("middle.", "side.")))
    except Exception:  # torch raises many kinds of errors for damaged files
        raise ValueError(f"{path} is damaged; restore it, or make it again with: {again}") from None
    if found != target:
        raise ValueError(f"{path} has the sounds of {found}, and {ae} was trained for {target}; make them again with: "
                         f"{again}")
    return voice
