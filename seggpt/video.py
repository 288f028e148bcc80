"""Segment a clip after its first frame or after other examples (SegGPT sec. 4.4).

Each frame is painted after the anchor (the given examples) and the last frames with their own
answers, feature-ensembled. Memory does not grow with the clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from seggpt import pictures
from seggpt.colours import paint_labels
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
        threshold: of a label's score, see `SegGPTPredictor`.

    Frames in which nothing was found are not remembered: an empty example says only that things vanish.
    """

    def __init__(
        self, predictor: SegGPTPredictor, *, memory: int = 7, separate: bool = False, threshold: float = 0.5
    ):
        if memory < 0:
            raise ValueError(f"memory is a number of frames, 0 or more; got {memory}")
        self.predictor = predictor
        self.memory = memory
        self.separate = separate
        self.threshold = threshold

    def from_first_frame(
        self, frames: Iterable[Frame], mask: Any, type: str = "instance"
    ) -> Iterator[VideoResult]:
        """Follow what `mask` marks in the first frame; all are yielded, the first with the mask itself.

        Args:
            frames: in order; consumed as results are.
            mask: of the first frame's size, in any form that `seggpt.labels` lists.

        Raises:
            ValueError: if the clip has no frame, its first was left out, or the mask does not fit it.
        """
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            raise ValueError("the clip has no frame")
        if first.index:
            raise ValueError(
                f"the mask is of frame 0, which was left out because it cannot be read (next is {first.name})"
            )
        prompts = self.predictor.encode_prompts(first.pixels, mask, type=type, separate=self.separate)
        yield VideoResult(first, _given(read_mask(mask, first.pixels.shape[:2], type), prompts), given=True)
        yield from self.from_prompts(frames, prompts)

    def from_prompts(self, frames: Iterable[Frame], prompts: Prompts) -> Iterator[VideoResult]:
        """Follow what the prompts show; every frame is predicted, the first included.

        Raises:
            ValueError: for memory with prompts that are spatially ensembled or padded: their canvas
                cannot take frames in.
        """
        if not self.memory:
            yield from self._independent(frames, prompts)
            return
        if prompts.ensemble != "feature" or prompts.features.padding is not None:
            raise ValueError(
                "memory needs prompts with ensemble='feature' and fit='squash'; encode them so, or "
                "use memory=0"
            )
        recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=self.memory)
        anchor = _anchor(prompts)
        for frame in frames:
            prediction = self.predictor(
                frame.pixels, self._with_memory(prompts, anchor, recent), threshold=self.threshold
            )
            labels = self.predictor.canvas_labels(prediction)
            if labels.any():
                size = self.predictor.size
                recent.append((pictures.fit_picture(frame.pixels, size, "squash").pixels, labels))
            yield VideoResult(frame, prediction)

    def _independent(self, frames: Iterable[Frame], prompts: Prompts) -> Iterator[VideoResult]:
        batch: list[Frame] = []

        def flush() -> Iterator[VideoResult]:
            found = self.predictor.batch([f.pixels for f in batch], prompts, threshold=self.threshold)
            yield from (VideoResult(f, p) for f, p in zip(batch, found))
            batch.clear()

        for frame in frames:
            batch.append(frame)
            if len(batch) == self.predictor.batch_size:
                yield from flush()
        yield from flush()

    def _with_memory(self, prompts: Prompts, anchor: list[np.ndarray], recent: deque) -> Prompts:
        if not recent:
            return prompts
        images = [*prompts.images, *(image for image, _ in recent)]
        labels = [*anchor, *(label_map for _, label_map in recent)]
        return self.predictor.encode_canvases(
            images, labels, prompts.labels, prompts.colours, type=prompts.type, separate=prompts.separate
        )


def _anchor(prompts: Prompts) -> list[np.ndarray]:
    """The prompts' label maps (h, w), read back from their paintings, which are exact."""
    maps = []
    for k in range(len(prompts.images)):
        labels = np.zeros(prompts.images.shape[1:3], np.int32)
        for i, label in enumerate(prompts.labels):
            painted = prompts.targets[i, k] if prompts.separate else prompts.targets[0, k]
            colour = np.uint8(255) if prompts.separate else prompts.colours[i]
            labels[(painted == colour).all(-1)] = label
        maps.append(labels)
    return maps


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
