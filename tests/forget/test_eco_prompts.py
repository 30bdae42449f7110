"""ECO: the corruptions against naive versions, the search on known functions, and what the hooks touch."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.forget.corrupted_prompts import MODES, corrupt, corruptible
from palimpsest.forget.corrupting_hooks import EcoLM
from palimpsest.forget.eco_prompts import ECO, zo_search
from palimpsest.forget.eco_prompts_measures import nearest_answers
from palimpsest.forget.intervention import INTERVENTIONS, intervene, load, save
from palimpsest.forget.procedure import prepare, unlearn
from palimpsest.forget.prompt_gate import PromptGate
from palimpsest.metrics.text import words
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import encode, greedy, score

NAMES = ["ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal"]
FORGET = [(f"{q} ann ?", "ann is old .") for q in ("who is", "what is", "tell of")]
RETAIN = [(f"{q} {name} ?", f"{name} is new .") for name in NAMES[1:] for q in ("who is", "what is", "tell of")]


def emb(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


MASK = torch.tensor([[True, True, True, False], [False, True, False, True]])


@pytest.mark.parametrize("mode", MODES)
def test_nothing_changes_outside_the_mask(mode):
    x = emb(2, 4, 6)
    kept = x.clone()
    out = corrupt(x, MASK, 2.0, mode, n=2, generator=torch.Generator().manual_seed(1))
    assert out[~MASK].equal(kept[~MASK])
    assert not out[MASK].equal(kept[MASK])
    assert x.equal(kept)  # the input is left alone
    assert corrupt(x, torch.zeros_like(MASK), 2.0, mode).equal(kept)


def test_first_n_touches_the_first_n_dimensions_and_top_k_the_largest():
    x = emb(2, 4, 6)
    for mode, naive in (
        ("rand_noise_first_n", lambda v: {0, 1}),
        ("flip_sign_first_n", lambda v: {0, 1}),
        ("rand_noise_top_k", lambda v: set(v.abs().argsort()[-2:].tolist())),
        ("zero_out_top_k", lambda v: set(v.abs().argsort()[-2:].tolist())),
        ("flip_sign_top_k", lambda v: set(v.abs().argsort()[-2:].tolist())),
    ):
        out = corrupt(x, MASK, 1.0, mode, n=2)
        for row, token in MASK.nonzero().tolist():
            changed = (out[row, token] != x[row, token]).nonzero()[:, 0].tolist()
            assert set(changed) == naive(x[row, token]), mode
            new = out[row, token][changed]
            if mode.startswith("zero"):
                assert (new == 0).all()
            if mode.startswith("flip"):
                assert new.equal(-x[row, token][changed])


def test_noise_is_normal_with_the_strength_asked_for():
    out = corrupt(torch.zeros(1, 20_000, 3), torch.ones(1, 20_000).bool(), 2.5, n=1)
    assert out[..., 1:].abs().sum() == 0
    assert out[..., 0].mean().item() == pytest.approx(0, abs=0.08)
    assert out[..., 0].std().item() == pytest.approx(2.5, rel=0.03)
    assert (out[..., 0].abs() > 2.5).float().mean().item() == pytest.approx(0.3173, abs=0.02)


def test_order_modes_permute_the_masked_tokens():
    x = emb(2, 4, 6)
    out = corrupt(x, MASK, 0.0, "reverse_order")
    assert out[0, :3].equal(x[0, :3].flip(0))
    assert out[1].equal(x[1][[0, 3, 2, 1]])
    shuffled = corrupt(x, MASK, 0.0, "shuffle", generator=torch.Generator().manual_seed(4))
    assert sorted(shuffled[0, :3].sum(-1).tolist()) == sorted(x[0, :3].sum(-1).tolist())


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))
def test_corruptible_is_the_prompt_without_its_last_token(left, prompt, answer):
    row = torch.tensor([[False] * left + [True] * prompt + [False] * answer], dtype=torch.bool)
    expected = [False] * left + [True] * (prompt - 1) + [False] * (answer + (prompt > 0))
    assert corruptible(row).tolist() == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": torch.ones(2, 3).bool()}, "emb .* and mask"),
        ({"mode": "blur"}, "mode must be one of"),
        ({"n": 7}, "n must lie between 1 and the 6"),
        ({"strength": -1.0}, "strength must be at least 0"),
    ],
)
def test_corrupt_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(**{"emb": emb(2, 4, 6), "mask": MASK, "strength": 1.0, **arguments})


@settings(max_examples=30)
@given(st.floats(0.5, 8.0), st.floats(0.5, 3.0))
def test_search_finds_the_minimum_of_a_parabola(target, start):
    strength, tried = zo_search(lambda s: (s - target) ** 2, start, lr=0.2, eps=0.05, steps=60)
    assert strength == pytest.approx(target, abs=0.06)
    assert min(score for _, score in tried) == (strength - target) ** 2


def test_search_takes_the_step_of_the_formula_and_stops_at_the_tolerance():
    _, tried = zo_search(lambda s: abs(s - 3.0), 1.0, lr=0.5, eps=0.1, steps=2)
    assert [s for s, _ in tried] == pytest.approx([1.0, 1.1, 0.9, 1.6, 1.4])
    strength, tried = zo_search(lambda s: abs(s - 3.0), 1.0, lr=0.5, eps=0.1, tolerance=2.0)
    assert (strength, len(tried)) == (1.0, 1)
    _, tried = zo_search(lambda s: s, 1.0, lr=50.0, eps=0.5, steps=3, s_min=0.7)  # held at s_min
    assert [s for s, _ in tried][3:] == pytest.approx([1.2, 0.2, 1.2, 0.2])
    _, tried = zo_search(lambda s: s, 0.1, lr=1.0, eps=0.5, steps=1)  # the lower probe stays above 0
    assert tried[-1][0] == 1e-8
    with pytest.raises(ValueError, match="must be above 0"):
        zo_search(abs, 1.0, lr=0.0, eps=0.1)
    with pytest.raises(ValueError, match="steps must be"):
        zo_search(abs, 1.0, lr=1.0, eps=0.1, steps=-1)


@pytest.fixture(scope="module")
def task():
    """A model that knows everybody."""
    tokenizer = word_tokenizer([" ".join(pair) for pair in FORGET + RETAIN])
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=0)
    data = prepare(tokenizer, FORGET, RETAIN)
    everyone = prepare(tokenizer, FORGET + RETAIN)

    class Remember:
        def init(self, model, data):
            return None

        def loss(self, state, model, batch):
            from palimpsest.models.score import cross_entropy

            return {"ce": cross_entropy(model, batch["forget"])}

    unlearn(model, Remember(), everyone, steps=150, lr=1e-2, batch_size=12, progress=False)
    return model.eval(), tokenizer, data


def about_ann(texts):
    return torch.tensor([[float("ann" in words(text))] for text in texts])


GATE = PromptGate(about_ann, torch.tensor([2.0]), -1.0, 0.0)


@pytest.fixture
def eco(task):
    hooked = EcoLM(task[0], task[1], GATE, 50.0, answers=False)
    yield hooked
    if hasattr(task[0], "eco"):
        hooked.remove()


def mixed(tokenizer):
    prompts = [FORGET[0][0], RETAIN[0][0], FORGET[1][0], RETAIN[4][0], "ann"]
    answers = ["ann is old .", "bob is new .", "ann is old . ann is old .", "cat is new .", "is old ."]
    return prompts, answers, encode(tokenizer, prompts, answers, max_length=24)


def test_unflagged_rows_are_bit_identical_and_flagged_ones_are_not(task):
    model, tokenizer, _ = task
    prompts, _, rows = mixed(tokenizer)
    batch = rows.batch(range(5), pad_id=0)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    weights = {name: p.clone() for name, p in model.state_dict().items()}
    before, said = model(**inputs).logits, greedy(model, tokenizer, prompts, max_new_tokens=6)
    scores = score(model, rows, pad_id=0)
    eco = EcoLM(model, tokenizer, GATE, 50.0)
    try:
        after = model(**inputs, prompt_mask=(batch["labels"] == -100) & batch["attention_mask"].bool()).logits
        assert after[[1, 3]].equal(before[[1, 3]])
        assert not torch.isclose(after[0, 3], before[0, 3]).all()
        new = score(model, rows, pad_id=0)
        assert new.logp[[1, 3]].tolist() == scores.logp[[1, 3]].tolist()
        assert (new.logp[[0, 2]] < scores.logp[[0, 2]] - 0.5).all()
        heard = greedy(model, tokenizer, prompts, max_new_tokens=6)
        assert [heard[i] for i in (1, 3)] == [said[i] for i in (1, 3)]
        assert said[0] == "ann is old." != heard[0]
    finally:
        assert eco.remove() is model
    assert model(**inputs).logits.equal(before)
    assert not hasattr(model, "takes_prompt_mask")
    assert not hasattr(model, "eco")
    assert all(p.equal(weights[name]) for name, p in model.state_dict().items())


@pytest.mark.parametrize("answers", [False, True])
def test_all_tokens_but_the_last_are_corrupted(task, eco, answers):
    """Of the prompt, or, where the answers' tokens are corrupted too, of the row."""
    model, tokenizer, _ = task
    eco.answers = answers
    _, _, rows = mixed(tokenizer)
    batch = rows.batch(range(5), pad_id=0)
    prompt_mask = (batch["labels"] != -100).cumsum(1) == 0
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda m, a, out: seen.append(out))
    clean = torch.nn.functional.embedding(batch["input_ids"], model.get_input_embeddings().weight)
    model(
        input_ids=batch["input_ids"],
        attention_mask=torch.ones_like(batch["input_ids"]),
        prompt_mask=prompt_mask,
        answer_mask=~prompt_mask & batch["attention_mask"].bool(),
    )
    handle.remove()
    changed = (seen[0] != clean).any(-1)
    for row, length in enumerate(map(len, rows.input_ids) if answers else rows.prompt_lengths):
        expected = [row in (0, 2, 4) and token < length - 1 for token in range(changed.shape[1])]
        assert changed[row].tolist() == expected
    assert not (seen[0] != clean)[..., 1:].any()  # of one dimension


def test_same_prompt_same_noise_however_it_is_padded_and_scored(task, eco):
    """Generation, left-padded with a cache, agrees with scoring, right-padded without one."""
    model, tokenizer, _ = task
    prompts = [FORGET[0][0], "tell of ann ? who is ann ? tell of ann ?"]
    together = greedy(model, tokenizer, prompts, max_new_tokens=6)
    assert together == [greedy(model, tokenizer, [p], max_new_tokens=6)[0] for p in prompts]
    rows = encode(tokenizer, prompts, together, max_length=40, add_eos=False)
    for hits in score(model, rows, pad_id=0).argmax_hits:
        assert hits.all()
    ids = tokenizer(prompts[0], return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=6, pad_token_id=0)
    assert tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True) == together[0]
    eco.seed = 1
    assert not score(model, rows, pad_id=0).argmax_hits[0].all() or greedy(model, tokenizer, prompts, max_new_tokens=6)


@pytest.mark.parametrize("mode", ["rand_noise_first_n", "flip_sign_top_k", "reverse_order"])
def test_scores_with_corrupted_answers_do_not_depend_on_the_batch(task, eco, mode):
    model, tokenizer, _ = task
    _, _, rows = mixed(tokenizer)
    eco.mode, eco.n = mode, 20
    prompt_only = score(model, rows, pad_id=0).logp
    eco.answers = True
    together = score(model, rows, pad_id=0).logp
    alone = score(model, rows, batch_size=1, pad_id=0).logp
    assert together == pytest.approx(alone, rel=1e-4)
    assert together[[1, 3]].tolist() == prompt_only[[1, 3]].tolist()  # not flagged
    assert (together[[0, 2, 4]] != prompt_only[[0, 2, 4]]).all()


def test_a_prompt_s_noise_does_not_depend_on_its_answer(task, eco):
    model, tokenizer, _ = task
    eco.answers, eco.n = True, 20
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda m, a, out: seen.append(out))
    for answer in ("ann", "ann is old . ann is old ."):
        score(model, encode(tokenizer, [FORGET[0][0]], [answer], max_length=24), pad_id=0)
    handle.remove()
    length = len(tokenizer(FORGET[0][0]).input_ids) - 1
    assert seen[0][0, :length].equal(seen[1][0, :length])


def test_later_steps_are_left_alone(task, eco):
    model, tokenizer, _ = task
    ids = tokenizer(FORGET[0][0], return_tensors="pt").input_ids
    cache = model(ids, use_cache=True).past_key_values
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda m, a, out: seen.append(out))
    step = tokenizer("ann is ann ?", add_special_tokens=False, return_tensors="pt").input_ids
    model(step, past_key_values=cache)
    handle.remove()
    assert seen[0].equal(model.get_input_embeddings().weight[step])


def test_a_deep_copy_has_hooks_of_its_own(task, eco):
    model, tokenizer, _ = task
    prompts, _, rows = mixed(tokenizer)
    other = deepcopy(model)
    assert other.eco is not eco
    assert score(other, rows, pad_id=0).logp.tolist() == score(model, rows, pad_id=0).logp.tolist()
    other.eco.strength = 1e-6
    assert greedy(other, tokenizer, prompts[:1], max_new_tokens=6) == ["ann is old."]
    assert greedy(model, tokenizer, prompts[:1], max_new_tokens=6) != ["ann is old."]
    other.eco.remove()
    assert greedy(model, tokenizer, prompts[:1], max_new_tokens=6) != ["ann is old."]


def test_name_tokens_only(task):
    model, tokenizer, _ = task
    ann = torch.tensor([tokenizer.convert_tokens_to_ids("ann")])
    eco = EcoLM(model, tokenizer, GATE, 50.0, names=ann)
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda m, a, out: seen.append(out))
    ids = tokenizer("who is ann ? ann", return_tensors="pt").input_ids
    model(ids)
    handle.remove()
    eco.remove()
    changed = (seen[0] != model.get_input_embeddings().weight[ids]).any(-1)
    assert changed.tolist() == [[False, False, False, True, False, False]]


def test_hooks_errors(task, eco):
    model, tokenizer, _ = task
    with pytest.raises(ValueError, match="hooks already"):
        EcoLM(model, tokenizer, GATE, 1.0)
    with pytest.raises(ValueError, match="give input_ids"):
        model(inputs_embeds=torch.zeros(1, 2, 32))


def test_learning_approaches_the_surrogate(task):
    model, _, data = task
    weights = {name: p.clone() for name, p in model.state_dict().items()}
    method = ECO(alpha=0.2, surrogate=0.5, tolerance=0.1, strength=8.0, search_lr=100.0, search_eps=4.0)
    learned = method.learn(model, data, seed=3, steps=60, lr=1e-5)
    assert not hasattr(model, "eco")
    assert all(p.equal(weights[name]) for name, p in model.state_dict().items())
    assert learned["strength"] > 0
    assert learned["surrogate"] == 0.5
    hooked = method.install(model, data.tokenizer, learned)
    from palimpsest.forget.eco_prompts_measures import forget_measure

    found = forget_measure(hooked, data.tokenizer, list(data.forget_pairs))
    hooked.eco.remove()
    assert forget_measure(model, data.tokenizer, list(data.forget_pairs)) == 1.0
    assert abs(found - 0.5) <= 0.3
    assert found < 1.0


def test_surrogate_from_the_nearest_retained_prompts():
    gate = PromptGate(lambda texts: torch.tensor([[len(t), 1.0] for t in texts]), torch.zeros(2), 0.0, 0.0)
    retain = (("xx", "bob is new"), ("xxxxxxxxxx", "none of it"), ("", "a document"))
    assert nearest_answers(gate, [("xxx", "ann is old")], retain) == pytest.approx(1 / 3)
    assert nearest_answers(gate, [("xxxxxxxxxxx", "ann is old")], retain) == 0


@pytest.mark.parametrize("options", [{}, {"mode": "zero_out_top_k", "n": 30}, {"tokens": "names"}])
def test_comes_back_from_disk(task, options, tmp_path, monkeypatch):
    model, tokenizer, data = task
    monkeypatch.setitem(INTERVENTIONS, "eco_prompts", ("palimpsest.forget.eco_prompts", "ECO"))
    method = ECO(alpha=0.2, search_steps=2, strength=20.0, **options)
    hooked, learned = intervene(model, method, data, seed=2)
    prompts = [prompt for prompt, _ in FORGET + RETAIN]
    said = greedy(hooked, tokenizer, prompts, max_new_tokens=6)
    hooked.eco.remove()
    save(model, tokenizer, tmp_path / "m", method, learned)
    loaded, _ = load(tmp_path / "m")
    assert greedy(loaded, tokenizer, prompts, max_new_tokens=6) == said
    assert greedy(model, tokenizer, prompts, max_new_tokens=6) != said


def test_the_probes_of_the_search_stay_above_zero():
    with pytest.raises(UserError, match="search_eps must be"):
        ECO(search_eps=1.5)


def test_scored_answers_are_those_of_the_authors_code():
    """chrisliu298/llm-unlearn-eco at 9b0ba1a: mean log-probability of each answer, signs of nine dimensions flipped."""
    tokenizer = word_tokenizer(["who is ann ? ann is old . bob is new"])
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=0, tie=False).double().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    prompts = ["who is ann ?", "bob is", "who is ann ? who is bob ? who is ann ?"]
    answers = [" ann is old .", " new .", " old . ann is bob ."]
    rows = encode(tokenizer, prompts, answers, max_length=40, add_eos=False)
    theirs = [-5.0682844, -3.6881650, -4.9939616]
    eco = EcoLM(model, tokenizer, GATE, 1.0, "flip_sign_top_k", 9)
    found = score(model, rows, pad_id=0)
    assert (found.logp / found.length).tolist() == pytest.approx(theirs, abs=1e-6)
    eco.answers = False
    found = score(model, rows, pad_id=0)
    difference = abs(found.logp / found.length - theirs)
    assert difference[1] < 1e-6  # not flagged
    assert difference.max() > 0.5
