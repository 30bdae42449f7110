"""A family's command, such as `palimpsest forget`: its flags, and the fields of each method that `--method` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass
from difflib import get_close_matches
from itertools import pairwise
from textwrap import shorten
from typing import Any

from tyro.constructors import ConstructorRegistry

from palimpsest.cli.flag_ranges import with_ranges
from palimpsest.errors import UserError
from palimpsest.family import Compared, Family


@dataclass(frozen=True)
class Command:
    """What the command line asks of a command, made of a family."""

    family: Family

    @property
    def registry(self) -> ConstructorRegistry:
        """tyro's rules, and one for ranges."""
        registry = ConstructorRegistry()
        registry.struct_rule(with_ranges)
        return registry

    def arguments(self, argv: Sequence[str]) -> type:
        """The family's flags with a group for each method that is named in `argv`: only these are imported.

        Raises:
            UserError: a method's field is set and the method is not named.
        """
        methods = self.family.methods
        names = [name for name in dict.fromkeys(named(argv)) if name in methods]
        for word in argv:
            name = word.removeprefix("--").partition(".")[0].replace("-", "_")
            if word.startswith("--") and "." in word.partition("=")[0] and name in methods and name not in names:
                flag = word.partition("=")[0]
                raise UserError(f"{flag} is a field of a method that is not named: add --method {name}")
        own = [(name, type(methods[name]), methods[name]) for name in names]
        # The fields of the last base come first.
        bases = (Compared, self.family.shared, self.family.flags)
        return make_dataclass("Arguments", own, bases=bases, namespace={"__doc__": self.family.flags.__doc__})

    def after_help(self, argv: Sequence[str]) -> str:
        """The methods that are not named, a line each: the name, the paper's title, and what its claim came to."""
        from palimpsest.catalogue import entries
        from palimpsest.catalogue.index import central_words

        of_family = [entry for entry in entries() if entry.family == self.family.name]
        about = {name: entry for entry in of_family for name in (*entry.aliases, entry.id)}
        words, lines = central_words(), []
        for name in self.family.methods:
            if name not in named(argv):
                entry = about.get(name)
                if entry is None:  # a paper whose claim is not recorded yet
                    lines.append(f"  {name:<18} not measured yet")
                    continue
                word = words.get(entry.id, "not measured yet") if entry.is_paper else "baseline"
                lines.append(f"  {name:<18} {word:<10} {shorten(entry.title, 88, placeholder=' ...')}")
        head = "methods, with the word of their claims; --method NAME --help has a method's flags:"
        return "\n".join([head, "", *lines, ""])

    def main(self, args: Any) -> None:
        from palimpsest.cli import family_run  # late: torch takes seconds, help must not

        family_run.run(self.family, args)


def named(argv: Sequence[str]) -> list[str]:
    """What `--method` names.

    >>> named(["MODEL", "--method", "npo", "--method=simnpo", "--steps", "3"])
    ['npo', 'simnpo']
    """
    found = [after for word, after in pairwise(argv) if word == "--method"]
    return found + [word.partition("=")[2] for word in argv if word.startswith("--method=")]


def chosen(args: Any, methods: Mapping[str, Any]) -> dict[str, Any]:
    """The methods asked for, with their fields.

    Raises:
        UserError: for none, an unknown one (with the nearest names), one given twice, or a text that is not UTF-8.
    """
    if not args.method:
        raise UserError(f"give --method, once or several times: {', '.join(methods)}")
    for name in args.method:
        if name not in methods:
            near = get_close_matches(name, methods, n=2, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(methods)}"
            raise UserError(f"unknown method {name!r}: {hint}")
    if len(set(args.method)) < len(args.method):
        raise UserError(f"--method names one method twice: {', '.join(args.method)}")
    methods = {name: getattr(args, name) for name in args.method}
    for name, method in methods.items():
        for field in fields(method):
            text = getattr(method, field.name)
            if isinstance(text, str) and text.encode(errors="replace").decode() != text:
                flag = f"--{name}.{field.name}".replace("_", "-")
                raise UserError(f"{flag} is not UTF-8, so that no tokenizer can read it")
    return methods
