"""The command line that datasets/prepare_*.py share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from segcore.cores import usable_cores

from ..builtin import datasets_root
from . import PREPARATIONS, Options, make


def main(name: str, description: str, argv: Sequence[str] | None = None) -> int:
    """Prepare the data set `name` of `PREPARATIONS`; returns the exit status."""
    preparation = PREPARATIONS[name]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the data sets (default: $DETECTRON2_DATASETS or datasets)")
    parser.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    parser.add_argument("--tasks", nargs="+", choices=preparation.TASKS, default=list(preparation.TASKS))
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes (default: all cores)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out images whose files are wrong, and list them")
    arguments = parser.parse_args(argv)
    options = Options(workers=arguments.workers, skip_bad=arguments.skip_bad)
    try:
        for product in preparation.products(
            arguments.root or datasets_root(), tuple(arguments.splits), tuple(arguments.tasks)
        ):
            make(product, options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
