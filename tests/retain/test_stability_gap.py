"""The stability gap by hand, looks that leave no trace, and the parts of a step."""

import copy
import math

import pytest
import torch
from tests.retain.streams import model, second_task, stream
from torch import nn

from palimpsest.retain.continual import Continual, cross_entropy
from palimpsest.retain.replay import ER
from palimpsest.retain.sequence import learn_stream
from palimpsest.retain.stability_gap import TracedER, gap_report, grad_decomposition
from palimpsest.retain.stability_gap_measures import ContinualEvaluator

SETTINGS = {"steps": 6, "batch_size": 8, "lr": 1e-2, "progress": False}


def looks(*rows):
    return [{"task": task, "step": step, "accuracy": list(found)} for task, step, *found in rows]


CURVE = looks(
    (0, 0, 0.1, 0.0, 0.0),
    (0, 5, 0.9, 0.0, 0.0),
    (1, 0, 0.8, 0.1, 0.0),
    (1, 5, 0.4, 0.7, 0.0),
    (1, 10, 0.9, 0.9, 0.0),
    (2, 0, 0.9, 0.9, 0.1),
    (2, 5, 0.5, 0.6, 0.4),
    (2, 10, 0.6, 0.9, 0.9),
)


def test_a_curve_by_hand():
    report = gap_report(CURVE, windows=(2, 100))
    # Before the second task: 0.8, at its step 0, where its classes have opened.
    assert report.depth[1, 0] == pytest.approx(0.4)
    assert report.made_up[1, 0] == pytest.approx(0.4)
    assert report.recovery[1, 0] == 10
    assert report.depth[2, :2].tolist() == pytest.approx([0.4, 0.3])
    assert report.made_up[2, :2].tolist() == pytest.approx([0.1, 0.3])
    assert report.recovery[2, :2].tolist() == [math.inf, 10]
    assert report.minimum == pytest.approx((0.4 + 0.6) / 2)
    assert report.worst_case == pytest.approx(0.9 / 3 + 2 / 3 * 0.5)
    # Each task from its own learning on: 0.1 0.8 0.4 0.9 0.5 0.6; 0.7 0.9 0.6 0.9; 0.4 0.9
    assert report.forgetting == pytest.approx({2: (0.4 + 0.3 + 0) / 3, 100: (0.4 + 0.3 + 0) / 3})
    assert report.plasticity == pytest.approx({2: (0.7 + 0.3 + 0.5) / 3, 100: (0.8 + 0.3 + 0.5) / 3})


THEIRS = {
    "minimum": 0.038635343900615515,
    "worst_case": 0.08462785929441452,
    "forgetting": {3: 0.7532347618376437, 10: 0.8080039912127489, 100: 0.8204659851603173},
}


def test_measures_are_those_of_the_authors_code():
    """Their TaskTrackingMINAccuracy, WCACC and WindowedForgetting, fed with these looks one by one (a task from its own
    learning on, and once where a task ends and the next begins), gave these. Their WindowedPlasticity passes over rises
    from below an earlier value, which is right for falls alone; ours is the paper's."""
    generator = torch.Generator().manual_seed(3)
    curve = torch.rand(24, 3, generator=generator, dtype=torch.float64)
    records = looks(*((n // 8, n % 8 + 1, *row.tolist()) for n, row in enumerate(curve)))
    report = gap_report(records, windows=(3, 10, 100))
    assert report.minimum == pytest.approx(THEIRS["minimum"], abs=1e-6)
    assert report.worst_case == pytest.approx(THEIRS["worst_case"], abs=1e-6)
    assert report.forgetting == pytest.approx(THEIRS["forgetting"], abs=1e-6)


def test_what_only_rises_has_no_gap_and_what_is_lost_for_good_made_up_for_nothing():
    rising = gap_report(looks((0, 0, 0.1, 0.0), (0, 1, 0.5, 0.0), (1, 0, 0.5, 0.2), (1, 1, 0.6, 0.9)))
    assert rising.depth[1, 0] == rising.recovery[1, 0] == rising.forgetting[10] == 0
    assert rising.depth.isnan().tolist() == [[True, True], [False, True]]
    lost = gap_report(looks((0, 1, 0.9, 0.0), (1, 1, 0.5, 0.5), (1, 2, 0.1, 0.9)))
    assert lost.depth[1, 0] == pytest.approx(0.8)
    assert lost.made_up[1, 0] == 0
    assert lost.recovery[1, 0] == math.inf
    assert math.isnan(gap_report(looks((0, 0, 0.1), (0, 1, 0.9))).minimum)
    with pytest.raises(ValueError, match="there are no looks"):
        gap_report([])


def test_looks_leave_no_trace_and_see_what_the_log_sees():
    data = stream("domain")
    evaluator = ContinualEvaluator(data, subsample=None)

    class Watched(Continual):
        def after_step(self, state, base):
            state["step"] += 1
            before = [module.training for module in base.modules()]
            evaluator(base, state["number"], state["step"])
            assert before == [module.training for module in base.modules()]

        def before_task(self, state, base, present):
            evaluator(base, present.number, 0)
            return {"number": present.number, "step": 0}

    plain = learn_stream(model(classes=4), Continual(), data, every=1, **SETTINGS)
    watched = learn_stream(model(classes=4), Watched(), data, **SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert [record["accuracy"] for record in evaluator.records] == [
        pytest.approx(record["accuracy"]) for record in plain.log.curve
    ]
    assert gap_report(evaluator.records).depth[2, 0] == pytest.approx(gap_report(plain.log.curve).depth[2, 0].item())


def test_batch_norm_and_the_callers_generator_are_left_alone_by_a_look():
    data = stream()
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 6)).train()
    before, draws = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    evaluator = ContinualEvaluator(data, every=2, subsample=5, answer=lambda base, batch: base(batch["pixel_values"]))
    evaluator(net, 1, 1)
    assert evaluator.records == []
    evaluator(net, 1, 2)
    assert len(evaluator.records[0]["accuracy"]) == 3
    assert [len(rows) for rows in evaluator.rows] == [5, 5, 5]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    with pytest.raises(ValueError, match="every and subsample must be at least 1, got 0 and 5"):
        ContinualEvaluator(data, every=0, subsample=5)


def test_the_parts_of_a_step_are_those_of_replay():
    traced = learn_stream(model(), TracedER(size=9), stream(), **SETTINGS)
    plain = learn_stream(model(), ER(size=9), stream(), **SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(traced.parameters(), plain.parameters(), strict=True))
    assert [len(task) for task in traced.state["trace"]] == [0, 6, 6]
    # New and old together are the gradient of the mean over both.
    w = nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    new, old = (w * torch.arange(5.0)).square().sum(), (w + 1).square().sum()
    assert grad_decomposition(new, 0 * old, [w])["cosine"] == 0
    found = grad_decomposition(new, old, [w], alpha=0.25)
    both = torch.autograd.grad(0.25 * new + 0.75 * old, w)[0].norm()
    squares = found["new"] ** 2 + found["old"] ** 2 + 2 * found["cosine"] * found["new"] * found["old"]
    assert math.sqrt(squares) == pytest.approx(float(both))


def test_the_parts_have_the_shares_of_their_rows():
    state, base, batch = second_task(TracedER(size=9, replayed=2))
    TracedER(size=9, replayed=2).loss(state, base, batch)
    trained = list(base.parameters())
    losses = [cross_entropy(base, part) for part in (batch, batch["memory"])]
    assert state["trace"][-1] == [pytest.approx(list(grad_decomposition(*losses, trained, alpha=0.8).values()))]
