"""Which benches there are, and a bench by its name."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from itertools import permutations

from palimpsest.benches.bench import Bench
from palimpsest.errors import UserError

BENCHES: dict[str, tuple[str, ...]] = {
    "glyphs": ("glyphs",),
    "digit_views": ("digit_views",),
    "new_letters": ("new_letters",),
    "docpairs": ("docpairs",),
    "waveforms": ("waveforms",),
    "imports": ("imports",),
    "doc_lm": ("doc_lm",),
    "mnist": ("mnist_few", "mnist_noise", "mnist_longtail"),
    "mnist_sets": ("mnist_multilabel", "mnist_partial"),
    "mnist1d": ("mnist1d",),
    "domains": tuple(f"{source}_to_{target}" for source, target in permutations(("uci", "mnist", "printed"), 2)),
    "tables": ("modechoice", "breast_cancer", "wine", "diabetes", "randhie"),
    "authors": ("authors",),
    "one_fact": ("one_fact",),
    "concepts": ("concepts",),
    "mixture": ("mixture",),
    "harm": ("harm",),
    "skills": ("skills",),
    "multiple_choice": ("multiple_choice",),
    "private_people": ("private_people",),
    "two_hop": ("two_hop",),
    "contracts": ("contracts",),
    "documents": ("documents",),
    "targets": ("targets",),
    "prose": ("prose",),
    "memories": ("memories",),
    "chains": ("chains",),
    "smollm2": ("smollm2",),
    "streams": ("split_mnist", "rotated_mnist", "permuted_mnist", "domain_stream"),
    "exemplar_free": ("exemplar_free",),
    "discovery": ("discovery",),
    "rotated_looks": ("rotated_looks",),
    "one_pass": ("one_pass",),
    "updates": ("series_update",),
    "concept_shift": ("concept_shift",),
    "spoken_streams": ("spoken_stream",),
}
"""module of this package -> the benches in it, each an attribute of its name in capitals"""

_CLASSES = {"table": "labelled_yours:class_table", "images": "labelled_yours:class_images"}
_NUMBERS = {"table": "labelled_yours:number_table"}
_ARRIVING = {"table": "streams_yours:classes_of_table", "images": "streams_yours:classes_of_images"}
YOURS: dict[str, dict[str, str]] = {
    "mnist_few": _CLASSES,
    "mnist_noise": _CLASSES,
    "mnist_longtail": _CLASSES,
    "modechoice": _CLASSES,
    "breast_cancer": _CLASSES,
    "wine": _CLASSES,
    "diabetes": _NUMBERS,
    "randhie": _NUMBERS,
    "glyphs": {"images": "images_yours:on_images"},
    "docpairs": {"pairs": "pairs_yours:on_pairs"},
    "authors": {"rows": "rows_yours:on_rows"},
    "split_mnist": _ARRIVING,
    "exemplar_free": _ARRIVING,
}
"""bench -> kind of a user's files -> "module:function", which puts the bench on them: (bench, **what the files are) ->
`palimpsest.benches.yours.Yours`. By name and here, so that no record depends on how a user's files are read."""


POOLS: dict[str, tuple[str, ...]] = {
    "glyphs": ("glyphs",),
    "new_letters": ("glyphs",),
    "docpairs": ("docpairs",),
    "doc_lm": ("docstrings",),
    "imports": ("imports",),
    "mixture": ("documentation",),
    "prose": ("documentation",),
    "memories": ("documentation",),
    "multiple_choice": ("documentation",),
    "mnist1d": ("mnist1d",),
    "series_update": ("mnist1d",),
    **dict.fromkeys(("digit_views", *BENCHES["mnist"], *BENCHES["mnist_sets"], *BENCHES["streams"]), ("mnist",)),
    **dict.fromkeys(("exemplar_free", "discovery"), ("mnist",)),
    "rotated_looks": ("mnist",),
    **dict.fromkeys(("one_pass", "concept_shift"), ("mnist",)),
    **dict.fromkeys((*BENCHES["domains"], "domain_stream"), ("real_domains",)),
    **{name: ("tabular", "randhie_visits" if name == "randhie" else name) for name in BENCHES["tables"]},
}
"""bench whose rows are made from what is installed -> the module of `palimpsest.tasks` with their `digest`, and what it
is asked for. By name and here, so that no record depends on more than its own rows."""


def pool(name: str) -> str:
    """The digest of the rows that a bench's world is made from; empty where the package alone makes them.

    >>> pool("authors"), len(pool("wine"))
    ('', 64)
    """
    if name not in POOLS:
        return ""
    module, *asked = POOLS[name]
    return import_module(f"palimpsest.tasks.{module}").digest(*asked)


def benches() -> list[Bench]:
    """All of them, in the order of the table."""
    return [bench(name) for names in BENCHES.values() for name in names]


def bench(name: str) -> Bench:
    """The bench of a name; only its module is imported.

    Raises:
        UserError: for an unknown name, with the nearest known ones.
    """
    for module, names in BENCHES.items():
        if name in names:
            return getattr(import_module(f"palimpsest.benches.{module}"), name.upper())
    known = [known for names in BENCHES.values() for known in names]
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    raise UserError(f"no bench {name!r}: " + (f"did you mean {' or '.join(near)}?" if near else f"there are {known}"))
