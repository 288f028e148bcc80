"""Bringing per-image records of all processes together, each image once."""

from __future__ import annotations

import logging

from detectron2.utils import comm

logger = logging.getLogger(__name__)


def gather_by_image(records: dict[str, object], distributed: bool) -> dict[str, object] | None:
    """Merge the processes' {image id: record} on the main process; None on the others.

    A sampler that pads (so that all processes get equally many images) shows some images twice. The lowest
    rank's record is kept and the others are dropped, so the result is the same as from one process.
    """
    if not distributed:
        return records
    gathered = comm.gather(records, dst=0)
    if not comm.is_main_process():
        return None
    merged: dict[str, object] = {}
    for part in gathered:
        for image_id, record in part.items():
            merged.setdefault(image_id, record)
    repeated = sum(map(len, gathered)) - len(merged)
    if repeated:
        logger.info("%d images came from several processes; each is counted once", repeated)
    return merged


def model_output(output: dict, key: str, evaluator: object):
    """`output[key]`, or a ValueError that names what the model returned instead."""
    if key not in output:
        raise ValueError(
            f"{type(evaluator).__name__} needs the model's '{key}', got only {sorted(output)}; ask the "
            "model for this task (input 'task': 'all' gives every one)"
        )
    return output[key]
