"""Write a model as ONNX (.onnx) or as a compiled AOTInductor package (.pt2) that runs without this package.

python tools/export.py oneformer --size 256 384 --output oneformer.onnx
python tools/export.py oneformer --any-size --weights-as int8 --output oneformer.onnx
python tools/export.py oneformer --config-file CFG --weights FILE --size 640 640 --output oneformer.pt2
python tools/export.py seggpt --weights FILE --prompts 2 --type semantic --output seggpt.onnx

Before the file appears it is run on random pictures, and its outputs are compared with the model's.
docs/export.md says what goes in and what comes out.
"""

from __future__ import annotations

import argparse
import os

from segcore.export import Graph, check_requirements, export_onnx, export_package
from segcore.script import run_script
from segcore.weight_storage import FORMS

EXAMPLE = 4, 3  # the size, in units of padding, of the picture from which a file for any size is made


def main() -> None:
    args = parse_args()
    write = {".onnx": export_onnx, ".pt2": export_package}.get(os.path.splitext(args.output)[1])
    if write is None:
        raise ValueError(f"--output must end in .onnx or .pt2, got {args.output}")
    check_requirements(onnx=args.output.endswith(".onnx"))
    difference = write(args.graph(args).storing_weights(args.weights_as), args.output)
    megabytes = os.path.getsize(args.output) / 1e6
    print(f"wrote {args.output}, {megabytes:.1f} MB; largest difference from the model: {difference}")


def oneformer(args: argparse.Namespace) -> Graph:
    from oneformer.export import oneformer_graph
    from oneformer.loading import build_loaded

    model = build_loaded(args.config_file, args.weights, "cpu", args.opts).model
    size = args.size or [side * model.size_divisibility for side in EXAMPLE]
    return oneformer_graph(model, *size, any_size=args.any_size)


def seggpt(args: argparse.Namespace) -> Graph:
    from seggpt.export import seggpt_graph
    from seggpt.loading import build_loaded

    model = build_loaded(args.config_file, args.weights, "cpu")
    return seggpt_graph(model, args.prompts, args.type, queries=args.queries)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = parser.add_subparsers(dest="model", required=True)
    one = models.add_parser("oneformer", help="one picture and the number of a task in")
    seg = models.add_parser("seggpt", help="prompts and pictures in")
    for each, graph in ((one, oneformer), (seg, seggpt)):
        each.set_defaults(graph=graph)
        each.add_argument("--config-file", help="the config of the weights; not needed for portable .safetensors")
        each.add_argument("--output", required=True, help="a .onnx or .pt2 file")
        each.add_argument("--weights-as", choices=["fp32", *FORMS], default="fp32",
                          help="how the file holds the layers' weights; it computes in fp32 (default fp32)")
    one.add_argument("--weights", help="default: the small ones in demo/weights")
    sizes = one.add_mutually_exclusive_group(required=True)
    sizes.add_argument("--size", nargs=2, type=positive, metavar=("HEIGHT", "WIDTH"),
                       help="of the picture, in pixels; multiples of what the model pads to, mostly 32")
    sizes.add_argument("--any-size", action="store_true",
                       help="one .onnx file for all such sizes, from 64 x 64 pixels on")
    one.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    seg.add_argument("--weights", help="whatever seggpt predict takes; default: the small ones in demo/weights")
    seg.add_argument("--prompts", type=positive, default=1, metavar="K", help="number of prompts (default 1)")
    seg.add_argument("--queries", type=positive, default=1, metavar="N", help="pictures per call (default 1)")
    seg.add_argument("--type", choices=["semantic", "instance"], default="instance")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    run_script(main)
