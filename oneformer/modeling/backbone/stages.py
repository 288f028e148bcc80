"""What the backbones share: names and strides of the features, freezing, activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

STAGES = ("res2", "res3", "res4", "res5")
STRIDES = dict(zip(STAGES, (4, 8, 16, 32)))
TIMM_PREFIX = "timm:"   # of the names of timm's models in a config


class StagedBackbone(Backbone):
    """A backbone of a stem and four stages, whose first parts may be frozen."""

    def _set_outputs(self, channels: Sequence[int], out_features: Sequence[str]) -> None:
        """Declare the four stages' channels and which stages are returned.

        Raises:
            ValueError: if `out_features` is empty or names a stage that does not exist.
        """
        check_out_features(out_features)
        self._out_features = [name for name in STAGES if name in out_features]
        self._out_feature_channels = dict(zip(STAGES, channels))
        self._out_feature_strides = dict(STRIDES)

    def _freeze(self, freeze_at: int, parts: Sequence[Iterable[nn.Module]]) -> None:
        """Stop training of the first `freeze_at` of `parts`: the stem, res2, res3, res4, res5.

        Frozen parts get no gradient and stay in evaluation mode, so that stochastic depth, dropout and
        batch statistics are off in them. As in Detectron2's ResNet, 0 freezes nothing and 1 the stem.

        Raises:
            ValueError: if `freeze_at` is not in 0..5.
        """
        check_freeze_at(freeze_at)
        # A plain list: registered again, the modules would appear twice in the state dict.
        self._frozen = [module for part in parts[:freeze_at] for module in part]
        for module in self._frozen:
            module.requires_grad_(False)
            module.eval()

    def train(self, mode: bool = True):
        """Set the mode of everything that is not frozen; returns itself, as `nn.Module.train` does."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def check_out_features(out_features: Sequence[str]) -> None:
    """Raise ValueError unless `out_features` is a non-empty choice of `STAGES`."""
    unknown = [name for name in out_features if name not in STAGES]
    if unknown or not out_features:
        raise ValueError(
            f"OUT_FEATURES is {list(out_features)}; expected a non-empty choice of {list(STAGES)}"
        )


def check_freeze_at(freeze_at: int) -> None:
    """Raise ValueError unless `freeze_at` is 0 (nothing) .. 5 (the whole backbone)."""
    if not 0 <= freeze_at <= 5:
        raise ValueError(f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}; expected 0 (nothing) to 5 (everything)")


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Stochastic depth (arXiv:1603.09382) growing linearly from 0 to `rate` over all blocks, per stage."""
    total = sum(depths)
    rates = [rate * i / max(total - 1, 1) for i in range(total)]
    return [rates[sum(depths[:i]) : sum(depths[: i + 1])] for i in range(len(depths))]


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): training leaves a branch out for each sample with probability
    `drop_prob` and scales it up for the others. Timm's does the same, but to import it loads all of timm's models.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep).div_(keep)


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, recompute: bool) -> Tensor:
    """Apply blocks in order; with `recompute`, keep only their inputs and run them again in backward."""
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
    return x


class EagerConstants(TorchFunctionMode):
    """Lets a constructor that reads numbers out of tensors run under `torch.device("meta")`.

    Swin-like constructors call `.item()` on a `torch.linspace`, which a meta tensor does not have; here it
    is always a CPU tensor. Also names the indexing of `torch.meshgrid`, without which PyTorch warns.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        elif func is torch.meshgrid and kwargs.get("indexing") is None:
            kwargs["indexing"] = "ij"
        return func(*args, **kwargs)
