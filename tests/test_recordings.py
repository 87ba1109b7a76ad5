"""Recordings as people have them: containers, channels, damaged files, no piano, any length; outputs that replace
nothing."""
import argparse
import os
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import soundfile
import torch

import Chunks
import DatasetCreator
import Decoding
import Hyperparameters as hp
import Main
import Marks
import NoteRefinement
import Notes
import Page
import Plots
import Recordings
import TrainingOptions
import Transcription
import Util
from AEModel import AEModel
from notes_common import HighestOffset, as_views, every_onset_refiner, some_notes
from test_fuzz import damaged


class Identity(torch.nn.Module):
    """A network that changes nothing."""
    in_channels = 1

    def forward(self, x):
        return x


@pytest.fixture
def quick_inversion(monkeypatch):
    monkeypatch.setattr(hp, "kl_iterations", 2)
    monkeypatch.setattr(hp, "griffin_lim_iterations", 1)


def tone(seconds=1.0, hertz=440, rate=hp.sample_rate):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def rms(audio):
    return float(np.sqrt(np.mean(np.square(audio, dtype=float))))


def demo_beginning(samples):
    return Util.read_audio(hp.demo)[:samples]


# containers

def encode(path, codec, audio, rate, layout="mono"):
    """Write audio [shape=(n,) or (n, 2)] with FFmpeg."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        samples = np.ascontiguousarray(np.atleast_2d(audio.T))
        frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
        frame.sample_rate = rate
        for part in av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or 1024).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("ending, codec, rate", (
    ("m4a", "aac", 44100), ("mp4", "aac", 48000), ("mov", "aac", 44100), ("3gp", "aac", 22050), ("aac", "aac", 32000),
    ("webm", "libopus", 48000), ("mka", "aac", 44100), ("wma", "wmav2", 44100)))
def test_what_ffmpeg_reads_is_read(tmp_path, ending, codec, rate):
    path = tmp_path / f"in.{ending}"
    encode(path, codec, np.stack([tone(1.5, rate=rate)] * 2, 1), rate, "stereo")
    audio = Util.read_audio(path, stereo=True)
    assert audio.shape[1] == 2 and audio.shape[0] == pytest.approx(1.5 * hp.sample_rate, abs=0.15 * hp.sample_rate)
    middle = Util.read_audio(path)[hp.sample_rate // 2:][:hp.sample_rate // 2]
    assert np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * 2 == pytest.approx(440, abs=4)
    assert rms(middle) == pytest.approx(rms(tone()), rel=0.1)


def test_a_voice_memo_is_the_demo(root):
    audio, wanted = Util.read_audio(root / "tests" / "cases" / "voice_memo.m4a"), demo_beginning(3 * hp.sample_rate)
    assert len(audio) == pytest.approx(len(wanted), abs=2048)
    lag = np.argmax(np.correlate(audio[:30000], wanted[2000:20000], "valid")) - 2000
    assert np.corrcoef(audio[2000 + lag:60000 + lag], wanted[2000:60000])[0, 1] > 0.99


def test_a_folder_and_pairs_take_every_container(root, tmp_path):
    case = (root / "tests" / "cases" / "voice_memo.m4a").read_bytes()
    for side in "piano", "synth":
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.m4a").write_bytes(case)
    assert list(DatasetCreator.find_pairs(tmp_path)) == ["x"]
    assert Recordings.find_recordings([tmp_path / "piano"])[0][0].name == "x.m4a"
    DatasetCreator.build(tmp_path)
    assert (tmp_path / "generated" / "x" / "piano.npy").exists()


@pytest.mark.parametrize("content", (
    "ffconcat version 1.0\nfile '{case}'\n", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{case}\n#EXT-X-ENDLIST\n"))
def test_a_playlist_opens_no_other_file(root, tmp_path, content):
    path = tmp_path / "list.m4a"
    path.write_text(content.format(case=root / "tests" / "cases" / "voice_memo.m4a"))
    with pytest.raises(ValueError, match="list.m4a is not audio"):
        Util.read_audio(path)


def test_without_the_package_the_command_names_the_folder(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    path = root / "tests" / "cases" / "voice_memo.m4a"
    with pytest.raises(ValueError, match="pip install av.*ffmpeg -i .*cases.voice_memo.m4a .*cases.voice_memo.flac"):
        Util.read_audio(path)


# damaged and odd files

def test_a_cut_off_wav_plays_what_is_there(root, tmp_path):
    path = root / "tests" / "cases" / "cut_off_recorder.wav"
    audio = Util.read_audio(path)
    assert len(audio) == (path.stat().st_size - 44) // 2
    np.testing.assert_allclose(audio, demo_beginning(len(audio)), atol=1e-4)
    content = bytearray(path.read_bytes())
    content[40:44] = (2 ** 31 - 8).to_bytes(4, "little")  # too many bytes, in place of none
    (tmp_path / "in.wav").write_bytes(content)
    np.testing.assert_array_equal(Util.read_audio(tmp_path / "in.wav"), audio)


def test_a_cut_off_flac_plays_what_is_there(tmp_path):
    wanted = demo_beginning(5 * hp.sample_rate)
    soundfile.write(tmp_path / "in.flac", wanted, hp.sample_rate)
    content = (tmp_path / "in.flac").read_bytes()
    (tmp_path / "in.flac").write_bytes(content[:len(content) // 2])
    audio = Util.read_audio(tmp_path / "in.flac")
    assert len(wanted) // 3 < len(audio) < 2 * len(wanted) // 3
    np.testing.assert_allclose(audio, wanted[:len(audio)], atol=1e-4)


@pytest.mark.parametrize("stereo", (False, True))
def test_opposite_channels_play_as_one_of_them(root, capsys, stereo):
    path = root / "tests" / "cases" / "opposite_channels.flac"
    left, rate = soundfile.read(path, dtype="float32")
    audio = Util.read_audio(path, stereo)
    np.testing.assert_allclose(audio, left[:, 0], atol=1e-4)
    assert f"warning: the channels of {path} cancel each other; only channel 1 is used" in capsys.readouterr().err
    np.testing.assert_array_equal(Recordings.check_array(left, rate, stereo), audio)


def test_direct_current_is_taken_out(root):
    path = root / "tests" / "cases" / "direct_current.flac"
    raw, rate = soundfile.read(path, dtype="float32")
    audio = Util.read_audio(path)
    assert raw.mean() > 0.4 and abs(audio.mean()) < 1e-5 and rms(audio) == pytest.approx(raw.std(), rel=1e-3)
    np.testing.assert_allclose(Recordings.check_array(raw, rate), audio)
    both = Recordings.check_array(np.stack([raw, tone(len(raw) / rate)], 1), rate, stereo=True)
    np.testing.assert_array_equal(both[:, 1], tone(len(raw) / rate))  # which has none
    assert abs(both[:, 0].mean()) < 1e-5


def test_bare_samples_are_named_and_the_next_file_is_played(tmp_path, weights):
    (tmp_path / "x.raw").write_bytes(bytes(5000))
    soundfile.write(tmp_path / "y.wav", tone(), hp.sample_rate)
    with pytest.raises(ValueError, match="x.raw is not audio"):
        Main.main([str(tmp_path / "x.raw"), str(tmp_path / "y.wav"), "-o", str(tmp_path / "out"), "--ae",
                   str(weights[0]), "--unet", str(weights[1])])
    assert (tmp_path / "out" / "y_epiano.wav").exists()


@pytest.mark.parametrize("rate", (44.1, 0, -1, 2e6, float("nan"), None))
def test_a_rate_of_an_array_that_no_recording_has_is_refused(rate):
    with pytest.raises(ValueError, match=f"sample_rate=44100, not {rate}"):
        Recordings.check_array(tone(), rate)


@pytest.mark.parametrize("rate, channels", ((48000, 1), (44100, 2), (8000, 6)))
def test_reading_block_by_block_is_reading_at_once(tmp_path, monkeypatch, rate, channels):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (20000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", noise, rate, subtype="FLOAT")
    monkeypatch.setattr(Decoding, "block_frames", 777)
    np.testing.assert_array_equal(Util.read_audio(tmp_path / "in.wav"), Util.resample(noise.mean(axis=1), rate))


def test_a_damaged_file_prints_no_traceback(tmp_path, capfd):
    encode(tmp_path / "good.wma", "wmav2", tone(0.5), hp.sample_rate)
    damage = np.random.default_rng(49)  # FFmpeg then seeks before the beginning of the file
    tmp_path.joinpath("bad.wma").write_bytes(damaged(tmp_path.joinpath("good.wma").read_bytes(), damage))
    with pytest.raises(ValueError, match="bad.wma"):
        Util.read_audio(tmp_path / "bad.wma")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending, codec, rate", (("m4a", "aac", 44100), ("webm", "libopus", 48000),
                                                 ("wma", "wmav2", 22050), ("aac", "aac", 32000)))
def test_damaged_containers(tmp_path, ending, codec, rate):
    """100 cases, the same every time: finite audio, or one sentence that names the file, and some play."""
    encode(tmp_path / f"good.{ending}", codec, tone(0.5, rate=rate), rate)
    good, played = (tmp_path / f"good.{ending}").read_bytes(), 0
    for seed in range(25):
        path = tmp_path / f"{seed}.{ending}"
        path.write_bytes(damaged(good, np.random.default_rng(seed)))
        try:
            audio = Util.read_audio(path)
            assert audio.size and np.isfinite(audio).all()
            played += 1
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    assert played > 5
    assert len(list(tmp_path.iterdir())) == 26


# no piano

def test_noise_with_a_ghost_is_as_loud_as_the_ghost(model, monkeypatch, quick_inversion):
    rng, ghost = np.random.default_rng(0), np.array([[1.0, 1.6, 69, 90]], np.float32)
    noise = (0.01 * rng.standard_normal(4 * hp.sample_rate)).astype(np.float32)
    share = Chunks.explained_share(noise, ghost)
    assert 0 < share < 0.25
    output, _ = Main.resynthesise(noise, [model], notes=ghost)
    assert rms(output) == pytest.approx(share ** 0.5 * rms(noise), rel=0.01)
    assert Transcription.doubt_piano(noise, ghost) == f"its notes explain {100 * share:.0f} % of the sound"
    assert Transcription.doubt_piano(np.tile(noise, 2), ghost) == "few notes in 8 s"
    assert Transcription.doubt_piano(noise, ghost[:0]) == "no notes in 4 s"


def test_music_keeps_its_level(model, quick_inversion):
    music, notes = 0.01 * tone(3), np.array([[0.0, 3.0, 69, 90]], np.float32)
    assert Chunks.explained_share(music, notes) > 0.99 and Transcription.doubt_piano(music, notes) is None
    assert rms(Main.resynthesise(music, [model], notes=notes)[0]) == pytest.approx(rms(music), rel=0.01)


def test_notes_that_began_before_the_recording_explain_sound(root, render):
    """A cut of three seconds in which a bass note and a chord decay: without them, 65 % is explained."""
    path, start = root / "data" / "MIDI_test" / "satie_gymnopedie_1.mid", 7.5
    cut = np.float32(render(path)[int(start * hp.sample_rate):int((start + 3) * hp.sample_rate)] / 2 ** 15)
    notes = Notes.read_notes(path)
    notes = notes[(notes[:, 0] >= start) & (notes[:, 0] < start + 3)] - np.float32([start, start, 0, 0])
    assert Chunks.explained_share(cut, notes) > 0.9 and Transcription.doubt_piano(cut, notes) is None
    assert Chunks.explained_share(tone(8), notes[:0]) < 0.2  # a steady tone


def test_a_glide_fits_no_tuning(monkeypatch):
    time = np.arange(8 * hp.sample_rate) / hp.sample_rate
    glide = np.sin(2 * np.pi * np.cumsum(200 * 2 ** (time / 4)) / hp.sample_rate).astype(np.float32)
    heard = np.array([[i / 3, (i + 1) / 3, 55 + i, 30] for i in range(24)], np.float32)
    monkeypatch.setattr(Chunks, "explained_share", lambda *_: 0.95)
    assert Transcription.doubt_piano(glide, heard) == "its pitches fit no tuning"


def test_the_command_line_doubts(tmp_path, model, monkeypatch, capsys, quick_inversion):
    noise = 0.1 * np.random.default_rng(0).standard_normal(8 * hp.sample_rate)
    soundfile.write(tmp_path / "in.wav", noise, hp.sample_rate)
    monkeypatch.setattr(Main, "load_models", lambda *_: [model])
    monkeypatch.setattr(Main, "transcribe_audio", lambda *_: np.array([[1.0, 1.6, 69, 90]], np.float32))
    Main.main([str(tmp_path / "in.wav"), "-o", str(tmp_path / "out"), "--stereo"])
    complaints = capsys.readouterr().err
    assert f"warning: {tmp_path / 'in.wav'}: few notes in 8 s; is this a piano?" in complaints
    assert f"warning: {tmp_path / 'in.wav'} has one channel to keep, and so has the output" in complaints


# any length

@pytest.mark.parametrize("chunk_frames", (16, 64, 200))
def test_chunks_of_all_lengths_fade_into_each_other(monkeypatch, chunk_frames):
    monkeypatch.setattr(hp, "chunk_frames", chunk_frames)
    monkeypatch.setattr(hp, "hop_length", 4)
    for frames in range(2, 700):
        parts = Chunks.chunks(frames)
        assert parts[0][0] == 0 and parts[-1][1] == frames
        assert all(end == start for (_, end), (start, _) in zip(parts, parts[1:]))
        assert len(parts) == 1 or min(end - start for start, end in parts) >= hp.fade_frames
        output = np.zeros((frames - 1) * 4, np.float32)
        for first, last in parts:
            before, after = max(first - 12, 0), min(last + 12, frames)
            Chunks.add_faded(output, np.ones((after - before - 1) * 4, np.float32), before, first, last)
        np.testing.assert_allclose(output, 1, atol=1e-6)


@pytest.mark.parametrize("frames", (2, 17, 64, 65, 79, 80, 81, 449))
def test_recordings_of_all_lengths_are_played_in_small_chunks(monkeypatch, quick_inversion, frames):
    monkeypatch.setattr(hp, "chunk_frames", 64)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (frames - 1) * hp.hop_length).astype(np.float32)
    assert Chunks.n_frames(audio) == frames
    output, _ = Main.resynthesise(audio, [AEModel(Identity())])
    assert output.shape == audio.shape and rms(output) == pytest.approx(rms(audio), rel=0.01)


def test_notes_of_windows_are_those_of_the_whole(monkeypatch):
    """As of an hour, in which no window may hold all predictions."""
    class Decoder:
        windows = []

        def decode_notes(self, predictions):
            self.windows.append(predictions.shape[1])
            return NoteRefinement.decode_notes(predictions, refiner)

    refiner = every_onset_refiner()
    refiner.offset_head = HighestOffset()
    frames = 4000
    predictions = as_views(Notes.note_labels(some_notes(300, 44), 0, frames)).astype(np.float16)
    wanted = NoteRefinement.decode_notes(predictions, refiner)
    monkeypatch.setattr(hp, "decode_frames", 400)
    monkeypatch.setattr(hp, "decode_ahead", 300)
    decoder = Decoder()
    found = np.concatenate(list(Transcription.decode_in_windows(
        (predictions[:, first:first + 136] for first in range(0, frames, 136)), frames, decoder)))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert len(wanted) > 200 and max(decoder.windows) < 400 + 300 + hp.context_frames + 2 * 136


def test_reading_holds_the_recording_once(tmp_path):
    import tracemalloc

    soundfile.write(tmp_path / "in.wav", np.tile(tone(1, rate=48000), 90), 48000)
    tracemalloc.start()
    audio = Util.read_audio(tmp_path / "in.wav")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.2 * audio.nbytes + 10 * 2 ** 20  # at 48 kHz alone it has 2.2 times as many


# outputs

def output(recording, path, overwrite=False):
    """Return the path of the audio file of one recording, after all checks."""
    found = Recordings.find_recordings([recording])
    paths = Recordings.output_paths(found, "electric piano", path)
    Recordings.check_outputs(found, [Recordings.output_files(path) for path in paths], overwrite)
    return paths


writers = {ending: lambda path, mark: Util.write_audio(path, tone(), mark) for ending in Util.audio_formats} | {
    ".mid": lambda path, mark: Notes.save_notes(path, np.array([[0, 1, 60, 90]]), mark),
    ".png": lambda path, mark: Plots.save_figure(path, Plots.plot_spectrograms({"": np.zeros((128, 9))}), mark),
    ".html": lambda path, mark: Page.save_page(path, Page.render_page("title", []), mark)}


@pytest.mark.parametrize("ending", writers)
def test_a_mark_tells_the_recording_and_what_was_edited(tmp_path, ending):
    """The mark, which any reader of tags shows, and the checksums of ogg and PNG are right."""
    (tmp_path / "recording").write_bytes(b"piano")
    path, mark = tmp_path / f"b{ending}", Marks.make_mark(tmp_path / "recording")
    writers[ending](path, None if ending != ".html" else "")
    assert Marks.read_mark(path) is None
    writers[ending](path, mark)
    recording = Marks.file_digest(tmp_path / "recording")
    assert Marks.read_mark(path) == (recording, True)
    if ending in Util.audio_formats:
        with soundfile.SoundFile(path) as file:
            assert file.comment.startswith(mark[:-16]) and len(file.read()) == pytest.approx(hp.sample_rate, abs=1200)
    if ending == ".png":
        with PIL.Image.open(path) as image:
            image.load()
            assert image.text["Comment"].startswith(mark[:-16])
    content = path.read_bytes()
    for place in len(content) - 20, content.index(recording.encode()) - 30:  # sound, picture or text; another tag
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        assert Marks.read_mark(path) in (None, (recording, False))


@pytest.mark.parametrize("ending", Util.audio_formats)
def test_only_our_own_outputs_are_replaced(tmp_path, ending):
    soundfile.write(tmp_path / "a.wav", tone(), hp.sample_rate)
    path = tmp_path / f"b{ending}"
    Util.write_audio(path, tone())
    with pytest.raises(ValueError, match=f"{path.name}: not written by Main.py, or edited since.*--overwrite"):
        output(tmp_path / "a.wav", path)
    assert output(tmp_path / "a.wav", path, overwrite=True) == [path]
    Util.write_audio(path, tone(), Marks.make_mark(tmp_path / "a.wav"))
    assert output(tmp_path / "a.wav", path) == [path]
    soundfile.write(tmp_path / "a.wav", tone(2), hp.sample_rate)
    with pytest.raises(ValueError, match=f"{path.name}: the output of another recording.*--overwrite"):
        output(tmp_path / "a.wav", path)


def test_the_place_of_the_output_is_tried_before_the_work(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(), hp.sample_rate)
    (tmp_path / "file").touch()
    monkeypatch.setattr(Main, "convert", lambda *_: pytest.fail("the work begins"))
    with pytest.raises(OSError, match="b.wav cannot be written"):
        Main.main([str(tmp_path / "a.wav"), "-o", str(tmp_path / "file" / "b.wav")])
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "file"}


@pytest.mark.parametrize("name", ("out.txt", "out.m4a", "out.WMV"))
def test_an_output_of_another_kind_is_no_folder(tmp_path, name):
    with pytest.raises(ValueError, match="is not written; choose .wav, .flac, .ogg, .mp3"):
        output(tmp_path / "a.wav", tmp_path / name)
    (tmp_path / name).mkdir()
    assert output(tmp_path / "a.wav", tmp_path / name) == [tmp_path / name / "a_epiano.wav"]


def test_a_link_to_a_recording_is_that_recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), hp.sample_rate)
    os.link(tmp_path / "a.wav", tmp_path / "b.wav")
    with pytest.raises(ValueError, match="b.wav would be written over a recording"):
        output(tmp_path / "a.wav", tmp_path / "b.wav", overwrite=True)


@pytest.mark.parametrize("name", ("../escape", "..", "", "/tmp/escape", "a\\b", "C:escape"))
def test_a_model_is_a_name_and_no_path(name):
    with pytest.raises(ValueError, match="not the name of a single folder"):
        Main.find_weights(name or ".")
    if name != "C:escape":  # a drive, which only Windows has
        with pytest.raises(argparse.ArgumentTypeError, match="not the name of a single folder"):
            TrainingOptions.parse_model_name(name)


# the command line on any system

def test_ctrl_c_says_that_it_stopped(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit:
        Util.run(interrupted)
    assert exit.value.code == 130 and capsys.readouterr().err.endswith(": stopped\n")


def test_ctrl_c_while_it_imports_ends_without_a_traceback(root, tmp_path):
    (tmp_path / "tqdm.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = subprocess.run([sys.executable, root / "Main.py"], cwd=tmp_path, capture_output=True, text=True,
                             env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert process.returncode == -signal.SIGINT and process.stderr == ""


def test_a_terminal_without_the_characters_of_a_name(root, tmp_path, weights):
    """As a Windows console of code page 1252 prints a Japanese name."""
    soundfile.write(tmp_path / "\u30d4\u30a2\u30ce.wav", tone(0.3), hp.sample_rate)
    process = subprocess.run([sys.executable, root / "Main.py", "\u30d4\u30a2\u30ce.wav", "--ae", weights[0], "--unet",
                              weights[1]], cwd=tmp_path, capture_output=True,
                             env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert process.returncode == 0, process.stderr
    assert b"\\u30d4\\u30a2\\u30ce_epiano.wav" in process.stdout
    assert (tmp_path / "\u30d4\u30a2\u30ce_epiano.wav").exists()


@pytest.mark.parametrize("redirection, status, complaint", [
    (">&-", 0, ""), (">&- 2>&-", 0, ""), ("2>/dev/full", 1, ""),
    (">/dev/full", 1, "warning: standard output cannot be written (No space left on device); the work goes on "
                      "without it\n")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_takes_nothing_loses_nothing(root, tmp_path, redirection, status, complaint, unbuffered):
    code = "import Util; Util.run(lambda: [print(1), Util.warn('two'), Util.save_text('three', '3')])"
    process = subprocess.run(f"'{sys.executable}' -c \"{code}\" {redirection}", shell=True, cwd=tmp_path, text=True,
                             capture_output=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered,
                                                       "PYTHONPATH": str(root)})
    said = "" if "2>" in redirection else "warning: two\n"
    assert (process.returncode, sorted(process.stderr.splitlines(True))) == (status, sorted(
        (complaint + said).splitlines(True)))
    assert (tmp_path / "three").read_text() == "3"
