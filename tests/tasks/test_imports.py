"""Imports of the core dependencies: what counts as one, the rule of what stays, and what there is to learn."""

import ast
from collections import Counter

import pytest
import torch

from palimpsest.tasks import imports as module
from palimpsest.tasks.docstrings import sources
from palimpsest.tasks.imports import MODULES, NAMES, digest, imported, imports


def whole(source):
    """The same by the whole tree of a file, statement by statement: all before the first definition."""
    found = set()

    def walk(body, package=("a", "b")):
        for each in body:
            if isinstance(each, ast.Import):
                found.update(alias.name for alias in each.names)
            elif isinstance(each, ast.ImportFrom):
                start = ".".join(package[: len(package) - each.level + 1]) if each.level else ""
                base = ".".join(part for part in (start, each.module) if part)
                found.update(f"{base}.{alias.name}" for alias in each.names if alias.name != "*")
            elif not isinstance(each, (ast.ClassDef, ast.FunctionDef)):
                for part in ("body", "handlers", "orelse", "finalbody"):
                    walk(getattr(each, part, []))

    tree = ast.parse(source).body
    ends = [n for n, each in enumerate(tree) if isinstance(each, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    walk(tree[: ends[0]] if ends else tree)
    return found


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (b"import os.path as p, sys", {"os.path", "sys"}),
        (b"from . import x\nfrom .c import *\nfrom ..d import (\n  y as z,\n)", {"a.b.x", "a.d.y"}),
        (b"if T:\n  import t\nelse:\n  import e", {"t", "e"}),
        (b"try:\n  import t\nexcept E:\n  import e\nfinally:\n  import f", {"t", "e", "f"}),
        (b"if T:\n  def f():\n    import no\nimport yes", {"yes"}),
        (b"import yes\n@wrapped\ndef f(): pass\nimport no", {"yes"}),
        (b"import yes\nasync def f(): pass\nimport no", {"yes"}),
        (b'"""\nclass of things\n"""\nimport yes\nclass C: pass\nimport no', {"yes"}),
        (b"defaults = 1\nclassic = 2\nimport yes", {"yes"}),
        (b"", set()),
    ],
)
def test_the_head_of_a_file_is_read(source, names):
    assert imported(source, ("a", "b")) == names == whole(source)


def test_cutting_a_file_short_loses_nothing():
    for package, _, path in sources():
        if package in ("joblib", "tyro"):
            assert imported(path.read_bytes(), ("a", "b")) == whole(path.read_bytes()), path


def test_what_is_no_python_is_refused():
    with pytest.raises(SyntaxError):
        imported(b"import (", ("a",))


def test_the_rule_holds_for_what_stays():
    taken = module._pool()
    assert list(taken) == sorted(taken)
    assert min(Counter(name for names in taken.values() for name in names).values()) >= MODULES
    assert min(map(len, taken.values())) >= NAMES
    assert len(set(taken.values())) == len(taken)
    assert 1000 < len(taken) < 4000
    assert not any(".tests." in name or name.startswith("transformers.models.") for name in taken)


def test_the_pool_of_a_few_files(monkeypatch, tmp_path):
    files = {
        "p/__init__.py": "from .m import f\nimport os, sys",
        "p/m.py": "from .n import g\nimport os",
        "p/n.py": "import sys\nfrom .n import g\nfrom p import n",
        "p/same.py": "import os\nfrom p.n import g",
        "p/later.py": "import os, sys as",
    }
    (tmp_path / "p").mkdir()
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    modules = [("p", module, tmp_path / "p" / f"{module[2:] or '__init__'}.py") for module in ("p.same", "p", "p.m")]
    modules += [("p", "p.later", tmp_path / "p/later.py"), ("p", "p.n", tmp_path / "p/n.py")]
    monkeypatch.setattr(module, "sources", lambda: iter(modules))
    monkeypatch.setattr(module, "MODULES", 1)
    monkeypatch.setattr(module, "NAMES", 1)
    assert module._pool.__wrapped__() == {
        "p": ("os", "p.m.f", "sys"),
        "p.m": ("os", "p.n.g"),
        "p.n": ("p.n", "p.n.g", "sys"),
    }
    monkeypatch.setattr(module, "MODULES", 2)
    assert module._pool.__wrapped__() == {"p": ("os", "sys"), "p.m": ("os", "p.n.g"), "p.n": ("p.n.g", "sys")}
    monkeypatch.setattr(module, "NAMES", 3)
    assert module._pool.__wrapped__() == {}


def test_a_seed_holds_out_imports_and_knows_their_names():
    task = imports(100)
    taken = module._pool()
    for split in (task.train, task.validation, task.test):
        for user, item in zip(split.user.tolist()[::50], split.item.tolist()[::50], strict=True):
            assert task.items[item] in taken[task.users[user]]
    assert sum(map(len, (task.train, task.validation, task.test))) == sum(map(len, taken.values()))
    assert not set(map(tuple, torch.stack([task.test.user, task.test.item], 1).tolist())) & set(
        map(tuple, torch.stack([imports(101).test.user, imports(101).test.item], 1).tolist())
    )


def test_what_other_modules_take_says_more_than_popularity():
    task = imports(0)
    users = task.test.user
    taken = task.known(torch.arange(len(task.users))).float()
    together = taken.T @ taken  # how many modules take both names
    alike = together / (task.popularity[:, None] * task.popularity).clamp(min=1).sqrt()
    hits = []
    for scores in (task.popularity.float().expand(len(users), -1), taken[users] @ alike.fill_diagonal_(0)):
        scores = scores.masked_fill(task.known(users), -torch.inf)
        held_out = scores.gather(1, task.test.item[:, None])
        hits.append(((scores > held_out).sum(1) < 20).float().mean().item())
    assert hits[1] > hits[0] + 0.2


def test_the_digest_is_of_the_content(monkeypatch):
    assert digest() == digest()
    assert len(digest()) == 64
    taken = dict(module._pool())
    taken.pop(next(iter(taken)))
    monkeypatch.setattr(module, "_pool", lambda: taken)
    assert digest.__wrapped__() != digest()
