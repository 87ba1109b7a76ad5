"""The benchmarks run on short clips and write their pages where they should. Nobody checks their figures here."""
import sys
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Main
import Util
from AEModel import snapshot
from audio import audio_files
from notes import note_events
from training.checkpoints import save_tensors
from notes_common import late

sys.path.append(str(hp.root / "benchmarks"))
import benchmark
import cases
import common
import experiments
import goals
import instruments as instruments_page
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
    """Return the files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# benchmark.py

def test_benchmark_writes_its_tables(short_pair, short_demo, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "run_in_subprocess", lambda *_: (1.0, 2.0))  # importing takes a while
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **options: None)
    monkeypatch.chdir(tmp_path)
    benchmark.main([str(short_pair), "--clip-s", "1", "--repeats", "1", "--minutes", "0.05"])
    text = tmp_path.joinpath("benchmark.md").read_text()
    assert all(heading in text for heading in ("## A clip of 1 s", "## Inversions", "## Any length", "| satie |"))
    rows = table_rows(text)
    assert "nan" not in text and ["0.05", "1.0", "20.0", "2"] in rows
    assert [row[0] for row in rows[:6]] == list(benchmark.stage_names)
    assert float(rows[1][2]) > 0 and float(rows[2][1]) > 0 and float(rows[3][1]) > 0


def test_our_inversion_is_that_of_the_command_line(short_demo):
    """From the sampled voice, with its own numbers of iterations."""
    audio, models = Main.read_recording(hp.demo), benchmark.load("shipped")
    chunk = benchmark.predict(audio, models)
    found, stages = benchmark.mel_inversion.invert_chunk(*chunk), chunk[0]
    played, pictures = Main.resynthesise(audio, models)
    assert chunk[2] is not None and np.array_equal(stages[-1][:, :pictures[-1].shape[1]], pictures[-1])
    np.testing.assert_allclose(found[:played.size] * np.abs(played).max() / np.abs(found[:played.size]).max(), played,
                               atol=1e-5)


def test_code_runs_in_a_process_of_its_own():
    seconds, memory = benchmark.run_in_subprocess("seconds = float(sys.argv[1]) + len(b.excerpts)", "0.5")
    assert seconds == 3.5 and 50 < memory < 2000


# experiments.py

def test_experiments_train_the_reports_networks(data, tmp_path, monkeypatch):
    """Although the data folder has notes."""
    notes = {path.stem: hp.data / "MIDI_test" / f"{path.stem}.mid" for path in (data / "piano").glob("*.wav")}
    for name, path in notes.items():
        Util.save_bytes(data / "notes" / f"{name}.mid", lambda file: file.write(path.read_bytes()))
    (data / "piano_2").symlink_to(data / "piano")
    narrow = dict(experiments.narrow, epochs=1, channels=(8, 16, 16), batch_size=2, crop_frames=64)
    assert all(settings["network"] == "report" for settings, _ in experiments.experiments.values())
    monkeypatch.setattr(experiments, "experiments", {
        "autoencoder": (narrow, None), "U-Net": (narrow, dict(experiments.small, wf=2, batch_size=2, crop_frames=64))})
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # what is trained is kept
        experiments.main(["--data", str(data), "--validation-source", "piano_2"])
        times = {path: path.stat().st_mtime_ns for path in data.glob("models/experiment_*/*.torch")}
        rows = table_rows(tmp_path.joinpath("ablations.md").read_text())
        assert [row[0] for row in rows] == ["autoencoder", "U-Net"]
        assert all(float(cell) >= 0 for row in rows for cell in row[1:])
    assert len(times) >= 3 and times == {path: path.stat().st_mtime_ns for path in times}


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
    for unchanged, reference in (rows[0], rows[3]), (rows[4], rows[7]):
        assert len(unchanged) == 2 + len(goals.sound_metrics) and float(unchanged[2]) > float(reference[2]) > 0
    assert len(rows) == 8


def test_only_a_full_run_writes_the_page_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    committed = hp.root / "results" / "goals.md"
    assert common.output_path(committed, True) == committed
    assert common.output_path(committed, False) == tmp_path / "goals.md"
    assert common.output_path(committed, True, Path("own.md")) == Path("own.md")


def test_notes_are_scored_against_the_midi_files(instruments, one_piece, monkeypatch):
    folder, midi_files = cases.prepare("piano in the training set", one_piece)
    true = goals.note_events.read_notes(excerpt)
    for shift, expected in (0, 1), (0.012, 1), (0.2, 0):
        monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model: true + (shift, shift, 0, 0))
        np.testing.assert_allclose(goals.score_notes(folder, midi_files, None), [expected] * 5)


def test_the_cases_in_halls_play_stored_performances_in_different_halls(instruments, tmp_path, monkeypatch, responses):
    Util.save_bytes(tmp_path / "MIDI" / "elise.mid", lambda file: file.write(excerpt.read_bytes()))
    monkeypatch.setattr(hp, "data", tmp_path / "data"), monkeypatch.setattr(hp, "limit_s", 3)
    monkeypatch.setattr(cases.simulated_rooms, "room_responses", lambda number, seed: responses[seed - 1:])
    monkeypatch.setattr(cases, "cases", {name: case._replace(preset=hp.piano_preset)
                                         for name, case in cases.cases.items()})
    found = {}
    names = "simulated hall recording", "simulated hall recording, much pedal"
    for name in (*names, names[1]):
        folder, midi_files = cases.prepare(name, tmp_path / "MIDI")
        stored = cases.performances / cases.cases[name].folder / "elise.mid"
        assert midi_files["elise"].read_bytes() == stored.read_bytes()
        wav = (folder / "piano" / "elise.wav").read_bytes()
        assert found.setdefault(name, wav) == wav
    assert len(set(found.values())) == 2


def test_what_cases_lack_is_named_and_they_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cases, "headroom", (tmp_path / "piano.sfz", {}))
    assert cases.cases_of(common.scored_pieces, cases.cases) == [
        name for name, case in cases.cases.items() if not case.instrument]
    assert "piano.sfz is missing" in capsys.readouterr().out
    (tmp_path / "piano.sfz").touch()
    assert cases.cases_of(common.scored_pieces, cases.cases) == list(cases.cases)
    assert capsys.readouterr().out == ""
    assert cases.cases_of(["elise", "own"], cases.cases) == list(cases.cases)[:5]
    assert "no performances of own, which these cases need: simulated hall rec" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no performances of own.*; choose other cases"):
        cases.cases_of(["own"], ["simulated hall recording"])


def test_speech_and_an_sfz_instrument_come_to_the_renders(instruments, one_piece, tmp_path, monkeypatch):
    seconds = np.arange(hp.sample_rate) / hp.sample_rate
    soundfile.write(tmp_path / "a4.wav", np.sin(2 * np.pi * 440 * seconds), hp.sample_rate)
    (tmp_path / "sine.sfz").write_text("<region> sample=a4.wav pitch_keycenter=69 lokey=0 hikey=127")
    heard = {}
    for name, change in ("dry", {}), ("speech", dict(beside="speech")), (
            "sine", dict(instrument=(tmp_path / "sine.sfz", {}))):
        monkeypatch.setitem(cases.cases, name, cases.Case(hp.piano_preset, **change))
        folder, midi_files = cases.prepare(name, one_piece)
        assert [path.name for path in (folder / "synth").glob("*.wav")] == [f"{excerpt.stem}.wav"]
        heard[name] = audio_files.read_audio(folder / "piano" / f"{excerpt.stem}.wav")
    voice = heard["speech"] - heard["dry"] * (heard["speech"] @ heard["dry"] / (heard["dry"] @ heard["dry"]))
    assert 20 * np.log10(voice.std() / (heard["speech"] - voice).std()) == pytest.approx(cases.beside_db, abs=0.5)
    first = note_events.read_notes(excerpt)[0]
    start = int(first[0] * hp.sample_rate)
    assert not heard["sine"][:max(start - 99, 0)].any() and heard["sine"][start:start + 2000].std() > 0.05
    peak = np.abs(np.fft.rfft(heard["sine"][start:start + 8000] * np.hanning(8000), 1 << 17)).argmax()
    assert 12 * np.log2(peak * hp.sample_rate / (1 << 17) / 440) + 69 == pytest.approx(first[2], abs=0.2)


def test_mp3_keeps_length_and_time():
    audio = audio_files.read_audio(hp.demo)[:3 * hp.sample_rate + 77]
    coded = cases.mp3_round_trip(audio)
    assert coded.shape == audio.shape and abs(late(audio, coded)) < 1 / hp.sample_rate
    assert 0 < np.abs(coded - audio).max() < 0.2


# what is missing is named before any work

def test_missing_packages_are_named_first(instruments, one_piece, monkeypatch):
    monkeypatch.setattr(goals, "check_soundfonts", lambda *_: None)
    monkeypatch.setattr(peers, "check_soundfonts", lambda *_: None)
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
    for preset, package in (cases.left_out, "timgm6mb"), (("MuseScore_General_Full.sf3", 0, 0), "musescore-general"):
        with pytest.raises(FileNotFoundError, match=f"{preset[0]} .*apt-get install {package}-soundfont"):
            common.check_soundfonts(preset)


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


# instruments.py

def test_instruments_writes_a_row_each(instruments, tmp_path, monkeypatch, midi, root_copy):
    midi(tmp_path / "MIDI" / "a.mid", [(0, key, 0.2 + 0.4 * i, 0.5 + 0.4 * i) for i, key in enumerate((60, 67, 72))],
         [mido.Message("control_change", control=64, value=127, time=0.3)])
    monkeypatch.setattr(instruments_page, "instruments", {"harpsichord": 6}), monkeypatch.setattr(hp, "data", tmp_path)
    monkeypatch.setattr(instruments_page, "beside", ("clapping",)), monkeypatch.setattr(hp, "limit_s", 3)
    monkeypatch.setattr(instruments_page, "left_out", hp.piano_preset)
    instruments_page.main([str(tmp_path / "MIDI")])
    rows = table_rows(Path("instruments.md").read_text())
    assert [row[0] for row in rows] == ["harpsichord", "piano alone", "piano and clapping"]
    assert all(0 <= float(score) <= 1 for row in rows for score in row[1:]) and float(rows[1][3]) > 0.7
    copies = [tmp_path / "evaluation" / "instruments" / name / "a.mid" for name in ("harpsichord", "piano")]
    assert [bool(note_events.read_keys_and_pedal(path)[1]) for path in copies] == [False, True]
    pairs = [DatasetCreator.find_pairs(path.parent.parent)["a"] for path in tmp_path.glob("evaluation/*/piano/a.wav")]
    assert len({paths[0].read_bytes() for paths in pairs}) == 3 > len({paths[1].read_bytes() for paths in pairs})


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
    peers.main([str(tmp_path / "MIDI"), "--pieces", "1", "--cases", "piano in the training set", "--no-notes"])
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
