"""Order, errors and bounds of reading ahead and writing behind."""

from __future__ import annotations

import threading

import pytest

from segcore.overlap import Behind, ahead


def test_ahead_keeps_the_order():
    assert list(ahead(range(20))) == list(range(20))
    assert list(ahead([])) == []


def test_ahead_works_before_it_is_asked_and_not_without_end():
    taken, reached = [], threading.Event()

    def items():
        for i in range(10):
            taken.append(i)
            if i == 3:
                reached.set()
            yield i

    stream = ahead(items(), count=2)
    assert next(stream) == 0
    assert reached.wait(5)   # one is out, two wait, the next is in hand
    assert taken == [0, 1, 2, 3]
    stream.close()
    assert not any(thread.name == "ahead" for thread in threading.enumerate())


def test_ahead_raises_after_the_items_before():
    def items():
        yield 1
        raise ValueError("torn file")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="torn file"):
        next(stream)


def test_behind_keeps_the_order_and_finishes():
    done = []
    with Behind() as worker:
        for i in range(20):
            worker.submit(done.append, i)
    assert done == list(range(20))


def test_behind_raises_what_a_call_raised_and_stops():
    done = []

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind() as worker:
        worker.submit(fail)
        worker.submit(done.append, 1)
    assert done == []


def test_behind_does_not_hide_the_error_of_the_block():
    with pytest.raises(KeyError), Behind() as worker:
        worker.submit(lambda: 1 / 0)
        raise KeyError("mine")
