"""The last results of all visitors, within a bound, for whoever wants them as files."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Any


class Recent:
    """A store that forgets the oldest when it is full; safe for several threads."""

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: bytes of all values together; the newest is kept whatever its size.
        """
        self.limit = limit
        self._values: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, value: Any, size: int) -> str:
        """Keep a value of `size` bytes; returns the key, which cannot be guessed."""
        key = secrets.token_hex(16)
        with self._lock:
            self._values[key] = (value, size)
            while len(self._values) > 1 and sum(size for _, size in self._values.values()) > self.limit:
                self._values.popitem(last=False)
        return key

    def get(self, key: str | None) -> Any:
        """The value.

        Raises:
            ValueError: if there is none (any more).
        """
        with self._lock:
            if key is None:
                raise ValueError("There is no result yet: segment a picture first.")
            if key not in self._values:
                raise ValueError("This result is no longer in memory; segment the picture again.")
            self._values.move_to_end(key)
            return self._values[key][0]
