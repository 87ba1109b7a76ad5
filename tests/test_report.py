"""The report's experiment runs, on two short pieces and with small networks, and writes its tables."""
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import Hyperparameters as hp
import Training

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


def cells(lines):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


names = ["0", "3", "6"], ["mz_331_3", "other"]


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


def test_what_is_trained_is_kept(experiment):
    times = {path: path.stat().st_mtime_ns for path in experiment.rglob("*.torch")}
    report.train_all()
    assert times == {path: path.stat().st_mtime_ns for path in experiment.rglob("*.torch")}
    found = {path.relative_to(experiment).as_posix() for path in times}
    assert {f"report/models/report/{network}{ending}.torch" for network in ("ae", "unet")
            for ending in ("", "_1", "_2")} <= found
    assert {"report/models/wider/ae_2.torch", "report_pianos/models/pianos/ae_2.torch",
            "report/models/l1/unet_1.torch"} <= found
    assert sorted(report.choose(experiment / "train")) == names[0]


def test_the_published_sounds_are_compared(experiment, monkeypatch):
    def errors(folder, names, models, inversion):
        return [len(folder.name), len(names), 10.0 * len(models), 1.0 * (inversion == "kl")]

    monkeypatch.setattr(report, "errors", errors)  # the report's inversion takes a while
    _, _, *rows = cells(report.comparison_table(*names, report.weights("report", "unet")))
    assert rows == [["unchanged", "11.05", "4", "4", "12.24", "6", "6", "4", "4"],
                    ["autoencoder", "5.70", "1", "1", "4.38", "1", "1", "2", "2"],
                    ["final", "5.95", "20.00", "20.00", "4.36", "20.00", "20.00", "20.00", "20.00"],
                    ["ceiling", "2.25", "0.00", "1.00", "2.01", "0.00", "1.00", "0.00", "1.00"]]
    without = cells(report.comparison_table(*names, None))
    assert without[4] == ["final", "5.95", "-", "-", "4.36", "-", "-", "-", "-"] and without[3] == rows[1]


def test_errors_are_means_over_the_pieces(experiment):
    paths = report.weights("report"), report.weights("report", "unet")
    models = [report.load_model(kind, path) for kind, path in zip((report.Autoencoder, report.UNet), paths)]
    test = experiment / "report" / "test"
    each = [report.errors(test, [name], models, "kl") for name in names[1]]
    np.testing.assert_allclose(report.errors(test, names[1], models, "kl"), np.mean(each, axis=0))
    unchanged, _, final, ceiling = np.mean(each, axis=0)
    assert unchanged > ceiling > 0
    assert report.error(test, names[1], *paths)[0] == pytest.approx(final)


def test_epochs_and_ablations_are_compared(experiment):
    training, test = ["0"], ["mz_331_3"]
    _, _, *epochs = cells(report.epoch_table(training, test, report.weights("report", "unet")))
    assert [row[:2] for row in epochs] == [["autoencoder", "1"], ["autoencoder", "2"], *(["U-Net", str(n)]
                                                                                        for n in range(3))]
    assert all(float(cell) > 0 for row in epochs for cell in row[2:])
    _, _, *rows = cells(report.ablation_table(test))
    assert [row[0] for row in rows] == ["the report's autoencoder", "channels 256 512 512", "four pianos in place of one",
                                        "the report's autoencoder, 2 epochs", "and its U-Net", "L1 in place of MSE"]
    for column, least in (1, 0), (2, -hp.top_db), (3, 0):
        for row in rows:
            mean, *each = map(float, row[column].replace("(", "").replace(")", "").replace(",", "").split())
            assert each and abs(mean - np.mean(each)) < 0.011 and all(least < figure < hp.top_db for figure in each)
    assert rows[0][1].split(" ", 1)[1] == f"({epochs[0][5]}, {epochs[1][5]})"


@pytest.fixture
def no_tables(monkeypatch):
    """Tables whose rows say whether there is a U-Net, in place of measured ones."""
    for table in "comparison_table", "epoch_table":
        monkeypatch.setattr(report, table, lambda training, test, unet: [f"| {unet and unet.name} |"])
    monkeypatch.setattr(report, "ablation_table", lambda test: ["| ablations |"])


def test_only_the_full_run_writes_to_results(experiment, no_tables, monkeypatch, tmp_path):
    monkeypatch.setattr(hp, "root", tmp_path / "root")
    folders = [str(experiment / "train"), str(experiment / "test")]
    report.main(folders)  # another target, and other pieces
    assert {path.name for path in Path().iterdir()} == {"report_tables.md", "report_figure_1.png", "report_figure_5.png"}
    assert not hp.root.exists() and "best epoch of 2" in Path("report_tables.md").read_text()
    monkeypatch.setattr(report, "report_target", "FluidR3_GM.sf2:0:5")
    monkeypatch.setattr(report, "scored_pieces", ("mz_331_3", "other"))
    report.main([*folders, "--so-far"])
    assert not hp.root.exists()
    report.main(folders)
    assert {path.relative_to(hp.root / "results").as_posix() for path in hp.root.rglob("*.*")} == {
        "report_tables.md", "figures/report_figure_1.png", "figures/report_figure_5.png"}


def test_so_far_takes_what_there_is(experiment, no_tables):
    folders = [str(experiment / "train"), str(experiment / "test"), "--so-far"]
    last = report.weights("report", "unet")
    Training.save_tensors(last.with_suffix(".checkpoint"), {  # as if stopped between the epochs 1 and 2
        "epoch": 1, "best": report.load_tensors(report.weights("report", "unet_1"))})
    last.unlink()
    report.main(folders)
    assert "| unet_so_far.torch |" in Path("report_tables.md").read_text()
    assert "best epoch of 1," in Path("report_tables.md").read_text()
    last.with_suffix(".checkpoint").unlink()
    report.main(folders)
    assert "| None |" in Path("report_tables.md").read_text()
    report.weights("report").unlink()
    with pytest.raises(FileNotFoundError, match="ae.torch is not trained yet; leave --so-far out"):
        report.main(folders)
