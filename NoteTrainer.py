"""Trainer of the note autoencoder: the losses of encoder and decoder."""
import numpy as np
import torch

import Hyperparameters as hp
import Training
from AEModel import NoteModel, autocast
from NoteLoss import frame_loss


class NoteTrainer(Training.Trainer, NoteModel):
    """Trainer of the parts of a `NoteAutoencoder`. Each part learns from the true notes, without the other parts.

    - Encoder: cross entropy of onsets and sounding keys, and L1 error of the logarithmic velocities at the onsets.
    - Decoder: L1 distance between its spectrogram of the true notes and the target's spectrogram.

    Parameters
    ----------
    network : NoteAutoencoder
    learning_rate : float
    device : torch.device
    parts : tuple of str
        Parts to train: "encoder", "decoder".
    whole : bool
        Whether the spectrogram of the whole autoencoder is validated, or the loss of the parts.
    **settings
        See `Training.Trainer`.
    """

    def __init__(self, network, learning_rate, device, parts=("encoder", "decoder"), whole=True, **settings):
        super().__init__(network, None, learning_rate, device, **settings)
        self.parts, self.whole = parts, whole
        # The decoder has no momentum and a short memory, so that a rarely played key changes only when it is played,
        # and by steps of the same size as other keys.
        rare = dict(scale=hp.decoder_rate_factor, betas=hp.decoder_betas)
        groups = [{"params": list(getattr(network, part).parameters())} for part in parts if part != "decoder"]
        if "decoder" in parts:
            *levels, release = network.decoder.parameters()
            groups += [{"params": levels, **rare}, {"params": [release], **rare, "scale": hp.release_rate_factor}]
        self.optimiser = torch.optim.Adam(groups, learning_rate)

    def batch_loss(self, batch):
        """Return the loss of the trained parts for a batch of a `NoteDataset`, and its number of crops."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        loss, size = 0, len(batch["target"])
        train_encoder = "encoder" in self.parts
        if train_encoder:
            with autocast(self.device, self.bfloat16):
                logits = self.network.encoder(batch["pitch"], batch["mel"])
            loss = loss + frame_loss(logits.float(), batch["labels"])
        if "decoder" in self.parts:
            played = hp.decoder_crops if train_encoder else size  # the decoder needs fewer crops than the encoder
            distances = [self.decoder_loss(*crop) for crop in zip(
                batch["notes"][:played], batch["first"].tolist(), batch["target"])]
            loss = loss + sum(distances) / len(distances)
        return loss, size

    def decoder_loss(self, notes, first, target):
        """Return the loss of the decoder for a crop.

        The loss is the L1 distance between the spectrogram of the true notes and the target, at the level that fits
        best. A small part of the level error is added, since otherwise the levels drift away from those of rare keys.

        Parameters
        ----------
        notes : torch.Tensor [shape=(n, 4)]
        first : int
            First frame of the crop.
        target : torch.Tensor [shape=(n_mels, t), in [0, 1]]
        """
        output = self.mel_decibels_tensor(notes, first, target.shape[1]) / hp.top_db + 1
        loud, off = target > hp.decoder_loss_from, 0
        if loud.any():
            differences = (target - output)[loud]
            output, off = output + differences.detach().median(), differences.mean().abs()
        within = output.clamp(0, 1)  # levels below the range still get a gradient
        distance = (within + hp.decoder_clipped_slope * (output - within) - target).abs().mean()
        return distance + hp.level_loss_weight * off

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean validation loss over all frames of whole clips.

        It is the L1 loss of the spectrogram, as with the report's autoencoder, if all parts are trained. Otherwise it
        is the loss of the trained parts.
        """
        self.network.eval()
        losses, frames = zip(*((self.clip_loss(clip), clip["target"].shape[1]) for clip in dataset))
        return float(np.average(losses, weights=frames))

    def clip_loss(self, clip):
        """Return the validation loss of a clip: see `validate`."""
        if not self.whole:
            return self.batch_loss(torch.utils.data.default_collate([clip]))[0].item()
        _, output, target = self.example(clip)
        return np.abs(output - target.numpy()).mean()

    def example(self, clip):
        """Return input, output and target of a clip of the data set [each shape=(n_mels, t)]."""
        return clip["mel"], self.generate(clip["pitch"].numpy(), clip["mel"].numpy()), clip["target"]
