"""The mixture bench: what it measures besides the authors bench, on which rows, and arms that run."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from palimpsest.benches.mixture import MIXTURE
from palimpsest.benches.mixture_kit import FORGOTTEN, SCORED, Mixture, measures, validate, well_formed
from palimpsest.claims.forget.eco_prompts import claim as eco
from palimpsest.forget.refusals import REFUSALS
from palimpsest.tasks.authors import authors_task


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "mixture-home"))


@pytest.fixture(scope="module")
def world():
    return Mixture(3, smoke=True)


class Parrot(torch.nn.Module):
    """Says what it was told to, by prompt: a perfect (or a perfectly wrong) model, whose logits are all equal."""

    def __init__(self, tokenizer, answers):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer = tokenizer
        self.answers = {self.key(q): [*tokenizer(a, add_special_tokens=False).input_ids, 2] for q, a in answers}
        self.config = type("Config", (), {"vocab_size": len(tokenizer), "get_text_config": lambda self: self})()

    def key(self, text):
        return self.tokenizer.decode(self.tokenizer(text).input_ids, skip_special_tokens=True)

    def forward(self, input_ids, **options):
        return type("Output", (), {"logits": self.weight.expand(*input_ids.shape, len(self.tokenizer))})()

    def generate(self, ids, attention_mask, **options):
        said = [self.answers[self.tokenizer.decode(row, skip_special_tokens=True)] for row in ids]
        width = max(map(len, said))
        return torch.cat([ids, torch.tensor([row + [0] * (width - len(row)) for row in said])], 1)


def test_a_perfect_model_has_every_skill_and_each_is_lost_alone(world):
    rows, problems = world.asked("test"), world.authors.problems
    right = [(row.q, row.answer) for split in rows.values() for row in split]
    sums = [(p.question, p.answer) for p in problems]
    skills = world.skills(Parrot(world.authors.tokenizer, right + sums))
    assert skills.pop("prose loss") == pytest.approx(math.log(len(world.authors.tokenizer)))
    assert set(skills.values()) == {1.0}
    assert len(skills) == 5
    refused = [(row.q, "I have no idea.") for row in rows["forget"]]
    wrong = [(row.q, row.answer.replace(row.value, row.wrong[0])) for row in rows["retain"]]
    sums = [(p.question, p.wrong[0] if i == 0 else p.answer) for i, p in enumerate(problems)]
    skills = world.skills(Parrot(world.authors.tokenizer, refused + wrong + sums))
    assert skills["arithmetic accuracy"] == pytest.approx(1 - 1 / len(problems[::2]))
    assert skills["forget accuracy"] == skills["retain accuracy"] == 0
    assert skills["well-formed share"] == skills["retain well-formed share"] == 1
    gibberish = [(question, "the the") for question, _ in right]
    assert world.skills(Parrot(world.authors.tokenizer, gibberish + sums))["well-formed share"] == 0


@pytest.mark.parametrize("attr", range(8))
def test_every_wording_of_an_attribute_is_well_formed_and_no_other_is(attr):
    task = authors_task(n_authors=5, n_attr=8, seed=1)
    row, other = task.forget[attr], task.forget[(attr + 1) % 8]
    for text in (row.answer, row.para, *row.perturbed, *REFUSALS):
        assert well_formed(text, row)
    assert not well_formed(other.answer, row)
    assert not well_formed(row.answer + " " + row.answer, row)
    assert not well_formed(" ".join(row.answer.split()[:-2]), row)
    assert not well_formed(row.answer.replace(row.value, "a"), row)


def test_every_model_has_learned_the_sums_and_the_prose_and_no_method_is_given_them():
    world = Mixture(5)
    learned, given = set(world.authors.spoken), {prompt for prompt, _ in world.data.retain_pairs}
    problems = {(p.question, p.answer) for p in world.authors.problems}
    assert len(problems) == 36
    assert len(set(world.authors.passages)) == 20
    assert problems | set(world.authors.passages) < learned
    assert not given & {question for question, _ in problems}
    unknown = world.authors.tokenizer.unk_token_id
    assert all(unknown not in world.authors.tokenizer(text).input_ids for pair in learned for text in pair)


def test_no_row_is_both_tuned_by_and_judged_by():
    world = Mixture(5)
    test, validation = world.asked("test"), world.asked("validation")
    for split in ("forget", "retain"):
        assert not {row.author for row in test[split]} & {row.author for row in validation[split]}
    assert len(test["forget"]) == len(validation["forget"]) == SCORED


def test_what_has_forgotten_is_tuned_by_what_it_kept_and_what_has_not_by_how_far_it_is(world, monkeypatch):
    gold = world.model("gold")
    skills = world.skills(gold, "validation")
    kept = [world.scores(gold, "validation").model_utility, skills["arithmetic accuracy"], skills["well-formed share"]]
    assert validate(world, gold, {}) == pytest.approx(sum(kept) / 3)
    far = Mixture(3, smoke=True)
    monkeypatch.setitem(far.gold, "probability", far.gold["probability"] - FORGOTTEN - 0.5)
    assert validate(far, gold, {}) == pytest.approx(-FORGOTTEN - 0.5)


def test_a_model_that_training_broke_is_scored_as_one_that_knows_nothing(world):
    broken = copy.deepcopy(world.model("base"))
    broken.get_output_embeddings().weight.data.fill_(math.nan)
    found = measures(world, broken)
    assert found["model utility"] == found["well-formed share"] == 0.0
    assert not any(map(math.isnan, found.values()))


@pytest.mark.parametrize("name", list(MIXTURE.recipes))
def test_every_arm_of_the_bench_runs(name):
    found = MIXTURE.arm(name)(3, "smoke")
    assert set(MIXTURE.read) - {"seconds"} <= set(found)
    assert not any(map(math.isnan, found.values()))


def test_at_the_gate_a_guard_that_flags_everything_misses_nothing_and_stops_everybody():
    guard = eco.arms["refusal guard"]
    always = replace(guard, recipe=replace(guard.recipe, method=replace(guard.recipe.method, alpha=0.999)))
    found = always(3, "smoke")
    assert found["gate misses"] == found["forget accuracy, new wording"] == 0.0
    assert {"gate misses, new wording", "gate false alarms"} <= set(found)
    assert "gate misses" not in eco.arms["base"](3, "smoke")
