"""From a config to a backbone."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from .stages import STRIDES, TIMM_PREFIX

# The official names. They are not put into Detectron2's registry: Mask2Former registers the same
# "D2SwinTransformer" there, and whichever is imported second would fail.
# Each with the module it is in, imported when it is asked for: timm, which some are made of, takes 30 MB and a second.
BUILDERS = {
    "build_resnet_backbone": (".resnet", "build_resnet"),
    "D2SwinTransformer": (".swin", "Swin"),
    "D2ConvNeXt": (".convnext", "ConvNeXt"),
    "D2DiNAT": (".dinat", "DiNAT"),
}


def build_oneformer_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Build the backbone named by MODEL.BACKBONE.NAME.

    The name is one of `BUILDERS`, "timm:<name>" for any timm model with features at strides 4 to 32, or a
    name in Detectron2's BACKBONE_REGISTRY.

    Args:
        cfg: a full config.
        input_shape: only `channels` is read; default: as many as MODEL.PIXEL_MEAN has numbers.

    Returns:
        A Backbone whose forward maps an image (B, 3, H, W) to a dict with at least the features of
        MODEL.SEM_SEG_HEAD.IN_FEATURES: "res2".."res5", (B, C_i, ceil(H / stride), ceil(W / stride)) for
        sizes that the stride divides, strides 4, 8, 16, 32.

    Raises:
        ValueError: if the name is unknown, or the backbone lacks a feature or has it at another stride.
    """
    name = cfg.MODEL.BACKBONE.NAME
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    if name.startswith(TIMM_PREFIX):
        backbone = _builder(".timm_backbone", "TimmBackbone")(cfg, input_shape)
    elif name in BUILDERS:
        backbone = _builder(*BUILDERS[name])(cfg, input_shape)
    elif name in BACKBONE_REGISTRY:
        backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape)
    else:
        raise ValueError(
            f"MODEL.BACKBONE.NAME is {name!r}, which nobody registered; expected one of {sorted(BUILDERS)}, "
            f"'{TIMM_PREFIX}<model>' or a name in detectron2's BACKBONE_REGISTRY"
        )
    _check_features(name, backbone, cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
    return backbone


def _builder(module: str, name: str) -> Callable[..., Backbone]:
    return getattr(import_module(module, __package__), name)


def _check_features(name: str, backbone: Backbone, wanted: list[str]) -> None:
    shapes = backbone.output_shape()
    missing = [feature for feature in wanted if feature not in shapes]
    if missing:
        raise ValueError(
            f"backbone {name} returns {sorted(shapes)}, not {missing}, which MODEL.SEM_SEG_HEAD.IN_FEATURES "
            "asks for; set the backbone's OUT_FEATURES or the head's IN_FEATURES"
        )
    wrong = {f: shapes[f].stride for f in wanted if f in STRIDES and shapes[f].stride != STRIDES[f]}
    if wrong:
        expected = {feature: STRIDES[feature] for feature in wrong}
        raise ValueError(
            f"backbone {name} has strides {wrong}; expected {expected}, which the pixel decoder is built for"
        )
