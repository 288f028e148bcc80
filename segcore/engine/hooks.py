"""Hooks and writers that make a resumed run's records those of an unbroken one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

from detectron2.engine import HookBase, hooks
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

logger = logging.getLogger(__name__)

WINDOW = 20  # Detectron2's writers report the median over this many iterations
TIMES = ("time", "data_time", "eta_seconds")


class EvalAfterSuccess(hooks.EvalHook):
    """Detectron2's EvalHook, except that a run which fails in its last step is not evaluated."""

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class KeepHistory(HookBase):
    """Carries the last values of each scalar in the checkpoint.

    The writers smooth over a window; without this a resumed run would start with an
    empty one, and its first lines would differ from those of an unbroken run.
    """

    def __init__(self) -> None:
        self._restored: dict[str, list[tuple[float, int]]] = {}

    def state_dict(self) -> dict:
        storage = getattr(self.trainer, "storage", None)  # there is none before training
        if storage is None:
            return {}
        smoothed = storage.smoothing_hints()
        return {
            name: [(float(value), int(iteration)) for value, iteration in buffer.values()[-WINDOW:]]
            for name, buffer in storage.histories().items()
            if smoothed[name] and name not in TIMES
        }

    def load_state_dict(self, state: dict) -> None:
        self._restored = state

    def before_train(self) -> None:
        storage = self.trainer.storage
        for name, values in self._restored.items():
            for value, iteration in values:
                storage.put_scalar(name, value, cur_iter=iteration)
        self._restored = {}


class WriteMetrics(hooks.PeriodicWriter):
    """Detectron2's PeriodicWriter; the writers are made when training starts, at a known iteration."""

    def __init__(self, build_writers: Callable[[int], list[EventWriter]], period: int = WINDOW) -> None:
        super().__init__([], period)
        self._build_writers = build_writers

    def before_train(self) -> None:
        self._writers = self._build_writers(self.trainer.start_iter)

    def after_step(self) -> None:
        super().after_step()
        if (self.trainer.iter + 1) % self._period == 0:
            self.trainer.storage.clear_images()  # only TensorBoard's writer does; without it they would pile up


class WandbWriter(EventWriter):
    """Sends the scalars to Weights & Biases.

    Raises:
        ModuleNotFoundError: if the wandb package is missing.
    """

    def __init__(self, output_dir: str, config: dict) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "OUTPUT_WRITERS names 'wandb' but the package is not installed: "
                "pip install wandb, or take it out of OUTPUT_WRITERS"
            ) from error
        self._run = wandb.init(dir=output_dir, config=config, resume="allow")
        self._last_write = -1

    def write(self) -> None:
        latest = get_event_storage().latest_with_smoothing_hint(WINDOW)
        fresh = {name: value for name, (value, iteration) in latest.items() if iteration > self._last_write}
        if fresh:
            self._last_write = max(iteration for _, iteration in latest.values())
            self._run.log(fresh, step=self._last_write)

    def close(self) -> None:
        self._run.finish()


def drop_lines_from(path: str, iteration: int) -> None:
    """Remove the lines of a metrics.json that belong to `iteration` or later.

    A killed run has written past its last checkpoint; the resumed run writes those
    iterations again, and a run that starts over starts with an empty file.
    """
    if not os.path.exists(path):
        return
    with open(path) as file:
        lines = file.readlines()
    kept = [line for line in lines if _iteration_of(line) < iteration]
    if len(kept) < len(lines):
        logger.info("%s: dropped %d lines from iteration %d on", path, len(lines) - len(kept), iteration)
        temporary = path + ".tmp"
        with open(temporary, "w") as file:
            file.writelines(kept)
        os.replace(temporary, path)


def _iteration_of(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except json.JSONDecodeError:
        return float("inf")  # the run was killed while it wrote this line


def _console(cfg, start_iter: int) -> EventWriter:
    return CommonMetricPrinter(cfg.SOLVER.MAX_ITER, window_size=WINDOW)


def _json(cfg, start_iter: int) -> EventWriter:
    path = os.path.join(cfg.OUTPUT_DIR, "metrics.json")
    drop_lines_from(path, start_iter)
    return JSONWriter(path, window_size=WINDOW)


def _tensorboard(cfg, start_iter: int) -> EventWriter:
    # purge_step hides what a killed run wrote past its last checkpoint.
    return TensorboardXWriter(cfg.OUTPUT_DIR, window_size=WINDOW, purge_step=start_iter)


def _wandb(cfg, start_iter: int) -> EventWriter:
    import yaml

    return WandbWriter(cfg.OUTPUT_DIR, yaml.safe_load(cfg.dump()))


WRITERS: dict[str, Callable] = {
    "console": _console,
    "json": _json,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def build_writers(cfg, start_iter: int) -> list[EventWriter]:
    """The writers that `OUTPUT_WRITERS` names."""
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    return [WRITERS[name](cfg, start_iter) for name in cfg.OUTPUT_WRITERS]
