"""What training clips are made of, data/clips: sounds of pianos, impulse responses of rooms, and notes of pieces.

`python ClipSources.py MIDI_FOLDER ...` writes them. It takes 15 minutes on two cores and 40 MB.
"""
import argparse
import io
from pathlib import Path

import mido
import numpy as np
import soundfile
from tqdm import tqdm

import FluidSynth
import Hyperparameters as hp
import Notes
import Presets
import Scale
import SimulatedRooms
import Util


def sample_preset(preset):
    """Render sounds of some keys of a preset at some velocities.

    Parameters
    ----------
    preset : tuple
        File, bank and program: see `Presets.parse_preset`.

    Returns
    -------
    np.ndarray [shape=(keys, layers, n), float32]
        Keys `hp.clip_piano_keys` at velocities `hp.clip_piano_layers`, each held for `hp.clip_piano_seconds`. A sound
        that begins late is shifted, so that a tenth of its peak comes `hp.clip_piano_attack` samples after the onset.
    """
    preset = Presets.find_soundfont(preset[0]), *preset[1:3], False
    size, slot = int(hp.clip_piano_seconds * hp.sample_rate), int((hp.clip_piano_seconds + 2) * hp.sample_rate)
    sounds = []
    for key in tqdm(hp.clip_piano_keys, desc=Path(preset[0]).name, unit="key", leave=False):
        events = [(i * slot + at, mido.Message(kind, note=key, velocity=velocity))
                  for i, velocity in enumerate(hp.clip_piano_layers)
                  for at, kind in ((0, "note_on"), (size, "note_off"))]
        audio = Scale.render_events(events, len(hp.clip_piano_layers) * slot, preset).reshape(-1, slot)[:, :size]
        delays = map(attack_delay, audio)
        sounds.append([np.append(sound[late:], np.zeros(late, np.float32)) for sound, late in zip(audio, delays)])
    return np.array(sounds, np.float32)


def attack_delay(sound):
    """Return by how many samples a sound begins later than it should."""
    beginning = np.abs(sound[:hp.sample_rate // 5])
    return max(int(np.argmax(beginning > 0.1 * beginning.max())) - hp.clip_piano_attack, 0)


def save_piano(path, sounds):
    """Write the sounds of `sample_preset` as one Vorbis stream per velocity, to a .npz file for
    `RandomPianos.read_piano`."""
    sounds = sounds.copy()
    sounds[..., -hp.clip_piano_fade:] *= np.linspace(1, 0, hp.clip_piano_fade, dtype=np.float32)
    content, gains = {}, []
    for i in range(sounds.shape[1]):
        audio, stream = sounds[:, i].ravel(), io.BytesIO()
        gains.append(np.abs(audio).max() / hp.peak)
        with soundfile.SoundFile(stream, "w", hp.sample_rate, 1, format="OGG", subtype="VORBIS",
                                 compression_level=hp.clip_piano_compression) as file:
            for part in np.array_split(audio / gains[-1], len(audio) // 65536 + 1):  # libsndfile fails on long blocks
                file.write(part)
        content[f"stream{i}"] = np.frombuffer(stream.getvalue(), np.uint8)
    Util.save_bytes(path, lambda file: np.savez(file, keys=hp.clip_piano_keys, velocities=hp.clip_piano_layers,
                                                gains=gains, **content))


def collect_pieces(folders):
    """Read the keys and pedals of all MIDI files below some folders.

    A file that cannot be read is left out with a warning.

    Parameters
    ----------
    folders : list of Path

    Returns
    -------
    dict
        "notes" [shape=(n, 4)], onset and release of the key in seconds, MIDI key and velocity, and "pedal" [shape=(m,
        2)], times in seconds when it goes down and up, of all pieces; "note_counts" and "pedal_counts", those of each.

    Raises
    ------
    FileNotFoundError
        If a folder has no MIDI files.
    ValueError
        If no file has notes.
    """
    notes, pedals = [], []
    for folder in folders:
        for path in tqdm(Util.find_pieces(folder, Notes.midi_endings).values(), desc=str(folder), unit="piece"):
            try:
                played, pedal = Notes.read_keys_and_pedal(path)
            except ValueError as error:
                Util.warn(str(error))
                continue
            played = np.array([note for note in played if 0 <= note[2] - hp.lowest_key < hp.n_keys]).reshape(-1, 4)
            if len(played):
                notes.append(played)
                pedals.append(pedal_spans(pedal, played[:, 1].max()))
    if not notes:
        raise ValueError(f"{', '.join(map(str, folders))} holds no MIDI file with notes; give another folder")
    return dict(notes=np.concatenate(notes).astype(np.float32), note_counts=[len(part) for part in notes],
                pedal=np.concatenate(pedals).astype(np.float32), pedal_counts=[len(part) for part in pedals])


def pedal_spans(changes, end):
    """Return when the pedal goes down and up [shape=(m, 2)], from its changes (time, value); it is up at `end`."""
    spans, down = [], None
    for time, value in [*changes, (end, 0)]:
        if value >= Notes.sustain_threshold and down is None:
            down = time
        elif value < Notes.sustain_threshold and down is not None:
            spans += [(down, time)] if time > down else []
            down = None
    return np.array(spans).reshape(-1, 2)


def read_pieces(path):
    """Read the file of `collect_pieces`, and split it into pieces for validation and for training.

    Every `hp.clip_validation_step`-th piece is for validation.

    Returns
    -------
    (list of (np.ndarray [shape=(n, 4)], np.ndarray [shape=(m, 2)]), list of the same)
        Notes and pedal of each piece.
    """
    stored = np.load(path)
    notes, pedals = (np.split(stored[name].astype(float), np.cumsum(stored[counts])[:-1])
                     for name, counts in (("notes", "note_counts"), ("pedal", "pedal_counts")))
    pieces = list(zip(notes, pedals))
    step = hp.clip_validation_step
    return pieces[::step], [piece for i, piece in enumerate(pieces) if i % step]


def prepare(midi_folders, presets=None, data=None):
    """Write pieces.npz, pianos/ and rooms.npz to the folder clips/, as far as they are missing.

    Parameters
    ----------
    midi_folders : list of Path
    presets : list of tuple, optional
        Pianos, by default `hp.clip_pianos`.
    data : Path, optional
        Folder of clips/, by default `hp.data`.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If a SoundFont or FluidSynth is missing, before any work begins.
    FileNotFoundError, ValueError
        As `collect_pieces`, and ValueError if pyroomacoustics is missing.
    """
    folder, presets = Path(data or hp.data) / "clips", presets or hp.clip_pianos
    FluidSynth.find_fluidsynth()
    for preset in presets:
        Presets.find_soundfont(preset[0])
    if not (folder / "pieces.npz").exists():
        pieces = collect_pieces(midi_folders)
        Util.save_bytes(folder / "pieces.npz", lambda file: np.savez_compressed(file, **pieces))
    for preset in presets:
        path = folder / "pianos" / f"{Path(preset[0]).stem}_{preset[1]}_{preset[2]}.npz"
        if not path.exists():
            save_piano(path, sample_preset(preset))
    if not (folder / "rooms.npz").exists():
        rooms = SimulatedRooms.room_responses(hp.clip_rooms, hp.clip_rooms_seed)
        Util.save_bytes(folder / "rooms.npz", lambda file: np.savez(file, *[room.astype(np.float16) for room in rooms]))
    return folder


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Sample pianos, simulate rooms and collect notes for training clips.")
    parser.add_argument("midi", type=Path, nargs="+", help="folders with MIDI files")
    parser.add_argument("--data", type=Path, help="folder in which clips/ is written (default: data/)")
    parser.add_argument("--pianos", nargs="+", type=Presets.parse_preset, metavar="FILE.sf2:BANK:PROGRAM",
                        help="presets to sample (default: eight pianos of four SoundFonts)")
    options = parser.parse_args(arguments)
    folder = prepare(options.midi, options.pianos, options.data)
    print(f"{folder} is ready; next: python AEMain.py")


if __name__ == "__main__":
    Util.run(main)
