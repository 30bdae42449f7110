"""Log-probabilities and divergences from hidden states, without ever holding the logits of the whole vocabulary.

    logp_i = h_i . w_{y_i} + b_{y_i} - log sum_v exp(h_i . w_v + b_v)

PyTorch's plain expression (a linear map, log_softmax, gather) holds several [tokens, vocabulary] arrays at once, the
largest of a language model's training step by far. Here the vocabulary is walked through in blocks small enough to
stay in the processor's cache, with a running maximum and sum, as in Milakov and Gimelshein (2018, arXiv 1805.02867).
What lives between the forward and the backward pass is [tokens, d]: the log-sum-exp and

    dlogp_i / dh_i = w_{y_i} - sum_v p_iv w_v,

which the forward pass computes while each block is at hand. Only the weights' gradient needs the probabilities again;
the backward pass recomputes them block by block and writes each block of the gradient once. That is four matrix
products in place of the plain expression's three, paid back by the memory traffic it saves. KL(p || q) goes likewise,
with both passes over both distributions. Second derivatives are not offered: take the plain expression
(`reference_logprobs`), which is also what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from accelerate.utils import convert_to_fp32
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

# Elements of one block of logits: 8 MiB in float32 on a processor; a GPU wants larger matrix products.
BLOCK = {"cpu": 2**21, "other": 2**25}


class LastLayer(NamedTuple):
    """What a language model's last layer reads, and the layer: its logits are `hidden @ weight.T + bias`."""

    hidden: Float[Tensor, "... d"]
    weight: Float[Tensor, "vocabulary d"]
    bias: Float[Tensor, " vocabulary"] | None

    def at(self, positions: Any) -> LastLayer:
        """The same at some positions, by a mask or slices as for `hidden[positions]`."""
        return self._replace(hidden=self.hidden[positions])


# Models whose logits are not what their last layer gives (scaled, capped, mixed with another's).
_altered: WeakSet[nn.Module] = WeakSet()


def run_to_last_layer(model: nn.Module, inputs: Mapping[str, Tensor]) -> LastLayer | None:
    """Runs a causal language model up to its last layer, which computes one position only.

    Works for every architecture, because nothing is assumed of what comes before: the layer's input is caught on its
    way in. Where the model's logits turn out not to be the layer's own output, or the layer is not a plain linear map
    (an adapter sits on it, the model is a wrapper), the answer is None: then the logits have to be asked for.

    >>> from palimpsest.models import causal_lm
    >>> model = causal_lm(10, d_model=16, n_layers=1, n_heads=2)
    >>> layer = run_to_last_layer(model, {"input_ids": torch.tensor([[1, 5, 6]])})
    >>> list(layer.hidden.shape), list(layer.weight.shape)
    ([1, 3, 16], [10, 16])
    """
    inner = getattr(model, "module", model)  # wrappers for several processes
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    foreign = [hook for hook in inner._forward_hooks.values() if hook is not float32_outputs]
    if type(head) is not nn.Linear or inner in _altered or foreign:
        return None
    if head._forward_hooks or head._forward_pre_hooks:
        return None
    seen: list[Tensor] = []
    logits: list[Tensor] = []

    def first_position_only(_: nn.Module, args: tuple) -> tuple:
        seen.append(args[0])
        return (args[0][:, :1],)

    def note(_: nn.Module, args: tuple, output: Tensor) -> None:
        logits.append(output)

    handles = [head.register_forward_pre_hook(first_position_only), head.register_forward_hook(note)]
    # The logits are compared as the layer gives them; sums over the blocks are float32 anyway.
    suspended = dict(inner._forward_hooks)
    inner._forward_hooks.clear()
    try:
        out = model(**inputs)
    finally:
        inner._forward_hooks.update(suspended)
        for handle in handles:
            handle.remove()
    layer = LastLayer(seen[0], head.weight, head.bias) if len(logits) == 1 and out.logits is logits[0] else None
    if layer is not None and logits[0].dtype != head.weight.dtype and torch.is_autocast_enabled(seen[0].device.type):
        layer = LastLayer(*(None if x is None else x.to(logits[0].dtype) for x in layer))  # as autocast does
    if layer is None or layer.hidden.dtype != layer.weight.dtype:
        _altered.add(inner)
        return None
    return layer


def float32_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """A forward hook that gives a model's 16-bit outputs as float32; the last layer in blocks need not mind it."""
    return convert_to_fp32(outputs)


def linear_logprobs(
    hidden: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "vocabulary d"],
    labels: Int[Tensor, " tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    block: int | None = None,
) -> Float[Tensor, " tokens"]:
    """log softmax(hidden @ weight.T + bias) at each token's label, in blocks over the vocabulary; differentiable once,
    in all of `hidden`, `weight` and `bias`.

    Args:
        hidden: float32, float64, bfloat16 or float16; sums are float32 (float64 for float64).
        labels: each in [0, vocabulary).
        block: vocabulary entries in a block; by default as many as keep a block's logits in cache.

    Returns:
        Natural logarithms, in float32 or float64.

    Raises:
        ValueError: if the shapes do not fit, or the block is not positive.

    >>> h, w, y = torch.randn(3, 4), torch.randn(10, 4), torch.tensor([1, 9, 0])
    >>> torch.allclose(linear_logprobs(h, w, y, block=3), reference_logprobs(h, w, y), atol=1e-6)
    True
    """
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden [tokens, d] and weight [vocabulary, d] do not fit: {list(hidden.shape)} and {list(weight.shape)}"
        )
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels must be [{len(hidden)}], got {list(labels.shape)}")
    if block is not None and block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    return _LinearLogprobs.apply(hidden, weight, labels, bias, block or _block(hidden))


def reference_logprobs(
    hidden: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "vocabulary d"],
    labels: Int[Tensor, " tokens"],
    bias: Float[Tensor, " vocabulary"] | None = None,
) -> Float[Tensor, " tokens"]:
    """The same by the plain expression: log_softmax over all logits, then gather."""
    logits = F.linear(hidden, weight, bias)
    return _wide(logits).log_softmax(-1).gather(1, labels[:, None])[:, 0]


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, bias, block):
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
        sums = _RunningSum(hidden, wide)
        mean = torch.zeros(hidden.shape, dtype=wide, device=hidden.device) if needs_hidden else None
        chosen = (hidden.to(wide) * weight[labels].to(wide)).sum(1)
        if bias is not None:
            chosen += bias[labels]
        chosen = chosen.to(hidden.dtype).to(wide)  # rounded as the blocks' logits are: else log p could exceed 0
        for start in range(0, len(weight), block):
            w = weight[start : start + block]
            p, shrink = sums.add(_logits(hidden, w, bias, start, wide))
            if needs_hidden:
                _add_product(mean.mul_(shrink[:, None]), p, w)
        slope = weight[labels].to(wide) - mean.div_(sums.total[:, None]) if needs_hidden else None
        lse = sums.lse
        kept = (hidden, weight, labels, lse) if needs_weight or needs_bias else (None, None, None, None)
        ctx.save_for_backward(slope, *kept, bias)
        ctx.block, ctx.kind = block, hidden.dtype
        return (chosen - lse).clamp_(max=0)

    @staticmethod
    def backward(ctx, grad):
        _check_first_derivative()
        slope, hidden, weight, labels, lse, bias = ctx.saved_tensors
        needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
        d_hidden = (slope * grad[:, None]).to(ctx.kind) if needs_hidden else None
        d_weight = torch.empty_like(weight) if needs_weight else None
        d_bias = torch.empty_like(bias) if needs_bias else None
        if not (needs_weight or needs_bias):
            return d_hidden, None, None, None, None
        for start in range(0, len(weight), ctx.block):
            part = slice(start, start + ctx.block)
            p = _logits(hidden, weight[part], bias, start, lse.dtype).sub_(lse[:, None]).exp_()
            p.mul_(-grad[:, None])
            if needs_bias:
                d_bias[part] = p.sum(0)
            if needs_weight:
                d_weight[part] = p.to(hidden.dtype).T @ hidden
        if needs_bias:
            d_bias.index_add_(0, labels, grad.to(d_bias.dtype))
        if needs_weight:
            d_weight.index_add_(0, labels, (hidden * grad[:, None]).to(d_weight.dtype))
        return d_hidden, d_weight, None, d_bias, None


def linear_kl(reference: LastLayer, layer: LastLayer, *, block: int | None = None) -> Float[Tensor, " tokens"]:
    """KL(p || q) at each token, p and q being the softmax of a reference's and of a model's logits, in blocks over the
    vocabulary; differentiable once, in the model's hidden states, weights and bias; the reference is held fixed.

    Args:
        reference, layer: with `hidden` [tokens, d], each of its own width; the vocabulary is the same.
        block: see `linear_logprobs`.

    Raises:
        ValueError: if the two differ in tokens or vocabulary.
    """
    if len(reference.hidden) != len(layer.hidden) or len(reference.weight) != len(layer.weight):
        raise ValueError(
            f"reference and model must have the same tokens and vocabulary, got {len(reference.hidden)} and"
            f" {len(layer.hidden)} tokens, {len(reference.weight)} and {len(layer.weight)} words"
        )
    fixed = (reference.hidden.detach(), reference.weight.detach())
    fixed_bias = None if reference.bias is None else reference.bias.detach()
    return _LinearKL.apply(layer.hidden, layer.weight, layer.bias, *fixed, fixed_bias, block or _block(layer.hidden))


class _LinearKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, p_hidden, p_weight, p_bias, block):
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        p_sum, q_sum = _RunningSum(hidden, wide), _RunningSum(hidden, wide)
        for start in range(0, len(weight), block):
            part = slice(start, start + block)
            q = _logits(hidden, weight[part], bias, start, wide)
            p = _logits(p_hidden, p_weight[part], p_bias, start, wide)
            gap = p - q
            q_sum.add(q)
            p_sum.add(p, of=gap)
        p_lse, q_lse = p_sum.lse, q_sum.lse
        ctx.save_for_backward(hidden, weight, bias, p_hidden, p_weight, p_bias, p_lse, q_lse)
        ctx.block = block
        return p_sum.mean - p_lse + q_lse

    @staticmethod
    def backward(ctx, grad):
        _check_first_derivative()
        hidden, weight, bias, p_hidden, p_weight, p_bias, p_lse, q_lse = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        d_hidden = torch.zeros(hidden.shape, dtype=q_lse.dtype, device=hidden.device) if needs_hidden else None
        d_weight = torch.empty_like(weight) if needs_weight else None
        d_bias = torch.empty_like(bias) if needs_bias else None
        for start in range(0, len(weight), ctx.block):
            part = slice(start, start + ctx.block)
            slope = _logits(hidden, weight[part], bias, start, q_lse.dtype).sub_(q_lse[:, None]).exp_()
            slope -= _logits(p_hidden, p_weight[part], p_bias, start, q_lse.dtype).sub_(p_lse[:, None]).exp_()
            slope *= grad[:, None]
            if needs_hidden:
                _add_product(d_hidden, slope, weight[part])
            if needs_weight:
                d_weight[part] = slope.to(hidden.dtype).T @ hidden
            if needs_bias:
                d_bias[part] = slope.sum(0)
        return d_hidden if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None, None


def _check_first_derivative() -> None:
    # With create_graph the gradient would be taken for a constant, and what is built on it be wrong without a word.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the last layer in blocks has no second derivative: use the plain expression"
            " (palimpsest.models.last_layer.reference_logprobs on the model's logits)"
        )


class _RunningSum:
    """log sum exp of logits that come block by block, and the mean of other values under their softmax."""

    def __init__(self, hidden: Tensor, wide: torch.dtype):
        self.highest = torch.full(hidden.shape[:1], -torch.inf, dtype=wide, device=hidden.device)
        self.total = torch.zeros_like(self.highest)
        self.weighted = torch.zeros_like(self.highest)

    def add(self, logits: Tensor, of: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Takes a block in, which is overwritten by exp(logits - highest); gives that, and what shrinks older sums."""
        above = torch.maximum(self.highest, logits.amax(1))
        # exp(-inf - x) = 0 wipes out what is not there yet.
        shrink = torch.exp(self.highest - above)
        self.highest = above
        p = logits.sub_(above[:, None]).exp_()
        self.total.mul_(shrink).add_(p.sum(1))
        if of is not None:
            self.weighted.mul_(shrink).add_((p * of).sum(1))
        return p, shrink

    @property
    def lse(self) -> Tensor:
        return self.highest + self.total.log()

    @property
    def mean(self) -> Tensor:
        return self.weighted / self.total


def _block(hidden: Tensor) -> int:
    """Vocabulary entries in a block, so that its logits stay in cache."""
    elements = BLOCK["cpu" if hidden.device.type == "cpu" else "other"]
    return max(256, elements // max(1, len(hidden)))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, start: int, wide: torch.dtype) -> Tensor:
    """A block of logits that may be overwritten."""
    return F.linear(hidden, weight, None if bias is None else bias[start : start + len(weight)]).to(wide)


def _add_product(total: Tensor, p: Tensor, weight: Tensor) -> None:
    if p.dtype == weight.dtype:
        total.addmm_(p, weight)
    else:
        total.add_(p.to(weight.dtype) @ weight)
