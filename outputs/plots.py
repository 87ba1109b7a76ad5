"""Figures: spectrograms, notes and losses, drawn with matplotlib."""
import numpy as np

import Hyperparameters as hp
import Util

stage_names = ("recording", "after the autoencoder", "after the U-Net: the result")


def save_figure(path, figure, mark=None):
    """Write a matplotlib figure to `path` as a png, the same bytes for the same figure. A text chunk holds `mark`."""
    texts = {"Comment": mark} if mark else {}
    Util.save_bytes(path, lambda file: figure.savefig(file, dpi=110, format="png", metadata=texts), mark)


def plot_spectrograms(spectrograms, title="", width=9):
    """Draw log-mel spectrograms [shape=(n_mels, t), in [0, 1]] below each other, on one colour range. `spectrograms` is
    a dict from the title of each panel, `title` that of the figure, `width` in inches. The figure of matplotlib is not
    attached to a window: save it, or let a notebook show it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 0.6 + 2.2 * len(spectrograms)), layout="constrained")
    axes = figure.subplots(len(spectrograms), sharex=True, squeeze=False)[:, 0]
    bands = Util.mel_frequencies(hp.n_mels)
    hertz = [128, 512, 1024, 2048, 4096, 8192]
    for axis, (name, spectrogram) in zip(axes, spectrograms.items()):
        seconds = spectrogram.shape[1] * hp.hop_length / hp.sample_rate
        image = axis.imshow(Util.to_db(np.asarray(spectrogram, dtype=np.float32)), origin="lower", aspect="auto",
                            extent=(0, seconds, -0.5, hp.n_mels - 0.5), vmin=-hp.top_db, vmax=0, cmap="magma",
                            interpolation="nearest")
        axis.set_yticks(np.interp(hertz, bands, np.arange(hp.n_mels)), hertz)
        axis.set_title(name, loc="left", fontsize="medium")
        axis.set_ylabel("Hz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="dB below maximum", pad=0.01)
    figure.suptitle(title)
    return figure


def plot_stages(stages, title="", width=9):
    """Draw the spectrograms that `Main.resynthesise` returns: see `plot_spectrograms`."""
    return plot_spectrograms(dict(zip(stage_names, stages)), title, width)


def plot_notes(spectrogram, notes, title="", width=9):
    """Draw notes over a pitch spectrogram: see `draw_notes`. Returns a figure like `plot_spectrograms`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    draw_notes(figure.subplots(), spectrogram, notes)
    figure.axes[0].set(xlabel="seconds", title=title)
    return figure


def draw_notes(axis, spectrogram, notes):
    """Draw notes [shape=(n, 4)], the louder the brighter, over a pitch spectrogram [shape=(n_pitches, t), in [0, 1]] on
    axes of matplotlib. A note is onset and offset in seconds, MIDI key and velocity."""
    from matplotlib import colormaps

    seconds = spectrogram.shape[1] * hp.pitch_hop_length / hp.sample_rate
    keys = np.array((-1.5, hp.n_pitches - 1.5)) / hp.pitch_bands_per_key + hp.lowest_key  # the lowest is band 1
    axis.imshow(spectrogram, origin="lower", aspect="auto", extent=(0, seconds, *keys), vmin=0, vmax=1, cmap="gray_r",
                interpolation="nearest")
    onset, end, key, velocity = np.reshape(notes, (-1, 4)).T
    axis.barh(key, end - onset, 0.9, onset, color=colormaps["plasma"](velocity / 127), alpha=0.8)
    axis.set(xlim=(0, seconds), ylim=(hp.lowest_key - 0.5, hp.lowest_key + hp.n_keys - 0.5))
    octaves = range(24, hp.lowest_key + hp.n_keys, 12)
    axis.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])


def plot_losses(losses, title=""):
    """Draw training and validation loss against the epoch in two panels, with the kept epoch marked. `losses` is a
    dict: "training" and "validation", one number per epoch, and "loss", the name of the training loss. If known, "kept"
    is the number of the epoch whose weights are kept, and "before" the losses before the first step."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    before, kept = losses.get("before"), losses.get("kept")
    for axis, name in zip(figure.subplots(1, 2), ("training", "validation")):
        values = list(losses[name])
        epochs = list(range(1, len(values) + 1))
        if name == "validation" and before:
            values, epochs = [before["validation"], *values], [0, *epochs]
        axis.plot(epochs, values, marker="." if len(values) < 40 else "")
        if name == "validation" and kept in epochs:
            axis.plot(kept, values[epochs.index(kept)], "o", color="C3", label=f"kept: epoch {kept}")
            axis.legend()
        if values and min(values) > 0 and max(values) > 4 * min(values):
            axis.set_yscale("log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlabel="epoch", ylabel=losses["loss"] if name == "training" else "validation loss", title=name)
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    return figure
