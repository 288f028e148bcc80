"""One pass over each test set, every task with its own token, one table at the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from torch import nn

from segcore.engine.step import unwrap

logger = logging.getLogger(__name__)

ALL_TASKS = ("panoptic", "instance", "semantic")


def asked_task(tasks: list[str] | tuple[str, ...]) -> str | tuple[str, ...]:
    """What a model's input carries under "task": one task's name, "all", or a tuple of two names.

    Raises:
        ValueError: if `tasks` is empty or names an unknown task.
    """
    unknown = [task for task in tasks if task not in ALL_TASKS]
    if unknown or not tasks:
        raise ValueError(f"TEST.TASKS is {list(tasks)}; expected some of {list(ALL_TASKS)}")
    if set(tasks) == set(ALL_TASKS):
        return "all"
    return tasks[0] if len(tasks) == 1 else tuple(tasks)


class _AskTasks:
    """A loader whose inputs ask for the given task."""

    def __init__(self, loader, task: str | tuple[str, ...]) -> None:
        self.loader = loader
        self.task = task

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            yield [{**image, "task": self.task} for image in batch]


def evaluate(cfg, model: nn.Module) -> dict[str, dict[str, dict[str, float]]]:
    """Evaluate a model on every set of `DATASETS.TEST`, on the tasks of `TEST.TASKS`.

    Returns:
        {data set: {"panoptic_seg" | "segm" | "sem_seg": {metric: value}}}, in the
        config's order; on other processes than the first the inner dicts are empty.
    """
    from segcore.data.loaders import build_test_loader
    from segcore.evaluation import build_evaluator

    task = asked_task(cfg.TEST.TASKS)
    results = {}
    for name in cfg.DATASETS.TEST:
        loader = _AskTasks(build_test_loader(cfg, name), task)
        output_dir = os.path.join(cfg.OUTPUT_DIR, "inference", name) if cfg.OUTPUT_DIR else None
        evaluator = build_evaluator(name, list(cfg.TEST.TASKS), output_dir)
        results[name] = inference_on_dataset(unwrap(model), loader, evaluator)
    return results


def log_table(results: dict[str, dict]) -> None:
    """Log the table of an evaluation in the middle of a training (first process only)."""
    from segcore.evaluation import metrics_table

    if comm.is_main_process():
        logger.info("\n%s", metrics_table(results))


def report(cfg, results: dict[str, dict]) -> None:
    """Print the table of all metrics and write `OUTPUT_DIR/metrics_final.json` (first process only)."""
    from segcore.evaluation import metrics_table, write_metrics

    if not comm.is_main_process():
        return
    print(metrics_table(results), flush=True)
    path = os.path.join(cfg.OUTPUT_DIR, "metrics_final.json")
    write_metrics(results, path)
    logger.info("metrics written to %s", path)
