"""The survey's methods against naive expressions of their losses, and the door to all of them on a tiny model."""

import math
import sys
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.forget import data_erasure_survey_measures
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.data_erasure_survey import ppu_rows, unlearn
from palimpsest.forget.data_erasure_survey_measures import Question, scorecard
from palimpsest.forget.data_erasure_survey_methods import (
    EUL,
    KGA,
    Adapter,
    FlippedLabels,
    NewRows,
    TaskVector,
    answer_kl,
    flipped,
    insert_adapters,
    labels_of,
    mean_kl,
    task_vector,
)
from palimpsest.forget.data_erasure_survey_registry import registry
from palimpsest.forget.icul import PrefixedLM, icul_context
from palimpsest.forget.procedure import prepare
from palimpsest.forget.procedure import unlearn as train
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded, cross_entropy, encode, greedy, score
from palimpsest.train.language import fine_tune

WORDS = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"]
LABELS = [" good", " bad"]
FORGET = [(f"film {name} is", LABELS[i % 2]) for i, name in enumerate(WORDS[:3])]
RETAIN = [(f"film {name} is", LABELS[i % 2]) for i, name in enumerate(WORDS[3:])]
NEW = [(f"film {a} {b} is", LABELS[0]) for a, b in pairwise(WORDS)]
TOKENIZER = word_tokenizer([*WORDS, "film is good bad which this", "I do not know ."])
TOKENIZER.chat_template = "{{ messages[0]['content'] }}"
QUICK = {"steps": 3, "lr": 1e-2, "batch_size": 4, "progress": False}


def small(seed=0, architecture="llama", **options):
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_length": 96, **options}
    return causal_lm(len(TOKENIZER), seed=seed, architecture=architecture, **shape).eval()


@pytest.fixture(scope="module")
def knowing():
    model = small(d_model=32)
    rows = prepare(TOKENIZER, FORGET + RETAIN, refusals=["I do not know ."]).forget
    fine_tune(model, rows, pad_id=0, epochs=120, batch_size=8, lr=5e-3, progress=False)
    assert accuracy(model, FORGET + RETAIN) == 1
    return model


def accuracy(model, pairs):
    said = greedy(model, TOKENIZER, [prompt for prompt, _ in pairs], max_new_tokens=2)
    return np.mean([a.strip() == b.strip() for a, (_, b) in zip(said, pairs, strict=True)])


def data(**options):
    return prepare(TOKENIZER, FORGET, RETAIN, refusals=["I do not know ."], **options)


def naive_kl(p, q, rows):
    """KL(p || q) at the answers' tokens, row by row and token by token, mean over tokens and rows."""
    total = 0.0
    for ids, start in zip(rows.input_ids, rows.prompt_lengths, strict=True):
        a, b = (m(torch.tensor([ids])).logits[0].log_softmax(-1) for m in (p, q))
        kl = [(a[t].exp() * (a[t] - b[t])).sum() for t in range(start - 1, len(ids) - 1)]
        total = total + torch.stack(kl).mean()
    return total / len(rows)


# --- task vectors


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4), st.floats(-2, 2))
def test_task_vector_is_its_formula(values, lam):
    theta = {"w": torch.tensor(values).double()}
    tuned = {"w": theta["w"] + torch.arange(1.0, len(values) + 1).double()}
    expected = (1 + lam) * theta["w"] - lam * tuned["w"]
    torch.testing.assert_close(task_vector(theta, tuned, lam)["w"], expected)
    assert torch.equal(task_vector(theta, tuned, 0.0)["w"], theta["w"])
    torch.testing.assert_close(task_vector(theta, tuned, -1.0)["w"], tuned["w"])


def test_task_vector_edit_goes_away_from_the_forget_rows():
    model, rows = small(), data()
    before = score(model, rows.forget, pad_id=0).nll.mean()
    learned = TaskVector(lam=-1.0).edit(small(), rows, **QUICK)  # backwards: the fine-tuned model itself
    fine = small()
    fine_tune(fine, rows.forget, pad_id=0, epochs=3, batch_size=3, lr=1e-2, progress=False)
    for a, b in zip(learned.parameters(), fine.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    away = TaskVector(lam=0.5).edit(small(), rows, **QUICK)
    nll = [score(m, rows.forget, pad_id=0).nll.mean() for m in (learned, away)]
    assert nll[0] < before < nll[1]
    with pytest.raises(ValueError, match="weights differ"):
        task_vector({"a": torch.ones(1)}, {"b": torch.ones(1)})


# --- KGA


def test_answer_kl_and_mean_kl_are_naive_ones():
    p, q, rows = small(1), small(2), data()
    expected = naive_kl(p, q, rows.retain)
    torch.testing.assert_close(answer_kl(p, q, rows.retain.batch(range(5), 0)), expected)
    assert mean_kl(p, q, rows.retain, 0, batch_size=2) == pytest.approx(expected.item(), rel=1e-5)
    assert mean_kl(p, p, rows.retain, 0) == pytest.approx(0, abs=1e-7)


def kga_rows():
    rows = data()
    return NewRows(**vars(rows), new=encode(TOKENIZER, *zip(*NEW, strict=True), max_length=64))


def test_kga_is_its_two_terms():
    teacher, rows, method = small(1), kga_rows(), KGA(retain_weight=0.7, helper_epochs=2)
    state = method.init(teacher, rows)
    helper_n = method.helper(teacher, rows.new, rows)
    gap = naive_kl(teacher, helper_n, rows.new)
    assert state["gap"] == pytest.approx(gap.item(), rel=1e-4)
    model = small(5)
    batch = {"forget": rows.forget.batch(range(3), 0), "retain": rows.retain.batch(range(5), 0)}
    terms = method.loss(state, model, batch)
    forget_gap = naive_kl(model, state["helper"], rows.forget)
    torch.testing.assert_close(terms["gap"], (forget_gap - gap).abs())
    torch.testing.assert_close(terms["retain"], 0.7 * naive_kl(teacher, model, rows.retain))
    sum(terms.values()).backward()
    assert all(p.grad is None for m in (state["teacher"], state["helper"]) for p in m.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    # without unlearning the retain term is 0
    torch.testing.assert_close(method.loss(state, teacher, batch)["retain"], torch.tensor(0.0), atol=1e-6, rtol=0)


def test_kga_helpers_know_their_rows_and_no_others():
    teacher, rows = small(1), kga_rows()
    helper = KGA(helper_epochs=60, helper_lr=1e-2).helper(teacher, rows.new, rows)
    assert score(helper, rows.new, pad_id=0).nll.mean() < 0.1
    # of the new rows all are good: it cannot know that a film is bad
    assert score(helper, rows.forget, pad_id=0).nll[1] > 1
    assert not any(p.requires_grad for p in helper.parameters())


def test_kga_closes_its_gap():
    model, rows, method = small(1), kga_rows(), KGA(helper_epochs=20, helper_lr=1e-2)
    history = train(model, method, rows, **{**QUICK, "steps": 40, "lr": 3e-3, "optimizer": "adam"})
    gaps = [step["gap"] for step in history.steps]
    assert np.mean(gaps[-5:]) < 0.5 * np.mean(gaps[:5])


def test_kga_needs_new_rows():
    with pytest.raises(UserError, match="needs new rows"):
        KGA().init(small(), data())
    with pytest.raises(UserError, match="helper_epochs must be above 0"):
        KGA(helper_epochs=0)


# --- EUL


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_adapters_begin_as_nothing_and_train_alone(architecture):
    plain, model = small(architecture=architecture), small(architecture=architecture)
    with pytest.raises(UserError, match="insert_adapters first"):
        list(EUL().trainable(model))
    insert_adapters(model, width=4)
    ids = torch.tensor([[1, 5, 7]])
    assert torch.equal(model(ids).logits, plain(ids).logits)
    assert sum(isinstance(m, Adapter) for m in model.modules()) == 2
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(model, EUL(), data(), **QUICK)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(".down." in name or ".up." in name for name in moved)
    # a fused form: the inner map, then the bottleneck
    adapter = next(m for m in model.modules() if isinstance(m, Adapter))
    x = torch.randn(3, adapter.inner.weight.shape[1 if architecture == "llama" else 0])
    h = adapter.inner(x)
    expected = h + F.relu(h @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(adapter(x), expected)


def test_eul_is_its_four_terms():
    teacher, model, rows = small(1), small(2), data()
    batch = {"forget": rows.forget.batch(range(3), 0), "retain": rows.retain.batch(range(5), 0)}
    terms = EUL(forget_weight=2.0, task_weight=3.0, lm_weight=0.5).loss(teacher, model, batch)
    torch.testing.assert_close(terms["retain_kl"], naive_kl(teacher, model, rows.retain))
    torch.testing.assert_close(terms["forget_kl"], -2.0 * naive_kl(teacher, model, rows.forget))
    torch.testing.assert_close(terms["task"], 3.0 * cross_entropy(model, batch["retain"]))
    torch.testing.assert_close(terms["lm"], -0.5 * cross_entropy(model, batch["forget"]))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    with pytest.raises(UserError, match="lm_weight"):
        EUL(lm_weight=-1)


# --- labels and prompts


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 9))
def test_flipped_labels_are_other_labels(drawn, seed):
    labels = ["a", "b", "c", "d"]
    rows = [(f"q{i}", labels[k]) for i, k in enumerate(drawn)]
    other = flipped(rows, labels, seed)
    assert [q for q, _ in other] == [q for q, _ in rows]
    assert all(new in labels and new != old for (_, new), (_, old) in zip(other, rows, strict=True))


def test_random_labels_rewrites_the_forget_rows_only():
    rows = data()
    new = FlippedLabels(seed=1).rewrite(rows)
    assert new.retain == rows.retain
    for (_, old), ids in zip(FORGET, new.forget.input_ids, strict=True):
        assert TOKENIZER.decode(ids, skip_special_tokens=True).split()[-1] == {" good": "bad", " bad": "good"}[old]
    assert FlippedLabels().needs == frozenset()
    assert FlippedLabels(retain="ce").needs == {"retain"}
    with pytest.raises(UserError, match="two different answers"):
        labels_of([("q", "same")], [("r", "same")])


def test_icul_context_is_flipped_rows_then_true_ones():
    context = icul_context(FORGET, RETAIN, n_true=2, seed=3)
    assert [prompt for prompt, _ in context[:3]] == [prompt for prompt, _ in FORGET]
    assert all(a != b for (_, a), (_, b) in zip(context[:3], FORGET, strict=True))
    assert all(pair in RETAIN for pair in context[3:])
    assert len(set(context[3:])) == 2
    with pytest.raises(UserError, match="n_true must lie between 0 and the 5 retain rows, got 6"):
        icul_context(FORGET, RETAIN, n_true=6)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_prefixed_model_is_the_model_on_longer_texts(architecture):
    model = small(3, architecture)
    for p in model.parameters():
        p.data.mul_(5 if p.ndim > 1 else 1)
    prefix = [1, 7, 9, 11, 4]
    prefixed = PrefixedLM(model, prefix)
    rows = data().retain
    scored = score(prefixed, rows, pad_id=0).logp
    longer = Encoded([prefix + ids for ids in rows.input_ids], [5 + n for n in rows.prompt_lengths])
    np.testing.assert_allclose(scored, score(model, longer, pad_id=0).logp, rtol=1e-4)
    assert not np.allclose(scored, score(model, rows, pad_id=0).logp, rtol=1e-2)
    prompts = ["film", "film ann is good", "which film is this", "gus hal"]
    alone = []
    for prompt in prompts:  # token by token, without a cache
        ids = prefix + TOKENIZER(prompt).input_ids
        start = len(ids)
        while len(ids) < start + 8 and (len(ids) == start or ids[-1] != 2):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        alone.append(TOKENIZER.decode(ids[start:], skip_special_tokens=True))
    assert greedy(prefixed, TOKENIZER, prompts, max_new_tokens=8) == alone
    assert len(set(alone)) > 1
    batch = TOKENIZER(prompts, return_tensors="pt", padding=True, padding_side="left")
    out = prefixed.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=0)
    assert torch.equal(out[:, : batch.input_ids.shape[1]], batch.input_ids)
    new = TOKENIZER.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    assert new == alone
    with pytest.raises(UserError, match="do not fit the model's context of 96"):
        PrefixedLM(model, [4] * 96)


def test_ppu_takes_the_most_memorised():
    nll = np.array([2.0, 0.1, 1.0, 3.0, 0.5])
    assert ppu_rows(nll, 0.4) == [1, 4]
    assert ppu_rows(nll, 0.01) == [1]
    assert sorted(ppu_rows(nll, 1.0)) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="share must be"):
        ppu_rows(nll, 0)


# --- the door


def test_the_registry_is_what_unlearn_knows():
    names = [entry.method for entry in registry()]
    assert len(set(names)) == len(names) == 11
    assert {"grad_ascent", "npo", "task_vector", "kga", "eul", "icul", "ppu", "causal_whp", "needle"} <= set(names)
    assert [entry.method for entry in registry() if entry.data == ("labels",)] == ["random_labels", "icul"]


HERE = [entry for entry in registry() if entry.method not in ("causal_whp", "needle")]


@pytest.mark.parametrize(("method", "kind"), [(entry.method, kind) for entry in HERE for kind in entry.data])
def test_every_method_changes_a_copy(method, kind):
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"kga": {"helper_epochs": 1}}.get(method)
    out = unlearn(method, model, FORGET, RETAIN, kind, tokenizer=TOKENIZER, new=NEW, settings=settings, **QUICK)
    rows = data().forget
    assert not np.allclose(score(out, rows, pad_id=0).logp, score(model, rows, pad_id=0).logp, atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(greedy(out, TOKENIZER, [q for q, _ in FORGET], max_new_tokens=2)) == 3


def test_retain_rows_are_asked_for_exactly_where_the_registry_says():
    for entry in HERE:
        call = {"data": entry.data[-1], "tokenizer": TOKENIZER, "new": NEW, **QUICK, "steps": 1}
        if entry.retain == "yes":
            with pytest.raises(UserError, match=f"{entry.method} needs retain rows"):
                unlearn(entry.method, small(), FORGET, **call)
        else:
            unlearn(entry.method, small(), FORGET, **call)


def test_methods_forget_what_they_are_given(knowing):
    for method, steps, lr, settings, keeps in (
        ("random_labels", 25, 1e-2, None, 0.0),
        ("grad_diff", 40, 3e-3, None, 0.7),
        ("eul", 40, 1e-2, {"lm_weight": 2.0}, 0.0),  # its unbounded terms win
    ):
        training = {"steps": steps, "lr": lr, "batch_size": 8, "settings": settings, "progress": False}
        out = unlearn(method, knowing, FORGET, RETAIN, "labels", tokenizer=TOKENIZER, **training)
        assert accuracy(out, FORGET) < 0.5, method
        assert accuracy(out, RETAIN) >= keeps, method
    assert accuracy(knowing, FORGET) == 1


def test_ppu_and_ascent_are_the_same_on_all_rows():
    settings = {"share": 1.0}
    both = [
        unlearn(name, small(), FORGET, RETAIN, tokenizer=TOKENIZER, settings=s, **{**QUICK, "batch_size": 3})
        for name, s in (("ppu", settings), ("grad_ascent", None))
    ]
    for a, b in zip(both[0].parameters(), both[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_other_rooms_are_asked_by_name(monkeypatch):
    """Both are loaded when they are asked for; here they are stood in for."""
    seen = {}
    whp, concepts = ModuleType("causal_whp"), ModuleType("concept_vectors")
    whp.CausalWHP = lambda **settings: seen.update(settings) or GradAscent(retain="none")

    def needle(model, loc, std=1.0, steps=0, *, data=None, seed=0, **options):
        seen.update(loc=loc, std=std, steps=steps, data=data)
        return model

    concepts.needle = needle
    monkeypatch.setitem(sys.modules, "palimpsest.forget.causal_whp", whp)
    monkeypatch.setitem(sys.modules, "palimpsest.forget.concept_vectors", concepts)
    unlearn("causal_whp", small(), FORGET, tokenizer=TOKENIZER, settings={"n": 3}, **QUICK)
    assert seen == {"n": 3}
    unlearn("needle", small(), FORGET, tokenizer=TOKENIZER, settings={"loc": (0, 1), "std": 2.0})
    assert (seen["loc"], seen["std"], seen["steps"], seen["data"]) == ((0, 1), 2.0, 0, None)
    unlearn("needle", small(), FORGET, tokenizer=TOKENIZER, settings={"loc": (0, 1)}, steps=2)
    assert seen["steps"] == 2
    assert seen["data"].forget_pairs == tuple(FORGET)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("gradient_ascent", "text"), "no method 'gradient_ascent': grad_ascent,"),
        (("icul", "text"), "icul is not for data='text', but for labels"),
        (("needle", "labels"), "needle is not for data='labels'"),
        (("kga", "text"), "KGA needs new rows"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        unlearn(call[0], small(), FORGET, RETAIN, call[1], tokenizer=TOKENIZER, **QUICK)


# --- the scorecard


def test_scorecard_by_hand(monkeypatch):
    """Two models that answer from a table."""
    answers = {
        "unlearned": {"f1": "rome", "f1b": "no", "f2": "no", "f2b": "no", "r1": "in oslo .", "r1b": "oslo", "r2": "x"},
        "gold": {"f1": "no", "f2": "no", "r1": "oslo", "r1b": "oslo", "r2": "bern"},
    }
    monkeypatch.setattr(
        data_erasure_survey_measures, "greedy", lambda m, t, prompts, max_new_tokens: [answers[m][p] for p in prompts]
    )
    forget = [Question(("f1", "f1b"), "rome"), Question(("f2", "f2b"), "kiel")]
    retain = [Question(("r1", "r1b"), "oslo"), Question(("r2",), "bern")]
    card = scorecard("unlearned", "gold", forget, retain, tokenizer=None)
    assert card == {
        "forgetting": 0.5,
        "retention": 0.5,
        "consistency": 0.75,  # f1 is right in one wording and wrong in the other
        "over-deletion": 0.5,
        "under-deletion": 0.5,
        "distance to gold": 1.0,
    }
    same = scorecard("gold", "gold", [Question(("f1",), "rome")], retain[:1], tokenizer=None)
    assert (same["distance to gold"], same["over-deletion"], same["under-deletion"]) == (0, 0, 0)
    with pytest.raises(ValueError, match="got 0 and 1"):
        scorecard("gold", "gold", [], retain[:1], tokenizer=None)


def test_scorecard_of_a_model(knowing):
    def ask(pairs):
        return [Question((prompt,), answer) for prompt, answer in pairs]

    card = scorecard(knowing, small(d_model=32), ask(FORGET), ask(RETAIN), tokenizer=TOKENIZER, max_new_tokens=2)
    assert (card["forgetting"], card["retention"], card["consistency"]) == (0, 1, 1)
    assert card["under-deletion"] > 0
    assert math.isclose(card["over-deletion"], 0)
