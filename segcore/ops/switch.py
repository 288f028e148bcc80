"""Process-wide switches of the operators.

A switch is a list of one element, so that nobody need rebind an imported name; torch.compile reads it while tracing
and guards on the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def held(switch: list[Value], value: Value) -> Iterator[None]:
    """Inside the block the switch has this value, after it the one it had."""
    previous = switch[0]
    switch[0] = value
    try:
        yield
    finally:
        switch[0] = previous
