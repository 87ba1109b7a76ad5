"""The benchmarks run on short clips and write their pages where they should. Nobody checks their figures here."""
import sys
from pathlib import Path

import mido
import numpy as np
import pytest
import torch

import Evaluation
import Hyperparameters as hp
import Main
import MIDI2Audio
import Util
from AEModel import snapshot
from Checkpoints import save_tensors
from notes_common import late
from UNet import UNet

sys.path.append(str(hp.root / "benchmarks"))
import benchmark
import cases
import common
import experiments
import goals
import own_instrument
import peers

excerpt = hp.data / "MIDI_test" / "satie_gymnopedie_1.mid"


def table_rows(text):
    """Return the cells of the rows of Markdown tables, without headings."""
    lines = text.splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line, after in zip(lines, [*lines[1:], ""])
            if line.startswith("| ") and not after.startswith("|---")]


@pytest.fixture
def root_copy(tmp_path, monkeypatch):
    """A root without weights for the pages, and a working folder; both empty."""
    monkeypatch.setattr(hp, "root", tmp_path / "root")
    tmp_path.joinpath("working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    return tmp_path


def written(folder):
    """Return the pages and figures below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".md", ".png", ".json")}


# benchmark.py

def test_benchmark_writes_its_tables(short_pair, short_demo, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "run_in_subprocess", lambda *_: (1.0, 2.0))  # importing takes a while
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **options: None)
    monkeypatch.setattr(benchmark, "UNet", lambda wf: UNet(wf=3))
    monkeypatch.chdir(tmp_path)
    committed = hp.root.joinpath("benchmarks", "benchmark.md").read_bytes()
    benchmark.main([str(short_pair), "--clip-s", "1", "--repeats", "1", "--minutes", "0.05"])
    text = tmp_path.joinpath("benchmark.md").read_text()
    assert all(heading in text for heading in ("## A clip of 1 s", "## Inversions", "## Any length", "| satie |"))
    assert "nan" not in text and hp.root.joinpath("benchmarks", "benchmark.md").read_bytes() == committed
    assert ["0.05", "1.0", "20.0", "2"] in table_rows(text)


def test_code_runs_in_a_process_of_its_own():
    seconds, memory = benchmark.run_in_subprocess("seconds = float(sys.argv[1]) + len(b.excerpts)", "0.5")
    assert seconds == 3.5 and 50 < memory < 2000


# experiments.py

def test_experiments_train_the_reports_networks(data, tmp_path, monkeypatch):
    """Although the data folder has notes, and without touching the pages of the repository."""
    notes = {path.stem: hp.data / "MIDI_test" / f"{path.stem}.mid" for path in (data / "piano").glob("*.wav")}
    for name, path in notes.items():
        Util.save_bytes(data / "notes" / f"{name}.mid", lambda file: file.write(path.read_bytes()))
    (data / "piano_2").symlink_to(data / "piano")
    narrow = dict(experiments.narrow, epochs=1, channels=(8, 16, 16), batch_size=2, crop_frames=64)
    assert all(settings["network"] == "report" for settings, _ in experiments.experiments.values())
    monkeypatch.setattr(experiments, "experiments", {
        "autoencoder": (narrow, None), "U-Net": (narrow, dict(experiments.small, wf=2, batch_size=2, crop_frames=64))})
    monkeypatch.chdir(tmp_path)
    pages = {path: path.read_bytes() for path in hp.root.joinpath("results").glob("*.md")}
    for _ in range(2):  # what is trained is kept
        experiments.main(["--data", str(data), "--validation-source", "piano_2"])
        times = {path: path.stat().st_mtime_ns for path in data.glob("models/experiment_*/*.torch")}
        rows = table_rows(tmp_path.joinpath("ablations.md").read_text())
        assert [row[0] for row in rows] == ["autoencoder", "U-Net"]
        assert all(float(cell) >= 0 for row in rows for cell in row[1:])
    assert len(times) >= 3 and times == {path: path.stat().st_mtime_ns for path in times}
    assert pages == {path: path.read_bytes() for path in hp.root.joinpath("results").glob("*.md")}


def test_experiments_name_a_piano_that_is_missing(data):
    with pytest.raises(FileNotFoundError, match="piano_5 is missing; render it with MIDI2Audio.py"):
        experiments.main(["--data", str(data)])
    assert not list(data.glob("models/experiment_*"))


# goals.py and cases.py

@pytest.fixture
def one_piece(tmp_path, monkeypatch):
    """A folder with one piece, of which three seconds are used; the data folder is empty."""
    Util.save_bytes(tmp_path / "MIDI" / excerpt.name, lambda file: file.write(excerpt.read_bytes()))
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    monkeypatch.setattr(hp, "limit_s", 3)
    return tmp_path / "MIDI"


@pytest.fixture
def one_piano(monkeypatch):
    """The default piano in place of the pianos of all cases, whose SoundFonts the README does not install."""
    for name, case in list(cases.cases.items()):
        monkeypatch.setitem(cases.cases, name, case._replace(preset=hp.piano_preset))


def test_goals_writes_its_tables_to_the_working_folder(instruments, one_piece, root_copy, weights, monkeypatch):
    monkeypatch.setattr(goals, "cases", {"one": cases.Case(hp.piano_preset),
                                         "another": cases.Case((hp.piano_preset[0], 0, 1, True))})
    monkeypatch.setattr(cases, "cases", goals.cases)
    monkeypatch.setattr(Main, "choose_weights", lambda *_: weights)
    goals.main([str(one_piece), "--no-notes", "--no-visqol"])
    assert written(root_copy / "working") == {"goals.md"} and not hp.root.exists()
    text = Path("goals.md").read_text()
    assert text.startswith("Means over 1 pieces") and "nan" not in text and "## Notes" not in text
    rows = table_rows(text)
    assert [row[:2] for row in rows[:8]] == [[case, version] for case in goals.cases for version in Evaluation.versions]
    for unchanged, ceiling in (rows[0], rows[3]), (rows[4], rows[7]):
        assert len(unchanged) == 2 + len(goals.sound_metrics) and float(unchanged[2]) > float(ceiling[2]) > 0
    assert [row[0] for row in rows[8:]] == ["one", "another"]
    assert all(row[2].endswith(" of 1") and row[3] == "satie_gymnopedie_1" for row in rows[8:])


def test_a_full_run_of_goals_writes_to_results(instruments, one_piece, one_piano, root_copy, monkeypatch):
    monkeypatch.setattr(goals, "cases_of", lambda pieces, chosen: list(chosen))
    monkeypatch.setattr(goals, "prepare", lambda *_: (None, None))
    scores = np.arange(4.0)[None, :, None] + np.arange(3.0)
    monkeypatch.setattr(goals, "score_sound", lambda *_: scores)
    monkeypatch.setattr(goals, "score_notes", lambda *_: np.full(5, 0.5))
    monkeypatch.setattr(goals, "score_decoder", lambda *_: (1.0, 2.0))
    monkeypatch.setattr(goals, "find_visqol", lambda: None)
    monkeypatch.setattr(goals, "sound_metrics", goals.sound_metrics[:2])
    monkeypatch.setattr(goals, "check_packages", lambda *_: None)
    goals.main([str(one_piece)])  # one piece in place of twelve
    assert not hp.root.exists()
    monkeypatch.setattr(goals, "scored_pieces", ("satie_gymnopedie_1",))
    goals.main([str(one_piece), "--no-notes"])
    assert not hp.root.exists()
    goals.main([str(one_piece)])
    assert written(root_copy / "root") == {"results/goals.md"}
    rows = table_rows(hp.root.joinpath("results", "goals.md").read_text())
    assert rows[0] == ["piano trained on", *["0.500"] * 5, "1.00", "2.00"]
    assert rows[5] == ["piano trained on", "unchanged", "0.00", "1.00", "2.00"] and len(rows) == 5 + 20 + 5
    assert rows[25] == ["piano trained on", "-1.00", "0 of 1", "satie_gymnopedie_1", "2.00"]


def test_notes_are_scored_against_the_midi_files(instruments, one_piece, monkeypatch):
    folder, midi_files = cases.prepare("piano trained on", one_piece)
    true = goals.Notes.read_notes(excerpt)
    for shift, expected in (0, 1), (0.012, 1), (0.2, 0):
        monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model: true + (shift, shift, 0, 0))
        np.testing.assert_allclose(goals.score_notes(folder, midi_files, None), [expected] * 5)


def test_the_cases_in_halls_play_stored_performances_in_different_halls(instruments, tmp_path, monkeypatch, responses):
    Util.save_bytes(tmp_path / "MIDI" / "elise.mid", lambda file: file.write(excerpt.read_bytes()))
    seeds = []
    monkeypatch.setattr(hp, "data", tmp_path / "data"), monkeypatch.setattr(hp, "limit_s", 3)
    monkeypatch.setattr(cases.SimulatedRooms, "room_responses", lambda *halls: seeds.append(halls) or responses)
    monkeypatch.setattr(cases, "cases", {name: case._replace(preset=hp.piano_preset)
                                         for name, case in cases.cases.items()})
    in_halls = "like a recording", "performed, in a hall"
    found = {}
    for name in (*in_halls, in_halls[1]):
        folder, midi_files = cases.prepare(name, tmp_path / "MIDI")
        assert midi_files["elise"].read_bytes() == (cases.performances / cases.cases[name].folder / "elise.mid"
                                                    ).read_bytes()
        wav = (folder / "piano" / "elise.wav").read_bytes()
        assert found.setdefault(name, wav) == wav
    assert len(set(found.values())) == 2 and seeds == [(12, 1), (12, 2), (12, 2)]  # number and random seed


def test_all_scored_pieces_have_performances_and_others_are_left_out(capsys):
    for folder in "variants", "performed":
        assert {path.stem for path in (cases.performances / folder).glob("*.mid")} == set(common.scored_pieces)
    for path in (cases.performances / "performed").glob("*.mid"):
        assert sum(message.is_cc(64) and message.value >= 64 for message in mido.MidiFile(path).tracks[0]) >= 9
    assert cases.cases_of(common.scored_pieces, cases.cases) == list(cases.cases)
    assert capsys.readouterr().out == ""
    assert cases.cases_of(["elise", "own"], cases.cases) == list(cases.cases)[:3]
    assert "no performances of own, which these cases need: like a recording, perf" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no performances of own.*; choose other cases"):
        cases.cases_of(["own"], ["like a recording"])


@pytest.mark.parametrize("compression", (0.3, 0.4, 0.5, 0.6))
def test_mp3_keeps_length_and_time(compression):
    audio = Util.read_audio(hp.demo)[:3 * hp.sample_rate + 77]
    coded = cases.mp3_round_trip(audio, compression)
    assert coded.shape == audio.shape and abs(late(audio, coded)) < 1 / hp.sample_rate
    assert 0 < np.abs(coded - audio).max() < 0.2


# what is missing is named before any work

def test_missing_packages_are_named_first(instruments, one_piece, one_piano, monkeypatch):
    monkeypatch.setattr(cases, "prepare", lambda *_: pytest.fail("work has begun"))
    monkeypatch.setattr(goals, "prepare", cases.prepare), monkeypatch.setattr(peers, "prepare", cases.prepare)
    monkeypatch.setitem(sys.modules, "basic_pitch", None)
    for script, flags in (goals, []), (peers, ["--players", "this"]):
        with pytest.raises(ValueError, match="the note F1 .*basic_pitch.*--no-deps basic-pitch; or use --no-notes"):
            script.main([str(one_piece), *flags])
    monkeypatch.setitem(sys.modules, "moduleconf", None)
    with pytest.raises(ValueError, match="moduleconf.*pip install --no-deps transkun.*--players this"):
        peers.main([str(one_piece), "--players", "transkun", "--no-notes"])


def test_a_missing_soundfont_is_named_first_with_its_package(one_piece, monkeypatch):
    monkeypatch.setattr(goals, "prepare", lambda *_: pytest.fail("work has begun"))
    monkeypatch.setattr(hp, "system_soundfonts", ()), monkeypatch.setattr(hp, "soundfonts", one_piece)
    with pytest.raises(FileNotFoundError, match="FluidR3_GM.sf2 .*apt-get install fluid-soundfont-gm"):
        goals.main([str(one_piece), "--no-notes"])
    with pytest.raises(FileNotFoundError, match="TimGM6mb.sf2 .*apt-get install timgm6mb-soundfont"):
        common.check_soundfonts(cases.left_out)
    with pytest.raises(FileNotFoundError, match="MuseScore.* apt-get install musescore-general-soundfont"):
        common.check_soundfonts(("MuseScore_General_Full.sf3", 0, 0))


# own_instrument.py

def test_own_instrument_writes_a_row_each_and_keeps_what_is_finished(instruments, tmp_path, monkeypatch, midi):
    notes = [(0, key, 0.2 + 0.4 * i, 0.5 + 0.4 * i) for i, key in enumerate((60, 67, 72))]
    for name in "abcdef":
        midi(tmp_path / "MIDI" / f"{name}.mid", notes)
    trained = []

    def train(data):  # untrained weights that hear nothing, in place of minutes of training
        assert sorted(path.name for path in (data / "piano").glob("*.wav")) == ["a.wav", "d.wav"]
        assert (data / "piano" / "preset.txt").read_text() == "FluidR3_GM.sf2:0:6\n"
        trained.append(data)
        network = own_instrument.load_model(own_instrument.Autoencoder, hp.ae_weights).network
        torch.nn.init.constant_(network.encoder.head.bias, -100)
        save_tensors(data / "models" / "own" / "ae.torch", snapshot(network, {}))

    monkeypatch.setattr(own_instrument.AEMain, "train", train)
    monkeypatch.setattr(own_instrument, "instruments", {"grand harpsichord": 6})
    monkeypatch.setattr(own_instrument, "n_training", 2), monkeypatch.setattr(own_instrument, "n_scored", 1)
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        own_instrument.main([str(tmp_path / "MIDI")] * 2)
        [[source, before, after, minutes]] = table_rows(Path("own_instrument.md").read_text())
        assert (source, after, minutes) == ("grand harpsichord", "0.000 / 0.000 / 0.000", "0")
        assert float(before.split(" / ")[0]) > 0.6
    assert trained == [tmp_path / "data" / "own_instrument" / "grand_harpsichord"]


# peers.py

def test_peers_writes_its_table(instruments, quick_inversion, tmp_path, monkeypatch, midi, root_copy):
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    monkeypatch.setattr(hp, "limit_s", 3)
    notes = [(0, key, 0.2 + 0.4 * i, 0.5 + 0.4 * i) for i, key in enumerate((60, 64, 67, 72, 76))]
    piece, half = midi(tmp_path / "MIDI" / "one.mid", notes), midi(tmp_path / "half.mid", notes[:3] + [(0, 30, 2, 2.5)])
    midi(tmp_path / "MIDI" / "two.mid", notes)
    for name, predicted in ("transkun", piece), ("basic_pitch", half):
        monkeypatch.setattr(peers, name, lambda predicted=predicted: lambda audio, path: path.write_bytes(
            predicted.read_bytes()))
    monkeypatch.setattr(peers, "check_packages", lambda *_: None)
    peers.main([str(tmp_path / "MIDI"), "--pieces", "1", "--cases", "piano trained on", "--no-notes"])
    assert written(root_copy / "working") == {"peers_table.md"} and not hp.root.exists()
    text = Path("peers_table.md").read_text()
    rows = {row[1]: row for row in table_rows(text)}
    assert text.startswith("Means over 1 pieces") and "nan" not in text
    assert rows["transkun + FluidSynth"][-6:-1] == ["1.000"] * 5
    assert rows["basic-pitch + FluidSynth"][-6:-3] == ["0.750", "0.600", "0.667"]
    l1 = {name: float(row[2]) for name, row in rows.items()}
    assert l1["transkun + FluidSynth"] < 0.1 < l1["basic-pitch + FluidSynth"] and l1["this repository"] > 0.1


def test_the_stand_in_for_torchaudio_is_its_filter_bank():
    import librosa

    expected = librosa.filters.mel(sr=44100, n_fft=4096, n_mels=229, fmin=30, fmax=8000, htk=True, norm=None).T
    np.testing.assert_allclose(peers.mel_filters(2049, 30, 8000, 229, 44100).numpy(), expected, atol=1e-4)
