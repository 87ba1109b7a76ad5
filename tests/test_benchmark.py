"""The benchmarks run, on short clips; their figures are for the one who reads them."""
import logging
import shutil
import sys

import numpy as np
import pytest

import Hyperparameters as hp
import Main
import MIDI2Audio


def test_benchmark_writes_its_tables(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import benchmark

    for mode, preset in (("piano", hp.piano_preset), ("synth", hp.synth_preset)):
        MIDI2Audio.synthesise_midi_to_audio(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid",
                                            tmp_path / mode / "satie.wav",
                                            *preset, limit_s=2)
    benchmark.main([str(tmp_path), "--clip-s", "2", "--repeats", "1", "--minutes", "0.05", "-o",
                    str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert all(heading in text for heading in ("## A clip of 2 s", "## Inversions", "## Any length", "| satie |"))
    assert "nan" not in text


def test_training_benchmark_writes_its_table(data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import training

    monkeypatch.setattr(training, "in_subprocess", training.measure)  # importing takes a while
    training.main(["--data", str(data), "--ae-clips", "2", "--unet-clips", "2", "--warm-up", "1", "--wf", "2",
                   "-o", str(tmp_path / "table.md")])
    rows = [[cell.strip() for cell in line.split("|")]
            for line in tmp_path.joinpath("table.md").read_text().splitlines()
            if line.startswith("| ")][1:]
    assert [row[1:3] for row in rows] == [[name, form] for name, forms in training.networks.items() for form in forms]
    for row in rows:
        assert float(row[4]) > 0 and float(row[5].strip("*")) > 0 and 0 < float(row[6]) < 1
    assert float(rows[2][6]) == pytest.approx(float(rows[3][6]), rel=0.1)  # the same network, otherwise computed


def test_cost_writes_its_table(instruments, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import cost

    # importing takes a while
    monkeypatch.setattr(cost, "in_subprocess", lambda number, folder: (cost.seconds_of(number, folder), 100))
    cost.main([str(hp.data / "MIDI_test"), "-o", str(tmp_path / "table.md")])
    rows = [[cell.strip() for cell in line.split("|")]
            for line in tmp_path.joinpath("table.md").read_text().splitlines()
            if line.startswith("| ")][1:]
    assert len(rows) == 6 and all(float(row[2]) > 0 for row in rows)
    assert {row[1] for row in rows if not row[3]} == {"autoencoder, an epoch", "U-Net, an epoch"}
    wavs = 2 * 2 * hp.sample_rate * 3600 / 1e6  # MB an hour, both sides
    # both sides, and what notes are heard in
    bands = 2 * hp.n_mels + hp.n_pitches * hp.hop_length / hp.pitch_hop_length
    spectrograms = 2 * bands * hp.sample_rate / hp.hop_length * 3600 / 1e6
    assert float(rows[0][3]) == pytest.approx(wavs, rel=0.01)
    assert float(rows[1][3]) == pytest.approx(spectrograms, rel=0.01)


def test_goals_writes_its_table(instruments, weights, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import goals

    shutil.copy(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid", tmp_path)
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    monkeypatch.setattr(hp, "limit_s", 3)
    monkeypatch.setattr(goals, "cases", {"one": hp.piano_preset, "another": (hp.piano_preset[0], 0, 1, True)})
    monkeypatch.setattr(Main, "choose_weights", lambda *_: weights)
    goals.main([str(tmp_path), "--no-notes", "-o", str(tmp_path / "table.md")])
    rows = [[cell.strip() for cell in line.split("|")]
            for line in tmp_path.joinpath("table.md").read_text().splitlines()]
    assert [row[1] for row in rows[-2:]] == ["one", "another"]
    for row in rows[-2:]:
        unchanged, _, _, ceiling = ([float(figure) for figure in cell.split(" / ")] for cell in row[2:6])
        assert len(unchanged) == 2 and unchanged[0] > ceiling[0] > 0
        assert row[6].endswith("of 1 pieces") and row[7].startswith("satie_gymnopedie_1, ")


def test_the_note_f1_says_which_packages_it_needs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import goals

    monkeypatch.setitem(sys.modules, "basic_pitch", None)
    with pytest.raises(ValueError, match="pip install mir_eval .* --no-deps basic-pitch"):
        goals.note_f1(np.zeros(hp.sample_rate), tmp_path / "any.mid")
    logging.disable(logging.NOTSET)


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import peers

    yield peers
    logging.disable(logging.NOTSET)


def test_peers_writes_its_table(instruments, tmp_path, monkeypatch, midi, peers):
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    monkeypatch.setattr(hp, "limit_s", 3)
    notes = [(0, key, 0.2 + 0.4 * i, 0.5 + 0.4 * i) for i, key in enumerate((60, 64, 67, 72, 76))]
    piece, half = midi(tmp_path / "MIDI" / "one.mid", notes), midi(tmp_path / "half.mid", notes[:3] + [(0, 30, 2, 2.5)])
    midi(tmp_path / "MIDI" / "two.mid", notes)
    for name, heard in ("transkun", piece), ("basic_pitch", half):
        monkeypatch.setattr(peers, name, lambda heard=heard: lambda audio, path: shutil.copy(heard, path))
    peers.main([str(tmp_path / "MIDI"), "--pieces", "1", "--cases", "piano trained on", "--no-notes", "-o",
                str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("|")]
    rows = {row[2]: row for row in rows}
    assert text.startswith("Mean over 1 pieces") and "nan" not in text
    assert rows["transkun + FluidSynth"][6:10] == ["1.000", "1.000", "1.000", "0"]
    assert rows["basic-pitch + FluidSynth"][6:9] == ["0.750", "0.600", "0.667"]
    l1 = {name: float(row[3]) for name, row in rows.items() if "FluidSynth" in name or name == "this repository"}
    assert l1["transkun + FluidSynth"] < 0.1 < l1["basic-pitch + FluidSynth"] and l1["this repository"] > 0.1


def test_peers_that_are_not_installed_are_named(tmp_path, monkeypatch, peers):
    monkeypatch.setitem(sys.modules, "moduleconf", None)
    with pytest.raises(ValueError, match="not installed.*pip install --no-deps transkun.*--players this"):
        peers.main([str(hp.data / "MIDI_test"), "--players", "transkun"])


def test_the_stand_in_for_torchaudio_is_its_filter_bank(peers):
    import librosa

    expected = librosa.filters.mel(sr=44100, n_fft=4096, n_mels=229, fmin=30, fmax=8000, htk=True, norm=None).T
    np.testing.assert_allclose(peers.mel_filters(2049, 30, 8000, 229, 44100).numpy(), expected, atol=1e-4)


def test_the_reports_experiment_writes_its_tables(midi, instruments, tmp_path, monkeypatch, one_thread):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import report

    for i in range(9):
        midi(tmp_path / "train" / f"{i}.mid", [(0, 60 + i, 0.1, 0.6), (0, 48 + i, 0.7, 1.0)])
    for name in "mz_331_3", "other":
        midi(tmp_path / "test" / f"{name}.mid", [(0, 65, 0.1, 0.6), (0, 53, 0.7, 1.0)])
    monkeypatch.setattr(hp, "limit_s", 2)
    for name, value in dict(data=tmp_path / "report", left_out=("FluidR3_GM.sf2", 0, 1), several=report.several[:2],
                            ae_kept=(1, 2), unet_kept=(1, 2), ae_brief=(1, 2), unet_brief=(1,)).items():
        monkeypatch.setattr(report, name, value)
    monkeypatch.setattr(hp, "ae_epochs", 2), monkeypatch.setattr(hp, "unet_epochs", 2)
    monkeypatch.setitem(hp.unet_report, "wf", 2)
    with pytest.raises(ValueError, match="train does not hold mz_331_3.mid"):  # before anything is rendered
        report.main([str(tmp_path / "train"), str(tmp_path / "train")])
    assert not report.data.exists()
    report.main([str(tmp_path / "train"), str(tmp_path / "test"), "-o", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert all((tmp_path / f"report_figure_{number}.png").read_bytes().startswith(b"\x89PNG") for number in (1, 5))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.torch")}
    report.train_all()  # what is trained is kept
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.torch")}
    assert sorted(report.choose(tmp_path / "train")) == ["0", "3", "6"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4 + 2 + 5 + 2 + 9 and "nan" not in text
    assert [row[1] for row in rows[2:6]] == ["11.05", "5.70", "5.95", "2.25"]
    figures = [row[1:] for row in rows[2:6]] + [row[2:] for row in rows[8:13]]  # without the epoch
    assert all(float(cell) > 0 for row in figures for cell in row)
    for column, least in (1, 0), (2, -hp.top_db), (3, 0):
        for cell in [row[column] for row in rows[15:]]:
            mean, *each = map(float, cell.replace("(", "").replace(")", "").replace(",", "").split())
            assert each and abs(mean - np.mean(each)) < 0.011 and all(least < figure < hp.top_db for figure in each)
    assert rows[15][1].split(" ", 1)[1] == f"({rows[8][5]}, {rows[9][5]})"  # the baseline's, of the epochs 1 and 2

    last = report.weights("report", "unet")
    report.Training.save_tensors(last.with_suffix(".checkpoint"), {  # as if stopped between the epochs 1 and 2
        "epoch": 1, "best": report.load_tensors(report.weights("report", "unet_1"))})
    last.unlink(), report.weights("report", "unet_2").unlink(), report.weights("l1", "unet_1").unlink()
    so_far = [str(tmp_path / "train"), str(tmp_path / "test"), "--so-far", "-o", str(tmp_path / "so_far.md")]
    report.main(so_far)
    fewer = (tmp_path / "so_far.md").read_text()
    assert "U-Net: the best of 2 epochs" in text and "U-Net: the best of 1 epochs" in fewer
    assert fewer.count("\n| U-Net |") == 2
    assert "| L1 in place of MSE |" in text and "| L1 in place of MSE |" not in fewer
    last.with_suffix(".checkpoint").unlink()
    report.main(so_far)
    none = (tmp_path / "so_far.md").read_text()
    assert "\n| U-Net |" not in none and "\n| final | 5.95 | - | - | 4.36 | - | - | - | - |\n" in none
    report.weights("report").unlink()
    with pytest.raises(FileNotFoundError, match="ae.torch is not trained yet; leave --so-far out"):
        report.main(so_far)
