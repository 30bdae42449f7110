"""Docstrings of the packages that Palimpsest needs: real technical English that is on every machine, and no download.

`docstrings` reads them from the source files of `PACKAGES`, which are parsed and never imported or run: those of
modules, classes and functions, however deep, public or not by their own name. Left out are folders of tests, folders
whose name begins with an underscore, and `transformers.models`, whose files are copies of one another by design.

Which texts these are depends on the versions that are installed: `digest` tells one pool from another.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import NamedTuple

from palimpsest.errors import UserError

PACKAGES = (
    "accelerate",
    "filelock",
    "jaxtyping",
    "jinja2",
    "joblib",
    "matplotlib",
    "mlxtend",
    "nltk",
    "numpy",
    "peft",
    "regex",
    "rich",
    "rouge_score",
    "safetensors",
    "scipy",
    "sklearn",
    "statsmodels",
    "threadpoolctl",
    "tokenizers",
    "torch",
    "transformers",
    "tyro",
)
"""the core dependencies, by the name they are imported by"""
TESTS = {"test", "tests", "testing"}
RECIPE = 1  # raised when `_read` reads otherwise


class Docstring(NamedTuple):
    """A text, and what it describes: package, module and the dotted name within the module ("" for the module)."""

    package: str
    module: str
    name: str
    text: str


def sources() -> Iterator[tuple[str, str, Path]]:
    """(package, module, path) of all modules whose docstrings are read, in the order of `PACKAGES` and by name.

    Raises:
        UserError: a package is not installed.

    >>> next(sources())[:2]
    ('accelerate', 'accelerate')
    """
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(f"the package {package} is not installed: install palimpsest with its dependencies")
        origin = Path(spec.origin)
        single = spec.submodule_search_locations is None
        paths = [origin] if single else origin.parent.rglob("*.py")
        root = origin.parent if single else origin.parent.parent
        modules = {_module(path.relative_to(root)): path for path in paths if not _left_out(path.relative_to(root))}
        for module in sorted(modules):
            yield package, module, modules[module]


@cache
def docstrings() -> tuple[Docstring, ...]:
    """All docstrings, cleaned of their indentation, in the order of `sources` and within a module that of the source.

    They are read once, in about ten seconds, and kept under `paths.home()` for as long as the versions of the packages
    stay. A text occurs as often as it is written.

    Raises:
        UserError: a package is not installed.

    >>> len(docstrings()), docstrings()[0].module  # doctest: +SKIP
    (33953, 'accelerate.accelerator')
    """
    from palimpsest.tasks.worlds import cached  # late: loads transformers

    def build(folder: Path) -> None:
        collects = gc.isenabled()
        gc.disable()  # syntax trees have no cycles, and walking through all else that is loaded doubles the time
        try:
            lines = [json.dumps(doc) + "\n" for doc in _read()]
        finally:
            if collects:
                gc.enable()
        (folder / "docstrings.jsonl").write_text("".join(lines), encoding="utf-8")

    versions = {package: importlib.metadata.version(_DISTRIBUTIONS.get(package, package)) for package in PACKAGES}
    python = ".".join(map(str, sys.version_info[:2]))  # a file that it cannot parse has no docstrings
    folder = cached("docstrings", {"recipe": RECIPE, "python": python, "versions": versions}, build)
    with (folder / "docstrings.jsonl").open(encoding="utf-8") as file:
        return tuple(Docstring(*json.loads(line)) for line in file)


@cache
def digest() -> str:
    """SHA-256 over all docstrings in their order, with package, module and name: equal where the pool is.

    >>> digest()  # doctest: +SKIP
    '04bab151bed507192357a4e61c66109100ff61a95ef6ed0ce5738102c191ed8d'
    """
    hashed = hashlib.sha256()
    for doc in docstrings():
        hashed.update(json.dumps(doc).encode() + b"\n")
    return hashed.hexdigest()


_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where it is installed by another name


def _read() -> Iterator[Docstring]:
    for package, module, path in sources():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that a later Python refuses
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):  # written for a later Python, or no text
                continue
        yield from (Docstring(package, module, name, text) for name, text in _texts(tree, ""))


def _texts(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """The dotted name and the docstring of a node and of all that is defined below it, under conditions too."""
    if isinstance(node, (ast.Module, *_NAMED)) and (text := ast.get_docstring(node)) and text.strip():
        yield name, text
    for block in ("body", "handlers", "cases", "orelse", "finalbody"):  # in the order of the source
        for child in getattr(node, block, ()):
            yield from _texts(child, f"{name}.{child.name}".lstrip(".") if isinstance(child, _NAMED) else name)


def _module(path: PurePath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _left_out(path: PurePath) -> bool:
    folders = path.parts[1:-1]
    models = path.parts[:2] == ("transformers", "models") and len(folders) > 1
    return models or any(folder in TESTS or folder.startswith("_") for folder in folders)
