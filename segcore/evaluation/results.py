"""One table and one JSON file of every metric of every task."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping

from tabulate import tabulate

# (result key, label, [(row label, metric names)]) in the order of the table.
_BLOCKS = (
    (
        "panoptic_seg",
        "panoptic",
        (
            ("all", ("PQ", "SQ", "RQ")),
            ("things", ("PQ_th", "SQ_th", "RQ_th")),
            ("stuff", ("PQ_st", "SQ_st", "RQ_st")),
        ),
    ),
    ("segm", "instance", (("IoU .50:.95", ("AP", "AP50", "AP75")), ("by size", ("APs", "APm", "APl")))),
    ("sem_seg", "semantic", (("IoU", ("mIoU", "fwIoU")), ("accuracy", ("mACC", "pACC")))),
)


def metrics_table(results: Mapping[str, Mapping]) -> str:
    """Every headline metric in one table of percentages; NaN (nothing to measure) shows as "-".

    Args:
        results: what the evaluators return, {"panoptic_seg" | "segm" | "sem_seg": {metric: percent}}, or of
            another protocol {its name: {metric: number}}, or several data sets' worth, {data set name: such
            a dict}.

    Raises:
        ValueError: there is no metric in `results`.
    """
    if any(isinstance(value, Mapping) and _is_flat(value) for value in results.values()):
        return tabulate(_rows(results), ["task", "over", "", "", ""], tablefmt="simple_outline", disable_numparse=True)
    tables = [f"{name}\n{metrics_table(value)}" for name, value in results.items() if isinstance(value, Mapping)]
    if not tables:
        known = [key for key, _, _ in _BLOCKS]
        raise ValueError(f"no metrics to show: got keys {sorted(results)}, expected some of {known}")
    return "\n".join(tables)


def _is_flat(metrics: Mapping) -> bool:
    return bool(metrics) and not any(isinstance(value, Mapping) for value in metrics.values())


def _rows(results: Mapping[str, Mapping]) -> list[list[str]]:
    rows = []
    for key, label, groups in _BLOCKS:
        if key not in results:
            continue
        for number, (group, names) in enumerate(groups):
            cells = [f"{name:<6}{_percent(results[key].get(name))}" for name in names]
            rows.append([label if number == 0 else "", group, *cells, *[""] * (3 - len(cells))])
    for key in (key for key in results if key not in {block[0] for block in _BLOCKS}):
        cells = [f"{name} {_percent(value).strip()}" for name, value in results[key].items()]
        for start in range(0, len(cells), 3):
            part = cells[start : start + 3]
            rows.append(["" if start else key, "", *part, *[""] * (3 - len(part))])
    return rows


def _percent(value) -> str:
    return f"{'-':>7}" if value is None or math.isnan(value) else f"{value:7.2f}"


def write_metrics(results: Mapping, path: str) -> None:
    """Write nested metrics as JSON; NaN and infinity, which JSON lacks, become null.

    The file appears at once, by a rename, so that a reader never sees half of it.
    """
    write_json(path, results)


def write_json(path: str, content) -> None:
    """Write JSON through a rename. Numbers of NumPy and torch become plain ones, NaN becomes null."""
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.part{os.getpid()}"
    with open(partial, "w") as file:
        json.dump(_plain(content), file, indent=1, allow_nan=False)
        file.write("\n")
    os.replace(partial, path)


def _plain(value):
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a number of NumPy or torch
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
