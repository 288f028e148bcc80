"""How an architecture is run for evaluation, where that is more than calling it.

A model package adds a function under the name of its architecture: (cfg, model) -> the module to call, which
takes and returns what the model does (windows, test-time augmentation).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

WAYS_TO_RUN: dict[str, Callable[..., nn.Module]] = {}


def build_runner(cfg, model: nn.Module) -> nn.Module:
    """The module to call for evaluation: the model itself, or what its package makes of the config."""
    build = WAYS_TO_RUN.get(cfg.MODEL.META_ARCHITECTURE)
    return model if build is None else build(cfg, model)
