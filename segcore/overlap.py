"""Reading ahead and writing behind, in threads, while the model works on what lies between.

Decoders, encoders and image libraries release the interpreter's lock, and so does torch, so that three stages of a
stream take the time of the slowest.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def ahead(items: Iterable[Item], count: int = 2) -> Iterator[Item]:
    """The same items in the same order, taken by a thread before they are asked for.

    Args:
        items: consumed in the thread; what it raises is raised here, after the items before it.
        count: how many may wait.

    Closing the iterator, or leaving a loop over it, stops the thread after the item that it is at.
    """
    waiting: queue.Queue = queue.Queue(count)
    stop = threading.Event()

    def take() -> None:
        try:
            for item in items:
                waiting.put((item, None))
                if stop.is_set():
                    return
            waiting.put((_END, None))
        except BaseException as error:  # noqa: BLE001  raised where the items are used
            waiting.put((_END, error))

    thread = threading.Thread(target=take, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting for a place
            try:
                waiting.get(timeout=0.01)
            except queue.Empty:
                continue


class Behind:
    """Runs calls in order in a thread; leaving the block waits for them.

    >>> with Behind() as writer:
    ...     for frame in frames:
    ...         writer.submit(movie.add, draw(model(frame)))

    What a call raises is raised by the next `submit` or at the end of the block, and later calls are not run.
    """

    def __init__(self, count: int = 2) -> None:
        """count: how many calls may wait; `submit` then blocks, so that memory stays bounded."""
        self._waiting: queue.Queue = queue.Queue(count)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)

    def __enter__(self) -> Behind:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def submit(self, call: Callable[..., object], *args: object) -> None:
        """Run `call(*args)` after those submitted before."""
        self._raise()
        self._waiting.put((call, args))

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            if self._error is None:
                call, args = task
                try:
                    call(*args)
                except BaseException as error:  # noqa: BLE001  raised where the calls come from
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
