"""The plain form against values of the released code on a small network."""

from __future__ import annotations

import json

import pytest
import torch

from seggpt.modeling import SegGPT, inpainting_loss
from seggpt.modeling.loss import IMAGENET_MEAN, IMAGENET_STD
from tests.seggpt.small_seggpt import small_model

TOLERANCE = 1e-5   # twenty times the reference's own fp32 error, a hundredth of the smallest planted mistake

CASES = {
    "one_cls": (1, [0], False), "one_ins": (1, [1], False),
    "three_ens_cls": (3, [0, 0, 0], True), "three_ens_ins": (3, [1, 1, 1], True),
    "three_noens_ins": (3, [1, 1, 1], False), "three_mixedtype_noens": (3, [0, 1, 0], False),
}


def half_mask(model: SegGPT) -> torch.Tensor:
    mask = torch.zeros(1, (model.img_size[0] // 16) * (model.img_size[1] // 16))
    mask[:, mask.shape[1] // 2:] = 1
    return mask


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= tolerance


def test_weights_are_the_reference_ones(model, golden_facts):
    facts = golden_facts["params"]["d8"]
    state = model.state_dict()
    assert {k: list(v.shape) for k, v in state.items()} == facts
    assert sum(p.numel() for p in state.values()) == golden_facts["num_params"]["d8"]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_prediction_and_loss(case, model, golden, golden_facts):
    n, types, ensemble = CASES[case]
    images, targets, mask = golden["inputs/inf_imgs"][:n], golden["inputs/inf_tgts"][:n], half_mask(model)
    out = model.inpaint(images, targets, mask, torch.tensor(types), ensemble)
    close(out, golden[f"d8/{case}/pred"])
    loss = inpainting_loss(out, targets, mask, skip_blank=False, eps=0)
    assert abs(loss.item() - golden_facts["losses"][f"d8/{case}"]) <= TOLERANCE


@pytest.mark.parametrize("case", ["one_ins", "three_ens_ins"])
@pytest.mark.parametrize("attention", ["materialised", "widened", "tiled"])
@torch.no_grad()
def test_every_activation(case, attention, golden):
    model = small_model(attention=attention)
    seen = {}
    for i in (0, 1, 2, 3, 7):
        model.blocks[i].register_forward_hook(lambda _m, _a, out, i=i: seen.update({f"block{i}": out}))
    latents = []
    model.norm.register_forward_hook(lambda _m, _a, out: latents.append(out))
    n, types, ensemble = CASES[case]
    model.inpaint(golden["inputs/inf_imgs"][:n], golden["inputs/inf_tgts"][:n], half_mask(model),
                  torch.tensor(types), ensemble)
    for name, value in seen.items():
        if name == "block2":   # the reference recorded it before the streams are merged
            assert value.shape[0] == 2 * n
        close(value.unflatten(1, (8, 4)), golden[f"d8/{case}/{name}"])
    if case == "one_ins":
        for i, value in enumerate(latents):
            close(value.unflatten(1, (8, 4)), golden[f"d8/one_ins/latent{i}"])
        tables = model.tables(128, 64)
        close(tables.position.unflatten(1, (8, 4)), golden["d8/one_ins/abs_pos"])
        embedded = model.patch_embed(golden["inputs/inf_imgs"][:1])
        close(embedded.unflatten(1, (8, 4)), golden["d8/one_ins/patch_embed"])


@pytest.mark.parametrize("case", ["one_ins", "three_ens_ins"])
@torch.no_grad()
def test_engine_output(case, model, golden):
    n, types, ensemble = CASES[case]
    out = model.inpaint(golden["inputs/inf_imgs"][:n], golden["inputs/inf_tgts"][:n], half_mask(model),
                        torch.tensor(types), ensemble)
    picture = model.denormalize(out)[0, :, 64:].permute(1, 2, 0)
    # 255 levels times the colours' own tolerance and standard deviation
    close(picture.double(), golden[f"d8/{case}/engine_output"], 255 * TOLERANCE * 0.229)


def train_loss(model, golden, **kwargs):
    targets, mask, valid = (golden[f"inputs/train_{k}"] for k in ("tgts", "mask", "valid"))
    out = model.inpaint(golden["inputs/train_imgs"], targets, mask, golden["inputs/train_seg_type"])
    return out, inpainting_loss(out, targets, mask, valid, **kwargs)


@pytest.mark.parametrize("attention", ["materialised", "widened", "auto"])
def test_training_loss_and_gradients(attention, golden, golden_facts):
    model = small_model(attention=attention)
    out, loss = train_loss(model, golden, skip_blank=False, eps=0)
    close(out, golden["d8/train/pred"])
    assert abs(loss.item() - golden_facts["losses"]["d8/train"]) <= TOLERANCE
    loss.backward()
    gradients = {k: p.grad for k, p in model.named_parameters()}
    for name, norm in golden_facts["grad_norms"]["d8"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-8), name
    for name in gradients:
        if f"d8/train/grad/{name}" in golden:
            close(gradients[name], golden[f"d8/train/grad/{name}"])


@torch.no_grad()
def test_half_masked_training(model, golden, golden_facts):
    mask, targets = half_mask(model), golden["inputs/train_tgts"]
    out = model.inpaint(golden["inputs/train_imgs"], targets, mask, golden["inputs/train_seg_type"])
    close(out, golden["d8/train_halfmask/pred"])
    loss = inpainting_loss(out, targets, mask, golden["inputs/train_valid"], skip_blank=False, eps=0)
    assert abs(loss.item() - golden_facts["losses"]["d8/train_halfmask"]) <= TOLERANCE


def test_keys_and_shapes_are_the_released_ones(spec_dir):
    with torch.device("meta"):
        model = SegGPT()
    manifest = json.loads((spec_dir / "seggpt" / "manifest.json").read_text())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == manifest
    assert sum(p.numel() for p in model.parameters()) == 370_723_203


@pytest.mark.parametrize("case, black", [("train", False), ("train_item0_black", True)])
@torch.no_grad()
def test_painters_loss_skips_blank_targets(case, black, golden, golden_facts):
    out, targets = golden["painter_d8/train/pred"], golden["inputs/train_tgts"].clone()
    mask, valid = golden["inputs/train_mask"], golden["inputs/train_valid"]
    if black:
        mean, std = (torch.tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
        targets[0] = -mean / std
    loss = inpainting_loss(out, targets, mask, valid)
    if not black:
        assert abs(loss.item() - golden_facts["losses"][f"painter_d8/{case}"]) <= TOLERANCE
    else:   # the whole of item 0 is dropped: only the other one's error is left
        rest = inpainting_loss(out[1:], targets[1:], mask[1:], valid[1:])
        assert loss.item() == pytest.approx(rest.item(), rel=1e-6)
        assert loss.item() == pytest.approx(golden_facts["losses"][f"painter_d8/{case}"], abs=TOLERANCE)
