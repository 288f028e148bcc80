"""Detectron2's ResNet, with batch statistics that also synchronise over CPU processes."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from .stages import check_freeze_at
from .sync_batch_norm import SyncBatchNorm


def build_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's ResNet from MODEL.RESNETS; MODEL.BACKBONE.FREEZE_AT freezes stem and stages.

    Raises:
        ValueError: if FREEZE_AT is not in 0..5.
    """
    check_freeze_at(cfg.MODEL.BACKBONE.FREEZE_AT)
    backbone = build_resnet_backbone(cfg, input_shape)
    for module in backbone.modules():
        if type(module) is nn.SyncBatchNorm:
            # Our class adds behaviour but no state, so that the module can change class where it sits.
            module.__class__ = SyncBatchNorm
    return backbone
