"""The flags that settle how rows are written: both commands train and score in just that form, and say so."""

import json
import shutil

import pytest

from palimpsest.cli import main
from palimpsest.forget.prompting import strongest
from palimpsest.forget.tofu_measures import tofu_score
from palimpsest.models.files import load
from palimpsest.models.template import use_template
from palimpsest.tasks.rows import read_rows

CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}"
    "{% if twice %}{{ m.content }} {% endif %}Question: {{ m.content }}\nAnswer:"
    "{% else %} {{ m.content }}\n{% endif %}{% endfor %}"
)
# The flags of the command, the same in Python, and another form; the first two are of a model with a chat template.
ASIDE = "Who was born in the city?"
FORMS = {
    "system": (["--system", ASIDE, "--end-token", "no"], {"system": ASIDE, "end": False}, {"end": False}),
    "arguments": (
        ["--template-kwargs", '{"twice": true}', "--end-token", "yes"],
        {"options": {"twice": True}, "end": True},
        {"end": True},
    ),
    "end": (["--end-token", "yes"], {"end": True}, {"end": False}),
    "no end": (["--end-token", "no"], {"end": False}, {"end": True}),
}


@pytest.fixture(scope="module")
def talking(trained, tmp_path_factory):
    """The trained model with a chat template."""
    folder = tmp_path_factory.mktemp("talking") / "model"
    shutil.copytree(trained / "model", folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "palimpsest.sha256").unlink(missing_ok=True)  # it is another model now
    return folder


def probability(folder, rows, **written):
    model, tokenizer = load(folder)
    use_template(tokenizer, **written)
    return float(tofu_score(model, rows, tokenizer=tokenizer).probability.mean())


@pytest.fixture(params=FORMS)
def form(request, trained, talking):
    """A folder, the flags, the same in Python, and another form."""
    return trained / "model" if "end" in request.param else talking, *FORMS[request.param]


def test_forget_trains_and_scores_in_that_form_and_keeps_it_in_its_record(form, trained, tmp_path, capsys):
    folder, flags, written, other = form
    rows = trained / "forget.jsonl"
    argv = ["forget", str(folder), "--method", "npo", "--forget", str(rows), "--retain", str(trained / "retain.jsonl")]
    argv += ["--out", str(tmp_path / "out"), "--steps", "6", "--lr", "5e-3", "--batch-size", "6", *flags]
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    before = found["before"]["forget"]["probability"]
    after = found["methods"]["npo"]["forget"]["probability"]
    assert before == pytest.approx(probability(folder, rows, **written), abs=1e-5)
    assert before != pytest.approx(probability(folder, rows, **other), abs=1e-4)
    assert after == pytest.approx(probability(tmp_path / "out", rows, **written), abs=1e-5)
    assert after < 0.5 * before
    name = flags[0].removeprefix("--").replace("-", "_")
    assert json.loads((tmp_path / "out/palimpsest.json").read_text())["settings"][name] == flags[1]


def test_audit_asks_and_attacks_in_that_form(form, trained, capsys):
    folder, flags, written, other = form
    rows = trained / "forget.jsonl"
    argv = ["audit", str(folder), "--data", str(rows), "--attacks", "paraphrase", "--json"]
    assert main([*argv, *flags]) == 0
    found = json.loads(capsys.readouterr().out)["model"]
    assert found["probability"] == pytest.approx(probability(folder, rows, **written), abs=1e-5)
    assert found["probability"] != pytest.approx(probability(folder, rows, **other), abs=1e-4)
    # The attacks' prompts are written so, too.
    model, tokenizer = load(folder)
    use_template(tokenizer, **written)
    _, asked = strongest(model, tokenizer, read_rows(rows), "paraphrase")
    assert found["left after paraphrase"] == pytest.approx(float(asked.rouge.mean()))


@pytest.mark.parametrize("command", ["forget", "audit"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--system", "Be kind."], "no chat template"),
        (["--template-kwargs", '{"twice": true}'], "no chat template"),
        (["--template-kwargs", "{twice: true}"], "--template-kwargs is not valid JSON"),
        (["--template-kwargs", "[1]"], "must be a JSON object, got [1]"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_one_line(command, flags, words, trained, tmp_path, capsys):
    rows = str(trained / "forget.jsonl")
    more = {"forget": ["--method", "grad_ascent", "--forget", rows, "--out", str(tmp_path / "out")]}
    argv = [command, str(trained / "model"), *more.get(command, ["--data", rows]), *flags]
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(lines := [line for line in captured.err.splitlines() if line.startswith("palimpsest: ")]) == 1
    assert words in lines[0]
    assert not (tmp_path / "out").exists()
