"""How a benchmark ends: its numbers, and of which machine, as one line of JSON, kept in a file where asked for."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch


def report(result: dict, output: str | os.PathLike | None = None) -> None:
    """Print `result`, with what it ran on, as the last line; with `output` write it there first, its folder made."""
    result = {**result, "machine": {**machine(), **result.get("machine", {})}}
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result), flush=True)


def machine() -> dict:
    """What speed depends on: two processors of one name can differ by half, so its generation is told too."""
    found = {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
             "torch": torch.__version__, "date": datetime.date.today().isoformat()}
    return {**found, "gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else found


def _processor() -> str:
    """Name, family, model and widest vectors: "AMD EPYC, family 25, model 17, AVX512" (a Zen 4)."""
    cpuinfo, vectors = Path("/proc/cpuinfo"), torch.backends.cpu.get_cpu_capability()
    if not cpuinfo.is_file():
        return f"{platform.processor() or platform.machine()}, {vectors}"
    first, _, _ = cpuinfo.read_text().partition("\n\n")
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    if "model name" not in told:   # ARM
        return f"{platform.machine()}, {vectors}"
    return f"{told['model name']}, family {told['cpu family']}, model {told['model']}, {vectors}"


def measured(command: Sequence[str]) -> dict:
    """What a process of its own measured: the JSON that its last line is.

    Raises:
        RuntimeError: if it failed: which it was, and the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command[1:])} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
