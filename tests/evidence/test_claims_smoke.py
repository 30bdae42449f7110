"""Every claim of the package runs, in seconds, and leaves no results behind; none differs from what is on record."""

import json
import time
from dataclasses import replace

import pytest

from palimpsest.audit.hark import digest
from palimpsest.evidence import claim_names, load_claim, run_claim
from palimpsest.evidence.registration import is_of_record, preregister
from palimpsest.paths import records
from palimpsest.record_files import read

LIMIT = 3.0  # seconds that a smoke run may take
NOISE = 3  # times as much on a busy machine
SLOWER = {"sae_unlearning": 6.0}  # trains an autoencoder for each of two arms, whatever the budget


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home for each: its worlds are part of a claim's time."""
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_there_are_claims():
    assert {"npo", "simnpo", "tofu", "hark", "model_evaluation"} <= set(claim_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", claim_names())
def test_smoke(name, home, capfd):
    import palimpsest.train  # noqa: F401 - what a run loads late is not part of its time

    claim = load_claim(name)
    started = time.process_time()
    outcome = run_claim(claim, budget="smoke", progress=False)
    seconds = time.process_time() - started
    assert capfd.readouterr() == ("", ""), "a run has one progress bar, its own"
    print(f"{name}: {seconds:.2f} s")
    assert seconds < NOISE * SLOWER.get(name, LIMIT)
    assert (outcome.standing, outcome.seeds) == ("smoke", (0,))
    assert {job.arm for job in outcome.jobs} == set(claim.arms)
    assert len(outcome.verdicts) == len(claim.expects)
    json.dumps(outcome.to_dict(), allow_nan=False)
    assert not list(home.glob("*.sqlite*")), "a smoke run is no result"
    assert not (home / "reports").exists()


@pytest.mark.parametrize("record", sorted(records().glob("*/*.json")), ids=lambda file: file.stem)
def test_what_is_on_record_is_the_claim_as_it_stands(record):
    """A claim that was changed after its results were exported has to be amended and run again.

    Code that it reaches may change: `show` then says that the record is older.
    """
    shown, claim = read(record), load_claim(record.stem)
    assert shown["family"] == record.parent.name == claim.family
    assert shown["registration"].get("seeds", shown["seeds"]) == list(claim.seeds)
    assert is_of_record(claim, shown["seeds"])
    registered = preregister(claim, reach=False)
    if reach := shown["registration"]["plan"].get("reach"):
        registered = replace(registered, plan={**registered.plan, "reach": reach})
    assert shown["registration"]["digest"] == digest(registered)
    assert shown["notes"] == claim.notes, "reworded since: the same command with --export writes the new ones"
