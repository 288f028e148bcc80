"""Reading ahead and writing behind, in threads, while the model works on what lies between.

Decoders, encoders and image libraries release the interpreter's lock, and so does torch, so that three stages of a
stream take the time of the slowest. Not where the model's own threads need every core: see `places`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from segcore.cores import usable_cores

Item = TypeVar("Item")
_END = object()


def places(count: int, device: torch.device) -> int:
    """How many items may wait before and behind a model on `device`: `count`, or none where that would cost time.

    A model on a CPU has a thread on each core that PyTorch counts. If those are all there are, what else runs takes a
    core away in the middle of a product, and the other threads spin until it is back: on two cores a folder took 12 %
    longer than one picture after the other.
    """
    return count if device.type != "cpu" or usable_cores() > torch.get_num_threads() else 0


def ahead(items: Iterable[Item], count: int = 2) -> Iterator[Item]:
    """The same items in the same order, taken by a thread before they are asked for.

    Args:
        items: consumed in the thread; what it raises is raised here, after the items before it.
        count: how many may wait; 0: no thread, each is taken when it is asked for.

    Closing the iterator, or leaving a loop over it, stops the thread after the item that it is at.
    """
    if not count:
        yield from items
        return
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

    What a call raises is raised by the next `submit` or at the end of the block, and later calls are not run. With no
    places (`count` 0) it runs, and raises, in `submit`.
    """

    def __init__(self, count: int = 2) -> None:
        """count: how many calls may wait; `submit` then blocks, so that memory stays bounded. 0: it runs the call."""
        self._at_once = not count
        self._waiting: queue.Queue = queue.Queue(count)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)

    def __enter__(self) -> Behind:
        if not self._at_once:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._at_once:
            return
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def submit(self, call: Callable[..., object], *args: object) -> None:
        """Run `call(*args)` after those submitted before."""
        if self._at_once:
            call(*args)
            return
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
