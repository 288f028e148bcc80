"""datasets/check.py: what is there, what is missing, what is wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcore.data import builtin
from segcore.data.builtin import builtin_splits
from segcore.data.check import check_data_set, report
from tests.segcore.data.benchmarks import WRITERS, write_coco
from tests.segcore.evaluation.benchmark_sets import prepare

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def root(tmp_path):
    before = builtin._chosen_root
    builtin.register_builtin(str(tmp_path))
    yield tmp_path
    builtin._chosen_root = before


def states(rows) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.split, set()).add(row.state)
    return found


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_prepared_set_is_there_and_opens(name, root):
    if name == "cityscapes":
        pytest.importorskip("cityscapesscripts")
    with contextlib.redirect_stdout(io.StringIO()):
        prepare(root, name)
    rows = check_data_set(name)
    assert {row.split for row in rows} == set(builtin_splits(name))
    assert {row.state for row in rows} <= {"in part", "there", "opened"}
    for split in builtin_splits(name):
        samples = [row.found for row in rows if row.split == split and row.part == "sample"]
        assert len(samples) == (1 if "train" in split else 3) and all("72x96: " in found for found in samples)
    text = report(name, rows)
    assert "everything that is looked for is there, but not all images" in text and "1 of " in text


def test_what_is_missing_is_said_with_what_makes_it(root):
    write_coco(root)
    rows = check_data_set("coco")
    found = states(rows)
    assert found["coco_2017_train_panoptic_with_sem_seg"] == {"in part", "optional", "opened"}
    assert found["coco_2017_val_panoptic2instance"] == {"in part", "missing", "not opened"}
    text = report("coco", rows)
    assert "panoptic2instances_val2017.json is not there" in text and "python datasets/prepare_coco.py" in text
    shutil.rmtree(root / "coco")
    assert "opened" not in set().union(*states(check_data_set("coco")).values())


def test_wrong_labels_are_named(root):
    write_coco(root)
    folder = root / "coco/panoptic_val2017"
    path = folder / "000000000007.png"
    split = "coco_2017_val_panoptic_with_sem_seg"
    healthy = path.read_bytes()
    Image.fromarray(np.zeros((72, 96), np.uint16)).save(path)
    assert next(r.found for r in check_data_set(split) if r.state == "wrong").startswith(str(path))
    path.write_bytes(healthy)
    file = root / "coco/annotations/panoptic_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 12
    file.write_text(json.dumps(content))
    (folder / "000000000008.png").unlink()
    wrong = [r for r in check_data_set(split) if r.state == "wrong"]
    assert "category 12" in wrong[0].found and "000000000008.png" in wrong[1].found
    assert wrong[-1].found == "no image has labels"
    file.write_text("{")
    assert states(check_data_set(split))[split] >= {"wrong", "not opened"}


def test_the_command(root, capsys):
    spec = importlib.util.spec_from_file_location("datasets_check", REPO / "datasets/check.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    write_coco(root)
    assert command.main(["coco_2017_val", "--root", str(root)]) == 0
    assert command.main(["coco", "--root", str(root)]) == 1
    assert command.main(["cooc", "--root", str(root)]) == 2
    assert "unknown data set 'cooc'; known are ade20k" in capsys.readouterr().err
