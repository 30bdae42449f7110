"""`palimpsest bench`: what a comparison is made on, and how it is tuned and measured."""

import json
from pathlib import Path

import pytest
from tests.benches.toy import BENCH

from palimpsest.benches import shelf, tuning
from palimpsest.cli import main


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDER", tmp_path / "tuned")
    monkeypatch.setattr(shelf, "benches", lambda: [BENCH])
    known = shelf.bench
    monkeypatch.setattr(shelf, "bench", lambda name: BENCH if name == "toy" else known(name))


def said(capsys, *argv, code=0):
    assert main(["bench", *argv]) == code
    return capsys.readouterr()


def test_a_bench_that_was_not_measured_says_so(capsys):
    assert "toy    not measured yet" in said(capsys).out
    out = said(capsys, "toy").out
    assert "A line through 32 points." in out
    assert "few steps: tuned by the validation rows of seeds\n  not tuned yet" in out


def test_tuned_and_measured_it_shows_points_room_and_what_it_can_find(capsys):
    tune = ["--tune", "few steps", "--tune", "until", "--measure", "--workers", "1"]
    out = said(capsys, "toy", *tune).out
    assert "lr 0.02" in out
    assert "chosen" in out
    assert "floor" in out
    assert "ceiling" in out
    assert "trained again, an arm is the same: how large a gain can be found is not known" in " ".join(out.split())
    listed = said(capsys).out
    assert "error" in listed
    found = json.loads(said(capsys, "toy", "--json").out)
    assert found["baselines"]["few steps"]["chosen"] == {"lr": 0.08}  # beyond its grid
    assert [room["measure"] for room in found["measures"]] == ["error", "size"]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["toyy"], "no bench 'toyy'"),
        (["--tune", "few steps"], "--tune, --bracket and --measure are of one bench: name it"),
        (["toy", "--tune", "nobody"], "no claim 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(capsys, argv, why):
    err = said(capsys, *argv, code=2).err
    assert err.startswith("palimpsest: ")
    assert why in err
    assert err.count("\n") == 1


def test_the_digest_of_rows_made_from_what_is_installed_is_shown_of_a_bench_and_of_a_record(capsys, monkeypatch):
    file = Path(shelf.__file__).parent / "tuned" / "glyphs" / "bench.json"
    digest = json.loads(file.read_text(encoding="utf-8"))["pools"][-1]
    main(["show", "decoupled_cl"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"of rows that are made from what is installed, with the digest {digest[:12]}" in shown
    main(["show", "npo"])
    assert "made from what is installed" not in capsys.readouterr().out
    monkeypatch.setattr(shelf, "pool", lambda name: "c" * 64)
    said(capsys, "toy", "--tune", "few steps", "--tune", "until", "--measure", "--workers", "1")
    assert "rows made from what is installed, digest cccccccccccc" in said(capsys, "toy").out
    assert json.loads(said(capsys, "toy", "--json").out)["pools"] == ["c" * 64]
