"""The pipeline and its command line: any length, any file, loudness, chunks, stereo, notes."""
import doctest
import shutil
import subprocess
import sys

import mido
import numpy as np
import pytest
import soundfile
import torch

import AEModel
import DatasetCreator
import Hyperparameters as hp
import MIDI2Audio
import Main
from AEModel import NoteModel, snapshot
from Autoencoder import Autoencoder
from UNet import UNet
from audio import audio_files, mel_inversion
from notes import note_events
from notes.note_autoencoder import NoteAutoencoder


@pytest.fixture
def models(networks):
    return Main.load_models(**networks)


@pytest.fixture
def flags(networks):
    return ["--ae", str(networks["ae"]), "--unet", str(networks["unet"])]


def notes(seconds, rate=hp.sample_rate, gain=0.3):
    """Decaying tones of three notes a second, as float64 samples."""
    time = np.arange(max(round(seconds * rate), 1)) / rate
    pitch = 220 * 2 ** (np.floor(time * 3) % 12 / 12)
    return gain * np.sin(2 * np.pi * np.cumsum(pitch) / rate + 0.1) * np.exp(-3 * (time * 3 % 1))


def both_sides(seconds, rate=hp.sample_rate):
    """Two channels of such tones, the second backwards."""
    return np.stack([notes(seconds, rate), notes(seconds, rate)[::-1]], axis=1)


def rms_db(audio):
    return 10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-30)


@pytest.mark.parametrize("seconds", [1 / hp.sample_rate, 0.0311, 1, 61.7])
def test_output_has_the_length_of_the_input(tmp_path, networks, seconds):
    audio = notes(seconds)
    soundfile.write(tmp_path / "in.wav", audio, hp.sample_rate)
    output = Main.pipeline(tmp_path / "in.wav", **networks)
    assert output.shape == audio.shape and output.dtype == np.float32
    assert np.isfinite(output).all() and np.abs(output).max() <= 1


@pytest.mark.parametrize("rate, channels, ending, subtype", [
    (8000, 1, "wav", "PCM_16"), (11025, 2, "wav", "PCM_24"), (96000, 6, "wav", "FLOAT"), (44100, 2, "flac", "PCM_16"),
    (48000, 1, "ogg", "VORBIS")])
def test_any_file_keeps_its_duration(tmp_path, networks, rate, channels, ending, subtype):
    audio = notes(0.73, rate, gain=0.03)  # quiet enough for as loud an output to stay below full scale
    path = tmp_path / f"in.{ending}"
    soundfile.write(path, np.stack([audio] * channels, axis=1), rate, subtype=subtype)
    output = Main.pipeline(path, **networks)
    assert output.shape == (round(audio.size * hp.sample_rate / rate),)
    assert rms_db(output) == pytest.approx(rms_db(audio), abs=0.5)


@pytest.mark.parametrize("gain", [1 / 8, 1 / 1024])  # powers of two: the same bits but for the exponent
def test_loudness_follows_the_input_and_the_notes_do_not_change(models, gain):
    audio = notes(2, gain=0.03).astype(np.float32)
    output, stages = Main.resynthesise(gain * audio, models)
    reference, reference_stages = Main.resynthesise(audio, models)
    assert rms_db(output) == pytest.approx(rms_db(gain * audio), abs=0.01)
    assert rms_db(output / gain - reference) < rms_db(reference) - 25
    np.testing.assert_allclose(stages[-1], reference_stages[-1], atol=1e-3)


@pytest.mark.parametrize("bfloat16", (False, True), ids=("single precision", "as shipped"))
def test_chunked_equals_unchunked_without_a_seam(monkeypatch, bfloat16):
    monkeypatch.setattr(hp, "bfloat16", bfloat16)
    audio = audio_files.read_audio(hp.demo)[:14 * hp.sample_rate].copy()
    audio[:audio.size // 2] *= 0.1  # the dB reference is that of the whole
    models = Main.load_models(*Main.find_weights("shipped"))
    whole, stages = Main.resynthesise(audio, models)
    monkeypatch.setattr(hp, "chunk_frames", 256)
    chunked, first = Main.resynthesise(audio, models)
    for stage, part in zip(stages, first):
        assert part.shape[1] <= 256 and hp.top_db * np.abs(part - stage[:, :part.shape[1]]).mean() < 0.1
    assert rms_db(chunked) == pytest.approx(rms_db(whole), abs=0.05)
    if not bfloat16:  # else what is rounded otherwise may lead Griffin-Lim to another phase, as good as the first
        assert rms_db(chunked - whole) < rms_db(whole) - 50
    wanted, found = (DatasetCreator.mel_power(DatasetCreator.stft(signal)) for signal in (whole, chunked))
    error = np.abs(DatasetCreator.log_mel(found, wanted.max()) - DatasetCreator.log_mel(wanted, wanted.max()))
    error, border = hp.top_db * error.mean(axis=0), np.zeros(error.shape[1], bool)
    for frame in range(first[0].shape[1], error.size, first[0].shape[1]):
        border[frame - 12:frame + 12] = True
    assert error[border].mean() < error[~border].mean() + 0.1 and error.mean() < 0.3


@pytest.mark.parametrize("share, heard", ((0.9, False), (1.1, True)))
def test_traces_of_what_a_network_left_are_silence(share, heard):
    class Traces(torch.nn.Module):
        in_channels = 1

        def forward(self, x):
            return torch.full_like(x, share * mel_inversion.silence_threshold)

    output, [_, picture] = Main.resynthesise(notes(1), [AEModel.AEModel(Traces())])
    assert output.any() == heard  # and is drawn as it is
    assert picture == pytest.approx(share * mel_inversion.silence_threshold, rel=0.01)


def test_models_are_read_once_and_again_after_a_change(tmp_path, weights, monkeypatch):
    paths, reads, load = [shutil.copy(path, tmp_path) for path in weights], [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: reads.append(path) or load(path, **options))
    first = [Main.load_models(*paths, "cpu") for _ in range(3)][0]
    assert list(map(str, reads)) == list(map(str, paths))
    state = load(paths[1], weights_only=True)
    state["last.bias"] += 1
    torch.save(state, paths[1])
    again = Main.load_models(*paths, "cpu")
    assert again[1].network.last.bias.item() == pytest.approx(first[1].network.last.bias.item() + 1)


def test_a_pool_of_forked_processes_converts(tmp_path, root, networks):
    """After `pipeline` in the parent, whose threads the processes of the pool lack."""
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", notes(2), hp.sample_rate)
    code = """if True:
        import functools, multiprocessing, sys, numpy, torch
        sys.path.insert(0, sys.argv[1])
        import Main
        torch.set_num_threads(2)
        convert = functools.partial(Main.pipeline, ae=sys.argv[2], unet=sys.argv[3])
        own = convert("a.wav")
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(convert, ["a.wav", "b.wav"], 1).get(100)
        print(*(numpy.allclose(audio, own, atol=1e-3) for audio in found))"""
    process = subprocess.run([sys.executable, "-c", code, root, networks["ae"], networks["unet"]], cwd=tmp_path,
                             capture_output=True, text=True)
    assert process.stdout == "True True\n", process.stderr


def trained_on(folder, *pieces, pair=None):
    """Write small untrained weights with numbers of training pieces, and a pair of instruments."""
    folder.mkdir(exist_ok=True)
    for name, network, number in zip(("ae", "unet"), (Autoencoder(channels=(4, 4, 4)), UNet(wf=2)), pieces):
        note = {"pieces": number} if pair is None else {"pieces": number, "pair": pair}
        torch.save(snapshot(network, note), folder / f"{name}.torch")


def test_own_models_come_before_the_shipped_ones_once_both_are_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "models", tmp_path)
    own, shipped = (tmp_path / "own" / "ae.torch", tmp_path / "own" / "unet.torch"), (hp.ae_weights, hp.unet_weights)
    own[0].parent.mkdir()
    own[0].touch()
    assert Main.find_weights() == shipped
    own[1].touch()  # without a number of pieces
    assert Main.find_weights() == own and Main.find_weights("shipped") == shipped
    trained_on(tmp_path / "own", hp.few_pieces, 300)
    assert Main.find_weights() == own
    trained_on(tmp_path / "own", 300, hp.few_pieces - 1)
    assert Main.find_weights() == shipped and Main.find_weights("own") == own
    assert Main.find_weights("other") == (tmp_path / "other" / "ae.torch", tmp_path / "other" / "unet.torch")


def test_the_model_is_named_unless_it_is_the_shipped_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hp, "models", tmp_path / "models")
    hp.models.mkdir()
    monkeypatch.setattr(Main, "convert", lambda *_: "done")
    soundfile.write("in.wav", notes(0.2), hp.sample_rate)

    def said(*arguments):
        Main.main(["in.wav", *arguments])
        return capsys.readouterr().out.splitlines()

    assert said() == ["done"]
    trained_on(hp.models / "own", 8, 8)
    assert said() == ["model: shipped, not own, trained on 8 pieces, which is too few; --model own for that", "done"]
    assert said("--model", "shipped") == ["done"]
    assert said("--model", "own") == ["model: own, trained on 8 pieces; --model shipped for the shipped one", "done"]
    trained_on(hp.models / "own", 94, 94)
    assert said()[0] == "model: own, trained on 94 pieces; --model shipped for the shipped one"
    moved = (hp.models / "own").rename(tmp_path / "moved")
    ae, unet = moved / "ae.torch", moved / "unet.torch"
    assert said("--ae", str(ae), "--unet", str(unet))[0] == (
        f"model: {ae} and {unet}, trained on 94 pieces; --model shipped for the shipped one")


def test_a_doubt_thinks_of_the_model_first(tmp_path, monkeypatch, heard, capsys):
    monkeypatch.setattr(hp, "models", tmp_path)
    trained_on(tmp_path / "own", 8, 8)
    models, noise = Main.load_models(), np.random.default_rng(0).normal(0, 0.1, 30 * hp.sample_rate).astype(np.float32)
    for paths, advice in ((Main.find_weights("own"), "try the model 'shipped' first, since this one is own, trained on "
                           "8 pieces; is this a piano?"), (Main.find_weights("shipped"), "is this a piano?")):
        for model, path in zip(models, paths):
            monkeypatch.setattr(model, "path", path)
        Main.transcribe_if_possible(noise, models, "in.wav")
        assert capsys.readouterr().err == f"warning: in.wav: few notes in 30 s; {advice}\n"


def test_files_page_and_versions_name_the_instruments(tmp_path, instruments, monkeypatch, quick_inversion):
    monkeypatch.chdir(tmp_path)
    trained_on(tmp_path / "w", 50, 50, pair="FluidR3_GM.sf2:0:11, recorded -> FluidR3_GM.sf2:0:10")
    soundfile.write("in.wav", notes(0.5), hp.sample_rate)
    Main.main(["in.wav", "--page", "--ae", "w/ae.torch", "--unet", "w/unet.torch"])
    assert {path.name for path in tmp_path.iterdir()} == {"w", "in.wav", *(
        f"in_music_box{ending}" for ending in (".wav", ".png", ".html"))}
    page = (tmp_path / "in_music_box.html").read_text()
    assert "<p>From Vibraphone to Music Box: a recording," in page and "Music Box <small>the result" in page
    assert "piano" not in page


# the command line

@pytest.mark.parametrize("name", [f"in_epiano{ending}" for ending in (".wav", ".mid", ".png", ".html", "_played.wav")])
def test_files_of_people_are_refused_before_the_work_whatever_their_names(tmp_path, heard, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Main, "convert", lambda *_: pytest.fail("the work begins"))
    monkeypatch.setattr(MIDI2Audio, "check_preset", lambda _: None)
    soundfile.write("in.wav", notes(0.2), hp.sample_rate)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"^{name}: not written by Main.py, or edited since; .*--overwrite"):
        Main.main(["in.wav", "--midi", "--page", "--play", "x.sf2:0:0"])
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_an_edited_output_is_kept_and_the_others_are_replaced(tmp_path, heard):
    folder = tmp_path / "deep" / "er"
    command = [str(tmp_path / "in.wav"), "-o", str(folder / "b.wav"), "--midi", "--page"]
    soundfile.write(tmp_path / "in.wav", notes(0.5), hp.sample_rate)
    for _ in range(2):  # the second time, all are ours
        Main.main(command)
        assert {path.name for path in folder.iterdir()} == {"b.wav", "b.png", "b.mid", "b.html"}
    file = mido.MidiFile(folder / "b.mid")
    file.tracks[0].pop(2)
    file.save(folder / "b.mid")
    edited = (folder / "b.mid").read_bytes()
    with pytest.raises(ValueError, match=r"^\S*b.mid: not written by Main.py, or edited since"):
        Main.main(command)
    assert (folder / "b.mid").read_bytes() == edited
    Main.main([*command, "--overwrite"])
    assert (folder / "b.mid").read_bytes() != edited


def test_the_content_tells_recordings_from_outputs(tmp_path, flags, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("Nocturne_epiano.wav", notes(0.3), hp.sample_rate)
    for _ in range(2):  # the second time, the output is there, too
        Main.main([".", *flags])
        assert {path.name for path in tmp_path.glob("*.wav")} == {"Nocturne_epiano.wav", "Nocturne_epiano_epiano.wav"}
    (tmp_path / "Nocturne_epiano.wav").unlink()
    with pytest.raises(FileNotFoundError, match="holds only outputs of Main.py and no recordings"):
        Main.main(["."])


def test_a_folder_is_played_with_its_folders_and_a_bad_file_does_not_stop_the_others(tmp_path, flags, capsys):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / ".hidden").mkdir()
    for name in ("a.wav", "deep/a.FLAC", "deep/b.ogg", ".hidden/c.wav"):
        audio_files.write_audio(tmp_path / "in" / name, notes(0.3).astype(np.float32))
    (tmp_path / "in" / "phone.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    (tmp_path / "in" / "notes.txt").touch()
    with pytest.raises(ValueError, match="phone.m4a is not audio that libsndfile or FFmpeg reads"):
        Main.main([str(tmp_path / "in"), "-o", str(tmp_path / "out"), *flags])
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.wav")) == [
        "a_epiano.wav", "deep/a_epiano.wav", "deep/b_epiano.wav"]
    written = capsys.readouterr()
    assert [line.count("_epiano.wav and its picture") for line in written.out.splitlines()] == [0, 1, 1, 1]
    info = soundfile.info(tmp_path / "out" / "a_epiano.wav")
    assert (info.samplerate, info.channels, info.subtype) == (hp.sample_rate, 1, "PCM_16") and "4/4" in written.err


def test_an_array_is_played_as_its_file(tmp_path, networks):
    audio = np.round(32767 * both_sides(0.5, 44100)).astype(np.int16)
    soundfile.write(tmp_path / "in.wav", audio, 44100)
    wanted = Main.pipeline(tmp_path / "in.wav", **networks)
    for array in audio, (audio / 32768).astype(np.float32), audio / 32768:
        np.testing.assert_allclose(Main.pipeline(array, sample_rate=44100, **networks), wanted, atol=1e-4)
    with pytest.raises(ValueError, match="has its own"):
        Main.pipeline(tmp_path / "in.wav", sample_rate=44100, **networks)


def test_the_example_of_the_docstring_runs(monkeypatch):
    monkeypatch.chdir(hp.root)
    [example] = doctest.DocTestFinder(recurse=False).find(Main.pipeline, "pipeline", globs=vars(Main))
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0


def test_a_clip_of_another_rate_is_played_without_what_is_slow_to_import(tmp_path, root, flags):
    """The sound is written first; only then is matplotlib imported, for the picture."""
    soundfile.write(tmp_path / "in.wav", notes(0.3, 44100), 44100)
    code = (f"import sys; sys.path.insert(0, {str(root)!r}); import Main; from audio import audio_files; "
            "write = audio_files.write_audio; audio_files.write_audio = lambda *sound: (write(*sound), "
            "print(*{name.split('.')[0] for name in sys.modules})); "
            "Main.main(sys.argv[1:])")
    modules = subprocess.run([sys.executable, "-c", code, "in.wav", "--page", *flags], cwd=tmp_path,
                             capture_output=True, text=True, check=True).stdout.splitlines()[1].split()
    assert "torch" in modules
    assert not {"librosa", "matplotlib", "scipy", "numba", "mido", "pandas", "jinja2", "av", "PIL", "AEDataset",
                "UNetDataset", "training"} & set(modules)
    assert (tmp_path / "in_epiano.html").stat().st_size > 10_000


# stereo

def test_stereo_keeps_the_sides_and_its_mean_is_the_mono_output(models):
    stereo = (both_sides(2) * (0.1, 0.01)).astype(np.float32)
    mono, _ = Main.resynthesise(stereo.mean(axis=1), models)
    output, _ = Main.resynthesise(stereo, models)
    assert output.shape == stereo.shape and output.dtype == np.float32
    mean, mono = (audio / np.linalg.norm(audio) for audio in (output.mean(axis=1), mono))
    assert rms_db(mean - mono) < rms_db(mono) - 60
    assert rms_db(output) == pytest.approx(rms_db(stereo), abs=0.05)
    assert rms_db(output[:, 0]) > rms_db(output[:, 1]) + 3


# notes

played = np.array([[0.1, 0.9, 60, 30], [0.5, 1.4, 64, 90], [0.9, 1.2, 60, 127], [1.2, 1.3, 60, 1]], np.float32)


@pytest.fixture
def heard(monkeypatch, models):
    """The models of notes and of a U-Net, and what is heard of any recording."""
    models = NoteModel(NoteAutoencoder()), models[1]
    monkeypatch.setattr(Main, "load_models", lambda *options: models)
    monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model, certainty=False: played)


def test_notes_are_written_as_they_were_heard(tmp_path, heard, capsys):
    audio_files.write_audio(tmp_path / "in.wav", notes(1.5).astype(np.float32))
    Main.main([str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.flac"), "--midi", "--page"])
    back = note_events.read_notes(tmp_path / "out.mid")
    np.testing.assert_allclose(back[:, :2], played[:, :2], atol=1e-3)
    np.testing.assert_array_equal(back[:, 2:], played[:, 2:])
    assert "the notes out.mid and the page out.html" in capsys.readouterr().out
    assert (tmp_path / "out.html").read_text().count("M0.10 ") == 2


def test_a_recording_is_transcribed(tmp_path, heard, networks, monkeypatch):
    recording = notes(1.5).astype(np.float32)
    audio_files.write_audio(tmp_path / "in.wav", recording)
    np.testing.assert_array_equal(Main.transcribe(tmp_path / "in.wav"), played)
    np.testing.assert_array_equal(Main.transcribe(recording, sample_rate=hp.sample_rate), played)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="ae.torch is an autoencoder without notes"):
        Main.transcribe(tmp_path / "in.wav", **networks)


def test_notes_are_played_on_a_preset(tmp_path, instruments, heard):
    audio_files.write_audio(tmp_path / "in.wav", notes(1.5).astype(np.float32))
    Main.main([str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--play", "FluidR3_GM.sf2:0:4", "--page"])
    (other, rate), result = soundfile.read(tmp_path / "out_played.wav"), audio_files.read_audio(tmp_path / "out.wav")
    assert rate == 44100 and other.shape == (1.5 * rate, 2) and np.ptp(other, axis=1).max() > 1e-3
    assert rms_db(other) == pytest.approx(rms_db(result), abs=0.1)
    assert rms_db(other[:2000]) < rms_db(other) - 40 and not (tmp_path / "out.mid").exists()
    assert "FluidR3_GM 0:4" in (tmp_path / "out.html").read_text()
