"""The way of running a model that a config asks for."""

from __future__ import annotations

from torch import nn

from segcore.inference import WAYS_TO_RUN

from .augmented import TestTimeAugmentation
from .windows import SlidingWindow


def build_inference(cfg, model: nn.Module) -> nn.Module:
    """The model itself, or wrapped for TEST.AUG or MODEL.TEST.WINDOW.

    Raises:
        ValueError: both are asked for, or a setting cannot be.
    """
    window, augmentation = cfg.MODEL.TEST.WINDOW, cfg.TEST.AUG
    if augmentation.ENABLED and window.SIZE:
        raise ValueError("TEST.AUG.ENABLED and MODEL.TEST.WINDOW.SIZE cannot be combined; choose one")
    if augmentation.ENABLED:
        return TestTimeAugmentation(
            model,
            base=(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
            sizes=augmentation.MIN_SIZES,
            max_size=augmentation.MAX_SIZE,
            flip=augmentation.FLIP,
            image_format=cfg.INPUT.FORMAT,
        )
    if window.SIZE:
        if len(window.SIZE) != 2:
            raise ValueError(f"MODEL.TEST.WINDOW.SIZE is {window.SIZE}; expected [height, width], or [] for no windows")
        return SlidingWindow(model, window=tuple(window.SIZE), overlap=window.OVERLAP)
    return model


WAYS_TO_RUN["OneFormer"] = build_inference
