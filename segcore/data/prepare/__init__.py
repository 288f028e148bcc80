"""What the downloads of the four benchmarks lack: label PNGs, panoptic PNGs, instance JSON.

`PREPARATIONS[name].products(root, splits, tasks)` lists what is to be made, `make` makes it.
"""

from . import ade20k, cityscapes, coco, mapillary
from .product import Options, make

PREPARATIONS = {"ade20k": ade20k, "cityscapes": cityscapes, "coco": coco, "mapillary": mapillary}

__all__ = ["PREPARATIONS", "Options", "make"]
