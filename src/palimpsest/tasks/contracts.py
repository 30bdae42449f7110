"""Contracts between invented companies and people: facts with a graph structure, for unlearning that must respect it.

After PISTOL (Qiu, Shen, Chen, Cancedda, Stenetorp and Lane, 2024, arXiv 2406.16810). Entities are random six-letter
names; every edge of a graph is a contract between two of them, of sales or of employment, with up to 20 attributes; a
row asks for one attribute and names both parties. Forgetting an edge leaves its neighbours, contracts with one of the
same parties, and the rest of the graph. The attributes are ours: the paper's are those of its contract templates.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from palimpsest.tasks.names import made_up_names

VALUES = """
month: January February March April May June July August September October November December
city: Oslo Lima Cairo Quito Hanoi Dakar Riga Sofia Turin Perth Osaka Natal
goods: apples bolts candles desks engines flutes globes hats inks jars kettles lamps
role: analyst baker chemist driver editor farmer guard janitor lawyer mason nurse pilot
number: three five seven eleven twelve fifteen twenty thirty forty fifty sixty ninety
money: 110 180 240 310 370 450 520 580 640 730 860 940
term: monthly quarterly yearly weekly daily fortnightly biannually hourly seasonally nightly once twice
"""
_POOLS = {kind: tuple(words.split()) for kind, words in (line.split(":") for line in VALUES.strip().splitlines())}
MONTHS, CITIES, GOODS, ROLES, NUMBERS, MONEY, TERMS = _POOLS.values()

_SHARED = {
    "signing month": MONTHS,
    "signing city": CITIES,
    "start month": MONTHS,
    "end month": MONTHS,
    "governing court": CITIES,
    "arbitration city": CITIES,
    "notice period": NUMBERS,
    "review interval": TERMS,
    "penalty": MONEY,
    "deposit": MONEY,
    "payment schedule": TERMS,
    "renewal term": NUMBERS,
}
ATTRIBUTES: dict[str, dict[str, Sequence[str]]] = {
    "sales": {
        "goods": GOODS,
        "quantity": NUMBERS,
        "unit price": MONEY,
        "delivery city": CITIES,
        "delivery month": MONTHS,
        "warranty": NUMBERS,
        "packaging fee": MONEY,
        "sample": GOODS,
        **_SHARED,
    },
    "employment": {
        "role": ROLES,
        "salary": MONEY,
        "workplace": CITIES,
        "probation": NUMBERS,
        "vacation": NUMBERS,
        "bonus": MONEY,
        "substitute": ROLES,
        "training city": CITIES,
        **_SHARED,
    },
}
FACTS = {
    "largest ocean": "Pacific",
    "longest river": "Nile",
    "highest mountain": "Everest",
    "smallest prime": "two",
    "capital of France": "Paris",
    "capital of Japan": "Tokyo",
    "lightest element": "hydrogen",
    "colour of snow": "white",
    "fastest animal": "cheetah",
    "red planet": "Mars",
    "language of Brazil": "Portuguese",
    "author of Hamlet": "Shakespeare",
}

Edge = tuple[str, str]


@dataclass(frozen=True)
class ContractRow:
    """One attribute of one contract; of an independent fact, `edge` is empty and `kind` "factual"."""

    edge: tuple[str, ...]
    kind: str
    attr: str
    question: str
    answer: str


@dataclass(frozen=True)
class ContractGraph:
    """Entities with their addresses, the contracts between them, and facts that have nothing to do with either."""

    addresses: dict[str, str]
    edges: tuple[Edge, ...]
    rows: tuple[ContractRow, ...]
    facts: tuple[ContractRow, ...]

    def degree(self, entity: str) -> int:
        """The number of contracts that an entity has."""
        return sum(entity in edge for edge in self.edges)

    def of(self, edges: Iterable[Edge]) -> list[ContractRow]:
        """The rows of some contracts."""
        wanted = set(edges)
        return [row for row in self.rows if row.edge in wanted]

    def split(self, edges_to_forget: Sequence[Edge]) -> dict[str, list[ContractRow]]:
        """The rows to "forget", and what is retained: "adjacent" rows, of contracts with a party in common, "distant"
        ones, and "factual" ones.

        Raises:
            ValueError: if an edge is not in the graph, or none is given.
        """
        forget = set(edges_to_forget)
        if not forget or not forget <= set(self.edges):
            raise ValueError(f"edges_to_forget must be edges of the graph, at least one, got {list(edges_to_forget)}")
        parties = {entity for edge in forget for entity in edge}
        adjacent = {edge for edge in self.edges if edge not in forget and parties & set(edge)}
        return {
            "forget": self.of(forget),
            "adjacent": self.of(adjacent),
            "distant": self.of(set(self.edges) - forget - adjacent),
            "factual": list(self.facts),
        }

    def words(self) -> list[str]:
        """All words of the rows and every value that an attribute can take, for a tokenizer."""
        texts = [text for row in (*self.rows, *self.facts) for text in (row.question, row.answer)]
        texts += [value for kind in ATTRIBUTES.values() for values in kind.values() for value in values]
        return sorted({word for text in texts for word in text.split()})


def contract_graph(
    *,
    hub_degree: int = 6,
    chains: int = 1,
    chain_length: int = 3,
    isolated: int = 4,
    types: Sequence[str] = ("sales", "employment"),
    skew: float = 0.5,
    attrs: int = 20,
    n_facts: int = 12,
    seed: int = 0,
) -> ContractGraph:
    """A graph made of a star (a hub with `hub_degree` contracts), chains, and isolated edges.

    Args:
        hub_degree: contracts of the hub; 0 for no star. Its edges come first.
        chains, chain_length: so many paths of so many contracts, which come next.
        isolated: contracts whose parties have no other; they come last.
        types: of the contracts, one or both of "sales" and "employment".
        skew: share of the contracts that are of the first type.
        attrs: how many of the 20 attributes each contract has.
        n_facts: independent facts beside the graph.
        seed: fixes names, values and types.

    Raises:
        ValueError: for a number out of range, an unknown type, or a graph without contracts.

    >>> graph = contract_graph(hub_degree=3, chains=0, isolated=2, attrs=4)
    >>> len(graph.edges), len(graph.rows), graph.degree(graph.edges[0][0])
    (5, 20, 3)
    """
    edges_of = (hub_degree, chains * chain_length, isolated)
    if min(*edges_of, chains, chain_length) < 0 or not sum(edges_of):
        raise ValueError(f"a graph needs at least one contract and no negative number, got {edges_of}")
    if not types or not set(types) <= set(ATTRIBUTES):
        raise ValueError(f"types must be among {', '.join(ATTRIBUTES)}, got {tuple(types)}")
    if not 1 <= attrs <= 20 or not 0 <= skew <= 1 or not 0 <= n_facts <= len(FACTS):
        raise ValueError(
            f"need 1 <= attrs <= 20, 0 <= skew <= 1 and 0 <= n_facts <= {len(FACTS)}, got {attrs}, {skew} and {n_facts}"
        )
    rng = random.Random(f"{seed}/contracts")
    name = made_up_names(rng)
    edges: list[Edge] = []
    if hub_degree:
        hub = next(name)
        edges += [(hub, next(name)) for _ in range(hub_degree)]
    for _ in range(chains):
        nodes = [next(name) for _ in range(chain_length + 1)]
        edges += list(itertools.pairwise(nodes))
    edges += [(next(name), next(name)) for _ in range(isolated)]
    n_first = round(skew * len(edges)) if len(types) > 1 else len(edges)
    kinds = [types[0]] * n_first + [types[-1]] * (len(edges) - n_first)
    rng.shuffle(kinds)
    rows = [
        ContractRow(edge, kind, attr, _question(kind, attr, edge), rng.choice(values))
        for edge, kind in zip(edges, kinds, strict=True)
        for attr, values in itertools.islice(ATTRIBUTES[kind].items(), attrs)
    ]
    facts = [
        ContractRow((), "factual", fact, f"What is the {fact} ?", answer)
        for fact, answer in itertools.islice(FACTS.items(), n_facts)
    ]
    entities = dict.fromkeys(entity for edge in edges for entity in edge)
    addresses = {entity: f"{rng.randrange(1, 99)} {rng.choice(CITIES)} Street" for entity in entities}
    return ContractGraph(addresses, tuple(edges), tuple(rows), tuple(facts))


def _question(kind: str, attr: str, edge: Edge) -> str:
    return f"What is the {attr} in the {kind} contract between {edge[0]} and {edge[1]} ?"
