"""Define the note autoencoder: encoders, note classifier, note refiner and table decoder."""
import torch
from torch import nn

import Hyperparameters as hp
import Util
from NoteHeads import MLPHead, OffsetHead, SequenceHead


class ConvBlock(nn.Sequential):
    """Apply a convolution that keeps the image size, batch normalisation and ReLU."""

    def __init__(self, inputs, outputs, kernel):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=tuple(size // 2 for size in kernel), bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class NoteEncoder(nn.Module):
    """Predict onset, sounding and velocity of each key in each frame.

    The network convolves an image of time x keys. All keys share the same weights. The input of a key is the bands of
    its partials in both spectrograms (harmonic stacking: Bittner et al. 2022, "A Lightweight Instrument-Agnostic Model
    for Polyphonic Note Transcription and Multipitch Estimation"). Dilated layers (van den Oord et al. 2016,
    https://arxiv.org/abs/1609.03499) then connect all keys over a longer time. One step is two frames of the mel
    spectrogram.

    Parameters
    ----------
    first, channels : int
        Channels per key in the first layer, and in the other layers.
    blocks : int
        Number of 3 x 3 residual convolutions before the dilated layers.
    narrow, width : int
        Channels per key around the dilated layers, and channels within them for all keys together.
    layers : int
        Number of dilated layers. The dilation doubles from layer to layer.
    """

    def __init__(self, **form):
        super().__init__()
        first, channels, blocks, narrow, width, layers = {**hp.encoder_form, **form}.values()
        bands, mels = partial_bands(hp.encoder_partials), partial_mel_weights(hp.encoder_mel_partials)
        self.register_buffer("bands", bands.flatten(), persistent=False)
        self.register_buffer("mels", mels.flatten(1), persistent=False)
        self.stem = nn.Conv2d(bands.shape[1] + 2 * len(hp.encoder_mel_partials), first, 1)
        self.key = nn.Parameter(torch.zeros(1, first, 1, hp.n_keys))
        self.time = ConvBlock(first, channels, (3, 1))
        self.blocks = nn.ModuleList(ConvBlock(channels, channels, (3, 3)) for _ in range(blocks))
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.gather = nn.Conv2d(narrow * hp.n_keys, width, (1, 3), padding=(0, 1))
        self.dilated = nn.ModuleList(nn.Conv2d(width, width, (1, 3), padding=(0, 2 ** i), dilation=(1, 2 ** i))
                                     for i in range(layers))
        self.spread = nn.Conv2d(width, narrow * hp.n_keys, 1)
        self.last = ConvBlock(channels + narrow, channels, (3, 3))
        self.head = nn.Conv2d(channels, 6, 1)
        with torch.no_grad():  # most keys are silent most of the time
            self.head.bias[:2] = -4
            self.head.bias[2:4] = -2

    def forward(self, pitch, mel):
        """Return the logits of onset, sounding and velocity [shape=(batch, 3, t, n_keys)].

        `pitch` is a pitch spectrogram [shape=(batch, n_pitches, ceil(t / 2)), in [0, 1]], and `mel` a mel spectrogram
        [shape=(batch, n_mels, t), in [0, 1]].
        """
        frames, (batch, _, steps) = mel.shape[2], pitch.shape
        x = self.time(nn.functional.relu(self.stem(stack_harmonics(pitch, mel, self.bands, self.mels)) + self.key))
        for block in self.blocks:
            x = x + block(x)
        all_keys = self.squeeze(x).permute(0, 2, 3, 1).flatten(2)[:, None].permute(0, 3, 1, 2)  # (batch, _, 1, steps)
        all_keys = nn.functional.relu(self.gather(all_keys))
        for layer in self.dilated:
            all_keys = all_keys + nn.functional.relu(layer(all_keys))
        known = self.spread(all_keys).permute(0, 2, 3, 1).view(batch, steps, hp.n_keys, -1).permute(0, 3, 1, 2)
        y = self.head(x + self.last(torch.cat([x, nn.functional.relu(known)], 1)))
        return y.view(batch, 3, 2, steps, hp.n_keys).transpose(2, 3).flatten(2, 3)[:, :, :frames]


def stack_harmonics(pitch, mel, bands, weights):
    """Return the bands of each key's partials in both spectrograms [shape=(batch, features, steps, n_keys)].

    `pitch` has the shape (batch, n_pitches, steps), and `mel` (batch, n_mels, t) with two frames per step. `bands` and
    `weights` are the flattened outputs of `partial_bands` and `partial_mel_weights`.
    """
    pitch, mel = pitch.transpose(1, 2), nn.functional.pad(mel, (0, mel.shape[2] % 2)).transpose(1, 2)
    batch, steps, _ = pitch.shape
    own = nn.functional.pad(pitch, (0, 1))[..., bands].view(batch, steps, hp.n_keys, -1)
    sharp = (mel @ weights.to(mel.dtype)).view(batch, steps, 2, hp.n_keys, -1)
    return torch.cat([own, sharp.transpose(2, 3).flatten(3)], -1).permute(0, 3, 1, 2)


decibel = 10 / torch.log(torch.tensor(10.0)).item()  # dB per unit of the natural logarithm of power


class NoteDecoder(nn.Module):
    """Decode notes to the mel spectrogram of the target instrument with a learnt table.

    The table holds the level of each key in dB, per mel band and per knot. A knot is a time since the onset. Levels
    between knots are interpolated linearly, so an onset can lie between two frames. Two parameters per band set the
    growth of the level with velocity. A third sets its decay in dB per frame after the offset. The powers of all notes
    are summed.
    """

    def __init__(self):
        super().__init__()
        dense, geometric = torch.arange, lambda first, last, n: torch.logspace(*torch.tensor(
            [float(first), float(last)]).log10(), n)
        knots = torch.cat([dense(-4, 16), dense(16, 64, 2), dense(64, 160, 4), geometric(160, 1000, 16)]).float()
        self.register_buffer("knots", knots, persistent=False)  # frames since the onset; the last is at 11.6 s
        level = -40 - knots.clamp(min=0) / 10  # late knots of a rare key get no training data and keep this value
        level[knots < 0] = -95
        self.level = nn.Parameter(level[None, :, None].repeat(hp.n_keys, 1, hp.n_mels))
        self.register_buffer("loudest", torch.tensor(-15.0))
        self.loudness = nn.Parameter(torch.full((hp.n_keys, 1, hp.n_mels), 40.0))  # dB per decade of velocity
        self.slope = nn.Parameter(torch.zeros(hp.n_keys, 1, hp.n_mels))            # dB per full range of velocity
        self.release = nn.Parameter(torch.full((hp.n_keys, hp.n_mels), 1.5))       # dB per frame

    def forward(self, notes, first, frames):
        """Return the mel power in dB of notes.

        Parameters
        ----------
        notes : torch.Tensor [shape=(n, 4)]
            Onset and offset in seconds, MIDI key, velocity from 1 to 127. Keys outside the piano's range, such as 0,
            are ignored.
        first : int
            First frame to return.
        frames : int
            Number of frames to return.

        Returns
        -------
        torch.Tensor [shape=(n_mels, frames)]
            Mel power in dB. A silent frame has the value `hp.decoder_silence`.
        """
        onset, end = notes[:, :2].T * (hp.sample_rate / hp.hop_length)
        key = notes[:, 2].long() - hp.lowest_key
        start, last = self.knots[0], self.knots[-1]
        known = (key >= 0) & (key < hp.n_keys)
        release = self.release.clamp(min=hp.decoder_min_release)
        falling = release.amin(1)[key.clamp(0, hp.n_keys - 1)]  # slowest band of each key
        audible = known & (onset + start < first + frames) & (end + hp.decoder_inaudible / falling > first)
        if not audible.any():
            return self.level.new_full((hp.n_mels, frames), hp.decoder_silence)
        onset, end, key, velocity = onset[audible], end[audible], key[audible], (notes[audible, 3] / 127).clamp(0.02, 1)
        now = torch.arange(first, first + frames, device=notes.device)[None]
        since = now - onset[:, None]
        within = since.clamp(start, last - 1)
        knot = torch.bucketize(within, self.knots, right=True).clamp(1, len(self.knots) - 1)
        share = (within - self.knots[knot - 1]) / (self.knots[knot] - self.knots[knot - 1])
        table, row = self.level.flatten(0, 1), key[:, None] * len(self.knots) + knot
        before, after = (nn.functional.embedding(index, table) for index in (row - 1, row))
        level = torch.lerp(before, after, share[..., None])
        level = level + (self.loudness[key] * (torch.log10(velocity) + 0.22)[:, None, None]
                         + self.slope[key] * (velocity - 0.6)[:, None, None])
        level = level - release[key][:, None] * (now - end[:, None]).clamp(min=0)[..., None]
        level = level.masked_fill((since < start)[..., None], hp.decoder_silence)
        return torch.logsumexp(level / decibel, 0).T * decibel


class NoteClassifier(nn.Module):
    """Classify onset candidates as played or not, and correct the offsets of played notes.

    False positives are overtones, echoes or noise. The predictions for keys with common partials help to tell them
    from played notes. Offsets use the other keys too, since many notes end together when the pedal is released.

    The methods share these parameters:

    Parameters
    ----------
    predictions : torch.Tensor [shape=(batch, 3, t, n_keys), in [0, 1]]
        Onset, sounding and velocity, as `NoteEncoder` predicts them.
    clip : torch.Tensor [shape=(n,), int64]
        Index in the batch of each note.
    frame, key : torch.Tensor [shape=(n,), int64]
        Onset frame and key of each note. Key 0 is the lowest of the piano.
    end : torch.Tensor [shape=(n,)]
        Estimated offset in frames.
    next_onset : torch.Tensor [shape=(n,)]
        Frame of the next onset of the same key.
    """

    keys = tuple(sorted(sign * distance for sign in (-1, 1) for distance in (
        1, 2, 3, 4, 5, 7, 12, 16, 19, 24, 28, 31, 36)))  # distances in semitones of the other keys in the features
    before, after = 14, 45                               # frames before and after the onset in the features
    onset_inputs = 7 * len(keys) + 28                    # features of an onset candidate
    offset_steps = tuple(range(-48, 49, 4))              # frames relative to the estimated offset

    def __init__(self):
        super().__init__()
        self.onset_head, self.offset_head = MLPHead(self.onset_inputs), MLPHead(3 * len(self.offset_steps) + 3)

    def forward(self, predictions, clip, frame, key):
        """Return for each note the logit of the probability that it was played [shape=(n,)]."""
        return self.onset_head(self.onset_features(predictions, clip, frame, key))

    def offset_shift(self, predictions, clip, frame, key, end, next_onset):
        """Return the predicted correction of each estimated offset in frames, positive if later [shape=(n,)]."""
        features = self.offset_features(predictions, clip, frame, key, end, next_onset)
        return hp.offset_loss_frames * self.offset_head(features)

    @classmethod
    def onset_features(cls, predictions, clip, frame, key):
        """Return the features that tell whether each note was played [shape=(n, onset_inputs)]."""
        reach, at = max(cls.keys), cls.before  # index of the note's own key and frame after padding
        padded = nn.functional.pad(predictions[:, :3], (reach, reach, cls.before, cls.after)).unbind(1)
        frames = (frame[:, None] + torch.arange(cls.before + cls.after, device=frame.device))[..., None]
        own, others = key[:, None] + reach, key[:, None] + reach + torch.tensor(cls.keys, device=key.device)
        onset, sounding, velocity = (image[clip[:, None, None], frames, others[:, None]] for image in padded)
        struck, sounds, hard = (image[clip[:, None, None], frames, own[:, None]][..., 0] for image in padded)
        loudness = (127 * hard[:, at]).clamp(min=1).log()[:, None]
        harder = (127 * velocity[:, at - 1:at + 2]).clamp(min=1).log() - loudness[..., None]
        return torch.cat([
            onset[:, :at - 3].amax(1), onset[:, at - 3:at + 4].amax(1), onset[:, at + 4:at + 14].amax(1),
            *(sounding[:, at + first:at + last].mean(1) for first, last in ((-8, -3), (1, 7), (12, 24))),
            (harder * (onset[:, at - 1:at + 2] > 0.1)).sum(1) / 3,
            struck[:, at - 4:at + 5], sounds[:, at - 10:at:2], sounds[:, at::4], loudness - 4,
            key[:, None] / hp.n_keys - 0.5], 1)

    def offset_features(self, predictions, clip, frame, key, end, next_onset):
        """Return the features for the correction of offsets [shape=(n, 3 * len(offset_steps) + 3)]."""
        sounding, last = predictions[:, 1], predictions.shape[2] - 1
        frames = torch.arange(last + 1, device=predictions.device)
        released = (sounding[:, (frames - 2).clamp(min=0)] - sounding[:, (frames + 2).clamp(max=last)]).clamp(min=0)
        near = (end.round().long()[:, None] + torch.tensor(self.offset_steps, device=end.device)).clamp(0, last)
        return torch.cat([
            sounding[clip[:, None], near, key[:, None]], released.sum(2)[clip[:, None], near].clamp(max=8) / 2,
            sounding.sum(2)[clip[:, None], near] / 10, (end - frame).clamp(min=1).log()[:, None] / 3,
            key[:, None] / hp.n_keys - 0.5, ((next_onset - end) / 60).clamp(max=1)[:, None]], 1)


class Stage(nn.Module):
    """Apply one residual stage of the `HarmonicEncoder`.

    The first convolution spans neighbouring keys and frames. A second spans distant frames, and a third the octaves
    below and above.

    Parameters
    ----------
    channels : int
        Channels per key.
    dilation : int
        Distance in steps of the frames in the second convolution.
    """

    def __init__(self, channels, dilation):
        super().__init__()
        self.near = ConvBlock(channels, channels, (3, 3))
        self.long = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1), bias=False),
            nn.BatchNorm2d(channels), nn.ReLU())
        self.octaves = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 12), dilation=(1, 12), bias=False),
            nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x):
        """Map [shape=(batch, channels, steps, n_keys)] to the same shape."""
        x = x + self.near(x)
        return x + self.long(x) + self.octaves(x)


class HarmonicEncoder(nn.Module):
    """Predict onset, sounding, velocity and offset of each key in each frame.

    The input is that of `NoteEncoder`, and each key has more channels. Each stage spans a longer time and the
    neighbouring octaves, where most false positives lie (dilated convolutions along harmonics [1]_). Dilated layers
    that connect all keys lie between the two halves of the stages.

    Parameters
    ----------
    first : int
        Channels per key in the first layer.
    channels : int
        Channels per key in the other layers.
    stages : sequence of int
        Dilation of each stage, in steps.
    narrow, width, layers : int
        As in `NoteEncoder`.

    References
    ----------
    .. [1] W. Wei et al.: HPPNet: Modeling the Harmonic Structure and Pitch Invariance in Piano Transcription.
       ISMIR 2022.
    """

    outputs = 4

    def __init__(self, **form):
        super().__init__()
        first, channels, stages, narrow, width, layers = {**hp.harmonic_encoder_form, **form}.values()
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
        """Return logits of onset, sounding, velocity and offset [shape=(batch, 4, t, n_keys)]: see `NoteEncoder`."""
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
    """Hold the networks that find and refine the notes of a `HarmonicEncoder`: see NoteRefinement.py.

    `onset_head` classifies onset candidates as played or not. `offset_head` scores offset candidates. `velocity_head`
    predicts the error of the logarithm of a note's velocity, in units of `hp.velocity_scale`.

    Parameters
    ----------
    form : str
        "views", or a form of earlier weights. "context" has no `details`, and both runs of its encoder are on the same
        spectrograms. "early" has no onset head, and its heads see single notes. In "sequence", only the velocity head
        sees other notes, by convolutions alone.
    channels : int
        Channels of the encoder's last layer.

    Attributes
    ----------
    details : nn.Conv2d
        Principal components of the encoder's last layer: see `RefinerTraining.find_details`. Zero at first.
    """

    def __init__(self, form="views", channels=hp.harmonic_encoder_form["channels"]):
        super().__init__()
        self.form, onset, offset = form, NoteClassifier.onset_inputs, hp.refiner_offset_features
        velocity, self.details = hp.refiner_velocity_features, None
        if form == "views":
            details = min(hp.refiner_details, channels // 2 * 2)
            self.details = nn.Conv2d(channels, details, 1).requires_grad_(False)
            nn.init.zeros_(self.details.weight)  # not found yet
            onset = 3 * onset + details * (len(hp.detail_onset_spans) + len(hp.detail_other_keys))
            offset = offset + details * (len(hp.detail_offset_spans) + len(hp.detail_begin_spans))
        if form in ("views", "context"):
            self.onset_head = SequenceHead(onset + hp.refiner_order_features)
            self.offset_head = OffsetHead(offset)
            self.velocity_head = SequenceHead(velocity + hp.refiner_order_features + hp.refiner_partial_features
                                              + hp.refiner_phase_features, with_keys=True)
        else:
            self.onset_head = None if form == "early" else MLPHead(onset)
            self.offset_head = MLPHead(offset)
            self.velocity_head = MLPHead(velocity) if form == "early" else SequenceHead(
                velocity + hp.refiner_order_features + hp.refiner_partial_features, pooled=False)


class NoteAutoencoder(nn.Module):
    """Combine the parts of an autoencoder whose latent representation is a list of notes.

    Parameters
    ----------
    with_classifier : bool
        Add a `NoteClassifier`. A `HarmonicEncoder` never has one.
    decoder : NoteDecoder or SampledVoice, optional
        Decoder of the notes. The default is a new `NoteDecoder`.
    harmonic : bool
        Use a `HarmonicEncoder` and a `NoteRefiner` instead of a `NoteEncoder`.
    refiner_form : str
        See `NoteRefiner`.
    **form
        Sizes of the encoder: see the parameters of the encoders.
    """

    name = "an autoencoder"
    in_channels = 2

    def __init__(self, with_classifier=True, decoder=None, harmonic=False, refiner_form="views", **form):
        super().__init__()
        self.encoder = (HarmonicEncoder if harmonic else NoteEncoder)(**form)
        self.decoder = decoder or NoteDecoder()
        self.classifier = NoteClassifier() if with_classifier and not harmonic else None
        self.refiner = NoteRefiner(refiner_form, self.encoder.head.in_channels) if harmonic else None

    @classmethod
    def from_state(cls, state, decoder=None):
        """Return an untrained network with the sizes of a state_dict and with the given decoder.

        Raises KeyError if the state_dict is that of another kind of network.
        """
        def count(name):
            return len({key.split(".")[2] for key in state if key.startswith(f"encoder.{name}.")})

        form = dict(first=len(state["encoder.stem.weight"]), channels=len(state["encoder.time.0.weight"]),
                    narrow=len(state["encoder.squeeze.weight"]), width=len(state["encoder.gather.weight"]),
                    layers=count("dilated"))
        harmonic = "encoder.merge.0.weight" in state
        form |= {"stages": hp.harmonic_encoder_form["stages"][:count("stages")]} if harmonic else {
            "blocks": count("blocks")}
        refiner_form = ("views" if "refiner.details.weight" in state
                        else "context" if "refiner.velocity_head.same_key.weight" in state
                        else "sequence" if "refiner.onset_head.scale.weight" in state else "early")
        return cls("classifier.onset_head.scale.weight" in state, decoder, harmonic, refiner_form, **form)

    def forward(self, pitch, mel):
        """Return the encoder's logits of two spectrograms: see `NoteEncoder.forward`. Behind them lie the details that
        a refiner takes [shape=(batch, refiner_details / 2, t, n_keys)], half of them in each frame of a step."""
        if not self.refiner or not self.refiner.details:
            return self.encoder(pitch, mel)
        x = self.encoder.last_layer(pitch, mel)
        return torch.cat([frame_values(layer, x) for layer in (self.encoder.head, self.refiner.details)],
                         1)[:, :, :mel.shape[2]]


def partial_bands(partials):
    """Return the indices of three pitch bands around each partial of each key [shape=(n_keys, 3 * partials), int64].

    `partials` is a sequence of frequency ratios to the fundamental. The index `hp.n_pitches` stands for a band outside
    the pitch spectrogram.
    """
    keys = torch.arange(hp.n_keys)[:, None]
    centre = torch.round(1 + hp.pitch_bands_per_key * (keys + 12 * torch.log2(torch.tensor(partials).double())))
    band = (centre[..., None] + torch.arange(-1, 2)).flatten(1).long()
    return band.where((band >= 0) & (band < hp.n_pitches), hp.n_pitches)


def partial_mel_weights(partials):
    """Return the weights of the two mel bands around each partial of each key [shape=(n_mels, n_keys, partials)].

    `partials` is a sequence of frequency ratios to the fundamental.
    """
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
