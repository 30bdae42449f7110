"""A bench that takes milliseconds: a line is fitted to a few points, with noise of the seed's own."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated

import torch

from palimpsest.benches import Bench, Level, Measure, Recipe
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast


@dataclass(frozen=True)
class Ridge(Objective):
    """Least squares with a penalty on the weights."""

    penalty: Annotated[float, AtLeast(0)] = 0.0

    def loss(self, state, model, batch):
        x, y = batch
        return {"error": (model(x) - y).square().mean(), "size": self.penalty * model.weight.square().sum()}


@dataclass
class Line:
    seed: int
    smoke: bool
    rows: int = 32

    @property
    def data(self):
        x, y = self.draw(0)
        return SimpleNamespace(batches=lambda size, seed: [(x, y)])

    def draw(self, stream):
        generator = torch.Generator().manual_seed(self.seed * 10 + stream)
        x = torch.randn(self.rows, 3, generator=generator)
        noise = torch.randn(self.rows, 1, generator=generator)
        return x, x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3 * noise

    def model(self, kind):
        torch.manual_seed(self.seed)
        model = torch.nn.Linear(3, 1, bias=False)
        if kind == "zero":
            torch.nn.init.zeros_(model.weight)
        if kind == "truth":
            model.weight.data = torch.tensor([[1.0, -2.0, 0.5]])
        return model


def error(world, model, stream=1):
    x, y = world.draw(stream)
    return float((model(x) - y).square().mean().detach())


def measures(world, model):
    return {"error": error(world, model), "size": float(model.weight.detach().square().sum())}


def validate(world, model, cost):
    return -error(world, model, stream=2)


def training_error(world, model):
    return error(world, model, stream=0)


BENCH = Bench(
    name="toy",
    about="A line through 32 points.",
    world=Line,
    measures=measures,
    read={"error": Measure("lower", None), "size": Measure("lower", None)},
    validate=validate,
    start="zero",
    floor=("untrained", Recipe(start="zero")),
    ceiling=("truth", Recipe(start="truth")),
    baselines={
        "few steps": Recipe(Ridge(), grid={"lr": [0.01, 0.02]}, settings={"steps": 4}),
        "until": Recipe(Ridge(), grid={"lr": [0.05, 0.06]}, level=Level("training error", 0.5)),
    },
    points=2,
    training={"steps": 60, "optimizer": "sgd"},
    watch={"training error": training_error},
)
METHOD = Recipe(Ridge(), grid={"lr": [0.05, 0.1]})
