"""Whole runs: pictures or a clip in, files out. What the command line calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segcore.predictions import Prediction as Result
from segcore.results import ResultWriter, write_picture
from segcore.video import VideoWriter
from seggpt.drawing import joint_picture, label_colours, overlay, save_label_map
from seggpt.frames import Clip
from seggpt.pictures import read_picture
from seggpt.predictor import Prediction, SegGPTPredictor
from seggpt.prompts import Prompts
from seggpt.video import VideoResult, VideoSegmenter

Shown = tuple[np.ndarray, np.ndarray]  # a picture and its label map
_SHOWN = 4  # results that the joint picture has


@dataclass
class Report:
    """What a run did: results written, how many of them have no label, sentences about what was left out,
    and pictures to show."""

    written: int = 0
    empty: int = 0
    skipped: list[str] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)


def segment_pictures(
    predictor: SegGPTPredictor,
    prompts: Prompts,
    files: Sequence[tuple[str, str]],
    output: str | os.PathLike,
    *,
    skip: bool = False,
    formats: Sequence[str] | None = None,
    **options: Any,
) -> Report:
    """Segment picture files; write NAME_labels.png, NAME_painting.png and NAME_overlay.jpg for each.

    Args:
        files: (path, NAME) of each.
        skip: leave out what cannot be read, instead of ending there.
        formats: write COCO's panoptic format too, and these of `segcore.formats.FORMATS`; None does not.
        options: for `SegGPTPredictor.batch`.

    Raises:
        FileNotFoundError, ValueError: at the first file that cannot be read, unless they are left out.
    """
    report, step = Report(), predictor.batch_size
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(files), unit="picture", disable=None))
        writer = None
        if formats is not None:
            classes = typed_result(np.zeros((1, 1), np.int32), prompts.labels).classes
            writer = stack.enter_context(ResultWriter(output, classes, formats))
        for start in range(0, len(files), step):
            images, paths = {}, {}
            for path, name in files[start : start + step]:
                try:
                    images[name], paths[name] = read_picture(path), str(path)
                except (ValueError, FileNotFoundError) as error:
                    if not skip:
                        raise
                    report.skipped.append(str(error))
            found = predictor.batch(list(images.values()), prompts, **options)
            for (name, image), prediction in zip(images.items(), found):
                _write_picture(Path(output) / name, image, prediction)
                if writer is not None:
                    writer.add(name, paths[name], typed_result(prediction.label_map, prompts.labels))
                report.written += 1
                report.empty += not prediction.label_map.any()
                if len(report.shown) < _SHOWN:
                    report.shown.append((image, prediction.label_map))
            bar.update(len(files[start : start + step]))
    return report


def typed_result(label_map: np.ndarray, labels: Iterable[int]) -> Result:
    """A label map (H, W) as the result that `segcore.results` and `segcore.formats` write: a class per label."""
    numbers = [int(label) for label in labels]
    colors = {n: tuple(int(v) for v in color) for n, color in zip(numbers, label_colours(numbers))}
    return Result.from_label_map(label_map, {n: f"label {n}" for n in numbers}, colors)


def _write_picture(base: Path, image: np.ndarray, prediction: Prediction) -> None:
    save_label_map(f"{base}_labels.png", prediction.label_map)
    write_picture(f"{base}_painting.png", prediction.painting)
    write_picture(f"{base}_overlay.jpg", overlay(image, prediction.label_map))


def segment_clip(
    segmenter: VideoSegmenter,
    clip: Clip,
    output: str | os.PathLike,
    *,
    prompts: Prompts | None = None,
    first_mask: Any | Callable[[np.ndarray], Any] = None,
    type: str = "instance",
) -> Report:
    """Segment a clip while it is read; write masks/NAME.png for each frame and overlay.mp4.

    Ctrl-C ends a camera's clip, with all that it has shown so far.

    Args:
        prompts: examples from elsewhere; or
        first_mask: of the clip's first frame, or a function that makes it of that frame, with its `type`.

    Raises:
        ValueError: if neither or both are given; FrameError at a frame that cannot be read, unless the
            clip leaves such frames out: the masks so far are there then, the video is not.
    """
    if (prompts is None) == (first_mask is None):
        raise ValueError("a clip needs prompts, or a mask of its first frame: one of the two")
    output, report = Path(output), Report(skipped=clip.skipped)
    results = (
        segmenter.from_prompts(clip, prompts)
        if first_mask is None
        else segmenter.from_first_frame(clip, first_mask, type)
    )
    with VideoWriter(output / "overlay.mp4", clip.fps) as video:
        try:
            for result in tqdm(results, total=clip.length, unit="frame", disable=None):
                report.written += 1
                report.empty += not result.prediction.label_map.any()
                drawn = _write_frame(result, output, video)
                if report.written in _spread(clip.length):
                    report.shown.append(drawn)
        except KeyboardInterrupt:
            if clip.length is not None:
                raise
    return report


def _write_frame(result: VideoResult, output: Path, video: VideoWriter) -> Shown:
    labels, pixels = result.prediction.label_map, result.frame.pixels
    save_label_map(output / "masks" / f"{result.frame.name}.png", labels)
    video.add(overlay(pixels, labels))
    return pixels, labels


def _spread(length: int | None) -> set[int]:
    """Which frames (from 1) to show: spread over the clip, or the first ones of a camera."""
    if not length:
        return set(range(1, _SHOWN + 1))
    return {round(1 + i * (length - 1) / (_SHOWN - 1)) for i in range(_SHOWN)}


def write_joint_picture(path: str | os.PathLike, prompts: Iterable[Shown], results: Iterable[Shown]) -> None:
    """Prompts, their masks and what came of them in one picture file; see `seggpt.drawing.joint_picture`."""
    write_picture(path, joint_picture(list(prompts), list(results)))
