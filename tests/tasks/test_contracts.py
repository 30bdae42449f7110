"""The graph has the shape asked for, its rows name both parties, and a split follows the edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.tasks.contracts import ATTRIBUTES, contract_graph


@given(hub=st.integers(0, 7), chains=st.integers(0, 2), length=st.integers(1, 4), isolated=st.integers(1, 4))
def test_shape(hub, chains, length, isolated):
    graph = contract_graph(hub_degree=hub, chains=chains, chain_length=length, isolated=isolated, attrs=3)
    assert len(graph.edges) == hub + chains * length + isolated == len(set(graph.edges))
    assert len(graph.rows) == 3 * len(graph.edges)
    if hub:
        assert graph.degree(graph.edges[0][0]) == hub
    for edge in graph.edges[-isolated:]:
        assert [graph.degree(entity) for entity in edge] == [1, 1]
    assert all(len(entity) == 6 for entity in graph.addresses)


def test_rows_name_both_parties_and_draw_values_of_their_attribute():
    graph = contract_graph(seed=3)
    for row in graph.rows:
        assert all(entity in row.question for entity in row.edge)
        assert row.attr in row.question
        assert row.answer in ATTRIBUTES[row.kind][row.attr]
    assert len({row.question for row in graph.rows}) == len(graph.rows)
    assert {len(names) for names in ATTRIBUTES.values()} == {20}


def test_split_tells_neighbours_from_the_rest():
    graph = contract_graph(hub_degree=3, chains=1, chain_length=3, isolated=2, attrs=2)
    star, chain, alone = graph.edges[:3], graph.edges[3:6], graph.edges[6:]
    parts = graph.split([star[0]])
    assert {row.edge for row in parts["adjacent"]} == set(star[1:])
    assert {row.edge for row in parts["distant"]} == {*chain, *alone}
    middle = graph.split([chain[1]])
    assert {row.edge for row in middle["adjacent"]} == {chain[0], chain[2]}
    assert graph.split([alone[0]])["adjacent"] == []
    assert sum(map(len, parts.values())) == len(graph.rows) + len(graph.facts)


def test_seed_types_and_skew():
    assert contract_graph(seed=1) == contract_graph(seed=1) != contract_graph(seed=2)
    kinds = dict.fromkeys((graph := contract_graph(skew=0.75, isolated=3)).edges)
    kinds.update({row.edge: row.kind for row in graph.rows})
    assert sum(kind == "sales" for kind in kinds.values()) == round(0.75 * len(kinds))
    assert {row.kind for row in contract_graph(types=("employment",)).rows} == {"employment"}


def test_words_cover_every_row():
    graph = contract_graph(attrs=5)
    known = set(graph.words())
    assert all(set(f"{row.question} {row.answer}".split()) <= known for row in (*graph.rows, *graph.facts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hub_degree": 0, "chains": 0, "isolated": 0}, "at least one contract"),
        ({"isolated": -1}, "no negative"),
        ({"types": ("loan",)}, "types must be among"),
        ({"attrs": 21}, "attrs <= 20"),
        ({"skew": 1.5}, "skew <= 1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        contract_graph(**options)


def test_split_refuses_edges_that_are_not_there():
    with pytest.raises(ValueError, match="must be edges of the graph"):
        contract_graph().split([("Nobody", "Noone")])
