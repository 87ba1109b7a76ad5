"""Define the note autoencoder: encoder, note refiner and table decoder."""
import torch
from torch import nn

import Hyperparameters as hp
import Util
from notes.note_heads import OffsetHead, SequenceHead
from notes.table_decoder import TableDecoder

n_details = 24              # principal components of the encoder's last layer, per key and step
detail_onset_spans = (-8, -3), (-3, -1), (-1, 0), (0, 1), (1, 2), (2, 4), (4, 10)   # steps around an onset candidate
detail_other_keys = (-12, 12, 19)   # semitones to keys of which the onset head sees details too
detail_other_span = -1, 2           # steps around an onset candidate, for these keys
detail_offset_spans = (-8, -3), (-3, -1), (-1, 0), (0, 1), (1, 3), (3, 8)           # steps around an offset candidate
detail_begin_spans = (-3, 0), (0, 1), (1, 4), (4, 12)       # steps around the onset of the note whose offset is sought
n_onset_features = 210      # values that `post_processing.onset_features` returns for each onset candidate
n_offset_features = 37      # and the functions that these are named after
n_velocity_features = 32
n_order_features = 3
n_partial_features = 37
n_phase_features = 2
velocity_scale = 0.3        # of the velocity's logarithm, the unit in which it is corrected


class ConvBlock(nn.Sequential):
    """Apply a convolution that keeps the image size, batch normalisation and ReLU."""

    def __init__(self, inputs, outputs, kernel, dilation=(1, 1)):
        padding = tuple(size // 2 * distance for size, distance in zip(kernel, dilation))
        super().__init__(nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
                         nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def stack_harmonics(pitch, mel, bands, weights):
    """Return the bands of each key's partials in both spectrograms [shape=(batch, features, steps, n_keys)]. `pitch`
    has the shape (batch, n_pitches, steps), and `mel` (batch, n_mels, t) with two frames per step. `bands` and
    `weights` are the flattened outputs of `partial_bands` and `partial_mel_weights`."""
    pitch, mel = pitch.transpose(1, 2), nn.functional.pad(mel, (0, mel.shape[2] % 2)).transpose(1, 2)
    batch, steps, _ = pitch.shape
    own = nn.functional.pad(pitch, (0, 1))[..., bands].view(batch, steps, hp.n_keys, -1)
    sharp = (mel @ weights.to(mel.dtype)).view(batch, steps, 2, hp.n_keys, -1)
    return torch.cat([own, sharp.transpose(2, 3).flatten(3)], -1).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Apply one residual stage of the `HarmonicEncoder`. The first convolution spans neighbouring keys and frames. A
    second spans distant frames, `dilation` steps apart, and a third the octaves below and above."""

    def __init__(self, channels, dilation):
        super().__init__()
        self.near = ConvBlock(channels, channels, (3, 3))
        self.long = ConvBlock(channels, channels, (3, 1), (dilation, 1))
        self.octaves = ConvBlock(channels, channels, (1, 3), (1, 12))

    def forward(self, x):
        """Map [shape=(batch, channels, steps, n_keys)] to the same shape."""
        x = x + self.near(x)
        return x + self.long(x) + self.octaves(x)


class HarmonicEncoder(nn.Module):
    """Predict onset, sounding, velocity and offset of each key in each frame.

    The network convolves an image of time x keys. All keys share the same weights. The input of a key is the bands of
    its partials in both spectrograms (harmonic stacking [1]_). One step is two frames of the mel spectrogram. Each
    stage spans a longer time and the neighbouring octaves, where most false positives lie (dilated convolutions along
    harmonics [2]_). Dilated layers [3]_ between the two halves of the stages connect all keys over a longer time.

    The sizes are those of `hp.encoder_form`, unless given: channels per key in the `first` layer and in the others
    (`channels`), the dilation in steps of each of the `stages`, channels per key around the dilated layers (`narrow`)
    and for all keys together within them (`width`), and the number of these `layers`, whose dilation doubles.

    References
    ----------
    .. [1] R. Bittner et al.: A Lightweight Instrument-Agnostic Model for Polyphonic Note Transcription and Multipitch
       Estimation. ICASSP 2022.
    .. [2] W. Wei et al.: HPPNet: Modeling the Harmonic Structure and Pitch Invariance in Piano Transcription.
       ISMIR 2022.
    .. [3] A. van den Oord et al.: WaveNet: A Generative Model for Raw Audio. 2016, https://arxiv.org/abs/1609.03499
    """

    outputs = 4

    def __init__(self, **form):
        super().__init__()
        first, channels, stages, narrow, width, layers = {**hp.encoder_form, **form}.values()
        bands, mels = partial_bands(hp.encoder_partials), partial_mel_weights(hp.encoder_mel_partials)
        self.register_buffer("bands", bands.flatten(), persistent=False)
        self.register_buffer("mels", mels.flatten(1), persistent=False)
        self.stem = nn.Conv2d(bands.shape[1] + 2 * len(hp.encoder_mel_partials), first, 1)
        self.key = nn.Parameter(torch.zeros(1, first, 1, hp.n_keys))
        self.time = ConvBlock(first, channels, (3, 1))
        self.stages = nn.ModuleList(Stage(channels, dilation) for dilation in stages)
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.gather = nn.Conv2d(narrow * hp.n_keys, width, (1, 3), padding=(0, 1))
        self.dilated = nn.ModuleList(nn.Conv2d(width, width, (1, 3), padding=(0, 2 ** i), dilation=(1, 2 ** i))
                                     for i in range(layers))
        self.spread = nn.Conv2d(width, narrow * hp.n_keys, 1)
        self.merge = ConvBlock(channels + narrow, channels, (3, 3))
        self.head = nn.Conv2d(channels, 2 * self.outputs, 1)
        with torch.no_grad():  # most keys are silent most of the time
            self.head.bias[:2] = self.head.bias[6:] = -4
            self.head.bias[2:4] = -2

    def forward(self, pitch, mel):
        """Return the logits of onset, sounding, velocity and offset [shape=(batch, 4, t, n_keys)] of a pitch
        spectrogram [shape=(batch, n_pitches, ceil(t / 2))] and a mel spectrogram [shape=(batch, n_mels, t)]."""
        return frame_values(self.head, self.last_layer(pitch, mel))[:, :, :mel.shape[2]]

    def last_layer(self, pitch, mel):
        """Return the values of the last layer before the outputs [shape=(batch, channels, steps, n_keys)]."""
        batch, _, steps = pitch.shape
        x = self.time(nn.functional.relu(self.stem(stack_harmonics(pitch, mel, self.bands, self.mels)) + self.key))
        half = len(self.stages) // 2
        for stage in self.stages[:half]:
            x = stage(x)
        all_keys = self.squeeze(x).permute(0, 2, 3, 1).flatten(2)[:, None].permute(0, 3, 1, 2)  # (batch, _, 1, steps)
        all_keys = nn.functional.relu(self.gather(all_keys))
        for layer in self.dilated:
            all_keys = all_keys + nn.functional.relu(layer(all_keys))
        known = self.spread(all_keys).permute(0, 2, 3, 1).view(batch, steps, hp.n_keys, -1).permute(0, 3, 1, 2)
        x = x + self.merge(torch.cat([x, nn.functional.relu(known)], 1))
        for stage in self.stages[half:]:
            x = stage(x)
        return x


def frame_values(layer, x):
    """Return the outputs of a convolution that has two frames for each step [shape=(batch, outputs, t, n_keys)]."""
    return layer(x).unflatten(1, (-1, 2)).transpose(2, 3).flatten(2, 3)


class NoteRefiner(nn.Module):
    """Hold the heads that decide which notes a `HarmonicEncoder` has found: see notes/post_processing.py.

    `onset_head` classifies onset candidates as played or not. `offset_head` scores offset candidates. `velocity_head`
    predicts the error of the logarithm of a note's velocity, in units of `velocity_scale`. The heads see `details`,
    principal components of the encoder's last layer, which has so many `channels`. They are zero until
    `head_training.find_details` sets them.
    """

    def __init__(self, channels=hp.encoder_form["channels"]):
        super().__init__()
        details = min(n_details, channels // 2 * 2)
        self.details = nn.Conv2d(channels, details, 1).requires_grad_(False)
        nn.init.zeros_(self.details.weight)
        self.onset_head = SequenceHead(
            3 * n_onset_features + n_order_features + details * (len(detail_onset_spans) + len(detail_other_keys)))
        self.offset_head = OffsetHead(
            n_offset_features + details * (len(detail_offset_spans) + len(detail_begin_spans)))
        self.velocity_head = SequenceHead(
            n_velocity_features + n_order_features + n_partial_features + n_phase_features, with_keys=True)


class NoteAutoencoder(nn.Module):
    """Combine the parts of an autoencoder whose latent representation is a list of notes. The decoder is a
    `TableDecoder` or `SampledVoice`, by default a new table. `form` has sizes of the `HarmonicEncoder`."""

    name = "an autoencoder"
    in_channels = 2

    def __init__(self, decoder=None, **form):
        super().__init__()
        self.encoder = HarmonicEncoder(**form)
        self.decoder = decoder or TableDecoder()
        self.refiner = NoteRefiner(self.encoder.head.in_channels)

    @classmethod
    def from_state(cls, state, decoder=None):
        """Return an untrained network with the sizes of a state_dict and with the given decoder. Raises KeyError if the
        state_dict is that of another kind of network."""
        def count(name):
            return len({key.split(".")[2] for key in state if key.startswith(f"encoder.{name}.")})

        return cls(decoder, first=len(state["encoder.stem.weight"]), channels=len(state["encoder.time.0.weight"]),
                   stages=hp.encoder_form["stages"][:count("stages")], narrow=len(state["encoder.squeeze.weight"]),
                   width=len(state["encoder.gather.weight"]), layers=count("dilated"))

    def forward(self, pitch, mel):
        """Return the logits of `HarmonicEncoder.forward`, and behind them the details that the refiner takes
        [shape=(batch, n_details / 2, t, n_keys)], half of them in each frame of a step."""
        x = self.encoder.last_layer(pitch, mel)
        return torch.cat([frame_values(layer, x) for layer in (self.encoder.head, self.refiner.details)],
                         1)[:, :, :mel.shape[2]]


def partial_bands(partials):
    """Return the indices of three pitch bands around each partial of each key [shape=(n_keys, 3 * partials), int64].
    `partials` are frequency ratios to the fundamental. `hp.n_pitches` stands for a band outside the spectrogram."""
    keys = torch.arange(hp.n_keys)[:, None]
    centre = torch.round(1 + hp.pitch_bands_per_key * (keys + 12 * torch.log2(torch.tensor(partials).double())))
    band = (centre[..., None] + torch.arange(-1, 2)).flatten(1).long()
    return band.where((band >= 0) & (band < hp.n_pitches), hp.n_pitches)


def partial_mel_weights(partials):
    """Return the weights of the two mel bands around each partial (frequency ratio) of each key
    [shape=(n_mels, n_keys, partials)]."""
    centre = torch.from_numpy(Util.mel_frequencies(hp.n_mels + 2)[1:-1])
    keys = torch.arange(hp.lowest_key, hp.lowest_key + hp.n_keys)[:, None]
    hertz = 440 * 2 ** ((keys - 69) / 12) * torch.tensor(partials).double()
    above = torch.searchsorted(centre, hertz).clamp(1, hp.n_mels - 1)
    share = ((hertz - centre[above - 1]) / (centre[above] - centre[above - 1])).clamp(0, 1)
    audible = (hertz <= hp.fmax).double()
    weights = torch.zeros(hp.n_mels, *hertz.shape, dtype=torch.float64)
    weights.scatter_add_(0, above[None] - 1, ((1 - share) * audible)[None])
    weights.scatter_add_(0, above[None], (share * audible)[None])
    return weights.float()
