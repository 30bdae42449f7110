"""Where to begin: what sequences hold, curves from a start that stays, features at their limits, and the choice."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.models.language import causal_lm
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.retain.selective_init import Candidate, SelectiveInit, candidate, features, task_gradient
from palimpsest.retain.selective_init_measures import accuracy, gain, learn, transfer_curve
from palimpsest.retain.selective_init_tasks import KINDS, make_sequence

SIZES = {"target": 2, "past": 4, "test": 3}
GROUPS = [{f"topic{g}{t}": [f"{'abcd'[t]}{g} is line w{i}" for i in range(12)] for t in range(3)} for g in range(3)]
WORDS = [f" {word}" for word in ["red", "blue", "green", "black", "white", "brown", "pink", "grey", "gold", "lime"]]


@pytest.fixture(scope="module")
def tokenizer():
    lines = [line for group in GROUPS for lines in group.values() for line in lines]
    words = [word for line in [*lines, "Topic: This is about", *WORDS] for word in line.split()]
    return word_tokenizer(words)


@pytest.fixture
def base(tokenizer):
    return causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2, seed=0).eval()


def sequence(kind="positive", **options):
    return make_sequence(kind, GROUPS, WORDS, sizes=SIZES, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_holds_what_its_kind_says_and_no_line_of_the_target(kind):
    found = sequence(kind, n_past=4, seed=3)
    bearings = sorted(task.bearing for task in found.past)
    wanted = {
        "positive": ["neutral"] * 3 + ["positive"],
        "negative": ["negative"] + ["neutral"] * 3,
        "neutral": ["neutral"] * 4,
        "mixed": ["negative"] * 2 + ["neutral"] + ["positive"],
    }
    assert bearings == wanted[kind]
    assert len(found.target.train) == 3 * 2
    assert len(found.target.test) == 3 * 3
    mine = {prompt.split(" Topic")[0] for prompt, _ in found.target.train + found.target.test}
    said = {prompt.split(" Topic")[0]: word for prompt, word in found.target.train + found.target.test}
    for task in found.past:
        lines = {prompt.split(" Topic")[0].split(" This")[0] for prompt, _ in task.train}
        assert not lines & mine
        assert len(task.train) == 3 * 4
        assert (task.words == found.target.words) == (task.bearing != "neutral")
        topics = {line[:2]: word for line, (_, word) in zip(sorted(lines), sorted(task.train), strict=True)}
        target = {line[:2]: word for line, word in said.items()}
        if task.bearing == "positive":
            assert topics == target
            assert all("This is about" in prompt for prompt, _ in task.train)
        if task.bearing == "negative":
            assert all(topics[topic] != target[topic] for topic in target)
            shift = {word: found.target.words[(i + 1) % 3] for i, word in enumerate(found.target.words)}
            assert topics == {topic: shift[word] for topic, word in target.items()}


def test_the_same_seed_deals_the_same_and_what_is_short_is_refused():
    assert sequence(seed=5) == sequence(seed=5) != sequence(seed=6)
    with pytest.raises(ValueError, match="lines"):
        make_sequence("positive", GROUPS, WORDS, sizes={**SIZES, "past": 40})
    with pytest.raises(ValueError, match="words"):
        make_sequence("positive", GROUPS, WORDS[:5], sizes=SIZES)
    with pytest.raises(ValueError, match="kind"):
        make_sequence("sideways", GROUPS, WORDS, sizes=SIZES)


def test_accuracy_is_among_the_tasks_words_and_only_the_last_token_counts(tokenizer, base):
    task = sequence().target
    naive = 0
    ids = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in task.words]
    for prompt, word in task.test:
        with torch.no_grad():
            logits = base(input_ids=torch.tensor([tokenizer(prompt).input_ids])).logits[0, -1, ids]
        naive += task.words[int(logits.argmax())] == word
    assert accuracy(base, tokenizer, task) == pytest.approx(naive / len(task.test))


def test_a_curve_is_one_training_looked_at_and_leaves_its_start_alone(tokenizer, base):
    task = sequence().target
    before = deepcopy(base.state_dict())
    options = {"lr": 1e-2, "batch_size": 4, "seed": 1}
    curve = transfer_curve(base, tokenizer, task, (2, 5), **options)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    for steps, found in zip((2, 5), curve, strict=True):
        copy = deepcopy(base)
        learn(copy, tokenizer, task, steps, **options)
        assert accuracy(copy, tokenizer, task) == found
    assert gain(curve, curve) == 0.0
    with pytest.raises(ValueError, match="rise"):
        transfer_curve(base, tokenizer, task, (5, 2))


def test_the_pretrained_model_itself_is_a_candidate_without_features(tokenizer, base):
    task = sequence().target
    found = features(Candidate(base, task_gradient(base, tokenizer, task)), base, tokenizer, task, lr=1e-3)
    np.testing.assert_allclose(found, [0, 0, 0, 1, 0], atol=1e-6)


def test_a_step_down_the_tasks_own_gradient_lies_along_it(tokenizer, base):
    task = sequence().target
    slope, moved, at = task_gradient(base, tokenizer, task), deepcopy(base), 0
    for p in moved.parameters():
        p.data -= 0.1 * slope[at : at + p.numel()].view_as(p)
        at += p.numel()
    found = features(Candidate(moved, -slope), base, tokenizer, task, lr=1e-3)
    assert found[0] < 0
    np.testing.assert_allclose(found[2:4], [1, -1], atol=1e-5)
    size = torch.cat([p.detach().flatten() for p in base.parameters()]).norm()
    assert found[4] == pytest.approx(float(0.1 * slope.norm() / size), rel=1e-3)


def test_a_related_past_is_learned_and_a_candidate_leaves_both_models_alone(tokenizer, base):
    past = next(task for task in sequence().past if task.bearing == "positive")
    before = deepcopy(base.state_dict())
    found = candidate(base, base, tokenizer, past, 40, lr=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert accuracy(found.model, tokenizer, past) > accuracy(base, tokenizer, past)
    torch.testing.assert_close(found.gradient, task_gradient(base, tokenizer, past))


def test_the_likeliest_gain_is_chosen_if_it_is_likelier_than_the_threshold():
    draws = np.random.default_rng(0)
    rows = draws.normal(size=(60, 5))
    selector = SelectiveInit(threshold=0.5).fit(rows, rows[:, 0])
    asked = np.zeros((3, 5))
    asked[:, 0] = [-2.0, 2.0, 0.1]
    assert selector.choose(asked) == int(selector.chances(asked).argmax())
    assert selector.chances(asked)[1] > 0.5 > selector.chances(asked)[0]
    assert SelectiveInit(threshold=1.0).fit(rows, rows[:, 0]).choose(asked) is None
    assert selector.choose(asked[:1]) is None
    with pytest.raises(ValueError, match="nothing to tell apart"):
        SelectiveInit().fit(rows, np.ones(60))
    with pytest.raises(UserError, match="threshold"):
        SelectiveInit(threshold=1.5)
