"""The studio sounds: what FluidSynth plays at 44.1 kHz in stereo, from a file beside the weights."""
import numpy as np
import pytest
import soundfile
import torch

import Hyperparameters as hp
import Main
from audio import audio_files
from audio_common import rms
from notes import studio_voice
from rendering import fluidsynth, soundfonts

rate, block = studio_voice.rate, 64 / studio_voice.rate     # FluidSynth begins notes at whole blocks


@pytest.fixture(scope="module")
def voice():
    return studio_voice.load(hp.ae_weights, soundfonts.preset_text(hp.synth_preset))


def test_middle_and_side_are_those_of_fluidsynth(voice, instruments):
    notes = np.float32([(onset * block, end * block, key, velocity) for onset, end, key, velocity in (
        (100, 600, 46, 60), (300, 900, 64, 100), (500, 1100, 76, 120), (700, 1300, 91, 40))])
    preset = soundfonts.find_soundfont(hp.synth_preset[0]), *hp.synth_preset[1:], False
    wanted = np.concatenate(list(fluidsynth.play_notes(notes, preset, 2, 1, rate)))[:2 * rate]
    found = voice.audio(notes, voice.middle.delay - 64, len(wanted))
    for ours, true in zip(*map(studio_voice.middle_and_side, (found, wanted))):
        assert rms(ours - true) < 0.1 * rms(true) and rms(true) > 1e-4


def test_blocks_are_the_whole(voice, monkeypatch):
    notes = np.float32([[0.1, 2.6, 60, 90], [0.95, 1.2, 70, 50]])
    whole = voice.audio(notes, 0, 3 * rate)
    monkeypatch.setattr(studio_voice, "block_s", 1)
    np.testing.assert_allclose(np.concatenate(list(voice.blocks(notes, 3))), whole, atol=1e-6)
    assert sum(map(len, voice.blocks(notes, 3, 1.02))) == round(3.06 * rate)


@pytest.mark.parametrize("flags, ending", (((), "wav"), (("--level", "peak", "--sample-rate", "48000"), "flac")))
def test_the_studio_version_is_as_long_and_as_loud_as_the_result(tmp_path, short_demo, flags, ending):
    path, found = tmp_path / f"out.{ending}", 48000 if flags else 44100
    Main.main([str(short_demo), "--studio", "-o", str(path), *flags])
    result, (studio, studio_rate) = audio_files.read_audio(path), soundfile.read(path.with_stem("out_studio"))
    assert studio_rate == found and studio.shape == (2 * found, 2)
    if flags:
        assert [np.abs(audio).max() for audio in (result, studio)] == pytest.approx([hp.peak] * 2, abs=1e-3)
    else:
        assert rms(studio) == pytest.approx(rms(result), rel=0.01)
        assert rms(result) == pytest.approx(rms(audio_files.read_audio(short_demo)), rel=0.01)


def test_sounds_that_do_not_fit_are_named_with_what_to_do(tmp_path, short_demo):
    path, pair = tmp_path / "studio.torch", soundfonts.preset_text(hp.synth_preset)
    (tmp_path / "ae.torch").symlink_to(hp.ae_weights)
    command = [str(short_demo), "--studio", "-o", str(tmp_path / "out.wav"), "--ae", str(tmp_path / "ae.torch")]
    state = torch.load(studio_voice.studio_file(hp.ae_weights), weights_only=True)
    again = f"python -m rendering.voice_sampling --target {pair} --ae {tmp_path / 'ae.torch'}"
    for content, reason in ((None, "no such studio sounds; make them with: "), (b"", "is damaged; .* with: "),
                            ({"target": pair}, "is damaged"), ([1], "is damaged"),
                            ({**state, "target": "a.sf2:0:1"}, "has the sounds of a.sf2:0:1, and .* with: ")):
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content:
            torch.save(content, path)
        with pytest.raises((FileNotFoundError, ValueError), match=f"^{path}:? {reason}") as error:
            Main.main(command)
        assert str(error.value).endswith(again) and not (tmp_path / "out.wav").exists()
    with pytest.raises(ValueError, match="was not trained for a preset of a SoundFont.*; leave --studio out"):
        studio_voice.load(tmp_path / "ae.torch", "recordings")


def test_a_disk_that_is_full_is_said(tmp_path, midi, small_files):
    path = midi(tmp_path / "in.mid", [(0, 60, 0, 30)])
    with small_files(4_000_000), pytest.raises(OSError, match="out_studio.wav cannot be written .*too large.*free"):
        Main.main([str(path), "--studio", "-o", str(tmp_path / "out.wav")])
    assert {file.name for file in tmp_path.iterdir()} == {"in.mid", "out.wav"}
