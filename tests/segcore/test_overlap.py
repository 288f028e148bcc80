"""Order, errors and bounds of reading ahead and writing behind."""

from __future__ import annotations

import threading

import pytest
import torch

from segcore.overlap import Behind, ahead, places
from tests.processes import on_threads

COUNTS = pytest.mark.parametrize("count", [0, 1, 2])


@COUNTS
def test_ahead_keeps_the_order(count):
    assert list(ahead(range(20), count)) == list(range(20))
    assert list(ahead([], count)) == []


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


@COUNTS
def test_ahead_raises_after_the_items_before(count):
    def items():
        yield 1
        raise ValueError("torn file")

    stream = ahead(items(), count)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="torn file"):
        next(stream)


@COUNTS
def test_behind_keeps_the_order_and_finishes(count):
    done = []
    with Behind(count) as worker:
        for i in range(20):
            worker.submit(done.append, i)
    assert done == list(range(20))


@COUNTS
def test_behind_raises_what_a_call_raised_and_stops(count):
    done = []

    def fail():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Behind(count) as worker:
        worker.submit(fail)
        worker.submit(done.append, 1)
    assert done == []


def test_behind_does_not_hide_the_error_of_the_block():
    with pytest.raises(KeyError), Behind() as worker:
        worker.submit(lambda: 1 / 0)
        raise KeyError("mine")


def test_without_places_there_is_no_thread():
    names = []

    def items():
        names.append(threading.current_thread().name)
        yield 1

    with Behind(0) as worker:
        for _ in ahead(items(), 0):
            worker.submit(lambda: names.append(threading.current_thread().name))
            assert len(names) == 2   # run at once
    assert set(names) == {threading.current_thread().name}


def test_places_only_where_the_model_leaves_a_core(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    assert on_threads(lambda: places(2, cpu), counts=(1, 2, 3, 8)) == [2, 2, 0, 0]
    assert on_threads(lambda: places(2, gpu), counts=(1, 8)) == [2, 2]
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)   # unknown
    assert on_threads(lambda: places(1, cpu), counts=(1, 2)) == [0, 0]
