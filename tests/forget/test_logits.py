"""Two models' logits against closed forms, and the model made of two against its parts run without a cache."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import DynamicCache

from palimpsest.forget.logits import (
    FILTERED,
    PairedCache,
    TwoModelLM,
    filtered_difference,
    likely_words,
    reinforced_difference,
)
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded, greedy, score

rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40)


@given(rows, rows, st.floats(0, 10))
def test_reinforced_difference_lowers_what_the_reinforced_model_likes_more(base, reinforced, alpha):
    n = min(len(base), len(reinforced))
    base, reinforced = torch.tensor(base[:n]).double(), torch.tensor(reinforced[:n]).double()
    out = reinforced_difference(base, reinforced, alpha)
    for b, r, o in zip(base.tolist(), reinforced.tolist(), out.tolist(), strict=True):
        assert o == pytest.approx(b - alpha * (r - b) if r > b else b)


def test_reinforced_difference_gradcheck_and_limits():
    base = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    other = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b, r: reinforced_difference(b, r, 5.0), (base, other))
    assert torch.equal(reinforced_difference(base, base), base)
    assert torch.equal(reinforced_difference(base, other, 0.0), base)


@given(rows, st.floats(0.01, 1))
def test_likely_words_by_probabilities(values, top):
    """Against the definition, with probabilities and a sort."""
    logits = torch.tensor(values).double()
    p = logits.softmax(-1).numpy()
    count = max(1, math.ceil(round(top * len(p), 6)))
    threshold = min(p.max() * top, np.sort(p)[::-1][count - 1])
    clear = np.abs(np.log(p) - np.log(threshold)) > 1e-9  # ties fall where rounding puts them
    kept = likely_words(logits, top).numpy()
    assert (kept == (p > threshold))[clear].all()
    assert kept.sum() >= count
    assert kept[p.argmax()]


def test_likely_words_at_its_ends():
    logits = torch.tensor([[3.0, 0.0, -90.0], [0.0, 1.0, 2.0]])
    assert likely_words(logits, 0.0).all()
    assert likely_words(logits, 1.0).all()
    # a small vocabulary: a hundredth of it is less than one word, and one is kept, not all
    assert likely_words(torch.arange(50.0) * 10, 0.01).sum() == 1
    # 0.07 * 100 is 7.000000000000001
    assert likely_words(torch.arange(100.0) * 100, 0.07).sum() == 7


def test_filtered_difference_by_hand():
    target, assistant = torch.tensor([4.0, 3.0, -9.0, -10.0]), torch.tensor([2.0, -1.0, 6.0, 7.0])
    kept = torch.tensor([4 - 0.5 * 2, 3 + 0.5])
    out = filtered_difference(target, assistant, 0.5, 0.1)
    torch.testing.assert_close(out, torch.cat([kept, target[2:]]))
    dropped = filtered_difference(target, assistant, 0.5, 0.1, filtered="drop")
    torch.testing.assert_close(dropped, torch.cat([kept, torch.full((2,), FILTERED)]))


@given(rows, st.floats(-5, 5), st.floats(0, 2))
def test_an_assistant_without_preference_keeps_the_odds_between_likely_words(values, constant, weight):
    target = torch.tensor(values).double()
    flat = torch.full_like(target, constant)
    kept = likely_words(target, 0.1)
    out = filtered_difference(target, flat, weight, 0.1)
    torch.testing.assert_close(out[kept].softmax(-1), target[kept].softmax(-1))
    everything = filtered_difference(target, flat, weight, top=1.0)
    torch.testing.assert_close(everything.softmax(-1), target.softmax(-1))
    zero = filtered_difference(target, torch.zeros_like(target), weight, 0.1)
    assert torch.equal(zero, target)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reinforced_difference(torch.zeros(2), torch.zeros(3)), r"\[2\] and \[3\]"),
        (lambda: reinforced_difference(torch.zeros(2), torch.zeros(2), -1.0), "alpha .* got -1.0"),
        (lambda: likely_words(torch.zeros(2), 1.5), r"top must be in \[0, 1\], got 1.5"),
        (lambda: filtered_difference(torch.zeros(2), torch.zeros(2), filtered="zero"), "got 'zero'"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Difference(TwoModelLM):
    def combine(self, target, assistant, generating):
        return filtered_difference(target, assistant, 0.9, 0.1, filtered="drop" if generating else "keep")


def pair(architecture="llama", vocabulary=40):
    shape = {"d_model": 16, "n_heads": 2, "architecture": architecture, "max_length": 64}
    sharp = causal_lm(vocabulary, n_layers=3, seed=1, **shape), causal_lm(vocabulary, n_layers=1, seed=2, **shape)
    for model in sharp:  # fresh weights say the same word for ever: make them speak
        for p in model.parameters():
            p.data.mul_(6 if p.ndim > 1 else 1)
    return Difference(*sharp)


def uncached(model, ids, mask, steps):
    """Greedy decoding by a whole forward pass of both models a token."""
    for _ in range(steps):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        with torch.no_grad():
            logits = [m.eval()(**inputs, use_cache=False).logits[:, -1] for m in (model.target, model.assistant)]
        new = model.combine(*logits, True).argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, new], 1), F.pad(mask, (0, 1), value=1)
    return ids


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_generation_with_a_cache_is_generation_without(architecture):
    model = pair(architecture)
    ids = torch.randint(4, 40, (3, 5), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    expected = uncached(model, ids, mask, 12)
    assert len({tuple(row) for row in expected[:, 5:].tolist()}) == 3
    assert all(len(set(row)) > 2 for row in expected[:, 5:].tolist())
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    for use_cache in (True, False):
        assert torch.equal(model.generate(ids, use_cache=use_cache, pad_token_id=0, **options), expected)


def test_beams_reorder_both_caches():
    model = pair()
    ids = torch.tensor([[1, 5, 7], [1, 9, 4]])
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with_cache = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    without = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    assert torch.equal(with_cache, without)


def test_greedy_drops_rows_from_both_caches():
    """Rows end at different times, so that rows are dropped; each must read as it does alone."""
    words = [f"w{i}" for i in range(36)]
    tokenizer = word_tokenizer(words)
    model = pair(vocabulary=len(tokenizer))
    prompts = [" ".join(words[i : i + 1 + i % 3]) for i in range(24)]
    ends = {}
    for i, prompt in enumerate(prompts):
        ids = tokenizer(prompt, add_special_tokens=True, return_tensors="pt").input_ids
        tail = uncached(model, ids, torch.ones_like(ids), 10)[0, ids.shape[1] :].tolist()
        ends[i] = tail[: tail.index(2)] if 2 in tail else tail
    together = greedy(model, tokenizer, prompts, max_new_tokens=10)
    assert together == [tokenizer.decode(ends[i], skip_special_tokens=True) for i in range(24)]
    assert len({len(tail) for tail in ends.values()}) > 1, "all rows end together: nothing is dropped"
    assert len(set(together)) > 3


def test_a_selected_cache_goes_on_like_the_rows_alone():
    model = pair()
    ids = torch.tensor([[1, 5, 7], [1, 9, 4], [1, 6, 6]])
    first = model(ids, use_cache=True)
    cache = first.past_key_values
    assert isinstance(cache, PairedCache)
    assert [len(part.layers) for part in cache.parts] == [3, 1]
    cache.batch_select_indices(torch.tensor([2, 0]))
    new = torch.tensor([[8], [9]])
    out = model(new, past_key_values=cache, use_cache=True)
    alone = model(torch.cat([ids[[2, 0]], new], 1), generating=True)
    torch.testing.assert_close(out.logits[:, -1], alone.logits[:, -1])


def test_scoring_and_generating_are_told_apart():
    model = pair()
    ids = torch.tensor([[1, 5, 7, 9]])
    scored, generated = model(ids), model(ids, use_cache=True)
    assert scored.past_key_values is None
    assert not (scored.logits == FILTERED).any()
    assert (generated.logits == FILTERED).any()
    assert torch.equal(model(ids, generating=True).logits, generated.logits)
    assert torch.equal(model(ids, use_cache=True, generating=False).logits, scored.logits)
    kept = generated.logits != FILTERED
    torch.testing.assert_close(scored.logits[kept], generated.logits[kept])


def test_forward_has_transformers_arguments():
    model = pair()
    ids = torch.tensor([[1, 5, 7, 9, 4], [1, 4, 4, 6, 2]])
    labels = ids.masked_fill(torch.arange(5) < 2, -100)
    out = model(ids, attention_mask=torch.ones_like(ids), labels=labels)
    expected = F.cross_entropy(out.logits[:, 1:-1].flatten(0, 1), ids[:, 2:].flatten())
    torch.testing.assert_close(out.loss, expected)
    assert not out.logits.requires_grad
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, out.logits[:, -2:])
    torch.testing.assert_close(model(ids, labels=labels, logits_to_keep=4).loss, expected)
    rows = Encoded(ids.tolist(), [2, 2])
    logp = out.logits.log_softmax(-1)[:, 1:-1].gather(2, ids[:, 2:, None])[..., 0].sum(1)
    np.testing.assert_allclose(score(model, rows, pad_id=0).logp, logp.numpy(), rtol=1e-5)


def test_two_models_refuse_what_does_not_fit():
    model = pair()
    with pytest.raises(ValueError, match="same vocabulary, got 40 and 41"):
        Difference(model.target, causal_lm(41, d_model=16, n_layers=1, n_heads=2))
    cache = DynamicCache(config=model.target.config)
    model.target(torch.tensor([[1, 2]]), past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="one model's keys"):
        model(torch.tensor([[3]]), past_key_values=cache)
    with pytest.raises(NotImplementedError, match="combine"):
        TwoModelLM(model.target, model.assistant)(torch.tensor([[1, 2]]))
