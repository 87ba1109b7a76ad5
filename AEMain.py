"""Train the autoencoder: builds the data set if needed and writes the weights.

`python AEMain.py` trains data/models/own/ae.torch on data/piano and data/synth, with the report's 600 epochs.
"""
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Distributed
import Hyperparameters as hp
import Training
import Util
from AEDataset import AEDataset, NoteDataset, make_datasets
from AEModel import NoteModel, autocast, load_weights, peak_frame_level, provenance
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder, NoteDecoder, decoder_from_state
from Notes import estimate_offsets, next_onsets, notes_to_frames, onset_candidates
from SampledVoice import SampledVoice


class NoteTrainer(Training.Trainer, NoteModel):
    """The parts of a `NoteAutoencoder`, each taught apart by the true notes: see `Training.Trainer`.

    The encoder by cross entropy on onsets and sounding keys, and the L1 distance of the velocities' logarithms at the
    onsets; the note classifier by cross entropy on the notes that the encoder hears and the L1 distance of their ends,
    which do not teach the encoder; the decoder by the L1 distance from the target's spectrogram. `parts` are those to
    train; with `whole` the spectrogram is validated, else their loss.
    """

    def __init__(self, network, learning_rate, device, parts=("encoder", "classifier", "decoder"), whole=True, **how):
        super().__init__(network, None, learning_rate, device, **how)
        self.parts, self.whole = parts, whole
        # No momentum and a short memory for the decoder's: a key that is rarely played is moved when it is played only,
        # and no further than others.
        rare = dict(scale=hp.decoder_rate_factor, betas=hp.decoder_betas)
        groups = [{"params": list(getattr(network, part).parameters())} for part in parts if part != "decoder"]
        if "decoder" in parts:
            *levels, release = network.decoder.parameters()
            groups += [{"params": levels, **rare}, {"params": [release], **rare, "scale": hp.release_rate_factor}]
        self.optimiser = torch.optim.Adam(groups, learning_rate)

    def batch_loss(self, batch):
        batch = {name: value.to(self.device) for name, value in batch.items()}
        loss, size = 0, len(batch["target"])
        train_encoder = "encoder" in self.parts
        if train_encoder or "classifier" in self.parts:
            self.network.encoder.train(train_encoder and self.network.training)
            grad = train_encoder and torch.is_grad_enabled()
            with torch.set_grad_enabled(grad), autocast(self.device, self.bfloat16):
                logits = self.network(batch["pitch"], batch["mel"]).float()
            if train_encoder:
                loss = loss + self.encoder_loss(logits, batch["labels"])
            if "classifier" in self.parts:
                predictions = logits.detach().sigmoid()
                loss = loss + self.classifier_loss(predictions, batch["labels"]) + self.offset_loss(predictions, batch)
        if "decoder" in self.parts:
            played = hp.decoder_crops if train_encoder else size  # a few are enough beside the encoder's
            distances = [self.decoder_loss(*crop) for crop in zip(
                batch["notes"][:played], batch["first"].tolist(), batch["target"])]
            loss = loss + sum(distances) / len(distances)
        return loss, size

    def encoder_loss(self, logits, labels):
        """Loss of the encoder."""
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[:, :2], labels[:, :2], reduction="none").sum(-1).mean((0, 2))
        onsets = labels[:, 0]  # loudness goes with the velocity's logarithm
        error = torch.nn.functional.logsigmoid(logits[:, 2]) - labels[:, 2].clamp(min=1 / 127).log()
        # How hard a whole crop is played is guessed at from its sound alone; which note is harder than which, heard.
        sums = onsets.sum((1, 2), keepdim=True).clamp(min=1)
        relative = error - (error * onsets).sum((1, 2), keepdim=True) / sums
        errors = relative.abs() + hp.absolute_velocity_weight * error.abs()
        velocity = (errors * onsets).sum() / onsets.sum().clamp(min=1)
        return entropy[0] + hp.frame_loss_weight * entropy[1] + hp.velocity_loss_weight * velocity

    def classifier_loss(self, predictions, labels):
        """Loss of the note classifier's first opinion: of the notes that seem to begin, where the labels have an onset,
        they were played.

        With them go, of each clip's first frame, the lowest key and the highest, so that there are always some.
        """
        found = [onset_candidates(clip, hp.candidate_threshold) for clip in predictions.cpu().numpy()]
        clip, frame, key = (torch.from_numpy(np.concatenate(part)).to(self.device) for part in zip(*(
            (np.full(len(frames) + 2, i), np.append(frames, (0, 0)), np.append(keys, (0, hp.n_keys - 1)))
            for i, (frames, keys) in enumerate(found))))
        played = (labels[clip, 0, frame, key] > 0).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(
            self.network.classifier(predictions, clip, frame, key), played)

    def offset_loss(self, predictions, batch):
        """Loss of the note classifier's second opinion: how far the ends of the true notes are from where they seem to
        be, if that is well within the crop, in units of ten frames.

        With them goes, of each clip's first frame, the lowest key and the highest, at no distance: see
        `classifier_loss`.
        """
        found, (length, margin) = [], (predictions.shape[2], max(self.network.classifier.offset_steps))
        for i, (clip, notes, first) in enumerate(zip(predictions.cpu().numpy(), batch["notes"].cpu().numpy(),
                                                     batch["first"].tolist())):
            found.append(((i, 0, 0, 0, length, 0), (i, 0, hp.n_keys - 1, 0, length, 0)))
            begin, end, key, _ = notes_to_frames(notes, first)
            order = np.lexsort((begin, key))
            begin, end, key = begin[order], end[order], key[order]
            frame = np.rint(begin).astype(int)
            next_onset = next_onsets(key, begin, length)
            inside = (frame < length - 3) & (next_onset > 3)
            frame, key, begin, end, next_onset = (part[inside] for part in (frame, key, begin, end, next_onset))
            start = np.maximum(frame, 0)
            sounds = clip[1, np.minimum(start + 2, length - 1), key] > hp.offset_threshold
            seems = estimate_offsets(clip[1], start, key, next_onset)
            good = sounds & (seems < length - margin)
            found.append(np.stack([np.full(len(key), i), frame, key, seems, next_onset, end - seems], 1)[good])
        found = torch.from_numpy(np.concatenate(found).astype(np.float32)).to(self.device)
        clip, frame, key = found[:, :3].long().T
        later = self.network.classifier.offset_shift(predictions, clip, frame, key, *found[:, 3:5].T)
        true = found[:, 5].clamp(-hp.max_offset_shift, hp.max_offset_shift)
        return (later - true).abs().mean() / hp.offset_loss_frames

    def decoder_loss(self, notes, first, target):
        """L1 distance of what the decoder makes of true notes from the target, of `hp.top_db`, at the level that
        fits, and a little of how far it is off: levels would drift, and leave behind what is seldom heard."""
        output = self.mel_decibels_tensor(notes, first, target.shape[1]) / hp.top_db + 1
        loud, off = target > hp.decoder_loss_from, 0
        if loud.any():
            differences = (target - output)[loud]
            output, off = output + differences.detach().median(), differences.mean().abs()
        within = output.clamp(0, 1)  # what is too soft to hear still has a slope
        distance = (within + hp.decoder_clipped_slope * (output - within) - target).abs().mean()
        return distance + hp.level_loss_weight * off

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean over all frames of whole clips of the L1 loss of the spectrogram, as of the report's form,
        or, if the autoencoder is not trained as a `whole`, of the loss of the parts."""
        self.network.eval()
        losses, frames = zip(*((self.clip_loss(clip), clip["target"].shape[1]) for clip in dataset))
        return float(np.average(losses, weights=frames))

    def clip_loss(self, clip):
        if not self.whole:
            return self.batch_loss(torch.utils.data.default_collate([clip]))[0].item()
        _, output, target = self.example(clip)
        return np.abs(output - target.numpy()).mean()

    def example(self, clip):
        return clip["mel"], self.generate(clip["pitch"].numpy(), clip["mel"].numpy()), clip["target"]


def build_note_network(target, start, decoder):
    """Return a `NoteAutoencoder` to train, with the weights in `start` if there are any.

    `decoder` says which decoder it gets: "sampled", a `SampledVoice` of the `target`, the preset of a SoundFont;
    "table", a table to learn, that in `start` if it is of this target; None, the one in `start`.
    """
    network = NoteAutoencoder()
    if start:
        state = load_weights(start)
        network.decoder = decoder_from_state(state)
        Training.load_initial_weights(network, start)
        known = target_instrument(provenance(state)) in ("", target) and not isinstance(network.decoder, SampledVoice)
        if decoder == "table" and not known:
            network.decoder = NoteDecoder()  # sooner learnt than relearnt
    if decoder == "sampled":
        import MIDI2Audio  # which only rendering needs
        import Scale

        network.decoder = Distributed.first_process_first(lambda: Scale.render_voice(MIDI2Audio.parse_preset(target)))
    return network


def choose_decoder(target, decoder=None):
    """Return "sampled" or "table": what is asked for, else "sampled" for a target that MIDI2Audio.py has rendered, dry.

    Raises ValueError if "sampled" is asked for, and the target's sounds cannot be had.
    """
    rendered = target != "recordings" and not target.endswith(":room")
    if decoder == "sampled" and not rendered:
        raise ValueError(f"the target, {target}, is not a dry preset of a SoundFont whose sounds MIDI2Audio.py could "
                         "render; give --decoder table")
    return decoder or ("sampled" if rendered else "table")


def target_instrument(note):
    """Return the target instrument of what `AEModel.provenance` returns."""
    return note.get("pair", "").rpartition(" -> ")[2]


def choose_network(network, part, names, data):
    """Return "notes" or "report": what is asked for, else "notes" where all pieces have notes.

    Raises ValueError if there are no notes, or the report's autoencoder is to have parts.
    """
    network = network or ("notes" if DatasetCreator.has_notes(names, data) else "report")
    if network == "notes" and not DatasetCreator.has_notes(names, data):
        raise ValueError(f"{Path(data) / 'notes'} holds no notes; put the pieces' MIDI files there, or give "
                         "--network report")
    if network == "report" and part:
        raise ValueError("only an autoencoder of notes has parts to train alone; leave --part out, or give --network "
                         "notes")
    return network


def note_trainer(trained_for, start, part, decoder, training, learning_rate, device, how):
    """Return the trainer of a `NoteAutoencoder`: see `train`. `how` are settings of `Training.Trainer`."""
    parts = {None: ("encoder", "classifier", "decoder"), "encoder": ("encoder", "classifier")}.get(part, (part,))
    network = build_note_network(target_instrument(trained_for), start, decoder if "decoder" in parts else None)
    if decoder == "sampled":
        parts = tuple(part for part in parts if part != "decoder")
    if "decoder" in parts:
        network.decoder.loudest.fill_(float(np.mean(
            [peak_frame_level(Util.to_db(target[:].numpy())) for target in training.targets])))
    return NoteTrainer(network, learning_rate, device, parts, part is None, **how)


def train(data=None, model="own", epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
          learning_rate=hp.ae_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          augmented=False, validation_source=None, start=None, network=None, part=None, decoder=None,
          channels=hp.ae_channels, gradient_norm=hp.gradient_norm, bfloat16=hp.bfloat16, average=0, device="auto",
          overwrite=False, tensorboard=False, on_epoch=None):
    """Train data/models/<model>/ae.torch on the pairs below `data`, from the weights in `start` if there are any.

    `network` is "notes", for which each piece needs its notes, data/notes/<piece>.mid, or "report", the report's form,
    of which `channels` are the width; None is "notes" where there are notes. Of one of notes, `part` "encoder", with
    the note classifier, "classifier" or "decoder" trains that alone: another target needs another decoder, another
    source another encoder. The `decoder` is "sampled", of which nothing is trained, or "table": see `choose_decoder`.
    A table for another target than that of `start` begins anew.
    `gradient_norm`, `bfloat16` and `average`: see `Training.Trainer`.

    Raises as `DatasetCreator.build`, `Training.load_initial_weights` and `Training.fit`.
    """
    data = hp.data if data is None else data
    device, weights = Util.choose_device(device), Path(data) / "models" / model / "ae.torch"
    trained_for = DatasetCreator.trained_for(data)
    target = target_instrument(trained_for)
    if part == "decoder" and network != "report" and choose_decoder(target, decoder) == "sampled":
        Training.check_unfinished(weights, overwrite)
        return Training.save_finished(build_note_network(target, start, "sampled"), weights, trained_for)
    names = Distributed.first_process_first(lambda: DatasetCreator.build(data))
    network = choose_network(network, part, names, data)
    kind = NoteDataset if network == "notes" else AEDataset
    training, validation = make_datasets(names, data, seed, augmented, validation_source, kind)
    torch.manual_seed(seed)
    how = dict(gradient_norm=gradient_norm, bfloat16=bfloat16, average=average)
    if network == "notes":
        decoder = choose_decoder(target, decoder)
        trainer = note_trainer(trained_for, start, part, decoder, training, learning_rate, device, how)
    else:
        trainer = Training.Trainer(Autoencoder(channels=channels), torch.nn.functional.l1_loss, learning_rate, device,
                                   **how)
        if start:
            Training.load_initial_weights(trainer.network, start)
    settings = dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, augmented=augmented, validation_source=validation_source, start=start and str(start),
        network=network, part=part, decoder=decoder, channels=list(channels), **how, pieces=names,
        trained_for=trained_for)
    loss_name = ("L1 loss" if network == "report" else f"loss of the {part}" if part else
                 "loss of notes and spectrogram (validation: L1)")
    Training.fit(trainer, training, validation, weights, settings, loss_name, overwrite, tensorboard, on_epoch)


def main(arguments=None):
    parser = Training.training_parser("Train the autoencoder.", "ae", hp.ae_epochs, hp.ae_batch_size,
                                      hp.ae_learning_rate)
    parser.add_argument("--channels", type=Util.positive_int, nargs=3, default=hp.ae_channels,
                        help="of the three layers")
    parser.add_argument("--network", choices=("notes", "report"),
                        help="an autoencoder of notes, or the report's (default: notes where data/notes has them)")
    parser.add_argument("--part", choices=("encoder", "classifier", "decoder"),
                        type=lambda part: "classifier" if part == "reviewer" else part,  # its former name
                        help="train this half of an autoencoder of notes alone")
    parser.add_argument("--decoder", choices=("sampled", "table"),
                        help="the target's sounds, rendered from its SoundFont, or a table of spectra that is learnt "
                        "(default: sampled where MIDI2Audio.py has rendered the target)")
    options = vars(Training.parse_training_options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    train(**options)
    data, seed, source = options["data"], options["seed"], options["validation_source"]
    Training.print_next_command("UNetMain.py", *(["--data", data] if data != hp.data else []), "--model",
                                options["model"],
                                *(["--seed", seed] if seed != hp.seed else []),  # else the split is another
                                *["--augmented"] * options["augmented"], *["--report"] * report,
                                *(["--validation-source", source] if source else []))


if __name__ == "__main__":
    Util.run(main)
