"""The pool of docstrings: what is read, what is left out, and that nothing is imported for it."""

from pathlib import Path

import pytest

from palimpsest.errors import UserError
from palimpsest.tasks import docstrings as room
from palimpsest.tasks.docstrings import PACKAGES, Docstring, digest, docstrings, sources


@pytest.fixture(scope="module")
def pool():
    return docstrings()


def package_of(folder, monkeypatch, files):
    """The pool is one package, `inkwell`, with these files."""
    for name, source in files.items():
        path = folder / "inkwell" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(room, "PACKAGES", ("inkwell",))


def test_all_definitions_of_a_module_are_read_in_their_order_and_nothing_is_run(tmp_path, monkeypatch):
    source = '''"""Module.

    Indented.
"""
raise SystemExit("it was run")
if True:
    def a():
        """First."""
        class B:
            "Second."
            async def c(self):
                """Third: ä."""
else:
    try:
        pass
    except ValueError:
        def a(): "Fourth."
match 1:
    case 1:
        def d(): """Fifth."""
def bare(): pass
def computed(): """Not %s""" % "one"
'''
    package_of(tmp_path, monkeypatch, {"__init__.py": source, "zinc.py": '"Last."', "sub/__init__.py": '"Sub."'})
    assert list(room._read()) == [
        ("inkwell", "inkwell", "", "Module.\n\nIndented."),
        ("inkwell", "inkwell", "a", "First."),
        ("inkwell", "inkwell", "a.B", "Second."),
        ("inkwell", "inkwell", "a.B.c", "Third: ä."),
        ("inkwell", "inkwell", "a", "Fourth."),
        ("inkwell", "inkwell", "d", "Fifth."),
        ("inkwell", "inkwell.sub", "", "Sub."),
        ("inkwell", "inkwell.zinc", "", "Last."),
    ]


def test_tests_private_folders_and_what_cannot_be_parsed_are_left_out(tmp_path, monkeypatch):
    names = (
        "__init__.py",
        "_core.py",
        "tests/a.py",
        "test/b.py",
        "testing/c.py",
        "_lib/d.py",
        "sub/_x/e.py",
        "late.py",
    )
    package_of(tmp_path, monkeypatch, dict.fromkeys(names, '"Text."') | {"late.py": '"Text."\ndef ('})
    assert [doc.module for doc in room._read()] == ["inkwell", "inkwell._core"]


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(room, "PACKAGES", ("no_such_package",))
    with pytest.raises(UserError, match="no_such_package is not installed"):
        next(sources())


def test_the_pool_holds_every_package_and_only_what_it_says(pool):
    assert {doc.package for doc in pool} == set(PACKAGES)
    assert all(doc.text.strip() and doc.module.split(".")[0] == doc.package for doc in pool)
    assert not any(doc.module.startswith("transformers.models.") for doc in pool)
    assert len(pool) > 20_000
    assert ("scipy", "scipy.special._logsumexp", "softmax") in {doc[:3] for doc in pool}


def test_the_order_of_the_files_on_disk_and_their_place_do_not_matter(tmp_path, monkeypatch):
    pools = []
    for name, order in (("here", sorted), ("there", lambda paths: sorted(paths, reverse=True))):
        with monkeypatch.context() as patch:
            package_of(tmp_path / name, patch, {f"{letter}.py": f'"{letter}"' for letter in ("__init__", *"BaÄ_")})
            rglob = Path.rglob
            patch.setattr(Path, "rglob", lambda path, pattern, o=order, r=rglob: o(r(path, pattern)))
            pools.append(list(room._read()))
    assert len(pools[0]) == 5
    assert pools[0] == pools[1]


def test_the_digest_tells_pools_apart(monkeypatch):
    digests = set()
    for text in ("a", "a", "b"):
        monkeypatch.setattr(room, "docstrings", lambda text=text: (Docstring("inkwell", "inkwell", "", text),))
        digest.cache_clear()
        digests.add(digest())
    digest.cache_clear()
    assert len(digests) == 2
