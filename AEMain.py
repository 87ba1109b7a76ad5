"""Train the autoencoder: builds the data set if needed and writes the weights.

`python AEMain.py` trains data/models/own/ae.torch on data/piano and data/synth, with the report's 600 epochs.
"""
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
import Training
import Util
from AEDataset import AEDataset, NoteDataset, datasets
from AEModel import NoteModel, autocast, loudest_frame
from Autoencoder import Autoencoder, NoteAutoencoder


class NoteTrainer(Training.Trainer, NoteModel):
    """Encoder and decoder of a `NoteAutoencoder`, each taught apart by the true notes: see `Training.Trainer`.

    The encoder by cross entropy on onsets and sounding keys, and the L1 distance of the velocities' logarithms at the
    onsets; the decoder by the L1 distance from the target's spectrogram. `parts` are the halves to train, "encoder",
    "decoder" or both.
    """

    def __init__(self, network, learning_rate, device, parts=("encoder", "decoder"), **how):
        super().__init__(network, None, learning_rate, device, **how)
        self.parts = parts
        # No momentum and a short memory for the decoder's: a key that is rarely played is moved when it is played only,
        # and no further than others.
        rare = dict(scale=hp.decoder_rate, betas=(0.0, 0.9))
        groups = [{"params": list(network.encoder.parameters())}] if "encoder" in parts else []
        if "decoder" in parts:
            *levels, release = network.decoder.parameters()
            groups += [{"params": levels, **rare}, {"params": [release], **rare, "scale": hp.release_rate}]
        self.optimiser = torch.optim.Adam(groups, learning_rate)

    def loss_of(self, batch):
        batch = {name: value.to(self.device) for name, value in batch.items()}
        loss, size = 0, len(batch["target"])
        if "encoder" in self.parts:
            loss = loss + self.misheard(batch)
        if "decoder" in self.parts:
            played = size if len(self.parts) == 1 else hp.decoder_crops  # a few are enough beside the encoder's
            distances = [self.distance(*crop) for crop in zip(
                batch["notes"][:played], batch["first"].tolist(), batch["target"])]
            loss = loss + sum(distances) / len(distances)
        return loss, size

    def misheard(self, batch):
        """Loss of the encoder."""
        with autocast(self.device, self.bfloat16):
            logits = self.network(batch["pitch"], batch["mel"])
        labels = batch["labels"]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[:, :2].float(), labels[:, :2], reduction="none").sum(-1).mean((0, 2))
        onsets = labels[:, 0]  # loudness goes with the velocity's logarithm
        error = torch.nn.functional.logsigmoid(logits[:, 2].float()) - labels[:, 2].clamp(min=1 / 127).log()
        # How hard a whole crop is played is guessed at from its sound alone; which note is harder than which, heard.
        sums = onsets.sum((1, 2), keepdim=True).clamp(min=1)
        relative = error - (error * onsets).sum((1, 2), keepdim=True) / sums
        velocity = ((relative.abs() + 0.25 * error.abs()) * onsets).sum() / onsets.sum().clamp(min=1)
        return entropy[0] + 0.3 * entropy[1] + 4 * velocity

    def distance(self, notes, first, target):
        """L1 distance of what the decoder makes of true notes from the target, of `hp.top_db`, at the level that
        fits."""
        output = self.decode(notes, first, target.shape[1]) / hp.top_db + 1
        loud = target > 0.25
        if loud.any():
            output = output + (target - output.detach())[loud].median()
        within = output.clamp(0, 1)
        return (within + 0.01 * (output - within) - target).abs().mean()  # what is too soft to hear still has a slope

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean over all frames of whole clips of the L1 loss of the spectrogram, as of the report's form,
        or, if only one half is trained, of that half's loss."""
        self.network.eval()
        losses, frames = zip(*((self.judge(clip), clip["target"].shape[1]) for clip in dataset))
        return float(np.average(losses, weights=frames))

    def judge(self, clip):
        if len(self.parts) == 1:
            return self.loss_of(torch.utils.data.default_collate([clip]))[0].item()
        _, output, target = self.example(clip)
        return np.abs(output - target.numpy()).mean()

    def example(self, clip):
        return clip["mel"], self.generate(clip["pitch"].numpy(), clip["mel"].numpy()), clip["target"]


def train(data=hp.data, model="own", epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
          learning_rate=hp.ae_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          augmented=False, validation_source=None, start=None, network=None, part=None, channels=hp.ae_channels,
          gradient_norm=hp.gradient_norm, bfloat16=hp.bfloat16, average=0, device="auto", overwrite=False,
          tensorboard=False):
    """Train data/models/<model>/ae.torch on the pairs below `data`, from the weights in `start` if there are any.

    `network` is "notes", for which each piece needs its notes, data/notes/<piece>.mid, or "report", the report's form,
    of which `channels` are the width; None is "notes" where there are notes. Of one of notes, `part` "encoder" or
    "decoder" trains that half alone: another target needs another decoder, another source another encoder.
    `gradient_norm`, `bfloat16` and `average`: see `Training.Trainer`.

    Raises as `DatasetCreator.build`, `Training.start_from` and `Training.fit`.
    """
    device = Util.choose_device(device)
    names = Training.first_alone(lambda: DatasetCreator.build(data))
    network = network or ("notes" if DatasetCreator.has_notes(names, data) else "report")
    if network == "notes" and not DatasetCreator.has_notes(names, data):
        raise ValueError(f"{Path(data) / 'notes'} holds no notes; put the pieces' MIDI files there, or give "
                         "--network report")
    if network == "report" and part:
        raise ValueError("only an autoencoder of notes has parts to train alone; leave --part out, or give --network "
                         "notes")
    kind = NoteDataset if network == "notes" else AEDataset
    training, validation = datasets(names, data, seed, augmented, validation_source, kind)
    torch.manual_seed(seed)
    how = dict(gradient_norm=gradient_norm, bfloat16=bfloat16, average=average)
    if network == "notes":
        parts = (part,) if part else ("encoder", "decoder")
        trainer = NoteTrainer(NoteAutoencoder(), learning_rate, device, parts, **how)
    else:
        trainer = Training.Trainer(Autoencoder(channels=channels), torch.nn.functional.l1_loss, learning_rate, device,
                                   **how)
    if start:
        Training.start_from(trainer.network, start)
    if network == "notes" and part != "encoder":
        trainer.network.decoder.loudest.fill_(float(np.mean(
            [loudest_frame(Util.to_db(target[:].numpy())) for target in training.targets])))
    settings = dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, augmented=augmented, validation_source=validation_source, start=start and str(start),
        network=network, part=part, channels=list(channels), **how, pieces=names,
        trained_for=DatasetCreator.trained_for(data))
    loss_name = ("L1 loss" if network == "report" else f"loss of the {part}" if part else
                 "loss of notes and spectrogram (validation: L1)")
    Training.fit(trainer, training, validation,
                 Path(data) / "models" / model / "ae.torch", settings, loss_name, overwrite, tensorboard)


def main(arguments=None):
    parser = Util.training_flags("Train the autoencoder.", "ae", hp.ae_epochs, hp.ae_batch_size, hp.ae_learning_rate)
    parser.add_argument("--channels", type=Util.positive, nargs=3, default=hp.ae_channels, help="of the three layers")
    parser.add_argument("--network", choices=("notes", "report"),
                        help="an autoencoder of notes, or the report's (default: notes where data/notes has them)")
    parser.add_argument("--part", choices=("encoder", "decoder"),
                        help="train this half of an autoencoder of notes alone")
    options = vars(Util.training_options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    train(**options)
    data, seed, source = options["data"], options["seed"], options["validation_source"]
    Training.finish("UNetMain.py", *(["--data", data] if data != hp.data else []), "--model", options["model"],
                    *(["--seed", seed] if seed != hp.seed else []),  # else the split is another
                    *["--augmented"] * options["augmented"], *["--report"] * report,
                    *(["--validation-source", source] if source else []))


if __name__ == "__main__":
    Util.run(main)
