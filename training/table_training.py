"""Train the table decoder of the note autoencoder on spectrograms of the target: see notes/table_decoder.py."""
from pathlib import Path

import numpy as np
import torch

import Hyperparameters as hp
from AEDataset import AEDataset
from notes import table_decoder
from notes.note_events import frame_rate
from outputs import plots
from training.note_dataset import read_notes
from training.note_validation import NoteTrainer


class TableCrops(AEDataset):
    """Crops of the target's spectrogram with keys as in `AEDataset`, as dicts: "target" [shape=(n_mels, t)], "first",
    the number of its first frame, and "notes", those that sound in it, with their certainty [shape=(n, 5)]."""

    collate = list

    def __init__(self, names, data):
        super().__init__(names, data, sources=())
        self.notes = [read_notes(Path(data) / "generated" / name) for name in names]

    def __getitem__(self, key):
        piece, first, frames, _ = key if isinstance(key, tuple) else (key, 0, self.targets[key].shape[1], None)
        target, notes, rate = self.targets[piece][:, first:first + frames], self.notes[piece], frame_rate
        sounding = (notes[:, 0] * rate < first + frames + 4) & (notes[:, 1] * rate > first - 1000)
        return {"target": target.float(), "first": first, "notes": torch.from_numpy(notes[sounding])}


class TableTrainer(NoteTrainer):
    """Trainer of a table decoder, on `TableCrops`."""

    def __init__(self, network, learning_rate, device, **settings):
        super().__init__(network, None, learning_rate, device,
                         parameters=table_decoder.parameter_groups(network.decoder), **settings)

    def batch_loss(self, batch):
        losses = []
        for crop in batch:
            notes = crop["notes"].to(self.device)
            losses.append(table_decoder.decoder_loss(self.network.decoder, notes[:, :4], notes[:, 4], crop["first"],
                                                     crop["target"].to(self.device)))
        return sum(losses) / len(losses), len(batch)

    @torch.inference_mode()
    def validate(self, clips):
        """Return the mean L1 distance between the spectrograms of the notes and the target's, and the same in dB."""
        distance = float(np.mean([np.abs(self.output(clip) - clip["target"].numpy()).mean() for clip in clips]))
        return distance, {"decoder": {"distance, dB": hp.top_db * distance}}

    def output(self, clip):
        """Return the spectrogram of the notes of a clip [shape=(n_mels, t), in [0, 1]]."""
        return self.note_spectrogram(clip["notes"][:, :4].numpy(), clip["target"].shape[1])

    def save_example(self, stem, epoch, training_set, validation_set):
        clip = validation_set[0]
        plots.save_figure(stem.with_suffix(".png"), plots.plot_spectrograms(
            {f"notes after epoch {epoch}": self.output(clip), "target": clip["target"].numpy()},
            validation_set.names[0]))
