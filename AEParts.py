"""The parts of the note autoencoder that `AEMain` trains one after the other: encoder, heads and table decoder."""
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import torch

import ClipSources
import DatasetCreator
import Distributed
import HeardNotes
import Hyperparameters as hp
import Notes
import NoteTrainer
import RefinerTraining
import TrainingOptions
import Util
from AEDataset import StoredSpectrogram, choose_sources, split_for_training, warn_of_single_piece
from AEModel import NoteModel, digest, load_model, peak_frame_level, target_instrument
from Autoencoder import Autoencoder
from Clips import ClipMaker
from NoteAutoencoder import NoteAutoencoder
from NoteDataset import NoteDataset
from SampledVoice import SampledVoice
from TableDecoder import TableDecoder

minutes_per_step = 0.005    # of the encoder, per crop of 3 s, on two cores with bfloat16 arithmetic
minutes_per_clip = 0.03     # of the heads: prediction and training


def complete_settings(given, scratch):
    """Return the settings of a training of the note autoencoder, see `TrainingOptions.complete_settings`.

    "epochs", "batch_size" and "learning_rate" stay None where they are not given, since each part has its own.
    """
    settings = TrainingOptions.complete_settings(given, epochs=None, batch_size=None, learning_rate=None,
                                                 augmented=True)
    return {**settings, "start": None if scratch else settings["start"] or str(hp.ae_weights)}


def part_settings(name, settings, first, scratch):
    """Return the settings of a part. Those that are given on the command line are for the first part."""
    own = {"encoder": dict(epochs=hp.note_epochs, batch_size=hp.note_batch_size,
                           learning_rate=hp.scratch_learning_rate if scratch else hp.note_learning_rate),
           "heads": dict(epochs=hp.head_epochs, batch_size=hp.head_batch_size, learning_rate=hp.head_learning_rate),
           "decoder": dict(epochs=hp.table_epochs, batch_size=hp.table_batch_size,
                           learning_rate=hp.table_learning_rate)}[name]
    given = {key: settings[key] for key in own if first and settings[key] is not None}
    return {**settings, **own, **given, "part": name}


def load_start(path):
    """Load initial weights. Raises ValueError if they are not those of a note autoencoder."""
    model = load_model(Autoencoder, path)
    if not isinstance(model, NoteModel):
        raise ValueError(f"{path} holds weights of the report's autoencoder; add --report, or give other weights to "
                         "--start")
    return model


class Lessons:
    """What the parts learn from: pairs with notes in a data folder, and clips to be made of data/clips.

    Where no pair has a MIDI file, the initial weights transcribe the pairs.

    Parameters
    ----------
    data : Path
    names : list of str
        Pieces, as `DatasetCreator.build` returns them.
    initial : NoteModel or None
    settings : dict
    device : torch.device

    Raises
    ------
    ValueError
        If there are neither notes nor clips, or the initial weights cannot transcribe the pairs.
    """

    def __init__(self, data, names, initial, settings, device):
        self.data, self.device, clips = data, device, data / "clips"
        self.names = DatasetCreator.with_notes(names, data)
        self.heard = None
        if names and not self.names:
            self.names, self.heard = names, Distributed.first_process_first(
                lambda: HeardNotes.store_notes(names, data, initial))
        self.pieces = ClipSources.read_pieces(clips / "pieces.npz") if (clips / "pieces.npz").exists() else ([], [])
        if not self.names and not self.pieces[1]:
            raise ValueError(f"{data} holds neither pairs nor clips; render MIDI files (MIDI2Audio.py), or run "
                             "ClipSources.py")
        self.maker = ClipMaker(clips, device)
        self.known = known_pieces(self.names, data) if initial and Path(initial.path) == hp.ae_weights else []
        self.training, self.validation = split_for_training(
            self.names, settings["seed"], self.known) if self.names else ([], [])
        warn_of_single_piece(self.training, self.validation, data)
        self.sources, self.held_out = choose_sources(data, settings["validation_source"]) if names else ([], [])
        pair = DatasetCreator.pair(data) if names else initial and initial.pair
        self.target = target_instrument(pair)
        self.trained_for = {"front_end": DatasetCreator.front_end(), "pair": pair,
                            "pieces": len({name.partition("~")[0] for name in self.training}) + len(self.pieces[1])}

    def crops(self):
        """Return the training set of the encoder."""
        return NoteDataset(self.training, self.data, self.sources, self.pieces[1])

    def clips(self):
        """Return the validation set: see `NoteTrainer.ValidationClips`."""
        dataset = NoteDataset(self.validation, self.data, self.held_out)
        targets = [StoredSpectrogram(self.data / "generated" / name / "synth.npy") for name in self.validation]
        made = [] if targets else RefinerTraining.made_sounds(self.maker, self.pieces[0], hp.max_validation_pieces)
        return NoteTrainer.ValidationClips(dataset, targets, self.maker, len(self.held_out), made)

    def sounds(self):
        """Return the clips that the heads learn from: see `RefinerTraining.predict_clips`."""
        pairs = RefinerTraining.paired_sounds(self.crops(), self.maker, hp.head_versions)
        pairs = pairs[::-(-len(pairs) // hp.head_clips)] if pairs else []
        made = RefinerTraining.made_sounds(self.maker, self.pieces[1], hp.head_clips) if self.pieces[1] else []
        return pairs + made


def known_pieces(names, data):
    """Return those pieces that the shipped encoder has learnt from, by their notes: see data/known_pieces.txt."""
    known = set(Util.read_text(hp.data / "known_pieces.txt").split()) if (hp.data / "known_pieces.txt").exists() else ()
    paths = {name: data / "generated" / name.partition("~")[0] / "notes.npy" for name in names}
    return [name for name, path in paths.items()
            if path.exists() and Notes.piece_digest(Util.load_array(path, np.float32)) in known]


def choose_decoder(target, decoder=None):
    """Return which decoder of notes to make: "sampled" or "table".

    The default is "sampled" for a target that MIDI2Audio.py has rendered without reverberation, else "table". Raises
    ValueError if "sampled" is asked for and the sounds of the target cannot be rendered.
    """
    rendered = target and target != "recordings" and not target.endswith(":room")
    if decoder == "sampled" and not rendered:
        raise ValueError(f"the target, {target}, is not a preset of a SoundFont without reverberation, whose sounds "
                         "could be rendered; give --decoder table")
    return decoder or ("sampled" if rendered else "table")


def build_network(initial, lessons, decoder, part):
    """Return a `NoteAutoencoder` to train.

    Parameters
    ----------
    initial : NoteModel or None
        Initial weights. Their decoder is kept if it is of the wanted kind and for the target.
    lessons : Lessons
    decoder, part : str or None
        See `AEMain.train`.
    """
    network = initial.network if initial else NoteAutoencoder()
    if part in ("encoder", "heads"):
        return network
    wanted = choose_decoder(lessons.target, decoder)
    kind = SampledVoice if wanted == "sampled" else TableDecoder
    same = initial and target_instrument(initial.pair) == lessons.target and isinstance(network.decoder, kind)
    if wanted == "sampled" and not same:
        import Scale  # needs FluidSynth

        network.decoder = Distributed.first_process_first(
            lambda: Scale.stored_voice(lessons.target, lessons.data / "generated" / "voices"))
    elif wanted == "table" and not same:
        network.decoder = TableDecoder()
    return network


def choose_parts(network, part, lessons):
    """Return the names of the parts to train, in their order."""
    table = ["decoder"] if isinstance(network.decoder, TableDecoder) and lessons.names else []
    notes = [] if lessons.heard == "piano" else ["encoder", "heads"]  # their own transcription teaches nothing
    return {None: notes + table, "encoder": ["encoder", "heads"], "heads": ["heads"], "decoder": table}[part]


def prepare(name, network, lessons, folder, settings, first, started):
    """Return trainer, training set, validation set and settings of a part.

    Parameters
    ----------
    name : str
        "encoder", "heads" or "decoder".
    network : NoteAutoencoder
    lessons : Lessons
    folder : Path
        Folder of the model.
    settings : dict
        See `complete_settings`.
    first : bool
        Whether no other part was trained before.
    started : bool
        Whether the part has trained weights.
    """
    own = {**part_settings(name, settings, first, not settings["start"]), "pieces": lessons.names,
           "trained_for": lessons.trained_for}
    how = TrainingOptions.trainer_settings(settings)
    if name == "encoder":
        own["epoch_steps"] = epoch_steps(lessons, settings)
        trainer = NoteTrainer.EncoderTrainer(network, own["learning_rate"], lessons.device, lessons.maker,
                                             heard=settings["augmented"], started=started, **how)
        return trainer, lessons.crops(), lessons.clips(), own
    if name == "heads":
        stored, sounds = folder / "predictions", lessons.sounds()
        if not network.refiner.details.weight.any():
            Distributed.first_process_first(lambda: RefinerTraining.find_details(
                network, sounds, lessons.device, stored / digest(dict(network.encoder.named_parameters()))))
        key = digest(dict(network.encoder.named_parameters()) | dict(network.refiner.details.named_parameters()))
        paths = Distributed.first_process_first(
            lambda: RefinerTraining.predict_clips(network, sounds, lessons.device, stored / key))
        trainer = NoteTrainer.HeadTrainer(network, own["learning_rate"], lessons.device, started=started, **how)
        return trainer, RefinerTraining.PredictedClips(paths, lessons.training), lessons.clips(), own
    crops = NoteTrainer.TableCrops(lessons.training, lessons.data)
    network.decoder.loudest.fill_(float(np.mean([peak_frame_level(Util.to_db(target[:].numpy()))
                                                 for target in crops.targets])))
    trainer = NoteTrainer.TableTrainer(network, own["learning_rate"], lessons.device, started=started, **how)
    return trainer, crops, NoteTrainer.TableCrops(lessons.validation, lessons.data), own


def epoch_steps(lessons, settings):
    """Return the steps per epoch of the encoder: more for more pieces, within bounds."""
    steps = min(max(hp.note_piece_steps * len(lessons.training), hp.note_min_steps), hp.note_max_steps)
    return -(-(hp.note_max_steps if lessons.pieces[1] else steps) // hp.note_epochs)


def print_plan(parts, lessons, initial, settings):
    """Say what is trained, from what, for how long, and what little is to be expected of it, in the first process."""
    if Distributed.process_rank()[0]:
        return
    encoder = part_settings("encoder", settings, True, not initial)
    steps = epoch_steps(lessons, settings) * encoder["epochs"]
    minutes = "encoder" in parts and steps * encoder["batch_size"] * minutes_per_step
    minutes += "heads" in parts and len(lessons.sounds()) * minutes_per_clip * (1 + hp.head_epochs) / 4
    print(f"training {', '.join(parts)} of the note autoencoder: {lessons.trained_for['pair']}, "
          f"{len(lessons.training)} pieces to train on, {len(lessons.validation)} to validate; about "
          f"{max(round(minutes), 1)} minutes on two quiet cores", flush=True)
    if lessons.heard:
        print("the pairs have no MIDI files: their notes are those that the initial weights hear in "
              f"{lessons.heard}/")
    if initial and initial.pair == lessons.trained_for["pair"] and Path(initial.path) == hp.ae_weights:
        print("these are the instruments of the shipped weights, so little is to be gained; --report trains the "
              "report's networks, --from-scratch a note autoencoder from nothing")
    if not initial:
        print("from scratch: expect fewer notes than from the shipped weights, which have learnt from 605 pieces on "
              "eight pianos, above all on other pianos and in recordings")
    known = len(set(lessons.known) & set(lessons.validation))
    if known:
        print(f"the initial weights have learnt from {known} of the {len(lessons.validation)} validation pieces, "
              "played by other pianos: their figures before the first step are a little too good")


def remove_intermediate(weights, parts):
    """Remove what lies between the parts: weights of the earlier ones, and the stored predictions."""
    for name in parts[:-1]:
        for path in weights.parent.glob(f"ae_{name}*.torch"):
            path.unlink()
    shutil.rmtree(weights.parent / "predictions", ignore_errors=True)
