"""ImageNet weights of the four backbones, from the official files' and timm's names to ours.

Pure functions of dicts: no files, no model. Our names are the official ones without the prefix "backbone.".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class ConvertedWeights(NamedTuple):
    """What a file held for a backbone."""

    architecture: str  # "resnet", "swin", "convnext" or "dinat"
    state_dict: dict[str, Tensor]  # under our names, without prefix
    dropped: list[str]  # names in the file that the backbone has no use for: classifier, derived buffers


def convert_backbone_weights(checkpoint: Mapping[str, Any]) -> ConvertedWeights:
    """Rename an ImageNet backbone's weights; the architecture is read off the names.

    Args:
        checkpoint: name -> tensor or numpy array, as it is or under the key "model" or "state_dict".
            Known are: official Swin, ConvNeXt and DiNAT files; Detectron2's R-50.pkl made from torchvision;
            torchvision's and timm's ResNets; timm's Swin and ConvNeXt, whole or `features_only`.

    Returns:
        The weights under our names. No shape is compared: that is the checkpointer's work.

    Raises:
        ValueError: if the names belong to none of these.
    """
    tensors = _tensors(checkpoint)
    for architecture, (marker, rename) in _ARCHITECTURES.items():
        if any(re.search(marker, name) for name in tensors):
            return _renamed(architecture, tensors, rename(tensors))
    raise ValueError(
        f"these are no weights of a ResNet, Swin, ConvNeXt or DiNAT backbone: the first of {len(tensors)} "
        f"names are {sorted(tensors)[:5]}; Caffe2 names ('res2_0_branch2a_w') are read by Detectron2's "
        "DetectionCheckpointer"
    )


def convert_timm_features(checkpoint: Mapping[str, Any], body_keys: Collection[str]) -> ConvertedWeights:
    """Rename a whole timm model's weights to those of its `features_only` form.

    timm flattens the outermost Sequential ("stages.0.x" -> "stages_0.x") or wraps the model ("model.x").

    Args:
        checkpoint: as for `convert_backbone_weights`.
        body_keys: the state-dict keys of the features-only model (`TimmBackbone.body`).

    Returns:
        The weights under those keys; names that have none there (classifier, unused ends) are dropped.

    Raises:
        ValueError: if no name has a place.
    """
    tensors = _tensors(checkpoint)
    known = set(body_keys)

    def place(name: str) -> str | None:
        forms = (name, name.replace(".", "_", 1), f"model.{name}", f"body.{name}")
        return next((form for form in forms if form in known), None)

    result = _renamed("timm", tensors, place)
    if not result.state_dict:
        raise ValueError(
            f"no weight has a place in this timm model: the file has names like {sorted(tensors)[:3]}, "
            f"the model like {sorted(known)[:3]}"
        )
    return result


def convnext_to_timm(name: str) -> str | None:
    """timm's name of one of our ConvNeXt weights; None for the output norms, which timm does not have."""
    for ours, theirs in _CONVNEXT_TO_TIMM:
        if re.match(ours, name):
            return re.sub(ours, theirs, name)
    return None


def _tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    tensors = {}
    for name, value in checkpoint.items():
        if isinstance(value, np.ndarray):
            tensors[name] = torch.from_numpy(value)
        elif isinstance(value, Tensor):
            tensors[name] = value
    return tensors


def _renamed(
    architecture: str, tensors: dict[str, Tensor], place: Callable[[str], str | None]
) -> ConvertedWeights:
    state_dict, dropped = {}, []
    for name, tensor in tensors.items():
        target = place(name)
        if target is None:
            dropped.append(name)
        else:
            state_dict[target] = tensor
    return ConvertedWeights(architecture, state_dict, dropped)


# --- per architecture: a function of the file's names that gives our name, or None to drop -----------------


def _resnet(tensors: Mapping[str, Tensor]) -> Callable[[str], str | None]:
    """Torchvision's and timm's names, or Detectron2's own (in whose file the classifier is "stem.fc")."""

    def place(name: str) -> str | None:
        if name.startswith(("fc.", "stem.fc.", "head.")):
            return None
        if name.startswith(("res", "stem.")):
            return name
        name = re.sub(r"^(conv1|bn1)\b", r"stem.\1", name)
        name = re.sub(r"^layer([1-4])", lambda match: f"res{int(match[1]) + 1}", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        return re.sub(r"\bbn(\d)", r"conv\1.norm", name)

    return place


def _swin(tensors: Mapping[str, Tensor]) -> Callable[[str], str | None]:
    """Official and timm's Swin differ in one place: to which stage the merging between two belongs."""
    # timm since 0.9 counts it to the stage after, where the first stage has none.
    shift = 0 if any(re.match(r"layers[._]0\.downsample", name) for name in tensors) else 1

    def place(name: str) -> str | None:
        name = re.sub(r"^layers_", "layers.", name)
        # The classifier, its norm, and the mask of one image size; the backbone computes the mask.
        if re.match(r"(norm|head)\.", name) or name.endswith("attn_mask"):
            return None
        return re.sub(
            r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - shift}.downsample", name
        )

    return place


_CONVNEXT_TO_TIMM = [
    (r"^downsample_layers\.0\.(\d)", r"stem.\1"),
    (r"^downsample_layers\.(\d)\.(\d)", r"stages.\1.downsample.\2"),
    (r"^stages\.(\d)\.(\d+)\.dwconv", r"stages.\1.blocks.\2.conv_dw"),
    (r"^stages\.(\d)\.(\d+)\.pwconv(\d)", r"stages.\1.blocks.\2.mlp.fc\3"),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
]


def _convnext(tensors: Mapping[str, Tensor]) -> Callable[[str], str | None]:
    def place(name: str) -> str | None:
        if re.match(r"(norm|head|norm_pre)\.", name):
            return None
        if name.startswith("downsample_layers."):
            return name
        name = re.sub(r"^(stem|stages)_", r"\1.", name)
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"^stages\.(\d)\.blocks\.", r"stages.\1.", name)
        return name.replace(".conv_dw.", ".dwconv.").replace(".mlp.fc", ".pwconv")

    return place


def _dinat(tensors: Mapping[str, Tensor]) -> Callable[[str], str | None]:
    return lambda name: None if re.match(r"(norm|head)\.", name) else name


_ARCHITECTURES = {
    "swin": (r"relative_position_bias_table$", _swin),
    "convnext": (r"\.(dwconv|conv_dw)\.weight$", _convnext),
    "dinat": (r"\.attn\.rpb$", _dinat),
    "resnet": (r"^(res2|layer1)\.0\.conv1\.weight$", _resnet),
}
