"""SegGPT's network; importing this registers the meta-architecture "SegGPT" and its weights' formats."""

from seggpt.convert import register
from seggpt.modeling.loss import inpainting_loss
from seggpt.modeling.seggpt import SegGPT
from seggpt.modeling.tuning import SegGPTTuner

register()

__all__ = ["SegGPT", "SegGPTTuner", "inpainting_loss"]
