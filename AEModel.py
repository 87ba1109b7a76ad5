"""Load the weights of an autoencoder or a U-Net, and run the network on a device."""
import contextlib
import functools
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
import NoteRefinement
import Util
from Autoencoder import Autoencoder
from NoteAutoencoder import HarmonicEncoder, NoteAutoencoder
from SampledVoice import SampledVoice


def autocast(device, wanted=True):
    """Return a context manager for mixed precision with bfloat16.

    It is active if `wanted` and `hp.bfloat16` are true and the device has bfloat16 arithmetic. Processors that only
    emulate it are slower with it.
    """
    fast = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
    }.get(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(wanted and hp.bfloat16 and fast and fast()))


def target_instrument(pair):
    """Return the target of a pair of instruments, "source -> target", or "" if the pair is unknown."""
    return (pair or "").rpartition(" -> ")[2]


class AEModel:
    """Run a network that maps spectrograms to a spectrogram.

    Parameters
    ----------
    network : nn.Module
        Network that maps [shape=(batch, in_channels, n_mels, t)] to [shape=(batch, 1, n_mels, t)].
    device : torch.device
        Device of the network.
    pair : str, optional
        Source and target instrument of the training data.
    autoencoder : str, optional
        For a U-Net: `digest` of the autoencoder whose outputs trained it.
    path : Path, optional
        File of the weights, named in error messages.
    """

    bfloat16 = True  # allow mixed precision: see `autocast`

    def __init__(self, network, device=torch.device("cpu"), pair=None, autoencoder=None, path=None):
        self.network = network.to(device, memory_format=torch.channels_last)
        self.device, self.pair, self.autoencoder, self.path = device, pair, autoencoder, path

    def fits(self, pair):
        """Return whether the weights can be used with a pair of instruments, "source -> target", or None if unknown."""
        return None in (self.pair, pair) or self.pair == pair

    @torch.inference_mode()
    def generate(self, *spectrograms):
        """Return the network's output for spectrograms [shape=(n_mels, t), in [0, 1]].

        Parameters
        ----------
        *spectrograms : np.ndarray [shape=(n_mels, t), in [0, 1]]
            One spectrogram per input channel of the network. The first is the one to improve. Surplus ones are ignored.

        Returns
        -------
        np.ndarray [shape=(n_mels, t), in [0, 1]]
        """
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
    """Load a trained network.

    Parameters
    ----------
    kind : type
        Class of the network, `Autoencoder` or `UNet`.
    path : str or Path
        File of the weights. The sizes of the network follow from them.
    device : torch.device
        Device of the network.

    Returns
    -------
    AEModel
        A `NoteModel` if the file holds the weights of a `NoteAutoencoder`.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged, or holds the weights of another kind of network, of an earlier form of the note
        autoencoder or of another front end.
    """
    Util.compute_after_fork()
    state = load_weights(path)
    if "encoder.stem.weight" in state and "refiner.details.weight" not in state:
        raise ValueError(f"{path} holds the weights of an earlier form of the note autoencoder; train it again or "
                         "restore the file")
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
    """Return an untrained network with the sizes of a state_dict.

    With the kind `Autoencoder`, the state_dict can also be that of a `NoteAutoencoder`. Raises KeyError if the
    state_dict is that of another kind of network.
    """
    if kind is Autoencoder and "encoder.stem.weight" in state:
        decoder = SampledVoice.from_state(state) if "decoder.streams" in state else None
        return NoteAutoencoder.from_state(state, decoder)
    return kind.from_state(state)


def load_weights(path):
    """Read a state_dict from a file and convert it to single precision.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is not a state_dict, if weights are NaN or infinite, or if they were trained with another front end.
    """
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
    """Read a file of `torch.save` that holds only tensors, numbers and text. The file cannot run code.

    Raises ValueError if a checksum is wrong, since torch does not verify checksums. Raises the errors of `torch.load`
    for other damage.
    """
    if zipfile.is_zipfile(path):  # files of old torch versions are not zip archives
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                raise ValueError(f"{path} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def provenance(state):
    """Return the training information that `snapshot` stored in a state_dict.

    The keys are "front_end", "pair", "pieces", the number of training pieces, and, for a U-Net, "autoencoder". Weights
    of earlier trainings have no "pieces". The dictionary is empty if another program wrote the state_dict.
    """
    return getattr(state, "_metadata", {}).get("trained_for", {})


def training_pieces(*paths):
    """Return the smallest number of training pieces that files of weights name, or None if no file names one.

    Files that cannot be read count as without a number: `load_weights` says what is wrong with them.
    """
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
    """Convert a state_dict to half precision, in place, and return it.

    Statistics of batch normalisation keep their precision, since some exceed the range of half precision.
    """
    for key, value in state.items():
        if value.is_floating_point() and "running" not in key:
            state[key] = value.half()
    return state


class NoteModel(AEModel):
    """Run a `NoteAutoencoder`: transcribe spectrograms to notes, and decode notes to spectrograms."""

    def fits(self, pair):
        """Return whether the target of a pair is that of the weights. The notes can be those of any source."""
        return None in (self.pair, pair) or target_instrument(self.pair) == target_instrument(pair)

    @torch.inference_mode()
    def predict_frames(self, pitch, mel):
        """Predict onset, sounding, velocity and offset of each key in each frame.

        Parameters
        ----------
        pitch : np.ndarray [shape=(n_pitches, ceil(t / 2)), in [0, 1]]
            Pitch spectrogram.
        mel : np.ndarray [shape=(n_mels, t), in [0, 1]]
            Mel spectrogram.

        Returns
        -------
        np.ndarray [shape=(outputs, t, n_keys), in [0, 1]]
            Onset, sounding, velocity and offset, then the `details` of the refiner.
        """
        self.network.eval()
        with autocast(self.device, self.bfloat16):
            logits = self.network(*(torch.from_numpy(image)[None].to(self.device) for image in (pitch, mel)))
        return self.check_output(logits[0].float().sigmoid().cpu().numpy())

    def predict_views(self, pitch, mel):
        """Predict what the notes are decoded from, from two runs of the encoder.

        The second run is on the spectrograms without late reverberation.

        Parameters
        ----------
        pitch : list of np.ndarray [shape=(n_pitches, steps), in [0, 1]]
            Pitch spectrogram with steps from the first frame, and, if at hand, one with steps from the second frame.
        mel : np.ndarray [shape=(n_mels, t), in [0, 1]]
            Mel spectrogram.

        Returns
        -------
        np.ndarray [shape=(outputs, t, n_keys), in [0, 1]]
            As `predict_frames` returns them, then the four outputs without late reverberation.
        """
        late, once = len(pitch) - 1, self.predict_frames(pitch[0], mel)
        dry = (DatasetCreator.reduce_reverberation(image, hop / hp.sample_rate) for image, hop in (
            (pitch[late], hp.pitch_hop_length), (mel[:, late:], hp.hop_length)))
        again = self.predict_frames(*dry)[:HarmonicEncoder.outputs]
        return np.concatenate([once, np.pad(again, ((0, 0), (late, 0), (0, 0)), "edge")])

    @torch.inference_mode()
    def mel_decibels(self, notes, first, frames):
        """Return the mel power in dB [shape=(n_mels, frames)] of notes [shape=(n, 4)], from frame `first` on."""
        notes = torch.from_numpy(notes).to(self.device)
        return self.check_output(self.mel_decibels_tensor(notes, first, frames).cpu().numpy())

    def mel_decibels_tensor(self, notes, first, frames):
        """Return the output of `mel_decibels` as a tensor on the model's device. Few frames are computed at a time."""
        return torch.cat([self.network.decoder(notes, start, min(hp.decoder_frames, first + frames - start))
                          for start in range(first, first + frames, hp.decoder_frames)], 1)

    def generate(self, pitch, mel):
        """Return the log-mel spectrogram of the target instrument [shape=(n_mels, t), in [0, 1]].

        The parameters are those of `predict_frames`.
        """
        notes = self.decode_notes(self.predict_views([pitch], mel))
        return self.note_spectrogram(self.refine_velocities(notes, pitch), mel.shape[1])

    def decode_notes(self, predictions):
        """Decode the output of `predict_views` to notes [shape=(n, 4)]: see `NoteRefinement.decode_notes`."""
        return NoteRefinement.decode_notes(predictions, self.network.refiner)

    def refine_velocities(self, notes, pitch):
        """Return notes [shape=(n, 4)] with velocities corrected by the level of their partials.

        `pitch` is the pitch spectrogram of the whole recording [shape=(n_pitches, steps)].
        """
        return NoteRefinement.refine_velocities(notes, pitch, self.network.refiner)

    @property
    def voice(self):
        """Return the decoder if it is a `SampledVoice`, else None."""
        return self.network.decoder if isinstance(self.network.decoder, SampledVoice) else None

    def note_spectrogram(self, notes, frames):
        """Return the log-mel spectrogram of notes on the target instrument [shape=(n_mels, frames), in [0, 1]]."""
        return self.note_renderer(notes, [(0, frames)])(0, frames)[0]

    def note_renderer(self, notes, parts):
        """Return a function that renders a range of frames of a recording's notes on the target instrument.

        Only one range is held in memory, for recordings of any length.

        Parameters
        ----------
        notes : np.ndarray [shape=(n, 4)]
            Notes of the whole recording.
        parts : list of (int, int)
            Chunks that cover the recording: first frame, and the frame after the last.

        Returns
        -------
        callable
            Function of the first frame and the frame after the last. It returns the log-mel spectrogram
            [shape=(n_mels, last - first), in [0, 1]] and the STFT of a `SampledVoice`, or None for a table.
        """
        if not self.voice:
            decibels = functools.lru_cache(1)(lambda first, last: self.mel_decibels(notes, first, last - first))
            level = max(peak_frame_level(decibels(*part)) for part in parts)
            loudest = self.network.decoder.loudest.item()
            return lambda first, last: (normalise_level(decibels(first, last), loudest, level), None)
        spectrum = functools.lru_cache(1)(functools.partial(self.voice.spectrum, notes))
        reference = max(DatasetCreator.mel_power(spectrum(*part)).max() for part in parts)

        def render(first, last):
            power = DatasetCreator.mel_power(spectrum(first, last))
            return DatasetCreator.log_mel(self.check_output(power), reference), spectrum(first, last)
        return render


def normalise_level(decibels, loudest, level=None):
    """Map mel power in dB [shape=(n_mels, t)] to [0, 1], with the mean power of the loudest frame at `loudest` dB.

    `level` is the mean power of the loudest frame of the whole recording, by default of `decibels`. A log-mel
    spectrogram is relative to its maximum. The maximum of summed powers differs from that of real audio, whose partials
    are sometimes in phase. The mean power of a frame differs less. Silence becomes 0.
    """
    level = peak_frame_level(decibels) if level is None else level
    return Util.to_unit(decibels + loudest - level) if level > hp.decoder_silence + 1 else np.zeros_like(decibels)


def peak_frame_level(decibels):
    """Return the mean power in dB of the loudest frame of a mel spectrogram in dB [shape=(n_mels, t)]."""
    return 10 * np.log10((10 ** (decibels / 10)).mean(axis=0).max())
