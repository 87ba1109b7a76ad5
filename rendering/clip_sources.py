"""What training clips are made of, data/clips: sounds of instruments, interfering sounds, rooms, and notes.

`python -m rendering.clip_sources MIDI_FOLDER ...` writes those that are missing.
"""
import argparse
from pathlib import Path

import mido
import numpy as np
from tqdm import tqdm

import Hyperparameters as hp
import Util
from audio import audio_files
from notes import note_events
from rendering import bystanders, fluidsynth, sfz, simulated_rooms, soundfonts, voice_sampling

keys = tuple(range(22, 109, 3))     # of a piano
velocities = (24, 56, 88, 120)
sound_s = 8.0                       # seconds for which a key is held
latest_attack = 176                 # samples from the onset to a tenth of the peak, at most
fade = 2000                         # samples in which a sound is faded out at its end
compression = 0.6                   # of Vorbis, from 0, the best, to 1
validation_step = 20                # every so many pieces are for validation


def parse_piano(text):
    """Read a preset as `soundfonts.parse_preset`, or an instrument as `sfz.parse_instrument`."""
    return sfz.parse_instrument(text) if sfz.is_sfz(text) else soundfonts.parse_preset(text)


def open_piano(piano):
    """Return the name under which the sounds of a piano are stored, and a function of a MIDI key that plays it at all
    `velocities` [shape=(velocities, n), float32]. `piano` is as `parse_piano` returns it. Raises as
    `soundfonts.find_soundfont` or `sfz.player`."""
    if sfz.is_sfz(str(piano[0])):
        path, controllers = piano
        play = sfz.player(path, controllers)
        name = "_".join([path.stem, *(f"{number}-{value}" for number, value in controllers.items())])
        return name, lambda key: np.stack([play([(0, mido.Message("note_on", note=key, velocity=velocity))], sound_s)
                                           for velocity in velocities])
    preset = soundfonts.find_soundfont(piano[0]), *piano[1:3], False
    size, slot = int(sound_s * hp.sample_rate), int((sound_s + 2) * hp.sample_rate)

    def play_preset(key):
        events = [(i * slot + at, mido.Message(kind, note=key, velocity=velocity))
                  for i, velocity in enumerate(velocities) for at, kind in ((0, "note_on"), (size, "note_off"))]
        return voice_sampling.render_events(events, len(velocities) * slot, preset).reshape(-1, slot)[:, :size]

    return f"{Path(piano[0]).stem}_{piano[1]}_{piano[2]}", play_preset


def sample_piano(name, play):
    """Return sounds [shape=(keys, velocities, n), float32] of a piano, from what `open_piano` returns. A sound that
    begins late is shifted, so that a tenth of its peak comes `latest_attack` samples after the onset."""
    sounds = []
    for key in tqdm(keys, desc=name, unit="key", leave=False):
        audio = play(key)
        delays = map(attack_delay, audio)
        sounds.append([np.append(sound[late:], np.zeros(late, np.float32)) for sound, late in zip(audio, delays)])
    return np.array(sounds, np.float32)


def attack_delay(sound):
    """Return by how many samples a sound begins too late."""
    beginning = np.abs(sound[:hp.sample_rate // 5])
    return max(int(np.argmax(beginning > 0.1 * beginning.max())) - latest_attack, 0)


def save_piano(path, sounds):
    """Write the sounds of `sample_piano` as one Vorbis stream per velocity, for `random_pianos.read_piano`."""
    sounds = sounds.copy()
    sounds[..., -fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    content, gains = {}, []
    for i in range(sounds.shape[1]):
        audio = sounds[:, i].ravel()
        gains.append(np.abs(audio).max() / hp.peak)
        stream = audio_files.encoded(audio / gains[-1], format="OGG", subtype="VORBIS", compression_level=compression)
        content[f"stream{i}"] = np.frombuffer(stream, np.uint8)
    Util.save_bytes(path, lambda file: np.savez(file, keys=keys, velocities=velocities, gains=gains, **content))


def collect_pieces(folders):
    """Read the keys and pedals of all MIDI files below some folders. A damaged file is left out with a warning. Returns
    "notes" [shape=(n, 4)] (onset and release of the key in seconds, MIDI key, velocity) and "pedal" [shape=(m, 2)]
    (times in seconds when it goes down and up) of all pieces, and "note_counts" and "pedal_counts" of each. Raises
    FileNotFoundError if a folder has no MIDI files, and ValueError if no file has notes."""
    notes, pedals = [], []
    for folder in folders:
        for path in tqdm(Util.find_pieces(folder, note_events.midi_endings).values(), desc=str(folder), unit="piece"):
            try:
                played, pedal = note_events.read_keys_and_pedal(path)
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
        if value >= note_events.sustain_threshold and down is None:
            down = time
        elif value < note_events.sustain_threshold and down is not None:
            spans += [(down, time)] if time > down else []
            down = None
    return np.array(spans).reshape(-1, 2)


def read_pieces(path):
    """Return the pieces of `collect_pieces` for validation, every `validation_step`-th one, and those for training.
    Each is (notes [shape=(n, 4)], pedal [shape=(m, 2)])."""
    stored = np.load(path)
    notes, pedals = (np.split(stored[name].astype(float), np.cumsum(stored[counts])[:-1])
                     for name, counts in (("notes", "note_counts"), ("pedal", "pedal_counts")))
    pieces = list(zip(notes, pedals))
    return pieces[::validation_step], [piece for i, piece in enumerate(pieces) if i % validation_step]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Sample pianos, simulate rooms and collect notes for training clips.")
    parser.add_argument("midi", type=Path, nargs="+", help="folders with MIDI files")
    parser.add_argument("--data", type=Path, default=hp.data, help="folder in which clips/ is written (default: data/)")
    parser.add_argument("--pianos", nargs="+", metavar="FILE.sf2:BANK:PROGRAM",
                        help="presets to sample, or SFZ instruments, as FILE.sfz or "
                        "FILE.sfz:CONTROLLER=VALUE,... (default: eight pianos of four SoundFonts)")
    parser.add_argument("--others", nargs="*", metavar="FILE.sf2:BANK:PROGRAM",
                        help="the same, for instruments other than pianos, which play a third of the clips (default: "
                        "nine presets each of two SoundFonts)")
    options = parser.parse_args(arguments)
    folder, pianos = options.data / "clips", list(map(parse_piano, options.pianos or [])) or hp.clip_pianos
    others = hp.clip_others if options.others is None else list(map(parse_piano, options.others))
    fluidsynth.find_fluidsynth()  # what is missing is said before any work begins
    bystanders.find_espeak()
    opened = [(kind, *open_piano(piano)) for kind, instruments in (("pianos", pianos), ("others", others))
              for piano in instruments]
    soundfonts.find_soundfont(bystanders.soundfont)
    if not (folder / "pieces.npz").exists():
        pieces = collect_pieces(options.midi)
        Util.save_bytes(folder / "pieces.npz", lambda file: np.savez_compressed(file, **pieces))
    for kind, name, play in opened:
        path = folder / kind / f"{name}.npz"
        if not path.exists():
            save_piano(path, sample_piano(name, play))
    bystanders.store(folder / "beside")
    if not (folder / "rooms.npz").exists():
        rooms = simulated_rooms.room_responses(hp.clip_rooms, hp.clip_rooms_seed)
        Util.save_bytes(folder / "rooms.npz", lambda file: np.savez(file, *[room.astype(np.float16) for room in rooms]))
    print(f"{folder} is ready; next: python AEMain.py")


if __name__ == "__main__":
    Util.run(main)
