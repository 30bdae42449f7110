"""Run by tests of this folder, once a rank: losses and gradients of a joint batch of which each rank has its share.

Called as `python -m tests.contrast.several_processes OUT`, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. `launch`
starts all ranks.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tests import ranks
from torch import nn
from torch.nn import functional as F

ROWS, D = 12, 5
INFO_NCE = {
    "one direction": {},
    "symmetric": {"symmetric": True},
    "margin, decoupled": {"symmetric": True, "margin": 0.1, "decoupled": True},
    "labels": {"labels": True},
    "symmetric labels": {"symmetric": True, "labels": True},
    "labels of both": {"symmetric": True, "labels": "both"},
    "among themselves": {"labels": True, "exclude_self": True},
}


def of_the_whole_batch():
    """Losses of two views that know nothing of processes, as `gathered` takes them."""
    from palimpsest.contrast.amcl import amcl_loss
    from palimpsest.contrast.cacr_views import multi_view_cacr
    from palimpsest.contrast.debiased_cl import debiased_loss
    from palimpsest.contrast.decoupled_cl import dcl_loss, dclw_loss
    from palimpsest.contrast.groco import groco_loss
    from palimpsest.contrast.macl import macl_loss

    return {
        "dcl": dcl_loss,
        "dclw": dclw_loss,
        "debiased": debiased_loss,
        "macl": macl_loss,
        "cacr": lambda a, b: multi_view_cacr(torch.stack([a, b], 1)),
        "amcl": lambda a, b: amcl_loss(a[:, None], b[:, None], 0.2),
        "groco": lambda a, b: groco_loss(torch.stack([a, b]), k_neg=3),
    }


def launch(out, processes):
    """What every rank wrote."""
    ranks.launch("tests.contrast.several_processes", out, processes)

    def tensors(found):
        return torch.tensor(found["tensor"], dtype=torch.float64) if "tensor" in found else found

    return [json.loads((out / f"{rank}.json").read_text(), object_hook=tensors) for rank in range(processes)]


def batch():
    """Queries, keys, a scale, and labels of the queries and of the keys; every query and key has a partner."""
    generator = torch.Generator().manual_seed(0)
    q, k = (F.normalize(torch.randn(ROWS, D, generator=generator, dtype=torch.float64)) for _ in range(2))
    labels = torch.arange(ROWS) % 3
    return q, k, torch.tensor(7.0, dtype=torch.float64), labels, labels.flip(0)


def options_of(options, labels, key_labels):
    """The options of a row of `INFO_NCE` with its labels put in."""
    given = {True: labels, "both": (labels, key_labels)}.get(options.get("labels"))
    return {**options, "labels": given} if given is not None else options


def encoder():
    """A small encoder whose norms and dropout are harmless, the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def value_and_gradients(loss, *inputs):
    return {"loss": loss.detach(), "gradients": list(torch.autograd.grad(loss, inputs))}


def main(out):
    from palimpsest.contrast.distributed import gathered
    from palimpsest.contrast.gradcache import GradCache
    from palimpsest.contrast.gradcache_measures import naive_accumulation
    from palimpsest.contrast.inf_cl import ring_nce
    from palimpsest.contrast.info_nce import info_nce, nt_xent
    from palimpsest.contrast.llave import hardness_nce
    from palimpsest.contrast.nonneg_cl import ncl_loss
    from palimpsest.contrast.siglip_chunked import chunked_sigmoid_loss

    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = slice(rank * ROWS // size, (rank + 1) * ROWS // size)
    q, k, scale, *labels = batch()
    leaves = [q[mine].clone().requires_grad_(), k[mine].clone().requires_grad_(), scale.requires_grad_()]
    results = {}
    for symmetric in (True, False):
        for tile in (3, 100):
            loss = ring_nce(*leaves, tile=tile, symmetric=symmetric, group=dist.group.WORLD)
            results[f"ring {symmetric} {tile}"] = value_and_gradients(loss, *leaves)
    for name, options in INFO_NCE.items():
        own = options_of(options, *(each[mine] for each in labels))
        key = leaves[0] if options.get("exclude_self") else leaves[1]
        loss = info_nce(leaves[0], key, 1 / leaves[2], group=dist.group.WORLD, **own)
        used = leaves if key is leaves[1] else [leaves[0], leaves[2]]
        results[name] = value_and_gradients(loss, *used)

    numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.5, -2.0)]
    loss = chunked_sigmoid_loss(*leaves[:2], *numbers, group=dist.group.WORLD)
    results["sigmoid"] = value_and_gradients(loss, *leaves[:2], *numbers)
    for name, whole in of_the_whole_batch().items():
        results[name] = value_and_gradients(gathered(whole)(*leaves[:2]), *leaves[:2])
    for name, loss_fn in {"simclr": nt_xent, "ncl": ncl_loss}.items():
        loss = loss_fn(*leaves[:2], 1 / leaves[2], group=dist.group.WORLD)
        results[name] = value_and_gradients(loss, *leaves)
    further = torch.cat([leaves[1], leaves[1].flip(1)])  # each process brings more keys than queries
    results["further keys"] = value_and_gradients(info_nce(leaves[0], further, group=dist.group.WORLD), *leaves[:2])
    loss = hardness_nce(*leaves[:2], leaves[2], group=dist.group.WORLD)
    results["hardness"] = value_and_gradients(loss, *leaves)
    try:
        info_nce(*leaves[:2], torch.ones(len(leaves[0])), symmetric=True, group=dist.group.WORLD)
    except ValueError as error:
        results["temperatures"] = str(error)
    (first,) = torch.autograd.grad(info_nce(*leaves[:2], group=dist.group.WORLD), leaves[1], create_graph=True)
    try:
        first.square().sum().backward()
    except RuntimeError as error:
        results["second derivative"] = str(error)

    pairs = list(range(size))[:2]  # a smaller group, whose ranks are others than the world's in no case but this
    group = dist.new_group(pairs)
    if rank in pairs:
        loss = ring_nce(*leaves, tile=2, group=group)
        results["pair"] = value_and_gradients(loss, *leaves)
    try:
        ring_nce(leaves[0][: 2 + (rank == 0)], leaves[1][: 2 + (rank == 0)], 1.0, group=dist.group.WORLD)
    except ValueError as error:
        results["unequal"] = str(error)
    try:
        unlike = [leaf.detach().float() if rank == 0 else leaf for leaf in leaves[:2]]
        ring_nce(*unlike, 1.0, group=dist.group.WORLD)
    except ValueError as error:
        results["unlike"] = str(error)
    try:
        info_nce(leaves[0][: 2 + (rank == 0)], leaves[1][: 2 + (rank == 0)], group=dist.group.WORLD)
    except ValueError as error:
        results["unequal gathered"] = str(error)

    def loss_of(a, b):
        return ring_nce(a, b, 2.0, group=dist.group.WORLD)

    losses = {
        "one encoder": loss_of,
        "two encoders": loss_of,
        "last input without gradient": lambda a, b: loss_of(a, b.detach()),
    }
    for name, loss_fn in losses.items():
        models = [nn.parallel.DistributedDataParallel(encoder()) for _ in range(1 + (name == "two encoders"))]
        reductions = [_count(model) for model in models]
        loss = GradCache(models, 3, loss_fn).step(q[mine], k[mine])
        results[name] = {
            "loss": loss,
            "gradients": [p.grad for model in models for p in model.parameters()],
            "reductions": [len(calls) for calls in reductions],
        }
    model = nn.parallel.DistributedDataParallel(encoder())
    reductions = _count(model)
    naive_accumulation(model, 3, lambda a, b: (a - b).square().mean(), q[mine], k[mine])
    results["naive"] = {"gradients": [p.grad for p in model.parameters()], "reductions": [len(reductions)]}
    (out / f"{rank}.json").write_text(json.dumps(results, default=lambda tensor: {"tensor": tensor.tolist()}))
    dist.barrier()
    dist.destroy_process_group()


def _count(model):
    """Notes every time that DDP averages gradients."""
    calls = []

    def hook(state, bucket):
        calls.append(1)
        tensor = bucket.buffer() / dist.get_world_size()
        return dist.all_reduce(tensor, async_op=True).get_future().then(lambda future: future.value()[0])

    model.register_comm_hook(None, hook)
    return calls


if __name__ == "__main__":
    main(Path(sys.argv[1]))
