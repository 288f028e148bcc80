"""Data sets in COCO panoptic format: registration, reading, loaders, and the embedded set `mini`."""

from .builtin import register_builtin
from .catalog import register_panoptic
from .loaders import MAPPER_REGISTRY, build_test_loader
from .metadata import class_index_of, panoptic_metadata

__all__ = [
    "MAPPER_REGISTRY",
    "build_test_loader",
    "class_index_of",
    "panoptic_metadata",
    "register_builtin",
    "register_panoptic",
]
