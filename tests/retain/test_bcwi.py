"""Weight interpolation for updates: its ends bit by bit, importance of 1, soups, and what flips are."""

import pytest
import torch
from tests.retain.streams import model, stream

from palimpsest.retain.bcwi import BCWI, fisher_interpolated, mean_weights, select_share
from palimpsest.retain.bcwi_measures import (
    OldAndNew,
    negative_flip_rate,
    positive_flip_rate,
    share_of_errors_that_are_new,
)
from palimpsest.retain.continual import everything_of
from palimpsest.retain.penalties import Interpolation, diagonal_fisher, interpolated
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import _present, learn_stream
from palimpsest.tasks.streams import Stream

SETTINGS = {"steps": 6, "batch_size": 8, "lr": 1e-2, "progress": False}


def run(method, base=None, **options):
    return learn_stream(model(classes=4) if base is None else base, method, stream("domain"), **{**SETTINGS, **options})


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def weights(seed):
    g = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(3, 4, generator=g, dtype=torch.float64),
        "b": torch.randn(4, generator=g, dtype=torch.float64),
    }


@pytest.mark.parametrize("fisher", [False, True])
def test_the_ends_are_the_new_model_and_the_first_to_the_bit(fisher):
    assert same(run(BCWI(share=0.0, fisher=fisher)).model, run(FineTune()).model)
    first = learn_stream(model(classes=4), FineTune(), Stream(stream("domain").tasks[:1]), **SETTINGS)
    assert same(run(BCWI(share=1.0, fisher=fisher)).model, first.model)


def test_plainly_it_is_the_interpolation_of_the_family():
    assert same(run(BCWI(share=0.3)).model, run(Interpolation(share=0.3)).model)


def test_equal_importance_is_none_and_the_formula_holds_elsewhere():
    old, new = weights(0), weights(1)
    ones = {name: torch.full_like(value, 7.0) for name, value in old.items()}  # scaled to a mean of 1
    for name, value in fisher_interpolated(old, new, ones, 0.3).items():
        torch.testing.assert_close(value, interpolated(old, new, 0.3)[name])
    fisher = {name: value.square() for name, value in weights(2).items()}
    mean = torch.cat([value.flatten() for value in fisher.values()]).mean()
    for name, value in fisher_interpolated(old, new, fisher, 0.3).items():
        f = fisher[name] / mean
        torch.testing.assert_close(value, (0.3 * f * old[name] + 0.7 * new[name]) / (0.3 * f + 0.7))


def test_without_any_importance_the_ends_are_no_nan():
    old, new = weights(0), weights(1)
    zeros = {name: torch.zeros_like(value) for name, value in old.items()}
    for share, end in ((0.0, new), (0.5, new), (1.0, old)):
        for name, value in fisher_interpolated(old, new, zeros, share).items():
            assert torch.equal(value, end[name])


def test_the_importance_is_that_of_the_model_before_the_update_on_its_own_rows():
    method, data, base = BCWI(fisher=True, fisher_rows=24), stream("domain"), model(classes=4)
    first = _present(data, 0, {"seed": 0, "lr": 1e-2, "batch_size": 8})
    state = method.after_task(method.init(base, first), base, first)
    naive = diagonal_fisher(base, first, rows=24)
    for name, value in naive.items():
        torch.testing.assert_close(state["fisher"][name], value)


def test_a_soup_is_the_mean_of_models_that_saw_the_rows_in_other_orders():
    seen = []

    class Watched(BCWI):
        def others(self, old, model, data):
            found = super().others(old, model, data)
            seen.append([old, *found])
            return found

    task = Stream(stream("domain").tasks[:2])
    base = learn_stream(model(classes=4), Watched(share=0.0, soup=3), task, **SETTINGS).model
    alone = learn_stream(model(classes=4), FineTune(), task, **SETTINGS).model
    old, second, third = seen[0]
    assert not torch.equal(second["head.weight"], third["head.weight"])
    for name, value in everything_of(base).items():
        torch.testing.assert_close(value, mean_weights([everything_of(alone), second, third])[name])
        assert not torch.equal(second[name], old[name])


def test_the_largest_share_that_costs_no_accuracy_is_taken():
    assert select_share({0.0: 0.8, 0.2: 0.9, 0.4: 0.7, 0.6: 0.8, 0.8: 0.1}.get, (0.0, 0.2, 0.4, 0.6, 0.8)) == 0.6
    assert select_share(lambda share: 0.9 - share) == 0.0
    assert select_share(lambda share: 0.9) == 1.0


def test_flips_are_counted_as_a_loop_counts_them():
    g = torch.Generator().manual_seed(0)
    old, new, y = (torch.randint(3, (50,), generator=g) for _ in range(3))
    rows = list(zip(old.tolist(), new.tolist(), y.tolist(), strict=True))
    lost = sum(a == c != b for a, b, c in rows)
    assert negative_flip_rate(old, new, y) == pytest.approx(lost / 50)
    assert positive_flip_rate(old, new, y) == pytest.approx(sum(b == c != a for a, b, c in rows) / 50)
    assert share_of_errors_that_are_new(old, new, y) == pytest.approx(lost / sum(b != c for _, b, c in rows))
    gain = (new == y).double().mean() - (old == y).double().mean()
    assert positive_flip_rate(old, new, y) - negative_flip_rate(old, new, y) == pytest.approx(gain.item())
    with pytest.raises(ValueError, match="of the same rows"):
        negative_flip_rate(old, new, y[:3])


def test_old_and_new_answer_by_the_mean_of_their_probabilities():
    task = Stream(stream("domain").tasks[:2])
    both = learn_stream(model(classes=4), OldAndNew(), task, **SETTINGS)
    old = learn_stream(model(classes=4), FineTune(), Stream(task.tasks[:1]), **SETTINGS).model
    assert same(both.model, learn_stream(model(classes=4), FineTune(), task, **SETTINGS).model)
    x = task.tasks[1].test.x
    p = sum(each(pixel_values=x).logits.softmax(1) for each in (old, both.model)) / 2
    torch.testing.assert_close(both(x, task=1), p.log())
    classes = learn_stream(model(), OldAndNew(), stream("task"), **SETTINGS)
    assert not classes(stream().tasks[2].test.x, task=2).isnan().any()
