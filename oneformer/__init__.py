"""OneFormer (arXiv:2211.06220) for Detectron2: one model, trained once, three segmentation tasks."""

from segcore.lazy import attach

__all__ = ["OneFormerPredictor", "add_oneformer_config"]

__getattr__, __dir__ = attach(__name__, {"OneFormerPredictor": ".predictor", "add_oneformer_config": ".config"})
