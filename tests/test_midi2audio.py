"""From MIDI to wav with the real FluidSynth: pitch, time, instrument, kept files and refused input."""
import os
import random
import shutil

import mido
import numpy as np
import pytest

import Hyperparameters as hp
import MIDI2Audio
import Notes
import Util


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


@pytest.mark.parametrize("limit_s, seconds", ((hp.limit_s, 30), (3, 3)))
def test_a_long_piece_is_cut_exactly_at_the_limit(render, midi, tmp_path, limit_s, seconds):
    notes = [(0, 60 + i % 12, float(i), i + 0.9) for i in range(60)]
    assert render(midi(tmp_path / "long.mid", notes), limit_s=limit_s).size == seconds * hp.sample_rate


def test_thirty_seconds_have_661500_samples(render, root):
    assert render(root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid").size == 661500


@pytest.mark.parametrize("notes", ([(0, 48, 0.0, 60.0)], [(0, 48, 0.0, 5.0), (0, 60, 20.0, 45.0)]))
def test_a_note_longer_than_the_limit_sounds_until_the_limit(render, midi, tmp_path, notes):
    organ = hp.piano_preset[0], 0, 19  # its notes do not decay
    audio = render(midi(tmp_path / "held.mid", notes), organ)
    assert audio.size == 30 * hp.sample_rate
    assert rms(audio, 29, 29.9) > 0.1 * rms(audio, 21, 29)


def test_tempo_changes_are_followed(midi, tmp_path):
    slower = mido.MetaMessage("set_tempo", tempo=1_000_000, time=1.0)  # after it, one written second lasts two
    path = midi(tmp_path / "slower.mid", [(0, 60, 0.0, 1.0), (0, 62, 1.5, 2.0)], [slower])
    trimmed, length = MIDI2Audio.trim(path)
    now, onsets = 0, []
    for message in trimmed:
        now += message.time
        onsets += [now] if message.type == "note_on" else []
    assert onsets == pytest.approx([0, 2], abs=1e-3)
    assert length == pytest.approx(3 + hp.release_s)


@pytest.mark.parametrize("type", (0, 1))
def test_the_type_of_the_midi_file_does_not_matter(midi, tmp_path, type):
    one = midi(tmp_path / "one.mid", [(0, 60, 0.0, 1.0), (1, 64, 0.5, 1.5)], type=type)
    file = mido.MidiFile(type=1, ticks_per_beat=500)
    for channel, pitch, wait in ((0, 60, 0), (1, 64, 500)):
        file.tracks.append(mido.MidiTrack([
            mido.Message("note_on", channel=channel, note=pitch, velocity=90, time=wait),
            mido.Message("note_off", channel=channel, note=pitch, velocity=90, time=1000)]))
    file.save(tmp_path / "tracks.mid")
    (one, one_length), (tracks, tracks_length) = map(MIDI2Audio.trim, (one, tmp_path / "tracks.mid"))
    assert list(one) == list(tracks) and one_length == tracks_length


# instrument

chord = [(0, 60, 0.0, 1.0), (3, 64, 0.5, 1.5), (0, 67, 1.0, 2.0)]
foreign = {
    "program": [mido.Message("program_change", channel=channel, program=40) for channel in (0, 3)],
    "program in between": [mido.Message("program_change", channel=channel, program=40, time=0.7) for channel in (0, 3)],
    "bank": [mido.Message("control_change", channel=channel, control=control, value=1)
             for channel in (0, 3) for control in (0, 32)],
    "bank and program": [message for channel in (0, 3) for message in (
        mido.Message("control_change", channel=channel, control=0, value=8),
        mido.Message("control_change", channel=channel, control=32, value=0),
        mido.Message("program_change", channel=channel, program=40))],
    "drum kit": [mido.Message("control_change", channel=0, control=0, value=127),
                 mido.Message("program_change", channel=0, program=0)],
    "General MIDI reset": [mido.Message("sysex", data=(0x7E, 0x7F, 9, 1), time=0.7)],
}


@pytest.mark.parametrize("preset", (hp.piano_preset, hp.synth_preset))
@pytest.mark.parametrize("request_name", foreign)
def test_a_file_cannot_choose_another_preset(render, midi, tmp_path, preset, request_name):
    plain = render(midi(tmp_path / "plain.mid", chord), preset)
    asking = render(midi(tmp_path / "asking.mid", chord, foreign[request_name]), preset)
    np.testing.assert_array_equal(asking, plain)


@pytest.mark.parametrize("request_name", foreign)
def test_a_trimmed_file_chooses_the_preset_and_nothing_else(midi, tmp_path, request_name):
    trimmed, _ = MIDI2Audio.trim(midi(tmp_path / "asking.mid", chord, foreign[request_name]), bank=129, program=5)
    requests = [message for message in trimmed if message.type in ("program_change", "sysex") or message.is_cc(0)
                or message.is_cc(32)]
    assert [message.copy(time=0) for message in requests] == [message for channel in (0, 3) for message in (
        mido.Message("control_change", channel=channel, control=0, value=1),
        mido.Message("control_change", channel=channel, control=32, value=1),
        mido.Message("program_change", channel=channel, program=5))]


def test_presets_sound_different(render, midi, tmp_path):
    path = midi(tmp_path / "plain.mid", chord)
    piano, synth, violin = (render(path, (hp.piano_preset[0], 0, program)) for program in (0, 5, 40))
    assert not np.array_equal(piano, synth) and not np.array_equal(piano, violin)


def test_percussion_is_left_out(render, midi, tmp_path):
    drums = [(9, 38, beat / 4, beat / 4 + 0.1) for beat in range(20)]  # longer than the chord
    kit = [mido.Message("program_change", channel=9, program=40)]
    plain = render(midi(tmp_path / "plain.mid", chord))
    drummed = render(midi(tmp_path / "drums.mid", chord + drums, kit))
    np.testing.assert_array_equal(drummed, plain)


def test_a_file_of_percussion_alone_is_refused_by_name(midi, tmp_path):
    with pytest.raises(ValueError, match="drums.mid has no notes"):
        MIDI2Audio.trim(midi(tmp_path / "drums.mid", [(9, 38, 0.0, 0.1)]))


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
    ([mido.Message("pitchwheel", pitch=0, time=0.2)], 0),
    ([mido.Message("control_change", control=121, time=0.2)], 0),               # reset of all controllers
    ([*bend_range(12, 0.1), mido.Message("pitchwheel", pitch=0, time=0.2)], 0),
    (bend_range(12, 0.2), 0),
    (bend_range(0, 0.2), 0),
    ([mido.Message("pitchwheel", pitch=4096, time=0.2)], 100),
    ([*bend_range(12, 0.1), mido.Message("pitchwheel", pitch=-4096, time=0.2)], -600),
    ([mido.Message("pitchwheel", pitch=8191, time=0.1), mido.Message("control_change", control=121, time=0.2)], 0),
), ids=range(9))
def test_a_detuning_lasts_whatever_the_file_does_to_the_pitch_wheel(render, midi, tmp_path, requests, bend):
    def pitch(requests, detune):
        audio = render(midi(tmp_path / "a4.mid", [(0, 69, 0.0, 1.5)], requests), hp.synth_preset, detune=detune)
        spectrum = np.abs(np.fft.rfft(audio[8820:30870] * np.hanning(22050), 1 << 18))
        first, last = (round(hertz / hp.sample_rate * (1 << 18)) for hertz in (280, 560))
        return 1200 * np.log2(first + spectrum[first:last].argmax())

    assert pitch(requests, 50) - pitch([], 0) == pytest.approx(50 + bend, abs=3)


# pairs

def test_onsets_of_both_instruments_agree_to_the_frame_over_30_s(render, midi, instruments, tmp_path):
    onsets = [0.5, 1.3, 2.05, 14.0, 28.9]
    path = midi(tmp_path / "notes.mid", [(0, 60, at, at + 0.4) for at in onsets])
    piano, synth = (render(path, preset) for preset in instruments)
    assert piano.size == synth.size
    for at in onsets:
        assert abs(onset(piano, at) - onset(synth, at)) < hp.hop_length
        assert 0 <= onset(piano, at) - at * hp.sample_rate < hp.hop_length


def test_the_renders_of_an_excerpt_are_aligned(three_seconds):
    import librosa

    for folder in (three_seconds / "generated").glob("*/"):
        piano, synth = (librosa.onset.onset_strength(S=hp.top_db * np.load(folder / f"{name}.npy").astype(float))
                        for name in ("piano", "synth"))
        lags = range(-8, 9)  # less than the shortest note, as the prelude repeats itself
        likeness = [(piano - piano.mean()) @ np.roll(synth - synth.mean(), lag) for lag in lags]
        assert abs(lags[np.argmax(likeness)]) <= 1  # a slow attack can shift the envelope by one frame


def test_folders_and_endings_make_distinct_pieces(instruments, midi, tmp_path):
    for name in ("one.mid", "two.midi", "three.MID", "bach/one.mid", "bach/early/one.mid", "op.10 no.3.mid"):
        midi(tmp_path / "MIDI" / name)
    (tmp_path / "MIDI" / "notes.txt").write_text("not music")
    (tmp_path / "MIDI" / ".hidden.mid").write_text("not music")
    for mode in "piano", "synth":
        MIDI2Audio.synthesise_all(mode, tmp_path)
    names = {"one", "two", "three", "bach__one", "bach__early__one", "op.10 no.3"}
    for mode in "piano", "synth":
        assert {path.name for path in (tmp_path / mode).glob("*.wav")} == {f"{name}.wav" for name in names}


@pytest.mark.parametrize("other", ("one.midi", "one.MIDI", "a__b.mid"))
def test_two_midi_files_of_one_name_are_refused(midi, tmp_path, other):
    for name in "one.mid", "a/b.mid":
        midi(tmp_path / name)
    midi(tmp_path / other)
    with pytest.raises(ValueError, match="would both be the piece"):
        Util.find_pieces(tmp_path, Notes.midi_endings)


def test_the_mode_is_checked(tmp_path):
    with pytest.raises(ValueError, match="organ"):
        MIDI2Audio.synthesise_all("organ", tmp_path)


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


def test_a_render_is_kept(folder, instruments):
    MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0])
    assert not rendered_again(folder)


def test_a_newer_midi_file_is_rendered_again(folder, instruments):
    os.utime(folder / "MIDI" / "one.mid")
    MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0])
    assert rendered_again(folder)


def test_overwrite_renders_again_on_another_preset(folder, instruments):
    before = (folder / "out" / "one.wav").read_bytes()
    MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[1], overwrite=True)
    assert rendered_again(folder) and (folder / "out" / "one.wav").read_bytes() != before


def test_a_shard_that_overwrites_keeps_renders_of_another_shard(folder, instruments, midi, monkeypatch):
    for name in "two", "three":
        midi(folder / "MIDI" / f"{name}.mid")
    MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0])
    folder.joinpath("MIDI", "three.mid").unlink()
    os.utime(folder / "out" / "one.wav", (1_000_000_000, 1_000_000_000))
    folders = folder / "MIDI", folder / "out", instruments[1]

    def check(preset, check=MIDI2Audio.check_preset):
        monkeypatch.undo()
        MIDI2Audio.synthesise_folder(*folders, overwrite=True, shard=(0, 2))
        (folder / "out" / "one.wav").touch()
        check(preset)

    monkeypatch.setattr(MIDI2Audio, "check_preset", check)
    MIDI2Audio.synthesise_folder(*folders, overwrite=True, shard=(1, 2))
    assert {path.name for path in (folder / "out").glob("*.wav")} == {"one.wav", "two.wav"}
    assert rendered_again(folder)


def test_renders_of_another_preset_are_refused_with_both_names(folder, instruments):
    with pytest.raises(ValueError) as error:
        MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[1])
    assert "FluidR3_GM.sf2:0:0" in str(error.value) and "FluidR3_GM.sf2:0:5" in str(error.value)
    assert str(folder / "out") in str(error.value) and not rendered_again(folder)


@pytest.mark.parametrize("overwrite", (False, True))
def test_recordings_that_were_not_rendered_here_are_never_overwritten(folder, instruments, overwrite):
    (folder / "out" / "preset.txt").unlink()
    with pytest.raises(ValueError, match=f"{folder / 'out'} holds recordings that were not rendered here; move them"):
        MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", instruments[0], overwrite)
    assert not rendered_again(folder) and not (folder / "out" / "preset.txt").exists()


@pytest.mark.parametrize("cents", ("-1", "200.5", "nan", "300"))
def test_a_detuning_beyond_the_range_of_the_pitch_wheel_is_refused(capsys, cents):
    with pytest.raises(SystemExit):
        MIDI2Audio.main(["--detune", cents])
    assert f"{cents} is not from 0 to 200 cents" in capsys.readouterr().err


def test_a_preset_that_cannot_be_rendered_does_not_claim_the_folder(instruments, midi, tmp_path):
    midi(tmp_path / "MIDI" / "one.mid")
    with pytest.raises(ValueError, match="no preset at bank 5"):
        MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "out", (instruments[0][0], 5, 0))
    MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "out", instruments[0])
    assert (tmp_path / "out" / "one.wav").exists()


def test_a_preset_that_failed_does_not_claim_other_renders(folder, instruments):
    for overwrite in True, False:
        with pytest.raises(ValueError):
            MIDI2Audio.synthesise_folder(folder / "MIDI", folder / "out", (instruments[0][0], 5, 0), overwrite)


# damage

def damaged(good, rng):
    """Damage the bytes of a MIDI file in one of several ways."""
    damaged_bytes = bytearray(good)
    way = rng.randrange(5)
    if way == 0:
        return good[:rng.randrange(len(good))]
    if way == 1:
        return b"MThd" + rng.randbytes(rng.randrange(100))
    if way == 2:
        return good[:22] + rng.randbytes(200)
    if way == 3:
        damaged_bytes[8:14] = rng.randbytes(6)
    else:
        for _ in range(20):
            damaged_bytes[rng.randrange(14, len(good))] = rng.randrange(256)
    return bytes(damaged_bytes)


@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_midi_file_is_rendered_or_refused_by_name(root, tmp_path, seed):
    rng, refused, accepted = random.Random(seed), 0, 0
    good = (root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid").read_bytes()
    path = tmp_path / "damaged.mid"
    for _ in range(30):
        path.write_bytes(damaged(good, rng))
        try:
            trimmed, length = MIDI2Audio.trim(path)
        except ValueError as error:
            assert "damaged.mid" in str(error) and "\n" not in str(error)
            refused += 1
        else:
            trimmed.save(tmp_path / "trimmed.mid")
            assert 0 < length <= hp.limit_s
            accepted += 1
    assert refused and accepted > 10


@pytest.mark.parametrize("division", (0, -1, -6400, -10000))  # none, 1 frame, no ticks, 40 frames per second
def test_a_midi_file_without_a_unit_of_time_is_refused_by_name(root, tmp_path, division):
    damaged_bytes = bytearray((root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid").read_bytes())
    damaged_bytes[12:14] = division.to_bytes(2, "big", signed=True)
    (tmp_path / "division.mid").write_bytes(damaged_bytes)
    with pytest.raises(ValueError, match="division.mid"):
        MIDI2Audio.trim(tmp_path / "division.mid")


def test_a_midi_file_of_several_sequences_is_refused_by_name(midi, tmp_path):
    file = mido.MidiFile(midi(tmp_path / "two.mid"))
    mido.MidiFile(type=2, tracks=2 * file.tracks).save(tmp_path / "two.mid")
    with pytest.raises(ValueError, match="two.mid is a MIDI file of type 2"):
        MIDI2Audio.trim(tmp_path / "two.mid")


def test_a_missing_midi_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nosuch.mid"):
        MIDI2Audio.trim(tmp_path / "nosuch.mid")


# several pianos, shards, solo piano

def test_several_pianos_get_folders_and_all_except_the_first_a_detuning(instruments, midi, tmp_path):
    midi(tmp_path / "MIDI" / "one.mid")
    MIDI2Audio.synthesise_all("piano", tmp_path, [instruments[0], instruments[0], (*instruments[0], True)], detune=40)
    first, second, third = (Util.read_audio(tmp_path / folder / "one.wav")
                            for folder in ("piano", "piano_2", "piano_3"))
    assert first.size == second.size == third.size
    spectra = [np.abs(np.fft.rfft(audio, 1 << 18)).argmax() for audio in (first, second)]
    cents = 1200 * np.log2(spectra[1] / spectra[0])
    assert 0.5 < abs(cents) < 41
    assert np.abs(third[-4000:]).mean() > 2 * np.abs(first[-4000:]).mean()  # reverberation


def test_pianos_of_an_earlier_render_cause_a_warning(instruments, midi, tmp_path, capsys):
    midi(tmp_path / "MIDI" / "one.mid")
    for name in "piano_2", "piano_10", "piano_old":
        (tmp_path / name).mkdir()
    MIDI2Audio.synthesise_all("piano", tmp_path, [instruments[0]] * 2)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"render in {tmp_path / 'piano_10'}; remove them or they are trained on too" in warnings[0]
    MIDI2Audio.synthesise_all("synth", tmp_path)
    assert "warning" not in capsys.readouterr().err


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
    MIDI2Audio.synthesise_folder(tmp_path / "MIDI", tmp_path / "out", instruments[0])
    assert len(list((tmp_path / "out").glob("*.wav"))) == 3
