"""What `segcore.checkpoint` has to know about OneFormer."""

from __future__ import annotations

from collections.abc import Iterable

from segcore.checkpoint import register_converter, register_model_rules

from .key_map import from_huggingface, is_huggingface

# Tensors with one row per class (plus one for "no object").
CLASS_HEAD = (r"sem_seg_head\.predictor\.class_embed\.(weight|bias)", r"criterion\.empty_weight")
# Modules that MODEL.IS_TRAIN False does not build.
TRAINING_ONLY = ("text_encoder.", "text_projector.", "prompt_ctx.")


def register() -> None:
    """Register the model rules and the Hugging Face format; harmless when called twice.

    The official `.pth` files need no converter: their keys are ours, with or
    without `_metadata`.
    """
    register_model_rules("OneFormer", is_oneformer, class_head=CLASS_HEAD, training_only=TRAINING_ONLY)
    register_converter("Hugging Face OneFormer", is_huggingface, lambda state, model: from_huggingface(state))


def is_oneformer(keys: Iterable[str]) -> bool:
    """Whether a model with these state-dict keys is a OneFormer."""
    return any(key.startswith("task_mlp.") for key in keys)
