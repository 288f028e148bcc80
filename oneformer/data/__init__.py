"""OneFormer's training and test input; importing it registers the mapper "oneformer_panoptic"."""

from .augmentation import RECIPES
from .mapper import OneFormerMapper
from .tokenizer import Tokenizer

__all__ = ["RECIPES", "OneFormerMapper", "Tokenizer"]
