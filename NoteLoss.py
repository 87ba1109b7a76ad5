"""Loss of the frame-wise predictions of notes."""
import torch
from torch import nn

import Hyperparameters as hp


def frame_loss(logits, labels):
    """Return the loss of a note encoder.

    Cross entropy of onsets, sounding keys and, if predicted, offsets, summed over keys; and the L1 distance of the
    velocities' logarithms at the onsets. How hard a whole clip is played is guessed from its sound alone; which note is
    harder than which is heard, so that velocities relative to the mean of the clip count more.

    Parameters
    ----------
    logits : torch.Tensor [shape=(batch, outputs, t, n_keys)]
        Onset, sounding, velocity and, with four outputs, offset.
    labels : torch.Tensor [shape=(batch, 3 or more, t, n_keys), in [0, 1]]
        See `Notes.note_labels`.
    """
    weights = {0: 1, 1: hp.frame_loss_weight, 3: hp.offset_loss_weight}
    channels = [channel for channel in weights if channel < logits.shape[1]]
    entropy = nn.functional.binary_cross_entropy_with_logits(
        logits[:, channels], labels[:, channels], reduction="none").sum(-1).mean((0, 2))
    onsets = labels[:, 0]
    error = nn.functional.logsigmoid(logits[:, 2]) - labels[:, 2].clamp(min=1 / 127).log()
    sums = onsets.sum((1, 2), keepdim=True).clamp(min=1)
    relative = error - (error * onsets).sum((1, 2), keepdim=True) / sums
    velocity = ((relative.abs() + hp.absolute_velocity_weight * error.abs()) * onsets).sum()
    entropy = sum(weights[channel] * part for channel, part in zip(channels, entropy))
    return entropy + hp.velocity_loss_weight * velocity / onsets.sum().clamp(min=1)
