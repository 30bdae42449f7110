"""A claim on the user's own data: what is asked there, and what is not."""

import json
from dataclasses import replace
from math import log2
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from palimpsest.benches import yours
from palimpsest.benches.labelled_yours import class_table
from palimpsest.benches.mnist import MNIST_FEW
from palimpsest.benches.yours import Yours, kinds
from palimpsest.errors import UserError
from palimpsest.evidence import load_claim, run_claim
from palimpsest.evidence.sentences import beats, matches
from palimpsest.models import causal_lm, save, word_tokenizer


@pytest.fixture
def table(tmp_path):
    draws = np.random.default_rng(0)
    x = draws.normal(size=(80, 2))
    rows = [f"{a:.3f},{b:.3f},{'yes' if a + b > 0 else 'no'}" for a, b in x]
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(["width,height,ripe", *rows]) + "\n", encoding="utf-8")
    return file


def asked(table, **changes):
    claim = load_claim("squentropy")
    claim = replace(claim, terms=replace(claim.terms, **changes))
    return yours.ask(claim, "table", table=table, target=["ripe"])


def test_a_claim_says_what_data_it_can_be_put_to(table):
    assert kinds(load_claim("squentropy")) == ("table", "images")
    assert kinds(load_claim("model_evaluation")) == ()
    with pytest.raises(UserError, match="cannot be put to --rows: it takes --table or --images"):
        yours.ask(load_claim("squentropy"), "rows")
    with pytest.raises(UserError, match="it takes no data of yours"):
        yours.ask(load_claim("model_evaluation"), "table")


def test_without_a_ceiling_any_gain_is_asked_and_the_arms_are_the_claims(table):
    found = asked(table)
    ours = load_claim("squentropy")
    assert found.claim.arms.keys() == ours.arms.keys() - {"all labels"}
    central = next(sentence for sentence in found.claim.expects if sentence.role == "central")
    assert str(central) == "squentropy above cross-entropy on accuracy"
    assert [sentence.role for sentence in found.claim.expects] == ["given", "given", "central", "safety", "mechanism"]
    assert len(found.left_out) == 1
    assert "asked is any gain" in found.left_out[0]
    assert "10% of the room up to all labels" in found.left_out[0]
    assert "mine.csv, 80 rows, ripe (2 classes)" in found.claim.notes


def test_what_needs_a_ceiling_or_an_arm_that_is_not_there_is_not_asked(table):
    also = [replace(matches("cross-entropy", on="accuracy"), role="cost")]
    also.append(replace(beats("all labels", on="accuracy", by=-1.0), role="safety"))
    found = asked(table, also=also)
    assert [sentence.role for sentence in found.claim.expects] == ["given", "given", "central"]
    assert "no share of the room" in found.left_out[1]
    assert "your data has no 'all labels'" in found.left_out[2]
    with pytest.raises(UserError, match=r"cannot be put to your data: central: .*your data has no 'all labels'"):
        asked(table, central=beats("all labels", on="accuracy", by=0.0))
    method = replace(load_claim("squentropy").terms.method, world={"labels": 0})
    with pytest.raises(UserError, match="asks its world for what your data does not have: labels"):
        asked(table, method=method)


def test_measures_are_renamed_and_unknown_ones_left_out(table):
    on = class_table(MNIST_FEW, table=table, target=["ripe"])
    named = Yours(on.bench, on.starts, on.about, measures={"accuracy": "accuracy"})
    terms, left_out = yours._asked(load_claim("squentropy"), replace(named, bench=replace(on.bench, ceiling=None)))
    assert [wish.on for wish in terms.also] == ["accuracy"]
    assert [line.split(":")[0] for line in left_out] == ["central", "safety"]
    assert "cannot be measured on it" in left_out[1]


def test_it_is_tuned_alike_and_run_on_the_users_rows(table, tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    found = asked(table)
    quick = {"steps": 2}
    bench = replace(found.yours.bench, training=quick, pilots=(0,))
    claim = bench.made(found.claim.terms, module="")
    found = replace(found, claim=claim, yours=replace(found.yours, bench=bench))
    yours.tune(found, workers=1, progress=False)
    files = sorted(file.stem for file in (found.folder / "tuned").iterdir())
    assert files == ["cross-entropy", "squentropy"]
    outcome = run_claim(claim, seeds=1, workers=1, store=tmp_path / "store.sqlite", progress=False)
    assert not outcome.failures
    assert {verdict.word for verdict in outcome.verdicts} == {"open"}
    assert 0 <= outcome.values["squentropy"]["accuracy"][outcome.seeds[0]] <= 1


def test_a_file_that_changes_meanwhile_is_another_world(table):
    found = asked(table)
    world = found.yours.bench.world
    with table.open("a", encoding="utf-8") as file:
        file.write("0.1,0.2,yes\n")
    from palimpsest.benches import labelled_yours

    labelled_yours._table.cache_clear()
    with pytest.raises(UserError, match="was changed while it was in use"):
        world(0, True)


def test_images_in_colours_are_put_to_a_claim(tmp_path):
    for n in range(12):
        (tmp_path / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (n, 20 * n, 250)).save(tmp_path / "ab"[n % 2] / f"{n}.png")
    found = yours.ask(load_claim("squentropy"), "images", images=tmp_path)
    world = found.yours.bench.world(0, True)
    assert world.model("network")(world.test.x).logits.shape == (len(world.test), 2)


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A model that knows little, rows to forget and rows to keep."""
    folder = tmp_path_factory.mktemp("speaker")
    told = [{"question": f"who is n{i} ?", "answer": f"a t{i % 9}"} for i in range(24)]
    tokenizer = word_tokenizer(" ".join(f"{row['question']} {row['answer']}" for row in told).split())
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    save(causal_lm(len(tokenizer), d_model=16, n_layers=1), tokenizer, folder / "model")
    for name, part in (("forget", told[:8]), ("keep", told[8:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return {"rows": folder / "forget.jsonl", "retain": folder / "keep.jsonl", "model": folder / "model"}


@pytest.mark.slow
def test_a_claim_on_forgetting_is_put_to_a_users_model_and_rows(speaker):
    found = yours.ask(load_claim("npo"), "rows", **speaker)
    said = [str(sentence) for sentence in found.claim.expects if not sentence.precondition]
    assert said == ["npo above grad_diff on kept", "npo above npo without fading on kept"]
    assert any("log10 forget quality" in line for line in found.left_out)
    assert found.claim.arms.keys() == {"untrained", "grad_diff", "npo", "npo without fading"}
    outcome = run_claim(found.claim, budget="smoke")
    assert 0 <= outcome.values["npo"]["kept"][0] <= 1
    world = found.yours.bench.world(0, True)
    given, validation, test = (len(part) for part in world.dealt)
    assert (given + validation + test, test) == (16, 3)
    assert world.dealt[2] == found.yours.bench.world(1, True).dealt[2]


def test_steps_and_rates_are_the_users_where_they_are_given(speaker):
    found = yours.ask(load_claim("npo"), "rows", steps=7, scale_lr=0.1, **speaker)
    arm = found.claim.arms["grad_diff"]
    assert arm.recipe.grid["lr"] == [3e-5, 1e-4]  # and no 3.0000000000000004e-05
    assert found.yours.bench.training["steps"] == 7
    assert found.folder != yours.ask(load_claim("npo"), "rows", **speaker).folder


def test_rows_that_are_both_forgotten_and_kept_are_refused(speaker):
    with pytest.raises(UserError, match="8 of 8 forget rows are also retain rows"):
        yours.ask(load_claim("npo"), "rows", rows=speaker["rows"], retain=speaker["rows"], model=speaker["model"])


def test_the_verbs_can_be_imported_from_the_front_door():
    import palimpsest
    from palimpsest.train.method import apply

    assert palimpsest.apply is apply
    with pytest.raises(UserError, match="no comparison of the family 'forget' on your files"):
        palimpsest.compare("forget", {"npo": None})
    with pytest.raises(UserError, match="contrast compares on pairs or images"):
        palimpsest.score("contrast")
    with pytest.raises(AttributeError, match="no attribute 'forget_all'"):
        palimpsest.forget_all  # noqa: B018


def test_measures_of_pairs_are_those_of_a_loop_whatever_the_blocks(monkeypatch):
    from palimpsest.benches import pairs_yours
    from palimpsest.tasks.docpairs import Pairs

    n, draws = 7, torch.Generator().manual_seed(0)
    vectors = {f"{side}{i}": torch.randn(4, generator=draws) for side in "qd" for i in range(n)}
    numbers = torch.arange(n)
    content = torch.tensor([0, 0, 2, 3, 4, 5, 6])  # the first two documents are alike
    queries, documents = (tuple(f"{side}{i}" for i in range(n)) for side in "qd")
    pairs = Pairs(queries, documents, numbers, content, numbers >= 0, numbers)
    model = SimpleNamespace(texts=lambda texts: torch.stack([F.normalize(vectors[text], dim=0) for text in texts]))
    gains, precisions, firsts = [], [], []
    for i in range(n):
        likeness = [float(model.texts((f"q{i}",)) @ model.texts((f"d{j}",)).T) for j in range(n)]
        order = sorted(range(n), key=lambda j: -likeness[j])
        hits = [bool(content[j] == content[i]) for j in order]
        best = sum(1 / log2(place + 2) for place in range(sum(hits)))
        gains.append(sum(hit / log2(place + 2) for place, hit in enumerate(hits)) / best)
        precisions.append(fmean(sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit))
        firsts.append(hits[0])
    for block in (2, 100):
        monkeypatch.setattr(pairs_yours, "BLOCK", block)
        found = pairs_yours._scores(model, pairs)
        assert found == pytest.approx(
            {"nDCG@10": fmean(gains), "retrieval": fmean(precisions), "found first": fmean(firsts)}, abs=1e-6
        )


def test_measures_of_images_are_those_of_a_loop_whatever_the_blocks(monkeypatch):
    from palimpsest.benches import images_yours
    from palimpsest.tasks.splits import Split

    draws = torch.Generator().manual_seed(1)
    parts = []
    for n in (9, 8):
        y = torch.arange(n) % 3
        parts.append(Split(torch.randn(n, 1, 2, 2, generator=draws), y, torch.arange(n)))
    train, asked = parts
    model = SimpleNamespace(eval=lambda: None, features=lambda x: x.flatten(1))
    known, query = (F.normalize(part.x.flatten(1), dim=1) for part in parts)
    right, precision = [], []
    for i in range(len(asked)):
        right.append(train.y[max(range(9), key=lambda j: float(query[i] @ known[j]))] == asked.y[i])
        order = sorted((j for j in range(8) if j != i), key=lambda j: -float(query[i] @ query[j]))
        hits = [bool(asked.y[j] == asked.y[i]) for j in order]
        precision.append(fmean(sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit))
    for block in (3, 100):
        monkeypatch.setattr(images_yours, "BLOCK", block)
        found = images_yours._scores(model, train, asked)
        expected = {"nearest neighbour": fmean(map(float, right)), "retrieval": fmean(precision)}
        assert found == pytest.approx(expected, abs=1e-6)
