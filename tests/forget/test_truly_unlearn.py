import json

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from palimpsest.errors import UserError
from palimpsest.forget.procedure import encode_pairs
from palimpsest.forget.truly_unlearn import benign_finetune, black_box_suite, recovery, rephrasings
from palimpsest.forget.truly_unlearn_measures import capability_cost, letter_accuracy, read_questions
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import choice_logprob
from palimpsest.tasks.multiple_choice import LETTERS, PHRASINGS, Question, multiple_choice_task, plain
from palimpsest.train.language import fine_tune

TASK = multiple_choice_task(2, seed=5)
QUESTIONS, EXAMPLES = TASK["animals"], TASK["minerals"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [phrase(q) for q in QUESTIONS + EXAMPLES for phrase in (plain, *PHRASINGS.values())]
    return word_tokenizer([*texts, "Answer: unrelated words here", *LETTERS])


@pytest.fixture
def model(tokenizer):
    return causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2, seed=3)


def test_letters_are_compared_as_choices_are(model, tokenizer):
    answers = [question.answer for question in QUESTIONS]
    prompts = [plain(question) for question in QUESTIONS]
    letters = [f" {letter}" for letter in LETTERS]
    found = [int(choice_logprob(model, tokenizer, prompt, letters).argmax()) for prompt in prompts]
    naive = float(np.mean(np.equal(found, answers)))
    assert letter_accuracy(model, tokenizer, prompts, answers) == pytest.approx(naive)
    assert letter_accuracy(model, tokenizer, prompts, answers, batch_size=3) == pytest.approx(naive)
    assert letter_accuracy(model, tokenizer, prompts, found) == 1.0


def test_the_mode_is_restored_and_bad_input_is_refused(model, tokenizer):
    model.train()
    letter_accuracy(model, tokenizer, [plain(QUESTIONS[0])], [0])
    assert model.training
    with pytest.raises(ValueError, match="as many answers as prompts"):
        letter_accuracy(model, tokenizer, ["a"], [0, 1])
    with pytest.raises(ValueError, match="does not tell the letters apart"):
        letter_accuracy(model, word_tokenizer(["Answer:"]), ["Answer:"], [0])


def test_the_suite_reports_every_form_and_the_best(model, tokenizer):
    found = black_box_suite(model, tokenizer, QUESTIONS, examples=EXAMPLES, ways=PHRASINGS, shots=2)
    forms = {name: value for name, value in found.items() if name not in ("best", "gain")}
    assert set(forms) == {"zero-shot", "2-shot", *PHRASINGS}
    assert found["best"] == max(forms.values())
    assert found["gain"] == pytest.approx(found["best"] - forms["zero-shot"])
    assert found["gain"] >= 0
    assert "5-shot" not in black_box_suite(model, tokenizer, QUESTIONS, ways={})
    with pytest.raises(ValueError, match="5 examples or none, got 12 and 1"):
        black_box_suite(model, tokenizer, QUESTIONS, examples=EXAMPLES[:1])


def test_a_form_that_the_model_was_taught_in_is_found(model, tokenizer):
    """A model that answers right after "Pupil: I choose" only: the suite finds that form, the plain one does not."""
    one = [q for q in QUESTIONS if q.answer != 0][:4]
    pairs = [(PHRASINGS["conversation"](q), f" {q.letter}") for q in one] + [(plain(q), " A") for q in one]
    rows = encode_pairs(tokenizer, pairs, max_length=64)
    fine_tune(model, rows, pad_id=0, epochs=250, lr=1e-2, batch_size=8, warmup=1, progress=False)
    found = black_box_suite(model, tokenizer, one, ways=PHRASINGS)
    assert found["zero-shot"] == 0.0
    assert found["conversation"] == 1.0
    assert found["gain"] == 1.0


def test_rephrasings_put_terms_into_other_words():
    question = Question("", "", "", "Is x-ray lux in the lux-box ?", ("a", "b", "c", "d"), 1)
    ways = rephrasings(glossary={"lux": "light", "lux-box": "lamp"}, translate=str.upper)
    assert set(ways) == {"conversation", "poem", "variables", "described", "translated"}
    assert ways["described"](question).startswith("Is x-ray light in the lamp ?")
    assert ways["variables"](question).startswith("Let x1 be lux. Let x2 be lux-box. Is x-ray x1 in the x2 ?")
    assert ways["translated"](question) == "IS X-RAY LUX IN THE LUX-BOX ? A A B B C C D D Answer:"
    for way in ways.values():
        assert way(question).count(" B ") == 1  # the options are listed once, in their order
    assert set(rephrasings()) == {"conversation", "poem"}


@pytest.mark.parametrize(
    ("before", "unlearned", "after", "expected"), [(1.0, 0.25, 1.0, 1.0), (0.8, 0.3, 0.3, 0.0), (0.9, 0.4, 0.3, -0.2)]
)
def test_recovery(before, unlearned, after, expected):
    assert recovery(before, unlearned, after) == pytest.approx(expected)


def test_recovery_of_nothing_is_not_a_number():
    assert np.isnan(recovery(0.5, 0.5, 0.7))
    assert np.isnan(recovery(0.4, 0.5, 0.7))


def test_fine_tuning_on_unrelated_text_leaves_the_model_and_learns_the_text(model, tokenizer):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attacked = benign_finetune(model, ["unrelated words here"] * 4, tokenizer, steps=30, lr=1e-2, warmup=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    cost = capability_cost(attacked, model, tokenizer, pairs=[("words", " here")], texts=["unrelated words here"])
    assert cost["perplexity growth"] < -0.5
    assert cost["accuracy drop"] == -1.0
    with pytest.raises(ValueError, match="no texts"):
        benign_finetune(model, [], tokenizer)


def test_a_model_costs_nothing_against_itself(model, tokenizer):
    cost = capability_cost(model, model, tokenizer, pairs=[("words", " here")], texts=["unrelated words"])
    assert cost == {"accuracy drop": 0.0, "perplexity growth": 0.0}


def test_published_questions_are_read(tmp_path):
    file = tmp_path / "wmdp.jsonl"
    rows = [
        {"question": "Q ?", "choices": list("wxyz"), "answer": 2},
        {"question": "R ?", "choices": [1, 2, 3, 4], "answer": "B"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    first, second = read_questions(file)
    assert plain(first) == "Q ? A w B x C y D z Answer:"
    assert first.letter == "C"
    assert second.options == ("1", "2", "3", "4")
    assert second.answer == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q", "choices": ["a"], "answer": 0}, "needs a question and four choices"),
        ({"choices": list("abcd"), "answer": 0}, "needs a question and four choices"),
        ([1], "has no fields"),
        ({"question": "Q", "choices": list("abcd"), "answer": 4}, "answer must be 0 to 3 or A to D, got 4"),
        ({"question": "Q", "choices": list("abcd"), "answer": True}, "got True"),
        ({"question": "Q", "choices": list("abcd"), "answer": None}, "got None"),
    ],
)
def test_bad_questions_are_named(tmp_path, row, message):
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(UserError, match=message) as found:
        read_questions(file)
    assert f"{file}:1" in str(found.value)
