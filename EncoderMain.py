"""Train the `HarmonicEncoder` on clips that are made as it trains, then the `NoteRefiner` behind it.

`python EncoderMain.py` needs data/clips (ClipSources.py) and writes data/models/own/encoder.torch, from which
`AEMain.py --part decoder --start` makes an autoencoder. Ten minutes on a GPU are worth days on a processor.
"""
import argparse
import contextlib
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import Clips
import ClipSources
import DatasetCreator
import Hyperparameters as hp
import RefinerTraining
import Training
import TrainingOptions
import Util
from AEModel import autocast, digest, half_precision, load_model, snapshot
from Autoencoder import Autoencoder
from Checkpoints import save_tensors
from NoteAutoencoder import NoteAutoencoder, NoteRefiner
from NoteLoss import frame_loss
from RandomPerformances import Performances
from RandomPianos import read_piano


def load_clip_maker(folder, frames, device, pool):
    """Return a `Clips.ClipMaker` of what `ClipSources.prepare` has written to a folder, and the pieces for validation
    and for training.

    Raises FileNotFoundError if something is missing.
    """
    for name in "pieces.npz", "rooms.npz", "pianos":
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name}: no such file; run ClipSources.py first")
    pianos = [read_piano(np.load(path), device) for path in sorted(folder.glob("pianos/*.npz"))]
    with np.load(folder / "rooms.npz") as stored:
        rooms = [stored[name] for name in stored.files]
    return Clips.ClipMaker(pianos, rooms, frames, device, pool), *ClipSources.read_pieces(folder / "pieces.npz")


class EncoderTrainer:
    """Network, the mean of its weights, optimiser, and the time that it has trained."""

    def __init__(self, encoder, device, learning_rate=None):
        self.encoder, self.device = encoder.to(device, memory_format=torch.channels_last), device
        self.learning_rate = learning_rate or hp.encoder_learning_rate
        self.mean = torch.optim.swa_utils.AveragedModel(
            encoder, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(1 - 1 / hp.encoder_average))
        self.optimiser = torch.optim.AdamW(encoder.parameters(), self.learning_rate,
                                           weight_decay=hp.encoder_weight_decay)
        self.step, self.seconds = 0, 0.0

    def parts(self):
        """Return what a checkpoint holds, by name."""
        return {"encoder": self.encoder, "mean": self.mean, "optimiser": self.optimiser}

    def save(self, path):
        """Write a checkpoint."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        save_tensors(path, {**state, "step": self.step, "seconds": self.seconds})

    def load(self, path):
        """Go on from a checkpoint. Raises ValueError if it is damaged or of another network."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            for name, part in self.parts().items():
                part.load_state_dict(state[name])
            self.step, self.seconds = state["step"], state["seconds"]
        except Exception:  # torch raises a dozen kinds
            raise ValueError(f"{path} is damaged or of another network; remove it to start again") from None

    def train_step(self, clip, share):
        """Train on (pitch, mel, labels), when `share` of the time has passed; return the loss."""
        pitch, mel, labels = clip
        warm = min(1, (self.step + 1) / hp.encoder_warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * warm * max(1 - share, 1e-3)
        self.encoder.train()
        with autocast(torch.device(self.device)):
            logits = self.encoder(pitch, mel)
        loss = frame_loss(logits.float(), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), hp.gradient_norm)
        self.optimiser.step()
        self.mean.update_parameters(self.encoder)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def measure_statistics(self, clips):
        """Measure the statistics of batch normalisation of the mean weights, which no training step has seen."""
        for module in self.mean.module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # the mean over all batches
        self.mean.module.train()
        for pitch, mel, _ in clips:
            with autocast(torch.device(self.device)):
                self.mean.module(pitch, mel)
        self.mean.module.eval()


def train_encoder(trainer, maker, stream, minutes, batch_size, checkpoint):
    """Train for `minutes`, those before an interruption included; write the checkpoint now and then and on Ctrl-C.

    Raises KeyboardInterrupt after Ctrl-C, ValueError if the loss is not finite.
    """
    total, saved, last = 60 * minutes, time.monotonic(), time.monotonic()
    with Util.deferred_interrupt() as interrupted, tqdm(total=round(total), initial=round(trainer.seconds), unit="s",
                                                         desc="encoder") as bar:
        while trainer.seconds < total and not interrupted:
            if trainer.step % 2 == 0:
                maker.instruments.renew()
            loss = trainer.train_step(maker(next(stream), batch_size), trainer.seconds / total)
            now = time.monotonic()
            trainer.seconds, last = trainer.seconds + now - last, now
            bar.n = min(round(trainer.seconds), round(total))
            if trainer.step % 20 == 0:
                bar.set_postfix(step=trainer.step, loss=f"{Training.check_finite(loss.item(), 0):.3f}")
            if now - saved > 60 * hp.checkpoint_minutes:
                trainer.save(checkpoint)
                saved = now
        trainer.save(checkpoint)  # also at the end, so that it is not lost while the refiner trains
        if interrupted:
            raise KeyboardInterrupt(f"stopped after {trainer.seconds / 60:.1f} of {minutes:g} minutes, saved in "
                                    f"{checkpoint}; give the same command to go on")


def initial_network(start, part, heads, form):
    """Return the network to train, and the training information of its initial weights (see `AEModel.provenance`).

    With the initial weights `start`, their encoder and the heads that are not in `heads` are kept. Raises the errors of
    `AEModel.load_model`, and ValueError if the weights lack a part that is kept.
    """
    kept = [f"{head}_head" for head in RefinerTraining.heads if head not in heads]
    if not start:
        if part == "refiner" or kept:
            raise ValueError("--part refiner and --heads keep the rest of given weights; add --start and their path")
        return NoteAutoencoder(**(form or {})), {}
    given = load_model(Autoencoder, start)
    network = given.network
    if not getattr(network, "refiner", None):
        raise ValueError(f"{start} has no HarmonicEncoder; give ae.torch or what EncoderMain.py has written to --start")
    refiner = NoteRefiner(channels=network.encoder.head.in_channels)
    for name in kept:
        getattr(refiner, name).load_state_dict(getattr(network.refiner, name).state_dict())
    if kept:
        refiner.details.load_state_dict(network.refiner.details.state_dict())
    network.refiner = refiner
    return network, {"pair": given.pair} if given.pair else {}


def train(data=None, model="own", part="all", start=None, heads=RefinerTraining.heads, minutes=None,
          learning_rate=None, batch_size=None, pool=None, clips=None, pairs=(), device="auto", overwrite=False,
          form=None):
    """Train data/models/<model>/encoder.torch, encoder and refiner.

    Parameters
    ----------
    data : Path, optional
        Folder with clips/.
    model : str
    part : str
        "all", or "refiner" to keep the encoder of `start`.
    start : Path, optional
        Initial weights; a decoder in them is kept.
    heads : sequence of str
        Heads of the refiner that are trained anew; the others are kept.
    minutes : float, optional
        Training time of the encoder.
    learning_rate : float, optional
        Of the encoder.
    batch_size, pool : int, optional
        Clips per step, and pianos at a time.
    clips : int, optional
        Clips of 16 s for the refiner.
    pairs : sequence of Path
        Data folders whose piano renders the refiner learns from too: see `RefinerTraining.find_renders`.
    form : dict, optional
        Sizes of the encoder: see `HarmonicEncoder`.

    Raises
    ------
    FileNotFoundError
        If ClipSources.py has not been run, or the initial weights or the renders do not exist.
    ValueError
        If the weights are finished already, the initial ones do not fit, or a loss is not finite.
    KeyboardInterrupt
        After Ctrl-C, with a checkpoint saved.
    """
    data, device = Path(data or hp.data), Util.choose_device(device)
    minutes, batch_size = minutes or hp.encoder_minutes, batch_size or hp.clip_batch_size
    weights = data / "models" / TrainingOptions.check_model_name(model) / "encoder.torch"
    checkpoint = weights.with_suffix(".checkpoint")
    if weights.exists() and not overwrite:
        raise ValueError(f"{weights} is finished; choose another --model, or add --overwrite to train it again")
    torch.manual_seed(hp.seed)
    network, origin = initial_network(start, part, heads, form)
    renders = RefinerTraining.find_renders(pairs)
    maker, _, training = load_clip_maker(data / "clips", hp.training_clip_frames, device, pool or hp.clip_pool)
    if part == "all":
        trainer = EncoderTrainer(network.encoder, device, learning_rate)
        if checkpoint.exists() and not overwrite:
            trainer.load(checkpoint)
        stream = performance_stream(training, batch_size, maker.seconds, trainer.step, device)
        train_encoder(trainer, maker, stream, minutes, batch_size, checkpoint)
        trainer.measure_statistics(maker(next(stream), batch_size) for _ in range(hp.encoder_statistics_batches))
        network.encoder.load_state_dict(trainer.mean.module.state_dict())
    network.refiner.to(device)
    stored = weights.parent / "encoder_clips"
    if overwrite:
        shutil.rmtree(stored, ignore_errors=True)
    encoder = dict(network.encoder.named_parameters())  # another one predicts other values
    if not network.refiner.details.weight.any():
        RefinerTraining.find_details(network, maker, training, device, stored / digest(encoder))
    predictions = stored / digest(encoder | dict(network.refiner.details.named_parameters()))
    predicted = RefinerTraining.rendered_clips(network, renders, device, predictions)
    predicted += RefinerTraining.made_clips(network, maker, training, clips or hp.refiner_clips, device, predictions)
    RefinerTraining.train_refiner(network, RefinerTraining.StoredClips(predicted), heads)
    save_tensors(weights, half_precision(snapshot(network, {"front_end": DatasetCreator.front_end(), **origin})))
    checkpoint.unlink(missing_ok=True)
    shutil.rmtree(stored, ignore_errors=True)
    return weights


def performance_stream(pieces, batch_size, seconds, seed, device):
    """Return an endless iterator of batches of `Performances`, on a GPU drawn by processes beside the training."""
    performances = Performances(pieces, batch_size, seconds, hp.clip_lead_s, seed)
    workers = hp.encoder_workers if torch.device(device).type == "cuda" else 0
    return iter(torch.utils.data.DataLoader(performances, batch_size=None, num_workers=workers))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Train the note encoder on clips made from notes and sampled pianos.")
    parser.add_argument("--data", type=Path, help="folder with clips/ (default: data/)")
    parser.add_argument("--model", default="own", type=TrainingOptions.parse_model_name, help="name below data/models")
    parser.add_argument("--part", choices=("all", "refiner"), default="all",
                        help="refiner: keep the encoder of --start and train what follows it (default: all)")
    parser.add_argument("--start", type=Path, help="initial weights, such as ae.torch; the network gets their form")
    parser.add_argument("--heads", nargs="+", choices=RefinerTraining.heads, default=RefinerTraining.heads,
                        help="heads of the note-level post-processing to train; others are those of --start "
                        "(default: all)")
    parser.add_argument("--minutes", type=Util.positive_float, help=f"training time (default: {hp.encoder_minutes})")
    parser.add_argument("--learning-rate", type=Util.positive_float,
                        help=f"of the encoder (default: {hp.encoder_learning_rate:g})")
    parser.add_argument("--batch-size", type=Util.positive_int, help=f"clips per step (default: {hp.clip_batch_size})")
    parser.add_argument("--pool", type=Util.positive_int, help=f"pianos at a time (default: {hp.clip_pool})")
    parser.add_argument("--clips", type=Util.positive_int,
                        help=f"clips of 16 s for the note-level post-processing (default: {hp.refiner_clips})")
    parser.add_argument("--pairs", nargs="+", type=Path, default=(), metavar="DATA",
                        help="data folders of MIDI2Audio.py, from whose piano renders the note-level post-processing "
                        "learns too")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first available)")
    parser.add_argument("--overwrite", action="store_true", help="train finished weights again")
    weights = train(**vars(parser.parse_args(arguments)))
    print(f"{weights} is finished; next, for the decoder of a target: python AEMain.py --part decoder --start "
          f"{weights}")


if __name__ == "__main__":
    Util.run(main)
