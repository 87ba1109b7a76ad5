"""Trainer of the note autoencoder: the losses of encoder, note classifier and decoder."""
import numpy as np
import torch

import Hyperparameters as hp
import Training
from AEModel import NoteModel, autocast
from NoteLoss import frame_loss
from Notes import estimate_offsets, next_onsets, notes_to_frames, onset_candidates


class NoteTrainer(Training.Trainer, NoteModel):
    """Trainer of the parts of a `NoteAutoencoder`. Each part learns from the true notes, without the other parts.

    - Encoder: cross entropy of onsets and sounding keys, and L1 error of the logarithmic velocities at the onsets.
    - Note classifier: cross entropy of the onset candidates, and L1 error of the offsets. Its gradients do not reach
      the encoder.
    - Decoder: L1 distance between its spectrogram of the true notes and the target's spectrogram.

    Parameters
    ----------
    network : NoteAutoencoder
    learning_rate : float
    device : torch.device
    parts : tuple of str
        Parts to train: "encoder", "classifier", "decoder".
    whole : bool
        Whether the spectrogram of the whole autoencoder is validated, or the loss of the parts.
    **settings
        See `Training.Trainer`.
    """

    def __init__(self, network, learning_rate, device, parts=("encoder", "classifier", "decoder"), whole=True,
                 **settings):
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
        if train_encoder or "classifier" in self.parts:
            self.network.encoder.train(train_encoder and self.network.training)
            grad = train_encoder and torch.is_grad_enabled()
            with torch.set_grad_enabled(grad), autocast(self.device, self.bfloat16):
                logits = self.network(batch["pitch"], batch["mel"]).float()
            if train_encoder:
                loss = loss + frame_loss(logits, batch["labels"])
            if "classifier" in self.parts:
                predictions = logits.detach().sigmoid()
                loss = loss + self.classifier_loss(predictions, batch["labels"]) + self.offset_loss(predictions, batch)
        if "decoder" in self.parts:
            played = hp.decoder_crops if train_encoder else size  # the decoder needs fewer crops than the encoder
            distances = [self.decoder_loss(*crop) for crop in zip(
                batch["notes"][:played], batch["first"].tolist(), batch["target"])]
            loss = loss + sum(distances) / len(distances)
        return loss, size

    def classifier_loss(self, predictions, labels):
        """Return the loss of the first decision of the note classifier: whether onset candidates were played.

        They were played where the labels have an onset. The lowest and the highest key in the first frame of each clip
        are added to the candidates, so that there are always some.

        Parameters
        ----------
        predictions : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
            Output of the encoder.
        labels : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
        """
        found = [onset_candidates(clip, hp.candidate_threshold) for clip in predictions.cpu().numpy()]
        clip, frame, key = (torch.from_numpy(np.concatenate(part)).to(self.device) for part in zip(*(
            (np.full(len(frames) + 2, i), np.append(frames, (0, 0)), np.append(keys, (0, hp.n_keys - 1)))
            for i, (frames, keys) in enumerate(found))))
        played = (labels[clip, 0, frame, key] > 0).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(
            self.network.classifier(predictions, clip, frame, key), played)

    def offset_loss(self, predictions, batch):
        """Return the loss of the second decision of the note classifier: when the true notes end.

        The loss is the error of the offset shift, in units of `hp.offset_loss_frames`. It covers the notes whose
        estimated offset is well within the crop, and the two keys that `classifier_loss` adds, with a shift of zero.

        Parameters
        ----------
        predictions : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
            Output of the encoder.
        batch : dict
            "notes" and "first" of `NoteDataset`.
        """
        found, (length, margin) = [], (predictions.shape[2], max(self.network.classifier.offset_steps))
        for i, (clip, notes, first) in enumerate(zip(predictions.cpu().numpy(), batch["notes"].cpu().numpy(),
                                                     batch["first"].tolist())):
            found.append(((i, 0, 0, 0, length, 0), (i, 0, hp.n_keys - 1, 0, length, 0)))
            begin, end, key, _ = notes_to_frames(notes, first)
            order = np.lexsort((begin, key))
            begin, end, key = begin[order], end[order], key[order]
            frame = np.rint(begin).astype(int)
            next_onset = next_onsets(key, begin, length)
            inside = (frame < length - 3) & (next_onset > 3)
            frame, key, begin, end, next_onset = (part[inside] for part in (frame, key, begin, end, next_onset))
            start = np.maximum(frame, 0)
            sounds = clip[1, np.minimum(start + 2, length - 1), key] > hp.offset_threshold
            seems = estimate_offsets(clip[1], start, key, next_onset)
            good = sounds & (seems < length - margin)
            found.append(np.stack([np.full(len(key), i), frame, key, seems, next_onset, end - seems], 1)[good])
        found = torch.from_numpy(np.concatenate(found).astype(np.float32)).to(self.device)
        clip, frame, key = found[:, :3].long().T
        later = self.network.classifier.offset_shift(predictions, clip, frame, key, *found[:, 3:5].T)
        true = found[:, 5].clamp(-hp.max_offset_shift, hp.max_offset_shift)
        return (later - true).abs().mean() / hp.offset_loss_frames

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
