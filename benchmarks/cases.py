"""The recordings that `goals.py` and `peers.py` score: five cases, from a piano in the training set to a hall.

"Like a recording" is a performance variant, with random tempo, key, dynamics and timing, in a simulated hall, from two
microphones, with noise, as mp3 at 96 kbit/s. "Performed, in a hall" is another one with much pedal, in other halls.
The folder performances/ has the variants of twelve pieces.
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
import Notes
import SimulatedRooms
import Util
from GeneratedFiles import join_names

left_out = "TimGM6mb.sf2", 0, 0     # a piano that neither trained nor validated the shipped weights
signal_to_noise = 45                # dB
mp3_compression = 0.4               # 96 kbit/s
performances = Path(__file__).resolve().parent / "performances"

# preset; folder of the performances; number and random seed of the halls (other halls than in training)
Case = namedtuple("Case", "preset folder halls", defaults=(None, None))
cases = {
    "piano trained on": Case(hp.piano_preset),
    "piano left out": Case(left_out),
    "piano left out, in a room": Case((*left_out, True)),
    "like a recording": Case(left_out, "variants", (12, 1)),
    "performed, in a hall": Case(left_out, "performed", (12, 2)),
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


def copy_performances(case, pieces):
    """Copy the performances of pieces to a folder below data/evaluation, and return it."""
    folder = hp.data / "evaluation" / case.folder
    for path in folder.glob("*.mid"):
        if path.stem not in pieces:
            path.unlink()
    for name in pieces:
        content, copy = (performances / case.folder / f"{name}.mid").read_bytes(), folder / f"{name}.mid"
        if not copy.exists() or copy.read_bytes() != content:
            Util.save_bytes(copy, lambda file, content=content: file.write(content))
    return folder


def mp3_round_trip(audio, compression):
    """Encode audio [shape=(n,)] as mp3 and decode it. A `compression` from 0 to 1 sets the bit rate, 0.4 96 kbit/s."""
    encoded = Util.encode_mp3(audio.astype(np.float32), subtype="MPEG_LAYER_III", compression_level=float(compression),
                              bitrate_mode="CONSTANT")
    decoded = soundfile.read(io.BytesIO(encoded), dtype="float32")[0][:audio.size]
    return np.pad(decoded, (0, audio.size - decoded.size))


def record_in_halls(folder, halls):
    """Simulate recordings in halls of the piano renders of a folder, as `Evaluation.render_pair` returns it.

    Parameters
    ----------
    folder : Path
    halls : (int, int)
        Number of halls and random seed.

    Returns
    -------
    Path
        A folder with piano/ and synth/.
    """
    recorded, responses = folder.with_name(folder.name + "_recorded"), SimulatedRooms.room_responses(*halls)
    shutil.rmtree(recorded, ignore_errors=True)
    for i, (name, (piano, synth)) in enumerate(DatasetCreator.find_pairs(folder).items()):
        rng, dry = np.random.default_rng(i), Util.read_audio(piano)
        wet = fftconvolve(dry, responses[i % len(responses)])[:dry.size]
        wet += wet.std() * 10 ** (-signal_to_noise / 20) * rng.standard_normal(dry.size)
        Util.write_audio(recorded / "piano" / f"{name}.wav",
                         mp3_round_trip(wet * hp.peak / np.abs(wet).max(), mp3_compression))
        Util.write_audio(recorded / "synth" / f"{name}.wav", Util.read_audio(synth))
    return recorded


def prepare(case, midi_folder):
    """Render the recordings of a case.

    Parameters
    ----------
    case : str
        One of `cases_of` the pieces.
    midi_folder : Path
        Names the pieces. Two cases take their MIDI files from performances/.

    Returns
    -------
    (Path, dict)
        A folder with piano/ and synth/, and the MIDI file of each piece.
    """
    case = cases[case]
    if case.folder:
        midi_folder = copy_performances(case, Util.find_pieces(midi_folder, Notes.midi_endings))
    folder = Evaluation.render_pair(midi_folder, hp.data, case.preset)
    return (record_in_halls(folder, case.halls) if case.halls else folder,
            Util.find_pieces(midi_folder, Notes.midi_endings))
