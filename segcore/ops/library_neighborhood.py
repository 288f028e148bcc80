"""Registration of neighbourhood attention with PyTorch: schemas, fake kernels, gradients.

    segcore::neighborhood_attention_2d(query, key, value, kernel_size, dilation, rpb, scale)

with an explicit backward operator; see `segcore.ops.library`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from segcore.ops import eager, reference
from segcore.ops.backend import choose_backend

__all__ = ["MISSING"]

# The CUDA extension has no neighbourhood attention: Triton serves it there.
MISSING = ("cuda",)

_SCHEMAS = (
    "neighborhood_attention_2d(Tensor query, Tensor key, Tensor value, int kernel_size, int dilation, "
    "Tensor? rpb, float scale) -> Tensor",
    "neighborhood_attention_2d_backward(Tensor grad, Tensor query, Tensor key, Tensor value, "
    "int kernel_size, int dilation, Tensor? rpb, float scale) -> (Tensor, Tensor, Tensor, Tensor)",
)


def _plain(name: str):
    return (reference if name == "reference" else eager).neighborhood_attention_2d


def _neighborhood_attention_2d(query, key, value, kernel_size, dilation, rpb, scale):
    backend = choose_backend(query.device.type, MISSING)
    if backend == "cpu":
        return torch.ops.segcore_native.na_forward(query, key, value, kernel_size, dilation, rpb, scale)
    if backend == "triton":
        from segcore.ops import triton_neighborhood  # importing Triton takes a second

        return triton_neighborhood.forward(query, key, value, kernel_size, dilation, rpb, scale)
    return _plain(backend)(query, key, value, kernel_size, dilation, rpb, scale).to(query.dtype)


def _neighborhood_attention_2d_backward(grad, query, key, value, kernel_size, dilation, rpb, scale):
    backend = choose_backend(query.device.type, MISSING)
    if backend == "cpu":
        return torch.ops.segcore_native.na_backward(
            grad, query, key, value, kernel_size, dilation, rpb, scale
        )
    if backend == "triton":
        from segcore.ops import triton_neighborhood

        return triton_neighborhood.backward(grad, query, key, value, kernel_size, dilation, rpb, scale)
    with torch.enable_grad():
        leaves = [None if x is None else x.detach().requires_grad_() for x in (query, key, value, rpb)]
        output = _plain(backend)(*leaves[:3], kernel_size, dilation, leaves[3], scale)
        wanted = [x for x in leaves if x is not None]
        grads = [g.clone() for g in torch.autograd.grad(output, wanted, grad.to(output.dtype))]
    return tuple(grads) if rpb is not None else (*grads, query.new_empty(0))


def _fake_forward(query, key, value, kernel_size, dilation, rpb, scale):
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def _fake_backward(grad, query, key, value, kernel_size, dilation, rpb, scale):
    like = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)]
    return (*like, query.new_empty(0) if rpb is None else torch.empty_like(rpb))


def _save(ctx, inputs, output):
    query, key, value, ctx.kernel_size, ctx.dilation, rpb, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, rpb)


def _differentiate(ctx, grad: Tensor):
    query, key, value, rpb = ctx.saved_tensors
    query_grad, key_grad, value_grad, rpb_grad = torch.ops.segcore.neighborhood_attention_2d_backward(
        grad, query, key, value, ctx.kernel_size, ctx.dilation, rpb, ctx.scale
    )
    return query_grad, key_grad, value_grad, None, None, None if rpb is None else rpb_grad, None


def _late(name: str):
    """As in `segcore.ops.library`: after a second import, the new functions serve."""
    return lambda *inputs: getattr(sys.modules[__name__], name)(*inputs)


def _register() -> torch.library.Library | None:
    if hasattr(torch.ops.segcore, "neighborhood_attention_2d"):
        return None
    library = torch.library.Library("segcore", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
        name = schema.split("(")[0]
        for device in ("CPU", "CUDA"):
            library.impl(name, _late("_" + name), device)
    name = "segcore::neighborhood_attention_2d"
    torch.library.register_fake(name, _fake_forward, lib=library)
    torch.library.register_fake(name + "_backward", _fake_backward, lib=library)
    torch.library.register_autograd(name, _differentiate, setup_context=_save, lib=library)
    return library


_LIBRARY = _register()
