"""`mini`: an embedded panoptic data set that the package draws by itself.

scene.py composes a scene, ground.py and things.py paint its parts, light.py
turns the painting into a photograph, writer.py stores the set in COCO panoptic
format.
"""

from .scene import CATEGORIES, Scene, draw_scene
from .writer import ensure_mini

__all__ = ["CATEGORIES", "Scene", "draw_scene", "ensure_mini"]
