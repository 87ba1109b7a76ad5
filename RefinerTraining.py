"""Train the `NoteRefiner` on notes that the encoder finds in new clips."""
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import Chunks
import Hyperparameters as hp
import NoteRefinement
import Transcription
import Util
from AEModel import NoteModel
from NoteAutoencoder import NoteClassifier
from Notes import interpolate_peaks
from RandomPerformances import Performances


heads = "onset", "offset", "velocity"


def train_refiner(network, maker, pieces, number, device, trained=heads):
    """Train these heads of `network.refiner` on `number` clips, made by a `Clips.ClipMaker` from these pieces."""
    fit_refiner(network.refiner.to(device), predicted_clips(network, maker, pieces, number, device), trained)


def fit_refiner(refiner, clips, trained=heads):
    """Train heads of a refiner on the output of `predicted_clips`. Each learns from the notes that those before it
    give."""
    onsets = [onset_examples(predictions, notes) for predictions, _, notes in clips]
    if not sum(played.sum() for _, played in onsets):
        tqdm.write("warning: the encoder finds no notes, so that nothing can be trained behind it; train it for longer")
        return
    if "onset" in trained:
        fit_onsets(refiner.onset_head, onsets)
    if "offset" in trained:
        fit_offsets(refiner.offset_head, [offset_examples(refiner, image, notes) for image, _, notes in clips])
    if "velocity" in trained:
        fit_velocities(refiner.velocity_head, [velocity_examples(refiner, *clip) for clip in clips])


def predicted_clips(network, maker, pieces, number, device):
    """Return what the encoder predicts of clips, their pitch spectrograms and their notes: a list of (np.ndarray
    [shape=(4, t, n_keys)], np.ndarray [shape=(n_pitches, steps)], np.ndarray [shape=(n, 4)]). Silent clips are left
    out."""
    model, rng = NoteModel(network, torch.device(device)), np.random.default_rng(hp.seed)
    whole, clips = maker.with_frames(hp.refiner_clip_frames), []
    stream = Performances(pieces, 1, whole.seconds, hp.clip_lead_s)
    for i in tqdm(range(number), desc="clips", unit="clip", leave=False):
        if i % hp.refiner_clips_per_piano == hp.refiner_clips_per_piano - 1:
            whole.instruments.renew()
        batch = stream.draw(rng)
        audio = whole.audio(batch["notes"].to(device), batch["pedal"].to(device), 1)[0].cpu().numpy()
        notes = batch["notes"][:, 1:].numpy()
        notes = notes[(notes[:, 0] >= 0) & (notes[:, 0] < whole.seconds)]
        if audio.any():
            clips.append((*predict(model, audio), notes[np.lexsort(notes.T[::-1])]))
    return clips


def predict(model, audio):
    """Return predictions and pitch spectrogram of a clip, as `Transcription` computes them, in half precision."""
    exponent, frames = Util.level_exponent(audio), Chunks.n_frames(audio)
    references = (Chunks.pitch_power(audio, 0, frames, exponent).max(),
                  Chunks.loudest_mel_power(audio, exponent, [(0, frames)]))
    predicted = Transcription.predict_chunk(audio, model, 0, frames, exponent, references)
    return tuple(image.astype(np.float16) for image in predicted)


def match(notes, onset, key):
    """Return the place of the true note of each found one, -1 if there is none within the onset tolerance
    [shape=(n,)]. A true note belongs to one found note, the nearest."""
    distance = np.abs(notes[None, :, 0] - onset[:, None])
    found, true = np.nonzero((notes[None, :, 2] == key[:, None]) & (distance < hp.onset_tolerance_s))
    place, taken = np.full(len(onset), -1), np.zeros(len(notes), bool)
    for i in np.argsort(distance[found, true], kind="stable"):
        if place[found[i]] < 0 and not taken[true[i]]:
            place[found[i]], taken[true[i]] = true[i], True
    return place


def onset_examples(predictions, notes):
    """Return features of onset candidates [shape=(n, features), float16], and which were played [shape=(n,), bool]."""
    predictions = predictions.astype(np.float32)
    frame, key = NoteRefinement.refined_candidates(predictions)
    begin = interpolate_peaks(predictions[0], frame, key) / NoteRefinement.frame_rate
    image, places = torch.from_numpy(predictions[None]), (torch.from_numpy(place) for place in (0 * frame, frame, key))
    seen = NoteClassifier.onset_features(image, *places)
    return seen.numpy().astype(np.float16), match(notes, begin, key + hp.lowest_key) >= 0


def offset_examples(refiner, predictions, notes):
    """Return features of the candidates of each found note, which are filled, and how good each is: 1 at the true
    offset, falling to 0 at the tolerance of the offset metric."""
    rate, predictions = NoteRefinement.frame_rate, predictions.astype(np.float32)
    frame, key, begin, following = NoteRefinement.find_onsets(predictions, refiner)
    candidates, known = NoteRefinement.offset_candidates(predictions, frame, key, following)
    seen = NoteRefinement.offset_features(predictions, frame, key, following, candidates, known)
    found = match(notes, begin / rate, key + hp.lowest_key)
    true = notes[found] * np.float32([rate, rate, 1, 1])
    tolerance = np.maximum(0.2 * (true[:, 1] - true[:, 0]), hp.refiner_min_tolerance)[:, None]
    good = np.where(known, np.maximum(1 - np.abs(candidates - true[:, 1:2]) / tolerance, 0), 0) ** 2
    kept = (found >= 0) & (good.sum(axis=1) > 0)
    return seen[kept], known[kept], good[kept].astype(np.float32)


def velocity_examples(refiner, predictions, pitch, notes):
    """Return features of found notes [shape=(n, features)], the logarithms of their velocities, and the true
    velocities, NaN of notes that were not played [shape=(n,) each]; None of too few notes."""
    found = NoteRefinement.decode_notes(predictions.astype(np.float32), refiner)
    true = match(notes, found[:, 0], found[:, 2])
    if (true >= 0).sum() < hp.refiner_min_notes:
        return None
    velocity = np.where(true >= 0, notes[true, 3], np.nan).astype(np.float32)
    return NoteRefinement.velocity_inputs(found, pitch, refiner), np.log(found[:, 3]), velocity


def make_optimiser(head, epochs):
    """Return an optimiser, and a learning rate that falls linearly over the epochs."""
    optimiser = torch.optim.AdamW(head.parameters(), hp.refiner_learning_rate, weight_decay=hp.refiner_weight_decay)
    return optimiser, torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.02, epochs)


def fit_onsets(head, examples):
    """Teach a head which candidates were played: cross entropy."""
    device = next(head.parameters()).device
    seen, played = (torch.from_numpy(np.concatenate(part)).to(device) for part in zip(*examples))
    optimiser, scheduler = make_optimiser(head, hp.refiner_epochs["onset"])
    head.train()
    for _ in tqdm(range(hp.refiner_epochs["onset"]), desc="onsets", unit="epoch", leave=False):
        for rows in torch.randperm(len(seen), device=device).split(hp.refiner_batch_size):
            step(optimiser, nn.functional.binary_cross_entropy_with_logits(head(seen[rows].float()),
                                                                           played[rows].float()))
        scheduler.step()


def fit_offsets(head, examples):
    """Teach a head to score candidates: cross entropy with how good they are."""
    device = next(head.parameters()).device
    seen, known, good = (torch.from_numpy(np.concatenate(part)).to(device) for part in zip(*examples))
    share = good / good.sum(1, keepdim=True)
    optimiser, scheduler = make_optimiser(head, hp.refiner_epochs["offset"])
    head.train()
    for _ in tqdm(range(hp.refiner_epochs["offset"]), desc="offsets", unit="epoch", leave=False):
        for rows in torch.randperm(len(seen), device=device).split(hp.refiner_batch_size):
            scores = torch.full(known[rows].shape, -30.0, device=device)
            scores[known[rows]] = head(seen[rows][known[rows]])
            step(optimiser, -(share[rows] * scores.log_softmax(1)).sum(1).mean())
        scheduler.step()


def fit_velocities(head, examples):
    """Teach a head to correct velocities: see `velocity_loss`. Examples are outputs of `velocity_examples`."""
    device = next(head.parameters()).device
    optimiser, scheduler = make_optimiser(head, hp.refiner_epochs["velocity"])
    examples = [tuple(torch.from_numpy(part).to(device) for part in example) for example in examples if example]
    head.train()
    epochs = hp.refiner_epochs["velocity"] if examples else 0
    for _ in tqdm(range(epochs), desc="velocities", unit="epoch", leave=False):
        for rows in torch.randperm(len(examples)).split(hp.refiner_batch_clips):
            seen, logarithm, true = zip(*(examples[row] for row in rows))
            counts = [len(part) for part in true]
            changes = head(torch.cat(seen), counts).split(counts)
            step(optimiser, torch.cat([velocity_loss(old + hp.velocity_scale * change, velocity)
                                       for old, change, velocity in zip(logarithm, changes, true)]).mean())
        scheduler.step()


def velocity_loss(logarithm, true):
    """Return how far velocities are from the true ones of a clip [shape=(k,)].

    As in the metric, they are first fitted to the true ones by a linear function, and distances are relative to the
    range of the clip. A share of the distance of logarithms keeps their spread.

    Parameters
    ----------
    logarithm, true : torch.Tensor [shape=(n,)]
        Logarithm of the velocities, and the true velocities, NaN of notes that do not count.
    """
    counts = true.isfinite()
    logarithm, true = logarithm[counts], true[counts]
    velocity, target = centred(logarithm.clamp(max=hp.refiner_max_logarithm).exp()), centred(true)
    slope = ((velocity * target).sum() / ((velocity ** 2).sum() + 1e-3)).clamp(min=hp.refiner_min_slope)
    distance = (slope * velocity - target).abs() / (true.max() - true.min()).clamp(min=hp.refiner_min_range)
    return distance + hp.refiner_logarithm_weight * centred(logarithm - true.log()).abs()


def centred(values):
    """Return values minus their mean."""
    return values - values.mean()


def step(optimiser, loss):
    """Make one step of gradient descent."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], hp.gradient_norm)
    optimiser.step()
