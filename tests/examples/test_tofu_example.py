"""The end-to-end example on a few of the published rows: the model must know, forget, keep, and resemble gold."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "tofu"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "forget.jsonl").exists(), reason="the TOFU rows are not beside this checkout")
def test_tofu_example(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    spec = importlib.util.spec_from_file_location("tofu_example", ROOT / "examples" / "tofu.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    small = {**example.SIZES["small"], "rows": 8, "d_model": 64, "epochs": 200, "vocabulary": 400}
    monkeypatch.setitem(example.SIZES, "small", small)
    table = example.main(DATA, tmp_path / "work", "small")
    assert list(table) == ["full", "grad_diff", "npo", "simnpo", "gold"]
    full, gold = table["full"], table["gold"]
    for column in ("forget P", "retain P", "forget ROUGE-L", "retain ROUGE-L"):
        assert full[column] > 0.85, column  # it knows both files
    assert gold["forget P"] < 0.2
    assert gold["retain P"] > 0.85
    for method in ("npo", "simnpo"):
        assert table[method]["forget P"] < 0.3 * full["forget P"]
        assert table[method]["retain P"] > 0.5 * full["retain P"]
    for name in table:
        assert (tmp_path / "work" / f"{name}-forget.html").stat().st_size > 10_000
    assert (tmp_path / "work" / "npo.html").exists()
