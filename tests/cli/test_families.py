"""What every family's object owes the commands and verbs that are made of it."""

import subprocess
import sys
from dataclasses import fields

import pytest

from palimpsest.cli import COMMANDS
from palimpsest.errors import UserError
from palimpsest.family import FAMILIES, Compared, Kind, family, files_of


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_names_what_is_there(name):
    found = family(name)
    flags = [each.name for each in (*fields(found.flags), *fields(found.shared), *fields(Compared))]
    assert (found.name, name in COMMANDS) == (name, True)
    assert found.flags.__doc__
    assert len(set(flags)) == len(flags)
    for kind, about in found.kinds.items():
        assert {kind, *about.needs, *about.takes} <= set(flags)
        assert about.lr > 0
        assert all(hasattr(about.module, part) for part in (about.on.partition(":")[2], "recipe", "save_best"))


def test_no_family_loads_torch():
    code = f"import sys; from palimpsest.family import family; [family(name) for name in {FAMILIES}]\n"
    code += "print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_an_unknown_family_is_refused():
    with pytest.raises(UserError, match="no family 'classfy': there are forget, contrast, classify, retain"):
        family("classfy")


KINDS = {
    "table": Kind(needs={"target": "the column"}, takes=("time", "no_header")),
    "pairs": Kind(needs={"model": "the encoder"}),
    "rows": Kind(needs={"model": "the language model"}),
}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "on what data. Give --table or --pairs or --rows"),
        ({"table": "t", "pairs": "p"}, "one kind of data at a time: give --table or --pairs"),
        ({"table": "t"}, "--table needs --target: the column"),
        ({"rows": "r"}, "--rows needs --model: the language model"),
        ({"time": "t"}, "--time is about --table: give that"),
        ({"table": "t", "target": ["y"], "model": "m"}, "--model is about --pairs or --rows"),
        ({"pairs": "p", "model": "m", "no_header": True}, "--no-header is about --table"),
    ],
)
def test_files_that_do_not_fit_are_refused(given, why):
    flags = {"table": None, "target": [], "time": None, "no_header": False, "pairs": None, "rows": None, "model": None}
    with pytest.raises(UserError, match=why):
        files_of(KINDS, flags | given)


def test_what_a_flag_takes_away_is_handed_on_as_what_is_there():
    given = {"table": "t", "target": ["y"], "time": None, "no_header": True, "pairs": None, "rows": None, "model": None}
    found = files_of(KINDS, given)
    assert found == ("table", {"table": "t", "target": ["y"], "time": None, "header": False})
