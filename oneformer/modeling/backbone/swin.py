"""Detectron2's Swin transformer (arXiv:2103.14030) under OneFormer's names.

State-dict keys are the official ones, with one output norm per returned stage: norm0 .. norm3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .stages import STAGES, DropPath, EagerConstants, StagedBackbone, check_out_features, drop_path_rates
from .swin_windows import FusedWindowAttention, WindowBlock, Windows


class Swin(StagedBackbone, SwinTransformer):
    """Swin transformer; any input size: patches, windows and merged patches are zero-padded.

    Args:
        embed_dim: channels of res2; each further stage doubles them.
        depths, num_heads: per stage.
        window_size: side of the attention windows, in tokens.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        ape, pretrain_img_size: absolute position embedding, resized from that image size.
        out_features: stages to return, of "res2".."res5".
        freeze_at: 0 trains everything, 1 freezes the patch embedding, 2 also res2, ...
        use_checkpoint: recompute the blocks in the backward pass.
    """

    @configurable
    def __init__(
        self,
        *,
        pretrain_img_size: int = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.3,
        ape: bool = False,
        patch_norm: bool = True,
        out_features: Sequence[str] = STAGES,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
    ):
        check_out_features(out_features)
        with EagerConstants():
            super().__init__(
                pretrain_img_size=pretrain_img_size,
                patch_size=patch_size,
                in_chans=in_chans,
                embed_dim=embed_dim,
                depths=depths,
                num_heads=num_heads,
                window_size=window_size,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                # Set below: Detectron2 takes DropPath from a path that timm has deprecated.
                drop_path_rate=0.0,
                ape=ape,
                patch_norm=patch_norm,
                out_indices=tuple(i for i, name in enumerate(STAGES) if name in out_features),
            )
        for layer, rates in zip(self.layers, drop_path_rates(drop_path_rate, depths)):
            for block, rate in zip(layer.blocks, rates):
                if rate > 0:
                    block.drop_path = DropPath(rate)
                # Other behaviour, no other state: the modules can change class where they sit.
                block.__class__ = _RecomputedBlock if use_checkpoint else WindowBlock
                block.attn.__class__ = FusedWindowAttention
        self._set_outputs(self.num_features, out_features)
        self._freeze(freeze_at, self._parts())

    @classmethod
    def from_config(cls, cfg, input_shape):
        c = cfg.MODEL.SWIN
        return {
            "pretrain_img_size": c.PRETRAIN_IMG_SIZE,
            "patch_size": c.PATCH_SIZE,
            "in_chans": input_shape.channels,
            "embed_dim": c.EMBED_DIM,
            "depths": c.DEPTHS,
            "num_heads": c.NUM_HEADS,
            "window_size": c.WINDOW_SIZE,
            "mlp_ratio": c.MLP_RATIO,
            "qkv_bias": c.QKV_BIAS,
            "drop_path_rate": c.DROP_PATH_RATE,
            "ape": c.APE,
            "patch_norm": c.PATCH_NORM,
            "out_features": c.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "use_checkpoint": c.USE_CHECKPOINT,
        }

    def _parts(self) -> list[list[torch.nn.Module]]:
        # A layer ends with the merging of patches, which belongs to the stage after it.
        merging = [[]] + [[layer.downsample] for layer in self.layers[:-1]]
        return [[self.patch_embed]] + [[*before, layer.blocks] for before, layer in zip(merging, self.layers)]

    @property
    def size_divisibility(self) -> int:
        return 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"res2": (B, C, ceil(H/4), ceil(W/4)), ... "res5": stride 32}."""
        x = self.patch_embed(x)
        height, width = x.shape[2:]
        if self.ape:
            x = x + F.interpolate(self.absolute_pos_embed, size=(height, width), mode="bicubic")
        x = x.flatten(2).transpose(1, 2)
        features = {}
        for stage, layer in enumerate(self.layers):
            # Shared by the stage's blocks, of which every other one is shifted.
            windows = [
                Windows.of(height, width, layer.window_size, shift, x.device) for shift in (0, layer.shift_size)
            ]
            for i, block in enumerate(layer.blocks):
                x = block(x, windows[i % 2])
            if STAGES[stage] in self._out_features:
                normed = getattr(self, f"norm{stage}")(x)
                features[STAGES[stage]] = normed.transpose(1, 2).unflatten(2, (height, width))
            if layer.downsample is not None:
                x = layer.downsample(x, height, width)
                height, width = -(-height // 2), -(-width // 2)
        return features


class _RecomputedBlock(WindowBlock):
    """A block that keeps only its input and runs again in the backward pass."""

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x, windows)
        return checkpoint(super().forward, x, windows, use_reentrant=False)
