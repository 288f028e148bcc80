"""Segment a clip after its first frame or after other examples (SegGPT sec. 4.4).

Each frame is painted after the anchor (the given examples) and the last frames with their own
answers, feature-ensembled. Memory does not grow with the clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from seggpt import pictures
from seggpt.colours import THRESHOLD, paint_labels
from seggpt.frames import Frame
from seggpt.labels import read_mask
from seggpt.predictor import Prediction, SegGPTPredictor
from seggpt.prompts import Prompts


@dataclass(frozen=True)
class VideoResult:
    """One frame and its answer; `given` where the answer is the mask that the user gave."""

    frame: Frame
    prediction: Prediction
    given: bool = False


class VideoSegmenter:
    """Carries labels through clips.

    Args:
        predictor: does the painting.
        memory: how many of the last frames join the anchor. 0 makes frames independent of each other:
            they then go through the network in batches. The paper's best uses 8 examples in all.
        separate: a pass per object instead of a colour each; the passes share the image stream.
        fit, tile, threshold: see `SegGPTPredictor`; `tile` needs memory 0.

    Frames in which nothing was found are not remembered: an empty example says only that things vanish.
    """

    def __init__(
        self,
        predictor: SegGPTPredictor,
        *,
        memory: int = 7,
        separate: bool = False,
        fit: str = "squash",
        tile: int | None = None,
        threshold: float = THRESHOLD,
    ):
        if memory < 0:
            raise ValueError(f"memory is a number of frames, 0 or more; got {memory}")
        if memory and tile is not None:
            raise ValueError(
                "tiles show things larger than the whole frames that are remembered; use tile with memory=0"
            )
        self.predictor = predictor
        self.memory = memory
        self.separate = separate
        self.fit = fit
        self.options = {"fit": fit, "tile": tile, "threshold": threshold}

    def from_first_frame(
        self, frames: Iterable[Frame], mask: Any | Callable[[np.ndarray], Any], type: str = "instance"
    ) -> Iterator[VideoResult]:
        """Follow what `mask` marks in the first frame; all are yielded, the first with the mask itself.

        Args:
            frames: in order; consumed as results are.
            mask: of the first frame's size, in any form that `seggpt.labels` lists; or a function that
                makes it of the first frame's pixels, whichever frame that is.

        Raises:
            ValueError: if the clip has no frame, its first was left out, or the mask does not fit it.
        """
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            raise ValueError("the clip has no frame")
        if callable(mask):
            mask = mask(first.pixels)
        elif first.index:
            raise ValueError(
                f"the mask is of frame 0, which was left out because it cannot be read (next is {first.name})"
            )
        prompts = self.predictor.encode_prompts(
            first.pixels, mask, type=type, separate=self.separate, fit=self.fit
        )
        yield VideoResult(first, _given(read_mask(mask, first.pixels.shape[:2], type), prompts), given=True)
        yield from self.from_prompts(frames, prompts)

    def from_prompts(self, frames: Iterable[Frame], prompts: Prompts) -> Iterator[VideoResult]:
        """Follow what the prompts show; every frame is predicted, the first included.

        Raises:
            ValueError: for memory with a spatial ensemble, whose canvas cannot take frames in.
        """
        if not self.memory:
            yield from self._independent(frames, prompts)
            return
        if prompts.ensemble != "feature":
            raise ValueError("memory needs prompts with ensemble='feature'; encode them so, or use memory=0")
        recent: deque[_Remembered] = deque(maxlen=self.memory)
        anchor = _anchor(prompts)
        for frame in frames:
            prediction = self.predictor(
                frame.pixels, self._with_memory(prompts, anchor, recent), **self.options
            )
            labels = self.predictor.canvas_labels(prediction, self.fit)
            if labels.any():
                fitted = pictures.fit_picture(frame.pixels, self.predictor.size, self.fit)
                recent.append(_Remembered(fitted.pixels, labels, fitted.covered))
            yield VideoResult(frame, prediction)

    def _independent(self, frames: Iterable[Frame], prompts: Prompts) -> Iterator[VideoResult]:
        batch: list[Frame] = []

        def flush() -> Iterator[VideoResult]:
            found = self.predictor.batch([f.pixels for f in batch], prompts, **self.options)
            yield from (VideoResult(f, p) for f, p in zip(batch, found))
            batch.clear()

        for frame in frames:
            batch.append(frame)
            if len(batch) == self.predictor.batch_size:
                yield from flush()
        yield from flush()

    def _with_memory(self, prompts: Prompts, anchor: list[_Remembered], recent: deque) -> Prompts:
        if not recent:
            return prompts
        examples = [*anchor, *recent]
        return self.predictor.encode_canvases(
            [e.pixels for e in examples],
            [e.labels for e in examples],
            prompts.labels,
            prompts.colours,
            type=prompts.type,
            separate=prompts.separate,
            covered=[e.covered for e in examples],
        )


class _Remembered(NamedTuple):
    """An example on the network's canvas: (h, w, 3) pixels, (h, w) labels, the part that is picture."""

    pixels: np.ndarray
    labels: np.ndarray
    covered: tuple[int, int]


def _anchor(prompts: Prompts) -> list[_Remembered]:
    """The prompts as they were given, their labels read back from their paintings, which are exact."""
    return [
        _Remembered(image, labels, covered)
        for image, labels, covered in zip(prompts.images, prompts.label_maps(), prompts.covered())
    ]


def _given(mask: np.ndarray, prompts: Prompts) -> Prediction:
    """The first frame's mask in the form of an answer."""
    if mask.ndim == 3:
        painting = mask
        matches = [(mask == colour).all(-1) for colour in prompts.colours]
        label_map = np.zeros(mask.shape[:2], np.int32)
        for label, match in zip(prompts.labels, matches):
            label_map[match] = label
    else:
        label_map, painting = mask, paint_labels(mask, prompts.labels, prompts.colours)
    scores = {int(label): (label_map == label).astype(np.float32) for label in prompts.labels}
    return Prediction(label_map, scores, painting)
