"""SoundFonts are found; presets are read and listed; wrong ones are refused by name."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import Hyperparameters as hp
import MIDI2Audio
from rendering import soundfonts


def test_soundfonts_are_found_in_the_folder_of_the_project_first(monkeypatch, tmp_path):
    monkeypatch.setattr(hp, "soundfonts", tmp_path / "own")
    monkeypatch.setattr(hp, "system_soundfonts", (tmp_path / "system", tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    for folder in "other", "system", "own":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "piano.sf2").touch()
        assert soundfonts.find_soundfont("piano.sf2") == tmp_path / folder / "piano.sf2"
    assert soundfonts.find_soundfont("other/piano.sf2").resolve() == tmp_path / "other" / "piano.sf2"


@pytest.mark.parametrize("text",
                         ("", "x.sf2", "x.sf2:0", ":0:0", "x.sf2:0:128", "x.sf2:-1:0", "x.sf2:0:5.0", "x.sf2:a:b",
                          "x.sf2::", "x.sf2:16384:0", "FluidR3_GM.sf2:Theremin"))
def test_other_texts_are_refused(instruments, text):
    with pytest.raises((ValueError, FileNotFoundError), match="is not a preset|SoundFont .* is neither|"
                       "no preset called 'Theremin'; python MIDI2Audio.py --list FluidR3_GM.sf2"):
        soundfonts.parse_preset(text)


@pytest.mark.parametrize("text, preset", (
    ("some folder/a b.sf2:128:127", ("some folder/a b.sf2", 128, 127)),
    ("C:\\sounds\\x.sf2:16383:0", ("C:\\sounds\\x.sf2", 16383, 0)),
    ("FluidR3_GM.sf2:Vibraphone", ("FluidR3_GM.sf2", 0, 11)),
    ("FluidR3_GM.sf2:legend ep 2", ("FluidR3_GM.sf2", 0, 5)),
    ("FluidR3_GM.sf2:0:5:room", ("FluidR3_GM.sf2", 0, 5, True)),
    ("FluidR3_GM.sf2:Yamaha Grand Piano:room", ("FluidR3_GM.sf2", 0, 0, True)),
))
def test_a_preset_is_a_file_with_bank_and_program_or_a_name_and_may_have_a_room(instruments, text, preset):
    assert soundfonts.parse_preset(text) == preset


def test_a_closed_pipe_ends_the_list_quietly(root, instruments):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, root / "MIDI2Audio.py", "--list", "FluidR3_GM.sf2"], stdout=write,
                          stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_incomplete_soundfont_is_named(instruments, midi, tmp_path):
    part = tmp_path / "part.sf2"
    with open(soundfonts.find_soundfont("FluidR3_GM.sf2"), "rb") as file:
        part.write_bytes(file.read(100_000))
    midi(tmp_path / "MIDI" / "one.mid")
    for call in (lambda: soundfonts.list_presets(part),
                 lambda: MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "out", (part, 0, 0))):
        with pytest.raises(ValueError, match=rf"{part} is cut short, 100000 of \d+ bytes; download it again"):
            call()
    assert not (tmp_path / "out").exists()


def test_presets_are_listed_as_they_can_be_given(instruments, capsys):
    MIDI2Audio.main(["--list", "FluidR3_GM.sf2"])
    lines = capsys.readouterr().out.splitlines()
    assert "FluidR3_GM.sf2:0:0  Yamaha Grand Piano" in lines and len(lines) == len(set(lines)) > 128
    for line in lines[:20]:
        soundfonts.parse_preset(line.split("  ")[0])


@pytest.mark.parametrize("content, bank, text", (
    (None, 5, "has no preset at bank 5, program 3"), (None, 16383, "has no preset at bank 16383, program 3"),
    (b"text", 0, "is not a SoundFont"), (b"RIFF\4\0\0\0sfbk", 0, "is not a SoundFont")))
def test_a_missing_preset_and_a_damaged_soundfont_are_named(render, midi, tmp_path, content, bank, text):
    file = tmp_path / "bad.sf2" if content else hp.piano_preset[0]
    if content:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} {text}"):
        render(midi(tmp_path / "a.mid"), (str(file), bank, 3))
    assert not (tmp_path / "render.wav").exists()


@pytest.mark.parametrize("name, advice", (
    ("nosuch.sf2", "choose another, such as FluidR3_GM.sf2 of apt-get install fluid-soundfont-gm"),
    ("Salamander.sf2", "make it: python SoundFonts/salamander.py"),
    *((name, f"or install it: apt-get install {package}") for name, package in soundfonts.packages.items())))
def test_a_missing_soundfont_is_named_with_how_to_get_it(tmp_path, monkeypatch, name, advice):
    monkeypatch.setattr(hp, "system_soundfonts", ())
    monkeypatch.setattr(hp, "soundfonts", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name} is neither .*{advice}$"):
        soundfonts.find_soundfont(name)


@pytest.mark.parametrize("pair, names", (
    (None, ("piano", "electric piano")), ("recordings -> recordings", ("piano", "target instrument")),
    ("FluidR3_GM.sf2:0:0, recorded, voiced -> FluidR3_GM.sf2:0:5", ("piano", "electric piano")),
    ("FluidR3_GM.sf2:0:11 -> FluidR3_GM.sf2:0:10", ("Vibraphone", "Music Box")),
    ("FluidR3_GM.sf2:0:1:room, FluidR3_GM.sf2:0:0 -> nosuch.sf2:0:3", ("Bright Yamaha Grand", "nosuch 0 3"))))
def test_the_instruments_of_a_pair_have_names(instruments, pair, names):
    assert soundfonts.instrument_names(pair) == names


def test_the_change_check_hides_what_a_person_has_installed(root, tmp_path, monkeypatch):
    """In a mount namespace: a SoundFont and a program that no command of the README installs."""
    folder = next(filter(Path.is_dir, hp.system_soundfonts), None)
    (tmp_path / "sox").write_text("#!/bin/sh\n")
    (tmp_path / "sox").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script = """mount -t tmpfs tmpfs "$1" || exit 77
        touch "$1/TimGM6mb.sf2" "$1/FluidR3_GM.sf2"
        unshare --mount "$0" true || exit 77
        unshare --mount "$0" sh -c 'ls "$1"; command -v sox' - "$1"; ls "$1" """
    line = "unshare", "--mount", "bash", "-c", script, root / ".ci" / "bare", folder
    done = subprocess.run(line, capture_output=True, text=True) if folder and shutil.which("unshare") else None
    if not (done and (done.stdout or not done.returncode)):
        pytest.skip("mount namespaces are not permitted, or missing")
    assert done.stdout.split() == ["FluidR3_GM.sf2", "FluidR3_GM.sf2", "TimGM6mb.sf2"]
    assert (tmp_path / "sox").exists()
