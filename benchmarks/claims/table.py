"""A table of training runs: rows x seeds, each run kept in a file, so that an interrupted table goes on where it was.

`benchmarks/results/claims/TABLE/ROW/seedN.json` holds what a run was and gave, `seedN.jsonl` beside it the log of
its training. `report.py` makes the documentation's tables and pictures of them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.reporting import machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "claims"
LOGGED = 100                     # every so many lines of a training's log are kept
METRICS = {                      # column -> where metrics_final.json has it
    "PQ": ("panoptic_seg", "PQ"),
    "PQ_th": ("panoptic_seg", "PQ_th"),
    "PQ_st": ("panoptic_seg", "PQ_st"),
    "AP": ("segm", "AP"),
    "AP50": ("segm", "AP50"),
    "mIoU": ("sem_seg", "mIoU"),
}
# A run that shows that everything works, on data that the package draws itself; its numbers mean nothing.
SMOKE = (
    "DATASETS.CUSTOM", "[]", "DATASETS.TRAIN", "('mini_panoptic_train',)", "DATASETS.TEST", "('mini_panoptic_val',)",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2",
    "INPUT.MIN_SIZE_TEST", "64", "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.CROP.SIZE", "[64, 64]",
    "INPUT.SIZE_DIVISIBILITY", "64", "DATALOADER.NUM_WORKERS", "0",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A model of a table.

    Args:
        table: where its results are kept; another table may show the same row, which is then trained once.
        group: rows of one group are compared with each other, e.g. those of a data set.
        name: what the table calls it.
        config: a YAML file of this folder.
        options: KEY, VALUE, KEY, VALUE ... on top of it.
        share: of the config's iterations that it is trained for.
    """

    table: str
    group: str
    name: str
    config: str
    options: tuple[str, ...] = ()
    share: float = 1.0

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9]+", "_", f"{self.group} {self.name}".lower()).strip("_")


def main(rows: Sequence[Row], description: str, columns: Sequence[str] = ("PQ", "AP", "mIoU")) -> None:
    """The command line of a table's script: train what has no result yet, then print the table."""
    args = _parse(description, rows)
    chosen = [row for row in rows if not args.rows or row.folder in args.rows]
    if args.smoke:
        # On drawn data the groups, which are data sets, do not differ.
        chosen = [row for row in chosen if row.group == chosen[0].group]
        with tempfile.TemporaryDirectory() as folder:
            for row in chosen:
                run(row, 0, Path(folder), [*SMOKE, *args.opts])
            print(markdown(chosen, columns, Path(folder)))
        return
    for seed in args.seeds:
        for row in chosen:
            if not result_file(row, seed, RESULTS).exists():
                run(row, seed, RESULTS, args.opts)
    print(markdown(rows, columns, RESULTS))


def _parse(description: str, rows: Sequence[Row]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", nargs="+", choices=[row.folder for row in rows], metavar="ROW",
                   help=f"only these: {', '.join(row.folder for row in rows)}")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--smoke", action="store_true", help="two steps of each row on drawn data, nothing is kept")
    p.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="settings of the config, for all rows")
    return p.parse_args()


def result_file(row: Row, seed: int, results: Path) -> Path:
    return results / row.table / row.folder / f"seed{seed}.json"


def run(row: Row, seed: int, results: Path, options: Sequence[str]) -> None:
    """Train and evaluate one row with one seed, in a process of its own; keep its numbers and its log.

    Raises:
        subprocess.CalledProcessError: if the training fails; nothing is kept then.
    """
    with tempfile.TemporaryDirectory() as work:
        settings = [*row.options, *options, "SEED", str(seed + 1), "OUTPUT_DIR", work]
        if row.share != 1:
            settings = [*settings, "SOLVER.MAX_ITER", str(_shared_iterations(row, options))]
        command = [sys.executable, str(HERE / "train.py"), "--config-file", str(HERE / row.config), *settings]
        print(f"{row.table}: {row.folder}, seed {seed}", flush=True)
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
            done.check_returncode()
        record = _record(row, seed, options, Path(work), time.perf_counter() - start)
        _keep(result_file(row, seed, results), record, Path(work) / "metrics.json")


def _shared_iterations(row: Row, options: Sequence[str]) -> int:
    """The row's share of the iterations that the options or its config's files ask for."""
    asked = dict(zip(options[::2], options[1::2], strict=True)).get("SOLVER.MAX_ITER")
    path = HERE / row.config
    while asked is None:
        config = yaml.safe_load(path.read_text())
        asked, path = config.get("SOLVER", {}).get("MAX_ITER"), path.parent / config["_BASE_"]
    return max(round(int(asked) * row.share), 1)


def _record(row: Row, seed: int, options: Sequence[str], work: Path, seconds: float) -> dict:
    config = yaml.safe_load((work / "config.yaml").read_text())
    measured = json.loads((work / "metrics_final.json").read_text())
    iterations, batch = config["SOLVER"]["MAX_ITER"], config["SOLVER"]["IMS_PER_BATCH"]
    return {
        "group": row.group,
        "row": row.name,
        "seed": seed,
        "config": row.config,
        "options": [*row.options, *options],
        "iterations": iterations,
        "images_seen": iterations * batch,
        "seconds": round(seconds, 1),
        "metrics": {name: measured[task][key] for name, (task, key) in METRICS.items() if task in measured},
        "machine": machine(),
    }


def _keep(path: Path, record: dict, log: Path) -> None:
    """By renaming, so that a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    kept = [x for x in lines if x.get("iteration", 0) % LOGGED >= LOGGED - 20]
    for file, text in (
        (path.with_suffix(".jsonl"), "".join(json.dumps(_short(x)) + "\n" for x in kept)),
        (path, json.dumps(record, indent=1) + "\n"),
    ):
        part = file.with_suffix(file.suffix + ".part")
        part.write_text(text)
        part.replace(file)


def _short(line: dict) -> dict:
    """Of a log line what a curve needs."""
    wanted = ("iteration", "total_loss", "lr", "time", "data_time")
    return {key: line[key] for key in line if key in wanted or key in ("loss_ce", "loss_mask", "loss_dice",
                                                                       "loss_contrastive")}


def read(row: Row, results: Path = RESULTS) -> list[dict]:
    """The records of a row, a seed each, in the order of their files."""
    return [json.loads(path.read_text()) for path in sorted(result_file(row, 0, results).parent.glob("seed*.json"))]


def markdown(rows: Sequence[Row], columns: Sequence[str], results: Path = RESULTS) -> str:
    """The table: mean ± standard deviation over the seeds of every row that has a result."""
    lines = [
        f"| data | model | {' | '.join(columns)} | iterations | images seen | seconds | seeds |",
        "|---" * (len(columns) + 6) + "|",
    ]
    for row in rows:
        if runs := read(row, results):
            cells = [spread([r["metrics"].get(c) for r in runs]) for c in columns]
            first = runs[0]
            seconds = statistics.median(r["seconds"] for r in runs)
            lines.append(
                f"| {row.group} | {row.name} | {' | '.join(cells)} | {first['iterations']} | "
                f"{first['images_seen']} | {seconds:.0f} | {len(runs)} |"
            )
    return "\n".join(lines)


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation; "–" where a model has no such number."""
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    return f"{statistics.fmean(known):.1f}" + (f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else "")
