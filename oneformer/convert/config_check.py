"""Settings of a Hugging Face OneFormer that no tensor's shape shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

# What transformers takes when `config.json` leaves the field out.
_DEFAULTS = {"num_attention_heads": 8, "use_task_norm": True, "pre_norm": False}


def check_config(config: Mapping[str, Any], model: nn.Module) -> None:
    """Compare a Hugging Face configuration with our model where the weights alone would load silently.

    Args:
        config: the parsed `config.json` of the folder.
        model: our OneFormer.

    Raises:
        ValueError: naming the first setting that differs.
    """
    for name, theirs, ours in _settings(config, model):
        if theirs != ours:
            raise ValueError(
                "the Hugging Face checkpoint is of another architecture; nothing was loaded. "
                f"Its config.json has {name} {theirs}, the model {ours}; build the model with that setting"
            )


def _settings(config: Mapping[str, Any], model: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """(name, Hugging Face's value, our model's value)."""
    values = {**_DEFAULTS, **config}
    predictor = model.sem_seg_head.predictor
    if len(predictor.transformer_cross_attention_layers):
        heads = predictor.transformer_cross_attention_layers[0].multihead_attn.num_heads
        yield "num_attention_heads", values["num_attention_heads"], heads
    yield "use_task_norm", values["use_task_norm"], predictor.use_task_norm
    yield "pre_norm", values["pre_norm"], False
    backbone = config.get("backbone_config") or {}
    if backbone.get("model_type") == "dinat" and hasattr(model.backbone, "levels"):
        dilations = [[block.attn.dilation for block in level.blocks] for level in model.backbone.levels]
        yield "dilations", backbone.get("dilations"), dilations
