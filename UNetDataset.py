"""Pairs of spectrograms for training a U-Net: stored outputs of the autoencoder, and the true electric piano."""
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Util
from AEDataset import AEDataset, StoredSpectrogram, map_spectrogram
from AEModel import NoteModel, digest, load_model
from Autoencoder import Autoencoder
from GeneratedFiles import settings_digest

# settings that the output of a note autoencoder depends on
decoding_settings = ("min_note_frames", "velocity_per_db", "silence_threshold", "decoder_silence",
                     "decoder_min_release", "decoder_inaudible", "refiner_candidate_threshold",
                     "refiner_candidate_frame_threshold", "refiner_threshold", "refiner_onset_bias", "offset_longer",
                     "offset_distance_weight",
                     "reverberation_delay_s", "reverberation_decay_s", "reverberation_share", "reverberation_floor")


class UNetDataset(AEDataset):
    """`AEDataset` with stored outputs of an autoencoder in place of the recordings, without augmentation.

    The outputs are those that `write_outputs` writes. An item's source has the shape (in_channels, n_mels, t).

    Parameters
    ----------
    names, data, sources, augmented
        As for `AEDataset`; `augmented` has no effect.
    in_channels : int
        1 for the output alone, 2 for the output and the recording.
    own_level : bool
        Whether the target is brought to the level of the output. The output of a note autoencoder has its own level,
        which is all that is known when a recording is played.
    model : str
        Name of the model that the autoencoder belongs to.
    """

    def __init__(self, names, data=None, sources=("piano",), augmented=False, in_channels=1, own_level=False,
                 model="own"):
        data = hp.data if data is None else data
        self.in_channels, self.own_level, self.model, self.gains = in_channels, own_level, model, {}
        super().__init__(names, data, sources)

    def load(self, name, data, sources):
        return [StoredSpectrogram(path) for source in sources for path in (
            output_path(name, source, data, self.model),
            data / "generated" / name / f"{source}.npy")[:self.in_channels]]

    def __getitem__(self, key):
        piece, start, frames, seed = key if isinstance(key, tuple) else (key, 0, self.targets[key].shape[-1], None)
        number = len(self.sources[piece]) // self.in_channels
        first = self.in_channels * (np.random.default_rng(seed).integers(number) if seed is not None else 0)
        clip = self.sources[piece][first:first + self.in_channels]
        images = (image[:, start:start + frames].float() for image in (*clip, self.targets[piece]))
        *source, target = (torch.nn.functional.pad(image, (0, frames - image.shape[1])) for image in images)
        if self.own_level:
            target = torch.from_numpy(apply_gain(target.numpy(), self.gain(piece, first)))
        return torch.stack(source), target[None]

    def gain(self, piece, first):
        """Return by how many dB an output is louder than its target, over the whole piece. The result is kept."""
        if (piece, first) not in self.gains:
            images = (image[:].numpy() for image in (self.targets[piece], self.sources[piece][first]))
            self.gains[piece, first] = level_difference(*images)
        return self.gains[piece, first]


def output_path(name, source, data, model="own"):
    """Return where `write_outputs` stores the output for a piece on a piano."""
    return Path(data) / "ae_output" / model / (f"{name}.npy" if source == "piano" else f"{source}/{name}.npy")


def write_outputs(weights, names, data=None, device="cpu", sources=("piano",), bfloat16=True, model="own"):
    """Write the output of an autoencoder for every piece on every piano; see `output_path`.

    An output is kept if it is newer than its spectrogram, and made by the same weights with the same settings, as
    data/ae_output/<model>/weights.txt says.

    Parameters
    ----------
    weights : Path
        Weights of the autoencoder.
    names : list of str
        Pieces.
    data : Path, optional
        By default `hp.data`.
    device : torch.device or str
    sources : list of str
        Pianos.
    bfloat16 : bool
        Whether the autoencoder computes in mixed precision.
    model : str
        Name of the model, which is the folder to write to.

    Raises
    ------
    FileNotFoundError, ValueError
        As `AEModel.load_model`.
    """
    data = Path(hp.data if data is None else data)
    network = load_model(Autoencoder, weights, Util.choose_device(device))
    network.bfloat16 = bfloat16
    folder = data / "ae_output" / model
    note, text = folder / "weights.txt", describe_outputs(network, weights, data)
    if not note.exists() or Util.read_text(note) != text:
        for path in folder.rglob("*.npy"):
            path.unlink()
        Util.save_text(note, text)
    stale = [(name, source) for source in sources for name in names if not Util.is_up_to_date(
        output_path(name, source, data, model), weights, data / "generated" / name / f"{source}.npy")]
    for name, source in tqdm(stale, desc="ae_output", unit="piece", disable=not stale):
        Util.save_array(output_path(name, source, data, model), make_output(network, name, source, data))


def describe_outputs(network, weights, data):
    """Return the text of weights.txt: the weights, their digest, and the settings that the outputs depend on."""
    words = [Path(os.path.relpath(weights, data)).as_posix(), digest(network.network.state_dict())]
    if not network.bfloat16:
        words.append("in single precision")
    if isinstance(network, NoteModel):
        words += ["at a level of their own, with settings", settings_digest(*decoding_settings)]
    return " ".join(words) + "\n"


def make_output(network, name, source, data):
    """Return the output of an autoencoder for a piece on a piano [shape=(n_mels, t), float16]."""
    folder = data / "generated" / name
    piano = map_spectrogram(folder / f"{source}.npy").float().numpy()
    if not isinstance(network, NoteModel):
        return network.generate(piano).astype(np.float16)
    path = folder / f"{source}_pitch.npy"
    if path.exists():
        pitch = map_spectrogram(path).float().numpy()
    else:  # `DatasetCreator.build` writes it only for pieces with notes
        recording = DatasetCreator.find_pairs(data, source)[name][0]
        pitch = DatasetCreator.read_pitch_spectrogram(recording, piano.shape[1])
    return network.generate(pitch, piano).astype(np.float16)


def level_difference(output, target):
    """Return by how many dB the mean power of `target` is above that of `output`, two spectrograms in [0, 1]."""
    powers = [np.mean(10 ** (Util.to_db(image) / 10)) for image in (output, target)]
    return 10 * np.log10(powers[1] / powers[0])


def apply_gain(image, decibels):
    """Return a spectrogram in [0, 1] with a gain in dB. Silence stays silent."""
    return np.where(image > 0, Util.to_unit(Util.to_db(image) + decibels), 0).astype(np.float32)


def match_level(output, target):
    """Bring a spectrogram in [0, 1] to the mean power of another.

    The output of a note autoencoder has its own level. The level of the audio is set at the end.
    """
    return apply_gain(output, level_difference(output, target))
