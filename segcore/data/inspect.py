"""Look at training samples as the model gets them: `python -m segcore.data.inspect CONFIG [KEY VALUE ...]`.

For each sample a picture of what the mapper makes of it, as the config's model draws it. `--check` reads every
label instead, and lists the bad ones.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from segcore.config_files import ConfigError
from segcore.data.catalog import load_dataset
from segcore.data.training_set import check_labels
from segcore.engine import Trainer, argument_parser, build_config
from segcore.engine.setup import architecture_of

# MODEL.META_ARCHITECTURE -> the package that holds it. Named, not imported: this package stands without either. The
# package's `commands.train.load_model` declares its config keys, its `data.inspect.build_drawing` draws its samples.
PACKAGES = {"OneFormer": "oneformer", "SegGPT": "seggpt", "SegGPTTuner": "seggpt"}


class Drawing(NamedTuple):
    """A training sample for the eye: `picture` (h, w, 3) uint8 RGB, its `kind` in one word, one line `about` it."""

    picture: np.ndarray
    kind: str
    about: str


def draw_samples(
    samples: Iterable[dict], draw: Callable[[dict], Drawing], output: str, count: int
) -> list[str]:
    """Draw the first training inputs into the folder `output`; returns the paths of the pictures."""
    os.makedirs(output, exist_ok=True)
    paths = []
    for number, sample in zip(range(count), samples):
        drawing = draw(sample)
        paths.append(os.path.join(output, f"sample_{number:02d}_{drawing.kind}.png"))
        Image.fromarray(drawing.picture).save(paths[-1])
        print(f"{paths[-1]}: {sample['file_name']}, {drawing.about}", flush=True)
    return paths


def check_sets(names: Iterable[str]) -> int:
    """Read every label of registered data sets, print the bad ones and their number; returns it."""
    total = 0
    for name in names:
        problems: list[str] = []
        records = load_dataset(name, problems)
        problems += [problem for problem in check_labels(records, name) if problem is not None]
        for problem in problems:
            print(problem)
        print(f"{name}: {len(records)} labels read, {len(problems)} are bad", flush=True)
        total += len(problems)
    return total


def _package_of(architecture: str | None) -> str:
    if architecture not in PACKAGES:
        given = "names no MODEL.META_ARCHITECTURE" if architecture is None else f"asks for {architecture!r}"
        raise ConfigError(f"the config {given}; samples can be drawn for {', '.join(PACKAGES)}")
    return PACKAGES[architecture]


def _set_arguments(cfg) -> list[str]:
    """The names of the config's data sets, each once."""
    return list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m segcore.data.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a YAML file")
    parser.add_argument("--output", default="output/inspect", help="folder of the pictures")
    parser.add_argument("--count", type=int, default=8, help="how many samples are drawn")
    parser.add_argument("--check", action="store_true", help="read all labels and list the bad ones; draw nothing")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs for the config")
    args = parser.parse_intermixed_args(argv)
    try:
        run = argument_parser().parse_args(["--config-file", args.config, *args.opts])
        package = _package_of(architecture_of(run))
        cfg = build_config(run, [importlib.import_module(f"{package}.commands.train").load_model()])
        if args.check:
            return 1 if check_sets(_set_arguments(cfg)) else 0
        draw = importlib.import_module(f"{package}.data.inspect").build_drawing(cfg)
        samples = (sample for batch in Trainer.build_train_loader(cfg) for sample in batch)
        draw_samples(samples, draw, args.output, args.count)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
