"""The command line: `palimpsest COMMAND ...`.

The command of a family is made of its object (`palimpsest.family`). Every other is the module of its name beside this
file, with a dataclass `Arguments`, whose documented fields are its flags, and `main(args) -> int | None`, whose value
is the exit code; a family's also has `arguments(argv)`, whose flags depend on what is asked for, a `registry` of rules
for tyro, and `after_help(argv)`, what stands below the flags. A module is imported when its command is called, and what
takes seconds (torch) in its `main`, so that help is instant. A command prints results to stdout and progress to stderr,
and raises UserError for what the user can mend.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module

from palimpsest import __version__
from palimpsest.errors import UserError, out_of_memory

COMMANDS = {
    "search": "find methods for a problem, with their verdicts",
    "show": "what a method is, how to import it, what the evidence says",
    "run": "put a paper's claim to the test, and write the report",
    "bench": "what comparisons are made on: floor, tuned baselines, ceiling",
    "forget": "make your own model forget, and audit the result",
    "contrast": "train your own encoder by contrastive losses, side by side",
    "classify": "train a classifier on your own table or images, by several losses",
    "retain": "teach your own model something new, and keep what it could do",
    "predict": "what a classifier that was saved says of new rows or images",
    "audit": "ask your own model what it remembers",
    "compare": "what changed from one model to another, item by item",
    "pretrained": "the folder of a small chat model to try the others on",
}
LESS_MEMORY = {  # what needs less of it, by command
    "forget": "a smaller --batch-size or --max-length, or --lora",
    "audit": "a smaller --batch-size or --max-length",
    "compare": "a smaller --batch-size, or --rows and --text one at a time",
    "run": "fewer --workers",
    "contrast": "fewer --workers or a smaller --batch-size",
    "classify": "fewer --workers or a smaller --batch-size",
    "retain": "fewer --workers, a smaller --batch-size, or --lora",
}

HELP = f"""\
Decide what a neural network learns, keeps and forgets, and prove that it did.

usage: palimpsest COMMAND ...

{"".join(f"  {name:<12}{what}{chr(10)}" for name, what in COMMANDS.items())}
  palimpsest COMMAND --help   the flags of a command; every command takes --json
  palimpsest --version        palimpsest {__version__}

start here:

  palimpsest search "my model must forget a customer's records"
  palimpsest show npo
  palimpsest run npo --seeds 3
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` (by default the process's arguments) asks for.

    Returns:
        the exit code: 0; 1 where the answer is no (a job of `run` failed, `run --verify` found other values, a
        `compare --fail-if` is met); 2 for an error of the user's, or where memory or the disk ends, told in one line
        on stderr; 130 if interrupted, 143 if told to terminate.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ?, not a traceback
    try:
        with _terminable():
            code = _dispatch(argv)
            sys.stdout.flush()
            return code
    except UserError as error:
        print(f"palimpsest: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, _Terminated) as error:
        from palimpsest.family import FAMILIES

        resumed = argv[:1] and argv[0] in ("run", *FAMILIES)
        kept = "; finished jobs are kept, the same command goes on from there" if resumed else ""
        print(f"\npalimpsest: interrupted{kept}", file=sys.stderr)
        return 143 if isinstance(error, _Terminated) else 130
    except BrokenPipeError:  # the reader, such as head, has left: nothing more to say, not even at exit
        _close_stdout()
        return 141
    except (MemoryError, RuntimeError) as error:
        if "home directory" in str(error):  # pathlib's, of a path that begins with ~nobody
            print(
                "palimpsest: a path begins with ~ and the name of no user of this machine: write it out",
                file=sys.stderr,
            )
            return 2
        if not out_of_memory(error):
            raise
        less = LESS_MEMORY.get(argv[0], "a machine with more")
        print(f"palimpsest: there is not enough memory: give {less}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno is None:
            raise
        place = error.filename2 or error.filename
        if not place:
            _close_stdout()  # which may be what could not be written: what its buffer holds would be tried at exit
        print(f"palimpsest: cannot {f'use {place}' if place else 'go on'}: {error.strerror}", file=sys.stderr)
        return 2
    except BaseException as error:
        # A tokenizer of Rust may panic at a text long after it was loaded: that is no Exception, and cannot be named.
        if type(error).__name__ != "PanicException":
            raise
        print(f"palimpsest: a file of the model or its tokenizer is damaged: {error}", file=sys.stderr)
        return 2


class _Terminated(BaseException):
    """The process was told to end, and clears away what is unfinished first."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, as batch systems and containers send it, ends the block as Ctrl-C does."""

    def end(number: int, frame: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread, which alone may ask for this
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _close_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> int:
    name, *rest = argv or ["--help"]
    if name in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if name in ("--version", "-V"):
        print(f"palimpsest {__version__}")
        return 0
    if name not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r}: {hint}")
    import tyro

    from palimpsest.cli.family_command import Command
    from palimpsest.family import FAMILIES, family

    command = Command(family(name)) if name in FAMILIES else import_module(f"palimpsest.cli.{name}")
    arguments = command.arguments(rest) if hasattr(command, "arguments") else command.Arguments
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            args = tyro.cli(
                arguments,
                prog=f"palimpsest {name}",
                args=rest,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName),
                registry=getattr(command, "registry", None),
            )
    except SystemExit as end:
        if end.code != 2:
            if not end.code and hasattr(command, "after_help"):
                print(command.after_help(rest))
            raise
        raise UserError(f"{_unboxed(said.getvalue())}: palimpsest {name} --help explains the flags") from None
    return command.main(args) or 0


def _unboxed(text: str) -> str:
    """What tyro says in a box, on one line and without its explanations.

    >>> _unboxed("╭─ Error ──╮\\n│ --lr is  │\\n│ no good. │\\n│ ──────── │\\n│ help     │")
    '--lr is no good'
    """
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│ ") for line in text.splitlines()]
    inner = [line for line in re.split(r"─{8,}", "\n".join(lines[1:]))[0].splitlines() if line]
    if inner and inner[0].startswith("Missing from"):  # the names stand for themselves, without what they mean
        names = [line for line in inner[1:] if re.fullmatch(r"(--)?[A-Za-z][\w.-]*( [A-Z|{},. ]+)?", line)]
        return f"{inner[0].rstrip(':')}: {', '.join(names)}"
    return " ".join(inner).rstrip(".")
