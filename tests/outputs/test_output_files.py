"""Names and places of outputs, which replace nothing but former outputs of the same recording: their marks tell."""
import os
import sys
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
import soundfile

import Hyperparameters as hp
import Main
import Util
from audio import audio_files
from audio_common import tone
from notes import note_events
from outputs import marks, output_files, plots, result_page


# names

@pytest.mark.parametrize("recordings, output, complaint", [
    (["a/c/x.wav", "b/c/x.wav"], None, "both be written to c_x_wav_epiano.wav"),
    (["a/x.wav", "a/y.wav"], "z.wav", "give a folder"),
])
def test_outputs_that_would_overwrite_are_refused(recordings, output, complaint):
    with pytest.raises(ValueError, match=complaint):
        output_files.output_paths(output_files.find_recordings(map(Path, recordings)), "electric piano",
                                  output and Path(output))


@pytest.mark.parametrize("given, names", [
    (["take.mp3", "take.wav", "take_mp3.wav"], ["in_take_mp3_epiano", "take_wav_epiano", "take_mp3_wav_epiano"]),
    (["one/x.wav", "two/x.wav", "one/../x.flac"], ["one_x_wav_epiano", "two_x_wav_epiano", "x_flac_epiano"]),
    (["A.wav", "a.mp3", "b.wav", "b.wav"], ["A_wav_epiano", "a_mp3_epiano", "b_epiano"])])
def test_recordings_of_one_name_get_endings_and_folders(tmp_path, monkeypatch, given, names):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert output_files.output_names(output_files.find_recordings(map(Path, given)), "electric piano") == names


# what is replaced

@pytest.fixture
def recording(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), hp.sample_rate)
    return tmp_path / "a.wav"


writers = dict.fromkeys(audio_files.audio_formats, lambda path, mark: audio_files.write_audio(path, tone(), mark)) | {
    ".mid": lambda path, mark: note_events.save_notes(path, np.array([[0, 1, 60, 90]]), mark),
    ".png": lambda path, mark: plots.save_figure(path, plots.plot_spectrograms({"": np.zeros((128, 9))}), mark),
    ".html": lambda path, mark: result_page.save_page(path, result_page.render_page("title", []), mark or "")}


@pytest.mark.parametrize("ending", writers)
def test_a_mark_tells_the_recording_and_what_was_edited(tmp_path, recording, ending):
    """The mark, which any reader of tags shows, and the checksums of ogg and PNG are right."""
    path, digest = tmp_path / f"b{ending}", Util.file_digest(recording)
    mark = marks.make_mark(digest)
    writers[ending](path, None)
    assert marks.read_mark(path) is None
    writers[ending](path, mark)
    assert marks.read_mark(path) == (digest, True)
    found = output_files.find_recordings([tmp_path])
    assert found == [(recording, Path("a.wav"))]
    output_files.check_outputs(found, [{"audio": path}])
    content = path.read_bytes()
    if ending == ".m4a":
        assert content.index(mark[:-16].encode()) < content.index(b"stbl")  # the table, as long as the audio
        with av.open(path) as container:
            assert mark.startswith(container.metadata["comment"])
    elif ending in audio_files.audio_formats:
        with soundfile.SoundFile(path) as file:
            assert file.comment.startswith(mark[:-16]) and len(file.read()) == pytest.approx(hp.sample_rate, abs=1200)
    if ending == ".png":
        with PIL.Image.open(path) as image:
            image.load()
            assert image.text["Comment"].startswith(mark[:-16])
    changes = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]
               for place in (len(content) - 20, content.index(digest.encode()) - 30)]
    for changed in *changes, content + b"\0":  # in sound, picture or text; in another tag; behind all
        path.write_bytes(changed)
        assert marks.read_mark(path) in (None, (digest, False))
        with pytest.raises(ValueError, match=f"b{ending}: not written by Main.py, or edited since"):
            output_files.check_outputs(found, [{"audio": path}])


def test_m4a_without_its_package_is_refused_before_the_work(tmp_path, recording, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="m4a needs FFmpeg; .*pip install av"):
        Main.main([str(recording), "-o", str(tmp_path / "b.m4a")])


def test_the_place_of_the_output_is_tried_before_the_work(tmp_path, recording, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(Main, "convert", lambda *_: pytest.fail("the work begins"))
    with pytest.raises(OSError, match="b.wav cannot be written"):
        Main.main([str(recording), "-o", str(tmp_path / "file" / "b.wav")])
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "file"}


def test_a_folder_may_have_the_name_of_a_file(tmp_path, recording):
    found = output_files.find_recordings([recording])
    with pytest.raises(ValueError, match="is not written; choose .wav, .flac, .ogg, .mp3, .m4a"):
        output_files.output_paths(found, "electric piano", tmp_path / "out.WMV")
    (tmp_path / "out.WMV").mkdir()
    paths = output_files.output_paths(found, "electric piano", tmp_path / "out.WMV")
    assert paths == [tmp_path / "out.WMV" / "a_epiano.wav"]


@pytest.mark.parametrize("output, replaced", (
    ("linked.wav", "linked.wav"), ("notes.wav", "notes.mid"), ("other.wav", "other.mid")))
def test_what_is_read_is_never_replaced_nor_is_a_link_to_it(tmp_path, recording, midi, output, replaced):
    os.link(recording, tmp_path / "linked.wav")
    (tmp_path / "other.mid").symlink_to(midi(tmp_path / "notes.mid"))
    with pytest.raises(ValueError, match=f"{replaced} would be written over a file that is read"):
        Main.main([str(recording), "--notes", str(tmp_path / "notes.mid"), "--midi", "--overwrite", "-o",
                   str(tmp_path / output)])
