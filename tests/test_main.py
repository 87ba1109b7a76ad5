"""The pipeline and its command line: any length, any file, loudness, chunks, names."""
import shutil
import subprocess
import sys

import mido
import numpy as np
import pytest
import soundfile
import torch

import DatasetCreator
import Evaluation
import Hyperparameters as hp
import Main
import MIDI2Audio
import Notes
import Recordings
import Util
from AEModel import AEModel, NoteModel, snapshot
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder
from UNet import UNet
from UNetDataset import StoredOutputs, UNetDataset


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Paths of two small networks with random weights: what is tested here does not depend on training."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    torch.save(Autoencoder().state_dict(), folder / "ae.torch")
    unet = UNet(wf=2, in_channels=hp.unet_in_channels, residual=hp.unet_residual, batch_norm=hp.unet_batch_norm)
    torch.nn.init.constant_(unet.last.bias, 0.5)  # not silent
    torch.save(unet.state_dict(), folder / "unet.torch")
    return {"ae": folder / "ae.torch", "unet": folder / "unet.torch"}


def notes(seconds, rate=hp.sample_rate, gain=0.3):
    """Decaying tones of three notes a second, as float64 samples."""
    time = np.arange(max(round(seconds * rate), 1)) / rate
    pitch = 220 * 2 ** (np.floor(time * 3) % 12 / 12)
    return gain * np.sin(2 * np.pi * np.cumsum(pitch) / rate + 0.1) * np.exp(-3 * (time * 3 % 1))


def rms_db(audio):
    return 10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-30)


@pytest.mark.parametrize("seconds", [1 / hp.sample_rate, hp.hop_length / hp.sample_rate, 0.0311, 1, 30, 61.7])
def test_output_has_the_length_of_the_input(tmp_path, networks, seconds):
    audio = notes(seconds)
    soundfile.write(tmp_path / "in.wav", audio, hp.sample_rate)
    output = Main.pipeline(tmp_path / "in.wav", **networks)
    assert output.shape == audio.shape and output.dtype == np.float32
    assert np.isfinite(output).all() and np.abs(output).max() <= 1


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
@pytest.mark.parametrize("channels, ending, subtype", [(1, "wav", "PCM_16"), (2, "wav", "PCM_24"), (6, "wav", "FLOAT"),
                                                       (2, "flac", "PCM_16"), (1, "ogg", "VORBIS")])
def test_any_file_keeps_its_duration(tmp_path, networks, rate, channels, ending, subtype):
    audio = notes(0.73, rate, gain=0.03)  # quiet enough for as loud an output to stay below full scale
    path = tmp_path / f"in.{ending}"
    soundfile.write(path, np.stack([audio] * channels, axis=1), rate, subtype=subtype)
    output = Main.pipeline(path, **networks)
    assert output.shape == (round(audio.size * hp.sample_rate / rate),)
    assert rms_db(output) == pytest.approx(rms_db(audio), abs=0.5)


def test_mp3_is_read(tmp_path, networks):
    soundfile.write(tmp_path / "in.mp3", notes(1, 44100), 44100)
    assert Main.pipeline(tmp_path / "in.mp3", **networks).size == pytest.approx(hp.sample_rate, abs=2 * 1152)


def test_stereo_is_mixed_to_its_mean(tmp_path):
    left, right = notes(0.5), notes(0.5)[::-1]
    soundfile.write(tmp_path / "in.wav", np.stack([left, right], axis=1), hp.sample_rate, subtype="FLOAT")
    np.testing.assert_allclose(Util.read_audio(tmp_path / "in.wav"), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("gain", [1, 1 / 8, 1 / 1024])  # powers of two: the same bits but for the exponent
def test_loudness_follows_the_input_and_the_notes_do_not_change(networks, gain):
    audio, models = notes(2, gain=0.03).astype(np.float32), Main.load_models(networks["ae"], networks["unet"])
    output, stages = Main.resynthesise(gain * audio, models)
    reference, reference_stages = Main.resynthesise(audio, models)
    assert rms_db(output) == pytest.approx(rms_db(gain * audio), abs=0.01)
    assert rms_db(output / gain - reference) < rms_db(reference) - 25
    np.testing.assert_allclose(stages[-1], reference_stages[-1], atol=1e-3)


def test_the_loudest_input_does_not_clip(networks):
    square = np.sign(notes(1)).astype(np.float32)
    output, _ = Main.resynthesise(square, Main.load_models(networks["ae"], networks["unet"]))
    assert 0.1 < np.abs(output).max() <= hp.peak + 1e-6


@pytest.fixture(scope="module", params=(False, True), ids=("single precision", "as shipped"))
def unchunked(request):
    """A recording with loud and soft parts, the shipped models, and what they make of it in one piece."""
    audio = Util.read_audio(hp.demo)[:14 * hp.sample_rate].copy()
    audio[:audio.size // 2] *= 0.1
    models = Main.load_models(*Main.choose_weights("shipped", None, None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hp, "bfloat16", request.param)
        yield audio, models, Main.resynthesise(audio, models)


@pytest.mark.parametrize("chunk_frames", [256, 328])
def test_chunked_equals_unchunked(unchunked, monkeypatch, chunk_frames):
    audio, models, (whole, stages) = unchunked
    monkeypatch.setattr(hp, "chunk_frames", chunk_frames)
    chunked, first = Main.resynthesise(audio, models)
    for stage, part in zip(stages, first):
        assert part.shape[1] <= chunk_frames
        assert hp.top_db * np.abs(part - stage[:, :part.shape[1]]).mean() < 0.1
    assert rms_db(chunked) == pytest.approx(rms_db(whole), abs=0.05)
    if not hp.bfloat16:  # else what is rounded otherwise may lead Griffin-Lim to another phase, as good as the first
        assert rms_db(chunked - whole) < rms_db(whole) - 50


def test_there_is_no_seam_between_chunks(unchunked, monkeypatch):
    audio, models, (whole, _) = unchunked
    monkeypatch.setattr(hp, "chunk_frames", 256)
    chunked, first = Main.resynthesise(audio, models)
    wanted, found = (DatasetCreator.mel_power(DatasetCreator.stft(signal)) for signal in (whole, chunked))
    reference = wanted.max()
    wanted, found = (DatasetCreator.log_mel(power, reference) for power in (wanted, found))
    error = hp.top_db * np.abs(found - wanted).mean(axis=0)
    border = np.zeros(error.size, bool)
    for frame in range(first[0].shape[1], error.size, first[0].shape[1]):
        border[frame - 12:frame + 12] = True
    assert error[border].mean() < error[~border].mean() + 0.1 and error.mean() < 0.3


@pytest.mark.parametrize("trace, heard", ((0.9 * hp.silence_threshold, False), (1.1 * hp.silence_threshold, True)))
def test_traces_of_what_a_network_left_are_silence(trace, heard):
    class Traces(torch.nn.Module):
        in_channels = 1

        def forward(self, x):
            return torch.full_like(x, trace)

    output, [_, picture] = Main.resynthesise(notes(1), [AEModel(Traces())])
    assert output.any() == heard and picture == pytest.approx(trace, rel=0.01)  # which is drawn as it is


def test_models_load_once(networks, monkeypatch):
    reads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: reads.append(path) or load(path, **options))
    Main.read_models.cache_clear()
    for _ in range(3):
        Main.load_models(networks["ae"], networks["unet"])
    assert reads == [networks["ae"], networks["unet"]]


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


def test_weights_that_have_changed_are_read_again(tmp_path, weights):
    ae, unet = (shutil.copy(path, tmp_path) for path in weights)
    first = Main.load_models(ae, unet, "cpu")
    assert Main.load_models(ae, unet, "cpu") is first
    state = torch.load(unet, weights_only=True)
    state["last.bias"] += 1
    torch.save(state, unet)
    again = Main.load_models(ae, unet, "cpu")
    assert again[1].network.last.bias.item() == pytest.approx(first[1].network.last.bias.item() + 1)


@pytest.mark.parametrize("name", ("in_epiano.wav", "in_epiano.mid", "in_epiano.png", "in_epiano.html",
                                  "in_epiano_played.wav"))
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
    command = [str(tmp_path / "in.wav"), "-o", str(tmp_path / "b.wav"), "--midi", "--page"]
    soundfile.write(tmp_path / "in.wav", notes(0.5), hp.sample_rate)
    for _ in range(2):  # the second time, all are ours
        Main.main(command)
        assert {path.name for path in tmp_path.iterdir()} == {"in.wav", "b.wav", "b.png", "b.mid", "b.html"}
    file = mido.MidiFile(tmp_path / "b.mid")
    file.tracks[0].pop(2)
    file.save(tmp_path / "b.mid")
    edited = (tmp_path / "b.mid").read_bytes()
    with pytest.raises(ValueError, match=r"^\S*b.mid: not written by Main.py, or edited since"):
        Main.main(command)
    assert (tmp_path / "b.mid").read_bytes() == edited
    Main.main([*command, "--overwrite"])
    assert (tmp_path / "b.mid").read_bytes() != edited


def test_two_recordings_of_one_name_are_both_converted(tmp_path, networks):
    for ending, gain in ("mp3", 0.3), ("wav", 0.1):
        soundfile.write(tmp_path / f"take.{ending}", notes(0.5, gain=gain), hp.sample_rate)
    out = ["-o", str(tmp_path / "out"), *flags(networks)]
    Main.main([str(tmp_path), *out])
    names = [f"take_{kind}_epiano.{ending}" for kind in ("mp3", "wav") for ending in ("png", "wav")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    Main.main([str(tmp_path / "take.mp3"), *out])  # one at a time
    first = (tmp_path / "out" / "take_epiano.wav").read_bytes()
    with pytest.raises(ValueError, match="take_epiano.png, .*take_epiano.wav: the output of another recording"):
        Main.main([str(tmp_path / "take.wav"), *out])
    assert (tmp_path / "out" / "take_epiano.wav").read_bytes() == first
    Main.main([str(tmp_path / "take.wav"), *out, "--overwrite"])
    assert (tmp_path / "out" / "take_epiano.wav").read_bytes() != first


def test_the_content_tells_recordings_from_outputs(tmp_path, networks, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("Nocturne_epiano.wav", notes(0.3), hp.sample_rate)
    for _ in range(2):  # the second time, the output is there, too
        Main.main([".", *flags(networks)])
        assert {path.name for path in tmp_path.glob("*.wav")} == {"Nocturne_epiano.wav", "Nocturne_epiano_epiano.wav"}
    (tmp_path / "Nocturne_epiano.wav").unlink()
    with pytest.raises(FileNotFoundError, match="holds only outputs of Main.py and no recordings"):
        Main.main(["."])


@pytest.mark.parametrize("level, spike", ((1e30, 1), (1e-30, 1), (1e-42, 1), (0.03, 1e33)))
def test_extreme_samples_are_played(networks, level, spike):
    audio, models = (level * notes(0.5)).astype(np.float32), Main.load_models(networks["ae"], networks["unet"])
    audio[5000] *= np.float32(spike)
    output, _ = Main.resynthesise(audio, models)
    assert np.isfinite(output).all() and 0 < np.abs(output).max() <= hp.peak + 1e-6


def test_own_models_come_before_the_shipped_ones_once_both_are_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "models", tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "ae.torch").touch()
    assert Main.find_weights() == (hp.ae_weights, hp.unet_weights)
    (tmp_path / "own" / "unet.torch").touch()  # without a number of pieces
    assert Main.find_weights() == (tmp_path / "own" / "ae.torch", tmp_path / "own" / "unet.torch")
    assert Main.find_weights("shipped") == (hp.ae_weights, hp.unet_weights)
    trained_on(tmp_path / "own", hp.few_pieces, 300)
    assert Main.find_weights() == Main.find_weights("own")
    trained_on(tmp_path / "own", 300, hp.few_pieces - 1)
    assert Main.find_weights() == (hp.ae_weights, hp.unet_weights)
    assert Main.find_weights("own") == (tmp_path / "own" / "ae.torch", tmp_path / "own" / "unet.torch")
    assert Main.find_weights("other") == (tmp_path / "other" / "ae.torch", tmp_path / "other" / "unet.torch")


def trained_on(folder, *pieces, pair=None):
    """Write small untrained weights with numbers of training pieces, and a pair of instruments."""
    folder.mkdir(exist_ok=True)
    for name, network, number in zip(("ae", "unet"), (Autoencoder(channels=(4, 4, 4)), UNet(wf=2)), pieces):
        note = {"pieces": number} if pair is None else {"pieces": number, "pair": pair}
        torch.save(snapshot(network, note), folder / f"{name}.torch")


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
    paths = [str(hp.models / "own" / name) for name in ("ae.torch", "unet.torch")]
    (hp.models / "own").rename(tmp_path / "moved")
    paths = [path.replace("models/own", "moved") for path in paths]
    assert said("--ae", paths[0], "--unet", paths[1])[0] == (
        f"model: {paths[0]} and {paths[1]}, trained on 94 pieces; --model shipped for the shipped one")


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
    Main.main(["in.wav", "--page", *flags({"ae": "w/ae.torch", "unet": "w/unet.torch"})])
    assert {path.name for path in tmp_path.iterdir()} == {"w", "in.wav", *(
        f"in_music_box{ending}" for ending in (".wav", ".png", ".html"))}
    page = (tmp_path / "in_music_box.html").read_text()
    assert "<p>From Vibraphone to Music Box: a recording," in page and "Music Box <small>the result" in page
    assert "piano" not in page


@pytest.mark.parametrize("in_channels", (1, 2))
def test_training_and_playing_give_the_unet_its_inputs_in_the_same_order(in_channels, tmp_path):
    seen = []

    class Inverse(torch.nn.Module):
        in_channels = 1

        def forward(self, x):
            return 1 - x

    class Recorder(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, :1]

    unet = Recorder()
    unet.in_channels = in_channels
    autoencoder, audio = AEModel(Inverse()), np.random.default_rng(0).uniform(-1, 1, 9000).astype(np.float32)
    Main.resynthesise(audio, (autoencoder, AEModel(unet)))
    for side in "piano", "synth":
        Util.write_audio(tmp_path / side / "noise.wav", audio)
    outputs = StoredOutputs(autoencoder, tmp_path, "own")
    outputs.write(DatasetCreator.build(tmp_path))
    source, _ = UNetDataset(["noise"], tmp_path, outputs, in_channels)[0]
    torch.testing.assert_close(source, seen[0][0, :, :, :source.shape[-1]], atol=0.01, rtol=0)
    assert len(source) == in_channels


def flags(networks):
    return ["--ae", str(networks["ae"]), "--unet", str(networks["unet"])]


def test_several_recordings_go_to_a_folder(tmp_path, networks, capsys):
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", notes(0.5), hp.sample_rate)
    Main.main([str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), "-o", str(tmp_path / "out"), *flags(networks)])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_epiano.png", "a_epiano.wav", "b_epiano.png", "b_epiano.wav"]
    assert [line.count("_epiano.wav and its picture") for line in capsys.readouterr().out.splitlines()] == [0, 1, 1]
    info = soundfile.info(tmp_path / "out" / "a_epiano.wav")
    assert (info.samplerate, info.channels, info.subtype) == (hp.sample_rate, 1, "PCM_16")
    assert info.frames == hp.sample_rate // 2


def test_output_names_a_file_or_the_working_folder(tmp_path, networks, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("in.wav", notes(0.5), hp.sample_rate)
    Main.main(["in.wav", *flags(networks)])
    Main.main(["in.wav", "-o", "deep/er/out.wav", *flags(networks)])
    for path in ("in_epiano.wav", "in_epiano.png", "deep/er/out.wav", "deep/er/out.png"):
        assert (tmp_path / path).stat().st_size > 1000


@pytest.mark.parametrize("recordings, output, complaint", [
    (["a/c/x.wav", "b/c/x.wav"], None, "both be written to c_x_wav_epiano.wav"),
    (["a/x.wav", "a/y.wav"], "z.wav", "give a folder"),
    (["a/x.wav"], "x.aiff", "is not written"),
])
def test_outputs_that_would_overwrite_are_refused(recordings, output, complaint):
    with pytest.raises(ValueError, match=complaint):
        Recordings.output_paths(Recordings.find_recordings(map(Main.Path, recordings)), "electric piano",
                                output and Main.Path(output))


@pytest.mark.parametrize("given, names", [
    (["take.mp3", "take.wav", "take_mp3.wav"], ["in_take_mp3_epiano", "take_wav_epiano", "take_mp3_wav_epiano"]),
    (["one/x.wav", "two/x.wav", "one/../x.flac"], ["one_x_wav_epiano", "two_x_wav_epiano", "x_flac_epiano"]),
    (["A.wav", "a.mp3", "b.wav", "b.wav"], ["A_wav_epiano", "a_mp3_epiano", "b_epiano"])])
def test_recordings_of_one_name_get_endings_and_folders(tmp_path, monkeypatch, given, names):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert Recordings.output_names(Recordings.find_recordings(map(Main.Path, given)), "electric piano") == names


def test_a_bad_recording_does_not_stop_the_good_ones(tmp_path, networks):
    soundfile.write(tmp_path / "good.wav", notes(0.5), hp.sample_rate)
    (tmp_path / "bad.wav").write_text("no sound")
    with pytest.raises(ValueError, match="bad.wav is not audio"):
        Main.main([str(tmp_path / "bad.wav"), str(tmp_path / "good.wav"), "-o", str(tmp_path / "out"),
                   *flags(networks)])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_epiano.png", "good_epiano.wav"]


# other formats, folders, arrays

@pytest.mark.parametrize("ending, kind, subtype, error", [
    ("wav", "WAV", "PCM_16", 1e-4), ("flac", "FLAC", "PCM_16", 1e-4), ("ogg", "OGG", "VORBIS", 0.05),
    ("MP3", "MP3", "MPEG_LAYER_III", 0.05)])
@pytest.mark.parametrize("channels", (1, 2))
def test_every_kind_of_file_is_written_as_asked(tmp_path, ending, kind, subtype, error, channels):
    audio = np.stack([notes(4), notes(4)[::-1]], axis=1).astype(np.float32)
    audio = audio[:, 0] if channels == 1 else audio
    Util.write_audio(tmp_path / f"out.{ending}", audio)
    info = soundfile.info(tmp_path / f"out.{ending}")
    assert (info.format, info.subtype, info.channels, info.samplerate) == (kind, subtype, channels, hp.sample_rate)
    back = Util.read_audio(tmp_path / f"out.{ending}", stereo=True)
    assert back.shape == audio.shape and np.abs(back - audio).mean() < error
    assert [path.name for path in tmp_path.iterdir()] == [f"out.{ending}"]


def test_a_folder_is_played_with_its_folders(tmp_path, networks, capsys):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / ".hidden").mkdir()
    for name in ("a.wav", "deep/a.FLAC", "deep/b.ogg", ".hidden/c.wav"):
        Util.write_audio(tmp_path / "in" / name, notes(0.3).astype(np.float32))
    (tmp_path / "in" / "phone.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    (tmp_path / "in" / "notes.txt").touch()
    with pytest.raises(ValueError, match="phone.m4a is not audio that libsndfile or FFmpeg reads"):
        Main.main([str(tmp_path / "in"), "-o", str(tmp_path / "out"), *flags(networks)])
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.wav")) == [
        "a_epiano.wav", "deep/a_epiano.wav", "deep/b_epiano.wav"]
    written = capsys.readouterr()
    assert written.out.count("its picture") == 3 and "4/4" in written.err


@pytest.mark.parametrize("rate", (hp.sample_rate, 44100))
def test_an_array_is_played_as_its_file(tmp_path, networks, rate):
    audio = np.round(32767 * np.stack([notes(0.5, rate), notes(0.5, rate)[::-1]], axis=1)).astype(np.int16)
    soundfile.write(tmp_path / "in.wav", audio, rate)
    wanted = Main.pipeline(tmp_path / "in.wav", **networks)
    for array in audio, (audio / 32768).astype(np.float32), audio / 32768:
        np.testing.assert_allclose(Main.pipeline(array, sample_rate=rate, **networks), wanted, atol=1e-4)
    with pytest.raises(ValueError, match="has its own"):
        Main.pipeline(tmp_path / "in.wav", sample_rate=rate, **networks)


def test_the_example_of_the_docstring_runs(monkeypatch):
    import doctest

    monkeypatch.chdir(hp.root)
    [example] = doctest.DocTestFinder(recurse=False).find(Main.pipeline, "pipeline", globs=vars(Main))
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("rate", (8000, 44100, 48000))
def test_resampling_is_that_of_librosa(rate):
    import librosa

    audio = notes(0.5123, rate).astype(np.float32)
    wanted = librosa.resample(audio, orig_sr=rate, target_sr=hp.sample_rate)
    found = Util.resample(audio, rate)
    assert found.size == round(audio.size * hp.sample_rate / rate)
    np.testing.assert_array_equal(found[:wanted.size], wanted[:found.size])


def test_a_clip_of_another_rate_is_played_without_what_is_slow_to_import(tmp_path, root, networks):
    """The sound is written first; only then is matplotlib imported, for the picture."""
    import subprocess
    import sys

    soundfile.write(tmp_path / "in.wav", notes(0.3, 44100), 44100)
    code = (f"import sys; sys.path.insert(0, {str(root)!r}); import Main, Util; write = Util.write_audio; "
            "Util.write_audio = lambda *sound: (write(*sound), print(*{name.split('.')[0] for name in sys.modules})); "
            "Main.main(sys.argv[1:])")
    modules = subprocess.run([sys.executable, "-c", code, "in.wav", "--page", *flags(networks)], cwd=tmp_path,
                             capture_output=True, text=True, check=True).stdout.splitlines()[1].split()
    assert "torch" in modules
    assert not {"librosa", "matplotlib", "scipy", "numba", "mido", "pandas", "jinja2", "av"} & set(modules)
    assert (tmp_path / "in_epiano.html").stat().st_size > 10_000


# stereo

def test_stereo_keeps_the_sides_and_its_mean_is_the_mono_output(networks):
    models = Main.load_models(networks["ae"], networks["unet"])
    left, right = (0.1 * notes(2), 0.02 * notes(2, gain=0.5)[::-1])
    stereo = np.stack([left, right], axis=1).astype(np.float32)
    mono, _ = Main.resynthesise(stereo.mean(axis=1), models)
    output, _ = Main.resynthesise(stereo, models)
    assert output.shape == stereo.shape and output.dtype == np.float32
    mean = output.mean(axis=1)
    assert rms_db(mean / np.linalg.norm(mean) - mono / np.linalg.norm(mono)) < rms_db(mono / np.linalg.norm(mono)) - 60
    assert rms_db(output) == pytest.approx(rms_db(stereo), abs=0.05)
    assert rms_db(output[:, 0]) > rms_db(output[:, 1]) + 3


def test_stereo_of_two_same_channels_is_mono_twice(networks):
    models, one = Main.load_models(networks["ae"], networks["unet"]), notes(1).astype(np.float32)
    output, _ = Main.resynthesise(np.stack([one, one], axis=1), models)
    mono, _ = Main.resynthesise(one, models)
    assert rms_db(output[:, 0] - output[:, 1]) < -80 and rms_db(output[:, 0] - mono) < rms_db(mono) - 60


def test_stereo_is_written_and_mono_stays_mono(tmp_path, networks):
    for name, channels in ("mono", 1), ("stereo", 2):
        soundfile.write(tmp_path / f"{name}.wav", np.stack([notes(0.4), notes(0.4)[::-1]], axis=1)[:, :channels], 44100)
    Main.main([*(str(tmp_path / f"{name}.wav") for name in ("mono", "stereo")), "--stereo", "-o", str(tmp_path / "out"),
               *flags(networks)])
    assert [soundfile.info(tmp_path / "out" / f"{name}_epiano.wav").channels for name in ("mono", "stereo")] == [1, 2]


# notes

played = np.array([[0.1, 0.9, 60, 30], [0.5, 1.4, 64, 90], [0.9, 1.2, 60, 127], [1.2, 1.3, 60, 1]], np.float32)


@pytest.fixture
def heard(monkeypatch, networks):
    """The models of notes and of a U-Net, and what is heard of any recording."""
    models = NoteModel(NoteAutoencoder()), Main.load_models(networks["ae"], networks["unet"])[1]
    monkeypatch.setattr(Main, "load_models", lambda *options: models)
    monkeypatch.setattr(Main, "transcribe_audio", lambda audio, model: played)


def test_notes_are_written_as_they_were_heard(tmp_path, heard, capsys):
    Util.write_audio(tmp_path / "in.wav", notes(1.5).astype(np.float32))
    Main.main([str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.flac"), "--midi", "--page"])
    back = Notes.read_notes(tmp_path / "out.mid")
    np.testing.assert_allclose(back[:, :2], played[:, :2], atol=1e-3)
    np.testing.assert_array_equal(back[:, 2:], played[:, 2:])
    assert "the notes out.mid and the page out.html" in capsys.readouterr().out
    assert (tmp_path / "out.html").read_text().count("M0.10 ") == 2


def test_a_recording_is_transcribed(tmp_path, heard, networks, monkeypatch):
    recording = notes(1.5).astype(np.float32)
    Util.write_audio(tmp_path / "in.wav", recording)
    np.testing.assert_array_equal(Main.transcribe(tmp_path / "in.wav"), played)
    np.testing.assert_array_equal(Main.transcribe(recording, sample_rate=hp.sample_rate), played)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="ae.torch is an autoencoder without notes"):
        Main.transcribe(tmp_path / "in.wav", **networks)


def test_notes_are_played_on_a_preset(tmp_path, instruments, heard):
    recording = notes(1.5).astype(np.float32)
    Util.write_audio(tmp_path / "in.wav", recording)
    Main.main([str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--play", "FluidR3_GM.sf2:0:11", "--page"])
    other = Util.read_audio(tmp_path / "out_played.wav")
    assert other.size == recording.size and rms_db(other) == pytest.approx(rms_db(recording), abs=0.5)
    assert rms_db(other[:1000]) < rms_db(other) - 40 and not (tmp_path / "out.mid").exists()
    assert "FluidR3_GM 0:11" in (tmp_path / "out.html").read_text()
