"""Multi-scale deformable pixel decoder (Mask2Former, arXiv:2112.01527, sec. 3.2.1;
deformable attention: arXiv:2010.04159).

Shapes:  B images, C channels, S tokens = sum of h * w over the levels,
         L levels, M heads, P points, h, w a level's size.
Coordinates: x right, y down, normalised to [0, 1], pixel centres at +0.5.
The levels run from the coarsest (stride 32) to the finest (stride 8).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segcore.ops import consume_conv, consume_norm, in_fast_layout, linear, ms_deform_attn_fused

from .layers import in_token_chunks
from .position_encoding import sine_position_tokens


class MSDeformAttn(nn.Module):
    """Deformable self-attention over the tokens of all levels (arXiv:2010.04159, eq. 3)."""

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"deformable attention of {dim} channels cannot be split into {num_heads} heads")
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset_parameters()

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        """Uniform attention; head m looks along compass direction m, its point p at distance p + 1."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        bias = direction[:, None, None, :] * distance[None, None, :, None]
        self.sampling_offsets.bias.copy_(
            bias.expand(self.num_heads, self.num_levels, self.num_points, 2).flatten()
        )

    def forward(
        self, query: Tensor, value: Tensor, reference: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Sample.

        Args:
            query, value: (B, S, C).
            reference: (S, 2), x then y of each token's centre, in [0, 1].
            sizes: (h, w) of each level.

        Returns:
            (B, S, C).
        """
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        offsets = self.sampling_offsets(query).unflatten(2, (heads, levels, points, 2))
        logits = self.attention_weights(query).unflatten(2, (heads, levels, points))
        centres = reference[None, :, None, :].expand(1, -1, levels, 2)
        shapes = [side for size in sizes for side in size]
        value = self.value_proj(value).unflatten(2, (heads, -1))
        return self.output_proj(ms_deform_attn_fused(value, shapes, centres, offsets, logits))


class EncoderLayer(nn.Module):
    """Post-norm layer: deformable self-attention, then a feed-forward network."""

    def __init__(
        self, dim: int, feedforward_dim: int, dropout: float, num_levels: int, num_heads: int, num_points: int
    ):
        super().__init__()
        self.self_attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        attended = self.self_attn(x + position, x, reference, sizes)
        return in_token_chunks(self._normalise_and_feed_forward, self.dropout(attended).add_(x))

    def _normalise_and_feed_forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        hidden = linear(x, self.linear1.weight, self.linear1.bias, relu=True)
        hidden = self.linear2(self.dropout(hidden))
        return self.norm2(self.dropout(hidden).add_(x))


class _LayerStack(nn.Module):
    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class DeformableEncoder(nn.Module):
    """Deformable-attention layers over the flattened levels, with one learned embedding per level."""

    def __init__(self, *, dim: int, num_layers: int, num_levels: int, use_checkpoint: bool, **layer):
        super().__init__()
        self.encoder = _LayerStack(
            [EncoderLayer(dim, num_levels=num_levels, **layer) for _ in range(num_layers)]
        )
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        nn.init.normal_(self.level_embed)
        self.use_checkpoint = use_checkpoint

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, C, h, w) per level -> the same shapes."""
        sizes = [(m.shape[2], m.shape[3]) for m in maps]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = torch.cat(
            [
                sine_position_tokens(h, w, x.shape[2], x.device).to(x.dtype) + embed
                for (h, w), embed in zip(sizes, self.level_embed, strict=True)
            ]
        )
        reference = torch.cat([token_centres(h, w, x.device) for h, w in sizes])
        for layer in self.encoder.layers:
            if self.use_checkpoint and self.training:
                x = checkpoint(layer, x, position, reference, sizes, use_reentrant=False)
            else:
                x = layer(x, position, reference, sizes)
        parts = x.split([h * w for h, w in sizes], dim=1)
        # this order of the views leaves strides that PyTorch takes for channels last
        return [p.unflatten(1, size).permute(0, 3, 1, 2) for p, size in zip(parts, sizes, strict=True)]


def token_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(height * width, 2): x then y of each cell's centre, in [0, 1]."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=2).flatten(0, 1)


class MSDeformAttnPixelDecoder(nn.Module):
    """res2..res5 -> per-pixel embeddings at stride 4 and three maps for the transformer decoder.

    Always computed in fp32, as the released models were trained.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        in_features: list[str],
        transformer_in_features: list[str],
        dim: int,
        mask_dim: int,
        norm: str,
        num_layers: int,
        num_heads: int,
        num_points: int,
        feedforward_dim: int,
        dropout: float,
        use_checkpoint: bool = False,
    ):
        """
        Args:
            input_shape: channels and stride of each backbone output.
            in_features: the names used; exactly one of them, the finest, is not a transformer input.
            transformer_in_features: the names that pass through the deformable encoder.

        Raises:
            ValueError: if the features are not one fine map and the encoder's maps.
        """
        super().__init__()
        by_stride = sorted(in_features, key=lambda name: input_shape[name].stride)
        if set(by_stride[1:]) != set(transformer_in_features):
            raise ValueError(
                "the pixel decoder takes the finest feature plus those of the deformable encoder; got "
                f"IN_FEATURES={in_features} and "
                f"DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES={transformer_in_features}"
            )
        self.fine_feature, self.coarse_to_fine = by_stride[0], by_stride[:0:-1]
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(input_shape[name].channels, dim, 1), nn.GroupNorm(32, dim))
            for name in self.coarse_to_fine
        )
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        self.transformer = DeformableEncoder(
            dim=dim,
            num_layers=num_layers,
            num_levels=len(self.coarse_to_fine),
            num_heads=num_heads,
            num_points=num_points,
            feedforward_dim=feedforward_dim,
            dropout=dropout,
            use_checkpoint=use_checkpoint,
        )
        self.mask_features = Conv2d(dim, mask_dim, 1)
        fine_channels = input_shape[self.fine_feature].channels
        self.adapter_1 = Conv2d(fine_channels, dim, 1, bias=not norm, norm=_norm(norm, dim))
        self.layer_1 = Conv2d(dim, dim, 3, padding=1, bias=not norm, norm=_norm(norm, dim), activation=F.relu_)
        for conv in (self.mask_features, self.adapter_1, self.layer_1):
            weight_init.c2_xavier_fill(conv)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": input_shape,
            "in_features": head.IN_FEATURES,
            "transformer_in_features": head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES,
            "dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "norm": head.NORM,
            "num_layers": head.TRANSFORMER_ENC_LAYERS,
            "num_heads": head.TRANSFORMER_ENC_NHEADS,
            "num_points": head.TRANSFORMER_ENC_POINTS,
            "feedforward_dim": head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
            "dropout": head.TRANSFORMER_ENC_DROPOUT,
            "use_checkpoint": cfg.MODEL.ONE_FORMER.CHECKPOINT_ENCODER,
        }

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """
        Args:
            features: name -> (B, channels, h, w).

        Returns:
            per-pixel embeddings (B, mask_dim, H / 4, W / 4), and the encoder's maps
            (B, C, h, w), coarsest first.
        """
        with torch.autocast(self.mask_features.weight.device.type, enabled=False):
            maps = [
                projection(self._input(features[name]))
                for projection, name in zip(self.input_proj, self.coarse_to_fine, strict=True)
            ]
            maps = self.transformer(maps)
            # Maps of stride 4 are large, and new memory costs more than many a layer: each writes over the last one's,
            # but the first, whose input is the backbone's.
            x = self._input(features[self.fine_feature])
            x = F.conv2d(x, self.adapter_1.weight, self.adapter_1.bias)
            x = consume_norm(x, self.adapter_1.norm, add=maps[-1])
            x = consume_norm(consume_conv(x, self.layer_1), self.layer_1.norm, relu=True)
            return consume_conv(x, self.mask_features), maps

    def _input(self, feature: Tensor) -> Tensor:
        return in_fast_layout(feature.to(self.mask_features.weight.dtype))


def _norm(name: str, channels: int) -> nn.Module | None:
    if name not in ("", "GN"):
        raise ValueError(f"MODEL.SEM_SEG_HEAD.NORM must be 'GN' or '', got {name!r}")
    return nn.GroupNorm(32, channels) if name else None
