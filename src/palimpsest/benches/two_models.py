"""Two models of one kind, or what two models answered, on the same items: `palimpsest.compare_models`.

found = compare_models("before", "after", rows="rows.jsonl", text="general.txt")
found["accuracy"].difference, found["accuracy"].low, found.flips.worse
found.failed(["accuracy drops by 0.01"])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from palimpsest.audit.fail_conditions import Condition, Value, parse
from palimpsest.audit.item_by_item import Change, change
from palimpsest.audit.significance import bootstrap_interval, holm
from palimpsest.benches import model_answers
from palimpsest.benches.model_answers import KINDS, NEEDS, Manner, kind_of
from palimpsest.errors import UserError
from palimpsest.tasks.prediction_files import Answers, read_predictions

ROUNDS = 500  # of the bootstrap of the calibration error
WINDOW = 256  # tokens of general text that are read together


@dataclass(frozen=True)
class Flips:
    """Items that changed.

    Attributes:
        measure: of which: the first that is 0 or 1, or else the first.
        worse, better: as shares of the items; of a measure of 0 and 1 the negative and the positive flips.
        low, high: exact 95% interval of the share that got worse.
        answers: the share of items with another answer; None where there are no answers.
        items: those that changed, the worst first.
    """

    measure: str
    worse: float
    better: float
    low: float
    high: float
    answers: float | None
    items: tuple[Mapping[str, Any], ...] = field(repr=False)


@dataclass(frozen=True)
class Estimate:
    """A number of both models together, or of each, with the 95% interval of the difference (or of itself)."""

    after: float
    before: float | None
    low: float | None
    high: float | None
    items: int

    @property
    def difference(self) -> float | None:
        return None if self.before is None else self.after - self.before


@dataclass(frozen=True)
class TwoModels:
    """What came of the comparison.

    Attributes:
        before, after: what was compared, by name.
        kind: of `palimpsest.benches.model_answers.KINDS`.
        items: how many were matched, `matched` by "id" or "position".
        changes: of every measure, the main one first.
        adjusted: measure -> p after Holm's correction over all measures that have one.
        flips: which items changed; None where there are no items but a text.
        calibration: expected calibration errors; None without probabilities.
        drift: KL(before || after) in nats a token on general text; None without one.
        values: measure -> (before, after), a value an item.
        notes: what a user should know.
    """

    before: str
    after: str
    kind: str
    items: int
    matched: str
    changes: tuple[Change, ...]
    adjusted: Mapping[str, float]
    flips: Flips | None
    calibration: Estimate | None
    drift: Estimate | None
    values: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def __getitem__(self, measure: str) -> Change:
        return next(each for each in self.changes if each.measure == measure)

    def failed(self, conditions: Sequence[str | Condition]) -> list[str]:
        """The conditions that are met, each with what was found (`palimpsest.audit.fail_conditions`).

        Raises:
            UserError: a condition that is not understood, or is about what was not measured.
        """
        named = self._named()
        said = []
        for condition in conditions:
            condition = parse(condition) if isinstance(condition, str) else condition
            key = _plain(condition.measure)
            if key not in named:
                there = ", ".join(name for name, _ in named.values())
                raise UserError(f"--fail-if {condition.text!r}: no measure {condition.measure!r}: there are {there}")
            name, value = named[key]
            if condition.met(value):
                before = "" if value.before is None else f"{value.before:.4g}, then "
                interval = "" if value.low is None else f", 95% interval [{value.low:.4g}, {value.high:.4g}]"
                change_of = "" if value.before is None else f" (change {value.after - value.before:+.4g}{interval})"
                said.append(f"{condition.text}: {name} {before}{value.after:.4g}{change_of or interval}")
        return said

    def _named(self) -> dict[str, tuple[str, Value]]:
        """What a condition may be about."""
        found = {
            each.measure: Value(each.after, each.before, each.low, each.high, each.higher_is_better)
            for each in self.changes
        }
        if self.flips:
            found["negative flips"] = Value(self.flips.worse, None, self.flips.low, self.flips.high, False)
            if self.flips.answers is not None:
                found["answers changed"] = Value(self.flips.answers, None, None, None, False)
        for name, each in (("calibration error", self.calibration), ("drift", self.drift)):
            if each is not None:
                found[name] = Value(each.after, each.before, each.low, each.high, False)
        return {_plain(name): (name, value) for name, value in found.items()}

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data; the schema is `palimpsest show --for-programs --json`'s."""
        measures = {each.measure: each.as_json() | {"p_holm": self.adjusted.get(each.measure)} for each in self.changes}
        estimates = {
            name: None if each is None else asdict(each) | {"difference": each.difference}
            for name, each in (("calibration_error", self.calibration), ("drift", self.drift))
        }
        return {
            "before": self.before,
            "after": self.after,
            "kind": self.kind,
            "items": self.items,
            "matched_by": self.matched,
            "measures": measures,
            "flips": None if self.flips is None else {**asdict(self.flips), "items": list(self.flips.items)},
            **estimates,
            "notes": list(self.notes),
        }


def compare_models(
    before: str | Path,
    after: str | Path,
    *,
    rows: str | Path | None = None,
    table: str | Path | None = None,
    images: str | Path | None = None,
    pairs: str | Path | None = None,
    text: str | Path | None = None,
    id: str | None = None,
    target: str | None = None,
    measures: Sequence[str] = (),
    lower: Sequence[str] = (),
    margins: float | Mapping[str, float] | None = None,
    manner: Manner | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> TwoModels:
    """Compare two models of one kind on the same items, or two files of what models answered.

    Args:
        before, after: folders of causal language models (with `rows=`, `text=` or both), of classifiers that
            `palimpsest classify` saved (with `table=` or `images=`) or of sentence encoders (with `pairs=`); or files
            of predictions (`palimpsest.tasks.prediction_files`).
        text: general text, a plain file, for drift and the loss on it.
        id: field or column that names an item; without it, items are matched by their place.
        target: the column of `table` that holds the classes, or the field of a prediction file that is right.
        measures: keep these only; the first is the main one.
        lower: measures of which less is better, besides those whose names say so.
        margins: within which two values count as equal: of all measures, or by name.
        manner: how a language model is asked.
        seed: of the bootstrap.

    Raises:
        UserError: what is given does not go together, cannot be read, or does not hold the same items.
    """
    given = {"rows": rows, "table": table, "images": images, "pairs": pairs, "text": text}
    kind = check_kinds(before, after, given)
    manner = manner or Manner()
    extra: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    drift, notes = None, []
    if kind == "predictions":
        both = [read_predictions(path, id=id, target=target) for path in (before, after)]
    elif kind == "classifier" and table is not None:
        both = [model_answers.of_table(path, table, target, id) for path in (before, after)]
    elif kind == "classifier":
        both = [model_answers.of_images(path, images) for path in (before, after)]
    elif kind == "encoder":
        both = [model_answers.of_pairs(path, pairs) for path in (before, after)]
    else:
        both, extra, drift, notes = _language(before, after, rows, text, id, manner, seed, progress)
    matched = _matched(before, after, *both) if both else None
    if matched:
        old, new, by, said = matched
        notes = [*dict.fromkeys([*old.notes, *new.notes]), *said, *notes]
        values = {name: (old.measures[name], new.measures[name]) for name in old.measures if name in new.measures}
        values |= extra
        only = sorted(set(old.measures) ^ set(new.measures))
        notes += [f"{name} is in one of the two only, and left out" for name in only]
        fewer = old.lower | new.lower
    else:
        old = new = None
        by, values, fewer = "position", extra, frozenset()
    fewer = fewer | set(lower) | {"text loss"}
    values = _chosen(values, measures, [*lower, *(margins if isinstance(margins, Mapping) else ())])
    changes, kept = [], {}
    for name, pair in values.items():
        there = ~np.isnan(pair[0]) & ~np.isnan(pair[1])
        if not there.any():
            notes.append(f"{name} has no value in any item, and is left out")
            continue
        margin = margins.get(name) if isinstance(margins, Mapping) else margins
        kept[name] = pair
        pair = pair[0][there], pair[1][there]
        changes.append(change(name, *pair, higher_is_better=name not in fewer, margin=margin, seed=seed))
    if not changes:
        raise UserError("the two have no measure in common: nothing can be compared")
    tested = {each.measure: each.p for each in changes if each.p is not None}
    adjusted = dict(zip(tested, holm([*tested.values()]).tolist(), strict=True)) if tested else {}
    few = min(each.items for each in changes)
    if few < 30:
        notes.append(
            f"{few} items are few: the intervals are rough, and say nothing of other items that are unlike these"
        )
    main = next((each for each in changes if each.binary and each.measure not in extra), None) or changes[0]
    return TwoModels(
        before=str(before),
        after=str(after),
        kind=kind,
        items=len(old) if old else 0,
        matched=by,
        changes=tuple(changes),
        adjusted=adjusted,
        flips=None if old is None or main.measure in extra else _flips(main, kept[main.measure], old, new),
        calibration=None if old is None else _calibration(old, new, seed),
        drift=drift,
        values=kept,
        notes=tuple(notes),
    )


def check_kinds(before: str | Path, after: str | Path, given: Mapping[str, Any]) -> str:
    """The kind of both, where they and the data go together.

    Raises:
        UserError: they do not.
    """
    kind, other = kind_of(before), kind_of(after)
    if kind != other:
        raise UserError(f"{before} is {KINDS[kind]} and {after} {KINDS[other]}: give two of one kind")
    needs = NEEDS[kind]
    if odd := [name for name, value in given.items() if value is not None and name not in needs]:
        takes = f"give {' or '.join(f'--{name}' for name in needs)}" if needs else "give no other data"
        raise UserError(f"--{odd[0]} is not for {KINDS[kind]}: {takes}")
    here = [name for name in needs if given[name] is not None]
    if needs and not here:
        raise UserError(f"{before} is {KINDS[kind]}: on which items? Give {' or '.join(f'--{name}' for name in needs)}")
    if kind == "classifier" and len(here) > 1:
        raise UserError("give --table or --images, not both")
    return kind


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def _chosen(values: Mapping[str, Any], measures: Sequence[str], named: Sequence[str]) -> dict[str, Any]:
    """The values of the measures asked for.

    Raises:
        UserError: one of them is not there.
    """
    plain = {_plain(name): name for name in values}
    for name in (*measures, *named):
        if _plain(name) not in plain:
            raise UserError(f"no measure {name!r}: there are {', '.join(values)}")
    return {plain[_plain(name)]: values[plain[_plain(name)]] for name in measures} if measures else dict(values)


def _matched(before: Any, after: Any, old: Answers, new: Answers) -> tuple[Answers, Answers, str, list[str]]:
    """The answers of the second in the order of the first, what matched them, and notes.

    Raises:
        UserError: they are not about the same items.
    """
    if old.named != new.named:
        named, other = (before, after) if old.named else (after, before)
        raise UserError(f"{named} names its items and {other} does not: name them in both (--id FIELD)")
    if old.named:
        gone, added = set(old.ids) - set(new.ids), set(new.ids) - set(old.ids)
        if gone or added:
            first = next(name for name in (*old.ids, *new.ids) if name in gone or name in added)
            raise UserError(
                f"not the same items: {len(gone)} of {before} are not in {after} and {len(added)} the other way, the"
                f" first {first!r}: compare files of the same items"
            )
        place = {name: row for row, name in enumerate(new.ids)}
        new = _ordered(new, [place[name] for name in old.ids])
    elif len(old) != len(new):
        raise UserError(
            f"{before} has {len(old)} items and {after} {len(new)}: without ids they are matched by place and must be"
            " as many (--id FIELD matches by a field)"
        )
    if old.same and new.same:
        odd = [row for row, (a, b) in enumerate(zip(old.same, new.same, strict=True)) if a != b]
        if odd:
            what = f"item {old.ids[odd[0]]!r}" if old.named else f"item {odd[0] + 1}"
            raise UserError(f"{len(odd)} items are not the same in {before} and {after}, the first {what}")
    notes = []
    if old.prompts and new.prompts:
        odd = sum(a != b for a, b in zip(old.prompts, new.prompts, strict=True))
        notes += [f"{odd} items were asked in other words (prompt_hash): template or examples differ"] if odd else []
    return old, new, "id" if old.named else "position", notes


def _ordered(answers: Answers, order: Sequence[int]) -> Answers:
    def texts(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values[row] for row in order) if values else ()

    rows = np.array(order)
    return Answers(
        texts(answers.ids),
        answers.named,
        {name: values[rows] for name, values in answers.measures.items()},
        answers.lower,
        texts(answers.asked),
        texts(answers.said),
        texts(answers.same),
        texts(answers.prompts),
        None if answers.probabilities is None else answers.probabilities[rows],
        None if answers.right is None else answers.right[rows],
        answers.notes,
    )


def _flips(main: Change, values: tuple[np.ndarray, np.ndarray], old: Answers, new: Answers) -> Flips:
    gain = (values[1] - values[0]) * (1 if main.higher_is_better else -1)
    gain = np.where(np.isnan(gain), 0.0, gain)
    order = np.argsort(gain, kind="stable")
    items = []
    for row in order[gain[order] != 0]:
        item = {"id": old.ids[row], "before": float(values[0][row]), "after": float(values[1][row])}
        if old.asked:
            item["asked"] = old.asked[row]
        if old.said and new.said:
            item |= {"said_before": old.said[row], "said_after": new.said[row]}
        items.append(item)
    exact = stats.binomtest(main.worse, main.items).proportion_ci(0.95, method="exact")
    answers = None
    if old.said and new.said:
        answers = float(np.mean([a != b for a, b in zip(old.said, new.said, strict=True)]))
    shares = main.worse / main.items, main.better / main.items
    return Flips(main.measure, *shares, float(exact.low), float(exact.high), answers, tuple(items))


def _calibration(old: Answers, new: Answers, seed: int) -> Estimate | None:
    """The expected calibration errors, and the bootstrap interval of their difference, over items drawn in pairs."""
    if old.probabilities is None or new.probabilities is None or len(old) < 2:
        return None
    import torch

    from palimpsest.metrics.calibration import expected_calibration_error

    both = [
        (torch.from_numpy(each.probabilities.clip(0, 1)), torch.from_numpy(each.right).long()) for each in (old, new)
    ]

    def difference(rows: Any) -> float:
        first, second = (expected_calibration_error(p[rows], right[rows]) for p, right in both)
        return second - first

    n, generator = len(old), np.random.default_rng(seed)
    drawn = [difference(torch.from_numpy(generator.integers(n, size=n))) for _ in range(ROUNDS)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    first, second = (expected_calibration_error(*each) for each in both)
    return Estimate(second, first, float(low), float(high), n)


def _language(
    before: Any,
    after: Any,
    rows: Any,
    text: Any,
    id: str | None,
    manner: Manner,
    seed: int,
    progress: Callable[[str], None],
) -> tuple[list[Answers], dict[str, tuple[np.ndarray, np.ndarray]], Estimate | None, list[str]]:
    """What both language models say to rows; a loss a window of the text; drift; notes."""
    from palimpsest.forget.evaluation import settle_end
    from palimpsest.forget.intervention import load
    from palimpsest.models.template import use_template
    from palimpsest.tasks.rows import read_bytes, read_rows

    asked = read_rows(rows) if rows is not None else []
    general = ""
    if text is not None:
        general = read_bytes(text).decode("utf-8-sig", errors="replace")
        if not general.strip():
            raise UserError(f"{text}: the file has no text")
    # Both are scored alike: the end token counts where one of them ends by itself.
    end, both, loaded = manner.end, [], {}

    def ready(path: Any) -> tuple[Any, Any]:
        model, tokenizer = loaded.pop(path, None) or load(Path(path))
        use_template(tokenizer, system=manner.system, options=dict(manner.options), end=end)
        return model, tokenizer

    if asked and end is None:
        for path in dict.fromkeys((str(before), str(after))):
            model, tokenizer = loaded[path] = ready(path)
            end = settle_end(model, tokenizer, asked, batch_size=manner.batch_size).end
            if end is not False:
                break
            loaded.clear()
    if asked:
        for path in (str(before), str(after)):
            progress(f"asking {path}")
            both.append(model_answers.of_rows(*ready(path), asked, id, manner))
    if not general:
        return both, {}, None, []
    progress("reading the text")
    losses, kl, notes = text_drift(ready(str(before)), ready(str(after)), general)
    drift = None
    if kl is not None:
        low, high = bootstrap_interval(kl, seed=seed) if len(kl) > 1 and np.ptp(kl) > 0 else (None, None)
        drift = Estimate(float(kl.mean()), None, low, high, len(kl))
    return both, {"text loss": losses} if losses else {}, drift, notes


def text_drift(
    before: tuple[Any, Any], after: tuple[Any, Any], text: str
) -> tuple[tuple[np.ndarray, np.ndarray] | None, np.ndarray | None, list[str]]:
    """Of each window of a text: the loss of both models and KL(before || after), in nats a token.

    A token of the one must be a token of the other: where the tokenizers differ, there is neither, and a note.
    """
    import sys

    from palimpsest.models.forward import config_of, context_length, device_of, evaluating
    from palimpsest.models.score import Encoded, encode, pad_token_id, reference_kl, score

    (old, tokenizer), (new, other) = before, after
    if tokenizer.get_vocab() != other.get_vocab():
        return None, None, ["the tokenizers differ: no drift, and no loss a token that could be compared"]
    ids = encode(tokenizer, [""], [text], max_length=sys.maxsize, add_eos=False).input_ids[0]
    begin = ids[:1] if ids[0] == tokenizer.bos_token_id else []
    width = min([WINDOW, *filter(None, map(context_length, (old, new)))]) - len(begin)
    body = ids[len(begin) :]
    parts = [body[i : i + width] for i in range(0, len(body), width)]
    if len(parts) > 1 and len(parts[-1]) < width / 2:
        parts.pop()  # a short one would count as much as the others
    windows = Encoded([begin + part for part in parts], [1] * len(parts))
    if max(map(len, windows.input_ids)) < 2:
        raise UserError("the text is one token: nothing is predicted in it")
    pad = pad_token_id(tokenizer)
    losses = tuple(score(model, windows, batch_size=4, pad_id=pad).nll for model in (old, new))
    if config_of(old).vocab_size != config_of(new).vocab_size:
        return losses, None, ["the models give logits of different widths: no drift"]
    kl = []
    with evaluating(old), evaluating(new):
        for row in range(len(windows)):
            batch = {name: value.to(device_of(old)) for name, value in windows.batch([row], pad).items()}
            kl.append(max(0.0, float(reference_kl(old, new, batch))))  # a rounding may be below
    return losses, np.array(kl), []
