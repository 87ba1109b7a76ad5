"""Recordings of any length, in chunks."""
import numpy as np
import pytest

import Hyperparameters as hp
from audio import chunking


@pytest.mark.parametrize("chunk_frames", (16, 64, 200))
def test_chunks_of_all_lengths_fade_into_each_other(monkeypatch, chunk_frames):
    monkeypatch.setattr(hp, "chunk_frames", chunk_frames)
    monkeypatch.setattr(hp, "hop_length", 4)
    for frames in range(2, 700):
        parts = chunking.chunks(frames)
        assert parts[0][0] == 0 and parts[-1][1] == frames
        assert all(end == start for (_, end), (start, _) in zip(parts, parts[1:]))
        assert len(parts) == 1 or min(end - start for start, end in parts) >= chunking.fade_frames
        output = np.zeros((frames - 1) * 4, np.float32)
        for first, last in parts:
            before, after = max(first - 12, 0), min(last + 12, frames)
            chunking.add_faded(output, np.ones((after - before - 1) * 4, np.float32), before, first, last)
        np.testing.assert_allclose(output, 1, atol=1e-6)
