"""What one seed run again is compared with, and where nothing that earlier code left can help it."""

import math

import pytest
from joblib.externals.loky import get_reusable_executor

from palimpsest.evidence import Claim, expect, verify
from palimpsest.evidence.verification import Difference, made_anew
from palimpsest.paths import home


def draw(seed, budget):
    return {"m": 0.1234567891 * seed, "n": math.nan, "CPU seconds a step": 1.0, "curve": [(0.0, 1.0)]}


def make(**arms):
    return Claim("zz", "?", {"a": draw, **arms}, [expect("a").at_least(0, on="m")])


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    values = {"a": {"m": [12.34568, 12.46914], "n": ["nan", "nan"], "CPU seconds a step": [7.0, 7.0]}}
    return {"seeds": [100, 101], "values": values, "registration": {"digest": "d"}}


@pytest.fixture(autouse=True)
def alone():
    """Workers that earlier tests left end here, and not within a test, whose seconds theirs would be counted as."""
    get_reusable_executor().shutdown()


def again(claim, record):
    return verify(claim, record, workers=1, progress=False)


def test_the_values_on_record_again_are_verified_and_a_clock_is_not_asked(record):
    found = again(make(), record)
    assert (found.seed, found.compared, found.differences, found.failures) == (100, 2, (), ())
    assert found.mark() == {
        "code": found.code,
        "seed": 100,
        "time": found.time,
        "values": 2,
        "differ": 0,
        "spreads": 0.0,
    }


@pytest.mark.parametrize("changed", ["m", "n"])
def test_one_value_that_differs_is_named(record, changed):
    record["values"]["a"][changed][0] = 12.3457
    (found,) = again(make(), record).differences
    assert (found.arm, found.metric, found.recorded) == ("a", changed, 12.3457)
    assert found.relative == (pytest.approx(1.7e-6, rel=0.1) if changed == "m" else math.inf)
    if changed == "m":  # the seeds' values are 12.3457 and 12.46914, and the new one is 12.34567891
        assert found.spreads == pytest.approx(2.109e-05 / (0.12344 / math.sqrt(2)), rel=1e-3)


def test_what_an_arm_lacks_differs_and_what_it_has_besides_does_not(record):
    record["values"]["gone"] = {"m": [1.0, 1.0]}
    record["values"]["a"]["older"] = [1.0, None]
    record["values"]["a"]["unseen"] = [None, 1.0]
    found = again(make(new=draw), record)
    assert found.compared == 4
    assert {(d.arm, d.metric, d.again) for d in found.differences} == {("gone", "m", None), ("a", "older", None)}


def test_an_arm_that_fails_says_why(record):
    claim = make(b=lambda seed, budget: 1 / 0)
    record["values"]["b"] = {"m": [1.0, 1.0]}
    found = again(claim, record)
    assert found.failures == ("b: ZeroDivisionError: division by zero",)
    assert [d.arm for d in found.differences] == ["b"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_what_earlier_code_kept_on_disk_is_not_found(record, workers):
    def kept(seed, budget):
        home().mkdir(parents=True, exist_ok=True)
        with (home() / "runs").open("a") as runs:
            runs.write("x")
        return {"m": float((home() / "runs").stat().st_size)}

    record["values"] = {"b": {"m": [1.0, 1.0]}}
    kept(0, "full")
    assert kept(0, "full") == {"m": 2.0}
    for _ in range(2):
        found = verify(Claim("zz", "?", {"b": kept}, [expect("b").at_least(0, on="m")]), record, workers=workers)
        assert found.differences == ()
    assert kept(0, "full") == {"m": 3.0}, "the user's home is the user's again"
    with made_anew():
        found = [verify(Claim("zz", "?", {"b": kept}, [expect("b").at_least(0, on="m")]), record) for _ in range(2)]
    assert [[d.again for d in each.differences] for each in found] == [[], [2.0]], "claims in one block share worlds"
    assert [path.name for path in home().iterdir()] == ["runs"]


@pytest.mark.parametrize(
    ("recorded", "now", "same"),
    [
        (1.234567, 1.2345674, True),
        (1.234567, 1.234569, False),
        (0.0, 1e-13, True),
        (0.0, 1e-9, False),
        (2.5e-13, 2.6e-13, True),
        (math.inf, math.inf, True),
        (math.inf, 1.0, False),
        (1.0, None, False),
    ],
)
def test_two_values_are_the_same_to_the_digits_of_a_record(recorded, now, same):
    assert Difference("a", "m", recorded, now).same is same
