"""Foreign checkpoint formats of OneFormer, and what the checkpointer must know about the model.

Importing this package registers them with `segcore.checkpoint`.
"""

from .huggingface import HuggingFaceExporter
from .key_map import from_huggingface, to_huggingface
from .registration import register

register()

__all__ = ["HuggingFaceExporter", "from_huggingface", "register", "to_huggingface"]
