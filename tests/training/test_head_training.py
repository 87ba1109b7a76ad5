"""The heads learn from what the encoder predicts, and decode notes from it."""
import numpy as np
import pytest
import torch

import AEModel
import Hyperparameters as hp
from notes import dereverberation, note_autoencoder, post_processing
from notes.note_autoencoder import NoteAutoencoder, NoteRefiner
from training import head_training
from notes_common import HighestOffset, as_views, every_onset_refiner, note_labels, rate, small, some_notes

pytestmark = pytest.mark.usefixtures("one_thread")


def fit_head(refiner, name, examples, epochs):
    """Train a head on the examples of clips."""
    head, examples = getattr(refiner, f"{name}_head"), [tuple(map(torch.from_numpy, part)) for part in examples]
    optimiser = torch.optim.AdamW(head.parameters(), 2e-3)
    head.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(examples)).split(4):
            optimiser.zero_grad()
            head_training.head_loss(name, refiner, [examples[row] for row in rows], "cpu").backward()
            optimiser.step()


def spaced_notes(seed=0):
    """Notes whose ends do not meet the next onset of their key."""
    notes = some_notes(50, 6, seed)
    notes = notes[notes[:, 1] - notes[:, 0] > 0.1]
    follows = [any((notes[:, 2] == key) & (np.abs(notes[:, 0] - end) < 0.1)) for _, end, key, _ in notes]
    return notes[~np.array(follows)]


def test_notes_are_decoded_from_their_labels():
    notes, refiner = spaced_notes(), every_onset_refiner()
    refiner.offset_head = HighestOffset()
    found = post_processing.decode_notes(as_views(note_labels(notes, 800)), refiner)
    assert len(found) == len(notes) > 20
    np.testing.assert_array_equal(found[:, 2], notes[:, 2])
    np.testing.assert_allclose(found[:, :2], notes[:, :2], atol=2e-3)
    np.testing.assert_allclose(found[:, 3], notes[:, 3], atol=0.5)


def test_a_trained_refiner_finds_the_offsets():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def predictions(notes):
        """Labels, and offsets that are predicted where none is, a little less surely."""
        labels = note_labels(notes, 800)
        false = notes + rng.uniform(0.1, 0.5, (len(notes), 1)) * (0, 1, 0, 0)
        labels[3] = np.maximum(0.8 * labels[3], 0.9 * note_labels(false, 800)[3])
        return as_views(labels)

    def missed(refiner, notes):
        found = post_processing.decode_notes(predictions(notes), refiner)
        assert len(found) == len(notes)
        return (np.abs(found[:, 1] - notes[:, 1]) > 0.05).mean()

    refiner, true = every_onset_refiner(), spaced_notes(99)
    examples = [head_training.offset_examples(refiner, predictions(notes), None, notes)
                for notes in map(spaced_notes, range(12))]
    before = missed(refiner, true)
    fit_head(refiner, "offset", examples, 15)
    assert missed(refiner, true) < 0.1 < before


def test_the_closest_candidate_on_average_is_chosen_and_a_longer_note_if_in_doubt():
    def chosen(probability, *duration):
        known = np.append(np.ones(len(duration), bool), False)[None]
        padded = (np.append(values, 0)[None] for values in (np.log(probability), np.float64(duration)))
        scores, duration = padded
        return post_processing.expected_closeness(scores, known, duration).argmax()

    assert chosen([0.7, 0.3], 20, 200) == 0
    assert chosen([0.4, 0.6], 20, 200) == 1
    assert chosen([0.5, 0.5], 20, 200) == 1
    assert chosen([0.4, 0.3, 0.3], 20, 100, 104) > 0  # two that lie near each other support each other
    assert chosen([0.4, 0.35, 0.25], 20, 60, 180) == 1  # the middle is never far off


@pytest.mark.parametrize("frames", (1, 2, 50))
def test_silence_and_short_predictions_give_no_notes(frames):
    refiner = every_onset_refiner()
    one = np.zeros((4, frames, hp.n_keys), np.float32)
    assert post_processing.decode_notes(as_views(one), refiner).shape == (0, 5)
    one[:3, 0, 40] = 0.9
    found = post_processing.decode_notes(as_views(one), refiner)
    assert found.shape[1] == 5 and np.isfinite(found).all() and (found[:, 1] <= frames / rate + 1e-6).all()


def test_velocities_are_refined_and_few_notes_stay_as_they_are():
    torch.manual_seed(0)
    notes, refiner = some_notes(40), NoteRefiner()
    notes[:, 3] = notes[:, 3].clip(30, 90)
    pitch = np.random.default_rng(0).random((hp.n_pitches, 400)).astype(np.float32)
    refined = post_processing.refine_velocities(notes, pitch, refiner)
    np.testing.assert_array_equal(refined[:, :3], notes[:, :3])
    assert np.abs(refined[:, 3] - notes[:, 3]).max() > 0.1
    few = notes[:post_processing.min_notes - 1]
    np.testing.assert_array_equal(post_processing.refine_velocities(few, pitch, refiner), few)


def test_the_velocity_head_learns_from_the_note_its_neighbours_and_its_key():
    torch.manual_seed(0)
    rng, refiner = np.random.default_rng(0), NoteRefiner()
    head = refiner.velocity_head
    features = len(head.scale.weight)

    def example(notes):
        """Features, keys, and what is to be learnt: a feature of the note, one of the note before it, and the mean of
        one over the notes of the same key."""
        seen, key = rng.standard_normal((notes, features)).astype(np.float32), rng.integers(0, 8, notes)
        of_key = np.array([seen[key == own, 2].mean() for own in key])
        return seen, key, 0.15 * seen[:, 0] + 0.15 * np.roll(seen[:, 1], 1) + 0.3 * of_key

    examples = []
    for _ in range(48):
        seen, key, louder = example(40)
        true = np.exp(4 + louder)
        true[::10] = np.nan  # notes that were not played
        examples.append((seen, key, np.full(40, 3.8, np.float32), true.astype(np.float32)))
    fit_head(refiner, "velocity", examples, 16)
    seen, key, louder = example(200)
    learnt = note_autoencoder.velocity_scale * post_processing.run_head(head, seen, key)
    assert np.corrcoef(learnt[1:], louder[1:])[0, 1] > 0.8
    assert abs(learnt.mean() - 0.2) < 0.1  # the level


def test_several_recordings_do_not_see_each_other():
    torch.manual_seed(0)
    head, key = NoteRefiner().velocity_head.eval(), torch.arange(50) % 7
    seen = torch.randn(50, len(head.scale.weight))
    apart = torch.cat([head(seen[:20], key[:20]), head(seen[20:], key[20:])])
    torch.testing.assert_close(head(seen, key, [20, 30]), apart)
    assert not torch.allclose(head(seen, key)[15:25], apart[15:25])


def test_the_onset_head_learns_which_candidates_were_played():
    torch.manual_seed(0)
    refiner, rng = NoteRefiner(), np.random.default_rng(0)

    def heard(notes):
        """Labels, and onsets an octave above that were not played and do not sound for long."""
        ghosts = notes[::3] + (0, 0, 12, 0)
        ghosts[:, 1] = ghosts[:, 0] + 0.08
        labels = note_labels(np.concatenate([notes, ghosts[ghosts[:, 2] <= 108]]), 800)
        return as_views(np.maximum(labels - 0.2 * rng.random(labels.shape), 0).astype(np.float32))

    def wrong(notes):
        found = post_processing.decode_notes(heard(notes), refiner)
        return abs(len(found) - len(notes)) / len(notes)

    examples = [head_training.onset_examples(refiner, heard(notes), None, notes)
                for notes in map(spaced_notes, range(12))]
    assert 0.1 < 1 - np.concatenate([played for *_, played in examples]).mean() < 0.5
    fit_head(refiner, "onset", examples, 20)
    assert wrong(spaced_notes(99)) < 0.08


def test_clips_without_notes_or_sound_teach_the_heads_nothing_and_do_no_harm(tmp_path):
    torch.manual_seed(0)
    network, notes = NoteAutoencoder(), np.array([[0.1, 0.5, 60, 80]], np.float32)
    audio = np.sin(np.arange(8192) / 20).astype(np.float32)
    device = torch.device("cpu")
    paths = head_training.predict_clips(network, [("silent", lambda: (0 * audio, notes)), ("one", lambda: (
        audio, notes[:0]))], device, tmp_path)
    examples = head_training.PredictedClips(paths)
    assert examples.paths == paths[1:] and examples.batches(dict(seed=0, batch_size=4), 0) == [[0]]
    predictions, pitch, none = examples[0]
    assert predictions.shape == (8 + network.refiner.details.out_channels / 2, 33, hp.n_keys)
    assert pitch.shape == (hp.n_pitches, 17) and none.shape == (0, 4)
    trainer = head_training.HeadTrainer(network, 1e-3, device)
    assert list(trainer.train_epoch([[examples[0]]], [1])) == [0]
    paths[1].write_bytes(b"damaged")
    again = head_training.predict_clips(network, [("one", lambda: (audio, notes))], device, tmp_path)
    np.testing.assert_array_equal(head_training.PredictedClips(again)[0][2], notes)
    assert head_training.offset_examples(every_onset_refiner(), as_views(note_labels(notes, 99)), None, none) is None


def test_the_components_of_the_last_layer_have_mean_0_and_variance_1():
    rng = np.random.default_rng(0)
    values = 3 + rng.standard_normal((2000, 6)) @ rng.standard_normal((6, 6))
    weight, bias = head_training.principal_components(np.split(values, (500, 700)), 4)
    shown = values @ weight.T + bias
    np.testing.assert_allclose(shown.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(shown.T), np.eye(4), atol=2e-3)
    constant = np.concatenate([values, np.full((2000, 1), 5)], 1)
    weight, bias = head_training.principal_components([constant], 7)
    assert np.abs(weight[:, 6]).max() == 0 and np.isfinite(weight).all() and np.abs(weight).max() < 100
    nothing = head_training.principal_components([np.zeros((0, 6))], 4)
    assert not any(part.any() for part in nothing)


def test_details_are_means_over_steps_of_a_key():
    details = np.random.default_rng(0).random((3, 21, hp.n_keys)).astype(np.float32)
    seen = post_processing.detail_features(details, np.array([4, 0, 9, 3]), np.array([7, 7, 7, hp.n_keys]), (-1, 2))
    assert seen.shape == (4, 6) and not seen[3].any()
    np.testing.assert_allclose(seen[0], np.concatenate([details[:, (first, first + 2, first + 4), 7].mean(1)
                                                        for first in (6, 7)]))
    np.testing.assert_allclose(seen[1, :3], details[:, (0, 0, 2), 7].mean(1), rtol=1e-6)
    np.testing.assert_allclose(seen[2, :3], details[:, (16, 18, 18), 7].mean(1), rtol=1e-6)
    assert post_processing.detail_features(details[:, :1], np.array([0]), np.array([7]), (-1, 2)).shape == (1, 6)


def test_the_encoder_hears_the_recording_as_it_is_and_without_late_reverberation():
    torch.manual_seed(0)
    network, rng = NoteAutoencoder(**small), np.random.default_rng(0)
    model, mel = AEModel.NoteModel(network), rng.random((hp.n_mels, 41)).astype(np.float32)
    pitch = [rng.random((hp.n_pitches, steps)).astype(np.float32) for steps in (21, 20)]
    heard = post_processing.views(model.predict_views(pitch, mel))
    assert heard.details.shape == (network.refiner.details.out_channels // 2, 41, hp.n_keys)
    np.testing.assert_array_equal(heard.plain, model.predict_frames(pitch[0], mel)[:4])
    dry = model.predict_frames(*(dereverberation.reduce_reverberation(torch.from_numpy(image), hop).numpy()
                                 for image, hop in ((pitch[1], hp.pitch_hop_length), (mel[:, 1:], hp.hop_length))))[:4]
    np.testing.assert_array_equal(heard.dry[:, 1:], dry)
    np.testing.assert_allclose(heard.mean, (heard.plain + heard.dry) / 2)
    assert model.predict_views(pitch[:1], mel).shape == (8 + len(heard.details), 41, hp.n_keys)


def test_late_reverberation_is_subtracted_and_an_onset_stays():
    level = np.concatenate([np.zeros(20), 1 - np.arange(100) / 125]).astype(np.float32)
    image = np.stack([level, 0 * level])
    reduced = dereverberation.reduce_reverberation(torch.from_numpy(image), 0.01 * hp.sample_rate).numpy()
    assert reduced.dtype == np.float32 and reduced.shape == image.shape
    np.testing.assert_allclose(reduced[:, :25], image[:, :25], atol=1e-6)  # the first 50 ms of a sound are not late
    lost = hp.top_db * (image - reduced)[0, 40:100]
    assert (lost > 3).all() and (lost < 10.01).all()  # at most the floor
    assert not reduced[1].any()
