"""What makes a comparison fail, in words: "accuracy drops by 0.01", "surely perplexity rises by 5%".

    [surely | possibly] MEASURE drops | rises | worsens | improves [by NUMBER[%]]
    [surely | possibly] MEASURE above | below NUMBER

NUMBER is in the measure's own units; with % it is a share of the value before. Without `by` any change counts. `above`
and `below` are about the value after. By itself a condition is decided by the estimate, which is what one reads off the
table; `surely` asks that the whole 95% interval satisfies it, so that a few unlucky items fail nothing; `possibly` is
satisfied as soon as the interval reaches it, so that what was not shown to be safe fails.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from palimpsest.errors import UserError

GRAMMAR = "[surely|possibly] MEASURE drops|rises|worsens|improves [by NUMBER[%]], or ... MEASURE above|below NUMBER"
_NUMBER = r"(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)"
_FORM = re.compile(
    rf"(?:(?P<how>surely|possibly)\s+)?(?P<measure>.+?)\s+"
    rf"(?:(?P<verb>drops|falls|rises|worsens|improves)(?:\s+by\s+{_NUMBER}\s*(?P<percent>%)?)?"
    rf"|(?P<side>above|below)\s+{_NUMBER.replace('number', 'level')})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Value:
    """What a condition is about.

    Attributes:
        before, after: the values; a number of one model alone, such as a share of flips, has no `before`.
        low, high: 95% interval of the difference, or of `after` where there is no `before`; None where unknown.
    """

    after: float
    before: float | None = None
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True


@dataclass(frozen=True)
class Condition:
    """A condition that was read.

    Attributes:
        text: as it was written.
        how: "", "surely" or "possibly".
        verb: drops, rises, worsens, improves, above or below.
        number: the least change, or the level; `relative` where it is a share of the value before.
    """

    text: str
    how: str
    measure: str
    verb: str
    number: float
    relative: bool = False

    def met(self, value: Value) -> bool:
        """Whether it is satisfied.

        >>> value = Value(0.80, 0.81, -0.03, 0.01)
        >>> parse("accuracy drops by 0.01").met(value), parse("surely accuracy drops").met(value)
        (True, False)

        Raises:
            UserError: a change is asked of a number that has no value before, or an interval where there is none.
        """
        if self.verb in ("above", "below"):
            sign = 1.0 if self.verb == "above" else -1.0
            estimate, least = value.after, self.number
            shift = 0.0 if value.before is None else value.before
        else:
            if value.before is None:
                raise UserError(f"--fail-if {self.text!r}: {self.measure} is one number, no change: ask above or below")
            rises = {"rises": True, "drops": False}.get(self.verb)
            if rises is None:
                rises = (self.verb == "improves") == value.higher_is_better
            sign, shift = (1.0 if rises else -1.0), 0.0
            estimate = value.after - value.before
            least = sign * self.number * (abs(value.before) if self.relative else 1.0)
        if self.how:
            if value.low is None or value.high is None:
                raise UserError(f"--fail-if {self.text!r}: no interval is known of {self.measure} on these items")
            ends = (value.low + shift, value.high + shift)
            near, far = (min(ends), max(ends)) if sign > 0 else (max(ends), min(ends))
            estimate = near if self.how == "surely" else far
        gap = sign * (estimate - least)
        if self.verb in ("above", "below") or self.number == 0:
            return gap > 1e-12
        return gap >= -1e-12  # 0.81 - 0.80 is a hundredth, whatever binary fractions say


def parse(text: str) -> Condition:
    """Read a condition.

    >>> condition = parse("surely Calibration error rises by 10%")
    >>> condition.how, condition.measure, condition.verb, condition.number, condition.relative
    ('surely', 'Calibration error', 'rises', 0.1, True)

    Raises:
        UserError: it is none.
    """
    found = _FORM.fullmatch(" ".join(text.split()))
    if not found:
        raise UserError(f"--fail-if {text!r} is not understood: write {GRAMMAR}")
    verb = (found["verb"] or found["side"]).lower().replace("falls", "drops")
    percent = bool(found["percent"])
    number = float(found["number"] or found["level"] or 0.0) / (100 if percent else 1)
    if not math.isfinite(number):
        raise UserError(f"--fail-if {text!r}: {number} is no finite number")
    return Condition(text, (found["how"] or "").lower(), found["measure"], verb, number, percent)
