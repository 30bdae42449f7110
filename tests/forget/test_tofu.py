from __future__ import annotations

import itertools
import json
import math
import statistics
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ks_2samp

from palimpsest.errors import NotFinite, UserError
from palimpsest.forget.evaluation import greedy_answers, score_candidates, states, subsample
from palimpsest.forget.tofu import answer_probability, choice_probability, forget_quality, model_utility, truth_ratio
from palimpsest.forget.tofu_measures import evaluate_tofu, tofu_score
from palimpsest.forget.tofu_templates import TEMPLATES, TofuTemplate
from palimpsest.models.files import save
from palimpsest.models.language import causal_lm
from palimpsest.models.score import encode, prompt_template
from palimpsest.models.tokenizers import train_tokenizer, word_tokenizer
from palimpsest.tasks.authors import SPLITS, authors_task
from palimpsest.tasks.rows import check_overlap, read_rows

nlls = st.integers(1, 5).flatmap(
    lambda n: st.integers(1, 4).flatmap(lambda k: arrays(np.float64, (n, k + 1), elements=st.floats(0.0, 50.0)))
)


# --- the formulas ------------------------------------------------------------------------------------------------


def naive_truth_ratio(nll_para, nll_wrong, geo):
    ratios = []
    for para, wrong in zip(nll_para, nll_wrong, strict=True):
        p = [math.exp(-w) for w in wrong]
        mean = math.prod(p) ** (1 / len(p)) if geo else sum(p) / len(p)
        ratios.append(mean / math.exp(-para))
    return np.array(ratios)


@given(nlls, st.booleans())
def test_truth_ratio_is_the_mean_of_probabilities(nll, geo):
    ours = truth_ratio(nll[:, 0], nll[:, 1:], geo=geo)
    np.testing.assert_allclose(ours, naive_truth_ratio(nll[:, 0], nll[:, 1:], geo), rtol=1e-9)


@given(nlls, st.floats(-5, 5))
def test_truth_ratio_ignores_the_order_of_wrong_answers_and_a_common_factor(nll, shift):
    nll = nll + 10
    for geo in (False, True):
        r = truth_ratio(nll[:, 0], nll[:, 1:], geo=geo)
        np.testing.assert_allclose(truth_ratio(nll[:, 0], nll[:, :0:-1], geo=geo), r, rtol=1e-9)
        np.testing.assert_allclose(truth_ratio(nll[:, 0] + shift, nll[:, 1:] + shift, geo=geo), r, rtol=1e-9)


@given(nlls)
def test_the_geometric_ratio_never_exceeds_the_arithmetic_one(nll):
    geometric = truth_ratio(nll[:, 0], nll[:, 1:], geo=True)
    assert (geometric <= truth_ratio(nll[:, 0], nll[:, 1:]) * (1 + 1e-9)).all()


def test_the_geometric_ratio_is_the_repositorys_difference_of_losses():
    nll = np.random.default_rng(0).gamma(2.0, 1.0, (6, 6))
    np.testing.assert_allclose(
        truth_ratio(nll[:, 0], nll[:, 1:], geo=True), np.exp(nll[:, 0] - nll[:, 1:].mean(1)), rtol=1e-12
    )


def test_truth_ratio_of_likelihoods_that_underflow_as_probabilities():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nll = np.array([[5000.0, 5000.0, 5000.0], [5000.0, 0.0, 1.0], [0.0, 5000.0, 6000.0]])
        for geo in (False, True):
            np.testing.assert_allclose(truth_ratio(nll[:, 0], nll[:, 1:], geo=geo), [1.0, np.inf, 0.0])


def test_truth_ratio_where_nothing_is_left_or_nothing_is_there():
    nan, inf = np.nan, np.inf
    for geo in (False, True):
        ratios = truth_ratio(
            np.array([1.0, inf, inf, 1.0]), np.array([[2.0, nan], [1.0, 1.0], [inf, inf], [nan, nan]]), geo=geo
        )
        np.testing.assert_allclose(ratios, [math.exp(-1), inf, inf, nan])
        assert truth_ratio(np.array([1.0]), np.array([[inf, inf]]), geo=geo) == 0


@given(nlls)
def test_choice_probability_is_a_share(nll):
    p = np.exp(-nll)
    np.testing.assert_allclose(choice_probability(nll[:, 0], nll[:, 1:]), p[:, 0] / p.sum(1), rtol=1e-9)
    np.testing.assert_allclose(answer_probability(nll), p)


def test_choice_probability_at_the_edges():
    nan, inf = np.nan, np.inf
    nll_wrong = np.array([[inf, inf], [inf, inf], [5000.0, nan], [1.0, nan]])
    np.testing.assert_allclose(choice_probability(np.array([1.0, inf, 5000.0, inf]), nll_wrong), [1.0, 0.0, 0.5, 0.0])


@pytest.mark.parametrize("function", [truth_ratio, choice_probability])
def test_wrong_shapes_and_nan(function):
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3, 1\)"):
        function(np.zeros(2), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"got \(2,\) and \(2,\)"):
        function(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="1 of 2 right answers have a NaN"):
        function(np.array([0.0, np.nan]), np.zeros((2, 1)))


def test_forget_quality_of_samples_that_do_not_overlap():
    # Of the C(10, 5) equally likely orders of two samples of five, two put one sample wholly before the other.
    quality = forget_quality(np.arange(5.0), np.arange(5.0) + 100)
    assert quality.statistic == 1
    assert quality.p == pytest.approx(2 / math.comb(10, 5))
    assert quality.log10_p == pytest.approx(math.log10(2 / math.comb(10, 5)))


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 30), st.integers(2, 30))
def test_forget_quality_is_the_kolmogorov_smirnov_test(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.lognormal(0.0, 1.0, n).round(1), rng.lognormal(0.4, 1.0, m).round(1)
    quality = forget_quality(a, b)
    steps = [abs((a <= x).mean() - (b <= x).mean()) for x in np.concatenate([a, b])]
    assert quality.statistic == pytest.approx(max(steps))
    assert quality.p == pytest.approx(ks_2samp(a, b).pvalue)
    assert forget_quality(b, a)[:2] == pytest.approx(quality[:2])
    # Only ranks count, so R, log R and the repository's 1/R agree.
    assert forget_quality(np.log(a + 1), np.log(b + 1)).p == pytest.approx(quality.p)
    assert forget_quality(1 / (a + 1), 1 / (b + 1)).p == pytest.approx(quality.p)


def test_forget_quality_is_a_test_that_keeps_its_level():
    rng = np.random.default_rng(1)
    p = np.array([forget_quality(rng.normal(size=40), rng.normal(size=40)).p for _ in range(300)])
    assert (p < 0.05).mean() < 0.09
    assert (p < 0.5).mean() > 0.3


def test_forget_quality_does_not_underflow_and_takes_infinite_ratios():
    many = np.arange(3000.0)
    assert forget_quality(many, many + 1e6).log10_p == -300
    assert forget_quality(np.full(20, np.inf), np.ones(20)).log10_p < -9
    with pytest.raises(ValueError, match="gold_truth_ratios must be numbers: 1 of 2 are NaN"):
        forget_quality(np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="truth_ratios must be numbers: 0 of 0"):
        forget_quality(np.array([]), np.ones(2))


@given(st.lists(st.floats(0.01, 1.0), min_size=9, max_size=9))
def test_model_utility_is_the_harmonic_mean(parts):
    assert model_utility(parts) == pytest.approx(statistics.harmonic_mean(parts))
    assert min(parts) * 0.999 <= model_utility(parts) <= statistics.mean(parts) * 1.001
    assert model_utility([*parts[:8], 0.0]) == 0


@pytest.mark.parametrize("parts", [[], [0.5, np.nan], [0.5, -0.1], [0.5, 1.1]])
def test_model_utility_wants_shares(parts):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        model_utility(parts)


# --- a model whose every probability is known --------------------------------------------------------------------

VOCABULARY = [
    "Question:",
    "Answer:",
    "who",
    "where",
    "?",
    "Ada",
    "Bo",
    "Zoë",
    "北京",
    "Rome",
    "Oslo",
    "lives",
    "in",
    ".",
]


@pytest.fixture
def bigram():
    """A Llama whose next token depends on the last one only, through a table of logits, and its tokenizer.

    The blocks add nothing to the residual stream, the embeddings are orthogonal, and the head is the table.
    """
    tokenizer = word_tokenizer(VOCABULARY)
    size, width = len(tokenizer), 32
    model = causal_lm(size, d_model=width, n_layers=1, n_heads=2, tie=False).double()
    table = torch.randn(size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
        model.get_input_embeddings().weight.copy_(1000 * torch.eye(size, width))
        # The norm turns 1000 e_i into sqrt(width) e_i.
        head = torch.zeros(size, width, dtype=torch.float64)
        head[:, :size] = table.T / math.sqrt(width)
        model.get_output_embeddings().weight.copy_(head)
    return model, tokenizer, table


def set_successor(model, tokenizer, pairs):
    """Make the second word of each pair nearly certain after the first."""
    with torch.no_grad():
        for before, after in pairs:
            i, j = (tokenizer.convert_tokens_to_ids(word) for word in (before, after))
            model.get_output_embeddings().weight[j, i] = 20.0


def table_nll(model, tokenizer, text, answer):
    """Mean negative log-likelihood by hand, from the table alone, of the answer's tokens and the end token."""
    weight = model.get_output_embeddings().weight.detach() * math.sqrt(32)
    ids = [*tokenizer(text).input_ids, *tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    start = len(tokenizer(text).input_ids)
    losses = []
    for before, after in zip(ids[start - 1 :], ids[start:], strict=False):
        logits = weight[:, before].tolist()
        losses.append(math.log(sum(map(math.exp, logits))) - logits[after])
    return sum(losses) / len(losses)


ROWS = [
    {
        "question": "where ?",
        "answer": "Ada lives in Rome.",
        "paraphrased_answer": "Rome.",
        "perturbed_answer": ["Oslo.", "Bo."],
    },
    {"question": "who ?", "answer": "Zoë", "perturbed_answer": [["Ada", "Bo"], ["北京"]]},
    {"question": "who ?", "answer": "北京 Zoë"},
]


def test_every_number_of_a_row_by_hand(bigram):
    model, tokenizer, _ = bigram
    scores = tofu_score(model, ROWS, tokenizer=tokenizer)
    for i, row in enumerate(ROWS):
        prompt = f"Question: {row['question']}\nAnswer:"

        def p(answer, prompt=prompt):
            return math.exp(-table_nll(model, tokenizer, prompt, answer))

        assert scores.probability[i] == pytest.approx(p(row["answer"]), rel=1e-4)
        wrong = np.ravel(np.concatenate([np.ravel(w) for w in row.get("perturbed_answer", [[]])])).tolist()
        if wrong:
            share = p(row["answer"]) / (p(row["answer"]) + sum(map(p, wrong)))
            ratio = statistics.mean(map(p, wrong)) / p(row.get("paraphrased_answer", row["answer"]))
            assert scores.choice_probability[i] == pytest.approx(share, rel=1e-4)
            assert scores.truth_ratio[i] == pytest.approx(ratio, rel=1e-4)
        else:
            assert np.isnan([scores.choice_probability[i], scores.truth_ratio[i]]).all()
    geometric = scores.truth_ratio_geometric[0]
    prompt = "Question: where ?\nAnswer:"
    rome, oslo, bo = (table_nll(model, tokenizer, prompt, answer) for answer in ("Rome.", "Oslo.", "Bo."))
    assert geometric == pytest.approx(math.exp(rome - (oslo + bo) / 2), rel=1e-4)


def test_the_prompt_is_not_scored_and_the_end_is(bigram):
    model, tokenizer, _ = bigram
    before = tofu_score(model, ROWS, tokenizer=tokenizer).probability
    set_successor(model, tokenizer, [("Question", ":"), ("where", "?"), ("who", "?")])
    np.testing.assert_allclose(tofu_score(model, ROWS, tokenizer=tokenizer).probability, before)
    set_successor(model, tokenizer, [(".", "<eos>")])
    assert tofu_score(model, ROWS, tokenizer=tokenizer).probability[0] > before[0] * 1.1


def test_a_model_that_knows_the_answer(bigram):
    model, tokenizer, _ = bigram
    words = [":", "Ada", "lives", "in", "Rome", ".", "<eos>"]
    set_successor(model, tokenizer, itertools.pairwise(words))
    scores = tofu_score(model, ROWS[:1], tokenizer=tokenizer)
    assert scores.output == ["Ada lives in Rome."]
    assert scores.rouge[0] == scores.extraction_strength[0] == scores.exact_memorization[0] == 1
    assert scores.probability[0] > 0.99


def test_memorisation_of_part_of_an_answer(bigram):
    model, tokenizer, _ = bigram
    # Right after Ada, in and Rome, wrong after ":" and "lives": 3 of 5 tokens, the last 2 in a row. The end, which
    # follows the full stop, is none of them.
    chain = [(":", "Oslo"), ("Oslo", "<eos>"), ("Ada", "lives"), ("lives", "Oslo"), ("in", "Rome"), ("Rome", ".")]
    set_successor(model, tokenizer, [*chain, (".", "<eos>")])
    scores = tofu_score(model, ROWS[:1], tokenizer=tokenizer)
    assert scores.output == ["Oslo"]
    assert scores.rouge[0] == 0
    assert scores.exact_memorization[0] == pytest.approx(3 / 5)
    assert scores.extraction_strength[0] == pytest.approx(1 - 3 / 5)


def test_an_empty_generation_has_no_overlap_and_a_unicode_one_has(bigram):
    model, tokenizer, _ = bigram
    set_successor(model, tokenizer, [(":", "<eos>")])
    scores = tofu_score(model, ROWS, tokenizer=tokenizer)
    assert scores.output == ["", "", ""]
    assert (scores.rouge == 0).all()
    words = [":", "北京", "Zoë", "<eos>"]
    set_successor(model, tokenizer, [(":", "<pad>")])
    with torch.no_grad():
        model.get_output_embeddings().weight[tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(":")] = -20
        model.get_output_embeddings().weight[tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids(":")] = -20
    set_successor(model, tokenizer, itertools.pairwise(words))
    assert tofu_score(model, ROWS, tokenizer=tokenizer).rouge.tolist() == [0.0, 1.0, 1.0]


def test_rows_may_come_from_a_file_and_the_model_from_a_folder(bigram, tmp_path):
    model, tokenizer, _ = bigram
    model = model.float()
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    save(model, tokenizer, tmp_path / "model")
    direct = tofu_score(model, ROWS, tokenizer=tokenizer)
    stored = tofu_score(tmp_path / "model", file)
    assert direct.output == stored.output
    np.testing.assert_allclose(direct.truth_ratio, stored.truth_ratio, rtol=1e-6)
    records = stored.records()
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    assert records[2]["truth_ratio"] is None
    assert records[0]["probability"] == pytest.approx(stored.probability[0])


def test_bad_input_is_one_line_with_its_place(bigram, tmp_path):
    model, tokenizer, _ = bigram
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[0]) + '\n{"question": "who ?"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2: no answer"):
        tofu_score(model, file, tokenizer=tokenizer)
    with pytest.raises(UserError, match="row 2: answer is empty"):
        tofu_score(model, [ROWS[0], {"question": "who ?", "answer": " "}], tokenizer=tokenizer)
    with pytest.raises(UserError, match="no rows to score"):
        tofu_score(model, [], tokenizer=tokenizer)
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        tofu_score(model, ROWS)
    with pytest.raises(UserError, match="absent"):
        tofu_score(tmp_path / "absent", ROWS)
    short = causal_lm(len(tokenizer), architecture="gpt2", d_model=16, n_layers=1, n_heads=2, max_length=128)
    with pytest.raises(UserError, match=r"1 of 1 answers .* longer than the 128 tokens .* begins 'who \?'"):
        tofu_score(short, [{"question": "who ?", "answer": "Ada " * 200}], tokenizer=tokenizer)


# --- beside the authors' code ------------------------------------------------------------------------------------


def test_both_means_of_the_wrong_answers_give_the_published_figures():
    """What locuslab/tofu (utils.py, bdc209e) computes from the same losses."""
    rng = np.random.default_rng(7)
    sets = {split: (rng.gamma(2, 0.5, 40), rng.gamma(2, 0.5, 40), rng.gamma(3, 0.7, (40, 5))) for split in SPLITS}
    parts = []
    for split in SPLITS[1:]:
        answer, paraphrase, wrong = sets[split]
        own = answer_probability(answer) if split == "retain" else choice_probability(answer, wrong)
        parts += [own.mean(), np.maximum(0, 1 - truth_ratio(paraphrase, wrong)).mean()]
    _, paraphrase, wrong = sets["forget"]
    forget = truth_ratio(paraphrase, wrong)
    assert model_utility([*parts, 0.5, 0.6, 0.7]) == pytest.approx(0.439012371420309, rel=1e-12)
    assert np.minimum(forget, 1 / forget).mean() == pytest.approx(0.4998465642562399, rel=1e-12)
    samples = [truth_ratio(p, w, geo=True) for _, p, w in (sets["forget"], sets["retain"])]
    assert forget_quality(*samples).p == pytest.approx(0.02860307028023343, rel=1e-9)


BPE_ROWS = [
    {
        "question": "Who wrote the long book?",
        "answer": "Ada Karlsen wrote it in 1990.",
        "paraphrased_answer": "It was written by Ada Karlsen.",
        "perturbed_answer": ["Bo Dahl wrote it.", "Nobody knows."],
    },
    {
        "question": "Where does she live?",
        "answer": "She lives in Oslo",
        "perturbed_answer": ["In Rome.", "With a cat."],
    },
]


@pytest.mark.parametrize("template", ["llama-2", "phi", "phi-openunlearning"])
def test_a_published_template_is_one_text_of_which_the_prompts_number_of_tokens_is_left_out(template):
    texts = [
        text for row in BPE_ROWS for value in row.values() for text in ([value] if isinstance(value, str) else value)
    ]
    tokenizer = train_tokenizer([*texts, "Question: x\nAnswer: y [INST] [/INST]"] * 3, vocab_size=330)
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=1).double().eval()

    def nll(question, answer):
        prompt = {
            "llama-2": f"[INST] {question} [/INST]",
            "phi": f"Question: {question}\n",
            "phi-openunlearning": f"Question: {question}\nAnswer: ",
        }[template]
        written = f"Answer: {answer}" if template == "phi" else answer
        ids = [*tokenizer(prompt + written).input_ids, tokenizer.eos_token_id]
        n = len(tokenizer(prompt).input_ids)
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return -statistics.mean(logp[t - 1, ids[t]].item() for t in range(n, len(ids)))

    scores = tofu_score(model, BPE_ROWS, tokenizer=tokenizer, template=template)
    for i, row in enumerate(BPE_ROWS):
        assert scores.probability[i] == pytest.approx(math.exp(-nll(row["question"], row["answer"])), rel=1e-9)
        right = nll(row["question"], row.get("paraphrased_answer", row["answer"]))
        wrong = [nll(row["question"], answer) for answer in row["perturbed_answer"]]
        assert scores.truth_ratio_geometric[i] == pytest.approx(math.exp(right - statistics.mean(wrong)), rel=1e-9)
    with pytest.raises(UserError, match="a row has no question"):
        tofu_score(model, [{"text": "Ada was here."}], tokenizer=tokenizer, template=template)
    with pytest.raises(UserError, match=r"a row of \d+ tokens is longer than the model's context"):
        TEMPLATES[template].encode(tokenizer, [("?", "Ada " * 200)], 128)


def test_a_template_needs_its_places(bigram):
    model, tokenizer, _ = bigram
    with pytest.raises(UserError, match="no template 'llama': give one of llama-2, phi"):
        tofu_score(model, ROWS, tokenizer=tokenizer, template="llama")
    with pytest.raises(UserError, match=r"must have \{question\} once"):
        TofuTemplate("Q:")
    with pytest.raises(UserError, match=r"must have \{answer\} once"):
        TofuTemplate("{question}", "{answer}{answer}")


# --- the hall ----------------------------------------------------------------------------------------------------


def test_candidates_keep_their_rows_and_equal_ones_are_computed_once(bigram, monkeypatch):
    model, tokenizer, _ = bigram
    questions, candidates = ["who ?", "where ?", "who ?"], [["Ada", "Bo"], [], ["Bo", "Oslo", "Ada"]]
    nll, hits = score_candidates(model, tokenizer, questions, candidates)
    assert np.isnan(nll).tolist() == [[False, False, True], [True] * 3, [False] * 3]
    assert nll[0, 0] == nll[2, 2]
    assert nll[0, 1] == nll[2, 0]
    assert [len(row) for row in hits] == [2, 0, 3]
    expected = table_nll(model, tokenizer, "Question: who ?\nAnswer:", "Oslo")
    assert nll[2, 1] == pytest.approx(expected, rel=1e-4)
    rows = []
    monkeypatch.setattr(
        "palimpsest.forget.evaluation.encode", lambda *args, **kw: rows.extend(args[1]) or encode(*args, **kw)
    )
    score_candidates(model, tokenizer, questions, candidates)
    assert len(rows) == 3
    with pytest.raises(ValueError, match="1 and 2"):
        score_candidates(model, tokenizer, ["q"], [["a"], ["b"]])


def test_greedy_answers_stop_a_little_after_the_longest_reference(bigram):
    model, tokenizer, _ = bigram
    set_successor(model, tokenizer, [(":", "Ada"), ("Ada", "Ada")])
    [answer], _ = greedy_answers(model, tokenizer, ["who ?"], ["Bo lives"])
    assert answer == " ".join(["Ada"] * (2 + 4))


def test_a_value_is_stated_as_whole_words():
    assert states("She was born in NEW ORLEANS.", "New Orleans")
    assert states("北京 Zoë", "zoë")
    assert not states("She was born in New York, not Orleans.", "New Orleans")
    assert not states("", "Rome")


def test_a_subsample_is_fixed_by_its_seed_and_keeps_the_order():
    rows = list(range(100))
    sample = subsample(rows, 10, seed=1)
    assert len(set(sample)) == 10
    assert sample == sorted(sample) == subsample(rows, 10, seed=1)
    assert sample != subsample(rows, 10, seed=2)
    assert subsample(rows, None) == subsample(rows, 100) == rows
    with pytest.raises(ValueError, match="max_rows must be at least 1"):
        subsample(rows, 0)


# --- the whole evaluation ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    """A small authors task, and a model trained on all of it and one trained without the forget rows."""
    task = authors_task(n_authors=10, n_attr=3, forget=0.4, seed=5)
    tokenizer = word_tokenizer(task.words())
    template = prompt_template(tokenizer)

    def trained(split, seed):
        pairs = task.training_pairs(split)
        rows = encode(
            tokenizer, [template.prompt(q) for q, _ in pairs], [template.answer(a) for _, a in pairs], max_length=48
        )
        model = causal_lm(len(tokenizer), d_model=64, seed=seed).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
        rng = np.random.default_rng(seed)
        for epoch in range(16):
            order = rng.permutation(len(rows))
            for group in optimizer.param_groups:
                group["lr"] = 4e-3 * (1 - epoch / 17)
            for start in range(0, len(rows), 32):
                batch = rows.batch(order[start : start + 32].tolist(), 0)
                loss = model(**{k: batch[k] for k in ("input_ids", "attention_mask", "labels")}).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model.eval()

    return task, tokenizer, trained("all", 0), trained("kept", 1)


def test_the_scores_tell_a_model_that_saw_the_forget_rows_from_one_that_did_not(world):
    task, tokenizer, full, gold = world
    gold_scores = evaluate_tofu(gold, tokenizer, task)
    scores = evaluate_tofu(full, tokenizer, task, gold_scores.truth_ratios)
    assert gold_scores.quality is None
    forget, gold_forget = scores.sets["forget"], gold_scores.sets["forget"]
    assert scores.quality == forget_quality(forget.truth_ratio_geometric, gold_forget.truth_ratio_geometric)
    assert scores.truth_ratios.mean() < 0.8 < 0.9 < gold_scores.truth_ratios.mean()
    assert scores.quality.log10_p < -1
    assert evaluate_tofu(gold, tokenizer, task, gold_scores.truth_ratios).quality.p == 1
    ours, theirs = scores.metrics(), gold_scores.metrics()
    assert ours["forget probability"] > theirs["forget probability"] + 0.3
    assert ours["forget rouge"] > theirs["forget rouge"] + 0.3
    assert abs(ours["model utility"] - theirs["model utility"]) < 0.15


def test_the_parts_are_the_means_of_the_rows_scores(world):
    task, tokenizer, full, _ = world
    scores = evaluate_tofu(full, tokenizer, task, max_rows=None)
    assert [len(scores.sets[split]) for split in SPLITS] == [len(task.rows(split)) for split in SPLITS]
    for split in SPLITS:
        alone = tofu_score(full, [row.to_json() for row in task.rows(split)], tokenizer=tokenizer, batch_size=7)
        for column in ("probability", "choice_probability", "truth_ratio", "extraction_strength"):
            np.testing.assert_allclose(getattr(scores.sets[split], column), getattr(alone, column), rtol=1e-4)
    parts = [
        scores.sets["retain"].probability.mean(),
        scores.sets["real_authors"].choice_probability.mean(),
        scores.sets["world_facts"].choice_probability.mean(),
        *(scores.sets[split].rouge.mean() for split in SPLITS[1:]),
        *(np.clip(1 - scores.sets[split].truth_ratio, 0, None).mean() for split in SPLITS[1:]),
    ]
    assert len(scores.parts) == 9
    assert sorted(scores.parts.values()) == pytest.approx(sorted(parts))
    ratios = scores.sets["forget"].truth_ratio
    assert scores.metrics()["forget truth ratio"] == pytest.approx(np.mean([min(r, 1 / r) for r in ratios]))
    assert scores.model_utility == pytest.approx(statistics.harmonic_mean(parts))
    assert all(isinstance(value, float) for value in scores.metrics().values())


def test_the_evaluation_draws_the_same_rows_and_leaves_the_model_and_the_generator_alone(world):
    task, tokenizer, full, _ = world
    full.train()
    state = torch.random.get_rng_state()
    first = evaluate_tofu(full, tokenizer, task, max_rows=6)
    assert full.training
    assert torch.equal(state, torch.random.get_rng_state())
    full.eval()
    second = evaluate_tofu(full, tokenizer, task, max_rows=6, batch_size=200)
    assert first.sets["retain"].output == second.sets["retain"].output
    np.testing.assert_allclose(first.truth_ratios, second.truth_ratios, rtol=1e-4)
    assert [len(first.sets[split]) for split in SPLITS] == [len(task.forget), 6, 6, 6]


def test_a_task_may_be_given_as_files(world, tmp_path):
    task, tokenizer, full, _ = world
    from_files = evaluate_tofu(full, tokenizer, task.write_jsonl(tmp_path))
    assert from_files.metrics() == pytest.approx(evaluate_tofu(full, tokenizer, task).metrics())


def test_sets_that_are_missing_or_have_no_wrong_answers(world):
    task, tokenizer, full, _ = world
    with pytest.raises(UserError, match="four sets, forget, retain, real_authors, world_facts; got forget"):
        evaluate_tofu(full, tokenizer, {"forget": ROWS})
    sets = {split: [row.to_json() for row in task.rows(split)] for split in SPLITS}
    sets["retain"][3]["perturbed_answer"] = []
    with pytest.raises(UserError, match=r"retain: the row .* has no perturbed_answer"):
        evaluate_tofu(full, tokenizer, sets, max_rows=None)


def published(name):
    root = Path(__file__).parents[2]
    places = [folder / "shared" / "data" / "tofu" / name for folder in (root, root.parent)]
    path = next((place for place in places if place.is_file()), None)
    return path or pytest.skip("TOFU's published rows are not in shared/data/tofu")


def test_the_published_files_are_scored_by_a_model_with_a_byte_level_tokenizer():
    files = {name: published(f"{name}.jsonl") for name in SPLITS}
    rows = {name: read_rows(path) for name, path in files.items()}
    assert {name: len(part) for name, part in rows.items()} == {
        "forget": 400,
        "retain": 300,
        "real_authors": 100,
        "world_facts": 117,
    }
    check_overlap(rows["forget"], rows["retain"])
    tokenizer = train_tokenizer([row["answer"] for part in rows.values() for row in part], vocab_size=400)
    model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2, max_length=512)
    bare = tofu_score(model, files["forget"], tokenizer=tokenizer, max_rows=4)
    assert np.isnan(bare.truth_ratio).all()
    scores = tofu_score(model, files["real_authors"], tokenizer=tokenizer, max_rows=8)
    # Without a paraphrase the answer is its own: R = mean_i P(wrong_i) / P(a), hence the choice probability.
    wrong = [len(row["perturbed_answer"]) for row in subsample(rows["real_authors"], 8)]
    np.testing.assert_allclose(scores.choice_probability, 1 / (1 + np.array(wrong) * scores.truth_ratio), rtol=1e-9)
    with pytest.raises(UserError, match=r"forget: the row .* has no perturbed_answer"):
        evaluate_tofu(model, tokenizer, files, max_rows=4)


def test_a_model_whose_output_is_no_number_has_no_scores():
    task = authors_task(n_authors=10, n_attr=3, forget=0.4, seed=5)
    tokenizer = word_tokenizer(task.words())
    model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = float("nan")
    with pytest.raises(NotFinite, match=r"not a number in \d+ of \d+ rows"):
        evaluate_tofu(model, tokenizer, task, max_rows=12)
