"""Find the notes of pairs of recordings that have no MIDI files, with a certainty for each note."""
import types
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import NoteRefinement
import Transcription
import Util
from NoteDataset import StoredAudio

min_reliability = 0.88  # mean probability of a recording's notes, below which its transcription is not used
one_sided = 0.5         # factor of the probability of a note that is found in one recording only


def choose_notes(heard):
    """Return the notes of the side of pairs that is transcribed more reliably.

    The mean probability of all notes tells which side that is: it ranks instruments as the onset F1 does.

    Parameters
    ----------
    heard : list of (transcription, transcription)
        Source and target of each pair: see `transcribe`.

    Returns
    -------
    side : str or None
        Side that the notes come from, "piano" for the sources or "synth" for the targets. None if the transcriptions of
        both sides are unreliable.
    list of (np.ndarray [shape=(n, 4), float32], np.ndarray [shape=(n,), float32, in [0, 1]])
        Notes of each pair, sorted by onset, and the certainty of each note: see `merge`. Empty without a side.
    """
    reliability = {}
    for side, transcriptions in zip(("piano", "synth"), zip(*heard)):
        probabilities = np.concatenate([probability for _, probability in transcriptions])
        reliability[side] = probabilities.mean() if len(probabilities) else 0
    side = max(reliability, key=reliability.get, default=None)  # the source, if both are equal
    if side is None or reliability[side] < min_reliability:
        return None, []
    return side, [merge(source, target, side) for source, target in heard]


def transcribe(audio, model):
    """Return the notes of a recording, and the probability of each after the onset head [shape=(n,), in [0, 1]]."""
    probabilities = []

    def decode_notes(predictions):
        predicted, notes = NoteRefinement.views(predictions), model.decode_notes(predictions)
        frame, key = NoteRefinement.refined_candidates(predicted.mean)
        probability = NoteRefinement.note_probability(model.network.refiner.onset_head, predicted, frame, key)
        # the onset of a note is interpolated around its frame, so the nearest candidate of its key is its own
        apart = np.abs(notes[:, :1] * NoteRefinement.frame_rate - frame) + 1e6 * (notes[:, 2:3] - hp.lowest_key != key)
        probabilities.append(probability[apart.argmin(axis=1)] if len(notes) else np.zeros(0, np.float32))
        return notes

    listener = types.SimpleNamespace(predict_views=model.predict_views, decode_notes=decode_notes,
                                     refine_velocities=model.refine_velocities)
    return Transcription.transcribe_audio(audio, listener), np.concatenate(probabilities)


def merge(source, target, side):
    """Return the notes of a side of a pair, and the certainty of each.

    A note that both sides have is certain. The velocities are those of the source, since the decoder gets such
    velocities in a conversion.

    Parameters
    ----------
    source, target : (np.ndarray [shape=(n, 4)], np.ndarray [shape=(n,)])
        Notes of each side, and their probabilities.
    side : str
        "piano" or "synth".

    Returns
    -------
    notes : np.ndarray [shape=(n, 4), float32]
    certainty : np.ndarray [shape=(n,), float32, in [0, 1]]
    """
    (notes, probability), (others, _) = (source, target) if side == "piano" else (target, source)
    own, other = match_notes(notes, others)
    notes, certainty = notes.copy(), one_sided * probability
    certainty[own] = 1
    if side == "synth" and len(own):
        notes[:, 3] *= np.exp(np.median(np.log(others[other, 3] / notes[own, 3])))
        notes[own, 3] = others[other, 3]
        notes[:, 3] = notes[:, 3].clip(1, 127)
    return notes, certainty


def match_notes(first, second):
    """Match notes [shape=(n, 4)] of the same key with onsets within `hp.onset_tolerance_s`, the nearest first.

    Returns the indices of the matched notes in both arrays [shape=(m,), int64]. Each note is matched at most once.
    """
    apart = np.abs(first[:, None, 0] - second[:, 0])
    apart[first[:, None, 2] != second[:, 2]] = np.inf
    pairs = np.argwhere(apart <= hp.onset_tolerance_s)
    matched = {}, {}
    for i, j in pairs[np.argsort(apart[tuple(pairs.T)], kind="stable")]:
        if i not in matched[0] and j not in matched[1]:
            matched[0][i], matched[1][j] = j, i
    return np.array(list(matched[0]), int), np.array(list(matched[0].values()), int)


def store_notes(names, data, model):
    """Write the heard notes of pieces, with their certainty, to data/generated/<piece>/heard.npy [shape=(n, 5)].

    What was transcribed is kept beside it, so that an interrupted call goes on.

    Parameters
    ----------
    names : list of str
        Pieces, whose audio `DatasetCreator.build` has stored.
    data : Path
    model : NoteModel or None

    Returns
    -------
    str
        Side that the notes come from: see `choose_notes`.

    Raises
    ------
    ValueError
        If the notes are not heard reliably, or there is no model.
    """
    folders = [Path(data) / "generated" / name for name in names] if model else []
    side, notes = choose_notes([tuple(stored_transcription(folder, name, model) for name in ("piano", "synth"))
                                for folder in tqdm(folders, desc="heard notes", unit="piece", leave=False)])
    if not side:
        raise ValueError(f"{Path(data) / 'notes'} has no MIDI files, and the notes of the pairs are not heard reliably; "
                         "put the MIDI files of the pairs there, or give --report")
    for folder, (found, certainty) in zip(folders, notes):
        Util.save_array(folder / "heard.npy", np.column_stack([found, certainty]).astype(np.float32))
    return side


def stored_transcription(folder, name, model):
    """Return the transcription of the stored audio of one side of a piece: see `transcribe`."""
    path, audio = folder / f"{name}_heard.npy", folder / f"{name}_audio.npy"
    if not Util.is_up_to_date(path, audio):
        stored = StoredAudio(audio)
        Util.save_array(path, np.column_stack(transcribe(stored.read(0, stored.samples), model)).astype(np.float32))
    found = Util.load_array(path, np.float32)
    return found[:, :4], found[:, 4]
