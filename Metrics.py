"""Metrics: distances of audio from the true e-piano, and scores of onsets and notes.

Log-mel L1 is the mean absolute difference of two log-mel spectrograms in dB. Texture is the distance of two modulation
spectra in dB: how strongly each band fluctuates, and how fast. The normalised spectral distance is the distance of two
magnitude spectrograms, each with unit norm. Note metrics are those of mir_eval (Raffel et al. 2014).
"""
import warnings

import librosa
import numpy as np

import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio

note_metrics = {"precision": "precision", "recall": "recall", "onset_f1": "onset F1",
                "offset_f1": "onset and offset F1", "velocity_f1": "onset, offset and velocity F1"}


def log_mel_l1(output, truth):
    """Return the mean absolute difference of two log-mel spectrograms in dB.

    The output is first scaled to the RMS level of the truth. Spectrograms have 128 bands, in dB relative to the maximum
    of the truth, with a floor at -80 dB.

    Parameters
    ----------
    output, truth : np.ndarray [shape=(n,)]
        Audio at 22,050 Hz.
    """
    output = output * np.sqrt((truth ** 2).mean() / ((output ** 2).mean() + 1e-20))
    output, truth = (DatasetCreator.mel_power(DatasetCreator.stft(signal)) for signal in (output, truth))
    reference = truth.max()
    output, truth = (DatasetCreator.log_mel(power, reference) for power in (output, truth))
    return hp.top_db * float(np.abs(output - truth).mean())


def modulation_power(audio):
    """Return the power of the fluctuations of each mel band in each octave of modulation, and the level of each band.

    A band's envelope is its compressed magnitude; power is relative to the mean square of the envelope, so that a gain
    changes nothing.

    Returns
    -------
    (np.ndarray [shape=(texture_mels, octaves)], np.ndarray [shape=(texture_mels,)])
    """
    magnitude = np.abs(librosa.stft(audio, n_fft=hp.texture_n_fft, hop_length=hp.texture_hop_length))
    filters = librosa.filters.mel(sr=hp.sample_rate, n_fft=hp.texture_n_fft, n_mels=hp.texture_mels)
    envelopes = (filters @ magnitude) ** hp.texture_exponent
    level = np.square(envelopes).mean(axis=1)
    fluctuation = np.fft.rfft(envelopes - envelopes.mean(axis=1, keepdims=True), axis=1)
    density = np.square(np.abs(fluctuation)) / envelopes.shape[1]
    hertz = np.fft.rfftfreq(envelopes.shape[1], hp.texture_hop_length / hp.sample_rate)
    octave = np.digitize(hertz, hp.texture_hertz)
    power = np.stack([density[:, octave == i].sum(axis=1) for i in range(1, len(hp.texture_hertz))], axis=1)
    return power / np.maximum(level, 1e-20)[:, None], level


def texture(output, truth):
    """Return the distance of the modulation spectra of two signals in dB.

    It is the mean over the octaves of modulation from 2 to 128 Hz. Bands are weighted by their level in the truth.
    Modulation spectra describe perceived texture (McDermott and Simoncelli 2011, "Sound texture perception via
    statistics of the auditory periphery").

    Parameters
    ----------
    output, truth : np.ndarray [shape=(n,)]
        Audio at 22,050 Hz.
    """
    (power, _), (true_power, level) = modulation_power(output), modulation_power(truth)
    distance = np.abs(10 * np.log10((power + 1e-9) / (true_power + 1e-9)))
    return float(np.average(distance, axis=0, weights=level).mean())


def spectral_distance(output, truth):
    """Return the distance of two magnitude spectrograms, each with unit norm, as the mean over three STFT sizes.

    It is 0 for signals that differ in gain only, 1 for silence and at most sqrt(2).

    Parameters
    ----------
    output, truth : np.ndarray [shape=(n,)]
        Audio at 22,050 Hz.
    """
    distances = []
    for n_fft in hp.distance_n_fft:
        spectra = (np.abs(librosa.stft(signal, n_fft=n_fft, hop_length=n_fft // 4)) for signal in (output, truth))
        output_unit, truth_unit = (spectrum / (np.linalg.norm(spectrum) + 1e-9) for spectrum in spectra)
        distances.append(np.linalg.norm(output_unit - truth_unit))
    return float(np.mean(distances))


def read_onsets(path, limit_s=None):
    """Read the note onsets of a MIDI file, in seconds and ascending. Onsets within 30 ms count as one chord."""
    limit_s = hp.limit_s if limit_s is None else limit_s
    midi, _ = MIDI2Audio.trim(path, limit_s)
    times, now = [], 0.0
    for message in midi:
        now += message.time
        if message.type == "note_on" and message.velocity and (not times or now - times[-1] > hp.chord_s):
            times.append(now)
    return times


def onset_f1(output, onsets, tolerance=None):
    """Return the F1 score of the onsets that librosa detects in audio.

    Parameters
    ----------
    output : np.ndarray [shape=(n,)]
        Audio at 22,050 Hz.
    onsets : sequence of float
        True onsets in seconds, ascending. Each is matched at most once.
    tolerance : float, optional
        Largest difference of a match in seconds. By default `hp.onset_tolerance_s`.
    """
    tolerance = hp.onset_tolerance_s if tolerance is None else tolerance
    found = librosa.onset.onset_detect(y=output, sr=hp.sample_rate, hop_length=hp.hop_length, units="time")
    hits, i, j = 0, 0, 0
    while i < len(found) and j < len(onsets):
        if abs(found[i] - onsets[j]) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif found[i] < onsets[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(found) + len(onsets)) if len(found) + len(onsets) else 1.0


def note_events(notes, shift=0.0):
    """Return intervals [shape=(n, 2)], frequencies and velocities [shape=(n,)] of notes that are `shift` seconds later.

    All times are `hp.max_note_shift_s` later, since mir_eval refuses negative times.
    """
    notes = notes[notes[:, 0] + shift < hp.limit_s]
    onsets = np.maximum(notes[:, 0] + hp.max_note_shift_s + shift, 0)
    intervals = np.stack([onsets, onsets + np.maximum(notes[:, 1] - notes[:, 0], hp.min_scored_s)], axis=1)
    return intervals, librosa.midi_to_hz(notes[:, 2]), notes[:, 3]


def note_scores(true, predicted):
    """Return the note metrics of a transcription, as mir_eval defines them.

    An onset counts within 50 ms. An offset counts within 50 ms or 20 % of the note's duration. A velocity counts within
    10 % after a linear fit. The position of a recording in its MIDI file is not known exactly. The predicted notes are
    therefore shifted together by up to `hp.max_note_shift_s`. The shift with the highest onset F1 is taken, or the
    smallest of several.

    Parameters
    ----------
    true, predicted : np.ndarray [shape=(n, 4)]
        Onset and offset in seconds, MIDI key, velocity. Notes with an onset after `hp.limit_s` are ignored.

    Returns
    -------
    dict
        "precision" and "recall" of the onsets, "onset_f1", "offset_f1" (onset and offset) and "velocity_f1" (onset,
        offset and velocity), each from 0 to 1.
    """
    from mir_eval import transcription, transcription_velocity

    true, predicted = (np.asarray(notes, np.float64).reshape(-1, 4) for notes in (true, predicted))
    steps = round(hp.max_note_shift_s / hp.note_shift_step_s)
    shifts = sorted(hp.note_shift_step_s * np.arange(-steps, steps + 1), key=abs)
    reference, estimates = note_events(true), [note_events(predicted, shift) for shift in shifts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mir_eval warns if there are no notes
        scores = [transcription.precision_recall_f1_overlap(*reference[:2], *estimate[:2], offset_ratio=None)[:3]
                  for estimate in estimates]
        best = int(np.argmax([f1 for *_, f1 in scores]))
        estimate = estimates[best]
        offset_f1 = transcription.precision_recall_f1_overlap(*reference[:2], *estimate[:2])[2]
        velocity_f1 = transcription_velocity.precision_recall_f1_overlap(*reference, *estimate)[2]
    return dict(zip(note_metrics, map(float, (*scores[best], offset_f1, velocity_f1))))
