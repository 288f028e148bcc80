"""Training with weights, gradients and optimizer state in shards (PyTorch's FSDP2), for the largest backbones.

Each process holds its part of every weight and gathers a block's whole weights only while that block runs.
Checkpoints are whole: a run may go on with any number of processes, sharded or not.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from segcore.checkpoint import Checkpointer

BLOCK = 1_000_000  # parameters from which on a repeated block is gathered on its own

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_WHOLE_EVERYWHERE = StateDictOptions(full_state_dict=True, cpu_offload=False)
_LOAD = StateDictOptions(full_state_dict=True, strict=False)


def shard(model: nn.Module, world_size: int, block: int = BLOCK) -> nn.Module:
    """Shard a model over all processes, in place: the large members of its lists, then all that is left.

    Args:
        model: on its device, before an optimizer is built over its parameters.
        world_size: number of processes.
        block: see BLOCK.
    """
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (world_size,))
    for holder in reversed(list(model.modules())):
        if isinstance(holder, (nn.ModuleList, nn.Sequential)):
            for member in holder:
                if sum(p.numel() for p in member.parameters()) >= block and not isinstance(member, FSDPModule):
                    fully_shard(member, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was applied."""
    return isinstance(model, FSDPModule)


def whole_copy(model: nn.Module, empty: nn.Module) -> nn.Module:
    """`empty`, a model of the same architecture, with the sharded model's weights; to be called by all processes.

    For evaluation: processes with different numbers of images cannot gather weights together.
    """
    empty.load_state_dict(get_model_state_dict(model, options=_WHOLE_EVERYWHERE))
    return empty


def whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """The optimizer's state by parameter name, whole on the first process; to be called by all."""
    return get_optimizer_state_dict(model, optimizer, options=_WHOLE)


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Take this process's shards of a state by `whole_optimizer_state`."""
    set_optimizer_state_dict(model, optimizer, copy.copy(state), options=_LOAD)


class ShardedCheckpointer(Checkpointer):
    """Whole checkpoints of a sharded model: all processes take part in saving, the first one writes."""

    def _copy(self, tensors: dict[str, torch.Tensor]) -> None:
        result = set_model_state_dict(self.model, dict(tensors), options=_LOAD)
        assert not result.unexpected_keys, result.unexpected_keys

    def _model_state(self) -> dict[str, torch.Tensor]:
        return get_model_state_dict(self.model, options=_WHOLE)
