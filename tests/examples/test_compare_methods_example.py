"""The comparison of methods on a few of the published rows: a table, a figure, and nothing computed twice."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "tofu"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "forget.jsonl").exists(), reason="the TOFU rows are not beside this checkout")
def test_comparison(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    spec = importlib.util.spec_from_file_location("compare_methods", ROOT / "examples" / "compare_methods.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    few = tmp_path / "data"
    few.mkdir()
    for name in ("forget", "retain"):
        lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:8]
        (few / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(example, "SIZE", {"d_model": 64, "n_layers": 1, "epochs": 100, "vocabulary": 400})
    monkeypatch.setattr(example, "RATES", (1e-2,))
    monkeypatch.setattr(example, "SEEDS", (1,))
    monkeypatch.setattr(example, "STEPS", 24)
    arguments = (few, tmp_path / "work", tmp_path / "figure.svg", ["grad_diff", "random_options"])
    example.main(*arguments)
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.startswith("| grad_diff"))
    forgotten, kept = (float(cell) for cell in line.split("|")[2:4])
    assert forgotten > 0.5
    assert 0 <= kept <= 1
    assert "| random_options" not in shown  # these rows share no answers: said, and left out
    results = json.loads((tmp_path / "work" / "results.json").read_text())
    assert "share" in results["random_options 0.01 0"]["error"]
    assert (tmp_path / "figure.svg").read_text().startswith("<svg")
    example.main(*arguments)
    assert "training" not in capsys.readouterr().out
