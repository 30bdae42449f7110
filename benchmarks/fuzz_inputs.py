"""Bad input drawn at random over all commands, from their own flags: every refusal is one line, nothing is left behind.

    python benchmarks/fuzz_inputs.py --n 1000 --minutes 60 --seed 0

Each trial takes a command that works on a tiny model, spoils one to three of its flags, or the bytes of its files, and
runs it in a process of its own. Right is: exit code 0 or 1, or 2 with one line on stderr that begins with
"palimpsest: "; no traceback, an end within the time limit, no hidden file beside what was asked for, and inputs that
are as they were. A new command, flag or method field is drawn without being named here.
"""

import argparse
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing
from importlib import import_module
from pathlib import Path

from palimpsest.cli import COMMANDS, main
from palimpsest.forget.methods import METHODS
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models import causal_lm, save, word_tokenizer
from palimpsest.seals import SEAL, broken

LIMIT = 120  # seconds
NEVER = {
    "run": ("all", "family", "budget", "export", "amend", "ray", "fresh", "workers")
}  # hours, or this machine's own
NUMBERS = ["-1", "0", "1", "1e3", "-0.0", "nan", "inf", "-inf", "1e308", "1e-320", "9" * 20, "9" * 5000, "x", ""]
WORDS = ["", "x", "--", "a,b", "../..", "none", "all", "\udcff", "e\u0301", "x" * 10_000, "{{", "0"]
QUICK = ("npo", "idk", "grad_diff")  # methods of working commands


def child(call, limit=LIMIT, wait=None):
    """(exit status or None, stderr) of `call()` in a process of its own, to which `wait(pid)` may do something."""
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_RDWR)
            for number, file in enumerate((null, null, said.fileno())):
                os.dup2(file, number)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
        ends, status = time.monotonic() + limit, None
        while time.monotonic() < ends:
            done, found = os.waitpid(pid, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(found)
                break
            time.sleep(0.01)
        else:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        said.seek(0)
        return status, said.read().decode(errors="replace")


def workplace(folder: Path) -> None:
    """A tiny model, its rows, and what stands in the way."""
    rows = {
        kind: [{"question": f"who is {kind} {i} ?", "answer": f"a {kind} of town {i} ."} for i in range(4)]
        for kind in ("forget", "retain")
    }
    texts = [text for part in rows.values() for row in part for text in row.values()]
    tokenizer = word_tokenizer([*texts, *REFUSALS])
    save(causal_lm(len(tokenizer), d_model=16, n_layers=2, n_heads=2, max_length=64), tokenizer, folder / "model")
    for kind, part in rows.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "text.txt").write_text("prose " * 30)
    (folder / "full").mkdir()
    (folder / "full" / "config.json").write_text("{}")
    (folder / "empty").mkdir()
    (folder / "empty.jsonl").touch()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "link").symlink_to(folder / "full")
    (folder / "noise").write_bytes(random.Random(0).randbytes(2000))


def flags(kind: type, prefix: str = "") -> list[tuple[str, typing.Any]]:
    """(flag, type) of every field of a command's dataclass, and of the dataclasses in it."""
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(hints[field.name]):
            found += flags(hints[field.name], f"{name}.")
        else:
            found.append((name, hints[field.name]))
    return found


def value(hint: typing.Any, places: list[str], rng: random.Random) -> list[str]:
    """What to write behind a flag; nothing for a switch."""
    shown = str(hint)
    if hint is bool:
        return []
    if "Path" in shown:
        return [rng.choice(places)]
    if "int" in shown or "float" in shown:
        return [rng.choice(NUMBERS)]
    return [rng.choice(WORDS)]


def working(command: str, folder: Path, rng: random.Random) -> list[str]:
    """A command line that is right as it stands."""
    model, forget, retain = (str(folder / name) for name in ("model", "forget.jsonl", "retain.jsonl"))
    if command == "forget":
        given = ["--forget", forget, "--retain", retain, "--out", str(folder / "out"), "--method", rng.choice(QUICK)]
        return [command, model, *given, "--steps", "1"]
    if command == "audit":
        return [command, model, "--data", forget, "--attacks", rng.choice(["none", "relearn", "quantize"])]
    return [command, *{"run": ["nothing"], "search": ["forget"], "show": ["npo"]}.get(command, [])]


def spoil_file(folder: Path, rng: random.Random) -> None:
    """Changes some bytes, or one value, of a file that the command reads."""
    path = rng.choice([*(folder / "model").iterdir(), folder / "forget.jsonl", folder / "retain.jsonl"])
    content = bytearray(path.read_bytes())
    how = rng.randrange(5)
    if how == 0:
        content = content[: rng.randrange(len(content) + 1)]
    elif how == 1:
        for _ in range(rng.choice([1, 10, 100])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == 2:
        path.unlink()
        return
    elif how == 3 and path.suffix == ".json":
        document = json.loads(content)
        name = rng.choice(list(document))
        document[name] = rng.choice([None, -1, 0, 10**9, 1e308, "x", "", [], {}, [[]] * 3, "{% for i in x %}"])
        content = json.dumps(document).encode()
    else:
        lines = content.splitlines(keepends=True)
        deep = b'{"text": ' + b"[" * 2000
        lines.insert(rng.randrange(len(lines) + 1), rng.choice([b"{}\n", b"[]\n", b"\x00\n", b'{"text": 1}\n', deep]))
        content = b"".join(lines)
    path.write_bytes(content)


def trial(template: Path, rng: random.Random, limit: int) -> tuple[list[str], str]:
    """The command line, and what is wrong with what it did; nothing where it is right."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        shutil.copytree(template, folder, symlinks=True, copy_function=copy)
        os.environ["PALIMPSEST_HOME"] = str(Path(place) / "home")
        command = rng.choice([*COMMANDS, "forget", "audit"])
        argv = working(command, folder, rng)
        if command in ("forget", "audit") and rng.random() < 0.5:
            spoil_file(folder, rng)
        places = [str(path) for path in folder.iterdir()] + [
            str(folder / n) for n in ("none", "a/b", "no\udcff", "n" * 300)
        ]
        places += ["/dev/null", "/dev/full", "/proc/self/mem", "/", "", ".", "~nobody-at-all/x"]
        drawn = [
            f for f in flags(import_module(f"palimpsest.cli.{command}").Arguments) if f[0] not in NEVER.get(command, ())
        ]
        used = {name.split(".")[0] for name in argv if name in METHODS}
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            own = [f for f in drawn if f[0].split(".")[0] in used]
            name, hint = rng.choice(own if own and rng.random() < 0.3 else drawn)
            argv += [f"--{name}", *value(hint, places, rng)]
        if rng.random() < 0.05:
            argv += [rng.choice(WORDS)]
        (folder / SEAL).unlink(missing_ok=True)
        inputs = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
        before = set(folder.rglob("*"))
        os.chdir(folder)
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
        if code == 2 and (len(told) != 1 or not said.rstrip().endswith(told[0].rstrip())):
            wrong.append("not one line")
        wrong += [
            f"{path.name} was changed"
            for path, held in inputs.items()
            if not path.is_file() or path.read_bytes() != held
        ]
        wrong += [f"{path} was left" for path in set(folder.rglob("*")) - before if path.name.startswith(".")]
        wrong += [f"{out} is not sealed" for out in [folder / "out"] if code == 0 and out.is_dir() and broken(out)]
        tail = "\n".join(said.splitlines()[-4:])
        return argv, f"{', '.join(wrong)}\n{tail}" if wrong else ""


def copy(source: str, target: str) -> None:
    """Files as they are, and a pipe for a pipe, which would be waited on."""
    shutil.copyfile(source, target) if os.path.isfile(source) else os.mkfifo(target)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--n", type=int, default=1000)
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--limit", type=int, default=LIMIT, help="seconds that one input may take")
    given = options.parse_args()
    for name in COMMANDS:
        import_module(f"palimpsest.cli.{name}")
    end, n, found = time.monotonic() + 60 * given.minutes, 0, 0
    with tempfile.TemporaryDirectory() as template:
        workplace(Path(template))
        while n < given.n and time.monotonic() < end:
            argv, wrong = trial(Path(template), random.Random(f"{given.seed} {n}"), given.limit)
            if wrong:
                found += 1
                print(f"{n}: {' '.join(argv)[:600]!r}\n    {wrong}".replace("\n", "\n    "), flush=True)
            n += 1
    print(f"{n} inputs, {found} findings")
    sys.exit(bool(found))
