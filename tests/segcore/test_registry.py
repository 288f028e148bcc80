"""register_once: twice is harmless, a clash is an error."""

from __future__ import annotations

import pytest
from fvcore.common.registry import Registry

from segcore.registry import register_once


def make(module: str) -> type:
    """A class Model as `module` would define it."""
    return type("Model", (), {"__module__": module, "__qualname__": "Model"})


def test_the_first_registration_stays():
    registry, first, again = Registry("TEST"), make("ours"), make("ours")
    assert register_once(registry)(first) is first
    assert register_once(registry)(again) is again, "the decorator must return what it is given"
    assert registry.get("Model") is first


def test_another_module_s_name_is_not_taken():
    registry, theirs = Registry("TEST"), make("theirs")
    registry.register(theirs)
    with pytest.raises(ValueError, match="ours cannot register 'Model': theirs already holds that name"):
        register_once(registry)(make("ours"))
    assert registry.get("Model") is theirs
