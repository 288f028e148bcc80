"""Dilated neighbourhood attention transformer (DiNAT, arXiv:2209.15001), without NATTEN.

Shapes: B images, M heads, H, W size of the map, C channels, D = C / M, K kernel size, d dilation.
Maps are channels last, (B, H, W, C), between the modules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import configurable
from timm.layers import Mlp
from torch import Tensor, empty, nn

from segcore.ops import neighborhood_attention_2d

from .stages import STAGES, DropPath, StagedBackbone, drop_path_rates, run_blocks


class ConvTokenizer(nn.Module):
    """Image (B, 3, H, W) -> tokens (B, ceil(H/4), ceil(W/4), C), by two strided convolutions."""

    def __init__(self, in_chans: int, channels: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, channels // 2, kernel_size=3, stride=2, padding=1),
            nn.Conv2d(channels // 2, channels, kernel_size=3, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ConvDownsampler(nn.Module):
    """(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduction = nn.Conv2d(channels, 2 * channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class NeighborhoodAttention(nn.Module):
    """Each pixel attends to the K x K pixels around it that are d apart, with a relative position bias.

    A map smaller than the window K * d is padded with zeros on the right and at the bottom, before the
    projection to queries, keys and values: the padding takes part with the projection's bias as its key.
    """

    def __init__(self, channels: int, num_heads: int, kernel_size: int, dilation: int):
        super().__init__()
        self.num_heads, self.kernel_size, self.dilation = num_heads, kernel_size, dilation
        self.scale = (channels // num_heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.rpb = nn.Parameter(empty(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width, channels = x.shape[1:]
        window = self.kernel_size * self.dilation
        x = F.pad(x, (0, 0, 0, max(0, window - width), 0, max(0, window - height)))
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, channels // self.num_heads))
        query, key, value = heads.permute(3, 0, 4, 1, 2, 5).unbind(0)  # (B, M, H, W, D) each
        x = neighborhood_attention_2d(
            query, key, value, self.kernel_size, self.dilation, self.rpb, self.scale
        )
        x = x[:, :, :height, :width].permute(0, 2, 3, 1, 4).flatten(-2)
        return self.proj(x)


class Block(nn.Module):
    """Pre-norm transformer layer: attention, then a two-layer perceptron."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        kernel_size: int,
        dilation: int,
        mlp_ratio: float,
        drop_path: float,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = NeighborhoodAttention(channels, num_heads, kernel_size, dilation)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Level(nn.Module):
    """The blocks of one stage and, but for the last stage, the way down to the next."""

    def __init__(self, blocks: Sequence[Block], channels: int, last: bool):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = None if last else ConvDownsampler(channels)


class DiNAT(StagedBackbone):
    """DiNAT with one output norm per returned stage.

    Args:
        embed_dim: channels of res2; each further stage doubles them.
        depths, num_heads: per stage.
        kernel_size: K, odd.
        dilations: one list per stage with one dilation per block.
        mlp_ratio: hidden channels of the perceptrons, relative to the stage's.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        out_features: stages to return, of "res2".."res5".
        freeze_at: 0 trains everything, 1 freezes the tokenizer, 2 also res2, ...
        use_checkpoint: recompute the blocks in the backward pass.

    Raises:
        ValueError: if depths, heads and dilations do not fit together.
    """

    @configurable
    def __init__(
        self,
        *,
        in_chans: int = 3,
        embed_dim: int = 192,
        depths: Sequence[int] = (3, 4, 18, 5),
        num_heads: Sequence[int] = (6, 12, 24, 48),
        kernel_size: int = 11,
        dilations: Sequence[Sequence[int]],
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.3,
        out_features: Sequence[str] = STAGES,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        if [len(stage) for stage in dilations] != list(depths):
            raise ValueError(
                f"MODEL.DiNAT.DILATIONS has {[len(stage) for stage in dilations]} entries per stage; "
                f"expected one per block, MODEL.DiNAT.DEPTHS = {list(depths)}"
            )
        self.use_checkpoint = use_checkpoint
        self.patch_embed = ConvTokenizer(in_chans, embed_dim)
        self.levels = nn.ModuleList()
        widths = [embed_dim * 2**i for i in range(len(depths))]
        for i, rates in enumerate(drop_path_rates(drop_path_rate, depths)):
            blocks = [
                Block(widths[i], num_heads[i], kernel_size, dilation, mlp_ratio, rate)
                for dilation, rate in zip(dilations[i], rates)
            ]
            self.levels.append(Level(blocks, widths[i], last=i == len(depths) - 1))
        self._set_outputs(widths, out_features)
        for i, name in enumerate(STAGES):
            if name in self._out_features:
                self.add_module(f"norm{i}", nn.LayerNorm(widths[i]))
        self.apply(_init_weights)
        self._freeze(freeze_at, self._parts())

    @classmethod
    def from_config(cls, cfg, input_shape):
        c = cfg.MODEL.DiNAT
        return {
            "in_chans": input_shape.channels,
            "embed_dim": c.EMBED_DIM,
            "depths": c.DEPTHS,
            "num_heads": c.NUM_HEADS,
            "kernel_size": c.KERNEL_SIZE,
            "dilations": c.DILATIONS,
            "mlp_ratio": c.MLP_RATIO,
            "drop_path_rate": c.DROP_PATH_RATE,
            "out_features": c.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "use_checkpoint": c.USE_CHECKPOINT,
        }

    def _parts(self) -> list[list[nn.Module]]:
        # A level ends with the way down, which belongs to the stage after it.
        down = [[]] + [[level.downsample] for level in self.levels[:-1]]
        return [[self.patch_embed]] + [[*before, level.blocks] for before, level in zip(down, self.levels)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"res2": (B, C, ceil(H/4), ceil(W/4)), ... "res5": stride 32}."""
        features = {}
        x = self.patch_embed(x)
        for i, (name, level) in enumerate(zip(STAGES, self.levels)):
            x = run_blocks(level.blocks, x, recompute=self.use_checkpoint)
            if name in self._out_features:
                features[name] = getattr(self, f"norm{i}")(x).permute(0, 3, 1, 2)
            if level.downsample is not None:
                x = level.downsample(x)
        return features


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
