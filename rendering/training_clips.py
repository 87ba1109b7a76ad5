"""Training clips of the note encoder: notes played on sampled pianos, and recordings heard in rooms.

Piano, tuning, room and microphones are drawn anew for each clip, always the same ones for the same seed. Spectrograms
are those of `DatasetCreator`.
"""
from pathlib import Path

import numpy as np
import torch

import DatasetCreator
import Hyperparameters as hp
import Util
from audio import audio_files
from notes.note_events import frame_rate
from rendering.random_pianos import Instruments, read_piano
from rendering.random_rooms import Rooms, record, string_resonance

pool_size = 16              # pianos at a time
clips_per_piano = 64        # crops after which a piano is replaced: to draw one takes seconds
quieter_share = 0.5         # of the clips
quieter_db = 25             # dB below full scale, at most


def batch_spectrograms(audio, frames, quieter=0.0):
    """Compute the spectrograms of `DatasetCreator` for a batch, on its device. Return pitch [shape=(clips, n_pitches,
    ceil(frames / 2))] and mel spectrogram [shape=(clips, n_mels, frames)] of clips [shape=(clips, n)], in [0, 1], the
    loudest band `quieter` dB [shape=(clips, 1, 1)] below 1."""
    images = []
    for filters, n_fft, hop, steps in (
            (DatasetCreator.pitch_filters(), hp.pitch_n_fft, hp.pitch_hop_length, -(-frames // 2)),
            (DatasetCreator.mel_filters(), hp.n_fft, hp.hop_length, frames)):
        spectrum = torch.stft(audio, n_fft, hop, window=torch.hann_window(n_fft, device=audio.device),
                              pad_mode="constant", return_complex=True)
        filters = torch.from_numpy(filters).to(audio.device)
        power = (filters @ (spectrum.real ** 2 + spectrum.imag ** 2))[..., :steps]
        decibels = 10 * (power / power.amax((1, 2), keepdim=True).clamp(min=1e-20)).clamp(min=1e-12).log10()
        images.append(((decibels - quieter) / hp.top_db + 1).clamp(0, 1))
    return images


def label_clips(notes, clips, frames):
    """Return the labels on which the encoder is trained [shape=(clips, 4, frames, n_keys), float32, in [0, 1]], made on
    the device. The columns of `notes` [shape=(n, 5)] are clip, onset and end in seconds, MIDI key, velocity.

    Onset: 1 where a note begins, with a linear slope to 0 over `hp.onset_width` frames on both sides, so that the
    labels of neighbouring frames encode an onset between them (Kong et al. 2021). Sounding: 1 while a note sounds.
    Velocity / 127: given where the onset label is not 0. Offset: as the onset, where a note ends.
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
    """Play notes on drawn pianos, and hear audio through drawn rooms and microphones. `folder` is what `clip_sources`
    has written. A folder without pianos/ only hears; one without rooms.npz has artificial rooms alone, and without
    recordings in beside/ there are no interfering sounds."""

    lead = 2.0  # seconds before a clip that are heard in its room, and thrown away

    def __init__(self, folder, device="cpu"):
        self.device, rooms = torch.device(device), Path(folder) / "rooms.npz"
        self.rooms = Rooms(list(np.load(rooms).values()) if rooms.exists() else [], device)
        with Util.seeded(hp.seed):
            self.resonances = [string_resonance(device) for _ in range(3)]
        self.folder, self.instruments, self.beside = Path(folder), None, None

    def play(self, notes, pedal, clips, frames, first):
        """Play notes on a pool of pianos, from number `first` on. The columns of `notes` [shape=(n, 5)] are clip, onset
        and end in seconds, MIDI key and velocity, those of `pedal` [shape=(m, 3)] clip, and times in seconds when the
        pedal goes down and up. Returns the dry audio, with `lead` seconds before each clip, and 1 where the pedal is
        down [shape=(clips, n) each]."""
        if self.instruments is None:
            pianos, others = ([read_piano(np.load(path), self.device) for path in sorted(self.folder.glob(pattern))]
                              for pattern in ("pianos/*.npz", "others/*.npz"))
            self.instruments = Instruments(pianos, others, pool_size)
        self.instruments.hold(first)
        lead, samples = int(self.lead * hp.sample_rate), frames * hp.hop_length
        dry = self.instruments.play(notes, clips, lead + samples, lead)
        down = torch.zeros(clips, lead + samples + 1, device=self.device)
        for column, sign in ((1, 1.0), (2, -1.0)):
            place = (pedal[:, column] * hp.sample_rate + lead).long().clamp(0, lead + samples)
            down.index_put_((pedal[:, 0].long(), place), torch.full_like(pedal[:, 0], sign), accumulate=True)
        return dry, (down.cumsum(1) > 0.5)[:, :-1].float()

    def hear(self, dry, down=None):
        """Return audio [shape=(clips, n)] as it is heard in drawn rooms, through drawn microphones: see `record`.
        Without `down`, which is 1 where the pedal is down, no strings resonate."""
        resonance = self.resonances[int(torch.randint(len(self.resonances), ()))]
        down = torch.zeros_like(dry) if down is None else down
        return record(dry, down, self.rooms, resonance, self.draw_beside(*dry.shape))

    def draw_beside(self, clips, samples):
        """Return an interfering sound for each clip [shape=(clips, samples)], a part of one of the recordings in
        beside/, of the longer ones more often. Returns None if there are no recordings."""
        if self.beside is None:
            self.beside = [torch.from_numpy(audio_files.read_audio(path)).half().to(self.device)
                           for path in sorted(self.folder.glob("beside/*"))]
        parts, lengths = [], torch.tensor([float(len(recording)) for recording in self.beside])
        for _ in range(clips if self.beside else 0):
            recording = self.beside[int(torch.multinomial(lengths, 1))]
            start = int(torch.randint(max(len(recording) - samples, 0) + 1, ()))
            part = recording[start:start + samples].float()
            parts.append(torch.nn.functional.pad(part, (0, samples - len(part))))
        return torch.stack(parts) if parts else None

    def hear_recording(self, audio, seed):
        """Return a recording [shape=(n,), float32] as it is heard in a room that the seed draws."""
        with Util.seeded(seed):
            return self.hear(torch.from_numpy(audio)[None].to(self.device))[0].cpu().numpy()

    def spectrograms(self, audio, frames):
        """Return pitch and mel spectrogram of clips at drawn levels: see `batch_spectrograms`."""
        shape = len(audio), 1, 1
        quieter = torch.rand(shape, device=self.device) ** 2 * quieter_db * (
            torch.rand(shape, device=self.device) < quieter_share)
        return batch_spectrograms(audio, frames, quieter)
