"""From a config and weights, or from weights alone, to a model that is ready to infer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from segcore.checkpoint import Checkpointer, Uninitialized, bundled_weights, load_portable_header
from segcore.checkpoint.hub import fetch_portable
from segcore.checkpoint.reading import HUB_PREFIX
from segcore.config import resolve_datasets
from segcore.config_files import default_device, merge_file, merge_pairs
from segcore.predictions import Classes

from . import modeling  # noqa: F401  (its import registers the model and its checkpoint formats)
from .config import add_oneformer_config
from .inference import build_inference


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode and the facts that its predictor needs.

    Attributes:
        model: on its device.
        runner: what to call: the model, or as the config says through windows or with augmentation.
        classes: what it was trained to tell apart.
        min_size, max_size: shorter and longest side to which a test image is resized, pixels.
        channel_order: "RGB" or "BGR", of the model's input.
        weights: where the weights came from.
        terms: licence or terms of the training data, where the weights carry them, else "".
    """

    model: nn.Module
    runner: nn.Module
    classes: Classes
    min_size: int
    max_size: int
    channel_order: str
    weights: str
    terms: str


def build_loaded(
    cfg: CfgNode | str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    opts: Sequence[str] = (),
) -> Loaded:
    """Build the model and load its weights.

    Args:
        cfg: Detectron2 config or the path of its YAML; None takes the one inside of the portable `weights`.
        weights: a portable file, or the `hf:ORG/NAME` of one that `push_to_hub` published; with `cfg` anything
            that `Checkpointer` reads. None takes the config's MODEL.WEIGHTS, and without `cfg` the bundled weights.
        device: None takes the config's, and without `cfg` what the machine has.
        opts: KEY VALUE pairs for the config.

    Raises:
        FileNotFoundError, OSError: if the weights are not there.
        ValueError: for a config or weights that cannot be used, or that do not belong together.
    """
    terms = ""
    if cfg is None:
        path = os.fspath(weights) if weights is not None else bundled_weights("oneformer")
        if path.startswith(HUB_PREFIX):
            path = fetch_portable(path)
        cfg, terms = build_portable_config(path)
    else:
        cfg = cfg.clone() if isinstance(cfg, CfgNode) else build_file_config(os.fspath(cfg))
        path = os.fspath(weights) if weights is not None else cfg.MODEL.WEIGHTS
        if not path:
            raise ValueError("no weights: the config's MODEL.WEIGHTS is empty, so give weights explicitly")
    cfg.defrost()
    merge_pairs(cfg, list(opts))
    cfg.MODEL.DEVICE = _checked_device(device or cfg.MODEL.DEVICE)
    cfg.MODEL.IS_TRAIN = False
    cfg.MODEL.TIMM.PRETRAINED = False  # the weights follow; nothing must be downloaded for them
    # An image's result must not depend on the others of its batch.
    cfg.MODEL.ONE_FORMER.BATCH_INVARIANT = True
    resolve_datasets(cfg)
    names = [cfg.DATASETS.CLASSES] if cfg.DATASETS.CLASSES else cfg.DATASETS.TEST
    classes = _classes(names, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    with Uninitialized():
        model = build_model(cfg).eval()
    _load(model, path)
    return Loaded(
        model=model,
        runner=build_inference(cfg, model),
        classes=classes,
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        channel_order=cfg.INPUT.FORMAT,
        weights=path,
        terms=terms,
    )


def build_file_config(path: str) -> CfgNode:
    """The config of a YAML file. Raises ConfigError, a ValueError, for whatever is wrong in it."""
    cfg = _default_config()
    merge_file(cfg, path)
    return cfg


def build_portable_config(path: str) -> tuple[CfgNode, str]:
    """The config and the terms inside of a portable file; its classes get a name in the catalog."""
    if not path.endswith(".safetensors") or os.path.isdir(path):
        if not path.startswith("hf:") and not os.path.exists(path):
            raise FileNotFoundError(f"no weights at {path!r} (looked in {os.path.abspath(path)})")
        raise ValueError(
            f"the weights {path} do not hold their config; give the config that they belong to "
            "(--config-file configs/...)"
        )
    text, metadata = load_portable_header(path)
    cfg = _default_config()
    machine_device = cfg.MODEL.DEVICE
    try:
        # KeyError: yacs's word for a key that is not declared.
        cfg.merge_from_other_cfg(CfgNode.load_cfg(text))
    except (yaml.YAMLError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"the config inside of {path} is not one of this version: {error}") from error
    cfg.MODEL.DEVICE = machine_device  # not that of the machine that trained
    name = register_classes(metadata)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.DATASETS.CUSTOM, cfg.DATASETS.CLASSES = [], ""
    return cfg, metadata["terms"]


def register_classes(metadata: dict) -> str:
    """Register the metadata of weights in Detectron2's catalog, once for each content; returns the name."""
    fields = {key: value for key, value in metadata.items() if key not in ("name", "terms")}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
    name = f"classes_of_weights_{digest}"
    MetadataCatalog.get(name).set(**fields)
    return name


def _default_config() -> CfgNode:
    cfg = get_cfg()
    add_oneformer_config(cfg)
    return cfg


def _checked_device(device: str | torch.device) -> str:
    name = default_device() if str(device) == "auto" else str(device)
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use cpu, cuda or cuda:NUMBER") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but PyTorch finds no CUDA device here; use cpu")
    return name


def _classes(names: Sequence[str], count: int) -> Classes:
    if not names:
        raise ValueError(
            "the config's DATASETS.TEST is empty; it names the data set whose classes the model has"
        )
    classes = Classes.from_metadata(MetadataCatalog.get(names[0]))
    if len(classes) != count:
        raise ValueError(
            f"the config has MODEL.SEM_SEG_HEAD.NUM_CLASSES {count}, but {names[0]!r} (DATASETS.TEST) has "
            f"{len(classes)} classes; make them agree"
        )
    return classes


def _load(model: nn.Module, path: str) -> None:
    """Load, and refuse what would leave a part of the model at random values."""
    checkpointer = Checkpointer(model, take_over=True)
    checkpointer.load(path)
    report = checkpointer.last_report
    if report.class_head_reset:
        got, expected = report.num_classes
        raise ValueError(
            f"the weights {path} tell {got - 1} classes apart, the config {expected - 1}; "
            "use the config that they were trained with"
        )
    if report.missing:
        raise ValueError(
            f"the weights {path} are no whole model: {len(report.missing)} tensors are missing, "
            f"first {report.missing[0]!r}; a backbone alone can be trained from, not predicted with"
        )
