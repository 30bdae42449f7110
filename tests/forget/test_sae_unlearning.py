import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.forget import intervention
from palimpsest.forget.feature_clamp import clamped, clamping
from palimpsest.forget.intervention import intervene
from palimpsest.forget.procedure import encode_pairs, prepare
from palimpsest.forget.sae_unlearning import SaeClamp, residual_stream, select_features
from palimpsest.forget.sae_unlearning_measures import flipping_feature, side_effect
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.blocks import blocks
from palimpsest.models.hooks import capture
from palimpsest.models.sae import SparseAutoencoder
from palimpsest.models.score import greedy, score
from palimpsest.tasks.multiple_choice import LETTERS, Question, plain
from palimpsest.train.language import fine_tune

FORGET = [("the goat eats", " grass"), ("the goat lives", " uphill"), ("the goat says", " meh")]
RETAIN = [("one plus two makes", " three"), ("two plus two makes", " four"), ("one plus one makes", " two")]
TOKENIZER = word_tokenizer([text for pair in FORGET + RETAIN for text in pair])
DATA = prepare(TOKENIZER, FORGET, RETAIN)


@pytest.fixture(scope="module")
def trained():
    model = causal_lm(len(TOKENIZER), d_model=16, n_layers=3, n_heads=2, seed=1)
    rows = encode_pairs(TOKENIZER, FORGET + RETAIN, max_length=16)
    fine_tune(model, rows, pad_id=0, epochs=60, lr=1e-2, batch_size=6, warmup=1, progress=False)
    return model.eval()


def fresh(model):
    copy = causal_lm(len(TOKENIZER), d_model=16, n_layers=3, n_heads=2)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def test_the_residual_stream_is_the_hidden_state_without_first_tokens_and_padding(trained):
    rows = DATA.retain
    found = residual_stream(trained, rows, 1, pad_id=0, batch_size=2)
    naive = []
    for ids in rows.input_ids:
        hidden = trained(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        naive.append(hidden[2][0, 1:])
    torch.testing.assert_close(found, torch.cat(naive).detach(), atol=1e-5, rtol=1e-4)


@given(
    f=st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=5, max_size=5), min_size=2, max_size=6),
    r=st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=5, max_size=5), min_size=2, max_size=6),
    most=st.floats(0, 1),
    k=st.integers(1, 5),
)
def test_features_are_chosen_as_the_paper_says(f, r, most, k):
    f, r = torch.tensor(f), torch.tensor(r)
    share, other = f.mean(0), r.mean(0)
    allowed = [i for i in range(5) if other[i] <= most + 1e-9 and share[i] > 0]
    if any(abs(float(o) - most) < 1e-6 for o in other):
        return
    if not allowed:
        with pytest.raises(UserError, match="raise retain_max"):
            select_features(f, r, most, k)
        return
    chosen = select_features(f, r, most, k).tolist()
    assert len(chosen) == min(k, len(allowed))
    assert set(chosen) <= set(allowed)
    left = set(allowed) - set(chosen)
    assert not left or min(share[i] for i in chosen) >= max(share[i] for i in left)


@given(seed=st.integers(0, 500), clamp=st.floats(-30, 0))
@settings(max_examples=30, deadline=None)
def test_clamping_sets_active_features_and_leaves_the_rest(seed, clamp):
    g = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(6, 9, seed=seed)
    h = torch.randn(4, 6, generator=g)
    chosen = torch.tensor([1, 4])
    found = clamped(h, sae, chosen, torch.full((2,), clamp))
    naive = h.clone()
    f = sae.encode(h)
    for t in range(4):
        for i in (1, 4):
            if f[t, i] > 0:
                naive[t] += (clamp - f[t, i]) * sae.decoder[i]
    torch.testing.assert_close(found, naive)
    assert torch.equal(clamped(h, sae, chosen, torch.zeros(2), torch.zeros(4, dtype=torch.bool)), h)
    # Clamping features at what they are changes nothing: the autoencoder's error is kept.
    one = f[:1, chosen]
    if (one > 0).all():
        torch.testing.assert_close(clamped(h[:1], sae, chosen, one[0]), h[:1])


def test_hooks_act_on_all_but_the_first_token_and_come_off(trained):
    model = fresh(trained)
    sae = SparseAutoencoder(16, 32)
    ids = torch.tensor([DATA.forget.input_ids[0]])
    layers = {str(i): block for i, block in enumerate(blocks(model))}
    features, clamp = torch.arange(32), torch.full((32,), -8.0)
    with torch.no_grad(), capture(layers, "input") as before:
        logits = model(ids).logits
    with (
        clamping(model, sae, 1, features, clamp, spared=TOKENIZER.bos_token_id),
        torch.no_grad(),
        capture(layers, "input") as inside,
    ):
        model(ids)
    assert torch.equal(inside["1"], before["1"])  # up to the block nothing changes
    torch.testing.assert_close(inside["2"][:, 1:], clamped(before["2"][:, 1:], sae, features, clamp))
    assert torch.equal(inside["2"][:, 0], before["2"][:, 0])
    assert torch.equal(model(ids).logits, logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_token_and_padding_are_spared_without_a_bos_too(trained, side):
    model, sae = fresh(trained), SparseAutoencoder(16, 32)
    rows, pad = [[5, 6, 7, 8], [9, 10]], [0, 0]
    first, last = (pad + rows[1], rows[1] + pad)
    ids = torch.tensor([rows[0], first if side == "left" else last])
    features, clamp = torch.arange(32), torch.full((32,), -8.0)
    with torch.no_grad(), capture({"h": blocks(model)[2]}, "input") as before:
        model(ids, attention_mask=(ids != 0).long())
    with torch.no_grad(), clamping(model, sae, 1, features, clamp), capture({"h": blocks(model)[2]}, "input") as after:
        model(ids, attention_mask=(ids != 0).long())
    edited = (after["h"] != before["h"]).any(-1)
    assert edited[0].tolist() == [False, True, True, True]
    assert edited[1].tolist() == ([False] * 3 + [True] if side == "left" else [False, True, False, False])
    # With a cache and no mask, what was read before counts.
    whole = ids[:1]
    with torch.no_grad(), clamping(model, sae, 1, features, clamp):
        expected = model(whole).logits[:, -1]
        cache = model(whole[:, :-1], use_cache=True).past_key_values
        found = model(whole[:, -1:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(found, expected)


def test_it_forgets_what_it_should_and_keeps_the_rest(trained):
    base = score(trained, DATA.forget, pad_id=0).nll.mean(), score(trained, DATA.retain, pad_id=0).nll.mean()
    method = SaeClamp(layer=1, k=8, scale_by=10.0, l1=0.05, sae_steps=400, sae_lr=5e-3, retain_max=0.0)
    model, learned = intervene(fresh(trained), method, DATA, seed=0)
    assert score(model, DATA.forget, pad_id=0).nll.mean() > base[0] + 1
    assert score(model, DATA.retain, pad_id=0).nll.mean() < base[1] + 0.2
    assert 1 <= len(learned["features"]) <= 8
    assert (learned["mean"] > 0).all()


def test_generation_with_a_cache_agrees_with_scoring_and_the_folder_comes_back(trained, tmp_path):
    method = SaeClamp(layer=1, k=4, active=6, sae_steps=50, retain_max=0.2)
    model, learned = intervene(fresh(trained), method, DATA)
    prompts = [prompt for prompt, _ in FORGET + RETAIN]
    said = greedy(model, TOKENIZER, prompts, max_new_tokens=4)
    ids = TOKENIZER(prompts[0], return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=4, do_sample=False)[0]
    assert TOKENIZER.decode(out[ids["input_ids"].shape[1] :], skip_special_tokens=True) == said[0]
    for step in range(ids["input_ids"].shape[1], len(out)):  # without the cache
        assert int(model(out[None, :step]).logits[0, -1].argmax()) == int(out[step])
    intervention.save(fresh(trained), TOKENIZER, tmp_path / "out", method, learned)
    loaded, tokenizer = intervention.load(tmp_path / "out")
    assert greedy(loaded, tokenizer, prompts, max_new_tokens=4) == said


def test_an_absolute_clamp_is_the_same_for_all(trained):
    method = SaeClamp(layer=0, k=2, sae_steps=20, retain_max=1.0)
    learned = method.learn(trained, DATA)
    ids = torch.tensor([DATA.forget.input_ids[0]])
    by_mean = SaeClamp(layer=0, scale_by=1.0).install(fresh(trained), TOKENIZER, learned)(ids).logits
    learned["mean"] = torch.full_like(learned["mean"], 3.0)
    absolute = SaeClamp(layer=0, clamp=-3.0).install(fresh(trained), TOKENIZER, learned)(ids).logits
    again = SaeClamp(layer=0, scale_by=1.0).install(fresh(trained), TOKENIZER, learned)(ids).logits
    assert torch.equal(absolute, again)
    assert not torch.equal(absolute, by_mean)


QUESTION = Question("", "", "", "Who sings", ("ann", "bob", "cid", "dan"), 1)


def choosing(right):
    """A model that says the letter of option `right`, wherever it stands: that of the token after its letter."""
    tokenizer = word_tokenizer([plain(QUESTION), *LETTERS])

    class Chooser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base = causal_lm(len(tokenizer), d_model=8, n_layers=1, n_heads=1)
            self.config = self.base.config

        def forward(self, input_ids, attention_mask=None, **kwargs):
            out = self.base(input_ids, attention_mask=attention_mask)
            name = tokenizer.convert_tokens_to_ids(right)
            letter = input_ids.gather(1, (input_ids == name).int().argmax(1, keepdim=True) - 1)
            out.logits = 0.01 * out.logits + 100 * torch.nn.functional.one_hot(letter, len(tokenizer))
            return out

    return Chooser(), tokenizer


def test_a_feature_that_flips_nothing_is_none_and_an_unknown_answer_too():
    sae = SparseAutoencoder(8, 4)
    model, tokenizer = choosing("bob")
    assert flipping_feature(model, tokenizer, sae, 0, QUESTION, torch.arange(4)) is None
    model, tokenizer = choosing("ann")
    assert flipping_feature(model, tokenizer, sae, 0, QUESTION, torch.arange(4)) is None


def test_a_feature_that_flips_the_answer_in_every_order_is_found(monkeypatch):
    """The accuracy is made to depend on which feature is clamped."""
    from palimpsest.forget import feature_clamp, sae_unlearning_measures

    clamps = []
    real = feature_clamp.hook
    monkeypatch.setattr(feature_clamp, "hook", lambda *a: clamps.append(int(a[3][0])) or real(*a))

    def accuracy(model, tokenizer, prompts, answers):
        assert len(prompts) == 24
        assert len(set(prompts)) == 24
        assert all(f"{LETTERS[a]} bob" in prompt for prompt, a in zip(prompts, answers, strict=True))
        return {None: 1.0, 3: 0.5, 1: 0.0, 2: 0.0}[clamps[-1] if clamps else None]

    monkeypatch.setattr(sae_unlearning_measures, "letter_accuracy", accuracy)
    model, tokenizer = choosing("bob")
    model.base.config = model.config
    found = flipping_feature(model.base, tokenizer, SparseAutoencoder(8, 4), 0, QUESTION, torch.tensor([3, 1, 2]))
    assert found == 1
    assert clamps == [3, 1]


def test_a_model_has_no_side_effect_on_itself():
    model, tokenizer = choosing("bob")
    found = side_effect(model.base, model.base, tokenizer, questions=[QUESTION], texts=["Who sings"])
    assert found == {"accuracy loss": 0.0, "added text loss": 0.0}


def test_a_block_that_is_not_there_is_named():
    with pytest.raises(UserError, match="at most 1 in this model"):
        SaeClamp(layer=7).learn(causal_lm(10, d_model=16, n_heads=2), DATA)
