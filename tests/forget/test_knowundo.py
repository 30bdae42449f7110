"""Located tensors against a naive search, the objective against its formula and its frozen tensors, scores by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.forget.knowundo import MemFlex, knowundo_task, memflex_locate
from palimpsest.forget.knowundo_measures import BASELINES, accuracy, knowundo_score
from palimpsest.forget.masks import gradients
from palimpsest.forget.memflex_region import region
from palimpsest.forget.procedure import encode_pairs, prepare, unlearn
from palimpsest.forget.random_answers import random_answers
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.files import save
from palimpsest.models.score import Encoded, cross_entropy, greedy, prompt_template
from palimpsest.train.language import fine_tune

TASK = knowundo_task(0, n=3)
TOKENIZER = word_tokenizer(TASK.words(["I do not know ."]))
TEMPLATE = prompt_template(TOKENIZER)
SPECIAL = TOKENIZER.all_special_ids


def templated(pairs):
    return [TEMPLATE.pair(*pair) for pair in pairs]


DATA = prepare(
    TOKENIZER,
    templated(TASK.pairs("unlearn")),
    templated(TASK.pairs("retention")),
    refusals=["I do not know ."],
    max_length=64,
)


def small(seed=0, **shape):
    return causal_lm(
        len(TOKENIZER), seed=seed, **{"d_model": 16, "n_layers": 2, "n_heads": 2, "max_length": 64, **shape}
    )


@pytest.fixture(scope="module")
def knowing():
    """A model that has learned some of it by heart."""
    model = small(d_model=32)
    pairs = templated(TASK.pairs("unlearn", "full")[:9] + TASK.pairs("retention", "full")[-9:])
    rows = encode_pairs(TOKENIZER, pairs, max_length=64)
    fine_tune(model, rows, pad_id=0, epochs=40, lr=1e-2, batch_size=18, progress=False)
    return model


# ---- random answers


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=4),
    copies=st.integers(1, 4),
    replaced=st.sampled_from(["half", "all"]),
    seed=st.integers(0, 99),
)
def test_only_answers_change_and_special_tokens_stay(rows, copies, replaced, seed):
    encoded = Encoded([[1] * prompt + [5] * answer + [2] for prompt, answer in rows], [prompt for prompt, _ in rows])
    options = {"special_ids": [0, 1, 2, 3], "copies": copies, "replaced": replaced, "seed": seed}
    found = random_answers(encoded, 12, **options)
    assert len(found) == copies * len(encoded)
    assert found == random_answers(encoded, 12, **options)
    for number, (ids, length) in enumerate(zip(found.input_ids, found.prompt_lengths, strict=True)):
        prompt, answer = rows[number // copies]
        assert length == prompt
        assert ids[:prompt] == [1] * prompt
        assert ids[-1] == 2
        assert len(ids) == prompt + answer + 1
        assert all(4 <= token < 12 for token in ids[prompt:-1])
        changed = sum(token != 5 for token in ids[prompt:-1])
        assert changed <= (answer if replaced == "all" else max(min(1, answer), answer // 2))
    assert all(row == 5 for ids, (p, _) in zip(encoded.input_ids, rows, strict=True) for row in ids[p:-1])


def test_all_tokens_are_drawn_evenly_and_half_hits_39_percent():
    """n/2 draws of one of n places leave a share exp(-1/2) of them as they were."""
    rows = Encoded([[1] + [5] * 1000 + [2]], [1])
    options = {"special_ids": range(4), "copies": 20}
    everything = random_answers(rows, 14, replaced="all", **options)
    drawn = np.bincount([token for ids in everything.input_ids for token in ids[1:-1]], minlength=14)[4:]
    assert np.abs(drawn / drawn.sum() - 0.1).max() < 0.01
    # A draw gives the true token one time in 10.
    kept = np.mean([token == 5 for ids in random_answers(rows, 14, **options).input_ids for token in ids[1:-1]])
    share = math.exp(-0.5)
    assert abs(kept - (share + 0.1 * (1 - share))) < 0.01
    assert random_answers(rows, 14, **options) != random_answers(rows, 14, **options, seed=1)
    with pytest.raises(ValueError, match="got 0 and 10"):
        random_answers(rows, 14, special_ids=range(4), copies=0)
    with pytest.raises(ValueError, match="got 3 and 0"):
        random_answers(rows, 4, special_ids=range(4))


# ---- where


def test_region_is_both_conditions():
    values = {"same": [3.0, 4.0], "apart": [3.0, -4.0], "weak": [3e-4, -4e-4]}
    u = {name: torch.tensor(g) for name, g in values.items()}
    r = {name: torch.tensor([3.0, 4.0]) for name in u}
    assert region(u, r) == ["apart"]  # cosines 1, -7/25 and -7/25; sizes 3.5, 3.5 and 3.5e-4
    assert region(u, r, grad=3e-4) == ["apart", "weak"]
    assert region(u, r, sim=1.1) == ["same", "apart"]
    assert region(u, r, sim=-0.27) == ["apart"]
    with pytest.raises(UserError, match=r"none of 3 tensors has a cosine below sim=-0.29 \(lowest -0.28\)"):
        region(u, r, sim=-0.29)
    with pytest.raises(UserError, match=r"above grad=4 \(highest 3.5\): raise sim or lower grad"):
        region(u, r, grad=4.0)
    # The median of 3.5, 3.5 and 3.5e-4 is 3.5, and none is above it.
    with pytest.raises(UserError, match=r"grad=3.5"):
        region(u, r, grad=None)
    u["strong"] = torch.tensor([9.0, -9.0])
    u["weaker"], r["strong"], r["weaker"] = torch.zeros(2), r["same"], r["same"]
    assert region(u, r, grad=None) == ["strong"]
    assert "weaker" in region(u, r, grad=-1.0)  # no gradient: cosine 0


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_the_retain_gradients_length_does_not_matter(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    u, r = ({k: torch.randn(7, generator=generator, dtype=torch.float64) for k in "abcdefg"} for _ in range(2))
    found = region(u, r, sim=1.0, grad=None)
    assert region(u, {k: scale * g for k, g in r.items()}, sim=1.0, grad=None) == found
    assert region({k: scale * g for k, g in u.items()}, r, sim=1.0, grad=None) == found  # the median moves along
    assert len(found) == 3


def test_locate_is_a_search_by_hand(knowing):
    """Row by row, copy by copy, tensor by tensor."""
    model = knowing
    copies, seed = 2, 3
    sums = []
    for number, rows in enumerate((DATA.forget, DATA.retain)):
        drawn = random_answers(rows, len(TOKENIZER), special_ids=SPECIAL, copies=copies, seed=2 * seed + number)
        sums.append({name: torch.zeros_like(p) for name, p in model.named_parameters()})
        for row in range(len(drawn)):
            loss = cross_entropy(model, drawn.batch([row], 0))
            for name, g in zip(sums[-1], torch.autograd.grad(loss, list(model.parameters())), strict=True):
                sums[-1][name] += g / len(drawn)
    cosine = {name: F.cosine_similarity(g.flatten(), sums[1][name].flatten(), dim=0) for name, g in sums[0].items()}
    size = {name: g.abs().mean() for name, g in sums[0].items()}
    sim = float(np.median([c.item() for c in cosine.values()]))
    grad = float(np.median([s.item() for s in size.values()]))
    wanted = [name for name in sums[0] if cosine[name] < sim and size[name] > grad]
    options = {"copies": copies, "pad_id": 0, "special_ids": SPECIAL, "seed": seed}
    found = memflex_locate(model, DATA.forget, DATA.retain, sim, None, **options)
    assert found == wanted
    assert 0 < len(found) < len(sums[0]) / 2
    only = memflex_locate(model, DATA.forget, DATA.retain, 1.1, 0.0, names=r"layers\.0\.mlp", **options)
    assert only
    assert all(name.startswith("model.layers.0.mlp") for name in only)
    with pytest.raises(UserError, match="names='lora' in it"):
        memflex_locate(model, DATA.forget, DATA.retain, names="lora", **options)


def test_random_answers_leave_a_gradient_where_the_true_ones_leave_none(knowing):
    """Why answers are random: what is known by heart has no gradient."""
    rows = DATA.forget.subset([0, 1, 2, 3, 4, 5])
    drawn = random_answers(rows, len(TOKENIZER), special_ids=SPECIAL)

    def size(rows):
        return sum(g.square().sum() for g in gradients(knowing, rows, pad_id=0).values()).sqrt()

    assert size(drawn) > 20 * size(rows)


def test_lora_matrices_are_located_and_nothing_else_moves():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(small(), LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, p in model.named_parameters():  # B begins at 0: give it something to have a gradient for A
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    method = MemFlex(grad=None, sim=1.1)
    located = method.locate(model, DATA)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 8
    assert set(located) < set(trainable)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    unlearn(model, method, DATA, steps=2, lr=1e-2, progress=False)
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == located


# ---- the objective


def test_loss_is_the_formula_and_its_gradient_is_masked():
    model = small().double()
    method = MemFlex(sim=1.1, grad=None)
    batch = DATA.batches(4)(0)
    terms = method.loss(None, model, batch)
    wanted = -0.4 * cross_entropy(model, batch["forget"]) + 2.0 * cross_entropy(model, batch["retain"])
    torch.testing.assert_close(sum(terms.values()), wanted)
    state = method.init(model, DATA)
    parameters = dict(model.named_parameters())
    free = dict(zip(parameters, torch.autograd.grad(wanted, list(parameters.values())), strict=True))
    sum(terms.values()).backward()
    method.gradients(state, model)
    for name, p in parameters.items():
        torch.testing.assert_close(p.grad, free[name] if name in state else torch.zeros_like(p))
    assert 0 < len(state) < len(parameters)


@pytest.mark.parametrize("located", ["memflex", "random"])
def test_frozen_tensors_stay_to_the_bit_and_the_rest_moves(located):
    model = small()
    method = MemFlex(sim=1.1, grad=None, located=located, seed=4)
    names = method.locate(model, DATA)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    unlearn(model, method, DATA, steps=3, lr=1e-2, clip=1.0, progress=False)
    assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == set(names)


def test_random_tensors_are_as_many_and_others():
    model = small()
    method = MemFlex(sim=1.1, grad=None)
    drawn = [dataclasses.replace(method, located="random", seed=seed).locate(model, DATA) for seed in range(4)]
    sizes = [len(dataclasses.replace(method, seed=seed).locate(model, DATA)) for seed in range(4)]
    assert [len(names) for names in drawn] == sizes
    assert len(set(map(frozenset, drawn))) > 1
    only = MemFlex(sim=1.1, grad=None, located="random", names="mlp").locate(model, DATA)
    assert all("mlp" in name for name in only)


def test_everything_located_is_gradient_difference():
    """With all tensors free and weights 1 and 1 it is the baseline, to the bit."""
    one, two = small(), small()
    with pytest.raises(UserError, match="MemFlex needs retain rows"):
        unlearn(one, MemFlex(), dataclasses.replace(DATA, retain=None), steps=1)
    for model, method in (
        (one, MemFlex(unlearn_weight=1.0, retain_weight=1.0, sim=1.1, grad=0.0)),
        (two, BASELINES["grad_diff"]),
    ):
        unlearn(model, method, DATA, steps=3, lr=1e-3, progress=False)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q)


def test_baselines_are_those_of_the_family():
    assert set(BASELINES) == {"grad_ascent", "random_label", "adversarial_label", "grad_diff", "kl"}
    assert [BASELINES[name].retain for name in ("grad_ascent", "grad_diff", "kl")] == ["none", "ce", "kl"]


# ---- scores


def test_scores_by_hand(knowing):
    private, public = TASK.pairs("unlearn", "val"), TASK.pairs("retention", "val")
    found = knowundo_score(knowing, private, public, tokenizer=TOKENIZER)
    end = TOKENIZER.eos_token_id
    for name, pairs in (("unlearn", private), ("retention", public)):
        right, nll, rouge = [], [], []
        longest = max(len(TOKENIZER(answer, add_special_tokens=False).input_ids) for _, answer in pairs)
        for question, answer in pairs:
            prompt, written = TEMPLATE.pair(question, answer)
            first = encode_pairs(TOKENIZER, [(prompt, written)], max_length=64)
            ids, length = first.input_ids[0], first.prompt_lengths[0]
            assert ids[-1] == end
            with torch.no_grad():
                logp = knowing(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            places = range(length, len(ids) - 1)  # without the end
            right.append(np.mean([logp[place - 1].argmax().item() == ids[place] for place in places]))
            nll.append(np.mean([-logp[place - 1, ids[place]].item() for place in places]))
            said = greedy(knowing, TOKENIZER, [prompt], max_new_tokens=longest + 4)[0]
            rouge.append(rouge_l_recall(said, answer))
        assert found.sets[name].accuracy == pytest.approx(np.mean(right))
        assert found.sets[name].perplexity == pytest.approx(math.exp(np.mean(nll)), rel=1e-4)
        assert found.sets[name].rouge_l == pytest.approx(np.mean(rouge))
        assert len(found.sets[name].outputs) == len(pairs)
    assert found.unlearn_success == pytest.approx(1 - found.sets["unlearn"].accuracy)
    assert found.retention_success == found.sets["retention"].accuracy
    assert all(0.1 < scores.accuracy < 0.9 and scores.rouge_l > 0 for scores in found.sets.values())
    rows = encode_pairs(TOKENIZER, templated(private), max_length=64)
    assert accuracy(knowing, rows, pad_id=0, end_id=end) == pytest.approx(found.sets["unlearn"].accuracy)
    assert accuracy(knowing, rows, pad_id=0, end_id=None) > 1 - found.unlearn_success  # the end is easy


def test_folders_and_files_score_as_models_and_rows(knowing, tmp_path):
    save(knowing, TOKENIZER, tmp_path / "model")
    paths = TASK.write_json(tmp_path)
    pairs = [TASK.pairs(scope, "val") for scope in ("unlearn", "retention")]
    wanted = knowundo_score(knowing, *pairs, tokenizer=TOKENIZER)
    found = knowundo_score(tmp_path / "model", paths["unlearn"], str(paths["retention"]))
    assert found == wanted
    shown = knowundo_score(tmp_path / "model", paths["unlearn"], split="train", generate=False)
    rows = knowundo_score(knowing, TASK.pairs("unlearn"), tokenizer=TOKENIZER, generate=False)
    assert shown.sets["unlearn"].perplexity == rows.sets["unlearn"].perplexity
    assert shown.sets["unlearn"].perplexity != found.sets["unlearn"].perplexity
    assert math.isnan(shown.retention_success)
    assert math.isnan(shown.sets["unlearn"].rouge_l)
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs[0]))
    assert knowundo_score(knowing, lines, tokenizer=TOKENIZER).unlearn_success == wanted.unlearn_success


def test_general_tasks_are_choices_or_tokens(knowing):
    (question, answer), *_ = TASK.pairs("unlearn", "full")
    wrong = [row.answer for row in TASK.unlearn if row.attr == TASK.unlearn[0].attr and row.answer != answer][:2]
    right = {"question": question, "answer": answer, "perturbed_answer": wrong}
    false = {"question": question, "answer": wrong[0], "perturbed_answer": [answer]}
    general = {"choice": [right, false], "tokens": [{**right, "perturbed_answer": []}]}
    found = knowundo_score(knowing, [(question, answer)], general=general, tokenizer=TOKENIZER, generate=False)
    assert found.general == {"choice": 0.5, "tokens": 1.0}


def test_rows_come_in_any_form(knowing):
    question, answer = TASK.pairs("unlearn", "full")[0]
    forms = [(question, answer), {"question": question, "answer": answer}, {"text": question, "labels": answer}]
    found = [knowundo_score(knowing, [form], general={"g": [form]}, tokenizer=TOKENIZER) for form in forms]
    assert found[0] == found[1] == found[2]
    assert found[0].general["g"] == found[0].sets["unlearn"].accuracy == 1.0
    with pytest.raises(UserError, match="row 2: "):
        knowundo_score(knowing, [forms[1], {"question": question}], tokenizer=TOKENIZER)


def test_a_model_that_broke_down_scores(knowing):
    broken = small(d_model=32)
    with torch.no_grad():
        for p in broken.parameters():
            p.mul_(1e4)
    found = knowundo_score(broken, TASK.pairs("unlearn", "val"), tokenizer=TOKENIZER)
    assert 0 <= found.unlearn_success <= 1
    assert found.sets["unlearn"].perplexity > 1e6


def test_scorer_errors(knowing, tmp_path):
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        knowundo_score(knowing, [("a", "b")])
    with pytest.raises(UserError, match="no rows to score"):
        knowundo_score(knowing, [], tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="no such file"):
        knowundo_score(knowing, tmp_path / "none.json", tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="not a folder"):
        knowundo_score(tmp_path / "none", [("a", "b")])


@pytest.mark.parametrize(
    ("sim", "grad", "theirs"),
    [(0.92, 6e-4, [4, 8, 9]), (0.99, 3e-4, [1, 2, 3, 4, 6, 7, 8, 9, 11]), (0.5, 2.5e-4, [4, 9])],
)
def test_the_region_is_that_of_the_authors_code(sim, grad, theirs):
    """pretrain/localization.py of zjunlp/KnowUnDo (92aea2b) on files of these gradients."""
    place = torch.arange(24, dtype=torch.float32)
    unlearn = {k: 2e-3 * torch.sin(0.9 * place + k) / (1 + k % 4) for k in range(12)}
    retain = {k: 2e-3 * torch.sin(0.9 * place + k + 0.3 * (k % 5)) for k in range(12)}
    assert region(unlearn, retain, sim, grad) == theirs


def test_the_terms_are_those_of_the_authors_code(waves):
    """AscentPlusDescentTrainer of zjunlp/KnowUnDo (92aea2b) with the factors -1 and 1."""
    model = waves(causal_lm(20, d_model=16, n_layers=3, n_heads=2, tie=False))
    ids = 4 + (torch.arange(24) * 5 % 15).view(3, 8)
    labels = ids.masked_fill(torch.arange(8) < 3, -100)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    terms = MemFlex().loss({}, model, {"forget": batch, "retain": batch})
    assert terms["forget"].item() == pytest.approx(-1.5400521953683413, rel=1e-6)
    assert terms["retain"].item() == pytest.approx(7.700260862098877, rel=1e-6)
