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
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from palimpsest.paths import home

# The runner and its statistics do not enter a result; a claim imports them only to declare itself.
_APART = "palimpsest.evidence"
_ROOT = Path(__file__).parents[1]


def _json(value: Any) -> str:
    """As `palimpsest.audit.hark.canonical_json`, which loads NumPy."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def normalised(source: str) -> str:
    """The program as one JSON text: node names and their fields, nothing of layout; a claim's `notes` are left out.

    >>> normalised("def f(x):  # why\\n    'what'\\n    return (x,\\n 'a')") == normalised('def f(x): return x, "a"')
    True
    >>> normalised("x = 1") == normalised("x = 2")
    False
    """
    return _json(_shape(_tree(source)))


_PARSER = threading.Lock()


def _tree(source: str) -> ast.Module:
    """The syntax tree. Python 3.11's parser counts its depth for all threads together, and fails where two parse."""
    with _PARSER:
        return ast.parse(source)


def source_digest(module: str) -> str:
    """SHA-256 of a module's normalised source; of nothing where the module has no source (a prompt)."""
    if (file := _file(module)) and file.is_file():
        return _facts(file).digest
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        source = ""
    return sha256(normalised(source).encode()).hexdigest()


def code_digest(module: str) -> str:
    """SHA-256 over the normalised sources of a module and of all it imports from its own package and ours."""
    return sha256(_json(reached(module)).encode()).hexdigest()


def digest_of(modules: Iterable[str]) -> str:
    """SHA-256 over the normalised sources of the modules that are named, and of no others."""
    return sha256(_json({name: source_digest(name) for name in modules}).encode()).hexdigest()


def reach_digest(module: str) -> str:
    """The same of what the module imports, without the module itself."""
    return sha256(
        _json({name: found for name, found in reached(module).items() if name != module}).encode()
    ).hexdigest()


def reached(module: str) -> dict[str, str]:
    """The module and all it imports from its own package and ours, directly or not: name -> SHA-256 of its
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
        if moved := _facts(file).moved.get(item):
            todo.append((f"palimpsest.{moved}", item))
        found.setdefault(name, _facts(file).digest)
        todo += [(target, original) for target, original, _ in _imports(name, file)]
    return found


def _behind(package: str, file: Path, item: str) -> list[tuple[str, str]]:
    if named := [(target, original) for target, original, bound in _imports(package, file) if bound == item]:
        return named
    # A lazy front door (a module's __getattr__) names the room in a table, or only when asked.
    if room := _facts(file).rooms.get(item):
        return [(f"{package}.{room}", "*")]
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
    if origin is None and module.startswith("palimpsest."):
        # Found by its path: to find a module by its spec imports the packages around it.
        path = _ROOT.joinpath(*module.split(".")[1:])
        found = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        return next((file for file in found if file.is_file()), None)
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


class _Facts(NamedTuple):
    """What is asked of a file."""

    digest: str
    """SHA-256 of its normalised source"""
    imports: list[tuple[int, str, str, str]]
    """dots before the name, module, name in it or *, name it is bound to"""
    rooms: dict[str, str]
    """of a lazy front door: name -> the module in the package that has it"""
    moved: dict[str, str]
    """names that stood in the file before -> the module that has them now"""


_known: dict[str, tuple[int, int, _Facts]] | None = None
"""file -> time of change, size, facts: as kept from earlier processes, and what this one adds"""
_news = False


def _facts(file: Path) -> _Facts:
    """Read once for every change of the file, also by later processes: whole packages take seconds."""
    global _known, _news
    if _known is None:
        _known = _kept()
    stat = file.stat()
    known = _known.get(str(file))
    if known is None or known[:2] != (stat.st_mtime_ns, stat.st_size):
        _news = True
        known = _known[str(file)] = (stat.st_mtime_ns, stat.st_size, _read(file))
    return known[2]


def _read(file: Path) -> _Facts:
    source = file.read_text(encoding="utf-8")
    imports, tables = [], {"_ROOMS": {}, "_MOVED": {}}
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, "*", alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            imports += [(node.level, module, alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.Assign) and (table := getattr(node.targets[0], "id", "")) in tables:
            with suppress(ValueError):  # one that is made of another module's reaches that by its imports
                named = ast.literal_eval(node.value)
                tables[table] = {name: room for room, names in named.items() for name in names}
    return _Facts(sha256(normalised(source).encode()).hexdigest(), imports, *tables.values())


def _kept() -> dict[str, tuple[int, int, _Facts]]:
    try:
        found = json.loads(_cache().read_text(encoding="utf-8"))
        return {
            file: (at, size, _Facts(d, [tuple(i) for i in imports], *tables))
            for file, at, size, (d, imports, *tables) in found
        }
    except (OSError, ValueError, TypeError):
        return {}  # none yet, or damaged: it can be made again


def keep_facts() -> None:
    """Keep what was read of the sources for later processes, in `home()`; where nothing can be written, do without."""
    global _news
    if not _news:
        return
    _news = False
    rows = [(file, *known) for file, known in (_known or {}).items() if Path(file).is_file()]
    beside = _cache().with_suffix(f".{os.getpid()}.tmp")
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(rows), encoding="utf-8")
        beside.replace(_cache())
    except OSError:
        with suppress(OSError):
            beside.unlink()


def _cache() -> Path:
    return home() / "sources.json"


def _imports(module: str, file: Path) -> Iterator[tuple[str, str, str]]:
    """(module, name in it or *, name it is bound to) of every import statement, also those inside functions."""
    package = module if file.name == "__init__.py" else _package(module)
    for level, target, name, bound in _facts(file).imports:
        if level:
            yield importlib.util.resolve_name("." * level + target, package), name, bound
        else:
            yield target, name, bound
