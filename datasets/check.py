#!/usr/bin/env python
"""Say in one table what of a data set is there and what is missing, and open a sample of each split.

python datasets/check.py {ade20k,cityscapes,coco,mapillary,labelmefacade,NAME_OF_A_SPLIT} [--root DIR]

The exit status is 0 if nothing is missing or wrong.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed works too

from segcore.data import register_builtin  # noqa: E402
from segcore.data.check import check_data_set, report  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a data set, or one of its splits")
    parser.add_argument("--root", help="folder of the data sets (default: $DETECTRON2_DATASETS or datasets)")
    arguments = parser.parse_args(argv)
    register_builtin(arguments.root)
    try:
        rows = check_data_set(arguments.name)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(arguments.name, rows))
    return int(any(row.is_wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
