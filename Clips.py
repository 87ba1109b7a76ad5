"""Training clips of the note encoder, made on the device from notes and sampled pianos; none of them comes twice.

Notes, piano, tuning, room and microphones are drawn anew for each clip. Spectrograms are those of `DatasetCreator`.
"""
import copy

import torch

import DatasetCreator
import Hyperparameters as hp
from RandomPianos import Instruments
from RandomRooms import Rooms, record, string_resonance

frame_rate = hp.sample_rate / hp.hop_length


class FrontEnd:
    """Compute the spectrograms of `DatasetCreator` for batches, on the device."""

    def __init__(self, device):
        self.mel, self.pitch = (torch.from_numpy(filters()).to(device) for filters in (
            DatasetCreator.mel_filters, DatasetCreator.pitch_filters))

    def power(self, audio, filters, n_fft, hop):
        """Return the power of audio [shape=(clips, n)] in the bands of filters [shape=(clips, bands, frames)]."""
        spectrum = torch.stft(audio, n_fft, hop, window=torch.hann_window(n_fft, device=audio.device),
                              pad_mode="constant", return_complex=True)
        return filters @ (spectrum.real ** 2 + spectrum.imag ** 2)

    def __call__(self, audio, frames, quieter=0.0):
        """Compute the pitch and the mel spectrogram of clips.

        Parameters
        ----------
        audio : torch.Tensor [shape=(clips, n)]
        frames : int
            Frames of the mel spectrogram.
        quieter : float or torch.Tensor [shape=(clips, 1, 1)]
            Level of the loudest band below full scale, in dB.

        Returns
        -------
        list of torch.Tensor [shape=(clips, n_pitches, ceil(frames / 2)) and (clips, n_mels, frames), in [0, 1]]
        """
        mel = self.power(audio, self.mel, hp.n_fft, hp.hop_length)[..., :frames]
        pitch = self.power(audio, self.pitch, hp.pitch_n_fft, hp.pitch_hop_length)[..., :-(-frames // 2)]
        return [((10 * (power / power.amax((1, 2), keepdim=True).clamp(min=1e-20)).clamp(min=1e-12).log10() - quieter)
                 / hp.top_db + 1).clamp(0, 1) for power in (pitch, mel)]


def label_clips(notes, clips, frames):
    """Make the labels of clips, those of `Notes.note_labels`, on the device.

    Parameters
    ----------
    notes : torch.Tensor [shape=(n, 5)]
        Clip, onset and end in seconds, MIDI key, velocity from 1 to 127.
    clips, frames : int

    Returns
    -------
    torch.Tensor [shape=(clips, 4, frames, n_keys), in [0, 1]]
        Onset, sounding, velocity and offset.
    """
    device = notes.device
    clip, key = notes[:, 0].long(), notes[:, 3].long() - hp.lowest_key
    onset, end, velocity = notes[:, 1] * frame_rate, notes[:, 2] * frame_rate, notes[:, 4] / 127
    labels = torch.zeros(clips, 4, frames, hp.n_keys, device=device)
    sounding = torch.zeros(clips, frames + 1, hp.n_keys, device=device)
    for times, change in ((onset, 1.0), (end.maximum(onset + 2), -1.0)):
        sounding.index_put_((clip, times.ceil().long().clamp(0, frames), key), torch.full_like(onset, change),
                            accumulate=True)
    labels[:, 1] = (sounding[:, :-1].cumsum(1) > 0.5).float()
    for place, times in ((0, onset), (3, end)):
        near = (times - hp.onset_width).ceil()[:, None] + torch.arange(int(2 * hp.onset_width) + 1, device=device)
        likely = 1 - (near - times[:, None]).abs() / hp.onset_width
        inside = (likely > 0) & (near >= 0) & (near < frames)
        note, which = inside.nonzero(as_tuple=True)
        flat = ((clip[note] * 4 + place) * frames + near[note, which].long()) * hp.n_keys + key[note]
        labels.view(-1).scatter_reduce_(0, flat, likely[note, which], "amax")
        if place == 0:
            best = labels.view(-1)[flat] <= likely[note, which] + 1e-6
            labels.view(-1)[flat[best] + 2 * frames * hp.n_keys] = velocity[note[best]]
    return labels


class ClipMaker:
    """Make batches to train on from batches of notes.

    Parameters
    ----------
    pianos : list
        As `RandomPianos.read_piano` returns them.
    simulated : list of np.ndarray [shape=(n,)]
        Room impulse responses.
    frames : int
        Frames of a clip, even.
    pool : int
        Pianos that are kept ready.
    """

    lead = 2.0  # seconds before a clip that are heard in its room, and thrown away

    def __init__(self, pianos, simulated, frames, device, pool=16):
        dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        self.instruments, self.rooms = Instruments(pianos, pool, dtype), Rooms(simulated, device)
        self.resonances = [string_resonance(device) for _ in range(3)]
        self.front_end, self.frames, self.device = FrontEnd(device), frames, device
        self.seconds = frames * hp.hop_length / hp.sample_rate

    def with_frames(self, frames):
        """Return a maker of clips of another length, with the same pianos and rooms."""
        other = copy.copy(self)
        other.frames, other.seconds = frames, frames * hp.hop_length / hp.sample_rate
        return other

    def audio(self, notes, pedal, clips):
        """Play and record clips.

        Parameters
        ----------
        notes : torch.Tensor [shape=(n, 5)]
        pedal : torch.Tensor [shape=(m, 3)]
            As in a batch of `Performances`.
        clips : int

        Returns
        -------
        torch.Tensor [shape=(clips, frames * hop_length)]
        """
        lead, samples = int(self.lead * hp.sample_rate), self.frames * hp.hop_length
        dry = self.instruments.play(notes, clips, lead + samples, lead)
        down = torch.zeros(clips, lead + samples + 1, device=self.device)
        for column, sign in ((1, 1.0), (2, -1.0)):
            place = (pedal[:, column] * hp.sample_rate + lead).long().clamp(0, lead + samples)
            down.index_put_((pedal[:, 0].long(), place), torch.full_like(pedal[:, 0], sign), accumulate=True)
        down = (down.cumsum(1) > 0.5)[:, :-1].float()
        resonance = self.resonances[int(torch.randint(len(self.resonances), ()))]
        return record(dry, down, self.rooms, resonance)[:, lead:]

    @torch.no_grad()
    def __call__(self, batch, clips):
        """Return pitch spectrogram, mel spectrogram and labels of a batch of `Performances`: see `FrontEnd` and
        `label_clips`."""
        notes, pedal = batch["notes"].to(self.device), batch["pedal"].to(self.device)
        audio = self.audio(notes, pedal, clips)
        quieter = torch.rand(clips, 1, 1, device=self.device) ** 2 * hp.recorded_quieter_db * (
            torch.rand(clips, 1, 1, device=self.device) < hp.recorded_quieter_share)
        pitch, mel = self.front_end(audio, self.frames, quieter)
        return pitch, mel, label_clips(notes, clips, self.frames)
