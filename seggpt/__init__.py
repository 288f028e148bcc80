"""SegGPT (arXiv:2304.03284) for Detectron2: segment anything from examples in context."""

from seggpt.config import add_seggpt_config

__all__ = ["add_seggpt_config"]
