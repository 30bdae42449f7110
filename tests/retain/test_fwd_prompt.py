"""Projected prompts: core spaces, what an update may change whatever Adam makes of it, and the pool in a model."""

import itertools

import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.models.language import causal_lm
from palimpsest.models.score import Encoded, token_logprobs
from palimpsest.retain.fwd_prompt import FwdPrompt, core_space, embedding_discrepancy, projected
from palimpsest.retain.prompt_pool import PromptedLM, PromptPool
from palimpsest.retain.sequence import learn_stream
from palimpsest.retain.tokens import token_stream
from palimpsest.train.method import apply

D, VOCABULARY = 16, 40


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompted(image_tokens=None, size=4, top_k=2, seed=0):
    lm = causal_lm(VOCABULARY, d_model=D, n_layers=1, n_heads=2, seed=seed)
    return PromptedLM(lm, PromptPool(size, 3, D, 1 if image_tokens is None else 2, top_k), image_tokens)


def stream(n_tasks=3, rows=12):
    """Tasks whose questions are of tokens of their own."""
    tasks = {}
    for number in range(n_tasks):
        ids = drawn(rows, 4, seed=number).abs().mul(3).long().clamp(max=7) + 4 + 8 * number
        part = Encoded([[1, *row, 5 + row[0] % 3] for row in ids.tolist()], [5] * rows)
        tasks[f"task {number}"] = (part, part)
    return token_stream(tasks)


OPTIONS = {"steps": 5, "batch_size": 4, "lr": 1e-2, "progress": False}


def test_a_core_space_is_orthonormal_outside_its_basis_and_holds_the_energy_asked_for():
    basis = core_space(drawn(30, D), energy=0.3)
    more = core_space(drawn(30, D, seed=1), basis, energy=0.8)
    both = torch.cat([basis, more], 1)
    torch.testing.assert_close(both.T @ both, torch.eye(both.shape[1]), atol=1e-5, rtol=0)
    left = drawn(30, D, seed=1) - drawn(30, D, seed=1) @ basis @ basis.T
    held = [float((left @ more[:, :r]).square().sum() / left.square().sum()) for r in (more.shape[1], -1)]
    assert held[0] >= 0.8 - 1e-6 > held[1]
    assert (
        core_space(drawn(30, D, seed=2), torch.cat([both, core_space(drawn(40, D), both, 1.0)], 1), 1.0).shape[1] == 0
    )
    assert core_space(drawn(30, D), energy=1.0).shape == (D, D)
    low = drawn(30, 3) @ drawn(3, D)
    assert core_space(low, energy=1.0).shape[1] == 3
    assert embedding_discrepancy(low, low, 1.0) == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ValueError, match="energy"):
        core_space(low, energy=0.0)


def test_modes_are_what_the_formula_says_and_a_step_within_the_old_space_is_none():
    pre = core_space(drawn(20, D), energy=0.3)
    old = core_space(drawn(20, D, seed=1), pre, energy=0.4)
    g = drawn(6, D, seed=2)
    p_pre, p_old = pre @ pre.T, old @ old.T
    wanted = {
        "none": g,
        "pretrained": g @ p_pre,
        "residual": g @ (torch.eye(D) - p_pre - p_old),
        "both": g @ (torch.eye(D) - p_old),
    }
    for mode, found in wanted.items():
        torch.testing.assert_close(projected(g, pre, old, mode), found, atol=1e-5, rtol=0)
    inside = drawn(6, old.shape[1]) @ old.T
    assert projected(inside, pre, old).abs().max() < 1e-5
    torch.testing.assert_close(projected(drawn(3, pre.shape[1]) @ pre.T, pre, old), drawn(3, pre.shape[1]) @ pre.T)


@pytest.mark.parametrize("image_tokens", [None, 20])
def test_after_a_task_nothing_moves_along_its_directions_although_adam_divides(image_tokens):
    model, data = prompted(image_tokens), stream()
    begun = learn_stream(model, FwdPrompt(), data, **{**OPTIONS, "steps": 0 + 1})
    pre, old = begun.state["pre"], begun.state["old"]
    both = torch.cat([pre, old], 1)
    assert both.shape[1] <= D
    torch.testing.assert_close(both.T @ both, torch.eye(both.shape[1]), atol=1e-5, rtol=0)

    for mode, still in itertools.product(("both", "residual", "none"), (False, True)):
        model = prompted(image_tokens)
        method = FwdPrompt(mode=mode)
        before = {name: p.detach().clone() for name, p in model.pool.named_parameters()}
        state = {"pre": pre, "old": old, "last": {name: p.clone() for name, p in before.items()}}
        optimizer = torch.optim.Adam(model.pool.parameters(), lr=1e-2)
        for _ in range(3):
            sum((p * drawn(*p.shape, seed=7)).sum() for p in model.pool.parameters()).backward()
            if still:  # gradients projected, as a reading of the paper has it, and updates not
                for p in model.pool.parameters():
                    p.grad = projected(p.grad.reshape(-1, D), pre, old, mode).view_as(p)
            optimizer.step()
            if not still:
                method.after_step(state, model)
            optimizer.zero_grad()
        moved = torch.cat([(p - before[n]).reshape(-1, D) for n, p in model.pool.named_parameters()]).detach()
        along = float((moved @ old).norm() / moved.norm())
        if mode == "none" or still:
            assert along > 1e-2
        else:
            assert along < 1e-5
            assert (float((moved @ pre).norm()) > 1e-2) == (mode == "both")


def test_a_stream_tunes_the_pool_alone_and_gathers_the_spaces_of_its_tasks():
    model, data = prompted(), stream()
    lm = {name: p.clone() for name, p in model.lm.named_parameters()}
    pool = {name: p.detach().clone() for name, p in model.pool.named_parameters()}
    learner = learn_stream(model, FwdPrompt(energy=0.6), data, already=1, **OPTIONS)
    assert all(torch.equal(p, lm[name]) for name, p in model.lm.named_parameters())
    assert not any(torch.equal(p, pool[name]) for name, p in model.pool.named_parameters())
    assert learner.state["pre"].shape[1] > 0
    assert learner.state["old"].shape[1] > 0
    assert learner.log.accuracy["test"].isfinite().all()
    with pytest.raises(UserError, match="PromptedLM"):
        learn_stream(causal_lm(VOCABULARY, d_model=D, n_layers=1, n_heads=2), FwdPrompt(), data, **OPTIONS)


def test_the_nearest_prompts_are_prepended_in_their_order_and_the_logits_are_of_the_rows_tokens():
    model = prompted(size=5, top_k=3)
    ids = torch.tensor([[1, 6, 9, 12], [1, 30, 22, 5]])
    logits = model(input_ids=ids).logits
    assert logits.shape == (2, 4, VOCABULARY)
    embedded = model.get_input_embeddings()(ids)
    for row, tokens in enumerate(embedded):
        cosine = torch.cosine_similarity(tokens.mean(0)[None], model.pool.keys)
        best = cosine.argsort(descending=True)[:3]
        chosen = model.pool.prompts[best].flatten(0, 1)
        alone = model.lm(inputs_embeds=torch.cat([chosen, tokens])[None]).logits[0, 9:]
        torch.testing.assert_close(logits[row], alone, atol=1e-5, rtol=1e-4)
        if row == 0:
            assert set(model.pool(tokens.mean(0)[None])[2][0].tolist()) == set(best.tolist())
            assert model.pool(tokens.mean(0)[None])[1].item() == pytest.approx(1 - cosine[best].mean().item(), abs=1e-6)
    with pytest.raises(ValueError, match="top_k"):
        PromptPool(2, 3, D, top_k=3)
    with pytest.raises(ValueError, match="keys"):
        PromptedLM(model.lm, PromptPool(4, 3, D), image_tokens=20)


def test_a_query_is_the_mean_of_what_is_asked_each_part_by_itself_and_never_of_the_answer():
    model = prompted(image_tokens=20)
    e = model.get_input_embeddings().weight
    ids = torch.tensor([[1, 25, 30, 7, 9]])
    asked = torch.tensor([[True, True, True, True, False]])
    wanted = torch.cat([(e[25] + e[30]) / 2, (e[1] + e[7]) / 2])
    torch.testing.assert_close(model.query(ids, asked)[0], wanted)
    torch.testing.assert_close(model.query(ids[:, [0, 3]], asked[:, [0, 3]])[0, :D], torch.zeros(D))
    rows = Encoded([[1, 25, 30, 7, 9], [1, 25, 30, 7, 11]], [4, 4]).batch([0, 1], 0)
    chosen = []
    model.pool.register_forward_pre_hook(lambda module, args: chosen.append(args[0]))
    token_logprobs(model, rows)
    torch.testing.assert_close(chosen[0][0], chosen[0][1])


def test_it_learns_as_a_plain_objective_too():
    model = prompted()
    rows = Encoded([[1, 6, 9, 12], [1, 7, 9, 13]], [3, 3]).batch([0, 1], 0)
    batches = lambda step: rows  # noqa: E731
    method = FwdPrompt(mode="none", key_weight=0.0)
    before = token_logprobs(model, rows).sum().item()
    data = type("Data", (), {"number": 0})
    apply(model, method, data, batches=batches, steps=80, lr=5e-2, progress=False)
    assert token_logprobs(model, rows).sum().item() > before
