"""Publish a OneFormer on the Hugging Face hub; `--weights hf:ORG/NAME` then loads it anywhere.

  {prog} --weights model.safetensors --to ORG/NAME --private
  {prog} --weights model.safetensors --folder upload/        only write what would be uploaded

The weights are a portable file, which holds its config, its classes and the terms of its training data
(tools/export_portable.py makes one of any checkpoint). Log in once with `hf auth login`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(argv: Sequence[str], prog: str) -> int:
    """Run the command; returns the exit status."""
    args = parse_args(argv, prog)
    from oneformer.hub import push_to_hub, write_folder

    if args.folder:
        write_folder(args.weights, args.to or "ORG/NAME", args.folder, transformers=args.transformers)
        print(f"wrote {args.folder}")
    else:
        done = push_to_hub(args.weights, args.to, private=args.private, transformers=args.transformers)
        print(f"uploaded: {done}\nload it with --weights hf:{args.to}")
    return 0


def parse_args(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__.format(prog=prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, metavar="PATH", help="portable .safetensors")
    parser.add_argument("--to", metavar="ORG/NAME", help="the repository; made if it does not exist")
    parser.add_argument("--folder", metavar="DIR", help="write the files there instead of uploading them")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, default=True, help="if it is made")
    parser.add_argument(
        "--transformers", action=argparse.BooleanOptionalAction, default=True,
        help="add the files that transformers loads",
    )
    args = parser.parse_args(argv)
    if not args.to and not args.folder:
        parser.error("give --to ORG/NAME, or --folder DIR")
    return args
