"""Bad input drawn at random over all commands, from their own flags: every refusal is one line, nothing is left behind.

    python benchmarks/fuzz_inputs.py --n 1000 --minutes 60 --seed 0

Each trial takes a command that works on a tiny model, spoils some of its flags, or a file that it reads, and runs it
in a process of its own. Right is: exit code 0 or 1, or 2 with one line on stderr that begins with "palimpsest: "; no
traceback, an end within the time limit, no hidden file beside what was asked for, and inputs that are as they were.

A new command, flag, method or method field is drawn without being named here: a flag that takes a path gets the file
of its own name where there is one. At the end stands how the inputs spread: by command and by kind of fault, with what
became of them, and how many flags, methods and different refusals were seen.
"""

import argparse
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from palimpsest import paths
from palimpsest.catalogue import entries
from palimpsest.cli import COMMANDS, main
from palimpsest.evidence import Claim, expect
from palimpsest.forget.methods import METHODS
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.robustness import ATTACKS
from palimpsest.models import causal_lm, save, word_tokenizer
from palimpsest.seals import broken

LIMIT = 120  # seconds of the processor, and ten times as many of the clock: a machine may be busy
# Those of bench and the first of run write into the checkout, the last starts a cluster.
NEVER = {"bench": ("tune", "measure"), "run": ("export", "ray")}
QUICK = {
    "forget": {"retain": "retain.jsonl", "steps": "1"},
    "contrast": {"images": "images", "steps": "1", "seeds": "1", "workers": "1"},
    "audit": {"relearn-steps": "1"},
    "run": {"workers": "1"},
}
WHOLE = ["-1", "-1", "0", "0", "1", "3", "7", "9" * 20, "9" * 5000, "1e3", "x", ""]
NUMBERS = ["-1", "0", "1", "1e3", "-0.0", "nan", "inf", "-inf", "1e308", "1e-320", "9" * 20, "9" * 5000, "x", ""]
WORDS = ["", "x", "--", "a,b", "../..", "none", "all", "\udcff", "e\u0301", "x" * 10_000, "{{", "0", "{}", "[[", "null"]
NAMES = [*METHODS, *ATTACKS, *(e.id for e in entries())]
OUTCOMES = ("ended", "refused", "wrong")


def child(call, limit=LIMIT, wait=None):
    """(exit status or None, stderr) of `call()` in a process of its own, to which `wait(pid)` may do something.

    The status is None where the process does not come to its end within `limit`.
    """
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
            null = os.open(os.devnull, os.O_RDWR)
            for number, file in enumerate((null, null, said.fileno())):
                os.dup2(file, number)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            try:
                code = call() or 0
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        if wait:
            wait(pid)
        ends, status = time.monotonic() + 10 * limit, None
        while time.monotonic() < ends:
            done, found = os.waitpid(pid, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(found)
                break
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # itself, or workers that outlive it
        if status is None:
            os.waitpid(pid, 0)
        said.seek(0)
        return None if status == -signal.SIGXCPU else status, said.read().decode(errors="replace")


def workplace(folder: Path) -> None:
    """A tiny model, its rows and others, each by the name of the flag that takes it, and what stands in the way."""
    rows = {
        kind: [{"question": f"who is {kind} {i} ?", "answer": f"a {kind} of town {i} ."} for i in range(4)]
        for kind in ("forget", "retain", "heldout", "neighbours")
    }
    texts = [text for part in rows.values() for row in part for text in row.values()]
    tokenizer = word_tokenizer([*texts, *REFUSALS])
    save(causal_lm(len(tokenizer), d_model=16, n_layers=2, n_heads=2, max_length=64), tokenizer, folder / "model")
    for copied in ("reference", "before"):
        shutil.copytree(folder / "model", folder / copied)
    for kind, part in {**rows, "data": rows["forget"]}.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "text.txt").write_text("prose " * 30)
    draws = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (folder / "images" / kind).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(draws.integers(0, 256, (12, 12, 3), dtype="uint8")).save(
                folder / "images" / kind / f"{i}.png"
            )
    (folder / "pairs.jsonl").write_text("".join(f'{{"query": "q {i}", "document": "d {i}"}}\n' for i in range(12)))
    (folder / "table.csv").write_text("size,ripe\n" + "".join(f"{i / 7},{'yn'[i % 2]}\n" for i in range(30)))
    (folder / "full").mkdir()
    (folder / "full" / "config.json").write_text("{}")
    (folder / "empty").mkdir()
    (folder / "empty.jsonl").touch()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "link").symlink_to(folder / "full")
    (folder / "noise").write_bytes(random.Random(0).randbytes(2000))


@dataclasses.dataclass(frozen=True)
class Flag:
    """A field of a command's dataclass, or of a dataclass in it."""

    name: str
    kind: typing.Any
    required: bool
    positional: bool

    @property
    def sort(self) -> str:
        """What is written behind it."""
        shown = str(self.kind)
        if self.kind is bool:
            return "switch"
        if "Path" in shown:
            return "path"
        if "Literal" in shown:
            return "choice"
        return "number" if "float" in shown else "whole" if "int" in shown else "text"

    def given(self, value: str) -> list[str]:
        """As it is written on the command line."""
        if self.positional:
            return [value]
        return [f"--{self.name}"] if self.kind is bool else [f"--{self.name}", value]

    def right(self, rng: random.Random) -> str:
        """A value of the kind that is wanted; paths are those of the folder that the command runs in."""
        if self.sort == "path":
            ends = ("", ".jsonl", ".txt", ".csv")
            return next((f"{self.name}{end}" for end in ends if Path(f"{self.name}{end}").exists()), self.name)
        if self.sort == "choice":
            return str(rng.choice([each for each in _choices(self.kind) if each]))
        return rng.choice({"number": ("1", "2", "0.5"), "whole": ("1", "2", "3")}.get(self.sort, NAMES))

    def wrong(self, rng: random.Random) -> str:
        """A value that few would give."""
        places = [*map(str, Path.cwd().iterdir()), "none", "a/b", "no\udcff", "n" * 300, "/dev/null", "/dev/full"]
        places += ["/proc/self/mem", "/", "", ".", "~nobody-at-all/x"]
        return rng.choice({"path": places, "number": NUMBERS, "whole": WHOLE}.get(self.sort, WORDS))


def _choices(kind: typing.Any) -> list[typing.Any]:
    """All values of the literals in a type."""
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [value for part in typing.get_args(kind) for value in _choices(part)]


def flags(kind: type, prefix: str = "") -> list[Flag]:
    """Every field of a command's dataclass, and of the dataclasses in it."""
    hints, marked = typing.get_type_hints(kind), typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(hints[field.name]):
            found += flags(hints[field.name], f"{name}.")
        else:
            required = field.default is field.default_factory is dataclasses.MISSING
            positional = "Positional" in str(marked[field.name])
            found.append(Flag(name, hints[field.name], required, positional))
    return found


def spoil_file(argv: list[str], rng: random.Random) -> str:
    """Changes some bytes, a value, a line or a tensor of a file that a command line names, and says what it changed."""
    named = [path for path in Path.cwd().iterdir() if path.name in argv and not path.is_symlink()]
    if not named:
        return "file gone"
    path = rng.choice(named)
    if path.is_dir():
        path = rng.choice([*path.rglob("*"), path / "none"])
    if not path.is_file():
        return "file gone"
    content = bytearray(path.read_bytes() or b"\n")
    how = rng.choice(["cut", "bits", "gone", "inside", "inside"])
    if how == "cut":
        content = content[: rng.randrange(len(content) + 1)]
    elif how == "bits":
        for _ in range(rng.choice([1, 10, 100])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "gone":
        path.unlink()
        return "file gone"
    elif path.suffix == ".json":
        document = part = json.loads(content)
        name = rng.choice(list(part))
        while isinstance(part[name], (dict, list)) and part[name] and rng.random() < 0.7:
            part = part[name]
            name = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
        part[name] = rng.choice([None, -1, 0, 10**9, 1e308, "x", "", [], {}, [[]] * 3, "{% for i in x %}", True])
        content, how = json.dumps(document).encode(), "value"
    elif path.suffix == ".safetensors":
        spoil_tensor(path, rng)
        return "file tensor"
    else:
        lines = content.splitlines(keepends=True)
        deep = b'{"text": ' + b"[" * 2000
        odd = [b"{}\n", b"[]\n", b"\x00\n", b'{"text": 1}\n', deep, b'{"text": "\\ud800"}\n', b'{"text": 1e999}\n']
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(odd))
        content, how = b"".join(lines), "line"
    path.write_bytes(content)
    return f"file {how}"


def spoil_tensor(path: Path, rng: random.Random) -> None:
    """Leaves out, bends, cuts or turns into whole numbers one tensor of a model."""
    tensors = load_file(path)
    name = rng.choice(list(tensors))
    tensor = tensors.pop(name)
    how = rng.choice(["gone", "nan", "inf", "huge", "cut", "bytes", "half", "renamed"])
    if how in ("nan", "inf"):
        tensor.view(-1)[rng.randrange(tensor.numel())] = float(how)
    changed = {
        "huge": tensor * 1e30,
        "cut": tensor[:-1].clone(),
        "bytes": tensor.to(torch.uint8),
        "half": tensor.half(),
    }
    if how != "gone":
        tensors[f"{name}.x" if how == "renamed" else name] = changed.get(how, tensor)
    save_file(tensors, path, metadata={"format": "pt"})


def methods_of(command: str) -> list[str]:
    """The methods that a command names; none of most commands."""
    return list(getattr(import_module(f"palimpsest.cli.{command}"), "METHODS", ()))


def flags_of(command: str) -> list[Flag]:
    module = import_module(f"palimpsest.cli.{command}")
    every = [f"--method={name}" for name in methods_of(command)]
    return flags(module.arguments(every) if hasattr(module, "arguments") else module.Arguments)


def working(command: str, rng: random.Random) -> dict[str, str]:
    """Flags with which a command works in the folder that this runs in, as cheap as it can be."""
    return {f.name: f.right(rng) for f in flags_of(command) if f.required} | QUICK.get(command, {})


def drawn(command: str, rng: random.Random) -> tuple[list[str], list[str], list[str]]:
    """A command line for the folder that this runs in; the flags that were spoiled, and the kinds of these faults."""
    free = {flag.name: flag for flag in flags_of(command) if flag.name not in NEVER.get(command, ())}
    methods = methods_of(command)
    used = rng.sample(methods, rng.choice([1, 1, 1, 2])) if methods else []
    plain = [flag for flag in free.values() if "." not in flag.name]
    own = [flag for flag in free.values() if flag.name.split(".")[0].replace("-", "_") in used] or plain
    values, kinds = working(command, rng), []
    spoiled = [rng.choice(rng.choice([own, plain, plain])) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    for flag in spoiled:
        right = rng.random() < (0.8 if flag.sort == "choice" else 0.3)  # other choices are all refused in one place
        values[flag.name] = flag.right(rng) if right else flag.wrong(rng)
        kinds.append(f"{flag.sort}, right" if right else flag.sort)
    argv = [command, *(f"--method={name}" for name in used)]
    argv += [word for name, value in values.items() for word in free[name].given(value)]
    if rng.random() < 0.05:
        argv.insert(rng.randrange(len(argv) + 1), rng.choice(WORDS))
        kinds.append("stray word")
    return argv, [flag.name for flag in spoiled], kinds


@dataclasses.dataclass
class Spread:
    """What the inputs were and what became of them."""

    commands: Counter = dataclasses.field(default_factory=Counter)
    faults: Counter = dataclasses.field(default_factory=Counter)
    flags: set = dataclasses.field(default_factory=set)
    refusals: Counter = dataclasses.field(default_factory=Counter)

    def add(self, argv: list[str], spoiled: list[str], kinds: list[str], outcome: str, told: str) -> None:
        self.commands[argv[0] if argv[0] in COMMANDS else "none", outcome] += 1
        self.faults.update((kind, outcome) for kind in kinds or ["none"])
        self.flags.update((argv[0], name) for name in spoiled)
        self.flags.update(("method", word[9:]) for word in argv if word.startswith("--method="))
        if outcome == "refused":
            self.refusals[re.sub(r"'.*?'|\S*[/\d_.=]\S*", "…", told)[:60]] += 1

    def show(self) -> None:
        for title, counts in (("command", self.commands), ("fault", self.faults)):
            print(f"{title:<14}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
            for name in sorted({name for name, _ in counts}):
                print(f"{name:<14}" + "".join(f"{counts[name, outcome]:>9}" for outcome in OUTCOMES))
        every = {(command, flag.name) for command in COMMANDS for flag in flags_of(command)}
        seen = len(every & self.flags)
        tried = len([name for kind, name in self.flags if kind == "method"])
        methods = len({name for command in COMMANDS for name in methods_of(command)})
        print(f"{seen} of {len(every)} flags, {tried} of {methods} methods,", end=" ")
        print(f"{len(self.refusals)} different refusals")


def trial(template: Path, rng: random.Random, limit: int, spread: Spread) -> tuple[list[str], str]:
    """The command line, and what is wrong with what it did; nothing where it is right."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        shutil.copytree(template, folder, symlinks=True, copy_function=copy)
        os.environ["PALIMPSEST_HOME"] = str(Path(place) / "home")
        os.chdir(folder)
        argv, spoiled, kinds = drawn(rng.choice([*COMMANDS, "run", "contrast", *["forget", "audit"] * 3]), rng)
        if argv[0] in ("forget", "contrast", "audit") and rng.random() < 0.4:
            kinds.append(spoil_file(argv, rng))
        inputs = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
        before = set(folder.rglob("*"))
        code, said = child(lambda: main(argv), limit)
        os.chdir("/")
        wrong = []
        if code is None:
            wrong.append(f"no end in {limit} s")
        elif code not in (0, 1, 2):
            wrong.append(f"exit code {code}")
        if "Traceback" in said:
            wrong.append("traceback")
        told = [line for line in said.splitlines() if line.startswith("palimpsest: ")]
        if code == 2 and ((len(told) != 1 and argv[0] != "run") or not said.rstrip().endswith(told[-1])):
            wrong.append("not one line")
        wrong += [
            f"{path.name} was changed"
            for path, held in inputs.items()
            if not path.is_file() or path.read_bytes() != held
        ]
        wrong += [f"{path} was left" for path in set(folder.rglob("*")) - before if path.name.startswith(".")]
        wrong += [f"{out} is not sealed" for out in [folder / "out"] if code == 0 and out.is_dir() and broken(out)]
        spread.add(argv, spoiled, kinds, "wrong" if wrong else "refused" if code == 2 else "ended", (told or [""])[-1])
        tail = "\n".join(said.splitlines()[-4:])
        return [*argv, *kinds], f"{', '.join(wrong)}\n{tail}" if wrong else ""


def copy(source: str, target: str) -> None:
    """Files as they are, and a pipe for a pipe, which would be waited on."""
    shutil.copyfile(source, target) if os.path.isfile(source) else os.mkfifo(target)


def arm(seed: int, budget: str) -> dict[str, float]:
    return {"score": seed % 3}


def claim(paper: str) -> Claim:
    """What every paper claims here: it takes no time."""
    return Claim(paper, "Is it so?", {"a": arm}, [expect("a").at_least(1, on="score")], module=__name__)


def keep_records_apart(folder: Path) -> None:
    """From now on the results of record are a copy: what `--verify` or `--export` writes is not for the checkout."""
    shutil.copytree(paths.records(), folder)
    kept = paths.records
    paths.records = lambda: folder
    for name, module in list(sys.modules.items()):
        if name.startswith("palimpsest.") and getattr(module, "records", None) is kept:
            module.records = paths.records


def prepare(template: Path) -> None:
    """Makes the workplace, and runs what works once in this process, so that its children need not import it."""
    torch.set_num_threads(1)
    template.mkdir()
    workplace(template)
    for name in ("palimpsest.evidence", "palimpsest.evidence.outcome"):  # by name, and for --verify
        import_module(name).load_claim = claim
    keep_records_apart(template.with_name("records"))
    with tempfile.TemporaryDirectory() as place:
        os.environ["PALIMPSEST_HOME"] = f"{place}/home"
        shutil.copytree(template, f"{place}/work", symlinks=True, copy_function=copy)
        os.chdir(f"{place}/work")
        for command in COMMANDS:
            argv, *_ = drawn(command, random.Random(0))
            with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
                main(argv)
    os.chdir("/")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--n", type=int, default=1000)
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--limit", type=int, default=LIMIT, help="processor seconds that an input may take")
    given = options.parse_args()
    started, n, found, spread = time.monotonic(), 0, 0, Spread()
    with tempfile.TemporaryDirectory() as place:
        template = Path(place) / "work"
        prepare(template)
        while n < given.n and time.monotonic() < started + 60 * given.minutes:
            argv, wrong = trial(template, random.Random(f"{given.seed} {n}"), given.limit, spread)
            if wrong:
                found += 1
                print(f"{n}: {' '.join(argv)[:600]!r}\n    {wrong}".replace("\n", "\n    "), flush=True)
            n += 1
    spread.show()
    print(f"{n} inputs, {found} findings, {(time.monotonic() - started) / max(n, 1):.1f} s each")
    sys.exit(bool(found))
