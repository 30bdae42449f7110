"""Digests of source: blind to layout, not to the program."""

import ast
import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from palimpsest.evidence import source
from palimpsest.evidence.source import code_digest, normalised, source_digest

PROGRAM = '''"""A module."""
import math
from palimpsest.evidence import Claim

# why
class A:
    """What."""

    x: int = 1  # one

    def f(self, a, *, b="two"):
        "doc"
        return [a, b, f"{a!r:>3} {b}"]


claim = Claim(paper="p", notes="where it differs", settings={"lr": 1e-3})
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# why\n", ""),
        ('"""A module."""\n', ""),
        ('        "doc"\n', "        '''other'''\n"),
        ('b="two"', "b = 'two'"),
        ("return [a, b, f", "return [\n    a,\n    b, f"),
        ("1e-3", "0.001"),
        ("notes=\"where it differs\", ", ""),
        ("x: int = 1  # one", "x : int=(1)"),
    ],
)  # fmt: skip
def test_layout_does_not_matter(old, new):
    changed = PROGRAM.replace(old, new)
    assert changed != PROGRAM
    assert normalised(changed) == normalised(PROGRAM)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1e-3", "1e-2"),
        ('"two"', '"three"'),
        ("[a, b,", "[b, a,"),
        ("!r", "!s"),
        ("*, b", "b"),
        ("x: int = 1", "x: int = True"),
        ("import math", "import cmath"),
        ("        return", "        a += 1\n        return"),
        ('paper="p"', 'paper="q"'),
        ("math", "math as m"),
        ("return [a, b,", "return [a, tuned(notes=1), b,"),
    ],
)
def test_the_program_matters(old, new):
    assert normalised(PROGRAM.replace(old, new)) != normalised(PROGRAM)


def test_only_a_claims_notes_are_prose():
    assert normalised("f(notes=1)") != normalised("f(notes=2)")
    assert normalised("evidence.Claim(notes='a')") == normalised("evidence.Claim()")
    assert normalised("") == normalised('"""Nothing but a docstring."""')


@pytest.fixture
def package(tmp_path, monkeypatch):
    files = {
        "zzlab/__init__.py": "",
        "zzlab/claims.py": "from zzlab.rooms import method\nfrom palimpsest.evidence import expect\n"
        "def late():\n    from zzlab import tasks\n",
        "zzlab/rooms/__init__.py": "from .room import method\nfrom .neighbour import other\n",
        "zzlab/rooms/room.py": "from . import hall\ndef method():\n    return hall.K\n",
        "zzlab/rooms/hall.py": "K = 1\n",
        "zzlab/rooms/neighbour.py": "def other():\n    return 2\n",
        "zzlab/tasks.py": "N = 3\n",
        "zzlab/unrelated.py": "Z = 4\n",
    }
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("zzlab.claims")
    yield tmp_path / "zzlab"
    for name in [name for name in sys.modules if name.startswith("zzlab")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "new", "matters"),
    [
        ("rooms/room.py", "from . import hall\ndef method():\n    return hall.K + 1\n", True),
        ("rooms/hall.py", "K = 2\n", True),
        ("tasks.py", "N = 4\n", True),
        ("rooms/hall.py", "# a comment\nK = (1)\n", False),
        ("rooms/neighbour.py", "def other():\n    return 3\n", False),
        ("rooms/__init__.py", "from .neighbour import other\nfrom .room import method\nfrom .hall import K\n", False),
        ("unrelated.py", "Z = 5\n", False),
    ],
)
def test_code_digest_covers_what_a_claim_imports_and_only_that(package, file, new, matters):
    before = code_digest("zzlab.claims")
    (package / file).write_text(new)
    assert (code_digest("zzlab.claims") != before) is matters


def test_what_was_read_is_kept_for_later_processes(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(source, "_known", None)
    found = code_digest("zzlab.claims")
    source.keep_facts()
    assert (tmp_path / "home" / "sources.json").is_file()
    monkeypatch.setattr(source, "_known", None)
    with monkeypatch.context() as without:
        without.setattr(source, "_read", lambda file: pytest.fail(f"{file} was read again"))
        assert code_digest("zzlab.claims") == found
    (tmp_path / "home" / "sources.json").write_text('[["half')
    monkeypatch.setattr(source, "_known", None)
    assert code_digest("zzlab.claims") == found


def test_one_thread_parses_at_a_time(monkeypatch):
    plain, inside, most = ast.parse, [], []

    def parse(source):
        inside.append(source)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        return plain(source)

    monkeypatch.setattr(source.ast, "parse", parse)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(normalised, ["x = 1", "y = 2", "z = 3", "w = 4"]))
    assert most == [1, 1, 1, 1]


def test_code_digest_follows_a_lazy_front_door(package):
    (package / "rooms" / "__init__.py").write_text(
        "def __getattr__(name):\n    from importlib import import_module\n"
        "    return getattr(import_module('zzlab.rooms.room'), name)\n"
    )
    importlib.reload(sys.modules["zzlab.rooms"])
    before = code_digest("zzlab.claims")
    (package / "rooms" / "hall.py").write_text("K = 2\n")
    assert code_digest("zzlab.claims") != before


def test_code_digest_follows_an_old_address(package, monkeypatch):
    (package / "claims.py").write_text("from palimpsest.forget.rwku import Frames\n")
    assert "forget/rwku_measures.py" in files_behind("zzlab.claims", monkeypatch)
    (package / "claims.py").write_text("from palimpsest.forget.rwku import Steering\n")
    assert "forget/rwku_measures.py" not in files_behind("zzlab.claims", monkeypatch)


def test_a_module_without_source_has_a_digest():
    assert source_digest("no.such.module") == source_digest("sys")


def files_behind(module, monkeypatch):
    """The files that enter a module's code digest."""
    read, plainly = [], source._facts
    with monkeypatch.context() as patched:
        patched.setattr(source, "_facts", lambda file: read.append(file) or plainly(file))
        code_digest(module)
    return {f"{file.parent.name}/{file.name}" for file in read}


def test_code_digest_covers_palimpsest_but_not_the_referee(monkeypatch):
    import palimpsest.claims.forget.npo as declared

    files = files_behind(declared.__name__, monkeypatch)
    assert {"forget/npo.py", "train/loop.py", "tasks/worlds.py", "models/score.py"} <= files
    assert not any(name.startswith("evidence/") for name in files)


def test_a_script_counts_what_it_imports(tmp_path, monkeypatch):
    script = type(sys)("__main__")
    script.__file__ = str(tmp_path / "script.py")
    (tmp_path / "script.py").write_text("from palimpsest.losses import kl_divergence\n")
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert "losses/divergence.py" in files_behind("__main__", monkeypatch)


def test_a_module_run_with_m_counts_what_it_imports(package, monkeypatch):
    run = type(sys)("__main__")
    run.__file__, run.__package__ = str(package / "main.py"), "zzlab"
    (package / "main.py").write_text("from .rooms import method\n")
    monkeypatch.setitem(sys.modules, "__main__", run)
    assert {"rooms/room.py", "rooms/hall.py"} <= files_behind("__main__", monkeypatch)
