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

from benchmarks.claims import ablations, camvid, joint, others, speed  # noqa: E402
from benchmarks.claims.table import RESULTS, ROOT, Row, markdown, read, result_file  # noqa: E402

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
            draw(table, PICTURES / f"claims_{table}.png")


def has_results(table: str) -> bool:
    """Whether any row of the table has been trained."""
    return any(read(row) for row in TABLES[table][0])


def filled(page: str) -> str:
    """The page with every table as the results have it now."""

    return _REGION.sub(lambda found: f"{found[1]}{text_of(found[2])}\n{found[3]}", page)


def text_of(table: str) -> str:
    if table == "speed":
        return costs() if speed.RESULT.is_file() else "Not measured yet."
    rows, columns = TABLES[table]
    return markdown(rows, columns) if has_results(table) else "No run yet."


def costs() -> str:
    """The table of what speed.py measured."""
    lines = ["| model | training, images/s | peak, MB | inference, images/s | peak, MB |", "|---" * 5 + "|"]
    for row in json.loads(speed.RESULT.read_text())["rows"]:
        cells = [f"{row[f'{phase}_{key}']:.{digits}f}" for phase in speed.PHASES
                 for key, digits in (("images_per_second", 1), ("peak_mb", 0))]
        lines.append(f"| {row['row']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(table: str, path: Path) -> None:
    """Above, training loss of every run over the images seen; below, what every seed reached; a column per data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, columns = TABLES[table]
    groups = sorted({row.group for row in rows if read(row)})
    size = (6.5 * len(groups), 7.5)
    figure, axes = plt.subplots(2, len(groups), figsize=size, squeeze=False, layout="constrained")
    for (above, below), group in zip(axes.T, groups, strict=True):
        shown = [row for row in rows if row.group == group and read(row)]
        draw_curves(above, shown)
        draw_results(below, shown, columns)
        above.set_title(group)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_curves(axis, rows: list[Row]) -> None:
    """A line per seed, a colour per row."""
    for number, row in enumerate(rows):
        for file in sorted(result_file(row, 0, RESULTS).parent.glob("seed*.jsonl")):
            record = json.loads(file.with_suffix(".json").read_text())
            batch = record["images_seen"] / record["iterations"]
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            curve = [((x["iteration"] + 1) * batch, x["total_loss"]) for x in lines if "total_loss" in x]
            label = row.name if record["seed"] == 0 else None
            axis.plot(*zip(*curve), color=f"C{number}", label=label, linewidth=1, marker=".")
    axis.set(xlabel="images seen", ylabel="training loss")
    axis.legend(fontsize=8)


def draw_results(axis, rows: list[Row], columns: tuple[str, ...]) -> None:
    """A dot per seed and metric, a line of the picture per row, the first on top."""
    for place, row in enumerate(rows):
        for column, marker in zip(columns, "os^"):
            values = [run["metrics"][column] for run in read(row) if column in run["metrics"]]
            label = column if place == 0 else None
            axis.plot(values, [place] * len(values), marker, color=f"C{place}", alpha=0.7, label=label)
    axis.set(xlabel="percent", yticks=range(len(rows)), yticklabels=[row.name for row in rows])
    axis.set_xlim(left=-1)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(columns))


if __name__ == "__main__":
    main()
