#!/usr/bin/env python
"""Write the tables of docs/claims.md and its pictures from the committed results.

    python benchmarks/claims/report.py

A table stands between `<!-- table NAME -->` and `<!-- end -->`; a test compares it with what this script writes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.claims import ablations, camvid, joint, others  # noqa: E402
from benchmarks.claims.table import RESULTS, ROOT, markdown, read, result_file  # noqa: E402

PAGE = ROOT / "docs" / "claims.md"
PICTURES = ROOT / "docs" / "images"
TABLES = {
    "joint": (joint.ROWS, ("PQ", "AP", "mIoU")),
    "ablations": (ablations.ROWS, ("PQ", "AP", "mIoU")),
    "others": (others.ROWS, ("PQ", "AP", "mIoU")),
    "camvid": (camvid.ROWS, camvid.COLUMNS),
}
_REGION = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text()))
    for table in TABLES:
        if has_results(table):
            draw_curves(table, PICTURES / f"claims_{table}.png")


def has_results(table: str) -> bool:
    """Whether any row of the table has been trained."""
    return any(read(row) for row in TABLES[table][0])


def filled(page: str) -> str:
    """The page with every table as the results have it now."""

    def fill(found: re.Match) -> str:
        rows, columns = TABLES[found[2]]
        text = markdown(rows, columns) if has_results(found[2]) else "No run yet."
        return f"{found[1]}{text}\n{found[3]}"

    return _REGION.sub(fill, page)


def draw_curves(table: str, path: Path) -> None:
    """Training loss of every run over the images seen, a panel per data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, _ = TABLES[table]
    groups = sorted({row.group for row in rows})
    figure, axes = plt.subplots(1, len(groups), figsize=(6 * len(groups), 4), squeeze=False, layout="constrained")
    for axis, group in zip(axes[0], groups, strict=True):
        for number, row in enumerate(row for row in rows if row.group == group):
            for file in sorted(result_file(row, 0, RESULTS).parent.glob("seed*.jsonl")):
                record = json.loads(file.with_suffix(".json").read_text())
                batch = record["images_seen"] / record["iterations"]
                lines = [json.loads(line) for line in file.read_text().splitlines()]
                curve = [((x["iteration"] + 1) * batch, x["total_loss"]) for x in lines if "total_loss" in x]
                label = row.name if record["seed"] == 0 else None
                axis.plot(*zip(*curve), color=f"C{number}", label=label, linewidth=1, marker=".")
        axis.set(title=group, xlabel="images seen", ylabel="training loss")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
