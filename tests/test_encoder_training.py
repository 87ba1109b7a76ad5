"""The training of the `HarmonicEncoder` on made clips, the loss, and the note-level post-processing behind it."""
import signal

import numpy as np
import pytest
import torch

import AEMain
import AEModel
import ClipSources
import DatasetCreator
import Hyperparameters as hp
import NoteRefinement
import NoteTrainer
import Notes
import Plots
import RefinerTraining
from NoteAutoencoder import NoteAutoencoder, NoteRefiner
from NoteHeads import other_notes
from NoteLoss import frame_loss
from notes_common import HighestOffset, as_views, every_onset_refiner, rate, small, some_notes
from training_common import assert_same, interruption, losses

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def clips(tmp_path, responses, monkeypatch):
    """A data folder with clips/, of one piano of sines, and constants for a training of seconds."""
    for name, value in dict(clip_piano_keys=(40, 60, 80), clip_piano_fade=100, clip_lead_s=1.0, clip_pool=2,
                            clip_validation_step=2, note_max_steps=6, note_epochs=2, head_epochs=1, head_clips=2,
                            head_clip_frames=128, max_validation_pieces=1, encoder_form=small).items():
        monkeypatch.setattr(hp, name, value)
    monkeypatch.setattr(Plots, "save_figure", lambda *_: None)
    t = np.arange(6000) / hp.sample_rate
    hertz = 440 * 2 ** ((np.array(hp.clip_piano_keys) - 69) / 12)
    sounds = np.sin(2 * np.pi * hertz[:, None, None] * t) * np.exp(-4 * t) * np.array([0.2, 0.4, 0.6, 0.8])[:, None]
    folder = tmp_path / "clips"
    (folder / "pianos").mkdir(parents=True)
    ClipSources.save_piano(folder / "pianos" / "sines.npz", sounds.astype(np.float32))
    np.savez(folder / "rooms.npz", *[response.astype(np.float16) for response in responses])
    pieces = [some_notes(60, 12, seed) for seed in range(3)]
    np.savez(folder / "pieces.npz", notes=np.concatenate(pieces), note_counts=[60] * 3, pedal=np.zeros((0, 2)),
             pedal_counts=[0] * 3)
    return tmp_path


# training on made clips

def test_a_training_on_made_clips_alone_resumes_to_the_bit(clips):
    def train(model):
        AEMain.train(clips, model=model, from_scratch=True, epochs=2, batch_size=2, crop_frames=32, device="cpu")

    train("whole")
    with interruption(clips, 9, signal.SIGINT, "NoteDataset.NoteDataset"):  # in the second of two epochs
        train("own")
    train("own")
    own, whole = (clips / "models" / model / "ae.torch" for model in ("own", "whole"))
    assert_same(own, whole)
    parts = [losses(weights.with_name("ae_encoder.torch")) for weights in (own, whole)]
    assert parts[0] == parts[1] and parts[0]["settings"]["epoch_steps"] == 3
    assert [list(figures) for figures in parts[0]["figures"]] == 2 * [["recorded"]]


def test_a_folder_without_pairs_and_clips_is_one_sentence(tmp_path, command):
    process = command(tmp_path, "AEMain.py", "--data", tmp_path)
    assert process.returncode == 1 and process.stdout == "" and len(process.stderr.strip().splitlines()) == 1
    assert "piano" in process.stderr and "MIDI2Audio.py" in process.stderr


# loss

@pytest.mark.parametrize("outputs", (3, 4))
def test_the_frame_loss_is_smallest_at_the_labels(outputs):
    labels = torch.from_numpy(np.stack([Notes.note_labels(some_notes(20, 2, seed), 0, 200) for seed in (0, 1)]))
    exact = torch.logit(labels[:, :outputs].clamp(1e-6, 1 - 1e-6))
    loss = frame_loss(exact, labels)
    generator = torch.Generator().manual_seed(0)
    for channel in range(outputs):
        changed = exact.clone()
        changed[:, channel] += 8 * torch.randn(changed[:, channel].shape, generator=generator)
        assert frame_loss(changed, labels) > loss + 0.01, channel
    if outputs == 4:  # the offsets add to the loss of the other three
        assert loss > frame_loss(exact[:, :3], labels)


def test_velocities_relative_to_the_clip_count_more_in_the_loss():
    labels = torch.zeros(1, 3, 4, hp.n_keys)
    labels[0, 0, 1, [3, 7]], labels[0, 2, 1, [3, 7]] = 1, 0.5
    exact = torch.logit(labels.clamp(1e-6, 1 - 1e-6))
    whole, single = exact.clone(), exact.clone()
    whole[0, 2, 1, [3, 7]] -= 1
    single[0, 2, 1, 3] -= 1
    loss = frame_loss(exact, labels)
    assert loss < frame_loss(whole, labels) < frame_loss(single, labels)


# post-processing

def fit_head(refiner, name, examples, epochs, learning_rate=2e-3):
    """Train a head on the examples of clips."""
    head, examples = getattr(refiner, f"{name}_head"), [tuple(map(torch.from_numpy, part)) for part in examples]
    optimiser = torch.optim.AdamW(head.parameters(), learning_rate)
    head.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(examples)).split(4):
            optimiser.zero_grad()
            RefinerTraining.head_loss(name, refiner, [examples[row] for row in rows], "cpu").backward()
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
    found = NoteRefinement.decode_notes(as_views(Notes.note_labels(notes, 0, 800)), refiner)
    assert len(found) == len(notes) > 20
    np.testing.assert_array_equal(found[:, 2], notes[:, 2])
    np.testing.assert_allclose(found[:, :2], notes[:, :2], atol=2e-3)
    np.testing.assert_allclose(found[:, 3], notes[:, 3], atol=0.5)


def test_a_trained_refiner_finds_the_offsets():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    def predictions(notes):
        """Labels, and offsets that are predicted where none is, a little less surely."""
        labels = Notes.note_labels(notes, 0, 800)
        false = notes + rng.uniform(0.1, 0.5, (len(notes), 1)) * (0, 1, 0, 0)
        labels[3] = np.maximum(0.8 * labels[3], 0.9 * Notes.note_labels(false, 0, 800)[3])
        return as_views(labels)

    def missed(refiner, notes):
        found = NoteRefinement.decode_notes(predictions(notes), refiner)
        assert len(found) == len(notes)
        return (np.abs(found[:, 1] - notes[:, 1]) > 0.05).mean()

    refiner, true = every_onset_refiner(), spaced_notes(99)
    examples = []
    for seed in range(12):
        notes = spaced_notes(seed)
        examples.append(RefinerTraining.offset_examples(refiner, predictions(notes), notes))
    before = missed(refiner, true)
    fit_head(refiner, "offset", examples, 15)
    assert missed(refiner, true) < 0.1 < before


def test_the_closest_candidate_on_average_is_chosen_and_a_longer_note_if_in_doubt():
    def chosen(probability, *duration):
        known = np.append(np.ones(len(duration), bool), False)[None]
        padded = (np.append(values, 0)[None] for values in (np.log(probability), np.float64(duration)))
        scores, duration = padded
        return NoteRefinement.expected_closeness(scores, known, duration).argmax()

    assert chosen([0.7, 0.3], 20, 200) == 0
    assert chosen([0.4, 0.6], 20, 200) == 1
    assert chosen([0.5, 0.5], 20, 200) == 1
    assert chosen([0.4, 0.3, 0.3], 20, 100, 104) > 0  # two that lie near each other support each other
    assert chosen([0.4, 0.35, 0.25], 20, 60, 180) == 1  # the middle is never far off


@pytest.mark.parametrize("frames", (1, 2, 50))
def test_silence_and_short_predictions_give_no_notes(frames):
    refiner = every_onset_refiner()
    one = np.zeros((4, frames, hp.n_keys), np.float32)
    assert NoteRefinement.decode_notes(as_views(one), refiner).shape == (0, 4)
    one[:3, 0, 40] = 0.9
    found = NoteRefinement.decode_notes(as_views(one), refiner)
    assert found.shape[1] == 4 and np.isfinite(found).all() and (found[:, 1] <= frames / rate + 1e-6).all()


def test_velocities_are_refined_and_few_notes_stay_as_they_are():
    torch.manual_seed(0)
    notes, refiner = some_notes(40), NoteRefiner()
    notes[:, 3] = notes[:, 3].clip(30, 90)
    pitch = np.random.default_rng(0).random((hp.n_pitches, 400)).astype(np.float32)
    refined = NoteRefinement.refine_velocities(notes, pitch, refiner)
    np.testing.assert_array_equal(refined[:, :3], notes[:, :3])
    assert np.abs(refined[:, 3] - notes[:, 3]).max() > 0.1
    few = notes[:hp.refiner_min_notes - 1]
    np.testing.assert_array_equal(NoteRefinement.refine_velocities(few, pitch, refiner), few)


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
    for _ in range(64):
        seen, key, louder = example(40)
        true = np.exp(4 + louder)
        true[::10] = np.nan  # notes that were not played
        examples.append((seen, key, np.full(40, 3.8, np.float32), true.astype(np.float32)))
    fit_head(refiner, "velocity", examples, 20)
    seen, key, louder = example(200)
    learnt = hp.velocity_scale * NoteRefinement.run_head(head, seen, key)
    assert np.corrcoef(learnt[1:], louder[1:])[0, 1] > 0.8
    assert abs(learnt.mean() - 0.2) < 0.1  # the level


def test_the_velocity_loss_counts_single_notes_more_than_the_level():
    counts, true = [4, 5], torch.tensor([30.0, 50, 70, float("nan"), 40, 60, 80, 100, 40])
    heard = true.nan_to_num(40).log()

    def loss(logarithm):
        return RefinerTraining.velocity_loss(lambda *_: torch.zeros(9), counts, None, None, logarithm, true).item()

    other = heard.clone()
    other[1] += 0.4
    assert loss(heard) == pytest.approx(0, abs=1e-6)
    assert loss(heard + 0.05) == pytest.approx(0.05 * hp.refiner_level_weight, rel=1e-3)
    assert loss(heard + torch.tensor([0.4] * 4 + [0.0] * 5)) == pytest.approx(0.2 * hp.refiner_level_weight, rel=1e-3)
    assert loss(other) > 0.05


def test_several_recordings_do_not_see_each_other():
    torch.manual_seed(0)
    head, key = NoteRefiner().velocity_head.eval(), torch.arange(50) % 7
    seen = torch.randn(50, len(head.scale.weight))
    apart = torch.cat([head(seen[:20], key[:20]), head(seen[20:], key[20:])])
    torch.testing.assert_close(head(seen, key, [20, 30]), apart)
    assert not torch.allclose(head(seen, key)[15:25], apart[15:25])


def test_a_note_sees_the_other_notes_of_its_key_and_not_itself():
    x, key = torch.arange(8.0).view(4, 2), torch.tensor([3, 5, 3, 3])
    mean, number = other_notes(x, key)
    torch.testing.assert_close(mean, torch.tensor([[5.0, 6], [0, 0], [3, 4], [2, 3]]))
    torch.testing.assert_close(number, torch.tensor([[3.0], [1], [3], [3]]).log())


def test_the_onset_head_learns_which_candidates_were_played():
    torch.manual_seed(0)
    refiner, rng = NoteRefiner(), np.random.default_rng(0)

    def heard(notes):
        """Labels, and onsets an octave above that were not played and do not sound for long."""
        ghosts = notes[::3] + (0, 0, 12, 0)
        ghosts[:, 1] = ghosts[:, 0] + 0.08
        labels = Notes.note_labels(np.concatenate([notes, ghosts[ghosts[:, 2] <= 108]]), 0, 800)
        return as_views(np.maximum(labels - 0.2 * rng.random(labels.shape), 0).astype(np.float32))

    def wrong(notes):
        found = NoteRefinement.decode_notes(heard(notes), refiner)
        return abs(len(found) - len(notes)) / len(notes)

    examples = [RefinerTraining.onset_examples(heard(notes), notes) for notes in map(spaced_notes, range(12))]
    assert 0.1 < 1 - np.concatenate([played for *_, played in examples]).mean() < 0.5
    fit_head(refiner, "onset", examples, 20)
    assert wrong(spaced_notes(99)) < 0.08


def test_a_true_note_is_found_once():
    notes = np.array([(1.0, 2.0, 60, 80), (1.06, 2.0, 60, 80), (3.0, 4.0, 62, 80)])
    place = RefinerTraining.match(notes, np.array([1.04, 1.01, 3.0, 3.01, 9.0]), np.array([60, 60, 62, 62, 60]))
    np.testing.assert_array_equal(place, [1, 0, 2, -1, -1])
    assert (RefinerTraining.match(notes[:0], np.array([1.0]), np.array([60])) == -1).all()


def test_clips_without_notes_or_sound_teach_the_heads_nothing_and_do_no_harm(clips):
    torch.manual_seed(0)
    network, notes = NoteAutoencoder(), np.array([[0.1, 0.5, 60, 80]], np.float32)
    audio = np.sin(np.arange(8192) / 20).astype(np.float32)
    paths = RefinerTraining.predict_clips(network, [("silent", lambda: (0 * audio, notes)), ("one", lambda: (
        audio, notes[:0]))], "cpu", clips / "predictions")
    examples = RefinerTraining.PredictedClips(paths)
    assert examples.paths == paths[1:] and examples.batches(dict(seed=0, batch_size=4), 0) == [[0]]
    predictions, pitch, none = examples[0]
    assert predictions.shape == (8 + network.refiner.details.out_channels / 2, 33, hp.n_keys)
    assert pitch.shape == (hp.n_pitches, 17) and none.shape == (0, 4)
    trainer = NoteTrainer.HeadTrainer(network, 1e-3, torch.device("cpu"))
    assert list(trainer.train_epoch([[examples[0]]], [1])) == [0]
    paths[1].write_bytes(b"damaged")
    again = RefinerTraining.predict_clips(network, [("one", lambda: (audio, notes))], "cpu", clips / "predictions")
    np.testing.assert_array_equal(RefinerTraining.PredictedClips(again)[0][2], notes)


def test_the_components_of_the_last_layer_have_mean_0_and_variance_1():
    rng = np.random.default_rng(0)
    values = 3 + rng.standard_normal((2000, 6)) @ rng.standard_normal((6, 6))
    parts = sum(RefinerTraining.moments(part) for part in np.split(values, (500, 700)))
    weight, bias = RefinerTraining.principal_components(parts, 4)
    shown = values @ weight.T + bias
    np.testing.assert_allclose(shown.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(shown.T), np.eye(4), atol=2e-3)
    constant = RefinerTraining.moments(np.concatenate([values, np.full((2000, 1), 5)], 1))
    weight, bias = RefinerTraining.principal_components(constant, 7)
    assert np.abs(weight[:, 6]).max() == 0 and np.isfinite(weight).all() and np.abs(weight).max() < 100
    nothing = RefinerTraining.principal_components(RefinerTraining.moments(np.zeros((0, 6))), 4)
    assert not any(part.any() for part in nothing)


def test_details_are_means_over_steps_of_a_key():
    details = np.random.default_rng(0).random((3, 21, hp.n_keys)).astype(np.float32)
    seen = NoteRefinement.detail_features(details, np.array([4, 0, 9, 3]), np.array([7, 7, 7, hp.n_keys]), (-1, 2))
    assert seen.shape == (4, 6) and not seen[3].any()
    np.testing.assert_allclose(seen[0], np.concatenate([details[:, (6, 8, 10), 7].mean(1), details[:, (7, 9, 11), 7].mean(1)]))
    np.testing.assert_allclose(seen[1, :3], details[:, (0, 0, 2), 7].mean(1), rtol=1e-6)
    np.testing.assert_allclose(seen[2, :3], details[:, (16, 18, 18), 7].mean(1), rtol=1e-6)
    assert NoteRefinement.detail_features(details[:, :1], np.array([0]), np.array([7]), (-1, 2)).shape == (1, 6)


def test_the_encoder_hears_the_recording_as_it_is_and_without_late_reverberation():
    torch.manual_seed(0)
    network, rng = NoteAutoencoder(**small), np.random.default_rng(0)
    model, mel = AEModel.NoteModel(network), rng.random((hp.n_mels, 41)).astype(np.float32)
    pitch = [rng.random((hp.n_pitches, steps)).astype(np.float32) for steps in (21, 20)]
    heard = NoteRefinement.views(model.predict_views(pitch, mel))
    assert heard.details.shape == (network.refiner.details.out_channels // 2, 41, hp.n_keys)
    np.testing.assert_array_equal(heard.plain, model.predict_frames(pitch[0], mel)[:4])
    dry = model.predict_frames(*(DatasetCreator.reduce_reverberation(image, hop / hp.sample_rate) for image, hop in (
        (pitch[1], hp.pitch_hop_length), (mel[:, 1:], hp.hop_length))))[:4]
    np.testing.assert_array_equal(heard.dry[:, 1:], dry)
    np.testing.assert_allclose(heard.mean, (heard.plain + heard.dry) / 2)
    assert model.predict_views(pitch[:1], mel).shape == (8 + len(heard.details), 41, hp.n_keys)


def test_late_reverberation_is_subtracted_and_an_onset_stays():
    step, level = 0.01, np.concatenate([np.zeros(20), 1 - np.arange(100) / 125]).astype(np.float32)
    image = np.stack([level, 0 * level])
    reduced = DatasetCreator.reduce_reverberation(image, step)
    assert reduced.dtype == np.float32 and reduced.shape == image.shape
    np.testing.assert_allclose(reduced[:, :25], image[:, :25], atol=1e-6)  # the first 50 ms of a sound are not late
    lost = hp.top_db * (image - reduced)[0, 40:100]
    assert (lost > 3).all() and (lost < 10.01).all()  # at most the floor
    assert not reduced[1].any()
