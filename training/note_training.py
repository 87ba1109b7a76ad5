"""Training of the note autoencoder: encoder, heads and table decoder, one after the other, and their data."""
import functools
import shutil
from pathlib import Path

import numpy as np

import DatasetCreator
import Hyperparameters as hp
import Util
from AEDataset import StoredSpectrogram, choose_sources, split_for_training
from AEModel import NoteModel, digest, load_model, peak_frame_level, target_instrument
from Autoencoder import Autoencoder
from notes import note_events
from notes.note_autoencoder import NoteAutoencoder
from notes.sampled_voice import SampledVoice
from notes.table_decoder import TableDecoder
from rendering import clip_sources
from rendering.training_clips import ClipMaker
from training import head_training, heard_notes, processes, training_options
from training.encoder_training import EncoderTrainer
from training.note_dataset import NoteDataset
from training.note_validation import ValidationClips
from training.table_training import TableCrops, TableTrainer

minutes_per_step = 0.005    # of the encoder, per crop of 3 s, on two cores without bfloat16 arithmetic
minutes_per_clip = 0.03     # of the heads: prediction and training


def complete_settings(given, scratch):
    """Return the settings of a training of the note autoencoder, see `training_options.complete_settings`. Those of
    which each part has its own stay None where they are not given."""
    settings = training_options.complete_settings(given, epochs=None, batch_size=None, learning_rate=None,
                                                  augmented=True)
    return {**settings, "start": None if scratch else settings["start"] or str(hp.ae_weights)}


def part_settings(name, settings, first):
    """Return the settings of a part. Those that are given on the command line are for the first part."""
    rate = hp.note_learning_rate if settings["start"] else hp.scratch_learning_rate
    values = {"encoder": (hp.note_epochs, hp.note_batch_size, rate),
              "heads": (hp.head_epochs, hp.head_batch_size, hp.head_learning_rate),
              "decoder": (hp.table_epochs, hp.table_batch_size, hp.table_learning_rate)}[name]
    own = dict(zip(("epochs", "batch_size", "learning_rate"), values))
    given = {key: settings[key] for key in own if first and settings[key] is not None}
    return {**settings, **own, **given, "part": name}


def load_start(path):
    """Load initial weights. Raises ValueError if they are not those of a note autoencoder."""
    model = load_model(Autoencoder, path)
    if not isinstance(model, NoteModel):
        raise ValueError(f"{path} holds weights of the report's autoencoder; add --report, or give other weights to "
                         "--start")
    return model


class TrainingData:
    """What the parts learn from: the pairs `names` of a data folder with their notes, and clips made of data/clips.
    `shipped` says whether the initial weights are the shipped ones, which know these instruments.
    Pairs without any MIDI file are transcribed by `initial`, a `NoteModel` or None. Raises ValueError if they cannot be
    transcribed, or there are neither pairs nor clips."""

    def __init__(self, data, names, initial, settings, device):
        self.data, self.device, clips = data, device, data / "clips"
        self.names = DatasetCreator.with_notes(names, data)
        self.heard = None
        if names and not self.names:
            self.names, self.heard = names, processes.first_process_first(
                lambda: heard_notes.store_notes(names, data, initial))
        self.pieces = clip_sources.read_pieces(clips / "pieces.npz") if (clips / "pieces.npz").exists() else ([], [])
        if not self.names and not self.pieces[1]:
            raise ValueError(f"{data} holds neither pairs nor clips; render MIDI files (MIDI2Audio.py), or run "
                             "python -m rendering.clip_sources")
        self.maker = ClipMaker(clips, device)
        self.known = known_pieces(self.names, data) if initial and Path(initial.path) == hp.ae_weights else []
        self.training, self.validation = split_for_training(
            self.names, settings["seed"], self.known, data) if self.names else ([], [])
        self.sources, self.held_out = choose_sources(data, settings["validation_source"]) if names else ([], [])
        pair = DatasetCreator.pair(data) if names else initial and initial.pair
        self.target = target_instrument(pair)
        self.shipped = bool(initial and initial.pair == pair and Path(initial.path) == hp.ae_weights)
        self.trained_for = {"front_end": DatasetCreator.front_end(), "pair": pair,
                            "pieces": len({name.partition("~")[0] for name in self.training}) + len(self.pieces[1])}

    def encoder_crops(self):
        """Return the training set of the encoder."""
        return NoteDataset(self.training, self.data, self.sources, self.pieces[1])

    def encoder_steps(self):
        """Return the steps per epoch of the encoder: more for more pieces, within bounds."""
        steps = min(max(hp.note_piece_steps * len(self.training), hp.note_min_steps), hp.note_max_steps)
        return -(-(hp.note_max_steps if self.pieces[1] else steps) // hp.note_epochs)

    def validation_clips(self):
        """Return the validation set of encoder and heads: the validation pieces, or, if there are none, made clips."""
        dataset = NoteDataset(self.validation, self.data, self.held_out)
        targets = [StoredSpectrogram(self.data / "generated" / name / "synth.npy") for name in self.validation]
        made = [] if targets else head_training.made_sounds(self.maker, self.pieces[0], hp.max_validation_pieces)
        return ValidationClips(dataset, targets, self.maker, made)

    @functools.cached_property
    def head_sounds(self):
        """The clips that the heads learn from: see `head_training.predict_clips`."""
        pairs = head_training.paired_sounds(self.encoder_crops(), self.maker, hp.head_versions)
        pairs = pairs[::-(-len(pairs) // hp.head_clips)] if pairs else []
        made = head_training.made_sounds(self.maker, self.pieces[1], hp.head_clips) if self.pieces[1] else []
        return pairs + made


def known_pieces(names, data):
    """Return those pieces that the shipped encoder has learnt from, by their notes: see data/known_pieces.txt."""
    known = set(Util.read_text(hp.data / "known_pieces.txt").split()) if (hp.data / "known_pieces.txt").exists() else ()
    paths = {name: data / "generated" / name.partition("~")[0] / "notes.npy" for name in names}
    return [name for name, path in paths.items()
            if path.exists() and note_events.piece_digest(Util.load_array(path, np.float32)) in known]


def choose_decoder(target, decoder=None):
    """Return which decoder of notes to make: "sampled", by default for targets that MIDI2Audio.py has rendered without
    reverberation, else "table". Raises ValueError if the sounds of the target cannot be rendered for "sampled"."""
    rendered = target and target != "recordings" and not target.endswith(":room")
    if decoder == "sampled" and not rendered:
        raise ValueError(f"the target, {target}, is not a preset of a SoundFont without reverberation, whose sounds "
                         "could be rendered; give --decoder table")
    return decoder or ("sampled" if rendered else "table")


def build_network(initial, data, decoder, part):
    """Return a `NoteAutoencoder` to train on the `TrainingData`, with initial weights if they are not None. Their
    decoder is kept if it is of the wanted kind and for the target. For `decoder` and `part` see `AEMain.train`."""
    network = initial.network if initial else NoteAutoencoder()
    if part in ("encoder", "heads"):
        return network
    wanted = choose_decoder(data.target, decoder)
    kind = SampledVoice if wanted == "sampled" else TableDecoder
    same = initial and target_instrument(initial.pair) == data.target and isinstance(network.decoder, kind)
    if wanted == "sampled" and not same:
        from rendering import voice_sampling  # needs FluidSynth

        network.decoder = processes.first_process_first(
            lambda: voice_sampling.stored_voice(data.target, data.data / "generated" / "voices"))
    elif wanted == "table" and not same:
        network.decoder = TableDecoder()
    return network


def choose_parts(network, part, data):
    """Return the names of the parts to train, in their order."""
    table = ["decoder"] if isinstance(network.decoder, TableDecoder) and data.names else []
    notes = [] if data.heard == "piano" else ["encoder", "heads"]  # their own transcription teaches nothing
    return {None: notes + table, "encoder": ["encoder", "heads"], "heads": ["heads"], "decoder": table}[part]


def prepare(name, network, data, folder, settings, first, started):
    """Return trainer, training set, validation set and settings of a part of a network, on the `TrainingData`. The part
    is `first` if no other is trained before, `started` if its weights are trained; `folder` is that of the model."""
    own = {**part_settings(name, settings, first), "pieces": data.names, "trained_for": data.trained_for}
    how = dict(started=started, **training_options.trainer_settings(settings))
    if name == "encoder":
        own["epoch_steps"] = data.encoder_steps()
        trainer = EncoderTrainer(network, own["learning_rate"], data.device, data.maker, settings["augmented"], **how)
        return trainer, data.encoder_crops(), data.validation_clips(), own
    if name == "heads":
        trainer = head_training.HeadTrainer(network, own["learning_rate"], data.device, **how)
        return trainer, head_clips(network, data, folder / "predictions"), data.validation_clips(), own
    crops = TableCrops(data.training, data.data)
    network.decoder.loudest.fill_(float(np.mean([peak_frame_level(Util.to_db(target[:].numpy()))
                                                 for target in crops.targets])))
    trainer = TableTrainer(network, own["learning_rate"], data.device, **how)
    return trainer, crops, TableCrops(data.validation, data.data), own


def head_clips(network, data, folder):
    """Return the training set of the heads. What the encoder predicts is stored in a folder, by its weights."""
    encoder = dict(network.encoder.named_parameters())
    if not network.refiner.details.weight.any():
        processes.first_process_first(lambda: head_training.find_details(
            network, data.head_sounds, data.device, folder / digest(encoder)))
    key = digest(encoder | dict(network.refiner.details.named_parameters()))
    paths = processes.first_process_first(
        lambda: head_training.predict_clips(network, data.head_sounds, data.device, folder / key))
    return head_training.PredictedClips(paths, data.training)


def print_plan(parts, data, initial, settings):
    """Say what is trained, from what, for how long, and what little is to be expected of it, in the first process."""
    if not processes.is_first():
        return
    encoder, pair = part_settings("encoder", settings, True), data.trained_for["pair"]
    steps = data.encoder_steps() * encoder["epochs"]
    minutes = "encoder" in parts and steps * encoder["batch_size"] * minutes_per_step
    minutes += "heads" in parts and len(data.head_sounds) * minutes_per_clip * (1 + hp.head_epochs) / 4
    print(f"training {', '.join(parts)} of the note autoencoder: {pair or 'made clips'}, {len(data.training)} pieces "
          f"to train on, {len(data.validation)} to validate; about {max(round(minutes), 1)} minutes on two quiet cores",
          flush=True)
    if data.heard:
        print(f"the pairs have no MIDI files: their notes are those that the initial weights hear in {data.heard}/")
    if data.shipped:
        print("these are the instruments of the shipped weights, so little is to be gained; --report trains the "
              "report's networks, --from-scratch a note autoencoder from nothing")
    if not initial:
        print("from scratch: expect fewer notes than from the shipped weights, which have learnt from 605 pieces on "
              "eight pianos, above all on other pianos and in recordings")
    known = len(set(data.known) & set(data.validation))
    if known:
        print(f"the initial weights have learnt from {known} of the {len(data.validation)} validation pieces, "
              "played by other pianos: their figures before the first step are a little too good")


def remove_intermediate(weights, parts):
    """Remove what the parts leave for the next ones: kept weights, checkpoints and stored predictions. The weights of
    each part's last epoch stay: where the validation preferred the start, no other file has them."""
    for name in parts[:-1]:
        for ending in ".torch", ".checkpoint":
            weights.with_name(f"ae_{name}{ending}").unlink(missing_ok=True)
    shutil.rmtree(weights.parent / "predictions", ignore_errors=True)
