"""A small model that knows its rows, and the files that the commands take."""

import json

import pytest

from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.files import save
from palimpsest.models.language import causal_lm
from palimpsest.models.score import Template, encode
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.authors import authors_task
from palimpsest.train.language import fine_tune


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a model that knows eight authors, and its rows as JSON lines."""
    folder = tmp_path_factory.mktemp("trained")
    task = authors_task(8, 3, forget=0.25, seed=11)
    tokenizer = word_tokenizer(task.words(REFUSALS))
    model = causal_lm(len(tokenizer), d_model=48, n_layers=1, n_heads=2, max_length=64)
    template = Template()
    rows = [pair for split in ("forget", "retain") for pair in task.training_pairs(split)]
    encoded = encode(
        tokenizer, [template.prompt(q) for q, _ in rows], [template.answer(a) for _, a in rows], max_length=64
    )
    fine_tune(model, encoded, pad_id=0, epochs=60, batch_size=16, lr=1e-2, schedule="linear", progress=False)
    save(model, tokenizer, folder / "model")
    task.write_jsonl(folder)
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
