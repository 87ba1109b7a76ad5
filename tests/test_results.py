"""results/make.py: the same files each time, from what it needs; what is missing is named before any work."""
import shutil

import numpy as np
import pytest

import Hyperparameters as hp
import Main
from audio import audio_files
import make


@pytest.fixture
def results(tmp_path, root):
    """A results folder with the sources of the other files. Recordings last a second."""
    tmp_path /= "results"
    shutil.copytree(root / "results" / "training", tmp_path / "training")
    shutil.copy(root / "results" / "evaluation.json", tmp_path)
    for name in make.sounds:
        for side in ("input", "truth"):
            audio = audio_files.read_audio(root / "results" / f"{name}_{side}.wav")
            audio_files.write_audio(tmp_path / f"{name}_{side}.wav", audio[:hp.sample_rate])
    np.save(tmp_path / "training" / "report_ae_epoch_1.npy",
            np.zeros((hp.n_mels, hp.sample_rate // hp.hop_length + 2), np.float16))
    return tmp_path


def test_everything_in_results_is_the_same_bytes_twice(results, short_demo, quick_inversion):
    models, written = Main.load_models(*Main.find_weights("shipped")), []
    for _ in range(2):
        make.save_sounds(models, results)
        make.save_figures(models, results)
        make.save_page(results)
        written.append({str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*")
                        if path.is_file()})
    assert written[0] == written[1]
    expected = {f"{name}_{side}.wav" for name in make.sounds for side in make.sides}
    expected |= {f"figures/{name}.png" for name in make.figure_names} | {"figures/demo.png", "sounds.md", "sounds.json",
                                                                         "index.html"}
    assert expected <= set(written[0])
    page = written[0]["index.html"].decode()
    assert all(f'"{name}"' in page for name in expected if name.startswith("figures/") and "demo" not in name)
    assert page.count('src="data:audio/mpeg;base64,') == len(make.sounds) * len(make.sides)


def test_the_epoch_1_output_has_to_be_there_and_of_the_training_piece(results):
    models, early = Main.load_models(*Main.find_weights("shipped")), results / "training" / "report_ae_epoch_1.npy"
    np.save(early, np.zeros((hp.n_mels, 7), np.float16))
    with pytest.raises(ValueError, match="report_ae_epoch_1.npy"):
        make.save_figures(models, results)
    early.unlink()
    with pytest.raises(FileNotFoundError, match="report_ae_epoch_1.npy.*copy it"):
        make.save_figures(models, results)
    assert not results.joinpath("figures").exists()


def test_sounds_are_rendered_from_midi_files_anywhere_below_a_folder(tmp_path, midi, instruments, monkeypatch):
    monkeypatch.setattr(make, "sounds", {"one": ("piece", instruments[0], "a title", "a remark")})
    with pytest.raises(FileNotFoundError, match="piece.mid"):
        make.render_sounds(tmp_path, tmp_path)
    midi(tmp_path / "below" / "piece.mid")
    make.render_sounds(tmp_path, tmp_path / "out")
    piano, synth = (audio_files.read_audio(tmp_path / "out" / f"one_{side}.wav") for side in ("input", "truth"))
    assert piano.size == synth.size and not np.array_equal(piano, synth)


def test_what_is_missing_is_named_before_any_work(results, tmp_path, monkeypatch, midi):
    with pytest.raises(FileNotFoundError, match="sounds.json is missing; python results/make.py"):
        make.save_page(results)
    monkeypatch.setattr(Main, "load_models", lambda *_: pytest.fail("work has begun"))
    monkeypatch.setattr(make.shutil, "which", lambda name: "fluidsynth" if name == "fluidsynth" else None)
    with pytest.raises(FileNotFoundError, match="Chromium is missing.*apt-get install chromium"):
        make.main(["--picture", "--sounds"])
    monkeypatch.setattr(hp, "system_soundfonts", ()), monkeypatch.setattr(hp, "soundfonts", tmp_path)
    with pytest.raises(FileNotFoundError, match="FluidR3_GM.sf2.*apt-get install fluid-soundfont-gm"):
        make.main(["--scores"])
    (tmp_path / "FluidR3_GM.sf2").write_bytes(b"RIFF\0\0\0\0")
    with pytest.raises(FileNotFoundError, match="TimGM6mb.sf2.*apt-get install timgm6mb-soundfont"):
        make.main(["--render", str(tmp_path)])
    midi(tmp_path / "data" / "MIDI_test" / "mine.mid")
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    with pytest.raises(ValueError, match="MIDI_test holds mine, and results/evaluation.md is about bach_prelude_c"):
        make.save_scores(None, tmp_path / "out")
