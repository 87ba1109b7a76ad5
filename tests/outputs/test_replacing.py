"""Outputs replace nothing but former outputs of the same recording, which their marks tell."""
import os
import sys

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
    for place in len(content) - 20, content.index(digest.encode()) - 30:  # sound, picture or text; another tag
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        assert marks.read_mark(path) in (None, (digest, False))


def test_m4a_is_an_output_in_a_folder_and_an_edited_one_is_kept(tmp_path, recording):
    path, found = tmp_path / "b.m4a", output_files.find_recordings([recording])
    writers[".m4a"](path, marks.make_mark(Util.file_digest(recording)))
    assert [file for file, _ in output_files.find_recordings([tmp_path])] == [recording]
    output_files.check_outputs(found, [{"audio": path}])
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="b.m4a: not written by Main.py, or edited since"):
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


def test_a_link_to_a_recording_is_that_recording(tmp_path, recording):
    os.link(recording, tmp_path / "b.wav")
    with pytest.raises(ValueError, match="b.wav would be written over a file that is read"):
        Main.main([str(recording), "-o", str(tmp_path / "b.wav"), "--overwrite"])


@pytest.mark.parametrize("name", ("../escape", "..", "/tmp/escape", "a\\b", "C:escape"))
def test_a_model_is_a_name_and_no_path(name):
    with pytest.raises(ValueError, match="not the name of a single folder"):
        Main.find_weights(name)
