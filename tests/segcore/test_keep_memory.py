"""Freed memory that glibc keeps."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# New pages that each of many large tensors took, and whether memory is kept.
CODE = """
import resource, sys, torch
from segcore.memory import keep_freed_memory
asked = keep_freed_memory() if sys.argv[1] == "keep" else None
keeps = [torch.empty(n << 18) for n in range(30, 60)]   # memory on both sides of what comes
del keeps
for number in range(30):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.zeros(40 << 18)   # 40 MB, more than malloc takes from its heap by itself
    del x
print(asked, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def pages_per_tensor(what: str, **environment: str) -> tuple[str, float]:
    without = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC_TUNABLES"))}
    run = subprocess.run(
        [sys.executable, "-c", CODE, what], check=True, capture_output=True, text=True, env={**without, **environment}
    )
    asked, pages = run.stdout.split()
    return asked, float(pages)


def test_freed_memory_serves_again():
    asked, pages = pages_per_tensor("keep")
    assert asked == "True"
    assert pages < 100
    _, by_default = pages_per_tensor("leave")
    assert by_default > 1000


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "65536"}, {"LD_PRELOAD": "/nowhere/libjemalloc.so"}]
)
def test_the_environment_has_the_last_word(environment):
    asked, pages = pages_per_tensor("keep", **environment)
    assert asked == "False"
    assert pages > 1000
