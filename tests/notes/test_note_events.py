"""Notes: read from MIDI files, and written to them."""
import numpy as np
import pytest

from notes import note_events
from notes_common import pedal


@pytest.mark.parametrize("notes, requests, read", (
    ([(0, 60, 0.5, 1.0)], [], [(0.5, 1.0, 60, 90)]),
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 2.0, 60, 90)]),          # held by the pedal
    ([(0, 60, 0.5, 3.0)], pedal((0.7, 127), (2.0, 0)), [(0.5, 3.0, 60, 90)]),          # held by the key
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 63), (2.0, 0)), [(0.5, 1.0, 60, 90)]),           # not far enough down
    ([(0, 60, 0.5, 1.0)], pedal((1.2, 127), (2.0, 0)), [(0.5, 1.0, 60, 90)]),          # too late
    ([(0, 60, 0.5, 1.0)], pedal((0.7, 127)), [(0.5, 4.0, 60, 90)]),                    # never up again
    ([(0, 60, 0.5, 1.0), (0, 60, 1.5, 1.8)], pedal((0.0, 127), (3.0, 0)), [(0.5, 1.5, 60, 90), (1.5, 3.0, 60, 90)]),
    ([(0, 60, 0.5, 1.0), (1, 64, 0.5, 1.0)], pedal((0.0, 127), (3.0, 0)), [(0.5, 1.0, 64, 90), (0.5, 3.0, 60, 90)]),
    ([(9, 36, 0.5, 1.0), (0, 60, 1.0, 1.5)], [], [(1.0, 1.5, 60, 90)]),                # percussion
    ([(0, 60, 3.5, 7.0), (0, 64, 4.5, 5.0)], [], [(3.5, 4.0, 60, 90)]),                # cut at the limit of 4 s
    ([(0, 60, 4.5, 5.0)], [], []),
))
def test_notes_are_read_from_midi(tmp_path, midi, notes, requests, read):
    found = note_events.read_notes(midi(tmp_path / "piece.mid", notes, requests), limit_s=4)
    assert found.dtype == np.float32 and found.shape == (len(read), 4)
    np.testing.assert_allclose(found, np.array(read).reshape(-1, 4), atol=1e-3)


def test_a_note_that_ends_after_its_key_is_struck_again_keeps_the_next_one_whole(tmp_path):
    played = [(0, 0.502, 60, 80), (0.5, 1, 60, 70), (1.5, 1.501, 62, 60), (1.5, 2, 62, 90)]  # the last two at once
    note_events.save_notes(tmp_path / "a.mid", played)
    kept = [(0, 0.5, 60, 80), (0.5, 1, 60, 70), (1.5, 2, 62, 90)]
    np.testing.assert_allclose(note_events.read_notes(tmp_path / "a.mid"), kept, atol=1e-3)
