"""Generated files whose source or settings have changed are made again or removed; files of the user stay."""
import os
import sys

import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Evaluation
import Hyperparameters as hp
import MIDI2Audio
import UNetDataset
import Util
from AEModel import AEModel, digest, load_model
from Autoencoder import Autoencoder
from audio import audio_files
from notes import note_events
from rendering import generated_files, soundfonts, voice_sampling
from rendering.rendered_folder import RenderedFolder


@pytest.fixture
def folder(tmp_path, midi, instruments):
    """A data folder with two short pieces, rendered on both instruments."""
    for name in "one", "two":
        midi(tmp_path / "MIDI" / f"{name}.mid", [(0, 60, 0.0, 0.5), (0, 64, 1.5, 2.0)])
    render(tmp_path)
    return tmp_path


def render(folder, *options):
    MIDI2Audio.main(["--data", str(folder), *options])


def contents(*paths):
    return [path.read_bytes() for path in paths]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.suffix in (".wav", ".mid", ".npy")}


def record(path):
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 20000), 22050)
    return path


# pieces that are gone

@pytest.mark.parametrize("options", ((), ("--overwrite", "--target", "FluidR3_GM.sf2:0:4")))
def test_renders_of_a_piece_that_is_gone_are_removed_from_all_folders_and_recordings_stay(folder, capsys, options):
    own = [record(folder / side / "mine.wav") for side in ("piano", "synth")] + [folder / "notes" / "mine.mid"]
    own[2].write_bytes((folder / "MIDI" / "one.mid").read_bytes())
    before = contents(*own)
    (folder / "MIDI" / "two.mid").unlink()
    render(folder, *options)
    for side in "piano", "synth", "notes":
        assert {path.stem for path in (folder / side).glob("*.[wm]*")} == {"one", "mine"}
    assert contents(*own) == before
    printed = capsys.readouterr().err
    for path in folder / "piano" / "two.wav", folder / "notes" / "two.mid":
        assert f"removed from {path.parent}, since their MIDI files are gone: {path.name}" in printed
    assert set(DatasetCreator.find_pairs(folder)) == {"one", "mine"}


def test_renders_on_further_pianos_are_removed_with_their_piece(folder):
    render(folder, "--source", "FluidR3_GM.sf2:0:0", "FluidR3_GM.sf2:0:1")
    (folder / "MIDI" / "two.mid").unlink()
    render(folder)  # on the first piano only
    assert [path.stem for path in (folder / "piano_2").glob("*.wav")] == DatasetCreator.build(folder) == ["one"]


@pytest.mark.parametrize("options", ((), ("--overwrite",)))
def test_a_recording_that_has_taken_the_place_of_a_render_is_never_replaced(folder, options):
    own = record(folder / "piano" / "two.wav")
    os.utime(own, (1_000_000_000, 1_000_000_000))  # older than its MIDI file
    before = contents(own)
    with pytest.raises(ValueError, match=f"{own} was not generated here, or was changed since, and is not replaced"):
        render(folder, *options)
    (folder / "MIDI" / "two.mid").unlink()
    render(folder, *options)
    assert contents(own) == before and not (folder / "synth" / "two.wav").exists()


def test_notes_of_the_user_and_those_of_a_piece_that_was_damaged_after_its_render_stay(folder):
    own, damaged = (folder / "notes" / f"{name}.mid" for name in ("one", "two"))
    own.write_bytes(damaged.read_bytes() + b"mine")
    (folder / "MIDI" / "two.mid").write_bytes(b"MThd")
    before = contents(own, damaged)
    with pytest.raises(ValueError, match="two.mid is not a MIDI file, or is damaged"):
        render(folder, "--overwrite")
    assert contents(own, damaged) == before


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
    audio_files.write_audio(data / "piano" / f"{names[2]}.wav", np.zeros(9000))
    with pytest.raises(ValueError) as error:
        DatasetCreator.build(data)
    assert all(f"{name}.{ending}" in str(error.value) for name, ending in zip(names, ("mid", "mid", "wav")))


# settings that have changed

def test_renders_and_notes_follow_the_limit(folder, monkeypatch, capsys):
    assert audio_files.read_audio(folder / "piano" / "one.wav").size == 3 * hp.sample_rate
    monkeypatch.setattr(hp, "limit_s", 1)
    render(folder)
    for side in "piano", "synth":
        assert audio_files.read_audio(folder / side / "one.wav").size == hp.sample_rate
    assert len(note_events.read_notes(folder / "notes" / "one.mid", 30)) == 1
    assert f"{folder / 'piano'}: 2 wavs were rendered with other settings" in capsys.readouterr().err
    before = times(folder)
    render(folder)
    assert times(folder) == before


def test_renders_follow_what_is_passed_to_fluidsynth_and_nothing_else(folder, monkeypatch):
    before = times(folder)
    monkeypatch.setattr(hp, "ae_epochs", 7)
    monkeypatch.setattr(generated_files, "code_digest", lambda: "other code")
    render(folder)
    assert times(folder) == before
    monkeypatch.setattr(hp, "gain", 0.1)
    render(folder)
    assert {path.name for path, time in times(folder).items() if time != before[path]} == {"one.wav", "two.wav"}


@pytest.mark.parametrize("room", ((), (True,)))
def test_every_setting_that_a_render_reads_is_in_its_digest(tmp_path, midi, instruments, monkeypatch, room):
    midi(tmp_path / "MIDI" / "one.mid")
    folder, read = RenderedFolder(tmp_path / "piano", (*instruments[0], *room)), set()

    class Recorded:
        def __getattr__(self, name, settings=hp):
            read.add(name)
            return getattr(settings, name)

    with monkeypatch.context() as patch:
        for module in [module for module in list(sys.modules.values()) if vars(module).get("hp") is hp]:
            patch.setattr(module, "hp", Recorded())
        assert MIDI2Audio.render_piece(tmp_path / "MIDI" / "one.mid", "one", folder, True, False) is None
    read -= {"soundfonts", "system_soundfonts"}  # places
    assert {"gain", "limit_s", "peak"} < read
    for name in read:
        before = folder.settings()
        with monkeypatch.context() as patch:
            patch.setattr(hp, name, getattr(hp, name) / 2)
            assert folder.settings() != before, name


def test_an_interrupted_change_of_settings_is_finished_by_the_next_call(folder, monkeypatch):
    def stop(midi_path, *arguments, original=MIDI2Audio.synthesise_midi_to_audio, **how):
        if "two" in str(midi_path):
            raise ValueError("stopped")
        original(midi_path, *arguments, **how)

    monkeypatch.setattr(hp, "limit_s", 1)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="stopped"):
        patch.setattr(MIDI2Audio, "synthesise_midi_to_audio", stop)
        render(folder)
    render(folder)
    assert [audio_files.read_audio(path).size for path in (folder / "piano").glob("*.wav")] == 2 * [hp.sample_rate]


# outputs of the autoencoder

def autoencoder(seed):
    """Return a small autoencoder with weights that a seed draws."""
    torch.manual_seed(seed)
    return AEModel(Autoencoder(channels=(4, 4, 4)))


def test_each_model_has_its_own_outputs(data):
    names = DatasetCreator.build(data)
    first, second = (UNetDataset.StoredOutputs(autoencoder(seed), data, f"{seed}") for seed in (0, 1))
    first.write(names)
    before = times(data / "ae_output")
    second.write(names), first.write(names)
    assert times(first.folder) == before and len(before) == 3
    assert not torch.equal(*(UNetDataset.UNetDataset(names, data, outputs)[0][0] for outputs in (first, second)))


@pytest.mark.parametrize("change", ("weights", "settings", "code", "a recording"))
def test_outputs_follow_weights_settings_code_and_recordings(data, monkeypatch, change):
    names = DatasetCreator.build(data)
    UNetDataset.StoredOutputs(autoencoder(0), data, "own").write(names)
    before = times(data / "ae_output")
    if change == "a recording":
        os.utime(data / "generated" / names[0] / "piano_audio.npy", (3_000_000_000, 3_000_000_000))
    elif change == "settings":
        monkeypatch.setattr(hp, "kl_floor", 0.5)
    elif change == "code":
        monkeypatch.setattr(generated_files, "code_digest", lambda: "other code")
    outputs = UNetDataset.StoredOutputs(autoencoder(int(change == "weights")), data, "own")
    outputs.write(names)
    after = times(data / "ae_output")
    same = {names[1], names[2]} if change == "a recording" else set()
    assert {path.parent.name for path in after if after[path] == before.get(path)} == same
    assert set(after) == {path for name in names for path, _ in outputs.paths(name)}  # and no others are left


# sounds of the target

def test_a_voice_is_rendered_once_and_again_for_other_settings(tmp_path, instruments, monkeypatch):
    rendered, voice = [], load_model(Autoencoder, hp.ae_weights).network.decoder
    monkeypatch.setattr(voice_sampling, "render_voice", lambda preset: (rendered.append(preset), voice)[1])
    target, found = soundfonts.preset_text(instruments[1]), []
    for gain in hp.gain, hp.gain, hp.gain / 2:
        monkeypatch.setattr(hp, "gain", gain)
        found.append(digest(voice_sampling.stored_voice(target, tmp_path).state_dict()))
    assert len(rendered) == 2 and len(set(found)) == 1
    for path in tmp_path.iterdir():
        path.write_bytes(b"la la la")
    voice_sampling.stored_voice(target, tmp_path)
    assert len(rendered) == 3


# evaluation

def test_folders_of_like_names_do_not_share_renders(tmp_path, midi, instruments, monkeypatch):
    monkeypatch.setattr(hp, "data", tmp_path / "data")
    folders = [tmp_path / place for place in ("a/b_c", "a_b/c", "a/b/c")]
    for folder, seconds in zip(folders, (0.2, 0.7, 1.2)):
        os.utime(midi(folder / "piece.mid", [(0, 60, 0.0, seconds)]), (1_000_000_000, 1_000_000_000))
    renders = [Evaluation.render_pair(folder) / "piano" / "piece.wav" for folder in (*folders, folders[0])]
    sizes = [audio_files.read_audio(path).size for path in renders]
    assert sizes == [round(seconds * hp.sample_rate) for seconds in (1.2, 1.7, 2.2, 1.2)] and renders[0] == renders[3]
