"""The command line: files in, files out, one error for what cannot be."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from seggpt.commands import predict
from seggpt.convert import huggingface_config, to_huggingface
from tests.seggpt.small_seggpt import SMALL, small_model

SCRIPT = Path(__file__).parents[2] / "demo" / "seggpt_demo.py"


@pytest.fixture(scope="module")
def demo():
    specification = importlib.util.spec_from_file_location("seggpt_demo", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["seggpt_demo"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    full = {"pretrain_img_size": 224, "patch_size": 16, "mlp_ratio": 4.0, "merge_block": 2}
    full["drop_path_rate"] = 0.1
    (weights / "config.json").write_text(json.dumps(huggingface_config({**full, **SMALL})))
    save_file(to_huggingface(small_model().state_dict()), weights / "model.safetensors")
    (tmp_path / "clip").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (30, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "clip" / f"{i:05d}.png")
    mask = np.zeros((30, 48), np.uint8)
    mask[5:20, 8:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def test_pictures(demo, files, capsys):
    out = files / "out"
    common = ["--weights", str(files / "weights"), "--device", "cpu", "--input", str(files / "clip/*.png")]
    common += ["--threshold", "0.1"]  # the weights are random: near to black nearly everywhere
    demo.main(
        [
            *common,
            "--prompt-image",
            str(files / "clip/00000.png"),
            "--prompt-mask",
            str(files / "mask.png"),
            "--save-prompts",
            str(files / "p.safetensors"),
            "--output",
            str(out),
        ]
    )
    told = capsys.readouterr().out
    assert "3 pictures" in told and "nothing was found" not in told
    labels = np.asarray(Image.open(out / "00002_labels.png"))
    assert labels.shape == (30, 48) and labels.any()
    assert (out / "joint.jpg").is_file() and (out / "00001_overlay.jpg").is_file()
    demo.main([*common, "--prompts", str(files / "p.safetensors"), "--output", str(files / "again")])
    assert np.array_equal(labels, np.asarray(Image.open(files / "again/00002_labels.png")))
    strict = ["--prompts", str(files / "p.safetensors"), "--threshold", "0.999", "--output", str(files / "none")]
    demo.main([*common, *strict])
    assert "nothing was found in 3 of them" in capsys.readouterr().out


def test_clip_after_its_first_frame(demo, files, capsys):
    demo.main(
        [
            "--weights",
            str(files / "weights"),
            "--device",
            "cpu",
            "--video",
            "--input",
            str(files / "clip"),
            "--prompt-mask",
            str(files / "mask.png"),
            "--output",
            str(files / "out"),
            "--memory",
            "1",
        ]
    )
    assert "3 frames" in capsys.readouterr().out
    assert len(list((files / "out/clip/masks").iterdir())) == 3
    assert (np.asarray(Image.open(files / "out/clip/masks/00000.png")) > 0).sum() == 15 * 22


def finder_of(names: dict, asked: list):
    """A stand-in for OneFormer that finds boxes of these class numbers; they overlap, the first is surest."""

    class Finder:
        def __init__(self, cfg, weights, device):
            pass

        def __call__(self, image, task, confidence):
            asked.append((image.shape, task, confidence))
            masks = np.zeros((len(names), *image.shape[:2]), bool)
            for i in range(len(names)):
                masks[i, 5 * i : 5 * i + 10] = True
            return SimpleNamespace(
                instance=SimpleNamespace(
                    masks=masks,
                    scores=np.linspace(0.9, 0.6, len(names)),
                    class_indices=list(names),
                    names=list(names.values()),
                )
            )

    return Finder


@pytest.mark.parametrize("clip", [False, True])
def test_oneformers_instances_are_the_prompt(demo, files, monkeypatch, capsys, clip):
    asked = []
    monkeypatch.setattr("oneformer.OneFormerPredictor", finder_of({4: "car", 1: "door"}, asked), raising=False)
    source = (
        ["--video", "--input", str(files / "clip")]
        if clip
        else ["--input", str(files / "clip/00001.png"), "--prompt-image", str(files / "clip/00000.png")]
    )
    model = ["--weights", str(files / "weights"), "--device", "cpu", "--prompt-from", "oneformer"]
    demo.main([*model, *source, "--output", str(files / "out"), "--memory", "0", "--confidence", "0.4"])
    assert asked == [((30, 48, 3), "instance", 0.4)]
    assert "1: door, 2: car" in capsys.readouterr().out
    if clip:
        first = np.asarray(Image.open(files / "out/clip/masks/00000.png"))
        assert (first == 2).sum() == 10 * 48 and (first == 1).sum() == 5 * 48
    assert (files / "out/joint.jpg").is_file()


@pytest.mark.parametrize("kind, expected", [("instance", [[1, 2], [3, 4]]), ("semantic", [[2, 5], [2, 5]])])
def test_found_objects_of_several_pictures_are_not_mixed_up(kind, expected):
    args = predict.parse_args(["--input", "x", "--type", kind, "--prompt-from", "oneformer"], "p", ["oneformer"])
    maps = predict.object_finder(args, finder_of({4: "car", 1: "door"}, []))([np.zeros((30, 48, 3), np.uint8)] * 2)
    assert [[v for v in np.unique(m) if v] for m in maps] == expected


def test_formats_of_other_programs(demo, files):
    model = ["--weights", str(files / "weights"), "--device", "cpu", "--threshold", "0.05"]
    prompt = ["--prompt-image", str(files / "clip/00000.png"), "--prompt-mask", str(files / "mask.png")]
    rest = ["--input", str(files / "clip/*.png"), "--output", str(files / "out"), "--format", "labelme"]
    demo.main([*model, *prompt, *rest])
    (segment,) = json.loads((files / "out/labelme/panoptic/00001.json").read_text())["shapes"]
    labels = np.asarray(Image.open(files / "out/00001_labels.png"))
    (x0, y0), (x1, y1) = segment["points"]
    assert segment["label"] == "label 1" and labels[y0 : y1 + 1, x0 : x1 + 1].sum() == (labels == 1).sum()
    document = json.loads((files / "out/panoptic.json").read_text())
    areas = [sum(s["area"] for s in a["segments_info"]) for a in document["annotations"]]
    assert areas[1] == (labels > 0).sum() and len(areas) == 3


def test_clips_of_one_name_and_a_picture_that_cannot_be_read(demo, files, capsys):
    (files / "other").mkdir()
    (files / "other/clip").mkdir()
    for name in ("clip/00001.png", "clip/00000.png"):
        (files / "other" / name).write_bytes((files / name).read_bytes())
    (files / "clip/00002.png").write_bytes(b"broken")
    model = ["--weights", str(files / "weights"), "--device", "cpu", "--dtype", "bfloat16"]
    prompt = ["--prompt-image", str(files / "clip/00000.png"), "--prompt-mask", str(files / "mask.png")]
    rest = ["--output", str(files / "out"), "--on-error", "skip", "--memory", "1", "--fit", "pad"]
    clips = [str(files / "clip"), str(files / "other/clip")]
    demo.main([*model, *prompt, *rest, "--video", "--input", *clips])
    assert len(list((files / "out/clip/masks").iterdir())) == 2
    assert len(list((files / "out/clip_2/masks").iterdir())) == 2
    demo.main([*model, *prompt, *rest, "--input", str(files / "clip/*.png")])
    assert "2 pictures" in (told := capsys.readouterr().out) and told.count("left out: ") == 2
    with pytest.raises(ValueError, match=r"00002\.png"):
        demo.main([*model, *prompt, "--output", str(files / "out"), "--input", str(files / "clip/*.png")])


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--weights", "w", "--input", "x.jpg"], "no prompt"),
        (
            ["--weights", "w", "--input", "x.jpg", "--prompt-image", "a.jpg"],
            "--prompt-image with --prompt-mask",
        ),
        (
            ["--weights", "w", "--input", "x.jpg", "--prompt-image", "a.jpg", "--prompt-mask", "a", "b"],
            "one mask per",
        ),
        (
            ["--weights", "w", "--input", "x.jpg", "--prompts", "p", "--prompt-mask", "a"],
            "--prompts replaces",
        ),
        (
            ["--weights", "w", "--input", "x.jpg", "--prompt-mask", "a", "--prompt-from", "oneformer"],
            "makes the masks",
        ),
        (
            ["--weights", "w", "--input", "x.jpg", "--prompt-mask", "a", "--save-prompts", "p"],
            "--save-prompts needs",
        ),
        (["--weights", "w", "--input", "nowhere-*.jpg", "--prompts", "p"], "no file matches"),
        (["--weights", "w", "--input", str(SCRIPT), "--prompt-mask", "a"], "pictures need examples"),
    ],
)
def test_arguments_that_do_not_go_together(demo, arguments, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        demo.main(arguments)
