import pytest
import torch
from torch.nn.functional import normalize

from palimpsest.tasks.digits import digits
from palimpsest.tasks.digits_views import KINDS, augment, view_batches, views


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def x():
    return digits(0).test.x


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_images_in_proportion_to_its_strength(x, kind):
    distances = [(augment(x, gen(), kinds=(kind,), strength=s) - x).abs().mean() for s in (0.0, 0.3, 1.0)]
    assert distances[0] < 1e-6
    assert 0 < distances[1] < distances[2]
    view = augment(x, gen(), kinds=(kind,))
    assert 0 <= view.min() <= view.max() <= 1


def test_no_kind_is_no_change(x):
    assert torch.equal(augment(x, gen(), kinds=()), x)


def test_views_are_a_function_of_the_generator_and_differ_among_themselves(x):
    a, b, c = (views(x[:20], gen(seed), n=3) for seed in (1, 1, 2))
    assert a.shape == (20, 3, 1, 8, 8)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert (a[:, 0] != a[:, 1]).flatten(1).any(1).all()


def test_views_stay_with_their_image(x):
    assert torch.equal(views(x[:7], gen(), n=4, kinds=())[:, 3], x[:7])
    close = views(x[:50], gen(), n=2, strength=0.2)[:, 1].flatten(1)
    assert torch.equal(torch.cdist(close, x[:50].flatten(1)).argmin(1), torch.arange(50))


def test_the_draws_of_one_kind_do_not_depend_on_the_others(x):
    both = augment(x, gen(), kinds=("contrast", "erase"))
    alone = augment(x, gen(), kinds=("erase",))
    assert torch.equal(both == 0, alone == 0)
    assert torch.equal(augment(x, gen(), kinds=("erase", "contrast")), both)


def test_contrast_and_erasure_are_what_they_say(x):
    # Grey images: no clipping, so that the factor can be read off.
    grey = torch.full((2000, 1, 8, 8), 0.5)
    factor = augment(grey, gen(), kinds=("contrast",))[:, 0, 0, 0] / 0.5
    assert 0.6 <= factor.min() < 0.62
    assert 1.38 < factor.max() <= 1.4
    erased = (augment(grey, gen(), kinds=("erase",), strength=0.5) == 0).flatten(1).sum(1)
    assert set(erased.tolist()) == {0, 4}
    assert (erased == 4).float().mean() == pytest.approx(0.5, abs=0.05)
    where = (augment(grey, gen(), kinds=("erase",)) == 0).float().mean((0, 1))
    assert where.min() > 0.01  # every pixel is hit at times


def test_views_keep_most_of_what_tells_digits_apart(x):
    task = digits(0)
    train = normalize(task.train.x.flatten(1))

    def accuracy(images):  # of the nearest neighbour by angle, which brightness does not change
        return (task.train.y[(images.flatten(1) @ train.T).argmax(1)] == task.test.y).float().mean()

    assert accuracy(x) > 0.95
    assert accuracy(augment(x, gen(), strength=0.5)) > 0.85
    assert accuracy(augment(x, gen(), strength=1.0)) > 0.6


def test_batches_depend_on_seed_and_step_alone():
    train = digits(0).train
    batches = view_batches(train, 64, seed=3, n=5, kinds=("noise",))
    later = view_batches(train, 64, seed=3, n=5, kinds=("noise",))(7)
    for step in range(7):
        batches(step)
    batch = batches(7)
    for name, value in later.items():
        assert torch.equal(batch[name], value)
    assert batch["views"].shape == (64, 5, 1, 8, 8)
    assert torch.equal(batch["labels"], train.y[batch["index"]])
    assert not torch.equal(batch["views"], view_batches(train, 64, seed=4, n=5, kinds=("noise",))(7)["views"])
    epoch = torch.cat([batches(step)["index"] for step in range(18)])[:1147]
    assert epoch.sort().values.tolist() == list(range(1147))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ("shift", "flip")}, "got 'flip'"),
        ({"strength": -1}, "got -1"),
        ({"n": 0}, "n must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        views(x[:2], gen(), **arguments)
