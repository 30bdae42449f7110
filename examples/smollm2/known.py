"""Which of these questions does a chat model know, and how does it say it?

    python examples/smollm2/known.py questions.jsonl > known.jsonl

A line of the input is {"question": "What is the capital of Egypt?", "key": "Cairo"}. The model, SmolLM2-135M-Instruct
or the folder given by --model, answers greedily through its chat template. Where its answer holds the key, its
beginning up to the end of the clause with the key is written as a row, {"question": ..., "answer": ...}; other
questions it does not know. Rows in a model's own words are what it can lose: an answer that it would word otherwise
("Cairo.") has a low probability from the start. The files beside this program were made so, and then looked through.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from palimpsest.errors import UserError
from palimpsest.models import greedy, load, pretrained_folder, prompt_template
from palimpsest.tasks.rows import read_objects

CLAUSE_END = re.compile(r"[.!?](?=\s|$)|[,;:](?=\s)|\s\(|\n")
LONGEST = 14  # words


def clause(said: str, key: str) -> str | None:
    """The beginning of what was said, as far as the end of the clause that holds the key; None where none does, or the
    beginning is longer than 14 words.

    >>> clause("The capital of Egypt is Cairo, which lies on the Nile.", "Cairo")
    'The capital of Egypt is Cairo.'
    """
    ends = [match.start() for match in CLAUSE_END.finditer(said)]
    holds = (said[:end] for end in ends if re.search(rf"\b{re.escape(key)}\b", said[:end], re.IGNORECASE))
    begin = next(holds, None)
    return f"{begin}." if begin is not None and len(begin.split()) <= LONGEST else None


def main(questions: Path, model: Path | None) -> None:
    lines = read_objects(questions)
    for where, record in lines:
        if not isinstance(record, dict) or {"question", "key"} - record.keys():
            raise UserError(
                f'{where}: expected {{"question": ..., "key": ...}}, the key being what a right answer says'
            )
    asked = [record for _, record in lines]
    model, tokenizer = load(model or pretrained_folder("smollm2"))
    template = prompt_template(tokenizer)
    said = greedy(model, tokenizer, [template.prompt(record["question"]) for record in asked], max_new_tokens=24)
    n_known = 0
    for record, output in zip(asked, said, strict=True):
        if answer := clause(output.strip(), record["key"]):
            n_known += 1
            print(json.dumps({"question": record["question"], "answer": answer}, ensure_ascii=False))
    print(f"{n_known} of {len(asked)} known", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path)
    parser.add_argument("--model", type=Path)
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"known.py: {error}")
