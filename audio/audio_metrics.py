"""Metrics: distances of audio from the true e-piano, and scores of onsets and notes.

Audio has the shape (n,) and a sample rate of 22,050 Hz. Note metrics are those of mir_eval (Raffel et al. 2014).
"""
import warnings

import librosa
import numpy as np

import DatasetCreator
import Hyperparameters as hp

max_note_shift_s = 0.024            # by which all notes of a transcription may be shifted together
note_shift_step_s = 0.004
min_scored_s = 0.02                 # shortest note of the note metrics
distance_n_fft = (512, 1024, 2048)  # of the normalised spectral distance
texture_n_fft = 512                 # envelopes of the texture distance
texture_hop_length = 64
texture_mels = 40
texture_exponent = 0.6              # that compresses their magnitude
texture_hertz = (2, 4, 8, 16, 32, 64, 128)  # edges of its octaves of modulation

note_metrics = {"precision": "precision", "recall": "recall", "onset_f1": "onset F1",
                "offset_f1": "onset and offset F1", "velocity_f1": "onset, offset and velocity F1"}


def log_mel_l1(output, truth):
    """Return the mean absolute difference of two log-mel spectrograms in dB. The output is first scaled to the RMS
    level of the truth. Spectrograms have 128 bands, in dB relative to the maximum of the truth, with a floor at -80
    dB."""
    output = output * np.sqrt((truth ** 2).mean() / ((output ** 2).mean() + 1e-20))
    output, truth = (DatasetCreator.mel_power(DatasetCreator.stft(signal)) for signal in (output, truth))
    reference = truth.max()
    output, truth = (DatasetCreator.log_mel(power, reference) for power in (output, truth))
    return hp.top_db * float(np.abs(output - truth).mean())


def modulation_power(audio, rate=hp.sample_rate):
    """Return the power of the fluctuations of bands [shape=(texture_mels, octaves)], and the levels of the bands. A
    band's envelope is its compressed magnitude; power is relative to the mean square of the envelope, so that a gain
    changes nothing."""
    n_fft, hop_length = (size * rate // hp.sample_rate for size in (texture_n_fft, texture_hop_length))
    magnitude = np.abs(librosa.stft(audio, n_fft=n_fft, hop_length=hop_length))
    filters = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=texture_mels)
    envelopes = (filters @ magnitude) ** texture_exponent
    level = np.square(envelopes).mean(axis=1)
    fluctuation = np.fft.rfft(envelopes - envelopes.mean(axis=1, keepdims=True), axis=1)
    density = np.square(np.abs(fluctuation)) / envelopes.shape[1]
    hertz = np.fft.rfftfreq(envelopes.shape[1], hop_length / rate)
    octave = np.digitize(hertz, texture_hertz)
    power = np.stack([density[:, octave == i].sum(axis=1) for i in range(1, len(texture_hertz))], axis=1)
    return power / np.maximum(level, 1e-20)[:, None], level


def texture(output, truth, rate=hp.sample_rate):
    """Return the distance of the modulation spectra of two signals in dB: how strongly bands fluctuate, and how fast.

    It is the mean over the octaves of modulation from 2 to 128 Hz. Bands are weighted by their level in the truth.
    `rate` is in Hz, a multiple of `hp.sample_rate`. Modulation spectra describe perceived texture (McDermott and
    Simoncelli 2011, "Sound texture perception via statistics of the auditory periphery").
    """
    (power, _), (true_power, level) = modulation_power(output, rate), modulation_power(truth, rate)
    distance = np.abs(10 * np.log10((power + 1e-9) / (true_power + 1e-9)))
    return float(np.average(distance, axis=0, weights=level).mean())


def spectral_distance(output, truth):
    """Return the distance of two magnitude spectrograms, each with unit norm, as the mean over three STFT sizes. It is
    0 for signals that differ in gain only, 1 for silence and at most sqrt(2)."""
    distances = []
    for n_fft in distance_n_fft:
        spectra = (np.abs(librosa.stft(signal, n_fft=n_fft, hop_length=n_fft // 4)) for signal in (output, truth))
        output_unit, truth_unit = (spectrum / (np.linalg.norm(spectrum) + 1e-9) for spectrum in spectra)
        distances.append(np.linalg.norm(output_unit - truth_unit))
    return float(np.mean(distances))


def onset_f1(output, onsets):
    """Return the F1 score of the onsets that librosa detects in audio, given the true ones in seconds, ascending. Each
    is matched at most once, within `hp.onset_tolerance_s`."""
    from mir_eval.util import match_events

    found = librosa.onset.onset_detect(y=output, sr=hp.sample_rate, hop_length=hp.hop_length, units="time")
    number = len(found) + len(onsets)
    return 2 * len(match_events(onsets, found, hp.onset_tolerance_s)) / number if number else 1.0


def note_events(notes, shift=0.0):
    """Return intervals [shape=(n, 2)], frequencies and velocities [shape=(n,)] of notes that are `shift` seconds later.
    All times are `max_note_shift_s` later, since mir_eval refuses negative times."""
    notes = notes[notes[:, 0] + shift < hp.limit_s]
    onsets = np.maximum(notes[:, 0] + max_note_shift_s + shift, 0)
    intervals = np.stack([onsets, onsets + np.maximum(notes[:, 1] - notes[:, 0], min_scored_s)], axis=1)
    return intervals, librosa.midi_to_hz(notes[:, 2]), notes[:, 3]


def note_scores(true, predicted):
    """Return the note metrics of a transcription, as mir_eval defines them: a dict of `note_metrics`, each from 0 to 1.

    Notes have the shape (n, 4): onset and offset in seconds, MIDI key, velocity. Those after `hp.limit_s` are ignored.
    An onset counts within 50 ms. An offset counts within 50 ms or 20 % of the note's duration. A velocity counts within
    10 % after a linear fit. The position of a recording in its MIDI file is not known exactly. The predicted notes are
    therefore shifted together by up to `max_note_shift_s`. The shift with the highest onset F1 is taken, or the
    smallest of several.
    """
    from mir_eval import transcription, transcription_velocity

    true, predicted = (np.asarray(notes, np.float64).reshape(-1, 4) for notes in (true, predicted))
    steps = round(max_note_shift_s / note_shift_step_s)
    shifts = sorted(note_shift_step_s * np.arange(-steps, steps + 1), key=abs)
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
