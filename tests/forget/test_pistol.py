"""The scores are what their formulas say, and the scorer takes models, folders, rows and files."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.forget.pistol import (
    METHODS,
    deviation_score,
    mean_reciprocal_rank,
    pistol_graph,
    pistol_score,
    top_hit_ratio,
)
from palimpsest.forget.pistol_measures import choose_learning_rate
from palimpsest.metrics import rouge_1_recall
from palimpsest.models import causal_lm, save, word_tokenizer
from palimpsest.models.score import Encoded, answer_ranks, encode
from palimpsest.train.language import fine_tune


@given(st.floats(0, 1), st.floats(0, 1))
def test_deviation_is_a_distance_and_rises_with_what_is_left_and_what_is_lost(forget, retain):
    value = deviation_score(forget, retain)
    assert value == pytest.approx(100 * math.sqrt(forget**2 + (1 - retain) ** 2))
    assert 0 <= value <= 100 * math.sqrt(2) + 1e-9
    assert deviation_score(min(1, forget + 0.1), retain) >= value
    assert deviation_score(forget, max(0, retain - 0.1)) >= value


def test_deviation_refuses_percentages():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 30"):
        deviation_score(30, 0.5)


def test_ranks_are_those_of_a_full_sort():
    model = causal_lm(30, d_model=16, n_layers=1, n_heads=2, seed=2).eval()
    rows = Encoded([[1, 5, 6, 7, 2], [1, 9, 8]], [2, 1])
    found = answer_ranks(model, rows, pad_id=0, batch_size=1)
    for ids, prompt, ranks in zip(rows.input_ids, rows.prompt_lengths, found, strict=True):
        with torch.no_grad():
            order = model(torch.tensor([ids])).logits[0].argsort(-1, descending=True)
        expected = [order[t - 1].tolist().index(ids[t]) + 1 for t in range(prompt, len(ids))]
        assert ranks.tolist() == expected
    assert mean_reciprocal_rank(found) == pytest.approx(np.mean([np.mean([1 / r for r in row]) for row in found]))
    assert top_hit_ratio(found, cutoff=30) == 1.0
    assert top_hit_ratio(found, cutoff=0) == 0.0


def test_rouge_1_ignores_order_and_counts_repetitions():
    assert rouge_1_recall("c b a", "a b c") == 1.0
    assert rouge_1_recall("a a", "a b a c") == 0.5
    assert rouge_1_recall("", "a") == 0.0


@pytest.fixture(scope="module")
def known():
    """A model that knows a small graph, and the graph."""
    graph = pistol_graph(hub_degree=2, chains=0, isolated=1, attrs=2, n_facts=2)
    tokenizer = word_tokenizer(graph.words())
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2, max_length=64)
    rows = [*graph.rows, *graph.facts]
    encoded = encode(tokenizer, [r.question for r in rows], [r.answer for r in rows], max_length=64)
    fine_tune(model, encoded, pad_id=0, epochs=200, batch_size=8, lr=3e-3, progress=False)
    return model, tokenizer, graph


def test_a_model_that_knows_all_has_kept_all_and_forgotten_nothing(known):
    model, tokenizer, graph = known
    scores = pistol_score(model, graph.split([graph.edges[0]]), tokenizer=tokenizer)
    assert scores.rouge_1 == {"forget": 1, "adjacent": 1, "distant": 1, "factual": 1}
    assert scores.deviation == 100
    assert scores.mrr["forget"] == scores.top_hit["forget"] == 1
    assert math.isnan(pistol_score(model, {"forget": graph.rows}, tokenizer=tokenizer).deviation)


def test_deviation_weighs_retained_sets_by_their_rows(known):
    model, tokenizer, graph = known
    unknown = [{"question": "What ?", "answer": "nothing at all", "perturbed_answer": []}]
    scores = pistol_score(model, {"forget": unknown, "distant": graph.rows, "lost": unknown}, tokenizer=tokenizer)
    n = len(graph.rows)
    assert scores.deviation == pytest.approx(100 * math.hypot(0, 1 - n / (n + 1)))


def test_scores_a_folder_on_files(known, tmp_path):
    model, tokenizer, graph = known
    save(model, tokenizer, tmp_path / "model")
    lines = [json.dumps({"question": r.question, "answer": r.answer}) for r in graph.rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    scores = pistol_score(tmp_path / "model", {"distant": tmp_path / "rows.jsonl"})
    assert scores.rouge_1 == {"distant": 1.0}
    with pytest.raises(UserError, match="no rows to score"):
        pistol_score(tmp_path / "model", {})


def test_the_rate_with_the_lowest_deviation_wins():
    rate, tried = choose_learning_rate({1e-4: 80.0, 1e-3: 30.0, 1e-2: 90.0}.__getitem__, [1e-4, 1e-3, 1e-2])
    assert rate == 1e-3
    assert tried == {1e-4: 80.0, 1e-3: 30.0, 1e-2: 90.0}
    assert set(METHODS) == {"grad_ascent", "grad_diff", "ukl", "idk_dpo"}


def test_ranks_are_those_of_the_authors_code(waves):
    """compute_MRR of eval_util.py in bill-shen-BS/PISTOL (9851fb5) on the logits after the true words before, and
    eval_rouge_recall."""
    model = waves(causal_lm(300, d_model=16, n_layers=2, n_heads=2, tie=False))
    rows = Encoded([list(range(5, 300, 37)), list(range(11, 300, 53))], [2, 1])
    ranks = answer_ranks(model, rows, pad_id=0)
    assert mean_reciprocal_rank(ranks) == pytest.approx(0.05583040298593554, rel=1e-12)
    assert top_hit_ratio(ranks) == 0.5
    assert rouge_1_recall("Ada Verin was born in Porto in 1950", "Porto: Ada Verin was born in the town.") == 0.75
