"""Concept vectors planted by hand are found, checked and destroyed, and nothing beside them changes."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.forget.concept_vectors import Needle, needle
from palimpsest.forget.concept_vectors_measures import (
    JAILBREAKS,
    concept_vectors_score,
    intrinsic_scores,
    jailbreak_prompts,
    read_concepts,
)
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import prepare, unlearn
from palimpsest.forget.value_training import ColumnAscent, ValueMatricesOnly
from palimpsest.forget.value_vectors import (
    CausalCheck,
    Location,
    add_noise,
    causal_check,
    distinctive_tokens,
    find_concept_vectors,
    top_tokens,
    value_vector,
    value_vectors,
)
from palimpsest.metrics.text import bleu, rouge_l_f1
from palimpsest.models import causal_lm, save, word_tokenizer
from palimpsest.models.score import Encoded, score

WORDS = [f"w{i}" for i in range(40)]
TOKENIZER = word_tokenizer(WORDS)
TOKENIZER.chat_template = "{{ messages[0]['content'] }}"
LOC = Location(1, 5)
CONCEPT = [10, 11, 12, 13]
ARCHITECTURES = ("gpt2", "llama")


def small(architecture="gpt2", seed=0):
    return causal_lm(
        len(TOKENIZER), d_model=32, n_layers=2, n_heads=2, max_length=64, architecture=architecture, seed=seed
    ).eval()


def planted(architecture="gpt2", loc=LOC):
    """A model with one vector that promotes the concept's tokens."""
    model = small(architecture)
    with torch.no_grad():
        value_vector(model, loc).copy_(3 * model.get_output_embeddings().weight[CONCEPT].sum(0))
    return model


def others_unchanged(before, after, loc):
    """Whether all weights but the vector's are the same, to the bit."""
    after = deepcopy(after)
    with torch.no_grad():
        value_vector(after, loc).copy_(value_vector(before, loc))
    return all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_mlp_writes_the_sum_of_its_neurons_value_vectors(architecture):
    model = small(architecture)
    inner = torch.randn(3, len(value_vectors(model, 0)))
    block = (model.transformer.h if architecture == "gpt2" else model.model.layers)[0].mlp
    down = block.c_proj if architecture == "gpt2" else block.down_proj
    bias = down.bias if getattr(down, "bias", None) is not None else 0
    torch.testing.assert_close(down(inner) - bias, inner @ value_vectors(model, 0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_vector_is_a_view_of_the_weights(architecture):
    model, before = small(architecture), small(architecture)
    with torch.no_grad():
        value_vector(model, (1, 3)).add_(1.0)
    assert not torch.equal(value_vector(model, (1, 3)), value_vector(before, (1, 3)))
    assert others_unchanged(before, model, Location(1, 3))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("by", ["share", "logit"])
def test_the_planted_vector_is_found(architecture, by):
    found = find_concept_vectors(planted(architecture), CONCEPT, top=6, by=by)
    assert found[0].loc == (1, 5)
    assert found[0].share == 1
    assert len(found) == 10


def test_ranking_agrees_with_a_naive_version():
    model, top, drop = small(), 8, 0.3
    unembedding = model.lm_head.weight.detach()
    rows = []
    for layer in range(2):
        for dim, vector in enumerate(value_vectors(model, layer)):
            logits = unembedding @ vector
            share = len(set(logits.argsort(descending=True)[:top].tolist()) & set(CONCEPT)) / len(CONCEPT)
            rows.append((layer, dim, share, logits[CONCEPT].mean().item(), logits.mean().item()))
    floor = np.quantile([row[4] for row in rows], drop)
    kept = sorted((row for row in rows if row[4] >= floor), key=lambda row: (-row[2], -row[3]))
    found = find_concept_vectors(model, CONCEPT, top=top, drop=drop, keep=1000)
    assert abs(len(found) - len(kept)) <= 1  # one vector may lie on the floor
    assert [v.loc for v in found[:20]] == [(row[0], row[1]) for row in kept[:20]]
    np.testing.assert_allclose([v.logit for v in found[:20]], [row[3] for row in kept[:20]], atol=1e-5)


def test_noise_has_the_asked_scale_and_touches_one_vector():
    model, before, loc = small(), small(), Location(0, 7)
    add_noise(model, loc, std=5.0, seed=1)
    change = value_vector(model, loc) - value_vector(before, loc)
    assert float(change.std() / value_vector(before, loc).std()) == pytest.approx(5, rel=0.35)
    assert others_unchanged(before, model, loc)
    add_noise(before, loc, std=5.0, seed=2)
    assert not torch.equal(value_vector(before, loc), value_vector(model, loc))


def rows(model, tokens, n=6, seed=0):
    """Prompts with the answer that the model gives itself: every token is its first choice."""
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        ids = [1, *torch.randint(4, 44, (3,), generator=generator).tolist(), tokens]
        with torch.no_grad():
            found.append([*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())])
    return Encoded(found, [len(found[0]) - 1] * n)


def gated(loc=LOC, trigger=20):
    """A model in which one neuron fires on a trigger word alone and writes the answer to it."""
    model = planted(loc=loc)
    down = model.transformer.h[loc.layer].mlp
    with torch.no_grad():
        normed = []
        hook = down.c_fc.register_forward_pre_hook(lambda _, inputs: normed.append(inputs[0].detach()))
        for word in (trigger, 21, 22, 23):
            model(torch.tensor([[1, 30, 31, 32, word]]))
        hook.remove()
        fires, *not_these = [state[0, -1] for state in normed]
        direction = fires - torch.stack(not_these).mean(0)
        down.c_fc.weight[:, loc.dim] = direction * 20 / (direction @ fires)
        down.c_fc.bias[loc.dim] = -5.0
    return model


def test_causal_check_accepts_the_vector_that_matters_and_rejects_one_that_does_not():
    model, loc = gated(), Location(1, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    concept, unrelated = rows(model, 20), rows(model, 21)
    check = causal_check(model, loc, concept, unrelated, pad_id=0, std=20.0, draws=8)
    assert (check.concept_before, check.unrelated_before) == (1, 1)
    assert check.concept_after < 0.8 < check.unrelated_after
    assert check.passes
    assert check.effect == pytest.approx((1 - check.concept_after) - (1 - check.unrelated_after))
    turned = causal_check(model, loc, unrelated, concept, pad_id=0, std=20.0, draws=8)
    assert not turned.passes
    dead = Location(1, 6)
    with torch.no_grad():  # a neuron that never fires
        model.transformer.h[1].mlp.c_fc.bias[6] = -1e4
    assert causal_check(model, dead, concept, unrelated, pad_id=0).effect == 0
    model.transformer.h[1].mlp.c_fc.bias.data[6] = before["transformer.h.1.mlp.c_fc.bias"][6]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_no_excess_does_not_pass():
    assert not CausalCheck(1.0, 0.6, 1.0, 0.6).passes
    assert CausalCheck(1.0, 0.6, 1.0, 0.7).passes


def test_intrinsic_scores_against_closed_forms():
    model, loc = planted(), Location(1, 5)
    assert intrinsic_scores(model, deepcopy(model), loc, top=4) == {
        "jaccard": 1,
        "cosine": pytest.approx(1),
        "l2": 0,
    }
    turned = deepcopy(model)
    with torch.no_grad():
        value_vector(turned, loc).neg_()
    scores = intrinsic_scores(model, turned, loc, top=4)
    assert scores["jaccard"] == 0
    assert scores["cosine"] == pytest.approx(-1)
    assert scores["l2"] == pytest.approx(2 * float(value_vector(model, loc).norm()), rel=1e-5)
    with torch.no_grad():  # another token takes the place of one of the four
        value_vector(turned, loc).copy_(3 * model.lm_head.weight[[10, 11, 12, 33]].sum(0))
    naive = [set((m.lm_head.weight @ value_vector(m, loc)).argsort()[-4:].tolist()) for m in (model, turned)]
    assert naive[0] & naive[1] != naive[0]
    shared = len(naive[0] & naive[1])
    assert intrinsic_scores(model, turned, loc, top=4)["jaccard"] == shared / (8 - shared)
    assert shared
    assert [set(top_tokens(value_vector(m, loc), m.lm_head.weight, 4).tolist()) for m in (model, turned)] == naive


def pairs(first, last, words):
    return [(f"w{i} w{i + 1}", f"{words[i % len(words)]} {words[(i + 1) % len(words)]}") for i in range(first, last)]


def data(retain=True):
    forget = pairs(0, 8, ["w6", "w7", "w8"])
    return prepare(TOKENIZER, forget, pairs(8, 30, ["w20", "w21", "w22"]) if retain else (), max_length=16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_needle_changes_its_vector_and_no_other_bit(architecture, optimizer):
    model, before, loc = small(architecture), small(architecture), Location(1, 2)
    flags = [p.requires_grad for p in model.parameters()]
    noisy = needle(small(architecture), loc, 5.0, 0, seed=3)
    given = data()
    nll = score(noisy, given.forget, pad_id=0).nll.mean()
    options = {"data": given, "lr": 0.05, "seed": 3, "optimizer": optimizer, "progress": False}
    assert needle(model, loc, 5.0, 6, **options) is model
    assert others_unchanged(before, model, loc)
    assert not torch.equal(value_vector(model, loc), value_vector(noisy, loc))
    assert score(model, given.forget, pad_id=0).nll.mean() > nll  # ascent on the forget rows
    assert [p.requires_grad for p in model.parameters()] == flags


def test_column_ascent_keeps_the_gradient_of_its_column_only():
    model, given = small(), data()
    objective = ColumnAscent(1, 2)
    batch = {"forget": given.forget.batch(range(8), 0)}
    loss = sum(objective.loss(None, model, batch).values())
    loss.backward()
    gradient = model.transformer.h[1].mlp.c_proj.weight.grad
    wanted = gradient[2].clone()
    objective.gradients(None, model)
    assert torch.equal(gradient[2], wanted)
    assert wanted.any()
    assert not gradient[:2].any()
    assert not gradient[3:].any()


def test_needle_refuses_what_it_cannot_do():
    for options, message in (({"std": -1.0}, "-1"), ({"steps": 3}, "give data"), ({"weight_decay": 0.1}, "0.1")):
        with pytest.raises(ValueError, match=message):
            needle(small(), Location(0, 0), **options)
    with pytest.raises(ValueError, match="layer must be from 0 to 1, got 2"):
        needle(small(), Location(2, 0))
    with pytest.raises(ValueError, match="dim must be from 0 to 127, got 128"):
        needle(small(), Location(0, 128))


def test_value_matrices_only_moves_mlp_output_matrices():
    model, before = small(), small()
    objective = ValueMatricesOnly(NPO())
    assert objective.needs == {"retain"}
    unlearn(model, objective, data(), steps=2, lr=1e-2, progress=False)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, dict(before.named_parameters())[n])}
    assert changed == {f"transformer.h.{i}.mlp.c_proj.weight" for i in range(2)}


def test_distinctive_tokens_are_those_of_the_forget_answers_alone():
    forget = Encoded([[1, 5, 20, 21, 2], [1, 5, 20, 22, 2]], [2, 2])
    retain = Encoded([[1, 20, 22, 22, 22, 2]] * 10, [2] * 10)  # 20 is in the prompts only, 22 is common
    assert distinctive_tokens(forget, retain) == [20, 21]
    assert distinctive_tokens(forget, retain, most=1) == [20]
    assert distinctive_tokens(forget, forget) == []


def test_needle_method_finds_the_planted_vector_and_destroys_it():
    model, loc = gated(), Location(1, 5)
    forget, retain = rows(model, 20, n=8), rows(model, 21, n=24)
    forget = Encoded(
        forget.input_ids + [[1, token, token, token] for token in CONCEPT], forget.prompt_lengths + [2] * 4
    )
    given = prepare(TOKENIZER, [("w1", "w2")], [("w3", "w4")], max_length=16)
    given = type(given)(forget=forget, retain=retain, pad_id=0)
    method = Needle(std=20.0, top=6, candidates=4, ratio=2.0)
    before = deepcopy(model)
    assert method.locate(model, given) == loc
    edited = method.edit(model, given, batch_size=4, steps=99, optimizer="adamw")
    assert edited is model
    assert others_unchanged(before, edited, loc)
    assert intrinsic_scores(before, edited, loc, top=4)["cosine"] < 0.6


def test_needle_method_says_why_it_cannot():
    with pytest.raises(UserError, match="retain"):
        Needle().edit(small(), data(retain=False))
    same = prepare(TOKENIZER, pairs(0, 8, ["w6", "w7"]), pairs(8, 30, ["w6", "w7"]), max_length=16)
    with pytest.raises(UserError, match="no token is 5 times as frequent"):
        Needle().edit(small(), same)
    with pytest.raises(UserError, match="noise on none of the 2 vectors"):
        Needle(candidates=2, margin=0.9).edit(small(), data())
    for field, value in (("std", 0.0), ("ratio", 1.0), ("steps", -1), ("candidates", 0), ("lr", 0.0), ("margin", -0.1)):
        with pytest.raises(UserError, match=field):
            Needle(**{field: value})


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [([], {}, "at least one"), ([999], {}, "999"), ([5], {"drop": 1.0}, "drop"), ([5], {"by": "norm"}, "norm")],
)
def test_find_refuses(tokens, options, message):
    with pytest.raises(ValueError, match=message):
        find_concept_vectors(small(), tokens, **options)


def test_jailbreaks_hold_every_question_and_need_a_text_only_where_they_quote_one():
    prompts = jailbreak_prompts("chess", ["Who won?", "When?"], "A game.")
    assert len(prompts) == 2 * len(JAILBREAKS)
    assert all("chess" in prompt for prompt in prompts)
    assert [prompt.endswith("Who won?") for prompt in prompts[:2]] == [True, False]
    assert len(jailbreak_prompts("chess", ["Who won?"])) == len(JAILBREAKS) - 1


def test_text_measures():
    assert rouge_l_f1("a b c d", "a b c d") == 1
    assert rouge_l_f1("a b", "a b c d") == pytest.approx(2 * 0.5 / 1.5)
    assert rouge_l_f1("x", "a b") == 0
    assert bleu("a b c d e", "a b c d e") == pytest.approx(1)
    assert bleu("", "a b") == 0
    assert bleu("a b c d x", "a b c d e") < 1


def concept_row():
    return {
        "ID": "0",
        "Concept": "chess",
        "Layer": 1,
        "Dim": 5,
        "QA": ["w1 w2", " w3 w4\n"],
        "text_completion": [{"First_half": "w5 w6", "Second_half": "w7"}],
        "unrelated_QA": ["w8"],
        "wikipedia_content": "w9 w10",
    }


def test_scorer_reads_the_published_format_from_folders(tmp_path):
    model = planted()
    save(model, TOKENIZER, tmp_path / "before")
    save(needle(deepcopy(model), Location(1, 5), 20.0), TOKENIZER, tmp_path / "after")
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps([concept_row()]))
    (same,) = concept_vectors_score(tmp_path / "before", tmp_path / "before", file, top=4, max_new_tokens=6)
    assert {"qa rouge", "qa bleu", "text rouge", "unrelated rouge", "jailbreak rouge"} < set(same)
    assert (same["concept"], same["jaccard"], same["l2"]) == ("chess", 1, 0)
    assert same["qa rouge"] == same["text rouge"] == same["unrelated rouge"] == pytest.approx(1)
    (other,) = concept_vectors_score(tmp_path / "after", tmp_path / "before", file, top=4, max_new_tokens=6)
    after = needle(deepcopy(model), Location(1, 5), 20.0)
    assert other["jaccard"] == intrinsic_scores(model, after, Location(1, 5), top=4)["jaccard"] < 1
    bare = {**concept_row(), "text_completion": [], "unrelated_QA": [], "wikipedia_content": ""}
    (bare,) = concept_vectors_score(model, model, [bare], tokenizer=TOKENIZER, top=4, max_new_tokens=4)
    assert np.isnan(bare["text rouge"])
    with pytest.raises(ValueError, match="tokenizer is needed"):
        concept_vectors_score(model, model, [concept_row()])


def test_reader_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_concepts(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        read_concepts(tmp_path / "broken.json")
    with pytest.raises(UserError, match="at least one"):
        read_concepts([])
    with pytest.raises(UserError, match="concept 1 has no 'Dim'"):
        read_concepts([concept_row(), {k: v for k, v in concept_row().items() if k != "Dim"}])
    with pytest.raises(UserError, match="First_half"):
        read_concepts([{**concept_row(), "text_completion": [{"text": "w1"}]}])


def test_intrinsic_scores_are_those_of_the_authors_code():
    """jaccard_similarity, cosine_similarity and norm_distance of evaluate_util.py in yihuaihong/ConceptVectors
    (607591b), which takes the first 200 tokens."""
    place = torch.arange(16, dtype=torch.float64)
    vector = torch.sin(1.3 * place)

    def with_vector(vector):
        model = causal_lm(500, d_model=16, n_layers=1, n_heads=2, architecture="gpt2", tie=False)
        with torch.no_grad():
            model.get_output_embeddings().weight.copy_(torch.sin(0.7 * torch.arange(8000.0).double()).view(500, 16))
            value_vector(model, Location(0, 3)).copy_(vector)
        return model

    other = with_vector(vector + 0.5 * torch.cos(2.1 * place))
    theirs = {"jaccard": 0.8264840182648402, "cosine": 0.8871060609817505, "l2": 1.4553353786468506}
    assert intrinsic_scores(with_vector(vector), other, Location(0, 3)) == pytest.approx(theirs, rel=1e-6)
