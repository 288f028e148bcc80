"""The in-context colouring of SegGPT (arXiv:2304.03284, sec. 3.1): labels to random colours, per episode.

All that is stitched into one episode shares one table; the next episode draws a new one, so a colour says
nothing but what the example says.
"""

from __future__ import annotations

import numpy as np

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


def fixed_colours(classes: int) -> np.ndarray:
    """A palette that depends on the class alone: (classes, 3) uint8, none black (Painter's ADE20K levels).

    For tuned prompts, which must carry the colours of a data set, and to compare with random colours. Levels
    255 - step * i with as few levels per channel as suffice; neither black nor white is left to the unlabelled.
    """
    levels = 2
    while levels**3 < classes:
        levels += 1
    step = 255 // levels
    digits = np.arange(classes)
    return np.stack([255 - step * (digits // levels**k % levels) for k in (2, 1, 0)], 1).astype(np.uint8)
