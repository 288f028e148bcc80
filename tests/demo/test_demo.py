"""The demo's command line, run as a user runs it, with a tiny random model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from segcore.video import VideoSource, VideoWriter
from tests.pictures import photograph, tiny_weights


@pytest.fixture(scope="module")
def demo(repo):
    spec = importlib.util.spec_from_file_location("demo_script", repo / "demo" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(repo, tmp_path_factory) -> str:
    return str(tiny_weights(repo, tmp_path_factory.mktemp("weights") / "tiny.safetensors"))


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "other").mkdir(parents=True)
    for name, size in (("street.jpg", (40, 60)), ("street.png", (30, 20)), ("other/street.jpg", (1, 1))):
        Image.fromarray(photograph(*size)).save(folder / name)
    return folder


@pytest.fixture
def run(demo, weights, tmp_path):
    """Run the demo with the tiny weights; returns (exit status, output folder)."""

    def call(*arguments) -> tuple[int, Path]:
        output = tmp_path / "out"
        common = ["--weights", weights, "--device", "cpu", "--confidence", "0.05", "--output", str(output)]
        return demo.main([*common, *map(str, arguments)]), output

    return call


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_one_photograph_all_tasks(run, photos, capsys):
    status, out = run("--input", photos / "street.jpg")
    assert status == 0
    assert files(out) == [
        "instances.json", "panoptic.json", "panoptic/street.png", "semantic.json", "semantic/street.png",
        "street_instance.jpg", "street_panoptic.jpg", "street_semantic.jpg", "street_sheet.jpg",
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "terms of its training data: none: random numbers" in said and "street.jpg: 60x40" in said
    document = json.loads((out / "panoptic.json").read_text())
    ids = np.asarray(Image.open(out / "panoptic" / "street.png")).astype(int) @ (1, 256, 65536)
    assert ids.shape == (40, 60)
    segments = document["annotations"][0]["segments_info"]
    assert {s["id"]: s["area"] for s in segments} == {
        i: int((ids == i).sum()) for i in set(ids.ravel()) - {0}
    }
    objects = COCO(str(out / "instances.json"))
    assert all(objects.annToMask(a).shape == (40, 60) and a["score"] >= 0.05 for a in objects.anns.values())
    assert Image.open(out / "semantic" / "street.png").size == (60, 40)


def test_one_task(run, photos):
    status, out = run("--task", "semantic", "--input", photos / "street.png")
    assert status == 0
    assert files(out) == ["semantic.json", "semantic/street.png", "street_semantic.jpg"]


def test_formats_of_other_programs(run, photos, capsys):
    status, out = run("--task", "instance", "--input", photos / "street.png", "--format", "svg", "labelme")
    assert status == 0
    written = files(out)
    assert "labelme/instance/street.json" in written and "svg/instance/street.svg" in written
    with pytest.raises(SystemExit):
        run("--input", photos / "street.png", "--format", "docx")
    assert "invalid choice: 'docx'" in capsys.readouterr().err


def test_equal_stems_do_not_overwrite(run, photos):
    status, out = run("--task", "panoptic", "--input", photos, photos / "other" / "*.jpg")
    assert status == 0
    document = json.loads((out / "panoptic.json").read_text())
    sizes = {
        Path(i["file_name"]).suffix + str(i["id"]): (i["height"], i["width"]) for i in document["images"]
    }
    assert sizes == {".jpg1": (40, 60), ".png2": (30, 20), ".jpg3": (1, 1)}
    for annotation, image in zip(document["annotations"], document["images"]):
        assert Image.open(out / "panoptic" / annotation["file_name"]).size == (
            image["width"],
            image["height"],
        )
    assert len(list(out.glob("*_panoptic.jpg"))) == 3


def test_a_corrupt_image_among_good_ones(run, photos, capsys):
    (photos / "broken.jpg").write_bytes((photos / "street.jpg").read_bytes()[:300])
    (photos / "fake.png").write_text("no picture")
    status, out = run("--task", "semantic", "--input", photos)
    said = capsys.readouterr()
    assert status == 1
    assert "cannot read the image" in said.err and "broken.jpg" in said.err
    assert "2 of 4 inputs could not be segmented" in said.err and "results of 2 inputs" in said.out
    assert [Path(i["file_name"]).name for i in json.loads((out / "semantic.json").read_text())["images"]] == [
        "street.jpg",
        "street.png",
    ]
    assert not [name for name in files(out) if "broken" in name or "fake" in name or "tmp" in name]


def test_only_a_corrupt_image_writes_nothing(run, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    status, out = run("--input", tmp_path / "broken.jpg")
    assert status == 1 and not out.exists()
    assert "Traceback" not in capsys.readouterr().err


def test_a_video_frame_by_frame(run, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 10) as video:
        for _ in range(3):
            video.add(photograph(48, 64))
    status, out = run("--input", tmp_path / "clip.mp4", "--max-frames", 2)
    assert status == 0
    for name in ("panoptic", "instance", "semantic", "sheet"):
        movie = VideoSource(str(out / f"clip_{name}.mp4"))
        assert len(list(movie)) == 2 and movie.fps == 10
    assert files(out / "panoptic") == ["clip/000000.png", "clip/000001.png"]
    images = json.loads((out / "panoptic.json").read_text())["images"]
    assert [Path(image["file_name"]).name for image in images] == ["clip.mp4#0", "clip.mp4#1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "none.jpg"], "error: input none.jpg does not exist"),
        (["--input", "*.none"], r"error: no file matches *.none"),
        ([], "error: nothing to segment"),
        (
            ["--input", "{photo}", "--weights", "none.safetensors"],
            "error: no portable weights at 'none.safetensors'",
        ),
        (["--input", "{photo}", "--weights", "{photo}"], "do not hold their config; give the config"),
        (["--input", "{photo}", "--config-file", "none.yaml"], "config file 'none.yaml' does not exist"),
        (
            ["--input", "{photo}", "MODEL.TEST.NO_SUCH", "1"],
            "unknown config key in the command line: MODEL.TEST.NO_SUCH",
        ),
        (
            ["--input", "{photo}", "MODEL.TEST.OVERLAP_THRESHOLD"],
            "'MODEL.TEST.OVERLAP_THRESHOLD' has no value",
        ),
        (["--input", "{photo}", "--output", "{photo}"], "is a file; give a folder"),
        (["--input", "{photo}", "--output", "{folder}"], "is the folder of the input"),
    ],
)
def test_one_clear_error(run, photos, capsys, arguments, message):
    places = {"{photo}": str(photos / "street.jpg"), "{folder}": str(photos)}
    status, out = run(*(places.get(word, word) for word in arguments))
    said = capsys.readouterr().err
    assert status == 1 and message in said and said.count("error:") == 1 and "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "panoptik"], "invalid choice: 'panoptik'"),
        (["--confidence", "1.5"], "must be between 0 and 1, got 1.5"),
        (["--max-frames", "0"], "must be at least 1, got 0"),
    ],
)
def test_wrong_words(demo, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_settings_after_the_inputs(demo):
    args = demo.parse_args(["--input", "a.jpg", "b.jpg", "MODEL.TEST.OVERLAP_THRESHOLD", "0.5"])
    assert (args.input, args.opts) == (["a.jpg", "b.jpg"], ["MODEL.TEST.OVERLAP_THRESHOLD", "0.5"])
    args = demo.parse_args(["--input", "a.jpg", "--device", "cpu", "MODEL.TEST.OVERLAP_THRESHOLD", "0.5"])
    assert (args.input, args.opts) == (["a.jpg"], ["MODEL.TEST.OVERLAP_THRESHOLD", "0.5"])
    assert demo.parse_args(["--webcam"]).webcam == [0] and demo.parse_args(["--webcam", "2"]).webcam == [2]


def test_a_full_disk_ends_the_run(run, demo, photos, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segcore.results.write_picture", full)
    status, _ = run("--task", "semantic", "--input", photos)
    said = capsys.readouterr().err
    assert status == 1 and said.count("No space left on device") == 1
