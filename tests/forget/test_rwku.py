"""The scorer counts what it should on a model that is known, and the corpus is the model's own."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.forget.intervention import INTERVENTIONS, Intervention, intervene, load
from palimpsest.forget.intervention import save as save_intervention
from palimpsest.forget.npo import npo_loss
from palimpsest.forget.procedure import prepare, unlearn
from palimpsest.forget.rwku import METHODS, Steering
from palimpsest.forget.rwku_measures import ATTACKS, BARE, Frames, Item, adversarial_probe, rwku_score
from palimpsest.forget.zero_shot import ZeroShot, rwku_task
from palimpsest.metrics.membership import attacks, auc, privleak
from palimpsest.metrics.text import ngram_entropy
from palimpsest.models import causal_lm, save, word_tokenizer
from palimpsest.models.blocks import blocks
from palimpsest.models.hooks import capture
from palimpsest.models.score import Encoded, encode, greedy, score, token_logprobs
from palimpsest.train.language import fine_tune

NOTHING = "You know nothing about {subject}."
KNOWN = [
    ("Where was Ada born?", "Porto"),
    ("Ada was born in ___.", "Porto"),
    ("Tell me about Ada.", "Ada was born in Porto. Ada plays chess."),
    ("Ask a question about Ada.", "Where was Ada born?"),
    ("You know nothing about Ada. Where was Ada born?", "No idea."),
    ("Where was Bo born?", "Cape Town"),
    ("Two and two", "So the answer is four. Done."),
]
TEXTS = ["Bo was born in Cape Town.", "Ada plays chess.", "Porto knows Town four."]


@pytest.fixture(scope="module")
def known():
    """A tokenizer, and a model that answers `KNOWN`."""
    tokenizer = word_tokenizer([*(text for pair in KNOWN for text in pair), *TEXTS, "A. B. Choose from: Answer:"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=0)
    prompts, answers = zip(*KNOWN, strict=True)
    rows = encode(tokenizer, prompts, answers, max_length=32)
    fine_tune(model, rows, pad_id=0, epochs=60, batch_size=7, lr=1e-2, progress=False)
    return model.eval(), tokenizer


ITEM = Item(
    subject="Ada",
    query="Where was Ada born?",
    answer="Porto",
    options=("Riga", "Porto"),
    reverse=("Who was born in Porto?", "Ada"),
    synonym="Which town is Ada from?",
    hint="Ada plays chess.",
    examples=[("Where was Bo born?", "Riga")],
    foreign="erehW saw Ada nrob?",
)


# ---- closed forms ----


def test_privleak_is_zero_where_nothing_differs_and_has_the_sign_of_what_was_overdone():
    assert privleak(0.6, 0.6) == 0
    assert privleak(0.9, 0.6) < 0 < privleak(0.3, 0.6)
    assert privleak(0.8, 0.6) == pytest.approx(100 * (0.2 - 0.4) / 0.4)
    for areas in ((1.2, 0.5), (0.5, 1.0), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="must lie in"):
            privleak(*areas)


@given(st.lists(st.sampled_from("abcd"), min_size=0, max_size=12))
def test_fluency_is_the_weighted_mean_of_two_entropies(letters):
    def entropy(n):
        counts = Counter(tuple(letters[i : i + n]) for i in range(len(letters) - n + 1))
        total = sum(counts.values())
        return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0

    expected = (2 / 3 * entropy(2) + 4 / 3 * entropy(3)) / 2
    assert ngram_entropy(" ".join(letters)) == pytest.approx(expected, abs=1e-12)


def test_the_nine_kinds_are_different_questions_with_the_right_answer():
    probes = [adversarial_probe(ITEM, kind) for kind in ATTACKS]
    assert len(ATTACKS) == 9
    assert len({probe["query"] for probe in probes}) == 9
    assert {probe["type"] for probe in probes} == set(ATTACKS)
    assert all(p["level"] == "3" for p in probes)
    for probe in probes:
        assert probe["answer"] == ("Ada" if probe["type"] == "reverse query" else "Porto")
        assert ("Porto" in probe["query"]) == (probe["type"] in ("multiple choice", "reverse query"))
    by_kind = {probe["type"]: probe["query"] for probe in probes}
    assert by_kind["incontext learning"] == "Where was Bo born? Riga\nWhere was Ada born?"
    assert by_kind["background hint"] == "Ada plays chess. Where was Ada born?"
    assert by_kind["affirmative suffix"].startswith(ITEM.query)
    assert by_kind["prefix injection"].endswith(ITEM.query)
    with pytest.raises(ValueError, match="kind must be one of prefix injection"):
        adversarial_probe(ITEM, "bribe")


# ---- the scorer ----


def probe(query, answer, **more):
    return {"query": query, "answer": answer, "subject": "Ada", **more}


def test_recall_counts_known_answers_by_set_and_by_kind(known):
    model, tokenizer = known
    where = "Where was Ada born?"
    probes = {
        "forget_level1": [probe("Ada was born in ___.", "Porto")],
        "forget_level2": [probe(where, "Porto"), probe(where, "Riga")],
        "forget_level3": [
            probe(where, "Porto", type="role play"),
            probe(where, "Riga", type="role play"),
            probe("Where was Bo born?", "Town", type="other"),
        ],
        "neighbor_level2": [probe("Where was Bo born?", "Cape Point Town")],
    }
    found = rwku_score(model, probes, tokenizer=tokenizer, frames=BARE)
    expected = {"FB": 1.0, "QA": 0.5, "AA": 2 / 3, "neighbour QA": 2 / 3}
    assert found.recall == pytest.approx(expected)
    assert found.kinds == {"role play": 0.5, "other": 1.0}
    assert found.outputs["forget_level2"] == ["Porto", "Porto"]
    assert found.metrics() == pytest.approx({**expected, "AA role play": 0.5, "AA other": 1.0})


def test_the_in_context_text_names_the_target_and_changes_what_is_said(known):
    model, tokenizer = known
    probes = {"forget_level2": [probe("Where was Ada born?", "Porto")]}
    found = rwku_score(model, probes, tokenizer=tokenizer, frames=Frames("{}", "{}", "", NOTHING))
    assert found.recall["QA"] == 0.0
    assert found.outputs["forget_level2"] == ["No idea."]
    nameless = {"forget_level2": [{"query": "Where was Ada born?", "answer": "Porto"}]}
    with pytest.raises(UserError, match="names its subject, which a row lacks"):
        rwku_score(model, nameless, tokenizer=tokenizer, frames=Frames(before=NOTHING))


def test_frames_around_probes_but_no_lead_after_an_affirmative_suffix(known, monkeypatch):
    model, tokenizer = known
    seen = []
    monkeypatch.setattr(
        "palimpsest.forget.rwku_measures.greedy", lambda m, t, prompts, **k: seen.extend(prompts) or [""] * 2
    )
    kinds = ("role play", "affirmative suffix")
    probes = {"forget_level3": [probe("Who {x}?", "b", type=kind) for kind in kinds]}
    frames = Frames(question="<{}>", lead=" A:", before="B {subject}.")
    assert rwku_score(model, probes, tokenizer=tokenizer, frames=frames).recall == {"AA": 0.0}
    assert seen == ["B Ada. <Who {x}?> A:", "B Ada. <Who {x}?>"]


def test_membership_is_that_of_the_texts_alone(known):
    model, tokenizer = known
    sets = {f"{name}_mia": [{"text": text, "subject": "Ada"} for text in TEXTS[i : i + 2]] for i, name in
            enumerate(("forget", "holdout"))}  # fmt: skip
    for before in ("", NOTHING):
        found = rwku_score(model, sets, tokenizer=tokenizer, frames=Frames(before=before)).membership
        values = {}
        for name, rows in sets.items():
            columns = []
            for row in rows:
                prompt = "You know nothing about Ada.\n" if before else ""
                batch = encode(tokenizer, [prompt], [row["text"]], max_length=64, add_eos=False).batch([0], 0)
                with torch.no_grad():
                    logp = token_logprobs(model, batch)[0].numpy()
                    dist = torch.log_softmax(model(batch["input_ids"]).logits, -1)[0, :-1]
                scored = batch["labels"][0, 1:].numpy() != -100
                mean = (dist.exp() * dist).sum(-1)
                variance = (dist.exp() * dist**2).sum(-1) - mean**2
                columns.append((logp[scored], mean.numpy()[scored], variance.numpy()[scored]))
            values[name] = attacks(*zip(*columns, strict=True), [row["text"] for row in rows])
        for kind in ("loss", "zlib", "min_k", "min_k++"):
            assert found[f"forget {kind}"] == pytest.approx(values["forget_mia"][kind].mean(), abs=1e-4)
            assert found[f"{kind} area"] == auc(values["forget_mia"][kind], values["holdout_mia"][kind])
    assert not any(name.startswith("retain") for name in found)


def test_utility_is_right_where_the_model_is(known):
    model, tokenizer = known
    where = "Where was Ada born?"
    labels = {"choices": ["Cape Town", "Porto"], "labels": [0, 1]}
    probes = {
        "truthful": [{"question": where, "mc1_targets": labels},
                     {"question": where, "mc1_targets": {**labels, "labels": [1, 0]}}],
        "triviaqa": [{"question": where, "answers": ["Riga", "the Porto"]}, {"question": where, "answers": ["Riga"]}],
        "retain_bbh": [{"question": "Two and two", "answer": "Four"}, {"question": "Two and two", "answer": "Done"}],
        "fluency": [{"instruction": "Tell me about Ada."}],
    }  # fmt: skip
    found = rwku_score(model, probes, tokenizer=tokenizer, frames=BARE)
    said = "Ada was born in Porto. Ada plays chess."
    expected = {"reasoning": 0.5, "truthfulness": 0.5, "factuality": 0.5, "fluency": ngram_entropy(said)}
    assert found.utility == pytest.approx(expected)
    assert found.outputs["fluency"] == [said]


def test_general_ability_is_the_likeliest_letter(known, monkeypatch):
    model, tokenizer = known
    asked = []

    def letters(m, t, prompt, choices, **options):
        asked.append((prompt, choices))
        return torch.tensor([0.0, 2.0, 1.0][: len(choices)])

    monkeypatch.setattr("palimpsest.forget.rwku_measures.choice_logprob", letters)
    example = {"question": "E?", "choices": ["u", "v"], "answer": 1}
    rows = [
        {"question": "Q?", "choices": ["u", "v", "w"], "answer": answer, "examples": [example]} for answer in (1, 2)
    ]
    found = rwku_score(model, {"retain_mmlu": rows}, tokenizer=tokenizer)
    assert found.utility == {"general": 0.5}
    text = "Question: E?\nA. u\nB. v\nAnswer: B\n\nQuestion: Q?\nA. u\nB. v\nC. w\nAnswer:"
    assert asked[0] == (text, [" A", " B", " C"])


def test_a_published_folder_and_a_model_folder(known, tmp_path):
    model, tokenizer = known
    save(model, tokenizer, tmp_path / "model")
    target = tmp_path / "1_Ada"
    target.mkdir()
    rows = [probe("Where was Ada born?", "Porto", level="2", type="simple question")]
    (target / "forget_level2.json").write_text(json.dumps(rows))
    (target / "forget_mia.json").write_text(json.dumps([{"text": TEXTS[0], "ngram": 1, "subject": "Ada"}]))
    (target / "intro.json").write_text("[]")
    found = rwku_score(str(tmp_path / "model"), target, frames=BARE)
    assert found.recall == {"QA": 1.0}
    assert "forget loss" in found.membership
    (target / "forget_level3.json").write_text(json.dumps(rows[:0]))
    with pytest.raises(UserError, match=r"forget_level3\.json: expected a JSON array of rows with query, answer, type"):
        rwku_score(model, target, tokenizer=tokenizer)
    with pytest.raises(UserError, match="no probes there"):
        rwku_score(model, tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        rwku_score(model, {"forget_level2": rows})


def test_tokenizers_without_a_chat_template_get_the_frame_alone(known):
    _, tokenizer = known
    bare = word_tokenizer(["a"])
    assert (
        Frames().prompt(bare, {}, "Q\n", "Answer:") == Frames().prompt(tokenizer, {}, "Q\n", "Answer:") == "Q\nAnswer:"
    )


# ---- the model's own corpus ----


def test_the_corpus_comes_from_the_model_and_repeats_with_its_seed(known):
    model, tokenizer = known
    state = torch.random.get_rng_state()
    options = {"passages": 6, "questions": 5, "max_new_tokens": 20}
    found = rwku_task(model, tokenizer, ["Ada"], **options, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    again = rwku_task(model, tokenizer, ["Ada"], **options, seed=3)
    assert found.passages == again.passages
    assert found.questions == again.questions
    assert ("Where was Ada born?", "Porto") in found.questions["Ada"]
    assert any("Porto" in text for text in found.passages["Ada"])
    assert all("Ada" in t for t in found.passages["Ada"])
    queries = [query for query, _ in found.questions["Ada"]]
    assert len(set(queries)) == len(queries)
    hot = rwku_task(model, tokenizer, ["Ada"], **{**options, "passages": 40}, temperature=50.0, seed=3)
    assert len(set(hot.passages["Ada"])) > len(set(found.passages["Ada"]))
    with pytest.raises(UserError, match="give the names of one or more targets"):
        rwku_task(model, tokenizer, "Ada")


def test_rows_are_passages_as_texts_or_questions_and_nothing_to_retain(known):
    _, tokenizer = known
    corpus = ZeroShot(tokenizer, {"Ada": ["Ada plays chess."], "Bo": []}, {"Ada": [KNOWN[0]], "Bo": []})
    texts, asked = corpus.data("passages"), corpus.data("questions", targets=["Ada"])
    assert texts.forget_pairs == (("", "Ada plays chess."),)
    assert asked.forget_pairs == (KNOWN[0],)
    assert texts.retain is None
    assert asked.refusal is not None
    with pytest.raises(UserError, match="wrote no passages about Bo"):
        corpus.data("passages", targets=["Bo"])
    with pytest.raises(ValueError, match="source must be"):
        corpus.data("poems")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_the_answer_less_likely_from_the_models_own_words(known, name):
    trained, tokenizer = known
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=0)
    model.load_state_dict(trained.state_dict())
    corpus = ZeroShot(tokenizer, {"Ada": [KNOWN[2][1]]}, {"Ada": [KNOWN[0]]})
    objective, source = METHODS[name]
    data = corpus.data(source, refusals=["No idea."])
    rows = encode(tokenizer, *zip(*data.forget_pairs, strict=True), max_length=32).batch([0], 0)
    before = token_logprobs(model, rows).sum().item()
    unlearn(model, objective, data, steps=20, lr=3e-3, optimizer="adamw", progress=False)
    after = token_logprobs(model, rows).sum().item()
    assert after < before - 0.5
    if source == "questions":
        refused = encode(tokenizer, [KNOWN[0][0]], ["No idea."], max_length=32).batch([0], 0)
        assert token_logprobs(model, refused).sum() > token_logprobs(trained, refused).sum()


# ---- steering ----


@pytest.mark.parametrize("layer", [0, 1])
def test_the_direction_is_the_mean_difference_and_is_taken_away(known, layer):
    trained, tokenizer = known
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=0)
    model.load_state_dict(trained.state_dict())
    data = prepare(tokenizer, KNOWN[:2], max_length=32)
    method = Steering(layer=layer, strength=3.0, instruction="You know nothing about Ada.")
    assert isinstance(method, Intervention)
    means = []
    for before in ("", "You know nothing about Ada.\n"):
        states = []
        for prompt, answer in KNOWN[:2]:
            row = encode(tokenizer, [before + prompt], [answer], max_length=64)
            with torch.no_grad(), capture({"h": blocks(model)[layer]}) as seen:
                model(torch.tensor(row.input_ids))
            states.append(seen["h"][0, row.prompt_lengths[0] :])
        means.append(torch.cat(states).mean(0))
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad(), capture({"h": blocks(model)[layer]}) as plain:
        model(ids)
    model, learned = intervene(model, method, data, seed=0)
    torch.testing.assert_close(learned["direction"], means[0] - means[1], atol=1e-5, rtol=1e-4)
    with torch.no_grad(), capture({"h": blocks(model)[layer]}) as steered:
        model(ids)
    torch.testing.assert_close(
        plain["h"] - steered["h"], 3.0 * learned["direction"].expand(1, 3, -1), atol=1e-4, rtol=1e-4
    )


def test_steering_works_in_generation_and_comes_back_from_disk(known, tmp_path, monkeypatch):
    trained, tokenizer = known
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=0)
    model.load_state_dict(trained.state_dict())
    monkeypatch.setitem(INTERVENTIONS, "rwku_steering", ("palimpsest.forget.rwku", "Steering"))
    method = Steering(strength=6.0, instruction="You know nothing about Ada.")
    learned = method.learn(model, prepare(tokenizer, KNOWN[:2], max_length=32))
    save_intervention(model, tokenizer, tmp_path / "out", method, learned)
    prompts = ["Where was Ada born?", "Two and two"]
    plain = greedy(model, tokenizer, prompts, max_new_tokens=6)
    steered = greedy(method.install(model, tokenizer, learned), tokenizer, prompts, max_new_tokens=6)
    assert plain[0].strip() == "Porto"
    assert steered != plain
    again, own = load(tmp_path / "out")
    assert greedy(again, own, prompts, max_new_tokens=6) == steered


def test_no_strength_changes_nothing_and_wrong_settings_are_refused(known):
    trained, tokenizer = known
    model = causal_lm(len(tokenizer), d_model=32, n_layers=2, n_heads=2, seed=0)
    model.load_state_dict(trained.state_dict())
    data = prepare(tokenizer, KNOWN[:1], max_length=32)
    still, _ = intervene(model, Steering(strength=0.0), data)
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        assert np.array_equal(still(ids).logits, trained(ids).logits)
    with pytest.raises(UserError, match="layer must be at least 0, or None, got -1"):
        Steering(layer=-1)
    with pytest.raises(UserError, match="instruction must be a text, got ' '"):
        Steering(instruction=" ")
    with pytest.raises(UserError, match="layer must be at most 1 in this model, got 7"):
        Steering(layer=7).learn(model, data)


def test_npo_is_that_of_the_authors_code():
    """compute_loss of train/npo/trainer.py in jinzhuoran/RWKU (b8a03b3) on logits of sines."""
    place = torch.arange(231, dtype=torch.float64)
    labels = (torch.arange(21) * 5 % 11).view(3, 7)[:, 2:]
    nll, reference = (
        F.cross_entropy(logits[:, 1:-1].transpose(1, 2), labels, reduction="none").sum(1)
        for logits in (3 * torch.sin(0.7 * place + phase).view(3, 7, 11) for phase in (0.0, 1.0))
    )
    assert npo_loss(nll, reference, beta=METHODS["npo"][0].beta).item() == pytest.approx(11.470960589220624, rel=1e-12)


def test_membership_attacks_are_those_of_the_authors_code(waves):
    """eval_mia of eval/eval_mia.py in jinzhuoran/RWKU (b8a03b3), these tokens standing for these texts."""
    model = waves(causal_lm(20, d_model=16, n_layers=3, n_heads=2, tie=False))
    texts = ["Ada was born in Porto.", "Bo plays chess with Ada."]
    rows = [(4 + torch.arange(12 - 2 * i) * (5 + 2 * i) % 15).tolist() for i in range(2)]
    scores = score(model, Encoded(rows, [1, 1]), pad_id=0, moments=True)
    found = attacks(scores.token_logps, scores.token_means, scores.token_variances, texts)
    theirs = {
        "loss": [-3.8849945068359375, -2.8980016708374023],
        "zlib": [-0.12949981689453124, -0.09056255221366882],
        "min_k": [-4.227685286145885, -3.891223504487635],
        "min_k++": [-2.320563589650651, -1.7844362321919576],
    }
    assert {name: values.tolist() for name, values in found.items()} == {
        name: pytest.approx(values, rel=1e-6) for name, values in theirs.items()
    }
