"""Generated files whose source or settings have changed are made again or removed; files of the user stay."""
import json
import os

import numpy as np
import pytest
import soundfile
import torch

import AEDataset
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Performances
import UNetDataset
import Util
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder
from notes_common import small


@pytest.fixture
def folder(tmp_path, midi, instruments):
    """A data folder with two short pieces, rendered on both instruments."""
    for name in "one", "two":
        midi(tmp_path / "MIDI" / f"{name}.mid", [(0, 60, 0.0, 0.5), (0, 64, 1.5, 2.0)])
    render(tmp_path)
    return tmp_path


def render(folder, *options):
    MIDI2Audio.main(["--data", str(folder), *options])


def pieces(folder):
    """Return the names of the pieces in each folder."""
    return {name: {path.stem for path in (folder / name).glob("*.*") if path.suffix in (".wav", ".mid")}
            for name in ("piano", "synth", "notes")}


def contents(*paths):
    return [path.read_bytes() for path in paths]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.suffix in (".wav", ".mid", ".npy")}


def own_pair(folder, name):
    """Put recordings that were not rendered on both sides, and their notes."""
    paths = [folder / side / f"{name}.wav" for side in ("piano", "synth")]
    for path in paths:
        soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 20000), 22050)
    notes = folder / "notes" / f"{name}.mid"
    notes.write_bytes((folder / "MIDI" / "one.mid").read_bytes())
    return [*paths, notes]


# pieces that are gone

@pytest.mark.parametrize("options", ((), ("--overwrite",), ("--overwrite", "--target", "FluidR3_GM.sf2:0:4")))
def test_renders_of_a_piece_that_is_gone_are_removed_from_all_folders_and_recordings_stay(folder, capsys, options):
    own = own_pair(folder, "mine")
    before = contents(*own)
    (folder / "MIDI" / "two.mid").unlink()
    capsys.readouterr()
    render(folder, *options)
    assert pieces(folder) == dict.fromkeys(("piano", "synth", "notes"), {"one", "mine"})
    assert contents(*own) == before
    printed = capsys.readouterr().err
    assert f"removed from {folder / 'piano'}, since their MIDI files are gone: two.wav" in printed
    assert f"removed from {folder / 'notes'}, since their MIDI files are gone: two.mid" in printed
    assert set(DatasetCreator.find_pairs(folder)) == {"one", "mine"}


def test_renders_on_further_pianos_are_removed_with_their_piece(folder, midi):
    render(folder, "--source", "FluidR3_GM.sf2:0:0", "FluidR3_GM.sf2:0:1")
    (folder / "MIDI" / "two.mid").unlink()
    render(folder)  # on the first piano only
    assert {path.stem for path in (folder / "piano_2").glob("*.wav")} == {"one"}
    assert DatasetCreator.build(folder) == ["one"]


def test_renders_from_before_there_were_lists_are_known_by_their_midi_files(folder, capsys):
    for path in folder.rglob("generated.txt"):
        path.unlink()
    soundfile.write(folder / "piano" / "mine.wav", np.ones(2000) / 2, 22050)
    before = times(folder)
    render(folder)
    assert times(folder) == before
    assert f"warning: {folder / 'piano'} holds recordings without a MIDI file" in capsys.readouterr().err
    (folder / "MIDI" / "two.mid").unlink()
    render(folder)
    assert pieces(folder) == {"piano": {"one", "mine"}, "synth": {"one"}, "notes": {"one"}}


@pytest.mark.parametrize("options", ((), ("--overwrite",)))
def test_a_recording_that_has_taken_the_place_of_a_render_is_never_replaced(folder, options):
    own = folder / "piano" / "two.wav"
    soundfile.write(own, np.random.default_rng(0).normal(0, 0.1, 20000), 22050)
    os.utime(own, (1_000_000_000, 1_000_000_000))  # older than its MIDI file
    before = contents(own)
    with pytest.raises(ValueError, match=f"{own} was not generated here, or was changed since, and is not replaced"):
        render(folder, *options)
    (folder / "MIDI" / "two.mid").unlink()
    render(folder, *options)
    assert contents(own) == before and pieces(folder)["synth"] == {"one"}


def test_notes_of_the_user_are_never_replaced(folder):
    own = folder / "notes" / "two.mid"
    own.write_bytes((folder / "MIDI" / "one.mid").read_bytes())
    before = contents(own)
    render(folder, "--overwrite")
    assert contents(own) == before


def test_variants_of_a_piece_that_is_gone_are_removed(tmp_path, midi, capsys):
    for name in "one", "two", "suite/three":
        midi(tmp_path / f"{name}.mid", [(0, 60 + i, i / 2, i / 2 + 0.4) for i in range(8)])
    Performances.write_variants(tmp_path, 2)
    own = midi(tmp_path / "two~7.mid")
    (tmp_path / "two.mid").unlink(), (tmp_path / "suite" / "three.mid").unlink()
    capsys.readouterr()
    Performances.remove_orphan_variants(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mid")}
    assert left == {"one.mid", "one~0.mid", "one~1.mid", "one~2.mid", "two~7.mid"}
    assert own.exists() and "suite/three~0.mid" in capsys.readouterr().err


def test_variants_of_the_user_are_never_replaced(tmp_path, midi, capsys):
    midi(tmp_path / "one.mid"), midi(tmp_path / "one~1.mid")
    os.utime(tmp_path / "one~1.mid", (1_000_000_000, 1_000_000_000))
    before = contents(tmp_path / "one~1.mid")
    Performances.write_variants(tmp_path, 1)
    assert contents(tmp_path / "one~1.mid") == before and (tmp_path / "one~0.mid").exists()
    assert "one~1.mid was not generated here" in capsys.readouterr().err


def test_notes_of_a_piece_that_was_damaged_after_its_render_stay(folder):
    before = contents(folder / "notes" / "two.mid")
    (folder / "MIDI" / "two.mid").write_bytes(b"MThd")
    with pytest.raises(ValueError, match="two.mid is not a MIDI file, or is damaged"):
        render(folder)
    assert contents(folder / "notes" / "two.mid") == before


def test_spectrograms_of_a_pair_that_is_gone_are_removed(data):
    first, *others = DatasetCreator.build(data)
    for side in "piano", "synth":
        (data / side / f"{first}.wav").unlink()
    before = times(data / "generated")
    DatasetCreator.build(data)
    assert times(data / "generated") == {path: time for path, time in before.items() if path.parent.name != first}
    assert {path.name for path in (data / "generated").glob("*/")} == set(others)


def test_all_unreadable_files_of_a_data_set_are_named_at_once(data):
    names = DatasetCreator.build(data)
    for name in names[:2]:
        Util.save_text(data / "notes" / f"{name}.mid", "not music")
    Util.write_audio(data / "piano" / f"{names[2]}.wav", np.zeros(9000))
    with pytest.raises(ValueError) as error:
        DatasetCreator.build(data)
    assert all(f"{name}.{ending}" in str(error.value) for name, ending in zip(names, ("mid", "mid", "wav")))


# settings that have changed

@pytest.mark.parametrize("options", ((), ("--overwrite",)))
def test_renders_and_notes_follow_the_limit(folder, monkeypatch, capsys, options):
    assert Util.read_audio(folder / "piano" / "one.wav").size == 3 * hp.sample_rate
    monkeypatch.setattr(hp, "limit_s", 1)
    render(folder, *options)
    for side in "piano", "synth":
        assert Util.read_audio(folder / side / "one.wav").size == hp.sample_rate
    assert len(MIDI2Audio.Notes.read_notes(folder / "notes" / "one.mid", 30)) == 1
    assert f"{folder / 'piano'}: 2 wavs were rendered with other settings" in capsys.readouterr().err
    if not options:
        before = times(folder)
        render(folder)
        assert times(folder) == before


@pytest.mark.parametrize("setting, value", (("gain", 0.2), ("release_s", 0.5), ("peak", 0.5), ("limit_s", 20),
                                            ("fluidsynth_polyphony", 256), ("fluidsynth_room_size", 0.1)))
def test_renders_follow_the_settings_of_the_rendering(tmp_path, monkeypatch, setting, value):
    renderer = MIDI2Audio.FolderRenderer(tmp_path, hp.piano_preset)
    renderer.generated.add(Util.write_audio(tmp_path / "one.wav", np.ones(9) / 2) or tmp_path / "one.wav",
                           renderer.settings("one"))
    assert renderer.generated.is_current(tmp_path / "one.wav", renderer.settings("one"))
    monkeypatch.setattr(hp, setting, value)
    assert not renderer.generated.is_current(tmp_path / "one.wav", renderer.settings("one"))


def test_only_variants_follow_the_settings_of_recordings_and_timbres(rendered):
    renderer = MIDI2Audio.FolderRenderer(rendered / "piano", hp.piano_preset, random_timbre=True)
    before = renderer.settings("one"), renderer.settings("one~1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hp, "timbre_db", 7)
        assert renderer.settings("one") == before[0] and renderer.settings("one~1") != before[1]


def test_variants_follow_their_settings(tmp_path, midi, monkeypatch):
    midi(tmp_path / "one.mid", [(0, 60 + i, i / 2, i / 2 + 0.4) for i in range(8)])
    Performances.write_variants(tmp_path, 1)
    before = contents(tmp_path / "one~1.mid")
    Performances.write_variants(tmp_path, 1)
    assert contents(tmp_path / "one~1.mid") == before
    monkeypatch.setattr(hp, "variant_tempo", (0.5, 0.6))
    Performances.write_variants(tmp_path, 1)
    assert contents(tmp_path / "one~1.mid") != before


def test_an_interrupted_change_of_settings_is_finished_by_the_next_call(folder, monkeypatch):
    monkeypatch.setattr(hp, "limit_s", 1)
    with monkeypatch.context() as patch:
        def stop(midi_path, *arguments, original=MIDI2Audio.synthesise_midi_to_audio, **how):
            if "two" in str(midi_path):
                raise ValueError("stopped")
            original(midi_path, *arguments, **how)

        patch.setattr(MIDI2Audio, "synthesise_midi_to_audio", stop)
        with pytest.raises(ValueError, match="stopped"):
            render(folder)
    render(folder)
    for name in "one", "two":
        assert Util.read_audio(folder / "piano" / f"{name}.wav").size == hp.sample_rate


# outputs of the autoencoder

def test_each_model_has_its_own_outputs(data):
    names, weights = DatasetCreator.build(data), []
    for seed, model in enumerate(("first", "second")):
        torch.manual_seed(seed)
        path = data / "models" / model / "ae.torch"
        path.parent.mkdir()
        torch.save(Autoencoder(channels=(4, 4, 4)).state_dict(), path)
        weights.append(path)
    UNetDataset.write_outputs(weights[0], names, data, model="first")
    before = times(data / "ae_output" / "first")
    UNetDataset.write_outputs(weights[1], names, data, model="second")
    UNetDataset.write_outputs(weights[0], names, data, model="first")
    assert times(data / "ae_output" / "first") == before and len(before) == 3
    items = [UNetDataset.UNetDataset(names, data, model=model)[0][0] for model in ("first", "second")]
    assert not torch.equal(*items)


def test_outputs_follow_the_thresholds_of_the_decoding(takes, monkeypatch):
    names, weights = DatasetCreator.build(takes), takes / "models" / "own" / "ae.torch"
    weights.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(NoteAutoencoder(**small).state_dict(), weights)
    UNetDataset.write_outputs(weights, names[:1], takes)
    before = times(takes / "ae_output")
    UNetDataset.write_outputs(weights, names[:1], takes)
    assert times(takes / "ae_output") == before
    monkeypatch.setattr(hp, "refiner_threshold", 0.5)
    UNetDataset.write_outputs(weights, names[:1], takes)
    assert all(time > before[path] for path, time in times(takes / "ae_output").items()) and len(before) == 1


# pairs

@pytest.mark.parametrize("number", (1, 2))
def test_a_single_pair_causes_a_warning(data, capsys, number):
    names = DatasetCreator.build(data)[:number]
    AEDataset.make_datasets(names, data, 0, False, None)
    assert (f"single piece, {names[0]}, which is used for training and for validation" in capsys.readouterr().err) == (
        number == 1)


def test_a_pair_that_is_not_aligned_causes_a_warning_in_every_call(data, capsys):
    path = data / "synth" / "bach_prelude_c.wav"
    audio = Util.read_audio(path)
    Util.write_audio(path, np.concatenate([np.zeros(6615), audio[:-6615]]))
    for _ in range(2):
        DatasetCreator.build(data)
        assert capsys.readouterr().err.count(f"warning: {path} comes +0.") == 1
    [lag] = (data / "generated" / "bach_prelude_c").glob("*_lag.json")
    for damage in b"", b"[]", b"\xff", json.dumps({"lag": 0, "settings": [1, 2]}).encode():
        lag.write_bytes(damage)
        DatasetCreator.build(data)
        assert "bach_prelude_c.wav comes +0." in capsys.readouterr().err
    Util.write_audio(path, audio)
    DatasetCreator.build(data)
    assert "comes" not in capsys.readouterr().err


# evaluation

def test_folders_of_like_names_do_not_share_renders(tmp_path, midi, instruments):
    first, second = tmp_path / "a" / "b_c", tmp_path / "a_b" / "c"
    midi(first / "piece.mid", [(0, 60, 0.0, 0.2)]), midi(second / "piece.mid", [(0, 60, 0.0, 0.7)])
    for path in first / "piece.mid", second / "piece.mid":
        os.utime(path, (1_000_000_000, 1_000_000_000))
    sizes = [Util.read_audio(Evaluation.render_pair(folder, tmp_path / "data") / "piano" / "piece.wav").size
             for folder in (first, second)]
    assert sizes == [round(seconds * hp.sample_rate) for seconds in (1.2, 1.7)]
