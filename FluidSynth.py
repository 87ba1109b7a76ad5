"""FluidSynth's command line, and the MIDI messages that set the preset and tuning of a channel."""
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import mido
import numpy as np
import soundfile

import Hyperparameters as hp
import Notes
import Util

wheel_cents = 200   # range of the pitch wheel that General MIDI starts with


def find_fluidsynth():
    """Return the path of FluidSynth. Raises FileNotFoundError if it is not on PATH."""
    found = shutil.which("fluidsynth")
    if not found:
        raise FileNotFoundError("fluidsynth is not on PATH; install FluidSynth 2: apt-get install fluidsynth, "
                                "or brew install fluid-synth")
    return found


def preset_messages(channel, bank, program, detune):
    """Return the messages that choose a preset, and its tuning in cents, on a channel."""
    controls = [mido.Message("control_change", channel=channel, control=control, value=value)
                for control, value in zip(Notes.bank_select, (bank >> 7, bank & 127))]
    messages = [*controls, mido.Message("program_change", channel=channel, program=program)]
    if detune:
        messages.append(mido.Message("pitchwheel", channel=channel, pitch=wheel_position(0, detune, wheel_cents)))
    return messages


def wheel_position(bend, detune, cents):
    """Return the position of a pitch wheel, whose range is `cents`, for a bend and a detuning in cents."""
    return min(max(round((bend + detune) / cents * 8191), -8192), 8191)


def retune(events, detune):
    """Add a detuning to the pitch bends of a MIDI file.

    A file may move the pitch wheel, change its range (registered parameter 0) or reset all controllers. Each of these
    would end the detuning, so each is followed by a new position of the wheel.

    Parameters
    ----------
    events : list of (float, mido.Message)
        Time in seconds and message.
    detune : float
        Cents.

    Returns
    -------
    list of (float, mido.Message)
    """
    retuned, bends, ranges, parameters = [], {}, {}, {}     # by channel
    for time, message in events:
        channel, control = message.channel, getattr(message, "control", None)
        changed = True
        if message.type == "pitchwheel":
            bends[channel] = message.pitch / 8191
        elif control == Notes.reset_controllers:
            bends[channel] = 0
            parameters.pop(channel, None)
        elif control in Notes.registered_parameter:
            parameters.setdefault(channel, {})[control] = message.value
            changed = False
        elif control == Notes.data_entry and parameters.get(channel) == dict.fromkeys(Notes.registered_parameter, 0):
            message = message.copy(value=max(message.value, wheel_cents // 100))  # a smaller range has no room
            ranges[channel] = 100 * message.value
        else:
            changed = False
        if message.type != "pitchwheel":
            retuned.append((time, message))
        if changed:
            cents = ranges.get(channel, wheel_cents)
            position = wheel_position(bends.get(channel, 0) * cents, detune, cents)
            retuned.append((time, mido.Message("pitchwheel", channel=channel, pitch=position)))
    return retuned


def command_options(room):
    """Return the options of FluidSynth's command line, with reverberation if `room` is true."""
    return ["-ni", "-r", str(hp.sample_rate),  # the default, 44,100 Hz, would be read as half the speed
            "-g", str(hp.gain), "-R", str(int(room)), "-C", "0",
            "-o", f"synth.reverb.room-size={hp.fluidsynth_room_size}",
            "-o", f"synth.reverb.level={hp.fluidsynth_room_level}", "-o", "synth.dynamic-sample-loading=1",
            "-o", "synth.midi-bank-select=mma", "-o", f"synth.polyphony={hp.fluidsynth_polyphony}",
            "-T", "wav", "-O", "float"]


def render(midi, samples, preset):
    """Render a MIDI file with FluidSynth.

    Parameters
    ----------
    midi : mido.MidiFile
    samples : int
        Length of the result. A shorter render is padded with silence.
    preset : (Path, int, int, bool)
        SoundFont, bank, program, and whether to add reverberation.

    Returns
    -------
    np.ndarray [shape=(samples,), float32]
        The mean of both channels.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As `synthesise_midi_to_audio`.
    RuntimeError
        If FluidSynth fails for another reason, with its last words.
    """
    fluidsynth, (soundfont, bank, program, room) = find_fluidsynth(), preset
    with tempfile.TemporaryDirectory() as folder:
        trimmed, rendered = Path(folder) / "trimmed.mid", Path(folder) / "rendered.wav"
        with Util.atomic_write(trimmed) as temporary:
            midi.save(temporary)
        log = subprocess.run(
            [fluidsynth, *command_options(room), "-F", rendered, soundfont, trimmed],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        check_log(log, preset, rendered)
        audio = soundfile.read(rendered, dtype="float32", always_2d=True)[0].mean(axis=1)[:samples]
    return np.pad(audio, (0, samples - audio.size))


def check_log(log, preset, rendered):
    """Raise as `render` if FluidSynth, a finished process, reports an error."""
    soundfont, bank, program, _ = preset
    if "Failed to load SoundFont" in log.stdout or "not a SoundFont" in log.stdout:
        raise ValueError(f"{soundfont} is not a SoundFont that FluidSynth reads; replace it")
    if "Instrument not found" in log.stdout:
        raise ValueError(f"{soundfont} has no preset at bank {bank}, program {program}; choose another")
    # after a full disk FluidSynth ends with status 0
    full = re.search(r"write error: (?:System error : )?([^.\n]*)", log.stdout)
    too_large = hasattr(signal, "SIGXFSZ") and log.returncode == -signal.SIGXFSZ  # Windows has no such signal
    if full or too_large:
        raise Util.write_error(rendered, full[1] if full else "the file is too large")
    if log.returncode or not rendered.exists():
        raise RuntimeError(" ".join(log.stdout.split()[-40:]))
