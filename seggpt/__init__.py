"""SegGPT (arXiv:2304.03284) for Detectron2: segment anything from examples in context."""

from segcore.lazy import attach

__all__ = ["PickedMasks", "SegGPTPredictor", "add_seggpt_config"]

__getattr__, __dir__ = attach(__name__, {
    "PickedMasks": ".labels",
    "SegGPTPredictor": ".predictor",
    "add_seggpt_config": ".config",
})
