"""Backbones against the goldens, against timm's own models, and by their properties."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from oneformer.config import add_oneformer_config
from oneformer.modeling.backbone import build_oneformer_backbone, convert_backbone_weights
from oneformer.modeling.backbone.convnext import ChannelLayerNorm, ConvNeXt
from oneformer.modeling.backbone.dinat import DiNAT, NeighborhoodAttention
from oneformer.modeling.backbone.stages import STAGES, STRIDES, DropPath, drop_path_rates
from oneformer.modeling.backbone.swin import Swin
from oneformer.modeling.backbone.sync_batch_norm import SyncBatchNorm
from oneformer.modeling.backbone.timm_backbone import TimmBackbone
from segcore.ops import neighborhood_attention_2d

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def config(name: str | None = None, *options):
    cfg = get_cfg()
    add_oneformer_config(cfg)
    if name:
        cfg.merge_from_file(str(CONFIGS / name))
    cfg.merge_from_list(list(options))
    return cfg


def tiny(kind: str, **options) -> Backbone:
    torch.manual_seed(0)
    if kind == "swin":
        shape = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4), "window_size": 4}
        return Swin(**{"drop_path_rate": 0.0, **shape, **options})
    if kind == "convnext":
        return ConvNeXt(**{"depths": (1, 2, 2, 1), "dims": (8, 12, 16, 24), "drop_path_rate": 0.0, **options})
    shape = {"embed_dim": 16, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
    dilations = [[2], [1, 2], [1, 3], [1]]
    return DiNAT(**{"drop_path_rate": 0.0, "dilations": dilations, **shape, **options})


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights at which every part matters: fresh ones have zero biases and unit norms."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith(("weight", "gamma"))):
                tensor.copy_(1 + tensor.abs())
    return module


def image(height: int, width: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# --- the official model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("ade20k/oneformer_r50", "infer_ade20k_R50_fan"),
        ("ade20k/oneformer_swin_t", "infer_ade20k_swin_tiny_fan"),
        ("cityscapes/oneformer_dinat_l", "infer_cityscapes_dinat_large_k7_fan"),
    ],
)
def test_features_of_the_official_model(name, golden, spec_dir):
    source = importlib.util.spec_from_file_location("detweights", spec_dir / "oneformer" / "detweights.py")
    detweights = importlib.util.module_from_spec(source)
    source.loader.exec_module(detweights)
    cfg = config(f"{name}.yaml")
    if "dinat" in name:  # all of it is about to be overwritten: initialising 200 M weights takes seconds
        with torch.device("meta"):
            backbone = build_oneformer_backbone(cfg)
        backbone.to_empty(device="cpu")
    else:
        backbone = build_oneformer_backbone(cfg)
    detweights.fill_({f"backbone.{key}": value for key, value in backbone.state_dict().items()}, "fan")
    stored = np.load(spec_dir / "oneformer" / "golden" / f"{golden}.npz")
    pixels = torch.from_numpy(stored["image0"]).float()
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    with torch.no_grad():
        features = backbone.eval()(((pixels - mean) / std)[None])
    assert list(features) == list(STAGES)
    for stage, feature in features.items():
        meta = json.loads(str(stored[f"backbone.{stage}|meta"]))
        assert list(feature.shape) == meta["shape"]
        ours = feature.reshape(-1)[:: meta["step"]].numpy()
        # the official model differs from itself in fp64 by up to 5e-6; features have deviation 1
        np.testing.assert_allclose(ours, stored[f"backbone.{stage}"], rtol=0, atol=2e-5)


# --- timm's models with the same weights: independent implementations ----------------------------------


def load(backbone: Backbone, source: nn.Module) -> list[str]:
    """Give a backbone a timm model's weights; returns the backbone's keys that timm does not have."""
    converted = convert_backbone_weights(source.state_dict())
    missing, unexpected = backbone.load_state_dict(converted.state_dict, strict=False)
    assert not unexpected
    return missing


def test_swin_equals_timm():
    # Maps down to 8 x 12, larger than the window and multiples of it: elsewhere timm differs from the
    # official model (it shrinks the window to a smaller map, and rolls before it pads, not after).
    shape = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4), "window_size": 4}
    source = timm.models.swin_transformer.SwinTransformer(img_size=(256, 384), num_classes=5, **shape)
    randomise(source).eval()
    ours = tiny("swin").eval()
    missing = load(ours, source)
    assert {key for key in missing if "relative_position_index" not in key} == {
        f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias")
    }
    x = image(256, 384)
    with torch.no_grad():
        theirs = source.forward_intermediates(x, intermediates_only=True)
        features = ours(x)
    for feature, raw in zip(features.values(), theirs):
        expected = F.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2]).permute(0, 3, 1, 2)
        torch.testing.assert_close(feature, expected, rtol=0, atol=2e-5)


def test_convnext_equals_timm():
    source = randomise(
        timm.models.convnext.ConvNeXt(depths=(1, 2, 2, 1), dims=(8, 12, 16, 24), num_classes=5)
    ).eval()
    ours = tiny("convnext").eval()
    missing = load(ours, source)
    assert set(missing) == {f"norm{i}.{part}" for i in range(4) for part in ("weight", "bias")}
    x = image(96, 70)
    with torch.no_grad():
        theirs = source.forward_intermediates(x, intermediates_only=True)
        features = ours(x)
    for feature, raw in zip(features.values(), theirs):
        expected = F.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(feature, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_resnet_equals_timm(norm):
    source = timm.create_model("resnet50", num_classes=3).eval()
    for name, value in source.state_dict().items():  # running statistics away from 0 and 1, still stable
        if name.endswith("running_mean"):
            value.fill_(0.1)
        elif name.endswith("running_var"):
            value.fill_(1.2)
    ours = build_oneformer_backbone(config("ade20k/oneformer_r50.yaml", "MODEL.RESNETS.NORM", norm)).eval()
    converted = convert_backbone_weights(source.state_dict())
    missing, unexpected = ours.load_state_dict(converted.state_dict, strict=False)
    assert missing == []
    assert all(key.endswith("num_batches_tracked") for key in unexpected)
    assert sorted(converted.dropped) == ["fc.bias", "fc.weight"]
    x = image(75, 64)
    with torch.no_grad():
        theirs = source.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        features = ours(x)
    for feature, expected in zip(features.values(), theirs):
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)


# --- neighbourhood attention in DiNAT ------------------------------------------------------------------


def test_small_map_is_padded_before_the_projection():
    torch.manual_seed(0)
    layer = NeighborhoodAttention(8, num_heads=2, kernel_size=3, dilation=4)  # window 12
    nn.init.normal_(layer.qkv.bias)
    x = torch.randn(2, 7, 13, 8)
    expected = layer(F.pad(x, (0, 0, 0, 0, 0, 12 - 7)))[:, :7]
    torch.testing.assert_close(layer(x), expected)
    # padding the keys and values themselves, after the projection, would give something else
    heads = F.pad(layer.qkv(x).unflatten(-1, (3, 2, 4)), (0, 0) * 3 + (0, 0, 0, 12 - 7))
    query, key, value = heads.permute(3, 0, 4, 1, 2, 5).unbind(0)
    late = neighborhood_attention_2d(query, key, value, 3, 4, layer.rpb, layer.scale)
    late = layer.proj(late[:, :, :7].permute(0, 2, 3, 1, 4).flatten(-2))
    assert (late - expected).abs().max() > 0.1


def test_attention_reaches_its_window_only():
    torch.manual_seed(0)
    layer = NeighborhoodAttention(4, num_heads=1, kernel_size=3, dilation=2)
    x = torch.randn(1, 10, 11, 4, requires_grad=True)
    layer(x)[0, 4, 5].sum().backward()
    reached = {(int(r), int(c)) for r, c in x.grad[0].abs().sum(-1).nonzero()}
    assert reached == {(r, c) for r in (2, 4, 6) for c in (3, 5, 7)}


def test_dilations_must_match_the_depths():
    with pytest.raises(ValueError, match=r"DILATIONS has \[1, 2, 2, 2\].*DEPTHS = \[1, 2, 2, 1\]"):
        tiny("dinat", dilations=[[1], [1, 2], [1, 2], [1, 2]])


# --- what all of them promise --------------------------------------------------------------------------

OWN = ["swin", "convnext", "dinat"]


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (33, 50)])
def test_shapes(kind, size):
    backbone = tiny(kind)
    shapes = backbone.output_shape()
    features = backbone(image(*size, batch=2))
    for name, stride in STRIDES.items():
        assert shapes[name].stride == stride
        if kind == "convnext":  # its strided convolutions drop the odd rest
            height, width = size[0] // stride, size[1] // stride
        else:
            height, width = -(-size[0] // stride), -(-size[1] // stride)
        assert features[name].shape == (2, shapes[name].channels, height, width)
        layouts = torch.contiguous_format, torch.channels_last
        assert any(features[name].is_contiguous(memory_format=layout) for layout in layouts)


@pytest.mark.parametrize("kind", ["swin", "dinat"])
def test_one_pixel(kind):
    features = tiny(kind)(image(1, 1))
    assert all(feature.shape[2:] == (1, 1) and feature.isfinite().all() for feature in features.values())


@pytest.mark.parametrize("kind", OWN)
def test_out_features(kind):
    backbone, everything = tiny(kind, out_features=["res5", "res3"]).eval(), tiny(kind).eval()
    assert [name for name, _ in backbone.named_children() if name.startswith("norm")] == ["norm1", "norm3"]
    backbone.load_state_dict(everything.state_dict(), strict=False)
    features, expected = backbone(image(32, 64)), everything(image(32, 64))
    assert list(features) == list(backbone.output_shape()) == ["res3", "res5"]
    for name, feature in features.items():
        torch.testing.assert_close(feature, expected[name])
    with pytest.raises(ValueError, match=r"\['res6'\].*'res2', 'res3', 'res4', 'res5'"):
        tiny(kind, out_features=["res6"])


@pytest.mark.parametrize("kind", OWN)
def test_freezing(kind):
    frozen_before = -1
    for freeze_at in range(6):
        backbone = tiny(kind, freeze_at=freeze_at, drop_path_rate=0.5)
        assert backbone.train() is backbone and backbone.eval() is backbone
        backbone.train()
        frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
        assert len(frozen) > frozen_before  # each step freezes more
        frozen_before = len(frozen)
        assert not any(name.startswith("norm") for name in frozen)  # output norms belong to the head's side
        # A frozen prefix does not change from one training step to the next, random depth included.
        reach = {f"res{i}" for i in range(2, freeze_at + 1)}
        first, second = backbone(image(32, 32)), backbone(image(32, 32))
        for name in reach:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        sum(feature.sum() for feature in first.values()).backward()
        got = {name for name, p in backbone.named_parameters() if p.grad is not None}
        assert got == {name for name, _ in backbone.named_parameters()} - set(frozen)
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=f"FREEZE_AT is {wrong}"):
            tiny(kind, freeze_at=wrong)


def test_freezing_stops_before_the_next_stage():
    frozen = [name for name, p in tiny("swin", freeze_at=2).named_parameters() if not p.requires_grad]
    assert any(name.startswith("layers.0.blocks") for name in frozen)
    assert not any(name.startswith("layers.0.downsample") for name in frozen)
    frozen = [name for name, p in tiny("swin", freeze_at=3).named_parameters() if not p.requires_grad]
    assert any(name.startswith("layers.0.downsample") for name in frozen)


@pytest.mark.parametrize("kind", OWN)
def test_checkpointing_changes_no_gradient(kind):
    plain = tiny(kind)
    recomputed = tiny(kind, use_checkpoint=True)
    recomputed.load_state_dict(plain.state_dict())
    assert list(recomputed.state_dict()) == list(plain.state_dict())
    calls = []
    part = {
        "swin": "layers.2.blocks.1.attn",
        "convnext": "stages.2.1.norm",
        "dinat": "levels.2.blocks.1.attn",
    }
    recomputed.get_submodule(part[kind]).register_forward_hook(lambda *_: calls.append(1))
    for backbone in (plain, recomputed):
        # two sizes before one backward, as under gradient accumulation or a two-image loss
        features = [backbone(image(32, 64)), backbone(image(64, 32))]
        sum(f.square().mean() for both in features for f in both.values()).backward()
    assert len(calls) == 4  # two forwards, both repeated in the backward pass
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, msg=name)
    calls.clear()
    with torch.no_grad():
        recomputed(image(32, 32))
    assert len(calls) == 1


@pytest.mark.parametrize("kind", OWN)
def test_meta_device_and_copies(kind):
    real = tiny(kind)
    with torch.device("meta"):
        empty = tiny(kind)
    assert all(value.is_meta for value in empty.state_dict().values())
    shapes = {key: value.shape for key, value in real.state_dict().items()}
    assert {key: value.shape for key, value in empty.state_dict().items()} == shapes
    assert len(list(empty.parameters())) == len({id(p) for p in empty.parameters()})
    empty.load_state_dict(real.state_dict(), assign=True)
    twin = copy.deepcopy(real)
    for other in (empty, twin):
        for name, feature in other.eval()(image(32, 32)).items():
            torch.testing.assert_close(feature, real.eval()(image(32, 32))[name], rtol=0, atol=0)
    with torch.no_grad():  # a copy is a copy: no layer of it is still the original's
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(feature.abs().sum() > 0 for feature in real(image(32, 32)).values())
    assert all(feature.abs().sum() == 0 for feature in twin(image(32, 32)).values())


@pytest.mark.parametrize("kind", OWN)
def test_bfloat16_autocast(kind):
    backbone = tiny(kind)
    exact = backbone(image(64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(image(64, 64))
    for name, feature in features.items():
        error = (feature.float() - exact[name]).norm() / exact[name].norm()
        assert error < 0.05  # 8 bits of mantissa over a dozen layers
    sum(feature.float().sum() for feature in features.values()).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


def test_stochastic_depth_grows_linearly():
    rates = drop_path_rates(0.3, [2, 2, 6, 2])
    assert [len(stage) for stage in rates] == [2, 2, 6, 2]
    torch.testing.assert_close(
        torch.tensor([rate for stage in rates for rate in stage]), torch.linspace(0, 0.3, 12)
    )
    swin = tiny("swin", drop_path_rate=0.7)
    blocks = [block for layer in swin.layers for block in layer.blocks]
    assert isinstance(blocks[0].drop_path, nn.Identity)
    assert [block.drop_path.drop_prob for block in blocks[1:]] == pytest.approx([i / 10 for i in range(1, 8)])


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (4, 2, 3, 2)])
def test_stochastic_depth_draws_as_timm_does(shape: tuple[int, ...]):
    x, rate = torch.randn(shape), 0.4
    torch.manual_seed(1)
    ours = DropPath(rate)(x)
    torch.manual_seed(1)
    assert torch.equal(ours, timm.layers.DropPath(rate)(x))
    assert DropPath(rate).eval()(x) is x and DropPath(0.0)(x) is x


def test_convnext_norm_is_decayed_as_upstream():
    # The optimizer's rule exempts nn.LayerNorm; released ConvNeXt models were trained with decay here.
    norms = [module for module in tiny("convnext").modules() if isinstance(module, ChannelLayerNorm)]
    assert len(norms) == 6 + 4 + 4  # blocks, stem and ways down, outputs
    assert not any(isinstance(module, nn.LayerNorm) for module in tiny("convnext").modules())


def test_channel_layer_norm():
    norm = randomise(ChannelLayerNorm(6, channels_first=True))
    x = image(5, 4).repeat(2, 2, 1, 1)
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    expected = (x - mean) / (variance + 1e-6).sqrt() * weight + bias
    torch.testing.assert_close(norm(x), expected)
    norm.channels_first = False
    torch.testing.assert_close(norm(x.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1))


# --- timm:<name> ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "efficientnet_b0"])
def test_timm_features(name):
    # NCHW list of stages; NHWC with a fixed input size; hooks
    options = {"MODEL.BACKBONE.NAME": f"timm:{name}", "MODEL.BACKBONE.FREEZE_AT": 0}
    backbone = build_oneformer_backbone(config(None, *(x for pair in options.items() for x in pair)))
    assert backbone.eval() is backbone
    shapes = backbone.output_shape()
    features = backbone(image(64, 96))
    assert list(features) == list(STAGES)
    for stage, feature in features.items():
        stride = STRIDES[stage]
        assert shapes[stage].stride == stride
        assert feature.shape == (1, shapes[stage].channels, 64 // stride, 96 // stride)
    assert all(key.startswith("body.") for key in backbone.state_dict())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_of_my_own", "no model 'resnet_of_my_own'; similar names: .*resnet"),
        ("vit_tiny_patch16_224", r"strides \[16\], none at \[4, 8, 32\]"),
        ("maxvit_tiny_rw_224", "cannot take an image of 128 x 160 pixels .*fixed input size"),
    ],
)
def test_timm_errors(name, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name=name)


def test_timm_stochastic_depth():
    backbone = TimmBackbone(name="convnext_atto", drop_path_rate=0.2)
    rates = [module.drop_prob for module in backbone.modules() if hasattr(module, "drop_prob")]
    assert max(rates) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="DROP_PATH_RATE to 0"):
        TimmBackbone(name="vgg11", drop_path_rate=0.2)


def test_timm_freezing():
    def frozen(freeze_at):
        backbone = TimmBackbone(name="resnet18", freeze_at=freeze_at).train()
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training == module.weight.requires_grad
        return {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}

    stem = {"conv1", "bn1"}
    assert [frozen(i) for i in range(6)] == [
        set(),
        stem,
        stem | {"layer1"},
        stem | {"layer1", "layer2"},
        stem | {"layer1", "layer2", "layer3"},
        stem | {"layer1", "layer2", "layer3", "layer4"},
    ]
    with pytest.raises(ValueError, match=r"only MODEL.BACKBONE.FREEZE_AT 0 .* or 5"):
        TimmBackbone(name="efficientnet_b0", freeze_at=2)


# --- build ---------------------------------------------------------------------------------------------


def test_unknown_backbone():
    with pytest.raises(ValueError, match=r"'D2Swim'.*D2SwinTransformer.*timm:<model>"):
        build_oneformer_backbone(config(None, "MODEL.BACKBONE.NAME", "D2Swim"))


def test_head_asks_for_a_feature_that_is_not_there():
    cfg = config("ade20k/oneformer_swin_t.yaml", "MODEL.SWIN.OUT_FEATURES", ["res3", "res4", "res5"])
    with torch.device("meta"), pytest.raises(ValueError, match=r"\['res2'\], which MODEL.SEM_SEG_HEAD"):
        build_oneformer_backbone(cfg)


def test_backbone_of_the_users_own():
    class Pool(Backbone):
        def __init__(self, strides):
            super().__init__()
            self._out_features = list(STAGES)
            self._out_feature_channels = dict.fromkeys(STAGES, 3)
            self._out_feature_strides = dict(zip(STAGES, strides))

        def forward(self, x):
            return {name: F.avg_pool2d(x, s) for name, s in self._out_feature_strides.items()}

    for name, strides in (("PoolForTest", (4, 8, 16, 32)), ("WrongPoolForTest", (2, 8, 16, 32))):
        if name not in BACKBONE_REGISTRY:
            BACKBONE_REGISTRY._do_register(name, lambda cfg, shape, strides=strides: Pool(strides))
    backbone = build_oneformer_backbone(config(None, "MODEL.BACKBONE.NAME", "PoolForTest"))
    assert backbone.output_shape()["res5"] == ShapeSpec(channels=3, stride=32)
    with pytest.raises(ValueError, match=r"strides \{'res2': 2\}; expected \{'res2': 4\}"):
        build_oneformer_backbone(config(None, "MODEL.BACKBONE.NAME", "WrongPoolForTest"))


def test_official_names_stay_out_of_the_registry():
    # Mask2Former registers "D2SwinTransformer" when it is imported; a second registration is an error.
    assert "D2SwinTransformer" not in BACKBONE_REGISTRY


# --- synchronised batch norm on CPU --------------------------------------------------------------------


def test_sync_batch_norm_trains_on_cpu(tmp_path):
    backbone = build_oneformer_backbone(config("cityscapes/oneformer_r50.yaml")).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(norms) == 53 and all(type(norm) is SyncBatchNorm for norm in norms)
    x = image(32, 32, batch=2)
    expected = backbone(x)["res5"].detach()
    # PyTorch's own class raises here: a group exists, and the tensor is on the CPU.
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        torch.testing.assert_close(backbone(x)["res5"], expected)
    finally:
        torch.distributed.destroy_process_group()
    assert norms[0].num_batches_tracked == 2


# Loads the one file: a process that imports the whole package first takes several times as long.
TRAIN_NORM = """
import importlib.util, sys, torch
source, folder, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = importlib.util.spec_from_file_location("sync_batch_norm", source)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
torch.distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
norm = module.SyncBatchNorm(5).train()
with torch.no_grad():
    norm.weight.copy_(torch.arange(1.0, 6))
x = torch.load(f"{folder}/share{rank}.pt").requires_grad_()
y = norm(x)
(y.square() * x.detach().cos()).sum().backward()
torch.save((y.detach(), x.grad, norm.weight.grad, norm.state_dict()), f"{folder}/result{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_sync_batch_norm_of_two_processes(tmp_path):
    torch.manual_seed(0)
    x = 3 + 0.5 * torch.randn(3, 5, 4, 6)
    shares = x[:1], x[1:, :, :3]  # different numbers of images and of pixels
    source = importlib.util.find_spec("oneformer.modeling.backbone.sync_batch_norm").origin
    workers = []
    for rank, share in enumerate(shares):
        torch.save(share.clone(), tmp_path / f"share{rank}.pt")
        command = [sys.executable, "-c", TRAIN_NORM, str(source), str(tmp_path), str(rank)]
        workers.append(subprocess.Popen(command))
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    results = [torch.load(tmp_path / f"result{rank}.pt") for rank in range(2)]

    def pixels(tensors) -> torch.Tensor:  # (1, C, all pixels of all processes)
        return torch.cat([t.transpose(0, 1).reshape(5, -1) for t in tensors], dim=1)[None]

    row = pixels(shares).requires_grad_()
    norm = nn.BatchNorm1d(5).train()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6))
    y = norm(row)
    (y.square() * row.detach().cos()).sum().backward()
    # fp32: outputs up to 15, gradients up to 100
    torch.testing.assert_close(pixels([r[0] for r in results]), y.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pixels([r[1] for r in results]), row.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[0][2] + results[1][2], norm.weight.grad, rtol=1e-4, atol=1e-4)
    for result in results:
        for key, value in norm.state_dict().items():
            torch.testing.assert_close(result[3][key], value, msg=key)
