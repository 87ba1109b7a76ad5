"""The recordings that `goals.py` and `peers.py` score: seven cases, from a piano in the training set to a hall.

Somebody who speaks is a voice of espeak-ng, 6 dB softer than the piano. The real room is that of the Headroom Piano, a
Yamaha C3, recorded by a Decca tree of microphones in the room. A simulated hall recording is a performance variant,
with random tempo, key, dynamics and timing, in a hall, from two microphones, with noise, as mp3 at 96 kbit/s. The one
with much pedal is another variant, in other halls. The folder performances/ has the variants of twelve pieces.
"""
import io
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import fftconvolve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Util
from audio import audio_files
from notes import note_events
from rendering import bystanders, sfz, simulated_rooms
from rendering.generated_files import join_names
from common import copy_pieces

left_out = "TimGM6mb.sf2", 0, 0     # a piano that neither trained nor validated the shipped weights
signal_to_noise = 45                # dB
mp3_compression = 0.4               # 96 kbit/s
performances = Path(__file__).resolve().parent / "performances"

beside_db = -6                      # level of interfering sounds, relative to the piano
headroom = hp.soundfonts / "headroom" / "Headroom Piano (NoFX).sfz", {74: 0, 77: 127}   # its distant microphones alone

# preset; folder of the performances; number and random seed of the halls (other halls than in training); kind of the
# interfering sounds; SFZ instrument
Case = namedtuple("Case", "preset folder halls beside instrument", defaults=(None, None, None, None))
cases = {
    "piano in the training set": Case(hp.piano_preset),
    "unseen piano": Case(left_out),
    "unseen piano with reverberation": Case((*left_out, True)),
    "unseen piano and speech": Case(left_out, beside="speech"),
    "unseen piano in a real room": Case(left_out, instrument=headroom),
    "simulated hall recording": Case(left_out, "variants", (12, 1)),
    "simulated hall recording, much pedal": Case(left_out, "performed", (12, 2)),
}


def cases_of(pieces, chosen):
    """Return those of the `chosen` cases that `pieces` have: two need the MIDI files of performances/, one a piano.

    A case that is left out is named. Raises ValueError if none is left.
    """
    if not headroom[0].exists():
        print(f"{headroom[0]} is missing, and with it its room; SoundFonts/README.md says where it is from")
        chosen = [case for case in chosen if not cases[case].instrument]
    others = set(pieces) - {path.stem for path in performances.glob("*/*.mid")}
    without = [case for case in chosen if others and cases[case].folder]
    sentence = (f"{performances} has no performances of {join_names(others)}, which these cases need: "
                f"{', '.join(without)}")
    if len(without) == len(chosen):
        raise ValueError(f"{sentence}; choose other cases, or the pieces that results/README.md names")
    if without:
        print(f"{sentence}; they are left out")
    return [case for case in chosen if case not in without]


def mp3_round_trip(audio):
    """Encode audio [shape=(n,)] as mp3 at 96 kbit/s, and decode it."""
    encoded = audio_files.encoded(audio.astype(np.float32), format="MP3", subtype="MPEG_LAYER_III",
                                  compression_level=mp3_compression, bitrate_mode="CONSTANT")
    decoded = soundfile.read(io.BytesIO(encoded), dtype="float32")[0][:audio.size]
    return np.pad(decoded, (0, audio.size - decoded.size))


def change_recordings(folder, suffix, change):
    """Change the piano renders of a folder as `Evaluation.render_pair` returns it. `change` is a function of the number
    of a piece, its name and its audio [shape=(n,)], and returns the new audio [shape=(n,)]. Return another folder with
    piano/ and synth/. Its name is that of the first, followed by the suffix.
    """
    changed = folder.with_name(f"{folder.name}_{suffix}")
    shutil.rmtree(changed, ignore_errors=True)
    for i, (name, (piano, synth)) in enumerate(DatasetCreator.find_pairs(folder).items()):
        audio_files.write_audio(changed / "piano" / f"{name}.wav", change(i, name, audio_files.read_audio(piano)))
        audio_files.write_audio(changed / "synth" / f"{name}.wav", audio_files.read_audio(synth))
    return changed


def scaled(audio):
    """Return audio with the peak `hp.peak`."""
    return audio * hp.peak / np.abs(audio).max()


def record_in_halls(folder, halls):
    """Simulate recordings of piano renders in `halls`, their number and random seed; return as `change_recordings`."""
    responses = simulated_rooms.room_responses(*halls)

    def record(i, name, dry):
        wet = fftconvolve(dry, responses[i % len(responses)])[:dry.size]
        wet += wet.std() * 10 ** (-signal_to_noise / 20) * np.random.default_rng(i).standard_normal(dry.size)
        return mp3_round_trip(scaled(wet))

    return change_recordings(folder, "recorded", record)


def add_bystander(folder, kind):
    """Add sounds of a kind of `bystanders.kinds` to piano renders; return as `change_recordings`."""

    def add(i, name, audio):
        other = bystanders.record(kind, audio.size / hp.sample_rate, np.random.default_rng((1, i)))
        other = audio_files.fix_length(other, audio.size)
        return scaled(audio + other * (audio.std() / other.std() * 10 ** (beside_db / 20)))

    return change_recordings(folder, kind, add)


def play_instrument(folder, midi_files, instrument):
    """Play MIDI files on an SFZ instrument in place of piano renders; return as `change_recordings`."""
    play = sfz.player(*instrument)
    return change_recordings(folder, Path(instrument[0]).stem, lambda i, name, audio: scaled(
        play(note_events.read_played_messages(midi_files[name]), audio.size / hp.sample_rate)))


def prepare(case, midi_folder):
    """Render the recordings of a case, of the pieces in `midi_folder`. Two cases take the files of performances/.

    Return a folder with piano/ and synth/, and a dict from each piece to its MIDI file.
    """
    case = cases[case]
    if case.folder:
        names = Util.find_pieces(midi_folder, note_events.midi_endings)
        midi_folder = copy_pieces({name: performances / case.folder / f"{name}.mid" for name in names},
                                  hp.data / "evaluation" / case.folder)
    folder = Evaluation.render_pair(midi_folder, case.preset)
    midi_files = Util.find_pieces(midi_folder, note_events.midi_endings)
    if case.halls:
        folder = record_in_halls(folder, case.halls)
    if case.beside:
        folder = add_bystander(folder, case.beside)
    if case.instrument:
        folder = play_instrument(folder, midi_files, case.instrument)
    return folder, midi_files
