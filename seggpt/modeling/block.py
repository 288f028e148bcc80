"""One transformer block, over a whole canvas or over its halves apart.

Shapes:  B canvases, K prompts per canvas, L tokens of a canvas, l = L / 2 of one half, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from seggpt.modeling.attention import Attention


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of (B, C, H, W), at every pixel."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP, each with stochastic depth."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, grid: tuple[int, int],
                 drop_path: float = 0.0, attention: str = "auto"):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, grid, attention)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor, rel_h: Tensor, rel_w: Tensor,
                ensemble: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C); `ensemble` acts on the projected attention before the residual."""
        attended = self.attn.proj(self.attn.attend(*self.attn.project(self.norm1(x)), rel_h, rel_w))
        if ensemble is not None:
            attended = ensemble(attended)
        return self._feed_forward(x + self.drop_path(attended))

    def forward_halves(self, prompt: Tensor, query: Tensor, rel_h: Tensor, rel_w: Tensor,
                       last_row_only: bool = False, key_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The block on K prompt halves that share one query half: the feature ensemble, stored once.

        What a query token attends to is averaged over the prompts (SegGPT sec. 3.2), so its K copies
        would stay equal; the mean commutes with `proj`, which therefore also runs once.

        Args:
            prompt: (B, K, l, C). query: (B, l, C).
            last_row_only: of the prompt halves return the bottom token row alone, which is all that
                the decoder of the query half can see of them; after the last block.
            key_bias: (B, K, 2 * l), added to the scores of every canvas's tokens as keys.

        Returns:
            prompt (B, K, l or W, C) and query (B, l, C).
        """
        (batch, k, half, _), width = prompt.shape, rel_w.shape[0]
        keep = width if last_row_only else half
        p_q, p_k, p_v = self.attn.project(self.norm1(prompt.flatten(0, 1)))
        q_q, q_k, q_v = (t.repeat_interleave(k, 0) for t in self.attn.project(self.norm1(query)))
        rel_h = rel_h[(half - keep) // width:]
        attended = self.attn.attend(
            torch.cat([p_q[:, :, half - keep:], q_q], 2), torch.cat([p_k, q_k], 2), torch.cat([p_v, q_v], 2),
            rel_h, rel_w, None if key_bias is None else key_bias.flatten(0, 1)).unflatten(0, (batch, k))
        prompt = prompt[:, :, half - keep:] + self.drop_path(self.attn.proj(attended[:, :, :keep]))
        query = query + self.drop_path(self.attn.proj(attended[:, :, keep:].mean(1)))
        return self._feed_forward(prompt), self._feed_forward(query)

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.norm2(x)))
