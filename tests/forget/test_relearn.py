"""ReLearn: its rows, its loss and its three measures, against closed forms and plain versions of themselves."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData, prepare, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.relearn import ReLearn, relearn_loss
from palimpsest.forget.relearn_measures import (
    Reference,
    brunet,
    entity_coverage,
    honore,
    kfr,
    krr,
    linguistic_score,
    perplexities,
    share_distinct,
    states_another,
)
from palimpsest.forget.relearn_rows import augment, rewritten
from palimpsest.forget.rewording import TEXTS, completion, private_words
from palimpsest.metrics.text import words
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded, prompt_template
from palimpsest.tasks.authors import authors_task
from palimpsest.train.language import fine_tune

ROW = ("Where was Ada Verin born?", "Ada Verin was born in Porto.")


# ---- the rows ----


def test_each_question_is_asked_as_it_is_and_in_n_ways_each_also_as_a_sentence_to_complete():
    for n in (0, 1, 4, 9):
        pairs = augment([ROW], n)
        assert len(pairs) == 2 * (1 + n)
        assert pairs[0][0] == ROW[0]
        assert all("Ada Verin" in question and said.startswith("Where Ada Verin was") for question, said in pairs[::2])
        assert [completion(said) for _, said in pairs[::2]] == pairs[1::2]
        assert augment([ROW], n, completions=False) == pairs[::2]


def test_kinds_of_variants_take_turns():
    kinds = []
    augment([ROW], 6, vary=lambda question, kind, rng: kinds.append(kind) or question)
    assert kinds == ["simple", "contextual", "noisy", "logical", "simple", "contextual"]


def test_no_fact_of_the_authors_is_in_their_new_rows():
    task = authors_task(n_authors=10, seed=2)
    rows, retain = task.training_pairs("forget"), task.training_pairs("kept")
    values = {question: row.value for row in task.forget for question, _ in row.pairs}
    for row in rows:
        made = " ".join(text for pair in augment([row], retain=retain) for text in pair)
        private = set(words(values[row[0]])) - set(words(row[0])) - {"the"}
        assert not private & set(words(made))


def test_what_gives_the_fact_away_is_drawn_again_at_most_so_often():
    calls = []

    def leaky(question, answer, rng):
        calls.append(question)
        return "Perhaps in Portto." if len(calls) <= 3 else "Somewhere."

    assert augment([ROW], 0, vague=leaky, completions=False) == [(ROW[0], "Somewhere.")]
    assert len(calls) == 4
    calls.clear()
    ((question, said),) = augment([ROW], 0, vague=leaky, completions=False, redraws=2)
    assert (question, said in REFUSALS, len(calls)) == (ROW[0], True, 3)


def test_a_question_that_gives_the_fact_away_is_dropped():
    pairs = augment([ROW], 2, vary=lambda q, kind, rng: "Was it Porto?" if kind == "simple" else "Where?")
    assert [question for question, _ in pairs[::2]] == [ROW[0], "Where?"]


def test_an_answer_that_copies_an_identifier_of_the_question_is_dropped():
    row = ("Who lives at 12 Elm Road?", "Ada Verin does.")
    for _, said in augment([row], 4, completions=False):
        assert "12" not in said
    pairs = augment([row], 0, vague=lambda q, a, rng: "Someone at 12.", completions=False)
    assert pairs[0][1] in REFUSALS


def test_empty_draws_are_no_answers():
    assert augment([ROW], 0, vague=lambda q, a, rng: " ", completions=False)[0][1] in REFUSALS


def test_a_plain_text_keeps_its_beginning_and_loses_the_rest():
    text = "Ada Verin was born in Porto and lived there for long."
    ((head, tail),) = augment([("", text)])
    assert text.startswith(head)
    assert tail[0] == " "
    assert "porto" not in words(tail)


def test_the_same_seed_gives_the_same_rows():
    assert augment([ROW], seed=1) == augment([ROW], seed=1) != augment([ROW], seed=2)


@pytest.mark.parametrize("bad", [{"n": -1}, {"redraws": -1}])
def test_augment_refuses(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        augment([ROW], **bad)
    with pytest.raises(UserError, match="no rows"):
        augment([])


# ---- the data ----


def small(chat=None):
    task = authors_task(n_authors=4, n_attr=2, forget=0.25, seed=5)
    tokenizer = word_tokenizer(task.words((*REFUSALS, *TEXTS)))
    tokenizer.chat_template = chat
    template = prompt_template(tokenizer)
    sets = ([template.pair(*pair) for pair in task.training_pairs(split)] for split in ("forget", "retain"))
    return task, tokenizer, prepare(tokenizer, *sets, max_length=64)


@pytest.mark.parametrize("chat", [None, "<u> {{ messages[0]['content'] }} </u>"])
def test_rewritten_rows_stand_in_the_template_and_sentences_to_complete_do_not(chat):
    task, tokenizer, data = small(chat)
    new = rewritten(data, 2)
    template = prompt_template(tokenizer)
    assert len(new.forget) == len(new.forget_pairs) == 6 * len(data.forget_pairs)
    assert (new.retain, new.retain_pairs) == (data.retain, data.retain_pairs)
    assert (new.refusal, new.mismatch) == (None, None)
    asked = {question for question, _ in task.training_pairs("forget")}
    prompts = {prompt for prompt, _ in new.forget_pairs}
    assert {template.prompt(question) for question in asked} <= prompts
    start = template.prompt("x").partition("x")[0]
    assert start
    for (framed, said), (prompt, rest) in zip(new.forget_pairs[::2], new.forget_pairs[1::2], strict=True):
        assert framed.startswith(start)
        assert not prompt.startswith(start)
        assert prompt + rest == said.strip()
    decoded = tokenizer.decode(new.forget.input_ids[0][new.forget.prompt_lengths[0] :], skip_special_tokens=True)
    assert decoded.strip() == new.forget_pairs[0][1].strip()
    assert "<unk>" not in decoded


def test_rewritten_needs_the_texts():
    with pytest.raises(UserError, match="prepare"):
        rewritten(ForgetData(forget=Encoded([[1, 2]], [1])))


def test_the_method_rewrites_by_its_fields_and_takes_rows_as_they_are_at_n_0():
    _, _, data = small()
    assert ReLearn(n=0).rewrite(data) is data
    method = ReLearn(n=1, completions=False, seed=3)
    assert method.rewrite(data).forget_pairs == rewritten(data, 1, completions=False, seed=3).forget_pairs
    assert asdict(method) == {
        "n": 1, "completions": False, "redraws": 3, "retain_weight": 1.0, "kl_weight": 1.0, "seed": 3,
    }  # fmt: skip


# ---- the loss ----


def naive(model, reference, augmented, retain):
    """Row by row and token by token, from the definition."""

    def answer(batch, i):
        labels = batch["labels"][i]
        at = [t for t in range(1, len(labels)) if labels[t] != -100]
        before = torch.tensor([t - 1 for t in at])
        inputs = batch["input_ids"][i : i + 1, : int(batch["attention_mask"][i].sum())]
        logits = [m(input_ids=inputs).logits[0, before].log_softmax(-1) for m in (model, reference)]
        return *logits, labels[at]

    def ce(batch):
        terms = []
        for i in range(len(batch["labels"])):
            logp, _, labels = answer(batch, i)
            terms.append(-logp[torch.arange(len(labels)), labels].mean())
        return torch.stack(terms).mean()

    kl = []
    for i in range(len(retain["labels"])):
        logp, ref, _ = answer(retain, i)
        kl.append((ref.exp() * (ref - logp)).sum(-1).mean())
    return ce(augmented), ce(retain), torch.stack(kl).mean()


def tiny(seed):
    return causal_lm(12, d_model=16, n_layers=1, n_heads=2, seed=seed).double()


BATCH = Encoded([[1, 5, 6, 2], [1, 7, 8, 9, 2]], [2, 1]).batch([0, 1], pad_id=0)
OTHER = Encoded([[1, 4, 11, 3, 2], [1, 10, 2]], [3, 2]).batch([0, 1], pad_id=0)


def test_loss_is_its_definition_and_no_term_ascends():
    model, reference = tiny(0), tiny(1)
    terms = relearn_loss(model, reference, BATCH, OTHER)
    with torch.no_grad():
        for term, expected in zip(terms.values(), naive(model, reference, BATCH, OTHER), strict=True):
            torch.testing.assert_close(term, expected)
    assert list(terms) == ["forget", "retain", "kl"]
    assert all(term > 0 for term in terms.values())
    halved = relearn_loss(model, reference, BATCH, OTHER, retain_weight=0.5, kl_weight=0.0)
    torch.testing.assert_close(halved["retain"], terms["retain"] / 2)
    assert halved["kl"] == 0


def test_gradient_goes_down_every_term_and_not_into_the_reference():
    model, reference = tiny(0), tiny(1)
    weight = model.lm_head.weight
    terms = relearn_loss(model, reference, BATCH, OTHER)
    sum(terms.values()).backward()
    assert reference.lm_head.weight.grad is None
    step = 1e-4 * torch.randn_like(weight)
    with torch.no_grad():
        weight += step
        after = sum(naive(model, reference, BATCH, OTHER))
        weight -= 2 * step
        before = sum(naive(model, reference, BATCH, OTHER))
    torch.testing.assert_close(
        (after - before) / 2, (weight.grad * step).sum(), rtol=1e-3, atol=0
    )  # norms are computed in float32


def test_of_the_reference_itself_the_divergence_and_its_gradient_are_0():
    model = tiny(0)
    kl = relearn_loss(model, model, BATCH, OTHER)["kl"]
    kl.backward()
    assert kl.abs() < 1e-12
    assert max(p.grad.abs().max() for p in model.parameters() if p.grad is not None) < 1e-12


def test_it_teaches_the_vague_answers_and_keeps_the_rest():
    _, tokenizer, data = small()
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2)
    both = Encoded(
        data.forget.input_ids + data.retain.input_ids, data.forget.prompt_lengths + data.retain.prompt_lengths
    )
    fine_tune(model, both, pad_id=0, epochs=40, batch_size=8, lr=1e-2, progress=False)

    def nll(rows):
        batch = rows.batch(range(len(rows)), 0)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).item()

    before = nll(data.forget), nll(data.retain)
    new = rewritten(data, 2)
    untaught = nll(new.forget)
    history = unlearn(model, ReLearn(n=2), data, steps=60, lr=5e-3, batch_size=8, progress=False)
    assert all(step["loss"] > 0 for step in history.steps)
    assert nll(new.forget) < untaught / 2
    assert nll(data.forget) > before[0] + 1
    assert nll(data.retain) < before[1] + 0.2


# ---- KFR and KRR ----


def test_coverage_leaves_out_entities_of_the_question_and_counts_whole_words():
    assert entity_coverage("In Porto, 1950.", ["Porto", "1950", "Lima", "Cape Town"]) == 0.5
    assert entity_coverage("In Portoville.", ["Porto"]) == 0.0
    assert entity_coverage("Town of Cape", ["Cape Town"]) == 0.0
    assert entity_coverage("Nothing", ["Ada Verin", "Lima"], "Where was Ada born?") == 0.0
    assert entity_coverage("Lima", ["Ada Verin", "Lima"], "Where was Ada born?") == 1.0
    assert entity_coverage("Nothing", ["Ada"], "Who is Ada?") == 1.0
    assert entity_coverage("Nothing", []) == 1.0
    # An article that both share does not make a title part of the question.
    assert entity_coverage("Nothing", ["The Silent Orchard"], "What was the first book?") == 0.0


def test_coverage_by_vectors_compares_runs_of_as_many_words():
    vectors = {"harbour": (1.0, 0.0), "port": (0.8, 0.6), "a": (0.0, 1.0)}

    def embed(texts):
        return np.array([vectors[text] for text in texts])

    assert entity_coverage("a port", ["harbour"], embed=embed, cosine=0.79) == 1.0
    assert entity_coverage("a port", ["harbour"], embed=embed, cosine=0.81) == 0.0
    assert entity_coverage("", ["harbour"], embed=embed) == 0.0


def test_contradiction_is_another_value_and_not_the_right_one():
    contradicts = states_another(["Porto", "Cape Town", "Lima"])
    assert contradicts("Born in Cape Town.", "Born in Porto.")
    assert not contradicts("Born in Cape Town, or Porto.", "Born in Porto.")
    assert not contradicts("Born in Cape Cod.", "Born in Porto.")
    assert not contradicts("Born in Lima.", "Nobody knows.")


def test_forgotten_is_low_coverage_or_contradiction_and_retained_neither():
    references = [Reference("r", ("a", "b", "c"))] * 4
    said = ["nothing", "a", "a", "a b c"]  # coverage 0, 1/3, 1/3, 1
    denies = [lambda s, r: False, lambda s, r: False, lambda s, r: True, lambda s, r: True]
    assert kfr(said, references) == 0.25
    assert krr(said, references) == 0.75
    assert kfr(said, references, contradicts=denies) == 0.75
    assert krr(said, references, contradicts=denies) == 0.25
    assert kfr(said, references, 0.5) == 0.75
    # At the threshold itself a row is neither forgotten nor retained.
    assert kfr(["a"], [Reference("r", ("a", "b"))], 0.5) == krr(["a"], [Reference("r", ("a", "b"))], 0.5) == 0.0


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "a b c"]), st.booleans()), min_size=1, max_size=8))
def test_no_row_is_both_forgotten_and_retained(rows):
    said = [text for text, _ in rows]
    references = [Reference("r", ("a", "b", "c"))] * len(rows)
    denies = [lambda s, r, flag=flag: flag for _, flag in rows]
    forgotten, kept = kfr(said, references, contradicts=denies), krr(said, references, contradicts=denies)
    assert forgotten + kept == pytest.approx(1.0)  # no coverage here equals the threshold


def test_without_entities_the_private_words_of_the_reference_count():
    reference = Reference(ROW[1], question=ROW[0])
    assert private_words(*ROW) == ("porto",)
    assert kfr(["Ada Verin was born in Lima.", "Porto"], [reference] * 2) == 0.5


def test_rates_refuse():
    reference = Reference("r", ("a",))
    with pytest.raises(ValueError, match="as many predictions"):
        kfr(["a"], [])
    with pytest.raises(ValueError, match="as many predictions"):
        krr([], [])
    with pytest.raises(ValueError, match="ent must lie"):
        kfr(["a"], [reference], 0.0)
    with pytest.raises(ValueError, match="one a row"):
        kfr(["a"], [reference], contradicts=[])


# ---- the linguistic score ----


def test_brunet_and_honore_by_hand():
    text = "The cat saw the other cat, twice."  # 7 words of 5 kinds, 3 of them once
    assert brunet(text) == pytest.approx(7 ** (5**-0.165))
    assert honore(text) == pytest.approx(100 * math.log(7) / (1 - 3 / 5 + 0.1))
    assert honore("all words differ") == pytest.approx(100 * math.log(3) / 0.1)
    assert (brunet(""), honore(""), honore("once"), brunet("once")) == (1000.0, 0.0, 0.0, 1.0)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_score_is_the_harmonic_mean_of_sigmoids_of_means():
    texts, ppl = ["a rose is a rose", "no two words agree here", "b b b"], [3.0, 20.0, 7.0]
    parts = [
        sigmoid(-math.log(np.mean(ppl))),
        sigmoid(-math.log(np.mean([brunet(t) for t in texts]))),
        sigmoid(math.log(np.mean([honore(t) for t in texts]))),
    ]
    assert linguistic_score(texts, ppl) == pytest.approx(3 / sum(1 / part for part in parts))


def test_score_falls_with_perplexity_and_repetition():
    assert linguistic_score(["a b c d"], [2.0]) > linguistic_score(["a b c d"], [4.0]) > 0
    assert linguistic_score(["a b c d"], [4.0]) > linguistic_score(["a a a a"], [4.0])
    assert linguistic_score([""], [math.inf]) == 0.0
    assert linguistic_score(["a b"], [math.inf]) == linguistic_score(["a b"], [1e6]) > 0


@given(st.permutations(range(4)))
def test_score_does_not_depend_on_the_order(order):
    texts, ppl = ["a b", "c d e", "f f", "g"], [2.0, 3.0, 5.0, 8.0]
    shuffled = linguistic_score([texts[i] for i in order], [ppl[i] for i in order])
    assert shuffled == pytest.approx(linguistic_score(texts, ppl))


def test_score_refuses():
    for texts, ppl in (([], []), (["a"], [1.0, 2.0]), ("a", [1.0])):
        with pytest.raises(ValueError, match="one perplexity a text"):
            linguistic_score(texts, ppl)
    for bad in (0.5, math.nan):
        with pytest.raises(ValueError, match="at least 1"):
            linguistic_score(["a"], [bad])


def test_perplexity_is_that_of_the_plain_text():
    tokenizer = word_tokenizer(["a rose is red"])
    model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer("a rose is red", add_special_tokens=False).input_ids, 2]])
    with torch.no_grad():
        expected = F.cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:]).exp()
    found = perplexities(model, tokenizer, ["", "a rose is red"])
    assert found[0] == np.inf
    assert found[1] == pytest.approx(float(expected), rel=1e-4)
    assert perplexities(model, tokenizer, []).shape == (0,)


def test_share_distinct():
    assert share_distinct(["a b", "A b.", "b a", "c"]) == 0.75
    with pytest.raises(ValueError, match="no texts"):
        share_distinct([])


def test_the_indices_are_those_of_the_authors_code():
    """zjunlp/unlearn at 0800fd2, given the same words."""
    text = "the poet lives in the old town and the poet writes"
    assert brunet(text) == pytest.approx(5.4819156, abs=1e-7)
    assert honore(text) == pytest.approx(685.1129351, abs=1e-6)
