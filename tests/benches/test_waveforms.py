"""Series of which a part is spoiled: what is seen, what is left out, and a probe that is a loop over classifiers."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from palimpsest.benches.waveforms import WAVEFORMS
from palimpsest.benches.waveforms_world import BAD, LABELLED, PROBE, Series, measures, validate
from palimpsest.tasks.waveforms import DAMAGED, GOOD, NOISE


@pytest.mark.parametrize("name", WAVEFORMS.recipes)
def test_every_arm_runs_and_is_measured_alike(name):
    assert 0 < WAVEFORMS.arm(name)(200, "smoke")[PROBE] <= 1


def test_a_fifth_of_the_pairs_is_bad_in_either_way_and_can_be_left_out():
    world, cleaned = Series(200), Series(200, cleaned=True)
    counts = world.train.pair.bincount().tolist()
    assert counts[NOISE] == counts[DAMAGED] == round(0.2 * len(world))
    assert BAD["noise"] == BAD["damaged"] == 0.2
    good = world.train.pair == GOOD
    assert torch.equal(cleaned.train.x, world.train.x[good])
    assert torch.equal(cleaned.train.x, world.splits.train.x[good])


def test_networks_are_the_seeds_and_the_floor_has_seen_statistics_only():
    one, again, other = (Series(seed, smoke=True).model("network").state_dict() for seed in (200, 200, 201))
    name = "encoder.0.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
    floor = Series(200, smoke=True).model("untrained").state_dict()
    assert torch.equal(one[name], floor[name])
    assert not torch.equal(one["encoder.1.running_mean"], floor["encoder.1.running_mean"])


def test_what_is_tuned_by_is_no_test_window_and_probes_have_fifty_labels(monkeypatch):
    asked = []

    def probe(known, labels, test, wanted):
        asked.append((len(known), wanted))
        return LogisticRegression(max_iter=100).fit(known.numpy(), labels).score(test.numpy(), wanted)

    monkeypatch.setattr("palimpsest.benches.waveforms_world.linear_probe", probe)
    world = Series(200, smoke=True)
    model = world.model("untrained")
    validate(world, model, {})
    assert [size for size, _ in asked] == [LABELLED]
    assert torch.equal(asked[0][1], world.splits.validation.y[50:])
    del asked[:]
    measures(world, model)
    assert [size for size, _ in asked] == [LABELLED, LABELLED]
    assert all(torch.equal(wanted, world.splits.test.y) for _, wanted in asked)
