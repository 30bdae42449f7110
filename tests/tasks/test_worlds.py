"""The cache of prepared models: built once, whole or not at all."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest

from palimpsest.tasks.worlds import cached


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path))


def test_built_once_for_the_same_settings():
    built = []

    def build(folder):
        built.append(folder)
        (folder / "x").write_text("1")

    first = cached("thing", {"a": 1, "b": 2}, build)
    assert cached("thing", {"b": 2, "a": 1}, build) == first
    assert cached("thing", {"a": 2, "b": 2}, build) != first
    assert len(built) == 2
    assert json.loads((first / "settings.json").read_text()) == {"a": 1, "b": 2}


def test_a_failed_build_leaves_nothing():
    def build(folder):
        (folder / "half").write_text("1")
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        cached("thing", {}, build)
    folder = cached("thing", {}, lambda folder: (folder / "whole").write_text("1"))
    assert sorted(p.name for p in folder.iterdir()) == ["palimpsest.sha256", "settings.json", "whole"]
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text("2"),
        lambda file: file.unlink(),
        lambda file: (file.parent / "palimpsest.sha256").unlink(),
    ],
)
def test_what_was_damaged_on_disk_is_built_again(damage, capsys):
    def build(folder):
        (folder / "x").write_text("1")

    folder = cached("thing", {}, build)
    damage(folder / "x")
    assert (cached("thing", {}, build) / "x").read_text() == "1"
    assert "is damaged (" in capsys.readouterr().err
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]
    cached("thing", {}, lambda folder: pytest.fail("built again"))


def test_what_killed_builds_left_is_cleared_away():
    folder = cached("thing", {}, lambda folder: None)
    left = folder.with_name(f".{folder.name}-x3_kq1")
    saving = folder.with_name(f"..{folder.name}-x3_kq1-5ef8cc8e950b477e9dbe69e330f82933")
    other = folder.with_name(".thing-else-x3_kq1")
    for path in (left, saving, other):
        path.mkdir()
    shutil.rmtree(folder)
    cached("thing", {}, lambda folder: None)
    assert not left.exists()
    assert not saving.exists()
    assert other.exists()


@pytest.mark.slow
def test_two_processes_share_one_build(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from palimpsest.tasks.worlds import cached
        def build(folder):
            with open(sys.argv[1], "a") as log:
                log.write("built\\n")
            time.sleep(1)
            (folder / "x").write_text("1")
        print((cached("thing", {"seed": 1}, build) / "x").read_text())
    """)
    log = tmp_path / "log"
    both = [subprocess.Popen([sys.executable, "-c", program, log], stdout=subprocess.PIPE) for _ in range(2)]
    assert [p.communicate(timeout=60)[0] for p in both] == [b"1\n", b"1\n"]
    assert log.read_text() == "built\n"
