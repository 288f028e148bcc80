"""torch.compile for a trained model: one graph for each part, whatever the size of the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
import torch.fx.experimental._config as shapes

from .modeling import OneFormer

DECODER_STEPS = ("first_queries", "prepare", "decode")


def compile_parts(model: OneFormer, backend: str = "inductor") -> None:
    """Compile backbone, pixel decoder and the decoder's three steps, in place; the state dict stays as it is.

    Each part is one graph with symbolic height and width: a picture of another size runs the same code. The first
    picture pays for compiling. Another batch size or number of tasks compiles once more, and so do small pictures: a
    Swin map of a single attention window (sides up to 224 pixels), a convolution of fewer than 20480 numbers (some
    41,000 pixels).

    Args:
        model: in eval mode.
        backend: of torch.compile; "inductor" needs a C++ compiler, and on a GPU Triton.

    Raises:
        ValueError: for a backend that torch does not know, or a model that is being trained.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"unknown torch.compile backend {backend!r}; this PyTorch has {', '.join(known)}")
    if model.training:
        raise ValueError("a model in training mode is not compiled: call eval() first")
    decoder = model.sem_seg_head.predictor
    parts = [(model.backbone, "forward"), (model.sem_seg_head.pixel_decoder, "forward")]
    for owner, name in [*parts, *((decoder, step) for step in DECODER_STEPS)]:
        compiled = torch.compile(getattr(owner, name), backend=backend, dynamic=True, fullgraph=True)
        setattr(owner, name, _without_coincidences(compiled))


def _without_coincidences(compiled: Callable) -> Callable:
    """Sizes that happen to be equal in the first picture, such as a map's width and the number of queries, are not
    taken to be one size."""

    @wraps(compiled)
    def run(*args, **kwargs):
        with shapes.patch(use_duck_shape=False):
            return compiled(*args, **kwargs)

    return run
