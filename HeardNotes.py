"""Notes of a pair of recordings that has no MIDI file, from the transcriptions of both recordings."""
import numpy as np

import Chunks
import Hyperparameters as hp
import Transcription
import Tuning

one_sided = 0.3     # certainty of a note that is found in one of two recordings
min_agreement = 0.6


def heard_notes(source, target, model):
    recordings = source, target
    notes = [Transcription.transcribe_audio(audio, model) for audio in recordings]
    shares = [explained(audio, found) for audio, found in zip(recordings, notes)]
    return merge(notes, shares)


def merge(notes, shares):
    best = int(np.argmax(shares))
    main, other = notes[best], notes[1 - best]
    pairs = match_notes(main, other)
    agreement = 2 * len(pairs) / max(len(main) + len(other), 1)
    certainty = np.full(len(main), one_sided, np.float32)
    certainty[pairs[:, 0]] = 1
    return main, certainty, agreement


def explained(audio, notes):
    factor = Tuning.pitch_factor(audio)
    return Chunks.explained_share(Tuning.to_concert_pitch(audio, factor), notes * np.float32([factor, factor, 1, 1]))


def match_notes(first, second):
    """Match notes of the same key whose onsets are near, each at most once, the nearest first."""
    apart = np.abs(first[:, None, 0] - second[None, :, 0])
    apart[first[:, None, 2] != second[None, :, 2]] = np.inf
    pairs = []
    for place in np.argsort(apart, axis=None, kind="stable")[:np.count_nonzero(apart <= hp.onset_tolerance_s)]:
        i, j = np.unravel_index(place, apart.shape)
        if np.isfinite(apart[i, j]) and not any(i == a or j == b for a, b in pairs):
            pairs.append((i, j))
    return np.array(pairs, int).reshape(-1, 2)
