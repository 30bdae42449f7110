"""One unlearning run on the authors world, scored as TOFU scores it: what the claims of the family repeat.

The world's base model is trained to know all authors, then made to forget a fifth of them; forget quality compares it
with the gold model, which never saw them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from palimpsest.errors import NotFinite
from palimpsest.forget.intervention import Intervention, intervene
from palimpsest.forget.procedure import ForgetData, prepare, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.tofu_measures import TofuScores, evaluate_tofu
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.score import greedy, prompt_template, score
from palimpsest.tasks.authors import AuthorRow
from palimpsest.tasks.worlds import MAX_TOKENS, AuthorsWorld, cached
from palimpsest.train import NonFiniteLoss

Curve = list[tuple[float, float]]
SMOKE = {"n_authors": 6, "n_attr": 2, "d_model": 32, "n_layers": 1, "epochs": 1}


@dataclass(frozen=True)
class AuthorsTrial:
    """A seed's world, with what every run on it shares.

    Attributes:
        seed: of the world and of the order of the rows.
        smoke: a world of six authors and an untrained model, to see that everything runs.
        max_rows: how many rows of each retained set are scored.
    """

    seed: int
    smoke: bool = False
    max_rows: int = 32

    @cached_property
    def world(self) -> AuthorsWorld:
        world = AuthorsWorld(self.seed, vocabulary=REFUSALS)
        return replace(world, **SMOKE) if self.smoke else world

    @cached_property
    def data(self) -> ForgetData:
        template = prompt_template(self.world.tokenizer)
        forget, retain = (
            [template.pair(*pair) for pair in self.world.task.training_pairs(split)] for split in ("forget", "retain")
        )
        return prepare(self.world.tokenizer, forget, retain, max_length=MAX_TOKENS, seed=self.seed)

    @cached_property
    def gold_truth_ratios(self) -> np.ndarray:
        """R of the gold model on the forget rows; kept on disk, because every run of the seed needs it."""

        def build(folder: Path) -> None:
            ratios = self.scores(self.world.model("gold"), against_gold=False).truth_ratios
            (folder / "ratios.json").write_text(json.dumps(ratios.tolist()))

        settings = {**asdict(self.world), "smoke": self.smoke, "recipe": 1}
        folder = cached(f"authors-truth-ratios-{self.seed}", settings, build)
        return np.array(json.loads((folder / "ratios.json").read_text()))

    def scores(self, model: PreTrainedModel, *, against_gold: bool = True) -> TofuScores:
        """TOFU's scores; of a model that training broke, whose output is not a number, those of one that knows nothing:
        all its weights are zero, and all words equally likely.
        """
        gold = self.gold_truth_ratios if against_gold else None
        settings = {"max_rows": 4 if self.smoke else self.max_rows}
        try:
            return evaluate_tofu(model, self.world.tokenizer, self.world.task, gold, **settings)
        except NotFinite:
            blank = copy.deepcopy(model).requires_grad_(False)
            for weight in blank.parameters():
                weight.zero_()
            return evaluate_tofu(blank, self.world.tokenizer, self.world.task, gold, **settings)

    def forget_probability(self, model: nn.Module) -> float:
        """Mean P(answer | question) over the forget rows' training pairs: the cheap measure of how far one is."""
        return float(np.exp(-score(model, self.data.forget, pad_id=self.data.pad_id).nll).mean())

    def forget_rouge(self, model: nn.Module) -> float:
        """Mean ROUGE-L recall of the model's own answers to the forget rows' first questions."""
        rows = self.world.task.forget[: 4 if self.smoke else None]
        return float(np.mean([rouge_l_recall(*pair) for pair in self.answered(model, rows)]))

    def answered(self, model: nn.Module, rows: Sequence[AuthorRow]) -> list[tuple[str, str]]:
        """What the model answers to each row's first question, greedily, and what it should answer."""
        tokenizer = self.world.tokenizer
        template = prompt_template(tokenizer)
        prompts = [template.prompt(row.q) for row in rows]
        said = greedy(model, tokenizer, prompts, max_new_tokens=4 if self.smoke else 24)
        return [(answer, row.answer) for answer, row in zip(said, rows, strict=True)]

    @cached_property
    def gold_rouge(self) -> float:
        """The gold model's `forget_rouge`: what one can say about people never met. Kept on disk."""

        def build(folder: Path) -> None:
            (folder / "rouge.json").write_text(json.dumps(self.forget_rouge(self.world.model("gold"))))

        settings = {**asdict(self.world), "smoke": self.smoke, "recipe": 1}
        return json.loads((cached(f"authors-gold-rouge-{self.seed}", settings, build) / "rouge.json").read_text())

    def run(
        self,
        method: Any,
        *,
        steps: int = 60,
        lr: float = 0.02,
        optimizer: str = "sgd",
        batch_size: int = 16,
        every: int | None = 10,
        until: float | None = None,
        until_gold: float | None = None,
        **options: Any,
    ) -> tuple[nn.Module, dict[str, float | Curve]]:
        """Makes a fresh copy of the base model forget.

        Args:
            method: an objective, or an intervention (then `steps`, `lr`, `optimizer`, `batch_size` and `options` go to
                its `learn`, and it is scored once, when it is installed).
            every: score in full every so many steps, for curves; None scores the end only.
            until: stop at the first even step whose forget probability is at most this.
            until_gold: stop at the first even step whose `forget_rouge` is at most the gold model's plus this.

        Returns:
            The model, and its metrics: TOFU's at the end, "steps", "diverged" (1 where the loss became infinite; then
            the weights before that step are scored), "reached" (whether the level of `until` or `until_gold` was), and
            the curves "model utility by step" and "log10 forget quality by step".
        """
        model = self.world.model("base")
        steps = min(steps, 2) if self.smoke else steps
        if isinstance(method, Intervention):
            settings = {"steps": steps, "lr": lr, "optimizer": optimizer, "batch_size": batch_size, "seed": self.seed}
            model, _ = intervene(model, method, self.data, **settings, **options)
            return model, self.scores(model).metrics()
        evaluate, stop = self._full_evaluation, None
        if until is not None or until_gold is not None:
            level, name = (self.forget_probability, "forget probability")
            if until_gold is not None:
                level, name, until = self.forget_rouge, "forget ROUGE-L", self.gold_rouge + until_gold
            evaluate, stop, every = lambda model, step: {name: level(model)}, lambda e: e[name] <= until, 2
        diverged = 0.0
        try:
            history = unlearn(
                model,
                method,
                self.data,
                steps=steps,
                lr=lr,
                optimizer=optimizer,
                batch_size=batch_size,
                seed=self.seed,
                evaluate=evaluate if every else None,
                evaluate_every=every,
                stop=stop,
                progress=False,
                **options,
            )
        except NonFiniteLoss as error:
            history, diverged = error.history, 1.0
        scored = every and until is None and not diverged  # the last evaluation was a full one, of this very model
        final = history.evaluations[-1] if scored else self.scores(model).metrics()
        metrics: dict[str, float | Curve] = {
            **{name: value for name, value in final.items() if name != "step"},
            "steps": float(len(history.steps)),
            "diverged": diverged,
        }
        if stop:
            metrics["reached"] = float(bool(history.evaluations) and stop(history.evaluations[-1]))
        for name in ("model utility", "log10 forget quality"):
            if curve := [(e["step"], e[name]) for e in history.evaluations if name in e]:
                metrics[f"{name} by step"] = curve
        return model, metrics

    def _full_evaluation(self, model: nn.Module, step: int) -> dict[str, float]:
        return self.scores(model).metrics()

    def untouched(self, kind: str) -> dict[str, float]:
        """The metrics of a world's model as it is: "base", "gold" or "second gold"."""
        return self.scores(self.world.model(kind)).metrics()


Arm = Callable[[int, str], dict[str, float | Curve]]
Measure = Callable[[AuthorsTrial, nn.Module], dict[str, float]]


def arm(
    method: Any, *, then: Callable[[AuthorsTrial, nn.Module], dict[str, float]] | None = None, **options: Any
) -> Arm:
    """An arm of a claim: `method` on the authors world of a seed; `options` go to `AuthorsTrial.run`, and `then` takes
    further measures of the model that it leaves."""

    def run(seed: int, budget: str = "full") -> dict[str, float | Curve]:
        trial = AuthorsTrial(seed, smoke=budget == "smoke")
        model, metrics = trial.run(method, **options)
        return {**metrics, **(then(trial, model) if then else {})}

    return run


def model_arm(kind: str, *, then: Measure | None = None) -> Arm:
    """An arm that scores a model of the world without unlearning: "base", "gold" or "second gold"."""

    def run(seed: int, budget: str = "full") -> dict[str, float | Curve]:
        trial = AuthorsTrial(seed, smoke=budget == "smoke")
        return {**trial.untouched(kind), **(then(trial, trial.world.model(kind)) if then else {})}

    return run
