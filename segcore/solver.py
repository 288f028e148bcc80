"""Optimizer groups, learning-rate schedules and gradient clipping.

The per-parameter rules are those the released OneFormer weights were trained
with (OneFormer, arXiv:2211.06220, appendix; the rules descend from
Mask2Former's). Each is a function of its own, so that a reader can check it.

One difference is deliberate. The published training code asked for the norm of
the full gradient to be clipped to 0.01, but handed the clipping function an
iterator that an earlier loop had already emptied, so nothing was ever clipped.
Here clipping clips; `SOLVER.CLIP_GRADIENTS.ENABLED False` is what that code did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.lr_scheduler import LRMultiplier
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.registry import Registry
from torch import nn

NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LocalResponseNorm,
)
POSITION_TABLES = ("relative_position_bias_table", "absolute_pos_embed")
CLIP_TYPES = ("full_model", "norm", "value")


# -- which learning rate and weight decay a parameter gets -------------------


def learning_rate_multiplier(module_name: str, backbone_multiplier: float) -> float:
    """The factor on the base learning rate of a parameter of the module called `module_name`."""
    return backbone_multiplier if "backbone" in module_name else 1.0


def is_position_table(parameter_name: str) -> bool:
    """Swin's learned position tables, which are not decayed."""
    return any(word in parameter_name for word in POSITION_TABLES)


def is_norm(module: nn.Module) -> bool:
    """A normalisation layer: its weight *and* its bias take the decay of norms."""
    return isinstance(module, NORMS)


def is_embedding(module: nn.Module) -> bool:
    """A lookup table (queries, level embeddings, tokens)."""
    return isinstance(module, nn.Embedding)


def weight_decay(
    module: nn.Module,
    parameter_name: str,
    *,
    base: float,
    norm: float,
    embedding: float,
) -> float:
    """Weight decay of `module`'s own parameter `parameter_name`.

    Everything else takes `base`: biases, bare `nn.Parameter`s, and norms that are
    not torch's own classes (ConvNeXt's, whose released weights were so trained).
    """
    if is_position_table(parameter_name):
        return 0.0
    if is_norm(module):
        return norm
    if is_embedding(module):
        return embedding
    return base


def parameter_settings(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay_base: float,
    weight_decay_norm: float = 0.0,
    weight_decay_embed: float = 0.0,
    backbone_multiplier: float = 1.0,
) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every trainable parameter, by name.

    A parameter shared by two modules is listed once, where it comes first.

    Returns:
        {parameter name: (learning rate, weight decay)}, in the model's order.
    """
    settings: dict[str, tuple[float, float]] = {}
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decay = weight_decay(
                module, name, base=weight_decay_base, norm=weight_decay_norm, embedding=weight_decay_embed
            )
            lr = base_lr * learning_rate_multiplier(module_name, backbone_multiplier)
            settings[f"{module_name}.{name}" if module_name else name] = (lr, decay)
    return settings


def layer_wise_settings(
    model: nn.Module, *, base_lr: float, weight_decay: float, layer_decay: float
) -> dict[str, tuple[float, float]]:
    """The same for a plain transformer that numbers its layers (BEiT, arXiv:2106.08254, sec. 3.2; MAE; Painter).

    The learning rate falls by `layer_decay` from each layer to the one below; vectors (norms and biases) and
    what the model names are not decayed.

    Args:
        model: has `parameter_depth(name)`, 0 at the input up to `max_depth`, and `undecayed`, names.
    """
    settings = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            lr = base_lr * layer_decay ** (model.max_depth - model.parameter_depth(name))
            decay = 0.0 if parameter.dim() == 1 or name in model.undecayed else weight_decay
            settings[name] = (lr, decay)
    return settings


def parameter_groups(model: nn.Module, settings: dict[str, tuple[float, float]]) -> list[dict]:
    """Optimizer groups, one for each distinct (learning rate, weight decay).

    Few groups rather than one per parameter: the update is the same, but
    multi-tensor AdamW then needs a handful of kernel launches.
    """
    parameters = dict(model.named_parameters())
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, key in settings.items():
        groups.setdefault(key, []).append(parameters[name])
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]


# -- building from a config ---------------------------------------------------


def _adamw(groups: list[dict], solver) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=solver.BASE_LR, fused=True)


def _sgd(groups: list[dict], solver) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)


OPTIMIZERS: dict[str, Callable] = {"ADAMW": _adamw, "SGD": _sgd}


def build_optimizer(cfg, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer named by `SOLVER.OPTIMIZER`.

    Its groups are those of `layer_wise_settings` for a model that numbers its layers, else of
    `parameter_settings`.

    Raises:
        ValueError: for an unknown name, a model without a trainable parameter, or one without numbered layers
            when `SOLVER.LAYER_DECAY` is not 1.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; expected one of {sorted(OPTIMIZERS)}")
    settings = _settings(solver, model)
    if not settings:
        raise ValueError("the model has no parameter with requires_grad=True: there is nothing to train")
    return OPTIMIZERS[solver.OPTIMIZER](parameter_groups(model, settings), solver)


def _settings(solver, model: nn.Module) -> dict[str, tuple[float, float]]:
    if hasattr(model, "parameter_depth"):
        return layer_wise_settings(
            model, base_lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, layer_decay=solver.LAYER_DECAY
        )
    if solver.LAYER_DECAY != 1.0:
        raise ValueError(
            f"SOLVER.LAYER_DECAY is {solver.LAYER_DECAY}, but {type(model).__name__} does not number its layers; "
            "set it to 1.0"
        )
    return parameter_settings(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_base=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
    )


# -- learning-rate schedules --------------------------------------------------

LR_FACTOR_REGISTRY = Registry("LR_FACTOR")
LR_FACTOR_REGISTRY.__doc__ = """
Schedules of ours, by the name used in `SOLVER.LR_SCHEDULER_NAME`. Each entry takes
the config and returns a function: iteration -> factor on the base learning rate.
Names that are not here are Detectron2's.
"""

DETECTRON2_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")


def warmup_factor(iteration: int, warmup_iters: int, start: float, method: str) -> float:
    """Factor of the warm-up: from `start` (linear) or at `start` (constant), then 1.

    Raises:
        ValueError: if `method` is neither "linear" nor "constant".
    """
    if method not in ("linear", "constant"):
        raise ValueError(f"SOLVER.WARMUP_METHOD is {method!r}; expected 'linear' or 'constant'")
    if iteration >= warmup_iters:
        return 1.0
    if method == "constant":
        return start
    progress = iteration / warmup_iters
    return start * (1 - progress) + progress


def poly_factor(iteration: int, max_iter: int, power: float, ending: float = 0.0) -> float:
    """(1 - iteration / max_iter) ** power, shifted so that it ends at `ending`.

    `iteration` past `max_iter` stays at `ending`.
    """
    remaining = max(0.0, 1.0 - iteration / max_iter)
    return ending + (1.0 - ending) * remaining**power


@LR_FACTOR_REGISTRY.register()
def WarmupPolyLR(cfg) -> Callable[[int], float]:
    """`poly_factor` from `SOLVER.POLY_LR_*`, times the warm-up."""
    solver = cfg.SOLVER

    def factor(iteration: int) -> float:
        warm = warmup_factor(iteration, solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD)
        poly = poly_factor(iteration, solver.MAX_ITER, solver.POLY_LR_POWER, solver.POLY_LR_CONSTANT_ENDING)
        return warm * poly

    return factor


def cosine_after_warmup(iteration: int, warmup_iters: int, max_iter: int) -> float:
    """From 0 up in a line to 1 at the end of the warm-up, then down half a cosine to 0 (MAE; Painter)."""
    if iteration < warmup_iters:
        return iteration / warmup_iters
    done = (iteration - warmup_iters) / max(max_iter - warmup_iters, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


@LR_FACTOR_REGISTRY.register()
def WarmupThenCosineLR(cfg) -> Callable[[int], float]:
    """`cosine_after_warmup`; Detectron2's WarmupCosineLR differs: its cosine has begun with the warm-up."""
    return lambda iteration: cosine_after_warmup(iteration, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER)


class IterationFactor(ParamScheduler):
    """A function of the iteration as fvcore's function of the fraction of training done."""

    def __init__(self, factor: Callable[[int], float], max_iter: int) -> None:
        self.factor = factor
        self.max_iter = max_iter

    def __call__(self, where: float) -> float:
        # `where` is iteration / max_iter in doubles: rounding gives the iteration back.
        return self.factor(round(where * self.max_iter))


def build_lr_scheduler(cfg, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """The schedule named by `SOLVER.LR_SCHEDULER_NAME`, stepped once per optimizer step.

    Raises:
        ValueError: for an unknown name.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name in LR_FACTOR_REGISTRY:
        factor = IterationFactor(LR_FACTOR_REGISTRY.get(name)(cfg), cfg.SOLVER.MAX_ITER)
        return LRMultiplier(optimizer, factor, cfg.SOLVER.MAX_ITER)
    if name not in DETECTRON2_SCHEDULES:
        raise ValueError(f"SOLVER.LR_SCHEDULER_NAME is {name!r}; expected one of {schedule_names()}")
    return build_detectron2_lr_scheduler(cfg, optimizer)


def schedule_names() -> list[str]:
    """All names that `SOLVER.LR_SCHEDULER_NAME` may take."""
    return sorted([*DETECTRON2_SCHEDULES, *(name for name, _ in LR_FACTOR_REGISTRY)])


# -- gradient clipping ---------------------------------------------------------


class GradientClipper:
    """Clips gradients in place and returns the norm that the whole gradient had before.

    Args:
        kind: "full_model": the norm of all gradients together; "norm": the norm of
            each parameter's own; "value": each element; None: no clipping.
        value: the largest norm or absolute value left.
        norm_type: the p of the norm.
    """

    def __init__(self, kind: str | None, value: float = 0.0, norm_type: float = 2.0) -> None:
        if kind is not None and kind not in CLIP_TYPES:
            raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {kind!r}; expected one of {CLIP_TYPES}")
        if kind is not None and not value > 0:
            raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {value}; expected a number above 0")
        self.kind = kind
        self.value = value
        self.norm_type = norm_type

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        """Clip; returns the norm before clipping, a 0-dim tensor on the parameters' device."""
        # A list, because it is walked twice: an iterator would be empty the second time.
        parameters = [p for p in parameters if p.grad is not None]
        limit = self.value if self.kind == "full_model" else float("inf")
        total = nn.utils.clip_grad_norm_(parameters, limit, self.norm_type)
        if self.kind == "value":
            nn.utils.clip_grad_value_(parameters, self.value)
        elif self.kind == "norm":
            for parameter in parameters:
                nn.utils.clip_grad_norm_(parameter, self.value, self.norm_type)
        return total


def build_gradient_clipper(cfg) -> GradientClipper:
    """The clipper that `SOLVER.CLIP_GRADIENTS` describes; one that only measures when it is off."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return GradientClipper(clip.CLIP_TYPE if clip.ENABLED else None, clip.CLIP_VALUE, clip.NORM_TYPE)
