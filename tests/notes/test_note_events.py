"""Notes: read from MIDI files, and written as labels."""
import numpy as np
import pytest

from notes import note_events
from notes_common import pedal, some_notes


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


def test_labels_of_a_crop_are_part_of_the_whole():
    whole = note_events.note_labels(some_notes(), 0, 600)
    for first, frames in ((0, 50), (101, 77), (590, 10)):
        np.testing.assert_allclose(note_events.note_labels(some_notes(), first, frames),
                                   whole[:, first:first + frames], atol=1e-4)
