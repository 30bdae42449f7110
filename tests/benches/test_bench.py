"""Arms are data, tuned alike, shared between claims; a claim on a bench gets its preconditions and looks by itself."""

import json
from dataclasses import replace
from functools import partial, wraps

import pytest
from tests.benches.toy import BENCH, METHOD, Ridge, measures
from tests.evidence.test_records import faults, faults_beside

from palimpsest.benches import Level, Measure, Recipe, shelf, tuning
from palimpsest.benches.arm import plain
from palimpsest.errors import UserError
from palimpsest.evidence import Store, export, run_claim, verify
from palimpsest.evidence.runner import run_jobs
from palimpsest.evidence.sentences import at_most, beats, cost, mechanism
from palimpsest.record_files import read, read_history


@pytest.fixture(autouse=True)
def filed(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "FOLDER", tmp_path / "tuned")


def tuned(*names):
    for name in names:
        tuning.tune(BENCH, name, {**BENCH.baselines, "ridge": METHOD}[name], workers=1, progress=False)


def claim(**changes):
    settings = {
        "paper": "ridge",
        "question": "Do more steps fit better?",
        "method": METHOD,
        "central": beats("few steps", on="error", share_of_room=0.1),
        "also": [mechanism(beats("no steps", on="error", by=0.5)), cost(at_most(60, on="steps"))],
        "arms": {"no steps": {"steps": 1}},
        "differs": "There is no paper.",
    }
    return BENCH.claim(**{**settings, **changes})


def test_every_point_of_the_grid_is_tried_on_pilot_seeds_and_the_best_is_taken():
    found = tuning.tune(BENCH, "few steps", BENCH.baselines["few steps"], workers=1, progress=False)
    assert [trial["point"] for trial in found["trials"]] == [{"lr": 0.01}, {"lr": 0.02}]
    assert found["chosen"] == {"lr": 0.02}
    assert found["seeds"] == [0, 1]
    assert json.loads((tuning.FOLDER / "toy" / "few steps.json").read_text()) == found
    arm = BENCH.arm("few steps")
    world, applied, _ = replace(arm, recipe=arm.recipe.at({"lr": 0.02})).trained(0)
    assert found["trials"][1]["validation"][0] == pytest.approx(BENCH.validate(world, applied.model, {}), rel=1e-5)


def test_values_beyond_the_edge_of_a_grid_are_tried_until_the_best_lies_inside_or_its_size_is_spent():
    tuned("few steps")
    recipe = BENCH.baselines["few steps"]
    assert tuning.at_edge(tuning.ledger(BENCH, "few steps")) == {"lr"}
    found = tuning.bracket(BENCH, "few steps", recipe, workers=1, progress=False)
    assert [trial["point"]["lr"] for trial in found["trials"]] == [0.01, 0.02, 0.04, 0.08]
    assert found["chosen"] == tuning.chosen(BENCH, "few steps", recipe) == {"lr": 0.08}
    assert found["edges"] == {"lr": "as many points were added as the grid has"}
    assert tuning.at_edge(found) == set()
    again = tuning.bracket(BENCH, "few steps", recipe, workers=1, progress=False)
    assert again == found
    with pytest.raises(UserError, match="few steps is not tuned as it is"):
        tuning.bracket(BENCH, "few steps", replace(recipe, settings={"steps": 5}), workers=1, progress=False)


def test_the_best_of_more_values_inside_the_grid_is_left_alone_and_a_range_ends_the_search():
    inside = Recipe(Ridge(), grid={"lr": [0.01, 0.1, 10.0]})
    bench = replace(BENCH, baselines={"inside": inside}, points=3)
    filed = tuning.tune(bench, "inside", inside, workers=1, progress=False)
    assert tuning.bracket(bench, "inside", inside, workers=1, progress=False) == {**filed, "edges": {}}
    # A penalty hurts where the truth is no smaller, and none below 0 can be asked for.
    ended = Recipe(Ridge(), grid={"penalty": [0.0, 1.0]}, settings={"lr": 0.1})
    bench = replace(BENCH, baselines={"ended": ended})
    tuning.tune(bench, "ended", ended, workers=1, progress=False)
    found = tuning.bracket(bench, "ended", ended, workers=1, progress=False)
    assert found["chosen"] == {"penalty": 0.0}
    assert len(found["trials"]) == 2
    assert "penalty must be at least 0" in found["edges"]["penalty"]


def test_an_arm_is_not_tuned_after_its_recipe_has_changed():
    tuned("few steps")
    recipe = BENCH.baselines["few steps"]
    assert BENCH.arm("few steps").point() == {"lr": 0.02}
    other = BENCH.arm("few steps", replace(recipe, settings={"steps": 5}))
    with pytest.raises(UserError, match="few steps is not tuned as it is now: palimpsest bench toy --tune few steps"):
        other(200)
    assert other(200, "smoke")["steps"] == 2  # that it runs can be seen before


@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.2, 0.3]])
def test_a_grid_of_another_size_is_refused_of_methods_and_of_baselines(rates):
    other = replace(METHOD, grid={"lr": rates})
    said = f"tries {len(rates)} points where the arms of toy try 2 each"
    with pytest.raises(ValueError, match=f"ridge {said}"):
        claim(method=other)
    with pytest.raises(ValueError, match=f"few steps {said}"):
        replace(BENCH, baselines={"few steps": other})


def test_fields_of_the_method_and_of_its_parts_are_set_by_name():
    assert Recipe(Ridge()).at({"penalty": 0.5, "lr": 0.1}) == Recipe(Ridge(0.5), settings={"lr": 0.1})
    nested = Recipe(partial(measures, model=None)).at({"model": 1, "lr": 0.1})
    assert nested.method.keywords == {"model": 1}
    assert nested.settings == {"lr": 0.1}


def test_a_parameter_is_known_through_a_decorator_and_a_local_variable_is_none():
    @wraps(measures)
    def decorated(*args, **more):
        lr = 1.0
        return measures(*args, **more), lr

    found = Recipe(partial(decorated, model=None)).at({"model": 1, "lr": 0.1})
    assert (found.method.keywords, found.settings) == ({"model": 1}, {"lr": 0.1})


def test_further_measures_are_taken_where_a_sentence_needs_them_and_are_read_as_the_claim_says():
    def then(world, applied):
        return {"largest": float(applied.model.weight.detach().abs().max())}

    made = claim(then=then, read={"largest": Measure("lower", None)}, also=[cost(beats("until", on="largest", by=0.1))])
    assert {name for name, arm in made.arms.items() if arm.then} == {"until", "ridge", "no steps"}
    assert str(made.expects[-1]) == "ridge below until by at least 0.1 on largest"
    central = claim(
        then=then,
        read={"largest": Measure("lower", None)},
        central=beats("until", on="largest", by=0.1),
        also=[mechanism(beats("few steps", on="error", by=0.1))],
    )
    assert {name for name, arm in central.arms.items() if not arm.then} == {"few steps"}


def test_an_arm_stops_at_its_level_and_says_whether_it_got_there():
    tuned("until")
    found = BENCH.arm("until")(200)
    assert found["level reached"] == 1.0
    assert 0 < found["steps"] < 60
    assert found["steps"] % 4 == 0
    early = replace(BENCH.arm("until"), recipe=BENCH.baselines["until"].at({"lr": 1e-4}))
    assert early(200)["level reached"] == 0.0
    assert early(200)["steps"] == 60


def test_an_arm_that_diverges_is_measured_before_it_did():
    recipe = Recipe(Ridge(), settings={"lr": 1e30, "steps": 9})
    found = BENCH.arm("wild", recipe)(200)
    assert found["diverged"] == 1.0
    assert found["steps"] < 9


def test_what_an_arm_is_is_said_in_plain_data_and_decides_where_it_is_stored():
    tuned("few steps")
    arm = BENCH.arm("few steps")
    shown = arm.described()
    assert shown["method"] == {"is": "tests.benches.toy.Ridge", "penalty": 0.0}
    assert shown["training"] == {"steps": 4, "optimizer": "sgd", "lr": 0.02}
    assert shown["chosen"] == {"lr": 0.02}
    assert shown["grid"] == {"lr": [0.01, 0.02]}
    assert arm.stored == BENCH.arm("few steps").stored
    assert arm.stored[1] != replace(arm, changes={"steps": 5}).stored[1]
    assert "tests.benches.toy" in arm.modules
    assert "palimpsest.train.loop" in arm.modules
    assert plain({"a": (1, {"b"}), "f": measures}) == {"a": [1, ["b"]], "f": "tests.benches.toy.measures"}


def test_a_claim_gets_floor_ceiling_preconditions_and_seeds_by_itself():
    made = claim()
    assert list(made.arms) == ["untrained", "few steps", "truth", "ridge", "no steps"]
    assert [str(sentence) for sentence in made.expects] == [
        "few steps below untrained on error",
        "truth below few steps on error",
        "ridge below few steps by at least 10% of the room up to truth on error",
        "ridge below no steps by at least 0.5 on error",
        "ridge at most 60 on steps",
    ]
    assert [sentence.role for sentence in made.expects] == ["given", "given", "central", "mechanism", "cost"]
    assert made.seeds == tuple(range(200, 220))
    assert made.module == __name__


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"central": beats("nobody", on="error")}, "no arm 'nobody'"),
        ({"also": [beats("few steps", on="error")]}, "one central sentence"),
        ({"central": mechanism(beats("few steps", on="error"))}, "one central sentence"),
        ({"also": [cost(at_most(i, on="steps")) for i in range(4)]}, "at most three sentences"),
        ({"central": beats("few steps", on="nothing")}, "does not say how 'nothing' is read"),
        ({"arms": {"other": METHOD}}, "'other' has a grid"),
        (
            {"method": replace(METHOD, level=Level("error", 0.1))},
            "'error' is where training stops, and no result",
        ),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(changes, why):
    with pytest.raises(ValueError, match=why):
        claim(**{"arms": {}, "also": [], **changes})


def test_a_claim_runs_to_its_first_look_and_what_its_baselines_gave_is_shared(tmp_path, monkeypatch):
    tuned("few steps", "ridge")
    first = claim()
    with Store(tmp_path / "s.sqlite") as store:
        outcome = run_claim(first, workers=1, store=store, progress=False)
        assert outcome.seeds == (200, 201, 202, 203, 204)
        assert outcome.standing == "of record"
        words = {v.expectation.role: v.word for v in outcome.verdicts}
        assert words == {"given": "held", "central": "held", "mechanism": "held", "cost": "open"}
        central = next(v for v in outcome.verdicts if v.expectation.role == "central")
        assert central.look == 5
        assert 0.9 < central.share < 1.1
        # Another claim of the same bench finds the baselines' results in the store.
        second = claim(paper="other", question="The same?", method=Recipe(Ridge(), settings={"lr": 0.1}), also=[])
        monkeypatch.setattr("palimpsest.evidence.outcome.run_jobs", partial(only, {"other", "no steps"}))
        found = run_claim(second, workers=1, store=store, progress=False)
        assert found.values["few steps"] == outcome.values["few steps"]


def test_the_record_of_a_claim_at_a_look_follows_from_its_values_and_its_registration(tmp_path):
    tuned("few steps", "ridge")
    made = replace(claim(), module="palimpsest.claims.toy.ridge")
    outcome = run_claim(made, workers=1, store=tmp_path / "s.sqlite", progress=False)
    file = export(outcome, tmp_path / "results")
    found = read(file)
    assert list(faults(found)) == []
    assert list(faults_beside(found, read_history(file, found))) == []
    assert found["seeds"] == [200, 201, 202, 203, 204]
    assert found["registration"]["seeds"] == list(range(200, 220))
    assert "tests.benches.toy" in found["registration"]["modules"]
    central = next(v for v in found["verdicts"] if v["expectation"].startswith("ridge below few steps"))
    assert central["look"] == 5
    assert 0.9 < central["share"] < 1.1


def only(expected, arms, todo, **options):
    assert {job.arm for job in todo} == expected
    return run_jobs(arms, todo, **options)


def test_looks_go_on_until_the_central_sentence_is_decided(tmp_path):
    tuned("few steps", "ridge")
    same = claim(central=beats("twin", on="error", by=0.0), also=[], arms={"twin": {"penalty": 1e-4}})
    outcome = run_claim(same, workers=1, store=tmp_path / "s.sqlite", progress=False)
    assert len(outcome.seeds) in (10, 20)
    two = run_claim(same, seeds=2, workers=1, store=tmp_path / "s.sqlite", progress=False)
    assert two.standing == "preliminary"
    assert {v.word for v in two.verdicts if not v.expectation.precondition} == {"open"}
    assert "2 seeds: the first look is at 5" in two.verdicts[-1].note


def test_a_bench_knows_its_room_and_the_spread_of_an_arm_with_itself():
    tuned("few steps", "until")
    tuning.measure(BENCH, workers=1, progress=False)
    error, size = tuning.room(BENCH)
    assert list(error.values) == ["untrained", "few steps", "until", "truth"]
    assert error.values["untrained"] > error.values["few steps"] > error.values["truth"]
    assert error.spread == 0.0
    assert error.decides == {}  # one batch, in which nothing is drawn: nothing is known
    assert size.measure == "size"
    dear = replace(BENCH, measured=(2, 0))
    tuning.measure(dear, workers=1, progress=False)
    assert tuning.ledger(dear, "bench")["seeds"] == [2, 0]
    values = [BENCH.arm("few steps")(seed)["size"] for seed in (2, 0)]
    assert tuning.ledger(dear, "bench")["values"]["few steps"]["size"] == pytest.approx(values, rel=1e-3)


def test_other_rows_are_another_world_that_is_not_compared_with_the_record(tmp_path, monkeypatch):
    """What is installed has changed: runs say so, verify and amend nothing, and keep their results apart."""
    rows = ["a" * 64]
    monkeypatch.setattr(shelf, "pool", lambda name: rows[0])
    tuned("few steps", "until", "ridge")
    tuning.measure(BENCH, workers=1, progress=False)
    made, store = claim(), tmp_path / "s.sqlite"
    assert (made.other_world, made.kept_apart) == ("", "")
    run_claim(made, workers=1, store=store, progress=False)
    rows[0] = "b" * 64
    said = r"toy is another world here, .* \(digest bbbbbbbbbbbb, on record aaaaaaaaaaaa\): nothing is compared"
    with pytest.raises(UserError, match=said):
        verify(made, {}, workers=1, progress=False)
    with pytest.raises(UserError, match=said):
        run_claim(made, workers=1, store=store, progress=False, amend="other rows")
    with pytest.raises(UserError, match=f"{said}.*: palimpsest bench toy --measure"):
        tuned("ridge")
    monkeypatch.setattr("palimpsest.evidence.outcome.run_jobs", partial(only, set(made.arms)))
    outcome = run_claim(made, workers=1, store=store, progress=False)  # nothing that was kept of the other rows
    assert outcome.standing == "exploratory"
    with pytest.raises(UserError, match="not exported: the run is exploratory"):
        export(outcome, tmp_path / "results")
    assert run_claim(made, seeds=[0, 1], workers=1, store=store, progress=False).standing == "pilot"
    # Measured here, it is the world: but what was kept of the first one's rows stays apart.
    tuning.measure(BENCH, workers=1, progress=False)
    assert tuning.pools(BENCH) == ["a" * 64, "b" * 64]
    assert (made.other_world, made.kept_apart) == ("", "b" * 64)
    rows[0] = "a" * 64
    tuning.measure(BENCH, workers=1, progress=False)
    assert (made.other_world, made.kept_apart) == ("", "")
