#!/usr/bin/env python
"""One model trained once on all tasks against three models trained for a task each (OneFormer, abstract and sec. 4.3).

    python benchmarks/claims/joint.py [--smoke] [--rows ROW ...] [--seeds 0 1 2]

Same architecture, data and budget. A model for one task draws that task alone. "equal iterations" gives each of
the three as many as the joint model has, "equal compute" a third. Every metric with its own task token.
Data: $DETECTRON2_DATASETS/labelmefacade_panoptic and cwfid_panoptic.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.claims.table import Row, main  # noqa: E402

TASKS = ("panoptic", "instance", "semantic")


def drawn(**probabilities: float) -> tuple[str, ...]:
    """The config keys that draw each task with this probability, 0 where it is not named."""
    keys = {task: f"INPUT.TASK_PROB.{task.upper()}" for task in TASKS}
    return tuple(x for task, key in keys.items() for x in (key, str(probabilities.get(task, 0.0))))


def only(task: str) -> tuple[str, ...]:
    """The config keys that draw no other task."""
    return drawn(**{task: 1.0})


def single(data: str, task: str, budget: str = "equal iterations") -> Row:
    """The model for one task; the other budget is "equal compute"."""
    share = 1.0 if budget == "equal iterations" else 1 / 3
    return Row("joint", data, f"{task} only, {budget}", f"{data}.yaml", only(task), share)


# The whole model: what the ablations and the other models are compared with too.
JOINT = {data: Row("joint", data, "joint", f"{data}.yaml") for data in ("facade", "weeds")}
ROWS = [
    row
    for data, joint in JOINT.items()
    for row in (
        joint,
        *(single(data, task, "equal iterations") for task in TASKS),
        *(single(data, task, "equal compute") for task in TASKS),
    )
]

if __name__ == "__main__":
    main(ROWS, __doc__)
