"""Any timm model with features at strides 4, 8, 16 and 32, named "timm:<model>"."""

from __future__ import annotations

import timm
import torch
from detectron2.config import configurable
from timm.layers import Format
from timm.models import FeatureListNet
from torch import Tensor, nn

from .stages import STAGES, STRIDES, TIMM_PREFIX, EagerConstants, StagedBackbone

_PROBE_SIZE = (128, 160)  # multiples of the largest stride, and no square


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
        indices, options = _probe(name, options)
        with EagerConstants():
            self.body = timm.create_model(
                name, pretrained=pretrained, features_only=True, out_indices=indices, **options
            )
        self._channels_last = _channels_last(self.body)
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
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return dict(zip(STAGES, features))


def _channels_last(body: nn.Module) -> bool:
    # Feature extractors of timm that have no `output_fmt` belong to convolutional networks.
    return getattr(body, "output_fmt", Format.NCHW) == Format.NHWC


def _probe(name: str, options: dict) -> tuple[list[int], dict]:
    """Where in timm's list of features the deepest one of each stride is, and how to build the model.

    Builds and runs the model on the meta device: no memory, no initialisation, only shapes.
    """
    with torch.device("meta"), EagerConstants():
        model, options = _create_for_any_size(name, options)
        deepest = {entry["reduction"]: index for index, entry in enumerate(model.feature_info.info)}
        missing = [stride for stride in STRIDES.values() if stride not in deepest]
        if missing:
            raise ValueError(
                f"timm model {name!r} has features at strides {sorted(deepest)}, none at {missing}; "
                f"OneFormer needs {list(STRIDES.values())}: choose a hierarchical model, e.g. 'resnet50'"
            )
        height, width = _PROBE_SIZE
        try:
            model.eval()(torch.empty(1, options["in_chans"], height, width))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"timm model {name!r} cannot take an image of {height} x {width} pixels ({error}); "
                "OneFormer needs a model without a fixed input size"
            ) from error
    return [deepest[stride] for stride in STRIDES.values()], options


def _create_for_any_size(name: str, options: dict) -> tuple[nn.Module, dict]:
    """A features-only model and its options; models with a fixed input size are asked to take any."""
    try:
        any_size = {**options, "strict_img_size": False}
        return timm.create_model(name, features_only=True, **any_size), any_size
    except TypeError as error:
        if "strict_img_size" not in str(error):
            raise _cannot_create(name, error) from error
    except (RuntimeError, AttributeError) as error:
        raise _cannot_create(name, error) from error
    try:
        return timm.create_model(name, features_only=True, **options), options
    except (TypeError, RuntimeError, AttributeError) as error:
        raise _cannot_create(name, error) from error


def _cannot_create(name: str, error: Exception) -> ValueError:
    if "drop_path_rate" in str(error):
        return ValueError(f"timm model {name!r} has no stochastic depth; set MODEL.TIMM.DROP_PATH_RATE to 0")
    return ValueError(
        f"timm model {name!r} cannot return features ({error}); choose a hierarchical model, e.g. 'resnet50'"
    )
