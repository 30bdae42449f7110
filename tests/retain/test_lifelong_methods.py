"""The three methods that came with the review: columns and nodes by naive loops, a generator's shares."""

from itertools import pairwise

import pytest
import torch
from tests.retain.streams import model, stream
from torch.nn import functional as F

from palimpsest.retain.continual import as_it_was, on
from palimpsest.retain.generative_replay import VAE, Evidence, GenerativeReplay
from palimpsest.retain.growing_when_required import GWR, NONE, habituated
from palimpsest.retain.progressive_columns import ProgressiveColumns
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.train.classification import logits_of

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8, "steps": 20, "progress": False}


def through(method, numbers, kind="class", network=None, **settings):
    """The states after each of the first tasks."""
    data, network = stream(kind), network or model()
    state, found = method.init(network, _present(data, 0, SETTINGS)), []
    for number in range(numbers):
        present = _present(data, number, {**SETTINGS, **settings})
        state = method.after_task(method.before_task(state, network, present), network, present)
        found.append(state)
    return found


def test_a_column_reads_what_the_earlier_ones_made_of_a_row():
    method = ProgressiveColumns(hidden=5, layers=2)
    state = through(method, 3)[-1]
    x, W = stream().tasks[1].test.x, state["columns"]
    said = []
    for k in range(3):
        h, layers = x.flatten(1), []
        for layer in range(3):
            before = h
            h = F.linear(before, W[f"columns.{k}.own.{layer}.weight"], W[f"columns.{k}.own.{layer}.bias"])
            if layer:
                for j in range(k):
                    h = h + F.linear(said[j][layer - 1], W[f"columns.{k}.adapters.{layer - 1}.{j}.weight"])
            h = h.relu() if layer < 2 else h
            layers.append(h)
        said.append(layers)
    allowed = torch.ones(len(x), 6, dtype=torch.bool)
    scores = method.answer(state, model(), {"pixel_values": x, "allowed": allowed})
    for k in range(3):
        torch.testing.assert_close(scores[:, 2 * k : 2 * k + 2], said[k][-1][:, 2 * k : 2 * k + 2])


def test_earlier_columns_stand_still_and_told_tasks_are_never_forgotten():
    states = through(ProgressiveColumns(hidden=6), 3)
    for before, after in pairwise(states):
        assert all(torch.equal(value, after["columns"][name]) for name, value in before["columns"].items())
        assert len(after["columns"]) > len(before["columns"])
    R = learn_stream(model(), ProgressiveColumns(), stream("task"), steps=40, lr=1e-2, progress=False).log.accuracy
    assert all((R["test"][i:, i] == R["test"][i, i]).all() for i in range(3))


def test_columns_train_for_as_many_updates_as_others_have():
    none, few, many = (through(ProgressiveColumns(hidden=6), 1, steps=n)[0]["columns"] for n in (0, 1, 9))
    first = "columns.0.own.0.weight"
    moved = [(after[first] - none[first]).abs().max() for after in (few, many)]
    assert 0 < moved[0] < moved[1]


def naive_gwr(method, rows):
    """Nodes as a list of dicts, edges as a dict of pairs."""
    nodes, edges, number = [], {}, 0
    for x, label in rows:
        number += 1
        new = {"w": x.clone(), "h": 1.0, "labels": {label: 1}, "id": number}
        if len(nodes) < 2:
            nodes.append(new)
            continue
        b, s = sorted(nodes, key=lambda n: float((n["w"] - x).norm()))[:2]
        far = torch.exp(-(x - b["w"]).norm()) < method.activity
        edges[frozenset((b["id"], s["id"]))] = 0
        b["labels"][label] = b["labels"].get(label, 0) + 1
        if far and b["h"] < method.trained and len(nodes) < method.most:
            new["w"] = (x + b["w"]) / 2
            nodes.append(new)
            del edges[frozenset((b["id"], s["id"]))]
            edges[frozenset((b["id"], new["id"]))] = edges[frozenset((s["id"], new["id"]))] = 0
        else:
            near = [n for n in nodes if n is not b and frozenset((n["id"], b["id"])) in edges]
            b["w"] += method.rate * b["h"] * (x - b["w"])
            b["h"] += method.tau * (1.05 * (1 - b["h"]) - 1)
            for n in near:
                n["w"] += method.neighbours * n["h"] * (x - n["w"])
                n["h"] += method.tau_neighbours * (1.05 * (1 - n["h"]) - 1)
        edges = {pair: age + (b["id"] in pair) for pair, age in edges.items()}
        edges = {pair: age for pair, age in edges.items() if age <= method.age}
        linked = [n for n in nodes if any(n["id"] in pair for pair in edges)]
        nodes = linked if len(linked) >= 2 else nodes
    return nodes, edges


def test_the_growing_network_is_that_of_a_naive_loop():
    method = GWR(age=4, most=12)
    generator = torch.Generator().manual_seed(0)
    rows = [(2 * torch.randn(3, generator=generator), int(label)) for label in torch.arange(200) % 3]
    state = {name: torch.zeros(0) for name in ("nodes", "h", "labels", "edges")}
    for x, label in rows:
        state = method.seen(state, x, label, 3)
    nodes, edges = naive_gwr(method, rows)
    assert 4 < len(nodes) <= 12
    torch.testing.assert_close(state["nodes"], torch.stack([n["w"] for n in nodes]))
    torch.testing.assert_close(state["h"], torch.tensor([n["h"] for n in nodes]))
    counts = torch.tensor([[n["labels"].get(label, 0) for label in range(3)] for n in nodes])
    assert torch.equal(state["labels"].long(), counts)
    ages = [[edges.get(frozenset((a["id"], b["id"])), NONE) if a is not b else NONE for b in nodes] for a in nodes]
    assert state["edges"].tolist() == ages


def test_habituation_falls_to_its_end_and_the_nearest_node_answers_with_its_commonest_label():
    h = torch.tensor(1.0)
    for _ in range(100):
        h = habituated(h, 0.3)
    assert h.item() == pytest.approx(1 - 1 / 1.05, abs=1e-6)
    nodes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    labels = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 4.0, 1.0]])
    state = {"nodes": nodes, "labels": labels}
    batch = {"x": torch.tensor([[0.1, 0.0], [4.0, 4.0]]), "allowed": torch.ones(2, 3, dtype=torch.bool)}
    scores = GWR().answer(state, model(), batch)
    assert scores.argmax(1).tolist() == [0, 1]
    torch.testing.assert_close(scores[0, :2], torch.tensor([-0.1, -0.9]))
    assert (scores[:, 2] == torch.finfo(torch.float32).min).all()


def test_new_and_drawn_rows_count_as_tasks_do_and_the_old_model_names_what_is_drawn():
    method, data, network = GenerativeReplay(updates=3, hidden=8, latent=2), stream(), model()
    state = {}
    for number in range(2):
        present = _present(data, number, SETTINGS)
        state = method.after_task(method.before_task(state, network, present), network, present)
    present = _present(data, 2, SETTINGS)
    state = method.before_task(state, network, present)
    with torch.no_grad():
        network.head.weight.mul_(-1)
    batch = on(_batches(method, state, present, 8)(0), torch.device("cpu"))
    x = batch["drawn"]["pixel_values"]
    assert x.shape == batch["pixel_values"].shape
    labels = logits_of(model(), {"pixel_values": x})[:, :4].argmax(1)
    with as_it_was(network, state["old"]):
        assert torch.equal(logits_of(network, {"pixel_values": x})[:, :4].argmax(1), labels)
    terms = method.loss(state, network, batch)
    torch.testing.assert_close(terms["new"], F.cross_entropy(logits_of(network, batch), batch["labels"]) / 3)
    said = logits_of(network, {"pixel_values": x})[:, :4]
    torch.testing.assert_close(terms["drawn"], F.cross_entropy(said, labels) * 2 / 3)


def test_of_told_tasks_a_drawn_row_is_answered_within_the_task_of_its_label():
    method, data, network = GenerativeReplay(updates=3, hidden=8, latent=2), stream("task"), model()
    state = {}
    for number in range(2):
        present = _present(data, number, SETTINGS)
        state = method.after_task(method.before_task(state, network, present), network, present)
    state = method.before_task(state, network, _present(data, 2, SETTINGS))
    batch = on(_batches(method, state, _present(data, 2, SETTINGS), 8)(0), torch.device("cpu"))
    logits = logits_of(network, batch["drawn"])
    labels, parts = logits[:, :4].argmax(1), []
    for z, label in zip(logits, labels, strict=True):
        first = 2 * (int(label) // 2)
        parts.append(-z[first : first + 2].log_softmax(0)[label - first])
    torch.testing.assert_close(method.loss(state, network, batch)["drawn"], torch.stack(parts).mean() * 2 / 3)


def test_the_bound_is_the_naive_one_and_0_where_nothing_is_said_or_meant():
    network = VAE(4, 3, 2)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    batch = Evidence(0.2, 2).augment({"rows": x}, torch.Generator().manual_seed(1))
    terms = Evidence(0.2, 2).loss(None, network, batch)
    m, log_s = network.encoder(x)[:, :2], network.encoder(x)[:, 2:]
    q, p = torch.distributions.Normal(m, log_s.exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(terms["latent"], torch.distributions.kl_divergence(q, p).sum(1).mean())
    likelihood = torch.distributions.Normal(network(m + log_s.exp() * batch["e"]), 0.2**0.5)
    constant = torch.distributions.Normal(0.0, 0.2**0.5).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(terms["rows"], (constant - likelihood.log_prob(x)).sum(1).mean())
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    found = Evidence(0.2, 2).loss(None, network, {"rows": torch.zeros(5, 4), "e": batch["e"]})
    assert found["rows"] == found["latent"] == 0


def test_the_generator_remembers_the_first_task_after_the_second():
    method = GenerativeReplay(updates=400, hidden=64, latent=4)
    states = through(method, 2)
    tasks = stream().tasks
    for number, nearest in ((0, {0}), (1, {0, 1})):
        x = method.drawn(states[number], 400, tasks[0].train.x, torch.Generator().manual_seed(0)).flatten(1)
        means = torch.stack([task.train.x[task.train.y == c].mean(0).flatten() for task in tasks for c in task.classes])
        assert set((torch.cdist(x, means).argmin(1) // 2).unique().tolist()) >= nearest
    shares = (torch.cdist(x, means).argmin(1) // 2).bincount(minlength=3) / 400
    assert shares[:2].min() > 0.2
