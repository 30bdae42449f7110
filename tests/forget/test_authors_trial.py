"""The run that the family's claims repeat, in its smoke form."""

import math

import pytest

from palimpsest.forget.authors_trial import AuthorsTrial, arm, model_arm
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.npo import NPO


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "trial-home"))


def test_curves_and_final_numbers_agree():
    trial = AuthorsTrial(3, smoke=True)
    model, metrics = trial.run(NPO(), every=1)
    for name in ("model utility", "log10 forget quality"):
        steps, values = zip(*metrics[f"{name} by step"], strict=True)
        assert steps == (0, 1, 2)
        assert values[-1] == metrics[name]
    assert metrics["steps"] == 2
    assert metrics["diverged"] == 0
    assert trial.scores(model).metrics()["forget probability"] == pytest.approx(metrics["forget probability"])


def test_a_run_stops_at_its_level():
    trial = AuthorsTrial(3, smoke=True)
    _, metrics = trial.run(GradAscent(), until=1.0)  # everything is below: no step is taken
    assert metrics["steps"] == 0
    _, metrics = trial.run(GradAscent(), until=0.0)
    assert metrics["steps"] == 2
    assert "model utility by step" not in metrics


def test_a_diverging_run_is_scored_as_it_was_before():
    metrics = arm(GradAscent(retain="none"), lr=1e38, every=1)(3, "smoke")
    assert metrics["diverged"] == 1
    assert metrics["model utility"] == 0
    assert not any(math.isnan(value) for value in metrics.values() if isinstance(value, float))


def test_the_gold_model_is_its_own_reference():
    assert model_arm("gold")(3, "smoke")["forget quality"] == 1.0
    with pytest.raises(ValueError, match="kind must be one of"):
        AuthorsTrial(3, smoke=True).world.model("silver")


def test_worlds_are_fresh_copies():
    world = AuthorsTrial(3, smoke=True).world
    first, second = world.model("base"), world.model("base")
    assert first is not second
    next(first.parameters()).data.zero_()
    assert next(second.parameters()).abs().sum() > 0
