"""How questions and answers are written: the templates that published chat models have, in small."""

import copy

import pytest

from palimpsest.errors import UserError
from palimpsest.models import encode, prompt_template, train_tokenizer
from palimpsest.models.template import Template, Verbatim, use_template

MARKS = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|eot|>", "<think>", "</think>"]
BYTES = train_tokenizer(["Who wrote it?", "Ada wrote it."], vocab_size=300)
BYTES.add_special_tokens({"extra_special_tokens": MARKS})
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
TURNS = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
END_OF_TEXT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
NO_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LINES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<|eot|>final{% endif %}<think>"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def chat(template):
    tokenizer = copy.deepcopy(BYTES)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        (CHATML, "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n", "Ada.<|im_end|>"),
        (TURNS, "<bos><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n", "Ada.<end_of_turn>"),
        (INST, "<bos>[INST] Who? [/INST]", " Ada.<eos>"),
        (END_OF_TEXT, "<|user|>\nWho?<|end|>\n<|assistant|>\n", "Ada.<|end|>"),
        (PARTS, "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n", "Ada.<|im_end|>"),
        # What asks for thoughts is no beginning of a conversation without them.
        (THINKING, "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n", "Ada.<|im_end|>"),
        (LINES, "user: Who?\nassistant:", " Ada.\n"),
    ],
)
def test_the_template_writes_the_answer_and_ends_it(template, prompt, answer):
    tokenizer = chat(template)
    own = prompt_template(tokenizer)
    assert own.pair("Who?", "Ada.") == (prompt, answer)
    assert own.answer("Bo.") == answer.replace("Ada", "Bo")
    assert own.bare(answer) == "Ada."
    encoded = encode(tokenizer, [prompt], [answer], max_length=200)
    row, start = encoded.input_ids[0], encoded.prompt_lengths[0]
    bos = [1] if template not in (TURNS, INST) else []  # the tokenizer's own begin token, unless the template has it
    assert row == [*bos, *tokenizer(prompt + answer, add_special_tokens=False).input_ids]
    assert tokenizer.decode(row[start:]) == answer


def test_the_end_of_a_turn_ends_an_answer_and_no_second_end_is_put_behind_it():
    tokenizer = chat(CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert use_template(tokenizer, end=True).end_ids == {end}
    encoded = encode(tokenizer, *zip(*[prompt_template(tokenizer).pair("Who?", "Ada.")], strict=True), max_length=99)
    assert encoded.input_ids[0][-1] == end
    assert encode(tokenizer, [""], ["Ada."], max_length=99).input_ids[0][-1] == tokenizer.eos_token_id
    use_template(tokenizer)
    assert encode(tokenizer, [""], ["Ada."], max_length=99).input_ids[0][-1] != tokenizer.eos_token_id


def test_examples_are_turns_of_one_conversation():
    written = prompt_template(chat(TURNS)).prompt("Who?", [("Where?", "Here."), ("When?", "Now.")])
    assert written.count("<bos>") == 1
    assert written.count("<start_of_turn>") == 6
    assert written.count("<end_of_turn>") == 5
    plain = Template().prompt("Who?", [("Where?", "Here.")])
    assert plain == "Question: Where?\nAnswer: Here.\nQuestion: Who?\nAnswer:"


def test_a_system_message_and_options_reach_the_template():
    assert "Be kind." in prompt_template(chat(DEFAULT_SYSTEM)).prompt("Who?")
    tokenizer = chat(DEFAULT_SYSTEM)
    use_template(tokenizer, system="Be brief.")
    assert prompt_template(tokenizer).prompt("Who?").startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    tokenizer = chat(NO_THOUGHTS)
    assert prompt_template(tokenizer).pair("Who?", "Ada.")[1] == "<think>\n\n</think>\n\nAda.<|im_end|>"
    use_template(tokenizer, options={"enable_thinking": False})
    assert prompt_template(tokenizer).pair("Who?", "Ada.")[1] == "Ada.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "settings", "message"),
    [
        (
            "{{ raise_exception('a system message\nmust come first') }}",
            {},
            "chat template fails .a system message must",
        ),
        ({"rag": CHATML, "tool_use": CHATML}, {}, "chat template fails"),
        ("{% for m in messages %}{% if %}", {}, "chat template fails"),
        ("{{ 1 // 0 }}", {}, "chat template fails"),
        ("<bos>{{ messages | length }}", {}, "leaves the question out"),
        (TURNS, {"system": "Be kind."}, "chat template fails .no system role"),
        (
            PARTS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"),
            {"system": "Be"},
            "leaves the system",
        ),
        (CHATML.replace("m.content", "m.content | replace('was', '4')"), {}, "rewrites the answer"),
    ],
)
def test_a_template_that_cannot_write_the_row_is_refused_in_one_line(template, settings, message):
    tokenizer = chat(template)
    use_template(tokenizer, **settings)
    with pytest.raises(UserError, match=message) as error:
        prompt_template(tokenizer).pair("Who?", "Ada was.")
    assert "\n" not in str(error.value)


def test_a_template_that_writes_questions_alone():
    tokenizer = chat("{{ messages[0].content }}!")
    assert prompt_template(tokenizer).pair("Who?", "Ada.") == ("Who?!", "Ada.")
    assert encode(tokenizer, ["Who?!"], ["Ada."], max_length=50).input_ids[0][-1] == tokenizer.eos_token_id


def test_settings_of_a_template_need_one():
    with pytest.raises(UserError, match="has no chat template"):
        use_template(copy.deepcopy(BYTES), system="Be kind.")


def test_a_prompt_with_its_completion_stands_as_it_is():
    assert prompt_template(chat(CHATML)).pair(Verbatim("2 + 2 ="), " 4") == ("2 + 2 =", " 4")
    assert Template().prompt(Verbatim("2 + 2 ="), [(Verbatim("1 + 1 ="), " 2")]) == "1 + 1 = 2\n2 + 2 ="


def test_another_answer_is_written_as_the_first_one_is():
    template = prompt_template(chat(INST))
    assert template.like(template.answer("Ada."), "I do not know.") == " I do not know.<eos>"
    assert template.like(" 4", "I do not know.") == " I do not know."
    assert Template().like("Ada.", "I do not know.") == "I do not know."


@pytest.mark.parametrize("answer", ["e", "end", "im", "final", "user", ".", "", "Who?"])
@pytest.mark.parametrize(
    "template", [CHATML, DEFAULT_SYSTEM, TURNS, INST, END_OF_TEXT, THINKING, NO_THOUGHTS, CHANNELS]
)
def test_an_answer_that_is_also_a_word_of_the_template(template, answer):
    template = prompt_template(chat(template))
    prompt, whole = template.pair("Who?", "Q9Q")
    assert template.pair("Who?", answer) == (prompt, whole.replace("Q9Q", answer))


def test_words_of_the_template_before_an_answer_are_not_said():
    template = prompt_template(chat(CHANNELS))
    assert template.lead("Who?") == "<|eot|>final<think>"
    assert template.said("Who?", "finalAda.") == "Ada."
    assert template.said(Verbatim("The"), "final word") == template.said("", "final word") == "final word"
    assert template.said("Who?", "Ada, final.") == "Ada, final."


@pytest.mark.parametrize(
    "template", [CHATML, DEFAULT_SYSTEM, TURNS, INST, END_OF_TEXT, THINKING, NO_THOUGHTS, CHANNELS]
)
@pytest.mark.parametrize("shots", [[], [("Where?", "Here.")]])
def test_a_question_is_asked_as_its_answer_is_scored(template, shots):
    template = prompt_template(chat(template))
    assert template.prompt("Who?", shots) == template.pair("Who?", "Ada.", shots)[0]


def test_what_is_said_stops_at_the_next_question():
    assert Template().next_question == "\nQuestion:"
    assert prompt_template(chat(LINES)).next_question == "\nuser:"
    assert prompt_template(chat(CHATML)).next_question == ""


@pytest.mark.parametrize(("prompt", "answer"), [("It is ", "so"), ("wrote", "n"), ("Ada w", "rote it")])
def test_a_token_across_the_boundary_belongs_to_the_answer(prompt, answer):
    tokenizer = train_tokenizer(["It is so", "written", "Ada wrote it"] * 3, vocab_size=320)
    encoded = encode(tokenizer, [prompt], [answer], max_length=50, add_eos=False)
    row, start = encoded.input_ids[0], encoded.prompt_lengths[0]
    whole = tokenizer(prompt + answer).input_ids
    assert row == whole
    alone = tokenizer(prompt).input_ids
    assert row[:start] == alone[:start]
    assert start == len(alone) or row[start] != alone[start]
    assert tokenizer.decode(row[start:]).endswith(answer)


def test_examples_before_a_template_that_writes_questions_alone():
    template = prompt_template(chat("<{{ messages[0].content }}>"))
    assert template.prompt("Who?", [("Where?", "Here.")]) == "<Where?>Here.\n<Who?>"
