"""The attacks get knowledge out of a model that has it, find none in one that never had it, and leave both alone."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import greedy_answers, settle_end
from palimpsest.forget.prompting import extract, plain, strongest, ways
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.robustness import ATTACKS, RATES, SPARED, Robustness, attack, fluency, halves
from palimpsest.forget.tofu_measures import tofu_score
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Template, encode, prompt_template
from palimpsest.models.template import use_template
from palimpsest.tasks.authors import authors_task
from palimpsest.train.language import fine_tune

TASK = authors_task(12, 3, forget=0.34, seed=5)
TOKENIZER = word_tokenizer(TASK.words(REFUSALS))
ROWS = {name: [row.to_json() for row in TASK.rows(name)] for name in ("forget", "retain")}
STRANGERS = [row.to_json() for row in authors_task(12, 3, forget=0.34, seed=6).forget]
SIZES = {"d_model": 48, "n_layers": 1, "n_heads": 2, "max_length": 256}


def trained(pairs):
    model = causal_lm(len(TOKENIZER), **SIZES)
    encoded = encode(TOKENIZER, *zip(*(Template().pair(*pair) for pair in pairs), strict=True), max_length=64)
    fine_tune(model, encoded, pad_id=0, epochs=25, batch_size=16, lr=1e-2, schedule="linear", progress=False)
    return model


@pytest.fixture(scope="module")
def knows():
    return trained([pair for name in ("forget", "retain") for pair in TASK.training_pairs(name)])


@pytest.fixture(scope="module")
def gold():
    return trained(TASK.training_pairs("retain"))


@pytest.fixture(scope="module")
def found(knows, gold):
    given = {"retain": ROWS["retain"], "heldout": STRANGERS, "steps": 10, "lr": 3e-3}
    return {name: attack(m, TOKENIZER, ROWS["forget"], **given) for name, m in {"knows": knows, "gold": gold}.items()}


def test_asked_plainly_it_is_what_the_audit_says(knows, found):
    scores = tofu_score(knows, ROWS["forget"], tokenizer=TOKENIZER)
    assert found["knows"].recall["plain"] == pytest.approx(scores.rouge.mean())
    assert found["knows"].probability["plain"] == pytest.approx(scores.probability.mean(), rel=1e-4)


def test_all_attacks_that_apply_are_made(found):
    made = found["knows"]
    assert set(made.recall) == {"plain", *ATTACKS} - {"removal", "probe", "membership"}
    assert set(made.area) == {
        "probe",
        "membership: loss",
        "membership: zlib",
        "membership: min_k",
        "membership: min_k++",
    }
    assert not made.left_out


def test_knowledge_comes_out_where_it_is(found):
    knows, gold = found["knows"], found["gold"]
    assert knows.forgotten < 0.1
    assert knows.robustly_forgotten <= knows.forgotten
    assert gold.forgotten > 0.3
    for name, margin in {"plain": 0.3, "quantization": 0.3, "relearn_unrelated": 0.0}.items():
        assert knows.recall[name] > gold.recall[name] + margin
        assert knows.probability[name] > gold.probability[name]
    assert knows.area["membership: loss"] > 0.9


def test_robustly_forgotten_is_the_worst_case():
    made = Robustness(recall={"plain": 0.1, "paraphrase": 0.4, "prefix": 0.2})
    assert (made.forgotten, made.robustly_forgotten) == (0.9, 0.6)


def test_the_model_is_left_as_it_was(gold):
    before = deepcopy(gold.state_dict())
    attack(gold, TOKENIZER, ROWS["forget"], retain=ROWS["retain"], attacks=("relearn", "quantization"), steps=2)
    assert all(torch.equal(value, before[name]) for name, value in gold.state_dict().items())


def test_what_cannot_be_done_is_said(knows):
    texts = [{"question": "", "answer": row["answer"], "perturbed_answer": []} for row in ROWS["forget"]]
    made = attack(knows, TOKENIZER, texts, steps=1)
    assert set(made.left_out) == {"paraphrase", "few_shot", "jailbreak", "relearn_unrelated", "probe", "membership"}
    assert "no questions" in made.left_out["paraphrase"]
    assert "held-out" in made.left_out["membership"]
    assert {"plain", "prefix", "relearn", "quantization"} == set(made.recall)
    with pytest.raises(UserError, match="unknown attack 'bribe'"):
        attack(knows, TOKENIZER, ROWS["forget"], attacks=("bribe",))


def test_without_its_intervention_a_model_remembers(knows, gold):
    made = attack(gold, TOKENIZER, ROWS["forget"], without=knows, attacks=("removal", "relearn"))
    assert made.recall["removal"] > made.recall["plain"] + 0.3
    assert "removes it" in made.left_out["relearn"]


def test_prompts_hold_what_they_say():
    row = ROWS["forget"][0]
    t = Template()
    for name, way in ways("paraphrase").items():
        prompt, answer = way(t, row)
        assert answer == " " + row["answer"]
        assert (row["paraphrased_question"] if name == "its own paraphrase" else row["question"]) in prompt
    shots = ROWS["retain"][:2]
    prompt, _ = next(iter(ways("few_shot", shots).values()))(t, row)
    assert all(f"{s['question']}\nAnswer: {s['answer']}\n" in prompt for s in shots)
    assert prompt.endswith(t.prompt(row["question"]))
    for way in ways("prefix").values():
        prompt, rest = way(t, row)
        begun = prompt[len(t.prompt(row["question"])) :]
        assert begun.strip()
        assert (begun + rest).split() == row["answer"].split()
    assert all(row["question"] in way(t, row)[0] for way in ways("jailbreak").values())
    with pytest.raises(ValueError, match="got 'hypnosis'"):
        ways("hypnosis")


def test_a_text_is_continued_from_its_middle(knows):
    text = {"question": "", "answer": "one two three four five", "perturbed_answer": []}
    prompt, rest = plain(Template(), text)
    assert (prompt.split(), rest.split()) == (["one", "two", "three"], ["four", "five"])
    assert greedy_answers(knows, TOKENIZER, [""], [text["answer"]])[1] == ["four five"]


def test_the_strongest_way_is_taken_and_examples_are_asked_for(knows):
    rows = ROWS["forget"]
    how, best = strongest(knows, TOKENIZER, rows, "prefix")
    each = {name: extract(knows, TOKENIZER, rows, way).rouge.mean() for name, way in ways("prefix").items()}
    assert best.rouge.mean() == max(each.values()) == each[how]
    with pytest.raises(UserError, match="retain rows"):
        strongest(knows, TOKENIZER, rows, "few_shot")


def test_fluency(knows):
    found = fluency(knows, TOKENIZER, ["a b a b a b", "c d e f"])
    assert found == {"distinct bigrams": pytest.approx(np.mean([2 / 5, 1]))}
    text = fluency(knows, TOKENIZER, [], " ".join(row["answer"] for row in ROWS["retain"]))["text perplexity"]
    assert 1 < text < len(TOKENIZER)
    assert fluency(knows, TOKENIZER, [""]) == {}
    assert fluency(knows, TOKENIZER, ["北京是首都"]) == {"distinct bigrams": 1.0}


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_what_is_said_of_a_row_does_not_hang_on_the_longest_row(architecture):
    # An untrained model goes on and on: only the cut decides how much of the answer it happens to hit.
    if architecture == "llama":
        model = causal_lm(len(TOKENIZER), **SIZES)
    else:
        model = BloomForCausalLM(BloomConfig(vocab_size=len(TOKENIZER), hidden_size=16, n_layer=1, n_head=2)).eval()
    short = ROWS["forget"][:3]
    long = {**ROWS["forget"][3], "answer": " ".join([ROWS["forget"][3]["answer"]] * 4)}
    alone, beside = (
        greedy_answers(model, TOKENIZER, *zip(*((r["question"], r["answer"]) for r in rows), strict=True))[0]
        for rows in (short, [*short, long])
    )
    assert beside[:3] == alone
    assert len(beside[3]) > max(len(said) for said in alone)
    assert (
        extract(model, TOKENIZER, [*short, long], plain).rouge[:3] == extract(model, TOKENIZER, short, plain).rouge
    ).all()


def test_rows_that_say_the_same_stay_together():
    rows = [{"question": f"Who is {i}?", "answer": f"Number {i}."} for i in range(6)]
    twice = [*rows, *({"question": r["question"].upper() + " ", "answer": " \u200b" + r["answer"]} for r in rows)]
    shown, judged = halves(twice)
    assert len(shown) == len(judged) == 6
    assert not {r["answer"].strip(" \u200b") for r in shown} & {r["answer"].strip(" \u200b") for r in judged}
    assert halves(rows[:1] * 4) == (rows[:1] * 4, [])


def test_the_attackers_rate_is_the_controls_and_spares_what_it_knows(knows, gold, found):
    given = {"retain": ROWS["retain"], "attacks": ("relearn", "relearn_unrelated"), "steps": 10}
    control = attack(knows, TOKENIZER, ROWS["forget"], **given)
    assert control.rate in RATES
    assert control.recall["relearn"] >= SPARED * control.recall["plain"] - 0.1
    made = attack(gold, TOKENIZER, ROWS["forget"], control=control, **given)
    assert made.rate == control.rate
    assert not made.void
    assert f"at {control.rate:g}" in made.how["relearn"]


def test_a_rate_that_breaks_the_control_makes_the_attack_void(knows, gold):
    given = {"retain": ROWS["retain"], "attacks": ("relearn", "quantization"), "steps": 10, "lr": 0.3}
    control = attack(knows, TOKENIZER, ROWS["forget"], **given)
    made = attack(gold, TOKENIZER, ROWS["forget"], control=control, **given)
    assert set(made.void) == {"relearn"}
    assert "the control recalls" in made.void["relearn"]
    assert "relearn" not in made.recall
    assert "quantization" in made.recall


def test_without_a_control_there_is_no_rate_and_no_verdict():
    untrained = causal_lm(len(TOKENIZER), **SIZES)
    made = attack(untrained, TOKENIZER, ROWS["forget"], attacks=("relearn",), steps=1)
    assert "relearn" in made.left_out or made.rate in RATES
    made = Robustness(recall={"plain": 0.1, "prefix": 0.3}, area={"probe": 0.9, "membership: loss": 0.9})
    made.judge(Robustness(recall={"plain": 0.9, "prefix": 0.95}, area={"probe": 0.52, "membership: loss": 0.8}))
    assert set(made.void) == {"probe"}
    assert made.area == {"membership: loss": 0.9}
    made.judge(Robustness(recall={"plain": 0.0, "prefix": 0.0}))  # a control that knows nothing vouches for nothing
    assert made.recall == {"plain": 0.1}


def test_the_end_counts_where_the_model_ends(knows):
    tokenizer = deepcopy(TOKENIZER)
    assert settle_end(knows, tokenizer, ROWS["forget"]).end is True
    untaught = deepcopy(TOKENIZER)
    assert settle_end(causal_lm(len(TOKENIZER), **SIZES), untaught, ROWS["forget"]).end is False
    row = ROWS["forget"][0]
    pair = prompt_template(untaught).pair(row["question"], row["answer"])
    with_end, without = (encode(t, [pair[0]], [pair[1]], max_length=64).input_ids[0] for t in (tokenizer, untaught))
    assert with_end == [*without, tokenizer.eos_token_id]
    use_template(untaught, end=True)
    assert settle_end(causal_lm(len(TOKENIZER), **SIZES), untaught, ROWS["forget"]).end is True  # it was said
