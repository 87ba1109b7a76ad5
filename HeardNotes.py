"""Find the notes of two aligned recordings that have no MIDI file, with a certainty for each note."""
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


def heard_notes(source, target, model):
    """Transcribe both recordings of a pair, and return the notes of the one that is transcribed more reliably.

    Parameters
    ----------
    source, target : np.ndarray [shape=(n,), float32]
        Aligned recordings at `hp.sample_rate`, not silent.
    model : NoteModel
        Note autoencoder that transcribes them.

    Returns
    -------
    notes : np.ndarray [shape=(n, 4), float32] or None
        Onset and offset in seconds, MIDI key, velocity from 1 to 127, sorted by onset. The velocities are those of the
        source, since the decoder gets such velocities in a conversion. None if both transcriptions are unreliable.
    certainty : np.ndarray [shape=(n,), float32, in [0, 1]] or None
        Probability of each note.
    from_source : bool or None
        Whether the source is transcribed more reliably than the target.
    """
    return merge(*(transcribe(audio, model) for audio in (source, target)))


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


def merge(source, target):
    """Merge the transcriptions of a pair, each its notes and their probabilities: see `heard_notes`.

    The mean probability of the notes tells which transcription is more reliable: it ranks instruments as the onset F1
    does. A note that both have is certain.
    """
    reliability = [float(probability.mean()) if len(probability) else 0.0 for _, probability in (source, target)]
    if max(reliability) < min_reliability:
        return None, None, None
    (notes, probability), (others, _) = (source, target) if reliability[0] >= reliability[1] else (target, source)
    own, other = match_notes(notes, others)
    certainty = one_sided * probability
    certainty[own] = 1
    notes = notes.copy()
    if reliability[1] > reliability[0] and len(own):
        notes[:, 3] *= np.exp(np.median(np.log(others[other, 3] / notes[own, 3])))
        notes[own, 3] = others[other, 3]
        notes[:, 3] = notes[:, 3].clip(1, 127)
    return notes, certainty, bool(reliability[0] >= reliability[1])


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
    """Write the heard notes of pieces, with their certainty, to data/generated/<piece>/heard.npy [shape=(n, 6)].

    The last column is 1 if the source was transcribed more reliably than the target.

    Parameters
    ----------
    names : list of str
        Pieces, whose audio `DatasetCreator.build` has stored. Those that are not heard well are left out.
    data : Path
    model : NoteModel or None

    Returns
    -------
    list of str
        Pieces with notes.
    bool
        Whether most pieces are heard better in the source than in the target.

    Raises
    ------
    ValueError
        If no piece is heard well, or there is no model.
    """
    found, sides_heard = [], []
    for name in tqdm(names, desc="heard notes", unit="piece", leave=False) if model else ():
        folder = Path(data) / "generated" / name
        path, sides = folder / "heard.npy", [folder / f"{side}_audio.npy" for side in ("piano", "synth")]
        if not Util.is_up_to_date(path, *sides):
            stored = [StoredAudio(side) for side in sides]
            notes, *rest = heard_notes(*(audio.read(0, audio.samples) for audio in stored), model)
            columns = [np.broadcast_to(part, len(notes)) for part in rest] if notes is not None else []
            heard = np.column_stack([notes, *columns]) if columns else np.zeros((0, 6))
            Util.save_array(path, heard.astype(np.float32))
        heard = Util.load_array(path, np.float32)
        if len(heard):
            found.append(name)
            sides_heard.append(heard[0, 5])
    if not found:
        raise ValueError(f"{Path(data) / 'notes'} has no MIDI files, and the notes of the pairs are not heard well "
                         "enough; put the MIDI files of the pairs there, or give --report")
    return found, float(np.mean(sides_heard)) >= 0.5
