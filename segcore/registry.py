"""Registering with Detectron2 so that a second import is harmless and a clash is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fvcore.common.registry import Registry

T = TypeVar("T")


def register_once(registry: Registry) -> Callable[[T], T]:
    """Return a class or function decorator: `registry.register()` that may run twice.

    When the same module is imported again (a reload, a second path to it), the first
    registration stays.

    Raises:
        ValueError: by the decorator, if another module holds the name. Two packages that
            define one architecture cannot both be built by that name in one process.
    """

    def decorate(item: T) -> T:
        if item.__name__ not in registry:
            registry.register(item)
            return item
        held = registry.get(item.__name__)
        if (held.__module__, held.__qualname__) != (item.__module__, item.__qualname__):
            raise ValueError(
                f"{item.__module__} cannot register {item.__name__!r}: {held.__module__} already holds that "
                "name; import only one of the two in a process"
            )
        return item

    return decorate
