"""The parts of the note autoencoder train one after the other, stop, go on, and never get worse."""
import json
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import AEMain
import AEParts
import DatasetCreator
import Hyperparameters as hp
import Main
import Notes
import NoteTrainer
import Plots
import Scale
import Training
import UNetMain
from AEDataset import split_for_training
from AEModel import NoteModel, load_model, snapshot
from Autoencoder import Autoencoder
from Checkpoints import save_tensors
from Clips import ClipMaker
from NoteAutoencoder import NoteAutoencoder
from NoteDataset import NoteDataset
from TableDecoder import TableDecoder
from UNetDataset import StoredOutputs, UNetDataset, level_difference
from notes_common import small, some_notes
from test_sampler import make_voice
from training_common import assert_same, interruption, losses, state

constants = dict(note_min_steps=4, note_max_steps=4, note_epochs=2, head_epochs=2, head_batch_size=1, head_clips=3,
                 head_versions=2, table_epochs=2, table_batch_size=1)
brief = dict(epochs=2, batch_size=2, crop_frames=64, device="cpu")
flags = ["--epochs", "2", "--batch-size", "2", "--crop-frames", "64", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("one_thread", "few_steps")


@pytest.fixture(scope="module")
def few_steps():
    """Trainings of a few steps, without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in constants.items():
            patch.setattr(hp, name, value)
        patch.setattr(Plots, "save_figure", lambda *_: None)
        yield


def play(notes, partials):
    """Return notes as decaying sines [shape=(n,)], of 2.5 s."""
    t = np.arange(int(2.5 * hp.sample_rate)) / hp.sample_rate
    audio = np.zeros(t.size)
    for onset, end, key, velocity in notes:
        hertz = 440 * 2 ** ((key - 69) / 12) * np.array(partials)[:, None]
        tone = (np.sin(2 * np.pi * hertz * (t - onset)) * (hertz < hp.fmax)).sum(0) * (t >= onset)
        audio += velocity / 127 * tone * np.exp(-4 * (t - onset).clip(0) - 20 * (t - end).clip(0))
    return audio / np.abs(audio).max()


@pytest.fixture(scope="module")
def sines(tmp_path_factory):
    """A data folder of two short pairs of recordings with MIDI files."""
    data = tmp_path_factory.mktemp("sines")
    for i, name in enumerate(("one", "two")):
        midi = data / "notes" / f"{name}.mid"
        midi.parent.mkdir(exist_ok=True)
        Notes.save_notes(midi, some_notes(20, 2.0, i))
        for folder, partials in ("piano", (1, 2, 3)), ("synth", (1, 4)):
            data.joinpath(folder).mkdir(exist_ok=True)
            soundfile.write(data / folder / f"{name}.wav", play(Notes.read_notes(midi, 9), partials), hp.sample_rate)
    DatasetCreator.build(data)
    return data


@pytest.fixture
def pairs(sines, tmp_path):
    """A copy of `sines` that a test may train on and change."""
    return shutil.copytree(sines, tmp_path / "pairs")


@pytest.fixture(scope="module")
def start(sines, tmp_path_factory):
    """Weights of a small note autoencoder that finds a few hundred notes where it is loud, some of them by luck."""
    torch.manual_seed(2)
    network, audio = NoteAutoencoder(**small).eval(), soundfile.read(sines / "piano" / "one.wav", dtype="float32")[0]
    head, images = network.encoder.head, [DatasetCreator.pitch_spectrogram(audio), DatasetCreator.spectrogram(audio)]
    with torch.no_grad():
        head.weight *= 60
        network.refiner.details.weight.normal_()
        for output, logits in enumerate(network.encoder(*(torch.from_numpy(image)[None] for image in images))[0]):
            head.bias[2 * output:2 * output + 2] -= logits.flatten().quantile(0.99)
    path = tmp_path_factory.mktemp("start") / "ae.torch"
    save_tensors(path, snapshot(network, {"front_end": DatasetCreator.front_end(), "pair": "recordings -> recordings"}))
    return path


def part_of(path, part):
    """Return the weights of a part of a note autoencoder, in half precision, as some files have them."""
    return {name: value.half() for name, value in state(path).items() if name.startswith(part)}


def assert_part(path, other, part, same=True):
    one, other = part_of(path, part), part_of(other, part)
    assert one.keys() == other.keys() and one
    assert all(torch.equal(value, other[name]) for name, value in one.items()) == same


# interruptions

@pytest.fixture(scope="module")
def whole(sines, start, tmp_path_factory):
    """The weights of a training of all parts that nothing interrupted."""
    data = shutil.copytree(sines, tmp_path_factory.mktemp("whole") / "data")
    AEMain.train(data, start=start, **brief)
    return data / "models" / "own" / "ae.torch"


def test_the_parts_train_one_after_the_other(whole, start):
    assert {path.name for path in whole.parent.iterdir()} == {
        "ae.torch", "ae_last.torch", *(f"ae{part}_losses.json" for part in ("", "_encoder", "_heads"))}
    for part, kinds in ("ae_encoder", ["dry", "recorded"]), ("ae_heads", ["dry", "recorded"]), ("ae", ["decoder"]):
        recorded = losses(whole.with_name(f"{part}.torch"))
        assert len(recorded["training"]) == len(recorded["validation"]) == 2 and min(recorded["training"]) > 0
        assert [list(figures) for figures in recorded["figures"]] == 2 * [kinds]
        assert recorded["settings"]["part"] == part.removeprefix("ae_").replace("ae", "decoder")
        assert set(recorded["training_pieces"]).isdisjoint(recorded["validation_pieces"])
    assert losses(whole)["validation"][-1] < losses(whole)["before"]["validation"]
    assert isinstance(load_model(Autoencoder, whole), NoteModel)
    assert_part(whole, start, "decoder", same=False)


def assert_as_whole(weights, whole):
    assert_same(weights, whole)
    for name in "ae_encoder", "ae_heads":
        assert losses(weights.with_name(f"{name}.torch")) == losses(whole.with_name(f"{name}.torch"))
    for part in "encoder", "refiner", "decoder":
        assert_part(weights.with_name("ae_last.torch"), whole.with_name("ae_last.torch"), part)
    assert {path.name for path in weights.parent.iterdir()} == {path.name for path in whole.parent.iterdir()}


def test_a_training_that_is_interrupted_in_each_part_resumes_to_the_bit(pairs, start, whole):
    for dataset, read in (("NoteDataset.NoteDataset", 3), ("RefinerTraining.PredictedClips", 4),
                          ("NoteTrainer.TableCrops", 5)):
        with interruption(pairs, read, signal.SIGINT, dataset):
            AEMain.train(pairs, start=start, **brief)
        assert not (pairs / "models" / "own" / "ae.torch").exists()
    AEMain.train(pairs, start=start, **brief)
    assert_as_whole(pairs / "models" / "own" / "ae.torch", whole)


killed_training = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
import AEMain, Hyperparameters as hp, Plots, RefinerTraining
torch.set_num_threads(1)
vars(hp).update(json.loads(sys.argv[2]), checkpoint_minutes=0)
Plots.save_figure = lambda *_: None
reads, read = 0, RefinerTraining.PredictedClips.__getitem__

def killed(self, key):
    global reads
    reads += 1
    if reads == 4:  # an epoch has two clips
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, key)

RefinerTraining.PredictedClips.__getitem__ = killed
AEMain.train(".", start=sys.argv[3], **json.loads(sys.argv[4]))
"""


def test_a_training_that_is_killed_resumes_to_the_bit(root, pairs, start, whole):
    process = subprocess.run([sys.executable, "-c", killed_training, root, json.dumps(constants), start,
                              json.dumps(brief)], cwd=pairs, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    own = pairs / "models" / "own"
    assert (own / "ae_heads.checkpoint").exists() and (own / "ae_encoder.torch").exists()
    AEMain.train(pairs, start=start, **brief)
    assert_as_whole(own / "ae.torch", whole)


# what is kept

def test_a_training_that_makes_all_worse_keeps_the_start(pairs, start, monkeypatch, capsys):
    monkeypatch.setattr(hp, "head_learning_rate", 0.5)
    AEMain.train(pairs, part="encoder", start=start, **{**brief, "learning_rate": 0.5})
    own = pairs / "models" / "own"
    for name in "ae_encoder", "ae":
        recorded = losses(own / f"{name}.torch")
        assert recorded["kept"] == 0 and min(recorded["validation"]) > recorded["before"]["validation"]
    said = capsys.readouterr().out
    assert said.count("none of 2 epochs is better than what the training began with, which is kept") == 2
    table = [line.split()[-2:] for line in said.split("   before    after\n")[1].splitlines()[:8]]
    assert all(before == after for before, after in table) and float(table[0][0]) > 0
    for part in "encoder", "refiner", "decoder":
        assert_part(own / "ae.torch", start, part)


def test_the_heads_alone_leave_the_encoder_as_it_is(pairs, start):
    AEMain.train(pairs, part="heads", start=start, **brief)
    last = pairs / "models" / "own" / "ae_last.torch"
    for part, same in ("encoder", True), ("decoder", True), ("refiner.details", True), ("refiner.onset_head", False):
        assert_part(last, start, part, same)


def test_a_sampled_decoder_alone_is_stored_without_training(pairs, start, monkeypatch):
    for folder, preset in ("piano", "FluidR3_GM.sf2:0:0"), ("synth", "FluidR3_GM.sf2:0:5"):
        pairs.joinpath(folder, "preset.txt").write_text(preset + "\n")
    asked, voice = [], make_voice()
    monkeypatch.setattr(Scale, "render_voice", lambda preset: asked.append(preset) or voice)
    for model in "own", "other":  # the voice is rendered once
        AEMain.train(pairs, part="decoder", start=start, model=model, **brief)
    assert asked == [("FluidR3_GM.sf2", 0, 5)]
    assert [path.name for path in (pairs / "models" / "own").iterdir()] == ["ae.torch"]
    weights = pairs / "models" / "own" / "ae.torch"
    model = load_model(Autoencoder, weights)
    assert torch.equal(model.voice.streams, voice.streams) and model.pair == "FluidR3_GM.sf2:0:0 -> FluidR3_GM.sf2:0:5"
    for part in "encoder", "refiner":
        assert_part(weights, start, part)
    with pytest.raises(ValueError, match="is finished"):
        AEMain.train(pairs, part="decoder", start=start, **brief)


def lessons(data, initial=None, **settings):
    return AEParts.Lessons(data, DatasetCreator.build(data), initial, AEParts.complete_settings(settings, not initial),
                           torch.device("cpu"))


def test_a_decoder_of_the_same_target_is_kept_and_another_begins_anew(pairs, start):
    model = load_model(Autoencoder, start)
    kept, given = model.network.decoder, lessons(pairs, model)
    assert AEParts.build_network(model, given, None, None).decoder is kept
    given.target = "another"
    assert AEParts.build_network(model, given, None, "heads").decoder is kept
    assert AEParts.build_network(model, given, "table", None).decoder is not kept
    model.network.decoder = voice = make_voice()
    given.target = "recordings"
    assert isinstance(AEParts.build_network(model, given, None, None).decoder, TableDecoder)
    model.network.decoder, model.pair, given.target = voice, "piano -> FluidR3_GM.sf2:0:5", "FluidR3_GM.sf2:0:5"
    assert AEParts.build_network(model, given, None, None).decoder is voice


def test_from_scratch_begins_with_nothing(pairs, start, monkeypatch):
    monkeypatch.setattr(hp, "encoder_form", small)
    AEMain.train(pairs, from_scratch=True, **{**brief, "epochs": 1})
    own = pairs / "models" / "own"
    assert losses(own / "ae_encoder.torch")["before"] is None and losses(own / "ae_encoder.torch")["kept"] == 1
    assert losses(own / "ae_encoder.torch")["settings"]["learning_rate"] == hp.scratch_learning_rate
    assert part_of(own / "ae.torch", "encoder").keys() == part_of(start, "encoder").keys()
    assert part_of(own / "ae.torch", "refiner.details")["refiner.details.weight"].any()  # found behind the encoder
    with pytest.raises(ValueError, match="--from-scratch begins without weights"):
        AEMain.train(pairs, model="other", from_scratch=True, start=start)


def test_the_losses_teach_the_encoder_alone(pairs):
    torch.manual_seed(0)
    network, dataset = NoteAutoencoder(**small), NoteDataset(["one"], pairs)
    trainer = NoteTrainer.EncoderTrainer(network, 1e-3, torch.device("cpu"), ClipMaker(pairs))
    trainer.batch_loss(torch.utils.data.default_collate([dataset[0, 20, 64, 0, 1]]))[0].backward()
    reached = {name.split(".")[0] for name, value in network.named_parameters() if value.grad is not None}
    assert reached == {"encoder"} and all(value.grad.any() for value in network.encoder.parameters())


# data

def test_validation_clips_are_dry_and_recorded_and_always_the_same(pairs):
    clips = lessons(pairs).clips()
    dry, recorded = clips
    assert (dry[0], recorded[0]) == ("dry", "recorded")
    [stored] = np.load(pairs / "generated" / clips.names[0] / "piano_audio.npy")
    np.testing.assert_array_equal(dry[1], stored / np.float32(32768))
    assert recorded[1].shape == dry[1].shape and np.isfinite(recorded[1]).all()
    assert abs(np.corrcoef(dry[1], recorded[1])[0, 1]) < 0.99
    np.testing.assert_array_equal(list(clips)[1][1], recorded[1])
    for part in 2, 3:
        np.testing.assert_array_equal(dry[part], recorded[part])
    assert dry[2].shape == (20, 4) and dry[3].shape == (hp.n_mels, stored.size // hp.hop_length)


def test_pieces_whose_midi_file_is_missing_are_left_out(pairs, capsys):
    shutil.rmtree(pairs / "generated")
    (pairs / "notes" / "two.mid").unlink()
    assert lessons(pairs).names == ["one"]
    assert f"missing: {pairs / 'notes' / 'two.mid'}; these pairs are left out" in capsys.readouterr().err


def test_a_long_recording_gives_several_pieces_with_their_notes(tmp_path):
    rng = np.random.default_rng(0)
    for folder in "piano", "synth", "notes":
        tmp_path.joinpath(folder).mkdir()
        if folder != "notes":
            soundfile.write(tmp_path / folder / "long.wav", 0.1 * rng.standard_normal(65 * hp.sample_rate),
                            hp.sample_rate)
    Notes.save_notes(tmp_path / "notes" / "long.mid", np.array([(1, 2, 60, 80), (29, 31, 62, 80), (61, 62, 64, 80)]))
    assert DatasetCreator.build(tmp_path) == ["long", "long~2", "long~3"]
    assert DatasetCreator.build(tmp_path, whole=False) == ["long"]
    notes = [np.load(tmp_path / "generated" / name / "notes.npy")[:, :3] for name in ("long", "long~2", "long~3")]
    for found, expected in zip(notes, ([(1, 2, 60), (29, 30, 62)], [(-1, 1, 62)], [(1, 2, 64)])):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    dataset = NoteDataset(["long", "long~2", "long~3"], tmp_path)
    assert [len(dataset.clip(piece)[0]) / hp.sample_rate for piece in range(3)] == [30, 30, 5]
    assert len(dataset.clip(1)[1]) == 0  # its only note has begun before it
    assert all(len(set(side) & {"long", "long~2"}) != 1 for side in split_for_training(["long", "long~2", "other"], 0))


def test_a_recording_that_is_late_is_shifted(pairs, capsys):
    whole, frames = np.load(pairs / "generated" / "one" / "synth.npy"), 20
    audio, rate = soundfile.read(pairs / "synth" / "one.wav")
    late = np.concatenate([np.zeros(frames * hp.hop_length), audio])
    soundfile.write(pairs / "synth" / "one.wav", late[:len(audio)], rate)
    DatasetCreator.build(pairs)
    assert "one.wav comes +0.232 s after" in capsys.readouterr().err
    shifted = np.load(pairs / "generated" / "one" / "synth.npy")
    assert shifted.shape[1] == whole.shape[1] - frames
    np.testing.assert_allclose(shifted[:, :-4], whole[:, :-frames - 4], atol=2e-3)
    assert json.loads((pairs / "generated" / "one" / "piano_parts.json").read_text())["lag"] == frames


def test_pieces_that_the_shipped_encoder_knows_are_found_by_their_notes(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "data", tmp_path)
    assert AEParts.known_pieces(["one", "two"], pairs) == []
    softer = np.load(pairs / "generated" / "two" / "notes.npy") * (1, 1, 1, 0.5)
    (tmp_path / "known_pieces.txt").write_text(f"00000000\n{Notes.piece_digest(softer)}\n")
    assert AEParts.known_pieces(["one", "two", "two~2"], pairs) == ["two", "two~2"]
    names = list("abcdefghij")
    training, validation = split_for_training(names, 0, known=list("abcdefg"))
    assert len(validation) == 2 and set(validation) < set("hij") and set(training) == set(names) - set(validation)


def test_the_learning_rate_of_short_trainings_reaches_its_full_value():
    for steps in (1, 9, 100, 2000):
        assert max(Training.schedule_factor(step, steps, "linear") for step in range(steps)) == 1


# the U-Net behind

def test_the_commands_advised_behind_notes_run(pairs, start, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hp, "unet_wf", 2)
    AEMain.main([*flags, "--part", "heads", "--start", str(start), "--data", str(pairs)])
    script, *arguments = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: python "))
    assert script == "UNetMain.py" and arguments == ["--data", str(pairs), "--device", "cpu"]
    UNetMain.main([*arguments, "--epochs", "1", "--batch-size", "2", "--crop-frames", "64"])
    script, recording, *arguments = shlex.split(
        capsys.readouterr().out.splitlines()[-1].removeprefix("next: python "))
    assert (script, recording) == ("Main.py", "RECORDING")
    monkeypatch.chdir(tmp_path)
    Main.main([str(pairs / "piano" / "one.wav"), *arguments])
    played, recording = (soundfile.read(path)[0] for path in (
        tmp_path / "one_target_instrument.wav", pairs / "piano" / "one.wav"))
    assert played.size == recording.size and np.isfinite(played).all()


def test_a_unet_is_trained_on_targets_at_the_level_of_the_notes(pairs, start):
    """The level of what notes give is their own; that of the target is not known when a recording is played."""
    outputs = StoredOutputs(load_model(Autoencoder, start), pairs, "own", versions=(0, 1))
    outputs.write(["one"])
    dataset = UNetDataset(["one"], pairs, outputs, in_channels=2)
    (output, piano), target = ([image.numpy() for image in part] for part in dataset[0])
    np.testing.assert_array_equal(piano, np.load(pairs / "generated" / "one" / "piano.npy"))
    stored = np.load(pairs / "generated" / "one" / "synth.npy").astype(np.float32)
    inside = (target[0] > 0.02) & (target[0] < 0.98) & (stored > 0)
    louder = (target[0] - stored)[inside]
    assert inside.sum() > 1000 and np.ptp(louder) < 1e-3  # all of it by the same
    assert level_difference(stored, output) == pytest.approx(hp.top_db * louder.mean(), abs=0.1)


# options

def test_options_of_the_other_autoencoder_are_refused(pairs, weights, start):
    for options, refusal in (
            (["--channels", "8", "16", "16"], "--channels belongs to the report's autoencoder; leave it out"),
            (["--report", "--part", "encoder"], "--part belongs to the note autoencoder; leave it out"),
            (["--network", "report", "--start", str(start)], "ae.torch holds weights of the note autoencoder; leave"),
            (["--start", str(weights[0])], "ae.torch holds weights of the report's autoencoder; add --report")):
        with pytest.raises(ValueError, match=refusal):
            AEMain.main([*flags, "--data", str(pairs), *options])
    assert not (pairs / "models" / "own").exists()


# weights

@pytest.mark.parametrize("half", (False, True), ids=("single", "half precision"))
def test_form_and_weights_come_back(tmp_path, model, half):
    torch.manual_seed(3)
    network = NoteAutoencoder(**{**small, "stages": (1, 2, 4), "narrow": 3, "layers": 5})
    network.decoder = model.network.decoder
    saved = {key: value.half() if half and value.is_floating_point() else value
             for key, value in network.state_dict().items()}
    torch.save(saved, tmp_path / "ae.torch")
    loaded = load_model(Autoencoder, tmp_path / "ae.torch")
    assert isinstance(loaded, NoteModel) and loaded.network.state_dict().keys() == saved.keys()
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, saved[key].float() if value.is_floating_point() else saved[key])
    rng = np.random.default_rng(0)
    images = rng.random((hp.n_pitches, 10), np.float32), rng.random((hp.n_mels, 20), np.float32)
    tolerance = 0.02 if half else 0
    np.testing.assert_allclose(loaded.predict_frames(*images), NoteModel(network).predict_frames(*images),
                               atol=tolerance)
    notes = some_notes()
    np.testing.assert_allclose(loaded.mel_decibels(notes, 0, 50), model.mel_decibels(notes, 0, 50), atol=5 * tolerance)


@pytest.mark.parametrize("part, refusal", (
    ("decoder", "ae.torch does not hold the weights of an autoencoder; train it again"),
    ("encoder.head", "ae.torch does not hold the weights of an autoencoder; train it again"),
    ("refiner", "ae.torch holds the weights of an earlier form of the note autoencoder; train it again")))
def test_weights_that_lack_a_part_are_refused(tmp_path, model, part, refusal):
    torch.save({key: value for key, value in model.network.state_dict().items() if not key.startswith(part)},
               tmp_path / "ae.torch")
    with pytest.raises(ValueError, match=refusal):
        load_model(Autoencoder, tmp_path / "ae.torch")
