"""`kinds`: an embedded panoptic data set with hundreds of classes, to learn to follow an example from.

shapes.py and textures.py hold what a kind is made of, scene.py composes scenes of several kinds, writer.py
stores the set in COCO panoptic format.
"""

from .scene import CATEGORIES, HELD_OUT, SEEN, draw_scene
from .writer import ensure_kinds

__all__ = ["CATEGORIES", "HELD_OUT", "SEEN", "draw_scene", "ensure_kinds"]
