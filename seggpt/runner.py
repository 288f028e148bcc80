"""Whole runs: pictures or a clip in, files out. What the command line calls."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from seggpt.drawing import VideoWriter, joint_picture, overlay, save_label_map
from seggpt.frames import Clip
from seggpt.pictures import read_picture
from seggpt.predictor import SegGPTPredictor
from seggpt.prompts import Prompts
from seggpt.video import VideoResult, VideoSegmenter

Shown = tuple[np.ndarray, np.ndarray]  # a picture and its label map
_SHOWN = 4  # results that the joint picture has


@dataclass(frozen=True)
class Report:
    """What a run did: results written, sentences about what was left out, and pictures to show."""

    written: int
    skipped: list[str]
    shown: list[Shown]


def segment_pictures(
    predictor: SegGPTPredictor,
    prompts: Prompts,
    files: Sequence[str],
    output: str | os.PathLike,
    **options: Any,
) -> Report:
    """Segment picture files; write STEM_labels.png, STEM_painting.png and STEM_overlay.jpg for each.

    Args:
        options: for `SegGPTPredictor.batch`.

    Raises:
        FileNotFoundError, ValueError: at the first file that cannot be read.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    stems, shown, step = _unique_stems(files), [], predictor.batch_size
    with tqdm(total=len(files), unit="picture", disable=None) as bar:
        for start in range(0, len(files), step):
            images = [read_picture(file) for file in files[start : start + step]]
            found = predictor.batch(images, prompts, **options)
            for stem, image, prediction in zip(stems[start : start + step], images, found):
                save_label_map(output / f"{stem}_labels.png", prediction.label_map)
                Image.fromarray(prediction.painting).save(output / f"{stem}_painting.png")
                Image.fromarray(overlay(image, prediction.label_map)).save(
                    output / f"{stem}_overlay.jpg", quality=92
                )
                if len(shown) < _SHOWN:
                    shown.append((image, prediction.label_map))
                bar.update()
    return Report(len(files), [], shown)


def segment_clip(
    segmenter: VideoSegmenter,
    clip: Clip,
    output: str | os.PathLike,
    *,
    prompts: Prompts | None = None,
    first_mask: Any = None,
    type: str = "instance",
) -> Report:
    """Segment a clip while it is read; write masks/NAME.png for each frame and overlay.mp4.

    Args:
        prompts: examples from elsewhere; or
        first_mask: of the clip's first frame, with its `type`.

    Raises:
        ValueError: if neither or both are given; FrameError at a frame that cannot be read, unless the
            clip leaves such frames out.
    """
    if (prompts is None) == (first_mask is None):
        raise ValueError("a clip needs prompts, or a mask of its first frame: one of the two")
    output = Path(output)
    (output / "masks").mkdir(parents=True, exist_ok=True)
    results = (
        segmenter.from_prompts(clip, prompts)
        if first_mask is None
        else segmenter.from_first_frame(clip, first_mask, type)
    )
    shown, written = [], 0
    with VideoWriter(output / "overlay.mp4", clip.fps) as video:
        for result in tqdm(results, total=clip.length, unit="frame", disable=None):
            written += 1
            drawn = _write_frame(result, output, video)
            if written in _spread(clip.length):
                shown.append(drawn)
    return Report(written, clip.skipped, shown)


def _write_frame(result: VideoResult, output: Path, video: VideoWriter) -> Shown:
    labels, pixels = result.prediction.label_map, result.frame.pixels
    save_label_map(output / "masks" / f"{result.frame.name}.png", labels)
    video.write(overlay(pixels, labels))
    return pixels, labels


def _spread(length: int | None) -> set[int]:
    """Which frames (from 1) to show: spread over the clip, or the first ones of a camera."""
    if not length:
        return set(range(1, _SHOWN + 1))
    return {round(1 + i * (length - 1) / (_SHOWN - 1)) for i in range(_SHOWN)}


def write_joint_picture(path: str | os.PathLike, prompts: Iterable[Shown], results: Iterable[Shown]) -> None:
    """Prompts, their masks and what came of them in one picture file; see `seggpt.drawing.joint_picture`."""
    Image.fromarray(joint_picture(list(prompts), list(results))).save(path, quality=92)


def _unique_stems(files: Sequence[str]) -> list[str]:
    """File names without extension; where two are equal, with the folder's name in front, then a number."""

    def names() -> Iterator[str]:
        seen: set[str] = set()
        for file in map(Path, files):
            choices = (file.stem, f"{file.parent.name}_{file.stem}")
            name = next((c for c in choices if c not in seen), f"{file.stem}_{len(seen)}")
            seen.add(name)
            yield name

    return list(names())
