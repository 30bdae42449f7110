"""Recognition, recall and retention: chance, certainty, exposures counted, and the authors' way of scoring."""

import math

import numpy as np
import pytest
import torch

from palimpsest.models.language import causal_lm
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.retain.recall_retention import Study, passed, retention, study
from palimpsest.retain.recall_retention_measures import encoded, forgetting_index, losses, recall, recognition
from palimpsest.retain.recall_retention_texts import foils, stimuli

TEXTS = ["the red fox runs over a hill", "one small bird sings at dawn", "some old men wait for rain"]
OTHERS = ["a blue whale swims under ice", "two tall trees bend in wind", "many young cats sleep by day"]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([word for text in TEXTS + OTHERS for word in text.split()])


@pytest.fixture
def model(tokenizer):
    return causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2, max_length=32, seed=1).eval()


def test_a_text_against_itself_is_recognised_by_half_and_by_none_in_the_authors_code(model, tokenizer):
    assert recognition(model, tokenizer, TEXTS, TEXTS) == 0.5
    assert recognition(model, tokenizer, TEXTS, TEXTS, tie=0.0) == 0.0


def test_the_loss_of_a_text_is_that_of_transformers_own_loss(model, tokenizer):
    model.double()
    for text, found in zip(TEXTS, losses(model, tokenizer, TEXTS), strict=True):
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            assert float(model(input_ids=ids, labels=ids).loss) == pytest.approx(
                found, abs=1e-6
            )  # theirs is in float32


def test_what_was_studied_often_is_recalled_and_recognised_and_the_model_passed_in_is_as_it_was(model, tokenizer):
    before = {name: p.clone() for name, p in model.named_parameters()}
    studied = study(model, tokenizer, TEXTS, 60, lr=1e-2)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    found = recall(studied, tokenizer, TEXTS)
    assert (found.rouge_2, found.exact, found.tokens) == (1.0, 1.0, 1.0)
    assert recognition(studied, tokenizer, TEXTS, foils(TEXTS, "novel", novel=OTHERS)) == 1.0
    assert recall(model, tokenizer, TEXTS).exact == 0.0


def test_each_text_is_seen_exactly_once_a_pass_in_an_order_of_its_own(monkeypatch, model, tokenizer):
    seen = []
    monkeypatch.setattr(
        "palimpsest.retain.recall_retention.cross_entropy",
        lambda model, batch: (seen.extend(batch["index"].tolist()), model.lm_head.weight.sum())[1],
    )
    Study(4).edit(model, type("Data", (), {"tokenizer": tokenizer, "texts": TEXTS}), lr=1e-4, batch_size=2, seed=3)
    assert [sorted(seen[i : i + 3]) for i in range(0, 12, 3)] == [[0, 1, 2]] * 4
    assert len(seen) == 12
    assert len({tuple(passed(6, 6, 0, number)[0]) for number in range(4)}) > 1
    assert torch.equal(study(model, tokenizer, TEXTS, 0).lm_head.weight, model.lm_head.weight)


def test_the_cue_gives_away_what_the_authors_code_counts_with_it(model, tokenizer):
    alone = recall(model, tokenizer, TEXTS, cue=0.5)
    whole = recall(model, tokenizer, TEXTS, cue=0.5, include_cue=True)
    assert whole.rouge_2 > alone.rouge_2
    assert whole.exact == alone.exact
    with pytest.raises(ValueError, match="cue"):
        recall(model, tokenizer, TEXTS, cue=1.0)


def test_a_completion_is_asked_for_as_many_tokens_as_are_missing(monkeypatch, model, tokenizer):
    asked = []

    def said(model, tokenizer, prompts, *, max_new_tokens):
        asked.extend(zip(prompts, max_new_tokens, strict=True))
        return ["runs over a hill", "bird sings at dusk", ""]

    monkeypatch.setattr("palimpsest.retain.recall_retention_measures.greedy", said)
    found = recall(model, tokenizer, TEXTS)
    rows = encoded(tokenizer, TEXTS).input_ids
    assert [n for _, n in asked] == [len(row) - len(row) // 2 for row in rows]
    assert found.exact == pytest.approx(1 / 3)
    # the first whole, two of the three pairs of "bird sings at dawn", nothing of the third
    assert found.rouge_2 == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_stimuli_keep_their_words_or_their_number_and_foils_what_was_not_changed():
    for kind in ("natural", "shuffled", "gibberish", "random"):
        assert [len(text.split()) for text in stimuli(TEXTS, kind)] == [len(text.split()) for text in TEXTS]
    assert stimuli(TEXTS, "natural") == TEXTS
    assert all(sorted(a.split()) == sorted(b.split()) for a, b in zip(stimuli(TEXTS, "shuffled"), TEXTS, strict=True))
    letters = [sorted(text.replace(" ", "")) for text in TEXTS]
    assert [sorted(text.replace(" ", "")) for text in stimuli(TEXTS, "gibberish")] == letters
    for a, b in zip(foils(TEXTS, "perturbed", novel=OTHERS, changed=2), TEXTS, strict=True):
        assert sum(x != y for x, y in zip(a.split(), b.split(), strict=True)) == 2
    assert all(b[1:] in a for a, b in zip(foils(TEXTS, "paraphrase"), TEXTS, strict=True))
    with pytest.raises(ValueError, match="novel"):
        foils(TEXTS, "novel", novel=OTHERS[:1])
    with pytest.raises(ValueError, match="kind"):
        stimuli(TEXTS, "upside down")


def test_retention_asks_at_the_updates_it_is_told_and_forgets(model, tokenizer):
    studied = study(model, tokenizer, TEXTS, 60, lr=1e-2)
    options = {"lr": 1e-2, "batch_size": 2}
    curves = retention(studied, tokenizer, TEXTS, OTHERS, OTHERS, looks=(0, 1, 5, 40), **options)
    assert curves["update"] == [0, 1, 5, 40]
    assert curves["recall"][0] == curves["recognition"][0] == 1.0
    assert curves["recall"][-1] < 1.0
    assert recall(studied, tokenizer, TEXTS).rouge_2 == 1.0
    assert 0 <= forgetting_index(curves["update"], curves["recall"], 5) <= 1
    assert retention(studied, tokenizer, TEXTS, OTHERS, OTHERS, looks=(0,))["recall"] == [1.0]


def test_the_index_of_forgetting_is_a_share_of_all_that_is_lost():
    assert forgetting_index([0, 5, 20], [1.0, 0.5, 0.0], 5) == 0.5
    assert math.isnan(forgetting_index([0, 5], [0.5, 0.5], 5))
    with pytest.raises(ValueError, match="no look"):
        forgetting_index([0, 5], [0.5, 0.4], 3)
    assert np.isclose(forgetting_index([0, 5, 20], [0.8, 0.9, 0.3], 20), 1.0)
