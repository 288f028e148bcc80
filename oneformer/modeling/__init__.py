"""The OneFormer model; importing it registers the meta-architecture."""

from .oneformer import OneFormer

__all__ = ["OneFormer"]
