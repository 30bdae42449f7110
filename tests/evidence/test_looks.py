"""Three looks, five words, and what makes a sentence void."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from palimpsest.evidence import Claim, judge
from palimpsest.evidence.looks import next_look
from palimpsest.evidence.sentences import Wish, at_least, at_most, beats, given, matches, not_worse, rises


@dataclass(frozen=True)
class Reading:
    better: str = "higher"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    exact: bool = False


@dataclass(frozen=True)
class Arm:
    modules: list = field(default_factory=list)

    def __call__(self, seed, budget):
        return {}

    def described(self):
        return {}


def claim(*wishes, reading=None):
    arms = {name: Arm() for name in ("floor", "baseline", "method", "ceiling")}
    expects = [w.sentence("method", reading or Reading(), "ceiling", "floor") for w in wishes]
    return Claim("c", "?", arms, expects, seeds=range(200, 220))


def values(n=20, spread=0.01, **means):
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.05, n)
    return {
        arm: {"m": {200 + i: mean + shared[i] + rng.normal(0, spread) for i in range(n)}} for arm, mean in means.items()
    }


ARMS = {"floor": 0.1, "baseline": 0.5, "ceiling": 0.9}


def words(made, found, n=20):
    return [verdict.word for verdict in judge(made, found, range(200, 200 + n))]


@pytest.mark.parametrize(("mean", "word"), [(0.70, "held"), (0.52, "weak"), (0.40, "refuted"), (0.54, "open")])
def test_a_share_of_the_room_gets_one_of_the_words(mean, word):
    assert words(claim(beats("baseline", on="m", share_of_room=0.1)), values(**ARMS, method=mean)) == [word]


def test_the_share_of_the_room_that_was_gained_is_said():
    (verdict,) = judge(claim(beats("baseline", on="m")), values(**ARMS, method=0.7), range(200, 220))
    assert verdict.share == pytest.approx(0.5, abs=0.05)
    assert verdict.region[0] == pytest.approx(0.04, abs=0.01)
    assert verdict.look == 5


def test_lower_may_be_better():
    turned = {name: 1 - mean for name, mean in ARMS.items()}
    made = claim(beats("baseline", on="m"), reading=Reading(better="lower"))
    assert words(made, values(**turned, method=0.3)) == ["held"]
    assert words(made, values(**turned, method=0.7)) == ["refuted"]


def test_not_worse_and_as_good_as():
    found = values(**ARMS, method=0.5)
    assert words(claim(not_worse("baseline", on="m", by=0.05)), found) == ["held"]
    assert words(claim(matches("baseline", on="m", by=0.05)), found) == ["held"]
    assert words(claim(matches("baseline", on="m", share_of_room=0.1)), values(**ARMS, method=0.7)) == ["refuted"]
    assert words(claim(not_worse("baseline", on="m", by=0.05)), values(**ARMS, method=0.3)) == ["refuted"]


def test_a_decision_of_an_early_look_stays():
    found = values(**ARMS, method=0.7)
    for seed in range(205, 220):
        found["method"]["m"][seed] = 0.1
    (verdict,) = judge(claim(beats("baseline", on="m")), found, range(200, 220))
    assert (verdict.word, verdict.look) == ("held", 5)


def test_before_the_first_look_nothing_is_decided():
    (verdict,) = judge(claim(beats("baseline", on="m")), values(**ARMS, method=0.7), range(200, 204))
    assert verdict.word == "open"
    assert verdict.note == "4 seeds: the first look is at 5"
    assert next_look([verdict], 4) == 5


def test_the_next_look_is_asked_for_only_while_the_central_sentence_is_open():
    made = claim(beats("baseline", on="m"))
    undecided = judge(made, values(**ARMS, method=0.54), range(200, 205))
    assert [next_look(undecided, n) for n in (5, 10, 20)] == [10, 20, None]
    assert next_look(judge(made, values(**ARMS, method=0.8), range(200, 205)), 5) is None


def test_a_precondition_that_fails_makes_the_rest_void_and_one_that_is_open_waits():
    made = claim(given(at_least(0.6, on="m", arm="ceiling")), beats("baseline", on="m"))
    assert words(made, values(**ARMS | {"ceiling": 0.4}, method=0.7)) == ["refuted", "void"]
    unsure = values(spread=0.3, **ARMS | {"ceiling": 0.6}, method=0.7)
    first, second = judge(made, unsure, range(200, 205))
    assert (first.word, second.word) == ("open", "open")
    assert "not settled yet" in second.note
    last = judge(made, unsure, range(200, 220))[1]
    assert last.word == "void"
    assert last.note.startswith("precondition not held: ceiling at least 0.6")


def test_a_measure_at_its_bound_in_every_arm_says_nothing():
    found = values(**ARMS, method=0.7)
    for arm in ("method", "baseline"):
        found[arm]["m"] = dict.fromkeys(range(200, 220), 1.0)
    (verdict,) = judge(claim(beats("baseline", on="m", by=0.0)), found, range(200, 220))
    assert verdict.word == "void"
    assert verdict.note == "m is at its bound, 1, in every arm"


def test_a_sentence_that_the_floor_satisfies_too_is_trivial():
    found = values(**ARMS | {"floor": 0.8}, method=0.7)
    (verdict,) = judge(claim(beats("baseline", on="m")), found, range(200, 220))
    assert verdict.word == "void"
    assert verdict.note == "trivial: floor satisfies it too"


def test_equal_values_decide_only_what_is_exact():
    found = values(**ARMS, method=0.7)
    found["method"]["m"] = dict.fromkeys(range(200, 220), 0.2)
    assert words(claim(Wish("at_most", "m", by=0.25, role="cost"), beats("baseline", on="m")), found)[0] == "open"
    exact = claim(Wish("at_most", "m", by=0.25, role="cost"), beats("baseline", on="m"), reading=Reading(exact=True))
    assert words(exact, found)[0] == "held"


def test_missing_values_leave_a_sentence_open():
    found = values(**ARMS, method=0.7)
    del found["method"]["m"][203]
    (verdict,) = judge(claim(beats("baseline", on="m")), found, range(200, 220))
    assert verdict.word == "open"
    assert "no result on seeds 203" in verdict.note


def test_a_trend_is_one_of_every_step():
    made = claim(rises(["floor", "baseline", "ceiling"], on="m", by=0.1))
    assert words(made, values(**ARMS, method=0.7)) == ["held"]
    assert words(made, values(**ARMS | {"baseline": 0.95}, method=0.7)) == ["refuted"]


def test_only_sentences_of_one_rule_stand_together():
    from palimpsest.evidence import expect

    sentence = at_most(1, on="m").sentence("method", Reading())
    with pytest.raises(ValueError, match="different rules"):
        Claim("c", "?", {"method": Arm()}, [sentence, expect("method").at_least(0, on="m")], seeds=range(200, 220))
