"""One optimizer step: accumulation, autocast, clipping, and a loud end for NaN and Inf."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.distributed.tensor import DTensor

from segcore.engine.replay import derive_seed, seed_everything
from segcore.engine.sharding import is_sharded, load_optimizer_state, whole_optimizer_state
from segcore.ops.fastest import fastest
from segcore.solver import GradientClipper

# fp16 starts from a loss scale of 2**16 and halves it at each overflow. After this many
# overflows in a row the scale is below 2**-14: the gradient itself is not finite.
MAX_SKIPPED_STEPS = 30

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """Which autocast a step runs under; `dtype` None is full precision."""

    device_type: str
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.dtype is torch.float16 and self.device_type != "cuda":
            raise ValueError(
                f"SOLVER.AMP.DTYPE float16 trains on CUDA only, but MODEL.DEVICE is {self.device_type!r}; "
                "use SOLVER.AMP.DTYPE bfloat16, or SOLVER.AMP.ENABLED False"
            )

    def autocast(self):
        """The context of a forward pass."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler | None:
        """A loss scaler where the gradients need one: fp16's smallest number is 6e-8, bf16's 1e-38."""
        return torch.amp.GradScaler("cuda") if self.dtype is torch.float16 else None


class StepTrainer(SimpleTrainer):
    """The inner loop of `Trainer`: one call of `run_step` is one optimizer step.

    Args:
        model, data_loader, optimizer: as in Detectron2's SimpleTrainer.
        clipper: called with the parameters after backward; returns the gradient norm.
        precision: autocast and loss scaling.
        accumulate: batches per step; each batch's loss counts 1 / accumulate.
        seed: all randomness of the model in step i comes from (seed, i, batch, rank), so
            that neither an interruption nor an evaluation in between changes a run.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        clipper: GradientClipper,
        precision: Precision,
        accumulate: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        if accumulate < 1:
            raise ValueError(f"SOLVER.ACCUMULATE is {accumulate}; expected at least 1")
        self.clipper = clipper
        self.precision = precision
        self.accumulate = accumulate
        self.seed = seed
        self.grad_scaler = precision.scaler()
        self._named_parameters = [(n, p) for n, p in unwrap(model).named_parameters() if p.requires_grad]
        self._loss_names: list[str] | None = None
        self._skipped_steps = 0

    # -- the step ----------------------------------------------------------------

    def run_step(self) -> None:
        assert self.model.training, "the model was left in eval mode"
        self.optimizer.zero_grad()
        data_time = 0.0
        files: list[list[str]] = []
        losses: list[torch.Tensor] = []
        for number in range(self.accumulate):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            files.append([str(image.get("file_name", "(no file name)")) for image in batch])
            losses.append(self._forward_backward(batch, number))
        self.after_backward()

        grad_norm = self._clip()
        local = torch.stack(losses)  # (accumulate, losses)
        vector = self._means(local, grad_norm)
        numbers = _ToHost(vector)
        if self._guards_itself:
            self._update_if_finite(vector)
        *mean, norm = numbers.read()
        self._check(mean, norm, local, files)
        if not self._guards_itself:
            self._update(norm)
        self._log(mean, norm, data_time)

    def _forward_backward(self, batch: list[dict], number: int) -> torch.Tensor:
        """Add the gradient of one batch; returns its losses, (losses,) fp32, still on the device."""
        seed_everything(derive_seed(self.seed, self.iter, number, comm.get_rank()))
        last = number == self.accumulate - 1
        together = nullcontext() if last or not hasattr(self.model, "no_sync") else self.model.no_sync()
        with together, fastest():  # the backward pass too: activation checkpointing computes in it once more
            with self.precision.autocast():
                loss_dict = self.model(batch)
            if isinstance(loss_dict, torch.Tensor):
                loss_dict = {"total_loss": loss_dict}
            values = self._ordered(loss_dict)
            total = values.sum() / self.accumulate
            (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()
        return values.detach()

    def _ordered(self, loss_dict: dict[str, torch.Tensor]) -> torch.Tensor:
        """The losses as one vector whose order is the same for every batch and process."""
        names = sorted(loss_dict)
        if self._loss_names is None:
            for rank, others in enumerate(comm.all_gather(names)):
                if others != names:
                    raise ValueError(f"process {rank} computes the losses {others}, this one {names}")
            self._loss_names = names
        if names != self._loss_names:
            raise ValueError(f"the model returned the losses {names}; before it was {self._loss_names}")
        return torch.stack([loss_dict[name].float() for name in names])

    def _clip(self) -> torch.Tensor:
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        norm = self.clipper(p for _, p in self._named_parameters)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _means(self, local: torch.Tensor, grad_norm: torch.Tensor) -> torch.Tensor:
        """Mean losses over batches and processes, then the gradient norm: a vector, still on the device.

        A NaN of one process makes every process's mean NaN, so that all stop together.
        """
        vector = torch.cat([local.mean(0), grad_norm.float().reshape(1).to(local.device)])
        if comm.get_world_size() > 1:
            dist.all_reduce(vector)
            vector /= comm.get_world_size()
        return vector

    @property
    def _guards_itself(self) -> bool:
        """Whether the optimizer can be told on the device to leave the weights alone (PyTorch's fused ones can)."""
        fused = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        return fused and self.grad_scaler is None and not is_sharded(self.model)

    def _update_if_finite(self, vector: torch.Tensor) -> None:
        """The update, unless a number is not finite: it is queued before this process has read a number."""
        self.optimizer.found_inf = (~torch.isfinite(vector).all()).float()
        self.optimizer.step()

    def _update(self, norm: float) -> None:
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        self.grad_scaler.step(self.optimizer)  # leaves the weights alone if a gradient is not finite
        self.grad_scaler.update()
        self._skipped_steps = 0 if _finite(norm) else self._skipped_steps + 1

    def _log(self, mean: list[float], norm: float, data_time: float) -> None:
        storage = get_event_storage()
        storage.put_scalar("data_time", data_time, cur_iter=self.iter)
        names = self._loss_names
        if names != ["total_loss"]:
            storage.put_scalar("total_loss", sum(mean), cur_iter=self.iter)
        for name, value in zip(names, mean):
            storage.put_scalar(name, value, cur_iter=self.iter)
        if _finite(norm):
            storage.put_scalar("grad_norm", norm, cur_iter=self.iter)
        if self.grad_scaler is not None:
            storage.put_scalar("grad_scale", self.grad_scaler.get_scale(), cur_iter=self.iter)

    # -- NaN and Inf ---------------------------------------------------------------

    def _check(self, mean: list[float], norm: float, local: torch.Tensor, files: list[list[str]]) -> None:
        """Raise before the weights are touched if a loss or the gradient is not finite.

        Raises:
            FloatingPointError: naming the iteration, the losses (or the parameters whose
                gradients are at fault) and the image files.
        """
        if not all(map(_finite, mean)):
            findings = self._bad_losses(local, files)
        elif _finite(norm) or self._may_skip():
            return
        else:
            findings = self._bad_gradients(files)
        everywhere = [line for lines in comm.all_gather(findings) for line in lines]
        raise FloatingPointError(
            f"iteration {self.iter}: " + "; ".join(everywhere) + ". The weights were not updated and no "
            "checkpoint was written. Look at these images and their annotations; a lower SOLVER.BASE_LR, "
            "gradient clipping, or SOLVER.AMP.DTYPE bfloat16 instead of float16 may help."
        )

    def _may_skip(self) -> bool:
        """Whether a gradient that overflowed is the loss scaler's business."""
        return self.grad_scaler is not None and self._skipped_steps < MAX_SKIPPED_STEPS

    def _bad_losses(self, local: torch.Tensor, files: list[list[str]]) -> list[str]:
        lines = []
        for row, names in zip(local.tolist(), files):
            bad = [f"{n} = {v}" for n, v in zip(self._loss_names, row) if not _finite(v)]
            if bad:
                lines.append(f"{', '.join(bad)} on the images {', '.join(names)}{_of_rank()}")
        return lines

    def _bad_gradients(self, files: list[list[str]]) -> list[str]:
        bad = [n for n, p in self._named_parameters if p.grad is not None and not _all_finite(p.grad)]
        few = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        images = ", ".join(name for names in files for name in names)
        return [f"all losses are finite but the gradient of {few} is not, on the images {images}{_of_rank()}"]

    # -- checkpoint ------------------------------------------------------------------

    def state_dict(self) -> dict:
        state = super().state_dict()
        if is_sharded(self.model):
            state["optimizer"] = whole_optimizer_state(self.model, self.optimizer)
        state["seed"] = self.seed
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        if is_sharded(self.model):
            state_dict = dict(state_dict)
            load_optimizer_state(self.model, self.optimizer, state_dict.pop("optimizer"))
            state_dict["optimizer"] = self.optimizer.state_dict()  # what it has now: Detectron2 sets it again
        super().load_state_dict(state_dict)
        self.seed = state_dict["seed"]
        if self.grad_scaler is not None and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


class _ToHost:
    """A vector on its way to the CPU: the device goes on with what is queued after it."""

    def __init__(self, vector: torch.Tensor) -> None:
        self.arrived = None
        self.vector = vector
        if vector.device.type == "cuda":
            self.vector = torch.empty_like(vector, device="cpu", pin_memory=True).copy_(vector, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def read(self) -> list[float]:
        """Its values; waits for them alone."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.vector.tolist()


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper of distributed training."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _finite(value: float) -> bool:
    return value - value == 0.0


def _all_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _of_rank() -> str:
    return f" (process {comm.get_rank()})" if comm.get_world_size() > 1 else ""


def build_precision(cfg, device: torch.device) -> Precision:
    """The precision that `SOLVER.AMP` asks for on `device`.

    Raises:
        ValueError: for an unknown dtype, or fp16 without CUDA.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return Precision(device.type)
    name = cfg.SOLVER.AMP.DTYPE
    if name not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}; expected one of {sorted(AMP_DTYPES)}")
    return Precision(device.type, AMP_DTYPES[name])
