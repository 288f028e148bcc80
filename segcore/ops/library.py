"""The operators' registration with PyTorch: schemas, fake kernels, gradients, autocast.

    segcore::ms_deform_attn(value, shapes, locations, weights)
    segcore::ms_deform_attn_fused(value, shapes, reference_points, offsets, attention_logits)

with an explicit backward operator each. The compiled kernels live in the namespace `segcore_native`; an
operator here picks among them, Triton's and plain PyTorch's when it runs, so a traced or exported graph holds
one node per call, whatever serves it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from segcore.ops import eager, reference
from segcore.ops.backend import choose_backend

__all__: list[str] = []

_SCHEMAS = (
    "ms_deform_attn(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor",
    "ms_deform_attn_backward(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) "
    "-> (Tensor, Tensor, Tensor)",
    "ms_deform_attn_fused(Tensor value, SymInt[] shapes, Tensor reference_points, Tensor offsets, "
    "Tensor attention_logits) -> Tensor",
    "ms_deform_attn_fused_backward(Tensor grad, Tensor value, SymInt[] shapes, Tensor reference_points, "
    "Tensor offsets, Tensor attention_logits) -> (Tensor, Tensor, Tensor)",
)
_DEVICES = ("CPU", "CUDA")


def _plain(name: str):
    """The plain-PyTorch form of the deformable attention called `name`."""
    return (reference if name == "reference" else eager).ms_deform_attn


def _plain_fused(name: str):
    def run(value, shapes, reference_points, offsets, logits):
        locations, weights = reference.sampling_inputs(shapes, reference_points, offsets, logits)
        return _plain(name)(value, shapes, locations, weights)

    return run


def _plain_backward(function, grad: Tensor, *inputs) -> tuple[Tensor, ...]:
    """Gradients of a plain-PyTorch form with respect to its tensors, by autograd."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in inputs]
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        # clones: autograd may return one of its saved tensors, and an operator must not alias its inputs
        grads = torch.autograd.grad(function(*leaves), tensors, grad.to(inputs[0].dtype))
        return tuple(g.clone() for g in grads)


def _forward(
    value: Tensor, shapes: Sequence[int], centres: Tensor | None, points: Tensor, weights: Tensor
) -> Tensor:
    """Plain operator where `centres` (reference points) is None, else the fused one."""
    backend = choose_backend(value.device.type)
    if backend in ("cpu", "cuda"):
        return torch.ops.segcore_native.msda_forward(value, shapes, centres, points, weights)
    if backend == "triton":
        from segcore.ops import triton_deform  # importing Triton takes a second

        return triton_deform.forward(value, shapes, centres, points, weights)
    if centres is None:
        return _plain(backend)(value, shapes, points, weights)
    return _plain_fused(backend)(value, shapes, centres, points, weights)


def _backward(grad, value, shapes, centres, points, weights) -> tuple[Tensor, Tensor, Tensor]:
    backend = choose_backend(value.device.type)
    if backend in ("cpu", "cuda"):
        return torch.ops.segcore_native.msda_backward(grad, value, shapes, centres, points, weights)
    if backend == "triton":
        from segcore.ops import triton_deform

        return triton_deform.backward(grad, value, shapes, centres, points, weights)
    if centres is None:
        return _plain_backward(_plain(backend), grad, value, shapes, points, weights)
    value_grad, _, points_grad, weights_grad = _plain_backward(
        _plain_fused(backend), grad, value, shapes, centres, points, weights
    )
    return value_grad, points_grad, weights_grad


def _centres_gradient(shapes: Sequence[int], centres: Tensor, offsets_grad: Tensor) -> Tensor:
    """A reference point moves every head's points of its level, by the level's size in pixels."""
    total = offsets_grad.sum((2, 4))  # (B, Q, L, 2)
    levels = [
        torch.stack((total[:, :, i, 0] * shapes[2 * i + 1], total[:, :, i, 1] * shapes[2 * i]), -1)
        for i in range(len(shapes) // 2)
    ]
    return torch.stack(levels, 2).sum_to_size(centres.shape).to(centres.dtype)


def _ms_deform_attn(value, shapes, locations, weights):
    return _forward(value, shapes, None, locations, weights)


def _ms_deform_attn_backward(grad, value, shapes, locations, weights):
    return _backward(grad, value, shapes, None, locations, weights)


def _ms_deform_attn_fused(value, shapes, reference_points, offsets, attention_logits):
    return _forward(value, shapes, reference_points, offsets, attention_logits)


def _ms_deform_attn_fused_backward(grad, value, shapes, reference_points, offsets, attention_logits):
    return _backward(grad, value, shapes, reference_points, offsets, attention_logits)


def _fake_forward(value, shapes, *tensors):
    points = tensors[-2]
    return value.new_empty(value.shape[0], points.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(grad, value, shapes, *tensors):
    like = (value, *tensors[-2:])
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in like)


def _save(ctx, inputs, output):
    value, ctx.shapes, *tensors = inputs
    ctx.save_for_backward(value, *tensors)


def _register_gradient(library: torch.library.Library, name: str) -> None:
    backward_op = getattr(torch.ops.segcore, name + "_backward")

    def differentiate(ctx, grad):
        value, *tensors = ctx.saved_tensors
        value_grad, *grads = backward_op(grad, value, ctx.shapes, *tensors)
        if len(tensors) == 3:  # the fused operator; reference points are seldom learned
            wanted = ctx.needs_input_grad[2]
            grads.insert(0, _centres_gradient(ctx.shapes, tensors[0], grads[0]) if wanted else None)
        return value_grad, None, *grads

    torch.library.register_fake(f"segcore::{name}", _fake_forward, lib=library)
    torch.library.register_fake(f"segcore::{name}_backward", _fake_backward, lib=library)
    torch.library.register_autograd(f"segcore::{name}", differentiate, setup_context=_save, lib=library)


def _autocast(name: str, device: str):
    """Under autocast the value keeps its dtype (often a Linear's half precision) and geometry is fp32."""
    operator = getattr(torch.ops.segcore, name)
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device}"))

    def run(value, shapes, *tensors):
        dtype = reference.compute_dtype(value.dtype)
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return operator(value, shapes, *(x.to(dtype) for x in tensors))

    return run


def _late(name: str):
    """Look the kernel up when called: after a second import of this module, its new functions serve."""
    return lambda *inputs: getattr(sys.modules[__name__], name)(*inputs)


def _register() -> torch.library.Library | None:
    """Register everything, once a process: PyTorch's registry outlives a module that is imported again."""
    if hasattr(torch.ops.segcore, "ms_deform_attn"):
        return None
    library = torch.library.Library("segcore", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
        name = schema.split("(")[0]
        for device in _DEVICES:
            library.impl(name, _late("_" + name), device)
    for name in ("ms_deform_attn", "ms_deform_attn_fused"):
        _register_gradient(library, name)
        for device in _DEVICES:
            library.impl(name, _autocast(name, device), f"Autocast{device}")
    return library


_LIBRARY = _register()
