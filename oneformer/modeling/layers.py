"""Building blocks of OneFormer's transformers, all batch first.

Shapes:  N sequences (images x tasks), Q queries, S keys, C channels.
Parameter names are those of `torch.nn.MultiheadAttention` and of the released
checkpoints, so that weights load without renaming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.ops import attention, linear

QUERY, KEY, VALUE = range(3)  # order of the projections in `in_proj_weight`
TOKENS_AT_ONCE = 2048  # of a wide hidden layer when nothing is kept for gradients


def few_at_once(x: Tensor) -> bool:
    """Whether (N, S, C) tokens are better treated a few at a time: in inference on a CPU, where what a step
    makes of `TOKENS_AT_ONCE` of them stays in the cache."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    return x.shape[0] * x.shape[1] > TOKENS_AT_ONCE


def in_token_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function`, which treats tokens alike, over (N, S, C).

    The hidden layer of a feed-forward network then stays in the cache, and memory does not grow with S.
    """
    if not few_at_once(x):
        return function(x)
    tokens = x.flatten(0, 1)
    # of one size: a short last part would be slow for its size
    parts = tokens.tensor_split(max(1, round(len(tokens) / TOKENS_AT_ONCE)))
    return joined((function(part) for part in parts), 0, len(tokens)).view(*x.shape[:2], -1)


def joined(parts: Iterable[Tensor], dim: int, size: int) -> Tensor:
    """`torch.cat` of parts that come one by one; each is let go before the next is made."""
    out, start = None, 0
    for part in parts:
        if out is None:
            out = part.new_empty(*part.shape[:dim], size, *part.shape[dim + 1 :])
        out.narrow(dim, start, part.shape[dim]).copy_(part)
        start += part.shape[dim]
        del part
    return out


def added(branch: Tensor, x: Tensor) -> Tensor:
    """x + branch, in the memory of `branch`, which the caller has no further use for, where that is possible."""
    return x + branch if torch.is_grad_enabled() or branch.dtype != x.dtype else branch.add_(x)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be projected ahead and shared.

    A map that several tasks of one image attend to is projected once by
    `project_keys` / `project_values`; `forward` then takes the projected tensors.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"attention of {dim} channels cannot be split into {num_heads} heads")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def part(self, part: int) -> tuple[Tensor, Tensor]:
        """Weight (C, C) and bias (C,) of the projection `QUERY`, `KEY` or `VALUE`."""
        return self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]

    def split_heads(self, x: Tensor) -> Tensor:
        """(N, S, C) -> (N, heads, S, C / heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _project(self, x: Tensor, part: int) -> Tensor:
        return self.split_heads(linear(x, *self.part(part)))

    def project_queries(self, x: Tensor) -> Tensor:
        return self._project(x, QUERY)

    def project_keys(self, x: Tensor) -> Tensor:
        return self._project(x, KEY)

    def project_values(self, x: Tensor) -> Tensor:
        return self._project(x, VALUE)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (N, Q, C), not yet projected.
            key, value: (N, heads, S, C / heads), projected.
            mask: (N, 1, Q, S) bool, True where a query may look; None for everywhere.

        Returns:
            (N, Q, C).
        """
        return self.join_heads(attention(self.project_queries(query), key, value, mask))

    def join_heads(self, x: Tensor) -> Tensor:
        """(N, heads, Q, C / heads), what each head found -> (N, Q, C)."""
        return self.out_proj(x.transpose(1, 2).flatten(2))


class SelfAttentionLayer(nn.Module):
    """Post-norm self-attention; positions are added to queries and keys, not to values."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        attn, query = self.self_attn, x + position
        return self.norm(x + attn(query, attn.project_keys(query), attn.project_values(x)))


class CrossAttentionLayer(nn.Module):
    """Post-norm attention to projected keys and values."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.multihead_attn = Attention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        return self.norm(x + self.multihead_attn(x + position, key, value, mask))


class FFNLayer(nn.Module):
    """Post-norm feed-forward layer with ReLU."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


def xavier_init_matrices(module: nn.Module) -> None:
    """Xavier-uniform for every parameter of two dimensions or more, as DETR does."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
