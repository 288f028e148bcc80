"""Weight files and folders to a flat dict of tensors.

Formats: `.safetensors`; PyTorch `.pth`, `.pt`, `.bin` (zip and legacy); pickles
of numpy arrays or tensors (`.pkl`); Hugging Face folders (`config.json` and
`model.safetensors` or `pytorch_model.bin`, in one file or in shards); and
`hf:ORG/NAME[@REVISION]`, such a folder on the Hugging Face hub.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from safetensors import SafetensorError, safe_open

from .unpickling import load_pickle, load_torch

HUB_PREFIX = "hf:"
CONFIG_FILE = "config.json"
# Safetensors first: it holds nothing but tensors.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# Under which of these names a checkpoint's dict holds the weights, in order.
_WEIGHT_KEYS = ("model", "state_dict", "model_state")

# What the readers raise on a damaged file: a broken pickle stream ends in any of these,
# a broken zip archive also in an OSError of a seek to nowhere.
_UNREADABLE = (
    pickle.UnpicklingError,
    SafetensorError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    UnicodeDecodeError,
    ImportError,
    OverflowError,
)
# How our unpickler and torch's word the refusal of a type.
_REFUSED_TYPE = re.compile(r"could run code|unsupported global", re.IGNORECASE)


@dataclass
class RawCheckpoint:
    """What a file holds, before any key is renamed.

    Attributes:
        state: key -> tensor on the CPU.
        extra: whatever lay beside the weights (optimizer, iteration, ...).
        source: the path or name that the user gave.
        config: the parsed `config.json` of a Hugging Face folder, else None.
        local: the file or folder that was read.
        mapped: whether the tensors lie in the mapped file.
    """

    state: dict[str, torch.Tensor]
    source: str
    extra: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    local: str = ""
    mapped: bool = False


def read_checkpoint(path: str | os.PathLike, *, mapped: bool = False) -> RawCheckpoint:
    """Read any supported file, folder, URL or `hf:ORG/NAME`.

    Args:
        mapped: PyTorch's files too, unless of the legacy kind, are mapped, as `.safetensors` always are: what of
            them is never used is never read. A mapped file may be replaced, but must not be written to.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        OSError: if it cannot be downloaded.
        ValueError: if it is damaged, or not a checkpoint.
    """
    source = os.fspath(path)
    local = _local_path(source)
    if os.path.isdir(local):
        return _read_folder(local, source, mapped)
    state, extra = _read_file(local, mapped)
    return RawCheckpoint(state, source, extra, local=local, mapped=_is_mapped(local, mapped))


def map_again(raw: RawCheckpoint) -> dict[str, torch.Tensor]:
    """The tensors of `raw.state` in a new mapping of their file; empty if they lie in none.

    Pages that were read through a mapping take memory as long as one tensor lies in it.
    """
    return read_checkpoint(raw.local, mapped=True).state if raw.mapped else {}


def _local_path(source: str) -> str:
    if source.startswith(HUB_PREFIX):
        return _download_from_hub(source)
    if os.path.exists(source):
        return source
    if "://" in source:
        return _download(source)
    raise FileNotFoundError(
        f"no weights at {source!r} (looked in {os.path.abspath(source)}); give a file, "
        f"a Hugging Face folder, a URL or {HUB_PREFIX}ORG/NAME"
    )


def _download(url: str) -> str:
    """A URL that Detectron2's path manager knows (http, https, detectron2, ...), in its local cache."""
    try:
        return PathManager.get_local_path(url)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"cannot download the weights {url}: {error}; download them by hand and give the local path"
        ) from error


def _download_from_hub(source: str) -> str:
    """Snapshot of a Hugging Face model repository: its config and its weights, in the hub's cache."""
    name, _, revision = source[len(HUB_PREFIX) :].partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(
            f"{source!r} is not of the form {HUB_PREFIX}ORG/NAME[@REVISION], "
            f"for instance {HUB_PREFIX}shi-labs/oneformer_ade20k_swin_tiny"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(
            f"{source!r} needs the package huggingface_hub: pip install huggingface_hub"
        ) from error
    for weights in WEIGHT_FILES:
        stem, extension = os.path.splitext(weights)
        wanted = [CONFIG_FILE, weights, f"{weights}.index.json", f"{stem}-*{extension}"]
        try:
            folder = snapshot_download(name, revision=revision or None, allow_patterns=wanted)
        # ValueError: huggingface_hub's offline mode; OSError: no network.
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise OSError(
                f"cannot fetch {name} from the Hugging Face hub: {reason}; check the name and the "
                "connection, or download the folder elsewhere and give its path"
            ) from error
        if _weight_file(folder) is not None:
            break
    return folder


def _weight_file(folder: str) -> str | None:
    for name in WEIGHT_FILES:
        for candidate in (name, f"{name}.index.json"):
            if os.path.isfile(os.path.join(folder, candidate)):
                return candidate
    return None


def _read_folder(folder: str, source: str, mapped: bool) -> RawCheckpoint:
    config_path = os.path.join(folder, CONFIG_FILE)
    weights = _weight_file(folder)
    if weights is None or not os.path.isfile(config_path):
        hint = ""
        if os.path.isfile(os.path.join(folder, "last_checkpoint")):
            hint = "; it is an output folder of a training run: give one of its .pth files"
        raise FileNotFoundError(
            f"{source} is a folder without {CONFIG_FILE} and one of {', '.join(WEIGHT_FILES)} "
            f"(or their index), so not a Hugging Face model{hint}"
        )
    config = _read_json(config_path)
    if weights.endswith(".index.json"):
        state = _read_shards(folder, weights, mapped)
    else:
        state, _ = _read_file(os.path.join(folder, weights), mapped)
    # of PyTorch's shards some may be legacy
    return RawCheckpoint(state, source, config=config, local=folder, mapped="safetensors" in weights)


def _read_json(path: str) -> dict:
    with open(path, encoding="utf-8") as stream:
        try:
            value = json.load(stream)
        except ValueError as error:  # also UnicodeDecodeError
            raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def _read_shards(folder: str, index_name: str, mapped: bool) -> dict[str, torch.Tensor]:
    index_path = os.path.join(folder, index_name)
    weight_map = _read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index_path} has no 'weight_map' of key -> file")
    state: dict[str, torch.Tensor] = {}
    for name in sorted(set(weight_map.values())):
        path = os.path.join(folder, name)
        if os.path.basename(name) != name or not os.path.isfile(path):
            raise FileNotFoundError(f"{index_path} names the shard {name!r}, which is not in {folder}")
        state.update(_read_file(path, mapped)[0])
    absent = sorted(set(weight_map) - set(state))
    if absent:
        raise ValueError(
            f"{index_path} names {len(absent)} tensors that its shards do not hold, first {absent[0]!r}"
        )
    return state


def _is_mapped(path: str, mapped: bool) -> bool:
    """Whether `_read_file` maps the file."""
    return path.endswith(".safetensors") or (mapped and zipfile.is_zipfile(path))


def _read_file(path: str, mapped: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with open(path, "rb") as stream:
        head = stream.read(64)
    try:
        if path.endswith(".safetensors"):
            return read_safetensors(path)[0], {}
        if path.endswith(".pkl") and not head.startswith(b"PK"):
            with open(path, "rb") as stream:
                data = load_pickle(stream)
        else:
            data = load_torch(path, mapped=_is_mapped(path, mapped))
    except _UNREADABLE as error:
        raise ValueError(_unreadable_message(path, head, error)) from error
    return _split(data, path)


def read_safetensors(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header metadata of one `.safetensors` file.

    Raises:
        SafetensorError: if it is damaged.
    """
    with safe_open(path, framework="pt", device="cpu") as stream:
        keys = list(stream.keys())
        return {key: stream.get_tensor(key) for key in keys}, dict(stream.metadata() or {})


def _unreadable_message(path: str, head: bytes, error: BaseException) -> str:
    size = os.path.getsize(path)
    if head.startswith(b"version https://git-lfs"):
        why = "it is a Git LFS pointer, not the file itself; run `git lfs pull`"
    elif head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        why = "it is a web page, not weights; download the file again"
    elif isinstance(error, pickle.UnpicklingError) and _REFUSED_TYPE.search(str(error)):
        why = (
            f"it holds Python objects other than tensors ({_first_line(error)}); "
            "save its state dict alone in a trusted environment and load that"
        )
    else:
        why = f"it is truncated or not a weight file ({_first_line(error)}); copy or download it again"
    return f"cannot read the weights {path} ({size} bytes): {why}"


def _first_line(error: BaseException) -> str:
    """The informative line of an error that may be a page long."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    informative = [line for line in lines if _REFUSED_TYPE.search(line)] or lines or [type(error).__name__]
    line = informative[0]
    return line if len(line) <= 200 else line[:197] + "..."


def _split(data: Any, path: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and the rest of a loaded object."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected a dict of tensors")
    extra: dict[str, Any] = {}
    for name in _WEIGHT_KEYS:
        if isinstance(data.get(name), Mapping):
            extra = {key: value for key, value in data.items() if key != name}
            data = data[name]
            break
    state = {}
    for key, value in data.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = torch.from_numpy(np.array(value))  # a copy: arrays of a pickle may be read-only
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path} is not a dict of tensors: {key!r} is a {type(value).__name__}; the weights "
                f"may lie at its top level or under {', '.join(map(repr, _WEIGHT_KEYS))}"
            )
        state[key] = value.detach()
    if not state:
        raise ValueError(f"{path} holds no tensors")
    return _without_wrapper(state), extra


def _without_wrapper(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the `module.` that (Distributed)DataParallel puts before every key."""
    prefix = "module."
    if not all(key.startswith(prefix) for key in state):
        return state
    return {key[len(prefix) :]: value for key, value in state.items()}
