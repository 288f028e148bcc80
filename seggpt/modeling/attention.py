"""Self-attention with decomposed relative positions, in several equal forms.

    out = softmax(s * q k^T + q . Rh[row_q, row_k] + q . Rw[col_q, col_k]) v,      s = d ** -0.5

The relative terms use the query before scaling (arXiv:2112.01526, sec. 4.1; the released weights need it).

Shapes:  B batch, n heads, d channels of a head; keys cover a grid of H x W tokens, queries a band of
         G x W of them (G = H unless only some rows are wanted), both row by row.
Every form takes (q (B, n, G*W, d), k and v (B, n, H*W, d), rel_h (G, H, d), rel_w (W, W, d),
key_bias (B, H*W) or None, added to the scores of every query) and returns (B, n, G*W, d).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDE = -1e4   # a key bias that no score outweighs, and that half precision can hold


def relative_logits(q: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """The two relative terms: (B, n, G*W, H) by key row and (B, n, G*W, W) by key column."""
    (rows, keys, _), cols = rel_h.shape, rel_w.shape[0]
    grid = q.unflatten(2, (rows, cols))
    by_row = torch.einsum("bnhwd,hkd->bnhwk", grid, rel_h)
    by_col = torch.einsum("bnhwd,wkd->bnhwk", grid, rel_w)
    return by_row.reshape(*q.shape[:3], keys), by_col.reshape(*q.shape[:3], cols)


def attend_materialised(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor,
                        key_bias: Tensor | None = None) -> Tensor:
    """The formula as written: every score of every head at once. The reference for the others."""
    by_row, by_col = relative_logits(q, rel_h, rel_w)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores + (by_row[..., :, None] + by_col[..., None, :]).flatten(-2)
    if key_bias is not None:
        scores = scores + key_bias[:, None, None, :]
    return scores.softmax(-1) @ v


def attend_widened(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor,
                   key_bias: Tensor | None = None) -> Tensor:
    """Fused attention: the relative terms ride in extra channels of q against one-hot channels of k.

    Nothing of size (queries x keys) is stored, forward or backward; q.k costs (d + H + W) / d as much.
    """
    keys, cols, dim = rel_h.shape[1], rel_w.shape[0], q.shape[-1]
    wide_q = torch.cat([q * dim**-0.5, *relative_logits(q, rel_h, rel_w)], -1)
    row = torch.eye(keys, dtype=k.dtype, device=k.device).repeat_interleave(cols, 0)
    col = torch.eye(cols, dtype=k.dtype, device=k.device).repeat(keys, 1)
    place = torch.cat([row, col], -1).expand(*k.shape[:2], -1, -1)
    wide_k = torch.cat([k, place], -1)
    if key_bias is not None:
        wide_q = F.pad(wide_q, (0, 1), value=1.0)
        wide_k = torch.cat([wide_k, key_bias[:, None, :, None].to(k.dtype).expand(-1, k.shape[1], -1, 1)], -1)
    # Fused kernels want a multiple of 8 channels; the one for CPUs also wants v as wide as q.
    pad = -wide_q.shape[-1] % 8
    wide_q, wide_k = F.pad(wide_q, (0, pad)), F.pad(wide_k, (0, pad))
    if v.device.type == "cpu":
        v = F.pad(v, (0, wide_q.shape[-1] - dim))
    return F.scaled_dot_product_attention(wide_q, wide_k, v, scale=1.0)[..., :dim]


@torch.no_grad()
def attend_tiled(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor,
                 key_bias: Tensor | None = None) -> Tensor:
    """One head at a time through one score buffer that is never freed in between.

    Inference on CPUs: the buffer stays in cache and its pages stay mapped, which costs less than
    what a fused kernel saves. No gradient.
    """
    (rows, keys, _), cols, dim, batch = rel_h.shape, rel_w.shape[0], q.shape[-1], q.shape[0]
    heads = q.shape[1]
    # fp32: torch adds half-precision operands that are broadcast four times slower on CPUs
    by_row, by_col = (t.flatten(0, 1).float() for t in relative_logits(q, rel_h, rel_w))
    q, k, v = (t.flatten(0, 1).contiguous() for t in (q, k, v))
    scores = q.new_empty(1, rows * cols, keys * cols)
    bias = scores if scores.dtype == torch.float32 else torch.empty_like(scores, dtype=torch.float32)
    out = torch.empty_like(q)
    for i in range(q.shape[0]):
        torch.add(by_row[i, :, :, None], by_col[i, :, None, :], out=bias.view(-1, keys, cols))
        if key_bias is not None:
            bias += key_bias[i // heads]
        if bias is not scores:
            scores.copy_(bias)
        torch.baddbmm(scores, q[i:i + 1], k[i:i + 1].transpose(1, 2), alpha=dim**-0.5, out=scores)
        torch.softmax(scores, -1, out=scores)
        torch.bmm(scores, v[i:i + 1], out=out[i:i + 1])
    return out.unflatten(0, (batch, -1))


def attend_flex(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor,
                key_bias: Tensor | None = None) -> Tensor:
    """`flex_attention` with the two terms added inside the kernel; compiled at first use, for CUDA."""
    cols = rel_w.shape[0]
    by_row, by_col = relative_logits(q, rel_h, rel_w)

    def add_relative(score, b, h, q_idx, k_idx):
        score = score + by_row[b, h, q_idx, k_idx // cols] + by_col[b, h, q_idx, k_idx % cols]
        return score if key_bias is None else score + key_bias[b, k_idx]

    return _compiled_flex()(q, k, v, score_mod=add_relative)


_FLEX: list[Callable] = []


def _compiled_flex() -> Callable:
    if not _FLEX:
        from torch.nn.attention.flex_attention import flex_attention

        _FLEX.append(torch.compile(flex_attention, dynamic=False))
    return _FLEX[0]


FORMS = {
    "materialised": attend_materialised,
    "widened": attend_widened,
    "tiled": attend_tiled,
    "flex": attend_flex,
}


def choose_form(name: str, q: Tensor) -> Callable:
    """The attention form for these queries: the one named, or the fastest measured for "auto"."""
    if name != "auto":
        return FORMS[name]
    recorded = torch.is_grad_enabled() and q.requires_grad
    if q.device.type == "cpu" and not recorded and not torch.compiler.is_compiling():
        return attend_tiled
    return attend_widened


class Attention(nn.Module):
    """Multi-head attention whose projections can be applied apart from its core.

    Args:
        dim: channels. num_heads: must divide them.
        grid: (H, W) tokens that the relative tables are sized for.
        form: a name in `FORMS`, or "auto".
    """

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int], form: str = "auto"):
        super().__init__()
        self.num_heads = num_heads
        self.form = form
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, dim // num_heads))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> q, k, v, each (B, n, N, d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor,
               key_bias: Tensor | None = None) -> Tensor:
        """Heads attended and put side by side again: (B, N, C), before `proj`."""
        out = choose_form(self.form, q)(q, k, v, rel_h, rel_w, key_bias)
        return out.transpose(1, 2).flatten(2)
