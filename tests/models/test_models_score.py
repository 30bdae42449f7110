import copy
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from palimpsest.errors import UserError
from palimpsest.models.language import causal_lm, seeded
from palimpsest.models.score import (
    Encoded,
    answer_logprobs,
    answer_nll,
    choice_logprob,
    context_length,
    cross_entropy,
    encode,
    greedy,
    pad_token_id,
    prompt_template,
    score,
    token_logprobs,
)
from palimpsest.models.tokenizers import train_tokenizer, word_tokenizer

WORDS = [f"w{i}" for i in range(60)]
TOKENIZER = word_tokenizer(WORDS)
SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 2}


def sharpened(model, scale=4.0):
    """An untrained model's logits are all but tied; larger weights make its choices depend on what it read."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return model


def lm(architecture="llama", **settings):
    return sharpened(causal_lm(len(TOKENIZER), architecture=architecture, **SIZES, **settings))


def rows(n=9, seed=0):
    rng = random.Random(seed)
    ids = [[1, *rng.choices(range(4, 64), k=rng.randint(2, 14))] for _ in range(n)]
    return Encoded(ids, [rng.randint(1, len(row)) for row in ids])


def naive(model, encoded):
    """Row by row, token by token, from the definition."""
    model.eval()
    result = []
    for ids, start in zip(encoded.input_ids, encoded.prompt_lengths, strict=True):
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        steps = range(start, len(ids))
        result.append([(logp[t - 1, ids[t]].item(), logp[t - 1].argmax().item() == ids[t]) for t in steps])
    return result


# Encoding


def test_encode_joins_prompt_answer_and_end():
    encoded = encode(TOKENIZER, ["w0 w1", ""], ["w2", "w3 w4"], max_length=10)
    assert encoded.input_ids == [[1, 4, 5, 6, 2], [1, 7, 8, 2]]
    assert encoded.prompt_lengths == [3, 1]
    assert encode(TOKENIZER, ["w0"], ["w1"], max_length=10, add_eos=False).input_ids == [[1, 4, 5]]


def test_encode_without_special_tokens():
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.pad_token = None
    encoded = encode(tokenizer, ["", "w0"], ["w1 w2", "w3"], max_length=10)
    assert encoded.input_ids == [[5, 6], [4, 7]]
    assert encoded.prompt_lengths == [1, 1]  # nothing predicts a row's first token
    assert pad_token_id(tokenizer) == 0
    with pytest.raises(UserError, match="row 1 has no tokens"):
        encode(tokenizer, ["w0", ""], ["", ""], max_length=10)


def test_a_begin_token_in_the_prompt_is_not_doubled():
    assert encode(TOKENIZER, ["<bos> w0"], [""], max_length=5, add_eos=False).input_ids == [[1, 4]]


def test_a_begin_token_that_the_tokenizer_does_not_add_is_not_added():
    from tokenizers import processors

    tokenizer = train_tokenizer(["a b"], vocab_size=260)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    assert encode(tokenizer, ["a"], ["b"], max_length=9).input_ids[0][0] != 1


def test_too_long_rows():
    prompts, answers = ["w0", "w0", "w0 w1 w2 w3"], ["w1", "w1 w2 w3 w4", "w1 w2"]
    with pytest.raises(UserError, match=r"2 of 3 rows are longer than 5 tokens, the first is row 1 with 7"):
        encode(TOKENIZER, prompts, answers, max_length=5)
    cut = encode(TOKENIZER, prompts, answers, max_length=5, truncate=True)
    assert [len(ids) for ids in cut.input_ids] == [4, 5, 5]
    assert cut.input_ids[1] == [1, 4, 5, 6, 7]
    with pytest.raises(UserError, match=r"1 of 3 prompts are longer than 4 tokens, the first is row 2 with 5"):
        encode(TOKENIZER, prompts, answers, max_length=4, truncate=True)


def test_encode_errors():
    with pytest.raises(ValueError, match="got 1 and 2"):
        encode(TOKENIZER, ["w0"], ["w1", "w2"], max_length=5)
    with pytest.raises(TypeError, match="several strings"):
        encode(TOKENIZER, "w0", ["w1"], max_length=5)
    with pytest.raises(TypeError, match="row 1 must be a string, got NoneType"):
        encode(TOKENIZER, ["w0", "w0"], ["w1", None], max_length=5)
    with pytest.raises(ValueError, match="max_length"):
        encode(TOKENIZER, ["w0"], ["w1"], max_length=0)
    assert len(encode(TOKENIZER, [], [], max_length=5)) == 0


@given(st.integers(0, 10**6), st.sampled_from([1, 4, 8]))
def test_batch_layout(seed, multiple):
    encoded = rows(seed=seed)
    order = random.Random(seed).sample(range(len(encoded)), 4)
    batch = encoded.batch(order, pad_id=3, pad_to_multiple=multiple)
    assert batch["index"].tolist() == order
    assert batch["input_ids"].shape[1] % multiple == 0
    for row, i in enumerate(order):
        ids, start = encoded.input_ids[i], encoded.prompt_lengths[i]
        padding = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [3] * padding
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * padding
        assert batch["labels"][row].tolist() == [-100] * start + ids[start:] + [-100] * padding
    assert encoded.subset(order).input_ids == [encoded.input_ids[i] for i in order]


def test_encoded_and_batch_errors():
    with pytest.raises(ValueError, match="1 rows"):
        Encoded([[1]], [1, 1])
    with pytest.raises(ValueError, match="row 1 has no tokens"):
        Encoded([[1], []], [1, 0])
    with pytest.raises(ValueError, match="prompt of 3"):
        Encoded([[1, 2]], [3])
    with pytest.raises(ValueError, match="empty"):
        rows().batch([], pad_id=0)
    with pytest.raises(ValueError, match="pad_to_multiple"):
        rows().batch([0], pad_id=0, pad_to_multiple=0)


def test_templates():
    template = prompt_template(TOKENIZER)
    assert template.pair("Who?", "Ada") == (template.prompt("Who?"), " Ada")
    assert template.pair("", "A document.") == ("", "A document.")
    assert template.prompt("Who?") + template.answer("Ada") == "Question: Who?\nAnswer: Ada"
    chatty = copy.deepcopy(TOKENIZER)
    chatty.chat_template = (
        "<bos>{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    template = prompt_template(chatty)
    assert template.prompt("Who?") == "<bos>user: Who?\nassistant:"
    ids = encode(chatty, [template.prompt("w0")], ["w1"], max_length=20).input_ids[0]
    assert ids.count(1) == 1


# Scores


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_logprobs_match_the_definition(architecture):
    model, encoded = lm(architecture).eval(), rows()
    expected = naive(model, encoded)
    batch = encoded.batch(range(len(encoded)), pad_id=0)
    logps = token_logprobs(model, batch)
    logp, length = answer_logprobs(model, batch)
    scores = score(model, encoded, batch_size=2, pad_id=0)
    assert logps.shape == (9, batch["input_ids"].shape[1] - 1)
    assert logps[batch["labels"][:, 1:] == -100].eq(0).all()
    for i, row in enumerate(expected):
        want = np.array([value for value, _ in row])
        got = logps[i][batch["labels"][i, 1:] != -100].detach().numpy()
        np.testing.assert_allclose(got, want, atol=2e-5)
        np.testing.assert_allclose(scores.token_logps[i], want, atol=2e-5)
        assert scores.argmax_hits[i].tolist() == [hit for _, hit in row]
        assert scores.argmax_hits[i].dtype == bool
        assert logp[i].item() == pytest.approx(want.sum(), abs=1e-4)
        assert scores.logp[i] == pytest.approx(want.sum(), abs=1e-4)
        assert length[i].item() == scores.length[i] == len(row)
        nll = -want.mean() if len(row) else 0.0
        assert answer_nll(model, batch)[i].item() == pytest.approx(nll, abs=1e-5)
        assert scores.nll[i] == pytest.approx(nll, abs=1e-5)
    assert any(hit for row in expected for _, hit in row) or architecture == "gpt2"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_padding_and_company_do_not_matter(architecture):
    model, encoded = lm(architecture).eval(), rows()
    alone = torch.cat([answer_logprobs(model, encoded.batch([i], pad_id=0))[0] for i in range(len(encoded))])
    wide = answer_logprobs(model, encoded.batch(range(len(encoded)), pad_id=5, pad_to_multiple=32))[0]
    torch.testing.assert_close(alone, wide, atol=1e-4, rtol=1e-5)
    for batch_size in (1, 4, 64):
        np.testing.assert_allclose(
            score(model, encoded, batch_size=batch_size, pad_id=9).logp, wide.detach(), atol=1e-4
        )


def test_a_model_without_logits_to_keep_scores_the_same(monkeypatch):
    model, encoded = lm().eval(), rows()
    batch = encoded.batch(range(9), pad_id=0)
    expected = token_logprobs(model, batch)
    monkeypatch.setattr(sys.modules["palimpsest.models.score"], "arguments", lambda model: frozenset())
    torch.testing.assert_close(token_logprobs(model, batch), expected)


def test_padding_raises_no_warning():
    """transformers warns, once a process, of padding that comes without a mask."""
    code = (
        "from palimpsest.models import Encoded, causal_lm, token_logprobs;"
        "rows = Encoded([[1, 5, 6], [1, 5]], [1, 1]).batch([0, 1], pad_id=0);"
        "token_logprobs(causal_lm(8, d_model=8, n_layers=1, n_heads=1, architecture='gpt2'), rows)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr == ""


def test_rows_without_answer_are_finite():
    model = lm()
    encoded = encode(TOKENIZER, ["w0 w1", "w2"], ["", "w3"], max_length=9, add_eos=False)
    batch = encoded.batch([0, 1], pad_id=0)
    assert answer_logprobs(model, batch)[1].tolist() == [0, 1]
    assert answer_nll(model, batch)[0] == 0
    cross_entropy(model, batch).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert cross_entropy(model, encoded.batch([0], pad_id=0)) == 0
    assert encode(TOKENIZER, ["w0"], [""], max_length=9).batch([0], pad_id=0)["labels"].tolist() == [[-100, -100, 2]]
    lone = Encoded([[1]], [1])
    assert token_logprobs(model, lone.batch([0], pad_id=0)).shape == (1, 0)
    assert score(model, lone, pad_id=0).length.tolist() == [0]
    assert score(model, Encoded([], []), pad_id=0).logp.shape == (0,)


def test_gradient_matches_finite_differences():
    model = causal_lm(12, d_model=4, n_layers=1, n_heads=1, architecture="gpt2").double().eval()
    name = "transformer.h.0.mlp.c_proj.weight"
    batch = Encoded([[1, 4, 5, 2], [1, 6, 2]], [2, 1]).batch([0, 1], pad_id=0)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self):
            return cross_entropy(self.inner, batch)

    loss = Loss()
    weight = model.get_parameter(name).detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(loss, {f"inner.{name}": w}), (weight,))


def test_cross_entropy_of_halves_averages_to_the_whole():
    model, encoded = lm(), rows(8)
    whole = cross_entropy(model, encoded.batch(range(8), pad_id=0))
    halves = [cross_entropy(model, encoded.batch(half, pad_id=0)) for half in (range(4), range(4, 8))]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_low_precision_logits_are_scored_in_float32():
    model, batch = lm().bfloat16(), rows().batch(range(9), pad_id=0)
    assert token_logprobs(model, batch).dtype == torch.float32


def test_moments_of_the_log_probabilities():
    model, encoded = lm().eval(), rows()
    plain, found = score(model, encoded, pad_id=0), score(model, encoded, pad_id=0, moments=True)
    assert plain.token_means is None
    assert plain.token_variances is None
    for i, (ids, start) in enumerate(zip(encoded.input_ids, encoded.prompt_lengths, strict=True)):
        logp = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1).detach().double()
        mean = (logp.exp() * logp).sum(-1)
        variance = (logp.exp() * logp**2).sum(-1) - mean**2
        np.testing.assert_allclose(found.token_means[i], mean, atol=1e-4)
        np.testing.assert_allclose(found.token_variances[i], variance, atol=1e-4)
        np.testing.assert_array_equal(found.token_logps[i], plain.token_logps[i])
        np.testing.assert_array_equal(found.argmax_hits[i], plain.argmax_hits[i])


class PaddedVocabulary(torch.nn.Module):
    """A model whose last tokens do not exist."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **inputs):
        out = self.model(**inputs)
        out.logits[..., 40:] = -torch.inf
        return out


def test_moments_of_impossible_tokens_count_nothing():
    model, encoded = lm().eval(), Encoded([[1, 5, 6, 39, 2]], [2])
    found = score(PaddedVocabulary(model), encoded, pad_id=0, moments=True)
    logp = model(torch.tensor(encoded.input_ids)).logits[0, 1:-1, :40].log_softmax(-1).detach().double()
    mean = (logp.exp() * logp).sum(-1)
    np.testing.assert_allclose(found.token_means[0], mean, atol=1e-4)
    np.testing.assert_allclose(found.token_variances[0], (logp.exp() * logp**2).sum(-1) - mean**2, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_padding_mask_would_change_nothing(architecture):
    model, encoded = lm(architecture).eval(), rows()
    batch = encoded.batch(range(len(encoded)), pad_id=7)
    logp = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)[:, :-1]
    labels = batch["labels"][:, 1:]
    expected = logp.gather(2, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels == -100, 0)
    torch.testing.assert_close(token_logprobs(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_training_on_answers_makes_them_likely():
    model = causal_lm(len(TOKENIZER), **SIZES)
    encoded = encode(TOKENIZER, ["w0", "w1"], ["w10 w11 w12", "w13"], max_length=12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = score(model, encoded, pad_id=0)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model, encoded.batch(range(2), pad_id=0)).backward()
        optimizer.step()
    after = score(model, encoded, pad_id=0)
    assert before.nll.min() > 3
    assert after.nll.max() < 0.1
    assert all(hits.all() for hits in after.argmax_hits)


@pytest.mark.parametrize("compute", [score, greedy])
def test_every_module_keeps_its_mode(compute):
    model = lm("gpt2", dropout=0.5)
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]

    def run():
        if compute is score:
            return score(model, rows(), pad_id=0).logp.tolist()
        return greedy(model, TOKENIZER, ["w0 w1", "w2"], max_new_tokens=4)

    assert run() == run()  # no dropout
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="vocabulary"):
        score(model, Encoded([[1, 64]], [1]), pad_id=0)
    assert [module.training for module in model.modules()] == before


def test_score_errors():
    model = lm("gpt2", max_length=8)
    batch = rows().batch([0], pad_id=0)
    with pytest.raises(ValueError, match=r"token id 64 is outside the model's vocabulary of 64"):
        token_logprobs(model, Encoded([[1, 64]], [1]).batch([0], pad_id=0))
    with pytest.raises(ValueError, match="token id -1 is outside"):
        token_logprobs(model, Encoded([[1, -1]], [1]).batch([0], pad_id=0))
    with pytest.raises(ValueError, match="labels must have the shape"):
        token_logprobs(model, {**batch, "labels": batch["labels"][:, 1:]})
    with pytest.raises(ValueError, match=r"\[batch, tokens\]"):
        token_logprobs(model, {**batch, "input_ids": batch["input_ids"][0]})
    with pytest.raises(ValueError, match="padded on the right"):
        token_logprobs(model, {**batch, "attention_mask": torch.zeros_like(batch["attention_mask"])})
    with pytest.raises(ValueError, match="context of 8"):
        token_logprobs(model, Encoded([[1] * 9], [1]).batch([0], pad_id=0))
    assert token_logprobs(model, Encoded([[1] * 8], [1]).batch([0], pad_id=0)).shape == (1, 7)
    with pytest.raises(ValueError, match="batch_size"):
        score(model, rows(), batch_size=0, pad_id=0)


def test_choices():
    model = lm().eval()
    choices = ["w1", "w2 w3", "w4 w5 w6"]
    summed = choice_logprob(model, TOKENIZER, "w0", choices)
    encoded = encode(TOKENIZER, ["w0"] * 3, choices, max_length=9, add_eos=False)
    expected = [sum(value for value, _ in row) for row in naive(model, encoded)]
    np.testing.assert_allclose(summed, expected, atol=1e-4)
    mean = choice_logprob(model, TOKENIZER, "w0", choices, normalize=True)
    torch.testing.assert_close(mean, summed / torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="choices is empty"):
        choice_logprob(model, TOKENIZER, "w0", [])
    with pytest.raises(ValueError, match="choice 1 has no token"):
        choice_logprob(model, TOKENIZER, "w0", ["w1", ""])
    with pytest.raises(TypeError, match="several strings"):
        choice_logprob(model, TOKENIZER, "w0", "w1")


# Greedy decoding


def generated(model, prompts, max_new_tokens, eos):
    """transformers' own greedy decoding, one prompt at a time."""
    texts = []
    for prompt in prompts:
        ids = torch.tensor([TOKENIZER(prompt).input_ids])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=0,
            eos_token_id=eos,
        )
        texts.append(TOKENIZER.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


def mistral():
    config = MistralConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return sharpened(seeded(0, lambda: MistralForCausalLM(config)))


def bloom():
    config = BloomConfig(vocab_size=len(TOKENIZER), hidden_size=32, n_layer=2, n_head=2, pad_token_id=0)
    return sharpened(seeded(0, lambda: BloomForCausalLM(config)))


def hybrid():
    """Every layer of Falcon-H1 has keys and values and a running state."""
    config = FalconH1Config(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=4,
        mamba_n_groups=1, mamba_chunk_size=8, pad_token_id=0,
    )  # fmt: skip
    return sharpened(seeded(0, lambda: FalconH1ForCausalLM(config)))


def rwkv():
    config = RwkvConfig(vocab_size=len(TOKENIZER), hidden_size=32, num_hidden_layers=2, pad_token_id=0, eos_token_id=2)
    return sharpened(seeded(0, lambda: RwkvForCausalLM(config)))


def recurrent_gemma():
    """The running state lies in the model itself, not in a cache."""
    config = RecurrentGemmaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, lru_width=32, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, attention_window_size=8, pad_token_id=0,
    )  # fmt: skip
    return sharpened(seeded(0, lambda: RecurrentGemmaForCausalLM(config)))


PROMPTS = [" ".join(random.Random(i).choices(WORDS, k=1 + i % 9)) for i in range(24)]


BUILDS = {
    "llama": lm,
    "gpt2": lambda: lm("gpt2"),
    "mistral": mistral,
    "bloom": bloom,
    "hybrid": hybrid,
    "rwkv": rwkv,
    "recurrent gemma": recurrent_gemma,
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_greedy_is_generate(build):
    model = build().eval()
    free = greedy(model, TOKENIZER, PROMPTS, max_new_tokens=12, batch_size=10)
    # Words that come up often become the end tokens, so that rows end at different steps and are dropped.
    counts = {word: sum(word in text.split() for text in free) for word in WORDS}
    ends = [2, *TOKENIZER.convert_tokens_to_ids(sorted(counts, key=counts.get)[-6:])]
    model.generation_config.eos_token_id = ends
    expected = generated(model, PROMPTS, 12, ends)
    assert len({len(text.split()) for text in expected}) > 1
    assert greedy(model, TOKENIZER, PROMPTS, max_new_tokens=12, batch_size=10) == expected
    assert greedy(model, TOKENIZER, PROMPTS, max_new_tokens=12, batch_size=64) == expected
    assert greedy(model, TOKENIZER, PROMPTS[:5], max_new_tokens=1, batch_size=1) == generated(
        model, PROMPTS[:5], 1, ends
    )


def test_greedy_without_a_cache_of_keys_and_values():
    config = MambaConfig(vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, pad_token_id=0, eos_token_id=2)
    model = sharpened(seeded(0, lambda: MambaForCausalLM(config))).eval()
    assert greedy(model, TOKENIZER, ["w0 w1"], max_new_tokens=5) == generated(model, ["w0 w1"], 5, [2])


def test_greedy_ends_where_the_context_is_full():
    model = lm("gpt2", max_length=8, seed=6).eval()
    short, long = greedy(model, TOKENIZER, ["w0", "w1 w2 w3 w4"], max_new_tokens=20)
    # A prompt of n tokens leaves 8 - n + 1 new ones: the last is never read.
    assert (len(short.split()), len(long.split())) == (7, 4)
    assert generated(model, ["w0"], 7, [2]) == [short]
    assert generated(model, ["w1 w2 w3 w4"], 4, [2]) == [long]
    # The full row rides along, too few to be dropped, and must not ask for a ninth position.
    texts = greedy(model, TOKENIZER, ["w0", "w0", "w1 w2 w3 w4 w5 w6"], max_new_tokens=20)
    assert texts[:2] == [short, short]
    (full,) = greedy(model, TOKENIZER, ["w0 " * 7], max_new_tokens=20)
    assert len(full.split()) == 1
    with pytest.raises(UserError, match="prompt 0 has 9 tokens, the model's context holds 8"):
        greedy(model, TOKENIZER, ["w0 " * 8], max_new_tokens=1)


def test_rotary_positions_end_where_the_model_was_made_to_end():
    model = lm(max_length=8, eos_id=3).eval()
    (text,) = greedy(model, TOKENIZER, ["w0 w1 w2 w3"], max_new_tokens=12)
    assert len(text.split()) == 4
    with pytest.raises(UserError, match="prompt 0 has 9 tokens, the model's context holds 8"):
        greedy(model, TOKENIZER, ["w0 " * 8], max_new_tokens=1)
    with pytest.raises(ValueError, match="rows of 9 tokens do not fit the model's context of 8"):
        score(model, Encoded([[1] * 9], [1]), pad_id=0)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 64),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}, 64),
    ],
)
def test_stretched_rotary_positions_reach_further(rope, length):
    config = LlamaConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, rope_parameters=rope,
    )  # fmt: skip
    assert context_length(LlamaForCausalLM(config)) == length


@pytest.mark.parametrize("build", [lm, bloom], ids=["own loop", "generate"])
def test_greedy_stops_at_a_text(build):
    model = build().eval()
    free = greedy(model, TOKENIZER, PROMPTS, max_new_tokens=12)
    until = " ".join(max(free, key=lambda text: len(set(text.split()))).split()[3:5])
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    assert greedy(model, TOKENIZER, PROMPTS, max_new_tokens=12, until=until) == [t.split(until)[0] for t in free]
    (prompt,) = [p for p, text in zip(PROMPTS, free, strict=True) if until in text][:1]
    steps.clear()
    greedy(model, TOKENIZER, [prompt], max_new_tokens=12, until=until)
    assert 2 <= len(steps) < 12


def test_greedy_recites_what_was_learnt():
    prompts, answers = ["w0", "w1 w2", "w3 w4 w5"], ["w10 w11", "w12", "w13 w14 w15 w16"]
    model = causal_lm(len(TOKENIZER), **SIZES)
    batch = encode(TOKENIZER, prompts, answers, max_length=12).batch(range(3), pad_id=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    assert greedy(model, TOKENIZER, prompts, max_new_tokens=9) == answers


def test_greedy_errors():
    model = lm()
    assert greedy(model, TOKENIZER, [], max_new_tokens=3) == []
    with pytest.raises(TypeError, match="several strings"):
        greedy(model, TOKENIZER, "w0", max_new_tokens=3)
    with pytest.raises(ValueError, match="at least 1, got 0 and 64"):
        greedy(model, TOKENIZER, ["w0"], max_new_tokens=0)
    with pytest.raises(ValueError, match="vocabulary of 10"):
        greedy(causal_lm(10, **SIZES), TOKENIZER, ["w50"], max_new_tokens=3)
    mute = copy.deepcopy(TOKENIZER)
    mute.bos_token = None
    with pytest.raises(UserError, match="prompt 1 has no tokens"):
        greedy(model, mute, ["w0", ""], max_new_tokens=3)
