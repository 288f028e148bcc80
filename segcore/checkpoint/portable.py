"""One small file with everything that inference needs: weights, config, classes, terms.

A `.safetensors` whose header metadata holds, as one JSON object under the key
`segcore`: the config as YAML, the class names and colours, and the licence or
terms of the data that the weights were trained on.  Weights may be stored in
half precision; `Checkpointer.load` reads the file like any other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .converters import rules_for
from .files import atomic_path
from .reading import read_safetensors

_HEADER = "segcore"
_VERSION = 1
_METADATA_FIELDS = (
    "name",
    "stuff_classes",
    "stuff_colors",
    "thing_classes",
    "thing_colors",
    "ignore_label",
    "label_divisor",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
    "instance_class_map",
    "evaluator_type",
)
# JSON has string keys only; these fields map integers and are stored as pairs.
_INT_MAPS = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id", "instance_class_map")


def save_portable(
    model: nn.Module,
    cfg: Any,
    path: str | os.PathLike,
    *,
    metadata: Any,
    terms: str,
    dtype: torch.dtype = torch.float16,
    keep_float32: Iterable[str] = (),
) -> None:
    """Write the portable file, whole or not at all.

    Training-only modules are left out.  Vectors and scalars (biases, norms) stay
    in fp32: they are few, and rounding them gains nothing.

    Args:
        model: its state dict is stored.
        cfg: the Detectron2 config that builds the model, or its YAML.  Paths of
            the machine that trained it (MODEL.WEIGHTS, OUTPUT_DIR) are cleared.
        path: ends in `.safetensors`.
        metadata: Detectron2 metadata of the data set, or a dict with its fields;
            `stuff_classes` must be there.
        terms: licence or terms of use of the training data, in words.
        dtype: of stored matrices: float16, bfloat16 or float32.
        keep_float32: key prefixes of modules that stay in fp32.

    Raises:
        ValueError: for another extension or dtype, missing classes or terms, or
            a weight that `dtype` cannot hold.
    """
    path = os.fspath(path)
    if not path.endswith(".safetensors"):
        raise ValueError(f"portable weights are a .safetensors file, got {path!r}")
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"cannot store weights as {dtype}; choose float16, bfloat16 or float32")
    if not terms.strip():
        raise ValueError("state the licence or terms of the training data; got an empty text")
    header = {
        "version": _VERSION,
        "config": _config_yaml(cfg),
        "metadata": _encode_metadata(metadata),
        "terms": terms.strip(),
        "dtype": str(dtype).removeprefix("torch."),
    }
    tensors = _stored_tensors(model, dtype, tuple(keep_float32))
    with atomic_path(path) as temporary:
        save_file(
            tensors, temporary, metadata={"format": "pt", _HEADER: json.dumps(header, ensure_ascii=False)}
        )


def load_portable(path: str | os.PathLike) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Read a portable file.

    Returns:
        (config YAML, metadata, state dict).  The metadata dict has the fields of
        Detectron2's metadata that were stored, and `terms`.  Tensors are in fp32
        (integers as they were), on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or was not written by `save_portable`.
    """
    config, metadata = load_portable_header(path)
    tensors, _ = read_safetensors(os.fspath(path))
    state = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    return config, metadata, state


def load_portable_header(path: str | os.PathLike) -> tuple[str, dict[str, Any]]:
    """Config YAML and metadata, as `load_portable` returns and raises: its weights are not read."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no portable weights at {path!r} (looked in {os.path.abspath(path)})")
    try:
        with safe_open(path, framework="pt") as stream:
            texts = stream.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"cannot read the weights {path} ({os.path.getsize(path)} bytes): {error}; "
            "the file is truncated or not safetensors"
        ) from error
    if _HEADER not in texts:
        raise ValueError(
            f"{path} has no config inside, so it is not a portable file; load it with a config file "
            "and segcore.checkpoint.Checkpointer"
        )
    header = json.loads(texts[_HEADER])
    if header["version"] != _VERSION:
        raise ValueError(f"{path} has portable format {header['version']}, this version reads {_VERSION}")
    metadata = _decode_metadata(header["metadata"])
    metadata["terms"] = header["terms"]
    return header["config"], metadata


def _config_yaml(cfg: Any) -> str:
    if isinstance(cfg, str):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "OUTPUT_DIR", "./output"])
    return cfg.dump()


def _encode_metadata(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, Mapping):
        metadata = metadata.as_dict()
    if not metadata.get("stuff_classes"):
        raise ValueError(
            "the metadata has no stuff_classes (the list of all class names); "
            f"it has {', '.join(metadata) or 'no field'}"
        )
    fields = {name: metadata[name] for name in _METADATA_FIELDS if metadata.get(name) is not None}
    for name in _INT_MAPS:
        if name in fields:
            fields[name] = [[int(key), int(value)] for key, value in fields[name].items()]
    return fields


def _decode_metadata(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(map(tuple, value)) if name in _INT_MAPS else value for name, value in fields.items()}


def _stored_tensors(model: nn.Module, dtype: torch.dtype, keep: tuple[str, ...]) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    rules = rules_for(state)
    limit = torch.finfo(dtype).max
    tensors = {}
    for key, value in state.items():
        if rules.is_training_only(key):
            continue
        value = value.detach().cpu()
        if value.is_floating_point():
            narrow = value.dim() > 1 and not (keep and key.startswith(keep))
            value = value.float()
            if not torch.isfinite(value).all() or (narrow and value.abs().max() > limit):
                raise ValueError(
                    f"{key} has values that {dtype} cannot hold (largest {value.abs().max():.4g})"
                )
            value = value.to(dtype) if narrow else value
        tensors[key] = value.clone(memory_format=torch.contiguous_format)
    return tensors
