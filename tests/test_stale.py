"""Generated files whose source or settings have changed are made again or removed; files of the user stay."""
import os
import sys

import numpy as np
import pytest
import soundfile
import torch

import AEDataset
import DatasetCreator
import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import Presets
import Scale
import UNetDataset
import Util
from AEModel import AEModel, digest, load_model
from Autoencoder import Autoencoder


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


@pytest.mark.parametrize("setting, value, again", (("gain", 0.1, True), ("refiner_threshold", 0.9, False)))
def test_renders_follow_the_settings_of_the_rendering_and_no_others(folder, monkeypatch, setting, value, again):
    before = times(folder)
    monkeypatch.setattr(hp, setting, value)
    render(folder)
    assert {path.name for path, time in times(folder).items() if time != before[path]} == (
        {"one.wav", "two.wav"} if again else set())


@pytest.mark.parametrize("room", ((), (True,)))
def test_every_setting_that_a_render_reads_is_in_its_digest(tmp_path, midi, instruments, monkeypatch, room):
    """So that a setting that is added later cannot be forgotten."""
    midi(tmp_path / "MIDI" / "one.mid")
    renderer, read = MIDI2Audio.FolderRenderer(tmp_path / "piano", (*instruments[0], *room)), set()

    class Recorded:
        def __getattr__(self, name, settings=hp):
            read.add(name)
            return getattr(settings, name)

    with monkeypatch.context() as patch:
        for module in [module for module in list(sys.modules.values()) if vars(module).get("hp") is hp]:
            patch.setattr(module, "hp", Recorded())
        renderer.render("one", tmp_path / "MIDI" / "one.mid", True)
    read -= {"soundfonts", "system_soundfonts"}  # places
    assert {"gain", "limit_s", "peak"} < read
    for name in read:
        before = renderer.settings()
        with monkeypatch.context() as patch:
            patch.setattr(hp, name, getattr(hp, name) / 2)
            assert renderer.settings() != before, name


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

@pytest.fixture
def autoencoder():
    """Function that makes a small autoencoder with weights that a seed draws."""

    def make(seed):
        torch.manual_seed(seed)
        return AEModel(Autoencoder(channels=(4, 4, 4)))

    return make


def test_each_model_has_its_own_outputs(data, autoencoder):
    names = DatasetCreator.build(data)
    first, second = (UNetDataset.StoredOutputs(autoencoder(seed), data, f"{seed}") for seed in (0, 1))
    first.write(names)
    before = times(data / "ae_output")
    second.write(names), first.write(names)
    assert times(first.folder) == before and len(before) == 3
    assert not torch.equal(*(UNetDataset.UNetDataset(names, data, outputs)[0][0] for outputs in (first, second)))


@pytest.mark.parametrize("change", ("weights", "refiner_threshold", "reverberation_share", "a recording"))
def test_outputs_follow_weights_settings_and_recordings(data, autoencoder, monkeypatch, change):
    names = DatasetCreator.build(data)
    UNetDataset.StoredOutputs(autoencoder(0), data, "own").write(names)
    before = times(data / "ae_output")
    if change == "a recording":
        os.utime(data / "generated" / names[0] / "piano_audio.npy", (3_000_000_000, 3_000_000_000))
    elif change != "weights":
        monkeypatch.setattr(hp, change, 0.5)
    outputs = UNetDataset.StoredOutputs(autoencoder(int(change == "weights")), data, "own")
    outputs.write(names)
    after = times(data / "ae_output")
    same = {names[1], names[2]} if change == "a recording" else set()
    assert {path.parent.name for path in after if after[path] == before.get(path)} == same
    assert set(after) == {path for name in names for path, _ in outputs.paths(name)}  # and no others are left


# sounds of the target

def test_a_voice_is_rendered_once_and_again_for_other_settings(tmp_path, instruments, monkeypatch):
    rendered, voice = [], load_model(Autoencoder, hp.ae_weights).network.decoder
    monkeypatch.setattr(Scale, "render_voice", lambda preset: (rendered.append(preset), voice)[1])
    target, found = Presets.preset_text(instruments[1]), []
    for gain in hp.gain, hp.gain, hp.gain / 2:
        monkeypatch.setattr(hp, "gain", gain)
        found.append(digest(Scale.stored_voice(target, tmp_path).state_dict()))
    assert len(rendered) == 2 and len(set(found)) == 1
    for path in tmp_path.iterdir():
        path.write_bytes(b"la la la")
    Scale.stored_voice(target, tmp_path)
    assert len(rendered) == 3


# pairs

@pytest.mark.parametrize("number", (1, 2))
def test_a_single_pair_causes_a_warning(data, capsys, number):
    names = DatasetCreator.build(data)[:number]
    AEDataset.make_datasets(names, data, 0, False, None)
    assert (f"single piece, {names[0]}, which is used for training and for validation" in capsys.readouterr().err) == (
        number == 1)


# evaluation

def test_folders_of_like_names_do_not_share_renders(tmp_path, midi, instruments):
    first, second = tmp_path / "a" / "b_c", tmp_path / "a_b" / "c"
    midi(first / "piece.mid", [(0, 60, 0.0, 0.2)]), midi(second / "piece.mid", [(0, 60, 0.0, 0.7)])
    for path in first / "piece.mid", second / "piece.mid":
        os.utime(path, (1_000_000_000, 1_000_000_000))
    sizes = [Util.read_audio(Evaluation.render_pair(folder, tmp_path / "data") / "piano" / "piece.wav").size
             for folder in (first, second)]
    assert sizes == [round(seconds * hp.sample_rate) for seconds in (1.2, 1.7)]
