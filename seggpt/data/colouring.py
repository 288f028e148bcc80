"""The in-context colouring of SegGPT (arXiv:2304.03284, sec. 3.1): labels to random colours, per episode.

All that is stitched into one episode shares one table; the next episode draws a new one, so a colour says
nothing but what the example says.
"""

from __future__ import annotations

import numpy as np

from seggpt.colours import CORNERS

TRIES = 1000


def random_colours(rng: np.random.Generator, count: int, distance: int) -> np.ndarray:
    """`count` colours, uniform in RGB, but at least `distance` (sum over the channels) apart and from black.

    Returns:
        (count, 3) uint8.

    Raises:
        ValueError: if so many so far apart are not found.
    """
    chosen = np.zeros((count + 1, 3), np.int64)  # the first stays black
    for i in range(1, count + 1):
        for _ in range(TRIES):
            chosen[i] = rng.integers(0, 256, 3)
            if (np.abs(chosen[:i] - chosen[i]).sum(1) >= distance).all():
                break
        else:
            raise ValueError(
                f"no {count} colours are {distance} apart; lower INPUT.EPISODES.COLOUR_DISTANCE or MAX_LABELS"
            )
    return chosen[1:].astype(np.uint8)


def fixed_colours(classes: int, levels: int = 0) -> np.ndarray:
    """A palette that depends on the class alone: (classes, 3) uint8, none black (Painter's ADE20K levels).

    For tuned prompts, which must carry the colours of a data set, and to compare with random colours: levels
    255 - step * i of each channel. Up to seven classes have the corners of the colour cube instead: two levels
    would make white and a pale yellow of two classes, which a painting hardly tells apart.

    Args:
        levels: per channel; 0: as few as suffice. Painter's palette of COCO's 133 classes has 7.

    Raises:
        ValueError: if so few levels do not make so many colours.
    """
    if not levels and classes <= len(CORNERS):
        return np.array(CORNERS[:classes], np.uint8)
    if not levels:
        levels = 2
        while levels**3 < classes:
            levels += 1
    if not classes <= levels**3 <= 255**3:
        raise ValueError(f"MODEL.SEGGPT.TUNING.LEVELS is {levels}: that is no palette of {classes} colours")
    step = 255 // levels
    digits = np.arange(classes)
    return np.stack([255 - step * (digits // levels**k % levels) for k in (2, 1, 0)], 1).astype(np.uint8)
