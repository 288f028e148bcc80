"""Display colours: those of the data set, made bright enough to shine through a photograph."""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]

_LEAST_VALUE = 0.78
_LEAST_LUMA = 95  # of 255; pure blue has 29 and would look black over a photograph
_GREY = 0.12  # saturation under which a colour is a grey and stays one
_GOLDEN = 0.618034  # successive multiples spread evenly over an interval


def display_color(color: Color) -> Color:
    """The colour at its own hue, light enough to be told from black.  Data-set palettes are often dark."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in color))
    if value == 0:
        return (150, 150, 150)
    if saturation > _GREY:
        saturation = min(saturation, 0.82)
    return _lightened(_rgb(hue, saturation, max(value, _LEAST_VALUE)))


def object_color(color: Color, number: int) -> Color:
    """The colour of object `number` (from 0) of a class: near the class colour, unlike its neighbours."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in display_color(color)))
    if number == 0:
        return display_color(color)
    spread = (number * _GOLDEN) % 1 - 0.5
    saturation = min(0.9, max(0.3, saturation + 0.35 * spread))
    value = min(1.0, max(0.62, value + 0.4 * ((number * _GOLDEN * _GOLDEN) % 1 - 0.4)))
    return _lightened(_rgb((hue + 0.11 * spread) % 1, saturation, value))


def ink(color: Color) -> Color:
    """Black or white, whichever reads better on `color`."""
    return (20, 20, 20) if luma(color) > 140 else (255, 255, 255)


def luma(color: Color) -> float:
    """Perceived brightness, 0..255 (Rec. 601)."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _lightened(color: Color) -> Color:
    """Mixed with as much white as the least luma takes."""
    lacking = _LEAST_LUMA - luma(color)
    if lacking <= 0:
        return color
    white = lacking / (255 - luma(color))
    return tuple(round(v + (255 - v) * white) for v in color)


def _rgb(hue: float, saturation: float, value: float) -> Color:
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
