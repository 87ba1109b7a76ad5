"""Trainers of the parts of the note autoencoder: encoder, post-processing and table decoder; their validation."""
import numpy as np
import torch

import Hyperparameters as hp
import Metrics
import Plots
import RefinerTraining
import TableDecoder
import Training
import Util
from AEDataset import AEDataset
from AEModel import NoteModel, autocast
from Clips import ClipMaker, frame_rate, label_clips
from NoteDataset import read_notes
from NoteLoss import frame_loss
from Notes import interpolate_peaks, onset_candidates
from RandomPianos import seeded

shown = {"onset_f1": "onset F1", "offset_f1": "with offsets", "velocity_f1": "with velocities"}  # of the metrics


class NoteTrainer(Training.Trainer, NoteModel):
    """Trainer of a part of a `NoteAutoencoder`. What all parts share is how they are validated: by the notes.

    Parameters
    ----------
    network : NoteAutoencoder
    part : nn.Module
        Part of the network that is trained.
    learning_rate, device, **settings
        See `Training.Trainer`.
    """

    def __init__(self, network, part, learning_rate, device, **settings):
        super().__init__(network, None, learning_rate, device, parameters=part and part.parameters(), **settings)

    def validate(self, clips):
        """Transcribe and play whole recordings, and score their notes.

        Parameters
        ----------
        clips : ValidationClips

        Returns
        -------
        float
            1 minus the mean F1 of all three kinds, over dry and recorded clips.
        dict
            For "dry" and "recorded", where there are any: onset F1, F1 with offsets, F1 with velocities, and, if there
            are targets, the mean distance of the spectrogram in dB.
        """
        rows = {"dry": [], "recorded": []}
        for kind, audio, notes, target in clips:
            found, _ = self.transcribe(audio)
            scores = Metrics.note_scores(notes, found)
            output = self.note_spectrogram(found, target.shape[1]) if target is not None else np.zeros(0)
            distance = hp.top_db * np.abs(output - target).mean() if target is not None else np.nan
            rows[kind].append([*(scores[name] for name in shown), distance])
        means = {kind: np.mean(part, axis=0) for kind, part in rows.items() if part}
        figures = {kind: {name: float(value) for name, value in zip((*shown.values(), "distance, dB"), part)
                          if np.isfinite(value)} for kind, part in means.items()}
        return 1 - float(np.mean([part[:3] for part in means.values()])), figures

    def transcribe(self, audio):
        """Return the notes of a recording [shape=(n, 4)] and its pitch spectrogram [shape=(n_pitches, steps)]."""
        predictions, pitch = RefinerTraining.predict(self, audio)
        return self.refine_velocities(self.decode_notes(predictions), pitch), pitch

    def save_example(self, stem, epoch, training_set, validation_set):
        """Draw the notes that the network hears in ten seconds of the first validation clip, over its spectrogram."""
        _, audio, _, _ = next(iter(validation_set))
        notes, pitch = self.transcribe(audio[:10 * hp.sample_rate])
        Plots.save_figure(stem.with_suffix(".png"), Plots.plot_notes(
            pitch, notes, f"{validation_set.names[0]}: notes heard after epoch {epoch}"))


class ValidationClips:
    """Recordings by which a note autoencoder is validated, each dry and as it is heard in a room.

    Iteration yields kind ("dry" or "recorded"), audio [shape=(n,)], notes [shape=(m, 4)], and the target's spectrogram
    [shape=(n_mels, t)] or None.

    Parameters
    ----------
    dataset : NoteDataset
    targets : list of StoredSpectrogram
    maker : ClipMaker
    sources : int
        Number of pianos in the data set, each of which is heard.
    made : list
        More recordings without a target, as `RefinerTraining.made_sounds` returns them.
    """

    def __init__(self, dataset, targets, maker, sources=1, made=()):
        self.dataset, self.targets, self.maker, self.sources, self.made = dataset, targets, maker, sources, made
        self.names = dataset.names or [name for name, _ in made]

    def __iter__(self):
        for _, sound in self.made:
            yield "recorded", *sound(), None
        for piece, target in enumerate(self.targets):
            for source in range(self.sources):
                audio, notes = self.dataset.clip(piece, source)
                heard = self.maker.hear_recording(audio, Util.seed_of(f"validation {self.names[piece]} {source}"))
                for kind, sound in (("dry", audio), ("recorded", heard)):
                    yield kind, sound, notes[:, :4], target[:].numpy()


class EncoderTrainer(NoteTrainer):
    """Trainer of the encoder, on the batches of a `NoteDataset`. The loss is `NoteLoss.frame_loss`.

    Parameters
    ----------
    network, learning_rate, device, **settings
        See `NoteTrainer`.
    maker : ClipMaker
        Plays the notes of made clips, and hears crops in rooms.
    heard : bool
        Whether crops of recordings are heard in rooms.
    """

    def __init__(self, network, learning_rate, device, maker, heard=True, **settings):
        super().__init__(network, network.encoder, learning_rate, device, **settings)
        self.maker, self.heard = maker, heard

    def batch_loss(self, batch):
        if self.started:  # batches of a few crops would spoil the statistics of all that the weights have seen
            self.network.encoder.eval()
        batch = {name: value.to(self.device) for name, value in batch.items()}
        clips, lead = len(batch["audio"]), int(ClipMaker.lead * hp.sample_rate)
        frames = (batch["audio"].shape[1] - lead) // hp.hop_length
        with torch.no_grad(), seeded(batch["seed"][0].item()):
            pitch, mel = self.maker.spectrograms(self.sound(batch, frames)[:, lead:], frames)
        labels = label_clips(numbered(batch["notes"]), clips, frames)
        with autocast(self.device, self.bfloat16):
            logits = self.network.encoder(pitch, mel)
        return frame_loss(logits.float(), labels), clips

    def transcribe(self, audio):
        if self.started:
            return super().transcribe(audio)
        predictions, pitch = RefinerTraining.predict(self, audio)  # the heads are not trained yet: onsets alone count
        onset, sounding, *_ = predictions.astype(np.float32)
        frame, key = onset_candidates((onset, sounding), hp.refiner_threshold, hp.refiner_candidate_frame_threshold)
        begin = interpolate_peaks(onset, frame, key) / frame_rate
        notes = np.stack([begin, begin + 0.5, key + hp.lowest_key, np.full(len(key), 64)], 1).astype(np.float32)
        return notes[np.lexsort(notes.T[::-1])], pitch

    def sound(self, batch, frames):
        """Return the audio of a batch: made where it is to be made, and heard in a room where it is to be heard."""
        audio, down, made = batch["audio"], torch.zeros_like(batch["audio"]), batch["made"]
        if made.any():
            notes, pedal = (numbered(batch[name][made]) for name in ("notes", "pedal"))
            audio[made], down[made] = self.maker.play(notes, pedal, int(made.sum()), frames, batch["step"][0].item())
        heard = made if not self.heard else batch["heard"]
        return torch.where(heard[:, None], self.maker.hear(audio, down), audio)


def numbered(rows):
    """Return the rows that are not zero of all clips [shape=(clips, n, columns)], with the number of the clip in front
    [shape=(m, 1 + columns)]."""
    clip, row = rows.any(-1).nonzero(as_tuple=True)
    return torch.cat([clip[:, None].float(), rows[clip, row]], 1)


class HeadTrainer(NoteTrainer):
    """Trainer of the heads behind the encoder, on the clips of `RefinerTraining.PredictedClips`.

    Each head learns from the notes that those before it give.

    Parameters
    ----------
    network, learning_rate, device, **settings
        See `NoteTrainer`.
    heads : sequence of str
        Heads to train, of `RefinerTraining.heads`.
    """

    def __init__(self, network, learning_rate, device, heads=RefinerTraining.heads, **settings):
        super().__init__(network, network.refiner, learning_rate, device, weight_decay=hp.head_weight_decay, **settings)
        self.heads = heads

    def batch_loss(self, batch):
        refiner = self.network.refiner
        examples = {head: RefinerTraining.head_examples(head, refiner, batch) for head in self.heads}
        refiner.train()
        losses = [RefinerTraining.head_loss(head, refiner, found, self.device)
                  for head, found in examples.items() if found]
        return sum(losses) if losses else 0 * next(refiner.onset_head.parameters()).sum(), len(batch)


class TableCrops(AEDataset):
    """Crops of the target's spectrogram and the notes that sound in them, for the table decoder.

    An item is a dict: "target" [shape=(n_mels, t)], "first", the number of its first frame, and "notes" [shape=(n, 5)]
    with their certainty. The parameters are those of `AEDataset`.
    """

    collate = list

    def load(self, name, data, sources):
        self.notes = [*getattr(self, "notes", []), read_notes(data / "generated" / name)]
        return []

    def __getitem__(self, key):
        piece, first, frames, _ = key if isinstance(key, tuple) else (key, 0, self.targets[key].shape[1], None)
        target, notes, rate = self.targets[piece][:, first:first + frames], self.notes[piece], frame_rate
        sounding = (notes[:, 0] * rate < first + frames + 4) & (notes[:, 1] * rate > first - 1000)
        return {"target": target.float(), "first": first, "notes": torch.from_numpy(notes[sounding])}


class TableTrainer(NoteTrainer):
    """Trainer of a table decoder, on `TableCrops`: see TableDecoder.py. The parameters are those of `NoteTrainer`."""

    def __init__(self, network, learning_rate, device, **settings):
        super().__init__(network, None, learning_rate, device, **settings)
        groups = TableDecoder.parameter_groups(network.decoder)
        self.optimiser = torch.optim.AdamW(groups, learning_rate, weight_decay=0)

    def batch_loss(self, batch):
        losses = [TableDecoder.decoder_loss(self.network.decoder, *(crop["notes"].to(self.device)[:, columns]
                                                                    for columns in (slice(4), 4)),
                                            crop["first"], crop["target"].to(self.device)) for crop in batch]
        return sum(losses) / len(losses), len(batch)

    @torch.inference_mode()
    def validate(self, clips):
        """Return the mean L1 distance between the spectrograms of the notes and the target's, and the same in dB."""
        distances = []
        for clip in (clips[i] for i in range(len(clips))):
            output = self.note_spectrogram(clip["notes"][:, :4].numpy(), clip["target"].shape[1])
            distances.append(np.abs(output - clip["target"].numpy()).mean())
        return float(np.mean(distances)), {"decoder": {"distance, dB": hp.top_db * float(np.mean(distances))}}

    def save_example(self, stem, epoch, training_set, validation_set):
        clip = validation_set[0]
        output = self.note_spectrogram(clip["notes"][:, :4].numpy(), clip["target"].shape[1])
        Plots.save_figure(stem.with_suffix(".png"), Plots.plot_spectrograms(
            {f"notes after epoch {epoch}": output, "target": clip["target"].numpy()}, validation_set.names[0]))
