"""Every bench: its filed tuning is of the recipes as they are, there is room, and its first baseline runs."""

import json
from importlib import import_module

import pytest

from palimpsest.benches import tuning
from palimpsest.benches.shelf import BENCHES, POOLS, bench, benches
from palimpsest.errors import UserError
from palimpsest.tasks import imports, mnist
from palimpsest.train import loop  # noqa: F401  what takes seconds to load is no test's own


@pytest.fixture(autouse=True, scope="module")
def pools():
    mnist.digest()
    imports.digest()


NAMES = [name for names in BENCHES.values() for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_the_filed_tuning_is_of_the_baselines_as_they_are(name):
    one = bench(name)
    assert one.name == name
    for baseline, recipe in one.baselines.items():
        assert not recipe.grid or tuning.chosen(one, baseline, recipe) is not None, f"{baseline} is not tuned as it is"
        assert not recipe.grid or set(tuning.ledger(one, baseline)["seeds"]) <= set(range(100))


def test_the_best_value_of_a_number_has_tried_ones_on_both_sides_or_a_reason_why_not():
    files = tuning.FOLDER.glob("*/*.json")
    filed = {f"{file.parent.name}/{file.stem}": json.loads(file.read_text(encoding="utf-8")) for file in files}
    edges = {name for name, one in filed.items() if "trials" in one and tuning.at_edge(one)}
    assert not edges, "palimpsest bench BENCH --bracket NAME"


@pytest.mark.parametrize("name", NAMES)
def test_the_filed_values_leave_room_between_floor_baselines_and_ceiling(name):
    one = bench(name)
    first = tuning.room(one)[0]
    assert list(first.values) == list(one.recipes)
    assert {room.measure for room in tuning.room(one)} == set(one.read)
    sign = 1 if one.read[first.measure].better == "higher" else -1
    floor, ceiling = (sign * first.values[end[0]] for end in (one.floor, one.ceiling))
    best = max(sign * first.values[baseline] for baseline in one.baselines)
    assert floor < best < ceiling
    if bounds := one.read[first.measure].bounds:
        assert not set(bounds) & {first.values[baseline] for baseline in one.baselines}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_baseline_runs_on_few_rows(name):
    one = bench(name)
    found = one.arm(next(iter(one.baselines)))(200, "smoke")
    assert set(one.read) <= set(found)


def test_each_bench_stands_once_on_the_shelf_under_the_name_it_has():
    assert [one.name for one in benches()] == NAMES
    assert len(set(NAMES)) == len(NAMES)
    with pytest.raises(UserError, match="no bench 'nowhere at all': there are"):
        bench("nowhere at all")


@pytest.mark.parametrize("name", NAMES)
def test_the_digest_of_the_rows_is_filed_where_they_are_made_from_what_is_installed(name):
    assert bool(tuning.pools(bench(name))) == (name in POOLS)
    assert all(len(digest) == 64 for digest in tuning.pools(bench(name)))
    if name in POOLS:
        assert callable(import_module(f"palimpsest.tasks.{POOLS[name][0]}").digest)
