"""The report's experiment runs, on two short pieces and with small networks, and writes its tables."""
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import Hyperparameters as hp
from training.checkpoints import save_tensors

sys.path.append(str(hp.root / "benchmarks"))
import report

pytestmark = pytest.mark.usefixtures("one_thread", "quick_inversion")
small = dict(n_pieces=3, several=report.several[:2], ae_kept=(1, 2), unet_kept=(1, 2), ae_brief=(1, 2), unet_brief=(1,),
             ae_ablations={"wider": dict(channels=(16, 32, 32)), "pianos": {}}, unet_ablations={"l1": dict(loss="l1")})


@pytest.fixture(scope="module")
def trained_report(tmp_path_factory, midi, instruments):
    """A folder with the pieces and everything that the experiment trains."""
    folder = tmp_path_factory.mktemp("report")
    for i in range(9):
        midi(folder / "train" / f"{i}.mid", [(0, 60 + i, 0.1, 0.4), (0, 48 + i, 0.5, 0.9)])
    for name in "mz_331_3", "other":
        midi(folder / "test" / f"{name}.mid", [(0, 65, 0.1, 0.4), (0, 53, 0.5, 0.9)])
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, folder)
        report.prepare(folder / "train", folder / "test", "FluidR3_GM.sf2:0:5")
        report.train_all()
    return folder


def shrink(patch, folder):
    """Have the experiment work on a second of three pieces below `folder`, with small networks and few epochs."""
    for name, value in dict(small, data=folder / "report", left_out=("FluidR3_GM.sf2", 0, 1)).items():
        patch.setattr(report, name, value)
    for name, value in dict(limit_s=1, ae_epochs=2, unet_epochs=2).items():
        patch.setattr(hp, name, value)
    patch.setitem(hp.ae_report, "channels", (8, 16, 16)), patch.setitem(hp.unet_report, "wf", 2)


@pytest.fixture
def experiment(trained_report, tmp_path, monkeypatch):
    """A copy of `trained_report` that a test may change; the working folder beside it is empty."""
    folder = shutil.copytree(trained_report, tmp_path / "copy")
    for path in folder.rglob("*.checkpoint"):
        path.unlink()
    shrink(monkeypatch, folder)
    tmp_path.joinpath("working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    return folder


def test_every_ablation_has_a_name():
    assert {*report.ae_ablations, *report.unet_ablations} == set(report.ablation_names)


def test_what_is_missing_is_named_before_anything_is_rendered(tmp_path, midi, instruments, monkeypatch):
    midi(tmp_path / "train" / "one.mid"), midi(tmp_path / "test" / "mz_331_3.mid")
    monkeypatch.setattr(report, "data", tmp_path / "report")
    with pytest.raises(ValueError, match="train does not hold mz_331_3.mid"):
        report.main([str(tmp_path / "train"), str(tmp_path / "train")])
    with pytest.raises(FileNotFoundError, match="JR_elepiano.sf2 is neither"):
        report.main([str(tmp_path / "train"), str(tmp_path / "test"), "--target", report.report_target])
    assert not report.data.exists()


def read_tables():
    """Return the cells of the rows of each table of the page in the working folder, without the headings."""
    *tables, remark = Path("report_tables.md").read_text().split("\n\n")
    return *([[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]] for table in tables
             ), remark


def test_the_tables_are_about_the_networks_that_are_trained_and_kept(experiment):
    times = {path: path.stat().st_mtime_ns for path in experiment.rglob("*.torch")}
    report.main([str(experiment / "train"), str(experiment / "test")])
    assert times == {path: path.stat().st_mtime_ns for path in experiment.rglob("*.torch")}
    comparison, epochs, ablations, remark = read_tables()
    assert "best epoch of 2, by validation loss. Training pieces: 0, 3, 6." in remark
    assert {path.name for path in Path().iterdir()} == {
        "report_tables.md", "report_figure_1.png", "report_figure_5.png"}
    assert [[row[0], float(row[1]), float(row[4])] for row in comparison] == [
        [version, *published] for version, published in report.published.items()]
    assert all(0 < float(cell) < hp.top_db for row in comparison for cell in row[1:])
    assert [row[:2] for row in epochs] == [["autoencoder", "1"], ["autoencoder", "2"], *(["U-Net", str(n)]
                                                                                        for n in range(3))]
    assert all(float(cell) > 0 for row in epochs for cell in row[2:])
    assert [row[0] for row in ablations] == [
        "the report's autoencoder", "channels 256 512 512", "four pianos in place of one",
        "the report's autoencoder, 2 epochs", "and its U-Net", "L1 in place of MSE"]
    for column, least in (1, 0), (2, -hp.top_db), (3, 0):
        for row in ablations:
            mean, *each = map(float, row[column].replace("(", "").replace(")", "").replace(",", "").split())
            assert each and abs(mean - np.mean(each)) < 0.011 and all(least < figure < hp.top_db for figure in each)
    assert ablations[0][1].split(" ", 1)[1] == f"({epochs[0][5]}, {epochs[1][5]})"


def test_so_far_takes_what_there_is(experiment, monkeypatch):
    monkeypatch.setattr(report, "ablation_table", lambda test: [["ablations"]])
    folders = [str(experiment / "train"), str(experiment / "test"), "--so-far"]
    last = report.weights("report", "unet")
    save_tensors(last.with_suffix(".checkpoint"), {  # as if stopped between the epochs 1 and 2
        "epoch": 1, "best": report.load_tensors(report.weights("report", "unet_1"))})
    last.unlink()
    report.main(folders)
    comparison, epochs, _, remark = read_tables()
    assert float(comparison[2][2]) > 0 and len(epochs) == 5 and "best epoch of 1," in remark
    last.with_suffix(".checkpoint").unlink()
    report.main(folders)
    comparison, epochs, *_ = read_tables()
    assert comparison[2][1:4] == ["5.95", "-", "-"] and float(comparison[1][2]) > 0 and len(epochs) == 2
    report.weights("report").unlink()
    with pytest.raises(FileNotFoundError, match="ae.torch is not trained yet; leave --so-far out"):
        report.main(folders)
