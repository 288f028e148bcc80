"""The OneFormer model; importing it registers the meta-architecture and its checkpoint formats."""

from .. import convert  # noqa: F401  (its import registers the formats)
from .oneformer import OneFormer

__all__ = ["OneFormer"]
