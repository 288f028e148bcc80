"""OneFormer (arXiv:2211.06220) for Detectron2: one model, trained once, three segmentation tasks."""

from . import convert  # registers the checkpoint formats
from .config import add_oneformer_config

__all__ = ["add_oneformer_config", "convert"]
