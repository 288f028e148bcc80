"""YAML files and KEY VALUE pairs into a config; whatever is wrong in them is one sentence."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence

import torch
import yaml
from detectron2.config import CfgNode


class ConfigError(ValueError):
    """What a user asked for cannot be; the message says what, and what would do."""


def default_device() -> str:
    """The word for `MODEL.DEVICE` on this machine."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def read_file(path: str) -> dict:
    """What a YAML file and its _BASE_ files set. Raises ConfigError if they cannot be read."""
    if not os.path.isfile(path):
        raise ConfigError(f"config file {path!r} does not exist")
    try:
        return CfgNode.load_yaml_with_base(path, allow_unsafe=False)
    except (yaml.YAMLError, FileNotFoundError) as error:
        raise ConfigError(f"config file {path!r} cannot be read: {error}") from error


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file and its _BASE_ files into `cfg`. Raises ConfigError for what is wrong in it."""
    _check_keys(cfg, list(_leaves(read_file(path))), f"{path} (or a _BASE_ of it)")
    try:
        cfg.merge_from_file(path, allow_unsafe=False)
    except ValueError as error:  # yacs: a value of the wrong type
        raise ConfigError(f"{path}: {error}") from error


def merge_pairs(cfg: CfgNode, pairs: Sequence[str]) -> None:
    """Merge [KEY, VALUE, KEY, VALUE, ...] into `cfg`. Raises ConfigError, e.g. for an unknown key."""
    if len(pairs) % 2:
        raise ConfigError(f"settings are pairs KEY VALUE, but {pairs[-1]!r} has no value")
    _check_keys(cfg, list(pairs[0::2]), "the command line")
    try:
        cfg.merge_from_list(list(pairs))
    except ValueError as error:
        raise ConfigError(f"the command line: {error}") from error


def _leaves(node: dict, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _check_keys(cfg: CfgNode, keys: Sequence[str], where: str) -> None:
    unknown = [key for key in keys if not _is_known(cfg, key)]
    if not unknown:
        return
    known = list(_leaves(cfg))
    lines = [f"{key}{suggestion(key, known)}" for key in unknown]
    raise ConfigError(f"unknown config key in {where}: " + "; ".join(lines))


def _is_known(cfg: CfgNode, key: str) -> bool:
    node = cfg
    for part in key.split("."):
        if not isinstance(node, CfgNode):
            return False
        if part not in node:
            return node.is_new_allowed()
        node = node[part]
    return True


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, the nearest of `known` by the whole word or by its last part; or nothing."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    if not near:
        tails = {key.rsplit(".", 1)[-1]: key for key in known}
        near = [tails[t] for t in difflib.get_close_matches(word.rsplit(".", 1)[-1], tails, n=1, cutoff=0.75)]
    return f" (did you mean {near[0]}?)" if near else ""
