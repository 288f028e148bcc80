"""The tables of docs/claims.md: what a run keeps, what a table prints, what the ablated models do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.claims import report, table
from benchmarks.claims.joint import only
from benchmarks.claims.table import Row, markdown, result_file, spread
from benchmarks.claims.variants import LearnedQueries
from oneformer.tasks import INSTANCE, PANOPTIC, SEMANTIC
from tests.oneformer.modeling.compact import compact_model, training_input

ROW = Row("t", "facade", "joint, whole", "facade.yaml")


def keep(results: Path, row: Row, seed: int, **metrics: float) -> None:
    record = {"group": row.group, "row": row.name, "seed": seed, "metrics": metrics}
    record |= {"iterations": 10, "images_seen": 80, "seconds": 3.0 + seed}
    path = result_file(row, seed, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def test_a_table_has_mean_and_spread_of_the_seeds(tmp_path):
    for seed, pq in enumerate((10.0, 12.0, 14.0)):
        keep(tmp_path, ROW, seed, PQ=pq)
    text = markdown([ROW, Row("t", "facade", "not run", "facade.yaml")], ("PQ", "AP"), tmp_path)
    assert text.splitlines()[-1] == "| facade | joint, whole | 12.0 ± 2.0 | – | 10 | 80 | 4 | 3 |"
    assert spread([7.25]) == "7.2"


def test_a_row_is_named_by_group_and_name():
    assert result_file(ROW, 2, Path("r")) == Path("r/t/facade_joint_whole/seed2.json")


def test_a_share_of_the_iterations_comes_from_the_nearest_config():
    third = Row("t", "facade", "x", "facade.yaml", share=1 / 3)
    asked = int(table.yaml.safe_load((table.HERE / "small.yaml").read_text())["SOLVER"]["MAX_ITER"])
    assert table._shared_iterations(third, []) == round(asked / 3)
    assert table._shared_iterations(third, ["SOLVER.MAX_ITER", "30"]) == 10


def test_a_failed_run_keeps_nothing(tmp_path):
    broken = Row("t", "facade", "x", "facade.yaml", ("MODEL.NO_SUCH_KEY", "1"))
    with pytest.raises(subprocess.CalledProcessError):
        table.run(broken, 0, tmp_path, [])
    assert not list(tmp_path.rglob("*.json*"))


def test_rows_of_a_table_have_files_of_their_own():
    for rows, _ in report.TABLES.values():
        assert len({row.folder for row in rows}) == len(rows)
        assert all((table.HERE / row.config).is_file() for row in rows)


def test_one_task_is_drawn_alone():
    options = dict(zip(only("instance")[::2], only("instance")[1::2], strict=True))
    drawn = {key.rsplit(".")[-1]: float(p) for key, p in options.items()}
    assert drawn == {"PANOPTIC": 0, "INSTANCE": 1, "SEMANTIC": 0}


def test_the_page_shows_what_the_results_say():
    page = report.PAGE.read_text()
    assert page == report.filled(page), "run python benchmarks/claims/report.py"


def test_a_model_without_task_token_cannot_tell_tasks_apart():
    whole = compact_model()
    without = compact_model("MODEL.META_ARCHITECTURE", "OneFormerWithoutTask")
    told, untold = (model.embed_tasks([PANOPTIC, INSTANCE, SEMANTIC]) for model in (whole, without))
    assert not torch.equal(told[0], told[1]) and not torch.equal(told[0], told[2])
    torch.testing.assert_close(untold, told[:1].expand(3, -1), rtol=1e-4, atol=0)   # another batch, other rounding


def test_learned_queries_ignore_image_and_task():
    queries = LearnedQueries(5, 4)
    (a,), (b,) = (queries(torch.randn(2, 4, 3, 3), torch.randn(5, 4), [([0, 1], torch.randn(2, 4))]) for _ in range(2))
    assert a.shape == (2, 5, 4) and torch.equal(a, b)
    a.sum().backward()
    assert queries.start.weight.grad is not None


def test_learned_queries_train_in_the_model():
    model = compact_model("MODEL.META_ARCHITECTURE", "OneFormerLearnedQueries")
    losses = model.train()([training_input(32, 48, [0, 2], PANOPTIC, 8)])
    sum(losses.values()).backward()
    assert model.sem_seg_head.predictor.class_transformer.start.weight.grad.abs().sum() > 0
