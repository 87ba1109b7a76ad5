"""The parts of the note autoencoder train one after the other, stop, go on, and never get worse."""
import random
import shutil

import numpy as np
import pytest
import soundfile
import torch

import AEMain
import DatasetCreator
import Hyperparameters as hp
from AEDataset import split_for_training
from AEModel import NoteModel, load_model, snapshot
from Autoencoder import Autoencoder
from UNetDataset import StoredOutputs, UNetDataset, level_difference
from audio import audio_files
from notes import note_events
from notes.note_autoencoder import NoteAutoencoder
from notes.table_decoder import TableDecoder
from rendering import clip_sources, training_clips, voice_sampling
from training import head_training, note_dataset, note_training
from training.checkpoints import save_tensors
from training.encoder_training import frame_loss
from notes_common import make_voice, note_labels, small, some_notes
from training_common import assert_same, brief, interruption, kill, losses, state

constants = dict(note_min_steps=4, note_max_steps=4, note_epochs=2, head_epochs=2, head_batch_size=1, head_clips=3,
                 head_versions=2, table_epochs=2, table_batch_size=1)

pytestmark = pytest.mark.usefixtures("one_thread", "few_steps", "no_pictures")


@pytest.fixture(scope="module")
def few_steps():
    """Trainings of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in constants.items():
            patch.setattr(hp, name, value)
        yield


def play(notes, partials):
    """Return notes as decaying sines [shape=(n,)], of 2.5 s."""
    t, audio = np.arange(int(2.5 * hp.sample_rate)) / hp.sample_rate, 0
    for onset, end, key, velocity in notes:
        hertz = 440 * 2 ** ((key - 69) / 12) * np.array(partials)[:, None]
        tone = (np.sin(2 * np.pi * hertz * (t - onset)) * (hertz < hp.fmax)).sum(0) * (t >= onset)
        audio = audio + velocity / 127 * tone * np.exp(-4 * (t - onset).clip(0) - 20 * (t - end).clip(0))
    return audio / np.abs(audio).max()


@pytest.fixture(scope="module")
def sines(tmp_path_factory):
    """A data folder of two short pairs of recordings with MIDI files."""
    data = tmp_path_factory.mktemp("sines")
    data.joinpath("notes").mkdir()
    for i, name in enumerate(("one", "two")):
        midi = data / "notes" / f"{name}.mid"
        note_events.save_notes(midi, some_notes(20, 2.0, i))
        for folder, partials in ("piano", (1, 2, 3)), ("synth", (1, 4)):
            audio_files.write_audio(data / folder / f"{name}.wav", play(note_events.read_notes(midi, 9), partials))
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


@pytest.fixture
def clips(tmp_path, responses, monkeypatch):
    """A data folder with clips/, of one piano of sines, and constants for a training of seconds."""
    for module, constants in {
            hp: dict(clip_lead_s=1.0, note_max_steps=6, note_epochs=2, head_epochs=1, head_clips=2,
                     max_validation_pieces=1, encoder_form=small),
            clip_sources: dict(keys=(40, 60, 80), fade=100, validation_step=2),
            training_clips: dict(pool_size=2), note_dataset: dict(clips_per_piano=4),
            head_training: dict(head_clip_frames=128)}.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
    t = np.arange(6000) / hp.sample_rate
    hertz = 440 * 2 ** ((np.array(clip_sources.keys) - 69) / 12)
    sounds = np.sin(2 * np.pi * hertz[:, None, None] * t) * np.exp(-4 * t) * np.array([0.2, 0.4, 0.6, 0.8])[:, None]
    folder = tmp_path / "clips"
    (folder / "pianos").mkdir(parents=True)
    clip_sources.save_piano(folder / "pianos" / "sines.npz", sounds.astype(np.float32))
    np.savez(folder / "rooms.npz", *[response.astype(np.float16) for response in responses])
    pieces = [some_notes(60, 12, seed) for seed in range(3)]
    np.savez(folder / "pieces.npz", notes=np.concatenate(pieces), note_counts=[60] * 3, pedal=np.zeros((0, 2)),
             pedal_counts=[0] * 3)
    return tmp_path


def part_of(path, part):
    """Return the weights of a part of a note autoencoder, in half precision, as some files have them."""
    return {name: value.half() for name, value in state(path).items() if name.startswith(part)}


def assert_part(path, other, part, same=True):
    one, other = part_of(path, part), part_of(other, part)
    assert one.keys() == other.keys() and one
    assert all(torch.equal(value, other[name]) for name, value in one.items()) == same


@pytest.fixture(scope="module")
def whole(sines, start, tmp_path_factory):
    """The weights of a training of all parts that nothing interrupted."""
    data = shutil.copytree(sines, tmp_path_factory.mktemp("whole") / "data")
    AEMain.train(data, start=start, **brief)
    return data / "models" / "own" / "ae.torch"


def test_the_parts_train_one_after_the_other(whole, start):
    assert {path.name for path in whole.parent.iterdir()} == {"ae.torch", *(
        f"ae{part}_{end}" for part in ("", "_encoder", "_heads") for end in ("last.torch", "losses.json"))}
    for part, kinds in ("ae_encoder", ["dry", "recorded"]), ("ae_heads", ["dry", "recorded"]), ("ae", ["decoder"]):
        recorded = losses(whole.with_name(f"{part}.torch"))
        assert len(recorded["training"]) == len(recorded["validation"]) == 2 and min(recorded["training"]) > 0
        assert [list(figures) for figures in recorded["figures"]] == 2 * [kinds]
        assert recorded["settings"]["part"] == part.removeprefix("ae_").replace("ae", "decoder")
        assert set(recorded["training_pieces"]).isdisjoint(recorded["validation_pieces"])
    assert losses(whole)["validation"][-1] < losses(whole)["before"]["validation"]
    assert isinstance(load_model(Autoencoder, whole), NoteModel)
    assert_part(whole, start, "decoder", same=False)


def test_sigkill_at_random_moments_of_each_part_changes_no_bit(pairs, start, whole, monkeypatch):
    monkeypatch.setattr(hp, "checkpoint_minutes", 0)
    own = pairs / "models" / "own"
    for dataset, reads in (("note_dataset.NoteDataset", (1, 8)), ("head_training.PredictedClips", (1, 4)),
                           ("table_training.TableCrops", (1, 8))):
        kill(lambda: AEMain.train(pairs, start=start, **brief), random.randint(*reads), f"training.{dataset}")
        assert not (own / "ae.torch").exists()
    assert (own / "ae_heads.torch").exists()
    with pytest.raises(ValueError, match=r"ae_encoder.checkpoint was started with other settings \(epochs 2, now 3\)"):
        AEMain.train(pairs, start=start, **{**brief, "epochs": 3})
    AEMain.train(pairs, start=start, **brief)
    assert_same(own / "ae.torch", whole)
    for name in "ae_encoder", "ae_heads":
        assert losses(own / f"{name}.torch") == losses(whole.with_name(f"{name}.torch"))
    for part in "encoder", "refiner", "decoder":
        assert_part(own / "ae_last.torch", whole.with_name("ae_last.torch"), part)
    assert {path.name for path in own.iterdir()} == {path.name for path in whole.parent.iterdir()}


@pytest.mark.parametrize("trained", (["ae_encoder", "ae"], ["ae_encoder"]))
def test_a_training_that_makes_all_worse_keeps_the_start(pairs, start, monkeypatch, capsys, trained):
    monkeypatch.setattr(hp, "head_learning_rate", 0.5)
    if trained == ["ae_encoder"]:  # for the instruments of the shipped weights, the heads are kept with the encoder
        monkeypatch.setattr(hp, "ae_weights", start)
    AEMain.train(pairs, part="encoder", start=start, **{**brief, "learning_rate": 0.5})
    own = pairs / "models" / "own"
    assert [name for name in ("ae_encoder", "ae") if (own / f"{name}_losses.json").exists()] == trained
    for name in trained:
        recorded = losses(own / f"{name}.torch")
        assert recorded["kept"] == 0 and min(recorded["validation"]) > recorded["before"]["validation"]
    said = capsys.readouterr().out
    assert said.count("none of 2 epochs is better than what the training began with, which is kept") == len(trained)
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
    monkeypatch.setattr(voice_sampling, "render_voice", lambda preset: asked.append(preset) or voice)
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


def training_data(data, initial=None):
    return note_training.TrainingData(data, DatasetCreator.build(data), initial,
                                      note_training.complete_settings({}, not initial), torch.device("cpu"))


def test_a_decoder_of_the_same_target_is_kept_and_another_begins_anew(pairs, start):
    model = load_model(Autoencoder, start)
    kept, given, voice = model.network.decoder, training_data(pairs, model), make_voice()

    def built(decoder=None, part=None):
        return note_training.build_network(model, given, decoder, part).decoder

    assert built() is kept
    given.target = "another"
    assert built(part="heads") is kept and built("table") is not kept
    model.network.decoder, given.target = voice, "recordings"
    assert isinstance(built(), TableDecoder)
    model.network.decoder, model.pair, given.target = voice, "piano -> FluidR3_GM.sf2:0:5", "FluidR3_GM.sf2:0:5"
    assert built() is voice


def test_from_scratch_begins_with_nothing(pairs, start, monkeypatch):
    monkeypatch.setattr(hp, "encoder_form", small)
    AEMain.train(pairs, from_scratch=True, **{**brief, "epochs": 1})
    own = pairs / "models" / "own"
    assert losses(own / "ae_encoder.torch")["before"] is None and losses(own / "ae_encoder.torch")["kept"] == 1
    assert losses(own / "ae_encoder.torch")["settings"]["learning_rate"] == hp.scratch_learning_rate
    assert part_of(own / "ae.torch", "encoder").keys() == part_of(start, "encoder").keys()
    assert part_of(own / "ae.torch", "refiner.details")["refiner.details.weight"].any()  # found behind the encoder


def test_a_training_on_made_clips_alone_resumes_to_the_bit(clips, capsys):
    def train(model):
        AEMain.train(clips, model=model, from_scratch=True, epochs=2, batch_size=2, crop_frames=32, device="cpu")

    train("whole")
    assert "of the note autoencoder: made clips, 0 pieces to train on, 0 to validate; " in capsys.readouterr().out
    with interruption(clips, 9, dataset="training.note_dataset.NoteDataset"):  # in the second of two epochs
        train("own")
    train("own")
    own, whole = (clips / "models" / model / "ae.torch" for model in ("own", "whole"))
    assert_same(own, whole)
    parts = [losses(weights.with_name("ae_encoder.torch")) for weights in (own, whole)]
    assert parts[0] == parts[1] and parts[0]["settings"]["epoch_steps"] == 3
    assert [list(figures) for figures in parts[0]["figures"]] == 2 * [["recorded"]]


def test_the_frame_loss_is_smallest_at_the_labels():
    labels = torch.from_numpy(np.stack([note_labels(some_notes(20, 2, seed), 200) for seed in (0, 1)]))
    exact = torch.logit(labels.clamp(1e-6, 1 - 1e-6))
    loss = frame_loss(exact, labels)
    generator = torch.Generator().manual_seed(0)
    for channel in range(4):
        changed = exact.clone()
        changed[:, channel] += 8 * torch.randn(changed[:, channel].shape, generator=generator)
        assert frame_loss(changed, labels) > loss + 0.01, channel


def test_velocities_relative_to_the_clip_count_more_in_the_loss():
    labels = torch.zeros(1, 4, 4, hp.n_keys)
    labels[0, 0, 1, [3, 7]], labels[0, 2, 1, [3, 7]] = 1, 0.5
    exact = torch.logit(labels.clamp(1e-6, 1 - 1e-6))
    whole, single = exact.clone(), exact.clone()
    whole[0, 2, 1, [3, 7]] -= 1
    single[0, 2, 1, 3] -= 1
    loss = frame_loss(exact, labels)
    assert loss < frame_loss(whole, labels) < frame_loss(single, labels)


def test_validation_clips_are_dry_and_recorded_and_always_the_same(pairs):
    clips = training_data(pairs).validation_clips()
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


def test_pieces_that_the_shipped_encoder_knows_are_found_by_their_notes(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(hp, "data", tmp_path)
    assert note_training.known_pieces(["one", "two"], pairs) == []
    softer = np.load(pairs / "generated" / "two" / "notes.npy") * (1, 1, 1, 0.5)
    (tmp_path / "known_pieces.txt").write_text(f"00000000\n{note_events.piece_digest(softer)}\n")
    assert note_training.known_pieces(["one", "two", "two~2"], pairs) == ["two", "two~2"]
    names = list("abcdefghij")
    training, validation = split_for_training(names, 0, known=list("abcdefg"))
    assert len(validation) == 2 and set(validation) < set("hij") and set(training) == set(names) - set(validation)


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


def test_options_of_the_other_autoencoder_are_refused(tmp_path):
    for options, refusal in (
            (["--channels", "8", "16", "16"], "--channels belongs to the report's autoencoder; leave it out"),
            (["--report", "--part", "encoder"], "--part belongs to the note autoencoder; leave it out"),
            (["--from-scratch", "--start", "ae.torch"], "--from-scratch begins without weights; leave it or")):
        with pytest.raises(ValueError, match=refusal):
            AEMain.main(["--data", str(tmp_path), *options])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("half", (False, True), ids=("single", "half precision"))
def test_form_and_weights_come_back(tmp_path, model, half):
    torch.manual_seed(3)
    network = NoteAutoencoder(**{**small, "stages": (1, 2, 4), "narrow": 3, "layers": 5})
    rng, network.decoder = np.random.default_rng(0), model.network.decoder
    torch.save({key: value.half() if half and value.is_floating_point() else value
                for key, value in network.state_dict().items()}, tmp_path / "ae.torch")
    loaded = load_model(Autoencoder, tmp_path / "ae.torch")
    images = rng.random((hp.n_pitches, 10), np.float32), rng.random((hp.n_mels, 20), np.float32)
    np.testing.assert_allclose(loaded.predict_frames(*images), NoteModel(network).predict_frames(*images),
                               atol=0.02 * half)
    notes = some_notes()
    np.testing.assert_allclose(loaded.mel_decibels(notes, 0, 50), model.mel_decibels(notes, 0, 50), atol=0.1 * half)


@pytest.mark.parametrize("part, refusal", (
    ("decoder", "ae.torch does not hold the weights of an autoencoder; train it again"),
    ("encoder.head", "ae.torch does not hold the weights of an autoencoder; train it again"),
    ("refiner", "ae.torch holds the weights of an earlier form of the note autoencoder; train it again")))
def test_weights_that_lack_a_part_are_refused(tmp_path, model, part, refusal):
    torch.save({key: value for key, value in model.network.state_dict().items() if not key.startswith(part)},
               tmp_path / "ae.torch")
    with pytest.raises(ValueError, match=refusal):
        load_model(Autoencoder, tmp_path / "ae.torch")
