"""How a benchmark ends: its numbers as one line of JSON, and kept in a file where that was asked for."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path


def report(result: dict, output: str | os.PathLike | None = None) -> None:
    """Print `result` as the last line; with `output` write it there first, its folder made if missing."""
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result), flush=True)


def measured(command: Sequence[str]) -> dict:
    """What a process of its own measured: the JSON that its last line is.

    Raises:
        RuntimeError: if it failed: which it was, and the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command[1:])} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
