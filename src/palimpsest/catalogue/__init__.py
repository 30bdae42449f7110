"""The catalogue: what every paper of the toolkit is, in our words, and a search over it.

`<family>/<id>.toml` is one paper, or a baseline that the family's papers compare against; `<family>/hall.toml` names
the modules that are neither. Reading the catalogue imports none of the methods, and so no torch.

>>> from palimpsest.catalogue import entry, search
>>> entry("simnpo").year
2024
>>> [hit.entry.id for hit in search("forget without a reference model", k=1)]
['simnpo']
"""

from palimpsest.catalogue.papers import Entry, Parity, Withdrawal, age_of, entries, entry, hall, record, record_file
from palimpsest.catalogue.ranking import Hit, commands, minilm, search
from palimpsest.catalogue.tiers import tiers

__all__ = [
    "Entry",
    "Hit",
    "Parity",
    "Withdrawal",
    "age_of",
    "commands",
    "entries",
    "entry",
    "hall",
    "minilm",
    "record",
    "record_file",
    "search",
    "tiers",
]
