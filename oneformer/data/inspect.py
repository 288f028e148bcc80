"""Look at training samples as the model gets them: `python -m oneformer.data.inspect CONFIG [KEY VALUE ...]`.

For each sample a picture: the augmented image, the targets of the task that was
drawn, and the texts.  `--check` reads every label instead, and lists the bad ones.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image

from segcore.data.catalog import load_dataset
from segcore.data.training_set import check_labels
from segcore.engine import Trainer, argument_parser, build_config
from segcore.predictions import Classes, InstanceResult, PanopticResult, Prediction
from segcore.visualization import grid, render
from segcore.visualization.legend import title

from ..config import add_oneformer_config
from ..tasks import INSTANCE, PANOPTIC

_SIDE = 640  # longest side of each of the two pictures, pixels
_LINE = 18   # of the text, pixels


def draw_sample(sample: dict, classes: Classes, channel_order: str = "RGB") -> np.ndarray:
    """A training input as a picture: image and targets side by side, the texts below.

    Args:
        sample: what the mapper returns in training.
        classes: of the run.
        channel_order: of sample["image"], "RGB" or "BGR".

    Returns:
        (h, w, 3) uint8 RGB.
    """
    image = sample["image"].numpy().transpose(1, 2, 0)
    image = np.ascontiguousarray(image if channel_order == "RGB" else image[..., ::-1])
    prediction, task = _as_prediction(sample, classes)
    blank = Prediction(prediction.size, classes, PanopticResult(np.zeros(prediction.size, np.int32), []))
    pictures = [render(image, blank, PANOPTIC, _SIDE), render(image, prediction, task, _SIDE)]
    panel = grid(pictures, 2, gap=4, color=(255, 255, 255))
    width = panel.shape[1]
    heading = title(os.path.basename(sample["file_name"]), f"drawn for the {sample['task']} task", width, _LINE)
    lines = [title("", line, width, _LINE) for line in _wrapped(text_counts(sample["text"]), width)]
    return np.vstack([heading, panel, *lines])


def text_counts(texts: list[str]) -> list[str]:
    """The distinct texts in order, with how often each comes."""
    return [f"{count} x {text!r}" for text, count in Counter(texts).items()]


def _as_prediction(sample: dict, classes: Classes) -> tuple[Prediction, str]:
    """The targets as a result that can be drawn, and the task to draw it as."""
    masks = sample["instances"].gt_masks.numpy()
    indices = sample["instances"].gt_classes.numpy()
    size = masks.shape[1:]
    if sample["task"] == INSTANCE:  # they may overlap
        names = [classes.names[i] for i in indices]
        boxes = np.zeros((len(masks), 4), np.float32)
        result = InstanceResult(masks, boxes, np.ones(len(masks), np.float32), indices, names)
        return Prediction(size, classes, instance=result), INSTANCE
    ids = np.zeros(size, np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    class_of = dict(enumerate(indices.tolist(), start=1))
    return Prediction(size, classes, panoptic=PanopticResult.from_map(ids, class_of, classes)), PANOPTIC


def _wrapped(words: list[str], width: int) -> Iterator[str]:
    """The words, comma separated, in lines that about fit `width` pixels."""
    line = ""
    for word in words:
        if line and len(line) + len(word) > width / (0.55 * _LINE):
            yield line
            line = ""
        line = f"{line}, {word}" if line else word
    yield line


def draw_samples(
    samples: Iterable[dict], classes: Classes, channel_order: str, output: str, count: int
) -> list[str]:
    """Draw the first training inputs into the folder `output`; returns the paths of the pictures."""
    os.makedirs(output, exist_ok=True)
    paths = []
    for number, sample in zip(range(count), samples):
        paths.append(os.path.join(output, f"sample_{number:02d}_{sample['task']}.png"))
        Image.fromarray(draw_sample(sample, classes, channel_order)).save(paths[-1])
        height, width = sample["image"].shape[1:]
        targets = Counter(classes.names[i] for i in sample["instances"].gt_classes.tolist())
        listed = ", ".join(f"{n} x {name}" for name, n in targets.items()) or "no target"
        print(f"{paths[-1]}: {sample['file_name']}, {height}x{width}, {sample['task']}: {listed}", flush=True)
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


def build_samples(cfg) -> tuple[Iterator[dict], Classes, str]:
    """The training inputs of a config one after the other, its classes and its channel order."""
    classes = Classes.from_metadata(MetadataCatalog.get(cfg.DATASETS.CLASSES or cfg.DATASETS.TRAIN[0]))
    samples = (sample for batch in Trainer.build_train_loader(cfg) for sample in batch)
    return samples, classes, cfg.INPUT.FORMAT


def _names_arguments(cfg) -> list[str]:
    return list(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m oneformer.data.inspect",
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
        cfg = build_config(run, [add_oneformer_config])
        if args.check:
            return 1 if check_sets(_names_arguments(cfg)) else 0
        draw_samples(*build_samples(cfg), args.output, args.count)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
