"""FluidSynth: its command line, and MIDI files that play on one preset with one tuning."""
import contextlib
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import mido
import numpy as np
import soundfile

import Hyperparameters as hp
import Util
from audio import audio_files
from notes import note_events

wheel_cents = 200   # range of the pitch wheel that General MIDI starts with
block_size = 1 << 18    # samples of a render that are read at once


def find_fluidsynth():
    """Return the path of FluidSynth. Raises FileNotFoundError if it is not on PATH."""
    return Util.find_program("fluidsynth", "install FluidSynth 2: apt-get install fluidsynth, or brew install "
                             "fluid-synth")


def play_on_preset(events, length, bank, program, detune=0):
    """Return a `mido.MidiFile` that plays events (time in seconds, message) on one preset, detuned by cents. It has one
    track with one tick per sample of `hp.sample_rate`, and ends after `length` seconds."""
    starts, ends = [], []
    for channel in sorted({message.channel for _, message in events}):
        starts += [mido.Message("control_change", channel=channel, control=control, value=value)
                   for control, value in zip(note_events.bank_select, (bank >> 7, bank & 127))]
        starts.append(mido.Message("program_change", channel=channel, program=program))
        starts += [move_wheel(channel, detune, wheel_cents)] if detune else []
        # FluidSynth renders until every voice has ended, which a held note of an organ never does
        ends.append(mido.Message("control_change", channel=channel, control=note_events.all_sound_off))
    return note_events.single_track([
        *((0, 0, message) for message in starts),
        *((time, 1, message) for time, message in (retune(events, detune) if detune else events)),
        *((length, 2, message) for message in ends)])


def play_notes(notes, preset, seconds, factor, rate):
    """Yield blocks [shape=(n, 2), float32] of notes [shape=(n, 4)] that FluidSynth plays on a preset (path, bank,
    program, room) for so many seconds, at `rate` Hz. All frequencies are `factor` times those of A 440, by at most a
    whole tone. Raises as `render_file`."""
    events = [(time, message) for time, _, message in sorted(
        note_events.note_messages(notes, hp.sample_rate), key=lambda event: event[:2])]
    midi = play_on_preset(events, seconds, *preset[1:3], 1200 * float(np.log2(factor)))
    with render_file(midi, preset, "the notes", rate) as path:
        yield from soundfile.blocks(path, blocksize=block_size, dtype="float32", always_2d=True)


def move_wheel(channel, cents, wheel_range):
    """Return the message that bends the pitch by so many cents, with a pitch wheel of this range in cents."""
    position = min(max(round(cents / wheel_range * 8191), -8192), 8191)
    return mido.Message("pitchwheel", channel=channel, pitch=position)


def retune(events, detune):
    """Return events (time in seconds, message) with a detuning in cents added to their pitch bends. A file may move the
    pitch wheel, change its range (registered parameter 0) or reset all controllers. Each of these would end the
    detuning, so each is followed by a new position of the wheel."""
    retuned, bends, ranges, parameters = [], {}, {}, {}     # by channel
    wheel_range_chosen = dict.fromkeys(note_events.registered_parameter, 0)
    for time, message in events:
        channel, control = message.channel, getattr(message, "control", None)
        changed = True
        if message.type == "pitchwheel":
            bends[channel] = message.pitch / 8191
        elif control == note_events.reset_controllers:
            bends[channel] = 0
            parameters.pop(channel, None)
        elif control == note_events.data_entry and parameters.get(channel) == wheel_range_chosen:
            message = message.copy(value=max(message.value, wheel_cents // 100))  # a smaller range has no room
            ranges[channel] = 100 * message.value
        else:
            changed = False
            if control in note_events.registered_parameter:
                parameters.setdefault(channel, {})[control] = message.value
        if message.type != "pitchwheel":
            retuned.append((time, message))
        if changed:
            cents = ranges.get(channel, wheel_cents)
            retuned.append((time, move_wheel(channel, bends.get(channel, 0) * cents + detune, cents)))
    return retuned


def command_options(room, rate):
    """Return the options of FluidSynth's command line, with reverberation if `room` is true. `rate` is in Hz."""
    return ["-ni", "-r", str(rate),
            "-g", str(hp.gain), "-R", str(int(room)), "-C", "0",
            "-o", f"synth.reverb.room-size={hp.fluidsynth_room_size}",
            "-o", f"synth.reverb.level={hp.fluidsynth_room_level}", "-o", "synth.dynamic-sample-loading=1",
            "-o", "synth.midi-bank-select=mma", "-o", f"synth.polyphony={hp.fluidsynth_polyphony}",
            "-T", "wav", "-O", "float"]


def render(midi, samples, preset, name, rate=hp.sample_rate, stereo=False):
    """Render a `mido.MidiFile` as `render_file`. Return the mean of both channels [shape=(samples,), float32], or both
    with `stereo` [shape=(samples, 2)], padded with silence."""
    with render_file(midi, preset, name, rate) as path:
        audio = soundfile.read(path, samples, dtype="float32", always_2d=True)[0]
    return audio_files.fix_length(audio if stereo else audio.mean(axis=1), samples)


@contextlib.contextmanager
def render_file(midi, preset, name, rate=hp.sample_rate):
    """Render a `mido.MidiFile` with FluidSynth to a wav of two channels, give its path, and remove it at the end.
    `preset` is path, bank, program and whether to add reverberation, `name` what an error calls the file. Raises
    FileNotFoundError without FluidSynth, ValueError if it fails, and OSError if its files cannot be written."""
    fluidsynth, (soundfont, bank, program, room) = find_fluidsynth(), preset
    with tempfile.TemporaryDirectory() as folder:
        midi_path, rendered = Path(folder) / "trimmed.mid", Path(folder) / "rendered.wav"
        with Util.atomic_write(midi_path) as temporary:
            midi.save(temporary)
        done = subprocess.run(
            [fluidsynth, *command_options(room, rate), "-F", rendered, soundfont, midi_path],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if "Failed to load SoundFont" in done.stdout or "not a SoundFont" in done.stdout:
            raise ValueError(f"{soundfont} is not a SoundFont that FluidSynth reads; replace it")
        if "Instrument not found" in done.stdout:
            raise ValueError(f"{soundfont} has no preset at bank {bank}, program {program}; choose another")
        # after a full disk FluidSynth ends with status 0
        full = re.search(r"write error: (?:System error : )?([^.\n]*)", done.stdout)
        too_large = hasattr(signal, "SIGXFSZ") and done.returncode == -signal.SIGXFSZ  # Windows has no such signal
        if full or too_large:
            raise Util.write_error(rendered, full[1] if full else "the file is too large")
        if done.returncode or not rendered.exists():
            raise ValueError(f"FluidSynth could not render {name}: {' '.join(done.stdout.split()[-40:])}")
        yield rendered
