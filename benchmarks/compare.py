"""Draw the same seconds of several sounds beside each other, finely enough to see partials beat: docs/voice.png.

`python benchmarks/compare.py OUT.png BEFORE.wav AFTER.wav TRUTH.wav --from 10` draws five seconds of each, each brought
to the level of the last.
"""
import argparse
import sys
from pathlib import Path

import librosa
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import Hyperparameters as hp
import Plots
import Util

n_fft, hop_length = 1024, 32    # of the picture
highest = 3000                  # Hz


def plot_comparison(sounds, first=0):
    """Draw spectrograms side by side. `sounds` is a dict from title to audio that begins at `first` seconds. Returns
    a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(sounds), 4), layout="constrained")
    axes = figure.subplots(1, len(sounds), sharey=True, squeeze=False)[0]
    reference = list(sounds.values())[-1]
    for axis, (title, sound) in zip(axes, sounds.items()):
        sound = sound * np.sqrt((reference ** 2).mean() / ((sound ** 2).mean() + 1e-20))
        spectra = [np.abs(librosa.stft(side, n_fft=n_fft, hop_length=hop_length)) for side in (sound, reference)]
        decibels = librosa.amplitude_to_db(spectra[0], ref=spectra[1].max(), top_db=None)
        last = first + sound.size / hp.sample_rate
        image = axis.imshow(decibels, origin="lower", aspect="auto", vmin=-60, vmax=0, cmap="magma",
                            extent=(first, last, 0, hp.sample_rate / 2))
        axis.set_ylim(0, highest)
        axis.set_title(title, loc="left")
        axis.set_xlabel("seconds")
    axes[0].set_ylabel("Hz")
    figure.colorbar(image, ax=axes, label="dB below maximum", pad=0.01)
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Draw the same seconds of several sounds beside each other.")
    parser.add_argument("picture", type=Path, help="png to write")
    parser.add_argument("sounds", type=Path, nargs="+", help="wavs, the true one last; their names are the titles")
    parser.add_argument("--from", dest="first", type=float, default=0, help="second to begin at (default: 0)")
    parser.add_argument("--seconds", type=Util.positive_float, default=5, help="default: 5")
    options = parser.parse_args(arguments)
    start, size = round(options.first * hp.sample_rate), round(options.seconds * hp.sample_rate)
    sounds = {path.stem.replace("_", " "): Util.read_audio(path)[start:start + size] for path in options.sounds}
    Plots.save_figure(options.picture, plot_comparison(sounds, options.first))


if __name__ == "__main__":
    Util.run(main)
