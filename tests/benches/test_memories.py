"""The bench of memories: what is studied was never read, foils are others, and an arm without study knows nothing."""

import pytest
import torch

from palimpsest.benches.memories import MEMORIES
from palimpsest.benches.memories_world import RECALL, RECOGNITION, Memories, kept, measures
from palimpsest.claims.retain.recall_retention import SOON, afterwards, claim
from palimpsest.train.method import Applied


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path_factory.getbasetemp() / "reader-home"))


@pytest.fixture(scope="module")
def world():
    return Memories(3, smoke=True)


def test_what_is_studied_what_foils_are_and_what_comes_later_are_sentences_that_the_reader_never_read():
    whole = Memories(3)
    parts = whole.sentences
    everything = [text for part in parts.values() for text in part]
    assert len(everything) == len(set(everything))
    assert (len(parts["studied"]), len(parts["novel"])) == (60, 60)
    assert len(parts["later"]) > 60
    read = "\n".join(document.text for document in whole.reader.corpus.train)
    assert not any(text in read for text in everything)


def test_disorder_has_the_words_of_the_sentences_and_foils_in_the_same_disorder(world):
    disorder = Memories(3, smoke=True, stimulus="shuffled")
    assert disorder.texts != world.texts
    for a, b in zip(disorder.texts + disorder.foils, world.texts + world.foils, strict=True):
        assert sorted(a.split()) == sorted(b.split())


def test_the_reader_is_the_same_for_every_stimulus_and_fresh_at_each_call(world):
    one, two = world.model("reader"), Memories(3, smoke=True, stimulus="shuffled").model("reader")
    assert one is not two
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_often_is_more_than_few_and_arms_differ_in_nothing_else():
    few, once = claim.arms["natural"].at_point({"lr": 1e-3}), claim.arms["seen once"].at_point({"lr": 1e-3})
    assert (few.method.exposures, once.method.exposures) == (10, 1)
    assert few.settings == once.settings
    assert MEMORIES.recipes["studied often"].method.exposures == 30


def test_what_is_kept_is_asked_before_and_after_other_sentences(world):
    found = kept(world, world.model("reader"), lr=1e-3)
    assert found["update"] == [0, 1]
    now = measures(world, world.model("reader"))
    assert (found["recognition"][0], found["recall"][0]) == (now[RECOGNITION], now[RECALL])
    assert SOON in afterwards(world, Applied(world.model("reader")))
