"""Make the files of this folder with the shipped weights: scores, sounds, the report's figures and the HTML page.

`python results/make.py` makes all of them. `--scores`, `--sounds`, `--figures`, `--page` and `--picture` make a part.
"""
import argparse
import html
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Main
import Util
from AEModel import NoteModel
from audio import audio_files
from notes import note_events
from outputs import plots, result_page

results = hp.root / "results"

excerpts = "bach_prelude_c", "mozart_rondo_alla_turca", "satie_gymnopedie_1"   # pieces of evaluation.md

# name of the sound files -> piece of piano-midi.de, preset of the piano, title and remark on the page
sounds = {
    "train_sample": ("alb_esp1", hp.piano_preset, "Isaac Albéniz, España, Prélude",
                     "a piece in the training set"),
    "mz_331_3": ("mz_331_3", hp.piano_preset, "W. A. Mozart, Rondo alla Turca",
                 "a piece outside the training set, on a piano in it"),
    "clair_de_lune": ("deb_clai", ("TimGM6mb.sf2", 0, 0), "Claude Debussy, Clair de Lune",
                      "a piece outside the training set, on an unseen piano"),
}
sides = {"input": "piano recording", "after_autoencoder": "autoencoder", "final": "autoencoder + U-Net",
         "report": "the report's networks", "truth": "true e-piano"}
picture_size, picture_at = (1200, 1065), 12.5  # the README's picture: pixels, and position in seconds
corrected_sound, wrong_note = "mz_331_3", (11.7, 64)    # of docs/studio.md: second and key of a note to delete
doubtful_zoom, doubtful_part = 240, (0, 520, 900, 844)  # of its page: pixels per second; left, top, right, bottom
browsers = ("chromium", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
intro = """<p>Each piece has five versions: the piano recording, the output of the autoencoder, the output of the U-Net
behind it, the output of the two networks of the 2020 report, and the same notes rendered on the true electric piano.
Switch between them while they play. They keep one position, so you can compare them at the same bar.</p>
<p>Distances are mean differences of log-mel spectrograms. They are explained <a href="#numbers">below</a>.</p>"""
figure_names = {
    "figure_1_autoencoder_losses": "Losses of the autoencoder, training and validation",
    "figure_2_autoencoder_epoch_1": "Output of the autoencoder for a training piece after epoch 1",
    "figure_3_autoencoder_trained": "Output of the trained autoencoder for the same piece",
    "figure_4_piano_original": "Piano recording of the same piece",
    "figure_5_unet_losses": "Losses of the U-Net, training and validation",
    "figure_6_autoencoder_output": "The first ten seconds of the same piece after the autoencoder",
    "figure_7_unet_output": "The same ten seconds after the U-Net",
    "figure_8_unseen_piano_input": "Recording of a piano that was not trained on",
    "figure_9_unseen_piano_autoencoder": "The same recording after the autoencoder",
    "figure_10_unseen_piano_final": "The same recording after autoencoder and U-Net",
}


def load_json(path):
    """Read a JSON file of results/. Raises FileNotFoundError if it is missing, ValueError if it is damaged."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; python results/make.py makes the scores, and "
                                "benchmarks/report_weights.py the losses (data/report_pair)")
    try:
        return json.loads(Util.read_text(path))
    except json.JSONDecodeError:
        raise ValueError(f"{path} is no JSON, or is damaged; restore or remove it") from None


def save_scores(models, folder=results):
    """Score the three excerpts of data/MIDI_test, and write evaluation.md, .json and .png. Raises ValueError if
    data/MIDI_test holds other pieces."""
    names = sorted(Util.find_pieces(hp.data / "MIDI_test", note_events.midi_endings))
    if names != sorted(excerpts):
        raise ValueError(f"{hp.data / 'MIDI_test'} holds {', '.join(names)}, and results/evaluation.md is about "
                         f"{', '.join(excerpts)}; restore them, or score your own pieces with Evaluation.py")
    midi_folder = hp.data / "MIDI_test"
    scores = Evaluation.evaluate(Evaluation.render_pair(midi_folder), midi_folder, models)
    Evaluation.save_scores(folder / "evaluation", scores)
    plots.save_figure(folder / "evaluation.png", Evaluation.plot_scores(scores))


def check_requirements(works):
    """Raise FileNotFoundError if FluidSynth, a SoundFont or Chromium is missing that one of `works` needs."""
    if "render" in works or "scores" in works:
        MIDI2Audio.find_fluidsynth()
        presets = [hp.piano_preset, hp.synth_preset]
        for soundfont, *_ in presets + [piano for _, piano, *_ in sounds.values()] * ("render" in works):
            MIDI2Audio.find_soundfont(soundfont)
    if "picture" in works:
        find_browser()


def render_sounds(midi_folder, folder=results):
    """Render the recording and the true e-piano of each of `sounds` from the MIDI files anywhere below `midi_folder`.
    Raises FileNotFoundError if one is missing, and as `MIDI2Audio.synthesise_midi_to_audio`."""
    files = {path.stem: path for path in sorted(Path(midi_folder).rglob("*.mid"))}
    for name, (piece, piano, *_) in sounds.items():
        if piece not in files:
            raise FileNotFoundError(f"{midi_folder} does not hold {piece}.mid; get it from piano-midi.de")
        for side, preset in (("input", piano), ("truth", hp.synth_preset)):
            MIDI2Audio.synthesise_midi_to_audio(files[piece], folder / f"{name}_{side}.wav", *preset)


def save_sounds(models, folder=results):
    """Write the outputs for each `<sound>_input.wav`, and their scores (sounds.md)."""
    scores, report = {}, Main.load_models(*Main.find_weights("report"))
    for name in sounds:
        recording, truth = (Main.read_recording(folder / f"{name}_{side}.wav") for side in ("input", "truth"))
        outputs = Evaluation.make_outputs(recording, truth, models)
        outputs["report"] = Main.resynthesise(recording, report)[0]
        scores[name] = Evaluation.score_outputs(outputs, truth)
        for side, version in ("after_autoencoder", "autoencoder"), ("final", "final"), ("report", "report"):
            audio_files.write_audio(folder / f"{name}_{side}.wav", outputs[version])
    Evaluation.save_scores(folder / "sounds", scores)


def save_figures(models, folder=results):
    """Draw the ten figures of the report (`figure_names`) with its own networks, then stages and notes of the demo.
    `models` are the shipped ones. Raises FileNotFoundError if recorded losses or the output of epoch 1 are missing, and
    ValueError if that output does not have the shape of the training piece."""
    early = folder / "training" / "report_ae_epoch_1.npy"
    if not early.exists():
        raise FileNotFoundError(f"{early} is missing; benchmarks/report_weights.py writes it to data/report_pair: copy "
                                "it from there")
    ae_losses, unet_losses = (load_json(folder / "training" / f"report_{network}_losses.json")
                              for network in ("ae", "unet"))
    report = Main.load_models(*Main.find_weights("report"))
    stages = (Main.resynthesise(Main.read_recording(folder / f"{name}_input.wav"), report)[1]
              for name in ("train_sample", "clair_de_lune"))
    piece, unseen = ([stage[:, :hp.clip_frames] for stage in images] for images in stages)
    epoch_1, ten_seconds = np.load(early), 10 * hp.sample_rate // hp.hop_length
    if epoch_1.shape != piece[1].shape:
        raise ValueError(f"{early} has the shape {epoch_1.shape}, and the training piece {piece[1].shape}; "
                         "copy the output of that piece")
    ten = [stage[:, :ten_seconds] for stage in piece[1:]]
    drawn = [ae_losses, epoch_1, piece[1], piece[0], unet_losses, *ten, *unseen]
    for (name, title), content in zip(figure_names.items(), drawn):
        losses = isinstance(content, dict)
        figure = plots.plot_losses(content, title) if losses else plots.plot_spectrograms({title: content})
        plots.save_figure(folder / "figures" / f"{name}.png", figure)
    demo = Main.resynthesise(Main.read_recording(hp.demo), models)[1]
    plots.save_figure(folder / "figures" / "demo.png",
                      plots.plot_stages(demo, hp.demo.name))
    if isinstance(models[0], NoteModel):
        audio = Main.read_recording(hp.demo)[:10 * hp.sample_rate]
        notes = Main.transcribe_audio(audio, models[0])
        plots.save_figure(folder / "figures" / "latent.png", plots.plot_notes(
            DatasetCreator.pitch_spectrogram(audio), notes, f"{len(notes)} notes transcribed from {hp.demo.name}"))
        save_correction(models, folder)


def save_correction(models, folder=results):
    """Draw correction.png of docs/studio.md: the notes of a recording, and the same without a wrong one."""
    from matplotlib.figure import Figure

    audio, (seconds, key) = Main.read_recording(folder / f"{corrected_sound}_input.wav"), wrong_note
    notes, pitch = Main.transcribe_audio(audio, models[0]), DatasetCreator.pitch_spectrogram(audio)
    wrong = (notes[:, 0] < seconds) & (notes[:, 1] > seconds) & (notes[:, 2] == key)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {"transcribed": notes, "corrected": notes[~wrong]}
    for (name, drawn), axis in zip(panels.items(), figure.subplots(1, 2, sharey=True)):
        plots.draw_notes(axis, pitch, drawn)
        axis.plot(seconds, key, "o", markersize=26, markerfacecolor="none", markeredgecolor="C2", markeredgewidth=2)
        axis.set(xlim=(seconds - 0.8, seconds + 0.8), ylim=(43, 90), xlabel="seconds", title=name)
    plots.save_figure(folder / "figures" / "correction.png", figure)


def sound_piece(name, scores, folder=results):
    """Return the part of the page that plays the versions of one of `sounds`."""
    _, _, title, remark = sounds[name]
    remark = (f"{remark[0].upper()}{remark[1:]}. Timbre gap closed: {100 * Evaluation.gap_closed(scores):.0f}&nbsp;%. "
              f"Reference: {scores['reference']['log_mel_l1']:.2f}&nbsp;dB.")
    asides = [f"{scores[version]['log_mel_l1']:.2f} dB from the true e-piano"
              for version in (*Evaluation.versions[:3], "report")]
    versions = []
    for (side, label), aside in zip(sides.items(), [*asides, "the same notes, rendered"]):
        audio = Main.read_recording(folder / f"{name}_{side}.wav")
        versions.append((label, aside, audio))
    return result_page.make_piece(title, versions, remark)


def save_page(folder=results):
    """Write results/index.html, the page of the sounds with their scores and the figures."""
    sound_scores, scores = (load_json(folder / f"{name}.json") for name in ("sounds", "evaluation"))
    metrics = {metric: name for metric, name in Evaluation.metrics.items() if metric in scores["mean"]["final"]}
    columns = "".join(f'<th scope="col">{name}</th>' for name in metrics.values())
    rows = "".join(f'\n  <tr><th scope="row">{version}</th>'
                   + "".join(f"<td>{scores['mean'][version][metric]:.2f}</td>" for metric in metrics)
                   + "</tr>" for version in Evaluation.versions)
    figures = "".join(f'''
<figure>
  <a href="figures/{name}.png"><img src="figures/{name}.png" alt="{html.escape(title)}" loading="lazy"></a>
  <figcaption>Figure {number}. {title}</figcaption>
</figure>''' for number, (name, title) in enumerate(figure_names.items(), 1))
    rest = f'''<h2 id="numbers">In numbers</h2>
<p>Means over the {len(scores) - 1} excerpts of the repository, which are not in the training set. <i>Log-mel L1</i> is
the mean difference from the log-mel spectrogram of the true e-piano. <i>Reference</i> is that true spectrogram,
inverted from the phase of the recording.
The <i>timbre gap closed</i> is (unchanged − final) / (unchanged − reference), here
{100 * Evaluation.gap_closed(scores["mean"]):.0f}&nbsp;%. All pieces: <a href="evaluation.md">evaluation.md</a>,
<a href="sounds.md">sounds.md</a>.</p>
<div class="wide" tabindex="0" role="region" aria-label="Mean scores">
<table>
  <thead><tr><td></td>{columns}</tr></thead>
  <tbody>{rows}
  </tbody>
</table>
</div>
<h2>The report's figures</h2>{figures}
<p>Recordings and true e-pianos are rendered from MIDI files by Bernd Krueger,
<a href="http://www.piano-midi.de">piano-midi.de</a>,
<a href="https://creativecommons.org/licenses/by-sa/3.0/de/deed.en">CC BY-SA 3.0 Germany</a>; the sounds and pictures
made from them have the same licence. See <a href="README.md">README.md</a>.</p>'''
    pieces = [sound_piece(name, sound_scores[name], folder) for name in sounds]
    page = result_page.render_page("Instrument resynthesis: listen", pieces, intro, rest)
    Util.save_text(folder / "index.html", page)


def find_browser():
    """Return the path of Chromium. Raises FileNotFoundError if it is missing."""
    browser = next(filter(None, map(shutil.which, browsers)), None)
    if not browser:
        raise FileNotFoundError("Chromium is missing, which draws the page; install it: apt-get install chromium")
    return browser


def save_pictures(models, folder=results):
    """Draw page.png, the README's picture: the page that `Main.py --page` writes for the demo. And doubtful.png of
    docs/studio.md: a part of the page of a recording with doubtful notes. Raises as `draw_page`."""
    draw_page(hp.demo, models, folder / "figures" / "page.png", picture_size, picture_at, "report")
    recording = folder / f"{corrected_sound}_input.wav"
    draw_page(recording, models, folder / "figures" / "doubtful.png", doubtful_part[2:], wrong_note[0] - 0.5,
              zoom=doubtful_zoom, part=doubtful_part)


def draw_page(recording, models, path, size, position, compare=None, zoom=None, part=None):
    """Draw the page that `Main.py --page` writes for a recording, at a `position` in seconds, to the png `path`. `size`
    is that of the window in pixels, `zoom` in pixels per second, and `part` what is kept: left, top, right, bottom.
    Raises FileNotFoundError if Chromium is missing, ValueError if it fails."""
    from PIL import Image

    browser = find_browser()
    with tempfile.TemporaryDirectory() as temporary:
        page, shot = Path(temporary) / "page.html", Path(temporary) / "page.png"
        audio = Main.read_recording(recording)
        notes = Main.transcribe_if_possible(audio, models, recording)
        versions = Main.make_versions(audio, models, notes, compare=compare)
        text = result_page.recording_page(recording.stem, versions, notes, models[0].pair)
        zoomed = f"<script>active.rescale({zoom})</script></body>" if zoom else "</body>"
        Util.save_text(page, text.replace("</body>", zoomed))
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                        f"--user-data-dir={temporary}/profile", f"--screenshot={shot}", "--virtual-time-budget=5000",
                        f"--window-size={size[0]},{size[1]}", f"{page.as_uri()}#{position}"],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not shot.exists():
            raise ValueError(f"{browser} could not draw the page; try another version")
        if part:
            with Image.open(shot) as whole:
                whole.crop(part).save(shot)
        shot = shot.read_bytes()
    Util.save_bytes(path, lambda file: file.write(shot))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Make the files in results/ with the shipped weights.")
    parser.add_argument("--scores", action="store_true", help="make only the scores of the three excerpts")
    parser.add_argument("--sounds", action="store_true", help="make only the outputs for the sounds, and their scores")
    parser.add_argument("--figures", action="store_true",
                        help="draw only figures 1 to 10 of the report, and those of the demo recording and of notes")
    parser.add_argument("--page", action="store_true", help="make only results/index.html, from scores and sounds")
    parser.add_argument("--picture", action="store_true", help="draw only the pictures of HTML pages, with Chromium")
    parser.add_argument("--render", type=Path, metavar="FOLDER",
                        help="render only the inputs and true e-pianos of the sounds, from the MIDI files of "
                        "piano-midi.de in FOLDER; the repository has them")
    parser.add_argument("--device", default="auto", help="as for Main.py")
    options = parser.parse_args(arguments)
    works = {"scores": save_scores, "sounds": save_sounds, "figures": save_figures, "page": lambda models: save_page(),
             "picture": save_pictures}
    chosen = [name for name in works if getattr(options, name)]
    chosen = chosen if chosen or options.render else list(works)
    check_requirements([*chosen, *["render"] * bool(options.render)])
    if options.render:
        render_sounds(options.render)
    for name in chosen:
        works[name](Main.load_models(*Main.find_weights("shipped"), options.device))
        print(f"{name}: {results}")


if __name__ == "__main__":
    Util.run(main)
