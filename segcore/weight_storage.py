"""Layers that hold their weights in fewer bits and compute in fp32: smaller files, the same speed.

Weight-only, by torch's own parametrisations, so that one form serves PyTorch, ONNX and AOTInductor, and every kind of
layer: linear, convolution, and attention's stacked projections. What runs an exported file widens the weights
when it loads it, or each time.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SMALLEST = 1024                        # numbers below which a weight stays as it is: nothing to save
WEIGHTS = ("weight", "in_proj_weight")  # biases, norms and tables of positions stay fp32


class Bfloat16(nn.Module):
    """fp32's range with 8 bits of precision: each weight is off by up to 1 part in 256."""

    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:
        return (weight.bfloat16(),)

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


class Int8(nn.Module):
    """-127..127 times one scale for each output channel: each weight is off by up to 1/254 of its channel's largest."""

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        largest = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True)
        scale = torch.where(largest > 0, largest / 127, 1.0)
        return (weight / scale).round().to(torch.int8), scale

    def forward(self, stored: Tensor, scale: Tensor) -> Tensor:
        return stored.float() * scale


FORMS = {"bf16": Bfloat16, "int8": Int8}


def store_weights(model: nn.Module, form: str) -> nn.Module:
    """A copy of a model, for inference, whose layers' weights are rounded and held as `form` says; "fp32": itself.

    Args:
        model: fp32.
        form: "fp32" or a name in `FORMS`.

    Raises:
        ValueError: for an unknown form, or a model without an fp32 weight to store.
    """
    if form != "fp32" and form not in FORMS:
        raise ValueError(f"weights are stored as fp32, {' or '.join(FORMS)}, not {form!r}")
    if form == "fp32":
        return model
    model = copy.deepcopy(model).requires_grad_(False)
    found = [(module, name) for module in model.modules() for name, weight in module.named_parameters(recurse=False)
             if name in WEIGHTS and weight.dim() > 1 and weight.numel() >= SMALLEST and weight.dtype == torch.float32]
    if not found:
        raise ValueError(f"{type(model).__name__} has no fp32 weight of {SMALLEST} numbers or more to store as {form}")
    for module, name in found:
        parametrize.register_parametrization(module, name, FORMS[form](), unsafe=True)  # unsafe: the dtype changes
    return model


def stored_bytes(model: nn.Module) -> int:
    """What the model's parameters and buffers take."""
    return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
