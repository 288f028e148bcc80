"""Operators that the models need and PyTorch lacks; each works without a compiler.

Imports torch alone (no detectron2).
"""

from segcore.ops.attention import attention
from segcore.ops.backend import available_backends, use_backend
from segcore.ops.deform import ms_deform_attn, ms_deform_attn_fused
from segcore.ops.grid import grid_attention
from segcore.ops.linear import in_fast_layout, linear, row_products, speed_up_linears
from segcore.ops.maps import consume_conv, consume_norm
from segcore.ops.neighborhood import neighborhood_attention_2d, pad_to_window

__all__ = [
    "attention",
    "available_backends",
    "consume_conv",
    "consume_norm",
    "grid_attention",
    "in_fast_layout",
    "linear",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "neighborhood_attention_2d",
    "pad_to_window",
    "row_products",
    "speed_up_linears",
    "use_backend",
]
