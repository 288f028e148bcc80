"""Renaming of ImageNet weights: every layout that is in circulation ends under our names."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet

from oneformer.modeling.backbone import convert_backbone_weights, convert_timm_features
from oneformer.modeling.backbone.convnext import ConvNeXt
from oneformer.modeling.backbone.dinat import DiNAT
from oneformer.modeling.backbone.pretrained import convnext_to_timm
from oneformer.modeling.backbone.swin import Swin
from oneformer.modeling.backbone.timm_backbone import TimmBackbone


def swin_keys() -> list[str]:
    with torch.device("meta"):
        model = Swin(embed_dim=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4), window_size=4)
    return [key for key in model.state_dict() if not key.startswith("norm")]


def named(keys) -> dict[str, torch.Tensor]:
    """A different value under each name, so that a mix-up shows."""
    return {key: torch.tensor([float(i)]) for i, key in enumerate(keys)}


def same(ours: dict, expected: dict) -> bool:
    return ours.keys() == expected.keys() and all(torch.equal(ours[key], expected[key]) for key in expected)


@pytest.mark.parametrize("wrap", ["model", "state_dict", None])
def test_official_swin(wrap):
    weights = named(swin_keys())
    extra = ["layers.0.blocks.1.attn_mask", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    file = {**weights, **named(extra)}
    if wrap:  # the .pkl files hold numpy arrays and two remarks
        file = {wrap: {key: value.numpy() for key, value in file.items()}, "matching_heuristics": True}
    result = convert_backbone_weights(file)
    assert result.architecture == "swin"
    assert same(result.state_dict, weights)
    assert sorted(result.dropped) == sorted(extra)


@pytest.mark.parametrize("features_only", [False, True])
def test_timm_swin_counts_the_merging_to_the_next_stage(features_only):
    options = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4), "window_size": 4}
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=features_only, img_size=128, **options
    )
    result = convert_backbone_weights(model.state_dict())
    expected = [key for key in swin_keys() if "relative_position_index" not in key]
    assert sorted(result.state_dict) == sorted(expected)
    first = "layers_1" if features_only else "layers.1"
    source = model.state_dict()[f"{first}.downsample.reduction.weight"]
    assert torch.equal(result.state_dict["layers.0.downsample.reduction.weight"], source)


def test_convnext_both_ways():
    with torch.device("meta"):
        ours = ConvNeXt(depths=(1, 2, 2, 1), dims=(8, 12, 16, 24)).state_dict()
        theirs = timm.models.convnext.ConvNeXt(depths=(1, 2, 2, 1), dims=(8, 12, 16, 24)).state_dict()
    official = named([key for key in ours if not key.startswith("norm")])
    result = convert_backbone_weights({"model": {**official, **named(["norm.weight", "head.bias"])}})
    assert result.architecture == "convnext" and same(result.state_dict, official)
    assert sorted(result.dropped) == ["head.bias", "norm.weight"]

    timm_named = {convnext_to_timm(key): value for key, value in official.items()}
    assert timm_named.keys() == {key for key in theirs if not key.startswith("head")}
    assert same(convert_backbone_weights(timm_named).state_dict, official)
    assert convnext_to_timm("norm2.weight") is None

    flat = timm.create_model("convnext_atto", features_only=True).state_dict()
    whole = timm.create_model("convnext_atto").state_dict()
    convert = convert_backbone_weights
    assert convert(flat).state_dict.keys() == convert(whole).state_dict.keys()


def test_dinat():
    with torch.device("meta"):
        model = DiNAT(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), dilations=[[1]] * 4)
    weights = named([key for key in model.state_dict() if not key.startswith("norm")])
    result = convert_backbone_weights({"model": {**weights, **named(["norm.bias", "head.weight"])}})
    assert result.architecture == "dinat" and same(result.state_dict, weights)


def resnet_keys(depth: int) -> list[str]:
    stages = ResNet.make_default_stages(depth, norm="BN")
    model = ResNet(BasicStem(norm="BN"), stages, out_features=["res5"])
    return list(model.state_dict())


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet(depth):
    keys = resnet_keys(depth)
    theirs = timm.create_model(f"resnet{depth}", num_classes=2).state_dict()
    result = convert_backbone_weights(theirs)
    assert result.architecture == "resnet"
    assert sorted(result.state_dict) == sorted(keys)
    for ours, name in (
        ("res3.0.shortcut.norm.weight", "layer2.0.downsample.1.weight"),
        ("res3.0.shortcut.weight", "layer2.0.downsample.0.weight"),
        ("res5.1.conv2.norm.bias", "layer4.1.bn2.bias"),
        ("stem.conv1.weight", "conv1.weight"),
    ):
        assert result.state_dict[ours] is theirs[name]
    # Detectron2's R-50.pkl made from torchvision: already its own names, classifier under the stem
    file = {**named(keys), "stem.fc.weight": torch.zeros(1)}
    arrays = {key: np.asarray(value) for key, value in file.items()}
    result = convert_backbone_weights({"model": arrays, "matching_heuristics": True})
    assert same(result.state_dict, named(keys)) and result.dropped == ["stem.fc.weight"]


def test_not_a_backbone():
    with pytest.raises(ValueError, match=r"first of 2 names are .*cls_token.*res2_0_branch2a_w"):
        convert_backbone_weights({"model": named(["cls_token", "blocks.0.attn.qkv.weight"])})


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0"])
def test_timm_model_into_its_features(name):
    backbone = TimmBackbone(name=name)
    whole = timm.create_model(name)
    result = convert_timm_features(whole.state_dict(), backbone.body.state_dict())
    assert result.state_dict.keys() == backbone.body.state_dict().keys()
    backbone.body.load_state_dict(result.state_dict)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # efficientnet's last stage in its features is the one before the final convolution
        expected = whole.eval().forward_intermediates(x, intermediates_only=True)[-1]
        torch.testing.assert_close(backbone.eval()(x)["res5"], expected)
    with pytest.raises(ValueError, match="no weight has a place"):
        convert_timm_features(named(["a.b"]), backbone.body.state_dict())
