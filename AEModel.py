"""Load the weights of an autoencoder or a U-Net, and run the network on a device."""
import contextlib
import functools
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import DatasetCreator
import Hyperparameters as hp
import Util
from Autoencoder import Autoencoder
from UNet import UNet
from notes import dereverberation, post_processing
from notes.note_autoencoder import HarmonicEncoder, NoteAutoencoder
from notes.sampled_voice import SampledVoice

decoder_frames = 256        # frames per call of the decoder


def autocast(device, wanted=True):
    """Return a context manager for mixed precision with bfloat16, where it is `wanted` and `hp.bfloat16` is true. It is
    active only on devices with bfloat16 arithmetic: processors that emulate it are slower with it."""
    fast = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
    }.get(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(wanted and hp.bfloat16 and fast and fast()))


def target_instrument(pair):
    """Return the target of a pair of instruments, "source -> target", or "" if the pair is unknown."""
    return (pair or "").rpartition(" -> ")[2]


class AEModel:
    """Run a network that maps [shape=(batch, in_channels, n_mels, t)] to a spectrogram [shape=(batch, 1, n_mels, t)].
    `pair` names the source and target instrument of the training data, if known, `autoencoder` the `digest` of the
    autoencoder behind which a U-Net was trained, and `path` the file of the weights."""

    bfloat16 = True  # allow mixed precision: see `autocast`

    def __init__(self, network, device=torch.device("cpu"), pair=None, autoencoder=None, path=None):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.device, self.pair, self.autoencoder, self.path = device, pair, autoencoder, path

    def fits(self, pair):
        """Return whether the weights can be used with a pair of instruments, "source -> target", or None if unknown."""
        return None in (self.pair, pair) or self.pair == pair

    @torch.inference_mode()
    def generate(self, *spectrograms):
        """Return the network's output for spectrograms [shape=(n_mels, t), in [0, 1]], one per input channel. The first
        is the one to improve. Surplus ones are ignored."""
        source = torch.from_numpy(np.stack(spectrograms[:self.network.in_channels]))[None].float()
        return self.check_output(self.run(self.to_device(source))[0, 0].cpu().numpy())

    def check_output(self, output):
        """Return an output of the network unchanged, or raise ValueError if it has NaN or infinite values."""
        if not np.isfinite(output).all():
            raise ValueError(f"{self.path or self.network.name} gives NaN or infinite values; train it again or "
                             "restore the file")
        return output

    def run(self, source):
        """Return the output [shape=(batch, 1, n_mels, t), in [0, 1]] for a batch on the model's device."""
        self.network.eval()
        with autocast(self.device, self.bfloat16):
            return self.network(source).float().clip(0, 1)

    def to_device(self, batch):
        """Copy a batch to the model's device, in the memory format that is fastest for convolutions."""
        return batch.to(self.device, memory_format=torch.channels_last)


def load_model(kind, path, device=torch.device("cpu")):
    """Load a trained network of a kind, `Autoencoder` or `UNet`, with the sizes that follow from the weights.

    Return an `AEModel`, or a `NoteModel` if the file holds the weights of a `NoteAutoencoder`. Raises FileNotFoundError
    if there is no such file, and ValueError if it is damaged, or holds the weights of another kind of network, of an
    earlier form of the note autoencoder or of another front end.
    """
    Util.compute_after_fork()
    state = load_weights(path)
    if "encoder.stem.weight" in state and "refiner.details.weight" not in state:
        raise ValueError(f"{path} holds the weights of an earlier form of the note autoencoder; train it again or "
                         "restore the file")
    try:
        if kind is Autoencoder and "encoder.stem.weight" in state:
            decoder = SampledVoice.from_state(state) if "decoder.streams" in state else None
            network = NoteAutoencoder.from_state(state, decoder)
        else:
            network = kind.from_state(state)
        network.load_state_dict(state)
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError, AttributeError):
        raise ValueError(f"{path} does not hold the weights of {kind.name}; "
                         "train it again or restore the file") from None
    note = provenance(state)
    model = NoteModel if isinstance(network, NoteAutoencoder) else AEModel
    return model(network, device, note.get("pair"), note.get("autoencoder"), path)


def load_weights(path):
    """Read a state_dict from a file and convert it to single precision. Raises FileNotFoundError if there is no such
    file, and ValueError if it is not a state_dict, if weights are NaN or infinite, or if they were trained with another
    front end."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; train them with AEMain.py and UNetMain.py, or restore the "
                                "file")
    try:
        state = load_tensors(path)
        for key, value in state.items():
            state[key] = value.float() if value.is_floating_point() else value
            if not value.isfinite().all():
                raise ValueError("weights contain NaN or infinite values")
        front_end = dict(provenance(state).get("front_end") or DatasetCreator.front_end())
    except Exception:  # torch raises many kinds of errors for damaged files
        raise ValueError(f"{path} does not hold the weights of a network; train it again or restore the file") from None
    for name, value in DatasetCreator.front_end().items():
        if front_end.get(name, value) != value:
            raise ValueError(f"{path} was trained with {name} = {front_end[name]}, and Hyperparameters.py has "
                             f"{value}; set it back or train again")
    return state


def load_tensors(path):
    """Read a file of `torch.save` that holds only tensors, numbers and text. The file cannot run code. Raises
    ValueError if a checksum is wrong, since torch does not verify checksums. Raises the errors of `torch.load` for
    other damage."""
    if zipfile.is_zipfile(path):  # files of old torch versions are not zip archives
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                raise ValueError(f"{path} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def provenance(state):
    """Return the training information that `snapshot` stored in a state_dict, empty if another program wrote it. The
    keys are "front_end", "pair", "pieces", the number of training pieces, and, for a U-Net, "autoencoder". Weights of
    earlier trainings have no "pieces"."""
    return getattr(state, "_metadata", {}).get("trained_for", {})


def training_pieces(*paths):
    """Return the smallest number of training pieces that files of weights name, or None if no file names one. Files
    that cannot be read count as without a number: `load_weights` says what is wrong with them."""
    numbers = []
    for path in paths:
        with contextlib.suppress(Exception):  # torch raises many kinds of errors for damaged files
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # mmap: reads no weights
            numbers.append(int(provenance(state)["pieces"]))
    return min(numbers, default=None)


def digest(state):
    """Return 16 hexadecimal digits that identify the weights of a state_dict, in single and half precision alike."""
    hashed = hashlib.sha256()
    for name, value in sorted(state.items()):
        value = value.detach().cpu()
        value = value.half() if value.is_floating_point() else value
        hashed.update(name.encode() + value.contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def snapshot(network, trained_for):
    """Copy a network's state_dict to CPU memory and store training information in it: see `provenance`."""
    state = network.state_dict()
    state._metadata["trained_for"] = trained_for  # metadata, so the file remains a plain state_dict
    for key in state:
        state[key] = state[key].detach().cpu().clone()
    return state


def half_precision(state):
    """Convert a state_dict to half precision, in place, and return it. Statistics of batch normalisation keep their
    precision, since some exceed the range of half precision."""
    for key, value in state.items():
        if value.is_floating_point() and "running" not in key:
            state[key] = value.half()
    return state


def fold_batch_norms(network):
    """Fold the batch normalisations of a trained network into the convolutions before them, in place. It then computes
    the same but for rounding, faster, and cannot be trained."""
    network.eval()
    for layers in network.modules():
        for i, layer in enumerate(layers if isinstance(layers, nn.Sequential) else ()):
            if isinstance(layer, nn.BatchNorm2d) and type(layers[i - 1]) is nn.Conv2d:  # the report's are others
                layers[i - 1], layers[i] = fuse_conv_bn_eval(layers[i - 1], layer), nn.Identity()


class NoteModel(AEModel):
    """Run a `NoteAutoencoder`: transcribe spectrograms to notes, and decode notes to spectrograms."""

    def fits(self, pair):
        """Return whether the target of a pair is that of the weights. The notes can be those of any source."""
        return None in (self.pair, pair) or target_instrument(self.pair) == target_instrument(pair)

    @torch.inference_mode()
    def predict_frames(self, pitch, mel):
        """Predict onset, sounding, velocity and offset of each key in each frame, then the `details` of the refiner.
        `pitch` [shape=(n_pitches, ceil(t / 2))] and `mel` [shape=(n_mels, t)] are spectrograms in [0, 1]. The result
        [shape=(outputs, t, n_keys)] is in [0, 1]."""
        self.network.eval()
        with autocast(self.device, self.bfloat16):
            logits = self.network(*(torch.from_numpy(image)[None].to(self.device) for image in (pitch, mel)))
        return self.check_output(logits[0].float().sigmoid().cpu().numpy())

    def predict_views(self, pitch, mel):
        """Return what `predict_frames` does, and behind it the first four outputs for audio without late reverberation.
        `pitch` is a list of pitch spectrograms [shape=(n_pitches, steps)], one with steps from the first frame and, if
        at hand, one with steps from the second frame, which the second run of the encoder then takes."""
        late, once = len(pitch) - 1, self.predict_frames(pitch[0], mel)
        dry = (dereverberation.reduce_reverberation(torch.from_numpy(image), hop).numpy() for image, hop in (
            (pitch[late], hp.pitch_hop_length), (mel[:, late:], hp.hop_length)))
        again = self.predict_frames(*dry)[:HarmonicEncoder.outputs]
        return np.concatenate([once, np.pad(again, ((0, 0), (late, 0), (0, 0)), "edge")])

    @torch.inference_mode()
    def mel_decibels(self, notes, first, frames):
        """Return the mel power in dB [shape=(n_mels, frames)] of notes [shape=(n, 4)], from frame `first` on."""
        notes, end = torch.from_numpy(notes).to(self.device), first + frames
        parts = [self.network.decoder(notes, start, min(decoder_frames, end - start))
                 for start in range(first, end, decoder_frames)]
        return self.check_output(torch.cat(parts, 1).cpu().numpy())

    def generate(self, pitch, mel):
        """Return the target instrument's log-mel spectrogram [shape=(n_mels, t)]: see `predict_frames`."""
        notes = post_processing.decode_notes(self.predict_views([pitch], mel), self.network.refiner)
        notes = post_processing.refine_velocities(notes, pitch, self.network.refiner)
        return self.note_spectrogram(notes, mel.shape[1])

    @property
    def voice(self):
        """Return the decoder if it is a `SampledVoice`, else None."""
        return self.network.decoder if isinstance(self.network.decoder, SampledVoice) else None

    def note_spectrogram(self, notes, frames):
        """Return the log-mel spectrogram of notes on the target instrument [shape=(n_mels, frames), in [0, 1]]."""
        return self.note_renderer(notes, [(0, frames)])(0, frames)[0]

    def note_renderer(self, notes, parts, like=None):
        """Return a function that renders frames from `first` to before `last` of notes on the target instrument.

        It returns their log-mel spectrogram [shape=(n_mels, last - first), in [0, 1]], and the STFT of a `SampledVoice`
        or None for a table. `notes` [shape=(n, 4)] are those of a whole recording, and `parts` the chunks (first, last)
        that cover it. Only one range is held in memory, for recordings of any length. The spectrogram is relative to
        the loudest moment of the notes `like`, by default the same notes.
        """
        play = functools.lru_cache(1)(functools.partial(self.play, notes))
        play_like = play if like is None or not len(like) else functools.partial(self.play, like)
        if not self.voice:
            level = max(peak_frame_level(play_like(*part)) for part in parts)
            loudest = self.network.decoder.loudest.item()
            return lambda first, last: (normalise_level(play(first, last), loudest, level), None)
        reference = max(DatasetCreator.mel_power(play_like(*part)).max() for part in parts)

        def render(first, last):
            power = DatasetCreator.mel_power(play(first, last))
            return DatasetCreator.log_mel(self.check_output(power), reference), play(first, last)
        return render

    def play(self, notes, first, last):
        """Return the STFT of a `SampledVoice`, or the mel power of a table in dB, of notes in a range of frames."""
        return self.voice.spectrum(notes, first, last) if self.voice else self.mel_decibels(notes, first, last - first)

    def power(self, notes, parts):
        """Return the power of notes [shape=(n, 4)] on the target instrument, summed over the frames of the `parts`."""
        played = (self.play(notes, *part) for part in parts)
        return sum(float((np.abs(part) ** 2 if self.voice else 10 ** (part / 10)).sum(dtype=float)) for part in played)


def normalise_level(decibels, loudest, level):
    """Map mel power in dB [shape=(n_mels, t)] to [0, 1], with the mean power of the loudest frame at `loudest` dB.

    `level` is the mean power in dB of the loudest frame of the whole recording. A log-mel spectrogram is relative to
    its maximum. The maximum of summed powers differs from that of real audio, whose partials are sometimes in phase.
    The mean power of a frame differs less. Silence becomes 0.
    """
    return Util.to_unit(decibels + loudest - level) if level > hp.decoder_silence + 1 else np.zeros_like(decibels)


def peak_frame_level(decibels):
    """Return the mean power in dB of the loudest frame of a mel spectrogram in dB [shape=(n_mels, t)]."""
    return 10 * np.log10((10 ** (decibels / 10)).mean(axis=0).max())


def find_weights(model=None):
    """Return the paths of the weights of an autoencoder and its U-Net. `model` is the name of a folder in data/models,
    or "shipped". None selects "own", the default of the training, if both files exist and name no fewer than
    `hp.few_pieces` training pieces, else "shipped"."""
    folder = hp.models / Util.check_model_name(model or "own")
    own = folder / "ae.torch", folder / "unet.torch"
    if model is None:
        pieces = training_pieces(*own)
        enough = all(path.exists() for path in own) and (pieces is None or pieces >= hp.few_pieces)
        model = "own" if enough else "shipped"
    return (hp.ae_weights, hp.unet_weights) if model == "shipped" else own


def choose_weights(model, ae, unet):
    """Return the paths of the weights of both networks: `ae` and `unet` if given, else those of `model`."""
    found = find_weights(model)
    return Path(ae or found[0]), Path(unet or found[1])


def describe_model(ae, unet):
    """Return the name of a model and its number of training pieces, as in "own, trained on 8 pieces"."""
    names = {find_weights("shipped"): "shipped"} | {(folder / "ae.torch", folder / "unet.torch"): folder.name
                                                    for folder in hp.models.glob("*")}
    pieces = training_pieces(ae, unet)
    name = names.get((Path(ae), Path(unet)), f"{ae} and {unet}")
    return name + (f", trained on {pieces} piece{'s' * (pieces != 1)}" if pieces is not None else "")


def load_models(ae, unet, device="auto"):
    """Load the autoencoder and the U-Net. Models stay in memory until their files change. Raises the errors of
    `load_model`. Raises ValueError if the two were trained for different instruments, or if the U-Net was trained with
    another autoencoder."""
    statuses = [Path(path).stat() for path in (ae, unet) if Path(path).exists()]
    return read_models(ae, unet, device, *((now.st_mtime_ns, now.st_ctime_ns, now.st_size) for now in statuses))


@functools.lru_cache(maxsize=4)
def read_models(ae, unet, device, *stamps):
    """Load the models for `load_models`. The cache identifies a file by its times and size in `stamps`."""
    device = Util.choose_device(device)
    models = load_model(Autoencoder, ae, device), load_model(UNet, unet, device)
    if not models[0].fits(models[1].pair):
        raise ValueError(f"{ae} was trained for {models[0].pair} and {unet} for {models[1].pair}; take two of the same "
                         "pair")
    wanted, found = models[1].autoencoder, models[1].autoencoder and digest(models[0].network.state_dict())
    if wanted != found:
        raise ValueError(f"{unet} was trained behind an autoencoder with the weights {wanted}, and {ae} has {found}; "
                         "train the U-Net anew with UNetMain.py --overwrite, or restore the autoencoder")
    for model in models:
        fold_batch_norms(model.network)
    return models
