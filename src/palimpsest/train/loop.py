"""`fit`: the training loop."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from palimpsest.train import randomness
from palimpsest.train.batches import Feed, share
from palimpsest.train.history import History, Log, NonFiniteLoss
from palimpsest.train.objective import StepFunction, total
from palimpsest.train.optimizers import FOLLOWS_THE_LOSS, build_optimizer, build_schedule
from palimpsest.train.processes import of_main_process, prepared, replicated, share_buffers
from palimpsest.train.progress import bar
from palimpsest.train.resume import Checkpoints, Run
from palimpsest.train.rounding import in_float32
from palimpsest.train.settings import check, describe, describe_model

if TYPE_CHECKING:
    from palimpsest.train.method import Objective


def fit(
    model: nn.Module,
    objective: Objective | Callable[[nn.Module, Any], Tensor | dict[str, Tensor]],
    batches: Any,
    *,
    steps: int,
    lr: float = 1e-3,
    optimizer: str | Callable[[list[nn.Parameter], float], Optimizer] = "adamw",
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    schedule: str = "constant",
    warmup: int = 0,
    clip: float | None = None,
    accumulate: int = 1,
    precision: str = "no",
    seed: int = 0,
    data: Any = None,
    evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
    evaluate_every: int | None = None,
    stop: Callable[[dict[str, float]], bool] | None = None,
    log: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    progress: bool | None = None,
    tracker: Any = None,
    accelerator: Accelerator | None = None,
) -> History:
    """Train a model in place, and say what happened.

    Each of the `steps` updates minimises the sum of the objective's terms on the next batch, which
    objective.augment(batch, generator) has changed if there is such a function:

        terms = objective.loss(state, model, batch)         state = objective.init(model, data), once, before
        gradient of sum(terms), rewritten by objective.gradients(state, model) if there is such a function, then clipped
        update with `optimizer` at the learning rate of `schedule`

    The run begins by seeding torch, NumPy and Python with `seed`, and ends by putting the caller's generators back.
    The model is left on its device, in eval mode, without gradients.

    Args:
        model: trained in place; parameters that do not require grad stay as they are. `objective` and `evaluate`
            always get this very module (never a wrapper of it), so that `model.config` or `model.features` are there,
            and may call it, or a part of it, any number of times in a loss.
        objective: an `Objective`, or a function `(model, batch) -> loss` (a scalar, or a dict of named scalars).
        batches: `callable(index) -> batch`, called with 0, 1, 2, ...; or anything that can be iterated over again and
            again, epoch after epoch (a list, a DataLoader). A batch is any nest of dicts, lists and tuples of tensors.
        steps: updates.
        lr: learning rate, the highest one of the schedule.
        optimizer: `"adamw"`, `"adam"`, `"sgd"`, or `callable(parameters, lr)` that builds a torch optimizer.
        weight_decay: decoupled for adamw, an L2 penalty for adam and sgd; on every trainable parameter.
        momentum: of sgd.
        schedule: `"constant"` or the name of a scheduler of transformers: `"linear"`, `"cosine"`, ...
        warmup: updates over which the learning rate rises linearly from 0.
        clip: largest norm of the gradient; the norm before clipping is recorded as `grad_norm`.
        accumulate: batches an update: each update consumes that many and follows the mean of their gradients. For a
            loss that is a mean over rows, and batches of equal size, that is the gradient of the joint batch.
        precision: `"no"`, `"bf16"` or `"fp16"` (GPU only): autocast around the loss; the model's outputs reach the
            objective as float32, and the weights are float32. Those of a model in 16 bits are too while it is trained,
            and are rounded at the end (`palimpsest.train.rounding`): small updates would be lost, and no memory saved.
        seed: of everything drawn during the run (dropout, the shuffling of a DataLoader without generator).
        data: handed to `objective.init`.
        evaluate: `(model, step) -> {name: number}`, called before the first update, after the last, and every
            `evaluate_every` updates; in eval mode, without gradients or autocast, and without a trace in the random
            generators.
        stop: called with each evaluation (`step` and what `evaluate` returned); True ends the run.
        log: a file of JSON lines, to which one line a step is appended (step 0 where it is evaluated).
        checkpoint: a folder. The same call made again goes on from its newest checkpoint, to the same bits as a run
            that was never broken; if the run had finished, it returns at once. A checkpoint is written atomically,
            never pickled, at the start, every `checkpoint_every` updates and at the end; the newest is kept.
        progress: True shows a live bar on stderr, False nothing; None means a bar if stderr is a terminal, else a line
            every half minute. Worker processes never show anything.
        tracker: name of a tracker of Accelerate (`"tensorboard"`, `"wandb"`, ...; files go below the current folder)
            or a `GeneralTracker`.
        accelerator: an Accelerator of your own (its precision and trackers count); by default one is made for this run,
            which uses the GPU if there is one.

    Several processes (`accelerate launch`, `torchrun`): every process is given the same joint batch and takes its
    share of the rows, and gradients are averaged (DDP), so that a loss that is a mean over rows trains as in one
    process; a loss that compares rows with each other sees those of its process only. Logged losses are averages over
    the processes, only the main process writes, and its evaluations hold for all.

    Raises:
        ValueError, TypeError: an argument that cannot be meant; a loss that is no scalar or has nothing to train.
        UserError: the checkpoint is damaged, or was made with other settings (it names the first).
        NonFiniteLoss: a term, or the norm of a clipped gradient, is infinite or NaN. The step is not taken: the model
            holds the weights from before it, and the last good checkpoint is kept.

    >>> model = nn.Linear(3, 1)
    >>> x = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    >>> batches = [(rows, rows.sum(1, keepdim=True)) for rows in x.split(32)]
    >>> def squared_error(model, batch):
    ...     inputs, targets = batch
    ...     return (model(inputs) - targets).square().mean()
    >>> history = fit(model, squared_error, batches, steps=200, lr=0.1, optimizer="sgd")
    >>> history.steps[-1]["loss"] < 1e-6
    True
    """
    arguments = dict(locals())
    check(**arguments)
    settings = {} if checkpoint is None and tracker is None else describe(**arguments)
    if not hasattr(objective, "loss"):
        objective = StepFunction(objective)

    with ExitStack() as stack:
        accelerator = stack.enter_context(prepared(accelerator, precision, accumulate, tracker, settings))
        device, processes, scaler = accelerator.device, accelerator.num_processes, accelerator.scaler
        stack.enter_context(randomness.preserved())
        stack.callback(model.eval)
        stack.callback(model.zero_grad)
        stack.enter_context(torch.enable_grad())
        randomness.seed_all(seed)

        model.to(device).eval()
        stack.enter_context(in_float32(model))
        state = objective.init(model, data)
        rewrite_gradients = getattr(objective, "gradients", None)
        augment = getattr(objective, "augment", None)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError("the model has no trainable parameter: set requires_grad on those to train")
        updates = build_optimizer(optimizer, parameters, lr, weight_decay, momentum, scaled=scaler is not None)
        rates = build_schedule(schedule, updates, warmup=warmup, steps=steps)
        lines = stack.enter_context(Log(log if accelerator.is_main_process else None))
        run = Run(model, state, updates, rates, scaler, Feed(batches, resumable=checkpoint is not None), lines)
        settings |= {"model": describe_model(model), "processes": processes}
        checkpoints = Checkpoints(checkpoint, settings, accelerator)
        checkpoints.resume(run)

        def loss_terms(model: nn.Module, batch: Any) -> dict[str, Tensor] | Tensor:
            return objective.loss(run.state, model, batch)

        terms_of = stack.enter_context(replicated(accelerator, model, loss_terms))
        if scaler is not None:
            updates = accelerator.prepare_optimizer(updates, device_placement=False)  # its step may be skipped

        def looked_at(step: int) -> bool:
            return evaluate is not None and (step == steps or step % (evaluate_every or steps) == 0)

        def conclude(record: dict[str, float]) -> None:
            """After update `run.step`: evaluate, decide whether to stop, log."""
            evaluation = None
            if looked_at(run.step):
                model.eval()
                with randomness.preserved(), torch.no_grad():
                    found = numbers(evaluate(model, run.step))
                model.train()
                evaluation = of_main_process(accelerator, {"step": run.step, **found})
                run.history.evaluations.append(evaluation)
            run.finished = run.step == steps or bool(stop is not None and evaluation is not None and stop(evaluation))
            lines.write(record, evaluation)
            if accelerator.trackers:
                accelerator.log({k: v for k, v in {**record, **(evaluation or {})}.items() if k != "step"}, run.step)

        show = stack.enter_context(bar(progress, steps, run.step, accelerator.is_main_process, looked_at))
        model.train()
        if run.step == 0 and evaluate is not None and not run.finished:
            conclude({"step": 0})
            show(0, math.nan)
            if run.finished:
                checkpoints.save(run)

        while not run.finished:
            updates.zero_grad(set_to_none=True)
            sums: dict[str, Tensor] = {}
            for part in range(1, accumulate + 1):
                batch = run.feed.next()
                if augment is not None:
                    batch = augment(batch, randomness.of_batch(seed, run.step * accumulate + part))
                batch = share(batch, accelerator.process_index, processes, device)
                with accelerator.no_sync(terms_of) if part < accumulate else nullcontext():
                    terms = terms_of(batch)
                    loss = total(terms)
                    accelerator.backward(loss)  # of loss / accumulate
                for name, value in {"loss": loss, **terms}.items():
                    sums[name] = value.detach() if part == 1 else sums[name] + value.detach()
            means = sums if accumulate == 1 else {name: value / accumulate for name, value in sums.items()}

            if scaler is not None:
                accelerator.unscale_gradients()
            if rewrite_gradients is not None:
                require_finite(read(means, accelerator), run, checkpoints)
                rewrite_gradients(run.state, model)
            if clip is not None:
                means["grad_norm"] = nn.utils.clip_grad_norm_(parameters, clip)
            values = read(means, accelerator)
            require_finite(values, run, checkpoints)

            run.step += 1
            record = {"step": run.step, **values, "lr": float(updates.param_groups[0]["lr"])}
            run.history.steps.append(record)
            updates.step()
            if scaler is None or not updates.step_was_skipped:
                rates.step(values["loss"]) if schedule in FOLLOWS_THE_LOSS else rates.step()

            conclude(record)
            show(run.step, record["loss"])
            if run.finished or (checkpoint_every and run.step % checkpoint_every == 0):
                checkpoints.save(run)

        run.check_weights(checkpoints.last)
        share_buffers(accelerator, model)
    return run.history


def numbers(found: Any) -> dict[str, float]:
    """What `evaluate` returned, checked."""
    if not isinstance(found, dict) or "step" in found:
        raise TypeError(f"evaluate returned {found!r:.80}: return a dict of numbers by name (not 'step')")
    return {name: float(value) for name, value in found.items()}


def read(means: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """The numbers of a step, averaged over the processes: the one moment when the GPU is waited for."""
    values = torch.stack([value.to(accelerator.device) for value in means.values()])
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, reduction="mean")
    return dict(zip(means, values.tolist(), strict=True))


def require_finite(values: dict[str, float], run: Run, checkpoints: Checkpoints) -> None:
    """Stop at a term, a loss or a gradient norm that is no number: the terms are looked at before their sum."""
    for name in sorted(values, key=lambda name: name == "loss"):
        overflow = run.scaler is not None and name == "grad_norm"  # the scaler skips the step and lowers its scale
        if not (math.isfinite(values[name]) or overflow):
            raise NonFiniteLoss(name, values[name], run.step + 1, checkpoints.last, run.history)
