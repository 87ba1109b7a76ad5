"""The note autoencoder trains, stops, goes on and plays like the report's."""
import functools
import json
import os
import shlex
import shutil
import signal

import numpy as np
import pytest
import soundfile
import torch

import AEMain
import Checkpoints
import DatasetCreator
import Hyperparameters as hp
import Main
import UNetMain
from AEDataset import NoteDataset
from AEModel import NoteModel, load_model, snapshot
from Autoencoder import Autoencoder
from NoteAutoencoder import NoteAutoencoder
from TableDecoder import TableDecoder
from notes_common import small, some_notes
from UNetDataset import UNetDataset, level_difference, write_outputs

pytestmark = pytest.mark.usefixtures("one_thread", "table")


@pytest.fixture
def table(monkeypatch):
    """Have AEMain.py train a table as decoder, since the rendering of a sampled one takes a minute."""
    monkeypatch.setattr(AEMain, "choose_decoder", lambda target, decoder=None: decoder or "table")


def test_the_losses_teach_encoder_and_decoder_apart(takes):
    names = DatasetCreator.build(takes)
    batch = torch.utils.data.default_collate([NoteDataset(names, takes)[0, 40, 64, 1]])
    reached = {}
    for name, weights in ("labels", "encoder"), ("target", "decoder"):
        torch.manual_seed(0)
        trainer = AEMain.NoteTrainer(NoteAutoencoder(**small), 1e-3, torch.device("cpu"))
        trainer.network.train()
        changed = {**batch, name: batch[name] * 0.5}
        gradients = []
        for part in batch, changed:
            trainer.network.zero_grad()
            trainer.batch_loss(part)[0].backward()
            gradients.append({key: value.grad.clone() for key, value in trainer.network.named_parameters()
                              if value.grad is not None})
        reached[weights] = {key.split(".")[0] for key in gradients[0] if not torch.equal(*(g[key] for g in gradients))}
    assert reached == {"encoder": {"encoder"}, "decoder": {"decoder"}}


def test_notes_are_for_all_pieces_or_for_none(takes):
    (takes / "notes" / "two.mid").unlink()
    with pytest.raises(ValueError, match="notes lacks two; put their MIDI files there"):
        AEMain.train(takes)
    shutil.rmtree(takes / "notes")
    with pytest.raises(ValueError, match="notes holds no notes, which the note autoencoder needs; put the MIDI files"):
        AEMain.train(takes, network="notes")


@pytest.mark.parametrize("pair, kept", (("a -> it", True), ("a -> another", False), (None, True)))
def test_a_decoder_for_another_target_begins_anew(takes, model, tmp_path, monkeypatch, pair, kept):
    target = DatasetCreator.trained_for(takes)["pair"].rpartition(" -> ")[2]
    note = {"front_end": DatasetCreator.front_end(), **({"pair": pair.replace("it", target)} if pair else {})}
    Checkpoints.save_tensors(tmp_path / "ae.torch", snapshot(model.network, note))
    monkeypatch.setattr(AEMain, "NoteAutoencoder", functools.partial(NoteAutoencoder, **small))
    monkeypatch.setattr(AEMain.NoteTrainer, "train_epoch", lambda self, batches, factors: (0.0 for _ in batches))
    AEMain.train(takes, part="decoder", decoder="table", start=tmp_path / "ae.torch", epochs=1, model="other")
    trained = torch.load(takes / "models" / "other" / "ae.torch", weights_only=True)
    expected = (model.network.decoder if kept else TableDecoder()).state_dict()
    for key, value in expected.items():
        assert key == "loudest" or torch.equal(trained[f"decoder.{key}"].float(), value), key
    assert torch.equal(trained["encoder.head.weight"].float(), model.network.encoder.head.weight)


# training

brief = ["--epochs", "2", "--batch-size", "2", "--crop-frames", "64", "--device", "cpu"]


@pytest.fixture
def narrow(monkeypatch):
    """Have AEMain.py train a small network."""
    monkeypatch.setattr(AEMain, "NoteAutoencoder", functools.partial(NoteAutoencoder, **small))


def state(path):
    return torch.load(path, weights_only=True)


def test_both_trainings_and_playing_one_after_the_other(takes, narrow, tmp_path, monkeypatch, capsys):
    AEMain.main([*brief, "--network", "notes", "--augmented", "--data", str(takes)])
    own = takes / "models" / "own"
    recorded = json.loads((own / "ae_losses.json").read_text())
    assert recorded["settings"]["network"] == "notes" and len(recorded["training"]) == 2
    assert recorded["training"][1] < recorded["training"][0]
    assert {name.partition("~")[0] for name in recorded["training_pieces"]}.isdisjoint(
        name.partition("~")[0] for name in recorded["validation_pieces"])
    assert isinstance(load_model(Autoencoder, own / "ae.torch"), NoteModel)
    UNetMain.main([*brief, "--wf", "3", "--data", str(takes)])
    unet = json.loads((own / "unet_losses.json").read_text())
    assert unet["training_pieces"] == recorded["training_pieces"]
    assert unet["validation_pieces"] == recorded["validation_pieces"]
    outputs = {path.stem for path in (takes / "ae_output" / "own").glob("*.npy")}
    assert outputs == {"one", "one~0", "one~1", "two", "two~0", "two~1"}
    monkeypatch.chdir(tmp_path)
    Main.main([str(takes / "piano" / "one.wav"), "--ae", str(own / "ae.torch"), "--unet", str(own / "unet.torch")])
    played, recording = (soundfile.read(path)[0] for path in (tmp_path / "one_epiano.wav", takes / "piano" / "one.wav"))
    assert played.size == recording.size and np.isfinite(played).all()
    assert (tmp_path / "one_epiano.png").exists()
    assert "next: python UNetMain.py" in capsys.readouterr().out


def test_a_unet_is_trained_on_what_it_sees_when_a_recording_is_played(takes, model, tmp_path):
    """The level of what notes give is their own; that of the target is not known then."""
    names = DatasetCreator.build(takes)
    with torch.no_grad():
        model.network.encoder.head.bias.zero_()
        model.network.encoder.head.bias[:2] = -3.2  # so that it hears notes, but not thousands
    Checkpoints.save_tensors(tmp_path / "ae.torch", snapshot(model.network, {}))
    write_outputs(tmp_path / "ae.torch", names, takes)
    dataset = UNetDataset(names, takes, in_channels=2, own_level=True)
    for i, name in enumerate(names):
        (output, piano), target = ([image.numpy() for image in part] for part in dataset[i])
        pitch = np.load(takes / "generated" / name / "piano_pitch.npy").astype(np.float32)
        np.testing.assert_allclose(output, model.generate(pitch, piano), atol=1e-3)
        stored = np.load(takes / "generated" / name / "synth.npy").astype(np.float32)
        inside = (target[0] > 0.02) & (target[0] < 0.98) & (stored > 0)
        louder = (target[0] - stored)[inside]
        assert inside.sum() > 1000 and np.ptp(louder) < 1e-3  # all of it by the same
        assert level_difference(stored, output) == pytest.approx(hp.top_db * louder.mean(), abs=0.1)
        crop = dataset[i, 40, 64, 3][1][0].numpy()
        np.testing.assert_allclose(crop, target[0][:, 40:104], atol=1e-6)


def test_the_report_is_trained_on_the_same_data(takes):
    AEMain.main([*brief, "--network", "report", "--channels", "8", "16", "16", "--data", str(takes)])
    assert not isinstance(load_model(Autoencoder, takes / "models" / "own" / "ae.torch"), NoteModel)
    assert json.loads((takes / "models" / "own" / "ae_losses.json").read_text())["settings"]["network"] == "report"


def test_a_training_of_notes_goes_on_as_if_it_had_not_been_stopped(takes, narrow, monkeypatch):
    AEMain.main([*brief, "--data", str(takes), "--model", "whole"])

    class Interrupting(NoteDataset):
        reads = 0

        def __getitem__(self, key):
            Interrupting.reads += 1
            if Interrupting.reads in (5, 9):
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(key)

    with monkeypatch.context() as patch:
        patch.setattr(AEMain, "NoteDataset", Interrupting)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                AEMain.main([*brief, "--data", str(takes)])
    AEMain.main([*brief, "--data", str(takes)])
    one, other = (state(takes / "models" / name / "ae.torch") for name in ("whole", "own"))
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


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


def test_options_of_the_other_autoencoder_are_refused(takes, tmp_path, model):
    with pytest.raises(ValueError, match="--channels belongs to the report's autoencoder; leave it out, or give --net"):
        AEMain.main([*brief, "--data", str(takes), "--channels", "8", "16", "16"])
    with pytest.raises(ValueError, match="--part belongs to the note autoencoder; leave it out, or give --network not"):
        AEMain.main([*brief, "--data", str(takes), "--network", "report", "--part", "encoder"])
    torch.save(model.network.state_dict(), tmp_path / "ae.torch")
    with pytest.raises(ValueError, match="ae.torch holds weights of the note autoencoder; give --network notes"):
        AEMain.main([*brief, "--data", str(takes), "--report", "--start", str(tmp_path / "ae.torch")])
    own = takes / "models" / "own"
    own.mkdir(parents=True)
    shutil.copy(tmp_path / "ae.torch", own)
    with pytest.raises(ValueError, match="ae.torch is a note autoencoder, whose outputs are stored and not augmented"):
        UNetMain.main([*brief, "--data", str(takes), "--augmented"])
    assert [path.name for path in own.iterdir()] == ["ae.torch"]


def test_initial_weights_choose_the_autoencoder(takes, weights):
    settings = AEMain.train(takes, start=weights[0], epochs=1, batch_size=2, crop_frames=64, device="cpu")
    assert settings["network"] == "report" and settings["channels"] == [16, 32, 32]


def test_the_default_number_of_epochs_goes_with_the_autoencoder(takes, narrow, weights, monkeypatch):
    for name, value in dict(ae_epochs=1, note_epochs=2, unet_epochs=3, note_unet_epochs=4).items():
        monkeypatch.setattr(hp, name, value)
    options = dict(batch_size=2, crop_frames=64, device="cpu")
    assert AEMain.train(takes, **options)["epochs"] == 2
    assert UNetMain.train(takes, wf=1, **options)["epochs"] == 4
    assert AEMain.train(takes, model="report", network="report", channels=(4, 4, 4), **options)["epochs"] == 1
    assert UNetMain.train(takes, model="report", wf=1, **options)["epochs"] == 3


def test_the_commands_advised_behind_notes_run(takes, narrow, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hp, "unet_wf", 2)
    AEMain.main([*brief, "--augmented", "--data", str(takes)])
    script, *arguments = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next: python "))
    assert script == "UNetMain.py" and arguments == [
        "--data", str(takes), "--model", "own", "--device", "cpu", "--epochs", "1"]  # of 10, as 2 of 20
    UNetMain.main([*arguments, "--batch-size", "2", "--crop-frames", "64"])
    script, recording, *arguments = shlex.split(
        capsys.readouterr().out.splitlines()[-1].removeprefix("next: python "))
    assert (script, recording) == ("Main.py", "RECORDING")
    monkeypatch.chdir(tmp_path)
    Main.main([str(takes / "piano" / "one.wav"), *arguments])
    assert (tmp_path / "one_epiano.wav").exists()


@pytest.mark.parametrize("part, refusal", (
    ("decoder", "ae.torch does not hold the weights of an autoencoder; train it again"),
    ("encoder.head", "ae.torch does not hold the weights of an autoencoder; train it again"),
    ("refiner", "ae.torch holds the weights of an earlier form of the note autoencoder; train it again")))
def test_weights_that_lack_a_part_are_refused(tmp_path, model, part, refusal):
    torch.save({key: value for key, value in model.network.state_dict().items() if not key.startswith(part)},
               tmp_path / "ae.torch")
    with pytest.raises(ValueError, match=refusal):
        load_model(Autoencoder, tmp_path / "ae.torch")
