"""Where windows lie in an image that is larger than they are, and which pixels each of them decides.

Rectangles are (top, left, bottom, right), the last two exclusive, in pixels.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Rectangle(NamedTuple):
    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, outer: Rectangle) -> Rectangle:
        """The common part, in the coordinates of `outer`; empty where there is none."""
        top, left = max(self.top, outer.top), max(self.left, outer.left)
        bottom, right = max(top, min(self.bottom, outer.bottom)), max(left, min(self.right, outer.right))
        return Rectangle(top - outer.top, left - outer.left, bottom - outer.top, right - outer.left)


class Window(NamedTuple):
    """seen: what the model is shown; core: the part of it that no other window is nearer to."""

    seen: Rectangle
    core: Rectangle


def windows(size: tuple[int, int], window: tuple[int, int], overlap: float) -> list[Window]:
    """Windows that cover an image, row by row; their cores tile it.

    Args:
        size: (height, width) of the image.
        window: (height, width) of a window; an image that is smaller has one window of its own size.
        overlap: least common part of neighbours, 0..<1 of the window; they are spread evenly.

    Raises:
        ValueError: a window without pixels, or an overlap outside of [0, 1).
    """
    if min(window) < 1 or not 0 <= overlap < 1:
        raise ValueError(f"window {window}, overlap {overlap}; expected pixels, and an overlap in [0, 1)")
    rows = _along(size[0], window[0], overlap)
    columns = _along(size[1], window[1], overlap)
    return [
        Window(Rectangle(top, left, bottom, right), Rectangle(core_top, core_left, core_bottom, core_right))
        for (top, bottom), (core_top, core_bottom) in rows
        for (left, right), (core_left, core_right) in columns
    ]


def scaled(rectangle: Rectangle, size: tuple[int, int], output_size: tuple[int, int]) -> Rectangle:
    """The rectangle of an image of `size` in one of `output_size`, to the nearest pixel."""
    vertical, horizontal = output_size[0] / size[0], output_size[1] / size[1]
    return Rectangle(
        round(rectangle.top * vertical),
        round(rectangle.left * horizontal),
        round(rectangle.bottom * vertical),
        round(rectangle.right * horizontal),
    )


def _along(length: int, window: int, overlap: float) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(start, end) of what is seen and of the core, of each window along one side."""
    window = min(window, length)
    step = max(1, int(window * (1 - overlap)))
    count = 1 + -(-(length - window) // step)
    starts = [round(i * (length - window) / max(1, count - 1)) for i in range(count)]
    # Neighbours share their common part half and half.
    borders = [0, *((a + window + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return [((start, start + window), (low, high)) for start, low, high in zip(starts, borders, borders[1:])]
