"""How good is it? Scores the system on recordings with their true e-piano renders (report: evaluation).

`python Evaluation.py` scores data/test and writes results/evaluation.md, .json and .png; `python Evaluation.py FOLDER`
scores FOLDER/piano against FOLDER/synth, or renders the MIDI files in FOLDER first. `python Evaluation.py --all` makes
everything in results/ with the shipped weights: the scores, the sound files, the figures of the report and the page.
"""
import argparse
import json
import string
from pathlib import Path

import librosa
import numpy as np
from tqdm import tqdm

import DatasetCreator
import Hyperparameters as hp
import Main
import MIDI2Audio
import Util

results = hp.root / "results"
versions = ("unchanged", "autoencoder", "final", "ceiling")
metrics = {"log_mel_l1": "log-mel L1, dB", "convergence": "spectral convergence", "onset_f1": "onset F1"}

# the sound files in results/: the piece of piano-midi.de, the piano that plays it, and what the page says
sounds = {
    "train_sample": ("alb_esp1", hp.piano_preset, "Isaac Albéniz, España, Prélude", "the networks were trained on this piece"),
    "mz_331_3": ("mz_331_3", hp.piano_preset, "W. A. Mozart, Rondo alla Turca", "a piece not trained on, on a piano trained on"),
    "clair_de_lune": ("deb_clai", ("TimGM6mb.sf2", 0, 0), "Claude Debussy, Clair de Lune",
                      "a piece not trained on, on a piano whose SoundFont was not trained on"),
}
sides = {"input": "piano recording", "after_autoencoder": "autoencoder", "final": "autoencoder + U-Net", "truth": "true e-piano"}
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


def log_mel_l1(output, truth):
    """Mean distance of two log-mel spectrograms in dB, the output brought to the truth's RMS level.

    128 bands, dB relative to the truth's maximum, floor at -80 dB. `output` and `truth`: np.ndarray [shape=(n,)] at
    22,050 Hz.
    """
    output = output * np.sqrt((truth ** 2).mean() / ((output ** 2).mean() + 1e-20))
    output, truth = (DatasetCreator.mel_power(DatasetCreator.stft(signal)) for signal in (output, truth))
    reference = truth.max()
    return hp.top_db * float(np.abs(DatasetCreator.log_mel(output, reference) - DatasetCreator.log_mel(truth, reference)).mean())


def convergence(output, truth):
    """Distance of two magnitude spectrograms, each at unit norm: 0 for the same up to a gain, at most sqrt(2).

    Mean over the STFT sizes 512, 1024 and 2048. `output` and `truth`: np.ndarray [shape=(n,)].
    """
    distances = []
    for n_fft in (512, 1024, 2048):
        spectra = (np.abs(librosa.stft(signal, n_fft=n_fft, hop_length=n_fft // 4)) for signal in (output, truth))
        output_unit, truth_unit = (spectrum / (np.linalg.norm(spectrum) + 1e-9) for spectrum in spectra)
        distances.append(np.linalg.norm(output_unit - truth_unit))
    return float(np.mean(distances))


def onsets_of_midi(path, limit_s=hp.limit_s):
    """Times in seconds at which notes begin, ascending; those of a chord, within 30 ms, count once."""
    midi, _ = MIDI2Audio.trim(path, limit_s)
    times, now = [], 0.0
    for message in midi:
        now += message.time
        if message.type == "note_on" and message.velocity and (not times or now - times[-1] > 0.03):
            times.append(now)
    return times


def onset_f1(output, onsets, tolerance=0.05):
    """F1 of the onsets that librosa finds in `output` against the true `onsets`, in seconds, each matched once."""
    found = librosa.onset.onset_detect(y=output, sr=hp.sample_rate, hop_length=hp.hop_length, units="time")
    hits, i, j = 0, 0, 0
    while i < len(found) and j < len(onsets):
        if abs(found[i] - onsets[j]) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif found[i] < onsets[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / (len(found) + len(onsets)) if len(found) + len(onsets) else 1.0


def ceiling(recording, truth, inversion=hp.inversion):
    """The inversion applied to the true mel spectrogram: the best that the networks could lead to."""
    power = DatasetCreator.mel_power(DatasetCreator.stft(truth))
    mel = DatasetCreator.mel_from_log(DatasetCreator.log_mel(power, power.max()))
    audio = DatasetCreator.invert(mel, DatasetCreator.stft(recording), inversion)
    return librosa.util.fix_length(audio, size=truth.size)


def play(recording, truth, models, inversion=hp.inversion):
    """Return the audio of each of `versions` for a recording [shape=(n,)] and its true render [shape=(n,)]."""
    return {
        "unchanged": recording,
        "autoencoder": Main.resynthesise(recording, models[:1], inversion)[0],
        "final": Main.resynthesise(recording, models, inversion)[0],
        "ceiling": ceiling(recording, truth, inversion),
    }


def score(outputs, truth, midi_file=None):
    """Return version -> metric -> figure for what `play` returns; `onset_f1` is there with a MIDI file."""
    scores = {version: {"log_mel_l1": log_mel_l1(audio, truth), "convergence": convergence(audio, truth)}
              for version, audio in outputs.items()}
    if midi_file:
        onsets = onsets_of_midi(midi_file)
        for version, audio in outputs.items():
            scores[version]["onset_f1"] = onset_f1(audio, onsets)
    return scores


def evaluate(folder, midi_folder, models, inversion=hp.inversion):
    """Score every piece of `folder`/piano against `folder`/synth, cut or filled up with silence to 30 s.

    Returns piece -> version -> metric -> figure, with the mean as a last piece. `onset_f1` is there if `midi_folder`
    holds the piece. Raises as `DatasetCreator.pairs`.
    """
    midi_files = Util.pieces(midi_folder, MIDI2Audio.midi_endings) if midi_folder and midi_folder.is_dir() else {}
    scores = {}
    for name, recordings in tqdm(DatasetCreator.pairs(folder).items(), desc="evaluation", unit="piece"):
        recording, truth = (librosa.util.fix_length(Main.read(path), size=hp.limit_s * hp.sample_rate) for path in recordings)
        scores[name] = score(play(recording, truth, models, inversion), truth, midi_files.get(name))
    scores["mean"] = {version: {metric: float(np.mean([piece[version][metric] for piece in scores.values()]))
                                for metric in metrics if all(metric in piece[version] for piece in scores.values())}
                      for version in versions}
    return scores


def gap_closed(piece):
    """Timbre gap closed: (unchanged - final) / (unchanged - ceiling) in log-mel L1; 0 is the piano, 1 all there is to win."""
    unchanged, final, best = (piece[version]["log_mel_l1"] for version in ("unchanged", "final", "ceiling"))
    return (unchanged - final) / (unchanged - best)


def table(scores):
    """The scores as Markdown: a row a piece, a column a metric and version, the timbre gap closed at the end."""
    present = [metric for metric in metrics if any(metric in piece["final"] for piece in scores.values())]
    lines = ["| piece | " + " | ".join(f"{metrics[metric]}: {version}" if version == versions[0] else version
                                       for metric in present for version in versions) + " | timbre gap closed |"]
    lines.append("|---" * (len(present) * len(versions) + 2) + "|")
    for name, piece in scores.items():
        cells = [f"{piece[version].get(metric, float('nan')):.2f}" for metric in present for version in versions]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {100 * gap_closed(piece):.0f} % |")
    return "\n".join(lines) + "\n"


def plot(scores):
    """Draw the log-mel L1 of each piece's versions. Returns a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.45 * len(scores)), layout="constrained")
    axis = figure.subplots()
    for offset, version in enumerate(versions):
        axis.barh(np.arange(len(scores)) + (offset - 1.5) / 5, [piece[version]["log_mel_l1"] for piece in scores.values()],
                  height=0.2, label=version)
    axis.set_yticks(range(len(scores)), scores)
    axis.invert_yaxis()
    axis.set_xlabel("log-mel L1 to the true e-piano, dB")
    figure.legend(loc="outside upper center", ncols=len(versions))
    return figure


def render(midi_folder, data=hp.data, piano=hp.piano_preset):
    """Render a folder of MIDI files on `piano` and on the e-piano below `data`, and return the folder with piano/ and synth/.

    Raises as `MIDI2Audio.synthesise_folder`.
    """
    place = "_".join([*midi_folder.resolve().parts[1:], *map(str, piano)])
    folder, pieces = Path(data) / "evaluation" / place, Util.pieces(midi_folder, MIDI2Audio.midi_endings)
    for mode, preset in (("piano", piano), ("synth", hp.synth_preset)):
        for path in (folder / mode).glob("*.wav"):
            if path.stem not in pieces:  # its MIDI file is gone
                path.unlink()
        MIDI2Audio.synthesise_folder(midi_folder, folder / mode, preset)
    return folder


def load_json(path):
    """Read a JSON file of results/. Raises FileNotFoundError if it is missing."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; python Evaluation.py --all makes the scores, and AEMain.py and UNetMain.py "
                                "the losses (data/models/<model>)")
    return json.loads(path.read_text())


def save_scores(path, scores):
    """Write scores to `path`.md and, to four places, .json."""
    rounded = {name: {version: {metric: round(figure, 4) for metric, figure in figures.items()}
                      for version, figures in piece.items()} for name, piece in scores.items()}
    Util.save_text(path.with_suffix(".md"), table(scores))
    Util.save_text(path.with_suffix(".json"), json.dumps(rounded, indent=1) + "\n")


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
    """Write what the networks make of each `<sound>_input.wav`, a spectrogram of each side, and the scores (sounds.md)."""
    scores = {}
    for name in sounds:
        recording, truth = (Main.read(folder / f"{name}_{side}.wav") for side in ("input", "truth"))
        outputs = play(recording, truth, models)
        scores[name] = score(outputs, truth)
        heard = dict(zip(sides, (recording, outputs["autoencoder"], outputs["final"], truth)))
        for side, audio in heard.items():
            if side in ("after_autoencoder", "final"):
                Util.write_audio(folder / f"{name}_{side}.wav", audio)
            picture = Util.plot_spectrograms({sides[side]: DatasetCreator.spectrogram(audio)}, width=page_picture_width)
            Util.save_figure(folder / "figures" / f"{name}_{side}.png", picture)
    save_scores(folder / "sounds", scores)


def save_figures(models, folder=results):
    """Draw the ten figures of the report, `figure_names`, and the README's picture into results/figures.

    Raises FileNotFoundError if a recorded loss or the autoencoder's output of epoch 20 is missing, ValueError if that
    output is of another piece's length.
    """
    early = folder / "training" / "ae_epoch_20.npy"
    if not early.exists():
        raise FileNotFoundError(f"{early} is missing; AEMain.py leaves it in data/models/<model>: copy it from the training "
                                "that made ae.torch")
    ae_losses, unet_losses = (load_json(folder / "training" / f"{network}_losses.json") for network in ("ae", "unet"))
    stages = (Main.resynthesise(Main.read(folder / f"{name}_input.wav"), models)[1] for name in ("train_sample", "clair_de_lune"))
    piece, unseen = ([stage[:, :hp.clip_frames] for stage in images] for images in stages)
    epoch_20, ten_seconds = np.load(early), 10 * hp.sample_rate // hp.hop_length
    if epoch_20.shape != piece[1].shape:
        raise ValueError(f"{early} has the shape {epoch_20.shape}, and the training piece {piece[1].shape}; "
                         "copy the output of that piece")
    ten = [stage[:, :ten_seconds] for stage in piece[1:]]
    drawn = [ae_losses, epoch_20, piece[1], piece[0], unet_losses, *ten, *unseen]
    for (name, title), content in zip(figure_names.items(), drawn):
        figure = Util.plot_losses(content, title) if isinstance(content, dict) else Util.plot_spectrograms({title: content})
        Util.save_figure(folder / "figures" / f"{name}.png", figure)
    demo = Main.resynthesise(Main.read(hp.demo), models)[1]
    picture = Util.plot_spectrograms(dict(zip(Main.stage_names, demo)), hp.demo.name)
    Util.save_figure(folder / "figures" / "demo.png", picture)


def sound_html(name, scores):
    """The section of the page with the four players of one of `sounds`."""
    _, _, title, remark = sounds[name]
    distances = [f"{scores[version]['log_mel_l1']:.2f} dB from the true e-piano" for version in versions[:3]]
    players = "".join(f'''
  <figure>
    <figcaption><kbd>{key}</kbd> <b>{label}</b> <span>{distance}</span></figcaption>
    <div class="picture"><img src="figures/{name}_{side}.png" alt="Spectrogram of {title}: {label}" width="550"
      height="308"><i></i></div>
    <audio controls preload="metadata" src="{name}_{side}.wav" aria-label="{title}: {label}"></audio>
  </figure>''' for key, ((side, label), distance) in enumerate(zip(sides.items(), [*distances, "the same notes, rendered"]), 1))
    return f'''
<section class="sound">
  <h2>{title}</h2>
  <p>{remark[0].upper()}{remark[1:]}. Timbre gap closed: {100 * gap_closed(scores):.0f}&nbsp;%. Ceiling:
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
                   + "".join(f"<td>{scores['mean'][version][metric]:.2f}</td>" for metric in metrics) + "</tr>" for version in versions)
    figures = "".join(f'''
  <figure>
    <a href="figures/{name}.png"><img src="figures/{name}.png" alt="{title}" loading="lazy"></a>
    <figcaption>Figure {number}. {title}</figcaption>
  </figure>''' for number, (name, title) in enumerate(figure_names.items(), 1))
    Util.save_text(folder / "index.html", string.Template((folder / "template.html").read_text()).substitute(
        sounds="".join(sound_html(name, sound_scores[name]) for name in sounds), figures=figures, pieces=len(scores) - 1,
        columns="".join(f"<th scope=\"col\">{name}</th>" for name in metrics.values()), rows=rows,
        gap=f"{100 * gap_closed(scores['mean']):.0f}", left=f"{100 * axis.x0:.2f}", width=f"{100 * axis.width:.2f}",
        top=f"{100 * (1 - axis.y1):.2f}", height=f"{100 * axis.height:.2f}"))


def score_folder(options):
    """Score the folder of the command line, and write the table, the figures behind it and the plot."""
    folder, midi_folder = options.folder, options.midi or hp.data / "MIDI_test"
    if folder == hp.data / "test" and not folder.joinpath("piano").exists():
        MIDI2Audio.create_test_set()
    elif folder.is_dir() and not folder.joinpath("piano").exists():
        folder, midi_folder = render(folder, hp.data), options.midi or folder
    weights = Main.weights(options.model, options.ae, options.unet)
    shipped = weights == Main.find_weights("shipped")
    if not shipped:
        print(f"scoring {weights[0]} and {weights[1]}")
    models = Main.load_models(*weights, options.device)
    pairs = [DatasetCreator.trained_for(folder)["pair"], models[-1].network.pair or "recordings"]
    targets = [pair.split(" -> ")[-1] for pair in pairs]
    if targets[0] != targets[1] and "recordings" not in targets:
        raise ValueError(f"{folder} holds {pairs[0]}, and the weights were trained for {pairs[1]}; render it again or choose other weights")
    scores = evaluate(folder, midi_folder, models, options.inversion)
    output = options.output or (results if shipped and folder == hp.data / "test" else Path()) / "evaluation"
    save_scores(output, scores)
    Util.save_figure(output.with_suffix(".png"), plot(scores))
    print(table({"mean": scores["mean"]}) + f"all pieces: {output.with_suffix('.md')}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Score the system against the true e-piano, and make what lies in results/.")
    parser.add_argument("folder", nargs="?", type=Path, default=hp.data / "test",
                        help="with piano/ and synth/, or with MIDI files to render (default: data/test)")
    parser.add_argument("--midi", type=Path, help="MIDI files of the pieces, for the onsets (default: data/MIDI_test)")
    parser.add_argument("--model", help="as for Main.py")
    parser.add_argument("--ae", type=Path, help="as for Main.py")
    parser.add_argument("--unet", type=Path, help="as for Main.py")
    parser.add_argument("--device", default="auto", help="as for Main.py")
    parser.add_argument("--inversion", choices=("kl", "report"), default=hp.inversion, help="as for Main.py")
    parser.add_argument("-o", "--output", type=Path, help="name of the .md, .json and .png to write (default: evaluation in the "
                        "working folder; for data/test and the shipped weights results/evaluation)")
    shipped = parser.add_argument_group("with the shipped weights, in place of scoring a folder")
    shipped.add_argument("--all", action="store_true", help="score data/test, and make sounds, figures and page")
    shipped.add_argument("--sounds", action="store_true", help="the wavs after the networks, their spectrograms and scores")
    shipped.add_argument("--figures", action="store_true", help="figures 1 to 10 of the report, and the README's picture")
    shipped.add_argument("--page", action="store_true", help="results/index.html, from the scores")
    shipped.add_argument("--render", type=Path, metavar="FOLDER", help="first render the wavs that the sounds start from, "
                         "from the MIDI files of piano-midi.de in FOLDER; the repository has them")
    options = parser.parse_args(arguments)
    if options.render:
        render_sounds(options.render)
    works = {"sounds": save_sounds, "figures": save_figures, "page": lambda models: save_page()}
    chosen = [name for name in works if options.all or getattr(options, name)]
    if options.all:
        options.folder, options.model, options.ae, options.unet = hp.data / "test", "shipped", None, None
    if options.all or not (chosen or options.render):
        score_folder(options)
    for name in chosen:
        works[name](Main.load_models(*Main.find_weights("shipped"), options.device))
        print(f"{name}: {results}")


if __name__ == "__main__":
    Util.run(main)
