"""From MIDI to wav with the real FluidSynth: pitch, time, instrument, kept files and refused input."""
import os

import mido
import numpy as np
import pytest

import Hyperparameters as hp
import MIDI2Audio
import Util
from audio import audio_files
from notes import note_events


def rms(audio, start, end):
    return np.sqrt(np.mean(audio[round(start * hp.sample_rate):round(end * hp.sample_rate)].astype(float) ** 2))


def onset(audio, around):
    """Return the first sample near `around`, in seconds, that is clearly louder than the samples before."""
    first = round((around - 0.05) * hp.sample_rate)
    part = np.abs(audio[first:first + 4410].astype(float))
    return first + np.argmax(part > part[:1000].max() + 0.05 * part.max())


# pitch and time

@pytest.mark.parametrize("preset", (hp.piano_preset, hp.synth_preset))
def test_an_a4_of_one_second_has_440_hz_and_lasts_one_second(render, midi, tmp_path, preset):
    audio = render(midi(tmp_path / "a4.mid", [(0, 69, 0.0, 1.0)]), preset)
    assert audio.size == round((1 + hp.release_s) * hp.sample_rate)
    tone = audio[2205:19845] * np.hanning(17640)
    spectrum = np.abs(np.fft.rfft(tone, 1 << 18))[:round(600 / hp.sample_rate * (1 << 18))]
    assert np.argmax(spectrum) * hp.sample_rate / (1 << 18) == pytest.approx(440, rel=0.01)
    assert rms(audio, 0.8, 0.95) > 0.1 * rms(audio, 0, 0.2)
    assert rms(audio, 1.7, 2.0) < 0.05 * rms(audio, 0.8, 0.95)


@pytest.mark.parametrize("notes, limit_s", (
    ([(0, 48, 0.0, 60.0)], None), ([(0, 48, 0.0, 5.0), (0, 60, 20.0, 45.0)], None), ([(0, 60, 0.0, 4.0)], 3)))
def test_a_note_longer_than_the_limit_sounds_until_the_limit(render, midi, tmp_path, notes, limit_s):
    organ, seconds = (hp.piano_preset[0], 0, 19), limit_s or 30  # its notes do not decay
    audio = render(midi(tmp_path / "held.mid", notes), organ, limit_s=limit_s)
    assert audio.size == seconds * hp.sample_rate
    assert rms(audio, 0.95 * seconds, seconds) > 0.1 * rms(audio, 0.7 * seconds, 0.95 * seconds)


def test_tempo_changes_are_followed(midi, tmp_path):
    slower = mido.MetaMessage("set_tempo", tempo=1_000_000, time=1.0)  # after it, one written second lasts two
    path = midi(tmp_path / "slower.mid", [(0, 60, 0.0, 1.0), (0, 62, 1.5, 2.0)], [slower])
    trimmed, length = MIDI2Audio.trim(path)
    times = np.cumsum([message.time for message in trimmed])
    assert times[[message.type == "note_on" for message in trimmed]] == pytest.approx([0, 2], abs=1e-3)
    assert length == pytest.approx(3 + hp.release_s)


# instrument

chord = [(0, 60, 0.0, 1.0), (3, 64, 0.5, 1.5), (0, 67, 1.0, 2.0)]
foreign = {
    "program in between": [mido.Message("program_change", channel=channel, program=40, time=0.7) for channel in (0, 3)],
    "bank and program": [message for channel in (0, 3) for message in (
        mido.Message("control_change", channel=channel, control=0, value=8),
        mido.Message("control_change", channel=channel, control=32, value=0),
        mido.Message("program_change", channel=channel, program=40))],
    "General MIDI reset": [mido.Message("sysex", data=(0x7E, 0x7F, 9, 1), time=0.7)],
    "percussion, longer than the chord": [mido.Message("program_change", channel=9, program=40)] + [
        mido.Message("note_on", channel=9, note=38, time=beat / 4) for beat in range(20)],
}


@pytest.mark.parametrize("request_name", foreign)
def test_a_file_cannot_choose_another_preset(midi, tmp_path, request_name):
    paths = midi(tmp_path / "plain.mid", chord), midi(tmp_path / "asking.mid", chord, foreign[request_name])
    (plain, length), (asking, asking_length) = (MIDI2Audio.trim(path, bank=129, program=5) for path in paths)
    assert list(asking) == list(plain) and asking_length == length
    assert [*plain][1:7] == [message for channel in (0, 3) for message in (
        mido.Message("control_change", channel=channel, control=0, value=1),
        mido.Message("control_change", channel=channel, control=32, value=1),
        mido.Message("program_change", channel=channel, program=5))]


def test_a_render_is_deterministic_and_has_the_peak_as_its_maximum(render, midi, tmp_path):
    path = midi(tmp_path / "chord.mid", chord)
    first = render(path)
    np.testing.assert_array_equal(render(path), first)
    assert np.abs(first.astype(int)).max() == pytest.approx(hp.peak * 32768, abs=2)


def bend_range(semitones, time):
    """Return the messages that set the range of the pitch wheel."""
    return [mido.Message("control_change", control=control, value=value, time=time)
            for control, value in ((101, 0), (100, 0), (6, semitones))]


@pytest.mark.parametrize("requests, bend", (
    ([], 0),
    ([mido.Message("control_change", control=121, time=0.2)], 0),               # reset of all controllers
    ([*bend_range(12, 0.1), mido.Message("pitchwheel", pitch=0, time=0.2)], 0),
    (bend_range(0, 0.2), 0),
    ([mido.Message("pitchwheel", pitch=4096, time=0.2)], 100),
    ([*bend_range(12, 0.1), mido.Message("pitchwheel", pitch=-4096, time=0.2)], -600),
    ([mido.Message("pitchwheel", pitch=8191, time=0.1), mido.Message("control_change", control=121, time=0.2)], 0),
), ids=range(7))
def test_a_detuning_lasts_whatever_the_file_does_to_the_pitch_wheel(render, midi, tmp_path, requests, bend):
    def pitch(requests, detune):
        audio = render(midi(tmp_path / "a4.mid", [(0, 69, 0.0, 1.5)], requests), hp.synth_preset, detune=detune)
        spectrum = np.abs(np.fft.rfft(audio[8820:30870] * np.hanning(22050), 1 << 18))
        first, last = (round(hertz / hp.sample_rate * (1 << 18)) for hertz in (280, 560))
        return 1200 * np.log2(first + spectrum[first:last].argmax())

    assert pitch(requests, 50) - pitch([], 0) == pytest.approx(50 + bend, abs=3)


# pairs

def test_onsets_of_both_instruments_agree_to_the_frame_over_30_s(render, midi, instruments, tmp_path):
    onsets = [0.5, 2.05, 28.9]
    path = midi(tmp_path / "notes.mid", [(0, 60, at, at + 0.4) for at in onsets])
    piano, synth = (render(path, preset) for preset in instruments)
    assert piano.size == synth.size
    for at in onsets:
        assert abs(onset(piano, at) - onset(synth, at)) < hp.hop_length
        assert 0 <= onset(piano, at) - at * hp.sample_rate < hp.hop_length


def test_folders_and_endings_make_distinct_pieces(instruments, midi, tmp_path):
    for name in ("one.mid", "three.MID", "bach/one.mid", "bach/early/one.midi", "op.10 no.3.mid"):
        midi(tmp_path / "MIDI" / name)
    for name in "notes.txt", ".hidden.mid":
        (tmp_path / "MIDI" / name).write_text("not music")
    for mode in "piano", "synth":
        MIDI2Audio.synthesise_all(mode, tmp_path)
        assert {path.stem for path in (tmp_path / mode).glob("*.wav")} == {
            "one", "three", "bach__one", "bach__early__one", "op.10 no.3"}


@pytest.mark.parametrize("other", ("one.MIDI", "a__b.mid"))
def test_two_midi_files_of_one_name_are_refused(midi, tmp_path, other):
    for name in "one.mid", "a/b.mid", other:
        midi(tmp_path / name)
    with pytest.raises(ValueError, match="would both be the piece"):
        Util.find_pieces(tmp_path, note_events.midi_endings)


# kept and repeated renders

@pytest.fixture
def folder(instruments, midi, tmp_path):
    """A folder MIDI with one short file, and its render on the piano in the folder out, both with old dates."""
    midi(tmp_path / "MIDI" / "one.mid")
    MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "out", instruments[0])
    for path in tmp_path.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return tmp_path


def rendered_again(folder):
    return (folder / "out" / "one.wav").stat().st_mtime != 1_000_000_000


def test_a_render_is_kept_until_its_midi_file_is_newer(folder, instruments):
    MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0])
    assert not rendered_again(folder)
    os.utime(folder / "MIDI" / "one.mid")
    MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0])
    assert rendered_again(folder)


def test_a_shard_that_overwrites_keeps_renders_of_another_shard(folder, instruments, midi, monkeypatch):
    midi(folder / "MIDI" / "two.mid")
    MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0])
    folders = folder / "MIDI", folder / "out", instruments[1]

    def check(preset, check=MIDI2Audio.check_preset):
        monkeypatch.undo()
        MIDI2Audio.synthesise_folder(*folders, overwrite=True, shard=(0, 2))
        check(preset)

    monkeypatch.setattr(MIDI2Audio, "check_preset", check)
    MIDI2Audio.synthesise_folder(*folders, overwrite=True, shard=(1, 2))
    assert {path.name for path in (folder / "out").glob("*.wav")} == {"one.wav", "two.wav"}
    assert rendered_again(folder)


def test_renders_of_another_preset_are_refused_with_both_names_or_overwritten(folder, instruments):
    folders, wav = (folder / "MIDI", folder / "out"), folder / "out" / "one.wav"
    before = wav.read_bytes()
    with pytest.raises(ValueError, match=f"{wav.parent} holds renders of FluidR3_GM.sf2:0:0, not of FluidR3_GM"):
        MIDI2Audio.synthesise_folder(*folders, instruments[1])
    assert not rendered_again(folder)
    MIDI2Audio.synthesise_folder(*folders, instruments[1], overwrite=True)
    assert wav.read_bytes() != before


@pytest.mark.parametrize("overwrite", (False, True))
def test_recordings_that_were_not_rendered_here_are_never_overwritten(folder, instruments, overwrite):
    (folder / "out" / "preset.txt").unlink()
    with pytest.raises(ValueError, match=f"{folder / 'out'} holds recordings that were not rendered here; move them"):
        MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0], overwrite)
    assert not rendered_again(folder) and not (folder / "out" / "preset.txt").exists()


@pytest.mark.parametrize("cents", ("-1", "200.5", "nan"))
def test_a_detuning_beyond_the_range_of_the_pitch_wheel_is_refused(capsys, cents):
    with pytest.raises(SystemExit):
        MIDI2Audio.main(["--detune", cents])
    assert f"{cents} is not from 0 to 200 cents" in capsys.readouterr().err


def test_a_preset_that_cannot_be_rendered_does_not_claim_the_folder(instruments, midi, tmp_path):
    midi(tmp_path / "MIDI" / "one.mid")
    folders, missing = (tmp_path / "MIDI", tmp_path / "out"), (instruments[0][0], 5, 0)
    with pytest.raises(ValueError, match="no preset at bank 5"):
        MIDI2Audio.synthesise_folder(*folders, missing)
    MIDI2Audio.synthesise_folder(*folders, instruments[0])
    with pytest.raises(ValueError, match="no preset at bank 5"):
        MIDI2Audio.synthesise_folder(*folders, missing, overwrite=True)
    assert (tmp_path / "out" / "one.wav").exists()


def test_files_without_notes_and_other_modes_are_refused_by_name(midi, tmp_path):
    midi(tmp_path / "drums.mid", [(9, 38, 0.0, 0.1)])
    for name, error, text in (("drums.mid", ValueError, " has no notes"), ("nosuch.mid", FileNotFoundError, "")):
        with pytest.raises(error, match=name + text):
            MIDI2Audio.trim(tmp_path / name)
    with pytest.raises(ValueError, match="mode is 'piano' or 'synth', not 'organ'"):
        MIDI2Audio.synthesise_all("organ", tmp_path)


# several pianos, shards, solo piano

def test_several_pianos_have_folders_and_detunings_and_those_of_an_earlier_render_cause_a_warning(
        instruments, midi, tmp_path, capsys):
    midi(tmp_path / "MIDI" / "one.mid")
    MIDI2Audio.synthesise_all("piano", tmp_path, [instruments[0], instruments[0], (*instruments[0], True)], detune=40)
    first, second, third = (audio_files.read_audio(tmp_path / folder / "one.wav")
                            for folder in ("piano", "piano_2", "piano_3"))
    assert first.size == second.size == third.size
    spectra = [np.abs(np.fft.rfft(audio, 1 << 18)).argmax() for audio in (first, second)]
    assert 0.5 < abs(1200 * np.log2(spectra[1] / spectra[0])) < 41
    assert np.abs(third[-4000:]).mean() > 2 * np.abs(first[-4000:]).mean()  # reverberation
    (tmp_path / "piano_old").mkdir()
    MIDI2Audio.synthesise_all("synth", tmp_path)
    assert "warning" not in capsys.readouterr().err
    MIDI2Audio.synthesise_all("piano", tmp_path, [instruments[0]] * 2, detune=40)
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert f"render in {tmp_path / 'piano_3'}; remove them or they are trained on too" in warning


def test_shards_render_every_piece_once(instruments, midi, tmp_path):
    for name in "abc":
        midi(tmp_path / "MIDI" / f"{name}.mid")
    rendered = []
    for i in range(2):
        MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / f"out{i}", instruments[0], shard=(i, 2))
        rendered.append(sorted(path.stem for path in (tmp_path / f"out{i}").glob("*.wav")))
    assert rendered == [["a", "c"], ["b"]]


def test_solo_piano_leaves_other_pieces_out_with_a_warning(instruments, midi, tmp_path, capsys):
    midi(tmp_path / "MIDI" / "piano.mid")
    for name, extra in (("violin", mido.Message("program_change", program=40)),
                        ("drums", mido.Message("note_on", channel=9, note=36))):
        file = mido.MidiFile(midi(tmp_path / "MIDI" / f"{name}.mid"))
        file.tracks[0].insert(0, extra)
        file.save(tmp_path / "MIDI" / f"{name}.mid")
    MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "out", instruments[0], solo_piano=True)
    assert [path.name for path in (tmp_path / "out").glob("*.wav")] == ["piano.wav"]
    warnings = capsys.readouterr().err
    assert "violin.mid is not for piano alone" in warnings and "drums.mid is not for piano alone" in warnings
