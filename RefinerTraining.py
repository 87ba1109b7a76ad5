"""Train the `NoteRefiner` on notes that the encoder finds in clips that it has not been trained on."""
import numpy as np
import torch
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import NoteRefinement
from AEModel import NoteModel
from RandomPerformances import Performances


def train_refiner(network, maker, pieces, number, device):
    """Train `network.refiner` on `number` clips of 30 s, made by a `Clips.ClipMaker` from these pieces."""
    clips = predicted_clips(network, maker, pieces, number, device)
    refiner = network.refiner.to(device)
    offsets = [offset_examples(predictions, notes) for predictions, _, notes in clips]
    if not sum(len(seen) for seen, *_ in offsets):
        tqdm.write("warning: the encoder finds no notes, so that nothing can be trained behind it; train it for longer")
        return
    fit_offsets(refiner.offset_head, offsets)
    fit_velocities(refiner.velocity_head, [velocity_examples(network, *clip) for clip in clips])


def predicted_clips(network, maker, pieces, number, device):
    """Return what the encoder predicts of clips, their pitch spectrograms and their notes: a list of (np.ndarray
    [shape=(4, t, n_keys)], np.ndarray [shape=(n_pitches, steps)], np.ndarray [shape=(n, 4)])."""
    model, rng = NoteModel(network, torch.device(device)), np.random.default_rng(hp.seed)
    whole, clips = maker.with_frames(hp.limit_s * hp.sample_rate // hp.hop_length), []
    stream = Performances(pieces, 1, whole.seconds, hp.clip_lead_s)
    for _ in tqdm(range(number), desc="clips", unit="clip", leave=False):
        whole.instruments.renew()
        batch = stream.draw(rng)
        audio = whole.audio(batch["notes"].to(device), batch["pedal"].to(device), 1)[0].cpu().numpy()
        pitch, mel = DatasetCreator.pitch_spectrogram(audio), DatasetCreator.spectrogram(audio)
        notes = batch["notes"][:, 1:].numpy()
        notes = notes[(notes[:, 0] >= 0) & (notes[:, 0] < whole.seconds)]
        clips.append((model.predict_frames(pitch, mel), pitch, notes[np.lexsort(notes.T[::-1])]))
    return clips


def match(notes, onset, key):
    """Return the place of the true note of each found one, -1 if there is none within the onset tolerance
    [shape=(n,)]."""
    near = (notes[None, :, 2] == key[:, None]) & (np.abs(notes[None, :, 0] - onset[:, None]) < hp.onset_tolerance_s)
    return np.where(near.any(axis=1), near.argmax(axis=1), -1)


def offset_examples(predictions, notes):
    """Return features of the candidates of each found note, which are filled, and how good each is: 1 at the true
    offset, falling to 0 at the tolerance of the offset metric."""
    rate = NoteRefinement.frame_rate
    frame, key, begin, following = NoteRefinement.find_onsets(predictions)
    candidates, known = NoteRefinement.offset_candidates(predictions, frame, key, following)
    seen = NoteRefinement.offset_features(predictions, frame, key, following, candidates, known)
    found = match(notes, begin / rate, key + hp.lowest_key)
    true = notes[found] * np.float32([rate, rate, 1, 1])
    tolerance = np.maximum(0.2 * (true[:, 1] - true[:, 0]), hp.refiner_min_tolerance)[:, None]
    good = np.where(known, np.maximum(1 - np.abs(candidates - true[:, 1:2]) / tolerance, 0), 0) ** 2
    kept = (found >= 0) & (good.sum(axis=1) > 0)
    return seen[kept], known[kept], good[kept].astype(np.float32)


def velocity_examples(network, predictions, pitch, notes):
    """Return features of found notes [shape=(n, features)], and by how much the logarithm of each velocity is off."""
    found = NoteRefinement.decode_notes(predictions, network.refiner)
    if len(found) < hp.refiner_min_notes:
        return np.zeros((0, hp.refiner_velocity_features), np.float32), np.zeros(0, np.float32)
    true = match(notes, found[:, 0], found[:, 2])
    error = np.log(notes[true, 3]) - np.log(found[:, 3])
    return NoteRefinement.velocity_features(found, pitch)[true >= 0], error[true >= 0].astype(np.float32)


def make_optimiser(head):
    """Return an optimiser, and a learning rate that falls linearly over the epochs."""
    optimiser = torch.optim.AdamW(head.parameters(), hp.refiner_learning_rate, weight_decay=hp.refiner_weight_decay)
    return optimiser, torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.02, hp.refiner_epochs)


def fit_offsets(head, examples):
    """Teach a head to score candidates: cross entropy with how good they are."""
    device = next(head.parameters()).device
    seen, known, good = (torch.from_numpy(np.concatenate(part)).to(device) for part in zip(*examples))
    share = good / good.sum(1, keepdim=True)
    optimiser, scheduler = make_optimiser(head)
    head.train()
    for _ in tqdm(range(hp.refiner_epochs), desc="offsets", unit="epoch", leave=False):
        for rows in torch.randperm(len(seen), device=device).split(hp.refiner_batch_size):
            scores = torch.full(known[rows].shape, -30.0, device=device)
            scores[known[rows]] = head(seen[rows][known[rows]])
            step(optimiser, -(share[rows] * scores.log_softmax(1)).sum(1).mean())
        scheduler.step()


def fit_velocities(head, examples):
    """Teach a head by how much velocities are off relative to the mean of their clip: L1 distance of logarithms."""
    device = next(head.parameters()).device
    optimiser, scheduler = make_optimiser(head)
    examples = [(torch.from_numpy(seen).to(device), torch.from_numpy(error).to(device))
                for seen, error in examples if len(error) >= hp.refiner_min_notes]
    head.train()
    for _ in tqdm(range(hp.refiner_epochs if examples else 0), desc="velocities", unit="epoch", leave=False):
        for rows in torch.randperm(len(examples)).split(8):  # clips
            seen, error = zip(*(examples[row] for row in rows))
            changes = head(torch.cat(seen)).split([len(part) for part in error])
            off = torch.cat([centred(hp.velocity_scale * change - part) for change, part in zip(changes, error)])
            step(optimiser, off.abs().mean())
        scheduler.step()


def centred(values):
    """Return values minus their mean."""
    return values - values.mean()


def step(optimiser, loss):
    """Make one step of gradient descent."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
