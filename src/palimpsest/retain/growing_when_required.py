"""A network that grows when required: nodes that come near to rows, and new ones where none of the old is near.

Source: Marsland, Shapiro and Nehmzow (2002), A self-organising network that grows when required; the settings are those
of the review of Parisi, Kemker, Part, Kanan and Wermter (2018), arXiv 1802.07569, and of their networks.

For each row x, b is the nearest node and s the second one; an edge between them is young again. The node's activity is
a = exp(-|x - w_b|), and its habituation h falls from 1 with every row that it wins:

    a < 0.85 and h_b < 0.1:    a new node (x + w_b) / 2 between b and s
    else                       w_b += 0.1 h_b (x - w_b),    its neighbours w_n += 0.01 h_n (x - w_n)
    h += tau (1.05 (1 - h) - 1)

Edges of b grow older with every row, and go when they are too old, as do nodes without any. A node counts the labels of
the rows that it won; of a row, the label that the nearest node met most is the answer. No network is trained by
gradients, and no row is kept as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.retain.continual import Continual, Present, State
from palimpsest.retain.phases import input_name
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below

NONE = -1  # the age of an edge that is not there


def habituated(h: Float[Tensor, "..."], tau: float) -> Float[Tensor, "..."]:
    """h after one row more; from 1 it falls towards 1 - 1 / 1.05.

    >>> habituated(torch.tensor(1.0), 0.3)
    tensor(0.7000)
    """
    return h + tau * (1.05 * (1 - h) - 1)


@dataclass(frozen=True)
class GWR(Continual):
    """Growing when required, on rows as they are; the model that is given is neither asked nor trained.

    Attributes:
        activity: below which a node is not near enough.
        trained: the habituation below which a node has learned enough to be found wanting.
        rate, neighbours: how far b and its neighbours go towards a row.
        tau, tau_neighbours: how fast they get used to rows.
        age: of an edge, beyond which it goes.
        most: nodes that there may be; no more are put in then.
        passes: over the rows of a task.
    """

    activity: Annotated[float, Above(0), AtMost(1)] = 0.85
    trained: Annotated[float, Above(0), AtMost(1)] = 0.1
    rate: Annotated[float, Above(0), AtMost(1)] = 0.1
    neighbours: Annotated[float, AtLeast(0), AtMost(1)] = 0.01
    tau: Annotated[float, Above(0), Below(1)] = 0.3
    tau_neighbours: Annotated[float, AtLeast(0), Below(1)] = 0.1
    age: Annotated[int, AtLeast(1)] = 50
    most: Annotated[int, AtLeast(2)] = 500
    passes: Annotated[int, AtLeast(1)] = 1

    def init(self, model: nn.Module, data: Present) -> State:
        return {"nodes": torch.zeros(0), "h": torch.zeros(0), "labels": torch.zeros(0), "edges": torch.zeros(0)}

    def steps(self, state: State, data: Present, steps: int) -> int:
        return 0

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        classes = len(data.known)
        for _ in range(self.passes):
            rows = data.shuffled()
            for x, label in zip(rows.columns[input_name(rows.columns)].flatten(1), rows.labels.tolist(), strict=True):
                state = self.seen(state, x, label, classes)
        return state

    def seen(self, state: State, x: Float[Tensor, " d"], label: int, classes: int) -> State:
        """The network after a row."""
        if len(state["nodes"]) < 2:
            return with_node(state, x, label, classes)
        nodes, h, labels, edges = (state[name].clone() for name in ("nodes", "h", "labels", "edges"))
        apart = (nodes - x).square().sum(1)
        b, s = apart.topk(2, largest=False).indices.tolist()
        far = torch.exp(-apart[b].sqrt()) < self.activity
        edges[b, s] = edges[s, b] = 0
        labels[b, label] += 1
        state = {"nodes": nodes, "h": h, "labels": labels, "edges": edges}
        if far and h[b] < self.trained and len(nodes) < self.most:
            state = with_node(state, (x + nodes[b]) / 2, label, classes, between=(b, s))
            edges = state["edges"]
        else:
            near = (edges[b] > NONE).nonzero()[:, 0]
            nodes[b] += self.rate * h[b] * (x - nodes[b])
            nodes[near] += self.neighbours * h[near, None] * (x - nodes[near])
            h[b], h[near] = habituated(h[b], self.tau), habituated(h[near], self.tau_neighbours)
        old = edges[b] > NONE
        edges[b, old] += 1
        edges[old, b] += 1
        edges[edges > self.age] = NONE
        return without_lonely(state)

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        x = batch[input_name(batch)].flatten(1)
        scores = x.new_full((len(x), batch["allowed"].shape[1]), torch.finfo(x.dtype).min)
        if not len(state["nodes"]):
            return scores
        apart = torch.cdist(x, state["nodes"].to(x))
        of_class = state["labels"].argmax(1).to(x.device)
        for label in of_class.unique().tolist():
            scores[:, label] = -apart[:, of_class == label].amin(1)
        return scores


def with_node(
    state: State, x: Float[Tensor, " d"], label: int, classes: int, between: tuple[int, int] | None = None
) -> State:
    """The network with one node more, which has met one row; it takes the place of the edge between two others.

    The first two nodes are put in without an edge, which they get with the next row.
    """
    n = len(state["nodes"])
    one = torch.zeros(1, classes)
    one[0, label] = 1
    edges = torch.full((n + 1, n + 1), NONE)
    if n:
        edges[:n, :n] = state["edges"]
    if between:
        b, s = between
        edges[b, s] = edges[s, b] = NONE
        for each in between:
            edges[each, n] = edges[n, each] = 0
    new = {"nodes": x[None], "h": torch.ones(1), "labels": one}
    return {**{name: torch.cat([state[name], each]) if n else each for name, each in new.items()}, "edges": edges}


def without_lonely(state: State) -> State:
    """The network without nodes that have no edge; two stay in any case."""
    kept = (state["edges"] > NONE).any(1)
    if kept.all() or kept.sum() < 2:
        return state
    found = {name: state[name][kept] for name in ("nodes", "h", "labels")}
    return {**found, "edges": state["edges"][kept][:, kept]}
