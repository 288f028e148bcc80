"""Reading, checking and writing weights: one checkpointer for every format that a user may have.

* `reading`: files and folders to a flat dict of tensors, without running code from them.
* `converters`: the registry by which a model package teaches foreign key spellings.
* `matching`: the check of a state dict against a model, before anything is copied.
* `checkpointer`: the Detectron2 checkpointer built from the three.
* `bundled`: where the small weights of this repository are.
* `uninitialized`: building a model into which everything will be loaded.
* `portable`: one small file with weights, config, classes and the terms of the data.
"""

from .bundled import bundled_weights
from .checkpointer import Checkpointer
from .converters import register_converter, register_model_rules
from .matching import LoadReport
from .portable import load_portable, load_portable_header, save_portable
from .reading import RawCheckpoint, read_checkpoint
from .uninitialized import Uninitialized

__all__ = [
    "Checkpointer",
    "LoadReport",
    "RawCheckpoint",
    "Uninitialized",
    "bundled_weights",
    "load_portable",
    "load_portable_header",
    "read_checkpoint",
    "register_converter",
    "register_model_rules",
    "save_portable",
]
