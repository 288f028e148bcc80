"""Every command and every program that the documentation shows does what the page says: it is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY
from PIL import Image

from oneformer.commands.train import load_model as load_oneformer
from segcore.data.mini.writer import SCENES
from seggpt.commands.train import load_model as load_seggpt
from tests.docs import blocks as docs
from tests.docs.blocks import Block
from tests.test_packaging import project_name, setup_arguments

BLOCKS = docs.all_blocks()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the clone at hand and the pictures that the pages name; registries as before."""
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn, whose wheel carries the photograph")
    docs.link_clone(tmp_path)
    photo = Image.fromarray(sklearn.load_sample_image("china.jpg"))
    photo.save(tmp_path / "photo.jpg")
    for name in ("folder", "more"):
        (tmp_path / name).mkdir()
        photo.resize((160, 107)).save(tmp_path / name / "small.png")
    clip = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (160, 106))
    for _ in range(2):
        clip.write(np.asarray(photo.resize((160, 106)))[..., ::-1])
    clip.release()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    categories = [{"id": 1, "name": "shelf", "isthing": 1, "color": [200, 120, 40]}]
    (tmp_path / "shelves").mkdir()
    (tmp_path / "shelves" / "panoptic_train.json").write_text(
        json.dumps({
            "images": [{"id": 1, "file_name": "1.jpg", "height": 4, "width": 4}],
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": []}],
            "categories": categories,
        }), encoding="utf-8")
    for split, few in (("train", 8), ("val", 2)):  # the embedded data set, smaller
        monkeypatch.setitem(SCENES, split, few)
    load_oneformer(), load_seggpt()  # what the packages register stays
    registered, backbones = set(DatasetCatalog), dict(BACKBONE_REGISTRY._obj_map)
    yield tmp_path
    for name in set(DatasetCatalog) - registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    BACKBONE_REGISTRY._obj_map.clear()
    BACKBONE_REGISTRY._obj_map.update(backbones)


def names_of_setup() -> tuple[set[str], set[str]]:
    """The extras, and the projects that setup.py names anywhere."""
    arguments = setup_arguments()
    extras = arguments["extras_require"]
    return set(extras), {project_name(r) for r in chain(arguments["install_requires"], *extras.values())}


def of_language(language: str) -> list:
    return [pytest.param(block, id=block.where) for block in BLOCKS if block.language == language]


@pytest.mark.parametrize("block", of_language("sh"))
def test_commands(block: Block, scratch: Path):
    found = list(docs.commands(block.text))
    assert found, f"{block.where} has no command"
    for words in found:
        docs.run_command(words, block.mode, *names_of_setup())


@pytest.mark.parametrize("block", of_language("python"))
def test_programs(block: Block, scratch: Path):
    compile(block.text, block.where, "exec")
    if block.mode == "run":
        (scratch / "block.py").write_text(block.text, encoding="utf-8")
        docs.start(["block.py"])


@pytest.mark.parametrize("block", of_language("yaml"))
def test_settings_are_yaml(block: Block):
    assert yaml.safe_load(block.text)


def test_there_is_no_other_kind_of_block():
    """A folder tree has no language; any other language needs a test above."""
    others = [block.where for block in BLOCKS if block.language not in ("sh", "python", "yaml")]
    assert all(where.startswith("datasets/README.md") for where in others), others
    assert sum(block.mode == "run" for block in BLOCKS) >= 10


def test_the_first_program_prints_what_it_shows(scratch: Path, capsys: pytest.CaptureFixture):
    program = next(b.text for b in BLOCKS if b.where.startswith("docs/index.md") and b.language == "python")
    (scratch / "block.py").write_text(program, encoding="utf-8")
    docs.start(["block.py"])
    assert capsys.readouterr().out.count("(427, 640)") >= 2


# ---------------------------------------------------------------- the checks are not blind

def test_a_marker_must_be_known():
    with pytest.raises(ValueError, match="unknown marker"):
        docs.read_blocks("page", "<!-- check: nothing -->\n```sh\nmake demo\n```\n")


def test_a_block_must_be_closed():
    with pytest.raises(ValueError, match="not closed"):
        docs.read_blocks("page", "```sh\nmake demo\n")


def test_lines_are_joined_and_comments_dropped():
    text = "python a.py \\\n    --b c   # why\n# nothing\nmake demo\n"
    assert list(docs.commands(text)) == [["python", "a.py", "--b", "c"], ["make", "demo"]]


@pytest.mark.parametrize("line", [
    "curl https://example.org",
    "make nonsense",
    "pip install nonsense",
    "pip install .[nonsense]",
    "pip install --nonsense .",
    "python nonsense.py",
    "python demo/nonsense.py",
    "python demo/demo.py --nonsense",
    "python demo/demo.py --input a.jpg --config-file configs/nonsense.yaml",
    "python demo/demo.py --input a.jpg --config-file configs/mini/oneformer_mini.yaml MODEL.NONSENSE 1",
    "python train_net.py --config-file configs/mini/oneformer_mini.yaml SOLVER.MAX_ITER many",
    "python train_net.py --config-file configs/mini/oneformer_mini.yaml INPUT.TASK_PROB.SEMANTIC 2.0",
    "torchrun --nonsense 2 train_net.py",
    "torchrun --nproc-per-node 2 train_net.py --nonsense",
    "python tools/install_detectron2.py --nonsense",
    "oneformer predict --nonsense",
])
def test_a_wrong_command_is_found(line: str, scratch: Path):
    wrong = (AssertionError, ValueError, OSError, SystemExit)
    with pytest.raises(wrong):
        docs.run_command(line.split(), "arguments", *names_of_setup())
