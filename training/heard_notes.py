"""Find the notes of pairs of recordings that have no MIDI files, with a certainty for each note."""
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util
from notes import transcription
from training.note_dataset import StoredAudio

min_reliability = 0.88  # mean probability of a recording's notes, below which its transcription is not used
one_sided = 0.5         # factor of the probability of a note that is found in one recording only


def choose_notes(heard):
    """Return the side of pairs that is transcribed more reliably, "piano" for the sources or "synth" for the targets,
    and the notes and certainties of each pair (`merge`); None and an empty list if both sides are unreliable. `heard`
    are notes [shape=(n, 4)] and probabilities [shape=(n,)] of source and target of each pair. The mean probability of
    all notes tells which side is more reliable: it ranks instruments as the onset F1 does."""
    reliability = {}
    for side, transcriptions in zip(("piano", "synth"), zip(*heard)):
        probabilities = np.concatenate([probability for _, probability in transcriptions])
        reliability[side] = probabilities.mean() if len(probabilities) else 0
    side = max(reliability, key=reliability.get, default=None)  # the source, if both are equal
    if side is None or reliability[side] < min_reliability:
        return None, []
    return side, [merge(source, target, side) for source, target in heard]


def merge(source, target, side):
    """Return the notes of a side of a pair, sorted by onset [shape=(n, 4)], and the certainty of each [shape=(n,)].
    Notes of both sides are certain. The velocities are those of the source, as in a conversion."""
    (notes, probability), (others, _) = (source, target) if side == "piano" else (target, source)
    place = match_notes(others, notes[:, 0], notes[:, 2])
    notes, certainty, both = notes.copy(), one_sided * probability, place >= 0
    certainty[both] = 1
    if side == "synth" and both.any():
        velocity = others[place[both], 3]
        notes[:, 3] *= np.exp(np.median(np.log(velocity / notes[both, 3])))
        notes[both, 3] = velocity
        notes[:, 3] = notes[:, 3].clip(1, 127)
    return notes, certainty


def match_notes(notes, onset, key):
    """Return for onsets with keys [shape=(n,) each] the place of the same note in `notes` [shape=(m, 4)], -1 if there
    is none within `hp.onset_tolerance_s` [shape=(n,)]. A note belongs to one onset, the nearest."""
    distance = np.abs(notes[:, 0] - onset[:, None])
    found, true = np.nonzero((notes[:, 2] == key[:, None]) & (distance < hp.onset_tolerance_s))
    place, taken = np.full(len(onset), -1), np.zeros(len(notes), bool)
    for i in np.argsort(distance[found, true], kind="stable"):
        if place[found[i]] < 0 and not taken[true[i]]:
            place[found[i]], taken[true[i]] = true[i], True
    return place


def store_notes(names, data, model):
    """Write the heard notes of pieces, with their certainty, to data/generated/<piece>/heard.npy [shape=(n, 5)], and
    return the side that they come from: see `choose_notes`. Raises ValueError if they are not heard reliably, or the
    model is None. Transcriptions are kept beside them, so that an interrupted call goes on."""
    folders = [Path(data) / "generated" / name for name in names] if model else []
    side, notes = choose_notes([tuple(stored_transcription(folder, name, model) for name in ("piano", "synth"))
                                for folder in tqdm(folders, desc="heard notes", unit="piece", leave=False)])
    if not side:
        raise ValueError(f"{Path(data) / 'notes'} has no MIDI files, and the notes of the pairs are not heard "
                         "reliably; put the MIDI files of the pairs there, or give --report")
    for folder, (found, certainty) in zip(folders, notes):
        Util.save_array(folder / "heard.npy", np.column_stack([found, certainty]).astype(np.float32))
    return side


def stored_transcription(folder, name, model):
    """Transcribe the stored audio of a side of a piece. Return notes [shape=(n, 4)] and probabilities [shape=(n,)]."""
    path, audio = folder / f"{name}_heard.npy", folder / f"{name}_audio.npy"
    if not Util.is_up_to_date(path, audio):
        Util.save_array(path, transcription.transcribe_audio(StoredAudio(audio).read(), model, certainty=True))
    found = Util.load_array(path, np.float32)
    return found[:, :4], found[:, 4]
