"""One picture per task, and the contact sheet that shows them side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np

from segcore.predictions import Classes, InstanceResult, PanopticResult, Prediction, SemanticResult, shares

from .colors import display_color, object_color
from .labels import Label, draw_labels, largest_part
from .layers import blend_map, blend_mask, draw_borders, muted
from .legend import PAPER, Entry, legend, title

TASKS = ("panoptic", "instance", "semantic")
_TITLES = {"panoptic": "Panoptic", "instance": "Instance", "semantic": "Semantic"}
# The longest side of a rendered picture, pixels: small photographs are enlarged so that labels fit.
_LONG_SIDE = (960, 2000)
_LEAST_LEGEND = 420
_SHEET_PANEL = 960
_SMOOTHED = 256  # maps with larger values are scaled to the nearest pixel
_SOFTNESS, _SOFTEST = 0.6, 5.0  # rounding of enlarged borders: pixels of the small map, of the picture
_MAP_ALPHA, _OBJECT_ALPHA = 0.58, 0.62


def render(image: np.ndarray, prediction: Prediction, task: str, long_side: int | None = None) -> np.ndarray:
    """The result of one task over the photograph, without a legend.

    Args:
        image: (H, W, 3) uint8 RGB, the one that was segmented.
        prediction: must hold the task's result.
        task: "panoptic", "instance" or "semantic".
        long_side: of the picture, pixels; None keeps the image's own between 960 and 2000.

    Returns:
        (h, w, 3) uint8 RGB of the image's aspect.

    Raises:
        ValueError: for an unknown task or one that the prediction lacks, or another image size.
    """
    result = _result_of(prediction, task)
    if image.shape[:2] != tuple(prediction.size):
        raise ValueError(
            f"the image is {image.shape[:2]}, the prediction {tuple(prediction.size)} (height, width)"
        )
    size = _display_size(image.shape[:2], long_side)
    photo = _scaled(image, size)
    draw = {"panoptic": _draw_panoptic, "instance": _draw_instances, "semantic": _draw_semantic}[task]
    return draw(photo, result, prediction.classes)


def with_legend(image: np.ndarray, prediction: Prediction, task: str) -> np.ndarray:
    """`render`, with the classes, their colours and their share of the picture below; (h, w, 3) uint8."""
    picture = render(image, prediction, task)
    width = max(picture.shape[1], _LEAST_LEGEND)
    size = _font_size(width)
    strip = legend(_entries(prediction, task), width, size, margin=size)
    return np.vstack([_centred(picture, width), strip])


def render_all(
    image: np.ndarray, prediction: Prediction, long_side: int | None = None
) -> dict[str, np.ndarray]:
    """`render` of every task that the prediction holds, by task."""
    return {
        task: render(image, prediction, task, long_side)
        for task in TASKS
        if getattr(prediction, task) is not None
    }


def contact_sheet(image: np.ndarray, prediction: Prediction, name: str = "") -> np.ndarray:
    """The photograph, its results side by side with headings, and one legend for all.

    Args:
        image: (H, W, 3) uint8 RGB.
        prediction: with the results of one or more tasks.
        name: what the photograph is called.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    size = _display_size(image.shape[:2], _SHEET_PANEL)
    panel_width = max(size[1], _LEAST_LEGEND)
    font_size = _font_size(2 * panel_width)
    panels = [_panel(_scaled(image, size), "Photograph", name, panel_width, font_size)]
    for task, picture in render_all(image, prediction, _SHEET_PANEL).items():
        panels.append(_panel(picture, _TITLES[task], _summary(prediction, task), panel_width, font_size))
    # Upright panels stand in one row, others in two.
    columns = len(panels) if size[0] > 1.2 * panel_width else 2
    margin = round(1.4 * font_size)
    sheet = grid(panels, columns, gap=margin, color=PAPER)
    strip = legend(_sheet_entries(prediction), sheet.shape[1], font_size)
    sheet = np.vstack([sheet, strip])
    return np.pad(sheet, ((margin // 2, 0), (margin, margin), (0, 0)), constant_values=255)


def grid(pictures: Sequence[np.ndarray], columns: int, gap: int = 0, color=(0, 0, 0)) -> np.ndarray:
    """Pictures of one size in rows of `columns`; empty places get `color`."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), np.uint8)
    sheet[:] = color
    for number, picture in enumerate(pictures):
        y, x = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet


# ---- one task ------------------------------------------------------------------------------------


def _draw_panoptic(photo: np.ndarray, result: PanopticResult, classes: Classes) -> np.ndarray:
    ids = _scaled_map(result.ids, photo.shape[:2])
    table = np.zeros(max((s.id for s in result.segments), default=0) + 1, np.int32)
    colors, seen = [], Counter()
    for slot, segment in enumerate(result.segments, 1):
        table[segment.id] = slot
        number = seen[segment.class_index] if segment.isthing else 0
        seen[segment.class_index] += 1
        colors.append(object_color(classes.colors[segment.class_index], number))
    slots = table[ids]
    picture = blend_map(photo, slots, colors, _MAP_ALPHA)
    picture = draw_borders(picture, slots, _line_width(photo))
    labels = [
        Label(segment.name, slots == slot, colors[slot - 1], segment.area * (1 if segment.isthing else 4))
        for slot, segment in enumerate(result.segments, 1)
    ]
    return draw_labels(picture, labels, _font_size(max(photo.shape[:2])))


def _draw_instances(photo: np.ndarray, result: InstanceResult, classes: Classes) -> np.ndarray:
    picture, labels, seen = muted(photo), [], Counter()
    masks = [_scaled_mask(mask, photo.shape[:2]) for mask in result.masks]
    colors = []
    for index in result.class_indices.tolist():
        colors.append(object_color(classes.colors[index], seen[index]))
        seen[index] += 1
    # The best last, so that they lie on top.
    for i in reversed(range(len(masks))):
        picture = blend_mask(picture, masks[i], colors[i], _OBJECT_ALPHA, _line_width(photo))
        labels.append(
            Label(f"{result.names[i]} {result.scores[i]:.0%}", masks[i], colors[i], float(masks[i].sum()))
        )
    return draw_labels(picture, labels, _font_size(max(photo.shape[:2])))


def _draw_semantic(photo: np.ndarray, result: SemanticResult, classes: Classes) -> np.ndarray:
    labels_map = _scaled_map(result.labels, photo.shape[:2])
    slots = labels_map.astype(np.int32) + 1
    picture = blend_map(photo, slots, [display_color(color) for color in classes.colors], _MAP_ALPHA)
    picture = draw_borders(picture, slots, _line_width(photo))
    labels = []
    for index, share in result.shares().items():
        mask = largest_part(labels_map == index)
        labels.append(Label(classes.names[index], mask, display_color(classes.colors[index]), share))
    return draw_labels(picture, labels, _font_size(max(photo.shape[:2])))


# ---- what the legend says ------------------------------------------------------------------------


def _entries(prediction: Prediction, task: str) -> list[Entry]:
    """Classes in order of their share of the picture."""
    classes = prediction.classes
    counts = _object_counts(prediction, task)
    rows = sorted(_class_shares(prediction, task).items(), key=lambda row: -row[1])
    entries = []
    for index, share in rows:
        note = _percent(share)
        if index in counts:
            note = f"{counts[index]} × · {note}"
        entries.append(Entry(display_color(classes.colors[index]), classes.names[index], note))
    return entries


def _sheet_entries(prediction: Prediction) -> list[Entry]:
    """Every class of any task; its share is that of the most complete result in which it occurs."""
    known: dict[int, float] = {}
    for task in ("semantic", "panoptic", "instance"):
        if getattr(prediction, task) is not None:
            for index, share in _class_shares(prediction, task).items():
                known.setdefault(index, share)
    classes = prediction.classes
    rows = sorted(known.items(), key=lambda row: -row[1])
    return [Entry(display_color(classes.colors[i]), classes.names[i], _percent(share)) for i, share in rows]


def _class_shares(prediction: Prediction, task: str) -> dict[int, float]:
    """Class index -> part of the picture that it covers, 0..1."""
    result = _result_of(prediction, task)
    height, width = prediction.size
    if task == "semantic":
        return shares(result.labels, len(result.names))
    found = Counter()
    if task == "panoptic":
        for segment in result.segments:
            found[segment.class_index] += segment.area / (height * width)
    else:
        for index in set(result.class_indices.tolist()):
            # Objects may overlap; a pixel counts once.
            found[index] = float(result.masks[result.class_indices == index].any(0).mean())
    return dict(found)


def _object_counts(prediction: Prediction, task: str) -> Counter:
    result = _result_of(prediction, task)
    if task == "panoptic":
        return Counter(segment.class_index for segment in result.segments if segment.isthing)
    return Counter(result.class_indices.tolist()) if task == "instance" else Counter()


def _summary(prediction: Prediction, task: str) -> str:
    result = _result_of(prediction, task)
    if task == "panoptic":
        things = sum(segment.isthing for segment in result.segments)
        return f"{len(result.segments)} segments, {things} of them objects"
    if task == "instance":
        return f"{len(result)} objects"
    return f"{len(result.shares())} classes, every pixel"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


def _result_of(prediction: Prediction, task: str):
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    result = getattr(prediction, task)
    if result is None:
        raise ValueError(
            f"the prediction has no {task} result; ask the predictor for that task, or for 'all'"
        )
    return result


# ---- sizes ---------------------------------------------------------------------------------------


def _display_size(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """(height, width) of the picture."""
    longest = max(size)
    target = long_side or min(max(longest, _LONG_SIDE[0]), _LONG_SIDE[1])
    return tuple(max(1, round(side * target / longest)) for side in size)


def _scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _scaled_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An integer map at another size, values kept; enlarged borders become curves, not stairs."""
    if values.shape == size:
        return values
    if size[0] > values.shape[0] and values.max() < _SMOOTHED:
        return _enlarged_map(values, size)
    rows = (np.arange(size[0]) + 0.5) * values.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * values.shape[1] / size[1]
    return values[rows.astype(np.int64)[:, None], columns.astype(np.int64)]


def _softness(before: int, after: int) -> float:
    """Of the blur that rounds an enlarged border, in pixels of the picture."""
    return min(_SOFTNESS * after / before, _SOFTEST)


def _scaled_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A bool mask at another size, its border a curve."""
    if mask.shape == size:
        return mask
    levels = cv2.resize(mask.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_LINEAR)
    if size[0] > mask.shape[0]:
        levels = cv2.GaussianBlur(levels, (0, 0), _softness(mask.shape[0], size[0]))
    return levels > 127


def _enlarged_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each pixel takes the value whose enlarged and softened mask is strongest there."""
    best = np.zeros(size, np.float32)
    result = np.zeros(size, values.dtype)
    softness = _softness(values.shape[0], size[0])
    for value in np.unique(values):
        mask = cv2.resize((values == value).astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
        mask = cv2.GaussianBlur(mask, (0, 0), softness)
        stronger = mask > best
        best[stronger], result[stronger] = mask[stronger], value
    return result


def _font_size(side: int) -> int:
    return min(max(round(side / 62), 12), 26)


def _line_width(photo: np.ndarray) -> int:
    return max(1, round(max(photo.shape[:2]) / 700))


def _panel(picture: np.ndarray, heading: str, note: str, width: int, size: int) -> np.ndarray:
    return np.vstack([title(heading, note, width, size), _centred(picture, width)])


def _centred(picture: np.ndarray, width: int) -> np.ndarray:
    """The picture in the middle of white of at least `width` pixels."""
    lacking = max(width - picture.shape[1], 0)
    return np.pad(picture, ((0, 0), (lacking // 2, lacking - lacking // 2), (0, 0)), constant_values=255)
