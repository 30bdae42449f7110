"""`--changed` in a small checkout of its own: what is left out, and what is not."""

import os
import re
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from tests.selection import SMOKE, Reach

ONE, OTHER = "tests/forget/test_one.py", "tests/forget/test_other.py"
FILES = {
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "-q --import-mode=importlib"\npythonpath = [".", "src"]\n',
    "src/palimpsest/__init__.py": "",
    "src/palimpsest/losses/__init__.py": "",
    "src/palimpsest/losses/far.py": "FAR = 1\n",
    "src/palimpsest/losses/near.py": "from palimpsest.losses.far import FAR\n",
    "src/palimpsest/forget/__init__.py": '_ROOMS = {"one": ("One",), "other": ("Other",)}\n',
    "src/palimpsest/forget/one.py": "def one():\n    from palimpsest.losses import near\n",
    "src/palimpsest/forget/other.py": "",
    "src/palimpsest/claims/forget/one.py": "from palimpsest.forget import One\n",
    "src/palimpsest/claims/forget/other.py": "",
    "src/palimpsest/evidence/engine.py": "",
    "results/forget/one.json": "{}",
    "tests/__init__.py": "",
    "tests/conftest.py": 'pytest_plugins = ["tests.selection", "tests.budget"]\n',
    "tests/forget/conftest.py": "",
    "tests/forget/helper.py": "",
    ONE: "from palimpsest.forget import one\nfrom tests.forget import helper\n\ndef test_one(): pass\n",
    OTHER: "def test_other(): pass\ndef test_another(): pass\n",
    "tests/forget/test_hall.py": "def test_hall(): pass\n",
    SMOKE: "import pytest\n@pytest.mark.parametrize('name', ['one', 'other'])\ndef test_smoke(name): pass\n",
}
SMOKES = {f"{SMOKE}::test_smoke[{name}]" for name in ("one", "other")}


@pytest.fixture
def checkout(tmp_path):
    """A folder with the files and the plugins."""
    plugins = {
        f"tests/{name}.py": Path(__file__).with_name(f"{name}.py").read_text() for name in ("selection", "budget")
    }
    for name, text in (FILES | plugins).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(checkout, *options):
    """The tests that passed and those that failed, and all that was printed."""
    command = [sys.executable, "-m", "pytest", "-rA", "--color=no", *options]
    # Other plugins take a second to load.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
    printed = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True).stdout
    assert "::" in printed, printed
    return {word: set(re.findall(rf"^{word} ([^ \n]+)", printed, re.M)) for word in ("PASSED", "FAILED")}, printed


def next_tenth_is_of(checkout, *units):
    """The tenth of the next run: one that these units are of, if any; else one that none is of."""
    taken = {crc32(unit.encode()) % 10 for unit in (ONE, OTHER, *SMOKES)}
    runs = crc32(units[0].encode()) % 10 if units else min(set(range(10)) - taken)
    (checkout / ".pytest_cache/v/palimpsest/passed runs").write_text(str(runs))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_what_passed_is_left_out_until_its_code_changes_or_its_tenth_comes(checkout, workers):
    everything = {f"{ONE}::test_one", f"{OTHER}::test_other", f"{OTHER}::test_another", *SMOKES}
    always = {"tests/forget/test_hall.py::test_hall"}
    assert run(checkout, "--changed", *workers)[0]["PASSED"] == everything | always
    next_tenth_is_of(checkout)
    found, printed = run(checkout, "--changed", *workers)
    assert found["PASSED"] == always
    assert "left out 5 tests whose code has not changed since they passed; rotating tenth" in printed
    (checkout / "src/palimpsest/losses/far.py").write_text("FAR = 2\n")
    next_tenth_is_of(checkout)
    found, _ = run(checkout, "--changed", *workers)
    assert found["PASSED"] == always | {f"{ONE}::test_one", f"{SMOKE}::test_smoke[one]"}
    next_tenth_is_of(checkout, OTHER)
    found, _ = run(checkout, "--changed", *workers)
    assert {f"{OTHER}::test_other", f"{OTHER}::test_another"} <= found["PASSED"]
    assert found["PASSED"].isdisjoint({f"{ONE}::test_one"}) or crc32(ONE.encode()) % 10 == crc32(OTHER.encode()) % 10
    assert run(checkout, *workers)[0]["PASSED"] == everything | always


@pytest.mark.slow
def test_what_failed_was_skipped_or_was_edited_meanwhile_runs_again(checkout):
    (checkout / OTHER).write_text(
        "import pytest\nfrom pathlib import Path\n"
        "def test_fails(): assert Path('mended').exists()\n"
        "def test_skips(): pytest.skip()\n"
        "def test_passes(): pass\n"
    )
    (checkout / ONE).write_text("from palimpsest.losses import far\ndef test_edits(): open(far.__name__, 'w')\n")
    (checkout / "src/palimpsest/forget/one.py").touch()
    run(checkout, OTHER)
    next_tenth_is_of(checkout)
    found, printed = run(checkout, "--changed", OTHER)
    assert found == {"PASSED": set(), "FAILED": {f"{OTHER}::test_fails"}}
    assert "left out 1 test" in printed
    (checkout / "mended").touch()
    next_tenth_is_of(checkout)
    assert f"{OTHER}::test_fails" in run(checkout, "--changed", OTHER)[0]["PASSED"]

    (checkout / ONE).write_text("from pathlib import Path\ndef test_edits(): Path('tests/forget/helper.py').touch()\n")
    (checkout / "tests/forget/conftest.py").write_text("from tests.forget import helper\n")
    for _ in range(2):
        assert run(checkout, "--changed", ONE)[0]["PASSED"] == {f"{ONE}::test_edits"}
        next_tenth_is_of(checkout)


@pytest.mark.parametrize(
    ("changed", "units"),
    [
        ("src/palimpsest/forget/one.py", {ONE, "one"}),
        ("src/palimpsest/losses/__init__.py", {ONE, "one"}),
        ("src/palimpsest/forget/other.py", set()),
        ("src/palimpsest/forget/__init__.py", {ONE, "one"}),
        ("src/palimpsest/evidence/engine.py", {"one", "other"}),
        ("src/palimpsest/claims/forget/other.py", {"other"}),
        ("results/forget/one.json", {"one"}),
        ("tests/forget/helper.py", {ONE}),
        ("tests/forget/conftest.py", {ONE, OTHER}),
        ("tests/forget/new.csv", {ONE, OTHER}),
        ("tests/conftest.py", {ONE, OTHER, "one", "other"}),
        ("pyproject.toml", {ONE, OTHER, "one", "other"}),
        (OTHER, {OTHER}),
        (SMOKE, {"one", "other"}),
    ],
)
def test_what_a_file_reaches(checkout, changed, units):
    named = {name: f"{SMOKE}::test_smoke[{name}]" for name in ("one", "other")} | {ONE: ONE, OTHER: OTHER}
    before = {name: Reach(checkout).of(unit) for name, unit in named.items()}
    (checkout / changed).open("a").write("\n")
    after = {name: Reach(checkout).of(unit) for name, unit in named.items()}
    assert {name for name in named if before[name] != after[name]} == units


@pytest.mark.parametrize(
    "line",
    [
        "import subprocess",
        "from importlib import import_module",
        "from palimpsest import forget",
        "from palimpsest.forget import *",
        "from palimpsest.cli import main",
        "from palimpsest.evidence import run_claim",
        "HERE = __file__",
    ],
)
def test_who_loads_what_no_import_says_reaches_everything(checkout, line):
    (checkout / OTHER).write_text(f"{line}\n")
    reach = Reach(checkout)
    assert reach.files(OTHER) == reach.everything
    assert checkout / "results/forget/one.json" in reach.everything


def test_a_module_named_in_a_string_is_reached(checkout):
    (checkout / OTHER).write_text("NAME = 'palimpsest.losses.near.FAR'\n")
    assert checkout / "src/palimpsest/losses/far.py" in Reach(checkout).files(OTHER)


def test_a_test_above_its_budget_fails_unless_it_is_marked_slow(checkout):
    (checkout / "tests/budget.py").write_text((checkout / "tests/budget.py").read_text().replace("2.0", "0.02"))
    burn = "import time, pytest\ndef burn():\n    while time.process_time() - start < 0.3: pass\n"
    tests = "start = time.process_time()\ndef test_fast(): burn()\n@pytest.mark.slow\ndef test_slow(): burn()\n"
    (checkout / OTHER).write_text(burn + tests)
    found, printed = run(checkout, OTHER)
    assert (found["PASSED"], found["FAILED"]) == ({f"{OTHER}::test_slow"}, {f"{OTHER}::test_fast"})
    assert "processor seconds, 0.02 are meant: make it faster, or mark it slow" in printed
