"""The evaluators of the four benchmarks: perfect, by hand, and against the benchmarks' own programs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segcore.data import builtin, class_index_of
from segcore.evaluation import build_evaluator, evaluate_tasks
from segcore.evaluation.coco_ap import METRICS
from segcore.evaluation.ground_truth import PanopticGroundTruth, read_panoptic_png
from tests.segcore.evaluation.benchmark_sets import (
    INSTANCE,
    PANOPTIC,
    SEMANTIC,
    evaluate,
    near_output,
    panoptic_records,
    prepare,
    true_output,
    use_root,
)

REPO = Path(__file__).resolve().parents[3]
NAMES = sorted(PANOPTIC)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pytest.importorskip("cityscapesscripts")
    root = tmp_path_factory.mktemp("benchmarks")
    with contextlib.redirect_stdout(io.StringIO()):
        for name in NAMES:
            prepare(root, name)
    return root


@pytest.fixture(autouse=True)
def root(prepared):
    before = builtin._chosen_root
    use_root(prepared)
    yield prepared
    builtin._chosen_root = before


def true_outputs(name: str) -> tuple[list[dict], list[dict]]:
    records = panoptic_records(name)
    return records, [true_output(name, record) for record in records]


def near_outputs(name: str) -> tuple[list[dict], list[dict]]:
    records = panoptic_records(name)
    return records, [near_output(name, record, seed) for seed, record in enumerate(records)]


@pytest.mark.parametrize("name", NAMES)
def test_ground_truth_as_prediction_gives_100(name):
    records, outputs = true_outputs(name)
    result = evaluate(build_evaluator(PANOPTIC[name]), records, outputs)
    for key, metric in (("panoptic_seg", "PQ"), ("segm", "AP"), ("segm", "AP50"), ("sem_seg", "mIoU")):
        assert result[key][metric] == pytest.approx(100, abs=1e-9), metric
    assert result["panoptic_seg"]["PQ_th"] == result["panoptic_seg"]["PQ_st"] == 100


@pytest.mark.parametrize("name", NAMES)
def test_the_instance_and_semantic_splits_measure_the_same(name):
    records, outputs = near_outputs(name)
    expected = evaluate(build_evaluator(PANOPTIC[name], ["instance", "semantic"]), records, outputs)
    of_image = {record["file_name"]: found for record, found in zip(records, outputs)}
    for splits, task, key in ((INSTANCE, "instance", "segm"), (SEMANTIC, "semantic", "sem_seg")):
        if name not in splits:
            continue
        own = DatasetCatalog.get(splits[name])
        result = evaluate(build_evaluator(splits[name], [task]), own, [of_image[r["file_name"]] for r in own])
        assert result[key] == pytest.approx(expected[key], abs=0, rel=0, nan_ok=True)
        assert MetadataCatalog.get(splits[name]).tasks == (task,)
        with pytest.raises(ValueError, match=f"{splits[name]}.*cannot measure the panoptic task, only {task}"):
            build_evaluator(splits[name], ["panoptic"])


@pytest.mark.parametrize("name", NAMES)
def test_errors_made_by_hand(name):
    """One thing is lost and one stuff band of one image is taken for another class of the data set."""
    records, outputs = true_outputs(name)
    metadata = MetadataCatalog.get(PANOPTIC[name])
    things = Counter(s["category_id"] for r in records for s in r["segments_info"] if s["isthing"] and not s["iscrowd"])
    lost = next(s for s in records[0]["segments_info"] if s["isthing"] and not s["iscrowd"])
    found = outputs[0]
    ids, segments = found["panoptic_seg"]
    found["panoptic_seg"] = (ids.masked_fill(ids == lost["id"], 0), [s for s in segments if s["id"] != lost["id"]])
    kept = [k for k, s in enumerate(s for s in segments if s["isthing"]) if s["id"] != lost["id"]]
    found["instances"] = found["instances"][kept]

    truth = [PanopticGroundTruth(PANOPTIC[name]).class_map(r["image_id"], -1) for r in records]
    stuff = [s["category_id"] for s in records[0]["segments_info"] if not s["isthing"]]
    one, other = stuff[:2]
    wrong = truth[0] == one
    found["sem_seg"][wrong] = other

    result = evaluate(build_evaluator(PANOPTIC[name]), records, outputs)
    number = things[lost["category_id"]]
    classes = {s["category_id"] for r in records for s in r["segments_info"] if not s["iscrowd"]}
    one_less = (number - 1) / (number - 1 + 1 / 2)
    assert result["panoptic_seg"]["PQ"] == pytest.approx(100 * (len(classes) - 1 + one_less) / len(classes))
    assert result["panoptic_seg"]["PQ_st"] == 100

    # Precision is 1 up to recall (n - 1) / n: of COCO's 101 recalls 0, .01, ..., 1 so many are reached.
    if name == "cityscapes":
        expected = (number - 1) / number
    else:
        expected = sum(recall <= (number - 1) / number for recall in np.linspace(0, 1, 101)) / 101 if number > 1 else 0
    label = metadata.stuff_classes[lost["category_id"]]
    assert result["segm"][f"AP-{label}"] == pytest.approx(100 * expected, abs=1e-9)
    assert result["segm"]["AP"] == pytest.approx(100 * (len(things) - 1 + expected) / len(things))

    pixels = {c: sum(int((labels == c).sum()) for labels in truth) for c in (one, other)}
    moved = int(wrong.sum())
    iou = {one: (pixels[one] - moved) / pixels[one], other: pixels[other] / (pixels[other] + moved)}
    for c, value in iou.items():
        assert result["sem_seg"][f"IoU-{metadata.stuff_classes[c]}"] == pytest.approx(100 * value)
    present = len({c for labels in truth for c in np.unique(labels).tolist()} - {-1})
    assert result["sem_seg"]["mIoU"] == pytest.approx(100 * (present - 2 + sum(iou.values())) / present)


# -- the benchmarks' own programs ------------------------------------------------------


def test_cityscapes_equals_cityscapesscripts(tmp_path, monkeypatch, root):
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as instance_script
    import cityscapesscripts.evaluation.evalPanopticSemanticLabeling as panoptic_script
    import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as pixel_script

    records, outputs = near_outputs("cityscapes")
    ours = evaluate(
        build_evaluator(PANOPTIC["cityscapes"], output_dir=str(tmp_path), save_predictions=True), records, outputs
    )
    assert 20 < ours["panoptic_seg"]["PQ"] < 95 and 5 < ours["segm"]["AP"] < 95 and 20 < ours["sem_seg"]["mIoU"] < 95
    # What the scripts need under today's NumPy: a function it dropped, and JSON that takes its integers.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.setattr(instance_script, "writeDict2JSON", lambda content, path: None)
    base = root / "cityscapes/gtFine"

    def run(script, folder, suffix):
        for key, value in {"quiet": True, "JSONOutput": False, "predictionPath": str(tmp_path / folder)}.items():
            monkeypatch.setattr(script.args, key, value)
        monkeypatch.setattr(script.args, "predictionWalk", None)
        truths = sorted(str(p) for p in base.glob(f"val/*/*_gtFine_{suffix}.png"))
        swap = script is pixel_script
        found = [script.getPrediction(*((script.args, t) if swap else (t, script.args))) for t in truths]
        return script.evaluateImgLists(found, truths, script.args)

    monkeypatch.setattr(instance_script.args, "gtInstancesFile", str(tmp_path / "gt.json"))
    theirs = run(instance_script, "instance", "instanceIds")["averages"]
    assert ours["segm"]["AP"] == 100 * theirs["allAp"]
    assert ours["segm"]["AP50"] == 100 * theirs["allAp50%"]
    for label, values in theirs["classes"].items():
        assert ours["segm"][f"AP-{label}"] == pytest.approx(100 * values["ap"], abs=0, rel=0, nan_ok=True)

    theirs = run(pixel_script, "semantic", "labelIds")
    assert ours["sem_seg"]["mIoU"] == 100 * theirs["averageScoreClasses"]
    assert ours["sem_seg"]["IoU_sup"] == 100 * theirs["averageScoreCategories"]
    assert ours["sem_seg"]["iIoU"] == pytest.approx(100 * theirs["averageScoreInstClasses"], rel=1e-14)
    assert ours["sem_seg"]["iIoU_sup"] == pytest.approx(100 * theirs["averageScoreInstCategories"], rel=1e-14)

    monkeypatch.setattr(
        panoptic_script, "pq_compute_multi_core", lambda *a: panoptic_script.pq_compute_single_core(0, *a)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = panoptic_script.evaluatePanoptic(
            str(base / "cityscapes_panoptic_val.json"),
            str(base / "cityscapes_panoptic_val"),
            str(tmp_path / "panoptic_predictions.json"),
            str(tmp_path / "panoptic"),
            str(tmp_path / "pq.json"),
        )
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for metric in ("pq", "sq", "rq"):
            assert ours["panoptic_seg"][metric.upper() + suffix] == pytest.approx(
                100 * theirs[group][metric], rel=1e-14
            )


@pytest.mark.parametrize("name", ["ade20k", "coco", "mapillary"])
def test_ap_equals_pycocotools(name, tmp_path):
    records, outputs = near_outputs(name)
    evaluator = build_evaluator(PANOPTIC[name], ["instance"], str(tmp_path), save_predictions=True)
    ours = evaluate(evaluator, records, outputs)["segm"]
    assert 5 < ours["AP"] < 95
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(MetadataCatalog.get(INSTANCE[name]).json_file)
        evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "coco_instances_results.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    theirs = [100 * value if value >= 0 else np.nan for value in evaluation.stats[:6]]
    np.testing.assert_array_equal([ours[metric] for metric in METRICS], theirs)


# -- saved predictions -------------------------------------------------------------------


def test_coco_is_packed_for_its_server(tmp_path):
    records, outputs = near_outputs("coco")
    evaluator = build_evaluator(PANOPTIC["coco"], output_dir=str(tmp_path), save_predictions=True, method="oneformer")
    evaluate(evaluator, records, outputs)
    name = "panoptic_val2017_oneformer_results"
    with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
        pngs = [f"{name}/{r['image_id']:012d}.png" for r in records]
        assert sorted(archive.namelist()) == sorted([f"{name}.json", *pngs])
        annotations = json.loads(archive.read(f"{name}.json"))["annotations"]
        with archive.open(pngs[0]) as file:
            rgb = np.array(Image.open(file)).astype(int)
    ids, segments = outputs[0]["panoptic_seg"]
    assert np.array_equal(rgb @ [1, 256, 65536], ids.numpy())
    categories = {index: id_ for id_, index in class_index_of(MetadataCatalog.get(PANOPTIC["coco"])).items()}
    assert annotations[0]["segments_info"] == [
        {"id": s["id"], "category_id": categories[s["category_id"]]} for s in segments
    ]
    name = "detections_val2017_oneformer_results"
    with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
        assert archive.namelist() == [f"{name}.json"]
        results = json.loads(archive.read(f"{name}.json"))
    assert len(results) == sum(len(o["instances"]) for o in outputs)
    assert {tuple(sorted(r)) for r in results} == {("category_id", "image_id", "score", "segmentation")}


def test_ade20k_counts_from_1_and_nothing_is_left_besides(tmp_path):
    records, outputs = near_outputs("ade20k")
    evaluate(build_evaluator(PANOPTIC["ade20k"], output_dir=str(tmp_path), save_predictions=True), records, outputs)
    saved = np.array(Image.open(tmp_path / "semantic" / (records[1]["image_id"] + ".png")))
    assert saved.dtype == np.uint8 and np.array_equal(saved, outputs[1]["sem_seg"].numpy() + 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "coco_instances_results.json",
        "panoptic",
        "panoptic_predictions.json",
        "semantic",
    ]
    ids = read_panoptic_png(str(tmp_path / "panoptic" / (records[1]["image_id"] + ".png")))
    assert np.array_equal(ids, outputs[1]["panoptic_seg"][0].numpy())


def test_cityscapes_folders(tmp_path):
    records, outputs = near_outputs("cityscapes")
    evaluate(build_evaluator(PANOPTIC["cityscapes"], output_dir=str(tmp_path), save_predictions=True), records, outputs)
    stem = os.path.basename(records[0]["file_name"]).removesuffix("_leftImg8bit.png")
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    saved = np.array(Image.open(tmp_path / f"semantic/{stem}_pred.png"))
    assert np.array_equal(saved, np.array(ids)[outputs[0]["sem_seg"].numpy()])
    lines = (tmp_path / f"instance/{stem}_pred.txt").read_text().splitlines()
    found = outputs[0]["instances"]
    assert len(lines) == len(found) > 0
    for number, line in enumerate(lines):
        path, label, score = line.split(" ")
        mask = np.array(Image.open(tmp_path / "instance" / path))
        assert np.array_equal(mask > 0, found.pred_masks[number].numpy())
        assert (int(label), float(score)) == (ids[found.pred_classes[number]], float(found.scores[number]))


# -- processes, and wrong input ------------------------------------------------------------


def test_two_processes_with_uneven_shares_equal_one(tmp_path, root):
    command = [sys.executable, "-m", "tests.segcore.evaluation.benchmark_worker"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    workers = [
        subprocess.Popen(
            [*command, str(rank), "2", str(tmp_path), str(root), share],
            cwd=REPO,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, share in enumerate(("2,0", "1,0"))  # a padding sampler repeats image 0
    ]
    expected = {}
    for name in NAMES:
        records, outputs = near_outputs(name)
        folder = tmp_path / "one" / name
        evaluator = build_evaluator(PANOPTIC[name], output_dir=str(folder), save_predictions=True)
        expected[name] = evaluate(evaluator, records, outputs)
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert (tmp_path / "result0.json").read_text() == json.dumps(expected)
    assert (tmp_path / "result1.json").read_text() == json.dumps({name: {} for name in NAMES})
    trees = [
        {p.relative_to(base): p.read_bytes() for p in base.rglob("*") if p.is_file() and p.suffix != ".zip"}
        for base in (tmp_path / "one", tmp_path / "two")
    ]
    assert trees[0] == trees[1] and len(trees[0]) > 30


def test_wrong_cityscapes_results_are_named(tmp_path):
    records, outputs = true_outputs("cityscapes")
    evaluator = build_evaluator(PANOPTIC["cityscapes"], ["instance", "semantic"])
    stem = os.path.basename(records[0]["file_name"]).removesuffix("_leftImg8bit.png")

    def process(change: dict, record: dict | None = None):
        evaluator.process([record or records[0]], [{**outputs[0], **change}])

    small = outputs[0]["instances"]
    wrong = type(small)(
        (71, 96), pred_masks=small.pred_masks[:, 1:], scores=small.scores, pred_classes=small.pred_classes
    )
    with pytest.raises(ValueError, match=rf"{stem}.*\(71, 96\).*instanceIds.png is \(72, 96\)"):
        process({"instances": wrong})
    wrong = type(small)(
        (72, 96), pred_masks=small.pred_masks, scores=small.scores, pred_classes=small.pred_classes + 19
    )
    with pytest.raises(ValueError, match=r"predicted class \d+ is no class"):
        process({"instances": wrong})
    semantic = build_evaluator(PANOPTIC["cityscapes"], ["semantic"])
    for sem_seg, words in (
        (outputs[0]["sem_seg"][1:], r"\(71, 96\).*labelIds.png is \(72, 96\)"),
        (outputs[0]["sem_seg"] + 19, "class indices must be below 19"),
        (outputs[0]["sem_seg"].double(), r"\(19, H, W\) class scores"),
        (outputs[0]["sem_seg"][None].double(), r"got \(1, 72, 96\)"),
    ):
        with pytest.raises(ValueError, match=f"{stem}.*{words}"):
            semantic.process([records[0]], [{"sem_seg": sem_seg}])
    with pytest.raises(ValueError, match="has no berlin_000000_000019_gtFine_instanceIds.png"):
        process({}, {"file_name": "berlin_000000_000019_leftImg8bit.png"})
    semantic.reset()
    semantic.process([records[0]], [outputs[0]])
    with pytest.raises(ValueError, match="2 of 3 images were not evaluated"):
        semantic.evaluate()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segmentation": [[1, 1, 5, 5]]}, "polygon of 4 numbers; expected x, y of at least three points"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, r"RLE of size \(9, 9\), but the image is \(72, 96\)"),
        ({"segmentation": []}, "has no segmentation"),
        ({"category_id": 12}, "has category 12, which the file does not define"),
        ({"image_id": 99}, "annotations of image '99', which is not among its 3 images"),
    ],
)
def test_ground_truth_that_cannot_be_measured_is_named(change, words, tmp_path, monkeypatch):
    metadata = MetadataCatalog.get(INSTANCE["coco"])
    content = json.loads(Path(metadata.json_file).read_text())
    content["annotations"][0] |= change
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(content))
    records, outputs = true_outputs("coco")
    monkeypatch.setitem(metadata.__dict__, "json_file", str(path))
    with pytest.raises(ValueError, match=f"{path}.*{words}"):
        evaluate(build_evaluator(INSTANCE["coco"], ["instance"]), records, outputs)


def test_a_gt_folder_that_is_not_there(monkeypatch):
    monkeypatch.setitem(MetadataCatalog.get(PANOPTIC["cityscapes"]).__dict__, "gt_dir", "/nowhere")
    records, outputs = [{"file_name": "x"}], [{"sem_seg": None}]
    with pytest.raises(FileNotFoundError, match=r"no \*/\*_gtFine_labelIds.png in /nowhere"):
        evaluate(build_evaluator(PANOPTIC["cityscapes"], ["semantic"]), records, outputs)


def test_a_model_is_asked_through_the_same_builder(root):
    from tests.segcore.evaluation.test_tasks import Recorded

    records, outputs = true_outputs("cityscapes")
    model = Recorded(outputs)
    model.forward = lambda batch: [outputs[[r["image_id"] for r in records].index(b["image_id"])] for b in batch]
    results = evaluate_tasks(model, [[record] for record in records], PANOPTIC["cityscapes"])
    assert [results[key][m] for key, m in (("panoptic_seg", "PQ"), ("segm", "AP"), ("sem_seg", "mIoU"))] == [100] * 3
