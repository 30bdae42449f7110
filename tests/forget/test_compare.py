"""Several methods on one model: the rule that picks the best, and what becomes of a method that breaks down."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import regex
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.forget import compare as comparing
from palimpsest.forget.baselines import IDK, RMU, GradAscent
from palimpsest.forget.compare import Comparison, Result, compare, pairs, shorten
from palimpsest.forget.forgotten_and_kept import balance, left
from palimpsest.forget.learning_rates import Trial, best_trial, hold_out, split_text, trains_at_rate
from palimpsest.forget.methods import METHODS
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.stop_at_level import at, doubtful
from palimpsest.forget.tofu_measures import RowScores
from palimpsest.models.language import causal_lm
from palimpsest.models.tokenizers import train_tokenizer, word_tokenizer
from palimpsest.tasks.rows import normalise
from palimpsest.train.language import fine_tune

share = st.floats(0, 1)


def scores(probability, rouge, strength):
    columns = [np.full(3, value) for value in (probability, math.nan, rouge, math.nan, math.nan, strength, 0.0)]
    return RowScores(["", "", ""], *columns)


@given(share, share)
def test_balance_is_symmetric_bounded_and_zero_at_the_edges(a, b):
    assert balance(a, b) == balance(b, a)
    assert 0 <= balance(a, b) <= 1
    assert balance(a, b) <= (a + b) / 2 + 1e-12
    assert balance(a, 0.0) == 0.0


def test_left_is_the_mean_of_the_ratios_and_never_above_one():
    before, after = scores(0.8, 1.0, 0.5), scores(0.2, 0.5, 0.5)
    assert left(before, after, ("probability", "rouge", "extraction_strength")) == pytest.approx((0.25 + 0.5 + 1) / 3)
    assert left(after, before, ("probability", "rouge")) == 1.0
    assert left(before, after, ("probability",), 0.5, 2.0) == pytest.approx((0.25 + 0.5 + 1) / 3)


def test_what_had_nothing_to_lose_is_left_out():
    before, after = scores(0.8, 0.009, 0.0), scores(0.2, 0.5, 0.5)
    assert left(before, after, ("probability", "rouge", "extraction_strength")) == pytest.approx(0.25)
    assert math.isnan(left(before, after, ("rouge",)))
    assert Comparison(before, before, []).left_out == ["forget rouge", "forget extraction_strength", "retain rouge"]
    assert math.isnan(balance(math.nan, 1.0))


def test_where_no_balance_can_be_had_the_best_keeps_most():
    results = [Result("a", kept=0.3), Result("b", kept=0.9), Result("c")]
    assert Comparison(scores(0, 0, 0), None, results).best.method == "b"


def test_general_text_is_part_of_what_is_kept(setting):
    load, _, forget, retain = setting
    text = " ".join(row["answer"] for row in retain) * 8
    alone = {name: GradAscent(retain="none") for name in "ab"}
    found = compare(load, alone, forget, text=text, steps=3, lr=1e-2)
    ratio = found.before_perplexity / found.results[0].perplexity
    assert found.results[0].kept == pytest.approx(min(1.0, ratio))
    both = compare(load, {"a": GradAscent()}, forget, retain, text=text, steps=3, lr=1e-2).results[0]
    bare = compare(load, {"a": GradAscent()}, forget, retain, steps=3, lr=1e-2).results[0]
    assert math.isnan(bare.perplexity)
    assert both.forgotten == pytest.approx(bare.forgotten)


def test_a_cut_answer_keeps_its_characters_whole():
    tokenizer = train_tokenizer(["hello"], vocab_size=260)
    rows = [
        normalise({"question": "?", "answer": text * 5})
        for text in ("😀👍🏽🇫🇷", "北京是中国的首都。", "e\u0301a\u0308")
    ]
    for length in range(40, 60):
        for row, cut in zip(rows, shorten(tokenizer, rows, length), strict=True):
            signs = regex.findall(r"\X", row["answer"])
            assert cut["answer"] == "".join(signs[: len(regex.findall(r"\X", cut["answer"]))])
            assert row is rows[2] or cut["answer"] != row["answer"]


def test_the_best_has_the_highest_balance_and_came_to_its_end():
    results = [Result("a", balance=0.3), Result("b", balance=0.9, error="broke"), Result("c", balance=0.5)]
    assert Comparison(scores(1, 1, 1), None, results).best.method == "c"
    with pytest.raises(UserError, match="b: broke"):
        _ = Comparison(scores(1, 1, 1), None, results[1:2]).best


class Explodes(NPO):
    def loss(self, state, model, batch):
        return {"forget": next(model.parameters()).sum() * float("inf")}


@pytest.fixture
def setting():
    forget = [normalise({"question": "who is Ada ?", "answer": "a poet ."})]
    retain = [normalise({"question": "who is Bo ?", "answer": "a baker ."})]
    words = " ".join(
        [*(row[k] for row in forget + retain for k in ("question", "answer")), *REFUSALS, "Question : Answer"]
    )
    tokenizer = word_tokenizer([words])
    loads = []

    def load():
        loads.append(1)
        return causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2), tokenizer

    return load, loads, forget, retain


def test_every_method_starts_from_a_fresh_copy_and_a_broken_one_is_reported(setting):
    load, loads, forget, retain = setting
    kept = []
    comparison = compare(
        load,
        {"first": GradAscent(), "broken": Explodes(), "second": GradAscent()},
        forget,
        retain,
        steps=2,
        lr=1e-3,
        batch_size=1,
        keep=lambda result, model, tokenizer, learned: kept.append((result.method, model)),
    )
    first, broken, second = comparison.results
    assert len(loads) == 3
    assert first.forget.probability == pytest.approx(second.forget.probability)
    assert "step 1" in broken.error
    assert broken.forget is None
    assert [name for name, _ in kept] == ["first"]  # the second ties, and comes later
    assert len(first.loss) == 2
    weights = [p.detach().clone() for p in kept[0][1].parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(weights, load()[0].parameters(), strict=True))


class Unusable(NPO):
    """Finds out only when it starts that it cannot use these rows."""

    error: type[Exception] = UserError

    def init(self, model, data):
        raise self.error("these rows will not do\nfor a reason")


class OutOfMemory(Unusable):
    error = RuntimeError


def test_what_stops_one_method_is_told_and_the_others_go_on(setting):
    load, _, forget, retain = setting
    told, kept = [], []
    methods = {"first": GradAscent(), "unusable": Unusable(), "too large": OutOfMemory(), "last": GradAscent()}
    comparison = compare(
        load,
        methods,
        forget,
        retain,
        steps=1,
        keep=lambda result, *rest: kept.append(result.method),
        progress=told.append,
    )
    assert [bool(result.error) for result in comparison.results] == [False, True, True, False]
    assert "first" in kept
    assert {"unusable: these rows will not do for a reason", "too large: these rows will not do"} <= set(told)
    assert "last (4 of 4, about 0 s left)" in [line.replace("1 s", "0 s") for line in told]
    assert any(line.startswith("last: forgotten ") for line in told)


def test_a_method_that_needs_other_rows_is_refused_before_any_is_tried(setting):
    load, _, forget, _ = setting
    told = []
    with pytest.raises(UserError, match="rmu: RMU needs retain rows"):
        compare(load, {"rmu": RMU()}, forget, steps=1, progress=told.append)
    assert told == []


@dataclass(frozen=True)
class Breaks:
    """Leaves weights that are finite, and outputs that are not."""

    def edit(self, model, data, **options):
        with torch.no_grad():
            model.model.norm.weight.fill_(3e38)
        return model


@dataclass(frozen=True)
class Wipes:
    """Forgets all in one go."""

    def edit(self, model, data, **options):
        assert not {"evaluate", "stop", "evaluate_every"} & options.keys()
        with torch.no_grad():
            model.model.norm.weight.mul_(40.0)
        return model


def test_a_method_after_which_the_model_says_nothing_that_is_a_number_has_not_forgotten(setting):
    load, _, forget, retain = setting
    broken, sound = compare(load, {"broken": Breaks(), "sound": NPO()}, forget, retain, steps=1, batch_size=1).results
    assert "not a number" in broken.error
    assert not sound.error


def test_refusals(setting):
    load, loads, forget, retain = setting
    with pytest.raises(UserError, match="give retain rows, general text, or one method only"):
        compare(load, {"a": IDK(), "b": NPO()}, forget)
    with pytest.raises(UserError, match="no method"):
        compare(load, {}, forget, retain)
    assert not loads


def test_training_ends_at_the_first_look_that_finds_the_level(setting):
    """GradAscent lowers the one answer's probability a little every step: the model kept is the first beyond half."""
    load, _, forget, retain = setting
    settings = {"lr": 2e-3, "batch_size": 1, "optimizer": "sgd"}
    method, states = {"a": GradAscent(retain="none")}, []
    found = compare(
        load,
        method,
        forget,
        retain,
        until=0.5,
        look_every=3,
        steps=200,
        keep=lambda result, model, *_: states.append([p.detach().clone() for p in model.parameters()]),
        **settings,
    )
    [result] = found.results
    steps = len(result.loss)
    assert result.reached
    assert result.forgotten >= 0.5
    assert steps % 3 == 0
    assert 3 < steps < 200
    assert result.looking > 0
    one_look_less, as_many = (
        compare(
            load, method, forget, retain, steps=n, keep=lambda r, m, *_: states.append(list(m.parameters())), **settings
        )
        for n in (steps - 3, steps)
    )
    assert one_look_less.results[0].forgotten < 0.5
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[2], strict=True))
    assert as_many.results[0].reached is None


def test_a_method_that_never_reaches_the_level_says_so_and_a_finished_one_is_not_trained_again(setting, tmp_path):
    load, _, forget, retain = setting
    methods = {
        "never": GradAscent(retain="ce", retain_weight=50.0),
        "once": Wipes(),
        "climbs": GradAscent(retain="none"),
    }
    settings = {"until": 0.5, "look_every": 20, "steps": 200, "lr": 2e-3, "batch_size": 1, "optimizer": "sgd"}
    settings |= {"clip": 1.0, "checkpoint": lambda name: tmp_path / name}
    first = compare(load, methods, forget, retain, **settings)
    never, once, climbs = first.results
    assert [r.reached for r in first.results] == [False, True, True]
    assert never.forgotten < 0.5 <= min(once.forgotten, climbs.forgotten)
    assert [bool(r.loss) for r in first.results] == [True, False, True]
    again = compare(load, methods, forget, retain, **settings)
    assert [(r.reached, r.loss, r.forgotten) for r in again.results] == [
        (r.reached, r.loss, r.forgotten) for r in first.results
    ]
    assert again.results[2].looking == 0.0
    other = compare(load, {"climbs": methods["climbs"]}, forget, retain, **{**settings, "until": 0.4})
    assert "was made with stop=reached with [0.5]" in other.results[0].error


def test_the_best_at_a_level_kept_most_of_those_that_reached_it():
    slow = Result("slow", kept=1.0, balance=0.8, reached=False)
    harsh = Result("harsh", kept=0.2, balance=0.33, reached=True)
    mild = Result("mild", kept=0.3, balance=0.32, reached=True)
    assert Comparison(scores(1, 1, 1), None, [slow, harsh, mild], until=0.5).best is mild
    assert Comparison(scores(1, 1, 1), None, [slow, Result("none", kept=0.9, reached=False)], until=0.5).best is slow


def test_some_rows_scores_are_those_of_the_rows():
    found = RowScores(["a", "b", "c"], *(np.arange(3.0) + i for i in range(7)))
    some = at(found, [2, 0])
    assert some.output == ["c", "a"]
    assert some.exact_memorization.tolist() == [8.0, 6.0]


def test_a_level_that_cannot_be_meant_or_had(setting):
    load, loads, forget, retain = setting
    for wrong in ({"until": 0.0}, {"until": 1.1}, {"until": math.nan}, {"until": 0.5, "look_every": 0}):
        with pytest.raises(UserError, match=r"at most 1|at least 1"):
            compare(load, {"a": GradAscent()}, forget, retain, **wrong)
    assert not loads

    def knows_nothing():
        tokenizer = word_tokenizer([" ".join([*REFUSALS, *(f"word{i}" for i in range(200))])])
        model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
        with torch.no_grad():
            model.model.norm.weight.zero_()  # all words are equally likely
        return model, tokenizer

    with pytest.raises(UserError, match="does not know the forget rows"):
        compare(knows_nothing, {"a": GradAscent()}, forget, retain, until=0.5)


RETAIN = [
    normalise({"question": f"who is {name} ?", "answer": "a baker ."}) for name in ("Bo", "Ada", "a", "who", "is")
]
TUNED = {"lr": 2e-3, "batch_size": 1, "optimizer": "sgd", "steps": 12}


def test_a_rate_is_chosen_by_rows_that_are_neither_trained_on_nor_reported(setting, tmp_path):
    load, _, forget, _ = setting
    text = " ".join(row["answer"] for row in RETAIN) * 8
    methods = {"ascent": GradAscent(retain="ce"), "once": Wipes()}
    checkpoint = {"checkpoint": lambda name: tmp_path / name}
    told, kept = [], []
    found = compare(
        load,
        methods,
        forget,
        RETAIN,
        text=text,
        tune=3,
        progress=told.append,
        keep=lambda result, *_: kept.append(result.method),
        **TUNED,
        **checkpoint,
    )
    ascent, once = found.results
    assert [trial.lr for trial in ascent.trials] == pytest.approx([2e-3 / 10**0.5, 2e-3, 2e-3 * 10**0.5])
    assert ascent.lr == best_trial(ascent.trials).lr
    assert ascent.seconds == best_trial(ascent.trials).seconds
    assert (once.lr, once.trials) == (None, [])
    assert found.held_out == 1
    assert kept[0] == "ascent"
    assert next(line for line in told if "of 4" in line).startswith("ascent at lr 0.000632 (1 of 4)")

    # The numbers in the table are those of a comparison which never had the rows that chose.
    trained, _ = hold_out(RETAIN)
    plain = {**TUNED, "lr": ascent.lr, "text": split_text(text)[0]}
    alone = compare(load, {"ascent": methods["ascent"]}, forget, trained, **plain).results[0]
    assert (ascent.forgotten, ascent.kept, ascent.loss) == (alone.forgotten, alone.kept, alone.loss)

    # What was chosen is kept on disk, once; a second call trains nothing again, and tries only further rates.
    assert [point.parent.name for point in tmp_path.glob("ascent/*/step-*")] == [f"lr-{ascent.lr:.6g}"]
    told.clear()
    more = compare(load, methods, forget, RETAIN, text=text, tune=5, progress=told.append, **TUNED, **checkpoint)
    assert more.results[0].trials[1:4] == ascent.trials
    assert [line.split(" (")[0] for line in told if "of 6" in line] == [
        "ascent at lr 0.0002",
        "ascent at lr 0.02",
        "once",
    ]


def test_the_time_left_has_the_scoring_that_comes_after_the_last_trial(setting, monkeypatch):
    load, _, forget, _ = setting
    clock = [0.0]

    def slow(name, seconds):
        whole = getattr(comparing, name)

        def function(*arguments, **options):
            clock[0] += seconds
            return whole(*arguments, **options)

        monkeypatch.setattr(comparing, name, function)

    monkeypatch.setattr("palimpsest.train.progress.time.monotonic", lambda: clock[0])
    slow("apply", 60)
    slow("tofu_score", 30)
    told = []
    compare(load, {"a": GradAscent(), "b": GradAscent()}, forget, RETAIN, tune=2, progress=told.append, **TUNED)
    left = [line.rpartition(" (" if " of 4" in line else ", ")[2] for line in told if " of " in line]
    assert left == [
        "1 of 4)",
        "2 of 4, about 8 min left)",  # three trials of 90 s, and two times the best, of which nothing is known yet
        "about 6 min left",
        "3 of 4, about 5 min left)",  # two trials of 90 s, and the best: 60 s, and the forget and the retain rows
        "4 of 4, about 4 min left)",
        "about 2 min left",
    ]


def test_interrupted_trials_go_on_where_they_were(setting, tmp_path, monkeypatch):
    load, _, forget, _ = setting
    whole, calls, last = GradAscent.loss, [], 12 + 5  # in the fifth step of the second rate

    def loss(self, *arguments):
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    def run(folder):
        methods = {"ascent": GradAscent(retain="ce")}
        return compare(
            load, methods, forget, RETAIN, tune=3, checkpoint=lambda name: folder, checkpoint_every=2, **TUNED
        ).results[0]

    unbroken = run(tmp_path / "unbroken")
    monkeypatch.setattr(GradAscent, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    calls.clear()
    last = 0
    resumed = run(tmp_path / "broken")
    assert len(calls) == 8 + 12  # from the fourth step of the second rate, and the third
    assert [replace(t, seconds=0.0) for t in resumed.trials] == [replace(t, seconds=0.0) for t in unbroken.trials]
    assert (resumed.lr, resumed.loss, resumed.kept) == (unbroken.lr, unbroken.loss, unbroken.kept)


def test_a_rate_that_breaks_down_is_a_trial_too(setting):
    load, _, forget, _ = setting
    huge = {**TUNED, "lr": 1e33, "clip": 1e30}
    found = compare(load, {"some": GradAscent(), "none": Explodes()}, forget, RETAIN, tune=2, **huge)
    assert found.results[1].error.count("step 1") == 2
    assert len(found.results[1].trials) == 2
    assert all(trial.error for trial in found.results[0].trials)
    mixed = [Trial(1e-3, balance=0.4), Trial(1e-2, balance=0.9, error="broke"), Trial(1e-1, balance=0.4)]
    assert best_trial(mixed) is mixed[0]
    assert best_trial(mixed[1:2]) is None


def test_the_level_of_forgetting_counts_before_what_is_kept_and_balance_only_without_it():
    trials = [Trial(1e-3, kept=0.9, balance=0.1, reached=False), Trial(1e-2, kept=0.5, balance=0.6, reached=True)]
    assert best_trial(trials) is trials[1]
    assert best_trial([Trial(1e-3, kept=0.9, balance=0.1), Trial(1e-2, kept=0.5, balance=0.6)]).lr == 1e-2


def test_what_is_tried_once():
    once = {name for name, method in METHODS.items() if not trains_at_rate(method)}
    other = {"eco_prompts", "refusal_guard", "neuron_adjust", "key_space", "rwku_steering", "sae_unlearning"}
    assert once == {"needle", *other}


def test_rates_need_rows_to_be_chosen_by(setting):
    load, loads, forget, retain = setting
    for rows, more in (
        (retain, {"tune": 2}),
        ([], {"tune": 2}),
        (RETAIN, {"tune": 1}),
        ([], {"tune": 2, "text": "word"}),
    ):
        with pytest.raises(UserError, match="rates"):
            compare(load, {"a": GradAscent(retain="none")}, forget, rows, **more)
    assert not loads


@pytest.mark.parametrize(("lr", "words"), [(1e-7, "as likely as before"), (1e-3, ""), (0.1, "lower lr")])
def test_a_rate_that_does_nothing_or_breaks_the_model_is_warned_of_after_a_sixth_of_the_steps(setting, lr, words):
    load, _, forget, retain = setting

    def knowing():
        model, tokenizer = load()
        rows = prepare(tokenizer, pairs(tokenizer, forget)).forget
        fine_tune(model, rows, pad_id=tokenizer.pad_token_id, epochs=60, batch_size=1, lr=1e-2, progress=False)
        return model, tokenizer

    for until in (None, 0.999):
        told = []
        settings = {"lr": lr, "steps": 60, "batch_size": 1, "until": until, "look_every": 10}
        compare(knowing, {"a": GradAscent(retain="none")}, forget, retain, progress=told.append, **settings)
        warnings = [line for line in told if "after 10 steps" in line]
        assert len(warnings) == bool(words)
        assert all(line.startswith("a: after ") and words in line for line in warnings)


def test_what_is_doubted():
    assert "raise" in doubtful(-1.0, -1.01, 100)
    assert "lower" in doubtful(-1.0, -math.log(100) - 0.1, 100)
    assert doubtful(-1.0, -2.0, 100) == ""
