"""What the heads of the note refiner see."""
import numpy as np

import DatasetCreator
import Hyperparameters as hp
from audio import audio_files
import MIDI2Audio
from notes import note_events, post_processing
from notes.note_autoencoder import n_onset_features
from notes.post_processing import frames_after, frames_before, onset_features


def test_a_note_is_seen_alike_at_any_time_on_any_key_and_among_any_others(monkeypatch):
    heard = np.random.default_rng(0).random((3, 200, hp.n_keys), np.float32)
    frame, key = np.array([60, 70, 80]), np.array([40, 43, 46])
    seen = onset_features(heard, frame, key)
    later = np.pad(heard, ((0, 0), (25, 0), (0, 0)))
    np.testing.assert_array_equal(onset_features(later, frame + 25, key), seen)
    higher = np.roll(heard, 5, axis=2)
    np.testing.assert_array_equal(onset_features(higher, frame, key + 5)[:, :-1], seen[:, :-1])
    changed = heard.copy()
    changed[:, :60 - frames_before] = changed[:, 80 + frames_after:] = 0  # beyond what is looked at
    np.testing.assert_array_equal(onset_features(changed, frame, key), seen)
    monkeypatch.setattr(post_processing, "onset_batch_size", 2)
    np.testing.assert_array_equal(onset_features(heard, frame, key), seen)


def test_notes_at_the_edges_are_seen():
    heard = np.random.default_rng(0).random((3, 50, hp.n_keys), np.float32)
    seen = onset_features(heard, np.array([0, 0, 49, 49]), np.array([0, 87, 0, 87]))
    assert seen.shape == (4, n_onset_features) and np.isfinite(seen).all()


def test_the_levels_of_partials_tell_the_velocities_where_the_predicted_ones_are_equal(tmp_path):
    played = np.array([(0.2 + 0.5 * i, 0.5 + 0.5 * i, 60 + i % 12, 30 + 15 * (i % 5)) for i in range(40)])
    note_events.save_notes(tmp_path / "scale.mid", played)
    MIDI2Audio.synthesise_midi_to_audio(tmp_path / "scale.mid", tmp_path / "scale.wav", *hp.piano_preset)
    pitch = DatasetCreator.pitch_spectrogram(audio_files.read_audio(tmp_path / "scale.wav"))
    heard = played.astype(np.float32)
    heard[:, 3] = 60
    seen = post_processing.velocity_inputs(heard, pitch)
    assert np.corrcoef(seen[:, 0], np.log(played[:, 3]))[0, 1] > 0.9
