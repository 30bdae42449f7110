"""What enters the ledger, what a change of the claim makes of a run, and which change counts as one."""

import importlib
import sys
import threading
import time
from dataclasses import asdict

import pytest

from palimpsest.audit.hark import TamperedLedger, digest
from palimpsest.errors import UserError
from palimpsest.evidence import Claim, Store, expect, export, given, registration, run_claim
from palimpsest.evidence.registration import enter, history, keep_verdict, preregister, registered
from palimpsest.record_files import marked, read, write

SEEDS = (100, 101, 102, 103, 104)


def method(seed, budget):
    return {"m": 0.5 + 0.001 * seed, "n": 1.0}


def baseline(seed, budget):
    return {"m": 0.001 * seed, "n": 2.0}


def make(*, by=0.1, **fields):
    named = {"paper": "zz", "question": "Is it so?", "arms": {"method": method, "baseline": baseline}, **fields}
    return Claim(**{"expects": [expect("method").above("baseline", on="m", by=by)], **named})


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "evidence.sqlite") as opened:
        yield opened


def run(claim, store, **options):
    return run_claim(claim, store=store, workers=1, progress=False, **options)


def kinds(store):
    return [body["kind"] for body in store.ledger("zz") if body["kind"] != "job"]


# --- the digest -----------------------------------------------------------------------------------------------------

SOURCE = '''"""Is it so?"""
from palimpsest.evidence import Claim, expect

RATE = 0.1


def tuned(value, notes=1):
    return value * notes


def method(seed, budget):
    """The method."""
    return {"m": seed * RATE}


def baseline(seed, budget):
    return {"m": tuned(0.0, notes=2)}


claim = Claim(
    paper="zz",
    question="Is it so?",
    arms={"method": method, "baseline": baseline},
    expects=[expect("method").above("baseline", on="m", by=0.1), expect("method").at_least(0, on="m")],
    settings={"rate": RATE},
    notes="As in the paper.",
)
'''


@pytest.fixture
def declare(tmp_path, monkeypatch):
    """The digest of the claim in a file with this text."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    numbers = iter(range(100))

    def declared(text):
        name = f"zz_declared_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return digest(preregister(importlib.import_module(name).claim))

    yield declared
    for name in [name for name in sys.modules if name.startswith("zz_declared")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Is it so?"""', '"""Another heading,\nof two lines."""  # and a comment'),
        ('    """The method."""\n', ""),
        ("RATE = 0.1\n", "# tuned on seeds 0-9\nRATE = (\n    0.1\n)\n\n\n"),
        ('{"m": seed * RATE}', "{\n        'm': (seed * RATE),\n    }"),
        ('notes="As in the paper."', 'notes="Smaller than in the paper."'),
        ('    notes="As in the paper.",\n', ""),
    ],
)
def test_layout_comments_docstrings_and_notes_do_not_change_the_digest(declare, old, new):
    assert SOURCE.count(old) == 1
    assert declare(SOURCE.replace(old, new)) == declare(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("seed * RATE", "RATE * seed"),
        ("tuned(0.0, notes=2)", "tuned(0.0, notes=3)"),
        ('question="Is it so?"', 'question="Is it not?"'),
        ("by=0.1", "by=0.05"),
        ("by=0.1", "by=0.1, times=2"),
        (".at_least(0, ", ".at_least(1, "),
        (', expect("method").at_least(0, on="m")', ""),
        ('expect("method").at_least', 'expect("baseline").at_least'),
        ('{"method": method, "baseline": baseline}', '{"baseline": baseline, "method": method}'),
        ('{"method": method, "baseline": baseline}', '{"method": baseline, "baseline": method}'),
        ('settings={"rate": RATE}', 'settings={"rate": RATE, "steps": 3}'),
        ("settings=", "seeds=(200, 201, 202, 203, 204),\n    settings="),
    ],
)
def test_whatever_is_promised_or_run_changes_the_digest(declare, old, new):
    assert SOURCE.count(old) == 1
    assert declare(SOURCE.replace(old, new)) != declare(SOURCE)


def test_settings_from_elsewhere_change_the_digest_though_the_source_is_the_same():
    assert digest(preregister(make(settings={"lr": 0.1}))) != digest(preregister(make(settings={"lr": 0.2})))
    assert digest(preregister(make(notes="small"))) == digest(preregister(make(notes="large")))


def test_the_digest_covers_what_the_arms_reach(declare, tmp_path, monkeypatch):
    (tmp_path / "zz_declared_below").mkdir()
    below = tmp_path / "zz_declared_below" / "__init__.py"
    below.write_text("RATE = 0.1\n")
    (tmp_path / "zz_declared_below" / "claims.py").write_text(
        SOURCE.replace("RATE = 0.1", "from zz_declared_below import RATE")
    )
    found = importlib.import_module("zz_declared_below.claims").claim
    first, plain = digest(preregister(found)), digest(preregister(found, reach=False))
    below.write_text("RATE = 0.125\n")
    assert digest(preregister(found)) != first
    assert digest(preregister(found, reach=False)) == plain


def test_a_registration_of_the_first_scheme_stands_until_it_is_amended(store):
    old = preregister(make(), reach=False)
    store.append({"kind": "registration", "paper": "zz", "digest": digest(old), "prereg": asdict(old), "time": ""})
    outcome = run(make(), store)
    assert (outcome.standing, outcome.digest) == ("of record", digest(old))
    assert run(make(by=0.2), store).standing == "exploratory"
    amended = run(make(), store, amend="with what its arms reach")
    assert amended.standing == "of record"
    assert "reach" in amended.prereg.plan
    assert amended.prereg.version == 2


# --- registering ----------------------------------------------------------------------------------------------------


def test_the_first_run_registers_before_it_runs(store):
    seen = []

    def spy(seed, budget):
        seen.append(kinds(store))
        return {"m": 1.0}

    outcome = run(make(arms={"method": spy, "baseline": baseline}), store)
    assert seen == [["registration"]] * 5
    assert outcome.standing == "of record"
    assert kinds(store) == ["registration", "verdict"]
    entry = history(store, "zz")[0]
    assert entry["digest"] == outcome.digest == digest(preregister(outcome.claim))
    assert entry["prereg"]["hypothesis"] == "Is it so?"
    assert (entry["prereg"]["metric"], entry["prereg"]["margin"]) == ("m", 0.1)
    run(make(arms={"method": spy, "baseline": baseline}), store)
    assert kinds(store) == ["registration", "verdict"], "the same again adds nothing"


def test_the_plan_holds_every_promise():
    claim = make(
        expects=[given("baseline").at_most(1, on="m"), expect("method").above("baseline", on="n").in_seeds(4)],
        settings={"lr": 0.1},
    )
    prereg = preregister(claim)
    assert (prereg.metric, prereg.direction, prereg.margin) == ("n", "above", 0.0), "a precondition is not primary"
    assert [e["precondition"] for e in prereg.plan["expectations"]] == [True, False]
    assert prereg.plan["expectations"][1]["seeds_needed"] == 4
    assert prereg.plan["settings"] == {"lr": 0.1}


def test_pilots_register_nothing(store):
    outcome = run(make(), store, seeds=[0, 1, 2])
    assert outcome.standing == "pilot"
    assert kinds(store) == []
    assert [v.word for v in outcome.verdicts] == ["held"], "but they are judged, for whoever tunes"
    with pytest.raises(UserError, match="not to a pilot"):
        run(make(), store, seeds=[0], amend="why not")


def test_fewer_or_other_seeds_are_preliminary(store):
    assert run(make(), store, seeds=3).standing == "preliminary"
    assert run(make(), store, seeds=[200, 201, 202, 203, 204]).standing == "preliminary"
    longer = run(make(), store, seeds=7)
    assert (longer.standing, longer.seeds) == ("preliminary", (*SEEDS, 105, 106))
    assert run(make(), store).standing == "of record"
    assert run(make(), store, seeds=SEEDS[::-1]).standing == "of record"


def test_a_changed_claim_is_exploratory_until_it_is_amended(store):
    first = run(make(by=0.9), store)
    assert (first.standing, first.verdicts[0].word) == ("of record", "refuted")

    changed = make(by=0.1)
    explored = run(changed, store)
    assert (explored.standing, explored.verdicts[0].word) == ("exploratory", "held")
    assert digest(registered(store, "zz")) == first.digest, "looking is not amending"

    amended = run(changed, store, amend=" the margin was a slip ")
    assert amended.standing == "of record"
    assert (amended.prereg.version, amended.prereg.amends) == (2, first.digest)
    assert amended.prereg.reason == "the margin was a slip"
    assert amended.digest == explored.digest
    assert run(changed, store).standing == "of record"

    assert run(make(by=0.9), store).standing == "exploratory", "nor does the old one come back by itself"

    listed = run(changed, store).history
    assert [entry["kind"] for entry in listed[:5]] == ["registration", "verdict", "verdict", "amendment", "verdict"]
    words = [(e["standing"], e["verdicts"][0]["word"]) for e in listed if e["kind"] == "verdict"]
    assert words[:3] == [("of record", "refuted"), ("exploratory", "held"), ("of record", "held")]
    assert listed[0]["digest"] == first.digest
    assert listed[3]["prereg"]["reason"] == "the margin was a slip"
    store.verify_chain()


def test_amendments_need_a_registration_a_change_and_a_reason(store):
    with pytest.raises(UserError, match="zz is not registered yet: there is nothing to amend"):
        run(make(), store, amend="early")
    assert kinds(store) == []
    run(make(), store)
    with pytest.raises(UserError, match="zz: nothing to amend"):
        run(make(), store, amend="for no reason")
    with pytest.raises(UserError, match="zz: an amendment needs a reason"):
        run(make(by=0.2), store, amend="  ")
    assert kinds(store) == ["registration", "verdict"]


def test_papers_do_not_mix(store):
    run(make(), store)
    assert run(make(paper="yy", by=0.3), store).standing == "of record"
    assert [body["paper"] for body in history(store, "yy")] == ["yy", "yy"]


def test_of_two_that_register_at_once_one_is_first(tmp_path, monkeypatch):
    plainly = registration.registered
    monkeypatch.setattr(registration, "registered", lambda *which: (plainly(*which), time.sleep(0.2))[0])
    start, found = threading.Barrier(2), []

    def register(by):
        with Store(tmp_path / "evidence.sqlite") as mine:
            start.wait()
            found.append(enter(mine, make(by=by), SEEDS)[1])

    threads = [threading.Thread(target=register, args=(by,)) for by in (0.1, 0.2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["exploratory", "of record"]
    with Store(tmp_path / "evidence.sqlite") as store:
        assert kinds(store) == ["registration"]


def test_verdicts_are_kept_once_each(store):
    for word in ("held", "held", "refuted", "held"):
        keep_verdict(store, "zz", {"verdicts": [{"word": word}], "estimate": float("nan")})
    assert [entry["verdicts"][0]["word"] for entry in history(store, "zz")] == ["held", "refuted", "held"]


# --- results of record in the repository ----------------------------------------------------------------------------


@pytest.fixture
def exported(store, tmp_path, monkeypatch):
    """A record whose claim was refuted, amended and held; returns (first claim, amended claim)."""
    shelved = {"module": "palimpsest.claims.zzfamily.zz"}
    first, second = make(by=0.9, **shelved), make(by=0.1, **shelved)
    run(first, store)
    outcome = run(second, store, amend="a slip")
    export(outcome, tmp_path / "results")
    monkeypatch.setattr(registration, "records", lambda: tmp_path / "results")
    return first, second


def test_a_new_store_takes_the_history_over(exported, tmp_path):
    first, second = exported
    with Store(tmp_path / "new.sqlite") as new:
        assert run(make(by=0.05, module=first.module), new).standing == "exploratory"
        outcome = run(second, new)
        assert outcome.standing == "of record"
        assert outcome.prereg.version == 2
        assert [entry["kind"] for entry in outcome.history[:4]] == ["registration", "verdict", "amendment", "verdict"]
        assert kinds(new).count("record") == 1
        new.verify_chain()


def test_an_installed_package_has_the_registration_without_the_history(exported, tmp_path):
    _, second = exported
    (tmp_path / "results" / "zzfamily" / "zz.history.jsonl").unlink()
    with Store(tmp_path / "new.sqlite") as new:
        assert enter(new, second, SEEDS)[1] == "of record"
        assert [entry["kind"] for entry in history(new, "zz")] == ["amendment"]
        assert registered(new, "zz").version == 2


def test_a_store_that_is_behind_catches_up(exported, tmp_path):
    _, second = exported
    with Store(tmp_path / "old.sqlite") as old:
        enter(old, make(by=0.9), SEEDS)  # the same claim, as it was before the record was exported
        assert run(make(by=0.3, module=second.module), old).standing == "exploratory", "the record is no licence"
        assert enter(old, second, SEEDS)[1] == "of record"
        assert digest(registered(old, "zz")) == digest(preregister(second))


def test_a_record_that_was_changed_is_not_taken_over(exported, tmp_path):
    file = tmp_path / "results" / "zzfamily" / "zz.json"
    file.write_text(file.read_text().replace("a slip", "a better idea"))
    with Store(tmp_path / "new.sqlite") as new:
        with pytest.raises(UserError, match="the record of zz was changed after it was sealed"):
            enter(new, exported[1], SEEDS)
        assert new.ledger() == []


@pytest.mark.parametrize(
    ("code", "differ", "standing"),
    [("now", 0, "of record"), ("now", 2, "exploratory"), ("then", 0, "exploratory"), (None, 0, "exploratory")],
)
def test_code_that_was_verified_to_give_the_values_of_record_stands_for_what_was_registered(
    exported, tmp_path, monkeypatch, code, differ, standing
):
    _, second = exported
    file = tmp_path / "results" / "zzfamily" / "zz.json"
    monkeypatch.setattr(registration, "reach_digest", lambda module: "another")
    monkeypatch.setattr(registration, "code_of", lambda claim: "now")
    if code:
        write(file, marked(read(file), rerun={"code": code, "differ": differ, "values": 4, "seed": 100, "time": ""}))
    with Store(tmp_path / "new.sqlite") as new:
        assert enter(new, second, SEEDS)[1] == standing
        assert enter(new, make(by=0.3, module=second.module), SEEDS)[1] == "exploratory", "its sentences are others"


def test_what_a_store_knows_is_not_listed_twice(exported, store, tmp_path):
    _, second = exported
    listed = history(store, "zz")
    with Store(tmp_path / "earlier.sqlite") as earlier:
        for entry in listed[:2]:
            earlier.append(entry)
        assert enter(earlier, second, SEEDS)[1] == "of record"
        assert history(earlier, "zz") == listed
        assert kinds(earlier) == ["registration", "verdict", "record"]


def test_a_store_that_is_ahead_stays_ahead(exported, store):
    _, second = exported
    third = make(by=0.3, module=second.module)
    assert run(third, store, amend="stricter").standing == "of record"
    assert run(second, store).standing == "exploratory", "what is on record was amended since"
    assert "record" not in kinds(store)
    assert digest(registered(store, "zz")) == digest(preregister(third))


def test_tampering_with_a_verdict_is_noticed(store):
    import sqlite3

    run(make(by=0.9), store)
    store.verify_chain()
    with sqlite3.connect(store.path) as other:
        other.execute("DROP TRIGGER ledger_no_update")
        other.execute("""UPDATE ledger SET body = replace(body, '"refuted"', '"held"')""")
    with pytest.raises(TamperedLedger, match="row 12 "):
        store.verify_chain()
    with pytest.raises(
        UserError, match=r"evidence.sqlite was changed from outside: row 12 of the ledger .* move it away"
    ):
        run(make(by=0.9), store)


def test_of_two_runs_of_one_claim_the_second_says_who_is_first(store):
    def arm(seed, budget):
        with Store(store.path) as second, pytest.raises(UserError, match=r"another process \(\d+\) runs the claim zz "):
            run(make(), second)
        return {"m": 1.0}

    outcome = run(make(arms={"method": arm, "baseline": baseline}), store)
    assert outcome.failures == []
    assert run(make(paper="zz2"), store).failures == []


def test_an_outcome_knows_the_head_of_its_ledger(store):
    assert run(make(), store).chain == store.verify_chain() == store.head()
