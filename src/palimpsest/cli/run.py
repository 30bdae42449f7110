"""`palimpsest run simnpo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from palimpsest.catalogue import entries, entry
from palimpsest.cli.output import WORDS, counted, print_json, progress, terminal
from palimpsest.errors import UserError
