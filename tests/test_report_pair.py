"""The report's networks that are shipped: what they are, that they play, and the script that trains such a pair."""
import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

import Hyperparameters as hp
from audio import audio_files
import Main
from AEModel import NoteModel, digest, load_model, load_tensors
from Autoencoder import Autoencoder
from UNet import UNet
from training import training_loop

sys.path.append(str(hp.root / "benchmarks"))
import report
import report_weights

weights = Main.find_weights("report")


def test_the_shipped_pair_has_the_reports_form_and_is_small():
    autoencoder, unet = Main.load_models(*weights)
    assert not isinstance(autoencoder, NoteModel)
    assert autoencoder.network.channels == hp.ae_report["channels"]
    assert unet.network.form == {**dict(depth=4, gain_frames=0), **{
        name: hp.unet_report[name] for name in ("wf", "in_channels", "residual", "batch_norm")}}
    assert autoencoder.pair == unet.pair == "FluidR3_GM.sf2:0:0 -> FluidR3_GM.sf2:0:5"
    assert sum(path.stat().st_size for path in weights) <= 17e6
    assert {value.dtype for path in weights for name, value in load_tensors(path).items()
            if not re.search("running|num_batches", name)} == {torch.float16}  # without those of batch normalisation


@pytest.fixture
def recording(short_demo, tmp_path, monkeypatch):
    """Two seconds of the demo recording, in the working folder."""
    monkeypatch.chdir(tmp_path)
    return short_demo.rename(tmp_path / "in.wav")


def test_the_reports_system_plays_a_recording(recording, capsys):
    Main.main(["in.wav", "--model", "report", "--inversion", "report"])
    audio, _ = soundfile.read("in_epiano.wav")
    assert len(audio) == 2 * hp.sample_rate and 0.01 < np.abs(audio).max() <= 1
    assert "model: report; --model shipped for the shipped one" in capsys.readouterr().out


def test_a_page_compares_two_models(recording, quick_inversion):
    Main.main(["in.wav", "--page", "--compare", "report"])
    page = recording.with_name("in_epiano.html").read_text()
    assert page.count('src="data:audio/mpeg;base64,') == 4 and "the result of the 2020 report" in page
    models = Main.load_models(*Main.find_weights("shipped"))
    versions = Main.make_versions(audio_files.read_audio(recording), models, None, compare="report")
    assert list(versions) == ["Recording", "Draft", "Electric piano", "report"]
    assert not np.allclose(versions["report"], versions["Electric piano"], atol=0.01)


def test_the_script_trains_such_a_pair_and_keeps_the_epoch_that_sounds_best(
        tmp_path, midi, instruments, monkeypatch, capsys, quick_inversion, one_thread):
    for i in range(9):
        midi(tmp_path / "train" / f"{i}.mid", [(0, 60 + i, 0.1, 0.4), (0, 48 + i, 0.5, 0.9)])
    monkeypatch.setattr(hp, "models", tmp_path / "models"), monkeypatch.setattr(hp, "limit_s", 1)
    monkeypatch.setattr(hp, "ae_epochs", 2), monkeypatch.setattr(report, "n_pieces", 3)
    monkeypatch.setattr(report_weights, "data", tmp_path / "data"), monkeypatch.setattr(report_weights, "n_epochs", 2)
    monkeypatch.setitem(hp.ae_report, "channels", (8, 16, 16)), monkeypatch.setitem(hp.unet_report, "wf", 2)
    report_weights.main([str(tmp_path / "train")])
    rows = re.findall(r"^\| (\d) \| ([\d.]+) \| ([\d.]+) \|$", capsys.readouterr().out, flags=re.M)
    assert [row[0] for row in rows] == ["0", "1", "2"]
    ae, unet = Main.find_weights("report")
    best = 1 + int(float(rows[2][2]) < float(rows[1][2]))
    kept = tmp_path / "data" / "models" / "report" / f"unet_{best}.torch"
    assert digest(load_model(UNet, unet).network.state_dict()) == digest(load_model(UNet, kept).network.state_dict())
    assert load_model(UNet, unet).autoencoder == digest(load_model(Autoencoder, ae).network.state_dict())
    monkeypatch.setattr(training_loop, "fit", lambda *_, **__: pytest.fail("trained again"))
    shutil.rmtree(hp.models)
    report_weights.main([str(tmp_path / "train")])
    assert ae.exists() and unet.exists()
