"""Validate a note autoencoder by the notes that it transcribes of recordings, dry and as they are heard in rooms."""
import numpy as np

import Hyperparameters as hp
import Util
from AEModel import NoteModel
from audio import audio_metrics, chunking
from notes import post_processing, transcription
from outputs import plots
from training import training_loop

shown = {"onset_f1": "onset F1", "offset_f1": "with offsets", "velocity_f1": "with velocities"}  # of the metrics


class NoteTrainer(training_loop.Trainer, NoteModel):
    """Trainer of a part of a `NoteAutoencoder`, which is validated by the notes, on `ValidationClips`."""

    def validate(self, clips):
        """Return 1 minus the mean F1 of all three kinds, over dry and recorded clips; and for "dry" and "recorded",
        where there are any, onset F1, F1 with offsets, F1 with velocities, and, if there are targets, the mean distance
        of the spectrogram in dB."""
        rows = {"dry": [], "recorded": []}
        for kind, audio, notes, target in clips:
            found, _ = self.transcribe(audio)
            scores = audio_metrics.note_scores(notes, found)
            rows[kind].append([scores[name] for name in shown])
            if target is not None:
                output = self.note_spectrogram(found, target.shape[1])
                rows[kind][-1].append(hp.top_db * np.abs(output - target).mean())
        means = {kind: np.mean(part, axis=0).tolist() for kind, part in rows.items() if part}
        figures = {kind: dict(zip((*shown.values(), "distance, dB"), part)) for kind, part in means.items()}
        return 1 - float(np.mean([part[:3] for part in means.values()])), figures

    def transcribe(self, audio):
        """Return the notes of a recording [shape=(n, 4)] and its pitch spectrogram [shape=(n_pitches, steps)]."""
        (predictions, pitch), refiner = predict(self, audio), self.network.refiner
        notes = post_processing.decode_notes(predictions, refiner)
        return post_processing.refine_velocities(notes, pitch, refiner)[:, :4], pitch

    def save_example(self, stem, epoch, training_set, validation_set):
        """Draw the notes that the network hears in ten seconds of the first validation clip, over its spectrogram."""
        _, audio, _, _ = next(iter(validation_set))
        notes, pitch = self.transcribe(audio[:10 * hp.sample_rate])
        plots.save_figure(stem.with_suffix(".png"), plots.plot_notes(
            pitch, notes, f"{validation_set.names[0]}: notes heard after epoch {epoch}"))


def predict(model, audio):
    """Return predictions and pitch spectrogram of a clip, as `transcription` computes them, in half precision."""
    [predicted] = transcription.predict_chunks(audio, model, [(0, chunking.n_frames(audio))])
    return tuple(image.astype(np.float16) for image in predicted)


class ValidationClips:
    """Pieces of a `NoteDataset` on each of its pianos, dry and as they are heard in a room, with their targets, a list
    of `StoredSpectrogram`; and recordings without a target, `made` by `head_training.made_sounds`. Iteration yields
    kind ("dry" or "recorded"), audio [shape=(n,)], notes [shape=(m, 4)], and the target's spectrogram [shape=(n_mels,
    t)] or None."""

    def __init__(self, dataset, targets, maker, made=()):
        self.dataset, self.targets, self.maker, self.made = dataset, targets, maker, made
        self.names = dataset.names or [name for name, _ in made]

    def __iter__(self):
        for _, sound in self.made:
            yield "recorded", *sound(), None
        for piece, target in enumerate(self.targets):
            for source in range(len(self.dataset.recordings[piece])):
                audio, notes = self.dataset.clip(piece, source)
                heard = self.maker.hear_recording(audio, Util.seed_of(f"validation {self.names[piece]} {source}"))
                for kind, sound in (("dry", audio), ("recorded", heard)):
                    yield kind, sound, notes[:, :4], target[:].numpy()
