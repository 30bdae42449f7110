"""The guide's code runs as it is printed, from top to bottom."""

import re
from pathlib import Path

import torch

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def test_the_guide_to_contrastive_learning_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (GUIDE / "contrast.md").read_text(encoding="utf-8"), re.DOTALL)
    own = [block for block in blocks if "your SentenceTransformer" not in block]
    assert len(own) == len(blocks) - 1
    known: dict = {}
    torch.manual_seed(0)
    for block in own:
        exec(block, known)
    assert known["features"].shape == (1024, 16)


def test_the_guide_to_the_users_own_files_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"p{n // 3},{n % 11 + n / 100},{'ill' if n % 11 > 5 else 'well'}" for n in range(90)]
    Path("patients.csv").write_text("\n".join(["patient,pressure,outcome", *rows]))
    [block] = re.findall(r"```python\n(.*?)```", (GUIDE / "files.md").read_text(encoding="utf-8"), re.DOTALL)
    known: dict = {}
    exec(block, known)
    assert (len(known["table"]), known["task"].train.x.dtype) == (90, torch.float32)


def test_the_guide_to_classification_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    rows = [f"{n % 11 + n / 100},{'yes' if n % 11 > 5 else 'no'}" for n in range(90)]
    Path("mine.csv").write_text("\n".join(["width,ripe", *rows]))
    [block] = re.findall(r"```python\n(.*?)```", (GUIDE / "classify.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(block, {})
    assert "'balanced accuracy': 0.5" in capsys.readouterr().out


def test_the_guide_to_fine_tuning_without_forgetting_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (GUIDE / "retain.md").read_text(encoding="utf-8"), re.DOTALL):
        exec(block, known)
    assert "tensor(" in capsys.readouterr().out
    assert known["trainer"].state.global_step == 10


def test_only_what_mkdocs_calls_is_named_like_its_events() -> None:
    source = (GUIDE.parent / "generate.py").read_text(encoding="utf-8")
    assert re.findall(r"^def (on_\w+)", source, re.MULTILINE) == ["on_files"]  # it refuses the build over any other


def test_the_guide_to_comparing_two_models_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, wrong in (("before", 3), ("after", 9)):
        Path(f"{name}.csv").write_text("".join(["id,correct\n", *(f"{n},{int(n >= wrong)}\n" for n in range(50))]))
    [block] = re.findall(r"```python\n(.*?)```", (GUIDE / "compare.md").read_text(encoding="utf-8"), re.DOTALL)
    known: dict = {}
    exec(block, known)
    assert known["found"].failed(["accuracy drops by 0.12"])
