"""SegGPT's network; importing this registers the meta-architecture "SegGPT"."""

from seggpt.modeling.loss import inpainting_loss
from seggpt.modeling.seggpt import SegGPT

__all__ = ["SegGPT", "inpainting_loss"]
