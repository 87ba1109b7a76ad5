"""The report's wrapper of a network, the autoencoder or the U-Net: load its weights, run it on a device, generate."""
import functools
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
import NoteRefinement
import Notes
import Util
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder
from SampledVoice import SampledVoice


def autocast(device, wanted=True):
    """Mixed precision with bfloat16, if `wanted` and `hp.bfloat16` is set, where the processor computes with it."""
    fast = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    }.get(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(wanted and hp.bfloat16 and fast and fast()))


class AEModel:
    """A network from spectrogram to spectrogram, on a device.

    Parameters
    ----------
    network : nn.Module
        Maps [shape=(batch, in_channels, n_mels, t)] to [shape=(batch, 1, n_mels, t)].
    device : torch.device
    pair : str, optional
        The instruments that it was trained for.
    autoencoder : str, optional
        Of a U-Net: the `digest` of the autoencoder behind which it was trained.
    path : Path, optional
        Where its weights are from.
    """

    bfloat16 = True  # whether it may run in mixed precision: see `autocast`

    def __init__(self, network, device=torch.device("cpu"), pair=None, autoencoder=None, path=None):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.device, self.pair, self.autoencoder, self.path = device, pair, autoencoder, path

    @torch.inference_mode()
    def generate(self, *spectrograms):
        """Map a spectrogram, np.ndarray [shape=(n_mels, t), in [0, 1]], to another of the same shape and range.

        A network of several input channels takes as many, the one to improve first; what is left over is ignored.
        """
        source = torch.from_numpy(np.stack(spectrograms[:self.network.in_channels]))[None].float()
        return self.check_output(self.run(self.to_device(source))[0, 0].cpu().numpy())

    def check_output(self, output):
        """Return what the network has made. Raises ValueError if that is not finite, as its weights are damaged."""
        if not np.isfinite(output).all():
            raise ValueError(f"{self.path or self.network.name} makes numbers that are not finite; train it again or "
                             "restore the file")
        return output

    def run(self, source):
        """Map a batch as `generate` does."""
        self.network.eval()
        with autocast(self.device, self.bfloat16):
            return self.network(source).float().clip(0, 1)

    def to_device(self, batch):
        """Return a batch on the model's device, as its network reads it fastest."""
        return batch.to(self.device, memory_format=torch.channels_last)


def load_model(kind, path, device=torch.device("cpu")):
    """Load a trained network.

    Parameters
    ----------
    kind : type
        `Autoencoder` or `UNet`.
    path : str or Path
        Weights; the form of the network follows from them.
    device : torch.device

    Returns
    -------
    AEModel
        A `NoteModel` if the weights are those of a `NoteAutoencoder`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_weights`, and ValueError if the weights are of another kind.
    """
    state = load_weights(path)
    try:
        network = build_network(kind, state)
        network.load_state_dict(state)
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError, AttributeError):
        raise ValueError(f"{path} does not hold the weights of {kind.name}; "
                         "train it again or restore the file") from None
    note = provenance(state)
    model = NoteModel if isinstance(network, NoteAutoencoder) else AEModel
    return model(network, device, note.get("pair"), note.get("autoencoder"), path)


def build_network(kind, state):
    """Return an untrained network of a `kind`, of the form that a state_dict has: for `Autoencoder` also a
    `NoteAutoencoder`. Raises KeyError if it is of another kind."""
    if kind is Autoencoder and "encoder.stem.weight" in state:
        decoder = SampledVoice.from_state(state) if "decoder.streams" in state else None
        return NoteAutoencoder.from_state(state, decoder)
    return kind.from_state(state)


def load_weights(path):
    """Read a state_dict, in single precision.

    Raises FileNotFoundError if there is no such file, ValueError if it holds anything but tensors by name, or what was
    trained with another front end than the present one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; train them with AEMain.py and UNetMain.py, or restore the "
                                "file")
    try:
        state = rename_keys(load_tensors(path))
        for key, value in state.items():
            state[key] = value.float() if value.is_floating_point() else value
            if not value.isfinite().all():
                raise ValueError("a number that is none")
        front_end = dict(provenance(state).get("front_end") or DatasetCreator.front_end())
    except Exception:  # torch raises a dozen kinds for what is not a file of its own
        raise ValueError(f"{path} does not hold the weights of a network; train it again or restore the file") from None
    for name, value in DatasetCreator.front_end().items():
        if front_end.get(name, value) != value:
            raise ValueError(f"{path} was trained with {name} = {front_end[name]}, and Hyperparameters.py has "
                             f"{value}; set it back or train again")
    return state


def load_tensors(path):
    """Read what `torch.save` wrote, if it is tensors, numbers and text, so that no code is run.

    Raises whatever torch does for a damaged file, and ValueError if a checksum is wrong, at which torch does not look.
    """
    if zipfile.is_zipfile(path):  # older versions of torch wrote another form
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                raise ValueError(f"{path} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


# prefixes of parameters' names: in files of earlier versions, and now
former_keys = {"reviewer.played.": "classifier.onset_head.", "reviewer.later.": "classifier.offset_head."}


def rename_keys(state):
    """Give the parameters in a state_dict of an earlier version their present names, in place; return it."""
    for key in list(state):
        for former, present in former_keys.items():
            if key.startswith(former):
                state[present + key.removeprefix(former)] = state.pop(key)
    return state


def provenance(state):
    """What `snapshot` noted in a state_dict: "front_end", "pair", of a U-Net "autoencoder", or nothing if it is from
    elsewhere."""
    return getattr(state, "_metadata", {}).get("trained_for", {})


def digest(state):
    """Return 16 hexadecimal digits that differ for other weights, of a state_dict, and not if it is stored in half
    precision."""
    hashed, keys = hashlib.sha256(), {}
    for key in state:  # under the names of earlier versions, so that it is the same for the same weights
        former = [key.replace(new, old) for old, new in former_keys.items() if key.startswith(new)]
        keys[former[0] if former else key] = key
    for name, key in sorted(keys.items()):
        value = state[key].detach().cpu()
        value = value.half() if value.is_floating_point() else value
        hashed.update(name.encode() + value.contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def snapshot(network, trained_for):
    """A copy of a network's state_dict in the processor's memory, with a note: see `provenance`."""
    state = network.state_dict()
    state._metadata["trained_for"] = trained_for  # beside the tensors: the file remains a plain state_dict
    for key in state:
        state[key] = state[key].detach().cpu().clone()
    return state


def half_precision(state):
    """Bring a state_dict to half precision, in place, and return it.

    Statistics of batch normalisation stay as they are: some are too large.
    """
    for key, value in state.items():
        if value.is_floating_point() and "running" not in key:
            state[key] = value.half()
    return state


class NoteModel(AEModel):
    """A `NoteAutoencoder` on a device: what was played, and how it sounds on the target instrument."""

    @torch.inference_mode()
    def predict_frames(self, pitch, mel):
        """Return how surely each key is struck and sounds in each frame, and how hard.

        Parameters
        ----------
        pitch : np.ndarray [shape=(n_pitches, ceil(t / 2)), in [0, 1]]
        mel : np.ndarray [shape=(n_mels, t), in [0, 1]]

        Returns
        -------
        np.ndarray [shape=(outputs, t, n_keys), in [0, 1]]
            Onset, sounding, velocity and, of a `HarmonicEncoder`, offset.
        """
        self.network.eval()
        with autocast(self.device, self.bfloat16):
            logits = self.network(*(torch.from_numpy(image)[None].to(self.device) for image in (pitch, mel)))
        return self.check_output(logits[0].float().sigmoid().cpu().numpy())

    @torch.inference_mode()
    def mel_decibels(self, notes, first, frames):
        """Return the mel power in dB [shape=(n_mels, frames)] of notes [shape=(n, 4)] from a frame on."""
        notes = torch.from_numpy(notes).to(self.device)
        return self.check_output(self.mel_decibels_tensor(notes, first, frames).cpu().numpy())

    def mel_decibels_tensor(self, notes, first, frames):
        """As `play`, tensors on the model's device, a few frames at a time."""
        return torch.cat([self.network.decoder(notes, start, min(hp.decoder_frames, first + frames - start))
                          for start in range(first, first + frames, hp.decoder_frames)], 1)

    def generate(self, pitch, mel):
        """Map spectrograms as `predict_frames` to the log-mel spectrogram of the target instrument [shape=(n_mels, t),
        in [0, 1]]."""
        notes = self.decode_notes(self.predict_frames(pitch, mel))
        return self.note_spectrogram(self.refine_velocities(notes, pitch), mel.shape[1])

    def decode_notes(self, predictions):
        """Return the notes of what `predict_frames` returns: as `NoteRefinement.decode_notes`, if the network has a
        refiner, else as `Notes.decode_notes`."""
        if self.network.refiner:
            return NoteRefinement.decode_notes(predictions, self.network.refiner)
        return Notes.decode_notes(predictions, self if self.network.classifier else None)

    def refine_velocities(self, notes, pitch):
        """Correct the velocities of notes [shape=(n, 4)] by a recording's whole pitch spectrogram [shape=(n_pitches,
        steps)]."""
        if self.network.refiner:
            return NoteRefinement.refine_velocities(notes, pitch, self.network.refiner)
        return Notes.refine_velocities(notes, pitch)

    @torch.inference_mode()
    def note_probability(self, predictions, frame, key):
        """Return the probabilities that the notes were played that seem to begin in these frames and keys [shape=(n,)]."""
        self.network.eval()
        classifier, probability = self.network.classifier, np.zeros(len(frame), np.float32)
        for part in np.array_split(np.argsort(frame, kind="stable"), -(-len(frame) // hp.classifier_batch_size)):
            first = max(frame[part[0]] - classifier.before, 0)
            near = torch.from_numpy(predictions[None, :3, first:frame[part[-1]] + classifier.after]).to(self.device)
            places = (torch.from_numpy(place).to(self.device) for place in (0 * part, frame[part] - first, key[part]))
            probability[part] = classifier(near, *places).sigmoid().cpu().numpy()
        return self.check_output(probability)

    @torch.inference_mode()
    def offset_shift(self, predictions, frame, key, end, next_onset):
        """Return by how many frames these notes ended later than it seems: see `NoteClassifier`."""
        self.network.eval()
        places = (torch.from_numpy(place).to(self.device) for place in (0 * frame, frame, key, end, next_onset))
        return self.check_output(self.network.classifier.offset_shift(
            torch.from_numpy(predictions[None, :3]).to(self.device), *places).cpu().numpy())

    @property
    def voice(self):
        """The decoder, if it is a `SampledVoice`, else None."""
        return self.network.decoder if isinstance(self.network.decoder, SampledVoice) else None

    def note_spectrogram(self, notes, frames):
        """Return the log-mel spectrogram of notes on the target instrument [shape=(n_mels, frames), in [0, 1]]."""
        if self.voice:
            return self.note_renderer(notes, frames, [(0, frames)])(0, frames)[0]
        return normalise_level(self.mel_decibels(notes, 0, frames), self.network.decoder.loudest.item())


    def note_renderer(self, notes, frames, parts):
        """Return a function that renders a part of what the notes of a whole recording are on the target instrument.

        Parameters
        ----------
        notes : np.ndarray [shape=(n, 4)]
        frames : int
            Frames of the recording.
        parts : list of (int, int)
            Chunks that cover it, of which each alone fits in memory.

        Returns
        -------
        callable
            From the first frame and the one after the last to the log-mel spectrogram [shape=(n_mels, last - first), in
            [0, 1]] and the STFT that it is made from, which a `SampledVoice` gives; else None.
        """
        if not self.voice:
            whole = self.note_spectrogram(notes, frames).astype(np.float16)
            return lambda first, last: (whole[:, first:last].astype(np.float32), None)
        spectrum = functools.lru_cache(1)(functools.partial(self.voice.spectrum, notes))
        reference = max(DatasetCreator.mel_power(spectrum(*part)).max() for part in parts)

        def render(first, last):
            power = DatasetCreator.mel_power(spectrum(first, last))
            return DatasetCreator.log_mel(self.check_output(power), reference), spectrum(first, last)
        return render


def normalise_level(decibels, loudest):
    """Map mel power in dB to [0, 1], the loudest frame at the mean power `loudest` in dB; what is silent, to 0.

    A spectrogram lies in dB below its own maximum. That of summed powers is not the target's, whose partials meet in
    phase now and then; the mean of a frame is nearer.
    """
    frame = peak_frame_level(decibels)
    return Util.to_unit(decibels + loudest - frame) if frame > hp.decoder_silence + 1 else np.zeros_like(decibels)


def peak_frame_level(decibels):
    """Return the mean power in dB of the loudest frame of a mel spectrogram in dB [shape=(n_mels, t)]."""
    return 10 * np.log10((10 ** (decibels / 10)).mean(axis=0).max())
