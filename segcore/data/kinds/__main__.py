"""Draw examples of one kind of thing and pictures to look for it in: what SegGPT is given, in four folders.

    python -m segcore.data.kinds --output FOLDER [--kind "green stripes star"] [--examples 4] [--targets 6]

FOLDER/examples and FOLDER/masks (white where the kind is) are prompts; FOLDER/targets are other scenes with the
kind, FOLDER/truth is where it is in them. The kind is one that no training scene shows, unless it is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
from PIL import Image

from segcore.script import run_script

from .scene import CATEGORIES, HELD_OUT, draw_scene, kind_named

_STREAM = 3   # of seeds; the data set's splits have the others


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    kind = kind_named(args.kind) if args.kind else HELD_OUT[args.seed % len(HELD_OUT)]
    scenes = scenes_with(kind, args.seed)
    for images, masks, number in (("examples", "masks", args.examples), ("targets", "truth", args.targets)):
        for folder in (images, masks):
            (args.output / folder).mkdir(parents=True, exist_ok=True)
        for i, (image, mask) in enumerate(islice(scenes, number)):
            Image.fromarray(image).save(args.output / images / f"{i}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(args.output / masks / f"{i}.png")
    print(f"{args.examples} examples of a {CATEGORIES[kind]['name']} and {args.targets} targets in {args.output}")


def scenes_with(kind: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless scenes of held-out kinds that show `kind`: (H, W, 3) uint8 RGB, and (H, W) bool where it is."""
    others = [k for k in HELD_OUT if k != kind]
    for number in count():
        company = np.random.default_rng((_STREAM, seed, number)).choice(others, 3, replace=False)
        scene = draw_scene((kind, *map(int, company)), _STREAM, seed, number)
        ids = [s["id"] for s in scene.segments if s["category_id"] == CATEGORIES[kind]["id"]]
        if ids:
            yield scene.image, np.isin(scene.ids, ids)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m segcore.data.kinds", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--output", type=Path, required=True, help="folder; made if it does not exist")
    p.add_argument("--kind", help="colour, texture and shape, for example 'red stripes star'")
    p.add_argument("--examples", type=int, default=4)
    p.add_argument("--targets", type=int, default=6)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
