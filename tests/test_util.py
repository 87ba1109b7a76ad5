"""Files that are written whole or not at all, and the command line on any system."""
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import Util
from audio import audio_files
from training import training_loop


@pytest.mark.parametrize("write", (
    lambda path: Util.save_array(path, np.ones(10_000)), lambda path: Util.save_text(path, "a" * 10_000),
    lambda path: audio_files.write_audio(path, np.ones(10_000)),
    lambda path: training_loop.save_tensors(path, {"weight": torch.ones(10_000)})))
@pytest.mark.parametrize("name", ("kept.wav", "kept.m4a"))
def test_a_full_disk_leaves_what_was_there_and_is_said(small_files, tmp_path, write, name):
    path = tmp_path / name
    path.write_text("before")
    with small_files(2000), pytest.raises(OSError, match=f"^{path} cannot be written .*; free some space"):
        write(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    write(path)  # which is not wrong in itself
    assert path.stat().st_size > 2000


def test_text_is_written_in_utf_8_whatever_the_platform_has(root, tmp_path):
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import Util; Util.save_text('note.txt', 'F\\xfcr Elise'); "
            "assert Util.read_text('note.txt') == 'F\\xfcr Elise'")
    subprocess.run([sys.executable, "-c", code, root], cwd=tmp_path, check=True,
                   env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert (tmp_path / "note.txt").read_bytes() == "F\xfcr Elise".encode()


def test_ctrl_c_while_it_imports_ends_without_a_traceback(root, tmp_path):
    (tmp_path / "tqdm.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = subprocess.run([sys.executable, root / "Main.py"], cwd=tmp_path, capture_output=True, text=True,
                             env={**os.environ, "PYTHONPATH": str(tmp_path)},
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # nohup ignores it
    assert process.returncode == -signal.SIGINT and process.stderr == ""


def test_a_terminal_without_the_characters_of_a_name(root):
    """As a Windows console of code page 1252 prints a Japanese name."""
    code = "import Util; Util.run(lambda: print('\\u30d4\\u30a2\\u30ce.wav'))"
    process = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True,
                             env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert process.stdout.strip() == b"\\u30d4\\u30a2\\u30ce.wav"


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
