"""OneFormer in Hugging Face's spelling and back, against transformers itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import oneformer.modeling  # noqa: F401  registers the model
from oneformer import add_oneformer_config
from oneformer.convert import HuggingFaceExporter, from_huggingface, to_huggingface
from oneformer.tasks import TASK_TOKEN_IDS, TASKS
from segcore.checkpoint import Checkpointer

transformers = pytest.importorskip("transformers")

CLASSES = ["wall", "tree", "car"]
STAGES = ["stage1", "stage2", "stage3", "stage4"]


@pytest.fixture
def manifests(spec_dir) -> Path:
    return spec_dir / "oneformer" / "manifests"


def small_cfg(backbone: str = "D2SwinTransformer", with_text: bool = False, num_classes: int = len(CLASSES)):
    """The whole architecture with few, narrow layers."""
    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "OneFormer"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.IS_TRAIN = with_text
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.DATASETS.TEST = ()
    cfg.merge_from_list(
        [
            "MODEL.BACKBONE.NAME",
            backbone,
            "MODEL.BACKBONE.FREEZE_AT",
            0,
            "MODEL.ONE_FORMER.HIDDEN_DIM",
            64,
            "MODEL.ONE_FORMER.DIM_FEEDFORWARD",
            96,
            "MODEL.ONE_FORMER.NUM_OBJECT_QUERIES",
            12,
            "MODEL.ONE_FORMER.DEC_LAYERS",
            5,
            "MODEL.SEM_SEG_HEAD.CONVS_DIM",
            64,
            "MODEL.SEM_SEG_HEAD.MASK_DIM",
            64,
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
            num_classes,
            "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS",
            2,
            "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DIM_FEEDFORWARD",
            80,
            "MODEL.TEXT_ENCODER.WIDTH",
            64,
            "MODEL.TEXT_ENCODER.NUM_LAYERS",
            2,
            "MODEL.TEXT_ENCODER.N_CTX",
            4,
            "MODEL.SWIN.EMBED_DIM",
            24,
            "MODEL.SWIN.DEPTHS",
            [1, 2, 1, 1],
            "MODEL.SWIN.WINDOW_SIZE",
            4,
            "MODEL.SWIN.NUM_HEADS",
            [2, 2, 4, 4],
            "MODEL.CONVNEXT.DEPTHS",
            [1, 1, 2, 1],
            "MODEL.CONVNEXT.DIMS",
            [16, 24, 32, 40],
            "MODEL.DiNAT.EMBED_DIM",
            16,
            "MODEL.DiNAT.DEPTHS",
            [1, 1, 2, 1],
            "MODEL.DiNAT.NUM_HEADS",
            [2, 2, 4, 4],
            "MODEL.DiNAT.KERNEL_SIZE",
            3,
            "MODEL.DiNAT.DILATIONS",
            [[1], [2], [1, 2], [1]],
            "MODEL.RESNETS.DEPTH",
            50,
            "MODEL.RESNETS.STRIDE_IN_1X1",
            False,
            "MODEL.RESNETS.NORM",
            "BN",
            "MODEL.RESNETS.STEM_OUT_CHANNELS",
            16,
            "MODEL.RESNETS.RES2_OUT_CHANNELS",
            32,
            "MODEL.RESNETS.WIDTH_PER_GROUP",
            8,
            "MODEL.RESNETS.OUT_FEATURES",
            ["res2", "res3", "res4", "res5"],
        ]
    )
    return cfg


def build(cfg, seed: int = 0):
    """An inference model whose norms and biases are random too, so that a swapped pair shows."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.dim() == 1 and value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.2)
            elif key.endswith("sampling_offsets.weight"):
                value.normal_(std=0.1)
    return model


def exported(tmp_path: Path, backbone: str, seed: int = 0):
    cfg = small_cfg(backbone)
    model = build(cfg, seed)
    folder = tmp_path / "exported"
    HuggingFaceExporter(cfg, class_names=CLASSES, thing_classes=[2]).save(model, folder)
    return cfg, model, folder


def assert_same_logits(ours, theirs, size=(64, 96)) -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    pixels = ((image - ours.pixel_mean) / ours.pixel_std)[None]
    outputs = []
    for task in TASKS:
        ids = torch.zeros(1, 77)
        ids[0, : len(TASK_TOKEN_IDS[task])] = torch.tensor(TASK_TOKEN_IDS[task], dtype=torch.float32)
        with torch.inference_mode():
            got = ours.predict_queries([{"image": image, "task": task}])
            expected = theirs(pixel_values=pixels, task_inputs=ids)
        assert (got["pred_logits"] - expected.class_queries_logits).abs().max() <= 1e-3, task
        assert (got["pred_masks"] - expected.masks_queries_logits).abs().max() <= 1e-3, task
        outputs.append(got["pred_logits"])
    # The comparison would be empty if the outputs did not depend on the task.
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


@pytest.mark.parametrize("backbone", ["D2SwinTransformer", "D2ConvNeXt", "build_resnet_backbone"])
def test_export_loads_in_transformers_and_comes_back(tmp_path, backbone):
    cfg, model, folder = exported(tmp_path, backbone)
    theirs, info = transformers.OneFormerForUniversalSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert theirs.config.id2label == dict(enumerate(CLASSES))
    assert_same_logits(model, theirs.eval())

    again = build(cfg, seed=1)
    Checkpointer(again).load(str(folder))
    state = model.state_dict()
    for key, value in again.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("backbone", ["swin", "convnext", "resnet"])
@pytest.mark.parametrize("training", [False, True])
def test_saved_by_transformers_loads_here(tmp_path, backbone, training):
    name = {"swin": "D2SwinTransformer", "convnext": "D2ConvNeXt", "resnet": "build_resnet_backbone"}[
        backbone
    ]
    cfg = small_cfg(name, with_text=training)
    config = transformers.OneFormerConfig.from_dict(_config_dict(cfg, training))
    torch.manual_seed(5)
    theirs = transformers.OneFormerForUniversalSegmentation(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")

    ours = build(cfg)
    checkpointer = Checkpointer(ours)
    checkpointer.load(str(tmp_path / "theirs"))
    assert checkpointer.last_report.is_complete
    assert checkpointer.last_report.format == "Hugging Face OneFormer"
    theirs = transformers.OneFormerForUniversalSegmentation.from_pretrained(
        tmp_path / "theirs", is_training=False
    )
    assert_same_logits(ours, theirs.eval())


def _config_dict(cfg, training: bool) -> dict:
    state = build(cfg).state_dict()
    values = HuggingFaceExporter(cfg, class_names=CLASSES).config(state)
    assert values["is_training"] == training
    return values


def test_sharded_and_bin_folders_load(tmp_path):
    cfg = small_cfg()
    theirs = transformers.OneFormerForUniversalSegmentation(
        transformers.OneFormerConfig.from_dict(_config_dict(cfg, False))
    )
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    theirs.save_pretrained(tmp_path / "whole")
    from safetensors.torch import load_file

    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
    torch.save(load_file(tmp_path / "whole" / "model.safetensors"), folder / "pytorch_model.bin")
    states = []
    for name in ("shards", "whole", "bin"):
        model = build(cfg, seed=len(states))
        Checkpointer(model).load(str(tmp_path / name))
        states.append(model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]) and torch.equal(value, states[2][key]), key


def test_text_branch_is_exported_on_request(tmp_path):
    cfg = small_cfg(with_text=True)
    model = build(cfg)
    exporter = HuggingFaceExporter(cfg, class_names=CLASSES)
    exporter.save(model, tmp_path / "inference")
    exporter.save(model, tmp_path / "training", with_text=True)
    for name, training in (("inference", False), ("training", True)):
        theirs, info = transformers.OneFormerForUniversalSegmentation.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert theirs.config.is_training is training
    again = build(cfg, seed=1)
    Checkpointer(again).load(str(tmp_path / "training"))
    assert torch.equal(again.prompt_ctx.weight, model.prompt_ctx.weight)
    with pytest.raises(ValueError, match="built without its text branch"):
        HuggingFaceExporter(small_cfg(), class_names=CLASSES).save(
            build(small_cfg()), tmp_path / "x", with_text=True
        )


def test_preprocessor_reads_the_class_list(tmp_path):
    _, model, folder = exported(tmp_path, "D2SwinTransformer")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, repo_path=str(folder))
    assert processor.metadata["class_names"] == CLASSES
    assert processor.metadata["thing_ids"] == [2]
    image = torch.randint(0, 256, (3, 640, 900), dtype=torch.uint8)
    pixels = processor(images=[image], task_inputs=["panoptic"], do_resize=False, return_tensors="pt")[
        "pixel_values"
    ]
    expected = (image - model.pixel_mean) / model.pixel_std
    assert torch.allclose(pixels[0], expected, atol=1e-5)


def test_full_size_keys_equal_the_manifest(manifests):
    """transformers' Swin-T OneFormer for ADE20K: our key map gives the official keys and shapes exactly."""
    config = transformers.OneFormerConfig(is_training=True, id2label={i: str(i) for i in range(150)})
    with torch.device("meta"):
        theirs = transformers.OneFormerForUniversalSegmentation(config).state_dict()
    official = json.loads((manifests / "ade20k__swin__oneformer_swin_tiny_bs16_160k.json").read_text())[
        "state_dict"
    ]
    expected = {key: tuple(shape) for key, shape in official.items() if "relative_position_index" not in key}
    assert {key: tuple(value.shape) for key, value in from_huggingface(theirs).items()} == expected


def test_dinat_keys_are_those_of_transformers(manifests, monkeypatch):
    """transformers' DiNAT cannot run without an old NATTEN, but its names and shapes can be read."""
    from transformers.models.dinat import modeling_dinat

    monkeypatch.setattr(modeling_dinat, "requires_backends", lambda *args: None)
    official = json.loads((manifests / "ade20k__dinat__oneformer_dinat_large_bs16_160k.json").read_text())[
        "state_dict"
    ]
    backbone = transformers.DinatConfig(
        embed_dim=192,
        depths=[3, 4, 18, 5],
        num_heads=[6, 12, 24, 48],
        kernel_size=11,
        mlp_ratio=2.0,
        dilations=[[1] * 3, [1] * 4, [1] * 18, [1] * 5],
        out_features=STAGES,
    )
    config = transformers.OneFormerConfig(
        backbone_config=backbone, is_training=True, num_queries=250, id2label={i: str(i) for i in range(150)}
    )
    with torch.device("meta"):
        theirs = transformers.OneFormerForUniversalSegmentation(config).state_dict()
    assert {key: tuple(value.shape) for key, value in from_huggingface(theirs).items()} == {
        key: tuple(shape) for key, shape in official.items()
    }


def test_every_official_model_survives_the_round_trip(manifests):
    files = sorted(manifests.glob("[a-z]*.json"))
    assert len(files) == 28
    for file in files:
        official = json.loads(file.read_text())["state_dict"]
        state = {key: torch.empty(shape, device="meta") for key, shape in official.items()}
        back = from_huggingface(to_huggingface(state))
        expected = {
            key: tuple(shape) for key, shape in official.items() if "relative_position_index" not in key
        }
        got = {
            key: tuple(value.shape)
            for key, value in back.items()
            if key in expected or not key.endswith("num_batches_tracked")
        }
        assert got == expected, file.name


def test_unknown_and_incomplete_files_are_refused():
    state = to_huggingface(build(small_cfg()).state_dict())
    stranger = dict(state, **{"model.pixel_level_module.decoder.extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"decoder\.extra\.weight"):
        from_huggingface(stranger)
    key = next(key for key in state if key.endswith("attention.self.key.weight"))
    del state[key]
    with pytest.raises(ValueError, match=r"2 of the 3 tensors.*attn\.qkv\.weight"):
        from_huggingface(state)
    with pytest.raises(ValueError, match="no Hugging Face key map for this backbone"):
        to_huggingface({"backbone.body.conv1.weight": torch.zeros(1)})


def test_export_errors(tmp_path):
    cfg, model, folder = exported(tmp_path, "D2SwinTransformer")
    with pytest.raises(FileExistsError):
        HuggingFaceExporter(cfg, class_names=CLASSES).save(model, folder)
    with pytest.raises(ValueError, match="3 classes, but 2 class names"):
        HuggingFaceExporter(cfg, class_names=CLASSES[:2]).save(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="has no Hugging Face counterpart"):
        HuggingFaceExporter(small_cfg("timm:resnet18"), class_names=CLASSES)
    with pytest.raises(ValueError, match="backbone is swin, the config's convnext"):
        HuggingFaceExporter(small_cfg("D2ConvNeXt"), class_names=CLASSES).save(model, tmp_path / "other")


# ---- official .pth files and ImageNet backbones ------------------------------------------------------------


@pytest.mark.parametrize("metadata", [True, False], ids=["with_metadata", "without_metadata"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_official_training_checkpoint_into_inference_model(tmp_path, metadata, wrapped, capsys):
    """No key may be renamed for want of `_metadata` (the official head's version hook did that)."""
    state = build(small_cfg(with_text=True)).state_dict()
    if metadata:
        state._metadata["sem_seg_head"] = {"version": 2}
    else:
        state = dict(state)
    torch.save({"model": state, "iteration": 7} if wrapped else state, tmp_path / "official.pth")
    model = build(small_cfg(), seed=1)
    checkpointer = Checkpointer(model)
    extra = checkpointer.load(str(tmp_path / "official.pth"))
    assert extra == ({"iteration": 7} if wrapped else {})
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    report = checkpointer.last_report
    assert report.is_complete
    assert {key.split(".")[0] for key in report.training_only_ignored} == {
        "text_encoder",
        "text_projector",
        "prompt_ctx",
    }
    assert sum("training-only" in line for line in report.lines()) == 1


def test_inference_checkpoint_into_training_model_reports_the_text_branch(tmp_path):
    torch.save(build(small_cfg()).state_dict(), tmp_path / "inference.pth")
    model = build(small_cfg(with_text=True), seed=1)
    before = model.prompt_ctx.weight.clone()
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "inference.pth"))
    report = checkpointer.last_report
    assert report.training_only_missing and not report.missing and not report.is_complete
    assert torch.equal(model.prompt_ctx.weight, before)


def test_other_number_of_classes_resets_the_class_head_alone(tmp_path):
    source = build(small_cfg(num_classes=5))
    torch.save({"model": source.state_dict()}, tmp_path / "five.pth")
    model = build(small_cfg(), seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "five.pth"))
    report = checkpointer.last_report
    assert set(report.class_head_reset) == {
        "criterion.empty_weight",
        "sem_seg_head.predictor.class_embed.weight",
        "sem_seg_head.predictor.class_embed.bias",
    }
    assert report.num_classes == (6, 4)
    for key, value in model.state_dict().items():
        kept = key in report.class_head_reset
        assert torch.equal(value, before[key] if kept else source.state_dict()[key]), key


@pytest.mark.parametrize("other", ["build_resnet_backbone", "queries", "depth"])
def test_other_architecture_is_refused_and_nothing_is_loaded(tmp_path, other):
    cfg = small_cfg("build_resnet_backbone" if other == "build_resnet_backbone" else "D2SwinTransformer")
    if other == "queries":
        cfg.MODEL.ONE_FORMER.NUM_OBJECT_QUERIES = 10
    if other == "depth":
        cfg.MODEL.ONE_FORMER.DEC_LAYERS = 4
    torch.save({"model": build(cfg).state_dict()}, tmp_path / "other.pth")
    model = build(small_cfg(), seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = {
        "queries": r"query_embed\.weight: got \(10, 64\), expected \(12, 64\)",
        "depth": r"transformer_\w+_layers\.3\.\S+: not in the checkpoint, expected",
        "build_resnet_backbone": r"backbone\.\S+: not in the checkpoint",
    }[other]
    with pytest.raises(ValueError, match=expected):
        Checkpointer(model).load(str(tmp_path / "other.pth"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    "backbone, head",
    [
        ("build_resnet_backbone", "stem.fc.weight"),
        ("D2SwinTransformer", "head.weight"),
        ("D2DiNAT", "head.weight"),
        ("D2ConvNeXt", "head.weight"),
    ],
)
def test_imagenet_pickle_loads_the_backbone_alone(tmp_path, backbone, head):
    """The layout of the official ImageNet files: a pickle, no prefix, a classifier, no output norms."""
    source = build(small_cfg(backbone)).state_dict()
    weights = {
        key.removeprefix("backbone."): value.numpy()
        for key, value in source.items()
        if key.startswith("backbone.")
        and not key.startswith("backbone.norm")
        and not key.endswith("num_batches_tracked")
    }
    weights[head] = torch.zeros(10, 4).numpy()
    with open(tmp_path / "imagenet.pkl", "wb") as stream:
        pickle.dump({"model": weights, "__author__": "someone", "matching_heuristics": True}, stream)
    model = build(small_cfg(backbone), seed=1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    checkpointer = Checkpointer(model)
    checkpointer.load(str(tmp_path / "imagenet.pkl"))
    matched = set(checkpointer.last_report.matched)
    assert matched == {f"backbone.{key}" for key in weights if key != head}
    assert any(key.startswith("sem_seg_head.") for key in checkpointer.last_report.missing)
    for key, value in model.state_dict().items():
        assert torch.equal(value, source[key] if key in matched else before[key]), key


def test_timm_weights_load_into_a_timm_backbone(tmp_path):
    import timm

    torch.manual_seed(0)
    source = timm.create_model("resnet18", num_classes=7)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    model = build(small_cfg("timm:resnet18"))
    Checkpointer(model).load(str(tmp_path / "resnet18.pth"))
    for key, value in source.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(model.state_dict()[f"backbone.body.{key}"], value), key


def test_imagenet_backbone_of_another_size_is_refused(tmp_path):
    cfg = small_cfg()
    cfg.MODEL.SWIN.EMBED_DIM = 32
    weights = {
        key.removeprefix("backbone."): value
        for key, value in build(cfg).state_dict().items()
        if key.startswith("backbone.") and not key.startswith("backbone.norm")
    }
    torch.save({"model": weights}, tmp_path / "wide.pth")
    with pytest.raises(
        ValueError,
        match=r"backbone\.patch_embed\.proj\.weight: got \(32, 3, 4, 4\), "
        r"expected \(24, 3, 4, 4\)",
    ):
        Checkpointer(build(small_cfg())).load(str(tmp_path / "wide.pth"))


# ---- settings that no shape shows --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value", [("num_attention_heads", 4), ("use_task_norm", False), ("pre_norm", True)]
)
def test_another_setting_in_config_json_is_refused(tmp_path, name, value):
    cfg, _, folder = exported(tmp_path, "D2SwinTransformer")
    config = json.loads((folder / "config.json").read_text())
    config[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    model = build(cfg, seed=1)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"{name} {value}, the model"):
        Checkpointer(model).load(str(folder))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_dinat_folder_comes_back_and_its_dilations_are_compared(tmp_path):
    cfg, source, folder = exported(tmp_path, "D2DiNAT")
    model = build(cfg, seed=1)
    checkpointer = Checkpointer(model)
    checkpointer.load(str(folder))
    assert checkpointer.last_report.is_complete
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key]), key
    cfg.MODEL.DiNAT.DILATIONS = [[1], [1], [1, 2], [1]]
    with pytest.raises(
        ValueError, match=r"dilations \[\[1\], \[2\], \[1, 2\], \[1\]\], the model \[\[1\], \[1\]"
    ):
        Checkpointer(build(cfg)).load(str(folder))
