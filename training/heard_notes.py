"""Find the notes of pairs of recordings that have no MIDI files, with a certainty for each note."""
import types
from pathlib import Path

import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util
from notes import post_processing, transcription
from notes.note_events import frame_rate
from training.note_dataset import StoredAudio

min_reliability = 0.88  # mean probability of a recording's notes, below which its transcription is not used
one_sided = 0.5         # factor of the probability of a note that is found in one recording only


def choose_notes(heard):
    """Return the side of pairs that is transcribed more reliably, "piano" for the sources or "synth" for the targets,
    and the notes and certainties of each pair (`merge`); None and an empty list if both sides are unreliable. `heard`
    are the transcriptions of source and target of each pair (`transcribe`). The mean probability of all notes tells
    which side is more reliable: it ranks instruments as the onset F1 does."""
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
        predicted, notes = post_processing.views(predictions), model.decode_notes(predictions)
        frame, key = post_processing.onset_candidates(predicted.mean)
        probability = post_processing.note_probability(model.network.refiner.onset_head, predicted, frame, key)
        # the onset of a note is interpolated around its frame, so the nearest candidate of its key is its own
        apart = np.abs(notes[:, :1] * frame_rate - frame) + 1e6 * (notes[:, 2:3] - hp.lowest_key != key)
        probabilities.append(probability[apart.argmin(axis=1)] if len(notes) else np.zeros(0, np.float32))
        return notes

    listener = types.SimpleNamespace(predict_views=model.predict_views, decode_notes=decode_notes,
                                     refine_velocities=model.refine_velocities)
    return transcription.transcribe_audio(audio, listener), np.concatenate(probabilities)


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
    """Return the transcription of the stored audio of one side of a piece: see `transcribe`."""
    path, audio = folder / f"{name}_heard.npy", folder / f"{name}_audio.npy"
    if not Util.is_up_to_date(path, audio):
        stored = StoredAudio(audio)
        Util.save_array(path, np.column_stack(transcribe(stored.read(0, stored.samples), model)).astype(np.float32))
    found = Util.load_array(path, np.float32)
    return found[:, :4], found[:, 4]
