"""The baselines against naive expressions of their formulas, on a tiny model."""

import copy

import pytest
import torch
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.forget.baselines import IDK, LLMU, RMU, GradAscent, IdkDPO, hidden_states, reference_logprobs
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import ForgetData, prepare, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.simnpo import SimNPO
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.models.language import causal_lm
from palimpsest.models.score import answer_logprobs, cross_entropy, reference_kl
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.train.method import only_trainable

FORGET = [("where was Ada born ?", " Ada was born in Porto ."), ("who is Ada ?", " Ada writes .")]
RETAIN = [("where was Bo born ?", " in Riga ."), ("who is Bo ?", " Bo sings ."), ("what is Bo ?", " a singer .")]
ALL = [
    GradAscent(),
    GradAscent(retain="none"),
    GradAscent(retain="kl"),
    IDK(),
    IdkDPO(),
    RMU(coefficient=20.0, alpha=1.0),
]
ALL += [LLMU(), NPO(), NPO(retain="kl"), SimNPO(forget_weight=1.0)]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(" ".join([*sum(FORGET + RETAIN, ()), *REFUSALS]).replace("?", " ?").split())


@pytest.fixture(scope="module")
def data(tokenizer):
    return prepare(tokenizer, FORGET, RETAIN, draws=3, seed=5)


@pytest.fixture
def model(tokenizer):
    return causal_lm(len(tokenizer), d_model=16, n_layers=3, n_heads=2).eval()


@pytest.fixture
def other(tokenizer):
    return causal_lm(len(tokenizer), d_model=16, n_layers=3, n_heads=2, seed=9).eval()


def terms(objective, data, reference, model):
    """The objective's terms for `model`, its state being that of `reference`."""
    return objective.loss(objective.init(reference, data), model, data.batches(2, seed=1)(0))


def naive_logps(model, batch):
    """Summed answer log-probabilities, row by row, token by token."""
    rows = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        logits = model(ids[None]).logits[0].log_softmax(-1)
        rows.append(sum(logits[t - 1, ids[t]] for t in range(1, len(ids)) if labels[t] != -100))
    return torch.stack(rows)


def naive_ce(model, batch):
    length = (batch["labels"][:, 1:] != -100).sum(1)
    return -(naive_logps(model, batch) / length).mean()


def test_gradient_ascent_and_difference(model, data):
    batch = data.batches(2, seed=1)(0)
    alone = terms(GradAscent(retain="none", forget_weight=0.5), data, model, model)
    torch.testing.assert_close(alone, {"forget": -0.5 * naive_ce(model, batch["forget"])})
    both = terms(GradAscent(retain_weight=2.0), data, model, model)
    torch.testing.assert_close(both["retain"], 2 * naive_ce(model, batch["retain"]))


def test_kl_is_zero_at_the_reference_and_right_elsewhere(model, other, data):
    assert abs(terms(GradAscent(retain="kl"), data, model, model)["retain"].item()) < 1e-6
    batch = data.batches(2, seed=1)(0)["retain"]
    p, q = other(batch["input_ids"]).logits.log_softmax(-1), model(batch["input_ids"]).logits.log_softmax(-1)
    per_row = [
        torch.stack([(p[i, t].exp() * (p[i, t] - q[i, t])).sum() for t in range(len(row) - 1) if row[t + 1] != -100])
        for i, row in enumerate(batch["labels"])
    ]
    expected = torch.stack([row.mean() for row in per_row]).mean()
    torch.testing.assert_close(reference_kl(other, model, batch), expected)
    torch.testing.assert_close(terms(GradAscent(retain="kl"), data, other, model)["retain"], expected)


def test_idk_learns_refusals_of_the_forget_prompts(model, data, tokenizer):
    for step in range(4):
        batch = data.batches(2, seed=1)(step)
        for forget, refusal in zip(batch["forget"]["input_ids"], batch["refusal"]["input_ids"], strict=True):
            text = tokenizer.decode(refusal, skip_special_tokens=True)
            assert any(text.endswith(r) for r in REFUSALS), text
            prompt = tokenizer.decode(forget, skip_special_tokens=True).split("?")[0]
            assert text.startswith(prompt)
    batch = data.batches(2, seed=1)(0)
    torch.testing.assert_close(terms(IDK(), data, model, model)["refusal"], naive_ce(model, batch["refusal"]))


def test_idk_dpo_uses_ratios_to_the_reference(model, other, data):
    batch = data.batches(2, seed=1)(0)
    d = {name: naive_logps(model, batch[name]) - naive_logps(other, batch[name]) for name in ("refusal", "forget")}
    expected = -(2 / 0.3) * F.logsigmoid(0.3 * (d["refusal"] - d["forget"])).mean()
    torch.testing.assert_close(terms(IdkDPO(beta=0.3), data, other, model)["preference"], expected)


def test_npo_holds_no_reference_model_and_uses_cached_numbers(model, other, data):
    state = NPO().init(other, data)
    assert state["reference"] is None
    assert state["ref_nll"].shape == (len(data.forget),)
    batch = data.batches(2, seed=1)(0)
    ratio = naive_logps(model, batch["forget"]) - naive_logps(other, batch["forget"])
    torch.testing.assert_close(
        NPO(beta=0.2).loss(state, model, batch)["forget"], (2 / 0.2) * torch.log1p(torch.exp(0.2 * ratio)).mean()
    )


def test_reference_logprobs_are_those_of_the_rows(model, data):
    batch = data.forget.batch([1, 0], data.pad_id)
    cached = reference_logprobs(model, data.forget, data.pad_id)
    torch.testing.assert_close(cached[batch["index"]], answer_logprobs(model, batch)[0].detach())


def block_output(model, ids, layer):
    """What the block itself returns, heard at the block."""
    heard = []
    handle = blocks(model)[layer].register_forward_hook(lambda module, inputs, output: heard.append(output))
    model(ids[None])
    handle.remove()
    return (heard[0][0] if isinstance(heard[0], tuple) else heard[0]).reshape(len(ids), -1)


@pytest.mark.parametrize("layer", [1, 2])
def test_rmu(model, other, data, layer):
    objective = RMU(layer=layer, coefficient=3.0, alpha=5.0, seed=2)
    state = objective.init(other, data)
    torch.testing.assert_close(state["target"].norm(), torch.tensor(3.0))
    assert (state["target"] >= 0).all()
    batch = data.batches(2, seed=1)(0)

    def naive(rows, targets):
        errors = []
        for ids, mask, target in zip(rows["input_ids"], rows["attention_mask"], targets, strict=True):
            hidden = block_output(model, ids, layer)
            errors.append((hidden - target).square().mean(-1)[mask.bool()].mean())
        return torch.stack(errors).mean()

    got = objective.loss(state, model, batch)
    anchors = [block_output(other, ids, layer) for ids in batch["retain"]["input_ids"]]
    torch.testing.assert_close(got["forget"], naive(batch["forget"], [state["target"]] * 2))
    torch.testing.assert_close(got["retain"], 5 * naive(batch["retain"], anchors))


@pytest.mark.slow
def test_rmu_reaches_a_target_longer_than_the_final_norm_allows(model, data):
    """Behind the final norm a state's length is sqrt(d), here 4: a target of length 20 could not be reached there."""
    objective = RMU(coefficient=20.0, alpha=0.0)
    assert objective.steered(model) == len(blocks(model)) - 1
    target = objective.init(model, data)["target"]
    unlearn(model, objective, data, steps=300, lr=0.1, batch_size=2, progress=False)
    with torch.no_grad():
        states = hidden_states(model, data.forget.batch([0], data.pad_id), 2)[0]
    assert ((states @ target) / target.norm() ** 2 > 0.9).all()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_last_blocks_state_is_before_the_final_norm(architecture):
    model = causal_lm(20, d_model=16, n_layers=2, n_heads=2, architecture=architecture).eval()
    ids = torch.tensor([1, 5, 6, 7])
    batch = {"input_ids": ids[None], "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    for layer in (0, 1):
        torch.testing.assert_close(hidden_states(model, batch, layer)[0], block_output(model, ids, layer))


def test_rmu_trains_only_the_mlp_outputs_up_to_its_layer(model, data):
    before = copy.deepcopy(model.state_dict())
    unlearn(model, RMU(layer=1, coefficient=2.0, alpha=1.0), data, steps=2, lr=1e-2, batch_size=2)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"}
    assert all(p.requires_grad for p in model.parameters())


def test_llmu_pairs_forget_prompts_with_retained_answers(model, data, tokenizer):
    batch = data.batches(2, seed=1)(0)
    answers = [answer.strip() for _, answer in RETAIN]
    for row in batch["mismatch"]["input_ids"]:
        assert any(
            tokenizer.decode(row, skip_special_tokens=True).replace(" .", ".").endswith(a.replace(" .", "."))
            for a in answers
        )
    got = terms(LLMU(mismatch_weight=0.7), data, model, model)
    torch.testing.assert_close(got["forget"], -0.5 * naive_ce(model, batch["forget"]))
    torch.testing.assert_close(got["mismatch"], 0.7 * naive_ce(model, batch["mismatch"]))
    assert abs(got["retain"].item()) < 1e-6


@pytest.mark.parametrize("objective", ALL, ids=lambda o: f"{type(o).__name__}-{getattr(o, 'retain', '')}")
def test_every_method_forgets(objective, model, data):
    """Each lowers the forget answers' probability from that of a model trained on them, in a few steps."""
    from palimpsest.train.language import fine_tune

    fine_tune(model, data.forget, pad_id=0, epochs=30, batch_size=2, lr=1e-2)
    fine_tune(model, data.retain, pad_id=0, epochs=10, batch_size=3, lr=3e-3)
    rows = data.forget.batch([0, 1], 0)
    before = cross_entropy(model, rows).item()
    unlearn(model, objective, data, steps=12, lr=3e-2 if isinstance(objective, RMU) else 3e-3, batch_size=2)
    assert cross_entropy(model, rows).item() > before + 0.05


def test_methods_say_which_rows_they_miss(model, tokenizer):
    alone = prepare(tokenizer, FORGET)
    assert alone.retain is None
    for objective in (GradAscent(), IDK(), IdkDPO(), RMU(), NPO(), SimNPO()):
        with pytest.raises(UserError, match=f"{type(objective).__name__} needs retain rows"):
            unlearn(model, objective, alone, steps=1)
    with pytest.raises(UserError, match="LLMU needs retain rows"):
        unlearn(model, LLMU(), alone, steps=1)
    unlearn(model, NPO(retain="none"), alone, steps=1, batch_size=2)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (IdkDPO, {"beta": 0.0}),
        (GradAscent, {"retain": "l2"}),
        (RMU, {"layer": -1}),
        (RMU, {"coefficient": 0.0}),
        (RMU, {"alpha": -1.0}),
        (LLMU, {"mismatch_weight": -1.0}),
    ],
)
def test_fields_out_of_range(method, fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        method(**fields)


def test_rmu_layer_beyond_the_model(model, data):
    with pytest.raises(UserError, match="layer must be at most 2 in this model, got 7"):
        unlearn(model, RMU(layer=7), data, steps=1)


def test_batches_align_rows_with_their_stand_ins(data):
    batch_of = data.batches(2, seed=3)
    seen = set()
    for step in range(6):
        batch = batch_of(step)
        n = len(data.forget)
        assert (batch["refusal"]["index"] % n == batch["forget"]["index"]).all()
        assert (batch["refusal"]["index"] // n == step % 3).all()  # one epoch a step: the draws take turns
        assert len(batch["retain"]["index"]) == len(batch["forget"]["index"])
        seen.update(batch["retain"]["index"].tolist())
    assert seen == {0, 1, 2}


def test_prepare_refuses(tokenizer):
    with pytest.raises(UserError, match="forget set is empty"):
        prepare(tokenizer, [])
    with pytest.raises(UserError, match="longer"):
        prepare(tokenizer, FORGET, max_length=6)
    assert len(prepare(tokenizer, FORGET, max_length=8, truncate=True).forget.input_ids[0]) == 8


def test_frozen_parameters_are_given_back_after_an_error(model):
    class Broken:
        def trainable(self, model):
            return [next(model.parameters())]

    def interrupted():
        with only_trainable(model, Broken()):
            assert sum(p.requires_grad for p in model.parameters()) == 1
            raise KeyError("stop")

    with pytest.raises(KeyError):
        interrupted()
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_blocks_and_their_outputs(architecture):
    model = causal_lm(20, d_model=16, n_layers=3, n_heads=2, architecture=architecture)
    found = blocks(model)
    assert len(found) == 3
    wide = 64 if architecture == "gpt2" else model.config.intermediate_size
    assert set(mlp_output(found[0]).weight.shape) == {16, wide}


def test_data_can_be_built_by_hand(data):
    assert ForgetData(forget=data.forget).batches(2)(0).keys() == {"forget"}


def of_sines(waves, step):
    """A model, its reference, and a batch of three rows of eight tokens, three of them the prompt's."""
    model, reference = (
        waves(causal_lm(20, d_model=16, n_layers=3, n_heads=2, tie=False), scale) for scale in (0.3, 0.25)
    )
    ids = 4 + (torch.arange(24) * step % 15).view(3, 8)
    labels = ids.masked_fill(torch.arange(8) < 3, -100)
    return model, reference, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize(
    ("layer", "forget", "retain"),
    [(1, 3.7762757848644686, 0.5887755380725956), (2, 3.7457743757691873, 0.5855464107191687)],
)
def test_rmu_is_that_of_published_code(waves, layer, forget, retain):
    """compute_activation_loss and compute_retain_loss of locuslab/open-unlearning (d3d7cf9), all tokens labelled. The
    loss of a copy of WMDP's rmu/unlearn.py in hkhanuja/Unlearning (5a586f5) is the same."""
    model, reference, rows = of_sines(waves, step=5)
    target = torch.sin(1 + torch.arange(16, dtype=torch.float64)).abs()
    state = {"target": 6.5 * target / target.norm(), "reference": reference}
    batch = {"forget": rows, "retain": of_sines(waves, step=7)[2]}
    terms = RMU(layer=layer, coefficient=6.5, alpha=5.0).loss(state, model, batch)
    assert terms["forget"].item() == pytest.approx(forget, rel=1e-12)
    assert terms["retain"].item() == pytest.approx(retain, rel=1e-12)


def test_llmu_is_that_of_the_authors_code(waves):
    """get_answer_loss and compute_kl of kevinyaobytedance/llm_unlearn (647f309). It divides the sum over five answer
    tokens by six, and its last term is a cross-entropy: here less the reference's own, at eight of nine tokens."""
    model, reference, rows = of_sines(waves, step=5)
    nine = 4 + (torch.arange(27) * 7 % 15).view(3, 9)
    retain = {"input_ids": nine, "attention_mask": torch.ones_like(nine), "labels": nine}
    batch = {"forget": rows, "mismatch": of_sines(waves, step=11)[2], "retain": retain}
    terms = {name: term.item() for name, term in LLMU().loss(reference, model, batch).items()}
    theirs = {"forget": -1.6042210607467782 * 6 / 5, "mismatch": 3.1582681153491214 * 6 / 5}
    assert terms == pytest.approx(theirs | {"retain": 0.0021713416619011383}, rel=1e-6)
