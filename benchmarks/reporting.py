"""How a benchmark ends: its numbers as one line of JSON, and kept in a file where that was asked for."""

from __future__ import annotations

import json
import os
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
    """What a process of its own measured: the JSON that its last line is. Its errors are shown as they come."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
