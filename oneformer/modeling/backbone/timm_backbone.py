"""Any timm model with features at strides 4, 8, 16 and 32, named "timm:<model>"."""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from detectron2.config import configurable
from timm.layers import Format
from timm.models import FeatureListNet
from torch import Tensor, nn

from .stages import STAGES, STRIDES, EagerConstants, StagedBackbone

TIMM_PREFIX = "timm:"


class TimmBackbone(StagedBackbone):
    """A timm model as feature pyramid; its modules are under `body`.

    Args:
        name: timm's name of the model, without prefix, e.g. "resnet18.a1_in1k".
        pretrained: download timm's weights (the only thing here that uses the network).
        drop_path_rate: stochastic depth, for models that have it; 0 leaves the model's default.
        in_chans: channels of the image.
        freeze_at: 0 trains everything, 1 freezes what lies before the stage of res2, 2 also res2, ...

    Raises:
        ValueError: if timm does not know the model, or the model has no features at these strides, does not
            take `drop_path_rate`, or cannot be frozen in part.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        pretrained: bool = False,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        freeze_at: int = 0,
    ):
        super().__init__()
        if not timm.is_model(name):
            close = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:8]
            raise ValueError(
                f"timm {timm.__version__} has no model {name!r}; similar names: {close}. "
                "timm.list_models() lists all"
            )
        options = {"in_chans": in_chans}
        if drop_path_rate > 0:
            options["drop_path_rate"] = drop_path_rate
        indices = _stage_indices(name, options)
        with EagerConstants():
            self.body = _create(name, options, pretrained=pretrained, out_indices=indices)
        self._channels_last = self.body.output_fmt == Format.NHWC
        self._set_outputs(self.body.feature_info.channels(), STAGES)
        self._freeze(freeze_at, self._parts(name, freeze_at))

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            "name": cfg.MODEL.BACKBONE.NAME.removeprefix(TIMM_PREFIX),
            "pretrained": cfg.MODEL.TIMM.PRETRAINED,
            "drop_path_rate": cfg.MODEL.TIMM.DROP_PATH_RATE,
            "in_chans": input_shape.channels,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def _parts(self, name: str, freeze_at: int) -> list[list[nn.Module]]:
        """The modules in the order of their use, cut after each one that yields a feature."""
        if freeze_at == 0:
            return []
        if freeze_at == 5:
            return [[self.body]] * 5
        if not isinstance(self.body, FeatureListNet):
            raise ValueError(
                f"timm model {name!r} is not a list of stages, so that only MODEL.BACKBONE.FREEZE_AT 0 "
                f"(nothing) or 5 (everything) can be had, not {freeze_at}"
            )
        parts: list[list[nn.Module]] = [[]]
        for key, module in self.body.items():
            if key in self.body.return_layers:
                parts += [[module], []]  # an own part, and a new one for what lies between two features
            else:
                parts[-1].append(module)
        # [before res2, res2, between, res3, between, ...] -> stem, res2, between + res3, ...
        return parts[:2] + [parts[i] + parts[i + 1] for i in range(2, 8, 2)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"res2": (B, C, H/4, W/4), ... "res5": stride 32}."""
        features = self.body(x)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return dict(zip(STAGES, features))


def _create(name: str, options: dict, pretrained: bool = False, **feature_options) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, **feature_options, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise ValueError(
            f"timm model {name!r} has no stochastic depth; set MODEL.TIMM.DROP_PATH_RATE to 0"
        ) from error


def _stage_indices(name: str, options: dict) -> Sequence[int]:
    """Positions, in timm's list of features, of the deepest feature at each of the four strides."""
    try:
        # Shapes are all that is needed: without memory, without initialisation.
        with torch.device("meta"), EagerConstants():
            info = _create(name, options).feature_info
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise ValueError(
            f"timm model {name!r} cannot return features ({error}); choose a hierarchical model, e.g. "
            "'resnet50', 'convnext_tiny', 'swin_tiny_patch4_window7_224'"
        ) from error
    deepest = {entry["reduction"]: index for index, entry in enumerate(info.info)}
    missing = [stride for stride in STRIDES.values() if stride not in deepest]
    if missing:
        raise ValueError(
            f"timm model {name!r} has features at strides {sorted(deepest)}, none at {missing}; "
            "OneFormer needs 4, 8, 16 and 32"
        )
    return [deepest[stride] for stride in STRIDES.values()]
