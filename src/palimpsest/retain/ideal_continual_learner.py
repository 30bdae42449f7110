"""The ideal continual learner: of all weights that solve what came before, those that solve what comes now.

Source: Peng, Giampouras and Vidal (2023), The ideal continual learner: an agent that never forgets, arXiv 2305.00316.

    K_t = argmin over w in K_{t-1} of L_t(w),    K_0 all w

If the tasks share a minimiser, K_t are their joint minimisers, and nothing can be forgotten. For least squares K_t is
w + span(B), and a task is one step (`ICLRegression`):

    w <- w + B pinv(X B) (y - X w),    B <- B null(X B)

In a deep network the inputs of each layer take the place of X (`ICLFeatures`): an update may change no layer's answer
to an input of an earlier task, so that it is multiplied by I - M M^T, M spanning those inputs
(`palimpsest.retain.input_spans`). Steps of this kind are those of Farajtabar et al. (2019), Orthogonal gradient
descent, arXiv 1910.07104, and Saha, Garg and Roy (2021), Gradient projection memory, arXiv 2103.09762. What the theory
has besides is in `palimpsest.retain.ideal_continual_learner_measures`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.retain.continual import Continual, Present, State, weights_of
from palimpsest.retain.input_spans import extended, input_grams, layers_of, projected
from palimpsest.train.ranges import Above, AtMost


@dataclass(frozen=True, eq=False)
class ICLRegression:
    """All solutions of the least-squares tasks so far: w + span(B).

    Attributes:
        w: the one of least norm [d].
        B: an orthonormal basis of the directions that are still free [d, k].

    >>> free = ICLRegression.start(2)
    >>> one = free.step(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([3.0]).double())
    >>> one.w, one.B.abs()
    (tensor([3., 0.], dtype=torch.float64), tensor([[0.],
            [1.]], dtype=torch.float64))
    """

    w: Float[Tensor, " d"]
    B: Float[Tensor, "d k"]

    @classmethod
    def start(cls, d: int, dtype: torch.dtype = torch.float64) -> ICLRegression:
        """Before the first task: w = 0, and every direction is free."""
        return cls(torch.zeros(d, dtype=dtype), torch.eye(d, dtype=dtype))

    def step(self, X: Float[Tensor, "n d"], y: Float[Tensor, " n"], tol: float = 1e-8) -> ICLRegression:
        """After one task more, of which only the rows are needed.

        Args:
            tol: singular values of X B up to `tol` times the largest of X count as 0.
        """
        if X.ndim != 2 or X.shape != (len(y), len(self.w)):
            raise ValueError(f"X must be [{len(y)}, {len(self.w)}] for {len(y)} labels, got {list(X.shape)}")
        U, s, Vh = torch.linalg.svd(X @ self.B)
        rank = int((s > tol * torch.linalg.matrix_norm(X, 2)).sum())
        moved = Vh[:rank].T @ ((U[:, :rank].T @ (y - X @ self.w)) / s[:rank])
        return ICLRegression(self.w + self.B @ moved, self.B @ Vh[rank:].T)


@dataclass(frozen=True)
class ICLFeatures(Continual):
    """No update changes what a linear layer or a convolution says of inputs from earlier tasks; no row is kept.

    Weights and bias of a layer are one matrix, whose inputs have a 1 more. Other weights stand still from the second
    task on.

    Attributes:
        energy: the share of the squared length of earlier inputs that is protected; 1 all of it, and no direction may
            be left in which to learn.
        project: the "step" that the optimizer made, whatever it is, or the "gradient" alone, as OGD and GPM do, which
            protects with plain SGD only.
    """

    energy: Annotated[float, Above(0), AtMost(1)] = 0.97
    project: Literal["step", "gradient"] = "step"

    def fits(self, model: nn.Module) -> None:
        if not layers_of(model):
            raise UserError("it works on the inputs of linear layers and convolutions, and the model has none of them")

    def init(self, model: nn.Module, data: Present) -> State:
        return {"spans": {}}

    def gradients(self, state: State, model: nn.Module) -> None:
        """Notes the weights from before the step, or projects their gradients."""
        if not state["spans"]:
            return
        if self.project == "step":
            state["before"] = weights_of(model)
            return
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        for name, value in projected(model, found, state["spans"]).items():
            found[name].copy_(value)

    @torch.no_grad()
    def after_step(self, state: State, model: nn.Module) -> None:
        """Takes from the step what earlier inputs would notice."""
        if (before := state.pop("before", None)) is None:
            return
        named = dict(model.named_parameters())
        moved = projected(model, {name: named[name] - value for name, value in before.items()}, state["spans"])
        for name, value in moved.items():
            named[name].copy_(before[name] + value)

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        spans = {}
        for name, gram in input_grams(model, data).items():
            none = gram.new_zeros(len(gram), 0)
            spans[name] = extended(state["spans"].get(name, none).to(gram), gram, self.energy)
        return {"spans": spans}
