"""The comparison of continual methods on a few rows: a table, a figure, and nothing computed twice."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_comparison(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("compare_continual", ROOT / "examples" / "compare_continual.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "BUDGET", "smoke")
    monkeypatch.setattr(example, "RATES", (1e-3,))
    monkeypatch.setattr(example, "SEEDS", (1, 2))
    arguments = (tmp_path / "work", tmp_path / "figure.svg", ["er"])
    example.main(*arguments)
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith("| joint"))
    assert line.count("0.00 ± 0.00") == len(example.STREAMS)
    assert "| er |" in shown
    assert (tmp_path / "figure.svg").read_text().startswith("<svg")
    example.main(*arguments)
    assert " er 0.001" not in capsys.readouterr().out


def test_distances_are_paired_by_seed_and_ordered():
    spec = importlib.util.spec_from_file_location("compare_continual", ROOT / "examples" / "compare_continual.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.distances({"s": {"joint": [0.9, 0.8], "far": [0.5, 0.2], "near": [0.8, 0.7]}}, "s")
    assert list(found) == ["joint", "near", "far"]
    assert found["near"] == pytest.approx((0.1, 0.0), abs=1e-9)
    assert found["far"][0] == pytest.approx(0.5)
