"""Notes of pairs without MIDI files: which recording they come from, how certain they are, and their velocities."""
import numpy as np
import pytest

import HeardNotes
import Hyperparameters as hp
import Transcription
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
    pair = transcription(notes, 0.98), transcription(np.delete(late, missed, 0), 0.9)
    side, [(found, certainty)] = HeardNotes.choose_notes([pair])
    assert side == "piano"
    np.testing.assert_array_equal(found, notes)
    assert certainty[missed] == pytest.approx(0.49) and (np.delete(certainty, missed) == 1).all()


def test_the_more_reliable_side_gives_the_notes_and_the_source_their_velocities():
    notes = some_notes()
    softer = (notes * np.float32([1, 1, 1, 0.5])).clip((0, 0, 0, 1))
    source = transcription(np.concatenate([np.delete(softer, missed, 0), false]), 0.7)
    side, [(found, certainty), (alone, _)] = HeardNotes.choose_notes([
        (source, transcription(notes, 0.95)), (transcription(false, 0.99), transcription(false, 0.6))])
    assert side == "synth"
    np.testing.assert_array_equal(found[:, :3], notes[:, :3])
    np.testing.assert_allclose(found[:, 3], softer[:, 3], atol=0.01)
    assert certainty.argmin() == missed
    np.testing.assert_array_equal(alone, false)


def test_pairs_that_are_not_transcribed_reliably_give_no_notes():
    nothing = transcription(false[:0], 1)
    for pairs in [(transcription(some_notes(), 0.7), transcription(false, 0.8))], [(nothing, nothing)], []:
        assert HeardNotes.choose_notes(pairs) == (None, [])
    assert HeardNotes.choose_notes([(nothing, transcription(false, 0.95))])[0] == "synth"


def test_notes_match_once_each_and_the_nearest_first():
    first = np.float32([[1.00, 2, 60, 80], [1.04, 2, 60, 80], [3, 4, 62, 80], [5, 6, 64, 80]])
    second = np.float32([[1.03, 2, 60, 80], [3, 4, 63, 80], [5.06, 6, 64, 80]])
    assert [part.tolist() for part in HeardNotes.match_notes(first, second)] == [[1], [0]]


def test_a_recording_with_itself_as_the_target_gives_its_notes_all_certain():
    audio = Util.read_audio(hp.demo)[:hp.sample_rate]
    found = HeardNotes.transcribe(audio, load_model(Autoencoder, hp.ae_weights))
    side, [(notes, certainty)] = HeardNotes.choose_notes([(found, found)])
    assert side == "piano" and len(notes) > 5 and (certainty == 1).all()
    np.testing.assert_array_equal(notes, Transcription.transcribe_audio(audio, load_model(Autoencoder, hp.ae_weights)))
