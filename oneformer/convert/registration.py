"""What `segcore.checkpoint` has to know about OneFormer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from segcore.checkpoint import register_converter, register_model_rules

from .config_check import check_config
from .key_map import TRAINING_ONLY, from_huggingface, is_huggingface

# Tensors with one row per class (plus one for "no object").
CLASS_HEAD = (r"sem_seg_head\.predictor\.class_embed\.(weight|bias)", r"criterion\.empty_weight")

# Swin, ConvNeXt and DiNAT as OneFormer uses them normalise each stage's output; classifiers do not.
_OUTPUT_NORMS = (r"backbone\.norm[0-3]\.(weight|bias)",)
# First parts of the keys of whole models: OneFormer's, and Hugging Face's of any kind.
_WHOLE_MODEL = (
    "backbone.",
    "sem_seg_head.",
    "task_mlp.",
    "model.pixel_level_module.",
    "model.transformer_module.",
    "decoder_embed.",
    "criterion.",
)


def register() -> None:
    """Register the model rules and the foreign formats; harmless when called twice.

    The official `.pth` files need no converter: their keys are ours, with or
    without `_metadata`.
    """
    register_model_rules("OneFormer", is_oneformer, class_head=CLASS_HEAD, training_only=TRAINING_ONLY)
    register_converter(
        "Hugging Face OneFormer",
        is_huggingface,
        _convert_huggingface,
        for_model=is_oneformer,
        check_config=check_config,
    )
    register_converter(
        "ImageNet backbone",
        _is_bare_backbone,
        _convert_backbone,
        optional=_OUTPUT_NORMS,
        for_model=is_oneformer,
    )


def is_oneformer(keys: Iterable[str]) -> bool:
    """Whether a model with these state-dict keys is a OneFormer."""
    return any(key.startswith("task_mlp.") for key in keys)


def _convert_huggingface(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    return from_huggingface(state)


def _is_bare_backbone(state: Mapping[str, torch.Tensor]) -> bool:
    """An image classifier's weights: convolutions, and none of the parts of a segmentation model."""
    whole = any(key.startswith(_WHOLE_MODEL) for key in state)
    return not whole and any(value.dim() == 4 for value in state.values())


def _convert_backbone(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    # Here, so that reading a file needs no backbone library.
    from oneformer.modeling.backbone.pretrained import convert_backbone_weights, convert_timm_features

    timm_prefix = "backbone.body."
    body = [key.removeprefix(timm_prefix) for key in model.state_dict() if key.startswith(timm_prefix)]
    prefix = timm_prefix if body else "backbone."
    converted = convert_timm_features(state, body) if body else convert_backbone_weights(state)
    if converted.dropped:
        logging.getLogger(__name__).info(
            "the backbone has no use for %d tensors of the ImageNet checkpoint: %s",
            len(converted.dropped),
            ", ".join(converted.dropped[:6]),
        )
    return {prefix + key: value for key, value in converted.state_dict.items()}
