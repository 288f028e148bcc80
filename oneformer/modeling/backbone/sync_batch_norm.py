"""Batch statistics over all processes, on CPUs too."""

from __future__ import annotations

import torch
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn


class SyncBatchNorm(nn.SyncBatchNorm):
    """`nn.SyncBatchNorm` that does not refuse CPU tensors in a distributed run.

    PyTorch's raises for a CPU tensor as soon as a process group exists. The formula is the same: mean and
    biased variance over (B, H, W) of all processes, which may hold different numbers of pixels; the running
    variance is unbiased. Same state-dict keys.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self.training:
            return super().forward(x)
        if comm.get_world_size() == 1:
            return nn.modules.batchnorm._BatchNorm.forward(self, x)
        return self._forward_cpu_group(x)

    def _forward_cpu_group(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.to(self.weight.dtype)  # sums over millions of pixels are no place for bf16
        pixels = x.new_tensor([x.numel() / x.shape[1]])
        totals = differentiable_all_reduce(torch.cat([x.sum((0, 2, 3)), pixels]))
        count = totals[-1].detach()
        centred = x - (totals[:-1] / count)[:, None, None]
        # Centred before squaring: E[x^2] - E[x]^2 loses the digits of a small variance.
        variance = differentiable_all_reduce(centred.square().sum((0, 2, 3))) / count
        self._update_running(totals[:-1].detach() / count, variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
