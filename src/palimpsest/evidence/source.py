"""What a program says, apart from how it is laid out: digests of source that survive reformatting.

`normalised` reduces a file to its syntax tree without docstrings, comments and positions: a formatter changes none of
it, an edit of the program does. `code_digest` covers a claim's module and every module of the package that it imports,
directly or not, so that a stored result is reused only while the code that made it is the code at hand.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from palimpsest.audit.hark import canonical_json

# The runner and its statistics do not enter a result; a claim imports them only to declare itself.
_APART = "palimpsest.evidence"


def normalised(source: str) -> str:
    """The program as one JSON text: node names and their fields, nothing of layout; a claim's `notes` are left out.

    >>> normalised("def f(x):  # why\\n    'what'\\n    return (x,\\n 'a')") == normalised('def f(x): return x, "a"')
    True
    >>> normalised("x = 1") == normalised("x = 2")
    False
    """
    return canonical_json(_shape(_tree(source)))


_PARSER = threading.Lock()


def _tree(source: str) -> ast.Module:
    """The syntax tree. Python 3.11's parser counts its depth for all threads together, and fails where two parse."""
    with _PARSER:
        return ast.parse(source)


def source_digest(module: str) -> str:
    """SHA-256 of a loaded module's normalised source; of nothing where the module has no source (a prompt)."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        source = ""
    return sha256(normalised(source).encode()).hexdigest()


def code_digest(module: str) -> str:
    """SHA-256 over the normalised sources of a loaded module and of all it imports from its own package and ours."""
    return sha256(canonical_json(reached(module)).encode()).hexdigest()


def reached(module: str) -> dict[str, str]:
    """The loaded module and all it imports from its own package and ours, directly or not: name -> SHA-256 of its
    normalised source."""
    packages = {"palimpsest", module.split(".")[0], _package(module).split(".")[0]}
    found: dict[str, str] = {module: source_digest(module)}
    seen: set[tuple[str, str]] = set()
    todo = [(module, "*")]
    while todo:
        name, item = todo.pop()
        if (name, item) in seen or name.split(".")[0] not in packages or name.startswith(_APART):
            continue
        seen.add((name, item))
        if (file := _file(name)) is None:
            continue
        if item != "*" and file.name == "__init__.py":
            if _file(f"{name}.{item}"):
                todo.append((f"{name}.{item}", "*"))
                continue
            # A package's front door: follow the one name to the room behind it, not to all its neighbours.
            if behind := _behind(name, file, item):
                todo += behind
                continue
        found.setdefault(name, _read(file)[1])
        todo += [(target, original) for target, original, _ in _imports(name, file)]
    return found


def _behind(package: str, file: Path, item: str) -> list[tuple[str, str]]:
    if named := [(target, original) for target, original, bound in _imports(package, file) if bound == item]:
        return named
    # A lazy front door (a module's __getattr__) names the room only when asked.
    home = getattr(getattr(importlib.import_module(package), item, None), "__module__", package)
    return [(home, "*")] if home != package else []


def _shape(node: Any) -> Any:
    if isinstance(node, ast.AST):
        notes = [k for k in node.keywords if k.arg == "notes"] if _is_claim(node) else []
        fields = [
            [name, _shape([item for item in value if item not in notes] if isinstance(value, list) else value)]
            for name, value in ast.iter_fields(node)
            # A string's prefix is layout.
            if value is not None and name not in ("kind", "type_comment", "type_ignores")
        ]
        # Empty fields differ between Python versions.
        return [type(node).__name__, *(field for field in fields if field[1] != [])]
    if isinstance(node, list):
        return [_shape(item) for item in node if not _is_prose(item)]
    return ascii(node)  # repr would depend on the Unicode tables of the Python version


def _is_claim(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Claim"


def _is_prose(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _file(module: str) -> Path | None:
    origin = getattr(sys.modules.get(module), "__file__", None)  # a script, __main__, has no spec
    if origin is None:
        try:
            origin = getattr(importlib.util.find_spec(module), "origin", None)
        except (ImportError, ValueError):
            return None
    return Path(origin) if origin and origin.endswith(".py") else None


def _package(module: str) -> str:
    """What a module's relative imports start from, also for one that is run with python -m."""
    known = getattr(sys.modules.get(module), "__package__", None)
    return module.rpartition(".")[0] if known is None else known


def _read(file: Path) -> tuple[ast.Module, str]:
    return _parsed(file, file.stat().st_mtime_ns)


@cache
def _parsed(file: Path, _changed: int) -> tuple[ast.Module, str]:
    source = file.read_text(encoding="utf-8")
    return _tree(source), sha256(normalised(source).encode()).hexdigest()


def _imports(module: str, file: Path) -> Iterator[tuple[str, str, str]]:
    """(module, name in it or *, name it is bound to) of every import statement, also those inside functions."""
    package = module if file.name == "__init__.py" else _package(module)
    for node in ast.walk(_read(file)[0]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "*", alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            target = "." * node.level + (node.module or "")
            if node.level:
                target = importlib.util.resolve_name(target, package)
            for alias in node.names:
                yield target, alias.name, alias.asname or alias.name
