"""The benchmark runs, on a short clip; its figures are for the one who reads them."""

import Hyperparameters as hp
import MIDI2Audio


def test_benchmark_writes_its_tables(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(hp.root / "benchmarks"))
    import benchmark

    for mode, preset in (("piano", hp.piano_preset), ("synth", hp.synth_preset)):
        MIDI2Audio.synthesise_midi_to_audio(hp.data / "MIDI_test" / "satie_gymnopedie_1.mid", tmp_path / mode / "satie.wav",
                                            *preset, limit_s=2)
    benchmark.main([str(tmp_path), "--clip-s", "2", "--repeats", "1", "--minutes", "0.05", "-o", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert all(heading in text for heading in ("## A clip of 2 s", "## Inversions", "## Any length", "| satie |"))
    assert "nan" not in text
