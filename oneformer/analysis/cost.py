"""Parameters, multiply-adds, time and memory of each stage of a OneFormer.

Stages: backbone, pixel decoder, transformer decoder (one task), and the task's
post-processing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..modeling.mask_resize import MaskResizer

POSTPROCESSING = "post-processing"


@dataclass(frozen=True)
class StageCost:
    """One stage on one image.

    Attributes:
        parameters: how many.
        flops: floating-point operations of matrix products, convolutions and attention; a multiply-add is two.
        seconds: median of the repeats.
        activations: bytes that the stage keeps for its backward pass.
    """

    stage: str
    parameters: int
    flops: int
    seconds: float
    activations: int


def measure_cost(model: nn.Module, size: tuple[int, int], task: str = "panoptic", repeats: int = 5) -> list[StageCost]:
    """Measure the stages of a model on a random image.

    Args:
        model: OneFormer; is run in eval mode and left in the mode it had.
        size: (height, width) of the image as the model gets it.
        task: "panoptic", "instance" or "semantic".
        repeats: timed runs, after one that warms up.

    Raises:
        ValueError: for a size or number of repeats below 1.
    """
    if min(*size, repeats) < 1:
        raise ValueError(f"size {size} and {repeats} repeats; expected at least 1 each")
    was_training = model.training
    model.eval()
    try:
        return [_measure(model, stage, size, task, repeats) for stage in _Run(model, size, task).order]
    finally:
        model.train(was_training)


class _Run:
    """The stages of one image in order; each keeps its result for the next."""

    def __init__(self, model: nn.Module, size: tuple[int, int], task: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model, self.size, self.task = model, size, task
        self.image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        self.order = ("backbone", "pixel decoder", "transformer decoder", POSTPROCESSING)
        self.done: dict[str, object] = {}

    def step(self, stage: str) -> None:
        model, done = self.model, self.done
        if stage == "backbone":
            normalised = (self.image.to(model.device) - model.pixel_mean) / model.pixel_std
            height, width = model.padded_size(self.size)
            padded = nn.functional.pad(normalised, (0, width - self.size[1], 0, height - self.size[0]))
            done[stage] = model.backbone(padded[None])
        elif stage == "pixel decoder":
            done[stage] = model.sem_seg_head(done["backbone"])
        elif stage == "transformer decoder":
            done[stage] = model.sem_seg_head.predictor(done["pixel decoder"], model.embed_tasks([self.task]))
        else:
            output = done["transformer decoder"]
            resize = MaskResizer(model.padded_size(self.size), self.size, self.size)
            with torch.no_grad():  # it is no part of training, and works in place
                class_logits, mask_logits = output.class_logits[0].float(), output.mask_logits[0].float()
                done[stage] = model.postprocess(self.task, class_logits, mask_logits, resize)

    def until(self, stage: str) -> _Run:
        """All stages before `stage` done."""
        for earlier in self.order[: self.order.index(stage)]:
            self.step(earlier)
        return self


def _measure(model: nn.Module, stage: str, size: tuple[int, int], task: str, repeats: int) -> StageCost:
    with torch.no_grad(), _frozen(model):
        run = _Run(model, size, task).until(stage)
        with FlopCounterMode(display=False, custom_mapping=operator_flops()) as counter:
            run.step(stage)
        seconds = [_seconds(lambda: run.step(stage), model.device) for _ in range(repeats)]
    with torch.enable_grad(), _kept_bytes(model) as kept:
        run = _Run(model, size, task).until(stage)
        before = kept()
        run.step(stage)
        activations = kept() - before
    return StageCost(stage, _parameters(model, stage), counter.get_total_flops(), median(seconds), activations)


def _parameters(model: nn.Module, stage: str) -> int:
    """Of the part of the model that runs in the stage; the task's two layers count as the decoder's."""
    head = model.sem_seg_head
    parts = {
        "backbone": [model.backbone],
        "pixel decoder": [head.pixel_decoder],
        "transformer decoder": [head.predictor, model.task_mlp],
        POSTPROCESSING: [],
    }[stage]
    return sum(p.numel() for part in parts for p in part.parameters())


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within the block no weight asks for a gradient: torch's counter follows those that do, even where none is
    made."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def _kept_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Within the block, what autograd keeps: a function that tells its bytes, each storage once, no weights."""
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    alive: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            alive[storage.data_ptr()] = tensor, storage.nbytes()  # held, so that the address stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(size for _, size in alive.values())


def operator_flops() -> dict:
    """Counts for the operators that torch does not know."""
    counts = {
        "ms_deform_attn": _deformable_flops,
        "ms_deform_attn_fused": _deformable_flops,
        "neighborhood_attention_2d": _neighborhood_flops,
    }
    ops = torch.ops.segcore
    known = {getattr(ops, name): count for name, count in counts.items() if hasattr(ops, name)}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not on every build of torch
        known[torch.ops.mkldnn._linear_pointwise] = _linear_flops
    if hasattr(torch.ops.segcore_native, "grid_attention"):
        known[torch.ops.segcore_native.grid_attention] = _grid_flops
    return known


def _linear_flops(x, weight, *_, **__) -> int:
    """Shapes of the tokens (..., K) and the weights (N, K)."""
    return 2 * math.prod(x) * weight[0]


def _grid_flops(query, key, rows, columns, **_) -> int:
    """Shapes (N, heads, Q, D), (N, heads, S, D): the scores, and two sums of weights in place of the other product."""
    return 2 * math.prod(query) * key[2] + 2 * math.prod(query[:3]) * (key[2] + query[3] * (rows[0] + columns[0]))


def _deformable_flops(value, shapes, *tensors, **_) -> int:
    """Shapes of value (B, S, heads, D) and, last but one, of the points (B, Q, heads, L, P, 2).

    Four neighbours and one weight: five multiply-adds for each sample and channel.
    """
    return 2 * 5 * math.prod(tensors[-2][:-1]) * value[-1]


def _neighborhood_flops(query, key, value, kernel_size, *_, **__) -> int:
    """Shapes (B, heads, H, W, D): two products with the K x K neighbours of each pixel."""
    return 2 * 2 * math.prod(query) * kernel_size**2
