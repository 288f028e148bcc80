"""A canvas for each example, on which labels are painted. The HTML is still; assets/painter.js paints.

`COLLECT` is the JavaScript that puts what was painted in the place of a handler's first argument; the form of
that text is described at `uploads.read_painted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from .viewer import data_url, png_url

MAX_LABELS = 8
COLORS = (
    (255, 99, 71), (64, 156, 255), (60, 200, 110), (255, 193, 37),
    (186, 104, 255), (0, 206, 209), (255, 120, 200), (170, 190, 60),
)  # fmt: skip
COLLECT = "(painted, ...others) => [window.segpainter.collect(), ...others]"


def painter(images: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> str:
    """The painter's HTML.

    Args:
        images: (H, W, 3) uint8 RGB, one canvas each.
        masks: (H, W) labels 0..MAX_LABELS that the canvases start with.
    """
    tools = (
        '<div class="sp-tools">'
        '<span class="sp-labels">' + "".join(_chip(i) for i in range(1, MAX_LABELS + 1)) + "</span>"
        '<button type="button" class="sp-tool" data-tool="add" title="Another label">+ label</button>'
        '<input class="sp-name" type="text" maxlength="40" spellcheck="false" aria-label="Name of the label" '
        'placeholder="name this label">'
        '<button type="button" class="sp-tool sp-on" data-tool="brush">Brush</button>'
        '<button type="button" class="sp-tool" data-tool="eraser">Eraser</button>'
        '<label class="sp-size">Size <input type="range" min="1" max="40" value="8" aria-label="Brush size"></label>'
        '<button type="button" class="sp-tool" data-tool="undo">Undo</button>'
        '<button type="button" class="sp-tool" data-tool="clear">Clear</button>'
        "</div>"
    )
    canvases = "".join(
        _canvas(image, None if masks is None else masks[i], i) for i, image in enumerate(images)
    )
    colors = ";".join(",".join(map(str, color)) for color in COLORS)
    return f'<div class="sp" data-colors="{colors}">{tools}<div class="sp-canvases">{canvases}</div></div>'


def _chip(label: int) -> str:
    shown = "" if label == 1 else " hidden"
    return (
        f'<button type="button" class="sp-label{" sp-on" * (label == 1)}" data-label="{label}"{shown} '
        f'style="--c:rgb{COLORS[label - 1]}" title="Label {label}">{label}</button>'
    )


def _canvas(image: np.ndarray, mask: np.ndarray | None, index: int) -> str:
    height, width = image.shape[:2]
    start = "" if mask is None else f' data-mask="{png_url(mask.astype(np.int32))}"'
    title = escape(f"Example {index + 1}", quote=True)
    return (
        f'<div class="sp-stage" data-width="{width}" data-height="{height}"{start} '
        f'style="aspect-ratio:{width}/{height};--ratio:{width / height:.4f}" aria-label="{title}">'
        f'<img alt="{title}" src="{data_url(image, 1024)}" draggable="false"><canvas></canvas></div>'
    )
