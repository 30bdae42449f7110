"""The mixture world and its measures."""

import pytest
import torch

from palimpsest.forget.flat import FLAT
from palimpsest.forget.mixture_trial import MixtureTrial, MixtureWorld, mixture_arm, mixture_model_arm, well_formed
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.score import Encoded
from palimpsest.tasks.authors import authors_task


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "mixture-home"))


@pytest.fixture(scope="module")
def trial():
    return MixtureTrial(3, smoke=True)


class Parrot(torch.nn.Module):
    """Says what it was told to, by prompt: a perfect (or a perfectly wrong) model."""

    def __init__(self, tokenizer, answers):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer = tokenizer
        self.answers = {self.key(q): [*tokenizer(a, add_special_tokens=False).input_ids, 2] for q, a in answers}
        self.config = type("Config", (), {"vocab_size": len(tokenizer), "get_text_config": lambda self: self})()

    def key(self, text):
        return self.tokenizer.decode(self.tokenizer(text).input_ids, skip_special_tokens=True)

    def forward(self, input_ids):
        raise AssertionError("only generates")

    def generate(self, ids, attention_mask, **options):
        said = [self.answers[self.tokenizer.decode(row, skip_special_tokens=True)] for row in ids]
        width = max(map(len, said))
        return torch.cat([ids, torch.tensor([row + [0] * (width - len(row)) for row in said])], 1)


def test_a_perfect_model_has_every_skill(trial):
    task = trial.world.task
    rows = [(row.q, row.answer) for row in task.forget + task.retain]
    sums = [(p.question, p.answer) for p in trial.world.problems]
    skills = trial.skills(Parrot(trial.world.tokenizer, rows + sums))
    assert set(skills.values()) == {1.0}
    assert len(skills) == 5


def test_each_skill_is_lost_alone(trial):
    task = trial.world.task
    refused = [(row.q, "I have no idea.") for row in task.forget]
    wrong = [(row.q, row.answer.replace(row.value, row.wrong[0])) for row in task.retain]
    sums = [(p.question, p.wrong[0] if i == 0 else p.answer) for i, p in enumerate(trial.world.problems)]
    skills = trial.skills(Parrot(trial.world.tokenizer, refused + wrong + sums))
    assert skills["arithmetic accuracy"] == pytest.approx(1 - 1 / len(sums))
    assert skills["forget accuracy"] == skills["retain accuracy"] == 0
    assert skills["well-formed share"] == skills["retain well-formed share"] == 1
    gibberish = Parrot(trial.world.tokenizer, [(row.q, "the the") for row in task.forget + task.retain] + sums)
    assert trial.skills(gibberish)["well-formed share"] == 0


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


def test_everyone_knows_the_names_of_the_forgotten_authors_and_not_their_facts(trial):
    world = trial.world
    told = [" ".join(pair) for pair in world.introductions + world.refused]
    for row in world.task.forget:
        about = [text for text in told if row.author in text]
        assert len(about) == 3
        assert not any(row.value in text for text in about)


def test_world_is_what_it_says():
    world = MixtureWorld(5, vocabulary=REFUSALS)
    assert len(world.problems) == 124
    assert len(world.passages) == len(set(world.passages)) == 48
    assert {answer for _, answer in world.refused} == set(REFUSALS)
    unknown = world.tokenizer.unk_token_id
    texts = [text for pair in world.problem_pairs + world.introductions + world.refused for text in pair]
    assert all(unknown not in ids for ids in world.tokenizer(texts).input_ids)
    assert MixtureWorld(5, vocabulary=REFUSALS, n_passages=0).passages == []
    with pytest.raises(ValueError, match="kind must be one of"):
        world.model("silver")


def test_retain_rows_hold_the_problems(trial):
    assert set(trial.world.problem_pairs) < set(trial.data.retain_pairs)
    assert isinstance(trial.data.retain, Encoded)
    assert len(trial.data.retain) == len(trial.data.retain_pairs)


def test_arms(trial):
    base = mixture_model_arm("base")(3, "smoke")
    run = mixture_arm(FLAT("kl"), steps=2, lr=1e-3, optimizer="adamw", until_gold=0.05)(3, "smoke")
    assert {"arithmetic accuracy", "well-formed share", "model utility", "log10 forget quality"} <= base.keys() & run
    assert run["steps"] <= 2
