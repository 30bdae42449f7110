"""Keywords under their old names: every function that had others takes them as before, and says the new ones."""

import inspect
import pkgutil
import warnings
from importlib import import_module

import pytest
import torch
from torch.nn import functional as F

import palimpsest.contrast
from palimpsest.contrast.amcl import AMCL
from palimpsest.contrast.siglip import SigmoidLoss
from palimpsest.contrast.siglip_measures import SoftmaxLoss
from palimpsest.renamed import renamed

Q, K, QUEUE = F.normalize(torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)), dim=2)
LABELS = torch.arange(8) % 2
PAIR = {"query": Q, "key": K}
HEADS = {"query": Q[:, None], "key": K[:, None]}
WARM = {**PAIR, "temperature": 0.3}

# What each is called with, under the new names; methods by their instance.
CALLS = {
    "amcl.amcl_loss": {**HEADS, "temperatures": 0.2},
    "amcl_heads.multi_head_loss": {**HEADS, "loss": lambda query, key: (query - key).square().mean()},
    "amcl_temperatures.temperature_penalty": {"temperature": Q.exp(), "dim": 4},
    "amcl.AMCL.forward": HEADS,
    "cacr_views.multi_view_cacr": {"views": torch.stack([Q, K], 1)},
    "dbpm_measures.nt_xent_per_sample": WARM,
    "debiased_cl_measures.bias_gap": {**PAIR, "labels": LABELS},
    "debiased_cl.debiased_loss": PAIR,
    "debiased_cl.hard_debiased_loss": PAIR,
    "debiased_cl_measures.log_negative_term": PAIR,
    "debiased_cl_measures.oracle_loss": {**PAIR, "labels": LABELS},
    "decoupled_cl.dcl_loss": WARM,
    "decoupled_cl.dcl_queue_loss": {**WARM, "queue": QUEUE},
    "decoupled_cl.dclw_loss": WARM,
    "decoupled_cl_measures.npc_multiplier": WARM,
    "decoupled_cl.positive_weights": PAIR,
    "groco.groco_loss": {"views": torch.stack([Q, K]), "k_neg": 3},
    "many_views.views_nt_xent": {"views": torch.stack([Q, K])},
    "inf_cl.ring_nce": {"query_shards": Q.split(4), "key_shards": K.split(4), "scale": 5.0},
    "inf_cl.tiled_nce": {**PAIR, "scale": 5.0},
    "info_nce.nt_xent": PAIR,
    "llave_measures.gradient_share": PAIR,
    "llave.hardness_nce": PAIR,
    "llave_measures.negatives": PAIR,
    "macl.alignment": PAIR,
    "macl.macl_loss": PAIR,
    "macl.uniformity_tolerance": {"embeddings": Q, "labels": LABELS},
    "moco_dualview.dual_view_loss": {**WARM, "queue": QUEUE},
    "moco_dualview.hard_mask": {"query": Q, "queue": QUEUE},
    "moco.queue_nce": {**WARM, "queue": QUEUE},
    "nonneg_cl.ncl_loss": PAIR,
    "nonneg_supervised.nonneg_ce": {"embeddings": Q, "weight": K, "labels": LABELS},
    "nonneg_supervised.nonneg_logits": {"embeddings": Q, "weight": K},
    "nonneg_cl.spectral_loss": PAIR,
    "siglip_chunked.chunked_sigmoid_loss": {"query_shards": Q.split(4), "key_shards": K.split(4)},
    "siglip_measures.keep_negatives": {**PAIR, "mode": "hard"},
    "siglip.sigmoid_loss": PAIR,
    "siglip_measures.softmax_loss": {**PAIR, "log_scale": 1.0},
    "siglip.SigmoidLoss.forward": PAIR,
    "siglip_measures.SoftmaxLoss.forward": PAIR,
    "embeddings.barlow_twins_loss": PAIR,
}
INSTANCES = {AMCL: lambda: AMCL(4, heads=1), SigmoidLoss: SigmoidLoss, SoftmaxLoss: SoftmaxLoss}


def functions():
    rooms = [f"palimpsest.contrast.{room.name}" for room in pkgutil.iter_modules(palimpsest.contrast.__path__)]
    for room in map(import_module, [*rooms, "palimpsest.losses.embeddings"]):
        for holder in (room, *(each for each in vars(room).values() if inspect.isclass(each))):
            for function in vars(holder).values():
                if hasattr(function, "renamed") and function.__module__ == room.__name__:
                    yield f"{room.__name__.rpartition('.')[2]}.{function.__qualname__}", holder, function


FOUND = {name: (holder, function) for name, holder, function in functions()}


def test_the_table_holds_all_that_were_renamed() -> None:
    assert FOUND.keys() == CALLS.keys()


@pytest.mark.parametrize("name", FOUND)
def test_old_names_mean_the_new_ones(name) -> None:
    holder, function = FOUND[name]
    if holder in INSTANCES:
        torch.manual_seed(0)
        function = function.__get__(INSTANCES[holder]())
    old, new = dict(function.renamed), CALLS[name]
    assert {*old.values()} <= new.keys() <= inspect.signature(function).parameters.keys()
    back = {after: before for before, after in old.items()}
    expected = function(**new)
    with pytest.warns(DeprecationWarning, match=" is called ") as said:
        found = function(**{back.get(each, each): value for each, value in new.items()})
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for before, after in old.items():
        assert any(f": {before} is called {after} now" in str(each.message) for each in said)
    assert {each.filename for each in said} == {__file__}


@renamed(tau="temperature")
def divided(query, temperature=1.0):
    """One number over the other."""
    return query / temperature


def test_the_new_name_costs_nothing_and_is_what_help_shows() -> None:
    assert list(inspect.signature(divided).parameters) == ["query", "temperature"]
    assert divided.__doc__ == "One number over the other."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert divided(1.0, 0.5) == divided(1.0, temperature=0.5) == 2
    with pytest.raises(TypeError, match="divided takes temperature once, got it as tau too"):
        divided(1.0, tau=0.5, temperature=0.5)
    with pytest.raises(TypeError, match="multiple values for argument 'temperature'"):
        divided(1.0, 0.5, tau=0.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 't'"):
        divided(1.0, t=0.5)


@pytest.mark.parametrize("keyword", ["tau", "temperature"])
def test_either_name_compiles_into_one_graph(keyword) -> None:
    compiled = torch.compile(lambda query: divided(query, **{keyword: 0.5}), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))
