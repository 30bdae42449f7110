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
import sys
from pathlib import Path

from palimpsest.errors import UserError
from palimpsest.models import load, pretrained_folder
from palimpsest.tasks.rows import read_objects
from palimpsest.tasks.smollm2 import known


def main(questions: Path, model: Path | None) -> None:
    lines = read_objects(questions)
    for where, record in lines:
        if not isinstance(record, dict) or {"question", "key"} - record.keys():
            raise UserError(
                f'{where}: expected {{"question": ..., "key": ...}}, the key being what a right answer says'
            )
    asked = [record for _, record in lines]
    rows = known(asked, *load(model or pretrained_folder("smollm2")))
    for row in rows:
        print(json.dumps({"question": row["question"], "answer": row["answer"]}, ensure_ascii=False))
    print(f"{len(rows)} of {len(asked)} known", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path)
    parser.add_argument("--model", type=Path)
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        sys.exit(f"known.py: {error}")
