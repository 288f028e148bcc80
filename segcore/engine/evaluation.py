"""Every test set in one pass each, every task with its own token, one table at the end."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict

from detectron2.utils import comm
from torch import nn

from segcore.data import build_test_loader
from segcore.data.label_space import label_tasks, speaking_of
from segcore.engine.step import unwrap
from segcore.evaluation import PROTOCOL_REGISTRY, evaluate_tasks, metrics_table, write_metrics
from segcore.inference import build_runner
from segcore.registry import register_once

logger = logging.getLogger(__name__)


def evaluate(cfg, model: nn.Module) -> dict[str, dict[str, dict[str, float]]]:
    """Evaluate a model on every set of `DATASETS.TEST`, as `TEST.PROTOCOL` says.

    Returns:
        {data set: {"panoptic_seg" | "segm" | "sem_seg" | ...: {metric: percent}}}, in the
        config's order; on other processes than the first the inner dicts are empty.
    """
    protocol = PROTOCOL_REGISTRY.get(cfg.TEST.PROTOCOL)
    return {
        name: protocol(cfg, unwrap(model), name, os.path.join(cfg.OUTPUT_DIR, "inference", name))
        for name in cfg.DATASETS.TEST
    }


@register_once(PROTOCOL_REGISTRY)
def tasks(cfg, model: nn.Module, dataset_name: str, output_dir: str) -> dict[str, dict[str, float]]:
    """Those of `TEST.TASKS` that the data set's labels can measure, in one pass over it."""
    runner = build_runner(cfg, model)
    if cfg.DATASETS.CLASSES:
        runner = speaking_of(runner, dataset_name, cfg.DATASETS.CLASSES)
    return evaluate_tasks(
        runner,
        build_test_loader(cfg, dataset_name),
        dataset_name,
        [task for task in cfg.TEST.TASKS if task in label_tasks(dataset_name)],
        output_dir,
        save_predictions=cfg.TEST.SAVE_PREDICTIONS,
        method=cfg.MODEL.META_ARCHITECTURE.lower(),
    )


def detectron2_form(results: dict[str, dict]) -> OrderedDict:
    """The metrics themselves when there is one data set, else {data set: metrics}: as in Detectron2."""
    return OrderedDict(next(iter(results.values()))) if len(results) == 1 else OrderedDict(results)


def log_table(results: dict[str, dict]) -> None:
    """Log the table of an evaluation in the middle of a training (first process only)."""
    if comm.is_main_process():
        logger.info("\n%s", metrics_table(results))


def report(cfg, results: dict[str, dict]) -> None:
    """Print the table of all metrics and write `OUTPUT_DIR/metrics_final.json` (first process only)."""
    if not comm.is_main_process():
        return
    print(metrics_table(results), flush=True)
    path = os.path.join(cfg.OUTPUT_DIR, "metrics_final.json")
    write_metrics(detectron2_form(results), path)
    logger.info("metrics written to %s", path)
