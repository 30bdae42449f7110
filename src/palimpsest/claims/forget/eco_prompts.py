"""Does a model that hears flagged questions through noise keep what training loses? (Liu et al. 2024, 2406.07933)"""

from __future__ import annotations

import numpy as np

from palimpsest.benches.arm import Recipe
from palimpsest.benches.authors_kit import FORGOTTEN
from palimpsest.benches.mixture import MIXTURE
from palimpsest.benches.mixture_kit import Mixture
from palimpsest.evidence.sentences import at_least, at_most, beats, mechanism, safety
from palimpsest.forget.eco_prompts import ECO
from palimpsest.forget.evaluation import states
from palimpsest.forget.refusal_guard import RefusalGuard
from palimpsest.models.score import greedy, prompt_template
from palimpsest.train.method import Applied

NEW = "forget accuracy, new wording"


def at_the_gate(world: Mixture, applied: Applied) -> dict[str, float]:
    """What gets past the gate in a wording that neither the model nor the gate was trained on, and, where there is a
    gate, what it misses and whom it stops by mistake."""
    model, tokenizer, rows = applied.model, world.authors.tokenizer, world.rows("test")
    template, forget = prompt_template(tokenizer), world.asked("test")["forget"]
    asked = [template.prompt(row.q_para) for row in forget]
    said = greedy(model, tokenizer, asked, max_new_tokens=4 if world.smoke else 24)
    found = {NEW: float(np.mean([states(answer, row.value) for answer, row in zip(said, forget, strict=True)]))}
    gate = model.eco.gate if hasattr(model, "eco") else getattr(model, "gate", None)
    if gate is None:
        return found

    def flagged(questions: list[str]) -> float:
        ids = tokenizer([template.prompt(question) for question in questions], add_special_tokens=False)["input_ids"]
        return float(gate.flags(tokenizer.batch_decode(ids, skip_special_tokens=True)).float().mean())

    others = [row.q for split in ("retain", "real_authors", "world_facts") for row in rows[split]]
    others += [problem.question for problem in world.authors.problems]
    misses = {"gate misses": [row.q for row in forget], "gate misses, new wording": [row.q_para for row in forget]}
    found |= {name: 1 - flagged(questions) for name, questions in misses.items()}
    return {**found, "gate false alarms": flagged(others)}


claim = MIXTURE.claim(
    paper="eco_prompts",
    question=(
        "When the prompts that a gate flags are corrupted on their way in, and no weight is touched, has the model "
        "lost less of the rest than one trained by gradient difference, does it answer the flagged ones more like a "
        "retrained model than one that refuses them, and does a new wording get past the gate?"
    ),
    method=Recipe(ECO(encoder="minilm"), grid={"confidence": [0.5, 0.99], "n": [1, 4]}),
    arms={"base": Recipe(start="base"), "refusal guard": Recipe(RefusalGuard(encoder="minilm"))},
    then=at_the_gate,
    alive=[at_most(FORGOTTEN, on="forget probability above gold"), at_least(0.5, on=NEW, arm="base")],
    central=beats("grad_diff", on="model utility", share_of_room=0.10),
    also=[
        mechanism(beats("refusal guard", on="log10 forget quality", by=1.0)),
        safety(at_most(0.1, on="gate misses, new wording")),
    ],
    differs=(
        "A two-layer model is to forget 10 of 20 authors; gradient difference is given five others to keep, which the "
        "gate is fitted on too, and stops where the forgotten answers are as unlikely as to a retrained model, which "
        "the corruption is only checked for. The gate is a logistic regression on frozen MiniLM embeddings, where the "
        "paper fine-tunes RoBERTa; its confidence is tuned, and it sees no sum and no question about the real world. "
        "The strength is searched for on ROUGE-L, against the answers to the most similar retained prompts. Answers "
        "that are scored are heard through the noise too. The weights still hold all: whoever has them has not been "
        "made to forget."
    ),
)
