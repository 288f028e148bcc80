"""Task-conditioned query initialisation (OneFormer, arXiv:2211.06220, sec. 3.3).

The task token, repeated once per object query, passes through a two-layer
DETR decoder over the stride-4 map.

Shapes:  B images, Q object queries (the task token included), C channels,
         S = H/4 * W/4 positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segcore.ops import grid_attention

from .layers import VALUE, Attention, xavier_init_matrices
from .position_encoding import axis_encodings


class QueryDecoderLayer(nn.Module):
    """Post-norm DETR decoder layer."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float):
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.multihead_attn = Attention(dim, num_heads)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: tuple[Tensor, Tensor]) -> Tensor:
        """(B, Q - 1, C) queries; `key` is projected, (B, heads, S, C / heads), and so are the parts of the values
        that belong to a row and to a column, (H/4, heads, C / heads) and (W/4, heads, C / heads)."""
        attn, query = self.self_attn, x + position
        attended = attn(query, attn.project_keys(query), attn.project_values(x))
        x = self.norm1(x + self.dropout(attended))
        attn = self.multihead_attn
        attended = attn.join_heads(grid_attention(attn.project_queries(x + position), key, *value))
        x = self.norm2(x + self.dropout(attended))
        hidden = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return self.norm3(x + self.dropout(hidden))


class _QueryDecoder(nn.Module):
    def __init__(self, num_layers: int, dim: int, **layer):
        super().__init__()
        self.layers = nn.ModuleList(QueryDecoderLayer(dim, **layer) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)


class QueryInitializer(nn.Module):
    """Task token -> the Q - 1 object queries it starts from."""

    def __init__(self, *, dim: int, num_layers: int, num_heads: int, feedforward_dim: int, dropout: float):
        super().__init__()
        self.decoder = _QueryDecoder(
            num_layers, dim, num_heads=num_heads, feedforward_dim=feedforward_dim, dropout=dropout
        )
        xavier_init_matrices(self)

    def forward(
        self, features: Tensor, query_embed: Tensor, turns: Sequence[tuple[Sequence[int], Tensor]]
    ) -> list[Tensor]:
        """
        Args:
            features: (B, C, H/4, W/4), projected; the position encoding is added to them in place.
            query_embed: (Q - 1, C) learned positions of the queries.
            turns: for each, n of the images and their task tokens (n, C).

        Returns:
            (n, Q - 1, C) for each turn.

        Layer by layer, so that only one layer's keys and values are held, whatever the number of turns.
        The values are the sine position encoding alone, and the image enters only through the
        keys: so the released models were trained, and their weights depend on it. A projected
        encoding is a row's part plus a column's (`grid_attention`).
        """
        images, dim, height, width = features.shape
        y, x = (axis.to(features.dtype) for axis in axis_encodings(height, width, dim, features.device))
        features[:, : dim // 2].add_(y.T[:, :, None])
        features[:, dim // 2 :].add_(x.T[:, None])
        features = features.flatten(2).transpose(1, 2).contiguous()   # once, not in the projection of each layer
        found = [task[:, None].expand(-1, len(query_embed), -1) for _, task in turns]
        for layer in self.decoder.layers:
            attention = layer.multihead_attn
            key = attention.project_keys(features)
            value = _project_position(*attention.part(VALUE), attention.num_heads, y, x)
            for turn, (rows, _) in enumerate(turns):
                chosen = key if list(rows) == list(range(images)) else key[list(rows)]
                found[turn] = layer(found[turn], query_embed, chosen, value)
            del key, chosen   # or the next layer's are made beside them
        return [self.decoder.norm(queries) for queries in found]


def _project_position(weight: Tensor, bias: Tensor, heads: int, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The projected position encoding of a row, (H, heads, D), and of a column, (W, heads, D), which add up to a
    pixel's, from its halves (H, C / 2) and (W, C / 2)."""
    of_y, of_x = weight.chunk(2, dim=1)
    return F.linear(y, of_y, bias).unflatten(1, (heads, -1)), F.linear(x, of_x).unflatten(1, (heads, -1))
