"""Data sets: registration, reading, loaders, and the embedded set `mini`."""

from .builtin import register_builtin
from .catalog import register_panoptic
from .custom import register_custom, register_instances, register_semantic
from .loaders import MAPPER_REGISTRY, build_test_loader
from .metadata import class_index_of, panoptic_metadata

__all__ = [
    "MAPPER_REGISTRY",
    "build_test_loader",
    "class_index_of",
    "panoptic_metadata",
    "register_builtin",
    "register_custom",
    "register_instances",
    "register_panoptic",
    "register_semantic",
]
