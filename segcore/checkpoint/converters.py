"""Registries by which a model package teaches the checkpointer its formats.

segcore knows no model.  A package registers, when it is imported,

* converters: foreign spellings of its keys, found by the keys themselves, never
  by a version number (a plain dict or a safetensors file has none), and
* model rules: which of its keys hang on the number of classes, and which
  modules exist in training only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Converter:
    name: str
    detect: Callable[[State], bool]
    convert: Callable[[State, nn.Module], dict[str, torch.Tensor]]
    optional: tuple[re.Pattern, ...] = ()
    for_model: Callable[[Collection[str]], bool] = lambda keys: True
    check_config: Callable[[Mapping, nn.Module], None] = lambda config, model: None
    shares_names: bool = False


@dataclass(frozen=True)
class ModelRules:
    applies: Callable[[Collection[str]], bool]
    class_head: tuple[re.Pattern, ...] = ()
    training_only: tuple[str, ...] = ()

    def is_class_head(self, key: str) -> bool:
        return any(pattern.fullmatch(key) for pattern in self.class_head)

    def is_training_only(self, key: str) -> bool:
        return key.startswith(self.training_only) if self.training_only else False


_CONVERTERS: dict[str, Converter] = {}
_MODEL_RULES: dict[str, ModelRules] = {}
_NO_RULES = ModelRules(applies=lambda keys: True)


def register_converter(
    name: str,
    detect: Callable[[State], bool],
    convert: Callable[[State, nn.Module], dict[str, torch.Tensor]],
    optional: Iterable[str] = (),
    for_model: Callable[[Collection[str]], bool] = lambda keys: True,
    check_config: Callable[[Mapping, nn.Module], None] = lambda config, model: None,
    shares_names: bool = False,
) -> None:
    """Teach the checkpointer a foreign format; registering a name again replaces it.

    Args:
        name: what the load report calls the format.
        detect: tells from the keys (and shapes) whether a state dict is in the
            format.  Of the formats for one model at most one may claim a file.
        convert: (state dict, model) -> state dict in the model's keys.  It drops
            what the model has no use for (an ImageNet classifier), and raises
            ValueError when it cannot convert.
        optional: regular expressions (full match) of model keys that the format
            does not have, such as per-stage norms in an ImageNet checkpoint.
        for_model: tells from a model's state-dict keys whether the format can be
            for it; a file is not converted to another model's keys.
        check_config: (parsed config.json, model), called when the weights came with
            one; raises ValueError for a setting that differs and no shape shows.
        shares_names: most of its keys are the model's own, of which it holds a part; then `detect` is asked
            before a file counts as native.
    """
    patterns = tuple(re.compile(pattern) for pattern in optional)
    _CONVERTERS[name] = Converter(name, detect, convert, patterns, for_model, check_config, shares_names)


def register_model_rules(
    name: str,
    applies: Callable[[Collection[str]], bool],
    class_head: Iterable[str] = (),
    training_only: Iterable[str] = (),
) -> None:
    """Teach the checkpointer about a model; registering a name again replaces it.

    Args:
        name: of the model.
        applies: tells from the model's state-dict keys whether the rules are for it.
        class_head: regular expressions (full match) of the tensors whose first
            dimension follows the number of classes.
        training_only: key prefixes of modules that an inference model does not build.
    """
    _MODEL_RULES[name] = ModelRules(
        applies, tuple(re.compile(pattern) for pattern in class_head), tuple(training_only)
    )


def rules_for(keys: Collection[str]) -> ModelRules:
    """The registered rules of the model with these state-dict keys; empty ones when there are none."""
    return next((rules for rules in _MODEL_RULES.values() if rules.applies(keys)), _NO_RULES)


def find_converter(state: State, model_keys: Collection[str]) -> Converter | None:
    """The registered format of a state dict, or None when it is native or no converter for the model claims it.

    Raises:
        ValueError: if two formats claim it; one `detect` is then too loose.
    """
    # A foreign format may share a few names with ours; a native file shares most of them.
    native = 2 * sum(key in model_keys for key in state) >= len(state)
    asked = [converter for converter in _for(model_keys) if converter.shares_names or not native]
    found = [converter for converter in asked if converter.detect(state)]
    if len(found) > 1:
        raise ValueError(
            "the checkpoint fits several registered formats: "
            + ", ".join(converter.name for converter in found)
        )
    return found[0] if found else None


def known_formats(model_keys: Collection[str]) -> list[str]:
    """Names of the formats that can be for the model with these state-dict keys."""
    return sorted(converter.name for converter in _for(model_keys))


def _for(model_keys: Collection[str]) -> list[Converter]:
    return [converter for converter in _CONVERTERS.values() if converter.for_model(model_keys)]
