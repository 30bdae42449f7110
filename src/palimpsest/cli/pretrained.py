"""`palimpsest forget "$(palimpsest pretrained smollm2)" ...`."""

from dataclasses import dataclass

from tyro.conf import Positional

from palimpsest.cli.output import print_json


@dataclass(frozen=True)
class Arguments:
    """The folder of a pretrained model that comes as a Python package; it is made at the first call."""

    name: Positional[str]
    """smollm2: SmolLM2-135M-Instruct, a chat model"""
    json: bool = False
    """print JSON"""


def main(args: Arguments) -> None:
    from palimpsest.models.packaged import pretrained_folder  # late: transformers takes seconds, help must not

    folder = pretrained_folder(args.name)
    if args.json:
        print_json({"model": args.name, "folder": str(folder)})
    else:
        print(folder)
