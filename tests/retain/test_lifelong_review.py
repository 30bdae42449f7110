"""The review's table, its protocols, and the adapter to another library, which is stood in for where it is missing."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tests.retain.streams import model, stream

from palimpsest.errors import UserError
from palimpsest.metrics.continual import backward_transfer, forgetting, forward_transfer
from palimpsest.retain.avalanche import avalanche_adapter
from palimpsest.retain.lifelong_review import best_of, run_all, taxonomy
from palimpsest.retain.methods import METHODS
from palimpsest.retain.replay import ER, FineTune
from palimpsest.retain.sequence import learn_stream

OPTIONS = {"steps": 15, "batch_size": 8, "lr": 1e-2, "progress": False}


def test_every_method_of_the_table_stands_here_and_every_family_has_two():
    assert {entry.name for entry in taxonomy()} <= set(METHODS)
    families = [entry.family for entry in taxonomy()]
    assert all(families.count(family) >= 2 for family in families)
    assert [entry.name for entry in taxonomy() if entry.told] == ["progressive_columns"]
    assert taxonomy("complementary memory") == [e for e in taxonomy() if e.family == "complementary memory"]


@pytest.mark.parametrize("kind", ["class", "task"])
def test_all_methods_learn_one_stream_from_the_same_weights(kind):
    methods = {"fine_tune": FineTune(), "er": ER(size=60), "again": ER(size=60)}
    found = run_all(model, stream(kind), methods, **OPTIONS)
    assert found["er"] == found["again"]
    log = learn_stream(model(), ER(size=60), stream(kind), **OPTIONS).log
    assert found["er"]["accuracy"] == log.accuracy["test"][-1].mean().item()
    assert found["er"]["backward transfer"] == backward_transfer(log.accuracy["test"])
    plain = learn_stream(model(), FineTune(), stream(kind), **OPTIONS).log
    for name, one in (("er", log), ("fine_tune", plain)):
        assert found[name]["forgetting"] == forgetting(one.accuracy["test"])
        assert found[name]["forward transfer"] == forward_transfer(one.accuracy["test"], one.untrained)
    if kind == "class":
        assert found["fine_tune"]["forgetting"] > 0
    else:
        assert plain.untrained.any()
    assert log.memory[0] < log.memory[-1]
    assert found["er"]["bytes"] == log.memory[-1] > found["fine_tune"]["bytes"] == 0


def test_the_best_of_a_family_is_the_best_of_those_that_ran():
    results = {"ewc": {"accuracy": 0.7}, "si": {"accuracy": 0.8}, "gwr": {"accuracy": 0.1}, "joint": {"accuracy": 1.0}}
    assert best_of(results) == {"regularisation": ("si", 0.8), "dynamic architecture": ("gwr", 0.1)}


def test_without_the_library_the_adapter_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "avalanche", None)
    with pytest.raises(UserError, match="pip install avalanche-lib"):
        avalanche_adapter(lambda model: None)


def test_a_strategy_is_made_of_the_model_and_gets_each_task_once(monkeypatch):
    @dataclass
    class Attribute:
        values: list
        name: str
        use_in_getitem: bool = False

    def rows_with(rows, data_attributes):
        return SimpleNamespace(rows=rows, **{each.name: each.values for each in data_attributes})

    def benchmark(train):
        return SimpleNamespace(train_stream=[SimpleNamespace(dataset=each) for each in train])

    root, parts = ModuleType("avalanche"), ModuleType("avalanche.benchmarks")
    tools = ModuleType("avalanche.benchmarks.utils")
    parts.benchmark_from_datasets, tools.DataAttribute, tools.make_avalanche_dataset = benchmark, Attribute, rows_with
    for each in (root, parts, tools):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    seen = []

    class Strategy:
        def __init__(self, network):
            self.network, self.sgd = network, torch.optim.SGD(network.parameters(), lr=0.1)

        def train(self, experience):
            x, y = experience.dataset.rows.tensors
            seen.append((experience.current_experience, set(experience.dataset.targets_task_labels), y.tolist()))
            assert experience.dataset.targets == y.tolist()
            self.network.train()
            for _ in range(30):
                self.sgd.zero_grad()
                torch.nn.functional.cross_entropy(self.network(x), y).backward()
                self.sgd.step()

    data = stream()
    learner = learn_stream(model(), avalanche_adapter(Strategy), data, **OPTIONS)
    assert [(number, labels) for number, labels, _ in seen] == [(0, {0}), (1, {1}), (2, {2})]
    assert [labels for _, _, labels in seen] == [task.train.y.tolist() for task in data.tasks]
    assert learner.log.accuracy["test"].diagonal().mean() > 0.8
    assert not learner.model.training
