"""Small networks that compute values of notes from their features, in the context of the other notes."""
import torch
from torch import nn

import Hyperparameters as hp

no_candidate = -30.0        # score where a note has fewer offset candidates


class NoteContext(nn.Module):
    """Add to the values of each note those of the other notes: the mean over all notes of the recording, the mean
    over the other notes of the same key, and the notes before and after it, which dilated convolutions span. Notes are
    in the order of their onsets, and have so many `features`."""

    def __init__(self, features):
        super().__init__()
        width, _, kernel, dilations, dropout, limit = hp.sequence_form.values()
        self.scale, self.dropout = nn.BatchNorm2d(features), nn.Dropout(dropout)
        self.first = nn.Sequential(nn.Hardtanh(-limit, limit), nn.Linear(features, width), nn.ReLU(),
                                   nn.Dropout(dropout))
        self.whole = nn.Linear(2 * width, width)
        self.same_key = nn.Linear(2 * width + 1, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation)
                                    for dilation in dilations)

    def values(self, seen):
        """Return the values [shape=(n, width)] of each note alone, from its features [shape=(n, features)]."""
        return self.first(self.scale(seen[..., None, None])[..., 0, 0])

    def in_context(self, x, key):
        """Add to the values of the notes of a recording [shape=(n, width)] what is around them."""
        x = x + self.step(self.whole, x, x.mean(0, keepdim=True).expand_as(x))
        x = x + self.step(self.same_key, x, *other_notes(x, key))
        x = x.T[None]
        for layer in self.layers:
            x = x + self.step(layer, x)
        return x[0].T

    def step(self, layer, *inputs):
        """Return the rectified output of a layer for the concatenated inputs, with dropout."""
        return self.dropout(nn.functional.relu(layer(torch.cat(inputs, 1))))


def other_notes(x, key):
    """Return the mean of the values of the other notes of the same key [shape=(n, width)], zero if there are none, and
    the logarithm of one plus their number [shape=(n, 1)]."""
    total = x.new_zeros(hp.n_keys, x.shape[1]).index_add(0, key, x)
    others = x.new_zeros(hp.n_keys, 1).index_add(0, key, torch.ones_like(x[:, :1]))[key] - 1
    return (total[key] - x) / others.clamp(min=1), others.log1p()


class SequenceHead(NoteContext):
    """Compute one value per note from its features and its context, and `with_keys` from learnt values of its key."""

    def __init__(self, features, with_keys=False):
        super().__init__(features)
        width, narrow, _, _, dropout, _ = hp.sequence_form.values()
        self.key_values = nn.Embedding(hp.n_keys, width, _weight=torch.zeros(hp.n_keys, width)) if with_keys else None
        self.last = nn.Sequential(nn.Linear(width, narrow), nn.ReLU(), nn.Dropout(dropout), nn.Linear(narrow, 1))

    def forward(self, seen, key, counts=None):
        """Map features [shape=(n, features)] to one value per note [shape=(n,)]. `key` [shape=(n,), int64] counts from
        the lowest of the piano. `counts` are the numbers of notes of several recordings, one after the other."""
        x = self.values(seen)
        if self.key_values:
            x = x + self.key_values(key)
        counts = counts or len(x)
        return torch.cat([self.last(self.in_context(*part)) for part in zip(x.split(counts), key.split(counts))])[:, 0]


class OffsetHead(NoteContext):
    """Score the offset candidates of notes, from features of the candidates and the context of the notes. A first score
    sees each candidate alone. The note then has the mean of its candidates' values, weighted by the first scores, and
    its context. The final score sees candidate and note."""

    def __init__(self, features):
        super().__init__(features)
        width, narrow, _, _, dropout, _ = hp.sequence_form.values()
        self.guess = nn.Linear(width, 1)
        self.last = nn.Sequential(nn.Linear(2 * width + 2, narrow), nn.ReLU(), nn.Dropout(dropout),
                                  nn.Linear(narrow, 1))

    def forward(self, seen, known, key, candidates, counts=None):
        """Return final and first scores of candidates [shape=(n, candidates) each], `no_candidate` where there is none.
        `seen` are their features [shape=(n, candidates, features)], `known` tells which candidates there are [shape=(n,
        candidates), bool], and `candidates` are their frames. `key` and `counts` are those of
        `SequenceHead.forward`."""
        values = self.values(seen[known])
        x = values.new_zeros(*known.shape, values.shape[1])
        x[known] = values
        guess = self.guess(x)[..., 0].masked_fill(~known, no_candidate)
        share = guess.softmax(1)
        note, counts = (share[..., None] * x).sum(1), counts or len(x)
        note = torch.cat([self.in_context(*part) for part in zip(note.split(counts), key.split(counts))])
        share = share.detach()
        later = ((candidates - (share * candidates).sum(1, keepdim=True)) / 20).clamp(-3, 3)
        together = torch.cat([x, note[:, None].expand_as(x), later[..., None], share[..., None]], 2)
        return self.last(together)[..., 0].masked_fill(~known, no_candidate), guess
