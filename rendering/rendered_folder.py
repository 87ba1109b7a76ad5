"""A folder of renders on one preset: what it holds already, and which of that is kept, rendered again or removed."""
import random
import sys

from tqdm import tqdm

import Hyperparameters as hp
import Util
from audio import audio_files
from rendering.fluidsynth import command_options
from rendering.generated_files import GeneratedFiles, join_names, values_digest
from rendering.soundfonts import preset_text


def excerpt_settings():
    """Return a digest of the settings of which the rendered part of a MIDI file depends."""
    return values_digest(hp.limit_s, hp.release_s, hp.sample_rate)


class RenderedFolder(GeneratedFiles):
    """The renders <piece>.wav of a folder on one preset, each with its own random detuning of up to `detune` cents.
    The file preset.txt names both."""

    def __init__(self, folder, preset, detune=0):
        super().__init__(folder)
        self.preset, self.detune = preset, detune

    def settings(self):
        """Return a digest of what a wav depends on, besides its MIDI file and what preset.txt says."""
        return values_digest(excerpt_settings(), command_options(any(self.preset[3:]), hp.sample_rate), hp.peak)

    def cents(self, name):
        """Return the detuning of a piece, which does not change from call to call."""
        return random.Random(f"{self.folder.name} {name}").uniform(-self.detune, self.detune)

    def claim(self, names, overwrite, check_preset):
        """Prepare the folder for renders of these pieces. Renders of other pieces are removed, with `overwrite` also
        those of another preset, if `check_preset` accepts the new one. Prints what else is there. Raises ValueError if
        the folder holds recordings that were not rendered here, or, without `overwrite`, renders of another preset."""
        note = self.folder / "preset.txt"
        text = preset_text(self.preset) + (f", off by up to {self.detune:g} cents" if self.detune else "")
        # before the note is read, which another shard may write meanwhile
        stored = Util.modification_times(
            path for path in self.folder.glob("[!.]*") if path.suffix.lower() in audio_files.recording_endings)
        if stored and not note.exists():
            raise ValueError(f"{self.folder} holds recordings that were not rendered here; move them, or choose "
                             "another --data")
        former = " ".join(Util.read_text(note).split()) if stored else text
        if former != text:
            if not overwrite:
                raise ValueError(f"{self.folder} holds renders of {former}, not of {text}; add --overwrite to replace "
                                 "them")
            check_preset(self.preset)  # before anything is removed
            # at once, so that an interruption leaves no mixture; what another shard has rendered since stays
            Util.remove_unchanged({path: time for path, time in stored.items() if self.is_ours(path)})
        Util.save_text(note, text + "\n")
        self.remove_orphans(names)
        # what else is there: recordings without a MIDI file, and renders with other settings than now
        found = {path.stem: path for path in self.folder.glob("[!.]*.wav")}
        others = found.keys() - set(names)
        if others:
            Util.warn(f"{self.folder} holds recordings without a MIDI file, which are trained on too: "
                      f"{join_names(others)}; remove them if they are old renders")
        outdated = [name for name in found if not self.has_settings(found[name], self.settings())]
        if outdated:
            tqdm.write(f"{self.folder}: {len(outdated)} wavs were rendered with other settings in Hyperparameters.py "
                       f"and are rendered again: {join_names(outdated)}", file=sys.stderr)
