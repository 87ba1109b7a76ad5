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
from NoteAutoencoder import NoteAutoencoder, NoteDecoder
from NoteTrainer import NoteTrainer


def target_instrument(note):
    """Return the target instrument of what `AEModel.provenance` returns."""
    return note.get("pair", "").rpartition(" -> ")[2]


def train(data=None, model="own", epochs=hp.ae_epochs, batch_size=hp.ae_batch_size,
          learning_rate=hp.ae_learning_rate, crop_frames=hp.crop_frames, schedule=hp.schedule, seed=hp.seed,
          augmented=False, validation_source=None, start=None, network=None, part=None, channels=hp.ae_channels,
          gradient_norm=hp.gradient_norm, bfloat16=hp.bfloat16, average=0, device="auto", overwrite=False,
          tensorboard=False, on_epoch=None):
    """Train data/models/<model>/ae.torch on the pairs below `data`, from the weights in `start` if there are any.

    `network` is "notes", for which each piece needs its notes, data/notes/<piece>.mid, or "report", the report's form,
    of which `channels` are the width; None is "notes" where there are notes. Of one of notes, `part` "encoder", with
    the note classifier, "classifier" or "decoder" trains that alone: another target needs another decoder, another
    source another encoder. A decoder for another target than that of `start` begins anew.
    `gradient_norm`, `bfloat16` and `average`: see `Training.Trainer`.

    Raises as `DatasetCreator.build`, `Training.load_initial_weights` and `Training.fit`.
    """
    data = hp.data if data is None else data
    device = Util.choose_device(device)
    names = Distributed.first_process_first(lambda: DatasetCreator.build(data))
    network = network or ("notes" if DatasetCreator.has_notes(names, data) else "report")
    if network == "notes" and not DatasetCreator.has_notes(names, data):
        raise ValueError(f"{Path(data) / 'notes'} holds no notes; put the pieces' MIDI files there, or give "
                         "--network report")
    if network == "report" and part:
        raise ValueError("only an autoencoder of notes has parts to train alone; leave --part out, or give --network "
                         "notes")
    kind = NoteDataset if network == "notes" else AEDataset
    training, validation = make_datasets(names, data, seed, augmented, validation_source, kind)
    torch.manual_seed(seed)
    how = dict(gradient_norm=gradient_norm, bfloat16=bfloat16, average=average)
    if network == "notes":
        parts = {None: ("encoder", "classifier", "decoder"), "encoder": ("encoder", "classifier")}.get(part, (part,))
        trainer = NoteTrainer(NoteAutoencoder(), learning_rate, device, parts, **how)
    else:
        trainer = Training.Trainer(Autoencoder(channels=channels), torch.nn.functional.l1_loss, learning_rate, device,
                                   **how)
    if start:
        Training.load_initial_weights(trainer.network, start)
    if network == "notes" and "decoder" in parts:
        target = target_instrument(DatasetCreator.trained_for(data))
        if start and target_instrument(provenance(load_weights(start))) not in ("", target):
            trainer.network.decoder.load_state_dict(NoteDecoder().state_dict())  # sooner learnt than relearnt
        trainer.network.decoder.loudest.fill_(float(np.mean(
            [peak_frame_level(Util.to_db(target[:].numpy())) for target in training.targets])))
    settings = dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, crop_frames=crop_frames, schedule=schedule,
        seed=seed, augmented=augmented, validation_source=validation_source, start=start and str(start),
        network=network, part=part, channels=list(channels), **how, pieces=names,
        trained_for=DatasetCreator.trained_for(data))
    loss_name = ("L1 loss" if network == "report" else f"loss of the {part}" if part else
                 "loss of notes and spectrogram (validation: L1)")
    Training.fit(trainer, training, validation,
                 Path(data) / "models" / model / "ae.torch", settings, loss_name, overwrite, tensorboard, on_epoch)


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
