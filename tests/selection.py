"""`pytest --changed` leaves out tests of rooms, and smoke runs of claims, whose code has not changed since they passed.

Everything else always runs, and so does a rotating tenth of these. What a test reaches is its file, what that imports
from the package and from `tests`, directly or not, the files around it (conftests, data, settings), and the versions of
all that is installed. Where the imports do not say what is loaded (a subprocess, a module by its name, files of the
checkout), it reaches everything. What passed is kept in pytest's cache, with a digest of what it reached.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterator
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import pytest

SMOKE = "tests/evidence/test_claims_smoke.py"
KEY = "palimpsest/passed"
# Who names one of these loads or reads more than the import statements say, but for the loaders: what they load is
# named by who calls them.
UNSURE = {"__file__", "__import__", "claim_names", "exec", "import_module", "load_claim", "run_claim", "subprocess"}
UNSURE_IMPORTS = ("palimpsest.catalogue", "palimpsest.cli", "palimpsest.paths.records")
LOADERS = tuple(f"src/palimpsest/{each}" for each in ("evidence/", "paths.py", "lazy.py", "forget/intervention.py"))


class Reach:
    """What the tests of a checkout reach.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Not bound to the class: what is read is forgotten with the object.
        self.read = cache(self._read)
        self.digest = cache(lambda file: sha256(file.read_bytes()).hexdigest())
        self.rooms = cache(self._rooms)

    def unit(self, nodeid: str) -> str | None:
        """What is run or left out as a whole: a room's file of tests, the smoke run of a claim; None: always run."""
        file = nodeid.split("::")[0]
        if file == SMOKE and "::test_smoke[" in nodeid:
            return nodeid
        family, _, name = file.removeprefix("tests/").partition("/test_")
        return file if (self.root / "src/palimpsest/claims" / family / name).is_file() else None

    def files(self, unit: str) -> set[Path]:
        """All files that a unit reaches."""
        file, _, test = unit.partition("::")
        folder = (self.root / file).parent
        todo = [self.root / "pyproject.toml", self.root / "constraints.txt", self.root / "tests/conftest.py"]
        todo += [f for f in folder.iterdir() if f.is_file() and (f.suffix != ".py" or f.name == "conftest.py")]
        found = {self.root / "tests/selection.py", self.root / "tests/budget.py"}
        if test:  # a smoke run, which loads its claim by name, and is judged by the engine
            name = test[test.index("[") + 1 : -1]
            for pattern in (
                f"src/palimpsest/claims/*/{name}.py",
                "src/palimpsest/evidence/*.py",
                f"results/*/{name}.json",
            ):
                todo += self.root.glob(pattern)
            found.add(self.root / file)
        else:
            todo.append(self.root / file)
        while todo:
            each = todo.pop()
            if each in found or not each.is_file():
                continue
            found.add(each)
            if each.suffix == ".py":
                unsure, imported = self.read(each)
                if unsure:
                    return self.everything
                todo += imported
        return found

    @cached_property
    def everything(self) -> set[Path]:
        """All files that a test could read."""
        folders = [self.root / name for name in ("src", "tests", "results", "docs", "examples", "benchmarks")]
        found = {f for folder in folders for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
        return found | {f for f in self.root.iterdir() if f.is_file()}

    def of(self, unit: str) -> str:
        """A digest of all that a unit reaches."""
        rows = sorted((str(f.relative_to(self.root)), self.digest(f)) for f in self.files(unit))
        return sha256(json.dumps([rows, self.installed]).encode()).hexdigest()[:16]

    @cached_property
    def installed(self) -> list[str]:
        return [sys.version, *sorted(f"{d.name}=={d.version}" for d in importlib.metadata.distributions())]

    def _read(self, file: Path) -> tuple[bool, list[Path]]:
        """Whether a file loads or reads what its imports do not say, and the files that it imports."""
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(tree)}
        imported = list(_imports(tree, self._package(file)))
        unsure = names & UNSURE or any(self._opens(module, name) for module, name in imported)
        loader = str(file.relative_to(self.root)).startswith(LOADERS)
        return bool(unsure) and not loader, [f for module, name in imported for f in self._modules(module, name)]

    def _opens(self, module: str, name: str) -> bool:
        """Whether an import hands over a package that loads its modules on demand, or one that finds things by name."""
        path = f"{module}.{name}".strip(".")
        front = self.root.joinpath("src", *path.removesuffix(".*").split("."), "__init__.py")
        return bool({module, name} & UNSURE) or path.startswith(UNSURE_IMPORTS) or bool(self.rooms(front))

    def _package(self, file: Path) -> str:
        base = self.root / "src" if (self.root / "src") in file.parents else self.root
        return ".".join(file.parent.relative_to(base).parts)

    def _modules(self, module: str, name: str) -> Iterator[Path]:
        """The files that importing a name from a module runs: the packages around it, and where the name stands."""
        parts = module.split(".")
        if parts[0] in ("palimpsest", "tests"):
            base = self.root / "src" if parts[0] == "palimpsest" else self.root
            for i in range(1, len(parts) + 1):
                yield from (base.joinpath(*parts[:i], "__init__.py"), base.joinpath(*parts[:i]).with_suffix(".py"))
            folder = base.joinpath(*parts)
            for each in {name, self.rooms(folder / "__init__.py").get(name)} - {"", None}:
                yield from (folder / f"{each}.py", folder / each / "__init__.py")

    def _rooms(self, front: Path) -> dict[str, str]:
        """Name -> the module in a package that has it, where the package loads its modules on demand."""
        if front.is_file():
            for node in ast.parse(front.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_ROOMS":
                    rooms = ast.literal_eval(node.value)
                    return {name: room for room, names in rooms.items() for name in names}
        return {}


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """(module, name in it) of every import statement, also those inside functions, and of names in strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = importlib.util.resolve_name("." * node.level + module, package)
            yield from ((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"palimpsest(\.\w+)+", str(node.value)):
            yield node.value, ""  # as monkeypatch takes it


class Selection:
    """The plugin, in the process that was started and in the workers of xdist.

    Args:
        config: of pytest.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.reach, self.started = config, Reach(config.rootpath), time.time_ns()
        self.now = cache(self.reach.of)
        self.passed: dict[str, list] = config.cache.get(KEY, {})
        self.runs: int = config.cache.get(f"{KEY} runs", 0)
        self.good: dict[str, set[str]] = {}
        self.bad: set[str] = set()
        self.unchanged = 0

    @cached_property
    def skipped(self) -> list[str]:
        """Tests that passed with the code as it is now, but for those of this run's tenth."""
        if hasattr(self.config, "workerinput"):
            return self.config.workerinput["skipped"]
        kept = [unit for unit in self.passed if crc32(unit.encode()) % 10 != self.runs % 10]
        kept = [unit for unit in kept if (self.config.rootpath / unit.split("::")[0]).is_file()]
        return [test for unit in kept if self.passed[unit][0] == self.now(unit) for test in self.passed[unit][1]]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node) -> None:
        node.workerinput["skipped"] = self.skipped if self.config.option.changed else []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.config.option.changed:
            out = set(self.skipped)
            left_out = [item for item in items if item.nodeid in out]
            items[:] = [item for item in items if item.nodeid not in out]
            self.config.hook.pytest_deselected(items=left_out)
            self.unchanged = len(left_out)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node) -> None:
        self.unchanged = getattr(node, "workeroutput", {}).get("unchanged", self.unchanged)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if unit := self.reach.unit(report.nodeid):
            good = self.good.setdefault(unit, set())
            if report.failed or report.skipped:
                self.bad.add(report.nodeid)
            elif report.when == "teardown":
                good.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        if hasattr(self.config, "workerinput"):
            self.config.workeroutput["unchanged"] = self.unchanged
            return
        for unit, good in self.good.items():
            if any(not f.is_file() or f.stat().st_mtime_ns >= self.started for f in self.reach.files(unit)):
                continue  # edited meanwhile: who knows what was run
            digest, before = self.passed.get(unit, ["", []])
            before = before if digest == self.now(unit) else []
            self.passed[unit] = [self.now(unit), sorted({*before, *good} - self.bad)]
        self.config.cache.set(KEY, self.passed)
        self.config.cache.set(f"{KEY} runs", self.runs + bool(self.config.option.changed))

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self.config.option.changed:
            tenth = f"rotating tenth {self.runs % 10 + 1}/10"
            terminalreporter.write_line(
                f"left out {self.unchanged} tests whose code has not changed since they passed; {tenth}"
            )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--changed", action="store_true", help="leave out tests of rooms and claims whose code is as when they passed"
    )


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "cache"):  # without it, nothing is known and nothing left out
        config.pluginmanager.register(Selection(config))
