"""Claims on classes that arrive in groups, put to the user's own table and images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest.benches import yours
from palimpsest.catalogue import entries
from palimpsest.errors import UserError
from palimpsest.evidence import load_claim
from palimpsest.train import loop  # noqa: F401  what takes seconds to load is no test's own

CLAIMS = [e.id for e in entries() if e.family == "retain" and "table" in e.runs_on]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Semicolons, missing cells and targets, a constant column, equal rows, five classes of unequal sizes."""
    draws, lines = np.random.default_rng(0), ["Länge;Breite;colour;site;art"]
    for i, kind in enumerate(np.repeat(["Ulme", "ahorn", "Birke", "eiche", "Linde"], [40, 30, 24, 20, 16])):
        x, y = draws.normal((i / 20, -i / 30))
        colour = ("red", "", "green")[i % 3]
        lines.append(f"{'' if i % 11 == 0 else f'{x:.3f}'};{y:.3f};{colour};here;{'' if i % 29 == 5 else kind}")
    file = tmp_path_factory.mktemp("rows") / "bäume.csv"
    file.write_text("\n".join([*lines, lines[1], lines[1], ""]), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """In colours and grey, of several sizes, beside what is none; five classes of unequal sizes."""
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for level, (name, n) in enumerate({"ant": 14, "bee": 10, "cat": 9, "dog": 8, "elk": 6}.items()):
        (folder / name).mkdir()
        for i in range(n):
            shape = (8 + i % 3, 9) if i % 2 else (8, 10, 3)
            pixels = draws.integers(0, 20, shape) + 50 * level
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i}.png")
    (folder / "ant" / "notes.txt").write_text("no image")
    return folder


def asked(paper, **files):
    kind = "table" if "table" in files else "images"
    return yours.ask(load_claim(paper), kind, **({"target": ["art"]} if kind == "table" else {}), **files)


def test_claims_on_classes_that_arrive_are_put_to_tables_and_images():
    assert {load_claim(paper).bench.name for paper in CLAIMS} == {"split_mnist", "exemplar_free"}
    assert {"bic", "weight_aligning", "pec", "foster", "bfp", "hfc"} <= set(CLAIMS)


@pytest.mark.parametrize("paper", CLAIMS)
def test_every_arm_of_every_claim_runs_on_a_table_with_the_sentences_of_ours(paper, table):
    found, ours = asked(paper, table=table), load_claim(paper)
    assert not found.left_out
    assert found.claim.arms.keys() == ours.arms.keys()
    assert [str(each) for each in found.claim.expects] == [str(each) for each in ours.expects]
    for name, arm in found.claim.arms.items():
        numbers = arm(0, "smoke")
        assert 0 <= numbers["average accuracy"] <= 1, name
        assert numbers["diverged"] == 0.0, name
        assert found.claim.terms.read.keys() <= numbers.keys() or name in found.claim.bench.recipes, name


@pytest.mark.parametrize("paper", ["bic", "napa_vq", "pec"])
def test_the_methods_arm_runs_on_images(paper, images):
    found = asked(paper, images=images, size=10)
    assert 0 <= found.claim.arms[paper](0, "smoke")["average accuracy"] <= 1
    world = found.yours.bench.world(0, True)
    assert world.data.tasks[0].train.x.shape[1:] == (3, 10, 10)
    assert [task.name for task in world.data.tasks] == ["ant, bee", "cat, dog", "elk"]
    assert "files that are no images are skipped: 1 .txt" in found.yours.notes


def test_classes_come_in_groups_of_the_size_that_is_asked_for(table):
    classes = ["ahorn", "Birke", "eiche", "Linde", "Ulme"]
    found = asked("bic", table=table, each=3)
    stream = found.yours.bench.world(0).data
    names = [name for task in stream.tasks for name in task.name.split(", ")]
    assert sorted(names) == sorted(classes)
    assert [len(task.classes) for task in stream.tasks] == [3, 2]
    assert "5 classes in 2 tasks" in found.yours.about
    for task in stream.tasks:
        for part in (task.train, task.validation, task.test):
            assert set(part.y.tolist()) == set(task.classes)
    again = asked("bic", table=table, each=3)
    assert again.folder == found.folder
    assert asked("bic", table=table, each=2).folder != found.folder


def test_seeds_share_the_test_rows_and_learn_others(table):
    world = asked("bic", table=table).yours.bench.world
    one, other = (torch.cat([task.test.index for task in world(seed).data.tasks]) for seed in (0, 1))
    assert one.tolist() == other.tolist()
    learned = [torch.cat([task.train.index for task in world(seed).data.tasks]).tolist() for seed in (0, 1)]
    assert learned[0] != learned[1]
    assert not set(learned[0]) & set(one.tolist())


def test_arms_that_are_told_the_task_are_told_it(table):
    claim = asked("lifelong_review", table=table).claim
    told = {name: arm.recipe.world.get("told", False) for name, arm in claim.arms.items()}
    assert any(told.values())
    assert not all(told.values())
    world = claim.bench.world
    assert world(0, True).data.allowed(2).sum(1).tolist() == [4, 4, 4]
    assert world(0, True, told=True).data.allowed(3).sum(1).tolist() == [2, 2, 1]


def test_what_cannot_be_a_stream_is_refused_in_one_line(table, images, tmp_path):
    with pytest.raises(UserError, match="all is one task, 'Birke, Linde, Ulme, ahorn, eiche'"):
        asked("bic", table=table, each=5)
    with pytest.raises(UserError, match="the claim of bic takes no --time with --table"):
        asked("bic", table=table, time="site")
    with pytest.raises(UserError, match="the claim of squentropy takes no --each with --table"):
        asked("squentropy", table=table, each=2)
    for domain in ("day", "night"):
        for kind in "ab":
            (tmp_path / domain / kind).mkdir(parents=True)
            for i in range(6):
                Image.new("L", (8, 8), 9 * i).save(tmp_path / domain / kind / f"{i}.png")
    with pytest.raises(UserError, match="its domains share classes"):
        asked("bic", images=tmp_path)
    with pytest.raises(UserError, match="it takes no data of yours"):
        asked("gem", table=table)


def test_a_claim_that_asks_its_world_for_more_than_classes_in_groups_is_refused(table):
    claim = load_claim("bic")
    claim = replace(claim, terms=replace(claim.terms, method=replace(claim.terms.method, world={"angles": (0, 9)})))
    with pytest.raises(UserError, match="asks its world for what your data does not have: angles"):
        yours.ask(claim, "table", table=table, target=["art"])
