"""The recordings that `goals.py` and `peers.py` score: five cases, from a piano in the training set to a hall.

"Like a recording" is a performance variant (`Performances.vary_performance`) in a simulated hall, from two microphones,
with noise, as mp3 at 96 kbit/s. "Performed, in a hall" is the same with the pedal of a pianist and in other halls.
"""
import random
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Augmentation
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Notes
import Performances
import Util

left_out = "TimGM6mb.sf2", 0, 0     # a piano that neither trained nor validated the shipped weights
signal_to_noise = 45                # dB
mp3_compression = 0.4               # 96 kbit/s
min_pedal_presses = 9               # of a variant with the pedal of a pianist
max_tries = 50                      # variants that are drawn to find one


def random_variant(path, name):
    """Return a performance variant of a MIDI file, always the same one for a name."""
    return Performances.vary_performance(path, random.Random(name))


def pedalled_variant(path, name):
    """Return the first of several performance variants of a MIDI file that uses the pedal often."""
    for seed in range(max_tries):
        variant = Performances.vary_performance(path, random.Random(f"performed {name} {seed}"))
        presses = [message for message in variant.tracks[0] if message.type == "control_change"
                   and message.control == Notes.sustain and message.value >= Notes.sustain_threshold]
        if len(presses) >= min_pedal_presses:
            break
    return variant


# preset; folder and function of the performance variants; number and seed of the halls (other halls than in training)
Case = namedtuple("Case", "preset folder vary halls", defaults=(None, None, None))
cases = {
    "piano trained on": Case(hp.piano_preset),
    "piano left out": Case(left_out),
    "piano left out, in a room": Case((*left_out, True)),
    "like a recording": Case(left_out, "variants", random_variant, (12, 1)),
    "performed, in a hall": Case(left_out, "performed", pedalled_variant, (12, 2)),
}


def write_variants(case, midi_folder):
    """Write a performance variant of every piece of a folder, and return the folder with the variants."""
    folder, pieces = hp.data / "evaluation" / case.folder, Util.find_pieces(midi_folder, Notes.midi_endings)
    for path in folder.glob("*.mid"):
        if path.stem not in pieces:
            path.unlink()
    for name, path in pieces.items():
        if not Util.is_up_to_date(folder / f"{name}.mid", path):
            with Util.atomic_write(folder / f"{name}.mid") as temporary:
                case.vary(path, name).save(temporary)
    return folder


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
    recorded, responses = folder.with_name(folder.name + "_recorded"), Augmentation.room_responses(*halls)
    shutil.rmtree(recorded, ignore_errors=True)
    for i, (name, (piano, synth)) in enumerate(DatasetCreator.find_pairs(folder).items()):
        rng, dry = np.random.default_rng(i), Util.read_audio(piano)
        wet = fftconvolve(dry, responses[i % len(responses)])[:dry.size]
        wet += wet.std() * 10 ** (-signal_to_noise / 20) * rng.standard_normal(dry.size)
        Util.write_audio(recorded / "piano" / f"{name}.wav",
                         Augmentation.mp3_round_trip(wet * hp.peak / np.abs(wet).max(), mp3_compression))
        Util.write_audio(recorded / "synth" / f"{name}.wav", Util.read_audio(synth))
    return recorded


def prepare(case, midi_folder):
    """Render the recordings of a case.

    Parameters
    ----------
    case : str
        One of `cases`.
    midi_folder : Path

    Returns
    -------
    (Path, dict)
        A folder with piano/ and synth/, and the MIDI file of each piece.
    """
    case = cases[case]
    if case.vary:
        midi_folder = write_variants(case, midi_folder)
    folder = Evaluation.render_pair(midi_folder, hp.data, case.preset)
    return (record_in_halls(folder, case.halls) if case.halls else folder,
            Util.find_pieces(midi_folder, Notes.midi_endings))
