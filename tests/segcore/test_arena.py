"""The range of addresses that large CPU tensors come from: no block is given twice, none is lost, freed ones serve."""

from __future__ import annotations

import os
import sys

import pytest

from segcore.ops import extension
from tests.processes import run

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Linux only"),
    pytest.mark.skipif(not extension.has_cpu(), reason="needs the compiled operators"),
]

START = """
import faulthandler, random, torch
from pathlib import Path
from segcore.memory import keep_freed_memory
faulthandler.dump_traceback_later(120, exit=True)
assert keep_freed_memory({most})
MB = 1 << 20

def memory():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

def tensor(size, number):
    x = torch.empty(size, dtype=torch.uint8)
    x[:] = number
    return x

def churn(seed, rounds, live):
    "Take and give back tensors of random sizes with at most `live` bytes at a time; each keeps what was written in it."
    numbers, held, total = random.Random(seed), [], 0
    for _ in range(rounds):
        size = int(2 ** numbers.uniform(16, 23.5))
        while total + size > live:
            x, number = held.pop(numbers.randrange(len(held)))
            assert (x == number).all(), "another tensor wrote here"
            total -= x.numel()
        number = numbers.randrange(256)
        held.append((tensor(size, number), number))
        total += size
    assert all((x == number).all() for x, number in held)
"""


def result_of(code: str, most: int = 1 << 30) -> str:
    done = run(START.format(most=most) + code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_written_in_a_tensor_stays_there_on_several_threads():
    result_of("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda seed: churn(seed, rounds=400, live=30 * MB), range(4)))
""")


def test_the_smallest_free_block_that_holds_it_serves():
    assert result_of("""
row = [torch.empty(size * MB, dtype=torch.uint8) for size in (1, 8, 1, 2, 1, 4, 1)]
eight, two, four = (row[k].data_ptr() for k in (1, 3, 5))
row[1] = row[3] = row[5] = None
first, second, third = (torch.empty(size * MB, dtype=torch.uint8) for size in (3, 2, 5))
print(first.data_ptr() == four, second.data_ptr() == two, third.data_ptr() == eight)
""") == "True True True\n"


def test_the_last_free_block_grows():
    assert result_of("""
blocks = [torch.empty(2 * MB, dtype=torch.uint8) for _ in range(2)]
last = blocks.pop().data_ptr()
print(torch.empty(64 * MB, dtype=torch.uint8).data_ptr() == last)
""") == "True\n"


def test_freed_neighbours_become_one_block():
    assert result_of("""
parts = [torch.empty(MB) for _ in range(8)]
first = parts[0].data_ptr()
order = [3, 5, 4, 0, 7, 1, 6, 2]
for k in order:
    parts[k] = None
print(torch.empty(8 * MB).data_ptr() == first)
""") == "True\n"


def test_memory_beyond_the_limit_goes_back():
    kept, returned = map(float, result_of("""
before = memory()
small, large = tensor(80 * MB, 1), tensor(120 * MB, 1)
del small
kept = memory() - before
del large
print(kept, memory() - before)
assert tensor(300 * MB, 2).eq(2).all()
""", most=100 << 20).split())
    assert kept > 190
    assert returned < 20


def test_what_comes_from_elsewhere_goes_back_there():
    result_of("""
old = torch.ones(4 * MB)
storage = old.untyped_storage()
storage.resize_(64 * MB)                   # by the allocator that the storage came with
new = tensor(8 * MB, 1)
new.untyped_storage().resize_(32 * MB)
assert (new == 1).all()
small = torch.ones(10)
array = tensor(2 * MB, 3).numpy()          # outlives its tensor
assert (array == 3).all()
assert torch.empty(0).data_ptr() == 0
del old, storage, new, small, array
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_copy_of_its_own():
    result_of("""
import os, signal, threading
torch.set_num_threads(1)   # OpenMP's threads do not outlive a fork either
mine, going = tensor(4 * MB, 1), threading.Event()
going.set()

def busy():
    while going.is_set():
        tensor(MB, 7)

thread = threading.Thread(target=busy)
thread.start()
for _ in range(30):
    child = os.fork()
    if not child:
        signal.alarm(60)
        mine[:] = 2
        ok = bool((mine == 2).all() and (tensor(3 * MB, 5) == 5).all())
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
going.clear()
thread.join()
assert (mine == 1).all()
""")


def test_the_profiler_sees_it():
    assert "OK" in result_of("""
from torch.profiler import ProfilerActivity, profile
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
    x = torch.empty(4 * MB)
    del x
events = [event for event in found.key_averages() if event.key == "aten::empty"]
assert events[0].cpu_memory_usage >= 16 * MB, events
print("OK")
""")


def test_a_refused_range_leaves_the_allocator_as_it_was():
    result_of("""
assert torch.ops.segcore_native.use_arena(1)   # asked again: stays
""")
    done = run("""
import resource, torch
from segcore.ops import extension
resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36))   # addresses: fewer than it wants
print(torch.ops.segcore_native.use_arena(1 << 30), torch.ones(1 << 22).sum().item())
""")
    assert done.stdout == f"False {float(1 << 22)}\n", done.stderr
