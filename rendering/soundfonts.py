"""Presets of SoundFonts: finding the file, listing its presets, reading and writing FILE.sf2:BANK:PROGRAM."""
import contextlib
import struct
from pathlib import Path

import Hyperparameters as hp

packages = {  # of Debian and Ubuntu
    "FluidR3_GM.sf2": "fluid-soundfont-gm", "TimGM6mb.sf2": "timgm6mb-soundfont",
    "MuseScore_General_Full.sf3": "musescore-general-soundfont", "MuseScore_General.sf3": "musescore-general-soundfont",
    "sf_GMbank.sf2": "csound-soundfont",
}


def find_soundfont(name):
    """Return the path of a SoundFont: `name` itself, or a file of that name in SoundFonts/ or a system folder. Raises
    FileNotFoundError if there is none, and ValueError if it is shorter than its header says."""
    for path in (Path(name), hp.soundfonts / name, *(folder / name for folder in hp.system_soundfonts)):
        if path.is_file():
            with open(path, "rb") as file:
                header, size = file.read(8), path.stat().st_size
            stated = 8 + int.from_bytes(header[4:], "little")
            if header[:4] == b"RIFF" and size < stated:
                raise ValueError(f"{path} is cut short, {size} of {stated} bytes; download it again")
            return path
    package = packages.get(Path(name).name)
    if Path(name).name == hp.salamander:
        advice = "make it: python SoundFonts/salamander.py"
    elif package:
        advice = f"put it into SoundFonts/, or install it: apt-get install {package}"
    else:
        advice = ("put it into SoundFonts/, or choose another, such as FluidR3_GM.sf2 of apt-get install "
                  "fluid-soundfont-gm")
    raise FileNotFoundError(f"SoundFont {name} is neither in {hp.soundfonts.name}/ nor in the system's folders; "
                            f"{advice}")


def list_presets(soundfont):
    """Return the presets of a SoundFont as {(bank, program): name}, in order (SoundFont 2.04, section 7.2). Raises as
    `find_soundfont`, and ValueError if it is not a SoundFont."""
    path = find_soundfont(soundfont)

    def chunks(file, end):
        while file.tell() + 8 <= end:
            name, size = struct.unpack("<4sI", file.read(8))
            start = file.tell()
            yield name, start + size
            file.seek(start + size + size % 2)

    with open(path, "rb") as file, contextlib.suppress(struct.error):  # of a list that is cut off
        header = file.read(12)
        if header[:4] != b"RIFF" or header[8:] != b"sfbk":
            raise ValueError(f"{path} is not a SoundFont; replace it")
        for name, end in chunks(file, path.stat().st_size):
            if name == b"LIST" and file.read(4) == b"pdta":
                for name, end in chunks(file, end):
                    if name == b"phdr":
                        presets = list(struct.iter_unpack("<20sHH14x", file.read(end - file.tell())))
                        return dict(sorted(((bank, program), text.split(b"\0")[0].decode("latin-1").strip())
                                           for text, program, bank in presets[:-1]))  # the last one marks the end
    raise ValueError(f"{path} holds no presets; replace it")


def parse_preset(text):
    """Read a preset from "FILE.sf2:BANK:PROGRAM", or from "FILE.sf2:NAME" with the preset's name. Returns file, bank,
    program, and True after ":room", which adds reverberation. Raises ValueError if the text is not a preset, and
    FileNotFoundError if there is no such SoundFont to find the name in."""
    if text.endswith(":room"):
        return *parse_preset(text.removesuffix(":room")), True
    file, *numbers = text.rsplit(":", 2)
    if len(numbers) == 2 and file and all(number.isdecimal() for number in numbers):
        bank, program = map(int, numbers)
        if bank <= 16383 and program <= 127:
            return file, bank, program
    elif text.count(":"):
        file, name = text.rsplit(":", 1)
        for (bank, program), found in list_presets(file).items():
            if name and found.lower() == name.lower():
                return file, bank, program
        raise ValueError(f"{file} has no preset called '{name}'; python MIDI2Audio.py --list {file} shows what it has")
    raise ValueError(f"'{text}' is not a preset; write FILE.sf2:BANK:PROGRAM, for instance FluidR3_GM.sf2:0:5, or "
                     "FILE.sf2:NAME")


def preset_text(preset):
    """Return the text "FILE.sf2:BANK:PROGRAM" of a preset, the inverse of `parse_preset`."""
    return ":".join(map(str, preset[:3])) + (":room" if any(preset[3:]) else "")


def instrument_names(pair):
    """Return the names of the source and the target of a pair "source -> target", as weights hold it. These are "piano"
    and "electric piano" for the default presets, also if the pair is None, and for others the names in their
    SoundFonts. If a SoundFont is missing, its own name and the numbers stand for it."""
    source, _, target = str(pair or "").rpartition(" -> ")
    known = {"": ("piano", "electric piano"), "recordings": ("piano", "target instrument"),
             preset_text(hp.piano_preset): ("piano", "piano"),
             preset_text(hp.synth_preset): ("electric piano", "electric piano")}
    texts = source.split(",")[0], target.split(",")[0]
    return tuple(known[text][side] if text in known else preset_name(text) for side, text in enumerate(texts))


def preset_name(text):
    """Return the name of a preset "FILE.sf2:BANK:PROGRAM", or the file's name and numbers if it is not at hand."""
    try:
        file, bank, program = parse_preset(text)[:3]
        return list_presets(file)[bank, program] or text
    except (FileNotFoundError, ValueError, KeyError):
        name, *numbers = text.split(":")
        return " ".join([Path(name).stem, *numbers])
