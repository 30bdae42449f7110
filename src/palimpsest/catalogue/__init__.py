"""The catalogue: what every paper of the toolkit is, in our words, and a search over it.

`<family>.toml` holds one table per paper, and one per baseline that the family's papers compare against. Reading
the catalogue imports none of the methods, and so no torch.

>>> from palimpsest.catalogue import entry, search
>>> entry("simnpo").year
2024
>>> [hit.entry.id for hit in search("forget without a reference model", k=1)]
['simnpo']
"""

from palimpsest.catalogue.papers import Entry, Parity, Withdrawal, entries, entry, hall, record
from palimpsest.catalogue.ranking import Hit, commands, minilm, search

__all__ = ["Entry", "Hit", "Parity", "Withdrawal", "commands", "entries", "entry", "hall", "minilm", "record", "search"]
