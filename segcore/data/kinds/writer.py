"""Where `kinds` is stored, and that it is drawn once."""

from __future__ import annotations

from ..drawn import DrawnSet, ensure_drawn
from ..metadata import panoptic_metadata
from ..panoptic_folder import PanopticFolder
from .scene import CATEGORIES, HELD_OUT, SEEN, draw_scene

# Raise it with every change of the drawing: sets of another version are drawn anew.
VERSION = 1
NAME = "kinds_panoptic"
# "val": new scenes of held-out kinds; "seen": new scenes of the training's kinds.
SCENES = {"train": 4000, "val": 700, "seen": 700}
_SPLITS = {"train": (0, SEEN), "val": (1, HELD_OUT), "seen": (2, SEEN)}


def kinds_metadata() -> dict:
    """The metadata of all splits, besides the paths."""
    return panoptic_metadata(CATEGORIES)


def kinds_folder(root: str, split: str) -> PanopticFolder:
    """Where a split ("train", "val" or "seen") lies under `root`."""
    return _kinds(SCENES).folder(root, split)


def ensure_kinds(root: str, scenes: dict[str, int] | None = None) -> None:
    """Draw the set into `root`/kinds_panoptic unless it is there; see `segcore.data.drawn.ensure_drawn`.

    Args:
        root: the folder of the data sets; made if it does not exist.
        scenes: how many scenes per split; None: `SCENES`.

    Raises:
        PermissionError: `root` cannot be written.
    """
    ensure_drawn(root, _kinds(scenes or SCENES))


def _kinds(scenes: dict[str, int]) -> DrawnSet:
    return DrawnSet(NAME, VERSION, CATEGORIES, scenes, _draw, "scenes drawn by segcore.data.kinds")


def _draw(split: str, number: int):
    stream, kinds = _SPLITS[split]
    return draw_scene(kinds, VERSION, stream, number)
