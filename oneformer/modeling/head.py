"""Pixel decoder and transformer decoder as one head, named as in the released checkpoints."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from segcore.registry import register_once

from .pixel_decoder import MSDeformAttnPixelDecoder
from .transformer_decoder import DecoderMemory, OneFormerDecoder


@register_once(SEM_SEG_HEADS_REGISTRY)
class OneFormerHead(nn.Module):
    """Holds the two decoders."""

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        return {
            "pixel_decoder": MSDeformAttnPixelDecoder(cfg, input_shape),
            "predictor": OneFormerDecoder(cfg),
        }

    def forward(self, features: dict[str, Tensor]) -> DecoderMemory:
        """Backbone features by name -> what `predictor` decodes for each task asked."""
        return self.predictor.prepare(*self.pixel_decoder(features))
