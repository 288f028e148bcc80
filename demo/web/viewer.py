"""Pictures side by side in tabs, with the name of what lies under the pointer and a legend that lights it up.

The HTML is still; assets/viewer.js moves it. Every view carries, beside its picture, a small PNG whose pixels
are the numbers of its regions.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import cv2
import numpy as np
from PIL import Image

from segcore.formats.shapes import shapes_of, tasks_of
from segcore.predictions import Prediction
from segcore.visualization import render
from segcore.visualization.colors import display_color

_LONG_SIDE = 1280  # of a shown picture, pixels
_MAP_SIDE = 640  # of the map of regions under it
_TITLES = {"panoptic": "Panoptic", "instance": "Instance", "semantic": "Semantic"}


@dataclass(frozen=True)
class Region:
    """One segment, object or class: its name, a note such as "31 %", and its colour."""

    name: str
    note: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """One tab.

    Attributes:
        title: on the tab.
        picture: (H, W, 3) uint8 RGB.
        note: under the picture.
        regions: what can be pointed at.
        numbers: (h, w) of any size: region i where it is i + 1, none where it is 0.
    """

    title: str
    picture: np.ndarray
    note: str = ""
    regions: Sequence[Region] = field(default_factory=tuple)
    numbers: np.ndarray | None = None


def prediction_views(image: np.ndarray, prediction: Prediction) -> list[View]:
    """A view for each task that the prediction holds, and the photograph last."""
    views = []
    for task in tasks_of(prediction):
        regions, numbers = _regions(prediction, task)
        picture = render(image, prediction, task, _LONG_SIDE)
        views.append(View(_TITLES[task], picture, _note(task, regions), regions, numbers))
    return [*views, View("Photograph", image)]


def label_views(image: np.ndarray, prediction: Prediction, title: str) -> list[View]:
    """The panoptic result alone, under a title of its own."""
    regions, numbers = _regions(prediction, "panoptic")
    note = "" if regions else "Nothing like the examples was found here."
    return [View(title, render(image, prediction, "panoptic", _LONG_SIDE), note, regions, numbers)]


def viewer(views: Sequence[View]) -> str:
    """The HTML of some views; the first is shown."""
    if not views:
        return ""
    tabs = "".join(
        f'<button type="button" role="tab" class="sv-tab{" sv-on" * (i == 0)}" data-view="{i}">'
        f"{escape(view.title)}</button>"
        for i, view in enumerate(views)
    )
    panes = "".join(_pane(view, i) for i, view in enumerate(views))
    return f'<div class="sv"><div class="sv-tabs" role="tablist">{tabs}</div>{panes}</div>'


def empty(title: str, text: str) -> str:
    """What stands where nothing is to be seen yet."""
    return f'<div class="sv-empty"><div><b>{escape(title)}</b><p>{escape(text)}</p></div></div>'


def progress_bar(done: int, total: int | None, text: str) -> str:
    """A bar, without an end where the total is not known, with a line of text."""
    width = 100 * done / total if total else 30
    return (
        f'<div class="sv-progress{"" if total else " sv-endless"}"><div style="width:{width:.1f}%"></div></div>'
        f'<div class="sv-progress-text">{escape(text)}</div>'
    )


def data_url(picture: np.ndarray, long_side: int = _LONG_SIDE) -> str:
    """A picture as JPEG inside of a URL, reduced where it is larger."""
    height, width = picture.shape[:2]
    scale = min(1.0, long_side / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def png_url(values: np.ndarray) -> str:
    """(H, W) numbers below 65536 as a PNG inside of a URL: red has the low byte, green the high one."""
    rgb = np.zeros((*values.shape, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = values & 255, values >> 8
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _pane(view: View, index: int) -> str:
    data = ""
    if view.numbers is not None and view.regions:
        rows = [[region.name, region.note] for region in view.regions]
        data = f' data-map="{png_url(_small(view.numbers))}" data-regions="{escape(json.dumps(rows), quote=True)}"'
    height, width = view.picture.shape[:2]
    note = f'<div class="sv-note">{escape(view.note)}</div>' if view.note else ""
    return (
        f'<div class="sv-pane{" sv-on" * (index == 0)}" data-view="{index}">'
        f'<div class="sv-stage"{data} style="aspect-ratio:{width}/{height};--ratio:{width / height:.4f}">'
        f'<img alt="{escape(view.title, quote=True)}" src="{data_url(view.picture)}" draggable="false">'
        f'<canvas class="sv-lit"></canvas><div class="sv-tip"></div></div>{note}{_legend(view.regions)}</div>'
    )


def _legend(regions: Sequence[Region]) -> str:
    """A chip per name, with the numbers of its regions."""
    chips: dict[str, tuple[tuple[int, int, int], list[int], list[str]]] = {}
    for i, region in enumerate(regions, 1):
        _, numbers, notes = chips.setdefault(region.name, (region.color, [], []))
        numbers.append(i)
        notes.append(region.note)
    rows = []
    for name, (color, numbers, notes) in chips.items():
        note = notes[0] if len(notes) == 1 else f"{len(notes)} ×"
        rows.append(
            f'<button type="button" class="sv-chip" data-numbers="{",".join(map(str, numbers))}">'
            f'<i style="background:rgb{color}"></i>{escape(name)}<small>{escape(note)}</small></button>'
        )
    return f'<div class="sv-legend">{"".join(rows)}</div>' if rows else ""


def _regions(prediction: Prediction, task: str) -> tuple[list[Region], np.ndarray]:
    """Regions and their map; of objects that overlap, the best is on top."""
    shapes = shapes_of(prediction, task)
    numbers = np.zeros(prediction.size, np.int32)
    for number in range(len(shapes), 0, -1):
        numbers[shapes[number - 1].mask] = number
    regions = []
    for shape in shapes:
        share = _percent(shape.mask.mean())
        note = share if shape.score is None else f"{shape.score:.0%} sure"
        regions.append(Region(shape.name, note, display_color(shape.color)))
    return regions, numbers


def _note(task: str, regions: Sequence[Region]) -> str:
    count = len(regions)
    if not count:
        return "Nothing was found. A lower confidence shows what the model is less sure of."
    words = {"panoptic": "segments", "instance": "objects", "semantic": "classes"}
    return f"{count} {words[task] if count > 1 else words[task].rstrip('s').replace('classe', 'class')}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


def _small(numbers: np.ndarray) -> np.ndarray:
    """The map of regions, reduced to the nearest pixel."""
    scale = min(1.0, _MAP_SIDE / max(numbers.shape))
    rows = ((np.arange(max(1, round(numbers.shape[0] * scale))) + 0.5) / scale).astype(np.int64)
    columns = ((np.arange(max(1, round(numbers.shape[1] * scale))) + 0.5) / scale).astype(np.int64)
    return numbers[np.minimum(rows, numbers.shape[0] - 1)[:, None], np.minimum(columns, numbers.shape[1] - 1)]
