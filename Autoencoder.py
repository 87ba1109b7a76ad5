"""The report's fully convolutional autoencoder."""
import torch
from torch import nn

import Hyperparameters as hp


# The next three compute what the classes of torch that they derive from do, from the same parameters, several times
# faster: the first two with the mel bands, all of which the kernel spans, as channels.

class FromBands(nn.Conv2d):
    """A convolution whose kernel spans all mel bands and one frame.

    From [shape=(batch, 1, bands, t)] to (batch, channels, 1, t).
    """

    def forward(self, x):
        bands = x.transpose(1, 2).contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(bands, self.weight.transpose(1, 2), self.bias)


class ToBands(nn.ConvTranspose2d):
    """A transposed convolution whose kernel spans all mel bands.

    From [shape=(batch, channels, 1, t)] to (batch, 1, bands, t').
    """

    def forward(self, x):
        weight = self.weight.transpose(1, 2)
        bands = nn.functional.conv_transpose2d(x, weight, self.bias.expand(weight.shape[1]))
        return bands.contiguous().transpose(1, 2)


class Stretch(nn.ConvTranspose2d):
    """A transposed convolution of kernel and stride (1, 2), whose outputs do not overlap.

    From [shape=(batch, channels, 1, t)] to (batch, channels', 1, 2 t): a 1 x 1 convolution to twice the channels, which
    are then laid out one frame after the other.
    """

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, (1, 2), stride=(1, 2))

    def forward(self, x):
        weight = self.weight.permute(3, 1, 0, 2).flatten(0, 1)[..., None]
        y = nn.functional.conv2d(x, weight, self.bias.repeat(2)).permute(0, 2, 3, 1)
        return y.unflatten(3, (2, -1)).flatten(2, 3).permute(0, 3, 1, 2)


class Autoencoder(nn.Module):
    """Six convolutional layers, no fully connected one, nothing sampled in the bottleneck (report: autoencoder).

    The first layer spans all mel bands and one frame; two more halve the time axis each. The decoder mirrors them;
    its last layer spans all bands and four frames. With the report's channels, 64, 128 and 256, a clip
    (1, 1, 128, 2583) has the latent (1, 256, 1, 645), and the names and shapes of the parameters are those of its
    published checkpoints.
    """

    name = "an autoencoder"
    in_channels = 1

    def __init__(self, n_mels=hp.n_mels, channels=hp.ae_channels):
        super().__init__()
        first, second, third = channels
        self.encoder = nn.Sequential(
            FromBands(1, first, (n_mels, 1)), nn.BatchNorm2d(first), nn.Tanh(),
            nn.Conv2d(first, second, (1, 2), stride=(1, 2)), nn.BatchNorm2d(second), nn.Tanh(),
            nn.Conv2d(second, third, (1, 2), stride=(1, 2)), nn.BatchNorm2d(third), nn.Tanh(),
        )
        self.decoder = nn.Sequential(
            Stretch(third, second), nn.BatchNorm2d(second), nn.Tanh(),
            Stretch(second, first), nn.BatchNorm2d(first), nn.Tanh(),
            ToBands(first, 1, (n_mels, 4)), nn.Sigmoid(),
        )

    @classmethod
    def of_form(cls, state):
        """Return a network, not trained, of the width that a state_dict has: this one, or a `NoteAutoencoder`.

        Raises KeyError if it is of another kind.
        """
        if "encoder.stem.weight" in state:
            return NoteAutoencoder.of_form(state)
        return cls(channels=[len(state[f"encoder.{layer}.weight"]) for layer in (0, 3, 6)])

    def forward(self, x):
        """Map spectrograms [shape=(batch, 1, n_mels, t), in [0, 1]] to spectrograms of the same shape and range.

        Any t from 1 up: the decoder returns 4k + 3 frames, so the input is filled up with silence to the next such
        number, and the output cut back.
        """
        frames = x.shape[-1]
        x = nn.functional.pad(x, (0, max(-(frames - 3) % 4, 7 - frames)))
        return self.decoder(self.encoder(x))[..., :frames]


# The second form: what lies between its two halves are notes.

class Convolution(nn.Sequential):
    """A convolution that keeps the size of the image, batch normalisation and ReLU."""

    def __init__(self, inputs, outputs, kernel):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=tuple(size // 2 for size in kernel), bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class NoteEncoder(nn.Module):
    """What was played: for each key and frame, how surely a note begins, whether it sounds, and its velocity.

    Convolutions over an image of time x keys, with the same weights for every key. What a key sees are the bands of its
    own partials, gathered from both spectrograms (harmonic stacking: Bittner et al. 2022, "A lightweight
    instrument-agnostic model for polyphonic note transcription and multipitch estimation"), and later its neighbours.
    Half way up, layers that span all keys look further back and ahead (dilated: van den Oord et al. 2016,
    https://arxiv.org/abs/1609.03499), so that one key may know what the others do. A step is two frames of the mel
    spectrogram.

    Parameters
    ----------
    first, channels : int
        Channels a key in the first layer, and in those that follow.
    blocks : int
        3 x 3 convolutions before the layers that span all keys.
    narrow, width : int
        Channels a key on the way into those layers and out of them, and their own.
    layers : int
        How many of them there are, each looking twice as far as the one before.
    """

    partials = (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12)    # in the pitch spectrogram, with the bands on both sides
    mel_partials = (1, 2, 3, 4, 6)                      # in the mel spectrogram, which knows better when

    def __init__(self, first=48, channels=32, blocks=3, narrow=8, width=256, layers=6):
        super().__init__()
        bands, mels = pitch_bands(self.partials), mel_bands(self.mel_partials)
        self.register_buffer("bands", bands.flatten(), persistent=False)
        self.register_buffer("mels", mels.flatten(1), persistent=False)
        self.stem = nn.Conv2d(bands.shape[1] + 2 * len(self.mel_partials), first, 1)
        self.key = nn.Parameter(torch.zeros(1, first, 1, hp.n_keys))
        self.time = Convolution(first, channels, (3, 1))
        self.blocks = nn.ModuleList(Convolution(channels, channels, (3, 3)) for _ in range(blocks))
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.gather = nn.Conv2d(narrow * hp.n_keys, width, (1, 3), padding=(0, 1))
        self.dilated = nn.ModuleList(nn.Conv2d(width, width, (1, 3), padding=(0, 2 ** i), dilation=(1, 2 ** i))
                                     for i in range(layers))
        self.spread = nn.Conv2d(width, narrow * hp.n_keys, 1)
        self.last = Convolution(channels + narrow, channels, (3, 3))
        self.head = nn.Conv2d(channels, 6, 1)
        with torch.no_grad():  # most keys are silent most of the time
            self.head.bias[:2] = -4
            self.head.bias[2:4] = -2

    def forward(self, pitch, mel):
        """Map a pitch spectrogram [shape=(batch, n_pitches, ceil(t / 2))] and a mel spectrogram [shape=(batch, n_mels,
        t)], both in [0, 1], to the logits of onset, sounding and velocity [shape=(batch, 3, t, n_keys)]."""
        frames = mel.shape[2]
        pitch, mel = pitch.transpose(1, 2), nn.functional.pad(mel, (0, frames % 2)).transpose(1, 2)
        batch, steps, _ = pitch.shape
        own = nn.functional.pad(pitch, (0, 1))[..., self.bands].view(batch, steps, hp.n_keys, -1)
        sharp = (mel @ self.mels.to(mel.dtype)).view(batch, steps, 2, hp.n_keys, -1)
        x = torch.cat([own, sharp.transpose(2, 3).flatten(3)], -1).permute(0, 3, 1, 2)
        x = self.time(nn.functional.relu(self.stem(x) + self.key))
        for block in self.blocks:
            x = x + block(x)
        all_keys = self.squeeze(x).permute(0, 2, 3, 1).flatten(2)[:, None].permute(0, 3, 1, 2)  # (batch, _, 1, steps)
        all_keys = nn.functional.relu(self.gather(all_keys))
        for layer in self.dilated:
            all_keys = all_keys + nn.functional.relu(layer(all_keys))
        known = self.spread(all_keys).permute(0, 2, 3, 1).view(batch, steps, hp.n_keys, -1).permute(0, 3, 1, 2)
        y = self.head(x + self.last(torch.cat([x, nn.functional.relu(known)], 1)))
        return y.view(batch, 3, 2, steps, hp.n_keys).transpose(2, 3).flatten(2, 3)[:, :, :frames]


class NoteDecoder(nn.Module):
    """How it sounds: the log-mel spectrogram that each key makes on the target instrument, learnt, and summed over
    notes.

    A key has a level in dB for each mel band and time since the onset, from `knots` with straight lines between them,
    so that an onset may lie between two frames; two ways in which it grows with velocity; and a fall in dB a frame
    once key and pedal are up. The powers of the notes add up.
    """

    silence = -300.0  # dB of a frame without notes
    slowest = 0.5     # dB a frame that a note falls at least once key and pedal are up, so that it does end

    def __init__(self):
        super().__init__()
        dense, geometric = torch.arange, lambda first, last, n: torch.logspace(*torch.tensor(
            [float(first), float(last)]).log10(), n)
        knots = torch.cat([dense(-4, 16), dense(16, 64, 2), dense(64, 160, 4), geometric(160, 1000, 16)]).float()
        self.register_buffer("knots", knots, persistent=False)  # frames since the onset; the last is 11.6 s later
        level = -40 - knots.clamp(min=0) / 10  # where a key is seldom heard so late, it is left at that
        level[knots < 0] = -95
        self.level = nn.Parameter(level[None, :, None].repeat(hp.n_keys, 1, hp.n_mels))
        self.register_buffer("loudest", torch.tensor(-15.0))
        self.loudness = nn.Parameter(torch.full((hp.n_keys, 1, hp.n_mels), 40.0))  # dB a decade of velocity
        self.slope = nn.Parameter(torch.zeros(hp.n_keys, 1, hp.n_mels))            # dB more at full velocity
        self.release = nn.Parameter(torch.full((hp.n_keys, hp.n_mels), 1.5))       # dB a frame

    def forward(self, notes, first, frames):
        """Return the mel power in dB [shape=(n_mels, frames)] of a piece, from its frame `first` on.

        `notes` [shape=(n, 4)]: onset and end in seconds, MIDI key, velocity from 1 to 127; keys that no piano has, such
        as 0, count for nothing. A silent frame has `silence`.
        """
        onset, end = notes[:, :2].T * (hp.sample_rate / hp.hop_length)
        key = notes[:, 2].long() - hp.lowest_key
        start, last = self.knots[0], self.knots[-1]
        known = (key >= 0) & (key < hp.n_keys)
        release = self.release.clamp(min=self.slowest)
        falling = release.amin(1)[key.clamp(0, hp.n_keys - 1)]  # of the key's bands the slowest
        heard = known & (onset + start < first + frames) & (end + inaudible / falling > first)
        if not heard.any():
            return self.level.new_full((hp.n_mels, frames), self.silence)
        onset, end, key, velocity = onset[heard], end[heard], key[heard], (notes[heard, 3] / 127).clamp(0.02, 1)
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
        level = level.masked_fill((since < start)[..., None], self.silence)
        return torch.logsumexp(level / decibel, 0).T * decibel


decibel = 10 / torch.log(torch.tensor(10.0)).item()  # dB a neper of power
inaudible = 160.0  # dB that a note has fallen when it is left out


class Opinion(nn.Module):
    """A number for each of some notes from what is seen of them [shape=(n, features)], by fully connected layers."""

    def __init__(self, features, width=64, narrow=32):
        super().__init__()
        self.scale = nn.BatchNorm2d(features)
        self.layers = nn.Sequential(
            nn.Hardtanh(-5, 5), nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(width, narrow), nn.ReLU(), nn.Dropout(0.3), nn.Linear(narrow, 1))

    def forward(self, seen):
        return self.layers(self.scale(seen[..., None, None])[..., 0, 0])[:, 0]


class NoteReviewer(nn.Module):
    """A second look at each note that seems to have been played, with what the other keys do meanwhile.

    Whether it was played, or is another's overtone, its echo, or no more than a noise: of that tell the keys whose
    partials meet its own. And when it ended: many end together, when the pedal is let go.

    `heard` [shape=(batch, 3, t, n_keys), in [0, 1]] is what `NoteEncoder` says of onset, sounding and velocity. Notes
    begin in `clip`, `frame` and `key`, seem to end in frame `end`, and their key is struck again in frame `again`, each
    [shape=(n,)].
    """

    keys = tuple(sorted(sign * distance for sign in (-1, 1) for distance in (
        1, 2, 3, 4, 5, 7, 12, 16, 19, 24, 28, 31, 36)))  # semitones to those it looks at
    before, after = 14, 45                              # frames of the onset
    ending = tuple(range(-48, 49, 4))                   # frames from the end

    def __init__(self):
        super().__init__()
        self.played, self.later = Opinion(7 * len(self.keys) + 28), Opinion(3 * len(self.ending) + 3)

    def forward(self, heard, clip, frame, key):
        """Return the logits that the notes were played [shape=(n,)]."""
        return self.played(self.beginning_of(heard, clip, frame, key))

    def lateness(self, heard, clip, frame, key, end, again):
        """Return by how many frames they ended later [shape=(n,)]."""
        return 10 * self.later(self.ending_of(heard, clip, frame, key, end, again))

    def beginning_of(self, heard, clip, frame, key):
        reach, at = max(self.keys), self.before  # where the note's own frame and key lie
        padded = nn.functional.pad(heard, (reach, reach, self.before, self.after)).unbind(1)
        frames = (frame[:, None] + torch.arange(self.before + self.after, device=frame.device))[..., None]
        own, others = key[:, None] + reach, key[:, None] + reach + torch.tensor(self.keys, device=key.device)
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

    def ending_of(self, heard, clip, frame, key, end, again):
        sounding, last = heard[:, 1], heard.shape[2] - 1
        frames = torch.arange(last + 1, device=heard.device)
        released = (sounding[:, (frames - 2).clamp(min=0)] - sounding[:, (frames + 2).clamp(max=last)]).clamp(min=0)
        near = (end.round().long()[:, None] + torch.tensor(self.ending, device=end.device)).clamp(0, last)
        return torch.cat([
            sounding[clip[:, None], near, key[:, None]], released.sum(2)[clip[:, None], near].clamp(max=8) / 2,
            sounding.sum(2)[clip[:, None], near] / 10, (end - frame).clamp(min=1).log()[:, None] / 3,
            key[:, None] / hp.n_keys - 0.5, ((again - end) / 60).clamp(max=1)[:, None]], 1)


class NoteAutoencoder(nn.Module):
    """An autoencoder whose latent is what was played: `NoteEncoder`, if so `reviewed` `NoteReviewer`, `NoteDecoder`."""

    name = "an autoencoder"
    in_channels = 2

    def __init__(self, reviewed=True, **form):
        super().__init__()
        self.encoder, self.decoder = NoteEncoder(**form), NoteDecoder()
        self.reviewer = NoteReviewer() if reviewed else None

    @classmethod
    def of_form(cls, state):
        """Return a network, not trained, of the form that a state_dict has. Raises KeyError if it is of another kind.
        """
        first, _, *_ = state["encoder.stem.weight"].shape
        return cls("reviewer.played.scale.weight" in state, first=first, channels=len(state["encoder.time.0.weight"]),
                   narrow=len(state["encoder.squeeze.weight"]),
                   blocks=len({key.split(".")[2] for key in state if key.startswith("encoder.blocks.")}),
                   layers=len({key.split(".")[2] for key in state if key.startswith("encoder.dilated.")}),
                   width=len(state["encoder.gather.weight"]))

    def forward(self, pitch, mel):
        """Map spectrograms to the logits of notes: see `NoteEncoder`."""
        return self.encoder(pitch, mel)


def pitch_bands(partials):
    """Index of the band at each partial of each key, and of those below and above it [shape=(n_keys, 3 * partials)].

    `hp.n_pitches`, one past the last, stands for bands that are not there.
    """
    keys = torch.arange(hp.n_keys)[:, None]
    centre = torch.round(1 + hp.pitch_bands_per_key * (keys + 12 * torch.log2(torch.tensor(partials).double())))
    band = (centre[..., None] + torch.arange(-1, 2)).flatten(1).long()
    return band.where((band >= 0) & (band < hp.n_pitches), hp.n_pitches)


def mel_bands(partials):
    """Weights of the two mel bands around each partial of each key [shape=(n_mels, n_keys, partials)].

    The bands lie as in Slaney's scale: evenly up to 1 kHz, then in equal ratios.
    """
    step, knee, ratio = 200 / 3, 1000.0, torch.log(torch.tensor(6.4)).double() / 27
    top = knee / step + torch.log(torch.tensor(hp.fmax / knee).double()) / ratio
    mel = torch.linspace(0, 1, hp.n_mels + 2, dtype=torch.float64)[1:-1] * top
    centre = torch.where(mel < knee / step, mel * step, knee * torch.exp(ratio * (mel - knee / step)))
    keys = torch.arange(hp.lowest_key, hp.lowest_key + hp.n_keys)[:, None]
    hertz = 440 * 2 ** ((keys - 69) / 12) * torch.tensor(partials).double()
    above = torch.searchsorted(centre, hertz).clamp(1, hp.n_mels - 1)
    share = ((hertz - centre[above - 1]) / (centre[above] - centre[above - 1])).clamp(0, 1)
    audible = (hertz <= hp.fmax).double()
    weights = torch.zeros(hp.n_mels, *hertz.shape, dtype=torch.float64)
    weights.scatter_add_(0, above[None] - 1, ((1 - share) * audible)[None])
    weights.scatter_add_(0, above[None], (share * audible)[None])
    return weights.float()
