"""What the terminal shows of an outcome: all of it, as it was written, at any width."""

import io
import math

import pytest
from rich.console import Console

from palimpsest.evidence import Claim, expect, given, terminal
from palimpsest.evidence.terminal import interval, metric_tables, number, probability, seeds_of, show
from palimpsest.evidence.verdict import cell

A = [0.91, 0.88, 0.93, 0.90, 0.89]
B = [0.70, 0.75, 0.69, 0.74, 0.71]


def arm(seed, budget):
    return {}


def shown(outcome, width=100):
    text = io.StringIO()
    show(outcome, Console(file=text, width=width, color_system=None))
    return text.getvalue()


def words(text):
    """The text without line breaks and table rules."""
    return " ".join(text.replace("─", " ").split())


@pytest.fixture
def outcome(make_outcome):
    claim = Claim(
        "zz",
        "Does a beat b?",
        {"a": arm, "b": arm, "broken": arm},
        [
            given("a").at_least(0.5, on="accuracy"),
            expect("a").above("b", on="accuracy", by=0.1),
            expect("b").above("a", on="accuracy"),
            expect("broken").above("a", on="accuracy"),
        ],
    )
    table = {
        "a": {"accuracy": A, "extra": A, "curve": [[(0, 1.0)]] * 5},
        "b": {"accuracy": B},
        "broken": "ValueError: no [red]luck[/red]",
    }
    return make_outcome(claim, table)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_everything_is_said(outcome, width):
    text = words(shown(outcome, width))
    assert text.startswith("Does a beat b?")
    assert "held given: a at least 0.5 on accuracy" in text
    assert "held a above b by at least 0.1 on accuracy (primary) 0.184 [0.131, 0.237] · p " in text
    assert "refuted b above a on accuracy −0.184" in text
    assert "open broken above a on accuracy – broken has no 'accuracy'" in text
    assert "held 1 · weak 0 · refuted 1 · open 1 · void 0" in text, (
        "preconditions are not counted, void is named with none"
    )
    assert "of record: the registered claim on all of its seeds" in text
    assert "0.902 ± 0.024" in text
    assert "seeds 100–104" in text
    assert "exploratory metrics in the report: 1" in text
    assert text.count("failed: broken, seed ") == 5
    assert "failed: broken, seed 104: ValueError: no [red]luck[/red]" in text
    assert all(len(line) <= width for line in shown(outcome, width).splitlines())


def test_words_void(make_outcome):
    claim = Claim(
        "zz", "?", {"a": arm, "b": arm}, [given("a").at_least(2, on="m"), expect("a").above("b", on="m", by=0.1)]
    )
    text = words(shown(make_outcome(claim, {"a": {"m": A}, "b": {"m": B}})))
    assert "held 0 · weak 0 · refuted 0 · open 0 · void 1" in text
    assert "void a above b by at least 0.1 on m (primary) 0.184" in text, "its numbers stay in sight"
    assert "precondition not held: a at least 2 on m" in text


def test_names_are_no_markup(make_outcome):
    """Rich would eat [b], and stop at [/]."""
    claim = Claim(
        "zz",
        "Is [bold]this[/bold] so [/]?",
        {"a [red]": arm, "b [/]": arm},
        [expect("a [red]").above("b [/]", on="gain [sd] [/]", by=0.1)],
    )
    outcome = make_outcome(claim, {"a [red]": {"gain [sd] [/]": A}, "b [/]": {"gain [sd] [/]": B}})
    text = words(shown(outcome))
    assert "Is [bold]this[/bold] so [/]?" in text
    assert "a [red] above b [/] by at least 0.1 on gain [sd] [/] (primary)" in text
    assert "arm gain [sd] [/]" in text, "the head of the table"
    assert "b [/] 0.718 ± 0.032" in text


def test_a_narrow_terminal_gets_several_tables(make_outcome):
    metrics = [f"measure {i}" for i in range(7)]
    claim = Claim("zz", "?", {"a": arm, "b": arm}, [expect("a").above("b", on=name) for name in metrics])
    outcome = make_outcome(claim, {"a": dict.fromkeys(metrics, A), "b": dict.fromkeys(metrics, B)})
    wide, narrow = metric_tables(outcome, 200), metric_tables(outcome, 60)
    assert len(wide) == 1
    assert len(narrow) > 1
    assert [str(c.header) for table in narrow for c in table.columns if str(c.header) != "arm"] == metrics
    assert wide[0].row_count == 2
    assert narrow[0].caption is None, "one caption, below the last"
    assert "seeds 100–104" in str(narrow[-1].caption)
    text = shown(outcome, 60)
    assert text.count("0.902 ± 0.024") == 7
    assert all(len(line) <= 60 for line in text.splitlines())


def test_an_arm_without_the_metrics_of_a_table_is_left_out_of_it_but_one_that_failed_is_not(make_outcome):
    claim = Claim(
        "zz", "?", {"a": arm, "theory": arm, "broken": arm}, [expect("a").at_least(0, on="m")]
    )  # theory reports something else
    outcome = make_outcome(claim, {"a": {"m": A}, "theory": {"n": B}, "broken": "ValueError: no"})
    (table,) = metric_tables(outcome)
    assert [str(name) for name in table.columns[0]._cells] == ["a", "broken"]
    assert [str(value) for value in table.columns[1]._cells] == ["0.902 ± 0.024", "–"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0004, "4.0e−04"),
        (0.0005, "0.001"),
        (-0.25, "−0.250"),
        (9.99949, "9.999"),
        (99.5, "99.50"),
        (999.9, "999.90"),
        (1e6, "1,000,000"),
        (1e12, "1.00e+12"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_intervals_and_probabilities():
    assert interval((-0.5, math.inf)) == "[−0.500, ∞]"
    assert interval((math.nan, math.nan)) == "–"
    assert [probability(p) for p in (0.0, 0.00099, 0.001, 0.05, 1.0, math.nan)] == [
        "<0.001",
        "<0.001",
        "0.001",
        "0.050",
        "1.000",
        "–",
    ]
    assert terminal.mean(cell({100: 0.5})) == "0.500"
    assert terminal.mean(cell({100: 0.5, 101: 0.5})) == "0.500 ± 0"
    assert terminal.mean(cell({100: math.inf, 101: math.inf})) == "∞"
    assert terminal.mean(cell({100: 1.0, 101: math.nan})) == "–"


def test_seeds(make_outcome):
    claim = Claim("zz", "?", {"a": arm}, [expect("a").at_least(0, on="m")])
    row = {"a": {"m": A}}
    for seeds, text in (
        ((0,), "0"),
        ((100, 101), "100, 101"),
        ((102, 100, 101), "100–102"),
        ((100, 102, 104), "100, 102, 104"),
    ):
        assert seeds_of(make_outcome(claim, row, seeds=seeds)) == text
