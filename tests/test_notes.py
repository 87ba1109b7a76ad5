"""The autoencoder of notes: its labels lie where the audio has them, its decoder sums what it should, and it trains,
stops, goes on and plays like the report's."""
import functools
import json
import os
import random
import shutil
import signal
import types

import mido
import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import fftconvolve

import AEMain
import Augmentation
import DatasetCreator
import Hyperparameters as hp
import Inversion
import Main
import MIDI2Audio
import Notes
import Performances
import Training
import UNetMain
import Util
from AEDataset import NoteDataset
from AEModel import load_model, AEModel, NoteModel, normalise_level
from Autoencoder import Autoencoder
from NoteAutoencoder import (
    NoteAutoencoder, NoteClassifier, NoteDecoder, NoteEncoder, partial_bands,
    partial_mel_weights)
from Notes import decode_notes, note_labels, onset_candidates, refine_velocities
from UNet import UNet
from UNetDataset import UNetDataset, level_difference, write_outputs

rate = hp.sample_rate / hp.hop_length  # frames a second
small = dict(first=6, channels=6, blocks=1, narrow=2, width=12)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def decoder():
    """A decoder whose weights are all different."""
    torch.manual_seed(0)
    decoder = NoteDecoder()
    with torch.no_grad():
        decoder.level.add_(4 * torch.randn(decoder.level.shape))
        decoder.loudness.add_(5 * torch.randn(decoder.loudness.shape))
        decoder.slope.add_(5 * torch.randn(decoder.slope.shape))
        decoder.release.add_(torch.rand(decoder.release.shape))
    return decoder


@pytest.fixture
def model(decoder):
    """A small autoencoder of notes, not trained, with that decoder."""
    torch.manual_seed(1)
    network = NoteAutoencoder(**small)
    network.decoder = decoder
    return NoteModel(network)


def some_notes(number=40, seconds=6.0, seed=0):
    """Notes [shape=(number, 4)] of which those of one key begin at least 0.1 s apart."""
    rng, notes = np.random.default_rng(seed), []
    while len(notes) < number:
        onset, key = rng.uniform(0, seconds), rng.integers(hp.lowest_key, hp.lowest_key + hp.n_keys)
        if all(other[2] != key or abs(other[0] - onset) > 0.1 for other in notes):
            notes.append((onset, onset + rng.uniform(0.05, 2), key, rng.integers(1, 128)))
    notes = np.array(sorted(notes), np.float32)
    for i, (onset, _, key, _) in enumerate(notes):  # which ends the one before it
        before = notes[:i][notes[:i, 2] == key]
        notes[:i, 1][notes[:i, 2] == key] = np.minimum(before[:, 1], onset)
    return notes


# the decoder

def direct_sum(decoder, notes, first, frames):
    """What the decoder is to compute, band by band and note by note, without torch."""
    knots, level, loudness, slope, release = (
        part.detach().double().numpy()
        for part in (decoder.knots, decoder.level, decoder.loudness, decoder.slope, decoder.release))
    power = np.zeros((hp.n_mels, frames))
    for onset, end, key, velocity in notes.astype(np.float64):
        key, velocity = int(key) - hp.lowest_key, max(velocity / 127, 0.02)
        for frame in range(frames):
            since, over = first + frame - onset * rate, max(first + frame - end * rate, 0)
            if since < knots[0]:
                continue
            for band in range(hp.n_mels):
                decibels = np.interp(since, knots, level[key, :, band])
                decibels += loudness[key, 0, band] * (np.log10(velocity) + 0.22)
                decibels += slope[key, 0, band] * (velocity - 0.6)
                power[band, frame] += 10 ** ((decibels - max(release[key, band], hp.decoder_min_release) * over) / 10)
    return 10 * np.log10(np.maximum(power, 1e-12))


@torch.inference_mode()
@pytest.mark.parametrize("first, frames", ((0, 20), (57, 9), (300, 3), (500, 3)))
def test_the_decoder_is_a_direct_sum_of_powers(decoder, first, frames):
    notes = np.array([(0.0, 0.3, 60, 90), (0.113, 0.5, 60, 20), (0.15, 10.4, 21, 127), (0.2, 0.9, 108, 1),
                      (0.62, 0.7, 64, 64), (3.46, 3.6, 50, 80)], np.float32)
    ours = decoder(torch.from_numpy(notes), first, frames).numpy()
    direct = direct_sum(decoder, notes, first, frames)
    loud = direct > -115
    assert loud.mean() > 0.5
    np.testing.assert_allclose(ours[loud], direct[loud], atol=0.02)
    assert (ours[~loud] < -100).all()


@torch.inference_mode()
def test_without_notes_the_decoder_is_silent_and_other_keys_count_for_nothing(decoder):
    nothing = torch.zeros(0, 4)
    assert (decoder(nothing, 0, 7) == hp.decoder_silence).all() and decoder(nothing, 0, 7).shape == (hp.n_mels, 7)
    others = torch.tensor([[0.1, 1, 0, 0], [0.1, 1, 20, 90], [0.1, 1, 109, 90]])
    assert (decoder(others, 0, 7) == hp.decoder_silence).all()
    notes = torch.from_numpy(some_notes())
    padded = torch.cat([notes, torch.zeros(9, 4)])
    assert torch.equal(decoder(padded, 100, 20), decoder(notes, 100, 20))


@torch.inference_mode()
def test_parts_of_a_piece_are_those_of_the_whole(model, monkeypatch):
    notes = some_notes(60)
    notes[0, 1] = 9  # held all the way
    whole = model.network.decoder(torch.from_numpy(notes), 0, 700).numpy()
    for size in 7, 256:
        monkeypatch.setattr(hp, "decoder_frames", size)
        parts = (0, 301), (301, 1), (302, 398)
        played = np.concatenate([model.mel_decibels(notes, first, frames) for first, frames in parts], 1)
        audible = whole > whole.max() - 60  # what has died away is left out
        np.testing.assert_allclose(played[audible], whole[audible], atol=0.01)


@torch.inference_mode()
def test_a_note_ends_whatever_was_learnt(decoder):
    """Else each frame of a long recording would be a sum over all notes before it."""
    with torch.no_grad():
        decoder.release[:] = -1
    notes = torch.from_numpy(some_notes(60, 3.0))
    last = notes[:, 1].max().item() * rate
    assert (decoder(notes, int(last + 1 + hp.decoder_inaudible / hp.decoder_min_release), 20) == hp.decoder_silence).all()
    assert (decoder(notes, int(last), 3) > hp.decoder_silence).all()


def test_an_onset_may_lie_between_two_frames(decoder):
    first, between, last = (decoder(torch.tensor([[(43 + share) / rate, 2, 60, 80]]), 43, 15) for share in (0, 0.5, 1))
    torch.testing.assert_close(first[:, :-1], last[:, 1:], atol=0.02, rtol=0)
    torch.testing.assert_close(between, (first + last) / 2, atol=0.02, rtol=0)


def test_gradients_reach_the_weights_of_the_keys_that_sound_and_no_others(decoder):
    notes = torch.tensor([[0.1, 0.3, 60, 90], [0.2, 2.0, 64, 50]])
    decoder(notes, 0, 40).sum().backward()
    struck = torch.zeros(hp.n_keys, dtype=torch.bool)
    struck[[60 - hp.lowest_key, 64 - hp.lowest_key]] = True
    for name in "level", "loudness", "slope":
        reached = getattr(decoder, name).grad.flatten(1).abs().sum(1) > 0
        assert torch.equal(reached, struck), name
    released = decoder.release.grad.abs().sum(1) > 0  # the second is still down
    assert released.nonzero().flatten().tolist() == [60 - hp.lowest_key]
    times = decoder.level.grad[60 - hp.lowest_key].abs().sum(1) > 0
    last = 40 - 0.1 * rate
    assert times[0] and times[decoder.knots <= last].all() and not times[decoder.knots > last + 2].any()


def test_gradients_of_the_decoder_are_those_of_finite_differences(decoder):
    decoder, notes = decoder.double(), torch.tensor([[0.1, 0.2, 60, 90], [0.12, 0.5, 60, 50]], dtype=torch.double)
    decoder(notes, 5, 30).sum().backward()
    key = 60 - hp.lowest_key
    for parameter, place in ((decoder.level, (key, 8, 3)), (decoder.loudness, (key, 0, 100)),
                             (decoder.slope, (key, 0, 7)), (decoder.release, (key, 50))):
        sums = []
        for step in 1e-4, -2e-4:
            with torch.no_grad():
                parameter[place] += step
                sums.append(decoder(notes, 5, 30).sum().item())
        assert parameter.grad[place].item() == pytest.approx((sums[0] - sums[1]) / 2e-4, rel=1e-3)


# the encoder

@pytest.mark.parametrize("frames", (1, 2, 3, 8, 37))
def test_any_number_of_frames(model, frames):
    rng = np.random.default_rng(0)
    pitch = rng.random((hp.n_pitches, -(-frames // 2)), np.float32)
    mel = rng.random((hp.n_mels, frames), np.float32)
    heard = model.predict_frames(pitch, mel)
    assert heard.shape == (3, frames, hp.n_keys) and (0 <= heard).all() and (heard <= 1).all()
    assert model.generate(pitch, mel).shape == (hp.n_mels, frames)
    assert note_labels(some_notes(), 100, frames).shape == heard.shape
    model.network.train()
    images = torch.from_numpy(pitch)[None].repeat(2, 1, 1), torch.from_numpy(mel)[None].repeat(2, 1, 1)
    assert model.network(*images).shape == (2, 3, frames, hp.n_keys)


def test_gradients_reach_every_weight_of_the_encoder():
    torch.manual_seed(0)
    encoder = NoteEncoder(**small)
    encoder(torch.rand(2, hp.n_pitches, 10), torch.rand(2, hp.n_mels, 20)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_the_losses_teach_encoder_and_decoder_apart(takes):
    names = DatasetCreator.build(takes)
    batch = torch.utils.data.default_collate([NoteDataset(names, takes)[0, 40, 64, 1]])
    reached = {}
    for name, weights in ("labels", "encoder"), ("target", "decoder"):
        torch.manual_seed(0)
        trainer = AEMain.NoteTrainer(NoteAutoencoder(**small), 1e-3, torch.device("cpu"))
        trainer.network.train()
        changed = {**batch, name: batch[name] * 0.5}
        gradients = []
        for part in batch, changed:
            torch.manual_seed(1)  # of the classifier's dropout
            trainer.network.zero_grad()
            trainer.batch_loss(part)[0].backward()
            gradients.append({key: value.grad.clone() for key, value in trainer.network.named_parameters()})
        reached[weights] = {key.split(".")[0] for key in gradients[0] if not torch.equal(*(g[key] for g in gradients))}
    assert reached == {"encoder": {"encoder"}, "decoder": {"decoder"}}


def test_the_classifier_alone_is_trained_on_what_the_encoder_hears_as_it_is(takes):
    names = DatasetCreator.build(takes)
    batches = [torch.utils.data.default_collate([NoteDataset(names, takes)[0, 40, 64, seed]]) for seed in range(3)]
    network = NoteAutoencoder(**small)
    with torch.no_grad():
        network.encoder.head.bias.zero_()  # so that it hears notes
    before = {key: value.clone() for key, value in network.state_dict().items()}
    list(AEMain.NoteTrainer(network, 1e-3, torch.device("cpu"), ("classifier",)).train_epoch(batches, [1, 1, 1]))
    changed = {key.split(".")[0] for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"classifier"}


def test_a_decoder_loses_by_another_shape_and_a_little_by_another_level(decoder):
    """Of the level of a whole clip its spectrogram does not tell; yet it must not drift away."""
    torch.manual_seed(0)
    notes = torch.from_numpy(some_notes(60, 3.0))
    with torch.no_grad():
        target = torch.from_numpy(normalise_level(decoder(notes, 0, 200).numpy(), -15.0))

    def loss(louder=0.0, treble=0.0):
        network = NoteAutoencoder(**small)
        network.decoder.load_state_dict(decoder.state_dict())
        with torch.no_grad():
            network.decoder.level.add_(louder + treble * torch.linspace(-1, 1, hp.n_mels))
        return AEMain.NoteTrainer(network, 2e-3, torch.device("cpu"), ("decoder",)).decoder_loss(notes, 0, target).item()

    with torch.no_grad():  # at the level of the target
        right = hp.top_db * (target - decoder(notes, 0, 200) / hp.top_db - 1)[target > 0.25].mean().item()
    assert loss(right) < 1e-3
    assert 5e-3 < loss(right - 20) < loss(right - 50) < 0.02 and loss(right + 20) == pytest.approx(loss(right - 20), 0.1)
    assert loss(right, treble=5) > loss(right - 50)


# the classifier

def with_ghosts(seed, frames=600):
    """Heard [shape=(3, frames, n_keys)] and true notes: each is heard an octave above too, a little softer, where it
    was not played."""
    notes = some_notes(30, frames / rate - 1, seed)
    notes = notes[notes[:, 2] < hp.lowest_key + hp.n_keys - 12]
    ghosts = notes + (0, 0, 12, 0)
    played = note_labels(notes, 0, frames)
    return np.maximum(played, 0.8 * note_labels(ghosts, 0, frames)), played


def test_the_classifier_learns_which_of_the_notes_heard_were_played():
    torch.manual_seed(0)
    network = NoteAutoencoder(**small)
    trainer = AEMain.NoteTrainer(network, 3e-3, torch.device("cpu"), ("classifier",))
    for step in range(60):
        four = zip(*map(with_ghosts, range(4 * step, 4 * step + 4)))
        heard, labels = (torch.from_numpy(np.stack(part)) for part in four)
        loss = trainer.classifier_loss(heard, labels)
        trainer.optimiser.zero_grad()
        loss.backward()
        trainer.optimiser.step()
    heard, labels = with_ghosts(1000)
    played, found, unclassified = decode_notes(labels), NoteModel(network).decode_notes(heard), decode_notes(heard)
    in_common = set(map(tuple, np.round(found[:, (0, 2)], 2))) & set(map(tuple, np.round(played[:, (0, 2)], 2)))
    assert len(unclassified) > 1.7 * len(played)
    assert len(in_common) > 0.9 * max(len(played), len(found))


def test_the_classifier_can_be_trained_where_nothing_is_heard():
    trainer = AEMain.NoteTrainer(NoteAutoencoder(**small), 1e-3, torch.device("cpu"), ("classifier",))
    trainer.network.train()
    nothing = torch.zeros(1, 3, 20, hp.n_keys)
    loss = trainer.classifier_loss(nothing, nothing) + trainer.offset_loss(
        nothing, {"notes": torch.zeros(1, 5, 4), "first": torch.tensor([0])})
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in trainer.network.classifier.parameters())


def test_a_note_is_seen_alike_at_any_time_in_any_batch_and_on_any_key():
    torch.manual_seed(0)
    heard, classifier = torch.rand(2, 3, 200, hp.n_keys), NoteClassifier()
    clip, frame, key = torch.tensor([0, 1, 1]), torch.tensor([60, 70, 80]), torch.tensor([40, 43, 46])
    seen = classifier.onset_features(heard, clip, frame, key)
    later = classifier.onset_features(torch.nn.functional.pad(heard, (0, 0, 25, 0)), clip, frame + 25, key)
    torch.testing.assert_close(later, seen)
    higher = classifier.onset_features(heard.roll(5, 3), clip, frame, key + 5)
    torch.testing.assert_close(higher[:, :-1], seen[:, :-1])
    torch.testing.assert_close(classifier.onset_features(heard[1:], clip[1:] - 1, frame[1:], key[1:]), seen[1:])
    changed = heard.clone()
    changed[1, :, :70 - classifier.before] = changed[1, :, 80 + classifier.after:] = 0  # beyond what is looked at
    torch.testing.assert_close(classifier.onset_features(changed, clip, frame, key), seen)


@pytest.mark.parametrize("frame, key", ((0, 0), (0, 87), (49, 0), (49, 87)))
def test_a_note_at_the_edge_of_what_is_heard_can_be_classified(frame, key):
    heard = torch.rand(1, 3, 50, hp.n_keys)
    assert NoteClassifier().eval()(heard, *(torch.tensor([i]) for i in (0, frame, key))).isfinite().all()


def test_notes_are_classified_a_few_at_a_time(model, monkeypatch):
    heard, _ = with_ghosts(0)
    whole = model.note_probability(heard, *onset_candidates(heard, 0.1))
    monkeypatch.setattr(hp, "classifier_batch_size", 7)
    np.testing.assert_allclose(model.note_probability(heard, *onset_candidates(heard, 0.1)), whole, atol=1e-6)
    assert len(whole) > 20


def test_a_note_goes_on_where_it_only_seemed_to_be_struck_again():
    notes = np.array([(0.5, 1.5, 60, 90), (1.5, 2.5, 60, 90)], np.float32)
    heard = note_labels(notes, 0, 400)
    assert len(decode_notes(heard)) == 2
    classifier = types.SimpleNamespace(note_probability=lambda heard, frame, key: np.array(frame < rate, float),
                                     offset_shift=lambda *note: np.zeros(1))
    first, = decode_notes(heard, classifier)
    np.testing.assert_allclose(first[:2], (0.5, 2.5 - hp.offset_bias / rate), atol=1.01 / rate)


def test_ends_are_corrected_within_the_note_and_the_next(monkeypatch):
    monkeypatch.setattr(hp, "max_offset_shift", 300)
    heard = note_labels(np.array([(0.5, 1.0, 60, 90), (1.5, 2.0, 60, 90), (1.0, 2.0, 64, 90)], np.float32), 0, 400)
    later = (20 - hp.offset_bias) / rate
    for late, ends in (20, (1.0 + later, 2.0 + later, 2.0 + later)), (300, (1.5, 400 / rate, 400 / rate)), (
            -300, (0.5 + hp.min_note_frames / rate, 1.5 + hp.min_note_frames / rate, 1.0 + hp.min_note_frames / rate)):
        classifier = types.SimpleNamespace(note_probability=lambda heard, frame, key: np.ones(len(frame)),
                                         offset_shift=lambda heard, frame, *note: np.full(len(frame), late))
        picked = decode_notes(heard, classifier)
        picked = picked[np.lexsort((picked[:, 0], picked[:, 2]))]
        np.testing.assert_allclose(picked[:, 1], ends, atol=1.01 / rate)


def test_the_classifier_learns_when_notes_ended():
    """What is heard ends up to half a second after the other notes do, with which it ended."""
    torch.manual_seed(0)
    trainer = AEMain.NoteTrainer(NoteAutoencoder(**small), 3e-3, torch.device("cpu"), ("classifier",))
    frames, losses = 400, []
    for step in range(150):
        rng = np.random.default_rng(step)
        end = rng.uniform(1.5, 3)
        keys = hp.lowest_key + rng.choice(hp.n_keys, 8, replace=False)
        notes = np.array([(0.3, end, key, 90) for key in sorted(keys)], np.float32)
        seeming = notes.copy()
        seeming[:2, 1] += rng.uniform(0, 0.5)
        heard = torch.from_numpy(note_labels(seeming, 0, frames))[None]
        loss = trainer.offset_loss(heard, {"notes": torch.from_numpy(notes)[None], "first": torch.tensor([0])})
        trainer.optimiser.zero_grad()
        loss.backward()
        trainer.optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])


def test_the_pitch_spectrogram_of_a_tone_is_loudest_in_its_keys_band():
    time, step = np.arange(2 * hp.pitch_n_fft) / hp.sample_rate, hp.sample_rate / hp.pitch_n_fft
    bands = partial_bands((1,))[:, 1].numpy()
    for key, band in enumerate(bands):
        hertz = 440 * 2 ** ((key + hp.lowest_key - 69) / 12)
        image = DatasetCreator.pitch_spectrogram(np.sin(2 * np.pi * hertz * time).astype(np.float32))
        assert image.shape == (hp.n_pitches, -(-(time.size // hp.hop_length) // 2)) and image.max() == 1
        loudest = image[:, image.shape[1] // 2].argmax()
        found = 440 * 2 ** (((loudest - 1) / hp.pitch_bands_per_key + hp.lowest_key - 69) / 12)
        assert loudest == band or hertz < 125 and abs(found - hertz) < step  # where a bin is wider than a band


def test_the_bands_of_a_key_are_those_of_its_partials():
    partials = (1, 2, 4)
    share, filters = partial_mel_weights(partials).numpy(), DatasetCreator.mel_filters()
    hertz = np.fft.rfftfreq(hp.n_fft, 1 / hp.sample_rate)
    centre = Util.mel_frequencies(hp.n_mels + 2)[1:-1]
    for key in 24, 50, 87:
        for i, partial in enumerate(partials):
            frequency = 440 * 2 ** ((key + hp.lowest_key - 69) / 12) * partial
            if frequency > hp.fmax:
                assert not share[:, key, i].any()
                continue
            assert share[:, key, i] @ centre == pytest.approx(frequency, rel=1e-3)
            heard = filters[:, np.abs(hertz - frequency).argmin()]
            assert heard[share[:, key, i] > 0.4].all()
    assert partial_bands(partials).max() == hp.n_pitches and partial_bands((0.5,))[0].tolist() == [hp.n_pitches] * 3


# notes of a MIDI file

def pedal(*steps):
    return [mido.Message("control_change", control=64, value=value, time=time) for time, value in steps]


@pytest.mark.parametrize("notes, requests, read", (
    ([(0, 60, 0.5, 1.0)], [], [(0.5, 1.0, 60, 90)]),
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 2.0, 60, 90)]),          # the pedal holds it
    ([(0, 60, 0.5, 3.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 3.0, 60, 90)]),          # so does the key
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 63), (2.0, 0)), [(0.5, 1.0, 60, 90)]),           # hardly down
    ([(0, 60, 0.5, 1.0)], pedal((1.2, 127), (2.0, 0)), [(0.5, 1.0, 60, 90)]),          # too late
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 127)), [(0.5, 4.0, 60, 90)]),                    # never up again
    ([(0, 60, 0.5, 1.0), (0, 60, 1.5, 1.8)], pedal((0.0, 127), (3.0, 0)), [(0.5, 1.5, 60, 90), (1.5, 3.0, 60, 90)]),
    ([(0, 60, 0.5, 1.0), (1, 64, 0.5, 1.0)], pedal((0.0, 127), (3.0, 0)), [(0.5, 1.0, 64, 90), (0.5, 3.0, 60, 90)]),
    ([(9, 36, 0.5, 1.0), (0, 60, 1.0, 1.5)], [], [(1.0, 1.5, 60, 90)]),                # percussion
    ([(0, 60, 3.5, 7.0), (0, 64, 4.5, 5.0)], [], [(3.5, 4.0, 60, 90)]),                # cut at the limit of 4 s
    ([(0, 60, 4.5, 5.0)], [], []),
))
def test_notes_are_read_from_midi(tmp_path, midi, notes, requests, read):
    found = Notes.read_notes(midi(tmp_path / "piece.mid", notes, requests), limit_s=4)
    assert found.dtype == np.float32 and found.shape == (len(read), 4)
    np.testing.assert_allclose(found, np.array(read).reshape(-1, 4), atol=1e-3)


def test_what_is_no_midi_is_named(tmp_path):
    tmp_path.joinpath("broken.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\1\0`MTrk\0\0\0\x20\0\x90")
    with pytest.raises(ValueError, match="broken.mid is not a MIDI file, or is damaged"):
        Notes.read_notes(tmp_path / "broken.mid")
    with pytest.raises(FileNotFoundError, match="none.mid: no such file; give"):
        Notes.read_notes(tmp_path / "none.mid")


@pytest.mark.parametrize("seed", range(3))
def test_notes_are_picked_where_their_labels_put_them(seed):
    notes = some_notes(200, 20, seed)
    picked = decode_notes(note_labels(notes, 0, 2000))
    for true, found in zip(*(part[np.lexsort((part[:, 0], part[:, 2]))] for part in (notes, picked)), strict=True):
        assert found[2] == true[2] and abs(found[3] - true[3]) < 0.01
        assert abs(found[0] - true[0]) < 0.005
        assert abs(found[1] - max(true[1], true[0] + 2 / rate)) < 1.01 / rate


def test_nothing_heard_is_no_notes():
    assert decode_notes(np.zeros((3, 50, hp.n_keys), np.float32)).shape == (0, 4)
    assert not normalise_level(np.full((hp.n_mels, 5), hp.decoder_silence), -15).any()


def test_a_crop_has_the_labels_of_its_place():
    notes = some_notes()
    whole = note_labels(notes, 0, 600)
    for first, frames in ((0, 50), (101, 77), (590, 10)):
        np.testing.assert_allclose(note_labels(notes, first, frames), whole[:, first:first + frames], atol=1e-4)


# takes

def sounding(file):
    """(seconds, message) of a MIDI file."""
    now, found = 0.0, []
    for message in file:
        now += message.time
        found.append((now, message))
    return found


@pytest.mark.parametrize("make", (
    functools.partial(Performances.vary_performance, hp.data / "MIDI_test" / "mozart_rondo_alla_turca.mid"), Performances.random_exercise),
                         ids=("take", "exercise"))
def test_takes_are_by_their_seed_and_playable(tmp_path, make):
    written = []
    for seed in range(8):
        files = [make(random.Random(seed)) for _ in range(2)]
        for i, file in enumerate(files):
            file.save(tmp_path / f"{i}.mid")
        written.append(tmp_path.joinpath("0.mid").read_bytes())
        assert written[-1] == tmp_path.joinpath("1.mid").read_bytes()
        struck = [(time, message) for time, message in sounding(files[0]) if message.type == "note_on"]
        assert len(struck) > 10
        for time, message in struck:
            assert 0 <= time < hp.limit_s + 0.1
            assert hp.lowest_key <= message.note < hp.lowest_key + hp.n_keys and 6 <= message.velocity <= 127
        assert max(length for length, _ in sounding(files[0])) < 3 * hp.limit_s
    assert len(set(written)) == 8


def test_exercises_know_all_keys():
    keys = {message.note for seed in range(25) for _, message in sounding(Performances.random_exercise(random.Random(seed)))
            if message.type == "note_on"}
    assert keys == set(range(hp.lowest_key, hp.lowest_key + hp.n_keys))


def test_a_take_of_a_piece_whose_pedal_begins_after_it(tmp_path, midi):
    path = midi(tmp_path / "piece.mid", [(0, 60, 0.0, 0.5), (0, 64, 0.6, 1.0)], pedal((0.8, 127), (1.5, 0)))
    for seed in range(20):
        assert len(sounding(Performances.vary_performance(path, random.Random(seed)))) > 2


@pytest.fixture(scope="module")
def responses():
    """Two rooms by hand: the direct sound, then noise that dies away."""
    rng = np.random.default_rng(0)
    tail = np.exp(-np.arange(8000) / 1500)[None] * rng.standard_normal((2, 8000)) * 0.03
    tail[:, :6] = 0
    tail[:, 5] = 1
    return [response.astype(np.float32) for response in tail]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, instruments, midi, responses):
    """A data folder with the takes, recorded, of two short pieces on two pianos; exercises of four seconds."""
    data = tmp_path_factory.mktemp("takes")
    for name, keys in ("one", (43, 60, 67, 72, 88)), ("two", (36, 55, 64, 69, 100)):
        notes = [(0, key, 0.317 + 0.4531 * i, 0.6 + 0.4531 * i) for i, key in enumerate(keys)]
        midi(data / "MIDI" / f"{name}.mid", notes, pedal((0.0, 0), (1.9, 127), (2.2, 0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Performances, "random_exercise", functools.partial(Performances.random_exercise, limit_s=4))
        patch.setattr(Augmentation, "room_responses", lambda: responses)
        patch.setattr(hp, "simulated_recording_share", 1)
        MIDI2Audio.main(["--data", str(data), "--takes", "1", "--recorded", "--source", "FluidR3_GM.sf2:0:0",
                         "FluidR3_GM.sf2:0:1"])
    return data


@pytest.fixture
def takes(rendered, tmp_path):
    """A copy of `rendered` that a test may train on and spoil."""
    return shutil.copytree(rendered, tmp_path / "takes")


def test_what_takes_leave(rendered, instruments, tmp_path):
    names = {"one", "one~0", "one~1", "two", "two~0", "two~1"}
    for folder, ending in ("MIDI", "mid"), ("notes", "mid"), ("piano", "wav"), ("synth", "wav"):
        found = {path.name for path in (rendered / folder).iterdir()} - {"preset.txt"}
        assert found == {f"{name}.{ending}" for name in names}
    assert not (rendered / "piano_2").exists()
    assert "FluidR3_GM.sf2:0:1" in (rendered / "piano" / "preset.txt").read_text()
    assert (rendered / "piano" / "preset.txt").read_text().endswith(", recorded\n")
    for name in names:
        piano, synth = (Util.read_audio(rendered / side / f"{name}.wav") for side in ("piano", "synth"))
        assert piano.size == synth.size and np.abs(piano).max() > 0.9
    for side, preset in zip(("piano", "synth"), instruments):  # a piece is as without takes
        MIDI2Audio.synthesise_midi_to_audio(rendered / "MIDI" / "one.mid", tmp_path / "one.wav", *preset)
        assert tmp_path.joinpath("one.wav").read_bytes() == (rendered / side / "one.wav").read_bytes()


def test_what_is_there_is_kept(rendered, monkeypatch):
    times = {path: path.stat().st_mtime_ns for path in rendered.rglob("*.*")}
    monkeypatch.setattr(Augmentation, "room_responses", lambda: [])
    MIDI2Audio.main(["--data", str(rendered), "--takes", "1", "--recorded", "--source", "FluidR3_GM.sf2:0:0",
                     "FluidR3_GM.sf2:0:1"])
    assert {path: path.stat().st_mtime_ns for path in times if path.name != "preset.txt"} == {
        path: time for path, time in times.items() if path.name != "preset.txt"}


def test_a_damaged_file_has_no_takes_and_stops_no_others(tmp_path, midi):
    midi(tmp_path / "fine.mid"), tmp_path.joinpath("damaged.mid").write_bytes(b"MThd")
    Performances.write_variants(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.mid", "fine.mid", "fine~0.mid", "fine~1.mid"}


def test_takes_of_what_is_not_for_piano_alone_are_left_out_with_it(tmp_path, midi, instruments, capsys):
    midi(tmp_path / "MIDI" / "strings.mid", requests=[mido.Message("program_change", program=48, time=0)])
    midi(tmp_path / "MIDI" / "strings~1.mid"), midi(tmp_path / "MIDI" / "piano.mid")
    MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "piano", instruments[0], solo_piano=True)
    assert [path.name for path in (tmp_path / "piano").glob("*.wav")] == ["piano.wav"]
    assert capsys.readouterr().err.count("is not for piano alone") == 2


@pytest.mark.parametrize("side", ("piano", "synth"))
def test_labels_lie_where_the_audio_has_the_notes(takes, side):
    DatasetCreator.build(takes)
    for name in "one", "two":
        folder = takes / "generated" / name
        notes, image = np.load(folder / "notes.npy"), np.load(folder / f"{side}.npy").astype(np.float32)
        rise, late = np.maximum(np.diff(image, axis=1), 0).sum(axis=0), []
        assert len(notes) == 5
        for onset in notes[:, 0] * rate:
            near = np.arange(int(onset) - 8, int(onset) + 9)
            late.append(near[rise[near].argmax()] + 0.5 - onset)
        # a window begins to see an onset before its centre does
        assert np.abs(np.array(late) + 0.5).max() < 1 and abs(np.mean(late) + 0.5) < 0.5


def test_notes_and_pitches_of_a_data_set(takes):
    names = DatasetCreator.build(takes)
    assert DatasetCreator.has_notes(names, takes)
    dataset = NoteDataset(names, takes)
    for piece, name in enumerate(names):
        whole = dataset[piece]
        frames = whole["mel"].shape[1]
        shapes = {"pitch": (hp.n_pitches, -(-frames // 2)), "mel": (hp.n_mels, frames), "target": (hp.n_mels, frames),
                  "labels": (3, frames, hp.n_keys), "notes": (NoteDataset.most_notes, 4)}
        assert {part: tuple(whole[part].shape) for part in shapes} == shapes and whole["first"] == 0
        for start in 0, 41, frames - 20:
            crop, first = dataset[piece, start, 60, 3], start - start % 2
            assert crop["first"] == first
            for part, axis, step in ("pitch", 1, 2), ("mel", 1, 1), ("target", 1, 1), ("labels", 1, 1):
                length = min(60, frames - first) // step
                torch.testing.assert_close(crop[part].narrow(axis, 0, length),
                                           whole[part].narrow(axis, first // step, length), atol=1e-4, rtol=0)


def test_a_recording_a_little_longer_than_its_partner(takes):
    """Its pitch spectrogram is as long as its mel spectrogram."""
    for folder in "piano", "synth":
        path = takes / folder / "one.wav"
        audio = Util.read_audio(path)
        size = audio.size // (2 * hp.hop_length) * 2 * hp.hop_length  # an even number of frames
        Util.write_audio(path, audio[:size + 10 * (folder == "piano") - 20 * (folder == "synth")])
    DatasetCreator.build(takes)
    shapes = [np.load(takes / "generated" / "one" / f"{name}.npy").shape[1] for name in ("piano", "piano_pitch")]
    assert shapes[1] == -(-shapes[0] // 2)


def test_notes_are_for_all_pieces_or_for_none(takes):
    (takes / "notes" / "two.mid").unlink()
    with pytest.raises(ValueError, match="notes lacks two; put their MIDI files there"):
        AEMain.train(takes)
    shutil.rmtree(takes / "notes")
    with pytest.raises(ValueError, match="notes holds no notes; put the pieces' MIDI files there, or give --network"):
        AEMain.train(takes, network="notes")


@pytest.mark.parametrize("pair, kept", (("a -> it", True), ("a -> another", False), (None, True)))
def test_a_decoder_for_another_target_begins_anew(takes, model, tmp_path, monkeypatch, pair, kept):
    target = DatasetCreator.trained_for(takes)["pair"].rpartition(" -> ")[2]
    note = {"front_end": DatasetCreator.front_end(), **({"pair": pair.replace("it", target)} if pair else {})}
    Training.save_tensors(tmp_path / "ae.torch", Training.snapshot(model.network, note))
    monkeypatch.setattr(AEMain, "NoteAutoencoder", functools.partial(NoteAutoencoder, **small))
    monkeypatch.setattr(AEMain.NoteTrainer, "train_epoch", lambda self, batches, factors: (0.0 for _ in batches))
    AEMain.train(takes, part="decoder", start=tmp_path / "ae.torch", epochs=1, model="other")
    trained = torch.load(takes / "models" / "other" / "ae.torch", weights_only=True)
    expected = (model.network.decoder if kept else NoteDecoder()).state_dict()
    for key, value in expected.items():
        assert key == "loudest" or torch.equal(trained[f"decoder.{key}"].float(), value), key
    assert torch.equal(trained["encoder.head.weight"].float(), model.network.encoder.head.weight)


# as if recorded

@pytest.mark.parametrize("seed", range(12))
def test_a_recording_is_as_long_not_late_and_by_its_seed(responses, seed):
    audio = Util.read_audio(hp.demo)[:4 * hp.sample_rate]
    first, again, other = (Augmentation.simulate_recording(audio, np.random.default_rng(number), responses)
                           for number in (seed, seed, seed + 100))
    np.testing.assert_array_equal(first, again)
    assert first.shape == audio.shape and first.dtype == np.float32 and np.isfinite(first).all()
    assert not np.array_equal(first, other) and np.abs(first).max() < 1.2
    assert abs(late(audio, first)) <= 0.005


# pianos that there are not

@pytest.fixture
def played(tmp_path, midi, instruments):
    """Render two chords, a second apart and the second with the pedal, on the piano, voiced by a seed or, without one,
    as it is; return the audio."""
    def render(seed=None, detune=0):
        notes = [(0, key, onset, onset + 0.7) for onset in (0.2, 1.2) for key in (31, 50, 62, 69, 97)]
        path = midi(tmp_path / "chords.mid", notes, pedal((0.0, 0), (1.1, 127), (2.2, 0)))
        MIDI2Audio.synthesise_midi_to_audio(path, tmp_path / "chords.wav", *instruments[0], detune=detune,
                                            timbre_rng=seed if seed is None else random.Random(seed))
        return Util.read_audio(tmp_path / "chords.wav")
    return render


def test_a_piano_of_its_own_size_and_voice_is_the_piano(played, monkeypatch):
    monkeypatch.setattr(hp, "max_resize", 0)
    monkeypatch.setattr(Augmentation, "random_timbre", lambda groups, keys, rng: groups.sum(axis=0))
    plain, voiced = played(), played(1)
    assert plain.shape == voiced.shape
    assert np.abs(voiced - plain).mean() < 1e-3 and np.abs(voiced - plain).max() < 0.1


@pytest.mark.parametrize("seed", range(6))
def test_a_voiced_piano_plays_the_same_notes_at_the_same_time_by_its_seed(played, seed):
    plain, first, again = played(), played(seed), played(seed)
    np.testing.assert_array_equal(first, again)
    assert first.shape == plain.shape and np.abs(first).max() == pytest.approx(hp.peak, abs=1e-3)
    whole, voiced = (DatasetCreator.spectrogram(audio) for audio in (plain, first))
    assert np.abs(whole - voiced).mean() * hp.top_db > 1
    assert abs(DatasetCreator.estimate_lag(whole, voiced)) <= 1
    loud = [DatasetCreator.pitch_spectrogram(audio)[:, 20:35].mean(axis=1) for audio in (plain, first)]
    bands = 1 + hp.pitch_bands_per_key * (np.array([50, 62, 69]) - hp.lowest_key)
    for image in loud:  # the fundamentals stand out from the keys between
        assert (image[bands] > image[bands + 3 * hp.pitch_bands_per_key] - 0.05).all()


def test_an_equaliser_of_keys_leaves_their_loudness():
    noise = np.random.default_rng(0).standard_normal((3, 20000)).astype(np.float32)
    for group, key in zip(noise, (30, 60, 90)):
        alone = Augmentation.random_timbre(group[None], [key], np.random.default_rng(2))
        assert np.linalg.norm(alone) == pytest.approx(np.linalg.norm(group), rel=1e-3)
        assert not np.allclose(alone, group, atol=0.1)
    assert not Augmentation.random_timbre(np.zeros((1, 500), np.float32), [60], np.random.default_rng(2)).any()


def test_takes_are_voiced_where_asked_for_and_on_the_pianos_side_only(tmp_path, midi, instruments, monkeypatch):
    midi(tmp_path / "MIDI" / "one.mid")
    heard, voiced = [], Performances.render_random_timbre
    monkeypatch.setattr(Performances, "random_exercise", functools.partial(Performances.random_exercise, limit_s=2))
    monkeypatch.setattr(Performances, "render_random_timbre", lambda *arguments: heard.append(1) or voiced(*arguments))
    monkeypatch.setattr(hp, "random_timbre_share", 1)
    MIDI2Audio.main(["--data", str(tmp_path), "--takes", "2", "--voiced"])
    assert len(heard) == 3  # two takes and the exercise; not the piece
    assert (tmp_path / "piano" / "preset.txt").read_text().endswith(", voiced\n")
    assert "voiced" not in (tmp_path / "synth" / "preset.txt").read_text()


def late(audio, recorded, most=0.1):
    """Seconds by which a recording is behind, from the cross-correlation."""
    size = 2 * audio.size
    correlation = np.fft.irfft(np.fft.rfft(audio, size).conj() * np.fft.rfft(recorded, size))
    lags = np.arange(-round(most * hp.sample_rate), round(most * hp.sample_rate))
    return lags[np.abs(correlation[lags]).argmax()] / hp.sample_rate


@pytest.mark.parametrize("compression", (0.3, 0.4, 0.5, 0.6))
def test_mp3_comes_back_as_long_and_on_time(compression):
    audio = Util.read_audio(hp.demo)[:3 * hp.sample_rate + 77]
    coded = Augmentation.mp3_round_trip(audio, compression)
    assert coded.shape == audio.shape and abs(late(audio, coded)) < 1 / hp.sample_rate
    assert 0 < np.abs(coded - audio).max() < 0.2


def test_rooms_begin_with_the_direct_sound_and_are_by_their_seed():
    [first], [again], [other] = (Augmentation.room_responses.__wrapped__(1, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:100], other[:100])
    audio = Util.read_audio(hp.demo)[:2 * hp.sample_rate]
    for response in first, other:
        assert np.linalg.norm(response) == pytest.approx(1, rel=1e-3) and response.size <= 2.5 * hp.sample_rate
        assert np.abs(response[:40]).max() > 0.3 * np.abs(response).max()
        wet = fftconvolve(audio, response)[:audio.size]
        assert abs(DatasetCreator.estimate_lag(*map(DatasetCreator.spectrogram, (audio, wet)))) <= 1


def test_reverbs_add_to_the_direct_sound_and_are_by_their_seed():
    responses, (again, *_), (other, *_) = (Augmentation.artificial_responses.__wrapped__(8, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(responses[0], again)
    assert not np.array_equal(responses[0][:2000], other[:2000])
    for response in responses:
        assert np.linalg.norm(response) == pytest.approx(1, rel=1e-3) and response[0] == response.max() > 0.5
        halves = np.array_split(response[1:], 2)
        assert np.linalg.norm(halves[0]) > np.linalg.norm(halves[1]) > 0


# training

brief = ["--epochs", "2", "--batch-size", "2", "--crop-frames", "64", "--device", "cpu"]


@pytest.fixture
def narrow(monkeypatch):
    """Have AEMain.py train a small network."""
    monkeypatch.setattr(AEMain, "NoteAutoencoder", functools.partial(NoteAutoencoder, **small))


def state(path):
    return torch.load(path, weights_only=True)


def test_both_trainings_and_playing_one_after_the_other(takes, narrow, tmp_path, monkeypatch, capsys):
    AEMain.main([*brief, "--network", "notes", "--augmented", "--data", str(takes)])
    own = takes / "models" / "own"
    recorded = json.loads((own / "ae_losses.json").read_text())
    assert recorded["settings"]["network"] == "notes" and len(recorded["training"]) == 2
    assert recorded["training"][1] < recorded["training"][0]
    assert {name.partition("~")[0] for name in recorded["training_pieces"]}.isdisjoint(
        name.partition("~")[0] for name in recorded["validation_pieces"])
    assert isinstance(load_model(Autoencoder, own / "ae.torch"), NoteModel)
    UNetMain.main([*brief, "--wf", "3", "--data", str(takes)])
    unet = json.loads((own / "unet_losses.json").read_text())
    assert unet["training_pieces"] == recorded["training_pieces"]
    assert unet["validation_pieces"] == recorded["validation_pieces"]
    outputs = {path.stem for path in (takes / "ae_output").glob("*.npy")}
    assert outputs == {"one", "one~0", "one~1", "two", "two~0", "two~1"}
    monkeypatch.chdir(tmp_path)
    Main.main([str(takes / "piano" / "one.wav"), "--ae", str(own / "ae.torch"), "--unet", str(own / "unet.torch")])
    played, recording = (soundfile.read(path)[0] for path in (tmp_path / "one_epiano.wav", takes / "piano" / "one.wav"))
    assert played.size == recording.size and np.isfinite(played).all()
    assert (tmp_path / "one_epiano.png").exists()
    assert "next: python UNetMain.py" in capsys.readouterr().out


def test_a_unet_is_trained_on_what_it_sees_when_a_recording_is_played(takes, model, tmp_path):
    """The level of what notes give is their own; that of the target is not known then."""
    names = DatasetCreator.build(takes)
    with torch.no_grad():
        model.network.encoder.head.bias.zero_()  # so that it hears notes
    Training.save_tensors(tmp_path / "ae.torch", Training.snapshot(model.network, {}))
    write_outputs(tmp_path / "ae.torch", names, takes)
    dataset = UNetDataset(names, takes, in_channels=2, own_level=True)
    for i, name in enumerate(names):
        (output, piano), target = ([image.numpy() for image in part] for part in dataset[i])
        pitch = np.load(takes / "generated" / name / "piano_pitch.npy").astype(np.float32)
        np.testing.assert_allclose(output, model.generate(pitch, piano), atol=1e-3)
        stored = np.load(takes / "generated" / name / "synth.npy").astype(np.float32)
        inside = (target[0] > 0.02) & (target[0] < 0.98) & (stored > 0)
        louder = (target[0] - stored)[inside]
        assert inside.sum() > 1000 and np.ptp(louder) < 1e-3  # all of it by the same
        assert level_difference(stored, output) == pytest.approx(hp.top_db * louder.mean(), abs=0.1)
        crop = dataset[i, 40, 64, 3][1][0].numpy()
        np.testing.assert_allclose(crop, target[0][:, 40:104], atol=1e-6)


def test_the_report_is_trained_on_the_same_data(takes):
    AEMain.main([*brief, "--network", "report", "--channels", "8", "16", "16", "--data", str(takes)])
    assert not isinstance(load_model(Autoencoder, takes / "models" / "own" / "ae.torch"), NoteModel)
    assert json.loads((takes / "models" / "own" / "ae_losses.json").read_text())["settings"]["network"] == "report"


def test_a_training_of_notes_goes_on_as_if_it_had_not_been_stopped(takes, narrow, monkeypatch):
    AEMain.main([*brief, "--data", str(takes), "--model", "whole"])

    class Interrupting(NoteDataset):
        reads = 0

        def __getitem__(self, key):
            Interrupting.reads += 1
            if Interrupting.reads in (5, 9):
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(key)

    with monkeypatch.context() as patch:
        patch.setattr(AEMain, "NoteDataset", Interrupting)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                AEMain.main([*brief, "--data", str(takes)])
    AEMain.main([*brief, "--data", str(takes)])
    one, other = (state(takes / "models" / name / "ae.torch") for name in ("whole", "own"))
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("half", (False, True), ids=("single", "half precision"))
def test_form_and_weights_come_back(tmp_path, model, half):
    torch.manual_seed(3)
    network = NoteAutoencoder(**{**small, "blocks": 2, "narrow": 3, "layers": 5})
    network.decoder = model.network.decoder
    saved = {key: value.half() if half and value.is_floating_point() else value
             for key, value in network.state_dict().items()}
    torch.save(saved, tmp_path / "ae.torch")
    loaded = load_model(Autoencoder, tmp_path / "ae.torch")
    assert isinstance(loaded, NoteModel) and loaded.network.state_dict().keys() == saved.keys()
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, saved[key].float() if value.is_floating_point() else saved[key])
    rng = np.random.default_rng(0)
    images = rng.random((hp.n_pitches, 10), np.float32), rng.random((hp.n_mels, 20), np.float32)
    tolerance = 0.02 if half else 0
    np.testing.assert_allclose(loaded.predict_frames(*images), NoteModel(network).predict_frames(*images), atol=tolerance)
    notes = some_notes()
    np.testing.assert_allclose(loaded.mel_decibels(notes, 0, 50), model.mel_decibels(notes, 0, 50), atol=5 * tolerance)


def test_weights_without_a_classifier_play_and_are_given_one(tmp_path, model):
    torch.save({key: value for key, value in model.network.state_dict().items() if "classifier" not in key},
               tmp_path / "ae.torch")
    loaded, (heard, _) = load_model(Autoencoder, tmp_path / "ae.torch"), with_ghosts(0)
    np.testing.assert_array_equal(loaded.decode_notes(heard), decode_notes(heard))
    network = NoteAutoencoder(**small)
    Training.load_initial_weights(network, tmp_path / "ae.torch")
    for key, value in model.network.encoder.state_dict().items():
        assert torch.equal(network.encoder.state_dict()[key], value)
    torch.save({key: value for key, value in model.network.state_dict().items() if "encoder.head" not in key},
               tmp_path / "ae.torch")
    with pytest.raises(ValueError, match="ae.torch does not fit the network to train"):
        Training.load_initial_weights(network, tmp_path / "ae.torch")


def test_weights_of_half_an_autoencoder_are_refused(tmp_path, model):
    torch.save({key: value for key, value in model.network.state_dict().items() if "decoder" not in key},
               tmp_path / "ae.torch")
    with pytest.raises(ValueError, match="ae.torch does not hold the weights of an autoencoder; train it again"):
        load_model(Autoencoder, tmp_path / "ae.torch")


# long recordings

@pytest.fixture
def long(responses):
    """Twelve seconds of the demo, in a room."""
    audio = Util.read_audio(hp.demo)[:12 * hp.sample_rate]
    return np.convolve(audio, responses[0][:3000])[:audio.size].astype(np.float32)


def test_a_long_recording_is_heard_as_a_whole(long, model, monkeypatch):
    monkeypatch.setattr(hp, "bfloat16", False)
    monkeypatch.setattr(NoteModel, "decode_notes", lambda self, heard: heard)
    monkeypatch.setattr(Main, "refine_velocities", lambda *heard: heard)
    parts = []
    for size in 5000, 264:
        monkeypatch.setattr(hp, "chunk_frames", size)
        parts.append(Main.transcribe_audio(long, model))
    assert len(Main.chunks(Main.n_frames(long))) == 4
    for whole, part in zip(*parts):
        np.testing.assert_allclose(whole, part, atol=2e-3)  # they are kept in half precision
        assert whole.astype(np.float32).std() > 0.01


def test_velocities_are_told_apart_by_level(tmp_path):
    """Of a scale whose notes were all heard as equally hard, those played harder come out harder, in order."""
    played = np.array([(0.2 + 0.5 * i, 0.5 + 0.5 * i, 60 + i % 12, 30 + 15 * (i % 5)) for i in range(40)])
    Notes.save_notes(tmp_path / "scale.mid", played)
    MIDI2Audio.synthesise_midi_to_audio(tmp_path / "scale.mid", tmp_path / "scale.wav", *hp.piano_preset)
    pitch = DatasetCreator.pitch_spectrogram(Util.read_audio(tmp_path / "scale.wav"))
    heard = played.astype(np.float32)
    heard[:, 3] = 60
    weighed = refine_velocities(heard, pitch)
    np.testing.assert_array_equal(weighed[:, :3], heard[:, :3])
    assert np.corrcoef(np.log(weighed[:, 3]), np.log(played[:, 3]))[0, 1] > 0.9
    for few in heard[:0], heard[:1], heard[:3]:
        assert np.isfinite(refine_velocities(few, pitch)).all() and len(refine_velocities(few, pitch)) == len(few)
    np.testing.assert_allclose(refine_velocities(heard[:1], pitch), heard[:1], rtol=1e-4)  # nothing to compare it with


def test_a_long_recording_is_played_without_seams_though_a_note_is_held_across(long, model, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(hp, "bfloat16", False)
    notes = some_notes(60, 11)
    notes = np.concatenate([notes, [[0.5, 11.5, 45, 100]]]).astype(np.float32)
    monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model: notes)
    monkeypatch.setattr(hp, "context_frames", 96)
    unet = UNet(wf=2)
    unet.last.bias.data[:] = 0.5  # else what it draws, not trained, is black
    models, played = (model, AEModel(unet)), []
    for size in 5000, 264:
        monkeypatch.setattr(hp, "chunk_frames", size)
        images = []
        monkeypatch.setattr(Inversion, "invert", lambda mel, guide, *_, invert=Inversion.griffin_lim: (
            images.append(mel), invert(np.sqrt(Inversion.power_from_mel(mel, np.abs(guide) ** 2)), guide, 2))[1])
        audio, pictures = Main.resynthesise(long, models[:1])
        assert audio.shape == long.shape and np.isfinite(audio).all() and len(pictures) == 2
        played.append((audio, Main.resynthesise(long, models)[0], pictures[1]))
    (whole, whole_unet, image), (parts, parts_unet, first) = played
    np.testing.assert_allclose(image[:, :first.shape[1]], first, atol=2e-3)
    for one, other in (whole, parts), (whole_unet, parts_unet):
        assert np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_a_note_held_across_a_boundary_sounds_on_both_sides(decoder, model):
    notes = np.array([[0.5, 8.0, 60, 100]], np.float32)
    image = model.note_spectrogram(notes, 700)
    power = DatasetCreator.mel_from_log(image).sum(axis=0)
    for boundary in 256, 512:
        assert power[boundary] == pytest.approx(power[boundary - 1], rel=0.3) and power[boundary] > 0


def test_a_recording_without_notes_comes_out_silent_and_as_long(model, monkeypatch):
    noise = np.random.default_rng(0).normal(0, 0.01, hp.sample_rate).astype(np.float32)
    monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model: np.zeros((0, 4), np.float32))
    audio, _ = Main.resynthesise(noise, [model])
    assert audio.shape == noise.shape and not audio.any()
