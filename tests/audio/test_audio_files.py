"""Recordings as people have them: containers, channels, damaged files. Files of every kind that we write."""
import sys
import tracemalloc

import av
import librosa
import numpy as np
import pytest
import soundfile

import Hyperparameters as hp
from audio import audio_files, input_recordings
from audio_common import damaged, encode, rms, tone


@pytest.fixture(scope="module")
def cases(root):
    """The folder of the recordings in tests/cases/README.md."""
    return root / "tests" / "cases"


# containers

@pytest.mark.parametrize("ending, codec, rate", (
    ("m4a", "aac", 44100), ("mp4", "aac", 48000), ("mov", "aac", 44100), ("3gp", "aac", 22050), ("aac", "aac", 32000),
    ("webm", "libopus", 48000), ("mka", "aac", 44100), ("wma", "wmav2", 44100)))
def test_what_ffmpeg_reads_is_read(tmp_path, ending, codec, rate):
    path = tmp_path / f"in.{ending}"
    path.write_bytes(encode(np.stack([tone(1.5, rate)] * 2, 1), ending, codec, rate))
    audio = audio_files.read_audio(path, stereo=True)
    assert audio.shape[1] == 2 and audio.shape[0] == pytest.approx(1.5 * hp.sample_rate, abs=0.15 * hp.sample_rate)
    middle = audio_files.read_audio(path)[hp.sample_rate // 2:][:hp.sample_rate // 2]
    assert np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * 2 == pytest.approx(440, abs=4)
    assert rms(middle) == pytest.approx(rms(tone()), rel=0.1)


def test_a_voice_memo_is_the_demo(cases, demo):
    audio = audio_files.read_audio(cases / "voice_memo.m4a")
    assert len(audio) == pytest.approx(3 * hp.sample_rate, abs=2048)
    lag = np.argmax(np.correlate(audio[:30000], demo[2000:20000], "valid")) - 2000
    assert np.corrcoef(audio[2000 + lag:60000 + lag], demo[2000:60000])[0, 1] > 0.99


@pytest.mark.parametrize("name, content", (
    ("list.m4a", "ffconcat version 1.0\nfile '{case}'\n"),
    ("list.m4a", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{case}\n#EXT-X-ENDLIST\n"),
    ("bare samples.raw", 5000 * "\0")))
def test_what_is_no_audio_is_refused_and_a_playlist_opens_no_other_file(cases, tmp_path, name, content):
    (tmp_path / name).write_text(content.format(case=cases / "voice_memo.m4a"))
    with pytest.raises(ValueError, match=f"{name} is not audio"):
        audio_files.read_audio(tmp_path / name)


def test_without_the_package_the_command_names_the_folder(cases, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="pip install av.*ffmpeg -i .*cases.voice_memo.m4a .*cases.voice_memo.flac"):
        audio_files.read_audio(cases / "voice_memo.m4a")


# damaged and odd files

def test_a_cut_off_wav_plays_what_is_there(cases, tmp_path, demo):
    path = cases / "cut_off_recorder.wav"
    audio = audio_files.read_audio(path)
    assert len(audio) == (path.stat().st_size - 44) // 2
    np.testing.assert_allclose(audio, demo[:len(audio)], atol=1e-4)
    content = bytearray(path.read_bytes())
    content[40:44] = (2 ** 31 - 8).to_bytes(4, "little")  # too many bytes, in place of none
    (tmp_path / "in.wav").write_bytes(content)
    np.testing.assert_array_equal(audio_files.read_audio(tmp_path / "in.wav"), audio)


def test_a_cut_off_flac_plays_what_is_there(tmp_path, demo):
    content = encode(demo, "flac", "PCM_16")
    (tmp_path / "in.flac").write_bytes(content[:len(content) // 2])
    audio = audio_files.read_audio(tmp_path / "in.flac")
    assert len(demo) // 3 < len(audio) < 2 * len(demo) // 3
    np.testing.assert_allclose(audio, demo[:len(audio)], atol=1e-4)


@pytest.mark.parametrize("stereo", (False, True))
def test_opposite_channels_play_as_one_of_them(cases, capsys, stereo):
    path = cases / "opposite_channels.flac"
    left, rate = soundfile.read(path, dtype="float32")
    audio = audio_files.read_audio(path, stereo)
    np.testing.assert_allclose(audio, left[:, 0], atol=1e-4)
    assert f"warning: the channels of {path} cancel each other; only channel 1 is used" in capsys.readouterr().err
    np.testing.assert_array_equal(input_recordings.check_array(left, rate, stereo), audio)


def test_direct_current_is_taken_out(cases):
    raw, rate = soundfile.read(cases / "direct_current.flac", dtype="float32")
    audio = audio_files.read_audio(cases / "direct_current.flac")
    assert raw.mean() > 0.4 and abs(audio.mean()) < 1e-5 and rms(audio) == pytest.approx(raw.std(), rel=1e-3)
    np.testing.assert_allclose(input_recordings.check_array(raw, rate), audio)
    both = input_recordings.check_array(np.stack([raw, tone(len(raw) / rate)], 1), rate, stereo=True)
    np.testing.assert_array_equal(both[:, 1], tone(len(raw) / rate))  # which has none
    assert abs(both[:, 0].mean()) < 1e-5


@pytest.mark.parametrize("rate, channels", ((48000, 1), (44100, 2), (8000, 6)))
def test_reading_block_by_block_is_reading_at_once(tmp_path, monkeypatch, rate, channels):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (20000, channels)).astype(np.float32)
    (tmp_path / "in.wav").write_bytes(encode(noise, "wav", "FLOAT", rate))
    monkeypatch.setattr(audio_files, "read_frames", 777)
    expected = audio_files.resample(noise.mean(axis=1), rate)
    np.testing.assert_array_equal(audio_files.read_audio(tmp_path / "in.wav"), expected)


def test_reading_holds_the_recording_once(tmp_path):
    (tmp_path / "in.wav").write_bytes(encode(np.tile(tone(1, 48000), 90), "wav", "PCM_16", 48000))
    tracemalloc.start()
    audio = audio_files.read_audio(tmp_path / "in.wav")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * audio.nbytes + 10 * 2 ** 20  # at 48 kHz alone it has 2.2 times as many


def test_a_damaged_file_prints_no_traceback(tmp_path, capfd):
    good = encode(tone(0.5), "wma", "wmav2")
    (tmp_path / "bad.wma").write_bytes(damaged(good, np.random.default_rng(49)))
    with pytest.raises(ValueError, match="bad.wma"):  # FFmpeg seeks before the beginning of the file
        audio_files.read_audio(tmp_path / "bad.wma")
    assert capfd.readouterr().err == ""


# writing and resampling

time = np.arange(44100)[:, None] / hp.sample_rate
tones = (0.3 * np.sin(2 * np.pi * np.array([220, 330]) * time) * np.exp(-3 * (time * 3 % 1))).astype(np.float32)


@pytest.mark.parametrize("ending, kind, subtype, error", [
    ("wav", "WAV", "PCM_16", 1e-4), ("flac", "FLAC", "PCM_16", 1e-4), ("ogg", "OGG", "VORBIS", 0.05),
    ("MP3", "MP3", "MPEG_LAYER_III", 0.05)])
@pytest.mark.parametrize("audio", (tones[:, 0], tones), ids=("mono", "stereo"))
@pytest.mark.parametrize("rate", (hp.sample_rate, 44100))
def test_every_kind_of_file_is_written_as_asked(tmp_path, ending, kind, subtype, error, audio, rate):
    path = tmp_path / f"out.{ending}"
    audio_files.write_audio(path, audio, rate=rate)
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.channels, info.samplerate) == (kind, subtype, audio.ndim, rate)
    back, _ = soundfile.read(path)
    assert back.shape == audio.shape and np.abs(back - audio).mean() < error
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("audio", (tones[:, 0], tones), ids=("mono", "stereo"))
@pytest.mark.parametrize("rate", (hp.sample_rate, 44100))
def test_m4a_is_aligned_with_the_audio_and_names_its_length(tmp_path, audio, rate):
    """FFmpeg decodes the last block of 1,024 samples to its end, behind the end of the audio."""
    audio_files.write_audio(tmp_path / "out.m4a", audio, rate=rate)
    with audio_files.open_with_ffmpeg(tmp_path / "out.m4a") as (found, channels, blocks):
        back = np.concatenate(list(blocks))
    assert (found, channels) == (rate, audio.ndim) and 0 <= len(back) - len(audio) < 1024
    assert np.abs(back[:len(audio)] - audio.reshape(len(audio), -1)).mean() < 0.002  # one sample is 0.004
    with av.open(tmp_path / "out.m4a") as container:
        assert container.streams[0].duration == len(audio)


@pytest.mark.parametrize("rate", (8000, 44100, 48000))
def test_resampling_is_that_of_librosa(rate):
    wanted = librosa.resample(tones[:20000, 0], orig_sr=rate, target_sr=hp.sample_rate)
    found = audio_files.resample(tones[:20000, 0], rate)
    assert found.size == round(20000 * hp.sample_rate / rate)
    np.testing.assert_array_equal(found[:wanted.size], wanted[:found.size])
