"""The report's wrapper of a network, the autoencoder or the U-Net: load its weights, run it on a device, generate."""
import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from Autoencoder import NoteAutoencoder, NoteDecoder


def autocast(device, wanted=True):
    """Mixed precision with bfloat16, if `wanted` and `hp.bfloat16` is set, where the processor computes with it."""
    fast = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    }.get(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(wanted and hp.bfloat16 and fast and fast()))


class Model:
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

    @classmethod
    def load(cls, kind, path, device=torch.device("cpu")):
        """Return the model of a `kind`, Autoencoder or UNet, whose form and weights are those of `path`; a `NoteModel`
        if that is what they are of.

        Raises as `load_weights`, and ValueError if they are of another kind.
        """
        state = load_weights(path)
        try:
            network = kind.of_form(state)
            network.load_state_dict(state)
        except (KeyError, ValueError, IndexError, RuntimeError, TypeError, AttributeError):
            raise ValueError(f"{path} does not hold the weights of {kind.name}; "
                             "train it again or restore the file") from None
        note = noted(state)
        return (NoteModel if isinstance(network, NoteAutoencoder) else cls)(
            network, device, note.get("pair"), note.get("autoencoder"), path)

    @torch.inference_mode()
    def generate(self, *spectrograms):
        """Map a spectrogram, np.ndarray [shape=(n_mels, t), in [0, 1]], to another of the same shape and range.

        A network of several input channels takes as many, the one to improve first; what is left over is ignored.
        """
        source = torch.from_numpy(np.stack(spectrograms[:self.network.in_channels]))[None].float()
        return self.checked(self.run(self.move(source))[0, 0].cpu().numpy())

    def checked(self, output):
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

    def move(self, batch):
        """Return a batch on the model's device, as its network reads it fastest."""
        return batch.to(self.device, memory_format=torch.channels_last)


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
        state = load_tensors(path)
        for key, value in state.items():
            state[key] = value.float() if value.is_floating_point() else value
            if not value.isfinite().all():
                raise ValueError("a number that is none")
        front_end = dict(noted(state).get("front_end") or DatasetCreator.front_end())
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


def noted(state):
    """What `snapshot` noted in a state_dict: "front_end", "pair", of a U-Net "autoencoder", or nothing if it is from
    elsewhere."""
    return getattr(state, "_metadata", {}).get("trained_for", {})


def digest(state):
    """Return 16 hexadecimal digits that differ for other weights, of a state_dict, and not if it is stored in half
    precision."""
    hashed = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu()
        value = value.half() if value.is_floating_point() else value
        hashed.update(key.encode() + value.contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def snapshot(network, trained_for):
    """A copy of a network's state_dict in the processor's memory, with a note: see `noted`."""
    state = network.state_dict()
    state._metadata["trained_for"] = trained_for  # beside the tensors: the file remains a plain state_dict
    for key in state:
        state[key] = state[key].detach().cpu().clone()
    return state


class NoteModel(Model):
    """A `NoteAutoencoder` on a device: what was played, and how it sounds on the target instrument."""

    @torch.inference_mode()
    def hear(self, pitch, mel):
        """Return how surely each key is struck and sounds in each frame, and how hard.

        Parameters
        ----------
        pitch : np.ndarray [shape=(n_pitches, ceil(t / 2)), in [0, 1]]
        mel : np.ndarray [shape=(n_mels, t), in [0, 1]]

        Returns
        -------
        np.ndarray [shape=(3, t, n_keys), in [0, 1]]
            Onset, sounding, velocity.
        """
        self.network.eval()
        with autocast(self.device, self.bfloat16):
            logits = self.network(*(torch.from_numpy(image)[None].to(self.device) for image in (pitch, mel)))
        return self.checked(logits[0].float().sigmoid().cpu().numpy())

    @torch.inference_mode()
    def play(self, notes, first, frames):
        """Return the mel power in dB [shape=(n_mels, frames)] of notes [shape=(n, 4)] from a frame on."""
        return self.checked(self.decode(torch.from_numpy(notes).to(self.device), first, frames).cpu().numpy())

    def decode(self, notes, first, frames):
        """As `play`, tensors on the model's device, a few frames at a time."""
        return torch.cat([self.network.decoder(notes, start, min(hp.decoder_frames, first + frames - start))
                          for start in range(first, first + frames, hp.decoder_frames)], 1)

    def generate(self, pitch, mel):
        """Map spectrograms as `hear` to the log-mel spectrogram of the target instrument [shape=(n_mels, t), in
        [0, 1]]."""
        return self.image(weigh(self.notes(self.hear(pitch, mel)), pitch), mel.shape[1])

    def notes(self, heard):
        """Return the notes of what `hear` returns, as `pick_notes`, reviewed, if the network has a reviewer."""
        return pick_notes(heard, self if self.network.reviewer else None)

    @torch.inference_mode()
    def played(self, heard, frame, key):
        """Return how likely the notes were played that seem to begin in these frames and keys [shape=(n,)]."""
        self.network.eval()
        reviewer, likely = self.network.reviewer, np.zeros(len(frame), np.float32)
        for part in np.array_split(np.argsort(frame, kind="stable"), -(-len(frame) // hp.reviewed_notes)):
            first = max(frame[part[0]] - reviewer.before, 0)
            near = torch.from_numpy(heard[None, :, first:frame[part[-1]] + reviewer.after]).to(self.device)
            places = (torch.from_numpy(place).to(self.device) for place in (0 * part, frame[part] - first, key[part]))
            likely[part] = reviewer(near, *places).sigmoid().cpu().numpy()
        return self.checked(likely)

    @torch.inference_mode()
    def lateness(self, heard, frame, key, end, again):
        """Return by how many frames these notes ended later than it seems: see `NoteReviewer`."""
        self.network.eval()
        places = (torch.from_numpy(place).to(self.device) for place in (0 * frame, frame, key, end, again))
        return self.checked(self.network.reviewer.lateness(
            torch.from_numpy(heard[None]).to(self.device), *places).cpu().numpy())

    def image(self, notes, frames):
        """Return the log-mel spectrogram of notes on the target instrument [shape=(n_mels, frames), in [0, 1]]."""
        return to_level(self.play(notes, 0, frames), self.network.decoder.loudest.item())


def to_level(decibels, loudest):
    """Map mel power in dB to [0, 1], the loudest frame at the mean power `loudest` in dB; what is silent, to 0.

    A spectrogram lies in dB below its own maximum. That of summed powers is not the target's, whose partials meet in
    phase now and then; the mean of a frame is nearer.
    """
    frame = loudest_frame(decibels)
    return Util.to_unit(decibels + loudest - frame) if frame > NoteDecoder.silence + 1 else np.zeros_like(decibels)


def loudest_frame(decibels):
    """Return the mean power in dB of the loudest frame of a mel spectrogram in dB [shape=(n_mels, t)]."""
    return 10 * np.log10((10 ** (decibels / 10)).mean(axis=0).max())


def beginnings(heard, onset_threshold, sounding_threshold=hp.sounding_threshold):
    """Return frames and keys, from 0, in which notes seem to begin [shape=(n,) each], key by key: where the onset is at
    its highest within two frames and above its threshold, if the key then sounds."""
    onset, sounding, _ = heard
    padded = np.pad(onset, ((2, 2), (0, 0)))
    before_2, before, after, after_2 = (padded[i:i + len(onset)] for i in (0, 1, 3, 4))
    peaks = (onset > onset_threshold) & (onset >= before) & (onset > after) & (onset >= before_2) & (onset > after_2)
    key, frame = np.nonzero(peaks.T)
    soon = np.minimum(frame[:, None] + (1, 2, 3), len(onset) - 1)
    sounds = sounding[soon, key[:, None]].mean(axis=1) >= sounding_threshold
    return frame[sounds], key[sounds]


def struck_again(key, begin, last):
    """Return when the key of each note is struck next [shape=(n,)], `last` if it is not; of notes key by key, in the
    order of their beginnings."""
    return np.where(np.append(key[1:] == key[:-1], False), np.roll(begin, -1), last)


def seeming_ends(sounding, frame, key, again, ending_threshold=hp.ending_threshold):
    """Return the frames in which notes seem to end [shape=(n,)]: their key no longer sounds [shape=(t, n_keys)], or is
    struck again."""
    frames = np.arange(len(sounding) + 1, dtype=np.int32)[:, None]
    silent = np.pad(sounding < ending_threshold, ((0, 1), (0, 0)), constant_values=True)
    quiet = np.minimum.accumulate(np.where(silent, frames, len(sounding))[::-1])[::-1]  # the next frame without sound
    return np.minimum(quiet[np.minimum(frame + 2, len(sounding)), key], again).astype(np.float32)


def pick_notes(heard, reviewer=None, onset_threshold=hp.onset_threshold, sounding_threshold=hp.sounding_threshold,
               ending_threshold=hp.ending_threshold):
    """Read the notes off what `NoteModel.hear` returns.

    They begin at `beginnings`, between frames as a triangle through the neighbours has it (Kong et al. 2021,
    "High-resolution piano transcription with pedals by regressing onset and offset times"), and last while their key
    sounds, or until it is struck again. A `reviewer`, a NoteModel, has its say in both: of what is even above
    `hp.candidate_threshold` it keeps what it gives `hp.played_threshold`, and it corrects the ends.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
        Onset and end in seconds, MIDI key, velocity from 1 to 127, in the order of the onsets.
    """
    onset, sounding, velocity = heard
    frame, key = beginnings(heard, hp.candidate_threshold if reviewer else onset_threshold, sounding_threshold)
    if reviewer and len(frame):
        kept = reviewer.played(heard, frame, key) > hp.played_threshold
        frame, key = frame[kept], key[kept]
    if not len(frame):
        return np.zeros((0, 4), np.float32)
    before, top, after = (np.pad(onset, ((1, 1), (0, 0)))[frame + i, key] for i in range(3))
    begin = (frame + (after - before) / (2 * (top - np.minimum(after, before)) + 1e-9)).astype(np.float32)
    again = struck_again(key, begin, np.float32(len(onset)))
    end = seeming_ends(sounding, frame, key, again, ending_threshold)
    if reviewer:
        late = reviewer.lateness(heard, frame, key, end, again).clip(-hp.farthest, hp.farthest) - hp.end_lag
        end = np.minimum(np.maximum(end + late, begin + hp.shortest), again)
    seconds = np.stack([begin, end]) * (hp.hop_length / hp.sample_rate)
    notes = np.stack([*seconds, key + hp.lowest_key, np.maximum(127 * velocity[frame, key], 1)], 1)
    return notes[np.lexsort(notes.T[::-1])].astype(np.float32)


def weigh(notes, pitch):
    """Return notes with their velocities told apart by how loud their partials begin.

    The encoder says how hard a recording is played, with an error that differs from note to note; how much louder one
    note is than another can be measured. What is left of the encoder's velocities without the measured levels is taken
    for a smooth curve over the keys, that of piano and microphones; curve and levels make half of the new velocities.
    These are spread a little, as what is learnt with errors is drawn to the middle.

    Parameters
    ----------
    notes : np.ndarray [shape=(n, 4)]
        As `pick_notes` returns them.
    pitch : np.ndarray [shape=(n_pitches, steps), in [0, 1]]
        Pitch spectrogram of the whole recording that they were heard in.

    Returns
    -------
    np.ndarray [shape=(n, 4), float32]
    """
    if not len(notes):
        return notes
    partials = np.log2(np.arange(1, 9))
    bands = np.rint(1 + hp.pitch_bands_per_key * (notes[:, 2, None] - hp.lowest_key + 12 * partials)).astype(int)
    bands = bands[..., None] + np.arange(-1, 2)  # (n, 8, 3)
    audible = bands < hp.n_pitches
    onset = np.rint(notes[:, 0] * hp.sample_rate / hp.pitch_hop_length).astype(int)[:, None, None, None]

    def power(steps):
        image = pitch[np.minimum(bands, hp.n_pitches - 1)[..., None], (onset + steps).clip(0, pitch.shape[1] - 1)]
        return 10 ** (Util.to_db(image.astype(np.float32)) / 10)

    rise = np.maximum(power(np.arange(6)).max(-1) - power(np.arange(-3, -1)).mean(-1), 1e-9)
    measured = hp.velocity_slope * 10 * np.log10((rise * audible).sum((1, 2)) + 1e-9)
    heard, key = np.log(notes[:, 3]), (notes[:, 2] - 60) / 24
    curve = np.stack([np.ones_like(key), key, key ** 2, key ** 3], 1)
    fitted = curve @ np.linalg.lstsq(curve, heard - measured, rcond=None)[0] + measured
    weighed = notes.copy()
    between = heard + hp.velocity_share * (fitted - heard)
    weighed[:, 3] = np.exp(between.mean() + hp.velocity_spread * (between - between.mean())).clip(1, 127)
    return weighed
