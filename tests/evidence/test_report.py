"""The page: everything said, nothing of it as markup, nothing from outside; and the exported results of record."""

import json
import math
import platform
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from palimpsest.audit.hark import Prereg, digest
from palimpsest.errors import UserError
from palimpsest.evidence import (
    Claim,
    Store,
    expect,
    export,
    figures,
    given,
    judge,
    outcome_record,
    run_claim,
    write_report,
)
from palimpsest.evidence.figures import mean_curve
from palimpsest.evidence.report import render
from palimpsest.record_files import numbers, read, read_history, registration

A = [0.91, 0.88, 0.93, 0.90, 0.89]
B = [0.70, 0.75, 0.69, 0.74, 0.71]
WORDS = ("held", "weak", "refuted", "open", "void")
BLOCKS = {"p", "div", "li", "dt", "dd", "th", "td", "small", "pre", "br", "h2", "h3"}


def arm(seed, budget):
    return {}


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page outside its style sheet."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.pieces, self.inside = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        self.pieces.append(" " if tag in BLOCKS else "")

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if "style" not in self.inside:
            self.pieces.append(data)

    @property
    def text(self):
        return " ".join("".join(self.pieces).split())


def make(table, *expects, **fields):
    named = {"paper": "zz", "question": "Does a beat b?", **fields}
    return Claim(arms=dict.fromkeys(table, arm), expects=expects or [expect("a").above("b", on="m", by=0.1)], **named)


@pytest.fixture
def page(make_outcome):
    """`page(table, *expects, **options)`: the parsed report; a table is {arm: {metric: values}}."""

    def made(table, *expects, claim=None, **options):
        return Page(render(make_outcome(make(table, *expects, **(claim or {})), table, **options)))

    return made


def test_the_page_says_it_all(make_outcome):
    table = {
        "a": {"m": A, "extra": B, "by step": [[(0, 0.1), (1, a)] for a in A]},
        "b": {"m": B, "by step": [[(0, 0.1), (1, b)] for b in B]},
        "c": {"m": [0.8, 0.81, 0.79, 0.8, 0.82]},
    }
    claim = make(
        table,
        given("a").at_least(0.5, on="m"),
        expect("a").above("b", on="m", by=0.1),
        expect("b").above("c", on="m"),
        expect("c").within("a", on="m", by=0.1),
        notes="Smaller than the paper's.",
        settings={"lr": 0.25, "sizes": (3, 4), "name": "größer"},
        module="palimpsest.claims.forget.zz",
    )
    text = render(make_outcome(claim, table))
    page = Page(text)
    assert "forget / zz" in page.text
    assert "Does a beat b?" in page.text
    assert "Of record: the registered claim on all of its seeds, or on those of a look. Seeds 100–104" in page.text
    assert "given: a at least 0.5 on m" in page.text
    assert "a above b by at least 0.1 on m (primary) 0.184 [0.131, 0.237] · p 0.012" in page.text
    assert "0.902 [0.878, 0.926]" in page.text, "a cell of the table"
    assert "Friedman’s test over all arms: p 0.007" in page.text
    assert "Smaller than the paper's." in page.text
    assert '"lr": 0.25, "name": "größer", "sizes": [ 3, 4 ]' in page.text
    assert "torch 2.13.0" in page.text
    assert "22.5 s over 15 jobs, one thread each; at most 3 MiB" in page.text
    assert make_outcome(claim, table).digest in page.text
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 4 + 2 + 1, "one for each expectation, metric and curve"
    assert text == render(make_outcome(claim, table)), "the same page every time"


def test_a_point_for_every_seed_and_a_line_for_every_curve(page, make_outcome):
    table = {"a": {"m": A, "c": [[(0, 0.0), (1, a), (2, 2 * a)] for a in A]}, "b": {"m": B}}
    found = make_outcome(make(table), table)
    axes = figures.metric_figure("m", found.table).axes[0]
    points = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [list(x) for x in points] == [A, B]
    means = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata()) == 0]
    assert means == pytest.approx([np.mean(A), np.mean(B)])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    intervals = [list(line.get_xdata()) for line in axes.lines if line.get_solid_capstyle() == "butt"]
    assert intervals == [pytest.approx(found.table[name]["m"].interval) for name in "ab"]

    axes = figures.verdict_figure(found.verdicts[0]).axes[0]
    (points,) = (line.get_xdata() for line in axes.lines if line.get_marker() == "o")
    assert list(points) == pytest.approx(np.subtract(A, B))
    region = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (region.x0, region.x1) == pytest.approx((0.1, axes.get_xlim()[1])), "the tinted ground is what was expected"

    axes = figures.curve_figure("c", found.curves["c"], ["a", "b"]).axes[0]
    assert [line.get_linewidth() for line in axes.lines] == [0.7] * 5 + [2]
    assert list(axes.lines[-1].get_ydata()) == pytest.approx([0, np.mean(A), 2 * np.mean(A)])


def test_mean_curves():
    x, y = mean_curve([[(0, 1), (2, 3)], [(1, 5)]])
    assert len(x) == len(y) == 0
    assert [len(z) for z in mean_curve([])] == [0, 0]
    x, y = mean_curve([[(2, 4.0), (0, 1.0)], [(0, 3.0), (2, 8.0)]])
    assert (list(x), list(y)) == ([0, 2], [2.0, 6.0])


# --- nothing but text -----------------------------------------------------------------------------------------------

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=http://example.org/x onerror=alert(1)>',
    "</style><b>bold</b>",
    "--><i>so</i>",
    "{{ 7 * 7 }} {% raw %} &lt;",
    "$x^2$ \\frac",
    "]]><u>x</u>",
    "'; & ü → 猫",
]


@pytest.mark.parametrize("evil", EVIL)
def test_all_user_text_is_escaped(make_outcome, evil):
    safe = {"paper": "zz", "question": "Is it so?"}

    def text(word):
        names = {name: f"{name}{word}" for name in ("arm", "other", "failed", "metric", "extra", "curve")}
        table = {
            names["arm"]: {names["metric"]: A, names["extra"]: A, names["curve"]: [[(0, 1), (1, a)] for a in A]},
            names["other"]: {names["metric"]: B},
            names["failed"]: f"ValueError: {word}",
        }
        claim = make(
            table,
            expect(names["arm"]).above(names["other"], on=names["metric"], by=0.1),
            expect(names["failed"]).at_least(0, on=names["metric"]),
            **{**safe, "question": f"Is it so?{word}"},
            notes=f"notes{word}",
            settings={f"setting{word}": f"value{word}"},
        )
        found = make_outcome(claim, table)
        history = (
            {
                "kind": "amendment",
                "time": "2026",
                "digest": found.digest,
                "prereg": {"reason": f"reason{word}"},
            },
        )
        return render(replace(found, history=history, prereg=replace(found.prereg, reason=f"own reason{word}")))

    page, plain = Page(text(evil)), Page(text("word"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags], "no tag more or less than with plain words"
    names = [sorted(attributes) for _, attributes in page.tags]
    assert names == [sorted(attributes) for _, attributes in plain.tags], "nor an attribute"
    flat = " ".join(evil.split())
    for start in ("Is it so?", "arm", "other", "failed", "metric", "extra", "curve", "notes", "reason", "own reason"):
        assert f"{start}{flat}" in page.text, start
    assert f"ValueError: {flat}" in page.text
    in_json = json.dumps(f"setting{evil}", ensure_ascii=False) + ": " + json.dumps(f"value{evil}", ensure_ascii=False)
    assert in_json in page.text


def test_the_page_needs_nothing_from_outside_and_runs_nothing(make_outcome):
    table = {"a": {"m": A, "c": [[(0, 1), (1, a)] for a in A]}, "b": {"m": B}, "x": "OSError: no"}
    text = render(make_outcome(make(table), table))
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "xlink:href", "src", "action", "data"):
                assert value.startswith("#"), (tag, name, value)
            elif not name.startswith("xmlns"):
                assert "//" not in (value or ""), (tag, name, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", text))
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_drawings_refer_to_their_own_parts(make_outcome):
    table = {"a": {"m": A, "n": B, "c": [[(0, 1), (1, a)] for a in A]}, "b": {"m": B, "n": A}}
    text = render(make_outcome(make(table), table))
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    used = {*re.findall(r'href="#([^"]*)"', text), *re.findall(r"url\(#([^)]*)\)", text)}
    assert used
    assert used <= set(ids)


def test_drawings_take_their_colours_from_the_page(make_outcome):
    table = {name: {"m": np.add(B, i).tolist(), "c": [[(0, 1), (1, i)]] * 5} for i, name in enumerate("abcdefghij")}
    text = render(make_outcome(make(table), table))
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    colours = set(re.findall(r"(?:fill|stroke):\s*([^;\"]+)", drawings))
    assert {colour.strip() for colour in colours if not colour.strip().startswith("var(--")} <= {"none"}
    declared = set(re.findall(r"(--[\w-]+):", text))
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= declared


# --- the four words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expectation", "word"),
    [
        (expect("a").above("b", on="m", by=0.1), "held"),
        (expect("b").above("a", on="m"), "refuted"),
        (expect("a").above("b", on="m", by=0.184), "open"),
        (None, "void"),
    ],
)
def test_all_words_stand_on_every_page_alike(make_outcome, expectation, word):
    table = {"a": {"m": A}, "b": {"m": B}}
    expects = [expectation] if expectation else [given("a").at_least(2, on="m"), expect("a").above("b", on="m")]
    text = render(make_outcome(make(table, *expects), table))
    counts = re.search(r'<div class="counts">(.*?)\n</div>', text, flags=re.DOTALL)[1]
    blocks = re.findall(r'<div class="(\w+)">(.*?)</div>', counts, flags=re.DOTALL)
    assert tuple(name for name, _ in blocks) == WORDS
    for name, block in blocks:
        count = int(name == word)
        assert block.replace(name, "WORD").replace(str(count), "N") == '<b>N</b><span class="word">WORD</span>'
    (shown,) = re.findall(r'<li>\s*<span class="word (\w+)">(\w+)</span>', text)[-1:]
    assert shown == (word, word), "and the verdict's own word beside its sentence"


def test_no_word_is_styled_apart_but_for_its_colour_and_all_can_be_read(make_outcome):
    table = {"a": {"m": A}, "b": {"m": B}}
    style = re.search(r"<style>(.*?)</style>", render(make_outcome(make(table), table)), flags=re.DOTALL)[1]
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style)
    special = {word: [body.strip() for name, body in rules if f".{word}" in name] for word in WORDS}
    for word, bodies in special.items():
        assert bodies == [f"color: var(--{word});"], word

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    themes = [dict(re.findall(r"--([\w-]+): (#\w{6})", body)) for name, body in rules if name.strip() == ":root"]
    light, dark = themes[:2]
    for theme in (light, dark):
        paper = luminance(theme["paper"])
        for name in (*WORDS, "ink", "muted"):
            low, high = sorted((luminance(theme[name]), paper))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"WCAG asks for a contrast of 4.5: {name}"


# --- what kind of run, which history, how to repeat it --------------------------------------------------------------


def test_exploratory_runs_and_metrics_are_marked(page):
    table = {"a": {"m": A, "extra": A}, "b": {"m": B}}
    found = page(table, standing="exploratory")
    assert "Exploratory: the claim, code that it reaches (unverified) or the rows of its world are not" in found.text
    assert found.text.count("extra exploratory") == 2, "in the head of the table and above the figure"
    assert "m exploratory" not in found.text


def test_history_lists_what_was_thought_and_found_before(tmp_path):
    def claim(by):
        values = {"a": lambda s, b: {"m": A[s % 100]}, "b": lambda s, b: {"m": B[s % 100]}}
        return Claim("zz", "?", values, [expect("a").above("b", on="m", by=by)])

    with Store(tmp_path / "evidence.sqlite") as store:
        options = {"store": store, "workers": 1, "progress": False}
        run_claim(claim(0.9), **options)
        run_claim(claim(0.1), **options)
        report = write_report(run_claim(claim(0.1), amend="<typo>", **options), tmp_path / "deep" / "zz.html")
    assert report == tmp_path / "deep" / "zz.html"
    assert [path.name for path in report.parent.iterdir()] == ["zz.html"], "no half of a page is left beside it"
    text = report.read_text(encoding="utf-8")
    entries = re.findall(r"<li><span class=\"quiet\">(.*?)</li>", text, flags=re.DOTALL)
    kinds = [Page(entry).text.split("</span>")[-1] for entry in entries]
    assert len(kinds) == 5
    assert "registration" in kinds[0]
    assert "of record, 5 seeds" in kinds[1]
    assert "refuted" in kinds[1]
    assert "exploratory, 5 seeds" in kinds[2]
    assert "held" in kinds[2]
    assert "amendment" in kinds[3]
    assert ": <typo>" in kinds[3]
    assert "of record, 5 seeds" in kinds[4]
    assert "version 2: <typo>" in Page(text).text


def test_the_page_says_how_to_run_it_again(page):
    table = {"a": {"m": A}, "b": {"m": B}}
    assert 'palimpsest run zz from palimpsest.evidence import run_claim run_claim("zz")' in page(table).text
    fewer = page(table, seeds=(100, 101, 102), standing="preliminary").text
    assert 'palimpsest run zz --seeds 3 from palimpsest.evidence import run_claim run_claim("zz", seeds=3)' in fewer
    assert 'run_claim("zz", seeds=[0, 1])' in page(table, seeds=(0, 1), standing="pilot").text


# --- unusual numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([math.nan] * 5, B),
        ([math.inf] * 5, B),
        ([-math.inf] * 5, [math.inf] * 5),
        ([0.1, math.inf, 0.2, math.nan, -math.inf], B),
        ([0.0] * 5, [0.0] * 5),
        ([1e300, -1e300, 1e299, 0, 1], B),
        ([5e-324] * 5, [0.0] * 5),
        ([1e16, 1e16 + 2, 1e16, 1e16, 1e16], [1e16] * 5),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_unusual_values_are_shown(page, a, b):
    table = {"a": {"m": a, "c": [[(0, x), (1, y)] for x, y in zip(a, b, strict=True)]}, "b": {"m": b}}
    found = page(
        table,
        expect("a").above("b", on="m", by=0.1),
        expect("a").within("b", on="m", by=0.1),
        expect("a").at_most(3, on="m"),
    )
    assert found.text.count("above b by at least 0.1 on m") >= 1
    assert sum(tag == "svg" for tag, _ in found.tags) == 3 + 1 + 1
    assert "nan" not in found.text.lower().replace("nan on seeds", "")


@pytest.mark.parametrize(
    ("table", "curves"),
    [
        ({"a": "MemoryError", "b": "MemoryError"}, False),
        ({"a": "MemoryError", "b": {"m": B}}, False),
        ({"a": {"n": A}, "b": {"m": B}}, False),
        ({"a": {"m": A, "c": [[]] * 5}, "b": {"m": B}}, True),
        ({"a": {"m": A, "c": [[(0, 1)], [(1, 2)], [], [(3, 4)], [(0, 5)]]}, "b": {"m": B}}, True),
        ({"a": {"m": A, "c": [[(0, math.nan), (1, math.inf)]] * 5}, "b": {"m": B}}, True),
        ({"a": {"m": [[(0, 1)]] * 5}, "b": {"m": B}}, True),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_failures_gaps_and_empty_curves_are_shown(page, table, curves):
    found = page(table)
    assert "a above b by at least 0.1 on m" in found.text
    failed = [name for name, row in table.items() if isinstance(row, str)]
    for name in failed:
        assert f"{name}, seed 104" in found.text
        assert "Traceback (most recent call last):" in found.text
    assert ("Failed jobs" in found.text) is bool(failed)
    assert ("Curves" in found.text) is curves


def test_one_seed_and_no_precondition(page):
    table = {"a": {"m": A[:1]}, "b": {"m": B[:1]}}
    assert "one seed decides nothing" in page(table, seeds=(0,), standing="smoke", budget="smoke").text


# --- results of record ----------------------------------------------------------------------------------------------


@pytest.fixture
def of_record(make_outcome):
    table = {
        "b first": {"m": A, "c": [[(0, math.inf), (1, a)] for a in A]},
        "a second": {"m": [*B[:4], math.nan]},
        "broken": "FileNotFoundError: no '/home/someone/data/x.csv' nor C:\\Users\\someone\\y.csv",
    }
    claim = make(
        table, expect("b first").above("a second", on="m"), module="palimpsest.claims.forget.zz", settings={"z": 1}
    )
    return make_outcome(claim, table)


def test_export_is_plain_json_without_this_machine(of_record, tmp_path, monkeypatch):
    path = export(of_record, tmp_path)
    assert path == tmp_path / "forget" / "zz.json"
    assert sorted(found.name for found in path.parent.iterdir()) == ["zz.history.jsonl", "zz.json"]
    text = path.read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    shown = json.loads(text, parse_constant=refuse)
    assert text.endswith("}\n")
    assert (shown["paper"], shown["family"], shown["seeds"]) == ("zz", "forget", [100, 101, 102, 103, 104])
    assert list(shown["values"]) == ["b first", "a second", "broken"], "the order of the arms is that of the claim"
    assert shown["values"]["b first"]["m"] == A
    assert shown["values"]["a second"]["m"] == [*B[:4], "nan"]
    assert shown["values"]["broken"] == {}
    assert shown["verdicts"] == [
        {
            "word": "open",
            "expectation": "b first above a second on m",
            "estimate": "nan",
            "interval": ["nan", "nan"],
            "note": "NaN on seeds 104",
        }
    ]
    assert shown["registration"]["digest"] == of_record.digest == digest(Prereg(**registration(shown)))
    assert shown["failures"][0] == {
        "arm": "broken",
        "seed": 100,
        "error": "FileNotFoundError: no 'x.csv' nor y.csv",
    }
    assert read_history(path, shown)[0] == {
        "kind": "curve",
        "metric": "c",
        "arm": "b first",
        "seed": 100,
        "points": [[0.0, "inf"], [1.0, 0.91]],
    }
    text += (path.parent / "zz.history.jsonl").read_text()
    for word in ("/home", "Users", "someone", "a-machine-name", platform.node(), str(tmp_path), "Traceback"):
        assert word not in text

    before = path.read_bytes()
    assert export(of_record, tmp_path).read_bytes() == before
    monkeypatch.setattr(outcome_record, "records", lambda: tmp_path / "elsewhere")
    assert export(of_record) == tmp_path / "elsewhere" / "forget" / "zz.json"


def test_values_are_kept_in_seven_digits_and_in_full_where_a_word_hangs_on_more(make_outcome, tmp_path):
    def exported(a, b):
        table = {"a": {"m": [x + 0.123456789 for x in a]}, "b": {"m": [x + 0.123456789 for x in b]}}
        claim = make(table, expect("a").above("b", on="m"), module="palimpsest.claims.forget.zz")
        return read(export(make_outcome(claim, table), tmp_path))

    found = exported([0.5] * 5, [0.0, 0.1, 0.0, 0.1, 0.0])
    assert found["values"]["b"]["m"] == [0.1234568, 0.2234568, 0.1234568, 0.2234568, 0.1234568]
    found = exported([1e-9] * 5, [0.0] * 5)
    assert found["verdicts"][0]["word"] == "held", "at seven digits there is no difference on any seed"
    assert found["values"]["a"]["m"] == [0.123456789 + 1e-9] * 5


def test_an_export_keeps_a_number_that_a_seed_lacks_as_null(make_outcome, tmp_path):
    table = {"a": {"m": A}, "b": {"m": B}}
    outcome = make_outcome(make(table, module="palimpsest.claims.forget.zz"), table)
    jobs = [replace(j, metrics={}, error="E: no") if (j.arm, j.seed) == ("b", 102) else j for j in outcome.jobs]
    outcome = replace(outcome, jobs=tuple(jobs))
    outcome = replace(outcome, verdicts=judge(outcome.claim, outcome.values, outcome.seeds))
    found = read(export(outcome, tmp_path))
    assert found["values"]["b"]["m"] == [*B[:2], None, *B[3:]]
    assert 102 not in numbers(found)["b"]["m"]
    assert found["verdicts"][0]["note"] == "no result on seeds 102"


@pytest.mark.parametrize("standing", ["preliminary", "exploratory", "pilot", "smoke"])
def test_only_results_of_record_are_exported(of_record, tmp_path, standing):
    with pytest.raises(UserError, match=f"not exported: the run is {standing}"):
        export(replace(of_record, standing=standing), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_claims_of_the_package_are_exported(of_record, tmp_path):
    with pytest.raises(UserError, match=r"not exported: mine is not in palimpsest/claims"):
        export(replace(of_record, claim=replace(of_record.claim, module="mine")), tmp_path)
    assert list(tmp_path.iterdir()) == []
