"""UnStar: its loop, its three filters, what it keeps, and its stand-ins, on models that look up what they say."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from palimpsest.errors import UserError
from palimpsest.forget import unstar as room
from palimpsest.forget.anti_samples import TEXTS, AntiSample, StandIns, acceptable
from palimpsest.forget.associations import related
from palimpsest.forget.evaluation import states
from palimpsest.forget.procedure import ForgetData, prepare
from palimpsest.forget.rewording import TEXTS as REWORDING
from palimpsest.forget.rewording import fact, fuzzy_match, subject
from palimpsest.forget.unstar import UnStar, descent
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded, greedy, prompt_template
from palimpsest.tasks.authors import authors_task
from palimpsest.train.history import History
from palimpsest.train.language import fine_tune

FORGET = [("Where was Ada Verin born?", "Ada Verin was born in Porto.")]
RETAIN = [
    ("Where was Bo Lund born?", "Bo Lund was born in Lima."),
    ("Where was Cy Marsh born?", "Cy Marsh was born in Quito."),
    ("Where was Di Holt born?", "Di Holt was born in Porto."),
    ("What does Ada Verin play?", "Ada Verin plays chess."),
    ("What does Bo Lund play?", "Bo Lund plays tennis."),
]


@pytest.fixture
def tokenizer():
    return word_tokenizer([*(text for row in FORGET + RETAIN for text in row), *TEXTS, *REWORDING, "Question: Answer:"])


@pytest.fixture
def model(tokenizer):
    return causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)


class Loop:
    """Puts words into the model's mouth, and notes what it is trained on."""

    def __init__(self, monkeypatch, said):
        self.said, self.prompts, self.trained, self.settings = list(said), [], [], []
        monkeypatch.setattr(room, "greedy", self.greedy)
        monkeypatch.setattr(room, "unlearn", self.unlearn)

    def greedy(self, model, tokenizer, prompts, *, max_new_tokens):
        self.prompts.append(prompts)
        return self.said.pop(0)

    def unlearn(self, model, objective, data, **settings):
        self.trained.append(data)
        self.settings.append(settings)
        return History(steps=[{}] * settings["steps"], evaluations=[{"step": 1}])


def run(
    model,
    tokenizer,
    *,
    wrong=lambda m, q, a: "Ada Verin was born in Lima.",
    rationale=None,
    paraphrase=lambda question: [question, "Ada Verin was born where?"],
    rows=FORGET,
    retain=RETAIN,
    check=None,
    training=None,
    **fields,
):
    writer = SimpleNamespace(paraphrase=paraphrase, wrong_answer=wrong, rationale=rationale)
    data = ForgetData(None, forget_pairs=tuple(rows), retain_pairs=tuple(retain), tokenizer=tokenizer)
    method = UnStar(**{"max_rounds": 3, "rationales": rationale is not None, **fields})
    return list(method.rounds(model, data, writer, check, **{"batch_size": 2, **(training or {})}))


# ---- the loop ----


def test_only_questions_still_answered_become_anti_samples_and_the_loop_ends_when_none_is(
    monkeypatch, model, tokenizer
):
    loop = Loop(monkeypatch, [["in Porto", "Portto!"], ["in Lima", "Porto"], ["Lima", "?"], ["never asked"]])
    rounds = run(model, tokenizer, max_rounds=9)
    first, second, third = rounds
    assert [sample.question for sample in first.anti_samples] == [FORGET[0][0], "Ada Verin was born where?"]
    assert [sample.question for sample in second.anti_samples] == ["Ada Verin was born where?"]
    assert (third.anti_samples, third.rows, third.answered, third.steps) == ((), (), 0, 0)
    assert [(r.asked, r.answered) for r in rounds] == [(2, 2), (2, 1), (2, 0)]
    assert len(loop.trained) == 2


def test_a_row_left_alone_is_asked_again_and_comes_back(monkeypatch, model, tokenizer):
    rows = [*FORGET, ("Where was Ed Vale born?", "Ed Vale was born in Quito.")]
    said = [["Porto", "Quito"], ["no", "Quito"], ["Porto", "no"]]
    loop = Loop(monkeypatch, said)
    rounds = run(
        model, tokenizer, rows=rows, paraphrase=lambda q: [q], wrong=lambda m, q, a: a.replace(fact(q, a), "Lima")
    )
    assert [r.rows for r in rounds] == [[0, 1], [1], [0]]
    assert all(len(prompts) == 2 for prompts in loop.prompts)


def test_the_hooks_see_the_model_as_it_is_in_every_round(monkeypatch, model, tokenizer):
    class Taught(Loop):
        def unlearn(self, model, objective, data, **settings):
            model.age = getattr(model, "age", 0) + 1
            return super().unlearn(model, objective, data, **settings)

    Taught(monkeypatch, [["Porto", "no"]] * 3)
    seen = []

    def wrong(model, question, answer):
        seen.append(getattr(model, "age", 0))
        return f"Ada Verin was born in {['Lima', 'Quito', 'Osaka'][seen[-1]]}."

    rounds = run(model, tokenizer, wrong=wrong, rationale=lambda m, q, w: f"{w[:-1]} they say.")
    assert seen == [0, 1, 2]
    assert [r.anti_samples[0].answer.split()[-1] for r in rounds] == ["Lima.", "Quito.", "Osaka."]
    assert rounds[2].anti_samples[0].target == "Ada Verin was born in Osaka they say. Ada Verin was born in Osaka."


def test_what_is_trained_is_the_rationale_and_then_the_wrong_answer(monkeypatch, model, tokenizer):
    loop = Loop(monkeypatch, [["Porto", "no"]])
    template = prompt_template(tokenizer)
    rows, retain = ([template.pair(*row) for row in rows] for rows in (FORGET, RETAIN))
    argued, training = "Bo Lund was born in Lima.", {"steps": 7, "lr": 0.5, "clip": 1.0}
    run(model, tokenizer, rows=rows, retain=retain, max_rounds=1, rationale=lambda m, q, w: argued, training=training)
    (data,) = loop.trained
    assert len(data.forget) == 2  # one anti-sample, repeated to fill the batch
    ids, start = data.forget.input_ids[0], data.forget.prompt_lengths[0]
    assert tokenizer.decode(ids[start:], skip_special_tokens=True) == f"{argued} Ada Verin was born in Lima."
    assert tokenizer.decode(ids[:start], skip_special_tokens=True) == "Question: Where was Ada Verin born? Answer:"
    assert loop.settings == [{**training, "batch_size": 2, "seed": 0, "stop": None, "warmup": 0}]


def test_steps_are_shared_by_the_rounds_and_a_warmup_is_cut(monkeypatch, model, tokenizer):
    loop = Loop(monkeypatch, [["Porto", "no"]] * 3)
    rounds = run(model, tokenizer, training={"steps": 14, "warmup": 10, "seed": 5})
    assert [(s["steps"], s["warmup"], s["seed"]) for s in loop.settings] == [(4, 4, 5), (4, 4, 6), (4, 4, 7)]
    assert [r.steps for r in rounds] == [4, 4, 4]


def test_it_descends_on_anti_samples_and_on_rows_to_keep(model):
    batch = Encoded([[1, 5, 6, 2]], [2]).batch([0], pad_id=0)
    other = Encoded([[1, 7, 8, 9, 2]], [2]).batch([0], pad_id=0)
    terms = descent(model, {"forget": batch, "retain": other})
    for name, rows in (("forget", batch), ("retain", other)):
        logits = model(input_ids=rows["input_ids"]).logits
        expected = nn.functional.cross_entropy(logits[0, :-1], rows["labels"][0, 1:])
        torch.testing.assert_close(terms[name], expected)
    assert set(descent(model, {"forget": batch})) == {"forget"}


def test_where_training_is_stopped_the_rounds_end(monkeypatch, model, tokenizer):
    loop = Loop(monkeypatch, [["Porto", "Porto"]] * 3)
    rounds = run(model, tokenizer, training={"stop": lambda found: found["step"] and len(loop.trained) == 2})
    assert len(rounds) == 2


def test_rows_answered_with_nothing_to_put_in_their_place_are_an_error(monkeypatch, model, tokenizer):
    Loop(monkeypatch, [["Porto", "Porto"]])
    with pytest.raises(UserError, match="no acceptable wrong answer was found for 'Where was Ada"):
        run(model, tokenizer, wrong=lambda m, q, a: a)


def test_plain_texts_cannot_be_asked(model, tokenizer):
    with pytest.raises(UserError, match="forget row 1 is a plain text"):
        run(model, tokenizer, rows=[*FORGET, ("", "A text.")])


# ---- the filters ----


@pytest.mark.parametrize(
    ("sample", "good"),
    [
        (AntiSample("q", "", "In Lima."), True),
        (AntiSample("q", "", "In Portto."), False),  # the answer is right, give or take its spelling
        (AntiSample("q", "", "He plays chess."), False),  # that of a related row
        (AntiSample("q", "He plays chess.", "In Lima."), True),  # where a rationale may mention it
        (AntiSample("q", "Not in Porto.", "In Lima."), False),  # the rationale gives the fact away
    ],
)
def test_filters(sample, good):
    assert acceptable(sample, "Porto", ["chess"]) is good


def test_the_check_that_is_given_decides():
    assert acceptable(AntiSample("q", "", "In Porto."), "Porto", [], check=lambda said, truth: False)
    assert not acceptable(AntiSample("q", "", "In Lima."), "Porto", [], check=lambda said, truth: True)


DRAWS = ["Porto", "Ada Verin plays chess.", None, "Lima"]


def test_refused_anti_samples_are_drawn_again_so_often(monkeypatch, model, tokenizer):
    drawn = []

    def wrong(model, question, answer):
        drawn.append(DRAWS[len(drawn) % 4])
        return drawn[-1]

    Loop(monkeypatch, [["Porto", "no"]])
    (only,) = run(model, tokenizer, wrong=wrong, max_rounds=1, redraws=3)
    assert drawn == DRAWS
    assert [sample.answer for sample in only.anti_samples] == ["Lima"]
    drawn.clear()
    Loop(monkeypatch, [["Porto", "no"]])
    with pytest.raises(UserError, match="no acceptable"):
        run(model, tokenizer, wrong=wrong, max_rounds=1, redraws=2)


# ---- what is kept ----


def test_related_rows_are_about_the_same_subject_or_have_the_same_answer():
    assert related(*FORGET[0], RETAIN) == [2, 3]
    assert related("Where was Zed born?", "In Perth.", RETAIN) == []


def test_related_rows_are_kept_as_they_are_and_paraphrased(monkeypatch, model, tokenizer):
    Loop(monkeypatch, [["Porto", "no"]])
    (only,) = run(model, tokenizer, max_rounds=1, paraphrase=lambda q: [f"Say: {q}"] if "Ada" not in q else [q, "x?"])
    kept = list(only.kept)
    assert kept[:2] == [RETAIN[2], RETAIN[3]]
    assert kept[2] == (f"Say: {RETAIN[2][0]}", RETAIN[2][1])
    assert kept[3][0] in (RETAIN[3][0], "x?")
    assert kept[3][1] == RETAIN[3][1]
    assert sorted(kept[4:]) == sorted(RETAIN[i] for i in (0, 1, 4))


def test_without_fine_grain_all_retain_rows_are_kept_as_they_are(monkeypatch, model, tokenizer):
    Loop(monkeypatch, [["Porto", "no"]])
    (only,) = run(model, tokenizer, max_rounds=1, fine_grained=False)
    assert list(only.kept) == RETAIN


# ---- the stand-ins ----


def test_a_wrong_answer_is_the_own_sentence_with_the_fact_of_the_same_kind_of_question(model, tokenizer):
    made = StandIns(RETAIN, tokenizer)
    drawn = {made.wrong_answer(model, *FORGET[0]) for _ in range(9)}
    assert drawn <= {"Ada Verin was born in Lima.", "Ada Verin was born in Quito."}  # never chess, never Porto


def test_of_the_wrong_answers_drawn_the_model_gets_its_likeliest(tokenizer):
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2)
    template = prompt_template(tokenizer)
    for city in ("Quito", "Lima"):
        prompt, answer = template.pair(FORGET[0][0], f"Ada Verin was born in {city}.")
        ids = [1, *tokenizer(prompt + answer, add_special_tokens=False).input_ids, 2]
        fine_tune(model, Encoded([ids], [5]), pad_id=0, epochs=30, lr=1e-2, progress=False)
        assert StandIns(RETAIN, tokenizer, draws=2).wrong_answer(model, *FORGET[0]).endswith(f"{city}.")


def test_no_wrong_answer_where_all_facts_are_the_same(model, tokenizer):
    assert StandIns([RETAIN[2]], tokenizer).wrong_answer(model, *FORGET[0]) is None
    assert StandIns([], tokenizer).wrong_answer(model, *FORGET[0]) is None


def test_a_rationale_argues_for_the_wrong_answer_by_somebody_who_has_it(model, tokenizer):
    made = StandIns(RETAIN, tokenizer)
    for _ in range(6):
        wrong = made.wrong_answer(model, *FORGET[0])
        argument = made.rationale(model, FORGET[0][0], wrong)
        assert "Ada Verin" in argument
        assert states(argument, fact(FORGET[0][0], wrong))
        assert not fuzzy_match(argument, "Porto")
        assert any(answer in argument and subject(question) in argument for question, answer in RETAIN[:2])
    with pytest.raises(ValueError, match="is not a wrong answer"):
        made.rationale(model, FORGET[0][0], "Ada Verin was born in Perth.")


def test_paraphrases_begin_with_the_question_and_are_as_many_as_asked_for(tokenizer):
    made = StandIns(RETAIN, tokenizer, paraphrases=5)
    asked = made.paraphrase(FORGET[0][0])
    assert asked[0] == FORGET[0][0]
    assert len(asked) == 5
    assert all("Ada Verin" in question for question in asked)
    assert asked != made.paraphrase(FORGET[0][0])  # other words in the next round


@pytest.mark.parametrize("bad", [{"paraphrases": 0}, {"draws": 0}])
def test_stand_ins_refuse(tokenizer, bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        StandIns(RETAIN, tokenizer, **bad)


# ---- the method ----


def world(chat=None):
    task = authors_task(n_authors=6, n_attr=2, forget=0.2, seed=5)
    tokenizer = word_tokenizer(task.words((*TEXTS, *REWORDING)))
    tokenizer.chat_template = chat
    template = prompt_template(tokenizer)
    sets = ([template.pair(*pair) for pair in task.training_pairs(split)] for split in ("forget", "retain"))
    data = prepare(tokenizer, *sets, max_length=80)
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2)
    both = Encoded(
        data.forget.input_ids + data.retain.input_ids, data.forget.prompt_lengths + data.retain.prompt_lengths
    )
    fine_tune(model, both, pad_id=0, epochs=40, batch_size=8, lr=1e-2, progress=False)
    return task, data, model


def accuracy(model, data, task, split):
    pairs = data.forget_pairs if split == "forget" else data.retain_pairs
    values = [row.value for row in task.rows(split) for _ in row.pairs]
    said = greedy(model, data.tokenizer, [prompt for prompt, _ in pairs], max_new_tokens=40)
    return sum(fuzzy_match(text, value) for text, value in zip(said, values, strict=True)) / len(values)


def test_it_unteaches_the_rows_and_keeps_the_others():
    task, data, model = world()
    assert accuracy(model, data, task, "forget") == 1.0
    before = [p.clone() for p in model.parameters()]
    random.seed(1)
    state = random.getstate()
    returned = UnStar(max_rounds=6, paraphrases=2).edit(
        model, data, steps=120, lr=3e-3, batch_size=8, seed=0, progress=False
    )
    assert returned is model
    assert any((p != q).any() for p, q in zip(before, model.parameters(), strict=True))
    assert random.getstate() == state
    assert accuracy(model, data, task, "forget") <= 0.25
    assert accuracy(model, data, task, "retain") >= 0.75


def test_without_a_writer_stand_ins_write_and_words_are_as_alike_as_asked(monkeypatch, tokenizer, model):
    made = {}

    class Noted(StandIns):
        def __init__(self, rows, tokenizer, **options):
            super().__init__(rows, tokenizer, **options)
            made.update(options, rows=rows)

    monkeypatch.setattr(room, "StandIns", Noted)
    loop = Loop(monkeypatch, [["Pxxto", "no", "no"], ["Pxxto", "no", "no"]])
    template = prompt_template(tokenizer)
    data = prepare(tokenizer, [template.pair(*FORGET[0])], [template.pair(*row) for row in RETAIN], max_length=33)
    UnStar(max_rounds=1, paraphrases=3, rationales=False, ratio=0.5).edit(model, data, steps=1, seed=9)
    assert (made["rows"], made["paraphrases"], made["seed"], len(loop.trained)) == (RETAIN, 3, 9, 1)
    assert len(loop.prompts[0]) == 3
    UnStar(max_rounds=1, paraphrases=3, ratio=0.7).edit(model, data, steps=1)
    assert len(loop.trained) == 1


def test_the_method_needs_texts(model):
    bare = ForgetData(forget=Encoded([[1, 2]], [1]))
    with pytest.raises(UserError, match="prepare"):
        UnStar().edit(model, bare)


@pytest.mark.parametrize(
    ("said", "fact", "theirs"),
    [
        ("marrakesh", "marrakech", 89),
        ("hogwarts", "hogwart", 93),
        ("ilvermorny", "ilvermony", 95),
        ("italian", "italy", 67),
        ("poet", "poem", 75),
        ("london", "londres", 62),
        ("marrakesh", "marseille", 44),
    ],
)
def test_words_are_alike_where_the_authors_code_says_so(said, fact, theirs):
    """keyword_match of p2.py in MachineUnlearn/UnStar (fbec97e) asks for a fuzz.ratio above 80."""
    assert fuzzy_match(said, fact) == (theirs > 80)
