"""The bench of one fact: what is dealt to whom, and what counts as known."""

import pytest

from palimpsest.benches import one_fact_world
from palimpsest.benches.one_fact import LEFT, validate
from palimpsest.benches.one_fact_world import ATTRIBUTE, HELD_OUT, OTHERS, SAME, OneFact, held_out, measures
from palimpsest.models.score import prompt_template


@pytest.fixture(scope="module")
def world():
    return OneFact(3, smoke=True)


def test_every_row_to_keep_belongs_to_one_part_and_methods_are_given_no_other():
    world = OneFact(200)
    parts = [world.kept(part) for part in ("given", "validation", "test")]
    dealt = [row for part in parts for rows in part.values() for row in rows]
    assert len(dealt) == len(set(dealt)) == 12 * 7 + 4 * 8 + 16
    assert [len({row.author for row in part[OTHERS]}) for part in parts] == [4, 8, 8]
    assert all(row.attr == ATTRIBUTE for part in parts[1:] for row in part[OTHERS])
    assert {row.attr for row in world.forgotten} == {ATTRIBUTE}
    assert all(row.attr != ATTRIBUTE for part in parts for row in part[SAME])
    template = prompt_template(world.authors.tokenizer)
    given = [template.pair(*pair) for row in parts[0][SAME] + parts[0][OTHERS] for pair in row.pairs]
    assert list(world.data.retain_pairs) == given
    assert len(world.data.forget) == 2 * len(world.forgotten) == 24


def test_known_is_what_an_answer_states_and_forgetting_is_asked_in_another_wording(world, monkeypatch):
    rows, asked = world.forgotten, []

    def greedy(model, tokenizer, prompts, max_new_tokens):
        asked.extend(prompts)
        said = [row.value for row in rows]
        return [f"they say {said[0]}.", *("nobody knows" for _ in prompts[1:])]

    monkeypatch.setattr(one_fact_world, "greedy", greedy)
    assert held_out(world, None) == 1 / len(rows)
    template = prompt_template(world.authors.tokenizer)
    assert asked == [template.prompt(row.q_para) for row in rows]
    assert not set(asked) & {prompt for prompt, _ in world.data.forget_pairs}


@pytest.mark.parametrize(("left", "score"), [(LEFT, 0.7), (0.5, -0.5)])
def test_who_has_not_forgotten_is_tuned_by_what_is_left(monkeypatch, world, left, score):
    def accuracy(self, model, rows, questions):
        return left if rows == self.forgotten else 0.7

    monkeypatch.setattr(OneFact, "accuracy", accuracy)
    assert validate(world, None, {}) == score
    assert measures(world, None) == {HELD_OUT: left, SAME: 0.7, OTHERS: 0.7}
