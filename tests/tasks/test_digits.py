import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from palimpsest.tasks import digits as module
from palimpsest.tasks.digits import digit_of, digits, drawn, images_at
from palimpsest.tasks.digits_domains import coloured_digits, digits_domains
from palimpsest.tasks.digits_labels import digits_longtail, digits_noisy
from palimpsest.tasks.digits_mosaics import digit_pairs, digits_cluttered, digits_multilabel
from palimpsest.tasks.digits_scenes import digits_captions
from palimpsest.tasks.digits_streams import class_stream, permuted_stream, random_label_stream, rotation_stream
from palimpsest.tasks.digits_views import view_batches
from palimpsest.tasks.splits import Split, concatenated, partition

BUILDERS = {
    "digits": lambda seed: digits(seed, noise=0.2),
    "noisy": lambda seed: digits_noisy(seed, 0.3),
    "longtail": lambda seed: digits_longtail(seed),
    "domains": lambda seed: list(digits_domains(seed, ("textured", "noisy", "coloured")).values()),
    "coloured": lambda seed: coloured_digits(seed, n=500, test_n=200),
    "classes": lambda seed: class_stream(seed, order="random"),
    "permuted": lambda seed: permuted_stream(seed, 3, per_task=100),
    "rotations": lambda seed: rotation_stream(seed, (0, 80)),
    "random labels": lambda seed: random_label_stream(seed, 3, 100),
    "views": lambda seed: view_batches(digits(seed).train, 32, seed=seed)(5),
    "mosaics": lambda seed: digits_multilabel(seed, train=50, validation=10, test=10, distractors=True),
    "pairs": lambda seed: digit_pairs(seed, train=100, validation=10, test=10),
    "cluttered": lambda seed: digits_cluttered(seed, train=50, validation=10, test=10),
    "captions": lambda seed: digits_captions(seed, train=50, validation=10, test=10, style="mixed"),
}


def tensors(thing):
    """All the tensors and strings of a task, in order."""
    if isinstance(thing, torch.Tensor | str | int | float | type(None)):
        return [thing]
    if isinstance(thing, dict):
        return [part for value in thing.values() for part in tensors(value)]
    if isinstance(thing, list | tuple):
        return [part for value in thing for part in tensors(value)]
    return tensors(vars(thing))


def same(a, b):
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_seed_gives_one_task_another_seed_another_and_global_randomness_is_left_alone(name):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (tensors(BUILDERS[name](seed)) for seed in (3, 3, 4))
    assert same(first, again)
    assert not all(
        a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(first, other, strict=True)
        if isinstance(a, torch.Tensor)
    )
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002


def test_the_images_are_those_of_scikit_learn():
    table = load_digits()
    task = digits(5)
    for split in (task.train, task.validation, task.test):
        assert torch.equal(split.x[:, 0], torch.tensor(table.images[split.index] / 16, dtype=torch.float32))
        assert torch.equal(split.y, torch.tensor(table.target[split.index]))
        assert split.x.dtype == torch.float32
        assert split.y.dtype == split.index.dtype == torch.long
    index = torch.cat([task.train.index, task.validation.index, task.test.index])
    assert index.sort().values.tolist() == list(range(1797))


def test_splits_are_stratified():
    whole = np.bincount(load_digits().target) / 1797
    task = digits(0, train=300)
    for split in (task.train, task.validation, task.test):
        assert np.abs(split.y.bincount().numpy() - whole * len(split)).max() <= 4


def test_smaller_training_sets_are_contained_in_larger_ones():
    large, small = digits(0), digits(0, train=200)
    assert torch.equal(small.train.index, large.train.index[:200])
    assert torch.equal(small.test.index, large.test.index)
    assert len(digits(0, validation=0).train) == 1347


def test_no_choice_of_classes_trains_on_another_choices_test_images():
    whole, part = digits(0), digits(0, classes=(3, 7))
    assert part.train.y.unique().tolist() == [3, 7]
    assert torch.isin(part.train.index, whole.train.index).all()
    assert torch.equal(part.test.index, whole.test.of((3, 7)).index)


def test_noise_is_clipped_and_as_strong_as_asked():
    clean, noisy = digits(0).train, digits(0, noise=0.2).train
    assert 0 <= noisy.x.min() < noisy.x.max() <= 1
    inside = (clean.x > 0.45) & (clean.x < 0.55)
    assert (noisy.x - clean.x)[inside].std() == pytest.approx(0.2, rel=0.06)
    assert torch.equal(clean.index, noisy.index)
    assert digits(0, size=16).train.x.shape == (1147, 1, 16, 16)


def test_a_second_copy_of_an_image_is_dropped(monkeypatch):
    table = load_digits()
    table.images, table.data = (np.concatenate([column, column[:40]]) for column in (table.images, table.data))
    table.target = np.concatenate([table.target, table.target[:40]])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: table)
    _, _, rows = module._table.__wrapped__()
    assert rows.tolist() == list(range(1797))


def test_the_check_at_run_time_finds_a_shared_image(monkeypatch):
    x, y, rows = (column.copy() for column in module._table())
    task = digits(0)
    x[task.validation.index[-1]] = x[task.train.index[-1]]
    monkeypatch.setattr(module, "_table", lambda: (x, y, rows))
    with pytest.raises(ValueError, match="share the item"):
        digits(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 1148}, "1147 images that remain, got 1148"),
        ({"test": 1700}, "1797 images, got 200 and 1700"),
        ({"validation": -1}, "got -1 and 450"),
        ({"classes": (1, 10)}, r"got \(1, 10\)"),
        ({"classes": ()}, r"got \(\)"),
        ({"noise": -0.1}, "sd must not be negative, got -0.1"),
        ({"size": 0}, "size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(0, **arguments)


def test_rows_are_taken_from_every_field_alike():
    split = Split(torch.arange(4.0).view(4, 1, 1, 1), torch.arange(4), torch.arange(4), colour=torch.arange(4))
    for rows in (slice(1, 3), [1, 2], torch.tensor([1, 2]), torch.tensor([False, True, True, False]), np.array([1, 2])):
        part = split[rows]
        assert len(part) == 2
        for column in (part.x.flatten(), part.y, part.index, part.colour):
            assert column.tolist() == [1, 2]
        assert part.domain is None
    assert split.batch([3, 1])["index"].tolist() == [3, 1]
    with pytest.raises(TypeError, match="by slice, list or tensor"):
        split[1]
    with pytest.raises(ValueError, match="equally many rows"):
        Split(torch.zeros(3, 1, 1, 1), torch.arange(4), torch.arange(4))


def test_relabelled_needs_every_class():
    test = digits(0).test
    assert torch.equal(test.relabelled(range(9, -1, -1)).y, 9 - test.y)
    with pytest.raises(ValueError, match="label 0 is not among"):
        test.relabelled((1, 2))


def test_partition_is_disjoint_and_stratified():
    train = digits(0).train
    parts = partition(train, (100, 300, 15), torch.Generator().manual_seed(1))
    assert [len(part) for part in parts] == [100, 300, 15]
    index = torch.cat([part.index for part in parts])
    assert len(index.unique()) == 415
    assert (parts[1].y.bincount() - 30).abs().max() <= 4
    with pytest.raises(ValueError, match="at most 1147"):
        partition(train, (1000, 200), torch.Generator())


def test_concatenated_keeps_order_and_drops_what_some_lack():
    task = digits_noisy(0, 0.1)
    both = concatenated([task.train, task.test])
    assert torch.equal(both.y, torch.cat([task.train.y, task.test.y]))
    assert both.clean_y is None
    with pytest.raises(ValueError, match="at least one"):
        concatenated([])


def test_drawn_gives_every_split_a_pool_and_a_stream_of_its_own():
    calls = drawn(
        0, lambda pool, n, generator: (pool.index, n, generator.initial_seed()), train=3, validation=2, test=1
    )
    pools = [set(part[0].tolist()) for part in (calls.train, calls.validation, calls.test)]
    assert not pools[0] & pools[1] | pools[0] & pools[2] | pools[1] & pools[2]
    assert (calls.train[1], calls.validation[1], calls.test[1]) == (3, 2, 1)
    assert len({calls.train[2], calls.validation[2], calls.test[2]}) == 3
    with pytest.raises(ValueError, match="test must not be negative, got -1"):
        drawn(0, None, train=1, validation=1, test=-1)


def test_images_and_labels_by_row():
    train = digits(2).train
    assert torch.equal(images_at(train.index), train.x)
    assert torch.equal(digit_of(train.index), train.y)
    assert digit_of(torch.tensor([[-1, 0]])).tolist() == [[-1, 0]]
