"""Progressive learning without forgetting: every model that there ever was goes on teaching, not the last one alone.

Source: Feng, Yuan, Wang, Huang, Bian and Zhang (2022), Progressive learning without forgetting, arXiv 2211.15215.

The last model of LwF has itself only learned from its forerunner what older tasks were: knowledge fades from copy to
copy. Here f_1 ... f_{t-1} are all kept, and no row:

    CE(batch) + strength / (t - 1) sum_{i < t} T^2 KL(f_i || f_t  among C_i)

C_i are the classes that f_i knew (dense), or those of its own task (sparse), of which it is the best witness. Credit
assignment: where the gradients g of the first and h of the second term conflict, each loses its part against the other,

    g - min(0, g.h) / |h|^2 h,    h - min(0, g.h) / |g|^2 g,

both of the gradients as they were. Weights without any part in h, as those of new classes, follow g alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.retain.continual import Continual, Present, State, Weights, as_it_was, everything_of, only_allowed
from palimpsest.retain.distillation import distillation
from palimpsest.retain.increments import of_today
from palimpsest.train.classification import logits_of
from palimpsest.train.gradients import agem, flat_gradient, set_gradient
from palimpsest.train.ranges import Above, AtLeast

Credit = Literal["both", "new", "held", "none"]


def credit_assignment(
    new: Float[Tensor, " p"], held: Float[Tensor, " p"], project: Credit = "both"
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Two gradients without what each has against the other; as they are where they do not conflict.

    Args:
        project: which of them are changed.

    >>> credit_assignment(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]))
    (tensor([0.5000, 0.5000]), tensor([0., 1.]))
    """
    turned = agem(new, held) if project in ("both", "new") else new
    return turned, agem(held, new) if project in ("both", "held") else held


def halved(weights: Weights) -> Weights:
    """A model's weights with 16 bits for each number of floating point.

    >>> halved({"w": torch.ones(2), "n": torch.tensor(3)})
    {'w': tensor([1., 1.], dtype=torch.float16), 'n': tensor(3)}
    """
    return {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}


@dataclass(frozen=True)
class PLwF(Continual):
    """Cross-entropy of the new labels, and distillation from all earlier models.

    Attributes:
        strength: weight of the earlier models' answers together.
        temperature: T.
        mode: "dense": each earlier model teaches all classes that it knew; "sparse": those of its own task; "last": the
            last model alone, dense.
        among: the classes whose shares are compared: all that a model "knew" together, or those of each of its "heads";
            the same where tasks are not told. With heads and the last model it is LwF.
        combine: the "mean" of the earlier models' terms, or their "sum".
        credit: which gradients lose what conflicts; "none" leaves their sum.
        half: keep earlier models with 16 bits a number.
    """

    strength: Annotated[float, AtLeast(0)] = 1.0
    temperature: Annotated[float, Above(0)] = 2.0
    mode: Literal["dense", "sparse", "last"] = "dense"
    among: Literal["knew", "heads"] = "knew"
    combine: Literal["mean", "sum"] = "mean"
    credit: Credit = "both"
    half: bool = False

    def init(self, model: nn.Module, data: Present) -> State:
        return {"past": [], "asked": 0, "conflicts": 0}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        now = everything_of(model)
        past = list(enumerate(state["past"]))[-1:] if self.mode == "last" else enumerate(state["past"])
        teachers = []
        for number, one in past:
            weights = {name: value.to(now[name].dtype) for name, value in one["weights"].items()}
            teachers.append({"weights": weights, "heads": self.heads(number, one, data)})
        return {**state, "teachers": teachers}

    def heads(self, number: int, one: State, data: Present) -> Bool[Tensor, "heads classes"]:
        """The sets of classes of which an earlier model is asked."""
        if self.mode == "sparse":
            return one["own"][None]
        return one["known"][None] if self.among == "knew" else data.heads[: number + 1] & one["known"]

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        logits = logits_of(model, batch)
        new = F.cross_entropy(only_allowed(logits, batch), batch["labels"])
        if not state.get("teachers"):
            return {"new": new}
        parts = []
        for one in state["teachers"]:
            with as_it_was(model, one["weights"]):
                said = logits_of(model, batch)
            parts.append(distillation(logits, said, one["heads"].to(logits.device), self.temperature))
        known = torch.stack(parts).sum() / (len(parts) if self.combine == "mean" else 1)
        held = self.strength * self.temperature**2 * known
        if held.requires_grad and self.credit != "none":
            trained = [p for p in model.parameters() if p.requires_grad]
            slope = torch.autograd.grad(held, trained, retain_graph=True, allow_unused=True, materialize_grads=True)
            # One for each of the batches of an update.
            state.setdefault("slopes", []).append(torch.cat([part.flatten() for part in slope]))
        return {"new": new, "held": held}

    def gradients(self, state: State, model: nn.Module) -> None:
        """Takes from both parts of what stands at the parameters what conflicts, and counts the steps in which it
        did."""
        if not (slopes := state.pop("slopes", None)):
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        held = torch.stack(slopes).mean(0)
        new = flat_gradient(trained) - held
        shared = held != 0
        state["asked"] += 1
        state["conflicts"] += int(new @ held < 0)
        turned, kept = credit_assignment(new.where(shared, 0), held, self.credit)
        set_gradient(trained, new.where(~shared, 0) + turned + kept)

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        kept = everything_of(model)
        one = {"weights": halved(kept) if self.half else kept, "known": data.known, "own": of_today(data)}
        return {"past": [*state["past"], one], "asked": state["asked"], "conflicts": state["conflicts"]}


def conflict_rate(state: State) -> float:
    """The share of the updates with an earlier model in which new and held knowledge conflicted; nan before the first.

    >>> conflict_rate({"asked": 4, "conflicts": 1})
    0.25
    """
    return state["conflicts"] / state["asked"] if state["asked"] else float("nan")
