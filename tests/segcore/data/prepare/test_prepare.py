"""Preparing the benchmarks: what is made, that a killed run loses nothing, and that wrong files are named."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_api
import pytest
from PIL import Image

from segcore.data.builtin import builtin_content
from segcore.data.images import read_panoptic_ids
from segcore.data.prepare import PREPARATIONS, Options, make, product
from segcore.data.prepare.command import main
from tests.segcore.data.benchmarks import WRITERS, save, write_ade20k, write_coco, write_mapillary

NAMES = sorted(WRITERS)


@pytest.fixture(autouse=True)
def _cityscapesscripts(request):
    if "cityscapes" in request.node.name:
        pytest.importorskip("cityscapesscripts")


def tree(root: Path) -> dict[str, str]:
    """Path -> digest of every file."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def prepare(name: str, root: Path, **options) -> dict[str, str]:
    left_out = {}
    for made in PREPARATIONS[name].products(str(root)):
        left_out |= make(made, Options(**{"workers": 1, **options}))
    return left_out


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# -- what is made -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_several_workers_and_a_second_run_give_the_same_bytes(name, tmp_path, capsys):
    for folder, workers in (("one", 1), ("three", 3)):
        WRITERS[name](tmp_path / folder)
        raw = tree(tmp_path / folder)
        prepare(name, tmp_path / folder, workers=workers)
        made = tree(tmp_path / folder)
        assert {path: made[path] for path in raw} == raw  # the download is untouched
        assert len(made) > len(raw) and not any(".part" in path or "tmp" in path for path in made)
        capsys.readouterr()
        prepare(name, tmp_path / folder)
        assert {line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()} == {"is there already"}
        assert tree(tmp_path / folder) == made
    assert tree(tmp_path / "one") == tree(tmp_path / "three")


def test_ade20k(tmp_path):
    write_ade20k(tmp_path)
    prepare("ade20k", tmp_path)
    base, stem = tmp_path / "ADEChallengeData2016", "ADE_train_00000001"
    categories = builtin_content("ade20k")["categories"]
    raw = np.array(Image.open(base / f"annotations/training/{stem}.png")).astype(int)
    instances = np.array(Image.open(base / f"annotations_instance/training/{stem}.png"))
    semantic = np.array(Image.open(base / f"annotations_detectron2/training/{stem}.png"))
    assert semantic.dtype == np.uint8 and np.array_equal(semantic, np.where(raw == 0, 255, raw - 1))

    content = read(base / "ade20k_instance_train.json")
    assert len(content["categories"]) == 100 and content["categories"][0] == {"id": 7, "name": "bed"}
    mine = [a for a in content["annotations"] if a["image_id"] == stem]
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    assert len(mine) == instances[..., 1].max() == 4
    for number, annotation in enumerate(mine, start=1):
        mask = instances[..., 1] == number
        assert np.array_equal(mask_api.decode(annotation["segmentation"]).astype(bool), mask)
        assert annotation["category_id"] == raw[mask][0] - 1
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == mask_api.toBbox(annotation["segmentation"]).tolist()

    panoptic = read(base / "ade20k_panoptic_train.json")
    assert panoptic["categories"] == categories
    ids = read_panoptic_ids(str(base / f"ade20k_panoptic_train/{stem}.png"))
    (annotation,) = [a for a in panoptic["annotations"] if a["image_id"] == stem]
    classes = np.zeros_like(ids)
    for segment in annotation["segments_info"]:
        assert segment["area"] == (ids == segment["id"]).sum() and segment["iscrowd"] == 0
        classes[ids == segment["id"]] = segment["category_id"] + 1
    assert np.array_equal(classes, raw)
    assert len(annotation["segments_info"]) == 3 + 4


def test_ade20k_things_lie_on_stuff_which_keeps_its_area(tmp_path):
    write_ade20k(tmp_path, train=1, val=0)
    base, stem = tmp_path / "ADEChallengeData2016", "ADE_train_00000001"
    save(base / f"annotations/training/{stem}.png", np.full((72, 96), 1, np.uint8))  # wall everywhere
    things = np.zeros((72, 96, 3), np.uint8)
    things[:10, :10] = (1, 1, 0)  # a bed on it
    save(base / f"annotations_instance/training/{stem}.png", things)
    for made in PREPARATIONS["ade20k"].products(str(tmp_path), ("train",), ("panoptic",)):
        make(made, Options(workers=1))
    (annotation,) = read(base / "ade20k_panoptic_train.json")["annotations"]
    wall, bed = annotation["segments_info"]
    assert (wall["category_id"], wall["area"]) == (0, 72 * 96)
    assert (bed["category_id"], bed["area"], bed["bbox"]) == (7, 100, [0, 0, 10, 10])
    ids = read_panoptic_ids(str(base / f"ade20k_panoptic_train/{stem}.png"))
    assert (ids == wall["id"]).sum() == 72 * 96 - 100


def test_coco(tmp_path):
    write_coco(tmp_path)
    prepare("coco", tmp_path)
    base = tmp_path / "coco"
    index = {c["id"]: i for i, c in enumerate(builtin_content("coco")["categories"])}
    panoptic = read(base / "annotations/panoptic_val2017.json")
    instances = read(base / "annotations/panoptic2instances_val2017.json")
    assert not (base / "annotations/panoptic2instances_train2017.json").exists()
    things = {c["id"] for c in instances["categories"]}
    assert len(things) == 80
    expected = []
    for annotation in panoptic["annotations"]:
        ids = read_panoptic_ids(str(base / "panoptic_val2017" / annotation["file_name"]))
        labels = np.array(Image.open(base / "panoptic_semseg_val2017" / annotation["file_name"]))
        classes = np.full(ids.shape, 255)
        for segment in annotation["segments_info"]:
            classes[ids == segment["id"]] = index[segment["category_id"]]
            if segment["category_id"] in things:
                expected.append((annotation["image_id"], segment["category_id"], segment["iscrowd"], segment["bbox"]))
                masks = [a for a in instances["annotations"] if a["bbox"] == segment["bbox"]]
                assert any(np.array_equal(mask_api.decode(a["segmentation"]), ids == segment["id"]) for a in masks)
        assert np.array_equal(labels, classes)
    found = [(a["image_id"], a["category_id"], a["iscrowd"], a["bbox"]) for a in instances["annotations"]]
    assert found == expected and {f[2] for f in found} == {0, 1}


def test_cityscapes_has_the_bytes_of_cityscapesscripts(tmp_path):
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    WRITERS["cityscapes"](tmp_path / "ours")
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    prepare("cityscapes", tmp_path / "ours", workers=2)
    convert2panoptic(str(tmp_path / "theirs/cityscapes/gtFine"), setNames=["train", "val"])
    ours, theirs = tree(tmp_path / "ours"), tree(tmp_path / "theirs")
    assert {path: ours[path] for path in theirs} == theirs
    labels = [path for path in ours if path not in theirs]
    assert len(labels) == 5 and all(path.endswith("_gtFine_labelTrainIds.png") for path in labels)
    ids = {c["id"]: i for i, c in enumerate(builtin_content("cityscapes")["categories"])}
    for path in labels:
        raw = np.array(Image.open(tmp_path / "ours" / path.replace("labelTrainIds", "labelIds")))
        made = np.array(Image.open(tmp_path / "ours" / path))
        assert np.array_equal(made, np.vectorize(lambda v: ids.get(v, 255))(raw))


def test_mapillary(tmp_path):
    write_mapillary(tmp_path)
    prepare("mapillary", tmp_path)
    base = tmp_path / "mapillary_vistas"
    panoptic = read(base / "validation/panoptic/panoptic_2018.json")
    categories = builtin_content("mapillary")["categories"]
    assert panoptic["categories"] == categories
    for annotation in panoptic["annotations"]:
        stem = annotation["image_id"]
        raw = np.array(Image.open(base / f"validation/instances/{stem}.png")).astype(int)
        labels = np.array(Image.open(base / f"validation/labels/{stem}.png"))
        assert np.array_equal(labels, raw // 256)
        ids = read_panoptic_ids(str(base / f"validation/panoptic/{stem}.png"))
        assert np.array_equal(ids == 0, labels == 65)
        kinds = [categories[s["category_id"] - 1]["isthing"] for s in annotation["segments_info"]]
        assert sum(kinds) == 4
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            assert set(labels[mask]) == {segment["category_id"] - 1} and segment["area"] == mask.sum()
    instances = read(base / "mapillary_vistas_instance_val.json")
    assert len(instances["annotations"]) == 2 * 4 and len(instances["categories"]) == 37


def test_mapillary_version_2_keeps_version_1_2_one_folder_deeper(tmp_path):
    for root, moved in ((tmp_path / "one", False), (tmp_path / "two", True)):
        write_mapillary(root)
        base = root / "mapillary_vistas"
        if moved:
            (base / "config.json").rename(base / "config_v1.2.json")
            for folder in ("training", "validation"):
                (base / folder / "v1.2").mkdir()
                (base / folder / "instances").rename(base / folder / "v1.2/instances")
        prepare("mapillary", root)
    made = [
        {p: d for p, d in tree(tmp_path / r).items() if "/instances/" not in p and "config" not in p}
        for r in ("one", "two")
    ]
    assert made[0] == made[1]


# -- a killed run -------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_to_the_same_bytes(workers, tmp_path):
    write_ade20k(tmp_path / "clean", train=60, val=1)
    shutil.copytree(tmp_path / "clean", tmp_path / "killed")
    raw = tree(tmp_path / "killed")
    prepare("ade20k", tmp_path / "clean")
    base = tmp_path / "killed/ADEChallengeData2016"
    finished = [
        base / "annotations_detectron2/training",
        base / "ade20k_panoptic_train.json",
        base / "ade20k_panoptic_train",
    ]
    seen = 0
    for staging in ("annotations_detectron2/training.part", "ade20k_panoptic_train.part"):
        run = multiprocessing.get_context("fork").Process(
            target=prepare, args=("ade20k", tmp_path / "killed"), kwargs={"workers": workers}
        )
        run.start()
        records = base / staging / "records"
        deadline = time.monotonic() + 60
        while not (records.is_dir() and len(list(records.glob("*.json"))) >= 5):
            assert run.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        run.kill()  # the first process alone: its workers must notice
        run.join()
        time.sleep(0.2)
        done = len(list(records.glob("*.json"))) if records.is_dir() else 60
        seen += done < 60
        for path in finished[1 if "panoptic" in staging else 0 :]:
            assert not path.exists() or done == 60
    assert seen  # at least one was killed in the middle
    prepare("ade20k", tmp_path / "killed", workers=workers)
    assert tree(tmp_path / "killed") == tree(tmp_path / "clean")
    assert set(raw) < set(tree(tmp_path / "killed"))


def test_killed_between_the_two_renames(tmp_path, monkeypatch):
    write_ade20k(tmp_path / "clean")
    shutil.copytree(tmp_path / "clean", tmp_path / "killed")
    prepare("ade20k", tmp_path / "clean")
    original = product.write_json

    def die(path, *rest, **options):
        if path.endswith("ade20k_panoptic_train.json"):
            raise KeyboardInterrupt
        original(path, *rest, **options)

    monkeypatch.setattr(product, "write_json", die)
    with pytest.raises(KeyboardInterrupt):
        prepare("ade20k", tmp_path / "killed")
    monkeypatch.undo()
    assert (tmp_path / "killed/ADEChallengeData2016/ade20k_panoptic_train").is_dir()
    prepare("ade20k", tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "clean")


# -- what is wrong --------------------------------------------------------------------

ADE = "ADEChallengeData2016"


def _missing(path: Path) -> None:
    path.unlink()


def _deep(path: Path) -> None:
    Image.fromarray(np.array(Image.open(path)).astype(np.uint16)).save(path)


def _colour(path: Path) -> None:
    Image.fromarray(np.zeros((72, 96, 3), np.uint8)).save(path)


def _small(path: Path) -> None:
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(path)


def _outside(path: Path) -> None:
    Image.fromarray(np.full((72, 96), 177, np.uint8)).save(path)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_missing, "does not exist; download it again"),
        (_deep, "has 16 bits per pixel; expected 8"),
        (_colour, "has mode RGB; expected 1 channel"),
        (_small, r"is 7x9 \(height x width\), its image 72x96"),
        (_outside, r"has values \[177\]; expected 0 .. 150"),
        (_torn, "image file is truncated"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_wrong_label_stops_or_is_left_out_and_counted(damage, words, workers, tmp_path, capsys):
    write_ade20k(tmp_path, train=3, val=0)
    (only,) = PREPARATIONS["ade20k"].products(str(tmp_path), ("train",), ("semantic",))
    label = tmp_path / ADE / "annotations/training/ADE_train_00000002.png"
    healthy = label.read_bytes()
    damage(label)
    with pytest.raises((ValueError, OSError), match=f"{label}.*{words}"):
        make(only, Options(workers=workers))
    assert not Path(only.png_root).exists()
    left_out = make(only, Options(workers=workers, skip_bad=True))
    assert list(left_out) == ["ADE_train_00000002"]
    printed = capsys.readouterr().out
    assert "1 of 3 images were left out" in printed and str(label) in printed
    assert sorted(p.name for p in Path(only.png_root).iterdir()) == ["ADE_train_00000001.png", "ADE_train_00000003.png"]
    label.write_bytes(healthy)


def test_labels_without_a_pixel_are_kept_and_counted(tmp_path, capsys):
    write_ade20k(tmp_path, train=2, val=0)
    for folder in ("annotations", "annotations_instance"):
        path = tmp_path / ADE / folder / "training/ADE_train_00000002.png"
        save(path, np.zeros_like(np.array(Image.open(path))))
    for made in PREPARATIONS["ade20k"].products(str(tmp_path), ("train",)):
        make(made, Options(workers=1))
    printed = capsys.readouterr().out
    assert printed.count("the labels of 1 images label no pixel: ADE_train_00000002") == 2  # semantic, panoptic
    _, annotation = read(tmp_path / ADE / "ade20k_panoptic_train.json")["annotations"]
    assert annotation["segments_info"] == []


def test_wrong_instances_and_segments_are_named(tmp_path):
    write_ade20k(tmp_path, train=1, val=0)
    path = tmp_path / ADE / "annotations_instance/training/ADE_train_00000001.png"
    values = np.array(Image.open(path))
    for change, words in (
        ((0, 101), "instance 9 has class 101; expected 1 .. 100"),
        ((0, 0), "instance 9 has class 0"),
        (None, r"instance 9 has several classes, \[3, 5\]"),
    ):
        wrong = values.copy()
        wrong[:4, :4, 1] = 9
        wrong[:4, :4, 0] = change[1] if change else 3
        if not change:
            wrong[:2, :4, 0] = 5
        save(path, wrong)
        with pytest.raises(ValueError, match=f"{path}.*{words}"):
            prepare_split(tmp_path, "instance")
    write_coco(tmp_path, train=0, val=1)
    file = tmp_path / "coco/annotations/panoptic_val2017.json"
    content = read(file)
    for change, words in (
        ({"id": 5}, r"shows segment ids \[\d+\] that its JSON does not list"),
        ({"category_id": 12}, "has category 12, which is none of COCO's 133"),
    ):
        wrong = json.loads(json.dumps(content))
        wrong["annotations"][0]["segments_info"][0] |= change
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=f"000000000007.png.*{words}"):
            for made in PREPARATIONS["coco"].products(str(tmp_path), ("val",)):
                make(made, Options(workers=1))


def prepare_split(root: Path, task: str) -> None:
    for made in PREPARATIONS["ade20k"].products(str(root), ("train",), (task,)):
        make(made, Options(workers=1))


def test_a_full_disk_and_missing_folders_are_one_clear_error(tmp_path, monkeypatch, capsys):
    assert main("ade20k", "", ["--root", str(tmp_path)]) == 1
    assert "images/training does not exist; datasets/README.md" in capsys.readouterr().err
    write_ade20k(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(product.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    assert main("ade20k", "", ["--root", str(tmp_path)]) == 1
    assert "needs about 64 MiB for 3 images" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / ADE / "annotations/training/other.png").write_bytes(b"")
    assert main("ade20k", "", ["--root", str(tmp_path)]) == 1
    assert "1 labels in" in capsys.readouterr().err


def test_half_of_a_product_of_another_program_is_not_taken_for_the_whole(tmp_path):
    write_ade20k(tmp_path)
    (tmp_path / ADE / "ade20k_panoptic_train").mkdir()
    with pytest.raises(ValueError, match="ade20k_panoptic_train is there but .*json is not"):
        prepare_split(tmp_path, "panoptic")
    (tmp_path / ADE / "ade20k_panoptic_train").rmdir()
    prepare_split(tmp_path, "panoptic")
    shutil.rmtree(tmp_path / ADE / "ade20k_panoptic_train")
    with pytest.raises(ValueError, match="json is there but its PNGs"):
        prepare_split(tmp_path, "panoptic")


def test_a_mapillary_config_of_another_version_is_refused(tmp_path):
    write_mapillary(tmp_path)
    path = tmp_path / "mapillary_vistas/config.json"
    content = read(path)
    content["labels"][3]["readable"] = "Hedge"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config.json.*differs first at \('Hedge', False\)"):
        prepare("mapillary", tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="neither .*config.json"):
        prepare("mapillary", tmp_path)


def _die(job: product.Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error(tmp_path):
    from segcore.data.prepare.parallel import run_jobs

    with pytest.raises(RuntimeError, match="exit code -9.*Run it again"):
        run_jobs(_die, [1, 2, 3, 4], workers=2, title="test")
