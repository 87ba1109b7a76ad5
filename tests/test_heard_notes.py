"""Notes of pairs without MIDI files: which recording they come from, how certain they are, and their velocities."""
import numpy as np
import pytest

import HeardNotes
import Hyperparameters as hp
import Metrics
import Util
from AEModel import load_model
from Autoencoder import Autoencoder
from notes_common import some_notes

missed, false = 5, np.float32([[1.0, 1.5, 70, 30]])


def transcription(notes, probability):
    return notes, np.full(len(notes), probability, np.float32)


def test_a_note_of_both_recordings_is_certain_and_that_of_one_is_not():
    notes = some_notes()
    late = notes + np.float32([0.01, 0.01, 0, 0])
    found, certainty, *_ = HeardNotes.merge(transcription(notes, 0.98), transcription(np.delete(late, missed, 0), 0.9))
    np.testing.assert_array_equal(found, notes)
    assert certainty[missed] == pytest.approx(0.49) and (np.delete(certainty, missed) == 1).all()


def test_the_more_reliable_recording_gives_the_notes_and_the_source_their_velocities():
    notes = some_notes()
    softer = (notes * np.float32([1, 1, 1, 0.5])).clip((0, 0, 0, 1))
    source = transcription(np.concatenate([np.delete(softer, missed, 0), false]), 0.7)
    found, certainty, *_ = HeardNotes.merge(source, transcription(notes, 0.95))
    np.testing.assert_array_equal(found[:, :3], notes[:, :3])
    np.testing.assert_allclose(found[:, 3], softer[:, 3], atol=0.01)
    assert certainty.argmin() == missed


def test_a_pair_that_is_not_transcribed_reliably_gives_no_notes():
    assert HeardNotes.merge(transcription(some_notes(), 0.7), transcription(false, 0.8)) == (None, None, None)
    nothing = transcription(false[:0], 1)
    assert HeardNotes.merge(nothing, nothing) == (None, None, None)
    found, certainty, *_ = HeardNotes.merge(nothing, transcription(false, 0.95))
    np.testing.assert_array_equal(found, false)
    assert certainty == pytest.approx(0.475)


def test_notes_match_once_each_and_the_nearest_first():
    first = np.float32([[1.00, 2, 60, 80], [1.04, 2, 60, 80], [3, 4, 62, 80], [5, 6, 64, 80]])
    second = np.float32([[1.03, 2, 60, 80], [3, 4, 63, 80], [5.06, 6, 64, 80]])
    assert [part.tolist() for part in HeardNotes.match_notes(first, second)] == [[1], [0]]


def test_a_recording_against_itself_gives_its_notes_all_certain(demo_seconds=2):
    audio = Util.read_audio(hp.demo)[:demo_seconds * hp.sample_rate]
    model = load_model(Autoencoder, hp.ae_weights)
    notes, probability = HeardNotes.transcribe(audio, model)
    assert len(notes) > 10 and probability.min() > hp.refiner_threshold and probability.mean() > 0.95
    found, certainty, *_ = HeardNotes.merge((notes, probability), (notes, probability))
    assert (certainty == 1).all() and Metrics.note_scores(notes, found)["onset_f1"] == 1
