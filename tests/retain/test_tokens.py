"""Continual methods on language models: each term against a naive loop on logits, and that padding never counts."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from palimpsest.models import causal_lm
from palimpsest.models.score import Encoded
from palimpsest.retain import AGEM, ER, EWC, METHODS, FineTune, Interpolation, L2Init, LwF, learn_stream, token_stream
from palimpsest.retain.buffers import Buffer, Examples, class_balanced, reservoir
from palimpsest.retain.continual import as_it_was, cross_entropy, everything_of
from palimpsest.retain.penalties import diagonal_fisher
from palimpsest.retain.sequence import _present
from palimpsest.retain.tokens import distilled, fisher, old_answers, probabilities, trimmed

VOCABULARY, T = 12, 1.7
OLD = Encoded([[1, 5, 6, 2], [1, 5, 7, 8, 2], [1, 9, 6, 2]], [2, 2, 2])
NEW = Encoded([[1, 10, 11, 3, 4, 2], [1, 10, 3, 2]], [2, 3])
RUNS = ("fine_tune", "joint", "er", "a_gem", "gem", "ewc", "online_ewc", "l2_init", "interpolation", "lwf", "kl_replay")
RUNS += ("bcwi", "power_law_rehearsal")


def model(seed=0, dtype=torch.float64):
    return causal_lm(VOCABULARY, d_model=16, n_layers=2, n_heads=2, seed=seed).to(dtype).eval()


def batch():
    return {**OLD.batch(range(3), 0), "task": torch.zeros(3, dtype=torch.long)}


def stream(**tasks):
    return token_stream({"old": (OLD, OLD, OLD), "new": (NEW, NEW, NEW), **tasks})


def logits_of_answers(net, ids, prompt):
    """The logits at the positions that predict the answer's tokens, and these; one row alone, without padding."""
    return net(torch.tensor([ids])).logits[0, prompt - 1 : -1], torch.tensor(ids[prompt:])


def test_the_loss_is_the_mean_over_rows_of_the_nats_a_token():
    net = model()
    rows = [F.cross_entropy(*logits_of_answers(net, *row)) for row in zip(*vars(OLD).values(), strict=True)]
    torch.testing.assert_close(cross_entropy(net, batch()), torch.stack(rows).mean())


def test_padding_never_counts():
    wide = {name: F.pad(value, (0, 9), value=7) for name, value in batch().items() if value.ndim == 2}
    wide |= {"attention_mask": F.pad(batch()["attention_mask"], (0, 9)), "task": batch()["task"]}
    wide["labels"] = F.pad(batch()["labels"], (0, 9), value=-100)
    net = model()
    assert trimmed(wide)["input_ids"].shape == (3, 5)
    assert torch.equal(cross_entropy(net, wide), cross_entropy(net, batch()))
    assert torch.equal(probabilities(net, wide), probabilities(net, batch()))
    teacher = old_answers(model(1), batch())
    assert torch.equal(distilled(teacher, net, wide), distilled(teacher, net, batch()))


@pytest.mark.parametrize("plain", [False, True], ids=["last layer", "logits"])
def test_distillation_is_the_divergence_of_the_tokens_distributions(plain, monkeypatch):
    if plain:
        monkeypatch.setattr("palimpsest.retain.tokens.run_to_last_layer", lambda *_: None)
    net, other = model(), model(1)
    rows = []
    for row in zip(*vars(OLD).values(), strict=True):
        p, q = (logits_of_answers(each, *row)[0].div(T).log_softmax(-1) for each in (other, net))
        rows.append((p.exp() * (p - q)).sum(-1).mean())
    found = distilled(old_answers(other, batch(), T), net, batch(), T)
    torch.testing.assert_close(found.double(), torch.stack(rows).mean(), rtol=1e-5, atol=1e-7)


def test_the_teacher_of_lwf_is_the_model_that_was_there_before():
    net, before = model(), model(1)
    state = {"old": everything_of(before), "heads": torch.ones(1, 1, dtype=torch.bool)}
    terms = LwF(strength=3.0, temperature=T).loss(state, net, batch())
    expected = 3 * T**2 * distilled(old_answers(before, batch(), T), net, batch(), T)
    torch.testing.assert_close(terms["held"], expected)
    with as_it_was(net, state["old"]):
        teacher = old_answers(net, batch(), T)
    assert torch.equal(distilled(teacher, net, batch(), T), expected / (3 * T**2))


def test_empirical_fisher_information_is_the_mean_of_squared_gradients():
    net, data = model(), _present(stream(), 0, {"seed": 0})
    found = diagonal_fisher(net, data, rows=99, labels="empirical")
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for row in zip(*vars(OLD).values(), strict=True):
        net.zero_grad()
        F.cross_entropy(*logits_of_answers(net, *row), reduction="sum").backward()
        for name, p in net.named_parameters():
            total[name] += p.grad.square() / 3
    for name, value in total.items():
        torch.testing.assert_close(found[name], value)


def test_drawn_tokens_give_on_average_the_information_of_every_token():
    """sum_t sum_v p_t(v) (d log p_t(v))^2: cross terms of different tokens vanish in the mean."""
    net, row = model(), Encoded([[1, 5, 6, 7, 2]], [2])
    weight = net.model.norm.weight
    net.requires_grad_(False)
    weight.requires_grad_(True)
    logits, _ = logits_of_answers(net, row.input_ids[0], 2)
    exact = torch.zeros_like(weight)
    for token in logits.log_softmax(-1):
        for value in token:
            slope = torch.autograd.grad(value, weight, retain_graph=True)[0]
            exact += value.exp().detach() * slope.square()
    columns = Examples.of(stream(old=(row, row)).tasks[0].train).columns
    many = {name: value.expand(300, -1) for name, value in columns.items()}
    found = fisher(net, many, torch.Generator().manual_seed(0))
    assert list(found) == ["model.norm.weight"]
    assert found["model.norm.weight"].sum().item() == pytest.approx(exact.sum().item(), rel=0.15)


def test_buffers_keep_rows_and_count_them_not_their_tokens():
    rows = Examples.of(stream().tasks[0].train, task=0)
    kept = reservoir(Buffer(capacity=2), rows, torch.Generator().manual_seed(0))
    assert len(kept) == 2
    assert kept.seen == {0: 3}
    new = Examples.of(stream().tasks[1].train, task=1)
    both = class_balanced(kept, new, torch.Generator().manual_seed(0))
    assert sorted(both.columns["task"].tolist()) == [0, 1]


@pytest.mark.parametrize("name", [*RUNS, "freeze"])
def test_a_method_of_the_hall_teaches_a_language_model_from_the_same_bits(name):
    method = METHODS[name]
    method = replace(method, size=2) if hasattr(method, "size") else method
    settings = {"already": 1, "steps": 3, "batch_size": 2, "lr": 1e-2, "every": 1, "progress": False}
    net = model(dtype=torch.float32)
    base = probabilities(net, batch()).mean()
    one, two = (learn_stream(model(dtype=torch.float32), method, stream(), **settings) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    found = one.log.accuracy["test"]
    torch.testing.assert_close(found[0, 0], base)
    assert found[1, 1] > one.log.untrained[1]
    assert [look["step"] for look in one.log.curve] == [0, 1, 2, 3]
    torch.testing.assert_close(probabilities(one.model, NEW.batch(range(2), 0)).mean(), found[1, 1])


@pytest.mark.slow
def test_what_holds_the_old_keeps_more_of_it_than_plain_fine_tuning():
    known = learn_stream(model(dtype=torch.float32), FineTune(), stream(), steps=60, lr=1e-2, progress=False).model
    settings = {"already": 1, "steps": 40, "batch_size": 2, "lr": 1e-2, "progress": False}
    turned = token_stream({"new": (NEW, NEW), "old": (OLD, OLD)})  # which it has just learned, and so knows worse
    known = learn_stream(known, FineTune(), turned, **settings).model
    weights = everything_of(known)
    kept = {}
    methods = {"none": FineTune(), "er": ER(size=3), "agem": AGEM(size=3), "ewc": EWC(strength=1e3)}
    methods |= {"l2": L2Init(strength=1.0), "half": Interpolation(), "lwf": LwF(strength=3.0)}
    for name, method in methods.items():
        net = model(dtype=torch.float32)
        net.load_state_dict(weights, strict=False)
        other = Encoded([[1, 9, 3, 4, 2], [1, 5, 4, 3, 2]], [2, 2])
        learner = learn_stream(net, method, stream(new=(other, other)), **settings)
        kept[name] = learner.log.accuracy["test"][1, 0].item()
    assert all(value > kept["none"] for name, value in kept.items() if name != "none"), kept


def test_what_needs_features_is_refused():
    with pytest.raises(Exception, match="cannot be applied to LlamaForCausalLM"):
        learn_stream(model(), METHODS["ncm"], stream(), steps=1, progress=False)


def test_fisher_information_of_a_model_in_16_bits_is_summed_in_32():
    columns = {name: value for name, value in batch().items() if name != "task"}
    found = {t: fisher(model(dtype=t), columns, torch.Generator(), own=True) for t in (torch.float32, torch.bfloat16)}
    for name, value in found[torch.bfloat16].items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.sum(), found[torch.float32][name].sum(), rtol=0.2, atol=1e-6)
