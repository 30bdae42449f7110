"""Every claim of the package runs, in seconds, and leaves no results behind: so that none rots unnoticed."""

import json
import time

import pytest

from palimpsest.evidence import claim_names, load_claim, run_claim

LIMIT = 3.0  # seconds that a smoke run may take
NOISE = 3  # times as much on a busy machine


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """One empty home for all, as for a user who runs them one after the other: worlds are built once."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PALIMPSEST_HOME", str(folder))
        yield folder


def test_there_are_claims():
    assert {"npo", "simnpo", "tofu", "hark", "model_evaluation"} <= set(claim_names())


@pytest.mark.parametrize("name", claim_names())
def test_smoke(name, home):
    import palimpsest.train  # noqa: F401 - what a run loads late is not part of its time

    claim = load_claim(name)
    started = time.perf_counter()
    outcome = run_claim(claim, budget="smoke", progress=False)
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.2f} s")
    assert seconds < NOISE * LIMIT
    assert (outcome.standing, outcome.seeds) == ("smoke", (0,))
    assert {job.arm for job in outcome.jobs} == set(claim.arms)
    assert len(outcome.verdicts) == len(claim.expects)
    json.dumps(outcome.to_dict(), allow_nan=False)
    assert not list(home.glob("*.sqlite*")), "a smoke run is no result"
    assert not (home / "reports").exists()
