"""Make what lies beside this script, with the shipped weights: scores, sounds, the report's figures and the page.

`python results/make.py` makes all of it; `--sounds`, `--figures` and `--page` a part.
"""
import argparse
import json
import string
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Main
import MIDI2Audio
import Util

results = hp.root / "results"

# the sound files in results/: the piece of piano-midi.de, the piano that plays it, and what the page says
sounds = {
    "train_sample": ("alb_esp1", hp.piano_preset, "Isaac Albéniz, España, Prélude",
                     "the networks were trained on this piece"),
    "mz_331_3": ("mz_331_3", hp.piano_preset, "W. A. Mozart, Rondo alla Turca",
                 "a piece not trained on, on a piano trained on"),
    "clair_de_lune": ("deb_clai", ("TimGM6mb.sf2", 0, 0), "Claude Debussy, Clair de Lune",
                      "a piece not trained on, on a piano whose SoundFont was not trained on"),
}
sides = {"input": "piano recording", "after_autoencoder": "autoencoder", "final": "autoencoder + U-Net",
         "truth": "true e-piano"}
page_picture_width = 5  # inches
figure_names = {
    "figure_1_autoencoder_losses": "Losses of the autoencoder, training and validation",
    "figure_2_autoencoder_epoch_20": "The autoencoder's output for a training piece after epoch 20",
    "figure_3_autoencoder_trained": "The autoencoder's output for the same piece when trained",
    "figure_4_piano_original": "The piano original of the same piece",
    "figure_5_unet_losses": "Losses of the U-Net, training and validation",
    "figure_6_autoencoder_output": "The first ten seconds of the same piece after the autoencoder",
    "figure_7_unet_output": "The same ten seconds after the U-Net",
    "figure_8_unseen_piano_input": "A recording of a piano whose SoundFont was not trained on",
    "figure_9_unseen_piano_autoencoder": "The same recording after the autoencoder",
    "figure_10_unseen_piano_final": "The same recording after autoencoder and U-Net",
}


def load_json(path):
    """Read a JSON file of results/. Raises FileNotFoundError if it is missing, ValueError if it is damaged."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; python results/make.py makes the scores, and AEMain.py and "
                                "UNetMain.py the losses (data/models/<model>)")
    try:
        return json.loads(Util.read_text(path))
    except json.JSONDecodeError:
        raise ValueError(f"{path} is no JSON, or is damaged; restore or remove it") from None


def render_sounds(midi_folder, folder=results):
    """Render the recording and the true e-piano of each of `sounds` from the MIDI files anywhere below `midi_folder`.

    Raises FileNotFoundError if one is missing, and as `MIDI2Audio.synthesise_midi_to_audio`.
    """
    files = {path.stem: path for path in sorted(Path(midi_folder).rglob("*.mid"))}
    for name, (piece, piano, *_) in sounds.items():
        if piece not in files:
            raise FileNotFoundError(f"{midi_folder} does not hold {piece}.mid; get it from piano-midi.de")
        for side, preset in (("input", piano), ("truth", hp.synth_preset)):
            MIDI2Audio.synthesise_midi_to_audio(files[piece], folder / f"{name}_{side}.wav", *preset)


def save_sounds(models, folder=results):
    """Write what the networks make of each `<sound>_input.wav`, all spectrograms, and the scores (sounds.md)."""
    scores = {}
    for name in sounds:
        recording, truth = (Main.read_recording(folder / f"{name}_{side}.wav") for side in ("input", "truth"))
        outputs = Evaluation.play(recording, truth, models)
        scores[name] = Evaluation.score(outputs, truth)
        heard = dict(zip(sides, (recording, outputs["autoencoder"], outputs["final"], truth)))
        for side, audio in heard.items():
            if side in ("after_autoencoder", "final"):
                Util.write_audio(folder / f"{name}_{side}.wav", audio)
            picture = Util.plot_spectrograms({sides[side]: DatasetCreator.spectrogram(audio)}, width=page_picture_width)
            Util.save_figure(folder / "figures" / f"{name}_{side}.png", picture)
    Evaluation.save_scores(folder / "sounds", scores)


def save_figures(models, folder=results):
    """Draw the ten figures of the report, `figure_names`, and the README's picture into results/figures.

    Raises FileNotFoundError if a recorded loss or the autoencoder's output of epoch 20 is missing, ValueError if that
    output is of another piece's length.
    """
    early = folder / "training" / "ae_epoch_20.npy"
    if not early.exists():
        raise FileNotFoundError(f"{early} is missing; AEMain.py leaves it in data/models/<model>: copy it from the "
                                "training that made ae.torch")
    ae_losses, unet_losses = (load_json(folder / "training" / f"{network}_losses.json") for network in ("ae", "unet"))
    stages = (Main.resynthesise(Main.read_recording(folder / f"{name}_input.wav"), models)[1]
              for name in ("train_sample", "clair_de_lune"))
    piece, unseen = ([stage[:, :hp.clip_frames] for stage in images] for images in stages)
    epoch_20, ten_seconds = np.load(early), 10 * hp.sample_rate // hp.hop_length
    if epoch_20.shape != piece[1].shape:
        raise ValueError(f"{early} has the shape {epoch_20.shape}, and the training piece {piece[1].shape}; "
                         "copy the output of that piece")
    ten = [stage[:, :ten_seconds] for stage in piece[1:]]
    drawn = [ae_losses, epoch_20, piece[1], piece[0], unet_losses, *ten, *unseen]
    for (name, title), content in zip(figure_names.items(), drawn):
        losses = isinstance(content, dict)
        figure = Util.plot_losses(content, title) if losses else Util.plot_spectrograms({title: content})
        Util.save_figure(folder / "figures" / f"{name}.png", figure)
    demo = Main.resynthesise(Main.read_recording(hp.demo), models)[1]
    picture = Util.plot_spectrograms(dict(zip(Main.stage_names, demo)), hp.demo.name)
    Util.save_figure(folder / "figures" / "demo.png", picture)


def sound_html(name, scores):
    """The section of the page with the four players of one of `sounds`."""
    _, _, title, remark = sounds[name]
    distances = [f"{scores[version]['log_mel_l1']:.2f} dB from the true e-piano" for version in Evaluation.versions[:3]]
    labelled = enumerate(zip(sides.items(), [*distances, "the same notes, rendered"]), 1)
    players = "".join(f'''
  <figure>
    <figcaption><kbd>{key}</kbd> <b>{label}</b> <span>{distance}</span></figcaption>
    <div class="picture"><img src="figures/{name}_{side}.png" alt="Spectrogram of {title}: {label}" width="550"
      height="308"><i></i></div>
    <audio controls preload="metadata" src="{name}_{side}.wav" aria-label="{title}: {label}"></audio>
  </figure>''' for key, ((side, label), distance) in labelled)
    return f'''
<section class="sound">
  <h2>{title}</h2>
  <p>{remark[0].upper()}{remark[1:]}. Timbre gap closed: {100 * Evaluation.gap_closed(scores):.0f}&nbsp;%. Ceiling:
  {scores["ceiling"]["log_mel_l1"]:.2f}&nbsp;dB.</p>
  <div class="players">{players}
  </div>
</section>'''


def save_page(folder=results):
    """Fill results/template.html with the sounds, their scores and the figures: results/index.html."""
    sound_scores, scores = (load_json(folder / f"{name}.json") for name in ("sounds", "evaluation"))
    blank = Util.plot_spectrograms({sides["truth"]: np.zeros((hp.n_mels, hp.clip_frames))}, width=page_picture_width)
    blank.draw_without_rendering()
    axis = blank.axes[0].get_position()  # within a picture, for the line that the page moves over it
    rows = "".join(f'\n  <tr><th scope="row">{version}</th>'
                   + "".join(f"<td>{scores['mean'][version][metric]:.2f}</td>" for metric in Evaluation.metrics)
                   + "</tr>" for version in Evaluation.versions)
    figures = "".join(f'''
  <figure>
    <a href="figures/{name}.png"><img src="figures/{name}.png" alt="{title}" loading="lazy"></a>
    <figcaption>Figure {number}. {title}</figcaption>
  </figure>''' for number, (name, title) in enumerate(figure_names.items(), 1))
    Util.save_text(folder / "index.html", string.Template(Util.read_text(folder / "template.html")).substitute(
        sounds="".join(sound_html(name, sound_scores[name]) for name in sounds), figures=figures,
        pieces=len(scores) - 1,
        columns="".join(f"<th scope=\"col\">{name}</th>" for name in Evaluation.metrics.values()), rows=rows,
        gap=f"{100 * Evaluation.gap_closed(scores['mean']):.0f}", left=f"{100 * axis.x0:.2f}",
        width=f"{100 * axis.width:.2f}",
        top=f"{100 * (1 - axis.y1):.2f}", height=f"{100 * axis.height:.2f}"))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Make what lies in results/ with the shipped weights.")
    parser.add_argument("--sounds", action="store_true",
                        help="only the wavs after the networks, their spectrograms and scores")
    parser.add_argument("--figures", action="store_true",
                        help="only figures 1 to 10 of the report, and the README's picture")
    parser.add_argument("--page", action="store_true", help="only results/index.html, from the scores")
    parser.add_argument("--render", type=Path, metavar="FOLDER",
                        help="only render the wavs that the sounds start from, "
                        "from the MIDI files of piano-midi.de in FOLDER; the repository has them")
    parser.add_argument("--device", default="auto", help="as for Main.py")
    options = parser.parse_args(arguments)
    if options.render:
        render_sounds(options.render)
    works = {"sounds": save_sounds, "figures": save_figures, "page": lambda models: save_page()}
    chosen = [name for name in works if getattr(options, name)]
    if not (chosen or options.render):
        Evaluation.main(["--model", "shipped", "--device", options.device])
        chosen = works
    for name in chosen:
        works[name](Main.load_models(*Main.find_weights("shipped"), options.device))
        print(f"{name}: {results}")


if __name__ == "__main__":
    Util.run(main)
