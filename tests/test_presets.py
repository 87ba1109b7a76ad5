"""SoundFonts are found; presets are read and listed; wrong ones are refused by name."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import Hyperparameters as hp
import MIDI2Audio
import Presets


# SoundFonts and presets

def test_soundfonts_are_found_in_the_folder_of_the_project_first(monkeypatch, tmp_path):
    monkeypatch.setattr(hp, "soundfonts", tmp_path / "own")
    monkeypatch.setattr(hp, "system_soundfonts", (tmp_path / "system", tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    for folder in "other", "system", "own":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "piano.sf2").touch()
        assert MIDI2Audio.find_soundfont("piano.sf2") == tmp_path / folder / "piano.sf2"
    assert MIDI2Audio.find_soundfont("other/piano.sf2").resolve() == tmp_path / "other" / "piano.sf2"


@pytest.mark.parametrize("text, preset", (
    ("FluidR3_GM.sf2:0:5", ("FluidR3_GM.sf2", 0, 5)),
    ("some folder/a b.sf2:128:127", ("some folder/a b.sf2", 128, 127)),
    ("C:\\sounds\\x.sf2:16383:0", ("C:\\sounds\\x.sf2", 16383, 0)),
))
def test_a_preset_is_file_bank_program(text, preset):
    assert MIDI2Audio.parse_preset(text) == preset


@pytest.mark.parametrize("text",
                         ("", "x.sf2", "x.sf2:0", ":0:0", "x.sf2:0:128", "x.sf2:-1:0", "x.sf2:0:5.0", "x.sf2:a:b",
                          "x.sf2::", "x.sf2:16384:0"))
def test_other_texts_are_refused(text):
    with pytest.raises((ValueError, FileNotFoundError), match="is not a preset|SoundFont .* is neither"):
        MIDI2Audio.parse_preset(text)


@pytest.mark.parametrize("text, preset", (
    ("FluidR3_GM.sf2:Vibraphone", ("FluidR3_GM.sf2", 0, 11)),
    ("FluidR3_GM.sf2:legend ep 2", ("FluidR3_GM.sf2", 0, 5)),
    ("FluidR3_GM.sf2:0:5:room", ("FluidR3_GM.sf2", 0, 5, True)),
    ("FluidR3_GM.sf2:Yamaha Grand Piano:room", ("FluidR3_GM.sf2", 0, 0, True)),
))
def test_a_preset_can_be_given_by_name_and_with_a_room(instruments, text, preset):
    assert MIDI2Audio.parse_preset(text) == preset


def test_an_unknown_name_is_refused_with_the_command_that_lists_all(instruments):
    with pytest.raises(ValueError, match="has no preset called 'Theremin'; python MIDI2Audio.py --list FluidR3_GM.sf2"):
        MIDI2Audio.parse_preset("FluidR3_GM.sf2:Theremin")


def test_a_closed_pipe_ends_the_list_quietly(root, instruments):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, root / "MIDI2Audio.py", "--list", "FluidR3_GM.sf2"], stdout=write,
                          stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_incomplete_soundfont_is_named(instruments, midi, tmp_path):
    part = tmp_path / "part.sf2"
    with open(MIDI2Audio.find_soundfont("FluidR3_GM.sf2"), "rb") as file:
        part.write_bytes(file.read(100_000))
    midi(tmp_path / "MIDI" / "one.mid")
    for call in (lambda: MIDI2Audio.list_presets(part),
                 lambda: MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "out", (part, 0, 0))):
        with pytest.raises(ValueError, match=rf"{part} is cut short, 100000 of \d+ bytes; download it again"):
            call()
    assert not (tmp_path / "out").exists()


def test_presets_are_listed_as_they_can_be_given(instruments, capsys):
    MIDI2Audio.main(["--list", "FluidR3_GM.sf2"])
    lines = capsys.readouterr().out.splitlines()
    assert "FluidR3_GM.sf2:0:0  Yamaha Grand Piano" in lines and len(lines) == len(set(lines)) > 128
    for line in lines[:20]:
        MIDI2Audio.parse_preset(line.split("  ")[0])


@pytest.mark.parametrize("bank, program", ((5, 0), (128, 127), (16383, 3)))
def test_a_missing_preset_is_named(render, midi, tmp_path, bank, program):
    with pytest.raises(ValueError, match=f"FluidR3_GM.sf2 has no preset at bank {bank}, program {program}"):
        render(midi(tmp_path / "a.mid"), ("FluidR3_GM.sf2", bank, program))
    assert not (tmp_path / "render.wav").exists()


@pytest.mark.parametrize("content", (b"text", b"RIFF\4\0\0\0sfbk"))
def test_a_file_that_is_not_a_soundfont_is_named(render, midi, tmp_path, content):
    (tmp_path / "bad.sf2").write_bytes(content)
    with pytest.raises(ValueError, match="bad.sf2 is not a SoundFont"):
        render(midi(tmp_path / "a.mid"), (str(tmp_path / "bad.sf2"), 0, 0))


def test_missing_fluidsynth_and_soundfonts_are_named_with_the_command_that_installs_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install fluidsynth"):
        MIDI2Audio.find_fluidsynth()
    with pytest.raises(FileNotFoundError, match="nosuch.sf2 .*choose another, such as FluidR3_GM.sf2 of apt-get "
                                                "install fluid-soundfont-gm"):
        MIDI2Audio.find_soundfont("nosuch.sf2")
    assert shutil.which("fluidsynth") is None


def test_a_soundfont_that_a_script_makes_is_named_with_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "system_soundfonts", ()), monkeypatch.setattr(hp, "soundfonts", tmp_path)
    with pytest.raises(FileNotFoundError, match="Salamander.sf2 is neither .*; make it: python SoundFonts/salamander.py"):
        MIDI2Audio.find_soundfont("Salamander.sf2")


def test_a_package_is_named_only_for_its_soundfonts(tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "system_soundfonts", ()), monkeypatch.setattr(hp, "soundfonts", tmp_path)
    for name, package in hp.soundfont_packages.items():
        with pytest.raises(FileNotFoundError, match=f"{name} is neither .*or install it: apt-get install {package}$"):
            MIDI2Audio.find_soundfont(name)


@pytest.mark.parametrize("pair, names", (
    (None, ("piano", "electric piano")), ("recordings -> recordings", ("piano", "target instrument")),
    ("FluidR3_GM.sf2:0:0, recorded, voiced -> FluidR3_GM.sf2:0:5", ("piano", "electric piano")),
    ("FluidR3_GM.sf2:0:11 -> FluidR3_GM.sf2:0:10", ("Vibraphone", "Music Box")),
    ("FluidR3_GM.sf2:0:1:room, FluidR3_GM.sf2:0:0 -> nosuch.sf2:0:3", ("Bright Yamaha Grand", "nosuch 0 3"))))
def test_the_instruments_of_a_pair_have_names(instruments, pair, names):
    assert Presets.instrument_names(pair) == names


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
    if not (folder and shutil.which("unshare")):
        pytest.skip("no mount namespaces")
    done = subprocess.run(["unshare", "--mount", "bash", "-c", script, root / ".ci" / "bare", folder],
                          capture_output=True, text=True)
    if done.returncode and not done.stdout:
        pytest.skip(f"mount namespaces are not permitted: {done.stderr}")
    assert done.stdout.split() == ["FluidR3_GM.sf2", "FluidR3_GM.sf2", "TimGM6mb.sf2"]
    assert (tmp_path / "sox").exists()
