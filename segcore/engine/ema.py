"""An exponential moving average of the weights (Polyak averaging), off by default."""

from __future__ import annotations

import torch
from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage(AveragedModel):
    """A second copy of a model that follows it: a <- d a + (1 - d) w after every step.

    The effective decay after n updates is min(decay, (1 + n) / (10 + n)), so that the
    random initial weights do not linger in a run that is short compared to 1 / (1 - decay).
    Buffers (running statistics) are copied, not averaged.

    Args:
        model: the model to follow, unwrapped.
        decay: in [0, 1).

    Raises:
        ValueError: if `decay` is outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"SOLVER.EMA.DECAY is {decay}; expected a number in [0, 1)")
        super().__init__(model, multi_avg_fn=self._average)
        self.decay = decay
        self.requires_grad_(False)

    @torch.no_grad()
    def _average(self, averages: list[torch.Tensor], weights: list[torch.Tensor], updates) -> None:
        warm = (1 + updates) / (10 + updates)
        rate = 1 - torch.clamp(torch.as_tensor(warm, dtype=torch.float32), max=self.decay)
        for average, weight in zip(averages, weights):
            average.lerp_(weight, rate.to(average.device, average.dtype))


class AverageWeights(HookBase):
    """Updates a `WeightAverage` after every step; put it before the checkpoint hook."""

    def __init__(self, average: WeightAverage, model: nn.Module) -> None:
        self.average = average
        self.model = model

    def after_step(self) -> None:
        self.average.update_parameters(self.model)


def load_average(model: nn.Module, state: dict) -> None:
    """Replace `model`'s weights by the average that a checkpoint holds under "ema".

    Args:
        model: may lack modules that only training has; their entries are left out.
        state: `WeightAverage.state_dict()`.

    Raises:
        ValueError: if the average lacks one of the model's tensors.
    """
    prefix = "module."
    average = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    missing = [name for name in model.state_dict() if name not in average]
    if missing:
        raise ValueError(f"the averaged weights of the checkpoint lack {', '.join(missing[:5])}")
    model.load_state_dict({name: average[name] for name in model.state_dict()})
