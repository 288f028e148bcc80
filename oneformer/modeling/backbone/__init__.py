"""Backbones: ResNet (Detectron2), Swin (Detectron2), ConvNeXt (timm's blocks), DiNAT, any timm model."""

from .build import build_oneformer_backbone
from .pretrained import ConvertedWeights, convert_backbone_weights, convert_timm_features

__all__ = [
    "ConvertedWeights",
    "build_oneformer_backbone",
    "convert_backbone_weights",
    "convert_timm_features",
]
