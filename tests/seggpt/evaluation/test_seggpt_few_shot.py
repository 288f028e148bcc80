"""The few-shot evaluator on hand-made predictions, and the published benchmarks on tiny folders of their layout."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from segcore.data import builtin
from seggpt import add_seggpt_config
from seggpt.evaluation.episodes import Episode, ask_each_once
from seggpt.evaluation.few_shot import Example, RecordReader, evaluate_episodes, few_shot, mean_of_folds, visible
from seggpt.pictures import fit_labels

SIZE = (40, 60)


class ByHand:
    """Stands for a predictor: the n-th question's answer is the n-th of a list."""

    size = (16, 16)

    def __init__(self, answers):
        self.answers, self.asked = list(answers), []

    def encode_prompts(self, images, masks, **options):
        self.asked.append((images, masks, options))

    def __call__(self, image, prompts):
        return SimpleNamespace(label_map=self.answers.pop(0).astype(np.int32))


def example(mask: list[int], valid: list[int] | None = None) -> Example:
    mask = np.array([mask], bool)
    valid = np.ones_like(mask) if valid is None else np.array([valid], bool)
    return Example(np.zeros((*mask.shape, 3), np.uint8), mask, valid)


def test_hand_made_predictions_give_hand_worked_numbers():
    examples = {
        0: example([1, 0, 0, 0]),
        1: example([0, 1, 1, 0]),
        2: example([1, 0, 0, 0], [1, 1, 1, 0]),
        3: example([1, 1, 1, 1]),
    }
    episodes = [Episode(1, 0, (3, 1)), Episode(1, 1, (3, 0)), Episode(2, 2, (3, 0))]
    answers = [np.array([row]) for row in ([1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1])]
    predictor = ByHand(answers)
    counter = evaluate_episodes(predictor, episodes, lambda n, c: examples[n], shots=1)
    found = counter.results()
    # class 1: 1 + 2 of 2 + 3 pixels; class 2: none of 1. Foreground 3 of 6; background 2 + 1 + 2 of 3 + 2 + 3.
    assert found["mIoU"] == pytest.approx(100 * (3 / 5 + 0) / 2)
    assert found["FB-IoU"] == pytest.approx(100 * (3 / 6 + 5 / 8) / 2)
    assert found["episodes"] == 3
    low, high = counter.interval()
    assert low <= found["mIoU"] <= high and found["mIoU+-"] == pytest.approx((high - low) / 2)
    assert [len(images) for images, _, _ in predictor.asked] == [1, 1, 1]
    assert all(options["type"] == "semantic" for _, _, options in predictor.asked)


def test_examples_are_painted_in_the_asked_colour():
    predictor = ByHand([np.zeros((1, 4))] * 2)
    episodes = [Episode(1, 0, (0,)), Episode(1, 0, (0,))]
    evaluate_episodes(
        predictor, episodes, lambda n, c: example([1, 1, 0, 0]), 1, "spatial", colour_of=lambda e: (10, 200, 30)
    )
    _, masks, options = predictor.asked[0]
    assert options["ensemble"] == "spatial"
    assert masks[0][0].tolist() == [[10, 200, 30]] * 2 + [[0, 0, 0]] * 2


def test_the_interval_narrows_with_more_episodes():
    rng = np.random.default_rng(0)

    def width(count: int) -> float:
        episodes = [Episode(int(c), 0, (0,)) for c in rng.integers(0, 3, count)]
        answers = [rng.random((1, 50)) < rng.uniform(0.2, 0.8) for _ in episodes]
        counter = evaluate_episodes(ByHand(answers), episodes, lambda n, c: example([1] * 25 + [0] * 25), 1)
        return counter.results()["mIoU+-"]

    # Sixteen times as many: a quarter as wide, up to chance.
    assert 2.5 < width(40) / width(640) < 6.5


@pytest.mark.parametrize("where", [(0, 0), (5, 37), (99, 149), (50, 75)])
def test_an_object_of_a_pixel_stays_visible_on_the_canvas(where):
    mask = np.zeros((100, 150), bool)
    mask[where] = True
    shown = fit_labels(visible(mask, (16, 16)), (16, 16), "squash")
    assert 1 <= shown.sum() <= 9
    large = np.zeros((100, 150), bool)
    large[20:80, 20:80] = True
    assert visible(large, (16, 16)) is large


def test_every_picture_is_asked_once():
    members = {0: [0, 1, 2, 3], 4: [3, 5, 6]}
    episodes = ask_each_once(members, 2, seed=0)
    assert [(e.category, e.query) for e in episodes] == [(c, n) for c in members for n in members[c]]
    assert all(e.query not in e.supports and len(set(e.supports)) == 2 for e in episodes)
    assert episodes == ask_each_once(members, 2, seed=0)
    with pytest.raises(ValueError, match="class 4 has 3 pictures"):
        ask_each_once(members, 3, seed=0)


def test_folds_are_averaged():
    parts = [
        {"1-shot": {"mIoU": m, "FB-IoU": 60.0, "mIoU+-": 3.0, "episodes": 10}, "no model": {"all foreground": m}}
        for m in (10.0, 20.0, 30.0, 40.0)
    ]
    found = mean_of_folds(parts)
    assert found["1-shot"] == {
        "mIoU": 25.0, "FB-IoU": 60.0, "mIoU+-": 1.5, "episodes": 40,
        "fold 0": 10.0, "fold 1": 20.0, "fold 2": 30.0, "fold 3": 40.0,
    }  # fmt: skip
    assert found["no model"] == {"all foreground": 25.0}


# -- published benchmarks ---------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "_chosen_root", None)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    add_seggpt_config(get_cfg())
    return tmp_path


def picture(path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_pascal(root) -> None:
    """Two pictures for each class; the third of a fold's classes is a void frame around each object."""
    for fold in range(4):
        lines = []
        for cls in range(5 * fold + 1, 5 * fold + 6):
            for k in range(2):
                name = f"2007_{cls:03d}{k:03d}"
                picture(root / "voc" / "JPEGImages" / f"{name}.jpg", cls)
                labels = np.zeros(SIZE, np.uint8)
                labels[4:30, 4:30] = 255
                labels[5:29, 5:29] = cls
                labels[30:39, 40:50] = (cls + 6) % 20 + 1  # of another fold: no foreground here
                (root / "voc" / "SegmentationClassAug").mkdir(exist_ok=True)
                Image.fromarray(labels).save(root / "voc" / "SegmentationClassAug" / f"{name}.png")
                lines.append(f"{name}__{cls:02d}")
        (root / "voc" / "pascal5i" / "val").mkdir(parents=True, exist_ok=True)
        (root / "voc" / "pascal5i" / "val" / f"fold{fold}.txt").write_text("\n".join(lines) + "\n")


def test_pascal5i(root):
    write_pascal(root)
    for fold in range(4):
        name = f"pascal5i_fold{fold}"
        records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
        assert metadata.asked_classes == metadata.stuff_classes[5 * fold + 1 : 5 * fold + 6]
        read = RecordReader(records, metadata)
        shown = [read.categories(n, False) for n in range(len(records))]
        assert len(records) == 10 and set().union(*shown) == set(range(5 * fold + 1, 5 * fold + 6))
        one = read(0, 5 * fold + 1)
        assert one.mask.sum() == 24 * 24 and (~one.valid).sum() == 26 * 26 - 24 * 24
    assert MetadataCatalog.get("pascal5i_fold0").asked_classes == ["aeroplane", "bicycle", "bird", "boat", "bottle"]
    assert len(DatasetCatalog.get("pascal5i")) == 40


def test_pascal5i_through_the_protocol(root, model):
    write_pascal(root)
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.TEST.FEW_SHOT.EPISODES, cfg.TEST.FEW_SHOT.SHOTS = 2, [1]
    found = few_shot(cfg, model, "pascal5i", "")
    assert found["1-shot"]["episodes"] == 8 and {"fold 0", "fold 3"} <= set(found["1-shot"])
    # The square of each class lies where its example's does, so that copying the example answers all.
    assert found["no model"]["the example's mask"] == 100


def test_coco20i(root):
    (root / "coco" / "coco20i" / "val").mkdir(parents=True)
    (root / "coco" / "annotations").mkdir()
    metadata = MetadataCatalog.get("coco20i_fold1")
    ids = metadata.thing_dataset_id_to_contiguous_id
    number_to_id = {number: category for category, number in ids.items()}
    assert metadata.asked_classes[:3] == ["bicycle", "bus", "traffic light"]  # 1, 5, 9 of person, bicycle, car, ...
    assert len(metadata.asked_classes) == 20
    images, annotations, lists = [], [], {c: [] for c in range(80)}
    for number in (1, 5, 79, 2):
        for k in range(2):
            image_id = 10 * number + k
            file = f"COCO_val2014_{image_id:012d}.jpg"
            picture(root / "coco" / "val2014" / file, image_id)
            images.append({"id": image_id, "file_name": file, "height": SIZE[0], "width": SIZE[1]})
            for x, category in ((0, number), (5, 2)):  # the second covers half of the first
                box = [x, 0, x + 10, 0, x + 10, 10, x, 10]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, "category_id": number_to_id[category],
                     "segmentation": [box], "bbox": [x, 0, 10, 10], "area": 100, "iscrowd": 0}
                )  # fmt: skip
            lists[number].append(f"val2014/{file}")
    categories = [{"id": i, "name": metadata.stuff_classes[n]} for i, n in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco" / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    for fold in range(4):
        with open(root / "coco" / "coco20i" / "val" / f"fold{fold}.pkl", "wb") as file:
            pickle.dump(lists, file)
    read = RecordReader(DatasetCatalog.get("coco20i_fold1"), metadata)
    assert [read.categories(n, False) for n in range(len(read.records))] == [{1}, {1}, {5}, {5}]
    assert read(0, 1).mask.sum() == 100  # the covered half counts
    third = MetadataCatalog.get("coco20i_fold3")
    assert [r["categories"] for r in DatasetCatalog.get("coco20i_fold3")] == [[79], [79]]
    assert third.stuff_classes[79] in third.asked_classes

    (root / "coco" / "coco20i" / "val" / "fold0.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"cannot read the list .*asks for posix.system"):
        DatasetCatalog.get("coco20i_fold0")


def test_fss1000(root):
    for number, name in enumerate(("bus", "ab_wheel")):
        for k in range(1, 11):
            picture(root / "fss1000" / name / f"{k}.jpg", 10 * number + k)
            soft = np.zeros(SIZE, np.uint8)
            soft[10:20, 10:20], soft[9, 10:20], soft[20, 10:20] = 255, 100, 140
            Image.fromarray(np.repeat(soft[..., None], 3, 2)).save(root / "fss1000" / name / f"{k}.png")
    (root / "fss1000" / "test.txt").write_text("bus\nab_wheel\n")
    records = DatasetCatalog.get("fss1000_test")
    assert [r["image_id"] for r in records[:10]] == [f"bus/{k}" for k in range(1, 11)]
    read = RecordReader(records, MetadataCatalog.get("fss1000_test"))
    assert read.categories(0, False) == {0} and read.categories(19, False) == {1}
    assert read(19, 1).mask.sum() == 110 and not read(19, 0).mask.any()  # 128 and more is the object
    (root / "fss1000" / "bus" / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"3.jpg has no mask 3.png"):
        DatasetCatalog.get("fss1000_test")


def test_a_missing_list_is_named(root):
    for name in ("pascal5i_fold2", "coco20i_fold2", "fss1000_test"):
        with pytest.raises(FileNotFoundError, match="there is no list .*hsnet"):
            DatasetCatalog.get(name)


def test_the_published_lists_have_these_folds(spec_dir):
    splits = spec_dir.parent / "data" / "fewshot_mini" / "splits"
    if not splits.is_dir():
        pytest.skip("no published split lists beside the goldens")
    counts = []
    for fold in range(4):
        lines = (splits / "pascal5i" / "val" / f"fold{fold}.txt").read_text().split()
        counts.append(len(lines))
        assert {(int(line.split("__")[1]) - 1) // 5 for line in lines} == {fold}
    assert counts == [346, 451, 725, 346]
    assert len((splits / "fss1000" / "test.txt").read_text().split()) == 240
