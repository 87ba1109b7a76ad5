"""Compare the studio sounds with FluidSynth's own render of the same notes, at 44,100 Hz in stereo: results/studio.md.

`python benchmarks/studio.py FOLDER` takes MIDI files of piano-midi.de. With other pieces than those of goals.md, the
page is written to the working folder.
"""
import argparse
import sys
from pathlib import Path

import librosa
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Hyperparameters as hp
import MIDI2Audio
import Util
from audio import audio_metrics
from common import check_soundfonts, output_path, scored_pieces, table
from notes import note_events, studio_voice
from rendering import fluidsynth, soundfonts

rate = studio_voice.rate
from_hertz = 11_025     # that the output at 22,050 Hz does not have
n_mels = 128


def log_mel_l1(output, truth):
    """Return the mean absolute difference of two log-mel spectrograms in dB: of all bands up to 22 kHz, and of those
    above `from_hertz`. See `audio_metrics.log_mel_l1`, which has half the sample rate and half the sizes."""
    powers = [librosa.feature.melspectrogram(y=audio, sr=rate, n_fft=2 * hp.n_fft, hop_length=2 * hp.hop_length,
                                             n_mels=n_mels) for audio in (output, truth)]
    decibels = [10 * np.log10(np.maximum(power / powers[1].max(), 10 ** (-hp.top_db / 10))) for power in powers]
    distance = np.abs(decibels[0] - decibels[1]).mean(axis=1)
    return distance.mean(), distance[librosa.mel_frequencies(n_mels=n_mels, fmax=rate / 2) > from_hertz].mean()


def score_piece(path, voice, preset):
    """Return the distances of the middle and of the side of a piece, three each: log-mel L1 and texture in dB."""
    midi, seconds = MIDI2Audio.trim(path, None, *preset[1:3])
    truth = fluidsynth.render(midi, round(seconds * rate), preset, path, rate, stereo=True)
    output = np.concatenate(list(voice.blocks(note_events.read_notes(path), seconds)))
    output = output * np.sqrt((truth ** 2).mean() / (output ** 2).mean())
    return [distance for signals in zip(*map(studio_voice.middle_and_side, (output, truth)))
            for distance in (*log_mel_l1(*signals), audio_metrics.texture(*signals, rate))]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Compare the studio sounds with FluidSynth's own render.")
    parser.add_argument("folder", type=Path, help="folder with MIDI files")
    parser.add_argument("-o", "--output", type=Path, help="page to write (default: results/studio.md for the pieces of "
                        "results/goals.md, else studio.md in the working folder)")
    options = parser.parse_args(arguments)
    check_soundfonts(hp.synth_preset)
    pieces = Util.find_pieces(options.folder, note_events.midi_endings)
    preset = soundfonts.find_soundfont(hp.synth_preset[0]), *hp.synth_preset[1:], False
    voice = studio_voice.load(hp.ae_weights, soundfonts.preset_text(hp.synth_preset))
    scores = np.array([score_piece(path, voice, preset) for path in tqdm(pieces.values(), unit="piece")])
    means = scores.mean(axis=0).reshape(2, 3)
    output = output_path(hp.root / "results" / "studio.md", sorted(pieces) == sorted(scored_pieces), options.output)
    rows = [("signal", "log-mel L1, dB", "above 11 kHz, dB", "texture, dB")]
    rows += [(name, *map(float, row)) for name, row in zip(("middle", "side"), means)]
    Util.save_text(output, "Distance of `--studio` from FluidSynth's own render of the same notes, 44,100 Hz in "
                   f"stereo, means over the first {hp.limit_s} s of {len(pieces)} pieces. *Middle* is half the sum of the "
                   "channels, *side* half their difference. Made by `python benchmarks/studio.py FOLDER`.\n\n"
                   + table(rows))
    print(f"{output.read_text(encoding='utf-8')}\n{output}")


if __name__ == "__main__":
    Util.run(main)
