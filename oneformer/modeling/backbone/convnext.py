"""ConvNeXt (arXiv:2201.03545) out of timm's blocks, under the official names.

Shapes: B images, C channels, H, W size of the map. Maps are (B, C, H, W) between the modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from .stages import STAGES, StagedBackbone, drop_path_rates, run_blocks


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of (B, H, W, C), or of (B, C, H, W) with `channels_first`.

    Deliberately no `nn.LayerNorm`: the released ConvNeXt models were trained with weight decay on these
    norms, because the optimizer's rule exempts `nn.LayerNorm` and upstream had a class of its own here too.
    `device` and `dtype` are what timm hands to a norm.
    """

    def __init__(
        self, channels: int, eps: float = 1e-6, channels_first: bool = False, device=None, dtype=None
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))
        self.eps = eps
        self.channels_first = channels_first

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_first:
            x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2) if self.channels_first else x


class Block(ConvNeXtBlock):
    """timm's block, its layers registered under the official names: dwconv, norm, pwconv1, pwconv2, gamma.

    `conv_dw` and `mlp`, by which timm's forward finds them, stay as plain attributes: registered too, they
    would appear a second time in the state dict.
    """

    def __init__(self, channels: int, layer_scale: float, drop_path: float):
        super().__init__(
            channels, ls_init_value=layer_scale, norm_layer=ChannelLayerNorm, drop_path=drop_path
        )
        depthwise, norm, mlp = (self._modules.pop(name) for name in ("conv_dw", "norm", "mlp"))
        self.dwconv, self.norm, self.pwconv1, self.pwconv2 = depthwise, norm, mlp.fc1, mlp.fc2
        self.__dict__.update(conv_dw=depthwise, mlp=mlp)


class ConvNeXt(StagedBackbone):
    """ConvNeXt with one output norm per returned stage.

    Args:
        depths, dims: blocks and channels of each stage.
        drop_path_rate: stochastic depth of the last block; grows linearly from 0.
        layer_scale: initial value of the blocks' gamma.
        out_features: stages to return, of "res2".."res5".
        freeze_at: 0 trains everything, 1 freezes the stem, 2 also res2, ...
        use_checkpoint: recompute the blocks in the backward pass.
    """

    @configurable
    def __init__(
        self,
        *,
        in_chans: int = 3,
        depths: Sequence[int] = (3, 3, 27, 3),
        dims: Sequence[int] = (192, 384, 768, 1536),
        drop_path_rate: float = 0.4,
        layer_scale: float = 1.0,
        out_features: Sequence[str] = STAGES,
        freeze_at: int = 0,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        norm = partial(ChannelLayerNorm, channels_first=True)
        stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], kernel_size=4, stride=4), norm(dims[0]))
        self.downsample_layers = nn.ModuleList([stem])
        for before, after in pairwise(dims):
            halve = nn.Conv2d(before, after, kernel_size=2, stride=2)
            self.downsample_layers.append(nn.Sequential(norm(before), halve))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, layer_scale, rate) for rate in rates))
            for dim, rates in zip(dims, drop_path_rates(drop_path_rate, depths))
        )
        self.apply(_init_weights)
        self._set_outputs(dims, out_features)
        for i, name in enumerate(STAGES):
            if name in self._out_features:
                self.add_module(f"norm{i}", norm(dims[i]))
        parts = [[down, stage] for down, stage in zip(self.downsample_layers[1:], self.stages[1:])]
        self._freeze(freeze_at, [[stem], [self.stages[0]], *parts])

    @classmethod
    def from_config(cls, cfg, input_shape):
        c = cfg.MODEL.CONVNEXT
        return {
            "in_chans": input_shape.channels,
            "depths": c.DEPTHS,
            "dims": c.DIMS,
            "drop_path_rate": c.DROP_PATH_RATE,
            "layer_scale": c.LSIT,
            "out_features": c.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "use_checkpoint": c.USE_CHECKPOINT,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), at least 32 pixels a side -> {"res2": (B, C, H//4, W//4), ... "res5": stride 32}."""
        features = {}
        for i, (name, down, stage) in enumerate(zip(STAGES, self.downsample_layers, self.stages)):
            x = run_blocks(stage, down(x), recompute=self.use_checkpoint)
            if name in self._out_features:
                features[name] = getattr(self, f"norm{i}")(x).contiguous()
        return features


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
