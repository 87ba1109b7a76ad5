"""Train the autoencoder: build the data set if needed, and write the weights.

`python AEMain.py` trains data/models/own/ae.torch on the recordings in data/piano and data/synth.
"""
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Distributed
import Hyperparameters as hp
import Progress
import Training
import TrainingOptions
import Util
from AEDataset import AEDataset, NoteDataset, make_datasets
from AEModel import NoteModel, autocast, load_model, peak_frame_level
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder, NoteClassifier, NoteDecoder
from Notes import estimate_offsets, next_onsets, notes_to_frames, onset_candidates


class NoteTrainer(Training.Trainer, NoteModel):
    """Trainer of the parts of a `NoteAutoencoder`. Each part learns from the true notes, without the other parts.

    - Encoder: cross entropy of onsets and sounding keys, and L1 error of the logarithmic velocities at the onsets.
    - Note classifier: cross entropy of the onset candidates, and L1 error of the offsets. Its gradients do not reach
      the encoder.
    - Decoder: L1 distance between its spectrogram of the true notes and the target's spectrogram.

    Parameters
    ----------
    network : NoteAutoencoder
    learning_rate : float
    device : torch.device
    parts : tuple of str
        Parts to train: "encoder", "classifier", "decoder".
    **settings
        See `Training.Trainer`.
    """

    def __init__(self, network, learning_rate, device, parts=("encoder", "classifier", "decoder"), **settings):
        super().__init__(network, None, learning_rate, device, **settings)
        self.parts = parts
        # The decoder has no momentum and a short memory, so that a rarely played key changes only when it is played,
        # and by steps of the same size as other keys.
        rare = dict(scale=hp.decoder_rate_factor, betas=hp.decoder_betas)
        groups = [{"params": list(getattr(network, part).parameters())} for part in parts if part != "decoder"]
        if "decoder" in parts:
            *levels, release = network.decoder.parameters()
            groups += [{"params": levels, **rare}, {"params": [release], **rare, "scale": hp.release_rate_factor}]
        self.optimiser = torch.optim.Adam(groups, learning_rate)

    def batch_loss(self, batch):
        """Return the loss of the trained parts for a batch of a `NoteDataset`, and its number of crops."""
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
            played = hp.decoder_crops if train_encoder else size  # the decoder needs fewer crops than the encoder
            distances = [self.decoder_loss(*crop) for crop in zip(
                batch["notes"][:played], batch["first"].tolist(), batch["target"])]
            loss = loss + sum(distances) / len(distances)
        return loss, size

    def encoder_loss(self, logits, labels):
        """Return the loss of the encoder.

        Parameters
        ----------
        logits : torch.Tensor [shape=(batch, 3, t, n_keys)]
            Onset, sounding and velocity, see `NoteEncoder`.
        labels : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
            See `Notes.note_labels`.
        """
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[:, :2], labels[:, :2], reduction="none").sum(-1).mean((0, 2))
        onsets = labels[:, 0]
        # logarithmic, as is loudness
        error = torch.nn.functional.logsigmoid(logits[:, 2]) - labels[:, 2].clamp(min=1 / 127).log()
        # The spectrogram shows which note is louder than another, and hardly how loud the whole crop was played.
        sums = onsets.sum((1, 2), keepdim=True).clamp(min=1)
        relative = error - (error * onsets).sum((1, 2), keepdim=True) / sums
        errors = relative.abs() + hp.absolute_velocity_weight * error.abs()
        velocity = (errors * onsets).sum() / onsets.sum().clamp(min=1)
        return entropy[0] + hp.frame_loss_weight * entropy[1] + hp.velocity_loss_weight * velocity

    def classifier_loss(self, predictions, labels):
        """Return the loss of the first decision of the note classifier: whether onset candidates were played.

        They were played where the labels have an onset. The lowest and the highest key in the first frame of each clip
        are added to the candidates, so that there are always some.

        Parameters
        ----------
        predictions : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
            Output of the encoder.
        labels : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
        """
        found = [onset_candidates(clip, hp.candidate_threshold) for clip in predictions.cpu().numpy()]
        clip, frame, key = (torch.from_numpy(np.concatenate(part)).to(self.device) for part in zip(*(
            (np.full(len(frames) + 2, i), np.append(frames, (0, 0)), np.append(keys, (0, hp.n_keys - 1)))
            for i, (frames, keys) in enumerate(found))))
        played = (labels[clip, 0, frame, key] > 0).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(
            self.network.classifier(predictions, clip, frame, key), played)

    def offset_loss(self, predictions, batch):
        """Return the loss of the second decision of the note classifier: when the true notes end.

        The loss is the error of the offset shift, in units of `hp.offset_loss_frames`. It covers the notes whose
        estimated offset is well within the crop, and the two keys that `classifier_loss` adds, with a shift of zero.

        Parameters
        ----------
        predictions : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
            Output of the encoder.
        batch : dict
            "notes" and "first" of `NoteDataset`.
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
        """Return the loss of the decoder for a crop.

        The loss is the L1 distance between the spectrogram of the true notes and the target, at the level that fits
        best. A small part of the level error is added, since otherwise the levels drift away from those of rare keys.

        Parameters
        ----------
        notes : torch.Tensor [shape=(n, 4)]
        first : int
            First frame of the crop.
        target : torch.Tensor [shape=(n_mels, t), in [0, 1]]
        """
        output = self.mel_decibels_tensor(notes, first, target.shape[1]) / hp.top_db + 1
        loud, off = target > hp.decoder_loss_from, 0
        if loud.any():
            differences = (target - output)[loud]
            output, off = output + differences.detach().median(), differences.mean().abs()
        within = output.clamp(0, 1)  # levels below the range still get a gradient
        distance = (within + hp.decoder_clipped_slope * (output - within) - target).abs().mean()
        return distance + hp.level_loss_weight * off

    @torch.inference_mode()
    def validate(self, dataset):
        """Return the mean validation loss over all frames of whole clips.

        It is the L1 loss of the spectrogram, as with the report's autoencoder, if all parts are trained. Otherwise it
        is the loss of the trained parts.
        """
        self.network.eval()
        losses, frames = zip(*((self.clip_loss(clip), clip["target"].shape[1]) for clip in dataset))
        return float(np.average(losses, weights=frames))

    def clip_loss(self, clip):
        """Return the validation loss of a clip: see `validate`."""
        if len(self.parts) < 3:
            return self.batch_loss(torch.utils.data.default_collate([clip]))[0].item()
        _, output, target = self.example(clip)
        return np.abs(output - target.numpy()).mean()

    def example(self, clip):
        """Return input, output and target of a clip of the data set [each shape=(n_mels, t)]."""
        return clip["mel"], self.generate(clip["pitch"].numpy(), clip["mel"].numpy()), clip["target"]


def target_instrument(pair):
    """Return the target of a pair of instruments, "source -> target", or "" if the pair is unknown."""
    return (pair or "").rpartition(" -> ")[2]


def choose_network(network, initial, part, channels, names, data):
    """Return which autoencoder to train: "notes" or "report".

    Parameters
    ----------
    network : str or None
        The choice of the user. None chooses that of the initial weights, else "notes" where every piece has notes.
    initial : AEModel or None
        Initial weights.
    part, channels
        Options of one of the two, see `train`.
    names : list of str
        Pieces.
    data : Path

    Raises
    ------
    ValueError
        If the notes are missing, the initial weights are of the other network, or an option belongs to the other.
    """
    known = initial and ("notes" if isinstance(initial, NoteModel) else "report")
    network = network or known or ("notes" if DatasetCreator.has_notes(names, data) else "report")
    called = {"notes": "the note autoencoder", "report": "the report's autoencoder"}
    if known not in (None, network):
        raise ValueError(f"{initial.path} holds weights of {called[known]}; give --network {known}, or other weights "
                         "to --start")
    if network == "notes" and not DatasetCreator.has_notes(names, data):
        raise ValueError(f"{data / 'notes'} holds no notes, which {called['notes']} needs; put the MIDI files of the "
                         "pieces there, or give --network report" + " and leave --start out" * bool(initial))
    if network == "report" and part:
        raise ValueError(f"--part belongs to {called['notes']}; leave it out, or give --network notes")
    if network == "notes" and channels:
        raise ValueError(f"--channels belongs to {called['report']}; leave it out, or give --network report")
    return network


parts_of = {None: ("encoder", "classifier", "decoder"), "encoder": ("encoder", "classifier"),
            "classifier": ("classifier",), "decoder": ("decoder",)}  # value of --part -> parts that it trains


def build_note_network(initial, target, parts):
    """Return a `NoteAutoencoder` to train.

    Parameters
    ----------
    initial : NoteModel or None
        Initial weights, and with them the form. A missing note classifier is added untrained, and a decoder to train
        for another target is replaced by an untrained one.
    target : str
        Target instrument.
    parts : tuple of str
        Parts to train.
    """
    if not initial:
        return NoteAutoencoder()
    network = initial.network
    if not network.classifier:
        network.classifier = NoteClassifier()
    if "decoder" in parts and target_instrument(initial.pair) not in ("", target):
        network.decoder = NoteDecoder()  # learns faster than the decoder of another instrument
    return network


def note_trainer(initial, part, training, trained_for, settings, device):
    """Return the trainer of a note autoencoder.

    Parameters
    ----------
    initial : NoteModel or None
        Initial weights, see `build_note_network`.
    part : str or None
        Part to train alone.
    training : NoteDataset
        Its targets give the level of the decoder's output.
    trained_for : dict
        See `DatasetCreator.trained_for`.
    settings : dict
    device : torch.device
    """
    parts = parts_of[part]
    network = build_note_network(initial, target_instrument(trained_for["pair"]), parts)
    if "decoder" in parts:
        levels = [peak_frame_level(Util.to_db(target[:].numpy())) for target in training.targets]
        network.decoder.loudest.fill_(float(np.mean(levels)))
    return NoteTrainer(network, settings["learning_rate"], device, parts, **TrainingOptions.trainer_settings(settings))


def report_trainer(initial, channels, settings, device):
    """Return the trainer of the report's autoencoder, with the form of the initial weights if there are any.

    Raises ValueError if these have other channels than `channels`.
    """
    if initial:
        TrainingOptions.check_form(initial.path, dict(channels=initial.network.channels),
                                   dict(channels=channels and tuple(channels)))
    network = initial.network if initial else Autoencoder(channels=channels)
    return Training.Trainer(network, torch.nn.functional.l1_loss, settings["learning_rate"], device,
                            **TrainingOptions.trainer_settings(settings))


def default_epochs(network):
    """Return the default number of epochs of "notes" or "report"."""
    return hp.note_epochs if network == "notes" else hp.ae_epochs


def train(data=None, model="own", network=None, part=None, channels=None, device="auto", overwrite=False,
          tensorboard=False, on_epoch=None, **settings):
    """Train data/models/<model>/ae.torch on the pairs in a data folder.

    Parameters
    ----------
    data : Path, optional
        Folder with piano/ and synth/. The default is `hp.data`.
    model : str
        Name of the model.
    network : str, optional
        "notes" for the note autoencoder, which needs the notes of each piece, data/notes/<piece>.mid. "report" for the
        report's autoencoder. The default follows from the initial weights, or from whether there are notes.
    part : str, optional
        Part of the note autoencoder to train alone: "encoder" (with the note classifier), "classifier" or "decoder". A
        new target instrument needs a new decoder, a new source instrument a new encoder.
    channels : (int, int, int), optional
        Channels of the three layers of the report's autoencoder. The default is that of the initial weights, or
        `hp.ae_channels`.
    device : str
        "auto", "cuda", "mps" or "cpu".
    overwrite, tensorboard, on_epoch
        See `Training.fit`.
    **settings
        "epochs", "batch_size", "learning_rate" and the shared settings, see `TrainingOptions.complete_settings`. With
        "start", a path, the training continues from these weights.

    Returns
    -------
    dict
        All settings, as the losses file stores them.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `DatasetCreator.build`, `choose_network`, `AEModel.load_model` and `Training.fit`.
    """
    data, device = Path(hp.data if data is None else data), Util.choose_device(device)
    weights = data / "models" / TrainingOptions.check_model_name(model) / "ae.torch"
    Training.check_unfinished(weights, overwrite)
    initial = load_model(Autoencoder, settings["start"]) if settings.get("start") else None
    names = Distributed.first_process_first(lambda: DatasetCreator.build(data))
    network = choose_network(network, initial, part, channels, names, data)
    settings = TrainingOptions.complete_settings(settings, epochs=default_epochs(network), batch_size=hp.ae_batch_size,
                                                 learning_rate=hp.ae_learning_rate)
    kind = NoteDataset if network == "notes" else AEDataset
    training, validation = make_datasets(names, data, settings["seed"], settings["augmented"],
                                         settings["validation_source"], kind)
    trained_for = DatasetCreator.trained_for(data)
    torch.manual_seed(settings["seed"])
    if network == "notes":
        trainer = note_trainer(initial, part, training, trained_for, settings, device)
        loss_name = f"loss of the {part}" if part else "loss of notes and spectrogram (validation: L1)"
    else:
        trainer, loss_name = report_trainer(initial, channels, settings, device), "L1 loss"
        channels = list(trainer.network.channels)
    settings.update(network=network, part=part, channels=channels, pieces=names, trained_for=trained_for)
    Training.fit(trainer, training, validation, weights, settings, loss_name, overwrite, tensorboard, on_epoch)
    Progress.print_quality_remark(settings, default_epochs(network))
    return settings


def unet_arguments(settings, data, model, device="auto", report=False):
    """Return the command-line arguments of UNetMain.py that train the U-Net behind the autoencoder just trained.

    Parameters
    ----------
    settings : dict
        What `train` returned. A shorter training than the default is followed by one that is as much shorter. If a
        U-Net lies beside the initial weights, training starts from it.
    data : Path
    model, device, report
        See `main`.

    Returns
    -------
    list of str
    """
    arguments = ["--data", data] if data != hp.data else []
    arguments += ["--model", model]
    arguments += ["--device", device] if device != "auto" else []
    arguments += ["--seed", settings["seed"]] if settings["seed"] != hp.seed else []  # for the same split
    arguments += ["--validation-source", settings["validation_source"]] if settings["validation_source"] else []
    arguments += ["--augmented"] if settings["augmented"] and settings["network"] == "report" else []
    arguments += ["--report"] * report
    share = settings["epochs"] / default_epochs(settings["network"])
    if share < 1:
        unet_epochs = hp.note_unet_epochs if settings["network"] == "notes" and not report else hp.unet_epochs
        arguments += ["--epochs", max(round(share * unet_epochs), 1)]
    start = settings["start"] and Path(settings["start"]).with_name("unet.torch")
    if start and start.exists() and not report:
        arguments += ["--start", start]
    unet = data / "models" / model / "unet.torch"  # belongs to an earlier autoencoder
    arguments += ["--overwrite"] * (unet.exists() or unet.with_suffix(".checkpoint").exists())
    return [str(argument) for argument in arguments]


def main(arguments=None):
    parser = TrainingOptions.training_parser("Train the autoencoder.", "ae", (hp.ae_epochs, hp.note_epochs),
                                             hp.ae_batch_size, hp.ae_learning_rate)
    parser.add_argument("--channels", type=Util.positive_int, nargs=3, metavar="N",
                        help="channels of the three layers of the report's autoencoder (default: {} {} {}, or those of "
                        "--start)".format(*hp.ae_channels))
    parser.add_argument("--network", choices=("notes", "report"),
                        help="the note autoencoder, or the report's autoencoder (default: that of --start, or notes "
                        "where data/notes has them)")
    parser.add_argument("--part", choices=("encoder", "classifier", "decoder"),
                        type=lambda part: "classifier" if part == "reviewer" else part,  # its former name
                        help="part of the note autoencoder to train alone (encoder: with the note classifier)")
    options = vars(TrainingOptions.parse_training_options(parser, arguments, hp.ae_report))
    report = options.pop("report")
    settings = train(**options)
    TrainingOptions.print_next_command("UNetMain.py", *unet_arguments(
        settings, options["data"], options["model"], options["device"], report))


if __name__ == "__main__":
    Util.run(main)
