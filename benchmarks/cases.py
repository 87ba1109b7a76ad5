"""The recordings that `goals.py` and `peers.py` score: five cases, from a piano in the training set to a hall.

A simulated hall recording is a performance variant, with random tempo, key, dynamics and timing, in a hall, from two
microphones, with noise, as mp3 at 96 kbit/s. The one with much pedal is another variant, in other halls. The folder
performances/ has the variants of twelve pieces.
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
from rendering import simulated_rooms
from rendering.generated_files import join_names
from common import copy_pieces

left_out = "TimGM6mb.sf2", 0, 0     # a piano that neither trained nor validated the shipped weights
signal_to_noise = 45                # dB
mp3_compression = 0.4               # 96 kbit/s
performances = Path(__file__).resolve().parent / "performances"

# preset; folder of the performances; number and random seed of the halls (other halls than in training)
Case = namedtuple("Case", "preset folder halls", defaults=(None, None))
cases = {
    "piano in the training set": Case(hp.piano_preset),
    "unseen piano": Case(left_out),
    "unseen piano with reverberation": Case((*left_out, True)),
    "simulated hall recording": Case(left_out, "variants", (12, 1)),
    "simulated hall recording, much pedal": Case(left_out, "performed", (12, 2)),
}


def cases_of(pieces, chosen):
    """Return those of the `chosen` cases that `pieces` have: two need the MIDI files of performances/.

    A case that is left out is named. Raises ValueError if none is left.
    """
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
    encoded = audio_files.encode_mp3(audio.astype(np.float32), subtype="MPEG_LAYER_III",
                                     compression_level=mp3_compression, bitrate_mode="CONSTANT")
    decoded = soundfile.read(io.BytesIO(encoded), dtype="float32")[0][:audio.size]
    return np.pad(decoded, (0, audio.size - decoded.size))


def record_in_halls(folder, halls):
    """Simulate recordings, in `halls` (their number and random seed), of the piano renders of a folder as
    `Evaluation.render_pair` returns it. Return a folder with piano/ and synth/.
    """
    recorded, responses = folder.with_name(folder.name + "_recorded"), simulated_rooms.room_responses(*halls)
    shutil.rmtree(recorded, ignore_errors=True)
    for i, (name, (piano, synth)) in enumerate(DatasetCreator.find_pairs(folder).items()):
        rng, dry = np.random.default_rng(i), audio_files.read_audio(piano)
        wet = fftconvolve(dry, responses[i % len(responses)])[:dry.size]
        wet += wet.std() * 10 ** (-signal_to_noise / 20) * rng.standard_normal(dry.size)
        audio_files.write_audio(recorded / "piano" / f"{name}.wav", mp3_round_trip(wet * hp.peak / np.abs(wet).max()))
        audio_files.write_audio(recorded / "synth" / f"{name}.wav", audio_files.read_audio(synth))
    return recorded


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
    return (record_in_halls(folder, case.halls) if case.halls else folder,
            Util.find_pieces(midi_folder, note_events.midi_endings))
