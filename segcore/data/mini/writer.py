"""Where `mini` is stored, and that it is drawn once."""

from __future__ import annotations

from ..drawn import DrawnSet, ensure_drawn
from ..metadata import panoptic_metadata
from ..panoptic_folder import PanopticFolder
from .scene import CATEGORIES, draw_scene

# Raise it with every change of the drawing: sets of another version are drawn anew.
VERSION = 3
SCENES = {"train": 600, "val": 60}
NAME = "mini_panoptic"
_SPLIT_SEEDS = {"train": 0, "val": 1}


def mini_metadata() -> dict:
    """The metadata of both splits, besides the paths."""
    return panoptic_metadata(CATEGORIES)


def mini_folder(root: str, split: str) -> PanopticFolder:
    """Where a split ("train" or "val") lies under `root`."""
    return _mini(SCENES).folder(root, split)


def ensure_mini(root: str, scenes: dict[str, int] | None = None) -> None:
    """Draw the set into `root`/mini_panoptic unless it is there; see `segcore.data.drawn.ensure_drawn`.

    Args:
        root: the folder of the data sets; made if it does not exist.
        scenes: how many scenes per split; None: `SCENES`.

    Raises:
        PermissionError: `root` cannot be written.
    """
    ensure_drawn(root, _mini(scenes or SCENES))


def _mini(scenes: dict[str, int]) -> DrawnSet:
    return DrawnSet(NAME, VERSION, CATEGORIES, scenes, _draw, "scenes drawn by segcore.data.mini")


def _draw(split: str, number: int):
    return draw_scene(VERSION, _SPLIT_SEEDS[split], number)
