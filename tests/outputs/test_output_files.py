"""Names and places of the output files."""
from pathlib import Path

import pytest

from outputs import output_files


@pytest.mark.parametrize("recordings, output, complaint", [
    (["a/c/x.wav", "b/c/x.wav"], None, "both be written to c_x_wav_epiano.wav"),
    (["a/x.wav", "a/y.wav"], "z.wav", "give a folder"),
    (["a/x.wav"], "x.aiff", "is not written"),
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
