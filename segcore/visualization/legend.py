"""The legend: a swatch, a name and a number for each class that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .colors import Color
from .labels import font, rounded_box, text_size

PAPER = (255, 255, 255)
INK = (34, 38, 44)
QUIET = (124, 130, 138)


@dataclass(frozen=True)
class Entry:
    """One class: its colour, its name and what is said of it, such as "31.4 %" or "5 objects"."""

    color: Color
    name: str
    note: str


def legend(
    entries: Sequence[Entry], width: int, size: int, margin: int = 0, empty: str = "nothing found"
) -> np.ndarray:
    """Entries in columns of equal width, filled row by row.

    Args:
        entries: in the order in which they are shown.
        width: of the strip, pixels.
        size: of the font, pixels.
        margin: left and right, pixels.
        empty: what is written when there are no entries.

    Returns:
        (h, width, 3) uint8.
    """
    swatch, gap = round(1.1 * size), round(0.5 * size)
    line = round(1.85 * size)
    cells = [swatch + gap + text_size(f"{e.name}  {e.note}", size)[0] + 2 * size for e in entries]
    column = max(cells, default=1)
    columns = max(1, min(len(entries), (width - 2 * margin + size) // column))
    # Columns share the strip evenly, but never drift apart.
    column = min(max(column, (width - 2 * margin + size) // columns), round(1.5 * column))
    rows = max(1, -(-len(entries) // columns))
    strip = Image.new("RGB", (width, rows * line + 2 * (size // 2) + size // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    if not entries:
        draw.text((margin, strip.height / 2), empty, font=font(size), fill=QUIET, anchor="lm")
    for number, entry in enumerate(entries):
        x = margin + (number % columns) * column
        y = size // 2 + size // 4 + (number // columns) * line + line / 2
        box = rounded_box((swatch, swatch), swatch // 4, (*entry.color, 255))
        strip.paste(box, (x, round(y - swatch / 2)), box)
        x += swatch + gap
        draw.text((x, y), entry.name, font=font(size), fill=INK, anchor="lm")
        x += text_size(entry.name + "  ", size)[0]
        draw.text((x, y), entry.note, font=font(size), fill=QUIET, anchor="lm")
    return np.asarray(strip)


def title(text: str, note: str, width: int, size: int) -> np.ndarray:
    """A line with a heading and, quieter, a note behind it; (h, width, 3) uint8."""
    strip = Image.new("RGB", (width, round(2.1 * size)), PAPER)
    draw = ImageDraw.Draw(strip)
    middle = strip.height * 0.55
    draw.text((0, middle), text, font=font(size, bold=True), fill=INK, anchor="lm")
    start = text_size(text + "  ", size, bold=True)[0]
    if start + text_size(note, round(0.86 * size))[0] <= width:
        draw.text((start, middle), note, font=font(round(0.86 * size)), fill=QUIET, anchor="lm")
    return np.asarray(strip)
