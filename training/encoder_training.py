"""Train the encoder of the note autoencoder: loss of its frame-wise predictions, and trainer."""
import numpy as np
import torch
from torch import nn

import Hyperparameters as hp
import Util
from AEModel import autocast
from notes import dereverberation, post_processing
from notes.note_events import frame_rate, interpolate_peaks
from rendering.training_clips import ClipMaker, label_clips
from training.note_validation import NoteTrainer, predict

dry_share = 0.5             # of the crops, that lose their late reverberation as for the encoder's second run
offset_loss_weight = 0.5    # beside the onsets' 1
absolute_velocity_weight = 0.25     # relative to a weight of 1 for velocities relative to the mean of the crop


def frame_loss(logits, labels):
    """Return the loss of onset, sounding, velocity and offset [shape=(batch, 4, t, n_keys)], with labels in [0, 1].
    Cross entropy of onsets, sounding keys and offsets, summed over keys; and the L1 distance of the velocities'
    logarithms at the onsets. Velocities relative to the mean of the clip count more: which note is harder than which is
    heard, and how hard a whole clip is played is guessed."""
    weights = {0: 1, 1: hp.frame_loss_weight, 3: offset_loss_weight}
    channels = list(weights)
    entropy = nn.functional.binary_cross_entropy_with_logits(
        logits[:, channels], labels[:, channels], reduction="none").sum(-1).mean((0, 2))
    onsets = labels[:, 0]
    error = nn.functional.logsigmoid(logits[:, 2]) - labels[:, 2].clamp(min=1 / 127).log()
    sums = onsets.sum((1, 2), keepdim=True).clamp(min=1)
    relative = error - (error * onsets).sum((1, 2), keepdim=True) / sums
    velocity = ((relative.abs() + absolute_velocity_weight * error.abs()) * onsets).sum()
    entropy = sum(weight * part for weight, part in zip(weights.values(), entropy))
    return entropy + hp.velocity_loss_weight * velocity / onsets.sum().clamp(min=1)


class EncoderTrainer(NoteTrainer):
    """Trainer of the encoder, on the batches of a `NoteDataset`. A `ClipMaker` plays the notes of made clips and hears
    them in rooms, crops of recordings too if `heard`."""

    def __init__(self, network, learning_rate, device, maker, heard=True, **settings):
        super().__init__(network, None, learning_rate, device, parameters=network.encoder.parameters(), **settings)
        self.maker, self.heard = maker, heard

    def batch_loss(self, batch):
        batch = {name: value.to(self.device) for name, value in batch.items()}
        clips, lead = len(batch["audio"]), int(ClipMaker.lead * hp.sample_rate)
        frames = (batch["audio"].shape[1] - lead) // hp.hop_length
        with torch.no_grad(), Util.seeded(batch["seed"][0].item()):
            pitch, mel = self.maker.spectrograms(self.sound(batch, frames)[:, lead:], frames)
            dry = torch.rand(clips, 1, 1, device=self.device) < dry_share
            pitch, mel = (torch.where(dry, dereverberation.reduce_reverberation(images, hop), images)
                          for images, hop in ((pitch, hp.pitch_hop_length), (mel, hp.hop_length)))
        labels = label_clips(numbered(batch["notes"]), clips, frames)
        with autocast(self.device, self.bfloat16):
            logits = self.network.encoder(pitch, mel)
        return frame_loss(logits.float(), labels), clips

    def transcribe(self, audio):
        if self.started:
            return super().transcribe(audio)
        predictions, pitch = predict(self, audio)  # the heads are not trained yet: onsets alone count
        onset, sounding, *_ = predictions.astype(np.float32)
        frame, key = post_processing.onset_candidates((onset, sounding), post_processing.onset_threshold)
        begin = interpolate_peaks(onset, frame, key) / frame_rate
        notes = np.stack([begin, begin + 0.5, key + hp.lowest_key, np.full(len(key), 64)], 1).astype(np.float32)
        return notes[np.lexsort(notes.T[::-1])], pitch

    def sound(self, batch, frames):
        """Return the audio of a batch: made where it is to be made, and heard in a room where it is to be heard."""
        audio, down, made = batch["audio"], torch.zeros_like(batch["audio"]), batch["made"]
        if made.any():
            notes, pedal = (numbered(batch[name][made]) for name in ("notes", "pedal"))
            audio[made], down[made] = self.maker.play(notes, pedal, int(made.sum()), frames, batch["piano"][0].item())
        heard = batch["heard"] if self.heard else made
        return torch.where(heard[:, None], self.maker.hear(audio, down), audio)


def numbered(rows):
    """Return the rows of clips [shape=(clips, n, columns)] that are not 0, and their clip [shape=(m, 1 + columns)]."""
    clip, row = rows.any(-1).nonzero(as_tuple=True)
    return torch.cat([clip[:, None].float(), rows[clip, row]], 1)
