"""Notes of pairs without MIDI files: which recording they come from, how certain they are, and their velocities."""
import numpy as np
import pytest

import Hyperparameters as hp
from AEModel import load_model
from Autoencoder import Autoencoder
from audio import audio_files
from notes import post_processing, transcription
from training import heard_notes
from notes_common import some_notes

missed, false = 5, np.float32([[1.0, 1.5, 70, 30]])


def with_certainty(notes, probability):
    return notes, np.full(len(notes), probability, np.float32)


def test_a_note_of_both_recordings_is_certain_and_that_of_one_is_not():
    notes = some_notes()
    late = notes + np.float32([0.01, 0.01, 0, 0])
    pair = with_certainty(notes, 0.98), with_certainty(np.delete(late, missed, 0), 0.9)
    side, [(found, certainty)] = heard_notes.choose_notes([pair])
    assert side == "piano"
    np.testing.assert_array_equal(found, notes)
    assert certainty[missed] == pytest.approx(0.49) and (np.delete(certainty, missed) == 1).all()


def test_the_more_reliable_side_gives_the_notes_and_the_source_their_velocities():
    notes = some_notes()
    softer = (notes * np.float32([1, 1, 1, 0.5])).clip((0, 0, 0, 1))
    source = with_certainty(np.concatenate([np.delete(softer, missed, 0), false]), 0.7)
    side, [(found, certainty), (alone, _)] = heard_notes.choose_notes([
        (source, with_certainty(notes, 0.95)), (with_certainty(false, 0.99), with_certainty(false, 0.6))])
    assert side == "synth"
    np.testing.assert_array_equal(found[:, :3], notes[:, :3])
    np.testing.assert_allclose(found[:, 3], softer[:, 3], atol=0.01)
    assert certainty.argmin() == missed
    np.testing.assert_array_equal(alone, false)


def test_pairs_that_are_not_transcribed_reliably_give_no_notes():
    nothing = with_certainty(false[:0], 1)
    for pairs in [(with_certainty(some_notes(), 0.7), with_certainty(false, 0.8))], [(nothing, nothing)], []:
        assert heard_notes.choose_notes(pairs) == (None, [])
    assert heard_notes.choose_notes([(nothing, with_certainty(false, 0.95))])[0] == "synth"


def test_notes_match_once_each_and_the_nearest_first():
    notes = np.array([(1.0, 2.0, 60, 80), (1.06, 2.0, 60, 80), (3.0, 4.0, 62, 80)])
    onset, key = np.array([1.04, 1.01, 3.0, 3.01, 9.0, 3.0]), np.array([60, 60, 62, 62, 60, 63])
    np.testing.assert_array_equal(heard_notes.match_notes(notes, onset, key), [1, 0, 2, -1, -1, -1])
    assert (heard_notes.match_notes(notes[:0], onset, key) == -1).all()


def test_a_recording_with_itself_as_the_target_gives_its_notes_all_certain():
    audio = audio_files.read_audio(hp.demo)[:hp.sample_rate]
    found = transcription.transcribe_audio(audio, load_model(Autoencoder, hp.ae_weights), certainty=True)
    assert (found[:, 4] > post_processing.onset_threshold).all() and (found[:, 4] <= 1).all()
    side, [(notes, certainty)] = heard_notes.choose_notes([((found[:, :4], found[:, 4]),) * 2])
    assert side == "piano" and len(notes) > 5 and (certainty == 1).all()
    np.testing.assert_array_equal(notes, found[:, :4])
