"""What fit computes: the updates of a bare loop, objectives, accumulation, clipping, schedules; and its door."""

import copy
import math
import multiprocessing
import random
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from palimpsest.errors import UserError
from palimpsest.train import History, NonFiniteLoss, fit


def rows(n=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, (x.sum(1, keepdim=True) + 0.1 * torch.randn(n, 1, generator=generator))


def network(dropout=0.0, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def squared_error(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("name", "build", "options"),
    [
        ("sgd", partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1), {"momentum": 0.9, "weight_decay": 0.1}),
        ("adam", partial(torch.optim.Adam, weight_decay=0.1), {"weight_decay": 0.1}),
        ("adamw", partial(torch.optim.AdamW, weight_decay=0.0), {}),
        (partial(torch.optim.RMSprop, alpha=0.5), partial(torch.optim.RMSprop, alpha=0.5), {}),
    ],
)
def test_same_bits_as_a_bare_loop(name, build, options):
    batches = [rows(seed=seed) for seed in range(3)]
    theirs, ours = network(dropout=0.5), network(dropout=0.5)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(7)
        optimizer = build(theirs.parameters(), lr=0.01)
        for step in range(8):
            loss = squared_error(theirs, batches[step % 3])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    history = fit(ours, squared_error, batches, steps=8, lr=0.01, optimizer=name, seed=7, **options)
    assert torch.equal(weights(ours), weights(theirs))
    assert history.curve("loss") == list(enumerate(losses, start=1))
    assert [record["lr"] for record in history.steps] == [0.01] * 8
    assert not ours.training
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_one_step_of_gradient_descent_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]])
    # loss = mean((w x)^2) = 5 w^2, so the gradient at w = 2 is 20
    history = fit(model, squared_error, [(x, y)], steps=1, lr=0.01, optimizer="sgd", clip=100.0)
    assert history.steps == [{"step": 1, "loss": 20.0, "grad_norm": 20.0, "lr": pytest.approx(0.01)}]
    assert model.weight.item() == pytest.approx(2.0 - 0.01 * 20.0)


@dataclass(frozen=True)
class Anchored:
    """Stay near the weights of the start; the state remembers them and counts."""

    strength: float = 0.1

    def init(self, model, data):
        assert not model.training
        return {"anchor": weights(model), "data": data, "calls": 0}

    def loss(self, state, model, batch):
        state["calls"] += 1
        now = torch.cat([parameter.flatten() for parameter in model.parameters()])
        return {
            "fit": squared_error(model, batch),
            "anchor": self.strength * (now - state["anchor"]).square().sum(),
            "calls": torch.tensor(float(state["calls"])),  # a constant may be logged: it has no gradient
        }


def test_objective_terms_are_summed_and_logged():
    model = network()
    history = fit(model, Anchored(strength=100.0), [rows()], steps=60, lr=1e-3, optimizer="sgd", data="data")
    first, last = history.steps[0], history.steps[-1]
    assert list(first) == ["step", "loss", "fit", "anchor", "calls", "lr"]
    assert first["anchor"] == 0.0
    assert last["calls"] == 60.0
    assert last["loss"] == pytest.approx(last["fit"] + last["anchor"] + last["calls"], rel=1e-6)
    assert (weights(model) - weights(network())).norm() < 0.1  # held back


def test_terms_may_differ_in_dtype():
    def objective(model, batch):
        error = squared_error(model, batch)
        return {"single": error, "double": error.double() / 3, "half": error.bfloat16()}

    (record,) = fit(network(), objective, [rows()], steps=1).steps
    assert record["double"] == pytest.approx(record["single"] / 3, rel=1e-12)
    assert record["loss"] == pytest.approx(record["single"] + record["double"] + record["half"])


def test_gradients_hook_comes_between_backward_and_clipping():
    class Doubled:
        def init(self, model, data):
            return []

        def loss(self, state, model, batch):
            return {"loss": squared_error(model, batch)}

        def gradients(self, state, model):
            state.append([parameter.grad.clone() for parameter in model.parameters()])
            for parameter in model.parameters():
                parameter.grad.mul_(2.0)

    plain, doubled = network(), network()
    one = fit(plain, squared_error, [rows()], steps=1, lr=0.1, optimizer="sgd", clip=1e9)
    two = fit(doubled, Doubled(), [rows()], steps=1, lr=0.1, optimizer="sgd", clip=1e9)
    assert two.steps[0]["grad_norm"] == pytest.approx(2 * one.steps[0]["grad_norm"])
    start = weights(network())
    torch.testing.assert_close(weights(doubled) - start, 2 * (weights(plain) - start))


def test_clipping_bounds_the_update_and_records_the_norm():
    model = network()
    start = weights(model)
    history = fit(model, squared_error, [rows()], steps=1, lr=1.0, optimizer="sgd", clip=0.01)
    assert history.steps[0]["grad_norm"] > 0.1
    assert (weights(model) - start).norm().item() == pytest.approx(0.01, rel=1e-3)


@settings(max_examples=8, deadline=None)
@given(parts=st.integers(1, 5), size=st.integers(1, 6), seed=st.integers(0, 100))
def test_accumulation_follows_the_gradient_of_the_joint_batch(parts, size, seed):
    x, y = rows(parts * size, seed)
    joint, pieces = network(), network()
    one = fit(joint, squared_error, [(x, y)], steps=3, lr=0.1, optimizer="sgd", clip=1.0)
    batches = list(zip(x.split(size), y.split(size), strict=True))
    two = fit(pieces, squared_error, batches, steps=3, lr=0.1, optimizer="sgd", clip=1.0, accumulate=parts)
    torch.testing.assert_close(weights(pieces), weights(joint), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(two.steps, one.steps, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_a_function_of_batches_is_called_with_every_index_once():
    seen = []

    def batch(index):
        seen.append(index)
        return rows(seed=index)

    fit(network(), squared_error, batch, steps=3, accumulate=2)
    assert seen == [0, 1, 2, 3, 4, 5]


def test_schedules():
    def rates(schedule, **options):
        history = fit(nn.Linear(3, 1), squared_error, [rows()], steps=10, lr=0.1, schedule=schedule, **options)
        return [record["lr"] for record in history.steps]

    assert rates("constant") == [0.1] * 10
    assert rates("constant", warmup=4) == pytest.approx([0.0, 0.025, 0.05, 0.075] + [0.1] * 6)
    assert rates("linear", warmup=5) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.08, 0.06, 0.04, 0.02])
    assert rates("cosine") == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])


def test_every_schedule_of_transformers_runs_and_resumes(tmp_path):
    from transformers.trainer_utils import SchedulerType

    for kind in SchedulerType:
        for folder in (None, tmp_path / kind.value):
            model = nn.Linear(3, 1)
            nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
            options = {"steps": 12, "lr": 0.1, "schedule": kind.value, "checkpoint": folder}
            if folder is not None:
                options["checkpoint_every"] = 5
                calls = []

                def interrupted(model, batch, calls=calls):
                    calls.append(1)
                    if len(calls) == 8:
                        raise KeyboardInterrupt
                    return squared_error(model, batch)

                with pytest.raises(KeyboardInterrupt):
                    fit(model, interrupted, [rows()], **options)
                calls[:] = [1] * 100
                nn.init.ones_(model.weight)
                history = fit(model, interrupted, [rows()], **options)
                assert history.resumed_from == 5
                assert history.steps == unbroken.steps
            else:
                unbroken = fit(model, squared_error, [rows()], **options)
                assert len(unbroken.steps) == 12


def test_evaluation_leaves_no_trace_and_runs_in_eval_mode():
    modes = []

    def evaluate(model, step):
        modes.append((step, model.training, torch.is_grad_enabled()))
        torch.rand(step + 1), np.random.rand(), random.random()  # noqa: NPY002
        return {"error": squared_error(model, rows()), "step squared": step**2}

    loader = DataLoader(TensorDataset(*rows()), batch_size=8, shuffle=True)
    one, two = network(dropout=0.5), network(dropout=0.5)
    plain = fit(one, squared_error, loader, steps=7)
    watched = fit(two, squared_error, loader, steps=7, evaluate=evaluate, evaluate_every=3)
    assert modes == [(step, False, False) for step in (0, 3, 6, 7)]
    assert watched.curve("step squared") == [(0, 0.0), (3, 9.0), (6, 36.0), (7, 49.0)]
    assert watched.steps == plain.steps
    assert torch.equal(weights(one), weights(two))


def test_evaluates_first_and_last_by_default_and_stops_when_told():
    history = fit(network(), squared_error, [rows()], steps=4, evaluate=lambda model, step: {"x": step})
    assert history.evaluations == [{"step": 0, "x": 0.0}, {"step": 4, "x": 4.0}]

    def run(until):
        return fit(
            network(),
            squared_error,
            [rows()],
            steps=50,
            evaluate=lambda model, step: {"x": step},
            evaluate_every=2,
            stop=lambda evaluation: evaluation["x"] >= until,
        )

    assert len(run(5).steps) == 6
    assert run(5).evaluations[-1] == {"step": 6, "x": 6.0}
    assert run(0).steps == []


def test_the_callers_random_generators_are_untouched():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    wanted = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    fit(network(dropout=0.5), squared_error, [rows()], steps=2)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == wanted  # noqa: NPY002


def test_the_seed_decides_dropout_and_shuffling():
    def trained(seed):
        torch.rand(random.randrange(1, 9))  # whatever was drawn before does not matter
        model = network(dropout=0.5)
        fit(model, squared_error, DataLoader(TensorDataset(*rows()), batch_size=8, shuffle=True), steps=6, seed=seed)
        return weights(model)

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_frozen_parameters_stay_and_are_not_decayed():
    model = network()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    fit(model, squared_error, [rows()], steps=5, lr=0.1, weight_decay=0.5)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[3].weight, before["3.weight"])


def test_parameters_that_init_adds_are_trained():
    class WithHead:
        def init(self, model, data):
            model.head = nn.Linear(1, 1)
            model.head.weight.data.fill_(1.0)

        def loss(self, state, model, batch):
            return {"loss": (model.head(model(batch[0])) - batch[1]).square().mean()}

    model = network()
    model.head = None
    fit(model, WithHead(), [rows()], steps=3, lr=0.1)
    assert model.head.weight.item() != 1.0


def test_works_inside_no_grad():
    with torch.no_grad():
        assert fit(network(), squared_error, [rows()], steps=1).steps


def test_bf16_computes_in_bfloat16_and_hands_out_float32():
    seen = {}

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x):
            out = self.layer(x)
            seen["inside"] = out.dtype
            return {"logits": out}

        def features(self, x):
            return self.layer(x)

    def objective(model, batch):
        logits = model(batch[0])["logits"]
        seen["outside"] = logits.dtype
        seen["part"] = model.features(batch[0]).dtype
        return (logits - batch[1]).square().mean()

    model = Watched()
    history = fit(
        model,
        objective,
        [rows()],
        steps=100,
        lr=0.1,
        precision="bf16",
        evaluate=lambda model, step: {"float32": model.features(rows()[0]).dtype == torch.float32},
    )
    assert seen == {"inside": torch.bfloat16, "outside": torch.float32, "part": torch.bfloat16}
    assert history.evaluations[0]["float32"] == 1.0
    assert model.layer.weight.dtype == torch.float32
    assert history.steps[-1]["loss"] < 0.05
    assert not model._forward_hooks
    assert "_original_forward" not in vars(model)
    assert model(rows()[0])["logits"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", torch.optim.Adagrad])
def test_16_bit_weights_end_where_float32_ones_do(dtype, optimizer):
    # Steps of 1e-6 up from 1.0, where the next number of bfloat16 is 1/128 away and that of float16 1/1024: in 16 bits
    # every one of them is lost, and so is their sum if it is rounded to the nearest.
    def trained(dtype):
        model = nn.Linear(200, 50, bias=False).to(dtype)
        nn.init.ones_(model.weight)
        seen = []

        def loss(model, batch):
            seen.append(model.weight.dtype)
            return -model.weight.sum()

        fit(model, loss, [0], steps=100, lr=1e-6, optimizer=optimizer)
        assert set(seen) == {torch.float32}
        assert model.weight.grad is None
        return model.weight.detach()

    full, half = trained(torch.float32), trained(dtype)
    assert half.dtype == dtype
    assert full.mean() > 1
    assert len(half.unique()) == 2  # the neighbours of the right value
    assert half.double().mean() - 1 == pytest.approx(full.double().mean().item() - 1, rel=0.15)


def test_an_adapter_trains_on_16_bits_that_stay():
    model = nn.Sequential(nn.Linear(3, 3).bfloat16().requires_grad_(False), nn.Linear(3, 1))
    before = copy.deepcopy(model)
    seen = []

    def loss(model, batch):
        seen.append(model[0].weight.dtype)
        return (model[1](model[0](batch[0].bfloat16()).float()) - batch[1]).square().mean()

    history = fit(model, loss, [rows()], steps=20, lr=0.01)
    assert history.steps[-1]["loss"] < history.steps[0]["loss"]
    assert torch.equal(model[0].weight, before[0].weight)
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_that_are_not_moved_stay_to_the_bit(dtype):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1)).to(dtype)
    model[0].requires_grad_(False)
    model[1].weight.data[0, :3] = torch.tensor([0.0, torch.finfo(dtype).tiny / 4, -torch.finfo(dtype).max])
    before = copy.deepcopy(model)
    fit(model, lambda model, batch: 0 * model[1].weight.sum(), [0], steps=1)
    for parameter, was in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, was)


def test_progress_is_drawn_on_stderr_when_asked_for(capfd):
    fit(network(), squared_error, [rows()], steps=3, progress=True)
    shown = capfd.readouterr()
    assert "3/3" in shown.err
    assert "loss" in shown.err
    assert shown.out == ""
    fit(network(), squared_error, [rows()], steps=3)  # stderr is no terminal here
    assert capfd.readouterr().err == ""


def test_a_log_gets_a_line_now_and_then(capfd, monkeypatch):
    fit(network(), squared_error, [rows()], steps=3)
    assert capfd.readouterr().err == ""  # it takes no half minute
    monkeypatch.setattr("palimpsest.train.progress.LINE_SECONDS", 0.0)
    fit(network(), squared_error, [rows()], steps=3)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert lines[1].endswith(", about 0 s left")
    assert "left" not in lines[2]  # what comes after the training is not known here
    fit(network(), squared_error, [rows()], steps=3, progress=False)
    assert capfd.readouterr().err == ""


def test_the_time_left_has_the_looks_that_are_to_come(capfd, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("palimpsest.train.progress.time.monotonic", lambda: clock[0])

    def takes(seconds, value):
        clock[0] += seconds
        return value

    def objective(model, batch):
        return takes(10, squared_error(model, batch))

    def look(model, step):
        return takes(100, {})

    fit(network(), objective, [rows()], steps=5, evaluate=look, evaluate_every=4)
    first, fourth, last = capfd.readouterr().err.splitlines()
    assert first.startswith("step 1 of 5")
    assert first.endswith("about 4 min left")  # 2 x 10 s and 2 x 100 s
    assert fourth.startswith("step 4 of 5")
    assert fourth.endswith("about 2 min left")
    assert "left" not in last


def test_workers_show_no_progress(capfd, monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {})
    monkeypatch.setattr(type(multiprocessing.current_process()), "name", "LokyProcess-1")
    fit(network(), squared_error, [rows()], steps=2, progress=True)
    assert capfd.readouterr().err == ""


class Notes(GeneralTracker):
    name = "notes"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.config, self.lines, self.finished = {}, [], False

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **kwargs):
        self.lines.append((step, values))

    def finish(self):
        self.finished = True


def test_a_tracker_gets_settings_and_numbers():
    notes = Notes()
    history = fit(
        network(), squared_error, [rows()], steps=2, lr=0.5, tracker=notes, evaluate=lambda model, step: {"x": step}
    )
    assert notes.config["lr"] == 0.5
    assert [step for step, _ in notes.lines] == [0, 1, 2]
    assert notes.lines[1] == (1, {"loss": history.steps[0]["loss"], "lr": 0.5})
    assert notes.lines[2][1]["x"] == 2.0
    assert notes.finished


def diverging(at, name="fit"):
    calls = []

    def objective(model, batch):
        calls.append(1)
        factor = float("nan") if len(calls) == at else 1.0
        return {"fine": squared_error(model, batch), name: factor * squared_error(model, batch)}

    return objective


def test_a_loss_that_is_no_number_stops_before_the_step():
    wanted, model = network(), network()
    fit(wanted, diverging(at=0), [rows()], steps=3, lr=0.1)
    with pytest.raises(NonFiniteLoss) as caught:
        fit(model, diverging(at=4), [rows()], steps=9, lr=0.1)
    error = caught.value
    assert isinstance(error, (UserError, ArithmeticError))
    assert (error.term, error.step, error.checkpoint) == ("fit", 4, None)
    assert str(error) == ("step 4: fit is nan: the step was not taken, there is no checkpoint; lower lr or set clip")
    assert [record["step"] for record in error.history.steps] == [1, 2, 3]
    assert torch.equal(weights(model), weights(wanted))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_terms_that_cancel_to_nan_are_named_as_they_are():
    def objective(model, batch):
        return {"one": squared_error(model, batch) * float("inf"), "two": squared_error(model, batch)}

    with pytest.raises(NonFiniteLoss, match="step 1: one is inf"):
        fit(network(), objective, [rows()], steps=1)


def test_a_gradient_that_is_no_number_stops_where_gradients_are_clipped():
    def root(model, batch):  # finite at 0, with an infinite gradient there
        return model(batch[0]).abs().sum().sqrt()

    model = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(model.weight)
    with pytest.raises(NonFiniteLoss, match=r"step 1: grad_norm is (nan|inf): the step was not taken"):
        fit(model, root, [rows()], steps=1, clip=1.0)
    assert torch.equal(model.weight, torch.zeros(1, 3))
    with pytest.raises(NonFiniteLoss, match="step 1: weight is nan: was found after the step"):
        fit(model, root, [rows()], steps=1)


def test_the_hook_never_meets_gradients_that_are_no_numbers():
    class Hooked:
        def init(self, model, data):
            return None

        def loss(self, state, model, batch):
            return {"loss": squared_error(model, batch) * float("nan")}

        def gradients(self, state, model):
            raise AssertionError("called")

    with pytest.raises(NonFiniteLoss, match="loss is nan"):
        fit(network(), Hooked(), [rows()], steps=1)


def constant(model, batch):
    return torch.tensor(1.0)


class NoInit:
    def loss(self, state, model, batch):
        return {}


BAD_CALLS = [
    ({"steps": 0}, ValueError, "steps=0: it must be at least 1"),
    ({"steps": 2.0}, TypeError, "steps is 2.0, not a whole number"),
    ({"steps": True}, TypeError, "steps is True"),
    ({"lr": 0.0}, ValueError, "lr=0.0: it must be finite and above 0"),
    ({"lr": -1.0}, ValueError, "lr=-1.0"),
    ({"lr": float("nan")}, ValueError, "lr=nan"),
    ({"lr": "big"}, TypeError, "lr is 'big', not a number"),
    ({"clip": 0.0}, ValueError, "clip=0.0"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay=-0.1"),
    ({"accumulate": 0}, ValueError, "accumulate=0"),
    ({"warmup": 3}, ValueError, "warmup=3 is longer than steps=2"),
    ({"warmup": 1, "schedule": "reduce_lr_on_plateau"}, ValueError, "has no warm-up"),
    ({"seed": -1}, ValueError, "seed=-1"),
    ({"optimizer": "adamW2"}, ValueError, "unknown optimizer 'adamW2': did you mean 'adamw'"),
    ({"optimizer": lambda parameters, lr: "no"}, TypeError, "optimizer gave a str"),
    ({"schedule": "cosinus"}, ValueError, "unknown schedule 'cosinus': did you mean 'cosine'"),
    ({"momentum": 0.9}, ValueError, "momentum=0.9 is for optimizer='sgd' only"),
    ({"weight_decay": 0.1, "optimizer": torch.optim.SGD}, ValueError, "weight_decay is not passed"),
    ({"precision": "half"}, ValueError, "unknown precision 'half'"),
    ({"precision": "fp16"}, ValueError, "precision='fp16' needs a GPU"),
    ({"batches": []}, ValueError, "batches is empty"),
    ({"batches": DataLoader([1, 2], batch_size=4, drop_last=True)}, ValueError, "batches is empty"),
    ({"batches": iter([1])}, TypeError, "batches is an iterator"),
    ({"batches": 3}, TypeError, "batches is a int"),
    ({"model": "gpt"}, TypeError, "model is a str"),
    ({"model": nn.Identity()}, ValueError, "no trainable parameter"),
    ({"model": nn.Linear(3, 1).requires_grad_(False)}, ValueError, "no trainable parameter"),
    ({"objective": constant}, ValueError, "does not depend on any trainable parameter"),
    ({"objective": lambda model, batch: model(batch[0])}, ValueError, r"'loss' has shape \(32, 1\)"),
    ({"objective": lambda model, batch: 1.0}, TypeError, "the term 'loss' is a float"),
    ({"objective": lambda model, batch: {}}, ValueError, "no terms"),
    ({"objective": lambda model, batch: {"lr": model(batch[0]).mean()}}, ValueError, "may not be called 'lr'"),
    ({"objective": Anchored}, TypeError, "objective is the class Anchored"),
    ({"objective": NoInit()}, TypeError, "no init"),
    ({"objective": "npo"}, TypeError, "objective is a str"),
    ({"evaluate_every": 2}, ValueError, "evaluate_every is given but not evaluate"),
    ({"checkpoint_every": 2}, ValueError, "checkpoint_every is given but not checkpoint"),
    ({"stop": bool}, ValueError, "stop is given but not evaluate"),
    ({"evaluate": lambda model, step: 3.0}, TypeError, "evaluate returned 3.0"),
    ({"tracker": "nothing"}, ValueError, "nothing"),
]


@pytest.mark.parametrize(("options", "kind", "message"), BAD_CALLS, ids=[message for _, _, message in BAD_CALLS])
def test_the_door(options, kind, message):
    arguments = {"model": network(), "objective": squared_error, "batches": [rows()], "steps": 2, **options}
    state = torch.get_rng_state()
    with pytest.raises(kind, match=message) as caught:
        fit(arguments.pop("model"), arguments.pop("objective"), arguments.pop("batches"), **arguments)
    assert "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_that_turns_out_empty_is_an_error():
    class Empty:
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="batches is empty: an epoch gave no batch"):
        fit(network(), squared_error, Empty(), steps=1)


def test_curve_names_what_there_is():
    with pytest.raises(ValueError, match="the history has no 'los': it has loss, x"):
        History([{"step": 1, "loss": 2.0}], [{"step": 0, "x": 1.0}]).curve("los")
