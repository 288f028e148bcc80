"""Labels: each on its segment, or beside a small one; none covers another; specks have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import Color, ink

_CANDIDATES = 6  # places tried for one label
_GAP = 3  # between a label and the object beside which it stands, pixels
_COVER = 2.0  # a label lies on its segment if that is this much larger, else beside it
_LEAST_PART = 0.12  # segments smaller than this part of their label get none

Box2 = tuple[int, int]  # width, height; or a point x, y
Box4 = tuple[int, int, int, int]  # x0, y0, x1, y1, the last two exclusive


@dataclass(frozen=True)
class Label:
    """A text that belongs to a mask. `mask`: (H, W) bool; larger `weight` is placed first."""

    text: str
    mask: np.ndarray
    color: Color
    weight: float


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib's wheel carries: it has the letters of most class names."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = Path(find_spec("matplotlib").submodule_search_locations[0])
    return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / name, size)


def text_size(text: str, size: int, bold: bool = False) -> tuple[int, int]:
    """(width, height) in pixels; the height is that of a line, the same for every text."""
    face = font(size, bold)
    ascent, descent = face.getmetrics()
    return round(face.getlength(text)), ascent + descent


def rounded_box(size: tuple[int, int], radius: int, fill: tuple[int, int, int, int]) -> Image.Image:
    """A filled box with smooth round corners, RGBA; `size` is (width, height)."""
    box = Image.new("RGBA", size, fill)
    scale = 4  # PIL draws hard pixels: draw large, then shrink
    alpha = Image.new("L", (size[0] * scale, size[1] * scale))
    ImageDraw.Draw(alpha).rounded_rectangle(
        (0, 0, alpha.width - 1, alpha.height - 1), radius=radius * scale, fill=fill[3]
    )
    box.putalpha(alpha.resize(size, Image.Resampling.BOX))
    return box


def draw_labels(image: np.ndarray, labels: Sequence[Label], size: int) -> np.ndarray:
    """Draw the labels that find a free place.

    Args:
        image: (H, W, 3) uint8.
        labels: their masks have the image's size.
        size: of the font, pixels.
    """
    height, width = image.shape[:2]
    taken: list[Box4] = []
    canvas = Image.fromarray(image).convert("RGBA")
    layer = Image.new("RGBA", canvas.size)
    for label in sorted(labels, key=lambda label: -label.weight):
        text_width, text_height = text_size(label.text, size, bold=True)
        box_size = text_width + size, text_height + size // 3
        if box_size[0] > width or box_size[1] > height:
            continue
        place = _free_place(label.mask, box_size, taken)
        if place is not None:
            taken.append(place)
            _draw_label(layer, place, label, size)
    return np.asarray(Image.alpha_composite(canvas, layer).convert("RGB"))


def _draw_label(layer: Image.Image, place: Box4, label: Label, size: int) -> None:
    x0, y0, x1, y1 = place
    # A dark shade of the class colour: readable on any photograph, and still says which class.
    shade = tuple(round(0.28 * v) for v in label.color)
    layer.paste(rounded_box((x1 - x0, y1 - y0), (y1 - y0) // 3, (*shade, 205)), (x0, y0))
    ImageDraw.Draw(layer).text(
        ((x0 + x1) / 2, (y0 + y1) / 2),
        label.text,
        font=font(size, bold=True),
        fill=(*ink(shade), 255),
        anchor="mm",
    )


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 3:
        return mask
    return parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


def _free_place(mask: np.ndarray, box_size: Box2, taken: Sequence[Box4]) -> Box4 | None:
    """The box of a label: on its mask if that is large, else beside it; None if it would be in the way."""
    room, needed = np.count_nonzero(mask), box_size[0] * box_size[1]
    if room < _LEAST_PART * needed:
        return None
    places = _places_on(mask, box_size) if room > _COVER * needed else _places_beside(mask, box_size)
    return next((box for box in places if not any(_overlap(box, other) for other in taken)), None)


def _places_on(mask: np.ndarray, box_size: Box2) -> Iterator[Box4]:
    """Boxes that lie deep inside of the mask, the deepest first."""
    width, height = box_size
    left, top, right, bottom = _bounds(mask)
    part = np.pad(mask[top:bottom, left:right], 1).astype(np.uint8)
    depth = cv2.distanceTransform(part, cv2.DIST_L2, 3)
    # How much of a label centred here lies on the segment, and how deep its surroundings are.
    fit = cv2.boxFilter(part, cv2.CV_32F, (width, height), borderType=cv2.BORDER_CONSTANT)
    fit *= cv2.boxFilter(depth, cv2.CV_32F, (2 * width, 2 * height), borderType=cv2.BORDER_CONSTANT)
    fit[depth == 0] = 0
    for _ in range(_CANDIDATES):
        y, x = np.unravel_index(fit.argmax(), fit.shape)
        if fit[y, x] <= 0:
            return
        yield _inside((left + int(x) - 1, top + int(y) - 1), box_size, mask.shape)
        # Not there: forget the surroundings, so that the next try is elsewhere.
        cv2.circle(fit, (int(x), int(y)), max(width // 2, int(depth[y, x] * 0.7), 1), 0, -1)


def _places_beside(mask: np.ndarray, box_size: Box2) -> Iterator[Box4]:
    """Boxes above, below, right and left of the mask's largest part, where the picture has room."""
    width, height = box_size
    x0, y0, x1, y1 = bounds = _bounds(largest_part(mask))
    middle = (x0 + x1) // 2, (y0 + y1) // 2
    gap_x, gap_y = width // 2 + _GAP, height // 2 + _GAP
    for centre in (
        (middle[0], y0 - gap_y),
        (middle[0], y1 + gap_y),
        (x1 + gap_x, middle[1]),
        (x0 - gap_x, middle[1]),
    ):
        box = _inside(centre, box_size, mask.shape)
        if not _overlap(box, bounds, gap=0):
            yield box


def _bounds(mask: np.ndarray) -> Box4:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _inside(
    centre: tuple[int, int], size: tuple[int, int], shape: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box around `centre` (x, y), moved so that it lies in a picture of `shape` (height, width)."""
    x0 = min(max(centre[0] - size[0] // 2, 0), shape[1] - size[0])
    y0 = min(max(centre[1] - size[1] // 2, 0), shape[0] - size[1])
    return x0, y0, x0 + size[0], y0 + size[1]


def _overlap(a: Sequence[int], b: Sequence[int], gap: int = 2) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap
